//! What the checkers are told.

use super::Cluster;
use crate::ready::Ready;
use crate::status::Role;
use crate::storage::LogStorage;
use crate::testing::checker::{Position, Violation};
use crate::types::NodeId;

impl Cluster {
    pub(super) fn observe_appended(&mut self, id: NodeId, ready: &Ready) {
        let Some(first) = ready.entries.first() else { return };
        let mut prev = self.node(id).storage().term(first.index.prev()).expect("the log goes on");
        for entry in &ready.entries {
            must_hold(self.checkers.logs.observe_entry(prev, entry));
            prev = entry.term;
        }
    }

    /// Checks a node's own invariants, and what it shows to the checkers.
    pub(super) fn verify(&mut self, id: NodeId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(node) = &host.node else { return };
        node.check_invariants();
        let position = Position {
            term: node.term(),
            committed: node.committed(),
            applied: node.applied(),
            first: node.storage().first_index(),
        };
        must_hold(self.checkers.cursors.observe(id, position));
        self.checkers.reads.observe_commit(node.committed());
        let conf_state = node.conf_state();
        if !conf_state.voters.is_empty() {
            must_hold(self.checkers.configurations.observe_state(id, node.applied(), &conf_state));
        }
        if node.role() == Role::Leader {
            must_hold(self.checkers.elections.observe_leader(id, node.term()));
            if self.led.insert((id, node.term())) {
                self.verify_leader(id);
            }
        }
    }

    /// Checks that a leader holds everything committed before its term.
    pub fn verify_leader(&self, id: NodeId) {
        let node = self.node(id);
        let term_at = |index| node.storage().term(index).ok();
        let first = node.storage().first_index();
        must_hold(self.checkers.leaders.observe_leader(id, node.term(), first, term_at));
    }

    /// Tells the checkers what a node knows committed, and what not; its storage must be current.
    pub(super) fn observe_committed(&mut self, id: NodeId) {
        let host = self.hosts.get_mut(&id).expect("a host");
        let node = host.node.as_ref().expect("a running node");
        // A membership change may be committed and held back from the storage for one more Ready.
        while host.observed < node.committed().min(node.storage().last_index()) {
            host.observed = host.observed.next();
            let term = node.storage().term(host.observed).expect("what is committed is in the log");
            must_hold(self.checkers.leaders.observe_commit(node.term(), host.observed, term));
        }
        let committed = node.committed();
        let uncommitted = node.storage().iter().rev().take_while(|entry| entry.index > committed);
        must_hold(self.checkers.configurations.observe_log(id, uncommitted));
    }
}

/// # Panics
/// If a safety property was violated.
pub(super) fn must_hold(result: Result<(), Violation>) {
    if let Err(violation) = result {
        panic!("{violation}");
    }
}
