//! The life of replicas: made when a leader invites this node, taken into the group, removed from it.
//!
//! ```text
//!   Invite ──▶ CreateReplica ──▶ ReplicaCreated ──▶ Join, about every second ──▶ a member
//!   no member (any more) ── Join, or asking for votes ──▶ Gone ──▶ stream removed ── flushed ──▶ DestroyReplica
//! ```
//!
//! A replica that is no member of its own configuration asks to be taken in: a fresh one, and one that has applied its
//! removal. The leader takes it in or, once the others can do without it for good, answers `Gone`; one that never heard
//! of its removal gets that answer when it asks for votes.
//!
//! Invariants:
//! - a replica never destroys itself of its own accord, not even when its own log says it was removed: the others may not
//!   know that on their disks yet, and may need its vote;
//! - a folder goes only after the removal of the stream is flushed: a stream without a folder would be a replica that
//!   forgot what it had promised.

use net::peer::{GroupBody, GroupMessage};
use raft::{Index, Nanos, NodeId, Term};
use wal::{StreamId, StreamState};

use super::effect::Engine;
use super::{Core, Effect, Hold, ReplicaId, ReplicaSeed, usize_of};
use crate::replica::Replica;
use crate::replica_id;

/// A replica whose state machine is being opened.
pub(super) struct Creating {
    pub id: ReplicaId,
    pub generation: u64,
    /// Whether it should lead the group, which is new.
    pub leads: bool,
}

/// Time between two requests to be taken in.
pub(super) const JOIN_PAUSE: Nanos = Nanos::from_millis(1_000);
/// How much longer a voter hears no leader before it asks.
const VOTER_PATIENCE: Nanos = Nanos::from_millis(4_000);
/// Time between two questions of those asleep whether they still belong.
const SLEEPERS_PAUSE: Nanos = Nanos::from_millis(5_000);
/// How long leaders must be through with a replica, and none feed it, before it goes.
const GONE_AFTER: Nanos = Nanos::from_millis(2_500);

impl Core {
    /// A replica to start with, or just created.
    pub(super) fn start_replica(
        &mut self,
        id: ReplicaId,
        seed: ReplicaSeed,
    ) -> Result<(), raft::ConfigError> {
        let shard = seed.shard;
        // One that was cut off another, and that the map does not tell of yet, may be among those found at start.
        self.grow_to(shard);
        let random = self.draw();
        let raft = super::start_raft(&self.config, &self.wal, &seed, random)?;
        let listed = self.map.shard(shard).and_then(|info| info.slots).map(|slots| (slots.first, slots.last));
        let slots = seed.domain.map(|domain| domain.slots).or(listed);
        let domain = seed.domain;
        let stream = StreamId(replica_id::stream_id(shard, seed.generation));
        let mut replica = Replica::new(id, stream, raft, seed.engine, slots, seed.applied);
        replica.follow_domain(domain);
        replica.joins_at = self.now;
        replica.raft.limit_lease(self.shortest_vote_hold());
        self.replicas[usize_of(shard)] = Some(replica);
        self.follow_membership(shard);
        self.wake(shard);
        Ok(())
    }

    /// A leader wants this node to hold a replica.
    pub(super) fn on_invite(&mut self, shard: u32) {
        let creating = self.creating.iter().any(|creating| creating.id.shard == shard);
        let coming = creating || self.is_expected(shard);
        if coming || self.leaving.is_some() || self.replicas[usize_of(shard)].is_some() {
            return;
        }
        let generation = replica_id::generation_from(self.draw());
        let replica = self.next_replica_id(shard);
        tracing::info!(shard, generation, "making a replica, as the shard's leader asks");
        self.creating.push(Creating { id: replica, generation, leads: false });
        self.effects.push(Effect::CreateReplica { replica, generation });
    }

    /// The state machine of a new replica is open.
    pub(super) fn on_replica_created(&mut self, id: ReplicaId, engine: Engine) {
        let Some(position) = self.creating.iter().position(|creating| creating.id == id) else { return };
        let Creating { generation, .. } = self.creating.swap_remove(position);
        // From now on the log says that this node holds it; it promises nothing before.
        let stream = StreamId(replica_id::stream_id(id.shard, generation));
        self.wal.borrow_mut().set_state(stream, StreamState::default());
        let seed = ReplicaSeed {
            shard: id.shard,
            generation,
            engine: engine.0,
            applied: Index::ZERO,
            applied_term: Term::ZERO,
            conf_state: self.founders[usize_of(id.shard)].clone(),
            topology: None,
            domain: None,
        };
        self.start_replica(id, seed).expect("an empty replica hangs together");
        self.forget_founding_stream(id.shard);
    }

    /// A replica of this node asks to be taken in, or whether it still is, if it is time.
    pub(super) fn ask_to_join(&mut self, shard: u32) {
        let now = self.now;
        let replica = self.replica_mut(shard);
        // Whoever was removed without hearing of it must ask. A learner never stands for election, and a voter that does
        // may know none of the present members but followers; it is given time to elect or hear a leader.
        let patience = if replica.is_voter() { VOTER_PATIENCE } else { Nanos::ZERO };
        if now < replica.joins_at.saturating_add(patience) {
            return;
        }
        replica.joins_at = now.saturating_add(JOIN_PAUSE);
        self.send_join(shard);
    }

