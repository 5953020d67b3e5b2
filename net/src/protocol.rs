//! The client protocol of the binary door, as plain types.
//!
//! One connection: the client sends [`ClientHello`], the server answers [`HelloReply`] (with the cluster
//! map); then requests and replies flow both ways, paired by [`RequestId`], replies in any order.
//! A receiver that cannot go on sends [`ErrorReport`] and closes.
//!
//! Keys and values are slices of the frame's payload. [`Encoder`] writes frames, `decode_*` read them;
//! both are pure, and the decoders verify everything they are given.

mod admin;
mod checks;
mod cluster;
mod decode;
mod encode;
mod program;

pub use crate::frame::FrameTooLong;
pub use admin::{
    AdminAccepted, AdminOp, DESCRIBED_MEMBERS_MAX, MemberDescription, MemberProgress, MemberRole,
    ShardDescription, SnapshotDescription,
};
pub use checks::DecodeError;
pub(crate) use checks::{Payload, expect_kind, verified};
pub use cluster::{ClusterAccount, ClusterOp, PlannedMove, StuckShard};
pub use decode::{
    decode_client_hello, decode_error, decode_hello_reply, decode_map, decode_reply, decode_request,
};
pub(crate) use encode::{Builder, piece_len};
pub use encode::{Encoder, encode_map};
pub use program::{Access, PROGRAM_ARGS_MAX, Program, ProgramCommand, Watched};

use crate::map::ClusterMap;
use crate::types::{RequestId, Value};
use bytes::Bytes;

/// Version of the client protocol this build speaks. Peers of another version are refused at hello.
pub const PROTOCOL_VERSION: u16 = 1;

/// First frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// Protocol version the client speaks.
    pub version: u16,
    /// The core the connection should be handed to; `None`: any.
    pub wants_core: Option<u32>,
}

/// The server's answer to [`ClientHello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// Protocol version of the connection.
    pub version: u16,
    /// Who answers.
    pub node: u64,
    /// The core that now owns the connection.
    pub core: u32,
    /// Longest key the server accepts, in bytes.
    pub key_bytes_max: u32,
    /// Longest value the server accepts, in bytes.
    pub value_bytes_max: u32,
    /// Longest frame the server accepts and sends, in bytes of its body; `None`: it does not say.
    pub frame_bytes_max: Option<u32>,
    /// The cluster as this node knows it.
    pub map: ClusterMap,
}

/// Makes a retried write safe: the state machine remembers the outcome of (client, sequence) and answers
/// a repeated one with it instead of executing it again.
///
/// **Contract for the server**: keep `acked_below` per client and refuse sequences below it with
/// [`Refusal::SessionExpired`]; a delayed duplicate of a forgotten write must never execute again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionStamp {
    /// Random identity of the client's session.
    pub client: u64,
    /// Position of the write in its session; a retry keeps it. Starts at 1.
    pub sequence: u64,
    /// All sequences below are answered: the server may forget their outcomes. Less than [`SESSION_WINDOW`] below
    /// `sequence`.
    pub acked_below: u64,
    /// Whether an earlier attempt may have been executed. A server may answer a first attempt of puts as soon as it is
    /// committed; the answer to a retry is what the first execution answered, so it waits for the state machine.
    pub retry: bool,
}

/// How many writes of one session may be unanswered: what a server remembers of it. A write beyond is refused; begin
/// another session for it.
pub const SESSION_WINDOW: u64 = 1024;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriteConsistency {
    /// A majority has it on disk.
    #[default]
    Strong,
    /// The leader has it on its own disk.
    Leader,
    /// The leader has it in its log in memory.
    Eventual,
}

