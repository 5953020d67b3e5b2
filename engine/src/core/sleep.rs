//! Ticks, and which groups need them: an idle group sleeps, and costs nothing until something wakes it.
//!
//! The leader of a group that has had nothing to do for a while, and whose members all hold the whole log, tells them to
//! sleep and sleeps too: no heartbeats, no election timers, no ticks. What the heartbeats told, the cores now tell each
//! other for all their groups at once: a core that is sent nothing gets an empty frame per heartbeat interval
//! ([`send_signs_of_life`](super::peers::Outbox::send_signs_of_life)). A group wakes
//! - on any request but a stale read, and any message;
//! - when the core of its leader falls silent, and its members must elect another.
//!
//! So a sleeping group has no lease: its next read asks a quorum.
//!
//! Invariant: a replica that is not in `Core::awake` is dormant in Raft, and nothing of it waits for time to pass.

use raft::{Nanos, PeerState};

use super::{Core, usize_of};
use crate::{placement, replica_id};

/// Election timeouts without anything to do after which a group goes to sleep.
const IDLE_TIMEOUTS: u32 = 3;

impl Core {
    /// Wakes a replica, if it sleeps.
    pub(super) fn wake(&mut self, shard: u32) {
        if let Some(replica) = self.replicas[usize_of(shard)].as_mut() {
            replica.raft.wake();
            self.note_awake(shard);
        }
    }

    /// Something happened to a replica by which Raft may have woken: it needs ticks again.
    pub(super) fn note_awake(&mut self, shard: u32) {
        let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { return };
        if !replica.is_awake && !replica.raft.is_dormant() {
            replica.is_awake = true;
            replica.active_at = self.now;
            self.awake.push(shard);
            self.touch(shard);
        }
    }

    /// A replica was put to sleep. If its leader's core has fallen silent meanwhile, nobody else would wake it.
    pub(super) fn watch_sleeper(&mut self, shard: u32) {
        let Some(replica) = self.replicas[usize_of(shard)].as_ref() else { return };
        let Some(leader) = replica.raft.leader().map(|id| replica_id::node_of(id.0)) else { return };
        if self.outbox.heard_at(leader, shard).is_some_and(|(_, silent)| silent) {
            self.wake(shard);
        }
    }

    /// How fresh a sleeping follower is: its leader would wake it for anything new, as long as its core is heard.
    pub(super) fn note_rest(&mut self, shard: u32) {
        let now = self.now;
        let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { return };
        let leader = replica.raft.leader().map(|id| replica_id::node_of(id.0));
        let heard = match leader {
            _ if !replica.raft.is_dormant() => return,
            Some(node) if node == self.config.node => Some(now),
            Some(node) => self.outbox.heard_at(node, shard).map(|(heard, _)| heard),
            None => None,
        };
        if let Some(heard) = heard {
            replica.note_up_to_date(heard);
        }
    }

    /// One tick for every replica that is awake.
    pub(super) fn tick_replicas(&mut self) {
        let mut awake = std::mem::take(&mut self.awake);
        awake.retain(|shard| self.tick_replica(*shard));
        // What woke meanwhile.
        awake.append(&mut self.awake);
        self.awake = awake;
    }

    /// Whether the replica stays awake.
    fn tick_replica(&mut self, shard: u32) -> bool {
        let now = self.now;
        let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { return false };
        if replica.raft.is_dormant() && replica.is_quiet() {
            replica.is_awake = false;
            return false;
        }
        replica.raft.tick(now);
        replica.expire(now, &mut self.effects);
        if replica.raft.is_leader() {
            replica.note_commit(replica.raft.committed(), now);
            self.rest(shard);
        } else {
            self.ask_to_join(shard);
        }
        self.touch(shard);
        true
    }

    /// Lets the group of a leader go to sleep, if it may.
    fn rest(&mut self, shard: u32) {
        let idle = self.config.raft.election_timeout().times(IDLE_TIMEOUTS);
        let now = self.now;
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        if !self.config.hibernate || now.since(replica.active_at) < idle || !replica.raft.can_hibernate() {
            return;
        }
        // Whoever should lead takes over first, and what is to be changed about the group is changed first.
        let own = replica.preferred_leader.is_none_or(|preferred| preferred.0 == replica.raft_id);
        let settled = replica.conf_state.learners.is_empty() && replica.conf_state.voters_outgoing.is_empty();
        let settled = settled && replica.is_placed(super::membership::placed(&self.map, shard));
        let busy = !replica.invited.is_empty() || replica.snapshot_query || self.sending.is_for(replica.id);
        if own && settled && !busy && replica.is_quiet() {
            replica.raft.hibernate();
        }
    }

    /// Hears whether the other cores live, and tells them that this one does.
    pub(super) fn watch_peers(&mut self) {
        let raft = &self.config.raft;
        let (pause, timeout) = (raft.tick.times(raft.heartbeat_ticks), raft.election_timeout());
        // The controller, too, wants to know who lives.
        self.outbox.send_signs_of_life(self.now, pause, &mut self.effects);
        if self.config.hibernate {
            self.ask_in_sleep();
        }
        for (node, core, cores) in self.outbox.newly_silent(self.now, timeout) {
            self.wake_led_from(node, core, cores);
        }
    }

    fn wake_led_from(&mut self, node: u64, core: u32, cores: u32) {
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_ref() else { continue };
            let shard = replica.id.shard;
            let led_there = replica.raft.leader().is_some_and(|id| replica_id::node_of(id.0) == node)
                && placement::core_of(shard, cores) == core;
            if led_there && !replica.is_awake {
                self.wake(shard);
            }
        }
    }
}

impl crate::replica::Replica {
    /// Whether the leader sees this voter follow closely.
    pub fn is_well(&self, id: raft::NodeId, behind_max: u64) -> bool {
        self.raft.peers().any(|peer| {
            let behind = self.raft.last_index().distance_from(peer.match_index);
            peer.node == id && peer.active && peer.state == PeerState::Replicate && behind <= behind_max
        })
    }

    /// Keeps account of which members are silent, and since when.
    pub fn note_silence(&mut self, now: Nanos) {
        let Self { raft, silent, .. } = self;
        silent.retain(|(id, _)| raft.peers().any(|peer| peer.node == *id && !peer.active));
        for peer in raft.peers().filter(|peer| !peer.active) {
            if silent.iter().all(|(id, _)| *id != peer.node) {
                silent.push((peer.node, now));
            }
        }
    }

    /// The members that have been silent for so long.
    pub fn silent_members(&self, now: Nanos, length: Nanos) -> impl Iterator<Item = raft::NodeId> {
        let long = move |since: &Nanos| now.since(*since) >= length;
        self.silent.iter().filter(move |(_, since)| long(since)).map(|(id, _)| *id)
    }
}
