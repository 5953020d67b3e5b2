//! The log as Raft sees it: what the storage holds, the entries not handed over yet, and the cursors over both.
//!
//! Invariants, asserted by [`RaftLog::check_invariants`] (the storage's own cursors, `purged ≤ snapshot`, lie before):
//!
//! ```text
//!   first - 1 ≤ applied ≤ handed_out ≤ min(committed, flushed)
//!   flushed ≤ submitted ≤ last        committed ≤ last
//! ```
//!
//! `committed` may pass `flushed`: on a follower that learns the commit before its disk is done, and on a leader whose
//! followers are faster than its own disk.

mod conf_entries;
mod unstable;
mod writes;

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::error::LogReadError;
use crate::mutation::mutated;
use crate::storage::LogStorage;
use crate::types::{Index, NodeId, ReadyId, Term};

use conf_entries::ConfEntries;
use unstable::Unstable;
pub(crate) use writes::Write;
use writes::Writes;

/// How many times `committed_bytes_max` may be handed out and not yet applied.
const UNAPPLIED_BATCHES_MAX: u64 = 4;

/// The log and its cursors.
#[derive(Debug)]
pub(crate) struct RaftLog<S> {
    pub(crate) storage: S,
    unstable: Unstable,
    writes: Writes,
    conf_entries: ConfEntries,
    /// The last entry known to be on a quorum's disks. Never falls.
    committed: Index,
    /// The last entry durable on this node, and safe to acknowledge. Falls only by truncation, never below `committed`
    /// as far as that was flushed.
    flushed: Index,
    /// The last entry handed out to be applied. Never falls.
    handed_out: Index,
    /// The last entry applied. Never falls.
    applied: Index,
    /// Sizes of the batches handed out and not applied: the last index of each, and its bytes.
    unapplied: VecDeque<(Index, u64)>,
    unapplied_bytes: u64,
}

impl<S: LogStorage> RaftLog<S> {
    /// A log as recovered: all of `storage` is durable.
    pub(crate) fn new(storage: S, committed: Index, applied: Index) -> RaftLog<S> {
        let last = storage.last_index();
        RaftLog {
            unstable: Unstable::new(last.next()),
            writes: Writes::default(),
            conf_entries: ConfEntries::new(last),
            committed,
            flushed: last,
            handed_out: applied,
            applied,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            storage,
        }
    }

    // Getters

    pub(crate) fn committed(&self) -> Index {
        self.committed
    }

    pub(crate) fn flushed(&self) -> Index {
        self.flushed
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    pub(crate) fn last_index(&self) -> Index {
        self.unstable.last_index()
    }

    pub(crate) fn last_term(&self) -> Term {
        self.term(self.last_index()).expect("the term of the last entry is always known")
    }

    /// The term of an entry in `[first - 1, last]`.
    pub(crate) fn term(&self, index: Index) -> Result<Term, LogReadError> {
        if index < self.unstable.offset() {
            return self.storage.term(index);
        }
        self.unstable.term(index).ok_or(LogReadError::Unavailable)
    }

    /// Whether the log holds this entry; of compacted ones that is not known.
    pub(crate) fn matches(&self, index: Index, term: Term) -> bool {
        self.term(index) == Ok(term)
    }

    /// Whether a log that ends with this entry holds everything that this one may have committed (thesis §3.6.1).
    pub(crate) fn is_up_to_date(&self, last_index: Index, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    /// Entries from `low` (not past the end) on: at least one, then as many as fit `bytes_max`.
    pub(crate) fn entries(&self, low: Index, bytes_max: u64) -> Result<Vec<Entry>, LogReadError> {
        let offset = self.unstable.offset();
        if low >= offset {
            return Ok(prefix(self.unstable.from(low), bytes_max, true).to_vec());
        }
        let mut entries = self.storage.entries(low, offset, bytes_max)?;
        assert_contiguous(low, &entries);
        if entries.last().is_some_and(|entry| entry.index.next() == offset) {
            let bytes: u64 = entries.iter().map(Entry::size_bytes).sum();
            let room = bytes_max.saturating_sub(bytes);
            entries.extend_from_slice(prefix(self.unstable.from(offset), room, false));
        }
        Ok(entries)
    }

    /// The last index at or before `index` whose term is at most `term`, with its term: the furthest point at which this
    /// log can agree with one that holds `term` at `index`. With term 0 if that lies before the start of the log.
    ///
    /// Terms do not fall along a log, so this is a binary search.
    pub(crate) fn conflict_by_term(&self, index: Index, term: Term) -> (Index, Term) {
        let before = self.storage.first_index().prev();
        let above = |at: u64| self.term(Index(at)).is_ok_and(|found| found > term);
        let (mut low, mut high) = (before.0, index.min(self.last_index()).0);
        while low < high {
            let middle = high - (high - low) / 2;
            if above(middle) {
                high = middle - 1;
            } else {
                low = middle;
            }
        }
        let found = Index(low.min(index.0));
        match self.term(found) {
            Ok(at) if at <= term => (found, at),
            _ => (found.prev(), Term::ZERO),
        }
    }

    // Appending

    /// A leader's own entry: continues the log.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.conf_entries.push(&entry);
        self.unstable.push(entry);
    }

    /// Appends what is new of a leader's entries, which follow an entry that matches. The suffix that contradicts them
    /// is dropped; one that merely continues them stays, as it may be newer than this message (thesis §3.5).
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        let held = |entry: &&Entry| self.matches(entry.index, entry.term);
        let known = match mutated!(LoseTruncate) {
            true => entries.iter().filter(|entry| entry.index <= self.last_index()).count(),
            false => entries.iter().take_while(held).count(),
        };
        let Some(first) = entries.get(known).map(|entry| entry.index) else { return };
        if first <= self.last_index() {
            self.truncate(first);
        }
        let mut floor = Index::ZERO;
        for entry in entries.into_iter().skip(known) {
            floor = floor.max(self.conf_entries.push(&entry));
            self.unstable.push(entry);
        }
        self.commit_to(floor);
    }