/// Which replica serves a read, and what it must know first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadConsistency {
    /// The leader, by lease or ReadIndex.
    #[default]
    Linearizable,
    /// Any replica, by ReadIndex forwarded to the leader: linearizable too.
    Follower,
    /// Any replica, at once; the answer carries its [`Freshness`].
    Stale,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Echoed in the reply.
    pub id: RequestId,
    /// The shard the sender routed to. Ignored by [`Op::ClusterMap`] and [`Op::Status`].
    pub shard: u32,
    /// Epoch of the map the sender routed by.
    pub epoch: u64,
    /// The key space addressed; 0 is the default one.
    pub namespace: u8,
    /// What to do.
    pub op: Op,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The value of a key. Answer: [`Answer::Value`].
    Get {
        /// The key.
        key: Bytes,
        /// How fresh the answer must be.
        consistency: ReadConsistency,
    },
    /// Whether a key exists. Answer: [`Answer::Exists`].
    Exists {
        /// The key.
        key: Bytes,
        /// How fresh the answer must be.
        consistency: ReadConsistency,
    },
    /// Keys of the shard from `start` (inclusive) to `end` (exclusive), ordered by (slot, key).
    /// Answer: [`Answer::Scan`].
    Scan {
        /// First position: empty for the shard's beginning, or the continuation of an earlier reply.
        start: Bytes,
        /// Position to stop before; `None`: the shard's end.
        end: Option<Bytes>,
        /// Most items to return; the server may return fewer.
        limit: u32,
        /// How fresh the answer must be.
        consistency: ReadConsistency,
        /// Whether the values are to come back empty.
        keys_only: bool,
    },
    /// One mutation, or an atomic batch within one shard. Answer: [`Answer::Written`].
    Write {
        /// Deduplicates retries; `None`: the write may be executed once per time it is sent.
        session: Option<SessionStamp>,
        /// When to acknowledge.
        consistency: WriteConsistency,
        /// Executed in order, all or none; never empty.
        mutations: Vec<Mutation>,
    },
    /// The cluster map. Answer: [`Answer::ClusterMap`].
    ClusterMap,
    /// The node's status as JSON. Answer: [`Answer::Status`].
    Status,
    /// An operation on the shard's replicas.
    Admin(AdminOp),
    /// An operation on the whole cluster, for the meta shard's leader. Answer: [`Answer::Cluster`].
    Cluster(ClusterOp),
    /// Commands over keys of the shard, as one step. The namespace is that of each command, not the request's.
    /// Answer: [`Answer::Executed`].
    Execute {
        /// The commands.
        program: Program,
        /// Whether they may write; how fresh the answer must be, or when to acknowledge.
        consistency: Access,
    },
    /// How many keys a range of slots holds, within the shard. Answer: [`Answer::Counted`].
    Count {
        /// First slot.
        first_slot: u16,
        /// Last slot, included.
        last_slot: u16,
        /// How fresh the answer must be.
        consistency: ReadConsistency,
    },
}

impl Op {
    /// Whether executing it twice could differ from executing it once.
    #[must_use]
    pub fn is_write(&self) -> bool {
        match self {
            Op::Write { .. } => true,
            Op::Admin(op) => op.is_change(),
            Op::Cluster(op) => op.is_change(),
            Op::Execute { consistency, .. } => matches!(consistency, Access::Write(_)),
            _ => false,
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Store a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Milliseconds until the key expires, counted by the leader; `None`: never.
        ttl_ms: Option<u64>,
    },
    /// Remove a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Store or remove if the key is as expected.
    CompareAndSwap {
        /// The key.
        key: Bytes,
        /// What must hold.
        expected: Expected,
        /// The new value; `None` removes the key.
        new: Option<Bytes>,
    },
}

impl Mutation {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Mutation::Put { key, .. } | Mutation::Delete { key } | Mutation::CompareAndSwap { key, .. } => {
                key
            }
        }
    }
}

/// What a compare-and-swap requires of the present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The key does not exist.
    Absent,
    /// The key exists with this version.
    Version(u64),
    /// The key exists with this value.
    Value(Bytes),
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request it answers.
    pub id: RequestId,
    /// The answer, or why there is none.
    pub result: Result<Answer, Refusal>,
}

/// How old the state behind a [`ReadConsistency::Stale`] answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Log index the replica had applied.
    pub applied_index: u64,
    /// Milliseconds since the replica last knew itself up to date; `u64::MAX`: unknown.
    pub lag_ms: u64,
}

/// A successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Op::Get`].
    Value {
        /// The value, or that there is none.
        value: Option<Value>,
        /// Present on stale reads.
        freshness: Option<Freshness>,
    },
    /// To [`Op::Exists`].
    Exists {
        /// Whether the key exists.
        exists: bool,
        /// Present on stale reads.
        freshness: Option<Freshness>,
    },
    /// To [`Op::Scan`].
    Scan {
        /// Keys and values in (slot, key) order.
        items: Vec<ScanItem>,
        /// `start` of the next scan; `None`: nothing more in the range.
        next: Option<Bytes>,
        /// Present on stale reads.
        freshness: Option<Freshness>,
    },
    /// To [`Op::Write`].
    Written {
        /// Index of the log entry.
        index: u64,
        /// One per mutation, in order.
        outcomes: Vec<MutationOutcome>,
    },
    /// To [`Op::ClusterMap`].
    ClusterMap(ClusterMap),
    /// To [`Op::Status`]: a JSON document.
    Status(Bytes),
    /// To an [`Op::Cluster`].
    Cluster(Box<ClusterAccount>),
    /// To an [`AdminOp`] that changes something: it has begun.
    AdminAccepted(AdminAccepted),
    /// To [`AdminOp::Describe`].
    Shard(ShardDescription),
    /// To [`Op::Execute`].
    Executed {
        /// Index of the log entry; of a program that only read, of the last entry its replica had applied.
        index: u64,
        /// The commands' replies as RESP3 values, one after the other. `None`: a watched key has changed, nothing was
        /// done.
        replies: Option<Bytes>,
        /// Present on stale reads.
        freshness: Option<Freshness>,
    },
    /// To [`Op::Count`].
    Counted {
        /// Keys stored; those that have expired and are not removed yet count.
        count: u64,
    },
}

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanItem {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Value,
}

