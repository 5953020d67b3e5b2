//! Bytes for people and for JSON: keys and values need not be text.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Bytes on one line: what does not print is escaped, as is the backslash.
pub(super) fn printable(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                control if control.is_control() => {
                    for byte in control.encode_utf8(&mut [0; 4]).bytes() {
                        escape(&mut line, byte);
                    }
                }
                other => line.push(other),
            }
        }
        chunk.invalid().iter().for_each(|byte| escape(&mut line, *byte));
    }
    line
}

fn escape(line: &mut String, byte: u8) {
    write!(line, "\\x{byte:02x}").expect("a string takes everything");
}

/// Puts bytes into a JSON object: as `name` where they are UTF-8, else in hexadecimal as `name_hex`.
pub(super) fn insert(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{name}_hex"), hex.into())
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_print_is_escaped() {
        assert_eq!(printable("naïve ✓".as_bytes()), "naïve ✓");
        assert_eq!(printable(b"a\tb\nc\\d\x00\xffe"), "a\\tb\\nc\\\\d\\x00\\xffe");
        assert_eq!(printable("\u{85}".as_bytes()), "\\xc2\\x85");
    }

    #[test]
    fn json_tells_text_from_bytes() {
        let mut object = Map::new();
        insert(&mut object, "key", b"text");
        insert(&mut object, "value", b"\xff\x01");
        assert_eq!(Value::from(object).to_string(), r#"{"key":"text","value_hex":"ff01"}"#);
    }
}
