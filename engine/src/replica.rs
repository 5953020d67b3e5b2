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
use raft::{Entry, Index, Nanos, RawNode, Term};

use crate::core::Origin;
use crate::store::StorageEngine;

mod log;
mod propose;
mod read;

pub use log::WalLog;
pub(crate) use propose::{Admit, compaction_index};
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
}

impl Shape {
    fn of(mutations: &[Mutation]) -> Shape {
        if mutations.iter().all(|mutation| matches!(mutation, Mutation::Put { .. })) {
            Shape::Puts(mutations.len())
        } else {
            Shape::Mixed(mutations.len())
        }
    }
}

/// Entries that were handed to the apply lane or wait for it.
#[derive(Debug, Default)]
pub(crate) struct ApplyQueue {
    pub entries: VecDeque<Entry>,
    pub bytes: u64,
    /// Whether a task with entries of this replica is under way.
    pub busy: bool,
}

/// One node's copy of one shard.
pub(crate) struct Replica {
    pub id: ReplicaId,
    pub raft: RawNode<WalLog>,
    pub engine: Arc<dyn StorageEngine>,
    /// First and last slot of the shard, `None` for the meta shard.
    pub slots: Option<(u16, u16)>,
    /// The node that should lead the shard when all are well.
    pub preferred_leader: u64,
    pub apply: ApplyQueue,
    pub applied_durable: Index,
    /// Up to where the log has been dropped, or was asked to be.
    pub compacted: Index,
    /// Whether a durability query is under way.
    pub durable_query: bool,
    /// Whether a snapshot is being taken.
    pub snapshot_query: bool,
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
    on_flush: VecDeque<Waiter>,
    on_commit: VecDeque<Waiter>,
    on_apply: VecDeque<Waiter>,
    /// Bytes of each proposed entry that is not applied yet.
    proposed: VecDeque<(Index, u64)>,
    reads: read::Reads,
    freshness: read::Freshness,
    /// The latest time this replica knows of: stamped by itself or by an entry it applied. What has expired by it stays
    /// expired, whichever node answers.
    pub time_ms: u64,
}

impl Replica {
    pub fn new(
        id: ReplicaId,
        raft: RawNode<WalLog>,
        engine: Arc<dyn StorageEngine>,
        slots: Option<(u16, u16)>,
        preferred_leader: u64,
        applied_durable: Index,
    ) -> Replica {
        Replica {
            id,
            raft,
            engine,
            slots,
            preferred_leader,
            apply: ApplyQueue::default(),
            applied_durable,
            compacted: Index(0),
            durable_query: false,
            snapshot_query: false,
            compaction_agreed: Index(0),
            compaction_asked: Index(0),
            checkpoint: (Index(0), Nanos(0)),
            bytes_since_checkpoint: 0,
            led_term: None,
            on_flush: VecDeque::new(),
            on_commit: VecDeque::new(),
            on_apply: VecDeque::new(),
            proposed: VecDeque::new(),
            reads: read::Reads::default(),
            freshness: read::Freshness::default(),
            time_ms: 0,
        }
    }

    /// Entries that Raft says are committed and flushed: they wait for the apply lane.
    pub fn queue_apply(&mut self, entries: Vec<Entry>) -> u64 {
        let bytes: u64 = entries.iter().map(entry_bytes).sum();
        self.apply.bytes += bytes;
        self.apply.entries.extend(entries);
        bytes
    }

    /// Takes entries for one task of the apply lane, at least one if there is any and at most about `bytes_max`.
    pub fn take_apply(&mut self, bytes_max: u64) -> Vec<Entry> {
        let mut taken = Vec::with_capacity(self.apply.entries.len().min(256));
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(entry) = self.apply.entries.pop_front() else { break };
            bytes += entry_bytes(&entry);
            taken.push(entry);
        }
        self.apply.busy = !taken.is_empty();
        taken
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
