//! Who belongs to the groups: what a leader changes by itself, and what follows from every change.
//!
//! A leader derives what to do from the configuration alone, anew each round, so a new one goes on where the old one
//! stopped: a learner that has caught up becomes a voter, in one change that removes
//! whatever else its node has in the group (the replica it replaces); a node whose replica is silent for long, or where an
//! operator wants one, is invited to make one. One change is in flight at a time.

use net::map::{ClusterMap, ReplicaInfo};
use net::peer::{GroupBody, GroupMessage};
use raft::{ConfChange, ConfChangeStep, Entry, EntryKind, Nanos, NodeId, PeerState};

use super::{Core, usize_of};
use crate::{placement, replica_id};

/// Ticks between two rounds.
const ROUND_TICKS: u32 = 5;
/// Time between two invitations of one node.
const INVITE_PAUSE: Nanos = Nanos::from_millis(1_000);
/// How long a member may be silent before its node is asked whether it still has it: one that has answers by itself.
const SILENT_BEFORE_INVITED: Nanos = Nanos::from_millis(10_000);
/// How long an operator's wish for a replica on a node is pursued.
pub(super) const WISH_LASTS: Nanos = Nanos::from_millis(120_000);
/// Entries by which whoever takes over from a leader that leaves may lag.
const SUCCESSOR_BEHIND_MAX: u64 = 1024;

