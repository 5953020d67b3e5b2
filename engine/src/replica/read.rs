//! Reads: linearizable by lease or ReadIndex on the leader, by ReadIndex on a follower, or stale at once.
//!
//! A read goes through up to three waits: for its read index (a quorum confirms the leader), for that index to be
//! applied, and for the disk when the value is not in memory.
//!
//! A shard may be cut in two meanwhile. Invariant: no read is answered from a state in which its keys were removed:
//! - its slots are looked at again when it is served, by which time the replica knows of every cut up to its read index.
//!   What it was served for before the cut may be read afterwards: that state was the newest when it was served, and stays
//!   until it is trimmed;
//! - nothing is served while a snapshot takes the place of the state, for that may be a trimmed one;
//! - one that goes to a reader thread may be overtaken there by the trim or the snapshot, so the thread looks at the slots
//!   on record once more after it has read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use net::protocol::{self, Answer, Program, ReadConsistency, Refusal, Reply};
use net::slot::slot_of;
use net::types::{RequestId, Value};
use raft::{Index, Nanos, ReadError, ReadStart, ReadState};

use super::program::{self, ProgramTask, ReadHalt};
use super::{Replica, ReplicaId, SPLITTING};
use crate::core::{Effect, Origin};
use crate::machine::{self, ReadValue, ScanPosition, Slots, StoredValue, division};
use crate::redis::table;
use crate::store::{ReadTier, StorageEngine, StoreError};

/// What to read. Keys are copies: a request may wait long, and must not pin the buffer it arrived in.
#[derive(Clone, Debug)]
pub(crate) enum Query {
    Get {
        namespace: u8,
        slot: u16,
        key: Bytes,
    },
    Exists {
        namespace: u8,
        slot: u16,
        key: Bytes,
    },
    /// A program that only reads. `is_light`: short enough for the executor, if memory holds its keys.
    Program {
        program: Program,
        is_light: bool,
        value_bytes_max: usize,
    },
    Count {
        namespace: u8,
        slots: (u16, u16),
    },
    Scan {
        namespace: u8,
        slots: (u16, u16),
        start: Bytes,
        end: Option<Bytes>,
        limit: u32,
        keys_only: bool,
    },
}

/// A read and where its answer goes.
#[derive(Debug)]
pub(crate) struct ReadRequest {
    pub origin: Origin,
    pub request: RequestId,
    pub query: Query,
    /// The shard's slots when it came in, in which it lies.
    pub slots: Option<Slots>,
    /// Whether it may be answered at once, however old the state.
    pub stale: bool,
    pub deadline: Nanos,
}

impl ReadRequest {
    /// What it counts for while it waits: its keys and its bookkeeping.
    fn bytes(&self) -> u64 {
        const OVERHEAD: u64 = 256;
        let keys = match &self.query {
            Query::Get { key, .. } | Query::Exists { key, .. } => key.len(),
            Query::Scan { start, end, .. } => start.len() + end.as_ref().map_or(0, Bytes::len),
            Query::Program { program, .. } => {
                program.pieces().map(|piece| piece.len() + std::mem::size_of::<Bytes>()).sum()
            }
            Query::Count { .. } => 0,
        };
        u64::try_from(keys).expect("64-bit machine") + OVERHEAD
    }
}

impl Query {
    /// Whether all it asks for lies in these slots.
    fn lies_in(&self, (first, last): Slots) -> bool {
        let has = |slot: u16| slot >= first && slot <= last;
        match self {
            Query::Get { slot, .. } | Query::Exists { slot, .. } => has(*slot),
            // Its keys are in one slot, or in several of the shard: only they tell.
            Query::Program { program, .. } => program_keys(program).all(|key| has(slot_of(key))),
            Query::Scan { slots, .. } | Query::Count { slots, .. } => has(slots.0) && has(slots.1),
        }
    }
}

/// The keys of a program that was checked when it came in.
fn program_keys(program: &Program) -> impl Iterator<Item = &[u8]> {
    let watched = program.watched.iter().map(|watched| &watched.key[..]);
    let keys = program.commands.iter().flat_map(|command| {
        let spec = table::lookup(&command.args[0]).expect("a command that was checked");
        table::keys(spec, &command.args).into_iter().flatten().map(|key| &key[..])
    });
    watched.chain(keys)
}

