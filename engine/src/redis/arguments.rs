//! What arguments say: numbers, option words, and the errors for those that say nothing.

use std::borrow::Cow;

use bytes::Bytes;
use net::resp::Value;

/// Why a command ended without an answer of its own.
pub(super) enum Halt<E> {
    /// The client made a mistake: an error with this text is the reply.
    Complaint(Cow<'static, str>),
    /// The keyspace failed, so there is no reply.
    Keyspace(E),
}

/// A client's mistake, as Redis words it.
pub(super) struct Complaint(pub(super) Cow<'static, str>);

impl Complaint {
    pub(super) fn new(text: &'static str) -> Complaint {
        Complaint(Cow::Borrowed(text))
    }
}

impl<E> From<Complaint> for Halt<E> {
    fn from(complaint: Complaint) -> Halt<E> {
        Halt::Complaint(complaint.0)
    }
}

pub(super) const SYNTAX: &str = "ERR syntax error";
pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// A syntax error.
pub(super) fn syntax() -> Complaint {
    Complaint::new(SYNTAX)
}

/// Longest text of a 64-bit integer that Redis reads.
const INTEGER_BYTES_MAX: usize = 20;

/// A 64-bit integer in the one form that Redis writes: no plus, no leading zeros, no spaces.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    if text.len() > INTEGER_BYTES_MAX {
        return None;
    }
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if !digits.iter().all(u8::is_ascii_digit) || digits.is_empty() || (digits[0] == b'0' && text.len() > 1) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// [`integer`], or the error for what is none.
pub(super) fn integer_argument(text: &[u8]) -> Result<i64, Complaint> {
    integer(text).ok_or(Complaint::new(NOT_AN_INTEGER))
}

/// An argument up to its first zero byte, which is where Redis stops comparing words.
pub(super) fn word(argument: &[u8]) -> &[u8] {
    argument.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Is the argument this word, in any case?
pub(super) fn is_word(argument: &[u8], expected: &[u8]) -> bool {
    word(argument).eq_ignore_ascii_case(expected)
}

/// A count or a length as a reply.
pub(super) fn count(count: usize) -> Value {
    Value::Integer(i64::try_from(count).expect("lengths in memory are below 2^63"))
}

/// A number's text.
pub(super) fn decimal(number: i64) -> Bytes {
    Bytes::from(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::integer;

    #[test]
    fn integers_have_one_form() {
        let good =
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)];
        for (text, number) in good {
            assert_eq!(integer(text.as_bytes()), Some(number));
        }
        let bad =
            ["", "-", "-0", "01", "+1", " 1", "1 ", "1.0", "9223372036854775808", "-9223372036854775809"];
        for text in bad {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }
}
