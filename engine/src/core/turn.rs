//! Time, the log's progress, and the end of a turn.

use raft::mutation::{self, Mutation};
use raft::{Nanos, Ready, Role};
use wal::BatchId;

use super::{Core, Effect, Unflushed, usize_of};
use crate::convert;
use crate::replica::Budget;
use crate::replica_id;

impl Core {
    /// Time passed. Raft ticks by this; an executor that was held up does not make up for missed ticks, for then a
    /// pause would look like a silent leader.
    pub(super) fn on_time(&mut self, now: Nanos, wall_ms: u64) {
        let pause = now.since(self.now);
        // What has arrived meanwhile is taken in after this: it must not look as if nobody had said anything.
        if pause >= self.config.raft.election_timeout() {
            self.outbox.excuse(pause);
        }
        self.now = self.now.max(now);
        self.wall_ms = self.wall_ms.max(wall_ms);
        if self.now < self.next_tick {
            return;
        }
        self.next_tick = Nanos(self.now.0 + self.config.raft.tick.0);
        self.ticks += 1;
        self.watch_peers();
        self.tick_replicas();
        self.tick_snapshots();
        self.tick_membership();
        self.tick_standing();
        self.tick_control();
        self.tick_expiry();
        self.tick_division();
        self.tick_compaction();
        self.tick_balance();
        self.tick_handover();
        self.seal_idle_log();
        self.tick_status();
    }

    /// Lets a log at rest say on disk that all of it is flushed: until a later batch says so, damage to the last one
    /// cannot be told from a write that was torn by a crash.
    fn seal_idle_log(&mut self) {
        let mut wal = self.wal.borrow_mut();
        let at_rest = wal.inflight() == 0 && !wal.has_queued();
        if at_rest && wal.flushed_lsn() > self.sealed {
            self.sealed = wal.flushed_lsn();
            wal.seal();
        }
    }

    /// A batch is on disk: what waited for its log positions may go on.
    pub(super) fn on_wal_written(&mut self, batch: BatchId) {
        if let Some(begun) = self.writes.end(batch, self.now) {
            self.stages.wal.record(begun, self.now);
        }
        let flushed = self.wal.borrow_mut().on_written(batch);
        self.counters.wal_batches += 1;
        while self.unflushed.front().is_some_and(|waiting| waiting.lsn <= flushed) {
            let waiting = self.unflushed.pop_front().expect("just seen");
            self.persisted(waiting);
        }
        self.carry_out_removals();
        self.tell_prepared();
    }

    fn persisted(&mut self, waiting: Unflushed) {
        let Some(shard) = self.current(waiting.replica) else { return };
        self.replica_mut(shard).raft.on_persisted(waiting.ready);
        self.outbox.extend(shard, waiting.messages);
        self.touch(shard);
    }

