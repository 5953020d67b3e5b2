//! Applies records to streams, as the commands that wrote them did.
//!
//! A stream's records are numbered. While nothing is missing, every number must follow; after a gap
//! (surveying damage), a stream is suspect until its next record follows, which proves that the gap held
//! nothing of it, and damaged once it does not.

use std::collections::BTreeMap;

use super::chain::Link;
use crate::cache::Cache;
use crate::ledger::{Ledger, SegmentUse};
use crate::record::{Change, NO_STREAM, RecordView};
use crate::stream::{CachedEntry, Location, Pin, StreamLog};
use crate::types::{Lsn, SegmentId, StreamId};
use crate::width::{offset_u32, to_u32};

/// A record that cannot be: what is wrong with it.
type Fault = &'static str;

/// Which of the holes that the survey met.
pub(super) type HoleNumber = usize;

#[derive(Debug)]
pub(super) struct Replay {
    pub(super) streams: BTreeMap<StreamId, StreamLog>,
    pub(super) ledger: Ledger,
    pub(super) cache: Cache,
    /// Records before the first one replayed were purged, so streams may begin in the middle.
    purged: bool,
    surveying: bool,
    /// The last hole of unknown content that nobody has dealt with.
    gap: Option<HoleNumber>,
    /// There was a hole of unknown content, dealt with or not.
    gap_seen: bool,
    suspects: BTreeMap<StreamId, HoleNumber>,
    /// `None`: its records contradict each other, no hole explains it.
    damaged: BTreeMap<StreamId, Option<HoleNumber>>,
    /// Losses that were dealt with.
    pub(super) mended: Vec<(Lsn, Lsn)>,
}

impl Replay {
    pub(super) fn new(cache_bytes_max: u64, purged: bool, surveying: bool) -> Self {
        Self {
            streams: BTreeMap::new(),
            ledger: Ledger::default(),
            cache: Cache::new(cache_bytes_max),
            purged,
            surveying,
            gap: None,
            gap_seen: false,
            suspects: BTreeMap::new(),
            damaged: BTreeMap::new(),
            mended: Vec::new(),
        }
    }

    /// Records of this segment follow.
    pub(super) fn enter(&mut self, link: &Link, first_lsn: Lsn) {
        if self.ledger.get(link.id).is_none() {
            self.ledger.push(SegmentUse::new(link.id, link.file_bytes, link.seed, first_lsn));
        }
    }

    /// Records of any stream may be missing here. If that was `mended`, the streams it touched are removed further
    /// on: the others need not prove again that they are whole, and may no longer be able to, since what they
    /// had in front of the hole may be purged.
    pub(super) fn gap(&mut self, hole: HoleNumber, mended: bool) {
        assert!(self.surveying, "a log with gaps is only surveyed");
        self.gap_seen = true;
        if mended {
            self.purged = true;
            return;
        }
        self.gap = Some(hole);
        for stream in self.streams.keys() {
            self.suspects.entry(*stream).or_insert(hole);
        }
    }

    /// A record of this stream is lost.
    pub(super) fn lose(&mut self, stream: StreamId, hole: HoleNumber) {
        assert!(self.surveying, "a log with gaps is only surveyed");
        if stream != NO_STREAM {
            let known = self.damaged.entry(stream).or_insert(Some(hole));
            known.get_or_insert(hole);
        }
    }

    /// The sequence of the stream's next record, as far as is known.
    pub(super) fn next_sequence(&self, stream: StreamId) -> u32 {
        self.streams.get(&stream).map_or(0, |log| log.next_sequence)
    }

    pub(super) fn apply(
        &mut self,
        view: &RecordView<'_>,
        lsn: Lsn,
        segment: SegmentId,
        offset: u64,
    ) -> Result<(), Fault> {
        let change = view.change();
        if let Change::Mended { from, to } = change {
            self.mended.push((from, to));
            return Ok(());
        }
        let follows = match self.admit(view, &change) {
            Ok(admitted) => admitted,
            Err(fault) if !self.surveying => return Err(fault),
            Err(_) => {
                self.damage(view.stream);
                false
            }
        };
        if let Some(log) = self.streams.get_mut(&view.stream) {
            log.next_sequence = view.sequence.wrapping_add(1);
        }
        if !follows || (self.damaged.contains_key(&view.stream) && change != Change::Remove) {
            return Ok(());
        }
        let place = Location::on_disk(segment, offset_u32(offset), to_u32(view.len_bytes()));
        match self.change(view.stream, change, lsn, place) {
            Err(_) if self.surveying => {
                self.damage(view.stream);
                Ok(())
            }
            result => result,
        }
    }

