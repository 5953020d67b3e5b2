//! The index of one stream: where each entry lies, which terms they have, which are in memory.
//!
//! ```text
//!   compacted | entries: base_index+1 ....................... last_index
//!             |          located (in a batch)  |  queued (no place yet)
//!             |             on disk only |  cached (a suffix)
//! ```
//!
//! Invariants: one location per entry, contiguous; term runs cover exactly the entries, their terms
//! growing; cached entries are a suffix of the entries, and every entry that is not yet flushed is
//! cached.
//!
//! Recovery may meet a stream in the middle of its life, its older records having been purged. Until the
//! compaction record is reached that made them needless, its base is only a guess: it *floats*.
//! Example: segment A `append 1..99`, B `compact 50, append 100`, C `compact 99`; A is purged, so the
//! replay sees an append that does not follow the base, and then the record that explains it. Or B ends
//! with `append 51` of a newer term: then what does not follow is replaced, and the base was right.

use std::collections::VecDeque;
use std::ops::RangeBounds;

use crate::ledger::Ledger;
use crate::types::{Entry, Lsn, SegmentId, StreamState};

/// Where an entry's record lies: 16 bytes per entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// 0: still queued, then `offset` holds the low half of the record's LSN.
    segment: u64,
    offset: u32,
    len: u32,
}

const _: () = assert!(size_of::<Location>() == 16);

impl Location {
    pub(crate) fn on_disk(segment: SegmentId, offset: u32, len: u32) -> Self {
        Self { segment: segment.0, offset, len }
    }

    /// Tells queued records of one index apart by the low half of their LSN: a queue holds far less
    /// than 4 GiB (asserted where records are queued).
    pub(crate) fn queued(lsn: Lsn, len: u32) -> Self {
        Self { segment: 0, offset: low_half(lsn), len }
    }

    pub(crate) fn segment(&self) -> Option<SegmentId> {
        (self.segment != 0).then_some(SegmentId(self.segment))
    }

    pub(crate) fn offset(&self) -> u32 {
        self.offset
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    fn is_queued_at(&self, lsn: Lsn) -> bool {
        self.segment == 0 && self.offset == low_half(lsn)
    }
}

fn low_half(lsn: Lsn) -> u32 {
    u32::try_from(lsn.0 & u64::from(u32::MAX)).expect("masked to 32 bits")
}

/// Where the record lies that holds a stream's state, or its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pin {
    Nowhere,
    Queued(Lsn),
    OnDisk(SegmentId),
}

impl Pin {
    /// Moves the pin, keeping the ledger's counts.
    fn set(&mut self, to: Pin, ledger: &mut Ledger) {
        if let Pin::OnDisk(segment) = *self {
            ledger.drop_pin(segment);
        }
        if let Pin::OnDisk(segment) = to {
            ledger.add_pin(segment);
        }
        *self = to;
    }

    fn locate(&mut self, lsn: Lsn, segment: SegmentId, ledger: &mut Ledger) {
        if *self == Pin::Queued(lsn) {
            self.set(Pin::OnDisk(segment), ledger);
        }
    }

    pub(crate) fn is_in(&self, segment: SegmentId) -> bool {
        *self == Pin::OnDisk(segment)
    }
}

