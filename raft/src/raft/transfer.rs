//! Handing the leadership over (thesis §3.10).
//!
//! The leader takes no more proposals, waits until the target's disk holds the whole log, and tells it to stand for
//! election at once. If nothing comes of it within an election timeout, it goes on as before, but for the rest of the
//! term without a lease (see `Leader::lease_forfeited`).

use super::{Raft, State};
use crate::error::TransferError;
use crate::message::MessageBody;
use crate::storage::LogStorage;
use crate::types::NodeId;

/// A transfer under way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    elapsed_ticks: u32,
}

impl<S: LogStorage> Raft<S> {
    pub(crate) fn transfer_leader(&mut self, to: NodeId) -> Result<(), TransferError> {
        let leader_known = self.leader;
        let State::Leader(leader) = &mut self.state else {
            return Err(TransferError::NotLeader { leader: leader_known });
        };
        if to == self.config.id {
            return Err(TransferError::AlreadyLeader);
        }
        // Who is about to be removed is not worth it.
        if !self.membership.voters.incoming.contains(to) {
            return Err(TransferError::NotVoter { node: to });
        }
        if let Some(to) = leader.transferring_to() {
            return Err(TransferError::InProgress { to });
        }
        leader.transfer = Some(Transfer { to, elapsed_ticks: 0 });
        self.rouse(None);
        self.pursue_transfer(to);
        Ok(())
    }

    /// Tells the target to stand for election if it is the target and holds the whole log.
    pub(super) fn pursue_transfer(&mut self, node: NodeId) {
        let last = self.log.last_index();
        let State::Leader(leader) = &mut self.state else { return };
        let ready = leader.tracker.get(node).is_some_and(|peer| peer.match_index == last);
        if leader.transferring_to() == Some(node) && ready {
            leader.lease_forfeited = true;
            self.send(node, MessageBody::TimeoutNow);
        }
    }

    /// Repeats what may be lost, and gives up in the end.
    pub(super) fn tick_transfer(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.elapsed_ticks += 1;
        let (to, elapsed) = (transfer.to, transfer.elapsed_ticks);
        if elapsed >= self.config.election_ticks {
            leader.transfer = None;
        } else if elapsed.is_multiple_of(self.config.heartbeat_ticks) {
            self.pursue_transfer(to);
        }
    }

    /// The leader asks this node to take over.
    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        if self.leader == Some(from) && matches!(self.state, State::Follower) && self.is_promotable() {
            self.start_election(true);
        }
    }
}
