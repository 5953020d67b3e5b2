//! A replica's state machine: applies committed entries to its storage engine, on the apply thread.
//!
//! Invariants:
//! - **Deterministic.** State and outcomes are a function of the log alone: time comes from the entries
//!   (`time_ms`, made monotonic), never from a clock; nothing depends on how the log is cut into batches,
//!   on `want_outcome`, or on a restart in between.
//! - **Exactly once.** A write with a session that was already applied changes nothing and answers what it
//!   answered the first time, as long as its session is remembered (see [`SessionLimits`]).
//! - **All or nothing.** A command whose compare-and-swap fails writes nothing; a batch of entries, its
//!   sessions, clock and applied position reach the engine in one atomic write, or in a few where expired values
//!   are removed in between.
//! - Applied entries only grow in index; the engine's `applied` is the machine's.
//! - A key outside of the machine's slots is never read or written by an entry once the machine has slots on record: see
//!   `division`, which says what becomes of a machine that is cut in two.
//! - The membership ([`Machine::conf_state`]) is that of the last membership change applied, and lies beside
//!   the applied position: what is opened again, or installed from a checkpoint, knows who belongs to the group.
//!
//! After an error of [`Machine::apply`] the machine must be dropped: its sessions may be ahead of the
//! engine. Open a new one on the engine to go on.

pub(crate) mod division;
mod error;
mod expiry;
pub(crate) mod membership;
mod outcome;
mod overlay;
mod program;
mod read;
mod session;
mod topology;

use std::sync::Arc;

use bumpalo::Bump;
use bytes::Bytes;
use raft::confchange::changed;
use raft::mutation::{self, Mutation};
use raft::{ConfState, EntryKind};

use crate::command::{Command, Division, Expected, META_TAG, Op, Record, StoredKey, decode, removal_time};
use crate::store::{Applied, Lookup, ReadTier, StorageEngine, StoreError, Write, WriteSet};
use crate::topology::{Change, Topology};

pub use division::{Cut, Domain, Slots, SlotsCorrupt};
pub use error::{ApplyError, MachineOpenError};
pub use membership::ConfStateCorrupt;
pub use outcome::{MutationOutcome, Outcome};
pub(crate) use program::{Budgeted, Halt, ReadBudget, Replies, run_command};
pub(crate) use read::visible;
pub use read::{
    ReadError, ReadValue, ScanItem, ScanPosition, ScanValues, StoredValue, count_stored, read_value,
    scan_values,
};
pub use session::{SessionCorrupt, SessionLimits};
pub use topology::TopologyCorrupt;

use expiry::Expiries;
use outcome::Told;
use overlay::Overlay;
use session::{Admission, SessionTable};

/// A committed entry, as the machine wants it.
#[derive(Clone, Debug)]
pub struct MachineEntry {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
    /// What the entry is for: a command, a leader's first entry, or a membership change.
    pub kind: EntryKind,
    /// What belongs to the kind: an encoded command ([`crate::command::encode`]), or empty where the entry only
    /// moves the position; an encoded membership change; nothing.
    pub payload: Bytes,
    /// Whether someone waits for the outcome: the leader does, followers save the work.
    pub want_outcome: bool,
}

/// What [`Machine::apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedBatch {
    /// The position reached.
    pub applied: Applied,
    /// The outcomes asked for, by index, in the order of the entries.
    pub outcomes: Vec<(u64, Outcome)>,
    /// The changes of the cluster map that were accepted, in order.
    pub changes: Vec<Change>,
}

/// Where the machine's clock is kept, so that a restart or a snapshot cannot turn it back.
const CLOCK_KEY: [u8; 2] = [META_TAG, b'c'];

/// A replica's state machine.
///
/// Call order: [`Machine::open`], then [`Machine::apply`] with entries past [`Machine::applied`]. After a
/// checkpoint was installed into the engine, open a new machine.
pub struct Machine {
    engine: Arc<dyn StorageEngine>,
    sessions: SessionTable,
    /// The highest leader clock seen, in milliseconds since the Unix epoch.
    clock_ms: u64,
    applied: Applied,
    conf_state: ConfState,
    /// Whether the engine holds `conf_state`; a store made before there were membership changes does not.
    conf_state_stored: bool,
    /// The slots that are the machine's own, if it has a record of them, and whether the engine holds that.
    domain: Option<Domain>,
    domain_stored: bool,
    expiries: Expiries,
    /// Entries between two removals of what has expired.
    sweep_every: u64,
    /// Session records of the batch being applied; kept for its capacity.
    scratch: Vec<u8>,
    /// The cluster map, where this is the meta shard's and the cluster was founded.
    topology: Option<Topology>,
    /// What the map's changes in the batch being applied have to store, and those changes.
    topology_records: topology::Records,
    topology_changes: Vec<Change>,
    /// Keys and records that programs write in the batch being applied; kept for its capacity.
    arena: Bump,
}