/// An entry kept in memory, and the LSN of its record.
#[derive(Debug, Clone)]
pub(crate) struct CachedEntry {
    pub(crate) lsn: Lsn,
    pub(crate) entry: Entry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TermRun {
    first_index: u64,
    term: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct StreamLog {
    base_index: u64,
    base_term: u64,
    /// Recovery has not met the record that names the base yet.
    floating: bool,
    /// The compaction point last recorded: where a floating base may come back to.
    recorded_base: Option<(u64, u64)>,
    /// Recovery met the stream in the middle of its life: its base may jump while no entry is held.
    mid_life: bool,
    locations: VecDeque<Location>,
    /// Bytes of the entries' records.
    bytes: u64,
    terms: VecDeque<TermRun>,
    state: Option<StreamState>,
    pub(crate) state_pin: Pin,
    pub(crate) base_pin: Pin,
    /// Sequence of the stream's next record.
    pub(crate) next_sequence: u32,
    pub(crate) cached: VecDeque<CachedEntry>,
}

impl StreamLog {
    pub(crate) fn new() -> Self {
        Self {
            base_index: 0,
            base_term: 0,
            floating: false,
            recorded_base: None,
            mid_life: false,
            locations: VecDeque::new(),
            bytes: 0,
            terms: VecDeque::new(),
            state: None,
            state_pin: Pin::Nowhere,
            base_pin: Pin::Nowhere,
            next_sequence: 0,
            cached: VecDeque::new(),
        }
    }

    /// A stream first met in the middle of its life, by recovery.
    pub(crate) fn new_floating() -> Self {
        Self { floating: true, mid_life: true, ..Self::new() }
    }

    /// Recovery is over. Answers whether the base is known.
    pub(crate) fn settle(&mut self) -> bool {
        self.mid_life = false;
        !self.floating
    }

    /// Whether an entry at `index` may come next (after dropping what is at or past it).
    pub(crate) fn can_append(&self, index: u64, term: u64) -> bool {
        if index == 0 || (index <= self.base_index && !self.floating) {
            return false;
        }
        let follows = index <= self.last_index() + 1 || (self.mid_life && self.locations.is_empty());
        let before = index.min(self.last_index() + 1) - 1;
        follows && (before <= self.base_index || self.term(before).is_none_or(|last| last <= term))
    }

    pub(crate) fn base_index(&self) -> u64 {
        self.base_index
    }

    pub(crate) fn base_term(&self) -> u64 {
        self.base_term
    }

    pub(crate) fn state(&self) -> Option<StreamState> {
        self.state
    }

    /// Bytes of the records of all entries not dropped, on disk or on their way there.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.base_index + crate::width::to_u64(self.locations.len())
    }

    /// Term of the entry at `index`, or of the base itself.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base_index && !self.floating {
            return Some(self.base_term);
        }
        if index <= self.base_index || index > self.last_index() {
            return None;
        }
        let after = self.terms.partition_point(|run| run.first_index <= index);
        Some(self.terms[after - 1].term)
    }

    pub(crate) fn location(&self, index: u64) -> Option<Location> {
        let at = index.checked_sub(self.base_index + 1)?;
        self.locations.get(usize::try_from(at).ok()?).copied()
    }

    pub(crate) fn locations(&self) -> impl Iterator<Item = Location> + '_ {
        self.locations.iter().copied()
    }

    /// Index of the first entry in memory; `last_index + 1` if none is.
    pub(crate) fn first_cached_index(&self) -> u64 {
        self.last_index() + 1 - crate::width::to_u64(self.cached.len())
    }

    /// Adds an entry right after the last. The caller has truncated before if need be.
    pub(crate) fn append(&mut self, index: u64, term: u64, location: Location, ledger: &mut Ledger) {
        if self.mid_life && self.locations.is_empty() && index > self.base_index + 1 {
            self.base_index = index - 1;
            self.floating = true;
        }
        assert_eq!(index, self.last_index() + 1, "entries are contiguous");
        match self.terms.back() {
            Some(run) if run.term == term => {}
            last => {
                assert!(last.is_none_or(|run| run.term < term), "terms grow along a log");
                self.terms.push_back(TermRun { first_index: index, term });
            }
        }
        if let Some(segment) = location.segment() {
            ledger.add_entry(segment);
        }
        self.bytes += u64::from(location.len());
        self.locations.push_back(location);
    }

    /// Drops the entries from `from_index` on. Answers how many cached entries went with them, already
    /// removed, in any order.
    pub(crate) fn truncate(&mut self, from_index: u64, ledger: &mut Ledger) -> Vec<CachedEntry> {
        if self.floating && from_index <= self.base_index {
            self.release_entries(.., ledger);
            self.terms.clear();
            self.base_index = from_index.saturating_sub(1);
            if let Some((index, term)) = self.recorded_base.filter(|(index, _)| *index >= self.base_index) {
                (self.base_index, self.base_term, self.floating) = (index, term, false);
            }
            return std::mem::take(&mut self.cached).into();
        }
        let from_index = from_index.max(self.base_index + 1);
        let keep = usize::try_from(from_index - self.base_index - 1).unwrap_or(usize::MAX);
        if keep >= self.locations.len() {
            return Vec::new();
        }
        let dropped = self.locations.len() - keep;
        self.release_entries(keep.., ledger);
        while self.terms.back().is_some_and(|run| run.first_index >= from_index) {
            self.terms.pop_back();
        }
        let cached_dropped = dropped.min(self.cached.len());
        self.cached.split_off(self.cached.len() - cached_dropped).into()
    }

    /// Drops the entries up to and including `index`, all of them if it lies past the last. Answers the
    /// cached entries dropped. An index below the base changes nothing.
    pub(crate) fn compact(&mut self, index: u64, term: u64, ledger: &mut Ledger) -> Vec<CachedEntry> {
        self.recorded_base = Some((index, term));
        if index < self.base_index {
            return Vec::new();
        }
        let uncached_before = self.locations.len() - self.cached.len();
        let held = index - self.base_index;
        let dropped = usize::try_from(held).unwrap_or(usize::MAX).min(self.locations.len());
        self.release_entries(..dropped, ledger);
        let cached_dropped = dropped.saturating_sub(uncached_before);
        let rest = self.cached.split_off(cached_dropped);
        let gone = std::mem::replace(&mut self.cached, rest);
        while self.terms.get(1).is_some_and(|run| run.first_index <= index + 1) {
            self.terms.pop_front();
        }
        if self.locations.is_empty() {
            self.terms.clear();
        } else if let Some(run) = self.terms.front_mut() {
            run.first_index = run.first_index.max(index + 1);
        }
        self.base_index = index;
        self.base_term = term;
        self.floating = false;
        gone.into()
    }

    /// Drops all entries and goes on after `index`, wherever that lies. Answers the cached entries dropped.
    pub(crate) fn reset(&mut self, index: u64, term: u64, ledger: &mut Ledger) -> Vec<CachedEntry> {
        self.release_entries(.., ledger);
        self.terms.clear();
        (self.base_index, self.base_term) = (index, term);
        self.recorded_base = Some((index, term));
        // Whatever older records said does not matter any more: nothing about the entries is a guess.
        (self.floating, self.mid_life) = (false, false);
        std::mem::take(&mut self.cached).into()
    }

    pub(crate) fn set_state(&mut self, state: StreamState) {
        self.state = Some(state);
    }

    pub(crate) fn pin_state(&mut self, pin: Pin, ledger: &mut Ledger) {
        self.state_pin.set(pin, ledger);
    }

    pub(crate) fn pin_base(&mut self, pin: Pin, ledger: &mut Ledger) {
        self.base_pin.set(pin, ledger);
    }

    /// The record queued at `lsn` got its place.
    pub(crate) fn locate_pins(&mut self, lsn: Lsn, segment: SegmentId, ledger: &mut Ledger) {
        self.state_pin.locate(lsn, segment, ledger);
        self.base_pin.locate(lsn, segment, ledger);
    }

    /// The append record of `index` queued at `lsn` got its place. Ignored if the entry was dropped or
    /// replaced meanwhile.
    pub(crate) fn locate_entry(&mut self, index: u64, lsn: Lsn, to: Location, ledger: &mut Ledger) {
        let at = index.checked_sub(self.base_index + 1).and_then(|at| usize::try_from(at).ok());
        let Some(location) = at.and_then(|at| self.locations.get_mut(at)) else { return };
        if location.is_queued_at(lsn) {
            *location = to;
            ledger.add_entry(to.segment().expect("a place on disk"));
        }
    }

    /// Drops the locations of a range of entries, counted from the first.
    fn release_entries(&mut self, range: impl RangeBounds<usize>, ledger: &mut Ledger) {
        let bytes = &mut self.bytes;
        let gone = self.locations.drain(range).inspect(|location| *bytes -= u64::from(location.len()));
        release(gone, ledger);
    }

    /// Gives back everything the stream holds, before it is forgotten.
    pub(crate) fn release(&mut self, ledger: &mut Ledger) {
        self.release_entries(.., ledger);
        self.terms.clear();
        self.state_pin.set(Pin::Nowhere, ledger);
        self.base_pin.set(Pin::Nowhere, ledger);
    }

    /// First entry whose record lies in `segment` or before it, and the last such.
    pub(crate) fn range_in(&self, segment: SegmentId) -> Option<(u64, u64)> {
        let within = |location: &Location| location.segment().is_some_and(|id| id <= segment);
        let first = self.locations.iter().position(within)?;
        let last = self.locations.iter().rposition(within)?;
        let index = |at: usize| self.base_index + 1 + crate::width::to_u64(at);
        Some((index(first), index(last)))
    }

    /// Panics if the cursors contradict each other.
    pub(crate) fn check_invariants(&self) {
        assert!(self.cached.len() <= self.locations.len());
        let first_cached = self.first_cached_index();
        for (at, cached) in self.cached.iter().enumerate() {
            assert_eq!(cached.entry.index, first_cached + crate::width::to_u64(at), "the cache is a suffix");
            assert_eq!(Some(cached.entry.term), self.term(cached.entry.index));
        }
        assert_eq!(self.terms.is_empty(), self.locations.is_empty());
        assert_eq!(self.bytes, self.locations.iter().map(|location| u64::from(location.len)).sum::<u64>());
        if let Some(run) = self.terms.front() {
            assert_eq!(run.first_index, self.base_index + 1, "runs start with the entries");
        }
        for (run, next) in self.terms.iter().zip(self.terms.iter().skip(1)) {
            assert!(run.first_index < next.first_index && run.term < next.term, "runs grow");
        }
        assert!(self.terms.back().is_none_or(|run| run.first_index <= self.last_index()));
    }
}

fn release(locations: impl Iterator<Item = Location>, ledger: &mut Ledger) {
    // Neighbours usually share a segment: one look-up per run.
    let mut run: Option<(SegmentId, u64)> = None;
    for segment in locations.filter_map(|location| location.segment()) {
        run = match run {
            Some((id, count)) if id == segment => Some((id, count + 1)),
            Some((id, count)) => {
                ledger.drop_entries(id, count);
                Some((segment, 1))
            }
            None => Some((segment, 1)),
        };
    }
    if let Some((id, count)) = run {
        ledger.drop_entries(id, count);
    }
}
