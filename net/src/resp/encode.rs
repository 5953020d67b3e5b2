//! Values to bytes, each copied once.

use bytes::{BufMut, BytesMut};

use super::{Value, Version};

/// Appends a value as a client of this version expects it.
pub fn encode(value: &Value, version: Version, out: &mut BytesMut) {
    let three = version == Version::Resp3;
    match value {
        Value::Null if three => out.put_slice(b"_\r\n"),
        Value::Null => out.put_slice(b"$-1\r\n"),
        Value::NullArray if three => out.put_slice(b"_\r\n"),
        Value::NullArray => out.put_slice(b"*-1\r\n"),
        Value::Simple(text) => line(b'+', text, out),
        Value::Error(text) => line(b'-', text, out),
        Value::Integer(number) => integer(b':', *number, out),
        Value::Double(number) if three => line(b',', &double(*number), out),
        Value::Double(number) => bulk(b'$', &[], double(*number).as_bytes(), out),
        Value::Boolean(yes) if three => out.put_slice(if *yes { b"#t\r\n" } else { b"#f\r\n" }),
        Value::Boolean(yes) => integer(b':', i64::from(*yes), out),
        Value::Bulk(bytes) => bulk(b'$', &[], bytes, out),
        Value::Verbatim { format: [a, b, c], text } if three => bulk(b'=', &[*a, *b, *c, b':'], text, out),
        Value::Verbatim { text, .. } => bulk(b'$', &[], text, out),
        Value::BigNumber(digits) if three => line(b'(', digits, out),
        Value::BigNumber(digits) => bulk(b'$', &[], digits.as_bytes(), out),
        Value::Array(values) => sequence(b'*', values, version, out),
        Value::Set(values) => sequence(if three { b'~' } else { b'*' }, values, version, out),
        Value::Push(values) => sequence(if three { b'>' } else { b'*' }, values, version, out),
        Value::Map(pairs) => {
            let (kind, count) = if three { (b'%', pairs.len()) } else { (b'*', 2 * pairs.len()) };
            length(kind, count, out);
            for (key, value) in pairs {
                encode(key, version, out);
                encode(value, version, out);
            }
        }
    }
}

fn sequence(kind: u8, values: &[Value], version: Version, out: &mut BytesMut) {
    length(kind, values.len(), out);
    for value in values {
        encode(value, version, out);
    }
}

fn bulk(kind: u8, prefix: &[u8], bytes: &[u8], out: &mut BytesMut) {
    out.reserve(bytes.len() + 32);
    length(kind, prefix.len() + bytes.len(), out);
    out.put_slice(prefix);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// A line break in the text would end the reply, so it becomes a space, as in Redis.
fn line(kind: u8, text: &str, out: &mut BytesMut) {
    out.reserve(text.len() + 3);
    out.put_u8(kind);
    let start = out.len();
    out.put_slice(text.as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.put_slice(b"\r\n");
}

fn length(kind: u8, count: usize, out: &mut BytesMut) {
    integer(kind, i64::try_from(count).expect("lengths in memory fit"), out);
}

fn integer(kind: u8, number: i64, out: &mut BytesMut) {
    let mut text = [0u8; 23];
    let mut at = text.len() - 2;
    text[at..].copy_from_slice(b"\r\n");
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        text[at] = b'-';
    }
    out.put_u8(kind);
    out.put_slice(&text[at..]);
}

fn double(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // The shortest text that reads back as the same number; with an exponent where digits would be many.
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-5..1e17).contains(&magnitude) {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}
