//! Handing every leadership over: when this core's log has become slow, and when the process is to end.
//!
//! A leader sends while its own write is under way, so its groups go on without its disk; but whatever makes one write
//! slow makes the next slow, and each election, new group or restart waits for it. So a core whose log takes longer than
//! `slow_write` for a batch hands its groups to followers that keep up, as long as there are any.

use std::collections::VecDeque;

use raft::Nanos;
use wal::BatchId;

use super::{Core, Effect};

/// How long a process that was asked to end waits for its groups to be taken over.
const LEAVING_MAX: Nanos = Nanos::from_millis(3_000);
/// Ticks between two attempts to hand a group over.
const ATTEMPT_TICKS: u32 = 4;

/// The writes of the log that are under way, with the time each was handed out at.
#[derive(Default)]
pub(super) struct WriteWatch {
    under_way: VecDeque<(BatchId, Nanos)>,
    /// The longest write that ended since the last look.
    slowest: Nanos,
}

impl WriteWatch {
    pub fn begin(&mut self, batch: BatchId, now: Nanos) {
        self.under_way.push_back((batch, now));
    }

    /// Tells when it began.
    pub fn end(&mut self, batch: BatchId, now: Nanos) -> Option<Nanos> {
        // Batches land nearly in order: this looks at the first few.
        let position = self.under_way.iter().position(|(id, _)| *id == batch)?;
        let (_, begun) = self.under_way.remove(position)?;
        self.slowest = self.slowest.max(now.since(begun));
        Some(begun)
    }

    /// The longest that any write took or has taken so far since the last look.
    fn look(&mut self, now: Nanos) -> Nanos {
        let waiting = self.under_way.front().map_or(Nanos::ZERO, |(_, begun)| now.since(*begun));
        std::mem::take(&mut self.slowest).max(waiting)
    }
}

impl Core {
    /// The process was asked to end.
    pub(super) fn on_shutdown(&mut self) {
        self.leaving.get_or_insert(self.now.saturating_add(LEAVING_MAX));
        self.hand_over_all();
    }

    pub(super) fn tick_handover(&mut self) {
        let slowest = self.writes.look(self.now);
        let limit = self.config.slow_write;
        let is_slow = limit > Nanos::ZERO && slowest >= limit;
        if is_slow && !self.log_is_slow {
            tracing::warn!(millis = slowest.0 / 1_000_000, "the log is slow: handing leaderships over");
        }
        self.log_is_slow = is_slow;
        let due = self.ticks.is_multiple_of(ATTEMPT_TICKS);
        match self.leaving {
            Some(deadline) => {
                if due {
                    self.hand_over_all();
                }
                self.end_if_done(deadline);
            }
            None if is_slow => self.hand_over_all(),
            None => {}
        }
    }

    /// Says that the core has stopped, once: when it leads nothing that another could, and its log is at rest.
    fn end_if_done(&mut self, deadline: Nanos) {
        let late = self.now >= deadline;
        let leads = self.replicas.iter().flatten().any(|replica| replica.raft.best_successor().is_some());
        let wal = self.wal.borrow();
        let at_rest = wal.inflight() == 0 && !wal.has_queued();
        drop(wal);
        if !self.has_stopped && (late || (!leads && at_rest)) {
            self.has_stopped = true;
            self.effects.push(Effect::Stopped);
        }
    }

    fn hand_over_all(&mut self) {
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_ref() else { continue };
            if !replica.raft.is_leader() {
                continue;
            }
            let shard = replica.id.shard;
            // One that sleeps does not know who is well: the answers to its first heartbeats will tell.
            self.wake(shard);
            let replica = self.replica_mut(shard);
            let Some(successor) = replica.raft.best_successor() else { continue };
            // A refusal is as good as a later attempt.
            if replica.raft.transfer_leader(successor).is_ok() {
                tracing::info!(shard, to = successor.0, "handing the leadership over");
                self.counters.handovers += 1;
            }
            self.touch(shard);
        }
    }
}