/// A batch ends after the entry by which programs have written so much: it is in memory until then.
const ARENA_BYTES_MAX: usize = 16 << 20;
/// What is kept of the arena between batches.
const ARENA_KEPT_BYTES_MAX: usize = 1 << 20;

/// What a machine's owner is told of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The machine's clock, in milliseconds since the Unix epoch.
    pub clock_ms: u64,
    /// When something that has expired may next be removed; `u64::MAX` for never.
    pub due_ms: u64,
}

/// Part of the state machine: replicas that differ here diverge.
const SWEEP_EVERY: u64 = 64;

impl Machine {
    /// Starts on what `engine` holds. `initial` is the membership the group was founded with: it holds until
    /// the engine has a record of its own. Reads every session; may block.
    pub fn open(engine: Arc<dyn StorageEngine>, initial: ConfState) -> Result<Self, MachineOpenError> {
        Self::open_with_limits(engine, initial, SessionLimits::STANDARD)
    }

    /// As [`Machine::open`], with other bounds for sessions, for tests that want to reach them.
    fn open_with_limits(
        engine: Arc<dyn StorageEngine>,
        initial: ConfState,
        limits: SessionLimits,
    ) -> Result<Self, MachineOpenError> {
        let sessions = match mutation::active(Mutation::ForgetSessions) {
            true => SessionTable::new(limits),
            false => SessionTable::load(engine.as_ref(), limits)?,
        };
        let clock_ms = match engine.get(&CLOCK_KEY, ReadTier::All)? {
            Lookup::Found(clock) => match <[u8; 8]>::try_from(clock.as_ref()) {
                Ok(clock) => u64::from_le_bytes(clock),
                Err(_) => return Err(MachineOpenError::Clock { bytes: clock.len() }),
            },
            Lookup::Missing => 0,
            Lookup::NotInMemory => unreachable!("a read of every tier answers"),
        };
        let stored = membership::read(engine.as_ref())??;
        let conf_state_stored = stored.is_some();
        let conf_state = stored.unwrap_or(initial);
        let domain = division::read(engine.as_ref())??;
        let mut applied = engine.applied()?;
        if mutation::active(Mutation::ApplyTwice) {
            applied.index = applied.index.saturating_sub(1);
        }
        let expiries = Expiries::load(engine.as_ref())?;
        let topology = topology::load(engine.as_ref())??;
        Ok(Self {
            engine,
            sessions,
            clock_ms,
            applied,
            conf_state,
            conf_state_stored,
            domain,
            domain_stored: true,
            expiries,
            sweep_every: SWEEP_EVERY,
            scratch: Vec::new(),
            topology,
            topology_records: Vec::new(),
            topology_changes: Vec::new(),
            arena: Bump::new(),
        })
    }

