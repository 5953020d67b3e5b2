//! One node's copy of one shard: its Raft state, the requests that wait on it, and its place in the apply lane.
//!
//! A replica is a function of (state, event): it holds no clock and does no I/O. The core feeds it and carries out
//! what its [`Ready`](raft::Ready) asks for.
//!
//! Invariants:
//! - a waiter belongs to an entry this replica proposed in the term it still leads; when the leadership ends, every
//!   waiter is answered "outcome unknown" in the same turn;
//! - entries enter the apply lane in index order, each once, and only when committed and flushed here;
//! - a linearizable read is served only when `applied` has reached the read index that Raft gave it.

use std::collections::VecDeque;
use std::sync::Arc;

use net::protocol::Mutation;
use net::types::RequestId;
use raft::{ConfState, Entry, Index, LogStorage, Nanos, NodeId, RawNode, Term};
use wal::StreamId;

use crate::core::{Effect, Hold, Incoming, Origin, Proposal, ReceivedSnapshot, TakenSnapshot};
use crate::machine::{Domain, Slots};
use crate::replica_id;
use crate::store::StorageEngine;

mod log;
mod program;
mod propose;
mod read;

pub use log::WalLog;
pub(crate) use propose::{Admit, Change, compaction_index, program_bytes};
pub(crate) use read::{Budget, Clock, Query, ReadRequest};
pub use read::{ReadDone, ReadTask};

/// A replica of this process: the incarnation tells a re-created replica from its predecessor, so that a late
/// completion never reaches a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReplicaId {
    /// The shard; 0 is the meta shard.
    pub shard: u32,
    /// Counts the replicas this process has created.
    pub incarnation: u64,
}

/// What is told of a key that went, or is about to go, to another shard of which the map does not tell yet.
pub(crate) const SPLITTING: &str = "the shard is being split; try again";

/// A write that waits for its entry.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub index: Index,
    pub origin: Origin,
    pub request: RequestId,
    pub shape: Shape,
    pub deadline: Nanos,
}

/// The mutations of a write, as far as an answer that does not wait for apply needs to know them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// So many puts, whose outcome is known beforehand.
    Puts(usize),
    /// So many mutations, some of which depend on the state.
    Mixed(usize),
    /// A program: what it answers is known when it is applied.
    Program,
}

impl Shape {
    fn of(change: &Change<'_>) -> Shape {
        let Change::Mutations { mutations, .. } = change else { return Shape::Program };
        if mutations.iter().all(|mutation| matches!(mutation, Mutation::Put { .. })) {
            Shape::Puts(mutations.len())
        } else {
            Shape::Mixed(mutations.len())
        }
    }
}

/// An entry that this replica proposed.
#[derive(Debug)]
struct Proposed {
    index: Index,
    bytes: u64,
    at: Nanos,
}

/// Entries that were handed to the apply lane or wait for it.
#[derive(Debug, Default)]
pub(crate) struct ApplyQueue {
    pub entries: VecDeque<Entry>,
    pub bytes: u64,
    /// Since when the first of `entries` waits.
    pub since: Nanos,
    /// Whether a task with entries of this replica is under way.
    pub busy: bool,
}

impl ApplyQueue {
    /// Whether all that was committed is applied.
    pub fn is_drained(&self) -> bool {
        self.entries.is_empty() && !self.busy
    }
}

