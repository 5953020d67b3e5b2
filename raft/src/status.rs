//! What a node says of itself to operators and tests.

use crate::entry::ConfState;
use crate::types::{Index, NodeId, Round, Term};

/// What a node is in its term (thesis §3.3). A learner is always a follower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// A node at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Who it is.
    pub id: NodeId,
    /// Its role.
    pub role: Role,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// The newest entry it knows committed.
    pub committed: Index,
    /// The newest entry its state machine has applied.
    pub applied: Index,
    /// The end of the log on its own disk.
    pub flushed: Index,
    /// The end of its log.
    pub last_index: Index,
    /// Bytes it has proposed that are not committed; zero unless leader.
    pub uncommitted_bytes: u64,
    /// Whether it holds a lease for reads; false unless leader.
    pub lease: bool,
    /// Whether it sleeps until something happens.
    pub dormant: bool,
    /// The configuration, as of what was handed out to be applied.
    pub conf_state: ConfState,
    /// The entry of the snapshot being installed.
    pub installing: Option<Index>,
    /// To whom it is handing over.
    pub transferring_to: Option<NodeId>,
    /// Reads without an index yet.
    pub pending_reads: usize,
    /// The others as the leader sees them; empty unless leader.
    pub peers: Vec<PeerStatus>,
}

/// How a leader sends to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerState {
    /// One append at a time, to find where the logs agree.
    Probe,
    /// Appends are pipelined.
    Replicate,
    /// Nothing but heartbeats until it has a snapshot.
    Snapshot,
}

/// A follower as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Whether it has no vote.
    pub learner: bool,
    /// How it is sent to.
    pub state: PeerState,
    /// The last entry it is known to hold durably.
    pub match_index: Index,
    /// The next entry to send to it.
    pub next_index: Index,
    /// Appends under way to it.
    pub inflight_messages: usize,
    /// Bytes of entries under way to it.
    pub inflight_bytes: u64,
    /// The newest round it echoed.
    pub acked_round: Round,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
}