    /// Ends the turn: every touched replica hands over what it wants done, the apply lane and the log are fed, and
    /// the effects come out in the order they must be carried out.
    pub fn settle(&mut self) -> std::vec::Drain<'_, Effect> {
        self.counters.turns += 1;
        let mut unserved = Vec::new();
        while let Some(shard) = self.touched.pop_front() {
            self.is_touched[usize_of(shard)] = false;
            if self.settle_replica(shard) {
                unserved.push(shard);
            }
        }
        unserved.into_iter().for_each(|shard| self.touch(shard));
        self.budget = Budget::of_a_turn();
        self.feed_lane();
        self.outbox.drain_into(self.now, &mut self.effects);
        self.feed_wal();
        self.effects.drain(..)
    }

    /// Lets a replica do what follows from this turn; whether reads are left for the next.
    fn settle_replica(&mut self, shard: u32) -> bool {
        let clock = self.clock();
        // Removed since it was touched?
        let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { return false };
        replica.close_read_context();
        while self.replica_mut(shard).raft.has_ready() {
            let ready = self.replica_mut(shard).raft.ready();
            self.take_ready(shard, ready);
        }
        self.advance_snapshot(shard);
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        let freed = replica.answer_progress(clock.now, &mut self.stages.replicate, &mut self.effects);
        self.budget.exceeded = false;
        replica.serve_reads(clock, &mut self.budget, &mut self.effects);
        self.inflight_bytes -= freed;
        self.budget.exceeded
    }

    fn take_ready(&mut self, shard: u32, ready: Ready) {
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        let stream = replica.stream;
        let mut wal = self.wal.borrow_mut();
        let mut lsn = None;
        if let Some(from) = ready.truncate_from {
            lsn = Some(wal.truncate_suffix(stream, from.0));
        }
        let has_entries = !ready.entries.is_empty();
        if has_entries {
            replica.active_at = self.now;
            let entries: Vec<wal::Entry> = ready.entries.into_iter().map(convert::wal_entry).collect();
            lsn = Some(wal.append(stream, &entries));
        }
        // A commit index alone is not worth a write: it is learned again from the leader.
        if let Some(hard_state) = ready.hard_state.filter(|_| ready.must_sync || has_entries) {
            lsn = Some(wal.set_state(stream, convert::stream_state(hard_state)));
        }
        drop(wal);
        self.apply_conf_changes(shard, &ready.committed);
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        self.outbox.extend(shard, ready.messages);
        for fetch in &ready.fetches {
            let wal = self.wal.borrow();
            match wal.plan_read(stream, fetch.low.0, fetch.high.0, fetch.bytes_max) {
                Some(plan) => {
                    self.effects.push(Effect::ReadWal { replica: replica.id, fetch: fetch.id, plan });
                }
                None => replica.raft.on_entries_fetched(fetch.id, Err(raft::LogReadError::Compacted)),
            }
        }
        if let Some(soft_state) = ready.soft_state {
            let leader = soft_state.leader.map_or(0, |leader| replica_id::node_of(leader.0));
            self.leaders[usize_of(shard)] = leader;
            self.status_due = true;
            self.standing.due |= soft_state.role == Role::Leader;
            tracing::info!(shard, role = ?soft_state.role, term = soft_state.term.0, leader, "raft role");
            self.counters.leader_changes += u64::from(soft_state.role == Role::Leader);
        }
        replica.reads_confirmed(&ready.read_states);
        replica.reads_dropped(&ready.reads_dropped, self.map.epoch, &mut self.effects);
        let id = replica.id;
        self.expect_divisions(shard, &ready.committed);
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        self.lane.queued_bytes += replica.queue_apply(ready.committed, self.now);
        let waiting = Unflushed {
            lsn: lsn.unwrap_or_default(),
            replica: id,
            ready: ready.id,
            messages: ready.persisted_messages,
        };
        self.await_flush(waiting, lsn.is_some());
        if let Some(meta) = &ready.snapshot {
            self.want_snapshot(shard, meta);
        }
        if !ready.snapshots_needed.is_empty() {
            self.owe_snapshots(shard, &ready.snapshots_needed);
        }
    }

    /// Files a `Ready` under its log position; one that wrote nothing waits for those before it, if there are any.
    fn await_flush(&mut self, mut waiting: Unflushed, wrote: bool) {
        if mutation::active(Mutation::AckBeforeFlush) {
            return self.persisted(waiting);
        }
        if !wrote {
            match self.unflushed.back() {
                Some(last) => waiting.lsn = last.lsn,
                None => return self.persisted(waiting),
            }
        }
        self.unflushed.push_back(waiting);
    }

    fn feed_wal(&mut self) {
        let mut wal = self.wal.borrow_mut();
        while let Some(task) = wal.poll_segment_task() {
            self.effects.push(Effect::Segment(task));
        }
        while let Some(batch) = wal.poll_write() {
            self.writes.begin(batch.id, self.now);
            self.effects.push(Effect::WriteWal(batch));
        }
    }
}
