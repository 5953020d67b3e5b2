//! Read freshness: a read sees everything that any node knew committed before it began (thesis §6.4).

use std::collections::HashMap;

use super::Violation;
use crate::types::Index;

/// Remembers what was committed when each read began.
#[derive(Debug, Default)]
pub struct ReadFreshness {
    started: HashMap<u64, Index>,
    /// The newest entry that any node knows committed.
    committed: Index,
    served: u64,
}

impl ReadFreshness {
    /// Some node knows everything up to `index` committed.
    pub fn observe_commit(&mut self, index: Index) {
        self.committed = self.committed.max(index);
    }

    /// A read with this context begins.
    pub fn observe_start(&mut self, context: u64) {
        self.started.insert(context, self.committed);
    }

    /// The read may be served from `index` on.
    ///
    /// # Errors
    /// If that misses something, or the read was answered before.
    pub fn observe_index(&mut self, context: u64, index: Index) -> Result<(), Violation> {
        let violation = |detail| Err(Violation { property: "read freshness", detail });
        let Some(committed) = self.started.remove(&context) else {
            return violation(format!("read {context} was answered twice, or never begun"));
        };
        if index < committed {
            return violation(format!("read {context} may see {index} only, {committed} was committed"));
        }
        self.served += 1;
        Ok(())
    }

    /// The read was given up.
    ///
    /// # Errors
    /// If it was answered before.
    pub fn observe_dropped(&mut self, context: u64) -> Result<(), Violation> {
        match self.started.remove(&context) {
            Some(_) => Ok(()),
            None => Err(Violation {
                property: "read freshness",
                detail: format!("read {context} was dropped after its answer"),
            }),
        }
    }

    /// How many reads got their index.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_below_what_was_committed_is_a_violation() {
        let mut checker = ReadFreshness::default();
        checker.observe_commit(Index(7));
        checker.observe_start(1);
        checker.observe_start(2);
        checker.observe_commit(Index(9));
        assert!(checker.observe_index(1, Index(7)).is_ok());
        assert!(checker.observe_index(2, Index(6)).is_err());
    }

    #[test]
    fn a_second_answer_is_a_violation() {
        let mut checker = ReadFreshness::default();
        checker.observe_start(1);
        checker.observe_index(1, Index(0)).unwrap();
        assert!(checker.observe_index(1, Index(0)).is_err());
        assert!(checker.observe_dropped(1).is_err());
    }
}