    /// The records of this stream do not fit together.
    fn damage(&mut self, stream: StreamId) {
        let hole = self.suspects.get(&stream).copied().or(self.gap);
        self.damaged.entry(stream).or_insert(hole);
    }

    /// Whether the record has a stream to go to; creates it if the record begins one.
    fn admit(&mut self, view: &RecordView<'_>, change: &Change) -> Result<bool, Fault> {
        let Some(log) = self.streams.get_mut(&view.stream) else {
            if *change == Change::Remove {
                // Of a stream whose other records were purged, or of one forgotten as damaged.
                self.damaged.remove(&view.stream);
                return Ok(false);
            }
            let begins = view.sequence == 0;
            if begins {
                // Whatever was lost was of an earlier stream of that name.
                self.damaged.remove(&view.stream);
            }
            let log = if begins { StreamLog::new() } else { StreamLog::new_floating() };
            self.streams.insert(view.stream, log);
            return match begins || (self.purged && self.gap.is_none()) {
                true => Ok(true),
                false => Err("a record of an unknown stream, whose earlier records are missing"),
            };
        };
        if view.sequence == log.next_sequence {
            self.suspects.remove(&view.stream);
            return Ok(true);
        }
        let may_lack = self.gap_seen || self.damaged.contains_key(&view.stream);
        if may_lack && *change == Change::Remove {
            return Ok(true);
        }
        if may_lack && view.sequence == 0 {
            // Removed in the gap, and made anew.
            self.forget(view.stream);
            self.streams.insert(view.stream, StreamLog::new());
            return Ok(true);
        }
        Err("a record out of sequence: earlier records of its stream are missing")
    }

    fn change(&mut self, stream: StreamId, change: Change, lsn: Lsn, place: Location) -> Result<(), Fault> {
        let segment = place.segment().expect("a place on disk");
        let log = self.streams.get_mut(&stream).expect("admitted");
        if log.base_pin == Pin::Nowhere {
            log.pin_base(Pin::OnDisk(segment), &mut self.ledger);
        }
        match change {
            Change::Append(entry) => {
                if !log.can_append(entry.index, entry.term) {
                    return Err("an entry that does not continue its stream");
                }
                self.cache.forget(&log.truncate(entry.index, &mut self.ledger));
                log.append(entry.index, entry.term, place, &mut self.ledger);
                self.cache.push(stream, log, CachedEntry { lsn, entry });
                self.cache.evict(&mut self.streams, Lsn(u64::MAX));
            }
            Change::Truncate { from_index } => {
                self.cache.forget(&log.truncate(from_index, &mut self.ledger));
            }
            Change::State(state) => {
                log.set_state(state);
                log.pin_state(Pin::OnDisk(segment), &mut self.ledger);
            }
            Change::Compact { index, term } => {
                self.cache.forget(&log.compact(index, term, &mut self.ledger));
                log.pin_base(Pin::OnDisk(segment), &mut self.ledger);
            }
            Change::Remove => self.forget(stream),
            Change::Mended { .. } => unreachable!("of no stream: taken before"),
            Change::Reset { index, term } => {
                self.cache.forget(&log.reset(index, term, &mut self.ledger));
                log.pin_base(Pin::OnDisk(segment), &mut self.ledger);
            }
        }
        Ok(())
    }

    fn forget(&mut self, stream: StreamId) {
        if let Some(mut log) = self.streams.remove(&stream) {
            log.release(&mut self.ledger);
            self.cache.forget(log.cached.make_contiguous());
        }
        self.suspects.remove(&stream);
        self.damaged.remove(&stream);
    }

    /// All records are applied. Answers the streams that may have lost some, with the hole that explains it and the
    /// sequence of the stream's next record, and forgets them.
    pub(super) fn settle(&mut self) -> BTreeMap<StreamId, (Option<HoleNumber>, u32)> {
        let floating = self.streams.iter_mut().filter_map(|(stream, log)| (!log.settle()).then_some(*stream));
        let floating: Vec<StreamId> = floating.collect();
        floating.into_iter().for_each(|stream| self.damage(stream));
        let suspects =
            std::mem::take(&mut self.suspects).into_iter().map(|(stream, hole)| (stream, Some(hole)));
        let lost: BTreeMap<_, _> = suspects.chain(std::mem::take(&mut self.damaged)).collect();
        let lost =
            lost.into_iter().map(|(stream, hole)| (stream, (hole, self.next_sequence(stream)))).collect();
        for stream in BTreeMap::keys(&lost) {
            self.forget(*stream);
        }
        lost
    }
}
