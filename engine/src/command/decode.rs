//! Reading a payload in place. Everything is checked in one walk, so that iteration cannot fail.

use thiserror::Error;

use super::key::{KeyError, StoredKey};
use super::record::{Record, RecordError};
use super::{
    Command, EXPECTED_ABSENT, EXPECTED_NONE, EXPECTED_VALUE, EXPECTED_VERSION, Expected, FLAG_PROGRAM,
    FLAG_SESSION, FORMAT, HEADER_BYTES, KIND_COMPARE_AND_SWAP, KIND_DELETE, KIND_PUT, OP_HEADER_BYTES, Op,
    SESSION_BYTES, Session,
};

/// The time of a command that has what is expired removed, `None` for any other payload.
pub fn removal_time(payload: &[u8]) -> Option<u64> {
    let header: &[u8; HEADER_BYTES] = payload.try_into().ok()?;
    let (kind, rest) = header.split_first_chunk::<8>()?;
    (*kind == [FORMAT, 0, 0, 0, 0, 0, 0, 0]).then_some(())?;
    rest.first_chunk().map(|time_ms| u64::from_le_bytes(*time_ms))
}

/// Why a payload is not a command. The log is checksummed, so this is a bug or a newer version's entry;
/// a replica that meets it must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The payload ends inside a part.
    #[error("the payload ends at byte {at} where {needed} more bytes of {part} are due")]
    Truncated {
        /// Which part is cut.
        part: &'static str,
        /// Where the part begins or continues.
        at: usize,
        /// How many bytes are missing at least.
        needed: usize,
    },
    /// A layout this version does not know.
    #[error("unknown command format {found}")]
    Format {
        /// The format byte.
        found: u8,
    },
    /// Flags this version does not know.
    #[error("unknown command flags {found:#04x}")]
    Flags {
        /// The flags byte.
        found: u8,
    },
    /// Reserved bytes that are not zero.
    #[error("reserved bytes at {at} are not zero")]
    Reserved {
        /// Where they are.
        at: usize,
    },
    /// An operation this version does not know, or whose parts contradict its kind.
    #[error("operation {op} at byte {at} is malformed: {what}")]
    Op {
        /// The operation's number, from 0.
        op: usize,
        /// Where it begins.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A key that is not a stored data key.
    #[error("operation {op}: {source}")]
    Key {
        /// The operation's number, from 0.
        op: usize,
        /// What is wrong.
        source: KeyError,
    },
    /// A record whose header is wrong.
    #[error("operation {op}: {source}")]
    Record {
        /// The operation's number, from 0.
        op: usize,
        /// What is wrong.
        source: RecordError,
    },
    /// A record that carries another version than its command.
    #[error("operation {op} writes version {found} in a command of version {expected}")]
    Version {
        /// The operation's number, from 0.
        op: usize,
        /// The record's version.
        found: u64,
        /// The command's version.
        expected: u64,
    },
    /// Bytes after the last operation.
    #[error("{bytes} bytes trail the last operation")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Reads a payload; the command and its operations borrow from it.
pub fn decode(payload: &[u8]) -> Result<Command<'_>, DecodeError> {
    let mut cursor = Cursor { payload, at: 0 };
    let header = cursor.take_array::<HEADER_BYTES>("the header")?;
    if header[0] != FORMAT {
        return Err(DecodeError::Format { found: header[0] });
    }
    if !matches!(header[1], 0 | FLAG_SESSION | FLAG_PROGRAM) {
        return Err(DecodeError::Flags { found: header[1] });
    }
    if header[2..4] != [0, 0] {
        return Err(DecodeError::Reserved { at: 2 });
    }
    let count = u32_at(header, 4);
    let time_ms = u64_at(header, 8);
    let version = u64_at(header, 16);
    let session = if header[1] & FLAG_SESSION == 0 {
        None
    } else {
        let session = cursor.take_array::<SESSION_BYTES>("the session")?;
        Some(Session {
            client: u64_at(session, 0),
            sequence: u64_at(session, 8),
            acked_below: u64_at(session, 16),
        })
    };
    let mut ops = Ops { payload, at: cursor.at, remaining: count };
    let mut program = None;
    if header[1] & FLAG_PROGRAM == 0 {
        for op in 0..length(count) {
            let decoded = cursor.take_op(op)?;
            check_version(op, &decoded, version)?;
        }
    } else {
        program = Some(cursor.take_program(count)?);
        ops.remaining = 0;
    }
    match payload.len() - cursor.at {
        0 => Ok(Command { time_ms, version, session, program, ops }),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}

/// The operations of a decoded payload, in order.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    payload: &'a [u8],
    at: usize,
    remaining: u32,
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    fn next(&mut self) -> Option<Op<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        let mut cursor = Cursor { payload: self.payload, at: self.at };
        let op = cursor.take_op(0).expect("decode checked every operation of this payload");
        self.at = cursor.at;
        Some(op)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match usize::try_from(self.remaining) {
            Ok(remaining) => (remaining, Some(remaining)),
            Err(_) => (usize::MAX, None),
        }
    }
}

