//! Snapshots, compaction and the membership of a group under test.

use super::Cluster;
use super::watch::must_hold;
use crate::confchange::ConfChange;
use crate::entry::SnapshotMeta;
use crate::error::ProposeConfError;
use crate::message::{Message, MessageBody};
use crate::storage::LogStorage;
use crate::types::{Index, NodeId, Term};

impl Cluster {
    /// Proposes a membership change.
    ///
    /// # Errors
    /// As the node answers.
    pub fn change(&mut self, id: NodeId, change: &ConfChange) -> Result<(Term, Index), ProposeConfError> {
        let result = self.node_mut(id).propose_conf_change(change);
        self.verify(id);
        result
    }

    /// Makes the state machine of a running node durable. Returns as of where.
    pub fn checkpoint(&mut self, id: NodeId) -> SnapshotMeta {
        let node = self.node(id);
        let index = node.applied();
        let term = node.storage().term(index).expect("the term of what was applied last");
        let meta = SnapshotMeta { index, term, conf_state: node.conf_state() };
        if index > Index::ZERO {
            self.host_mut(id).disk.checkpoint(meta.clone());
        }
        meta
    }

    /// Makes the state machine durable, and forgets the log up to `index`, as far as it is applied.
    pub fn compact(&mut self, id: NodeId, index: Index) {
        let index = self.checkpoint(id).index.min(index);
        if index >= self.node(id).storage().first_index() {
            self.node_mut(id).storage_mut().compact_to(index);
            self.host_mut(id).disk.compact_to(index);
        }
        self.verify(id);
    }

    /// Puts a snapshot of the present state of `from` on its way to `to`, if `from` still leads.
    pub fn send_snapshot(&mut self, from: NodeId, to: NodeId) {
        if !self.node(from).is_leader() {
            return;
        }
        let meta = self.checkpoint(from);
        let term = self.node(from).term();
        if meta.index > Index::ZERO {
            self.send(vec![Message { from, to, term, body: MessageBody::Snapshot { meta } }]);
        }
    }

    /// Sends the snapshots that a node wants sent, and installs the one it wants installed. Returns whether there was
    /// anything.
    pub fn pass_snapshots(&mut self, id: NodeId) -> bool {
        let host = self.host_mut(id);
        let needed = std::mem::take(&mut host.snapshots_needed);
        let any = !needed.is_empty() || host.installing.is_some();
        for to in needed {
            if self.is_up(id) {
                self.send_snapshot(id, to);
            }
        }
        self.install(id, true);
        any
    }

    /// Ends the installation of a snapshot, if one is under way: it is done, or it failed.
    pub fn install(&mut self, id: NodeId, done: bool) {
        let Some(meta) = self.host_mut(id).installing.take() else { return };
        if !done {
            self.node_mut(id).on_snapshot_failed();
            return self.verify(id);
        }
        must_hold(self.checkers.leaders.observe_commit(self.node(id).term(), meta.index, meta.term));
        self.checkers.machines.observe_start(id, meta.index);
        let host = self.host_mut(id);
        let node = host.node.as_mut().expect("a running node");
        node.storage_mut().reset(meta.index, meta.term);
        host.disk.reset(meta.clone());
        host.observed = meta.index;
        node.on_snapshot_installed(&meta);
        self.verify(id);
    }

    /// Destroys a node for good.
    pub fn destroy(&mut self, id: NodeId) {
        let host = self.host_mut(id);
        host.node = None;
        host.installing = None;
        host.destroyed = true;
        self.wire.retain(|message| message.to != id);
    }

    /// Destroys the nodes that a leader says it can do without and that believe it.
    pub fn dismiss(&mut self) {
        for leader in self.ids() {
            for id in self.ids() {
                let heard = !self.cut.contains(&(leader, id)) && !self.cut.contains(&(id, leader));
                if heard
                    && self.is_up(leader)
                    && self.is_up(id)
                    && self.node(leader).dismisses(id)
                    && self.node(id).believes_dismissal(self.node(leader).term())
                {
                    self.destroy(id);
                }
            }
        }
    }
}