/// Bytes of answers that a turn may still make. An answer is held in memory until the turn ends, so reads beyond it
/// wait for the next turn, by which the connections can tell that they are full.
pub(crate) struct Budget {
    left: u64,
    /// Whether a read had to wait for it.
    pub exceeded: bool,
}

impl Budget {
    pub fn of_a_turn() -> Budget {
        Budget { left: TURN_ANSWER_BYTES_MAX, exceeded: false }
    }

    fn is_used_up(&mut self) -> bool {
        self.exceeded |= self.left == 0;
        self.left == 0
    }

    fn take(&mut self, reply: &Reply) {
        let bytes = match &reply.result {
            Ok(Answer::Value { value: Some(value), .. }) => value.data.len(),
            Ok(Answer::Executed { replies: Some(replies), .. }) => replies.len(),
            _ => 0,
        };
        let bytes = u64::try_from(bytes).expect("64-bit machine") + ANSWER_OVERHEAD_BYTES;
        self.left = self.left.saturating_sub(bytes);
    }
}

const TURN_ANSWER_BYTES_MAX: u64 = 4 << 20;
const ANSWER_OVERHEAD_BYTES: u64 = 128;

/// Reads that wait.
#[derive(Default)]
pub(crate) struct Reads {
    /// For their read index, by the context that was handed to Raft; ordered, so that a run can be repeated.
    unconfirmed: BTreeMap<u64, Vec<ReadRequest>>,
    /// The context that collects the reads of this turn, if one was opened.
    open_context: Option<u64>,
    next_context: u64,
    /// For their read index to be applied, in index order.
    confirmed: VecDeque<(Index, ReadRequest)>,
    /// What all of them count for.
    bytes: u64,
}

/// A read for a reader thread.
pub struct ReadTask {
    /// Whose data.
    pub replica: ReplicaId,
    /// The data.
    pub engine: Arc<dyn StorageEngine>,
    /// Where the answer goes.
    pub origin: Origin,
    /// The request that is answered.
    pub request: RequestId,
    /// The wall-clock time that decides what has expired.
    pub now_ms: u64,
    /// What the replica had applied when the task was made.
    pub applied_index: u64,
    /// How old the answer may be, where the read asked for no guarantee.
    pub freshness: Option<protocol::Freshness>,
    /// The shard's slots when the task was made.
    slots: Option<Slots>,
    query: Query,
}

/// The answer of a reader thread.
#[derive(Debug)]
pub struct ReadDone {
    /// Where the answer goes.
    pub origin: Origin,
    /// The answer.
    pub reply: Reply,
}

impl std::fmt::Debug for ReadTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTask").field("replica", &self.replica).field("query", &self.query).finish()
    }
}

impl Replica {
    /// Takes a read in. It is answered at once where the consistency and the lease allow it.
    pub fn read(
        &mut self,
        read: ReadRequest,
        consistency: ReadConsistency,
        clock: Clock,
        budget: &mut Budget,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let Clock { now, epoch, .. } = clock;
        match consistency {
            ReadConsistency::Stale => {
                self.serve_or_queue(Index::ZERO, read, clock, budget, effects);
                return Ok(());
            }
            ReadConsistency::Linearizable if !self.raft.is_leader() => return Err(self.not_leader(epoch)),
            ReadConsistency::Linearizable | ReadConsistency::Follower => {}
        }
        if let Some(context) = self.reads.open_context {
            self.reads.bytes += read.bytes();
            self.reads.unconfirmed.entry(context).or_default().push(read);
            return Ok(());
        }
        let context = self.reads.next_context;
        match self.raft.read_index(context, now) {
            Ok(ReadStart::At(index)) => self.serve_or_queue(index, read, clock, budget, effects),
            Ok(ReadStart::Pending) => {
                self.reads.next_context += 1;
                self.reads.open_context = Some(context);
                self.reads.bytes += read.bytes();
                self.reads.unconfirmed.insert(context, vec![read]);
            }
            Err(ReadError::NoLeader) => return Err(self.not_leader(epoch)),
            Err(ReadError::Busy) => return Err(Refusal::Busy { retry_after_ms: 5 }),
        }
        Ok(())
    }

    /// Later reads need a new context: those of this turn are on their way.
    pub fn close_read_context(&mut self) {
        self.reads.open_context = None;
    }

    /// Raft confirmed the read indexes of these contexts.
    pub fn reads_confirmed(&mut self, states: &[ReadState]) {
        for state in states {
            for read in self.reads.unconfirmed.remove(&state.context).unwrap_or_default() {
                self.reads.confirm(state.index, read);
            }
        }
    }

