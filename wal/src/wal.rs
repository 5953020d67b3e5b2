//! The log's bookkeeping: commands in, batches and segment tasks out.
//!
//! ```text
//!  purged | ... on disk ... | flushed_lsn ... in flight ... | queue_lsn ... queued ... | end_lsn
//! ```
//!
//! Invariants: `oldest_lsn <= flushed_lsn <= queue_lsn <= end_lsn`; a batch is counted flushed only when
//! it and every batch before it are durable; everything from `flushed_lsn` on is in memory.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader, WriteBatch, padded_len};
use crate::cache::Cache;
use crate::config::WalConfig;
use crate::directory;
use crate::ledger::{Ledger, SegmentUse};
use crate::pool::{FreeSegment, Pool, SegmentTask};
use crate::purge::PendingPurge;
use crate::quarantine::Quarantine;
use crate::record::{Change, NO_STREAM, Record};
use crate::recovery::Recovered;
use crate::segment::SegmentSeed;
use crate::stream::{CachedEntry, Location, Pin, StreamLog};
use crate::types::{BLOCK, BLOCK_BYTES, BatchId, Entry, Lsn, SegmentId, StreamId, StreamState};
use crate::width::{len_of, offset_u32, to_u32, to_u64};

/// Behind one slow write, at most this many times `inflight_max` batches may land before it does.
const LANDED_EARLY_FACTOR: usize = 4;

/// The segment being written.
#[derive(Debug, Clone, Copy)]
struct Active {
    id: SegmentId,
    seed: SegmentSeed,
    bytes: u64,
    /// Where the next batch goes.
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Inflight {
    id: BatchId,
    end_lsn: Lsn,
    durable: bool,
}

/// One core's write-ahead log, without its I/O.
///
/// Call order, each turn of the driver's loop: commands ([`append`](Self::append),
/// [`set_state`](Self::set_state), ...) as they come; then [`poll_write`](Self::poll_write) and
/// [`poll_segment_task`](Self::poll_segment_task) until both answer `None`; hand what they gave to a disk,
/// and report completions with [`on_written`](Self::on_written) and
/// [`on_segment_task_done`](Self::on_segment_task_done), after which there may be more to poll. A failed
/// write is fatal: there is no input for it.
///
/// Commands are visible to reads at once. The [`Lsn`] each returns tells when it is durable: once
/// [`flushed_lsn`](Self::flushed_lsn) has reached it.
#[derive(Debug)]
pub struct Wal {
    pub(crate) config: WalConfig,
    pub(crate) streams: BTreeMap<StreamId, StreamLog>,
    pub(crate) ledger: Ledger,
    pub(crate) cache: Cache,
    pub(crate) pool: Pool,
    /// A purge that was decided and waits for the disk to know.
    pub(crate) purge: Option<PendingPurge>,
    pub(crate) oldest_lsn: Lsn,
    /// Purged before this process started; freed once its first batch is durable.
    pub(crate) held: Vec<FreeSegment>,
    pub(crate) first_batch: BatchId,
    /// What recovery could not read and nobody has accounted for yet.
    pub(crate) quarantine: Quarantine,
    queue: VecDeque<Record>,
    /// Position of the first queued record; equals `end_lsn` when none is.
    queue_lsn: Lsn,
    end_lsn: Lsn,
    flushed_lsn: Lsn,
    /// Batches handed out, from the first that is not known durable on.
    inflight: VecDeque<Inflight>,
    /// How many of them are still being written: one that landed early waits for its predecessors here, but
    /// its place is free again.
    writing: usize,
    next_batch: BatchId,
    /// First batch that is not known to be durable.
    flushed_batch: BatchId,
    /// Named by the first segment this process writes.
    generation: Option<SegmentId>,
    generation_start: Lsn,
    active: Option<Active>,
    seal_wanted: bool,
    /// The newest `flushed_lsn` that a batch handed out carries.
    flushed_lsn_stamped: Lsn,
}

impl Wal {
    /// Starts from what recovery found ([`Recovered::empty`] for a new WAL).
    ///
    /// # Panics
    /// If the configuration is invalid: validate it where it is read.
    pub fn new(config: WalConfig, recovered: Recovered) -> Self {
        config.validate().expect("the configuration was validated where it was read");
        let state = recovered.state;
        let mut wal = Self {
            cache: state.cache,
            pool: Pool::new(&config, recovered.nonce, state.next_segment, state.free),
            config,
            streams: state.streams,
            ledger: state.ledger,
            purge: None,
            oldest_lsn: state.oldest_lsn,
            held: state.held,
            first_batch: state.next_batch,
            quarantine: state.quarantine,
            queue: VecDeque::new(),
            queue_lsn: state.end_lsn,
            end_lsn: state.end_lsn,
            flushed_lsn: state.end_lsn,
            inflight: VecDeque::new(),
            writing: 0,
            next_batch: state.next_batch,
            flushed_batch: state.next_batch,
            generation: None,
            generation_start: state.end_lsn,
            active: None,
            seal_wanted: false,
            flushed_lsn_stamped: Lsn(0),
        };
        wal.cache.set_bytes_max(wal.config.cache_bytes_max);
        wal.maintain();
        wal
    }

