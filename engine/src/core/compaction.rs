//! When state machines are asked how far they are durable, when checkpoints are taken, and when the log is
//! compacted.
//!
//! The leader of a shard proposes, through the log, the index that all replicas hold; each replica then drops its
//! log up to the lesser of that index and its own durable applied position. So the log always holds what a restart
//! must replay and what any replica may still lack.

use raft::Index;
use wal::StreamId;

use super::effect::Engine;
use super::{Core, Effect, ReplicaId, usize_of};

/// Ticks between two rounds.
const ROUND_TICKS: u32 = 5;
/// Entries a compaction must free to be worth a log entry.
const COMPACTION_ENTRIES_MIN: u64 = 256;

#[derive(Default)]
pub(super) struct Schedule {
    ticks: u32,
    /// Whether the siblings should hear of this core's shards before the next round.
    pub status_due: bool,
}

impl Core {
    pub(super) fn tick_compaction(&mut self) {
        self.compaction.ticks += 1;
        if !self.compaction.ticks.is_multiple_of(ROUND_TICKS) {
            return;
        }
        self.flush_what_pins_the_log();
        for shard in 0..self.replicas.len() {
            if self.replicas[shard].is_some() {
                self.compact_replica(shard);
            }
        }
    }

    fn compact_replica(&mut self, shard: usize) {
        let replica = self.replicas[shard].as_mut().expect("hosted here");
        let applied = replica.raft.applied();
        // A leader without peers needs its log for nobody else.
        let matched = replica.raft.is_leader().then(|| replica.raft.min_match_index().unwrap_or(applied));
        if let Some(matched) = matched {
            let worth = Index(replica.compaction_agreed.0 + COMPACTION_ENTRIES_MIN);
            let index = matched.min(applied);
            if index >= worth && replica.compaction_asked < index {
                replica.compaction_asked = index;
                replica.propose_compaction(index);
                self.touch(u32::try_from(shard).expect("32-bit shard numbers"));
            }
        }
        let replica = self.replicas[shard].as_mut().expect("hosted here");
        let index = replica.compaction_agreed.min(replica.applied_durable);
        if index > replica.compacted {
            let stream = StreamId(u64::try_from(shard).expect("64-bit machine"));
            let mut wal = self.wal.borrow_mut();
            if let Ok(term) = wal.term(stream, index.0) {
                wal.compact_to(stream, index.0, term);
                replica.compacted = index;
            }
        }
        let since = applied.0.saturating_sub(replica.checkpoint.0.0);
        let interval = self.config.snapshot_interval.0;
        let by_time = interval > 0 && self.now.0 >= replica.checkpoint.1.0.saturating_add(interval);
        let threshold = self.config.snapshot_threshold_bytes;
        let by_size = threshold > 0 && replica.bytes_since_checkpoint >= threshold;
        if since > 0 && (by_time || by_size) && !replica.snapshot_query {
            replica.snapshot_query = true;
            replica.checkpoint = (applied, self.now);
            replica.bytes_since_checkpoint = 0;
            let engine = Engine(replica.engine.clone());
            self.effects.push(Effect::TakeSnapshot { replica: replica.id, engine, index: applied });
        }
        if applied > replica.applied_durable && !replica.durable_query {
            replica.durable_query = true;
            let engine = Engine(replica.engine.clone());
            self.effects.push(Effect::QueryDurable { replica: replica.id, engine, flush: false });
        }
    }

    /// When the log has grown past its limit, the state machine whose stream keeps the oldest segment is flushed.
    fn flush_what_pins_the_log(&mut self) {
        let wal = self.wal.borrow();
        if wal.disk_bytes() < self.config.wal_retain_bytes {
            return;
        }
        let Some(stream) = wal.pinned_by().map(|pin| pin.stream) else { return };
        drop(wal);
        let shard = usize::try_from(stream.0).expect("64-bit machine");
        let Some(replica) = self.replicas.get_mut(shard).and_then(Option::as_mut) else { return };
        // More than is durable must be agreed to be dropped, or flushing frees nothing.
        if replica.compaction_agreed > replica.applied_durable && !replica.durable_query {
            replica.durable_query = true;
            let engine = Engine(replica.engine.clone());
            self.effects.push(Effect::QueryDurable { replica: replica.id, engine, flush: true });
        }
    }

    /// A snapshot was taken, or could not be: the next may follow.
    pub(super) fn on_snapshot_taken(&mut self, id: ReplicaId) {
        let Some(shard) = self.current(id) else { return };
        self.replica_mut(shard).snapshot_query = false;
    }

    /// A state machine told how far it is durable.
    pub(super) fn on_durable(&mut self, id: ReplicaId, index: Index) {
        let Some(shard) = self.current(id) else { return };
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        replica.durable_query = false;
        // The apply thread may be ahead of what this core has heard of it.
        replica.applied_durable = replica.applied_durable.max(index);
    }
}
