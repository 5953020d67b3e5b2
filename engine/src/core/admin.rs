//! What operators ask of a shard's leader: to change its group, hand it over, take a snapshot, drop the log, or tell how
//! it stands.

use net::protocol::{
    AdminAccepted, AdminOp, Answer, MemberDescription, MemberProgress, MemberRole, Refusal, ShardDescription,
    SnapshotDescription,
};
use raft::{ConfChange, ConfChangeStep, NodeId, PeerState, ProposeConfError, TransferError};

use super::membership::WISH_LASTS;
use super::{Core, usize_of};
use crate::replica::Replica;
use crate::replica_id;

impl Core {
    /// Begins what is asked for, or says why not.
    pub(super) fn administer(&mut self, shard: u32, op: AdminOp) -> Result<Answer, Refusal> {
        let epoch = self.map.epoch;
        let replica = self.replicas[usize_of(shard)].as_ref().expect("checked by the caller");
        if !replica.raft.is_leader() {
            return Err(replica.not_leader(epoch));
        }
        // A change of members is judged by who is there; a group that slept has to find that out first.
        let changes = matches!(
            op,
            AdminOp::AddReplica { .. } | AdminOp::RemoveReplica { .. } | AdminOp::TransferLeader { .. }
        );
        if changes && replica.raft.is_waking() {
            self.wake(shard);
            return Err(Refusal::Busy { retry_after_ms: 100 });
        }
        self.wake(shard);
        self.touch(shard);
        let accepted = match op {
            AdminOp::AddReplica { node } => self.add_replica(shard, node)?,
            AdminOp::RemoveReplica { node } => self.remove_replica(shard, node)?,
            AdminOp::TransferLeader { node } => self.transfer(shard, node)?,
            AdminOp::TakeSnapshot => {
                let index = self.take_snapshot(shard);
                AdminAccepted { index: Some(index.0), node: None }
            }
            AdminOp::Compact => {
                let index = self.compact_on_demand(shard);
                AdminAccepted { index: Some(index.0), node: None }
            }
            AdminOp::Describe => return Ok(Answer::Shard(self.describe(shard))),
        };
        Ok(Answer::AdminAccepted(accepted))
    }

    fn add_replica(&mut self, shard: u32, node: u64) -> Result<AdminAccepted, Refusal> {
        if self.map.node(node).is_none() {
            return conflict(format!("the cluster has no node {node}"));
        }
        self.refuse_placed(shard)?;
        let until = self.now.saturating_add(WISH_LASTS);
        let replica = self.replica_mut(shard);
        if replica.members().any(|id| replica_id::node_of(id.0) == node) {
            return conflict(format!("node {node} holds a replica of the shard already"));
        }
        replica.invited.retain(|(invited, _)| *invited != node);
        replica.invited.push((node, until));
        Ok(AdminAccepted { index: None, node: Some(node) })
    }

    fn remove_replica(&mut self, shard: u32, node: u64) -> Result<AdminAccepted, Refusal> {
        let epoch = self.map.epoch;
        self.refuse_placed(shard)?;
        if self.is_parting(shard) {
            // Whose replicas begin the new shard stay until they have begun it.
            return Err(Refusal::Busy { retry_after_ms: 100 });
        }
        let replica = self.replica_mut(shard);
        let had_invited = replica.invited.iter().any(|(invited, _)| *invited == node);
        replica.invited.retain(|(invited, _)| *invited != node);
        let on_node: Vec<NodeId> = replica.members().filter(|id| replica_id::node_of(id.0) == node).collect();
        if on_node.is_empty() {
            return match had_invited {
                true => Ok(AdminAccepted { index: None, node: Some(node) }),
                false => conflict(format!("node {node} holds no replica of the shard")),
            };
        }
        if on_node.contains(&NodeId(replica.raft_id)) {
            // Its successor removes it: a leader that leaves must not count itself, and could not answer.
            let Some(successor) = replica.raft.best_successor() else {
                return conflict(format!(
                    "node {node} leads the shard, and no voter is well enough to take over"
                ));
            };
            // Refused only when one is under way already.
            let _ = replica.raft.transfer_leader(successor);
            let leader = Some(replica_id::node_of(successor.0));
            return Err(Refusal::NotLeader { leader, epoch });
        }
        let change = ConfChange { steps: on_node.into_iter().map(ConfChangeStep::Remove).collect() };
        let (_, index) = replica.raft.propose_conf_change(&change).map_err(|error| match error {
            ProposeConfError::NotLeader { .. } => replica.not_leader(epoch),
            // It ends by itself, most often within a round trip.
            ProposeConfError::InFlight { .. } => Refusal::Busy { retry_after_ms: 50 },
            error => Refusal::Conflict { why: error.to_string() },
        })?;
        Ok(AdminAccepted { index: Some(index.0), node: Some(node) })
    }

