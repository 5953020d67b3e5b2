//! Election safety: at most one leader can be elected in a given term (thesis §3.4).

use std::collections::BTreeMap;

use super::Violation;
use crate::types::{NodeId, Term};

/// Remembers who led which term.
#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<Term, NodeId>,
}

impl ElectionSafety {
    /// `node` believes that it leads `term`.
    ///
    /// # Errors
    /// If another node did.
    pub fn observe_leader(&mut self, node: NodeId, term: Term) -> Result<(), Violation> {
        let leader = *self.leaders.entry(term).or_insert(node);
        if leader == node {
            return Ok(());
        }
        let detail = format!("term {term} is led by nodes {leader} and {node}");
        Err(Violation { property: "election safety", detail })
    }

    /// How many terms had a leader.
    #[must_use]
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_one_term_are_a_violation() {
        let mut checker = ElectionSafety::default();
        checker.observe_leader(NodeId(1), Term(1)).unwrap();
        checker.observe_leader(NodeId(2), Term(2)).unwrap();
        checker.observe_leader(NodeId(1), Term(1)).unwrap();
        assert!(checker.observe_leader(NodeId(1), Term(2)).is_err());
    }
}
