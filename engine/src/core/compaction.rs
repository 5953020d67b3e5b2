//! When state machines are asked how far they are durable, when snapshots are taken, and when the log is compacted.
//!
//! The leader of a shard proposes, through the log, the index that all replicas hold; each replica then drops its log up
//! to the lesser of that index and its own durable applied position. So the log holds what a restart must replay and, as
//! far as its bounds allow, what a replica may still lack:
//!
//! - a shard's log over `log_bytes_max` waits for nobody: about half of that is kept, and a replica that needs more gets
//!   a snapshot. From when one is being sent until the follower follows from the log this may grow further, or the
//!   follower would need one snapshot after the other;
//! - a core's log over `wal_retain_bytes` lets go of its oldest segment: the state machine whose entries keep it is
//!   flushed, and the entries are dropped here, agreed or not.
//!
//! While the shard is being cut in two nothing is dropped, over whatever bound it is (`super::division` tells why). That ends
//! when the new shard has a leader, some tenths of a second after the cut. It lasts longer only while the cut shard has no
//! leader either: then this log takes no writes, but it may be what keeps the core's oldest segment, and those after it.
//!
//! Invariant: nothing is dropped that is not applied and durable in this replica's state machine.

use raft::mutation::{self, Mutation};
use raft::{Index, Nanos};

use super::effect::Engine;
use super::{Core, Effect, ReplicaId, usize_of};
use crate::replica::Replica;
use crate::replica_id;

/// Ticks between two rounds.
const ROUND_TICKS: u32 = 5;
/// Entries a compaction must free to be worth a log entry.
const COMPACTION_ENTRIES_MIN: u64 = 256;
/// And of a log that may hold few entries, counted at this size, as many as it may hold.
const ENTRY_BYTES: u64 = 512;
/// By how much the bounds grow while a follower is brought back to the log by a snapshot.
const SENDING_FACTOR: u64 = 4;
/// Pause between two durability queries of a replica; doubled while they tell nothing new.
const QUERY_PAUSE_MIN: Nanos = Nanos::from_millis(250);
const QUERY_PAUSE_MAX: Nanos = Nanos::from_millis(30_000);

