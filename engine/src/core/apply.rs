//! The apply lane: committed entries go to the core's apply thread in tasks that hold the entries of many replicas,
//! at most two tasks under way. While they run, entries gather, so the batches grow with the load and each costs one
//! wake-up.

use std::collections::VecDeque;

use raft::mutation::{self, Mutation};
use raft::{Entry, EntryKind, Index, Nanos};

use super::{Core, Effect, ReplicaId, usize_of};
use crate::machine::{AppliedBatch, MachineEntry, Outcome, Times};
use crate::replica::{compaction_index, entry_bytes};
use crate::topology::Change;

/// Entries of one replica to apply.
#[derive(Debug)]
pub struct ApplyBatch {
    /// Whose.
    pub replica: ReplicaId,
    /// The entries, in index order; an empty payload changes nothing but the applied position.
    pub entries: Vec<MachineEntry>,
    bytes: u64,
    compact_to: Option<Index>,
}

impl ApplyBatch {
    /// The completion of this batch: what the state machine made of it, and its times.
    pub fn done(&self, result: AppliedBatch, times: Times) -> Applied {
        Applied {
            replica: self.replica,
            applied: Index(result.applied.index),
            times,
            outcomes: result.outcomes,
            changes: result.changes,
            bytes: self.bytes,
            compact_to: self.compact_to,
        }
    }
}

/// Entries of one replica were applied.
#[derive(Debug)]
pub struct Applied {
    replica: ReplicaId,
    applied: Index,
    times: Times,
    outcomes: Vec<(u64, Outcome)>,
    /// Changes of the cluster map.
    changes: Vec<Change>,
    bytes: u64,
    compact_to: Option<Index>,
}

/// A committed entry as the state machine takes it.
pub(crate) fn machine_entry(entry: Entry, want_outcome: bool) -> MachineEntry {
    let is_normal = entry.kind == EntryKind::Normal;
    let is_compaction = is_normal && compaction_index(&entry.data).is_some();
    MachineEntry {
        index: entry.index.0,
        term: entry.term.0,
        kind: entry.kind,
        want_outcome: is_normal && !is_compaction && want_outcome,
        payload: if is_compaction { bytes::Bytes::new() } else { entry.data },
    }
}

/// What is in the lane.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Bytes of entries that are committed but not applied, over all replicas.
    pub queued_bytes: u64,
    /// When each task under way was handed out, oldest first: they are done in order.
    begun: VecDeque<Nanos>,
    /// Where the next round of replicas starts, so that none is starved.
    next_shard: usize,
}

const TASKS_MAX: usize = 2;
const TASK_BYTES_MAX: u64 = 4 << 20;

impl Core {
    /// Gives the lane its next task if there is room and work.
    pub(super) fn feed_lane(&mut self) {
        // A turn of an idle core must not look at a thousand replicas.
        while self.lane.queued_bytes > 0 && self.lane.begun.len() < TASKS_MAX {
            let batches = self.collect_batches();
            if batches.is_empty() {
                return;
            }
            self.lane.begun.push_back(self.now);
            self.counters.apply_tasks += 1;
            self.effects.push(Effect::Apply(batches));
        }
    }

    fn collect_batches(&mut self) -> Vec<ApplyBatch> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        let shards = self.replicas.len();
        for offset in 0..shards {
            let shard = (self.lane.next_shard + offset) % shards;
            let Some(replica) = self.replicas[shard].as_mut() else { continue };
            // Entries of one replica are applied by one task at a time: in order.
            if replica.apply.busy || replica.apply.entries.is_empty() {
                continue;
            }
            if bytes >= TASK_BYTES_MAX {
                self.lane.next_shard = shard;
                break;
            }
            self.stages.queue.record(replica.apply.since, self.now);
            let entries = replica.take_apply(TASK_BYTES_MAX - bytes, self.now);
            let mut batch = ApplyBatch {
                replica: replica.id,
                entries: Vec::with_capacity(entries.len()),
                bytes: 0,
                compact_to: None,
            };
            for entry in entries {
                batch.bytes += entry_bytes(&entry);
                if entry.kind == EntryKind::Normal {
                    batch.compact_to = batch.compact_to.max(compaction_index(&entry.data));
                }
                let wanted = replica.wants_outcome(entry.index);
                batch.entries.push(machine_entry(entry, wanted));
            }
            if mutation::active(Mutation::ReorderApply) {
                batch.entries.reverse();
            }
            bytes += batch.bytes;
            batches.push(batch);
        }
        batches
    }

    /// A task is done.
    pub(super) fn on_applied(&mut self, done: Vec<Applied>) {
        let begun = self.lane.begun.pop_front().expect("a task was under way");
        self.stages.apply.record(begun, self.now);
        for applied in done {
            self.lane.queued_bytes -= applied.bytes;
            let Some(shard) = self.current(applied.replica) else { continue };
            let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
            replica.apply.bytes -= applied.bytes;
            replica.apply.busy = false;
            replica.bytes_since_checkpoint += applied.bytes;
            replica.raft.on_applied(applied.applied);
            replica.time_ms = replica.time_ms.max(applied.times.clock_ms);
            replica.due_ms = applied.times.due_ms;
            let freed = replica.answer_applied(applied.applied, applied.outcomes, &mut self.effects);
            self.inflight_bytes -= freed;
            if let Some(index) = applied.compact_to {
                replica.compaction_agreed = replica.compaction_agreed.max(index);
            }
            if !applied.changes.is_empty() {
                self.on_changes(&applied.changes);
            }
            self.touch(shard);
        }
    }
}
