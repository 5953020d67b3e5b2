//! One small error per operation; each variant says what the caller should do.

use thiserror::Error;

use crate::types::{Index, NodeId, Term};

/// Why a node was not created. The configuration or the recovered state must be mended first.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConfigError {
    /// Give the node an identity.
    #[error("node id 0 is reserved")]
    ZeroNodeId,
    /// Raise the named setting.
    #[error("{field} must be positive")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// Raise `election_ticks`, or lower `heartbeat_ticks`: one lost heartbeat must not start an election.
    #[error("election_ticks {election_ticks} must be at least twice heartbeat_ticks {heartbeat_ticks}")]
    ElectionTooShort {
        /// As configured.
        election_ticks: u32,
        /// As configured.
        heartbeat_ticks: u32,
    },
    /// Lower `election_ticks`, or use longer ticks.
    #[error("election_ticks {election_ticks} is too large")]
    ElectionTooLong {
        /// As configured.
        election_ticks: u32,
    },
    /// Turn `check_quorum` on: without it followers do not honour a lease.
    #[error("lease needs check_quorum")]
    LeaseWithoutCheckQuorum,
    /// Lower the drift below one million, or turn `lease` off.
    #[error("clock_drift_max_ppm {clock_drift_max_ppm} leaves nothing of the lease")]
    DriftTooLarge {
        /// As configured.
        clock_drift_max_ppm: u32,
    },
    /// Mend the membership: a node is listed twice, or is both voter and learner.
    #[error("node {node} is listed more than once in the membership")]
    DuplicateMember {
        /// Who.
        node: NodeId,
    },
    /// The log has lost entries: rebuild the replica from its peers.
    #[error("the log ends at {last}, before {cursor} {position}")]
    LogTooShort {
        /// The last entry of the log.
        last: Index,
        /// Which cursor lies past it: `commit` or `applied`.
        cursor: &'static str,
        /// Where that cursor is.
        position: Index,
    },
    /// The state machine is older than the log: rebuild the replica from its peers.
    #[error("the log begins at {first}, and applied is {applied}: entries between are gone")]
    LogStartsTooLate {
        /// The first entry of the log.
        first: Index,
        /// The last applied entry.
        applied: Index,
    },
    /// The log and the hard state do not belong together: rebuild the replica from its peers.
    #[error("the last entry has term {last_term}, past the hard state's {term}")]
    TermBehindLog {
        /// The hard state's term.
        term: Term,
        /// The last entry's term.
        last_term: Term,
    },
    /// The log cannot be read: mend the disk, or rebuild the replica from its peers.
    #[error("reading the log at {index}: {error}")]
    Log {
        /// Where.
        index: Index,
        /// What the storage said.
        error: LogReadError,
    },
}

/// Why the storage did not hand out entries or a term.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LogReadError {
    /// The entries are on disk only. Raft asks for them through [`Ready::fetches`](crate::Ready::fetches).
    #[error("the entries must be fetched from disk")]
    Pending,
    /// The entries have been purged; a follower that needs them needs a snapshot.
    #[error("the entries have been compacted")]
    Compacted,
    /// The entries cannot be had now (past the end, or the read failed). Raft tries again at the next tick.
    #[error("the entries are unavailable")]
    Unavailable,
}

/// Why a proposal was not taken. Nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProposeError {
    /// Send it to the leader, if one is known.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Too much waits to be committed: try again later.
    #[error("too many uncommitted bytes")]
    Busy,
    /// The leadership is being handed over: try again shortly.
    #[error("a leader transfer to node {to} is under way")]
    Transferring {
        /// The next leader.
        to: NodeId,
    },
}

/// Why a change of the membership does not fit a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ConfChangeError {
    /// Its bytes are not those of a change that this version knows.
    #[error("not a membership change this version knows")]
    Malformed,
    /// Choose a node.
    #[error("node id 0 is reserved")]
    ZeroNodeId,
    /// Name each node once.
    #[error("node {node} is named twice in one change")]
    Repeated {
        /// Who.
        node: NodeId,
    },
    /// Remove the node instead: a voter is not made a learner.
    #[error("node {node} is a voter and cannot be made a learner")]
    IsVoter {
        /// Who.
        node: NodeId,
    },
    /// Keep at least one voter.
    #[error("the change would leave no voter")]
    NoVoters,
    /// Wait until the joint configuration is left.
    #[error("the group is in a joint configuration")]
    Joint,
    /// There is no joint configuration to leave.
    #[error("the group is in no joint configuration")]
    NotJoint,
}

/// Why a change of the membership was not proposed. Nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProposeConfError {
    /// Send it to the leader, if one is known.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The leadership is being handed over: try again shortly.
    #[error("a leader transfer to node {to} is under way")]
    Transferring {
        /// The next leader.
        to: NodeId,
    },
    /// One change at a time, and a new leader first applies what may be one: try again once `index` is applied.
    #[error("a membership change up to entry {index} may not be applied yet")]
    InFlight {
        /// What must be applied first.
        index: Index,
    },
    /// The configuration would stay as it is: nothing to do.
    #[error("the change would change nothing")]
    NoEffect,
    /// Too few voters of the new configuration have been heard of lately: it could commit nothing. Mend or wait for them,
    /// or add the new ones as learners first.
    #[error("the reachable nodes would be no quorum of the new configuration")]
    NoQuorum,
    /// Mend the change.
    #[error(transparent)]
    Invalid(#[from] ConfChangeError),
}

/// Why a read was not started. Its context will not be heard of again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// No leader is known: try again after an election.
    #[error("no leader is known")]
    NoLeader,
    /// Too many reads wait: try again later.
    #[error("too many pending reads")]
    Busy,
}

/// Why a leader transfer was not started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum TransferError {
    /// Ask the leader, if one is known.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The node leads already: nothing to do.
    #[error("this node is the leader already")]
    AlreadyLeader,
    /// Choose a voter.
    #[error("node {node} is not a voter of this group")]
    NotVoter {
        /// The node that was asked for.
        node: NodeId,
    },
    /// Wait for the transfer under way, at most an election timeout.
    #[error("a leader transfer to node {to} is under way")]
    InProgress {
        /// The node it goes to.
        to: NodeId,
    },
}

/// Why a message was not processed. The node's state is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum StepError {
    /// Mend the routing: the message is for another node, or claims to be from this one.
    #[error("a message from {from} to {to} reached this node")]
    Misrouted {
        /// The sender.
        from: NodeId,
        /// The addressee.
        to: NodeId,
    },
    /// Drop the message and suspect the sender: it breaks the protocol.
    #[error("malformed message from node {from}: {reason}")]
    Malformed {
        /// The sender.
        from: NodeId,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Stop this replica and rebuild it from its peers: it has lost entries that it had acknowledged.
    #[error("node {from} counts on entry {commit}, and the log ends at {last}")]
    LostEntries {
        /// The leader.
        from: NodeId,
        /// An entry this node had acknowledged.
        commit: Index,
        /// Where its log ends.
        last: Index,
    },
}

/// A byte that names no kind of entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("unknown entry kind {0}")]
pub struct UnknownEntryKind(pub u8);
