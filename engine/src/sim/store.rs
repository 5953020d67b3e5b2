//! A storage engine for one simulated replica: an ordered map whose crash is a method call.
//!
//! It keeps how to undo what is not durable yet, and a hash of everything it holds, changed with every write: equal
//! states have equal hashes, and comparing two replicas costs nothing.
//!
//! Invariants: `durable ≤ applied`; undoing everything gives the map as of `durable`; `hash` is the sum of the hashes
//! of all items.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use raft::{ConfState, Index, SnapshotMeta, Term};

use super::rng::{Rng, hash_bytes};
use crate::store::{
    Applied, Look, Lookup, OpenError, ReadTier, ScanPage, StorageEngine, StoreError, StoreStats, Write,
    WriteSet,
};

/// All of a state machine at one position.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The items.
    pub map: BTreeMap<Bytes, Bytes>,
    /// The position.
    pub applied: Applied,
    /// Of all items.
    pub hash: u64,
}

#[derive(Debug)]
struct State {
    map: BTreeMap<Bytes, Bytes>,
    applied: Applied,
    durable: Applied,
    /// What each write since `durable` replaced, oldest first.
    undo: Vec<(Bytes, Option<Bytes>)>,
    hash: u64,
    destroyed: bool,
    /// How often, in a million, memory does not have what is looked for.
    cold: u64,
    rng: Rng,
}

/// The engine.
#[derive(Debug)]
pub struct SimEngine(Mutex<State>);

fn item_hash(key: &[u8], value: &[u8]) -> u64 {
    hash_bytes(hash_bytes(1, key), value)
}

impl State {
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Bytes> {
        let old = match value {
            Some(value) => {
                self.hash = self.hash.wrapping_add(item_hash(key, value));
                self.map.insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
            None => self.map.remove(key),
        };
        if let Some(old) = &old {
            self.hash = self.hash.wrapping_sub(item_hash(key, old));
        }
        old
    }

    /// As [`State::set`], and remembers how to undo it.
    fn change(&mut self, key: &[u8], value: Option<&[u8]>) {
        let old = self.set(key, value);
        self.undo.push((Bytes::copy_from_slice(key), old));
    }
}

impl SimEngine {
    /// An empty one.
    pub fn new(cold: u64, rng: Rng) -> SimEngine {
        SimEngine(Mutex::new(State {
            map: BTreeMap::new(),
            applied: Applied::default(),
            durable: Applied::default(),
            undo: Vec::new(),
            hash: 0,
            destroyed: false,
            cold,
            rng,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.destroyed { Err(StoreError::Destroyed { path: PathBuf::new() }) } else { Ok(state) }
    }

    /// The process dies: what was not durable is gone.
    pub fn crash(&self) {
        let mut state = self.state();
        let undo = std::mem::take(&mut state.undo);
        for (key, old) in undo.into_iter().rev() {
            state.set(&key, old.as_deref());
        }
        state.applied = state.durable;
    }

    /// Hash of everything.
    pub fn hash(&self) -> u64 {
        self.state().hash
    }

    /// A copy of everything.
    pub fn image(&self) -> Image {
        let state = self.state();
        Image { map: state.map.clone(), applied: state.applied, hash: state.hash }
    }

    /// Replaces everything, durably.
    pub fn install(&self, image: &Image) {
        let mut state = self.state();
        state.undo.clear();
        state.map.clear();
        state.hash = 0;
        for (key, value) in &image.map {
            state.set(key, Some(value));
        }
        (state.applied, state.durable) = (image.applied, image.applied);
    }
}

/// What a snapshot stands for: its position, and the members as of it.
pub fn snapshot_meta(image: &Image, founders: &ConfState) -> SnapshotMeta {
    let engine = SimEngine::new(0, Rng::new(0, "reader"));
    engine.install(image);
    let machine = super::open_machine(Arc::new(engine), founders);
    SnapshotMeta {
        index: Index(image.applied.index),
        term: Term(image.applied.term),
        conf_state: machine.conf_state().clone(),
    }
}

impl StorageEngine for SimEngine {
    fn apply(&self, writes: &WriteSet<'_>) -> Result<(), StoreError> {
        let mut state = self.live()?;
        assert!(writes.applied.index > state.applied.index, "the applied position must grow");
        for write in writes.writes {
            match write {
                Write::Put { key, value } => state.change(key, Some(value)),
                Write::Delete { key } => state.change(key, None),
                Write::DeleteRange { start, end } if start < end => {
                    let range = (Bound::Included(*start), Bound::Excluded(*end));
                    let keys: Vec<Bytes> =
                        state.map.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
                    keys.iter().for_each(|key| state.change(key, None));
                }
                Write::DeleteRange { .. } => {}
            }
        }
        state.applied = writes.applied;
        Ok(())
    }

    fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.live()?.applied)
    }

    fn applied_durable(&self) -> Result<Applied, StoreError> {
        Ok(self.live()?.durable)
    }

    fn get(&self, key: &[u8], tier: ReadTier) -> Result<Lookup, StoreError> {
        let mut state = self.live()?;
        let cold = state.cold;
        if tier == ReadTier::Memory && state.rng.chance(cold) {
            return Ok(Lookup::NotInMemory);
        }
        Ok(state.map.get(key).map_or(Lookup::Missing, |value| Lookup::Found(value.clone())))
    }

    /// Nothing is applied meanwhile: there is one thread.
    fn read_consistently(&self, read: &mut dyn FnMut(&Look<'_>)) -> Result<(), StoreError> {
        drop(self.live()?);
        read(&|key, tier| self.get(key, tier));
        Ok(())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize, bytes_max: usize) -> Result<ScanPage, StoreError> {
        let mut page = ScanPage::default();
        if start >= end {
            return Ok(page);
        }
        let state = self.live()?;
        let mut bytes = 0;
        for (key, value) in state.map.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))) {
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
        panic!("the simulator keeps snapshots itself, not at {}", path.display())
    }