/// One node's copy of one shard.
pub(crate) struct Replica {
    pub id: ReplicaId,
    /// Its name in the group; never used again.
    pub raft_id: u64,
    /// Its stream of the core's log.
    pub stream: StreamId,
    pub raft: RawNode<WalLog>,
    pub engine: Arc<dyn StorageEngine>,
    /// First and last slot of the shard, `None` for the meta shard: as its state machine has them on record, else as the
    /// map had them when the replica began.
    pub slots: Option<Slots>,
    /// Whether its state machine still holds what went to another shard.
    pub untrimmed: bool,
    /// Since when the map tells of that other shard, as far as this leader knows.
    pub listed_since: Option<Nanos>,
    /// The members of the group, as of `conf_index`.
    pub conf_state: ConfState,
    /// The last entry whose effect on the membership is known here.
    pub conf_index: Index,
    /// The voter that should lead the shard when all are well.
    pub preferred_leader: Option<NodeId>,
    /// Whether it gets ticks.
    pub is_awake: bool,
    /// When the group last had something to do.
    pub active_at: Nanos,
    /// When to ask to be taken in, unless a member.
    pub joins_at: Nanos,
    /// Since when leaders disown this replica, and none has fed it.
    pub gone_since: Option<Nanos>,
    /// Nodes where an operator wants a replica, and how long that is pursued.
    pub invited: Vec<(u64, Nanos)>,
    /// When to invite nodes again.
    pub invites_at: Nanos,
    /// What learners must hold to count as caught up: the end of the log a round ago.
    pub catch_up_target: Option<Index>,
    /// Members not heard of, and since when.
    pub silent: Vec<(NodeId, Nanos)>,
    /// A snapshot that was received.
    pub incoming: Option<Incoming>,
    pub apply: ApplyQueue,
    /// Committed entries that cut the shard and are not applied yet, oldest first.
    pub holds: Vec<Hold>,
    /// The entry by which this replica, as leader, last wanted to cut the shard.
    pub split: Option<Proposal>,
    /// Until when it stands for election again and again, while it hears of no leader.
    pub stands_until: Nanos,
    pub applied_durable: Index,
    /// Up to where the log has been dropped, or was asked to be.
    pub compacted: Index,
    /// Whether a durability query is under way.
    pub durable_query: bool,
    /// When to ask again, the pause before that, and what was applied when it was last asked.
    pub durable_due: Nanos,
    pub query_pause: Nanos,
    pub queried_at: Index,
    /// Whether a snapshot is being taken.
    pub snapshot_query: bool,
    /// The newest snapshot taken by this process.
    pub newest_snapshot: Option<TakenSnapshot>,
    /// Up to where all replicas hold the log, as the log itself says.
    pub compaction_agreed: Index,
    /// Up to where this leader has proposed to compact.
    pub compaction_asked: Index,
    /// Applied index of the last checkpoint, and when it was taken.
    pub checkpoint: (Index, Nanos),
    /// Bytes applied since then.
    pub bytes_since_checkpoint: u64,
    /// The term this replica leads, as its waiters know it.
    pub led_term: Option<Term>,
    /// The end of the log when that leadership began: what lies before may hold what this leader knows of only once it
    /// is applied.
    log_at_election: Index,
    on_flush: VecDeque<Waiter>,
    on_commit: VecDeque<Waiter>,
    on_apply: VecDeque<Waiter>,
    /// Each entry proposed here that is not applied yet.
    proposed: VecDeque<Proposed>,
    /// How many of them, from the front, are known committed.
    proposed_committed: usize,
    reads: read::Reads,
    freshness: read::Freshness,
    /// The latest time this replica knows of: stamped by itself or by an entry it applied. What has expired by it stays
    /// expired, whichever node answers.
    pub time_ms: u64,
    /// When something that has expired may next be removed, as of the last entry applied here.
    pub due_ms: u64,
    /// The last entry by which this leader has had that done, and its term.
    removal_asked: (Term, Index),
}

impl Replica {
    pub fn new(
        id: ReplicaId,
        stream: StreamId,
        raft: RawNode<WalLog>,
        engine: Arc<dyn StorageEngine>,
        slots: Option<Slots>,
        applied_durable: Index,
    ) -> Replica {
        let base = Index(raft.storage().first_index().0 - 1);
        Replica {
            id,
            raft_id: raft.id().0,
            stream,
            conf_state: raft.conf_state(),
            conf_index: applied_durable,
            raft,
            engine,
            slots,
            untrimmed: false,
            listed_since: None,
            preferred_leader: None,
            is_awake: false,
            active_at: Nanos::ZERO,
            joins_at: Nanos::ZERO,
            gone_since: None,
            invited: Vec::new(),
            invites_at: Nanos::ZERO,
            catch_up_target: None,
            silent: Vec::new(),
            incoming: None,
            apply: ApplyQueue::default(),
            holds: Vec::new(),
            split: None,
            stands_until: Nanos::ZERO,
            applied_durable,
            compacted: base,
            durable_due: Nanos::ZERO,
            query_pause: Nanos::ZERO,
            queried_at: Index(0),
            newest_snapshot: None,
            durable_query: false,
            snapshot_query: false,
            compaction_agreed: base,
            compaction_asked: Index(0),
            checkpoint: (Index(0), Nanos(0)),
            bytes_since_checkpoint: 0,
            led_term: None,
            log_at_election: Index::ZERO,
            on_flush: VecDeque::new(),
            on_commit: VecDeque::new(),
            on_apply: VecDeque::new(),
            proposed: VecDeque::new(),
            proposed_committed: 0,
            reads: read::Reads::default(),
            freshness: read::Freshness::default(),
            time_ms: 0,
            due_ms: u64::MAX,
            removal_asked: (Term(0), Index(0)),
        }
    }

    /// Entries that Raft says are committed and flushed: they wait for the apply lane.
    pub fn queue_apply(&mut self, entries: Vec<Entry>, now: Nanos) -> u64 {
        if self.apply.entries.is_empty() {
            self.apply.since = now;
        }
        let bytes: u64 = entries.iter().map(entry_bytes).sum();
        self.apply.bytes += bytes;
        self.apply.entries.extend(entries);
        bytes
    }

