//! The words of the log: streams, positions, entries and states.
//!
//! Every integer that means something has its own type here, so a segment can never be taken for a
//! stream. Indexes and terms stay plain `u64`: they belong to Raft, whose crate has its own types.

use std::fmt;

use bytes::Bytes;

/// The unit of every disk access, in bytes: a block that holds flushed records is never rewritten.
pub const BLOCK_BYTES: usize = 4096;

/// [`BLOCK_BYTES`] as a file offset.
pub const BLOCK: u64 = 4096;

const _: () = assert!(BLOCK_BYTES.is_power_of_two() && BLOCK_BYTES as u64 == BLOCK);

/// One log among the many that share a WAL: the log of one Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A position in one core's WAL: how many bytes of records precede it since the WAL was created.
///
/// Commands return the position *after* their last record; it is durable once it is
/// `<=` [`Wal::flushed_lsn`](crate::Wal::flushed_lsn). Block padding and headers are not counted, so positions are known
/// before a batch is formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// Names one life of one segment file. Identities only grow and are never reused: a recycled file
/// gets a new one, which is what tells its stale bytes from new ones. Zero is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// Names one batch; also its sequence number on disk, contiguous over the life of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}", self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lsn {}", self.0)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {}", self.0)
    }
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {}", self.0)
    }
}

/// One entry of a stream, as Raft sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Position in the stream; the first entry ever has index 1.
    pub index: u64,
    /// Raft term the entry was proposed in.
    pub term: u64,
    /// Opaque to the WAL: Raft's entry kind.
    pub kind: u8,
    /// Opaque to the WAL; reference-counted, copied once, into the buffer that goes to the disk.
    pub payload: Bytes,
}

/// The state a Raft group must not forget (thesis §3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamState {
    /// Highest term seen.
    pub term: u64,
    /// Whom this replica voted for in `term`; 0 is nobody.
    pub vote: u64,
    /// Highest index known to be committed; a hint, may lag.
    pub commit: u64,
}
