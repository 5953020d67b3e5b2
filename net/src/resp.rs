//! The Redis serialization protocol, versions 2 and 3: requests in, replies out, and replies in.
//!
//! Pure functions of bytes. What is announced and has not arrived costs nothing: a decoder reserves only for bytes that
//! are there, and hands out slices of the buffer they were received in.

mod encode;
mod reply;
mod request;

use std::borrow::Cow;

use bytes::Bytes;

pub use encode::encode;
pub use reply::decode_value;
pub use request::{DecoderLimits, RequestDecoder};

/// The version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What every client speaks.
    #[default]
    Resp2,
    /// What `HELLO 3` asks for.
    Resp3,
}

/// One reply, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value, where a value would be one string.
    Null,
    /// No value, where a value would be an array: the same as [`Value::Null`] in version 3.
    NullArray,
    /// A short text without line breaks, such as `OK`.
    Simple(Cow<'static, str>),
    /// An error: a word in capitals, a space, and what went wrong.
    Error(String),
    /// A number.
    Integer(i64),
    /// A floating-point number.
    Double(f64),
    /// Yes or no.
    Boolean(bool),
    /// Bytes.
    Bulk(Bytes),
    /// A text to be shown as it is.
    Verbatim {
        /// Three letters: `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: Bytes,
    },
    /// A number of any size, in decimal digits.
    BigNumber(String),
    /// Values in order.
    Array(Vec<Value>),
    /// Pairs of key and value; in version 2 an array of twice as many.
    Map(Vec<(Value, Value)>),
    /// Values in no order; in version 2 an array.
    Set(Vec<Value>),
    /// Values that answer no request; in version 2 an array.
    Push(Vec<Value>),
}

impl Value {
    /// `OK`.
    pub const OK: Value = Value::Simple(Cow::Borrowed("OK"));

    /// An error with this text.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Value {
        Value::Error(text.into())
    }

    /// These bytes.
    #[must_use]
    pub fn bulk(bytes: impl Into<Bytes>) -> Value {
        Value::Bulk(bytes.into())
    }
}

/// The bytes are not the protocol: the stream cannot be read on. The texts are those of Redis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line of words without its end.
    #[error("Protocol error: too big inline request")]
    InlineTooBig,
    /// The number of arguments, without its end.
    #[error("Protocol error: too big mbulk count string")]
    CountTooBig,
    /// The length of an argument, without its end.
    #[error("Protocol error: too big bulk count string")]
    LengthTooBig,
    /// The number of arguments is no number, or too large.
    #[error("Protocol error: invalid multibulk length")]
    InvalidCount,
    /// More arguments than somebody may send who has not given the password.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedCount,
    /// An argument that does not begin as one.
    #[error("Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    /// The length of an argument is no number, or too large.
    #[error("Protocol error: invalid bulk length")]
    InvalidLength,
    /// A longer argument than somebody may send who has not given the password.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedLength,
    /// A quote that does not end, or is followed by a word.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// All arguments of one request together are too long.
    #[error("Protocol error: too big request")]
    RequestTooBig,
    /// A reply of no known type, or one that contradicts itself.
    #[error("Protocol error: invalid reply: {0}")]
    InvalidReply(&'static str),
}

#[cfg(test)]
mod tests;
