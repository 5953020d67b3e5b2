//! Log matching: if two logs contain an entry with the same index and term, then the logs are identical up to that entry
//! (thesis §3.5).
//!
//! Checked entry by entry: index and term determine what an entry carries and the term of the one before it; by induction
//! they determine everything before.

use std::collections::HashMap;

use super::{Violation, content};
use crate::entry::Entry;
use crate::types::{Index, Term};

/// Remembers every entry ever seen in any log.
#[derive(Debug, Default)]
pub struct LogMatching {
    seen: HashMap<(Index, Term), (Term, u64)>,
}

impl LogMatching {
    /// A log holds `entry` after an entry of term `prev_term`.
    ///
    /// # Errors
    /// If a log ever held another with the same index and term.
    pub fn observe_entry(&mut self, prev_term: Term, entry: &Entry) -> Result<(), Violation> {
        let found = (prev_term, content(entry));
        let known = *self.seen.entry((entry.index, entry.term)).or_insert(found);
        if known == found {
            return Ok(());
        }
        let detail = format!(
            "two entries {} of term {}, after terms {} and {prev_term}",
            entry.index, entry.term, known.0
        );
        Err(Violation { property: "log matching", detail })
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry;
    use super::*;

    #[test]
    fn different_contents_or_pasts_are_a_violation() {
        let mut checker = LogMatching::default();
        checker.observe_entry(Term(1), &entry(2, 2, "a")).unwrap();
        checker.observe_entry(Term(1), &entry(2, 2, "a")).unwrap();
        checker.observe_entry(Term(1), &entry(2, 3, "b")).unwrap();
        assert!(checker.observe_entry(Term(1), &entry(2, 2, "b")).is_err());
        assert!(checker.observe_entry(Term(2), &entry(2, 2, "a")).is_err());
    }
}
