//! The safety properties of Raft (thesis figure 3.2, chapter 4), each as a checker that is told what is observed.

pub mod configurations;
pub mod cursors;
pub mod election_safety;
pub mod leader_completeness;
pub mod log_matching;
pub mod read_freshness;
pub mod state_machine_safety;

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::entry::Entry;

pub use configurations::Configurations;
pub use cursors::{Cursors, Position};
pub use election_safety::ElectionSafety;
pub use leader_completeness::LeaderCompleteness;
pub use log_matching::LogMatching;
pub use read_freshness::ReadFreshness;
pub use state_machine_safety::StateMachineSafety;

/// A safety property was violated: what was observed, and what it contradicts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The property.
    pub property: &'static str,
    /// The two observations.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

/// What an entry carries, as one number.
fn content(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.kind, &entry.data).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
pub(super) fn entry(index: u64, term: u64, data: &'static str) -> Entry {
    use crate::types::{Index, Term};
    Entry {
        term: Term(term),
        index: Index(index),
        kind: crate::entry::EntryKind::Normal,
        data: bytes::Bytes::from_static(data.as_bytes()),
    }
}