/// What a mutation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutationOutcome {
    /// The value is stored with this version.
    Put {
        /// Version of the value.
        version: u64,
    },
    /// The key is gone.
    Deleted {
        /// Whether it existed before.
        existed: bool,
    },
    /// The comparison held and the swap was made.
    Swapped {
        /// Version of the new value (of the removal, when the swap removed the key).
        version: u64,
    },
    /// The comparison failed; nothing changed.
    NotSwapped {
        /// Version found; `None`: the key does not exist.
        current: Option<u64>,
    },
    /// Another mutation of the same batch was not swapped, so nothing of the batch was applied.
    NotApplied,
    /// In the log, its effect not yet known: the answer to a delete or compare-and-swap asked with
    /// [`WriteConsistency::Leader`] or [`WriteConsistency::Eventual`].
    Accepted,
}

/// Which limit a request broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// A key, in bytes.
    Key,
    /// A value, in bytes.
    Value,
    /// The number of mutations of a batch.
    Batch,
    /// The whole request, in bytes.
    Request,
}

/// Why a request got no answer. [`Refusal::may_have_executed`] tells whether a write may have taken effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A queue is full. Not executed: retry after a pause.
    #[error("busy, retry after {retry_after_ms} ms")]
    Busy {
        /// Suggested pause.
        retry_after_ms: u32,
    },
    /// This replica does not lead the shard. Not executed: ask `leader`, or another replica when unknown.
    #[error("not the leader (leader: {leader:?}, epoch {epoch})")]
    NotLeader {
        /// The node that leads, as far as known.
        leader: Option<u64>,
        /// Epoch of this node's map.
        epoch: u64,
    },
    /// The key is not in that shard, or the shard is not on this node. Not executed: refresh the map.
    #[error("wrong shard (epoch {epoch})")]
    WrongShard {
        /// Epoch of this node's map.
        epoch: u64,
    },
    /// The shard cannot serve now (no leader, disk full). Not executed: retry later.
    #[error("unavailable: {why}")]
    Unavailable {
        /// For people.
        why: String,
    },
    /// The request makes no sense. Not executed: do not retry.
    #[error("invalid request: {why}")]
    Invalid {
        /// For people.
        why: String,
    },
    /// The present state of the shard does not allow it. Not executed: `why` says what would have to change.
    #[error("not possible: {why}")]
    Conflict {
        /// For people.
        why: String,
    },
    /// Over a limit. Not executed: do not retry.
    #[error("{what:?} is over the limit of {limit}")]
    TooLarge {
        /// Which limit.
        what: Oversize,
        /// Its value.
        limit: u64,
    },
    /// The session, or this sequence of it, is forgotten: this attempt was not executed, but an earlier
    /// attempt of the same stamp may have been.
    #[error("session expired")]
    SessionExpired,
    /// No outcome in time, or leadership was lost with the write in the log: it **may still execute**.
    #[error("timed out, outcome unknown")]
    Timeout,
    /// A failure inside the server; the write **may have been executed**.
    #[error("internal error: {why}")]
    Internal {
        /// For people.
        why: String,
    },
}

impl Refusal {
    /// Whether a write refused like this may have taken effect, or still may.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        matches!(self, Refusal::Timeout | Refusal::Internal { .. })
    }
}

/// What is wrong with a connection that is about to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The bytes received are not a valid frame.
    BadFrame,
    /// The frame is valid, its content is not, and there is no request to answer with a refusal.
    BadMessage,
    /// The protocol version is not spoken here.
    UnsupportedVersion,
    /// The peer belongs to another cluster.
    WrongCluster,
    /// Too many connections: come back later.
    TooManyConnections,
    /// The server is going away.
    ShuttingDown,
    /// A code this build does not know.
    Unknown(u16),
}

/// Sent before closing a connection, on either door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct ErrorReport {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

#[cfg(test)]
mod tests;