    fn install_checkpoint(&self, path: &Path) -> Result<Applied, OpenError> {
        panic!("the simulator keeps snapshots itself, not at {}", path.display())
    }

    fn read_checkpoint(&self, path: &Path, _key: &[u8]) -> Result<(Applied, Option<Bytes>), OpenError> {
        panic!("the simulator keeps snapshots itself, not at {}", path.display())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.live()?;
        state.undo.clear();
        state.durable = state.applied;
        Ok(())
    }

    fn destroy(&self) -> Result<(), StoreError> {
        let mut state = self.live()?;
        state.destroyed = true;
        state.map.clear();
        state.undo.clear();
        Ok(())
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        Ok(StoreStats::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(engine: &SimEngine, index: u64, key: &str, value: Option<&str>) {
        let key = key.as_bytes();
        let write = match value {
            Some(value) => Write::Put { key, value: value.as_bytes() },
            None => Write::Delete { key },
        };
        engine.apply(&WriteSet { applied: Applied { index, term: 1 }, writes: &[write] }).unwrap();
    }

    #[test]
    fn a_crash_falls_back_to_what_was_durable() {
        let engine = SimEngine::new(0, Rng::new(1, "store"));
        put(&engine, 1, "a", Some("1"));
        put(&engine, 2, "b", Some("2"));
        engine.flush().unwrap();
        let durable = engine.hash();
        put(&engine, 3, "a", Some("3"));
        put(&engine, 4, "b", None);
        put(&engine, 5, "a", None);
        assert_ne!(engine.hash(), durable);
        engine.crash();
        assert_eq!((engine.hash(), engine.applied().unwrap().index), (durable, 2));
        assert_eq!(engine.get(b"a", ReadTier::All).unwrap(), Lookup::Found(Bytes::from_static(b"1")));
    }

    #[test]
    fn the_hash_is_a_function_of_the_state() {
        let (one, two) = (SimEngine::new(0, Rng::new(1, "x")), SimEngine::new(0, Rng::new(2, "y")));
        put(&one, 1, "a", Some("1"));
        put(&one, 2, "b", Some("2"));
        put(&one, 3, "a", None);
        put(&two, 1, "b", Some("2"));
        assert_eq!(one.hash(), two.hash());
        two.install(&one.image());
        assert_eq!((one.hash(), two.applied().unwrap().index), (two.hash(), 3));
    }
}
