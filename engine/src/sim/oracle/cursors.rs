//! The cursors of a replica only grow and keep their order:
//! `purged <= applied_durable <= applied <= min(committed, flushed)` and `flushed <= last`.

use super::{Verdict, violated};
use crate::core::Core;
use crate::replica::Replica;

/// Where a replica was after its core's last turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursors {
    /// Up to where the log was dropped.
    pub purged: u64,
    /// Up to where the state machine survives a crash, as its engine says.
    pub durable: u64,
    /// Up to where it has applied, as the core knows.
    pub applied: u64,
    /// Up to where the log is committed, as the core knows.
    pub committed: u64,
    /// Up to where it is flushed, as the core knows.
    pub flushed: u64,
}

impl Cursors {
    /// Looks at the replica after a turn. `on_disk` is what the disk says of its log.
    pub fn observe(&mut self, core: &Core, replica: &Replica, on_disk: u64) -> Verdict {
        let log = core.log();
        let stream = core.stream(replica);
        let now = Cursors {
            purged: log.first_index(stream) - 1,
            durable: replica.engine.applied_durable().map_or(u64::MAX, |applied| applied.index),
            applied: replica.raft.applied().0,
            committed: replica.raft.committed().0,
            flushed: replica.raft.flushed().0,
        };
        let before = std::mem::replace(self, now);
        let last = replica.raft.last_index().0;
        let ordered = now.purged <= now.durable
            && now.applied <= now.committed.min(now.flushed)
            && now.flushed <= on_disk.max(now.purged)
            && now.flushed <= last;
        if !ordered {
            let detail =
                format!("replica {} is at {now:?}, on disk {on_disk}, last {last}", replica.raft.id());
            return violated("cursors keep their order", detail);
        }
        let grew = before.purged <= now.purged
            && before.durable <= now.durable
            && before.applied <= now.applied
            && before.committed <= now.committed;
        if !grew {
            let detail = format!("replica {} went from {before:?} to {now:?}", replica.raft.id());
            return violated("cursors only grow", detail);
        }
        Ok(())
    }
}
