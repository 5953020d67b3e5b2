//! What the simulator's checkers see of a core. Nothing here changes anything.

use std::cell::Ref;

use wal::{StreamId, Wal};

use super::{Core, Counters};
use crate::replica::Replica;

impl Core {
    /// The replicas of this core.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().flatten()
    }

    /// The replica of a shard.
    pub(crate) fn replica(&self, shard: u32) -> Option<&Replica> {
        self.replicas.get(super::usize_of(shard))?.as_ref()
    }

    /// What this core has counted.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The log.
    pub(crate) fn log(&self) -> Ref<'_, Wal> {
        self.wal.borrow()
    }

    /// The stream of a replica in the log.
    pub(crate) fn stream(&self, replica: &Replica) -> StreamId {
        replica.stream
    }
}
