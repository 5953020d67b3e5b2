//! Cursors never fall as long as a node runs: its term, what it knows committed, what it has applied, and where its log
//! begins.

use std::collections::BTreeMap;

use super::Violation;
use crate::types::{Index, NodeId, Term};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Its term.
    pub term: Term,
    /// What it knows committed.
    pub committed: Index,
    /// What it has applied.
    pub applied: Index,
    /// The first entry of its log.
    pub first: Index,
}

/// Remembers where each node stood.
#[derive(Debug, Default)]
pub struct Cursors {
    last: BTreeMap<NodeId, Position>,
}

impl Cursors {
    /// `node` starts anew.
    pub fn observe_start(&mut self, node: NodeId) {
        self.last.remove(&node);
    }

    /// `node` stands here.
    ///
    /// # Errors
    /// If a cursor fell.
    pub fn observe(&mut self, node: NodeId, position: Position) -> Result<(), Violation> {
        let last = *self.last.entry(node).or_insert(position);
        self.last.insert(node, position);
        let risen = last.term <= position.term
            && last.committed <= position.committed
            && last.applied <= position.applied
            && last.first <= position.first;
        if risen {
            return Ok(());
        }
        let detail = format!("node {node} fell from {last:?} to {position:?}");
        Err(Violation { property: "monotonic cursors", detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_falls_is_a_violation() {
        let at = |term, committed| Position {
            term: Term(term),
            committed: Index(committed),
            applied: Index(0),
            first: Index(1),
        };
        let mut checker = Cursors::default();
        checker.observe(NodeId(1), at(2, 5)).unwrap();
        checker.observe(NodeId(2), at(1, 1)).unwrap();
        assert!(checker.observe(NodeId(1), at(3, 4)).is_err());
        assert!(checker.observe(NodeId(2), at(0, 1)).is_err());
        checker.observe_start(NodeId(1));
        assert!(checker.observe(NodeId(1), at(1, 0)).is_ok());
    }
}