impl ExactSizeIterator for Ops<'_> {}

fn check_version(op: usize, decoded: &Op<'_>, expected: u64) -> Result<(), DecodeError> {
    let record = match decoded {
        Op::Put { record, .. } => Some(record),
        Op::CompareAndSwap { new, .. } => new.as_ref(),
        Op::Delete { .. } => None,
    };
    match record.map(|record| record.version()) {
        Some(found) if found != expected => Err(DecodeError::Version { op, found, expected }),
        _ => Ok(()),
    }
}

/// Where reading stands.
pub(super) struct Cursor<'a> {
    pub(super) payload: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, bytes: usize, part: &'static str) -> Result<&'a [u8], DecodeError> {
        let rest = &self.payload[self.at..];
        if rest.len() < bytes {
            return Err(DecodeError::Truncated { part, at: self.at, needed: bytes - rest.len() });
        }
        self.at += bytes;
        Ok(&rest[..bytes])
    }

    pub(super) fn take_array<const N: usize>(
        &mut self,
        part: &'static str,
    ) -> Result<&'a [u8; N], DecodeError> {
        let bytes = self.take(N, part)?;
        Ok(bytes.first_chunk().expect("take gives as many bytes as asked for"))
    }

    fn take_op(&mut self, op: usize) -> Result<Op<'a>, DecodeError> {
        let at = self.at;
        let header = self.take_array::<OP_HEADER_BYTES>("an operation's header")?;
        let malformed = |what| DecodeError::Op { op, at, what };
        if header[3] != 0 {
            return Err(DecodeError::Reserved { at: at + 3 });
        }
        let has_new = match header[2] {
            0 => false,
            1 => true,
            _ => return Err(malformed("the record marker is neither 0 nor 1")),
        };
        let [key_bytes, expected_bytes, record_bytes] = [4, 8, 12].map(|at| length(u32_at(header, at)));
        if !has_new && record_bytes != 0 {
            return Err(malformed("a record where none is announced"));
        }
        let key = StoredKey::parse(self.take(key_bytes, "a key")?)
            .map_err(|source| DecodeError::Key { op, source })?;
        let expected = self.take(expected_bytes, "an expected value")?;
        let record = self.take(record_bytes, "a record")?;
        let new = match has_new {
            false => None,
            true => Some(Record::parse(record).map_err(|source| DecodeError::Record { op, source })?),
        };
        let expected = parse_expected(header[1], expected).map_err(malformed)?;
        match (header[0], expected, new) {
            (KIND_PUT, None, Some(record)) => Ok(Op::Put { key, record }),
            (KIND_DELETE, None, None) => Ok(Op::Delete { key }),
            (KIND_COMPARE_AND_SWAP, Some(expected), new) => Ok(Op::CompareAndSwap { key, expected, new }),
            (KIND_PUT | KIND_DELETE | KIND_COMPARE_AND_SWAP, ..) => {
                Err(malformed("its parts do not belong to its kind"))
            }
            _ => Err(malformed("unknown kind")),
        }
    }
}

fn parse_expected(kind: u8, bytes: &[u8]) -> Result<Option<Expected<'_>>, &'static str> {
    match (kind, bytes) {
        (EXPECTED_NONE, []) => Ok(None),
        (EXPECTED_ABSENT, []) => Ok(Some(Expected::Absent)),
        (EXPECTED_VALUE, value) => Ok(Some(Expected::Value(value))),
        (EXPECTED_VERSION, version) => match version.try_into() {
            Ok(version) => Ok(Some(Expected::Version(u64::from_le_bytes(version)))),
            Err(_) => Err("an expected version is 8 bytes"),
        },
        (EXPECTED_NONE | EXPECTED_ABSENT, _) => Err("an expected value where none is announced"),
        _ => Err("unknown kind of expectation"),
    }
}

pub(super) fn length(value: u32) -> usize {
    usize::try_from(value).expect("x86-64 addresses 32 bits")
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
