//! The thread that takes snapshots for later, and removes those that nobody needs any more: reading all of a replica may
//! take minutes, and nothing that a log waits for may be behind it.
//!
//! One snapshot at a time is taken in the whole node, so that they share the disk with nobody but requests.

use std::time::{Duration, Instant};

use raft::ConfState;

use super::Transfers;
use super::store::Libraries;
use crate::core::{Engine, Event, ReplicaId, TakenSnapshot};
use crate::host::background;
use crate::store::StorageEngine;
use crate::store::snapshot::{Library, Manifest, TakenTo};

/// Time between two looks for what nobody needs any more.
const SWEEP_PAUSE: Duration = Duration::from_secs(60);
/// A snapshot taken to be sent stays so long after its last use: a follower that is owed one asks again each minute.
const SENT_STAYS: Duration = Duration::from_secs(600);
/// And a part of one that was received, after the last piece came.
const PART_STAYS: Duration = Duration::from_secs(1800);

/// Work of the thread. What waits is bounded: one snapshot for each replica, and one request for space for each cut.
pub(super) enum Keeping {
    /// Take a snapshot; `founders` are the members of a state machine that tells of none.
    Take { replica: ReplicaId, engine: Engine, founders: ConfState },
    /// Give the disk space of what was removed from a state machine back.
    Reclaim { shard: u32, engine: Engine },
}

/// The thread's own.
pub(super) struct Keeper {
    pub libraries: Libraries,
    pub snapshots_kept: usize,
    pub transfers: Transfers,
}

impl Keeper {
    /// Works until nobody can order anything any more.
    pub fn work(&self, jobs: &flume::Receiver<Keeping>, done: &flume::Sender<Vec<Event>>) {
        let mut sweep_at = Instant::now() + SWEEP_PAUSE;
        loop {
            match jobs.recv_deadline(sweep_at) {
                Ok(Keeping::Take { replica, engine, founders }) => {
                    let snapshot = self.take(replica.shard, engine.0.as_ref(), &founders);
                    if done.send(vec![Event::SnapshotTaken { replica, snapshot }]).is_err() {
                        return;
                    }
                }
                Ok(Keeping::Reclaim { shard, engine }) => self.reclaim(shard, engine),
                Err(flume::RecvTimeoutError::Timeout) => {}
                Err(flume::RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= sweep_at {
                for library in self.libraries.each() {
                    tidy(&library, SENT_STAYS, PART_STAYS);
                }
                sweep_at = Instant::now() + SWEEP_PAUSE;
            }
        }
    }

    /// Takes a snapshot and drops the oldest.
    fn take(&self, shard: u32, engine: &dyn StorageEngine, founders: &ConfState) -> Option<TakenSnapshot> {
        let (_, library) = self.libraries.get(shard)?;
        if self.snapshots_kept == 0 {
            // None stays: what it is taken for is that the state machine is durable afterwards.
            if let Err(error) = engine.flush() {
                tracing::error!(shard, %error, "cannot flush");
            }
            return None;
        }
        let turn = self.transfers.taking_turn();
        let taken =
            library.take(engine, founders, TakenTo::Keep, &|bytes| self.transfers.pace_reading(bytes));
        drop(turn);
        let described = match &taken {
            Ok(snapshot) => Some(describe(snapshot.manifest())),
            Err(error) => {
                tracing::error!(shard, %error, "cannot take a snapshot");
                None
            }
        };
        drop(taken);
        if let Err(error) = library.prune(self.snapshots_kept) {
            tracing::warn!(shard, %error, "cannot remove an old snapshot");
        }
        described
    }

    /// Gives disk space back on a thread of its own: it may take minutes, and snapshots are not to wait.
    fn reclaim(&self, shard: u32, engine: Engine) {
        // What a snapshot holds is not given back.
        if let Some((_, library)) = self.libraries.get(shard) {
            tidy(&library, Duration::ZERO, PART_STAYS);
        }
        let run = move || {
            // It may be gone by now; and what is not given back now is in time.
            if let Err(error) = engine.0.reclaim() {
                tracing::warn!(%error, "cannot give disk space back");
            }
        };
        if let Err(error) = background::spawn("reclaim".to_owned(), run) {
            tracing::warn!(%error, "cannot give disk space back: no thread");
        }
    }
}

fn tidy(library: &Library, sent_stays: Duration, part_stays: Duration) {
    if let Err(error) = library.drop_unused(sent_stays, part_stays) {
        tracing::warn!(%error, "cannot remove a snapshot that nobody needs");
    }
}

fn describe(manifest: &Manifest) -> TakenSnapshot {
    TakenSnapshot { index: manifest.meta.index, term: manifest.meta.term, bytes: manifest.bytes() }
}
