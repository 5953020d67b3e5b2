//! Groups in which nothing happens sleep, so that many of them cost nothing.
//!
//! A leader whose followers all hold everything tells them so and falls silent; they stop their election timers and leave
//! it to the caller to notice when the leader's machine is gone. Any message, proposal or read wakes a node, and a
//! follower that wakes by itself wakes its leader, which wakes everyone by its heartbeats.
//!
//! Nothing that must be correct depends on who sleeps: leases and the holding of votes run out by time as ever.

use super::{Raft, State};
use crate::message::{AppendResult, Message, MessageBody};
use crate::storage::LogStorage;
use crate::tracker::Flow;
use crate::types::{Index, NodeId, Round};

impl<S: LogStorage> Raft<S> {
    /// Whether a leader has nothing left to do for anybody.
    pub(crate) fn can_hibernate(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let last = self.log.last_index();
        let at_rest = self.log.committed() == last
            && self.log.applied() == last
            && self.log.flushed() == last
            && leader.first_of_term <= last;
        let idle = leader.transfer.is_none()
            && !self.retires()
            && leader.pending_reads() == 0
            && !self.membership.is_joint();
        let active = self.peers().all(|peer| peer.active);
        let current = leader.tracker.iter().all(|peer| {
            let replicates = matches!(&peer.flow, Flow::Replicate { inflights } if inflights.is_empty());
            replicates && peer.match_index == last && peer.told_commit >= last
        });
        !self.dormant && at_rest && idle && active && current
    }

    pub(crate) fn hibernate(&mut self) -> bool {
        if !self.can_hibernate() {
            return false;
        }
        let commit = self.log.committed();
        let State::Leader(leader) = &mut self.state else { unreachable!("only a leader can") };
        let mut followers = Vec::new();
        for peer in leader.tracker.iter_mut() {
            peer.heartbeat_due = false;
            followers.push(peer.node);
        }
        followers.into_iter().for_each(|node| self.send(node, MessageBody::Sleep { commit }));
        self.dormant = true;
        true
    }

    /// The leader falls silent. A follower that holds all it speaks of sleeps; any other goes on as if it had heard a
    /// heartbeat, and calls for an election, or for the leader, in time.
    pub(super) fn on_sleep(&mut self, commit: Index) {
        self.log.commit_to(commit);
        let complete = self.log.last_index() == commit && self.log.flushed() == commit;
        self.dormant = complete && self.installing.is_none() && self.forwarded.len() == 0;
    }

    /// Wakes by a message, unless it is the last echo of what was said before. Returns whether the message is to be
    /// processed: a sleeper does not answer a pre-vote, for the leader may only be asleep too, and the candidate asks again
    /// when all have had time to hear it.
    pub(super) fn rouse_by(&mut self, message: &Message) -> bool {
        let echo = match &message.body {
            MessageBody::Sleep { .. } => true,
            MessageBody::HeartbeatResponse { round } => *round != Round::NONE,
            MessageBody::AppendResponse { result, .. } => matches!(result, AppendResult::Accepted { .. }),
            _ => false,
        };
        let asleep = self.dormant;
        if !echo {
            self.rouse(Some(message.from));
        }
        !(asleep && matches!(message.body, MessageBody::PreVote { .. }))
    }

    /// While the group slept, or this node stood still, members may have gone: they count as active once they answer.
    pub(super) fn doubt_members(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        leader.woken_tick = Some(leader.tick);
        let unheard = leader.tick.saturating_sub(u64::from(self.config.election_ticks));
        leader.tracker.iter_mut().for_each(|peer| peer.heard_tick = unheard);
    }

    /// Whether this is a leader that sleeps, or woke so lately that its members may not have answered yet: which of them
    /// are active is not known.
    pub(crate) fn is_waking(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let patience = u64::from(self.config.election_ticks.div_ceil(2));
        self.dormant || leader.woken_tick.is_some_and(|woken| leader.tick < woken + patience)
    }

    /// Goes on as if the leader had just been heard, by this node's election timer; a leader sends heartbeats. Does nothing
    /// unless asleep.
    pub(crate) fn rouse(&mut self, by: Option<NodeId>) {
        if !std::mem::take(&mut self.dormant) {
            return;
        }
        if let State::Leader(leader) = &mut self.state {
            leader.rounds.open(self.timers.now);
            leader.grant_check_interval();
            leader.tracker.iter_mut().for_each(|peer| peer.heartbeat_due = true);
            self.doubt_members();
            return;
        }
        self.reset_election_timer();
        if let Some(leader) = self.leader.filter(|leader| by != Some(*leader)) {
            self.respond(leader, MessageBody::HeartbeatResponse { round: Round::NONE });
        }
    }
}
