//! The log as the rest of the node keeps it: the seam between Raft and the write-ahead log.

use crate::entry::Entry;
use crate::error::LogReadError;
use crate::types::{Index, Term};

pub mod mem;

pub use mem::MemStorage;

/// Read access to the log. Everything handed out in a [`Ready`](crate::Ready) must be visible here before the next
/// call on the node, flushed or not; so it ends where the Readys end, not where the disk does.
///
/// Invariant: `first_index ≤ last_index + 1`, and terms do not fall with the index.
pub trait LogStorage {
    /// The first entry still held, that is the compaction point + 1; 1 for a log never compacted.
    fn first_index(&self) -> Index;

    /// The last entry held; `first_index - 1` for an empty log.
    fn last_index(&self) -> Index;

    /// The term of an entry in `[first_index - 1, last_index]`; at the compaction point it is still known, and at index
    /// 0 it is 0. Terms must be kept in memory: this never answers `Pending`.
    ///
    /// # Errors
    /// `Compacted` before that range, `Unavailable` after it.
    fn term(&self, index: Index) -> Result<Term, LogReadError>;

    /// The entries `[low, high_exclusive)` from the start: at least one, then as many as fit `bytes_max` by
    /// [`Entry::size_bytes`]. The caller asks for a range that is not empty.
    ///
    /// # Errors
    /// `Pending` if the first one must be read from disk, `Compacted` before `first_index`, `Unavailable` past
    /// `last_index` or when reading failed.
    fn entries(&self, low: Index, high_exclusive: Index, bytes_max: u64) -> Result<Vec<Entry>, LogReadError>;
}