    fn truncate(&mut self, from: Index) {
        assert!(
            from > self.committed,
            "a leader's entry {from} contradicts a committed one (committed {})",
            self.committed
        );
        let end = from.prev();
        let term = self.term(end).expect("the term before an uncommitted entry is known");
        self.unstable.truncate(from);
        self.conf_entries.truncate(from);
        self.writes.cut(end, term);
        self.flushed = self.flushed.min(end);
    }

    // Cursors

    /// Everything up to `index` is committed, as far as the log reaches. Returns whether that is news.
    pub(crate) fn commit_to(&mut self, index: Index) -> bool {
        let index = index.min(self.last_index());
        let news = index > self.committed;
        self.committed = self.committed.max(index);
        news
    }

    /// Whether anything waits to be handed to the storage.
    pub(crate) fn has_unstable(&self) -> bool {
        !self.unstable.is_empty()
    }

    /// How far the unstable entries may be handed over if the hard states before them say `commit`: up to the first
    /// membership change that proves more committed than that (see `conf_entries`).
    pub(crate) fn writable_to(&self, commit: Index) -> Index {
        if mutated!(ConfChangeBeforeCommit) {
            return self.last_index();
        }
        let held_back = self.conf_entries.first_above(self.unstable.offset(), commit);
        held_back.map_or(self.last_index(), Index::prev)
    }

    /// Hands the unstable entries up to `end` over.
    pub(crate) fn take_unstable(&mut self, end: Index) -> (Option<Index>, Vec<Entry>) {
        self.assert_storage_current();
        self.unstable.take(end)
    }

    /// Ready `id` goes to the disk with the log up to `end` and this ballot.
    pub(crate) fn note_write(&mut self, id: ReadyId, end: Index, ballot: (Term, Option<NodeId>)) {
        let term = self.term(end).expect("the term of an entry about to be written is known");
        self.writes.push(Write { id, tail: (end, term), ballot });
    }

    /// Everything up to Ready `id` is durable. Returns the promises kept by that, if any.
    pub(crate) fn on_persisted(&mut self, id: ReadyId) -> Option<Write> {
        let write = self.writes.complete(id)?;
        let (index, term) = write.tail;
        if index > self.flushed {
            assert!(
                self.matches(index, term),
                "entry {index} of term {term} became durable and is not in the log"
            );
            self.flushed = index;
        }
        Some(write)
    }

    /// The next entry to be applied and the end of what may be, if there is any and the state machine keeps up.
    pub(crate) fn applicable(&self, bytes_max: u64) -> Option<(Index, Index)> {
        let end = self.committed.min(self.flushed);
        let room = self.unapplied_bytes < bytes_max.saturating_mul(UNAPPLIED_BATCHES_MAX);
        (self.handed_out < end && room).then(|| (self.handed_out.next(), end.next()))
    }

