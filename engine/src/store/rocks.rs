//! RocksDB as the storage engine: one database per replica, over caches and threads shared by the node.
//!
//! RocksDB's own log is off: the Raft log is the log. Data, the machine's records and the applied position
//! live in one column family, so every `apply` is one write batch in one memtable and becomes durable as a
//! whole when that memtable is flushed.
//!
//! A replica's folder holds one database per *generation*; installing a checkpoint adds the next:
//!
//! ```text
//! <replica>/db-00000007     the database; the highest number wins, lower ones are leftovers
//! <replica>/new-00000008    one being created                    removed at the next open
//! <replica>/dead-00000006   one that was destroyed               removed at the next open
//! ```
//!
//! Invariants:
//! - A generation appears under its `db-` name by rename, complete and durable; so a crash leaves the old
//!   state or the new one.
//! - The folder is locked while it is open; one engine per folder.
//! - A value handed out pins its database: the database closes when the last value and reader let go
//!   of it, on the reaper thread if it was replaced or destroyed.
//! - Every database holds an identity record written before it got its name; one without is not ours.

mod budget;
mod config;
mod folder;
mod live;
mod shared;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

pub use config::{BlobCompression, RocksConfig};
pub use shared::RocksShared;

use super::{
    Applied, Look, Lookup, OpenError, ReadTier, ScanPage, StorageEngine, StoreError, StoreStats, WriteSet,
};
use folder::Folder;
use live::Live;

/// The engine of one replica.
pub struct RocksEngine {
    root: PathBuf,
    shared: RocksShared,
    /// `None` once destroyed. Written only to swap the database, so readers never wait for a disk here.
    state: RwLock<Option<State>>,
}

struct State {
    live: Arc<Live>,
    /// Keeps the folder locked.
    folder: Folder,
}

impl RocksEngine {
    /// Opens the engine in folder `root`, creating both where need be. While values read from an engine that
    /// was dropped (not destroyed) are still held, its folder answers [`OpenError::Locked`].
    pub fn open(root: &Path, shared: &RocksShared) -> Result<Self, OpenError> {
        let folder = Folder::lock(root)?;
        // Counted before the dead are removed: a value still held may keep one open under its old path.
        let next = folder.next_generation()?;
        let generation = match folder.clean()? {
            Some(generation) => generation,
            None => create(&folder, next, shared)?,
        };
        let live = Live::open(&folder.database(generation), generation, shared)?;
        let live = Arc::new(live);
        shared.enter(&live);
        let state = State { live, folder };
        Ok(Self { root: root.to_owned(), shared: shared.clone(), state: RwLock::new(Some(state)) })
    }

    /// Where the first database of an engine's folder lies: a checkpoint that is made there is what the engine opens.
    pub fn first_database(root: &Path) -> PathBuf {
        folder::database(root, 1)
    }

    /// Takes a generation back that turned out not to open, so that the one before counts again.
    fn withdraw(&self, generation: u64, error: OpenError) -> OpenError {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.as_ref() else { return OpenError::Destroyed { path: self.root.clone() } };
        match state.folder.bury(generation) {
            Ok(_) => error,
            Err(error) => OpenError::Io { path: self.root.clone(), detail: error.to_string() },
        }
    }

    /// The database of now.
    fn live(&self) -> Result<Arc<Live>, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.as_ref() {
            Some(state) => Ok(Arc::clone(&state.live)),
            None => Err(StoreError::Destroyed { path: self.root.clone() }),
        }
    }
}

/// Creates the first database of a folder under a provisional name.
fn create(folder: &Folder, generation: u64, shared: &RocksShared) -> Result<u64, OpenError> {
    let provisional = folder.provisional(generation);
    Live::create(&provisional, shared)?;
    folder.promote(&provisional, generation)?;
    Ok(generation)
}

impl StorageEngine for RocksEngine {
    fn apply(&self, writes: &WriteSet<'_>) -> Result<(), StoreError> {
        self.live()?.apply(writes)
    }

    fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.live()?.applied())
    }

    fn applied_durable(&self) -> Result<Applied, StoreError> {
        self.live()?.applied_durable()
    }

    fn get(&self, key: &[u8], tier: ReadTier) -> Result<Lookup, StoreError> {
        Live::get(&self.live()?, key, tier)
    }

    fn read_consistently(&self, read: &mut dyn FnMut(&Look<'_>)) -> Result<(), StoreError> {
        Live::read_consistently(&self.live()?, read);
        Ok(())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize, bytes_max: usize) -> Result<ScanPage, StoreError> {
        self.live()?.scan(start, end, limit, bytes_max)
    }

    fn create_checkpoint(&self, path: &Path) -> Result<Applied, StoreError> {
        let live = self.live()?;
        live.create_checkpoint(path)?;
        // The position is the copy's own: `apply` may have gone on meanwhile. Reading it back also
        // shows that the copy opens.
        let peeked = Live::peek(path, &[], &self.shared).map_err(|error| match error {
            OpenError::Io { path, detail } => StoreError::Io { path, detail },
            error => StoreError::Corrupt { path: path.to_owned(), detail: error.to_string() },
        });
        peeked.map(|(applied, _)| applied)
    }

    fn read_checkpoint(&self, path: &Path, key: &[u8]) -> Result<(Applied, Option<Bytes>), OpenError> {
        Live::peek(path, key, &self.shared)
    }

    fn install_checkpoint(&self, path: &Path) -> Result<Applied, OpenError> {
        let destroyed = || OpenError::Destroyed { path: self.root.clone() };
        self.live().map_err(|_| destroyed())?;
        if !Live::is_at(path) {
            return Err(OpenError::Foreign { path: path.to_owned(), detail: "no database in it".to_owned() });
        }
        // Only the apply thread installs and destroys, so nothing changes between the two locks.
        let (database, generation) = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let folder = &state.as_ref().ok_or_else(destroyed)?.folder;
            let generation = folder.next_generation()?;
            folder.promote(path, generation)?;
            (folder.database(generation), generation)
        };
        let fresh = Live::open(&database, generation, &self.shared)
            .map_err(|error| self.withdraw(generation, error))?;
        let applied = fresh.applied();
        let fresh = Arc::new(fresh);
        self.shared.enter(&fresh);
        let replaced = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut state.as_mut().ok_or_else(destroyed)?.live, fresh)
        };
        replaced.mark_retired();
        // It loses its name, or it would count again were the new one destroyed before its files are gone.
        let remains = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.as_ref().ok_or_else(destroyed)?.folder.bury(replaced.generation())
        };
        let remains =
            remains.map_err(|error| OpenError::Io { path: self.root.clone(), detail: error.to_string() })?;
        Live::retire(replaced, remains);
        Ok(applied)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.live()?.flush()
    }

    fn reclaim(&self) -> Result<(), StoreError> {
        self.live()?.reclaim(self.shared.blob_gc_age_percent())
    }

    fn destroy(&self) -> Result<(), StoreError> {
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(State { live, folder }) = state else {
            return Err(StoreError::Destroyed { path: self.root.clone() });
        };
        live.mark_retired();
        live.stop_background_work();
        let remains = folder.bury(live.generation())?;
        Live::retire(live, remains);
        Ok(())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.live()?.stats()
    }
}

#[cfg(test)]
mod tests;