    // Commands.

    /// Appends entries to a stream, creating it if it is unknown. Indexes must be consecutive; if the
    /// first is not past the end, the entries from there on are replaced.
    ///
    /// # Panics
    /// If the entries would leave a gap, touch compacted ones, or one exceeds `payload_bytes_max`: bugs of
    /// the caller.
    pub fn append(&mut self, stream: StreamId, entries: &[Entry]) -> Lsn {
        for entry in entries {
            assert!(
                entry.payload.len() <= self.config.payload_bytes_max,
                "a payload beyond the configured limit"
            );
            let lsn = self.queue_record(stream, Change::Append(entry.clone()));
            let log = self.streams.get_mut(&stream).expect("queueing a record creates its stream");
            assert!(
                log.can_append(entry.index, entry.term),
                "{stream}: entry {} of term {} does not fit after {}",
                entry.index,
                entry.term,
                log.last_index()
            );
            let gone = log.truncate(entry.index, &mut self.ledger);
            self.cache.forget(&gone);
            let len = to_u32(self.queue.back().expect("just queued").len_bytes());
            log.append(entry.index, entry.term, Location::queued(lsn, len), &mut self.ledger);
            self.cache.push(stream, log, CachedEntry { lsn, entry: entry.clone() });
        }
        self.cache.evict(&mut self.streams, self.flushed_lsn);
        self.end_lsn
    }

    /// Drops the entries of a stream from `from_index` on. Nothing happens if there are none.
    pub fn truncate_suffix(&mut self, stream: StreamId, from_index: u64) -> Lsn {
        let Some(log) = self.streams.get(&stream) else { return self.end_lsn };
        if from_index > log.last_index() || log.last_index() == log.base_index() {
            return self.end_lsn;
        }
        self.queue_record(stream, Change::Truncate { from_index });
        let log = self.streams.get_mut(&stream).expect("looked up above");
        let gone = log.truncate(from_index, &mut self.ledger);
        self.cache.forget(&gone);
        self.maintained()
    }

    /// Replaces a stream's state, creating the stream if it is unknown.
    pub fn set_state(&mut self, stream: StreamId, state: StreamState) -> Lsn {
        let lsn = self.queue_record(stream, Change::State(state));
        let log = self.streams.get_mut(&stream).expect("queueing a record creates its stream");
        log.set_state(state);
        log.pin_state(Pin::Queued(lsn), &mut self.ledger);
        self.end_lsn
    }

    /// Drops the entries of a stream up to and including `index`, whose term is `term`. An index past the
    /// last (an installed snapshot) empties the stream, which continues after it; an unknown
    /// stream is created there. Nothing happens if that much was dropped before.
    pub fn compact_to(&mut self, stream: StreamId, index: u64, term: u64) -> Lsn {
        if self.streams.get(&stream).is_some_and(|log| index <= log.base_index()) {
            return self.end_lsn;
        }
        let lsn = self.queue_record(stream, Change::Compact { index, term });
        let log = self.streams.get_mut(&stream).expect("queueing a record creates its stream");
        let gone = log.compact(index, term, &mut self.ledger);
        log.pin_base(Pin::Queued(lsn), &mut self.ledger);
        self.cache.forget(&gone);
        self.maintained()
    }

