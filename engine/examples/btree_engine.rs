//! A storage engine of one's own, in two hundred lines: a `BTreeMap` that is durable as of its last image.
//!
//! It shows what an engine has to do and what not: it keeps bytes in order, writes a set of them together with the
//! applied position, reads them back, and makes checkpoints. What the bytes mean is decided above it. Its tests are the
//! conformance suite; `cargo test -p ringkv-engine --release --features conformance --example btree_engine` runs them,
//! `cargo run` with the same words shows it at work.
//!
//! It is meant to be read, not used: every image is the whole map, written with the map locked. The engine that ships as
//! `memory` does the same without the lock.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes};
use engine::store::{
    Applied, Look, Lookup, OpenError, ReadTier, ScanPage, StorageEngine, StoreError, StoreStats, Write,
    WriteSet,
};

const IMAGE: &str = "image";

type Map = BTreeMap<Bytes, Bytes>;

#[derive(Default)]
struct State {
    map: Map,
    applied: Applied,
    /// What the image on disk holds: `durable ≤ applied`.
    durable: Applied,
    destroyed: bool,
}

/// The engine. One lock makes every call atomic: readers see whole sets of writes, and one state beside an install.
pub struct BTreeEngine {
    folder: PathBuf,
    state: Mutex<State>,
}

impl BTreeEngine {
    /// Opens the engine of a folder, which is made if need be.
    pub fn open(folder: &Path) -> Result<BTreeEngine, OpenError> {
        fs::create_dir_all(folder).map_err(|error| open_error(folder, &error))?;
        let state = match load(folder)? {
            Some((map, applied)) => State { map, applied, durable: applied, destroyed: false },
            None => State::default(),
        };
        Ok(BTreeEngine { folder: folder.to_owned(), state: Mutex::new(state) })
    }

    /// Every call begins here, and ends here once the engine was destroyed.
    fn lock(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.destroyed { Err(StoreError::Destroyed { path: self.folder.clone() }) } else { Ok(state) }
    }
}

