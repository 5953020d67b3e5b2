//! What crosses the wire between two members of a group, and nothing else: local inputs are methods of
//! [`RawNode`](crate::RawNode).

use crate::entry::{Entry, SnapshotMeta};
use crate::types::{Index, NodeId, Round, Term};

/// One message. May be lost, duplicated and reordered at will.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender.
    pub from: NodeId,
    /// The addressee.
    pub to: NodeId,
    /// The sender's term; for [`MessageBody::PreVote`] and a grant of it, the term that the candidate would enter.
    pub term: Term,
    /// The rest.
    pub body: MessageBody,
}

/// The kinds of message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MessageBody {
    /// "Would you vote for me?", asked before a term is spent on it (thesis §9.6).
    PreVote {
        /// The candidate's last entry.
        last_index: Index,
        /// That entry's term.
        last_term: Term,
    },
    /// The answer to a pre-vote.
    PreVoteResponse {
        /// Whether the vote would be given.
        granted: bool,
    },
    /// RequestVote (thesis §3.4).
    Vote {
        /// The candidate's last entry.
        last_index: Index,
        /// That entry's term.
        last_term: Term,
        /// The leader itself asked for this election (thesis §3.10), so a live leader is no reason to refuse.
        transfer: bool,
    },
    /// The answer to a vote.
    VoteResponse {
        /// Whether the vote is given.
        granted: bool,
    },
    /// AppendEntries (thesis §3.5). Without entries it asks only whether `prev_index` matches.
    Append {
        /// The entry before the first of `entries`.
        prev_index: Index,
        /// Its term.
        prev_term: Term,
        /// Contiguous, from `prev_index + 1`.
        entries: Vec<Entry>,
        /// The leader's commit index; may lie past what this message brings.
        commit: Index,
        /// Echoed in the response.
        round: Round,
    },
    /// The answer to an append, sent when what it accepts is on disk.
    AppendResponse {
        /// Whether the logs matched.
        result: AppendResult,
        /// The round of the append; [`Round::NONE`] if it echoes none.
        round: Round,
    },
    /// A sign of life without entries. Unlike an append it never waits for the disk of the follower.
    Heartbeat {
        /// At most what the leader knows the follower to hold.
        commit: Index,
        /// Echoed in the response; [`Round::NONE`] asks for no response.
        round: Round,
    },
    /// The echo of a heartbeat.
    HeartbeatResponse {
        /// The round of the heartbeat.
        round: Round,
    },
    /// A follower asks the leader for a read index on behalf of its own readers (thesis §6.4).
    ReadIndex {
        /// The follower's own number for this batch of reads.
        context: u64,
    },
    /// The answer to a forwarded read index.
    ReadIndexResponse {
        /// The number of the request.
        context: u64,
        /// Once the follower has applied this much it may serve the batch; `None`: ask again elsewhere.
        index: Option<Index>,
    },
    /// The leader asks the addressee to start an election at once (thesis §3.10).
    TimeoutNow,
    /// The state of the group at one entry, in place of the log up to there (thesis §5.3). The node that receives it steps
    /// this once all of the data is on its own disk; sender and term are those of when the sending began.
    Snapshot {
        /// Of which entry, and with which configuration.
        meta: SnapshotMeta,
    },
    /// Nothing has happened for long and the addressee holds everything: the leader falls silent until something does,
    /// and the follower need not worry about it.
    Sleep {
        /// The leader's commit index and the end of its log.
        commit: Index,
    },
}

/// The outcome of an append at the follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendResult {
    /// The follower durably holds the leader's log up to here.
    Accepted {
        /// The last entry known to match.
        match_index: Index,
    },
    /// The follower's log does not hold the entry before the ones sent.
    Rejected {
        /// The `prev_index` that was refused.
        rejected_index: Index,
        /// The last place where the two logs can still agree, as far as the follower can tell.
        hint_index: Index,
        /// The follower's term there.
        hint_term: Term,
    },
}
