//! The peer protocol: what two nodes tell each other. The dialler sends [`PeerHello`] with the connection's
//! [`Purpose`], the other side answers [`PeerHelloReply`]. What follows depends on the purpose:
//!
//! - `Messages`: [`GroupMessage`]s of all groups between two cores flow both ways, in frames of many. Delivery is at
//!   most once and in order within a connection; Raft tolerates every loss.
//! - `Snapshot`: the dialler sends one snapshot ([`snapshot`]).
//! - `Identity`: nothing; the hellos themselves say what a node that starts needs to know.
//!
//! The messages mirror the consensus core's field by field; entry data are slices of the frame. `from` and `to` name
//! *replicas* by ids of the consensus core that are never used again, not nodes.

mod decode;
mod encode;
pub mod snapshot;

pub use decode::{decode_messages, decode_peer_hello, decode_peer_hello_reply};
pub use encode::{PeerEncodeError, PeerEncoder};
pub use snapshot::{
    ConfState, SnapshotAnswer, SnapshotChunk, SnapshotEnd, SnapshotFile, SnapshotHeader,
    decode_snapshot_answer, decode_snapshot_chunk, decode_snapshot_end, decode_snapshot_header,
};

use crate::map::SlotRange;
use bytes::Bytes;

/// Version of the peer protocol this build speaks.
pub const PEER_VERSION: u16 = 2;

/// Highest index and term a message may carry. Far beyond what any log reaches, and far enough below the end of the
/// numbers that counting on from it never gets there.
pub const POSITION_MAX: u64 = u64::MAX >> 1;

/// Most changes of the cluster map in one message.
pub const MAP_CHANGES_MAX: usize = 1024;

/// Most messages of one frame.
pub const FRAME_MESSAGES_MAX: usize = 64 * 1024;

/// Most founders a hello may name.
pub const FOUNDERS_MAX: usize = 4096;

/// What a connection at the peer door is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Raft messages between two cores.
    Messages,
    /// One snapshot, from the dialler.
    Snapshot,
    /// Only to hear who the other side is; it closes after its reply.
    Identity,
}

/// A node that was there when the cluster first started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Founder {
    /// The node.
    pub node: u64,
    /// Identity of the data directory it had.
    pub store: u64,
}

/// What a node says of itself in a hello and in its answer: enough to tell a first start from a lost disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreInfo {
    /// Identity of its data directory, drawn when that was made.
    pub store: u64,
    /// Whether it knows the founders: the cluster has started once.
    pub settled: bool,
    /// The founders, once settled; a node is named once.
    pub founders: Vec<Founder>,
}

/// First frame of a dialling core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// Version of the peer protocol.
    pub version: u16,
    /// Node that dials.
    pub node: u64,
    /// Core that dials.
    pub core: u32,
    /// The cluster it belongs to; another one is refused.
    pub cluster_id: String,
    /// Core the connection is for.
    pub wants_core: u32,
    /// What it is for.
    pub purpose: Purpose,
    /// The dialler's data directory.
    pub store: StoreInfo,
    /// For how long the dialler votes for nobody else after it heard a leader, by its own clock; 0: it promises nothing.
    pub vote_hold_ms: u32,
}

/// Answer to [`PeerHello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHelloReply {
    /// Version of the connection.
    pub version: u16,
    /// Node that answers.
    pub node: u64,
    /// Core that now owns the connection.
    pub core: u32,
    /// The answerer's data directory.
    pub store: StoreInfo,
    /// As in [`PeerHello`].
    pub vote_hold_ms: u32,
}

/// A Raft message and the group it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMessage {
    /// The shard.
    pub group: u32,
    /// Raft id of the sending replica.
    pub from: u64,
    /// Raft id of the receiving replica; of [`GroupBody::Join`] and [`GroupBody::Invite`] the receiving node, which
    /// need not have one.
    pub to: u64,
    /// The sender's term, or the term it asks for (pre-vote).
    pub term: u64,
    /// What it says.
    pub body: GroupBody,
}

