//! The apply lane: committed entries go to the core's apply thread in tasks that hold the entries of many replicas,
//! at most two tasks under way. While they run, entries gather, so the batches grow with the load and each costs one
//! wake-up.

use std::collections::VecDeque;

use raft::mutation::{self, Mutation};
use raft::{Entry, EntryKind, Index, Nanos, NodeId};

use super::{Core, Effect, Engine, ReplicaId, usize_of};
use crate::machine::{AppliedBatch, ApplyError, Cut, Domain, Machine, MachineEntry, Outcome, Times};
use crate::replica::{compaction_index, entry_bytes};
use crate::store::{Applied as Position, StorageEngine};
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
    /// Its one entry cuts the shard in two.
    division: Option<Divides>,
}

/// What a batch whose entry cuts the shard is to do.
#[derive(Clone, Copy, Debug)]
struct Divides {
    into: u32,
    /// The replica. It makes one of the new shard only if it votes: a later one of its node, which reads the same log after
    /// the node has lost its disk, knows nothing of what the node's founding replica of the new shard has promised.
    voter: NodeId,
    /// Whether to make it.
    make: bool,
}

impl ApplyBatch {
    /// Carries the batch out. Where it cuts the shard, `found` first makes the new shard's replica from the state before
    /// the entry, durably; and the entry is durable when this returns.
    pub fn apply(
        &self,
        machine: &mut Machine,
        found: impl FnOnce(&dyn StorageEngine, &Cut, Position),
    ) -> Result<Applied, ApplyError> {
        let Some(division) = &self.division else {
            let result = machine.apply(&self.entries)?;
            return Ok(self.done(machine, result, false));
        };
        let [entry] = self.entries.as_slice() else {
            panic!("an entry that cuts a shard is applied by itself")
        };
        let cut = machine.cut_by(entry).filter(|_| division.make);
        let votes = machine.conf_state().voters.contains(&division.voter);
        let cut = cut.filter(|_| votes || mutation::active(Mutation::FoundAgain));
        if let Some(cut) = &cut {
            found(machine.engine().as_ref(), cut, Position { index: entry.index, term: entry.term });
        }
        let result = machine.apply(&self.entries)?;
        machine.engine().flush()?;
        Ok(self.done(machine, result, cut.is_some()))
    }

    /// The completion of this batch.
    fn done(&self, machine: &Machine, result: AppliedBatch, made: bool) -> Applied {
        Applied {
            replica: self.replica,
            applied: Index(result.applied.index),
            times: machine.times(),
            domain: machine.domain(),
            outcomes: result.outcomes,
            changes: result.changes,
            bytes: self.bytes,
            compact_to: self.compact_to,
            divided: self.division.map(|division| (division, made)),
        }
    }
}

/// Entries of one replica were applied.
#[derive(Debug)]
pub struct Applied {
    replica: ReplicaId,
    applied: Index,
    times: Times,
    /// The slots it has on record as its own.
    domain: Option<Domain>,
    outcomes: Vec<(u64, Outcome)>,
    /// Changes of the cluster map.
    changes: Vec<Change>,
    bytes: u64,
    compact_to: Option<Index>,
    /// Whether a replica of a new shard was made.
    divided: Option<(Divides, bool)>,
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
            let since = replica.apply.since;
            let entries = replica.take_apply(TASK_BYTES_MAX - bytes, self.now);
            if entries.is_empty() {
                // The next one cuts the shard, and there is no room for the new one yet.
                continue;
            }
            self.stages.queue.record(since, self.now);
            let mut batch = ApplyBatch {
                replica: replica.id,
                entries: Vec::with_capacity(entries.len()),
                bytes: 0,
                compact_to: None,
                division: None,
            };
            for entry in entries {
                if let Some(hold) = replica.holds.iter().find(|hold| hold.index == entry.index) {
                    let voter = replica.raft.id();
                    let make = hold.make == Some(true);
                    batch.division = Some(Divides { into: hold.into, voter, make });
                }
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
            if let Some((division, made)) = applied.divided {
                let parent = applied.replica.shard;
                tracing::info!(shard = parent, into = division.into, made, "the shard was cut in two");
                self.on_divided(parent, division.into, division.make, made);
            }
            let Some(shard) = self.current(applied.replica) else { continue };
            let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
            replica.apply.bytes -= applied.bytes;
            replica.apply.busy = false;
            replica.bytes_since_checkpoint += applied.bytes;
            replica.raft.on_applied(applied.applied);
            replica.time_ms = replica.time_ms.max(applied.times.clock_ms);
            replica.due_ms = applied.times.due_ms;
            let (untrimmed, slots) = (replica.untrimmed, replica.slots);
            replica.follow_domain(applied.domain);
            self.standing.due |= replica.slots != slots;
            if untrimmed && !replica.untrimmed {
                tracing::info!(shard, "what was cut off is removed");
                self.effects.push(Effect::Reclaim { shard, engine: Engine(replica.engine.clone()) });
            }
            replica.holds.retain(|hold| hold.index > applied.applied);
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