    /// Raft lost these contexts: the leader changed before it confirmed them.
    pub fn reads_dropped(&mut self, contexts: &[u64], epoch: u64, effects: &mut Vec<Effect>) {
        for context in contexts {
            for read in self.reads.unconfirmed.remove(context).unwrap_or_default() {
                self.reads.bytes -= read.bytes();
                effects.push(refuse(&read, self.not_leader(epoch)));
            }
        }
    }

    /// Refuses every read that waits: the replica goes.
    pub(super) fn refuse_reads(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        let refusal = self.not_leader(epoch);
        let reads = std::mem::take(&mut self.reads);
        let unconfirmed = reads.unconfirmed.into_values().flatten();
        for read in unconfirmed.chain(reads.confirmed.into_iter().map(|(_, read)| read)) {
            effects.push(refuse(&read, refusal.clone()));
        }
    }

    /// Whether no read waits.
    pub(super) fn has_no_reads(&self) -> bool {
        self.reads.unconfirmed.is_empty() && self.reads.confirmed.is_empty()
    }

    /// Serves the reads whose index is applied by now, as far as the turn's budget goes.
    pub fn serve_reads(&mut self, clock: Clock, budget: &mut Budget, effects: &mut Vec<Effect>) {
        if self.is_being_replaced() {
            return;
        }
        let applied = self.raft.applied();
        while self.reads.confirmed.front().is_some_and(|(index, _)| *index <= applied) && !budget.is_used_up()
        {
            let (_, read) = self.reads.confirmed.pop_front().expect("just seen");
            self.reads.bytes -= read.bytes();
            self.serve(read, clock, budget, effects);
        }
    }

    fn serve_or_queue(
        &mut self,
        index: Index,
        read: ReadRequest,
        clock: Clock,
        budget: &mut Budget,
        effects: &mut Vec<Effect>,
    ) {
        let applied = self.raft.applied();
        // Those that wait for the budget come first.
        let others_wait = self.reads.confirmed.front().is_some_and(|(first, _)| *first <= applied);
        if index > applied || others_wait || self.is_being_replaced() || budget.is_used_up() {
            self.reads.bytes += read.bytes();
            self.reads.confirm(index, read);
        } else {
            self.serve(read, clock, budget, effects);
        }
    }

    fn serve(&self, read: ReadRequest, clock: Clock, budget: &mut Budget, effects: &mut Vec<Effect>) {
        if self.slots != read.slots && self.slots.is_some_and(|slots| !read.query.lies_in(slots)) {
            return effects.push(refuse(&read, Refusal::Unavailable { why: SPLITTING.to_owned() }));
        }
        let lag_ms = read.stale.then(|| self.freshness.at(clock.now));
        let applied_index = self.raft.applied().0;
        let task = ReadTask {
            replica: self.id,
            engine: self.engine.clone(),
            origin: read.origin,
            request: read.request,
            now_ms: clock.wall_ms.max(self.time_ms),
            applied_index,
            freshness: lag_ms.map(|lag_ms| protocol::Freshness { applied_index, lag_ms }),
            slots: self.slots,
            query: read.query,
        };
        effects.push(match task.run(ReadTier::Memory) {
            Some(done) => {
                budget.take(&done.reply);
                Effect::Reply { origin: done.origin, reply: done.reply }
            }
            None => Effect::Read(task),
        });
    }
}

impl Reads {
    fn confirm(&mut self, index: Index, read: ReadRequest) {
        // Read indexes rarely go back (a read by lease may overtake one by quorum), so this is a push at the end.
        let position = self.confirmed.partition_point(|(other, _)| *other <= index);
        self.confirmed.insert(position, (index, read));
    }

    pub fn expire(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        for reads in self.unconfirmed.values_mut() {
            reads.retain(|read| keep(read, now, effects));
        }
        self.unconfirmed.retain(|_, reads| !reads.is_empty());
        if self.confirmed.iter().any(|(_, read)| read.deadline <= now) {
            self.confirmed.retain(|(_, read)| keep(read, now, effects));
        }
        let unconfirmed = self.unconfirmed.values().flatten();
        self.bytes =
            self.confirmed.iter().map(|(_, read)| read).chain(unconfirmed).map(ReadRequest::bytes).sum();
    }
}

