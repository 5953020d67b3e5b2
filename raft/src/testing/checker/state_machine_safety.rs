//! State machine safety: no two nodes apply different entries at the same index (thesis §3.6.3), and none skips one.

use std::collections::BTreeMap;

use super::{Violation, content};
use crate::entry::Entry;
use crate::types::{Index, NodeId, Term};

/// Remembers what was applied, and how far each node is.
#[derive(Debug, Default)]
pub struct StateMachineSafety {
    applied: BTreeMap<Index, (Term, u64)>,
    last: BTreeMap<NodeId, Index>,
}

impl StateMachineSafety {
    /// `node` starts with the state as of `applied`.
    pub fn observe_start(&mut self, node: NodeId, applied: Index) {
        self.last.insert(node, applied);
    }

    /// `node` applies `entry`.
    ///
    /// # Errors
    /// If it skipped one, or any node applied another there.
    pub fn observe_apply(&mut self, node: NodeId, entry: &Entry) -> Result<(), Violation> {
        let violation = |detail| Err(Violation { property: "state machine safety", detail });
        let last = self.last.entry(node).or_default();
        if last.next() != entry.index {
            return violation(format!("node {node} applies entry {} after {last}", entry.index));
        }
        *last = entry.index;
        let found = (entry.term, content(entry));
        let known = *self.applied.entry(entry.index).or_insert(found);
        if known != found {
            let (index, term) = (entry.index, entry.term);
            return violation(format!("two entries applied at {index}, of terms {} and {term}", known.0));
        }
        Ok(())
    }

    /// How far `node` is.
    #[must_use]
    pub fn applied(&self, node: NodeId) -> Index {
        self.last.get(&node).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry;
    use super::*;

    #[test]
    fn different_entries_at_one_index_are_a_violation() {
        let mut checker = StateMachineSafety::default();
        checker.observe_apply(NodeId(1), &entry(1, 1, "a")).unwrap();
        checker.observe_apply(NodeId(2), &entry(1, 1, "a")).unwrap();
        assert!(checker.observe_apply(NodeId(3), &entry(1, 1, "b")).is_err());
        assert!(checker.observe_apply(NodeId(4), &entry(1, 2, "a")).is_err());
    }

    #[test]
    fn a_gap_or_a_repetition_is_a_violation() {
        let mut checker = StateMachineSafety::default();
        checker.observe_apply(NodeId(1), &entry(1, 1, "a")).unwrap();
        assert!(checker.observe_apply(NodeId(1), &entry(1, 1, "a")).is_err());
        assert!(checker.observe_apply(NodeId(1), &entry(3, 1, "c")).is_err());
        checker.observe_start(NodeId(1), Index(0));
        checker.observe_apply(NodeId(1), &entry(1, 1, "a")).unwrap();
    }
}