    /// A follower may have been put to sleep, then removed, and the one message that would have woken it lost: nobody
    /// sends it anything any more. So those asleep ask now and then, and are heard without waking the group.
    pub(super) fn ask_in_sleep(&mut self) {
        if self.now < self.sleepers_ask_at {
            return;
        }
        self.sleepers_ask_at = self.now.saturating_add(SLEEPERS_PAUSE);
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_ref() else { continue };
            if !replica.is_awake && !replica.raft.is_leader() {
                self.send_join(replica.id.shard);
            }
        }
    }

    fn send_join(&mut self, shard: u32) {
        let replica = self.replica_mut(shard);
        let (from, term) = (replica.raft_id, replica.raft.term().0);
        for node in self.outbox.nodes().collect::<Vec<u64>>() {
            let body = GroupBody::Join;
            self.outbox.push(node, GroupMessage { group: shard, from, to: node, term, body });
        }
    }

    /// A replica asks to be taken in. Its group's leader does so if it takes the place of a lost one on its node, or if an
    /// operator wanted it there.
    pub(super) fn on_join(&mut self, shard: u32, from: u64) {
        let Some(replica) = self.replicas[usize_of(shard)].as_ref() else { return };
        if replica.members().any(|id| id.0 == from) {
            return;
        }
        // The group may sleep while its leader's disks were exchanged: its node lives, and the leader does not.
        self.wake(shard);
        let replica = self.replica_mut(shard);
        if !replica.raft.is_leader() {
            return;
        }
        let node = replica_id::node_of(from);
        let replica = self.replica_mut(shard);
        let takes_a_place = replica.members().any(|id| replica_id::node_of(id.0) == node);
        if takes_a_place || replica.invited.iter().any(|(invited, _)| *invited == node) {
            self.take_in(shard, NodeId(from));
        } else {
            self.tell_stranger(shard, from);
        }
    }

    /// Tells a replica that its group is through with it, if this core leads the group and may say so. Whether it did.
    pub(super) fn tell_stranger(&mut self, shard: u32, from: u64) -> bool {
        let Some(replica) = self.replicas[usize_of(shard)].as_ref() else { return false };
        if !replica.raft.dismisses(NodeId(from)) {
            return false;
        }
        let (own, term) = (replica.raft_id, replica.raft.term().0);
        let body = GroupBody::Gone { index: replica.conf_index.0 };
        let message = GroupMessage { group: shard, from: own, to: from, term, body };
        self.outbox.push(replica_id::node_of(from), message);
        true
    }

    /// A leader is through with this node's replica.
    pub(super) fn on_gone(&mut self, shard: u32, to: u64, term: u64, index: u64) {
        let now = self.now;
        let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { return };
        // It speaks of another replica, or of a time before this one was taken in.
        let stale = !replica.raft.believes_dismissal(Term(term)) || index < replica.raft.committed().0;
        if replica.raft_id != to || stale {
            return;
        }
        // A message that was long under way must not end a replica that was taken in meanwhile.
        let since = *replica.gone_since.get_or_insert(now);
        if now.since(since) >= GONE_AFTER {
            self.destroy(shard, "its group is through with it");
        }
    }

    /// Ends a replica of this node for good.
    pub(super) fn destroy(&mut self, shard: u32, why: &'static str) {
        let epoch = self.map.epoch;
        let Some(mut replica) = self.replicas[usize_of(shard)].take() else { return };
        tracing::info!(shard, raft_id = replica.raft_id, why, "removing this node's replica");
        self.awake.retain(|awake| *awake != shard);
        self.inflight_bytes -= replica.abandon(epoch, &mut self.effects);
        let waiting = |hold: &Hold| replica.apply.entries.iter().any(|entry| entry.index == hold.index);
        let holds: Vec<Hold> = replica.holds.iter().copied().filter(waiting).collect();
        self.abandon_divisions(&holds);
        self.lane.queued_bytes -= replica.drop_queued();
        if let Some(snapshot) = replica.take_waiting_snapshot() {
            self.effects.push(Effect::DropSnapshot { snapshot });
        }
        let lsn = self.wal.borrow_mut().remove(replica.stream);
        let generation = replica_id::generation_of(replica.raft_id);
        let engine = Engine(replica.engine.clone());
        self.removals.push_back((lsn, Effect::DestroyReplica { replica: replica.id, generation, engine }));
        let node = self.config.node;
        if let Some(info) = self.map.shards.get_mut(usize_of(shard)) {
            info.replicas.retain(|replica| replica.node != node);
        }
        self.status_due = true;
        self.carry_out_removals();
    }

    /// Lets the data of removed replicas go whose streams' removal is on disk.
    pub(super) fn carry_out_removals(&mut self) {
        let flushed = self.wal.borrow().flushed_lsn();
        while self.removals.front().is_some_and(|(lsn, _)| *lsn <= flushed) {
            let (_, effect) = self.removals.pop_front().expect("just seen");
            self.effects.push(effect);
        }
    }

    pub(super) fn next_replica_id(&mut self, shard: u32) -> ReplicaId {
        self.incarnations += 1;
        ReplicaId { shard, incarnation: self.incarnations }
    }

    /// A random number (splitmix64), a function of the seed and of how many were drawn.
    pub(super) fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
