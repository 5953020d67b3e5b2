//! An ordered map in memory: for data that fits there, for tests, and as the model other engines are compared
//! with.
//!
//! Opened on a folder, it is durable as of its last image, a file that holds the whole map: a checkpoint is one and
//! makes the engine durable on the way, and [`StorageEngine::flush`] writes one for itself. In between
//! `applied_durable` stands still. Without a folder nothing is ever durable.
//!
//! An image is written from a copy that shares all keys and values with the map, while reads and writes go on; what
//! is written meanwhile costs memory beside what it replaces. Installing a checkpoint holds the old map and the new
//! one at a time, for readers see the old one until the new one is known to be whole.
//!
//! Invariants:
//! - `durable ≤ applied`.
//! - The image file is replaced by rename, so a crash leaves the old or the new one.

mod cow_map;
mod image;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::{
    Applied, Look, Lookup, OpenError, ReadTier, ScanPage, StorageEngine, StoreError, StoreStats, Write,
    WriteSet, files,
};
use cow_map::CowMap;

/// Bytes a map entry costs beyond key and value, for the figures; an estimate.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// The map and what is true of it as a whole.
#[derive(Clone, Debug, Default)]
struct State {
    map: CowMap,
    applied: Applied,
    durable: Applied,
    destroyed: bool,
}

/// The in-memory engine.
#[derive(Debug, Default)]
pub struct MemEngine {
    state: RwLock<State>,
    /// Where images go; `None` for an engine that is never durable.
    folder: Option<PathBuf>,
    /// Held while an image is written or installed: one at a time.
    image: Mutex<()>,
}

impl MemEngine {
    /// An empty engine that is never durable.
    pub fn new() -> Self {
        Self::default()
    }

    /// The engine whose image lies in `folder`, which is made if need be; empty if there is none.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        std::fs::create_dir_all(folder).map_err(|error| open_io(folder, &error))?;
        let state = match image::read(folder)? {
            Some((map, applied)) => State { map, applied, durable: applied, destroyed: false },
            None => State::default(),
        };
        Ok(Self { state: RwLock::new(state), folder: Some(folder.to_owned()), image: Mutex::new(()) })
    }

    /// Where the engine is, for errors.
    fn path(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| PathBuf::from("(memory)"))
    }

    // A panic while the lock was held aborts the process, so a poisoned lock is never seen in
    // production; in tests the state is whole, since no update panics halfway.
    fn read(&self) -> Result<RwLockReadGuard<'_, State>, StoreError> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.destroyed { Err(StoreError::Destroyed { path: self.path() }) } else { Ok(state) }
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, State>, StoreError> {
        let state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.destroyed { Err(StoreError::Destroyed { path: self.path() }) } else { Ok(state) }
    }

    /// The map as it is now, held still.
    fn frozen(&self) -> Result<(CowMap, Applied), StoreError> {
        let state = self.read()?;
        Ok((state.map.clone(), state.applied))
    }

    fn image_turn(&self) -> MutexGuard<'_, ()> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageEngine for MemEngine {
    fn apply(&self, writes: &WriteSet<'_>) -> Result<(), StoreError> {
        let mut state = self.write()?;
        assert!(writes.applied.index > state.applied.index, "the applied position must grow");
        for write in writes.writes {
            match write {
                Write::Put { key, value } => {
                    state.map.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                Write::Delete { key } => {
                    state.map.remove(key);
                }
                Write::DeleteRange { start, end } => state.map.remove_range(start, end),
            }
        }
        state.applied = writes.applied;
        Ok(())
    }

    fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.read()?.applied)
    }

    fn applied_durable(&self) -> Result<Applied, StoreError> {
        Ok(self.read()?.durable)
    }

    fn get(&self, key: &[u8], _tier: ReadTier) -> Result<Lookup, StoreError> {
        Ok(self.read()?.map.get(key).map_or(Lookup::Missing, |value| Lookup::Found(value.clone())))
    }

    fn read_consistently(&self, read: &mut dyn FnMut(&Look<'_>)) -> Result<(), StoreError> {
        let (map, _) = self.frozen()?;
        read(&|key, _tier| Ok(map.get(key).map_or(Lookup::Missing, |value| Lookup::Found(value.clone()))));
        Ok(())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize, bytes_max: usize) -> Result<ScanPage, StoreError> {
        let mut page = ScanPage::default();
        if start >= end {
            return Ok(page);
        }
        let state = self.read()?;
        let mut bytes = 0;
        for (key, value) in state.map.range(start, end) {
            let item_bytes = key.len() + value.len();
            if page.items.len() == limit || (!page.items.is_empty() && bytes + item_bytes > bytes_max) {
                page.more = true;
                break;
            }
            bytes += item_bytes;
            page.items.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    fn create_checkpoint(&self, path: &Path) -> Result<Applied, StoreError> {
        let _turn = self.image_turn();
        let (map, applied) = self.frozen()?;
        image::save_checkpoint(path, &map, applied).map_err(|error| image::write_error(path, &error))?;
        if let Some(folder) = &self.folder {
            image::link(path, folder).map_err(|error| image::write_error(folder, &error))?;
            self.write()?.durable = applied;
        }
        Ok(applied)
    }

    fn read_checkpoint(&self, path: &Path, key: &[u8]) -> Result<(Applied, Option<Bytes>), OpenError> {
        image::peek(path, key)?.ok_or_else(|| no_image(path))
    }

    fn install_checkpoint(&self, path: &Path) -> Result<Applied, OpenError> {
        let _turn = self.image_turn();
        drop(self.read().map_err(|_| OpenError::Destroyed { path: self.path() })?);
        let (map, applied) = image::read(path)?.ok_or_else(|| no_image(path))?;
        let mut durable = Applied::default();
        if let Some(folder) = &self.folder {
            image::adopt(path, folder).map_err(|error| open_io(folder, &error))?;
            durable = applied;
        }
        let replaced = {
            let mut state = self.write().map_err(|_| OpenError::Destroyed { path: self.path() })?;
            std::mem::replace(&mut *state, State { map, applied, durable, destroyed: false })
        };
        // Not under the lock: there may be much to free.
        drop(replaced);
        files::remove(path).map_err(|error| open_io(path, &error))?;
        Ok(applied)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else { return self.read().map(drop) };
        let _turn = self.image_turn();
        {
            let state = self.read()?;
            if state.durable == state.applied {
                return Ok(());
            }
        }
        let (map, applied) = self.frozen()?;
        image::save(folder, &map, applied).map_err(|error| image::write_error(folder, &error))?;
        self.write()?.durable = applied;
        Ok(())
    }

    fn destroy(&self) -> Result<(), StoreError> {
        let _turn = self.image_turn();
        let mut state = self.write()?;
        if let Some(folder) = &self.folder {
            image::remove(folder).map_err(|error| image::write_error(folder, &error))?;
        }
        *state = State { destroyed: true, ..State::default() };
        Ok(())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.read()?;
        let bytes = state.map.bytes() + state.map.len() * ENTRY_OVERHEAD_BYTES;
        let memtable_bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let keys_estimate = u64::try_from(state.map.len()).unwrap_or(u64::MAX);
        Ok(StoreStats { memtable_bytes, keys_estimate, ..StoreStats::default() })
    }
}

fn no_image(path: &Path) -> OpenError {
    OpenError::Foreign { path: path.to_owned(), detail: "no image in it".to_owned() }
}

fn open_io(path: &Path, error: &std::io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), detail: error.to_string() }
}

#[cfg(test)]
mod tests;
