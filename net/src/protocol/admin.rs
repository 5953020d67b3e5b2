//! Operations on the replicas of one shard, and what its leader says of them.
//!
//! A change is accepted when the leader has begun it; whether and when it is done, [`ShardDescription`] shows.

use super::checks::DecodeError;
use super::encode::Builder;
use crate::generated::client_generated as wire;
use flatbuffers::{UnionWIPOffset, WIPOffset};

/// Most members a description may name: every voter and learner of a joint configuration.
pub const DESCRIBED_MEMBERS_MAX: usize = 192;

/// What to do with the replicas of the request's shard. Only its leader can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminOp {
    /// Have the node make a replica, and take that in: first as a learner, then as a voter.
    /// Answer: [`super::Answer::AdminAccepted`].
    AddReplica {
        /// A node of the cluster without a replica of the shard.
        node: u64,
    },
    /// Remove the node's replica from the group; it then destroys itself.
    /// Answer: [`super::Answer::AdminAccepted`].
    RemoveReplica {
        /// The node.
        node: u64,
    },
    /// Hand the leadership over. Answer: [`super::Answer::AdminAccepted`] with the node it goes to.
    TransferLeader {
        /// The node to lead; `None`: whichever voter is best placed.
        node: Option<u64>,
    },
    /// Take a snapshot of the leader's replica.
    /// Answer: [`super::Answer::AdminAccepted`] with the index it will contain at least.
    TakeSnapshot,
    /// Let all replicas drop what they need no more of their logs.
    /// Answer: [`super::Answer::AdminAccepted`] with the index up to which they may.
    Compact,
    /// Tell the state of the group. Answer: [`super::Answer::Shard`].
    Describe,
}

impl AdminOp {
    /// Whether executing it twice could differ from executing it once.
    #[must_use]
    pub fn is_change(&self) -> bool {
        !matches!(self, AdminOp::Describe)
    }
}

/// A change has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdminAccepted {
    /// The log index it is about, if any: see [`AdminOp`].
    pub index: Option<u64>,
    /// The node it is about, if any.
    pub node: Option<u64>,
}

/// A shard's group, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardDescription {
    /// The shard.
    pub shard: u32,
    /// The node that answers: the leader.
    pub node: u64,
    /// Its term.
    pub term: u64,
    /// All members, the leader among them.
    pub members: Vec<MemberDescription>,
    /// Whether a change of the voters is under way.
    pub joint: bool,
    /// First entry still in the leader's log.
    pub first_index: u64,
    /// Last entry of its log.
    pub last_index: u64,
    /// Last entry committed.
    pub committed: u64,
    /// Last entry the leader has applied.
    pub applied: u64,
    /// Last entry whose effect survives a crash without the log.
    pub applied_durable: u64,
    /// Bytes of the shard's entries in the leader's log on disk.
    pub log_bytes: u64,
    /// Its newest snapshot.
    pub snapshot: Option<SnapshotDescription>,
}

/// One member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its identity in the group, never used again.
    pub raft_id: u64,
    /// The node it lives on.
    pub node: u64,
    /// What it may do.
    pub role: MemberRole,
    /// Whether it leads.
    pub is_leader: bool,
    /// Whether the leader has heard from it lately.
    pub is_active: bool,
    /// Last entry known to be on its disk.
    pub match_index: u64,
    /// How many entries of the leader's log it lacks.
    pub lag: u64,
    /// How the leader feeds it.
    pub progress: MemberProgress,
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberRole {
    /// It votes.
    Voter,
    /// It only follows.
    Learner,
    /// It votes among the new voters of a change under way.
    Incoming,
    /// It votes among the old voters of a change under way, and will not afterwards.
    Outgoing,
}

/// How a leader feeds a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberProgress {
    /// It looks for the place where the logs agree.
    Probe,
    /// It sends entries as they come.
    Replicate,
    /// It waits for a snapshot to arrive.
    Snapshot,
}

/// A snapshot on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotDescription {
    /// Index of the last entry it contains.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Bytes of its files; they may share disk space with the replica.
    pub bytes: u64,
}

impl ShardDescription {
    /// The member on `node`; during a replacement the newer one, which is the one that stays.
    #[must_use]
    pub fn member_on(&self, node: u64) -> Option<&MemberDescription> {
        self.members.iter().filter(|member| member.node == node).max_by_key(|member| member.raft_id)
    }
}

pub(super) fn encode_op(builder: &mut Builder, op: AdminOp) -> (wire::Op, WIPOffset<UnionWIPOffset>) {
    match op {
        AdminOp::AddReplica { node } => {
            let it = wire::AddReplica::create(builder, &wire::AddReplicaArgs { node });
            (wire::Op::AddReplica, it.as_union_value())
        }
        AdminOp::RemoveReplica { node } => {
            let it = wire::RemoveReplica::create(builder, &wire::RemoveReplicaArgs { node });
            (wire::Op::RemoveReplica, it.as_union_value())
        }
        AdminOp::TransferLeader { node } => {
            let it = wire::TransferLeader::create(builder, &wire::TransferLeaderArgs { node });
            (wire::Op::TransferLeader, it.as_union_value())
        }
        AdminOp::TakeSnapshot => {
            let it = wire::TakeSnapshot::create(builder, &wire::TakeSnapshotArgs {});
            (wire::Op::TakeSnapshot, it.as_union_value())
        }
        AdminOp::Compact => {
            let it = wire::Compact::create(builder, &wire::CompactArgs {});
            (wire::Op::Compact, it.as_union_value())
        }
        AdminOp::Describe => {
            let it = wire::DescribeShard::create(builder, &wire::DescribeShardArgs {});
            (wire::Op::DescribeShard, it.as_union_value())
        }
    }
}

