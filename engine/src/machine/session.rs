//! Client sessions: why a retried write is applied once (thesis §6.3).
//!
//! A session remembers, per client, the outcomes of the writes its client has not acknowledged yet. The
//! client numbers its writes, repeats the number on a retry, and says below which number all were
//! answered.
//!
//! **Retry horizon.** A retry is recognised as long as its session is remembered. A shard remembers
//! [`SessionLimits::sessions_max`] sessions and [`SessionLimits::shard_outcomes_max`] outcomes, and forgets the
//! session that was used longest ago (by entry index). A client that is silent towards a shard while
//! that many others write to it, and only then retries a write whose first attempt was applied, has it
//! applied again. Within a remembered session a forgotten number is answered [`super::Outcome::SessionExpired`],
//! never applied again.
//!
//! Invariants:
//! - The table is a function of the entries admitted, whatever the batches: eviction happens at the entry
//!   that causes it, and order is by entry index.
//! - `by_use` holds exactly the sessions of `sessions`, under their last use.
//! - In a session, every remembered sequence is at least the floor.
//! - The engine holds the table as of the last batch: one record per session.

mod codec;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use thiserror::Error;

use super::outcome::Outcome;
use crate::command::{SESSION_RANGE, Session, session_client, session_key};
use crate::store::{StorageEngine, StoreError};

/// How much a shard remembers. Part of the state machine: replicas that differ here diverge, so it is
/// not configurable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions per shard; one more makes the shard forget the session used longest ago.
    pub sessions_max: usize,
    /// Writes remembered per session; beyond, its lowest sequences are forgotten. Front doors admit no write that many
    /// sequences above what its client has acknowledged, so this never forgets a write that may still come.
    pub session_writes_max: usize,
    /// Mutation outcomes per shard; beyond, sessions used longest ago are forgotten (but never the one in
    /// use).
    pub shard_outcomes_max: usize,
}

impl SessionLimits {
    /// The limits of every shard: about 10 MiB of memory when all are reached.
    pub const STANDARD: Self =
        Self { sessions_max: 4096, session_writes_max: 1024, shard_outcomes_max: 128 * 1024 };
}

const _: () =
    assert!(SessionLimits::STANDARD.session_writes_max <= SessionLimits::STANDARD.shard_outcomes_max);

/// A session record that cannot be read: rebuild the replica from its peers by snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the record of session {client:#018x} is damaged at byte {at}: {what}")]
pub struct SessionCorrupt {
    /// The client, 0 where the key itself is damaged.
    pub client: u64,
    /// Where in the record.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

/// Why the sessions could not be loaded.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Corrupt(#[from] SessionCorrupt),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LoadError> for super::MachineOpenError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Corrupt(error) => Self::Session(error),
            LoadError::Store(error) => Self::Store(error),
        }
    }
}

/// What to do with a write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// New: execute it, then [`SessionTable::remember`] its outcome.
    Fresh,
    /// Applied before: answer this.
    Duplicate(Outcome),
    /// Below what is remembered.
    Expired,
}

/// A session's record to be written, or to be removed where `value` is `None`.
#[derive(Debug)]
pub(super) struct TouchedRecord {
    pub(super) key: [u8; 10],
    /// Where in the scratch buffer the record lies.
    pub(super) value: Option<Range<usize>>,
}

/// What is remembered of one client.
#[derive(Debug, Default, PartialEq, Eq)]
struct ClientSession {
    /// Index of the entry that used the session last.
    last_used: u64,
    /// Sequences below are forgotten.
    floor: u64,
    /// Outcomes by sequence, ascending.
    outcomes: VecDeque<(u64, Outcome)>,
    /// Mutation outcomes in `outcomes`.
    weight: usize,
}

/// The sessions of one shard.
#[derive(Debug)]
pub(super) struct SessionTable {
    limits: SessionLimits,
    sessions: HashMap<u64, ClientSession>,
    /// Last use → client; one entry uses one session, so no index stands for two.
    by_use: BTreeMap<u64, u64>,
    /// Mutation outcomes of all sessions.
    weight: usize,
    /// Clients whose session changed since the last drain; may hold duplicates.
    touched: Vec<u64>,
}

/// Sessions are loaded in pages of this many.
const LOAD_PAGE: usize = 1024;
const LOAD_PAGE_BYTES: usize = 4 << 20;

impl SessionTable {
    pub(super) fn new(limits: SessionLimits) -> Self {
        Self { limits, sessions: HashMap::new(), by_use: BTreeMap::new(), weight: 0, touched: Vec::new() }
    }

