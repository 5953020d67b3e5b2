//! A copy of one replica's log, kept in step with it, so that only what changed has to be looked at.

use std::collections::VecDeque;

use raft::testing::checker::Violation;
use raft::{Entry, Term};
use wal::disk::sim::SimDisk;
use wal::{ReadError, StreamId, Wal};

use crate::convert;

/// The copy: the entries after `base`.
pub struct Mirror {
    base: u64,
    base_term: Term,
    entries: VecDeque<Entry>,
}

/// What became of a log.
pub struct Change {
    /// Everything up to here is as it was; what comes after is new.
    pub kept: u64,
}

impl Mirror {
    /// Of an empty log that begins where this one does.
    pub fn new(log: &Wal, stream: StreamId) -> Mirror {
        let base = log.first_index(stream) - 1;
        Mirror { base, base_term: Term(log.term(stream, base).unwrap_or(0)), entries: VecDeque::new() }
    }

    /// The position before the first entry.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The last entry, or the base.
    pub fn last(&self) -> u64 {
        self.base + u64::try_from(self.entries.len()).expect("64-bit machine")
    }

    /// An entry.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        let at = index.checked_sub(self.base + 1)?;
        self.entries.get(usize::try_from(at).expect("64-bit machine"))
    }

    /// The term of an entry, or of the base.
    pub fn term(&self, index: u64) -> Option<Term> {
        if index == self.base { Some(self.base_term) } else { self.entry(index).map(|entry| entry.term) }
    }

    /// Takes over what changed in the log.
    pub fn follow(&mut self, log: &Wal, stream: StreamId, disk: &SimDisk) -> Result<Change, Violation> {
        let (base, last) = (log.first_index(stream) - 1, log.last_index(stream));
        if base < self.base || base > self.last() {
            *self = Mirror::new(log, stream);
        }
        while self.base < base {
            let entry = self.entries.pop_front().expect("the base is inside");
            (self.base, self.base_term) = (entry.index.0, entry.term);
        }
        self.base_term = Term(log.term(stream, base).unwrap_or(self.base_term.0));
        let mut kept = self.last().min(last);
        while kept > base && log.term(stream, kept).ok().map(Term) != self.term(kept) {
            kept -= 1;
        }
        self.entries.truncate(usize::try_from(kept - base).expect("64-bit machine"));
        while self.last() < last {
            let from = self.last() + 1;
            let entries = read(log, stream, from, last + 1, disk)?;
            self.entries.extend(entries);
        }
        Ok(Change { kept })
    }
}

/// At least one entry from `low` on.
fn read(log: &Wal, stream: StreamId, low: u64, high: u64, disk: &SimDisk) -> Result<Vec<Entry>, Violation> {
    let unreadable = |detail: String| Violation { property: "the log can be read back", detail };
    let entries = match log.entries(stream, low, high, u64::MAX) {
        Ok(entries) => entries,
        Err(ReadError::OnDisk) => {
            let plan = log.plan_read(stream, low, high, u64::MAX);
            let plan = plan.ok_or_else(|| unreadable(format!("entry {low} of {stream} is nowhere")))?;
            plan.decode(&disk.read(&plan)).map_err(|error| unreadable(error.to_string()))?
        }
        Err(error) => return Err(unreadable(format!("entry {low} of {stream}: {error:?}"))),
    };
    Ok(entries.into_iter().map(convert::raft_entry).collect())
}