/// `None`: the request is no administrative one.
pub(super) fn decode_op(request: &wire::Request<'_>) -> Option<AdminOp> {
    if let Some(it) = request.op_as_add_replica() {
        return Some(AdminOp::AddReplica { node: it.node() });
    }
    if let Some(it) = request.op_as_remove_replica() {
        return Some(AdminOp::RemoveReplica { node: it.node() });
    }
    if let Some(it) = request.op_as_transfer_leader() {
        return Some(AdminOp::TransferLeader { node: it.node() });
    }
    match request.op_type() {
        wire::Op::TakeSnapshot => Some(AdminOp::TakeSnapshot),
        wire::Op::Compact => Some(AdminOp::Compact),
        wire::Op::DescribeShard => Some(AdminOp::Describe),
        _ => None,
    }
}

pub(super) fn encode_accepted(builder: &mut Builder, accepted: AdminAccepted) -> WIPOffset<UnionWIPOffset> {
    let args = wire::AdminAcceptedArgs { index: accepted.index, node: accepted.node };
    wire::AdminAccepted::create(builder, &args).as_union_value()
}

pub(super) fn decode_accepted(accepted: &wire::AdminAccepted<'_>) -> AdminAccepted {
    AdminAccepted { index: accepted.index(), node: accepted.node() }
}

pub(super) fn encode_description(
    builder: &mut Builder,
    described: &ShardDescription,
) -> WIPOffset<UnionWIPOffset> {
    let members = builder.create_vector_from_iter(described.members.iter().map(wire_member));
    let snapshot = described.snapshot.map(|it| wire::SnapshotInfo::new(it.index, it.term, it.bytes));
    let args = wire::ShardDescriptionArgs {
        shard: described.shard,
        node: described.node,
        term: described.term,
        members: Some(members),
        joint: described.joint,
        first_index: described.first_index,
        last_index: described.last_index,
        committed: described.committed,
        applied: described.applied,
        applied_durable: described.applied_durable,
        log_bytes: described.log_bytes,
        snapshot: snapshot.as_ref(),
    };
    wire::ShardDescription::create(builder, &args).as_union_value()
}

pub(super) fn decode_description(
    described: &wire::ShardDescription<'_>,
) -> Result<ShardDescription, DecodeError> {
    let members = described.members();
    if members.len() > DESCRIBED_MEMBERS_MAX {
        return Err(DecodeError::Inconsistent { why: "too many members" });
    }
    let snapshot = described.snapshot().map(|it| SnapshotDescription {
        index: it.index(),
        term: it.term(),
        bytes: it.bytes(),
    });
    Ok(ShardDescription {
        shard: described.shard(),
        node: described.node(),
        term: described.term(),
        members: members.iter().map(member).collect::<Result<_, _>>()?,
        joint: described.joint(),
        first_index: described.first_index(),
        last_index: described.last_index(),
        committed: described.committed(),
        applied: described.applied(),
        applied_durable: described.applied_durable(),
        log_bytes: described.log_bytes(),
        snapshot,
    })
}

fn wire_member(member: &MemberDescription) -> wire::Member {
    let role = match member.role {
        MemberRole::Voter => 0,
        MemberRole::Learner => 1,
        MemberRole::Incoming => 2,
        MemberRole::Outgoing => 3,
    };
    let progress = match member.progress {
        MemberProgress::Probe => 0,
        MemberProgress::Replicate => 1,
        MemberProgress::Snapshot => 2,
    };
    wire::Member::new(
        member.raft_id,
        member.node,
        member.match_index,
        member.lag,
        role,
        progress,
        member.is_leader,
        member.is_active,
    )
}

fn member(member: &wire::Member) -> Result<MemberDescription, DecodeError> {
    let unknown = |what, code: u8| DecodeError::UnknownVariant { what, code: u64::from(code) };
    let role = match member.role() {
        0 => MemberRole::Voter,
        1 => MemberRole::Learner,
        2 => MemberRole::Incoming,
        3 => MemberRole::Outgoing,
        other => return Err(unknown("role of a member", other)),
    };
    let progress = match member.progress() {
        0 => MemberProgress::Probe,
        1 => MemberProgress::Replicate,
        2 => MemberProgress::Snapshot,
        other => return Err(unknown("progress of a member", other)),
    };
    Ok(MemberDescription {
        raft_id: member.raft_id(),
        node: member.node(),
        role,
        is_leader: member.is_leader(),
        is_active: member.is_active(),
        match_index: member.match_index(),
        lag: member.lag(),
        progress,
    })
}