impl StorageEngine for BTreeEngine {
    fn apply(&self, writes: &WriteSet<'_>) -> Result<(), StoreError> {
        let mut state = self.lock()?;
        assert!(writes.applied.index > state.applied.index, "the applied position must grow");
        for write in writes.writes {
            match write {
                Write::Put { key, value } => {
                    state.map.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                Write::Delete { key } => {
                    state.map.remove(*key);
                }
                Write::DeleteRange { start, end } => {
                    state.map.retain(|key, _| key[..] < **start || key[..] >= **end);
                }
            }
        }
        state.applied = writes.applied;
        Ok(())
    }

    fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.lock()?.applied)
    }

    fn applied_durable(&self) -> Result<Applied, StoreError> {
        Ok(self.lock()?.durable)
    }

    fn get(&self, key: &[u8], _tier: ReadTier) -> Result<Lookup, StoreError> {
        // Everything is in memory, so the tier does not matter.
        Ok(self.lock()?.map.get(key).map_or(Lookup::Missing, |value| Lookup::Found(value.clone())))
    }

    fn read_consistently(&self, read: &mut dyn FnMut(&Look<'_>)) -> Result<(), StoreError> {
        // A copy, for writes must go on meanwhile. An engine of more than a few keys shares what does not change.
        let map = self.lock()?.map.clone();
        read(&|key, _tier| Ok(map.get(key).map_or(Lookup::Missing, |value| Lookup::Found(value.clone()))));
        Ok(())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize, bytes_max: usize) -> Result<ScanPage, StoreError> {
        let mut page = ScanPage::default();
        let state = self.lock()?;
        let mut bytes = 0;
        let from_start = state.map.range(Bytes::copy_from_slice(start)..);
        for (key, value) in from_start.take_while(|(key, _)| key[..] < *end) {
            bytes += key.len() + value.len();
            if page.items.len() == limit || (!page.items.is_empty() && bytes > bytes_max) {
                page.more = true;
                break;
            }
            page.items.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    fn create_checkpoint(&self, path: &Path) -> Result<Applied, StoreError> {
        let state = self.lock()?;
        fs::create_dir(path)
            .and_then(|()| save(path, &state.map, state.applied))
            .map_err(|error| store_error(path, &error))?;
        Ok(state.applied)
    }

    fn read_checkpoint(&self, path: &Path, key: &[u8]) -> Result<(Applied, Option<Bytes>), OpenError> {
        let (map, applied) = load(path)?.ok_or_else(|| foreign(path))?;
        Ok((applied, map.get(key).cloned()))
    }

    fn install_checkpoint(&self, path: &Path) -> Result<Applied, OpenError> {
        let destroyed = |_| OpenError::Destroyed { path: self.folder.clone() };
        let (map, applied) = load(path)?.ok_or_else(|| foreign(path))?;
        let mut state = self.lock().map_err(destroyed)?;
        // The rename is what makes it happen: before it the old image is in place, after it the new one.
        fs::rename(path.join(IMAGE), self.folder.join(IMAGE))
            .and_then(|()| sync(&self.folder))
            .and_then(|()| fs::remove_dir_all(path))
            .map_err(|error| open_error(path, &error))?;
        *state = State { map, applied, durable: applied, destroyed: false };
        Ok(applied)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.lock()?;
        save(&self.folder, &state.map, state.applied).map_err(|error| store_error(&self.folder, &error))?;
        state.durable = state.applied;
        Ok(())
    }

    fn destroy(&self) -> Result<(), StoreError> {
        let mut state = self.lock()?;
        fs::remove_dir_all(&self.folder).map_err(|error| store_error(&self.folder, &error))?;
        *state = State { destroyed: true, ..State::default() };
        Ok(())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        let state = self.lock()?;
        let bytes: usize = state.map.iter().map(|(key, value)| key.len() + value.len()).sum();
        let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let (memtable_bytes, keys_estimate) = (wide(bytes), wide(state.map.len()));
        Ok(StoreStats { memtable_bytes, keys_estimate, ..StoreStats::default() })
    }
}

/// Writes the whole map: position, count, then lengths and bytes, then a checksum of it all.
fn save(folder: &Path, map: &Map, applied: Applied) -> io::Result<()> {
    let mut image = Vec::new();
    image.put_u64_le(applied.index);
    image.put_u64_le(applied.term);
    for bytes in map.iter().flat_map(|(key, value)| [key, value]) {
        image.put_u32_le(u32::try_from(bytes.len()).map_err(io::Error::other)?);
        image.put_slice(bytes);
    }
    let checksum = crc32c::crc32c(&image);
    image.put_u32_le(checksum);
    let partial = folder.join("image.partial");
    let mut file = File::create(&partial)?;
    file.write_all(&image)?;
    file.sync_all()?;
    fs::rename(&partial, folder.join(IMAGE))?;
    sync(folder)
}

/// Makes the names in a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads an image back; `None`: there is none.
fn load(folder: &Path) -> Result<Option<(Map, Applied)>, OpenError> {
    let image = match fs::read(folder.join(IMAGE)) {
        Ok(image) => Bytes::from(image),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open_error(folder, &error)),
    };
    let corrupt = || OpenError::Corrupt { path: folder.to_owned(), detail: "the image is damaged".into() };
    parse(image).map(Some).ok_or_else(corrupt)
}

fn parse(mut image: Bytes) -> Option<(Map, Applied)> {
    let checksum = image.split_off(image.len().checked_sub(4)?).get_u32_le();
    if image.len() < 16 || crc32c::crc32c(&image) != checksum {
        return None;
    }
    let applied = Applied { index: image.get_u64_le(), term: image.get_u64_le() };
    let mut map = Map::new();
    while !image.is_empty() {
        let mut piece = || {
            let length = (image.len() >= 4).then(|| image.get_u32_le())?;
            let length = usize::try_from(length).ok().filter(|length| *length <= image.len())?;
            Some(image.split_to(length))
        };
        map.insert(piece()?, piece()?);
    }
    Some((map, applied))
}

fn foreign(path: &Path) -> OpenError {
    OpenError::Foreign { path: path.to_owned(), detail: "no image in it".into() }
}

fn open_error(path: &Path, error: &io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), detail: error.to_string() }
}

/// A full disk is no damage: the replica refuses writes, and goes on when there is room again.
fn store_error(path: &Path, error: &io::Error) -> StoreError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::NoSpace { path, detail },
        _ => StoreError::Io { path, detail },
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join(format!("btree-engine-{}", std::process::id()));
    let engine = BTreeEngine::open(&folder)?;
    let writes = [Write::Put { key: b"\x01greeting", value: b"hello" }];
    engine.apply(&WriteSet { applied: Applied { index: 1, term: 1 }, writes: &writes })?;
    engine.flush()?;
    drop(engine);
    let engine = BTreeEngine::open(&folder)?;
    println!("at {:?}: {:?}", engine.applied()?, engine.get(b"\x01greeting", ReadTier::All)?);
    engine.destroy()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Box<dyn StorageEngine> {
        Box::new(BTreeEngine::open(folder).expect("open"))
    }

    engine::conformance_tests!(open);
}
