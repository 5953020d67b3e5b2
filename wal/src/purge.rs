//! Giving segments up: when nothing in the oldest is needed, and the disk knows it.
//!
//! A segment is needed while it holds the newest record of an entry, of a state, or of a base. When
//! only states and bases keep the oldest alive (idle streams), they are written again. Once nothing does:
//!
//! ```text
//!  decided -> all records that made it needless are flushed -> oldest_lsn moves past it -> a batch
//!  that says so is flushed -> no read plan reaches into it -> the file goes to the pool
//! ```
//!
//! Each arrow matters. `compact_to(9)` queued, the segment with entry 9 recycled, crash before the flush:
//! the log on disk claims an entry that is gone. `oldest_lsn` stamped before that flush: batches land out of
//! order, the stamp survives the crash and the compaction does not, so recovery begins too late. And because
//! `oldest_lsn` is on disk before the file goes, recovery can tell a purged segment from a lost one.

use crate::pool::FreeSegment;
use crate::record::{Change, RECORD_HEADER_BYTES};
use crate::stream::Pin;
use crate::types::{BatchId, Lsn, SegmentId, StreamId};
use crate::wal::Wal;
use crate::width::to_u64;

/// A purge of the oldest segments, up to but without `keep`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PendingPurge {
    keep: SegmentId,
    /// Where `keep` begins.
    keep_lsn: Lsn,
    /// End of the records that made the contents needless.
    needless_lsn: Lsn,
    /// The first batch that carries the new `oldest_lsn`, once there is one.
    stamped_by: Option<BatchId>,
}

/// The stream that keeps the oldest segment alive with entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPin {
    /// The stream to compact.
    pub stream: StreamId,
    /// The segment it keeps alive.
    pub segment: SegmentId,
    /// First entry that lies there.
    pub first_index: u64,
    /// Compacting up to here lets the segment go, as far as this stream is concerned.
    pub last_index_pinned: u64,
}

/// Most a state and a base take together when written again.
const PINS_BYTES: u64 = 2 * (RECORD_HEADER_BYTES as u64) + 8;

impl Wal {
    /// The stream whose entries keep the oldest segment alive, if that is what does: flush its state
    /// machine and compact it to let the segment go. Of several, the one with the most such entries.
    /// The segment being written does not count. O(streams and entries).
    pub fn pinned_by(&self) -> Option<StreamPin> {
        let oldest = self.ledger.oldest().filter(|oldest| Some(oldest.id) != self.active_segment())?;
        if oldest.live_entries == 0 {
            return None;
        }
        let pins = self.streams.iter().filter_map(|(stream, log)| {
            let (first_index, last_index_pinned) = log.range_in(oldest.id)?;
            Some(StreamPin { stream: *stream, segment: oldest.id, first_index, last_index_pinned })
        });
        pins.max_by_key(|pin| pin.last_index_pinned - pin.first_index)
    }

    /// Frees what can be freed. Cheap when there is nothing to do; called after every change that may help.
    pub(crate) fn maintain(&mut self) {
        if !self.quarantine.is_over() {
            // What was purged could not be reported again by the next start.
            return;
        }
        self.finish_purge();
        if self.purge.is_some() {
            return;
        }
        self.rewrite_pins();
        self.decide_purge();
    }

    fn finish_purge(&mut self) {
        if !self.held.is_empty() && self.batch_cursors().1 > self.first_batch {
            self.held.drain(..).for_each(|segment| self.pool.free(segment));
        }
        let Some(purge) = self.purge else { return };
        if self.flushed_lsn() < purge.needless_lsn {
            return;
        }
        let (next_batch, flushed_batch) = self.batch_cursors();
        let Some(stamped_by) = purge.stamped_by else {
            self.oldest_lsn = purge.keep_lsn;
            self.purge = Some(PendingPurge { stamped_by: Some(next_batch), ..purge });
            if self.pool.ready() < self.config.pool_min {
                // The space is wanted: do not wait for the next record.
                self.want_batch();
            }
            return;
        };
        if flushed_batch <= stamped_by {
            return;
        }
        while let Some(oldest) = self.ledger.oldest() {
            if oldest.id >= purge.keep {
                self.purge = None;
                break;
            }
            if oldest.is_being_read() {
                // Tried again at the next call.
                return;
            }
            assert_eq!((oldest.live_entries, oldest.live_pins), (0, 0), "{} is still needed", oldest.id);
            let oldest = self.ledger.pop_oldest().expect("looked at above");
            self.pool.free(FreeSegment { id: oldest.id, bytes: oldest.bytes });
        }
    }

    fn decide_purge(&mut self) {
        let active = self.active_segment();
        let needless = self.ledger.iter().take_while(|segment| {
            segment.live_entries == 0 && segment.live_pins == 0 && Some(segment.id) != active
        });
        let count = needless.count();
        let Some(keep) = self.ledger.iter().nth(count).filter(|_| count > 0) else { return };
        // Nothing after the needless ones, or records of them may still be in flight: not yet.
        if keep.first_lsn > self.flushed_lsn() {
            return;
        }
        self.purge = Some(PendingPurge {
            keep: keep.id,
            keep_lsn: keep.first_lsn,
            needless_lsn: self.end_lsn(),
            stamped_by: None,
        });
        self.finish_purge();
    }

    /// Writes the states and bases again that are all that keeps the oldest segment alive.
    fn rewrite_pins(&mut self) {
        let Some(oldest) = self.ledger.oldest() else { return };
        if oldest.live_entries > 0 || oldest.live_pins == 0 || self.ledger.second().is_none() {
            return;
        }
        // Only while it frees much more than it writes, or an idle log would chase its own tail.
        let pins_bytes = to_u64(self.streams.len()) * PINS_BYTES;
        if Some(oldest.id) == self.active_segment() || self.ledger.bytes() < 4 * pins_bytes {
            return;
        }
        let oldest = oldest.id;
        let in_oldest = |pin: Pin| pin.is_in(oldest);
        let pinned: Vec<StreamId> = (self.streams.iter())
            .filter(|(_, log)| in_oldest(log.state_pin) || in_oldest(log.base_pin))
            .map(|(stream, _)| *stream)
            .collect();
        for stream in pinned {
            let log = &self.streams[&stream];
            let (base, state) = ((log.base_index(), log.base_term()), log.state());
            if in_oldest(log.base_pin) {
                let lsn = self.queue_record(stream, Change::Compact { index: base.0, term: base.1 });
                let log = self.streams.get_mut(&stream).expect("listed above");
                log.pin_base(Pin::Queued(lsn), &mut self.ledger);
            }
            if let Some(state) = state.filter(|_| in_oldest(self.streams[&stream].state_pin)) {
                self.set_state(stream, state);
            }
        }
    }
}
