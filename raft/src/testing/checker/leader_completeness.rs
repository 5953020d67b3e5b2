//! Leader completeness: an entry committed in one term is in the logs of the leaders of all later terms (thesis §3.6.3).

use std::collections::BTreeMap;

use super::Violation;
use crate::types::{Index, NodeId, Term};

/// Remembers what was committed.
#[derive(Debug, Default)]
pub struct LeaderCompleteness {
    /// The term of each committed entry, and the earliest term in which it was known committed.
    committed: BTreeMap<Index, (Term, Term)>,
}

impl LeaderCompleteness {
    /// A node in term `known_in` knows the entry `index` of term `term` committed.
    ///
    /// # Errors
    /// If another entry was committed there.
    pub fn observe_commit(&mut self, known_in: Term, index: Index, term: Term) -> Result<(), Violation> {
        let known = self.committed.entry(index).or_insert((term, known_in));
        known.1 = known.1.min(known_in);
        if known.0 == term {
            return Ok(());
        }
        let detail = format!("entry {index} was committed with terms {} and {term}", known.0);
        Err(Violation { property: "leader completeness", detail })
    }

    /// `node` leads `term`; `term_at` tells the term of each entry of its log (`None`: not there), and entries before
    /// `first` are compacted, that is, were applied.
    ///
    /// # Errors
    /// If it lacks an entry committed in an earlier term.
    pub fn observe_leader(
        &self,
        node: NodeId,
        term: Term,
        first: Index,
        term_at: impl Fn(Index) -> Option<Term>,
    ) -> Result<(), Violation> {
        for (index, (committed, known_in)) in self.committed.range(first..) {
            if *known_in < term && term_at(*index) != Some(*committed) {
                let detail = format!(
                    "node {node} leads term {term} without entry {index} of term {committed}, committed in term {known_in}"
                );
                return Err(Violation { property: "leader completeness", detail });
            }
        }
        Ok(())
    }

    /// The newest entry that any node knows committed.
    #[must_use]
    pub fn last_committed(&self) -> Index {
        self.committed.keys().next_back().copied().unwrap_or(Index::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_leader_without_a_committed_entry_is_a_violation() {
        let mut checker = LeaderCompleteness::default();
        checker.observe_commit(Term(3), Index(5), Term(2)).unwrap();
        let observe = |term, held: Option<u64>| {
            checker.observe_leader(NodeId(1), Term(term), Index(1), |_| held.map(Term))
        };
        assert!(observe(4, Some(2)).is_ok());
        assert!(observe(4, None).is_err());
        assert!(observe(4, Some(3)).is_err());
        assert!(observe(3, None).is_ok(), "a leader of the same or an earlier term need not have it");
    }

    #[test]
    fn two_commits_at_one_index_are_a_violation() {
        let mut checker = LeaderCompleteness::default();
        checker.observe_commit(Term(3), Index(5), Term(2)).unwrap();
        assert!(checker.observe_commit(Term(4), Index(5), Term(3)).is_err());
    }
}