    /// The last entry applied.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The machine's clock: the highest leader clock it has seen, in milliseconds since the Unix epoch.
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }

    /// The machine's clock, and when something that has expired may next be removed.
    pub fn times(&self) -> Times {
        Times { clock_ms: self.clock_ms, due_ms: self.expiries.next_ms() }
    }

    /// Who belongs to the group, as of [`Machine::applied`].
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// The cluster map as of [`Machine::applied`], where this is the meta shard's.
    pub fn topology(&self) -> Option<&Topology> {
        self.topology.as_ref()
    }

    /// The slots that are the machine's own, if they are on record.
    pub fn domain(&self) -> Option<Domain> {
        self.domain
    }

    /// What becomes of the machine at an entry, which is the next to be applied, if that cuts it in two.
    pub fn cut_by(&self, entry: &MachineEntry) -> Option<Cut> {
        Cut::of(division_in(entry)?, self.domain, &self.conf_state)
    }

    /// How many client sessions are remembered.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The engine below.
    pub fn engine(&self) -> &Arc<dyn StorageEngine> {
        &self.engine
    }

    /// Applies committed entries. May block on the disk where a compare-and-swap or the outcome of a delete needs a
    /// value that is not in memory, and where what has expired is removed.
    ///
    /// # Panics
    /// When an entry's index does not grow: the caller mixed up its log.
    pub fn apply(&mut self, entries: &[MachineEntry]) -> Result<AppliedBatch, ApplyError> {
        let mut outcomes = Told::default();
        let mut rest = entries;
        while let Some(first) = rest.first() {
            let swept = match self.sweep_time_before(first) {
                Some(clock_ms) => self.expiries.sweep(self.engine.as_ref(), first.index, clock_ms)?,
                None => Vec::new(),
            };
            let applied = self.apply_run(rest, &swept, &mut outcomes)?;
            rest = &rest[applied..];
        }
        let changes = std::mem::take(&mut self.topology_changes);
        Ok(AppliedBatch { applied: self.applied, outcomes: outcomes.outcomes, changes })
    }

    /// By which time what has expired is removed just before an entry, if it is. The log alone decides: where the entry
    /// is, whether it is there to have it removed, and what is due by then.
    fn sweep_time_before(&self, entry: &MachineEntry) -> Option<u64> {
        let clock_ms = match removal_time(&entry.payload) {
            Some(time_ms) => Some(self.clock_ms.max(time_ms)),
            None if self.applied.index / self.sweep_every != entry.index / self.sweep_every => {
                Some(self.clock_ms)
            }
            None => None,
        };
        clock_ms.filter(|clock_ms| self.expiries.is_due(*clock_ms))
    }

    /// Removes what was swept and applies entries, in one atomic write: all of them, or those up to the next sweep, which
    /// must see them in the engine. Returns how many.
    fn apply_run(
        &mut self,
        entries: &[MachineEntry],
        swept: &[Bytes],
        outcomes: &mut Told,
    ) -> Result<usize, ApplyError> {
        let mut arena = std::mem::take(&mut self.arena);
        let count = self.apply_over(&arena, entries, swept, outcomes)?;
        if arena.allocated_bytes() > ARENA_KEPT_BYTES_MAX {
            arena = Bump::new();
        }
        arena.reset();
        self.arena = arena;
        Ok(count)
    }

    fn apply_over(
        &mut self,
        arena: &Bump,
        entries: &[MachineEntry],
        swept: &[Bytes],
        outcomes: &mut Told,
    ) -> Result<usize, ApplyError> {
        let mut overlay = Overlay::with_capacity(swept.len() + entries.len() + 2);
        let clock_before = self.clock_ms;
        overlay.begin_command();
        swept.iter().for_each(|key| overlay.push(Write::Delete { key }));
        let mut count = 0;
        for entry in entries {
            assert!(
                entry.index > self.applied.index,
                "entry {} comes after entry {} was applied",
                entry.index,
                self.applied.index
            );
            let is_full = arena.allocated_bytes() > ARENA_BYTES_MAX;
            let division = division_in(entry);
            if count > 0 && (is_full || division.is_some() || self.sweep_time_before(entry).is_some()) {
                break;
            }
            let outcome = match division {
                Some(division) => self.divide(&mut overlay, arena, division).map(Some)?,
                None => self.apply_entry(&mut overlay, arena, entry)?,
            };
            if entry.want_outcome {
                outcomes.push(entry.index, outcome.expect("an outcome that is wanted is computed"));
            }
            self.applied = Applied { index: entry.index, term: entry.term };
            count += 1;
            if division.is_some() {
                break;
            }
        }
        self.write(overlay.into_writes(), clock_before)?;
        Ok(count)
    }

    /// Writes what commands did, and the machine's own records that changed since the last write.
    fn write(&mut self, commanded: Vec<Write<'_>>, clock_before: u64) -> Result<(), StoreError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let clock = self.clock_ms.to_le_bytes();
        let records = self.sessions.drain_touched(&mut scratch);
        let topology = std::mem::take(&mut self.topology_records);
        let (members, domain);
        // The same writes, which may now borrow from here as well.
        let mut writes: Vec<Write<'_>> = commanded;
        for record in &records {
            writes.push(match &record.value {
                Some(range) => Write::Put { key: &record.key, value: &scratch[range.clone()] },
                None => Write::Delete { key: &record.key },
            });
        }
        writes.extend(self.expiries.pending().map(|key| Write::Put { key, value: &[] }));
        if self.clock_ms != clock_before {
            writes.push(Write::Put { key: &CLOCK_KEY, value: &clock });
        }
        if !self.conf_state_stored {
            members = membership::encode(&self.conf_state);
            writes.push(Write::Put { key: &membership::KEY, value: &members });
        }
        writes.extend(topology.iter().map(|(key, record)| match record {
            Some(value) => Write::Put { key, value },
            None => Write::Delete { key },
        }));
        if let Some(own) = self.domain.filter(|_| !self.domain_stored) {
            domain = division::encode(own);
            writes.push(Write::Put { key: &division::KEY, value: &domain });
        }
        self.engine.apply(&WriteSet { applied: self.applied, writes: &writes })?;
        drop(writes);
        self.expiries.written();
        self.conf_state_stored = true;
        self.domain_stored = true;
        self.scratch = scratch;
        Ok(())
    }

    /// Cuts the machine in two, or removes what is not its own any more.
    fn divide<'a>(
        &mut self,
        overlay: &mut Overlay<'a>,
        arena: &'a Bump,
        division: Division,
    ) -> Result<Outcome, ApplyError> {
        let domain = match (division, self.domain) {
            (Division::Trim, Some(own)) => {
                division::trim(self.engine.as_ref(), own.slots, overlay, arena)?;
                Some(Domain { is_trimmed: true, ..own })
            }
            (Division::Trim, None) => None,
            (Division::Split { .. }, _) => Cut::of(division, self.domain, &self.conf_state)
                .map(|cut| Domain { slots: cut.kept, is_trimmed: false }),
        };
        if domain.is_some() {
            self.domain = domain;
            self.domain_stored = false;
        }
        Ok(Outcome::empty())
    }

    fn slots(&self) -> Option<Slots> {
        self.domain.map(|domain| domain.slots)
    }

    /// Whether a key is none of the machine's.
    fn is_outside(&self, key: StoredKey<'_>) -> bool {
        self.slots().is_some_and(|(first, last)| key.slot() < first || key.slot() > last)
    }

    /// Applies one entry into the overlay. `None` where nobody needs the outcome.
    fn apply_entry<'a>(
        &mut self,
        overlay: &mut Overlay<'a>,
        arena: &'a Bump,
        entry: &'a MachineEntry,
    ) -> Result<Option<Outcome>, ApplyError> {
        let index = entry.index;
        if entry.kind == EntryKind::ConfChange {
            self.conf_state = changed(&self.conf_state, &entry.payload)
                .map_err(|source| ApplyError::ConfChange { index, source })?;
            self.conf_state_stored = false;
            return Ok(Some(Outcome::empty()));
        }
        if entry.payload.is_empty() {
            return Ok(Some(Outcome::empty()));
        }
        if let Some(change) = Change::decode(&entry.payload) {
            if topology::apply(&mut self.topology, &change, &mut self.topology_records) {
                self.topology_changes.push(change);
            }
            return Ok(Some(Outcome::empty()));
        }
        let command = decode(&entry.payload).map_err(|source| ApplyError::Decode { index, source })?;
        if command.version != index {
            return Err(ApplyError::Version { index, version: command.version });
        }
        self.clock_ms = self.clock_ms.max(command.time_ms);
        if let Some(program) = &command.program {
            let context = program::Context {
                engine: self.engine.as_ref(),
                clock_ms: self.clock_ms,
                slots: self.slots(),
                expiries: &mut self.expiries,
            };
            return program::execute(context, overlay, arena, entry, program).map(Some);
        }
        // Before the session is looked at: nothing of it is remembered where its keys are not.
        if self.domain.is_some() && command.ops().any(|op| self.is_outside(op.key())) {
            return Ok(Some(Outcome::WrongShard));
        }
        let Some(session) = command.session else {
            return self.execute(overlay, index, &command, entry.want_outcome);
        };
        match self.sessions.admit(index, session) {
            Admission::Expired => Ok(Some(Outcome::SessionExpired)),
            Admission::Duplicate(remembered) => Ok(Some(remembered)),
            Admission::Fresh => {
                // The session remembers the outcome on every replica, so it is computed on every replica.
                let outcome = self.execute(overlay, index, &command, true)?;
                let outcome = outcome.expect("an outcome that is wanted is computed");
                self.sessions.remember(session, &outcome);
                Ok(Some(outcome))
            }
        }
    }

    /// Runs a command's operations, all or nothing.
    fn execute<'a>(
        &mut self,
        overlay: &mut Overlay<'a>,
        index: u64,
        command: &Command<'a>,
        wanted: bool,
    ) -> Result<Option<Outcome>, ApplyError> {
        let ops = command.ops();
        let count = ops.len();
        let mut outcomes = outcome::Collector::new(count, wanted);
        let mark = self.expiries.mark();
        overlay.begin_command();
        for (at, op) in ops.enumerate() {
            let outcome = match op {
                Op::Put { key, record } => {
                    self.put(overlay, key, record);
                    MutationOutcome::Put { version: index }
                }
                Op::Delete { key } => self.delete(overlay, index, key, wanted)?,
                Op::CompareAndSwap { key, expected, new } => {
                    self.compare_and_swap(overlay, index, key, expected, new)?
                }
            };
            if matches!(outcome, MutationOutcome::NotSwapped { .. }) {
                overlay.undo_command();
                self.expiries.undo(mark);
                return Ok(wanted.then(|| Outcome::refused(count, at, outcome)));
            }
            outcomes.push(outcome);
        }
        Ok(outcomes.finish())
    }

    fn put<'a>(&mut self, overlay: &mut Overlay<'a>, key: StoredKey<'a>, record: Record<'a>) {
        self.expiries.note(key.as_bytes(), record.expiry_ms(), self.clock_ms);
        overlay.push(Write::Put { key: key.as_bytes(), value: record.as_bytes() });
    }

    /// Removes a key. Whether it existed costs a read, so it is only looked up where someone will know.
    fn delete<'a>(
        &self,
        overlay: &mut Overlay<'a>,
        index: u64,
        key: StoredKey<'a>,
        wanted: bool,
    ) -> Result<MutationOutcome, ApplyError> {
        let write = Write::Delete { key: key.as_bytes() };
        if !wanted {
            overlay.push(write);
            return Ok(MutationOutcome::Deleted { existed: false });
        }
        let existed = match self.current(overlay, key)? {
            None => false,
            Some(current) => {
                overlay.push(write);
                current.record(index)?.is_visible(self.clock_ms)
            }
        };
        Ok(MutationOutcome::Deleted { existed })
    }

    fn compare_and_swap<'a>(
        &mut self,
        overlay: &mut Overlay<'a>,
        index: u64,
        key: StoredKey<'a>,
        expected: Expected<'a>,
        new: Option<Record<'a>>,
    ) -> Result<MutationOutcome, ApplyError> {
        let current = self.current(overlay, key)?;
        let record = current.as_ref().map(|current| current.record(index)).transpose()?;
        let visible = record.filter(|record| record.is_visible(self.clock_ms));
        let holds = match (expected, visible) {
            (Expected::Absent, None) => true,
            (Expected::Version(version), Some(record)) => record.version() == version,
            (Expected::Value(value), Some(record)) => record.value() == value,
            (Expected::Absent, Some(_)) | (Expected::Version(_) | Expected::Value(_), None) => false,
        };
        if !holds {
            return Ok(MutationOutcome::NotSwapped { current: visible.map(|record| record.version()) });
        }
        match new {
            Some(record) => self.put(overlay, key, record),
            None => overlay.push(Write::Delete { key: key.as_bytes() }),
        }
        Ok(MutationOutcome::Swapped { version: index })
    }

    /// What is stored under `key` as this point of the batch sees it, expired or not.
    fn current<'a>(
        &self,
        overlay: &mut Overlay<'a>,
        key: StoredKey<'a>,
    ) -> Result<Option<Current<'a>>, StoreError> {
        match overlay.find(key.as_bytes()) {
            Some(Write::Put { value, .. }) => return Ok(Some(Current::Batch(value))),
            Some(Write::Delete { .. } | Write::DeleteRange { .. }) => return Ok(None),
            None => {}
        }
        match self.engine.get(key.as_bytes(), ReadTier::All)? {
            Lookup::Found(value) => Ok(Some(Current::Stored(value))),
            Lookup::Missing => Ok(None),
            Lookup::NotInMemory => unreachable!("a read of every tier answers"),
        }
    }
}

fn division_in(entry: &MachineEntry) -> Option<Division> {
    if entry.kind == EntryKind::Normal { Division::decode(&entry.payload) } else { None }
}

/// A stored value, written earlier in the batch or read from the engine.
enum Current<'a> {
    Batch(&'a [u8]),
    Stored(Bytes),
}

impl Current<'_> {
    fn record(&self, index: u64) -> Result<Record<'_>, ApplyError> {
        let bytes = match self {
            Current::Batch(bytes) => bytes,
            Current::Stored(bytes) => bytes.as_ref(),
        };
        Record::parse(bytes).map_err(|source| ApplyError::StoredRecord { index, source })
    }
}

#[cfg(test)]
mod tests;
