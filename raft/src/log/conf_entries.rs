//! Where in the log membership changes may lie that are not handed out yet.
//!
//! A configuration takes effect when it is applied, so a node may run for election with an old one. That is safe as long
//! as it is at most one behind: quorums of consecutive configurations intersect. Two rules see to it. A node does not
//! stand for election while it knows a change committed and has not applied it. And whoever holds a change knows the one
//! before committed: the leader proposed it after applying that one, and says so in the entry (its *floor*). Without the
//! second, this could happen to a node that was told no commit index:
//!
//! ```text
//!   node 3:  configuration {1,2,3}   log: … +4 +5        campaigns, and wins with 2 of {1,2,3}
//!   the others: {1,2,3,4,5}          commit an entry with 1, 4 and 5 meanwhile
//! ```
//!
//! For it to hold after a crash too, a change goes to the disk after a hard state whose commit index reaches its floor.

use std::collections::VecDeque;

use crate::entry::{Entry, EntryKind};
use crate::types::Index;

/// The changes past what was handed out.
///
/// Invariant: `known` rises in index.
#[derive(Debug)]
pub(super) struct ConfEntries {
    /// The end of the log as recovered: what lies there is not known without reading it.
    unread: Index,
    /// The others, with their floors.
    known: VecDeque<(Index, Index)>,
}

impl ConfEntries {
    /// `recovered`: the end of the log at the start.
    pub(super) fn new(recovered: Index) -> ConfEntries {
        ConfEntries { unread: recovered, known: VecDeque::new() }
    }

    /// An entry is appended. Returns what it proves committed.
    pub(super) fn push(&mut self, entry: &Entry) -> Index {
        if entry.kind != EntryKind::ConfChange {
            return Index::ZERO;
        }
        let floor = crate::confchange::floor(&entry.data).min(entry.index.prev());
        self.known.push_back((entry.index, floor));
        floor
    }

    /// The log is cut before `from`.
    pub(super) fn truncate(&mut self, from: Index) {
        self.unread = self.unread.min(from.prev());
        while self.known.back().is_some_and(|(index, _)| *index >= from) {
            self.known.pop_back();
        }
    }

    /// Everything up to `index` is handed out.
    pub(super) fn hand_out(&mut self, index: Index) {
        while self.known.front().is_some_and(|(known, _)| *known <= index) {
            self.known.pop_front();
        }
    }

    /// Whether a change may lie in `(handed_out, committed]`.
    pub(super) fn may_lie_within(&self, handed_out: Index, committed: Index) -> bool {
        let unread = handed_out < self.unread && handed_out < committed;
        unread || self.known.front().is_some_and(|(index, _)| *index <= committed)
    }

    /// Whether the kinds of all entries after `handed_out` are known.
    pub(super) fn are_read(&self, handed_out: Index) -> bool {
        self.unread <= handed_out
    }

    /// The first change at or past `from` whose floor lies past `commit`.
    pub(super) fn first_above(&self, from: Index, commit: Index) -> Option<Index> {
        let above = |(index, floor): &&(Index, Index)| *index >= from && *floor > commit;
        self.known.iter().find(above).map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confchange::{ConfChange, ConfChangeStep};
    use crate::types::{NodeId, Term};

    fn change(index: u64, floor: u64) -> Entry {
        let data = ConfChange::one(ConfChangeStep::AddLearner(NodeId(9))).encode_after(Index(floor));
        Entry { term: Term(1), index: Index(index), kind: EntryKind::ConfChange, data }
    }

    #[test]
    fn a_change_is_remembered_until_it_is_handed_out_or_cut() {
        let mut entries = ConfEntries::new(Index(4));
        assert!(entries.may_lie_within(Index(3), Index(5)), "entry 4 was not read");
        assert!(!entries.may_lie_within(Index(4), Index(9)));
        assert_eq!(entries.push(&change(6, 3)), Index(3));
        assert_eq!(entries.push(&change(8, 6)), Index(6));
        assert!(!entries.may_lie_within(Index(4), Index(5)));
        assert!(entries.may_lie_within(Index(4), Index(6)));
        entries.truncate(Index(8));
        entries.hand_out(Index(6));
        assert!(!entries.may_lie_within(Index(6), Index(9)));
    }

    #[test]
    fn a_floor_past_the_commit_holds_a_change_back() {
        let mut entries = ConfEntries::new(Index(0));
        entries.push(&change(6, 3));
        entries.push(&change(8, 6));
        assert_eq!(entries.first_above(Index(1), Index(2)), Some(Index(6)));
        assert_eq!(entries.first_above(Index(7), Index(2)), Some(Index(8)));
        assert_eq!(entries.first_above(Index(1), Index(6)), None);
        assert_eq!(entries.push(&change(9, 12)), Index(8), "a change proves nothing of itself");
    }
}