impl Core {
    pub(super) fn tick_compaction(&mut self) {
        if !self.ticks.is_multiple_of(ROUND_TICKS) {
            return;
        }
        self.release_oldest_segment();
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_ref() else { continue };
            let shard = replica.id.shard;
            if replica.is_awake && replica.raft.is_leader() && !self.is_parting(shard) {
                let entries_min = COMPACTION_ENTRIES_MIN.min(self.config.log_bytes_max / ENTRY_BYTES);
                self.propose_compaction(shard, entries_min);
            }
            self.compact(shard);
            self.take_snapshot_if_due(shard);
            self.query_durable(shard);
        }
    }

    /// Lets the group agree on what its logs need no more, if that is at least `entries_min` entries. The index agreed or
    /// asked for.
    fn propose_compaction(&mut self, shard: u32, entries_min: u64) -> Index {
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        let applied = replica.raft.applied();
        // A leader without peers needs its log for nobody else.
        let held_by_all = replica.raft.min_match_index().unwrap_or(applied);
        let expendable = self.expendable(replica);
        let index = held_by_all.max(expendable).min(applied);
        let replica = self.replica_mut(shard);
        // Few entries may be many bytes.
        let over_the_bound = expendable > replica.compaction_agreed;
        let entries_min = if over_the_bound { 1 } else { entries_min };
        let worth = Index(replica.compaction_agreed.0 + entries_min);
        if index >= worth && replica.compaction_asked < index {
            replica.compaction_asked = index;
            replica.propose_compaction(index);
            self.touch(shard);
        }
        let replica = self.replica_mut(shard);
        replica.compaction_asked.max(replica.compaction_agreed)
    }

    /// As an operator asked.
    pub(super) fn compact_on_demand(&mut self, shard: u32) -> Index {
        let index = self.propose_compaction(shard, 1);
        self.flush(shard);
        index
    }

    /// Up to where a log that has grown past its bound waits for nobody.
    fn expendable(&self, replica: &Replica) -> Index {
        let wal = self.wal.borrow();
        let bytes = wal.stream_bytes(replica.stream);
        let most = self.config.log_bytes_max * self.sending_factor(replica.id);
        if bytes <= most {
            return Index::ZERO;
        }
        drop(wal);
        self.kept_from(replica)
    }

    /// Up to where a log may be dropped so that about half of its bound is kept: whoever has more than that follows from
    /// the log for a while.
    pub(super) fn kept_from(&self, replica: &Replica) -> Index {
        let wal = self.wal.borrow();
        let (bytes, kept) = (wal.stream_bytes(replica.stream), self.config.log_bytes_max / 2);
        if bytes <= kept {
            return Index::ZERO;
        }
        let (first, last) = (wal.first_index(replica.stream), wal.last_index(replica.stream));
        // Entries of one shard are much alike.
        let entries = u128::from(last + 1 - first) * u128::from(kept) / u128::from(bytes);
        Index(last - u64::try_from(entries).expect("a part of what there is"))
    }

    fn sending_factor(&self, replica: ReplicaId) -> u64 {
        if self.sending.is_awaited(replica, self.now) { SENDING_FACTOR } else { 1 }
    }

    /// Drops what all agreed to drop and this state machine holds durably.
    fn compact(&mut self, shard: u32) {
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        let index = match mutation::active(Mutation::CompactPastDurable) {
            true => replica.compaction_agreed,
            false => replica.compaction_agreed.min(replica.applied_durable),
        };
        self.compact_to(shard, index);
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        // What is agreed but not durable counts against the shard's bound as well.
        let waits = replica.compaction_agreed > replica.applied_durable;
        if waits && self.wal.borrow().stream_bytes(replica.stream) > self.config.log_bytes_max {
            self.flush(shard);
        }
    }

    fn compact_to(&mut self, shard: u32, index: Index) {
        if self.is_parting(shard) {
            return;
        }
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        // The state machine may be ahead of what Raft has heard of it.
        let index = index.min(replica.raft.applied());
        // A snapshot takes the place of this log: leave it as it is until then.
        if index <= replica.compacted || replica.incoming.is_some() {
            return;
        }
        let may_go = index <= replica.applied_durable || mutation::active(Mutation::CompactPastDurable);
        assert!(may_go, "shard {shard}: entries a restart would need");
        let mut wal = self.wal.borrow_mut();
        if let Ok(term) = wal.term(replica.stream, index.0) {
            wal.compact_to(replica.stream, index.0, term);
            replica.compacted = index;
        }
    }

    fn take_snapshot_if_due(&mut self, shard: u32) {
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        let since = replica.raft.applied().distance_from(replica.checkpoint.0);
        let interval = self.config.snapshot_interval;
        let by_time = interval > Nanos::ZERO && self.now.since(replica.checkpoint.1) >= interval;
        let threshold = self.config.snapshot_threshold_bytes;
        let by_size = threshold > 0 && replica.bytes_since_checkpoint >= threshold;
        if since > 0 && (by_time || by_size) && replica.incoming.is_none() {
            self.take_snapshot(shard);
        }
    }

    /// Asks a state machine how far it is durable, if that may have changed.
    fn query_durable(&mut self, shard: u32) {
        let now = self.now;
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        let applied = replica.raft.applied();
        if applied <= replica.applied_durable || replica.durable_query {
            return;
        }
        // Idle replicas by the thousand must not ask again and again what they have heard.
        let moved = applied.distance_from(replica.queried_at) >= COMPACTION_ENTRIES_MIN;
        if now >= replica.durable_due || moved {
            self.ask_durable(shard, false);
        }
    }

    /// Makes a state machine durable up to what it has applied.
    fn flush(&mut self, shard: u32) {
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        if replica.raft.applied() > replica.applied_durable && !replica.durable_query {
            self.ask_durable(shard, true);
        }
    }

    fn ask_durable(&mut self, shard: u32, flush: bool) {
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        replica.durable_query = true;
        replica.queried_at = replica.raft.applied();
        let engine = Engine(replica.engine.clone());
        self.effects.push(Effect::QueryDurable { replica: replica.id, engine, flush });
    }

    /// When the log has grown past its limit, the stream that keeps the oldest segment lets go of it.
    fn release_oldest_segment(&mut self) {
        let wal = self.wal.borrow();
        let bytes = wal.disk_bytes();
        if bytes < self.config.wal_retain_bytes {
            return;
        }
        let Some(pin) = wal.pinned_by() else { return };
        drop(wal);
        let (shard, generation) = replica_id::of_stream(pin.stream.0);
        let Some(replica) = self.replicas.get(usize_of(shard)).and_then(Option::as_ref) else { return };
        let most = self.config.wal_retain_bytes.saturating_mul(self.sending_factor(replica.id));
        if replica_id::generation_of(replica.raft_id) != generation || bytes < most {
            return;
        }
        let wanted = Index(pin.last_index_pinned);
        if replica.applied_durable < wanted {
            self.flush(shard);
        }
        let durable = self.replica_mut(shard).applied_durable;
        self.compact_to(shard, wanted.min(durable));
    }

    /// A state machine told how far it is durable.
    pub(super) fn on_durable(&mut self, id: ReplicaId, index: Index) {
        let now = self.now;
        let Some(shard) = self.current(id) else { return };
        let replica = self.replica_mut(shard);
        replica.durable_query = false;
        let pause = match index > replica.applied_durable {
            true => QUERY_PAUSE_MIN,
            false => Nanos(replica.query_pause.0.saturating_mul(2)).min(QUERY_PAUSE_MAX),
        };
        replica.query_pause = pause.max(QUERY_PAUSE_MIN);
        replica.durable_due = now.saturating_add(replica.query_pause);
        // The apply thread may be ahead of what this core has heard of it.
        replica.applied_durable = replica.applied_durable.max(index);
    }
}