    /// Drops all entries of a stream, wherever they lie, and goes on after `index`, whose term is `term`: what
    /// [`compact_to`](Self::compact_to) does only to entries at or below `index`. For a state machine that came
    /// from elsewhere (an installed snapshot), with which the entries may have nothing in common. The
    /// stream's state stays; an unknown stream is created.
    pub fn reset(&mut self, stream: StreamId, index: u64, term: u64) -> Lsn {
        let lsn = self.queue_record(stream, Change::Reset { index, term });
        let log = self.streams.get_mut(&stream).expect("queueing a record creates its stream");
        let gone = log.reset(index, term, &mut self.ledger);
        log.pin_base(Pin::Queued(lsn), &mut self.ledger);
        self.cache.forget(&gone);
        self.maintained()
    }

    /// Forgets a stream, [lost](Self::lost) or not. Nothing happens if it is unknown. Do not use its id again: after
    /// damage, the records of two lives could be mistaken for those of one.
    pub fn remove(&mut self, stream: StreamId) -> Lsn {
        if let Some(next_sequence) = self.quarantine.lost.remove(&stream) {
            // What remains of it on disk must not come back at the next start, known to the index or not.
            self.streams.entry(stream).or_insert_with(StreamLog::new).next_sequence = next_sequence;
        }
        if !self.streams.contains_key(&stream) {
            return self.end_lsn;
        }
        self.queue_record(stream, Change::Remove);
        let mut log = self.streams.remove(&stream).expect("looked up above");
        log.release(&mut self.ledger);
        self.cache.forget(log.cached.make_contiguous());
        self.maintained()
    }

    /// Asks for an empty batch that records how far the log is flushed, unless the disk knows already.
    ///
    /// Recovery takes an unreadable last batch for a write that was never acknowledged, unless a later batch
    /// says it was. Call this when idle (say, after 100 ms without a write) and before a clean
    /// stop, and damage to the very last batch is recognised too. Costs one 4 KiB write.
    pub fn seal(&mut self) {
        self.seal_wanted |= self.flushed_lsn > self.flushed_lsn_stamped;
    }

    /// Frees what the command just queued made needless; answers the end of that command, not of what
    /// freeing queued.
    fn maintained(&mut self) -> Lsn {
        let end_lsn = self.end_lsn;
        self.maintain();
        end_lsn
    }

    /// Queues one record; answers the LSN it starts at.
    pub(crate) fn queue_record(&mut self, stream: StreamId, change: Change) -> Lsn {
        let lsn = self.end_lsn;
        assert_ne!(stream, NO_STREAM, "that number is taken");
        assert!(!self.quarantine.lost.contains_key(&stream), "{stream} is lost: remove it first");
        let log = self.streams.entry(stream).or_insert_with(StreamLog::new);
        let record = Record { stream, sequence: log.next_sequence, change };
        if log.base_pin == Pin::Nowhere {
            // A stream's first record also says that its base is zero.
            log.pin_base(Pin::Queued(lsn), &mut self.ledger);
        }
        log.next_sequence = log.next_sequence.wrapping_add(1);
        self.push(record);
        lsn
    }

    pub(crate) fn push(&mut self, record: Record) {
        self.end_lsn.0 += to_u64(record.len_bytes());
        assert!(self.queued_bytes() < u64::from(u32::MAX), "admission bounds the queue far below 4 GiB");
        self.queue.push_back(record);
    }

    // Outputs.

    /// The next write. `None`: nothing is queued, `inflight_max` writes are under way, or no segment is
    /// ready (see [`poll_segment_task`](Self::poll_segment_task)). A batch takes all that is queued, up to
    /// `batch_bytes_max`, and leaves as soon as a place in flight is free.
    pub fn poll_write(&mut self) -> Option<WriteBatch> {
        let window = LANDED_EARLY_FACTOR * self.config.inflight_max;
        if self.writing >= self.config.inflight_max || self.inflight.len() >= window || !self.has_queued() {
            return None;
        }
        let (count, records_bytes) = loop {
            let active = self.activate()?;
            let room = len_of(active.bytes - active.offset);
            match self.fit(room) {
                Some(fit) => break fit,
                // Too little room for even one record: the rest of the segment stays unused.
                None => self.active = None,
            }
        };
        Some(self.form_batch(count, records_bytes))
    }

    /// Work on segment files, one task at a time; call after every input.
    pub fn poll_segment_task(&mut self) -> Option<SegmentTask> {
        self.pool.poll_task()
    }