    /// What the controller has placed somewhere, its leader brings back there.
    fn refuse_placed(&self, shard: u32) -> Result<(), Refusal> {
        let placed = super::membership::placed(&self.map, shard);
        if placed.is_empty() {
            return Ok(());
        }
        conflict(format!(
            "the controller keeps shard {shard} on the nodes {placed:?}: move it with `ringkv admin move {shard} NODE,NODE,..`"
        ))
    }

    fn transfer(&mut self, shard: u32, node: Option<u64>) -> Result<AdminAccepted, Refusal> {
        let replica = self.replica_mut(shard);
        let to = match node {
            Some(node) => {
                let on_node = |id: &&NodeId| replica_id::node_of(id.0) == node;
                replica.conf_state.voters.iter().find(on_node).copied()
            }
            None => replica.raft.best_successor(),
        };
        let Some(to) = to else {
            return conflict(match node {
                Some(node) => format!("node {node} holds no voter of the shard"),
                None => "no other voter is well enough to lead the shard".to_owned(),
            });
        };
        let accepted = AdminAccepted { index: None, node: Some(replica_id::node_of(to.0)) };
        match replica.raft.transfer_leader(to) {
            Ok(()) | Err(TransferError::AlreadyLeader) => Ok(accepted),
            Err(error) => conflict(error.to_string()),
        }
    }

    fn describe(&self, shard: u32) -> ShardDescription {
        let replica = self.replicas[usize_of(shard)].as_ref().expect("checked by the caller");
        let wal = self.wal.borrow();
        let raft = &replica.raft;
        ShardDescription {
            shard,
            node: self.config.node,
            term: raft.term().0,
            members: replica.describe_members(),
            joint: !replica.conf_state.voters_outgoing.is_empty(),
            first_index: wal.first_index(replica.stream),
            last_index: raft.last_index().0,
            committed: raft.committed().0,
            applied: raft.applied().0,
            applied_durable: replica.applied_durable.0,
            log_bytes: wal.stream_bytes(replica.stream),
            snapshot: replica.newest_snapshot.map(|snapshot| SnapshotDescription {
                index: snapshot.index.0,
                term: snapshot.term.0,
                bytes: snapshot.bytes,
            }),
        }
    }
}

impl Replica {
    fn describe_members(&self) -> Vec<MemberDescription> {
        let mut described: Vec<NodeId> = Vec::new();
        let members = self.members().filter(|id| {
            let first = !described.contains(id);
            described.push(*id);
            first
        });
        members.map(|id| self.describe_member(id)).collect()
    }

    fn describe_member(&self, id: NodeId) -> MemberDescription {
        let last = self.raft.last_index();
        let peer = self.raft.peers().find(|peer| peer.node == id);
        let match_index = peer.map_or(self.raft.flushed(), |peer| peer.match_index);
        let outgoing = self.conf_state.voters_outgoing.contains(&id);
        let joint = !self.conf_state.voters_outgoing.is_empty();
        let role = match (self.conf_state.voters.contains(&id), outgoing) {
            (true, false) if joint => MemberRole::Incoming,
            (true, _) => MemberRole::Voter,
            (false, true) => MemberRole::Outgoing,
            (false, false) => MemberRole::Learner,
        };
        MemberDescription {
            raft_id: id.0,
            node: replica_id::node_of(id.0),
            role,
            is_leader: id.0 == self.raft_id,
            is_active: peer.is_none_or(|peer| peer.active),
            match_index: match_index.0,
            lag: last.distance_from(match_index),
            progress: match peer.map(|peer| peer.state) {
                Some(PeerState::Probe) => MemberProgress::Probe,
                Some(PeerState::Snapshot) => MemberProgress::Snapshot,
                Some(PeerState::Replicate) | None => MemberProgress::Replicate,
            },
        }
    }
}

fn conflict<T>(why: String) -> Result<T, Refusal> {
    Err(Refusal::Conflict { why })
}