impl Core {
    /// Carries out the committed changes among `entries` at once; they reach the state machine in their turn.
    pub(super) fn apply_conf_changes(&mut self, shard: u32, entries: &[Entry]) {
        let Some(last) = entries.last() else { return };
        let replica = self.replica_mut(shard);
        replica.conf_index = last.index;
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
            let members = self.replica_mut(shard).raft.apply_conf_change(entry);
            tracing::info!(shard, index = entry.index.0, ?members, "the group changed");
            self.follow_membership(shard);
        }
    }

    /// The map, the preferred leader and this replica's priority follow the group's configuration.
    pub(super) fn follow_membership(&mut self, shard: u32) {
        let this_node = self.config.node;
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        // It may have begun before its node heard of the shard.
        let listed = self.map.shard(shard).and_then(|info| info.slots).map(|slots| (slots.first, slots.last));
        replica.slots = replica.slots.or(listed);
        replica.conf_state = replica.raft.conf_state();
        let nodes = placement::ranked(shard, &replica.conf_state, placed(&self.map, shard));
        if let Some(preferred) = nodes.first() {
            let id = replica.conf_state.voters.iter().find(|id| replica_id::node_of(id.0) == *preferred);
            replica.preferred_leader = id.copied();
        }
        replica.raft.set_priority(placement::priority(this_node, &nodes));
        self.standing.due |= replica.raft.is_leader();
        let members: Vec<u64> = replica.members().map(|id| replica_id::node_of(id.0)).collect();
        self.list_replicas(shard, &members);
        self.status_due = true;
    }

    /// Sets the nodes that hold replicas of a shard, as the map tells them.
    pub(super) fn list_replicas(&mut self, shard: u32, members: &[u64]) {
        if usize_of(shard) >= self.map.shards.len() {
            return;
        }
        let nodes = members.iter().filter_map(|id| self.map.node(*id));
        let mut replicas: Vec<ReplicaInfo> = nodes
            .map(|node| ReplicaInfo { node: node.id, core: placement::core_of(shard, node.cores) })
            .collect();
        replicas.sort_unstable_by_key(|replica| replica.node);
        replicas.dedup();
        // A shard that was just cut off another is not in the map yet.
        if let Some(info) = self.map.shards.get_mut(usize_of(shard)) {
            info.replicas = replicas;
        }
    }

    /// A leader's round over its groups that are awake.
    pub(super) fn tick_membership(&mut self) {
        if !self.ticks.is_multiple_of(ROUND_TICKS) {
            return;
        }
        for position in 0..self.awake.len() {
            let shard = self.awake[position];
            let leads = |replica: &crate::replica::Replica| replica.raft.is_leader();
            if self.replicas[usize_of(shard)].as_ref().is_some_and(leads) {
                self.mend_group(shard);
            }
        }
    }

    fn mend_group(&mut self, shard: u32) {
        let now = self.now;
        let is_parting = self.is_parting(shard);
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        replica.invited.retain(|(_, until)| *until > now);
        // Whose replicas begin the new shard stay until they have begun it.
        let placed = if is_parting { &[] } else { placed(&self.map, shard) };
        replica.wish_for(placed, now);
        // A joint configuration Raft leaves by itself.
        let steps = replica.promotion(placed);
        if !steps.is_empty() {
            return self.change_group(shard, steps);
        }
        match replica.surplus(placed) {
            Some(Surplus::Others(steps)) => return self.change_group(shard, steps),
            Some(Surplus::Leader(successor)) => {
                // Its successor removes it: a leader that leaves must not count itself.
                if replica.raft.transfer_leader(successor).is_ok() {
                    tracing::info!(shard, to = successor.0, "handing over, to leave the group");
                    self.touch(shard);
                }
                return;
            }
            None => {}
        }
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        replica.note_silence(now);
        if now >= replica.invites_at {
            replica.invites_at = now.saturating_add(INVITE_PAUSE);
            self.invite(shard);
        }
    }

    /// Takes a replica into the group, as a learner. A learner of the same node that is silent makes room for it.
    pub(super) fn take_in(&mut self, shard: u32, id: NodeId) {
        let replica = self.replica_mut(shard);
        let node = replica_id::node_of(id.0);
        let neighbours: Vec<NodeId> =
            replica.members().filter(|other| replica_id::node_of(other.0) == node).collect();
        // Two replicas of one node cannot both live: as long as the other one speaks, this message is an old one.
        if replica.raft.peers().any(|peer| peer.active && neighbours.contains(&peer.node)) {
            return;
        }
        let mut steps = vec![ConfChangeStep::AddLearner(id)];
        let learners = neighbours.iter().filter(|other| replica.conf_state.learners.contains(other));
        steps.extend(learners.map(|other| ConfChangeStep::Remove(*other)));
        self.change_group(shard, steps);
    }

    /// Proposes a change; whether it is wanted still is looked at again in the next round.
    fn change_group(&mut self, shard: u32, steps: Vec<ConfChangeStep>) {
        let change = ConfChange { steps };
        match self.replica_mut(shard).raft.propose_conf_change(&change) {
            Ok((_, index)) => tracing::info!(shard, index = index.0, ?change, "changing the group"),
            Err(error) => tracing::debug!(shard, ?change, %error, "the group cannot be changed now"),
        }
        self.touch(shard);
    }

    /// Asks the nodes where a replica is wanted, or lost, to make one. One that has its replica ignores it.
    fn invite(&mut self, shard: u32) {
        let now = self.now;
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        let (from, term) = (replica.raft_id, replica.raft.term().0);
        let wished = replica.invited.iter().map(|(node, _)| *node);
        let lost = replica.silent_members(now, SILENT_BEFORE_INVITED).map(|id| replica_id::node_of(id.0));
        for node in wished.chain(lost) {
            let message = GroupMessage { group: shard, from, to: node, term, body: GroupBody::Invite };
            self.outbox.push(node, message);
        }
    }
}

/// What a group has beyond those it is placed on.
enum Surplus {
    /// Members to remove.
    Others(Vec<ConfChangeStep>),
    /// The leader, which goes last, and who takes over.
    Leader(NodeId),
}

/// Where the controller wants a shard, if it does. A shard that was just cut off another is not in the map yet.
pub(super) fn placed(map: &ClusterMap, shard: u32) -> &[u64] {
    map.shard(shard).map_or(&[], |info| &info.plan.placed)
}

