//! One more state machine per shard, fed every entry when it is first committed, one at a time: what all replicas must
//! agree with. It remembers what every entry answered and what every key held when.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use raft::testing::checker::Violation;
use raft::{ConfState, Entry};

use super::super::rng::Rng;
use super::super::store::SimEngine;
use super::exactly_once::ExactlyOnce;
use crate::command::{self, Op, Record};
use crate::core::machine_entry;
use crate::machine::{Machine, Outcome, division};
use crate::store::{Applied, Lookup, ReadTier, StorageEngine};

/// The state machine and its past. What was cut off another shard has that one's past up to the cut.
pub struct Reference {
    engine: Arc<SimEngine>,
    machine: Machine,
    /// State after each entry, from index 1.
    hashes: Vec<u64>,
    outcomes: HashMap<u64, Outcome>,
    /// Stored value of each key after each entry that touched it.
    values: HashMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    exactly_once: ExactlyOnce,
}

impl Reference {
    /// Nothing is committed.
    pub fn new(founders: &ConfState) -> Reference {
        let engine = Arc::new(SimEngine::new(0, Rng::new(0, "reference")));
        let shared: Arc<dyn StorageEngine> = engine.clone();
        let machine = super::super::open_machine(shared, founders);
        Reference {
            engine,
            machine,
            hashes: Vec::new(),
            outcomes: HashMap::new(),
            values: HashMap::new(),
            exactly_once: ExactlyOnce::default(),
        }
    }

    /// The shard that an entry, which is the next to be committed, cuts off, with what its state machine is then.
    pub fn cut_by(&self, entry: &Entry) -> Option<(u32, Reference)> {
        let entry = machine_entry(entry.clone(), false);
        let cut = self.machine.cut_by(&entry)?;
        let engine = Arc::new(SimEngine::new(0, Rng::new(0, "reference")));
        engine.install(&self.engine.image());
        let at = Applied { index: entry.index, term: entry.term };
        division::found(engine.as_ref(), &cut, at).expect("a simulated engine always can");
        let shared: Arc<dyn StorageEngine> = engine.clone();
        let machine = super::super::open_machine(shared, &cut.founders);
        let mut hashes = self.hashes.clone();
        hashes.push(engine.hash());
        let (outcomes, values) = (self.outcomes.clone(), self.values.clone());
        let exactly_once = self.exactly_once.clone();
        Some((cut.into, Reference { engine, machine, hashes, outcomes, values, exactly_once }))
    }

    /// The next entry is committed.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Violation> {
        let index = entry.index.0;
        let entry = machine_entry(entry.clone(), true);
        let payload = entry.payload.clone();
        // Commands cannot tell what has expired from what is not there, and it is removed at any time.
        let command = command::decode(&payload);
        let clock_ms = command.as_ref().map_or(0, |command| command.time_ms).max(self.machine.clock_ms());
        let ops = || command.iter().flat_map(|command| command.ops());
        let visible = |engine: &SimEngine| -> Vec<Option<Bytes>> {
            ops().map(|op| stored(engine, key_of(op)).filter(|it| is_visible(it, clock_ms))).collect()
        };
        let before = visible(&self.engine);
        let mut applied = self.machine.apply(&[entry]).map_err(|error| Violation {
            property: "what is committed can be applied",
            detail: error.to_string(),
        })?;
        self.hashes.push(self.engine.hash());
        let changed = visible(&self.engine) != before;
        let Ok(command) = &command else { return Ok(()) };
        let Some((_, outcome)) = applied.outcomes.pop() else { return Ok(()) };
        // Nothing was done: as if it had never been there.
        if outcome == Outcome::WrongShard && !changed {
            return Ok(());
        }
        if let Some(session) = command.session {
            self.exactly_once.observe(index, &session, &outcome, changed)?;
        }
        for op in command.ops() {
            let key = key_of(op);
            let past = self.values.entry(Bytes::copy_from_slice(key)).or_default();
            past.push((index, stored(&self.engine, key)));
        }
        self.outcomes.insert(index, outcome);
        Ok(())
    }

    /// Hash of the state after an entry.
    pub fn hash_at(&self, index: u64) -> Option<u64> {
        match index.checked_sub(1) {
            None => Some(0),
            Some(at) => self.hashes.get(usize::try_from(at).expect("64-bit machine")).copied(),
        }
    }

    /// What the command at an index answered.
    pub fn outcome(&self, index: u64) -> Option<&Outcome> {
        self.outcomes.get(&index)
    }

    /// Everything that a key has held, with the index from which on; nothing before the first.
    pub fn values(&self, stored_key: &[u8]) -> &[(u64, Option<Bytes>)] {
        self.values.get(stored_key).map_or(&[], Vec::as_slice)
    }
}

fn key_of(op: Op<'_>) -> &[u8] {
    let (Op::Put { key, .. } | Op::Delete { key } | Op::CompareAndSwap { key, .. }) = op;
    key.as_bytes()
}

fn stored(engine: &SimEngine, key: &[u8]) -> Option<Bytes> {
    match engine.get(key, ReadTier::All) {
        Ok(Lookup::Found(value)) => Some(value),
        _ => None,
    }
}

fn is_visible(stored: &Bytes, clock_ms: u64) -> bool {
    Record::parse(stored).is_ok_and(|record| record.is_visible(clock_ms))
}
