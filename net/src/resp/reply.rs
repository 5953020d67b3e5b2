//! Bytes to values: replies of either version, for clients, proxies and tests.

use bytes::{Buf, Bytes};

use super::{ProtocolError, Value};

/// Arrays in arrays in arrays: deeper ones are no reply of ours or of Redis.
const DEPTH_MAX: usize = 32;
/// Longest line that holds a number, an error or a short text.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Takes one whole value off the front; `None` when it has not arrived as a whole yet, and then nothing is taken.
/// Strings are slices of `bytes`.
///
/// An unfinished value is read again from its start next time, so give it what has arrived in large pieces.
///
/// # Errors
/// [`ProtocolError::InvalidReply`]: the stream cannot be read on.
pub fn decode_value(bytes: &mut Bytes) -> Result<Option<Value>, ProtocolError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let value = cursor.value(0)?;
    let end = cursor.at;
    if value.is_some() {
        bytes.advance(end);
    }
    Ok(value)
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
}

type Part<T> = Result<Option<T>, ProtocolError>;

impl Cursor<'_> {
    fn value(&mut self, depth: usize) -> Part<Value> {
        if depth > DEPTH_MAX {
            return Err(ProtocolError::InvalidReply("nested too deep"));
        }
        let Some((kind, line)) = self.line()? else { return Ok(None) };
        let value = match kind {
            b'+' => Value::Simple(text(&line)?.into()),
            b'-' => Value::Error(text(&line)?),
            b':' => Value::Integer(number(&line)?),
            b',' => Value::Double(double(&line)?),
            b'(' => Value::BigNumber(text(&line)?),
            b'_' if line.is_empty() => Value::Null,
            b'#' if &line[..] == b"t" => Value::Boolean(true),
            b'#' if &line[..] == b"f" => Value::Boolean(false),
            b'$' if &line[..] == b"-1" => Value::Null,
            b'*' if &line[..] == b"-1" => Value::NullArray,
            b'$' => return Ok(self.bulk(&line)?.map(Value::Bulk)),
            b'!' => match self.bulk(&line)? {
                Some(bytes) => Value::Error(text(&bytes)?),
                None => return Ok(None),
            },
            b'=' => return self.verbatim(&line),
            b'*' => return Ok(self.sequence(&line, 1, depth)?.map(Value::Array)),
            b'~' => return Ok(self.sequence(&line, 1, depth)?.map(Value::Set)),
            b'>' => return Ok(self.sequence(&line, 1, depth)?.map(Value::Push)),
            b'%' => return Ok(self.sequence(&line, 2, depth)?.map(|values| Value::Map(pairs(values)))),
            // Attributes say something about the value that follows.
            b'|' => match self.sequence(&line, 2, depth)? {
                Some(_) => return self.value(depth + 1),
                None => return Ok(None),
            },
            _ => return Err(ProtocolError::InvalidReply("unknown type")),
        };
        Ok(Some(value))
    }

    /// The first byte of a line, and the rest of it without its end.
    fn line(&mut self) -> Part<(u8, Bytes)> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\r') else {
            if rest.len() >= LINE_BYTES_MAX {
                return Err(ProtocolError::InvalidReply("a line without end"));
            }
            return Ok(None);
        };
        if end == 0 {
            return Err(ProtocolError::InvalidReply("an empty line"));
        }
        match rest.get(end + 1) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(ProtocolError::InvalidReply("a line that does not end in CR LF")),
        }
        let kind = rest[0];
        let line = self.bytes.slice(self.at + 1..self.at + end);
        self.at += end + 2;
        Ok(Some((kind, line)))
    }

    fn bulk(&mut self, line: &[u8]) -> Part<Bytes> {
        let length = count(line)?;
        let rest = &self.bytes[self.at..];
        if rest.len() < length.saturating_add(2) {
            return Ok(None);
        }
        if &rest[length..length + 2] != b"\r\n" {
            return Err(ProtocolError::InvalidReply("a string that does not end in CR LF"));
        }
        let bytes = self.bytes.slice(self.at..self.at + length);
        self.at += length + 2;
        Ok(Some(bytes))
    }

    fn verbatim(&mut self, line: &[u8]) -> Part<Value> {
        let Some(bytes) = self.bulk(line)? else { return Ok(None) };
        match bytes[..] {
            [a, b, c, b':', ..] => Ok(Some(Value::Verbatim { format: [a, b, c], text: bytes.slice(4..) })),
            _ => Err(ProtocolError::InvalidReply("a verbatim string without its format")),
        }
    }

    fn sequence(&mut self, line: &[u8], values_each: usize, depth: usize) -> Part<Vec<Value>> {
        let count = count(line)?.saturating_mul(values_each);
        // The shortest value has three bytes: more than that many cannot have arrived.
        let arrived = (self.bytes.len() - self.at) / 3;
        if count > arrived {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(value) = self.value(depth + 1)? else { return Ok(None) };
            values.push(value);
        }
        Ok(Some(values))
    }
}

fn pairs(values: Vec<Value>) -> Vec<(Value, Value)> {
    let mut values = values.into_iter();
    std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
}

fn text(line: &[u8]) -> Result<String, ProtocolError> {
    Ok(String::from_utf8_lossy(line).into_owned())
}

fn parse<T: std::str::FromStr>(line: &[u8], what: &'static str) -> Result<T, ProtocolError> {
    let text = std::str::from_utf8(line).ok();
    text.and_then(|text| text.parse().ok()).ok_or(ProtocolError::InvalidReply(what))
}

fn number(line: &[u8]) -> Result<i64, ProtocolError> {
    parse(line, "not a number")
}

fn double(line: &[u8]) -> Result<f64, ProtocolError> {
    parse(line, "not a floating-point number")
}

fn count(line: &[u8]) -> Result<usize, ProtocolError> {
    let count: u32 = parse(line, "not a length")?;
    Ok(usize::try_from(count).expect("64-bit machine"))
}