    fn activate(&mut self) -> Option<Active> {
        if self.active.is_none() {
            let header = self.pool.take()?;
            let (id, bytes, seed) = (header.id, header.segment_bytes, header.seed());
            self.ledger.push(SegmentUse::new(id, bytes, seed, self.queue_lsn));
            self.generation.get_or_insert(id);
            self.active = Some(Active { id, seed, bytes, offset: BLOCK });
        }
        self.active
    }

    /// How many of the queued records go into a batch with `room` left in the segment.
    fn fit(&self, room: usize) -> Option<(usize, usize)> {
        if room < BLOCK_BYTES {
            return None;
        }
        let limit = room.min(self.config.batch_bytes_max);
        let (mut count, mut bytes, mut runs) = (0, BATCH_HEADER_BYTES, 0);
        let mut last = None;
        for record in &self.queue {
            // At most this many shares are in the directory, usually far fewer.
            runs += usize::from(last != Some((record.stream, record.sequence.wrapping_sub(1))));
            last = Some((record.stream, record.sequence));
            let with = bytes + record.len_bytes();
            let whole = with + directory::len_bytes(runs);
            if whole > limit && (count > 0 || whole > room) {
                break;
            }
            (count, bytes) = (count + 1, with);
        }
        (count > 0 || self.queue.is_empty()).then_some((count, bytes - BATCH_HEADER_BYTES))
    }

    fn form_batch(&mut self, count: usize, records_bytes: usize) -> WriteBatch {
        let active = self.active.expect("activated before");
        let records: Vec<Record> = self.queue.drain(..count).collect();
        let directory = directory::of(&records);
        let id = self.next_batch;
        let header = BatchHeader {
            segment: active.id,
            generation: self.generation.expect("set with the first segment"),
            generation_start: self.generation_start,
            sequence: id,
            first_lsn: self.queue_lsn,
            flushed_lsn: self.flushed_lsn,
            oldest_lsn: self.oldest_lsn,
            records_bytes: to_u32(records_bytes),
            records: to_u32(count),
            shares: u16::try_from(directory.len()).expect("bounded where it is made"),
            len_bytes: to_u32(padded_len(
                BATCH_HEADER_BYTES + records_bytes + directory::len_bytes(directory.len()),
            )),
        };
        let mut at = active.offset + to_u64(BATCH_HEADER_BYTES);
        for record in &records {
            self.locate(record, self.queue_lsn, active.id, at);
            let len = to_u64(record.len_bytes());
            self.queue_lsn.0 += len;
            at += len;
        }
        assert_eq!(self.queue_lsn, header.end_lsn());
        let offset_bytes = active.offset;
        self.active = Some(Active { offset: offset_bytes + u64::from(header.len_bytes), ..active });
        self.next_batch.0 += 1;
        self.writing += 1;
        self.inflight.push_back(Inflight { id, end_lsn: header.end_lsn(), durable: false });
        self.seal_wanted = false;
        self.flushed_lsn_stamped = self.flushed_lsn;
        WriteBatch {
            id,
            segment: active.id,
            offset_bytes,
            len_bytes: crate::width::to_usize(header.len_bytes),
            header,
            seed: active.seed,
            records,
            directory,
        }
    }

    /// Tells the index that the record queued at `lsn` goes to `offset` of `segment`.
    fn locate(&mut self, record: &Record, lsn: Lsn, segment: SegmentId, offset: u64) {
        let Some(log) = self.streams.get_mut(&record.stream) else { return };
        log.locate_pins(lsn, segment, &mut self.ledger);
        if let Change::Append(entry) = &record.change {
            let place = Location::on_disk(segment, offset_u32(offset), to_u32(record.len_bytes()));
            log.locate_entry(entry.index, lsn, place, &mut self.ledger);
        }
    }

    // Inputs.

