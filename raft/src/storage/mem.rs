//! A log in memory: for tests, simulation and benchmarks, and the model other implementations are compared with.

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::error::LogReadError;
use crate::storage::LogStorage;
use crate::types::{Index, Term};

/// A log held in memory.
///
/// Invariant: `entries` is contiguous from `compacted + 1`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemStorage {
    compacted: Index,
    compacted_term: Term,
    entries: VecDeque<Entry>,
    /// Entries before this one answer `Pending`, as if they had left the cache.
    resident_from: Index,
}

impl MemStorage {
    /// An empty log.
    #[must_use]
    pub fn new() -> MemStorage {
        MemStorage::default()
    }

    /// Does what a [`Ready`](crate::Ready) asks of the log: drops the suffix from `truncate_from`, then appends.
    ///
    /// # Panics
    /// If `entries` does not continue the log, or the truncation reaches below the compaction point.
    pub fn write(&mut self, truncate_from: Option<Index>, entries: &[Entry]) {
        if let Some(from) = truncate_from {
            assert!(from > self.compacted, "truncating at {from}, compacted up to {}", self.compacted);
            let keep = from.distance_from(self.compacted) - 1;
            self.entries.truncate(usize::try_from(keep).expect("a log in memory fits memory"));
        }
        for entry in entries {
            assert_eq!(entry.index, self.last_index().next(), "an append must continue the log");
            self.entries.push_back(entry.clone());
        }
    }

    /// Forgets the entries up to `index`, except the term of the last of them.
    ///
    /// # Panics
    /// If `index` lies past the end.
    pub fn compact_to(&mut self, index: Index) {
        assert!(index <= self.last_index(), "compacting to {index}, the log ends at {}", self.last_index());
        while self.compacted < index {
            let entry = self.entries.pop_front().expect("the log reaches past the compaction point");
            self.compacted = entry.index;
            self.compacted_term = entry.term;
        }
    }

    /// Drops everything: the log goes on after `index`, whose entry has this term.
    pub fn reset(&mut self, index: Index, term: Term) {
        self.entries.clear();
        self.compacted = index;
        self.compacted_term = term;
    }

    /// Makes entries before `index` answer `Pending`; [`MemStorage::read`] still has them.
    pub fn evict_before(&mut self, index: Index) {
        self.resident_from = index;
    }

    /// Reads as from disk: never `Pending`.
    ///
    /// # Errors
    /// As [`LogStorage::entries`], without `Pending`.
    pub fn read(
        &self,
        low: Index,
        high_exclusive: Index,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogReadError> {
        if low <= self.compacted {
            return Err(LogReadError::Compacted);
        }
        if low >= high_exclusive || high_exclusive > self.last_index().next() {
            return Err(LogReadError::Unavailable);
        }
        let start = usize::try_from(low.distance_from(self.compacted) - 1).expect("within memory");
        let count = usize::try_from(high_exclusive.distance_from(low)).expect("within memory");
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += entry.size_bytes();
            first || bytes <= bytes_max
        };
        Ok(self.entries.range(start..start + count).take_while(fits).cloned().collect())
    }

    /// All entries held, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }
}

impl LogStorage for MemStorage {
    fn first_index(&self) -> Index {
        self.compacted.next()
    }

    fn last_index(&self) -> Index {
        self.entries.back().map_or(self.compacted, |entry| entry.index)
    }

    fn term(&self, index: Index) -> Result<Term, LogReadError> {
        if index < self.compacted {
            return Err(LogReadError::Compacted);
        }
        if index == self.compacted {
            return Ok(self.compacted_term);
        }
        let position = usize::try_from(index.distance_from(self.compacted) - 1).expect("within 64 bits");
        self.entries.get(position).map(|entry| entry.term).ok_or(LogReadError::Unavailable)
    }

    fn entries(&self, low: Index, high_exclusive: Index, bytes_max: u64) -> Result<Vec<Entry>, LogReadError> {
        if low > self.compacted && low < self.resident_from {
            return Err(LogReadError::Pending);
        }
        self.read(low, high_exclusive, bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::entry::EntryKind;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            term: Term(term),
            index: Index(index),
            kind: EntryKind::Normal,
            data: Bytes::from_static(b"0123456789"),
        }
    }

    fn three() -> MemStorage {
        let mut log = MemStorage::new();
        log.write(None, &[entry(1, 1), entry(2, 1), entry(3, 2)]);
        log
    }

    #[test]
    fn truncation_replaces_the_suffix() {
        let mut log = three();
        log.write(Some(Index(2)), &[entry(2, 3)]);
        assert_eq!(log.last_index(), Index(2));
        assert_eq!(log.term(Index(2)), Ok(Term(3)));
        assert_eq!(log.term(Index(3)), Err(LogReadError::Unavailable));
    }

    #[test]
    fn the_term_at_the_compaction_point_stays_known() {
        let mut log = three();
        log.compact_to(Index(2));
        assert_eq!(log.first_index(), Index(3));
        assert_eq!(log.term(Index(2)), Ok(Term(1)));
        assert_eq!(log.term(Index(1)), Err(LogReadError::Compacted));
        assert_eq!(log.entries(Index(2), Index(4), 100), Err(LogReadError::Compacted));
    }

    #[test]
    fn a_reset_log_goes_on_after_its_snapshot() {
        let mut log = three();
        log.reset(Index(9), Term(4));
        assert_eq!((log.first_index(), log.last_index()), (Index(10), Index(9)));
        assert_eq!(log.term(Index(9)), Ok(Term(4)));
        assert_eq!(log.term(Index(3)), Err(LogReadError::Compacted));
        log.write(None, &[entry(10, 5)]);
        assert_eq!(log.last_index(), Index(10));
    }

    #[test]
    fn a_read_is_cut_at_the_byte_bound_and_never_empty() {
        let log = three();
        let size = entry(1, 1).size_bytes();
        let read = |bytes_max| log.entries(Index(1), Index(4), bytes_max).map(|entries| entries.len());
        assert_eq!(read(0), Ok(1));
        assert_eq!(read(2 * size), Ok(2));
        assert_eq!(read(3 * size - 1), Ok(2));
        assert_eq!(read(u64::MAX), Ok(3));
    }

    #[test]
    fn evicted_entries_are_pending_yet_on_disk() {
        let mut log = three();
        log.evict_before(Index(3));
        assert_eq!(log.entries(Index(2), Index(4), 100), Err(LogReadError::Pending));
        assert_eq!(log.read(Index(2), Index(3), 100), Ok(vec![entry(2, 1)]));
        assert_eq!(log.entries(Index(3), Index(4), 100), Ok(vec![entry(3, 2)]));
    }
}