/// Body of a [`GroupMessage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupBody {
    /// Would you vote for me? (thesis §9.6)
    PreVote {
        /// Index of the candidate's last entry.
        last_index: u64,
        /// Its term.
        last_term: u64,
    },
    /// Answer to a pre-vote.
    PreVoteResponse {
        /// Whether it would.
        granted: bool,
    },
    /// Vote for me (thesis §3.4).
    Vote {
        /// Index of the candidate's last entry.
        last_index: u64,
        /// Its term.
        last_term: u64,
        /// Asked for by the present leader: leader stickiness does not apply (thesis §4.2.3).
        transfer: bool,
    },
    /// Answer to a vote request.
    VoteResponse {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Entries to append (thesis §3.5).
    Append {
        /// Index of the entry before `entries`.
        prev_index: u64,
        /// Its term.
        prev_term: u64,
        /// Contiguous entries; may be empty.
        entries: Vec<PeerEntry>,
        /// The leader's commit index.
        commit: u64,
        /// The leader's round, echoed back.
        round: u64,
    },
    /// Answer to an append.
    AppendResponse {
        /// Whether the entries fit.
        result: AppendResult,
        /// The round of the append.
        round: u64,
    },
    /// The leader lives.
    Heartbeat {
        /// Commit index, no further than the follower is known to match.
        commit: u64,
        /// The leader's round, echoed back.
        round: u64,
    },
    /// Answer to a heartbeat.
    HeartbeatResponse {
        /// The round of the heartbeat.
        round: u64,
    },
    /// A follower asks for a read index (thesis §6.4).
    ReadIndex {
        /// Names the read at the follower.
        context: u64,
    },
    /// Answer to a read-index request.
    ReadIndexResponse {
        /// Names the read at the follower.
        context: u64,
        /// Index to wait for; `None`: the leader cannot tell, ask again.
        index: Option<u64>,
    },
    /// Start an election now (thesis §3.10).
    TimeoutNow,
    /// From a fresh replica to every node of the shard: take me in.
    Join,
    /// From a leader to a node without a replica of the shard: make a fresh one, which is to join.
    Invite,
    /// The replica addressed is no member of the group, and never will be again.
    Gone {
        /// The sender's last entry whose effect on the membership it knows: as of this one the addressee is no member.
        index: u64,
    },
    /// How groups stand, from their leaders' core; for the first core of every node, as of the meta shard.
    Reports(Vec<ShardReport>),
    /// The sender has the cluster map of this epoch: who has an older one asks by telling its own, who has a newer one
    /// sends what is new, or all of it.
    MapEpoch {
        /// The epoch.
        epoch: u64,
        /// Whether the sender takes [`GroupBody::MapChanges`] for an answer.
        takes_changes: bool,
    },
    /// Changes of the cluster map that make the next epochs, in order; at most [`MAP_CHANGES_MAX`].
    MapChanges(Vec<MapChange>),
    /// The sender's cluster map: see [`crate::map::decode_map`].
    Map {
        /// The map, encoded.
        map: Bytes,
    },
    /// The group has nothing to do: stop the election timer for as long as the leader's node is heard from.
    Sleep {
        /// The leader's commit index, which the follower holds.
        commit: u64,
    },
}

/// What a leader tells of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// The shard.
    pub shard: u32,
    /// The term in which the sender leads.
    pub term: u64,
    /// Index up to which the sender has applied changes to the members: of two reports of a term the higher is newer.
    pub index: u64,
    /// The node that leads.
    pub leader: u64,
    /// The nodes of the voters, of both configurations while the group changes.
    pub voters: Vec<u64>,
    /// The nodes of the learners.
    pub learners: Vec<u64>,
    /// Whether the group is between two configurations.
    pub joint: bool,
    /// The slots it serves; `None` for the meta shard.
    pub slots: Option<SlotRange>,
}

/// A change of the cluster map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapChange {
    /// The digest of the map that the change is made to: who has another map must not apply it.
    pub digest: u64,
    /// The change, encoded.
    pub change: Bytes,
}

/// Outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// The log matches the leader's up to here, on disk.
    Accepted {
        /// That index.
        match_index: u64,
    },
    /// The entry before the appended ones does not match.
    Rejected {
        /// The `prev_index` refused.
        rejected_index: u64,
        /// Where the logs may agree at the latest.
        hint_index: u64,
        /// Term of the follower's entry there.
        hint_term: u64,
    },
}

/// One log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// Term it was proposed in.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// Kind code of the consensus core.
    pub kind: u8,
    /// Its data.
    pub data: Bytes,
}

#[cfg(test)]
mod tests;