    /// A batch is durable. Answers the new [`flushed_lsn`](Self::flushed_lsn).
    ///
    /// # Panics
    /// If that batch is not in flight.
    pub fn on_written(&mut self, batch: BatchId) -> Lsn {
        let first = self.inflight.front().expect("a batch in flight").id;
        let at = batch.0.checked_sub(first.0).and_then(|at| usize::try_from(at).ok());
        let inflight = at.and_then(|at| self.inflight.get_mut(at)).expect("a batch in flight");
        assert!(!mem::replace(&mut inflight.durable, true), "{batch} was reported before");
        self.writing -= 1;
        while let Some(done) = self.inflight.front().filter(|inflight| inflight.durable) {
            self.flushed_lsn = done.end_lsn;
            self.flushed_batch = BatchId(done.id.0 + 1);
            self.inflight.pop_front();
        }
        self.cache.evict(&mut self.streams, self.flushed_lsn);
        self.maintain();
        self.flushed_lsn
    }

    /// A segment task is done, durably.
    pub fn on_segment_task_done(&mut self, task: SegmentTask) {
        self.pool.on_done(&task);
    }

    /// A segment task failed (disk full). [`poll_segment_task`](Self::poll_segment_task) gives it again:
    /// the caller paces the retries.
    pub fn on_segment_task_failed(&mut self, task: SegmentTask) {
        self.pool.on_failed(&task);
    }

    // Getters.

    /// Everything up to here survives a crash.
    pub fn flushed_lsn(&self) -> Lsn {
        self.flushed_lsn
    }

    /// End of the last record queued.
    pub fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// Whether [`poll_write`](Self::poll_write) has something to write.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty() || self.seal_wanted
    }

    /// Bytes of records that no batch has taken yet.
    pub fn queued_bytes(&self) -> u64 {
        self.end_lsn.0 - self.queue_lsn.0
    }

    /// Batches handed out and not yet reported.
    pub fn inflight(&self) -> usize {
        self.writing
    }

    /// Bytes of all segment files.
    pub fn disk_bytes(&self) -> u64 {
        let held: u64 = self.held.iter().map(|segment| segment.bytes).sum();
        self.ledger.bytes() + self.pool.bytes() + held
    }

    /// Bytes of memory spent on cached entries.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// Spare segments ready to be written.
    pub fn spare_segments(&self) -> usize {
        self.pool.ready()
    }

    /// The settings in force.
    pub fn config(&self) -> &WalConfig {
        &self.config
    }

    pub(crate) fn active_segment(&self) -> Option<SegmentId> {
        self.active.map(|active| active.id)
    }

    /// First batch that [`poll_write`](Self::poll_write) has not formed yet, and the first not known durable.
    pub(crate) fn batch_cursors(&self) -> (BatchId, BatchId) {
        (self.next_batch, self.flushed_batch)
    }

    /// Asks for a batch even if no record is queued.
    pub(crate) fn want_batch(&mut self) {
        self.seal_wanted = true;
    }

    /// Panics if the cursors, counters and indexes contradict each other. O(everything): for tests.
    pub fn check_invariants(&self) {
        assert!(self.oldest_lsn <= self.flushed_lsn && self.flushed_lsn <= self.queue_lsn);
        assert!(self.queue_lsn <= self.end_lsn);
        assert!(self.flushed_batch <= self.next_batch);
        let queued: u64 = self.queue.iter().map(|record| to_u64(record.len_bytes())).sum();
        assert_eq!(queued, self.queued_bytes());
        assert_eq!(self.writing, self.inflight.iter().filter(|inflight| !inflight.durable).count());
        assert!(self.writing <= self.config.inflight_max);
        let (mut entries, mut pins) = (BTreeMap::new(), BTreeMap::new());
        for log in self.streams.values() {
            log.check_invariants();
            for segment in log.locations().filter_map(|location| location.segment()) {
                *entries.entry(segment).or_insert(0) += 1;
            }
            for pin in [log.state_pin, log.base_pin] {
                if let Pin::OnDisk(segment) = pin {
                    *pins.entry(segment).or_insert(0) += 1;
                }
            }
            assert_ne!(log.base_pin, Pin::Nowhere, "every stream is anchored");
            assert_eq!(log.state_pin == Pin::Nowhere, log.state().is_none());
        }
        for segment in self.ledger.iter() {
            assert_eq!(entries.remove(&segment.id).unwrap_or(0), segment.live_entries, "{}", segment.id);
            assert_eq!(pins.remove(&segment.id).unwrap_or(0), segment.live_pins, "{}", segment.id);
        }
        assert!(entries.is_empty() && pins.is_empty(), "every location names a segment in use");
        self.cache.check_invariants(&self.streams);
    }
}