    /// Takes entries for one task of the apply lane, at least one if there is any and at most about `bytes_max`.
    pub fn take_apply(&mut self, bytes_max: u64, now: Nanos) -> Vec<Entry> {
        let mut taken = Vec::with_capacity(self.apply.entries.len().min(256));
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(entry) = self.apply.entries.front() else { break };
            // One that cuts the shard goes by itself, once there is room for the new shard.
            let hold = self.holds.iter().find(|hold| hold.index == entry.index);
            if hold.is_some_and(|hold| hold.make.is_none() || !taken.is_empty()) {
                break;
            }
            let is_alone = hold.is_some();
            let entry = self.apply.entries.pop_front().expect("just seen");
            bytes += entry_bytes(&entry);
            taken.push(entry);
            if is_alone {
                break;
            }
        }
        self.apply.busy = !taken.is_empty();
        self.apply.since = now;
        taken
    }

    /// All members: voters, those of a configuration being left, learners. A voter of both halves comes twice.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        let state = &self.conf_state;
        state.voters.iter().chain(&state.voters_outgoing).chain(&state.learners).copied()
    }

    /// The nodes of the members, each once.
    pub fn member_nodes(&self) -> Vec<u64> {
        let mut nodes: Vec<u64> = self.members().map(|id| replica_id::node_of(id.0)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether this replica belongs to its group, as far as it knows.
    pub fn is_member(&self) -> bool {
        self.members().any(|id| id.0 == self.raft_id)
    }

    /// Whether it votes in its group, as far as it knows.
    pub fn is_voter(&self) -> bool {
        let mut voters = self.conf_state.voters.iter().chain(&self.conf_state.voters_outgoing);
        voters.any(|id| id.0 == self.raft_id)
    }

    /// The state machine has these slots on record, if any.
    pub fn follow_domain(&mut self, domain: Option<Domain>) {
        if let Some(domain) = domain {
            self.slots = Some(domain.slots);
            self.untrimmed = !domain.is_trimmed;
        }
    }

    /// Whether this leader has applied all that its log held when it was elected.
    pub fn knows_its_log(&self) -> bool {
        self.led_term == Some(self.raft.term()) && self.raft.applied() >= self.log_at_election
    }

    /// Whether nothing here waits for time to pass or for work to end.
    pub fn is_quiet(&self) -> bool {
        let no_writes = self.on_flush.is_empty() && self.on_commit.is_empty() && self.on_apply.is_empty();
        no_writes && self.has_no_reads() && self.apply.is_drained() && self.incoming.is_none()
    }

    /// A snapshot took the place of the state machine's data: every cursor of what came before moves to it.
    pub fn follow_snapshot(&mut self, installed: crate::core::Installed, now: Nanos) {
        let index = installed.applied;
        assert!(self.apply.is_drained(), "entries are applied over a snapshot");
        self.applied_durable = index;
        self.compacted = index;
        self.conf_index = index;
        self.compaction_agreed = self.compaction_agreed.max(index);
        self.compaction_asked = self.compaction_asked.max(index);
        self.checkpoint = (index, now);
        self.bytes_since_checkpoint = 0;
        self.time_ms = self.time_ms.max(installed.time_ms);
        self.follow_domain(installed.domain);
        self.gone_since = None;
    }

    /// Whether a snapshot is taking the place of its state.
    pub fn is_being_replaced(&self) -> bool {
        matches!(self.incoming, Some(Incoming::Installing(_)))
    }

    /// Answers everyone who waits: the replica goes. Returns the bytes no longer in flight.
    pub fn abandon(&mut self, epoch: u64, effects: &mut Vec<Effect>) -> u64 {
        self.refuse_reads(epoch, effects);
        self.abandon_waiters(effects)
    }

    /// Forgets what waits to be applied; what a task has taken comes back by itself. Returns its bytes.
    pub fn drop_queued(&mut self) -> u64 {
        self.apply.entries.drain(..).map(|entry| entry_bytes(&entry)).sum()
    }

    /// The snapshot that waits to be installed. One that is being installed is gone with the state machine.
    pub fn take_waiting_snapshot(&mut self) -> Option<ReceivedSnapshot> {
        self.incoming.take_if(|incoming| !matches!(incoming, Incoming::Installing(_))).map(Incoming::snapshot)
    }

    /// Whether the outcome of the entry must come back from the state machine.
    pub fn wants_outcome(&self, index: Index) -> bool {
        self.on_apply.binary_search_by_key(&index, |waiter| waiter.index).is_ok()
    }
}

/// What an entry counts for in byte-bounded queues: its payload and its bookkeeping.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    const OVERHEAD: u64 = 64;
    u64::try_from(entry.data.len()).expect("an entry fits the address space") + OVERHEAD
}