fn keep(read: &ReadRequest, now: Nanos, effects: &mut Vec<Effect>) -> bool {
    let waits = read.deadline > now;
    if !waits {
        effects.push(refuse(read, Refusal::Timeout));
    }
    waits
}

fn refuse(read: &ReadRequest, refusal: Refusal) -> Effect {
    Effect::Reply { origin: read.origin, reply: Reply { id: read.request, result: Err(refusal) } }
}

impl Replica {
    /// Bytes of the reads that wait for a quorum, for apply or for their turn.
    pub fn reads_bytes(&self) -> u64 {
        self.reads.bytes
    }
}

impl ReadTask {
    /// Reads from memory alone, or from disk too; `None` when memory does not hold the answer. A reader thread calls
    /// this with [`ReadTier::All`], which always answers.
    pub fn run(&self, tier: ReadTier) -> Option<ReadDone> {
        let result = self.read(tier)?;
        let result = match tier {
            ReadTier::All => result.and_then(|answer| self.still_own().map(|()| answer)),
            ReadTier::Memory => result,
        };
        Some(ReadDone { origin: self.origin, reply: Reply { id: self.request, result } })
    }

    /// That what was read has not gone to another shard, and been removed here, since the task was made.
    fn still_own(&self) -> Result<(), Refusal> {
        let failed = |why: String| Refusal::Internal { why };
        match division::read(self.engine.as_ref()) {
            Ok(Ok(Some(own))) if Some(own.slots) != self.slots && !self.query.lies_in(own.slots) => {
                Err(Refusal::Unavailable { why: SPLITTING.to_owned() })
            }
            Ok(Ok(_)) | Err(StoreError::Destroyed { .. }) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn read(&self, tier: ReadTier) -> Option<Result<Answer, Refusal>> {
        Some(match &self.query {
            Query::Get { namespace, slot, key } => self.value(*namespace, *slot, key, tier)?.map(|value| {
                let value = value.map(|value| Value { data: value.data, version: value.version });
                Answer::Value { value, freshness: self.freshness }
            }),
            Query::Exists { namespace, slot, key } => self
                .value(*namespace, *slot, key, tier)?
                .map(|value| Answer::Exists { exists: value.is_some(), freshness: self.freshness }),
            Query::Program { is_light: false, .. } if tier == ReadTier::Memory => return None,
            Query::Program { program, value_bytes_max, .. } => {
                let task = ProgramTask {
                    engine: self.engine.as_ref(),
                    tier,
                    now_ms: self.now_ms,
                    value_bytes_max: *value_bytes_max,
                };
                let executed = match program::run(&task, program) {
                    Ok(replies) => Ok(replies),
                    Err(ReadHalt::NotInMemory) => return None,
                    Err(ReadHalt::Failed(error)) => Err(failed(&error)),
                    Err(ReadHalt::Writes) => {
                        Err(Refusal::Internal { why: "a command that only reads wrote".to_owned() })
                    }
                };
                let (index, freshness) = (self.applied_index, self.freshness);
                executed.map(|replies| Answer::Executed { index, replies, freshness })
            }
            Query::Scan { .. } | Query::Count { .. } if tier == ReadTier::Memory => return None,
            Query::Count { namespace, slots } => {
                machine::count_stored(self.engine.as_ref(), *namespace, *slots)
                    .map(|count| Answer::Counted { count })
                    .map_err(|error| failed(&error.into()))
            }
            Query::Scan { namespace, slots, start, end, limit, keys_only } => {
                self.scan(*namespace, *slots, start, end.as_ref(), *limit, *keys_only)
            }
        })
    }

    fn value(
        &self,
        namespace: u8,
        slot: u16,
        key: &[u8],
        tier: ReadTier,
    ) -> Option<Result<Option<StoredValue>, Refusal>> {
        match machine::read_value(self.engine.as_ref(), namespace, slot, key, self.now_ms, tier) {
            Ok(ReadValue::Found(value)) => Some(Ok(Some(value))),
            Ok(ReadValue::Missing) => Some(Ok(None)),
            Ok(ReadValue::NotInMemory) => None,
            Err(error) => Some(Err(failed(&error))),
        }
    }

    fn scan(
        &self,
        namespace: u8,
        (first, last): (u16, u16),
        start: &Bytes,
        end: Option<&Bytes>,
        limit: u32,
        keys_only: bool,
    ) -> Result<Answer, Refusal> {
        let start = match start.is_empty() {
            true => ScanPosition { slot: first, key: Bytes::new() },
            false => position(start, first, last)?,
        };
        let end = end.map(|end| position(end, first, last)).transpose()?;
        let limit = usize::try_from(limit.min(SCAN_ITEMS_MAX)).expect("64-bit machine");
        let engine = self.engine.as_ref();
        let mut page =
            machine::scan_values(engine, namespace, &start, last, self.now_ms, limit, SCAN_BYTES_MAX)
                .map_err(|error| failed(&error))?;
        if let Some(end) = end {
            let before = |slot: u16, key: &Bytes| (slot, key) < (end.slot, &end.key);
            page.items.retain(|item| before(item.slot, &item.key));
            page.next = page.next.filter(|next| before(next.slot, &next.key));
        }
        let items = page
            .items
            .into_iter()
            .map(|item| protocol::ScanItem {
                key: item.key,
                value: Value {
                    data: if keys_only { Bytes::new() } else { item.value.data },
                    version: item.value.version,
                },
            })
            .collect();
        let next = page.next.map(|next| [&next.slot.to_be_bytes(), next.key.as_ref()].concat().into());
        Ok(Answer::Scan { items, next, freshness: self.freshness })
    }
}

/// The refusal of a read that the state machine could not answer.
fn failed(error: &machine::ReadError) -> Refusal {
    let why = error.to_string();
    match error {
        // A snapshot took the place of the data meanwhile, or the replica was removed: another attempt finds out.
        machine::ReadError::Store(StoreError::Destroyed { .. }) => Refusal::Unavailable { why },
        _ => Refusal::Internal { why },
    }
}

/// Reads a scan position from the wire: slot (two bytes, big-endian), then key.
fn position(wire: &Bytes, first: u16, last: u16) -> Result<ScanPosition, Refusal> {
    let invalid = |why: &str| Refusal::Invalid { why: why.to_owned() };
    let Some((slot, _)) = wire.split_first_chunk::<2>() else {
        return Err(invalid("a scan position is a slot (two bytes, big-endian) and a key"));
    };
    let slot = u16::from_be_bytes(*slot);
    if slot < first || slot > last {
        return Err(invalid("the scan position is outside of the shard's slots"));
    }
    Ok(ScanPosition { slot, key: wire.slice(2..) })
}

/// How fresh a replica is: the time of the newest word from the leader by which it was up to date.
#[derive(Default)]
pub(crate) struct Freshness {
    /// A commit index the leader told, and when; it is waited for until applied.
    told: Option<(Index, Nanos)>,
    /// The highest commit index ever told: a heartbeat names no more than this replica is known to hold.
    known: Index,
    up_to_date: Option<Nanos>,
}

impl Freshness {
    /// The leader said at `now` that it has committed up to `commit`; `applied` is applied here.
    pub fn told(&mut self, commit: Index, applied: Index, now: Nanos) {
        self.known = self.known.max(commit);
        if let Some((told, at)) = self.told {
            if told > applied {
                return;
            }
            self.up_to_date = Some(at);
        }
        self.told = Some((self.known, now));
    }

    /// Nothing that was told by `at` is missing, if what was told is applied.
    fn complete(&mut self, applied: Index, at: Nanos) {
        if self.known <= applied {
            self.up_to_date = self.up_to_date.max(Some(at));
        }
    }

    /// Milliseconds since the replica last knew itself up to date; `u64::MAX` when it never did.
    fn at(&self, now: Nanos) -> u64 {
        self.up_to_date.map_or(u64::MAX, |at| now.since(at).0 / 1_000_000)
    }
}

impl Replica {
    /// A replica learns how fresh it is: a follower from what its leader says, a leader from its own commit index.
    pub fn note_commit(&mut self, commit: Index, now: Nanos) {
        let applied = self.raft.applied();
        self.freshness.told(commit, applied, now);
    }

    /// A replica that sleeps would have been told of anything new by `at`.
    pub fn note_up_to_date(&mut self, at: Nanos) {
        let applied = self.raft.applied();
        self.freshness.complete(applied, at);
    }
}

/// Time and map as of the turn a read arrived in.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    pub now: Nanos,
    pub wall_ms: u64,
    pub epoch: u64,
}

/// A scan answers with at most so many items and about so many bytes, however many are asked for.
const SCAN_ITEMS_MAX: u32 = 10_000;
const SCAN_BYTES_MAX: usize = 4 << 20;
