//! What the decoders verify beyond the FlatBuffers verifier: variants, limits, and that the payload is
//! exactly as long as the metadata says.

use super::{Oversize, Refusal};
use crate::frame::{Frame, FrameKind};
use crate::types::wide;
use bytes::Bytes;

/// Why a frame's content is not a message. The frame itself was intact: the connection can go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A frame of this kind was not expected here: answer with an error report, then close.
    #[error("expected a {expected:?} frame, got {found:?}")]
    WrongKind {
        /// What fits the state of the connection.
        expected: FrameKind,
        /// What came.
        found: FrameKind,
    },
    /// The metadata is not valid FlatBuffers data of the schema.
    #[error("metadata does not verify: {why}")]
    BadMetadata {
        /// The verifier's first complaint.
        why: String,
    },
    /// A variant this build does not know: the sender is newer, or broken.
    #[error("unknown {what} {code}")]
    UnknownVariant {
        /// The field.
        what: &'static str,
        /// Its value.
        code: u64,
    },
    /// The metadata contradicts itself.
    #[error("inconsistent message: {why}")]
    Inconsistent {
        /// How.
        why: &'static str,
    },
    /// The metadata describes more payload than came, or less.
    #[error("payload of {actual} bytes, metadata describes {described}")]
    PayloadMismatch {
        /// Bytes the metadata describes.
        described: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// Over one of the receiver's limits.
    #[error("{what:?} of {actual} is over the limit of {limit}")]
    TooLarge {
        /// Which limit.
        what: Oversize,
        /// What came.
        actual: u64,
        /// The limit.
        limit: u64,
    },
}

impl DecodeError {
    /// The refusal to answer a request with.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            DecodeError::TooLarge { what, limit, .. } => Refusal::TooLarge { what: *what, limit: *limit },
            other => Refusal::Invalid { why: other.to_string() },
        }
    }
}

/// That the frame is of the kind expected here.
pub(crate) fn expect_kind(frame: &Frame, expected: FrameKind) -> Result<(), DecodeError> {
    if frame.kind == expected {
        return Ok(());
    }
    Err(DecodeError::WrongKind { expected, found: frame.kind })
}

/// Runs the FlatBuffers verifier.
///
/// FlatBuffers lets many references share one table, so a short message may expand into a huge one. Our
/// encoders share nothing but vtables: what expands far beyond its own length is refused.
pub(crate) fn verified<'a, T>(meta: &'a [u8]) -> Result<T::Inner, DecodeError>
where
    T: flatbuffers::Follow<'a> + flatbuffers::Verifiable + 'a,
{
    let options = flatbuffers::VerifierOptions {
        max_depth: 16,
        max_tables: meta.len() / 4 + 1,
        max_apparent_size: meta.len().saturating_mul(8).saturating_add(1024),
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, meta).map_err(|error| {
        // The verifier adds a multi-line trace; its first line says what is wrong.
        let text = error.to_string();
        DecodeError::BadMetadata { why: text.lines().next().unwrap_or("invalid").to_owned() }
    })
}

/// That something of `actual` length is within `limit`.
pub(crate) fn within(what: Oversize, actual: u64, limit: u32) -> Result<(), DecodeError> {
    let limit = u64::from(limit);
    if actual > limit {
        return Err(DecodeError::TooLarge { what, actual, limit });
    }
    Ok(())
}

/// Hands out a frame's payload from front to back.
pub(crate) struct Payload {
    rest: Bytes,
    actual: u64,
    /// What the metadata has asked for so far.
    described: u64,
}

impl Payload {
    pub(crate) fn new(payload: Bytes) -> Payload {
        Payload { actual: length64(&payload), rest: payload, described: 0 }
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: u32) -> Result<Bytes, DecodeError> {
        self.described += u64::from(length);
        if wide(length) > self.rest.len() {
            return Err(self.mismatch());
        }
        Ok(self.rest.split_to(wide(length)))
    }

    /// Everything that is left.
    pub(crate) fn take_rest(&mut self) -> Bytes {
        self.described = self.actual;
        std::mem::take(&mut self.rest)
    }

    /// That nothing is left.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.mismatch()) }
    }

    fn mismatch(&self) -> DecodeError {
        DecodeError::PayloadMismatch { described: self.described, actual: self.actual }
    }
}

/// A memory length as u64.
pub(crate) fn length64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
