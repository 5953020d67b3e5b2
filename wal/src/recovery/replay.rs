//! Applies records to streams, as the commands that wrote them did.
//!
//! A stream's records are numbered. While nothing is missing, every number must follow; after a gap
//! (surveying damage), a stream is suspect until its next record follows, which proves that the gap held
//! nothing of it, and damaged once it does not.

use std::collections::{BTreeMap, BTreeSet};

use super::chain::Link;
use crate::cache::Cache;
use crate::ledger::{Ledger, SegmentUse};
use crate::record::{Change, RecordView};
use crate::stream::{CachedEntry, Location, Pin, StreamLog};
use crate::types::{Lsn, SegmentId, StreamId};
use crate::width::{offset_u32, to_u32};

/// A record that cannot be: what is wrong with it.
type Fault = &'static str;

#[derive(Debug)]
pub(super) struct Replay {
    pub(super) streams: BTreeMap<StreamId, StreamLog>,
    pub(super) ledger: Ledger,
    pub(super) cache: Cache,
    /// Records before the first one replayed were purged, so streams may begin in the middle.
    purged: bool,
    surveying: bool,
    gap_seen: bool,
    suspects: BTreeSet<StreamId>,
    damaged: BTreeSet<StreamId>,
}

impl Replay {
    pub(super) fn new(cache_bytes_max: u64, purged: bool, surveying: bool) -> Self {
        Self {
            streams: BTreeMap::new(),
            ledger: Ledger::default(),
            cache: Cache::new(cache_bytes_max),
            purged,
            surveying,
            gap_seen: false,
            suspects: BTreeSet::new(),
            damaged: BTreeSet::new(),
        }
    }

    /// Records of this segment follow.
    pub(super) fn enter(&mut self, link: &Link, first_lsn: Lsn) {
        if self.ledger.get(link.id).is_none() {
            self.ledger.push(SegmentUse::new(link.id, link.file_bytes, link.seed, first_lsn));
        }
    }

    /// Records may be missing here.
    pub(super) fn gap(&mut self) {
        assert!(self.surveying, "a log with gaps is only surveyed");
        self.gap_seen = true;
        self.suspects.extend(self.streams.keys());
    }

    /// A record of this stream is lost.
    pub(super) fn lose(&mut self, stream: StreamId) {
        self.damaged.insert(stream);
    }

    pub(super) fn apply(
        &mut self,
        view: &RecordView<'_>,
        lsn: Lsn,
        segment: SegmentId,
        offset: u64,
    ) -> Result<(), Fault> {
        let change = view.change();
        let follows = match self.admit(view, &change) {
            Ok(admitted) => admitted,
            Err(fault) if !self.surveying => return Err(fault),
            Err(_) => {
                self.damaged.insert(view.stream);
                false
            }
        };
        if let Some(log) = self.streams.get_mut(&view.stream) {
            log.next_sequence = view.sequence.wrapping_add(1);
        }
        if !follows || (self.damaged.contains(&view.stream) && change != Change::Remove) {
            return Ok(());
        }
        let place = Location::on_disk(segment, offset_u32(offset), to_u32(view.len_bytes()));
        match self.change(view.stream, change, lsn, place) {
            Err(_) if self.surveying => {
                self.damaged.insert(view.stream);
                Ok(())
            }
            result => result,
        }
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
            return match begins || (self.purged && !self.gap_seen) {
                true => Ok(true),
                false => Err("a record of an unknown stream, whose earlier records are missing"),
            };
        };
        if view.sequence == log.next_sequence {
            self.suspects.remove(&view.stream);
            return Ok(true);
        }
        if self.gap_seen && *change == Change::Remove {
            return Ok(true);
        }
        if self.gap_seen && view.sequence == 0 {
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

    /// All records are applied. Answers the streams that may have lost some.
    pub(super) fn settle(&mut self) -> Vec<StreamId> {
        for (stream, log) in &mut self.streams {
            if !log.settle() {
                self.damaged.insert(*stream);
            }
        }
        self.suspects.union(&self.damaged).copied().collect()
    }
}
