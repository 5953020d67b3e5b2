//! Read indexes and the leader's lease (thesis §6.4); `read_index` and `lease` hold the bookkeeping.

use super::{Raft, State};
use crate::error::ReadError;
use crate::message::MessageBody;
use crate::mutation::mutated;
use crate::read_index::{PendingRead, ReadOrigin};
use crate::ready::{ReadStart, ReadState};
use crate::storage::LogStorage;
use crate::types::{Index, Nanos, NodeId};

/// A read that got no answer for this many election timeouts is given up.
const READ_AGE_MAX_ELECTIONS: u32 = 2;

impl<S: LogStorage> Raft<S> {
    // Commands

    pub(crate) fn read_index(&mut self, context: u64, now: Nanos) -> Result<ReadStart, ReadError> {
        self.timers.observe(now);
        self.rouse(None);
        if self.is_leader() {
            let index = self.start_read(ReadOrigin::Local { context })?;
            return Ok(index.map_or(ReadStart::Pending, ReadStart::At));
        }
        if self.leader.is_none() {
            return Err(ReadError::NoLeader);
        }
        if self.forwarded.len() >= self.config.pending_reads_max {
            return Err(ReadError::Busy);
        }
        self.forwarded.push(context);
        Ok(ReadStart::Pending)
    }

    // On the leader

    /// Whether the lease runs: no other node can have been elected yet.
    pub(super) fn has_lease(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        if !self.config.lease || leader.lease_forfeited || leader.transfer.is_some() {
            return false;
        }
        mutated!(SkipLeaseCheck) || self.was_followed_within(self.config.lease_length().min(self.lease_limit))
    }

    /// Whether a quorum has so lately said that it follows that, configured as this node, it will elect no other yet.
    pub(super) fn was_lately_followed(&self) -> bool {
        self.was_followed_within(self.config.lease_length())
    }

    fn was_followed_within(&self, length: Nanos) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let opened = leader.quorum_opened_at(self.config.id, &self.membership);
        opened.is_some_and(|at| self.timers.now.since(at) < length)
    }

    /// The commit index, if it is known to hold all that was ever committed: a new leader knows once an entry of its own
    /// term is committed (thesis §6.4).
    fn committed_in_term(&self) -> Option<Index> {
        let State::Leader(leader) = &self.state else { return None };
        Some(self.log.committed()).filter(|committed| *committed >= leader.first_of_term)
    }

    /// The index of a read, if it can be had at once.
    fn start_read(&mut self, origin: ReadOrigin) -> Result<Option<Index>, ReadError> {
        let committed = self.committed_in_term();
        let lease = self.has_lease();
        let now_committed = self.log.committed();
        let State::Leader(leader) = &mut self.state else { return Err(ReadError::NoLeader) };
        if mutated!(ReadUnconfirmed) {
            return Ok(Some(now_committed));
        }
        if committed.is_some() && lease {
            return Ok(committed);
        }
        if leader.reads.len() >= self.config.pending_reads_max {
            return Err(ReadError::Busy);
        }
        let round = leader.rounds.for_read(self.timers.now);
        if committed.is_some() && leader.quorum_round(self.config.id, &self.membership) >= round {
            return Ok(committed);
        }
        leader.reads.push(PendingRead { origin, round, index: committed, tick: leader.tick });
        for peer in leader.tracker.iter_mut().filter(|peer| !peer.learner) {
            peer.heartbeat_due = true;
        }
        Ok(None)
    }

    pub(super) fn on_read_index(&mut self, from: NodeId, context: u64) {
        match self.start_read(ReadOrigin::Remote { node: from, context }) {
            Ok(Some(index)) => {
                self.send(from, MessageBody::ReadIndexResponse { context, index: Some(index) })
            }
            Ok(None) => {}
            Err(ReadError::NoLeader | ReadError::Busy) => {
                self.send(from, MessageBody::ReadIndexResponse { context, index: None });
            }
        }
    }

    /// Answers the reads that are confirmed by now.
    pub(super) fn release_reads(&mut self) {
        let committed = self.committed_in_term();
        let State::Leader(leader) = &mut self.state else { return };
        if leader.reads.len() == 0 {
            return;
        }
        let round = leader.quorum_round(self.config.id, &self.membership);
        let mut released = Vec::new();
        while let Some(read) = leader.reads.pop_confirmed(round, committed) {
            released.push(read);
        }
        for (origin, index) in released {
            match origin {
                ReadOrigin::Local { context } => self.output.read_states.push(ReadState { context, index }),
                ReadOrigin::Remote { node, context } => {
                    self.send(node, MessageBody::ReadIndexResponse { context, index: Some(index) });
                }
            }
        }
    }

    /// Gives up reads that a quorum has not confirmed for long.
    pub(super) fn expire_reads(&mut self) {
        let age_max = self.read_age_max();
        let State::Leader(leader) = &mut self.state else { return };
        let Some(tick) = leader.tick.checked_sub(u64::from(age_max)) else { return };
        self.drop_reads_from(tick, true);
    }

    /// The leadership ends. Followers in the same term are told; in a later one they know by themselves.
    pub(super) fn drop_leader_reads(&mut self, same_term: bool) {
        self.drop_reads_from(u64::MAX, same_term);
    }

    fn drop_reads_from(&mut self, tick: u64, tell_followers: bool) {
        while let State::Leader(leader) = &mut self.state
            && let Some(origin) = leader.reads.pop_older(tick)
        {
            match origin {
                ReadOrigin::Local { context } => self.output.reads_dropped.push(context),
                ReadOrigin::Remote { node, context } if tell_followers => {
                    self.send(node, MessageBody::ReadIndexResponse { context, index: None });
                }
                ReadOrigin::Remote { .. } => {}
            }
        }
    }

    // On the follower

    /// Sends the reads collected since the last `Ready` to the leader, as one.
    pub(super) fn forward_reads(&mut self) {
        if let Some(leader) = self.leader
            && let Some(context) = self.forwarded.close_batch()
        {
            self.send(leader, MessageBody::ReadIndex { context });
        }
    }

    pub(super) fn on_read_index_response(&mut self, from: NodeId, context: u64, index: Option<Index>) {
        if self.leader != Some(from) {
            return;
        }
        let Some(mut contexts) = self.forwarded.answer(context) else { return };
        match index {
            Some(index) => {
                let states = contexts.into_iter().map(|context| ReadState { context, index });
                self.output.read_states.extend(states);
            }
            None => self.output.reads_dropped.append(&mut contexts),
        }
    }

    pub(super) fn tick_forwarded_reads(&mut self) {
        let Some(leader) = self.leader else { return };
        let (age_max, term, from) = (self.read_age_max(), self.term, self.config.id);
        let messages = &mut self.output.messages;
        let mut dropped = self.forwarded.tick(self.config.heartbeat_ticks, age_max, |context| {
            let body = MessageBody::ReadIndex { context };
            messages.push(crate::message::Message { from, to: leader, term, body });
        });
        self.output.reads_dropped.append(&mut dropped);
    }

    fn read_age_max(&self) -> u32 {
        self.config.election_ticks.saturating_mul(READ_AGE_MAX_ELECTIONS)
    }
}
