//! State machines at the same applied index hold the same state: that of the log replayed entry by entry. A snapshot
//! holds what replaying the log up to its index gives.

use super::reference::Reference;
use super::{Verdict, violated};

/// Compares states with the reference.
#[derive(Debug, Default)]
pub struct StateEquality {
    /// States compared.
    compared: u64,
}

impl StateEquality {
    /// A node's state machine is at `index`, its state hashes to `hash`.
    pub fn observe(&mut self, reference: &Reference, node: u64, index: u64, hash: u64) -> Verdict {
        self.compared += 1;
        match reference.hash_at(index) {
            Some(expected) if expected == hash => Ok(()),
            Some(expected) => {
                let detail = format!(
                    "node {node} has applied {index} and holds {hash:#018x}; replaying the log gives {expected:#018x}"
                );
                violated("equal state at equal applied index", detail)
            }
            None => {
                let detail = format!("node {node} has applied {index}, which nobody has committed");
                violated("equal state at equal applied index", detail)
            }
        }
    }

    /// A node made or got a snapshot of `index`.
    pub fn observe_snapshot(&self, reference: &Reference, node: u64, index: u64, hash: u64) -> Verdict {
        match reference.hash_at(index) {
            Some(expected) if expected == hash => Ok(()),
            expected => {
                let detail = format!(
                    "the snapshot of {index} at node {node} holds {hash:#018x}; replaying the log gives {expected:x?}"
                );
                violated("a snapshot equals the replay", detail)
            }
        }
    }
}
