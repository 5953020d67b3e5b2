//! The end of the log that the storage has not been given yet.

use crate::entry::Entry;
use crate::types::{Index, Term};

/// Entries appended since the last `Ready`.
///
/// ```text
///   storage:  … 4 5 6 7 8        (7 and 8 are stale: truncate_from = 7)
///   unstable:         7' 8' 9'   offset = 7
/// ```
///
/// Invariants: `entries` is contiguous from `offset`; what the storage holds from `offset` on is stale, and then
/// `truncate_from` is `offset` or before.
#[derive(Debug)]
pub(super) struct Unstable {
    offset: Index,
    entries: Vec<Entry>,
    truncate_from: Option<Index>,
}

impl Unstable {
    /// `offset`: the end of the storage + 1.
    pub(super) fn new(offset: Index) -> Unstable {
        Unstable { offset, entries: Vec::new(), truncate_from: None }
    }

    /// The first index that is not to be looked up in the storage.
    pub(super) fn offset(&self) -> Index {
        self.offset
    }

    pub(super) fn last_index(&self) -> Index {
        self.entries.last().map_or(self.offset.prev(), |entry| entry.index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn truncates(&self) -> bool {
        self.truncate_from.is_some()
    }

    pub(super) fn term(&self, index: Index) -> Option<Term> {
        self.position(index).and_then(|position| self.entries.get(position)).map(|entry| entry.term)
    }

    /// The entries from `low` on; `low` lies in `[offset, last_index + 1]`.
    pub(super) fn from(&self, low: Index) -> &[Entry] {
        let position = self.position(low).expect("not before the offset");
        &self.entries[position..]
    }

    pub(super) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "an append must continue the log");
        self.entries.push(entry);
    }

    pub(super) fn truncate(&mut self, from: Index) {
        match self.position(from) {
            Some(position) => self.entries.truncate(position),
            None => {
                self.entries.clear();
                self.offset = from;
                self.truncate_from = Some(from);
            }
        }
    }

    /// Hands everything up to `end` over to the storage. A truncation goes with the first entry.
    pub(super) fn take(&mut self, end: Index) -> (Option<Index>, Vec<Entry>) {
        if end >= self.last_index() {
            self.offset = self.last_index().next();
            return (self.truncate_from.take(), std::mem::take(&mut self.entries));
        }
        let Some(position) = self.position(end.next()).filter(|position| *position > 0) else {
            return (None, Vec::new());
        };
        let rest = self.entries.split_off(position);
        self.offset = end.next();
        (self.truncate_from.take(), std::mem::replace(&mut self.entries, rest))
    }

    fn position(&self, index: Index) -> Option<usize> {
        let past = index.0.checked_sub(self.offset.0)?;
        Some(usize::try_from(past).expect("entries in memory fit memory"))
    }
}