    /// Notes that `entries` go to the state machine.
    pub(crate) fn hand_out(&mut self, entries: &[Entry]) {
        assert_contiguous(self.handed_out.next(), entries);
        let last = entries.last().expect("at least one entry").index;
        assert!(last <= self.committed.min(self.flushed), "entry {last} handed out before it is safe");
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        self.handed_out = last;
        self.conf_entries.hand_out(last);
        self.unapplied.push_back((last, bytes));
        self.unapplied_bytes += bytes;
    }

    /// The state machine has applied everything up to `index`.
    pub(crate) fn on_applied(&mut self, index: Index) {
        assert!(index <= self.handed_out, "applied {index}, handed out only {}", self.handed_out);
        self.applied = self.applied.max(index);
        while let Some((last, bytes)) = self.unapplied.front()
            && *last <= self.applied
        {
            self.unapplied_bytes -= bytes;
            self.unapplied.pop_front();
        }
    }

    // Membership changes

    /// Whether a membership change may be committed and not handed out to be applied.
    pub(crate) fn may_hold_unapplied_change(&self) -> bool {
        self.conf_entries.may_lie_within(self.handed_out, self.committed)
    }

    /// Whether a membership change may lie anywhere past what was handed out.
    pub(crate) fn may_hold_change(&self) -> bool {
        let read = self.conf_entries.are_read(self.handed_out);
        !read || self.conf_entries.may_lie_within(self.handed_out, self.last_index())
    }

    // Snapshots

    /// A snapshot of `index` has taken the place of the log; the storage shows it. What was under way to the disk is
    /// before the snapshot or gone with the old log; it promises nothing any more.
    pub(crate) fn restore(&mut self, index: Index, term: Term) {
        assert!(
            index > self.committed || mutated!(SnapshotOverNewer),
            "a snapshot of {index}, committed {}",
            self.committed
        );
        let held = (self.storage.first_index().prev(), self.storage.last_index(), self.storage.term(index));
        assert_eq!(held, (index, index, Ok(term)), "the log was not reset to the snapshot of {index}");
        self.unstable = Unstable::new(index.next());
        self.writes.restart(index, term);
        self.conf_entries = ConfEntries::new(index);
        self.committed = index;
        self.flushed = index;
        self.handed_out = index;
        self.applied = index;
        self.unapplied.clear();
        self.unapplied_bytes = 0;
    }

    // Invariants

    /// The caller has made the last `Ready` visible in the storage.
    fn assert_storage_current(&self) {
        let (stored, offset) = (self.storage.last_index().next(), self.unstable.offset());
        let current = stored == offset || (self.unstable.truncates() && stored > offset);
        assert!(current, "the storage ends before {stored}, and was handed everything before {offset}");
    }

    pub(crate) fn check_invariants(&self) {
        self.assert_storage_current();
        let (first, last) = (self.storage.first_index(), self.last_index());
        let submitted = self.unstable.offset().prev();
        assert!(first.prev() <= self.applied, "compacted to {}, applied {}", first.prev(), self.applied);
        assert!(self.applied <= self.handed_out, "applied {}, handed out {}", self.applied, self.handed_out);
        let safe = self.committed.min(self.flushed);
        assert!(self.handed_out <= safe, "handed out {}, committed and flushed {safe}", self.handed_out);
        assert!(self.flushed <= submitted, "flushed {}, submitted {submitted}", self.flushed);
        assert!(submitted <= last, "submitted {submitted}, last {last}");
        assert!(self.committed <= last, "committed {}, last {last}", self.committed);
        let sum: u64 = self.unapplied.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(sum, self.unapplied_bytes, "bytes handed out and not applied");
    }
}

/// The longest prefix that fits; with `at_least_one`, never empty.
fn prefix(entries: &[Entry], bytes_max: u64, at_least_one: bool) -> &[Entry] {
    let mut bytes: u64 = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes = bytes.saturating_add(entry.size_bytes());
        bytes <= bytes_max
    });
    let count = fitting.count().max(usize::from(at_least_one)).min(entries.len());
    &entries[..count]
}

/// What the storage hands out is what was asked for.
pub(crate) fn assert_contiguous(low: Index, entries: &[Entry]) {
    let first = entries.first().map(|entry| entry.index);
    assert_eq!(first, Some(low), "the log was read from {low}");
    let contiguous = entries.windows(2).all(|pair| pair[0].index.next() == pair[1].index);
    assert!(contiguous, "the log was read from {low} with a gap");
}

#[cfg(test)]
#[path = "log/tests.rs"]
mod tests;
