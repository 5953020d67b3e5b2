//! A snapshot in place of the log: on the follower that is given one, and on the leader that sends it (thesis §5.3).
//!
//! The data never passes through here. The leader names the followers that need a snapshot, its caller sends one, and
//! the follower's caller steps a message when all of it has arrived. While the follower installs it, it takes no appends
//! and applies nothing; it votes and answers heartbeats as ever, by the log it has.

use super::{Raft, State};
use crate::entry::SnapshotMeta;
use crate::mutation::mutated;
use crate::storage::LogStorage;
use crate::types::{NodeId, Round};

impl<S: LogStorage> Raft<S> {
    // On the follower

    /// All of a snapshot is here. What it holds is committed, so it is good whoever leads by now.
    pub(super) fn on_snapshot(&mut self, from: NodeId, meta: SnapshotMeta) {
        let (index, committed) = (meta.index, self.log.committed());
        if self.installing.is_some() || self.is_leader() {
            return;
        }
        if index <= committed && !mutated!(SnapshotOverNewer) {
            return self.accept(from, committed, Round::NONE);
        }
        if self.log.matches(index, meta.term) && !mutated!(SnapshotOverNewer) {
            self.log.commit_to(index);
            return self.accept(from, index, Round::NONE);
        }
        if !matches!(self.state, State::Follower) {
            self.become_follower(self.term, None);
        }
        self.installing = Some(meta.clone());
        self.output.snapshot = Some(meta);
    }

    pub(crate) fn on_snapshot_installed(&mut self, meta: &SnapshotMeta) {
        assert_eq!(self.installing.take().as_ref(), Some(meta), "the snapshot that was to be installed");
        self.output.snapshot = None;
        self.log.restore(meta.index, meta.term);
        self.apply_reader = super::ApplyReader::default();
        self.output.changes_handed_out.clear();
        self.output.synced_commit = self.output.synced_commit.max(meta.index);
        if !mutated!(ForgetConfState) {
            self.enter_configuration(&meta.conf_state, meta.index);
        }
        if let Some(leader) = self.leader {
            self.accept(leader, meta.index, Round::NONE);
        }
    }

    pub(crate) fn on_snapshot_failed(&mut self) {
        self.installing = None;
        self.output.snapshot = None;
    }

    // On the leader

    pub(crate) fn report_snapshot(&mut self, to: NodeId, sent: bool) {
        if let State::Leader(leader) = &mut self.state
            && let Some(peer) = leader.tracker.get_mut(to)
        {
            peer.on_snapshot_sent(sent);
        }
    }
}