    /// Reads all sessions of the engine. May block.
    pub(super) fn load(engine: &dyn StorageEngine, limits: SessionLimits) -> Result<Self, LoadError> {
        let mut table = Self::new(limits);
        let mut start = SESSION_RANGE.0.to_vec();
        loop {
            let page = engine.scan(&start, &SESSION_RANGE.1, LOAD_PAGE, LOAD_PAGE_BYTES)?;
            for (key, record) in &page.items {
                let Some(client) = session_client(key) else {
                    return Err(SessionCorrupt { client: 0, at: 0, what: "its key is malformed" }.into());
                };
                let session = codec::decode(client, record)?;
                table.weight += session.weight;
                if table.by_use.insert(session.last_used, client).is_some() {
                    let what = "another session was used by the same entry";
                    return Err(SessionCorrupt { client, at: 0, what }.into());
                }
                table.sessions.insert(client, session);
            }
            match page.items.last() {
                Some((key, _)) if page.more => {
                    start.clear();
                    start.extend_from_slice(key);
                    start.push(0);
                }
                _ => return Ok(table),
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Decides what to do with the write of `stamp` in entry `index`, and marks the session used.
    pub(super) fn admit(&mut self, index: u64, stamp: Session) -> Admission {
        self.touch(index, stamp.client);
        let session = self.sessions.get_mut(&stamp.client).expect("touch creates what is missing");
        self.weight -= session.raise_floor(stamp.acked_below);
        if stamp.sequence < session.floor {
            return Admission::Expired;
        }
        match session.find(stamp.sequence) {
            Ok(at) => Admission::Duplicate(session.outcomes[at].1.clone()),
            Err(_) => Admission::Fresh,
        }
    }

    /// Remembers the outcome of a write just admitted as fresh.
    pub(super) fn remember(&mut self, stamp: Session, outcome: &Outcome) {
        let max = self.limits.session_writes_max;
        let session = self.sessions.get_mut(&stamp.client).expect("an admitted write has a session");
        let before = session.weight;
        match session.find(stamp.sequence) {
            Ok(_) => panic!("sequence {} of client {:#x} was applied twice", stamp.sequence, stamp.client),
            Err(at) => session.outcomes.insert(at, (stamp.sequence, outcome.clone())),
        }
        session.weight += weight(outcome);
        session.shed(max);
        self.weight = self.weight - before + session.weight;
        self.evict(stamp.client);
    }

    /// Writes the records of all sessions changed since the last call into `scratch` (replacing what it
    /// held), in the order of their clients.
    pub(super) fn drain_touched(&mut self, scratch: &mut Vec<u8>) -> Vec<TouchedRecord> {
        scratch.clear();
        self.touched.sort_unstable();
        self.touched.dedup();
        let mut records = Vec::with_capacity(self.touched.len());
        for client in self.touched.drain(..) {
            let value = self.sessions.get(&client).map(|session| {
                let start = scratch.len();
                codec::encode(session, scratch);
                start..scratch.len()
            });
            records.push(TouchedRecord { key: session_key(client), value });
        }
        records
    }

    /// Makes `client`'s session the one used last, creating it if need be.
    fn touch(&mut self, index: u64, client: u64) {
        let session = self.sessions.entry(client).or_default();
        let before = std::mem::replace(&mut session.last_used, index);
        assert!(before < index, "entry {index} uses a session already used by entry {before}");
        if before != 0 {
            self.by_use.remove(&before);
        }
        self.by_use.insert(index, client);
        self.touched.push(client);
        self.evict(client);
    }

    /// Forgets the sessions used longest ago until the limits hold, but never that of `client`.
    fn evict(&mut self, client: u64) {
        while self.sessions.len() > self.limits.sessions_max || self.weight > self.limits.shard_outcomes_max {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { return };
            if oldest == client {
                return;
            }
            self.by_use.pop_first();
            let forgotten = self.sessions.remove(&oldest).expect("by_use holds sessions only");
            self.weight -= forgotten.weight;
            self.touched.push(oldest);
        }
    }

    /// Checks the table against its definition; for tests.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.sessions.len(), self.by_use.len());
        assert!(self.sessions.len() <= self.limits.sessions_max.max(1));
        let mut total = 0;
        for (client, session) in &self.sessions {
            assert_eq!(self.by_use.get(&session.last_used), Some(client));
            let weights = session.outcomes.iter().map(|(_, outcome)| weight(outcome)).sum::<usize>();
            assert_eq!(weights, session.weight);
            assert!(session.outcomes.iter().all(|(sequence, _)| *sequence >= session.floor));
            assert!(session.outcomes.iter().is_sorted_by(|a, b| a.0 < b.0));
            assert!(session.outcomes.len() <= self.limits.session_writes_max);
            total += session.weight;
        }
        assert_eq!(total, self.weight);
    }
}

impl ClientSession {
    /// Where `sequence` is remembered, or would be.
    fn find(&self, sequence: u64) -> Result<usize, usize> {
        match self.outcomes.back() {
            // Nearly every write is its client's newest.
            Some((newest, _)) if *newest < sequence => Err(self.outcomes.len()),
            _ => self.outcomes.binary_search_by_key(&sequence, |(sequence, _)| *sequence),
        }
    }

    /// Forgets what lies below `floor`; returns the weight that was freed.
    fn raise_floor(&mut self, floor: u64) -> usize {
        self.floor = self.floor.max(floor);
        let before = self.weight;
        while let Some((sequence, outcome)) = self.outcomes.front() {
            if *sequence >= self.floor {
                break;
            }
            self.weight -= weight(outcome);
            self.outcomes.pop_front();
        }
        before - self.weight
    }

    /// Forgets the lowest sequences until at most `max` writes are left.
    fn shed(&mut self, max: usize) {
        while self.outcomes.len() > max {
            let (sequence, outcome) = self.outcomes.pop_front().expect("there are at least two");
            self.weight -= weight(&outcome);
            self.floor = sequence + 1;
        }
    }
}

/// What remembering an outcome counts for: its mutations, or one where it has none.
fn weight(outcome: &Outcome) -> usize {
    outcome.mutations().len().max(1)
}
