//! What has been handed to the disk and is not durable yet.
//!
//! An index alone does not say what is durable. A follower may append entry 7 of term 2, lose it to a leader of term 3
//! that puts another in its place, and get the first one back from a leader of term 4 that never saw term 3's:
//!
//! ```text
//!   Ready 1: append 7(t2)     Ready 2: drop from 7, append 7(t3)     Ready 3: drop from 7, append 7(t2)
//! ```
//!
//! When Ready 1 becomes durable, the log in memory does hold 7(t2); yet a crash now may leave 7(t3) on disk, so 7 must
//! not be acknowledged before Ready 3 is durable. Therefore a truncation shortens what the writes before it promise,
//! and the term of what is left is checked again when the promise falls due.

use std::collections::VecDeque;

use crate::types::{Index, NodeId, ReadyId, Term};

/// A promise of the disk: what is durable once a Ready is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Write {
    pub(crate) id: ReadyId,
    /// The end of the log as of this write, and its term, less what later writes drop.
    pub(crate) tail: (Index, Term),
    /// The vote as of this write.
    pub(crate) ballot: (Term, Option<NodeId>),
}

/// The writes under way, oldest first.
///
/// Invariant: `id` rises.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    under_way: VecDeque<Write>,
}

impl Writes {
    pub(super) fn push(&mut self, write: Write) {
        assert!(self.under_way.back().is_none_or(|last| last.id < write.id), "readys are numbered in order");
        self.under_way.push_back(write);
    }

    /// The log is cut after `end`, whose term is `term`: no write under way promises more.
    pub(super) fn cut(&mut self, end: Index, term: Term) {
        for write in &mut self.under_way {
            if write.tail.0 > end {
                write.tail = (end, term);
            }
        }
    }

    /// The log gave way to a snapshot of `index`: of the writes under way only the ballots still count.
    pub(super) fn restart(&mut self, index: Index, term: Term) {
        for write in &mut self.under_way {
            write.tail = (index, term);
        }
    }

    /// Everything up to Ready `id` is durable. Returns the newest of the promises kept, which includes all before.
    pub(super) fn complete(&mut self, id: ReadyId) -> Option<Write> {
        let mut newest = None;
        while self.under_way.front().is_some_and(|write| write.id <= id) {
            newest = self.under_way.pop_front();
        }
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(id: u64, index: u64, term: u64) -> Write {
        Write { id: ReadyId(id), tail: (Index(index), Term(term)), ballot: (Term(term), None) }
    }

    #[test]
    fn a_cut_shortens_the_promises_before_it_only() {
        let mut writes = Writes::default();
        writes.push(write(1, 7, 2));
        writes.cut(Index(6), Term(1));
        writes.push(write(2, 7, 3));
        writes.cut(Index(6), Term(1));
        writes.push(write(3, 7, 2));
        assert_eq!(writes.complete(ReadyId(1)).unwrap().tail, (Index(6), Term(1)));
        assert_eq!(writes.complete(ReadyId(1)), None);
        assert_eq!(writes.complete(ReadyId(3)).unwrap().tail, (Index(7), Term(2)));
    }

    #[test]
    fn completion_is_cumulative() {
        let mut writes = Writes::default();
        writes.push(write(1, 1, 1));
        writes.push(write(4, 5, 1));
        writes.push(write(6, 9, 1));
        assert_eq!(writes.complete(ReadyId(5)).unwrap().tail, (Index(5), Term(1)));
    }
}