impl crate::replica::Replica {
    /// Whether the group is where it is placed, as far as its configuration tells.
    pub fn is_placed(&self, placed: &[u64]) -> bool {
        let voters = placement::voter_nodes(&self.conf_state);
        placed.is_empty() || (voters.len() == placed.len() && placed.iter().all(|node| voters.contains(node)))
    }

    /// Wishes for replicas on the nodes where the group is placed and is not, and on no others.
    fn wish_for(&mut self, placed: &[u64], now: Nanos) {
        if placed.is_empty() {
            return;
        }
        let members: Vec<u64> = self.members().map(|id| replica_id::node_of(id.0)).collect();
        let until = now.saturating_add(WISH_LASTS);
        let missing = placed.iter().filter(|node| !members.contains(node));
        self.invited = missing.map(|node| (*node, until)).collect();
    }

    /// What to remove, or how to, once all the nodes where the group is placed have a voter.
    fn surplus(&self, placed: &[u64]) -> Option<Surplus> {
        if placed.is_empty() || !self.conf_state.voters_outgoing.is_empty() {
            return None;
        }
        let is_surplus = |id: &&NodeId| !placed.contains(&replica_id::node_of(id.0));
        // Learners do not count for anything: they may go at once.
        let learners: Vec<ConfChangeStep> =
            self.conf_state.learners.iter().filter(is_surplus).copied().map(ConfChangeStep::Remove).collect();
        if !learners.is_empty() {
            return Some(Surplus::Others(learners));
        }
        let voters = placement::voter_nodes(&self.conf_state);
        if !placed.iter().all(|node| voters.contains(node)) {
            return None;
        }
        let own = NodeId(self.raft_id);
        let others: Vec<ConfChangeStep> = (self.conf_state.voters.iter())
            .filter(|id| is_surplus(id) && **id != own)
            .copied()
            .map(ConfChangeStep::Remove)
            .collect();
        if !others.is_empty() {
            return Some(Surplus::Others(others));
        }
        if !is_surplus(&&own) {
            return None;
        }
        let well = |id: &&NodeId| !is_surplus(id) && self.is_well(**id, SUCCESSOR_BEHIND_MAX);
        let heir = |node: &u64| {
            self.conf_state.voters.iter().filter(well).find(|id| replica_id::node_of(id.0) == *node)
        };
        placed.iter().find_map(heir).copied().map(Surplus::Leader)
    }

    /// What makes a voter of a learner that has caught up, and removes what else its node has in the group and, if then
    /// all are there where it is placed, who is elsewhere; nothing if there is none.
    fn promotion(&mut self, placed: &[u64]) -> Vec<ConfChangeStep> {
        let learner = self.conf_state.learners.iter().copied().find(|learner| {
            let target = self.catch_up_target;
            self.raft.peers().any(|peer| {
                peer.node == *learner
                    && peer.active
                    && peer.state == PeerState::Replicate
                    && target.is_some_and(|target| peer.match_index >= target)
            })
        });
        // What the log held a round ago must be on its disk now: the last round of thesis §4.2.1.
        let learns = !self.conf_state.learners.is_empty();
        self.catch_up_target = learns.then(|| self.raft.last_index());
        let Some(learner) = learner else { return Vec::new() };
        let node = replica_id::node_of(learner.0);
        let voters = placement::voter_nodes(&self.conf_state);
        let complete = !placed.is_empty() && placed.iter().all(|it| *it == node || voters.contains(it));
        let own = NodeId(self.raft_id);
        let mut steps = vec![ConfChangeStep::AddVoter(learner)];
        let goes = |id: NodeId| {
            let at = replica_id::node_of(id.0);
            at == node || (complete && id != own && !placed.contains(&at))
        };
        let others = self.members().filter(|id| *id != learner && goes(*id));
        steps.extend(others.map(ConfChangeStep::Remove));
        steps
    }
}
