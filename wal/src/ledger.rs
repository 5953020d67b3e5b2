//! Which segments are in use, and how much of each is still needed.
//!
//! Invariants: segments are ordered by id, which is the order they were written in; a segment's
//! counters equal the number of index locations and pins that name it (asserted by
//! `Wal::check_invariants`). Segments are given up from the front only: a record may undo an older one
//! (truncate, compact, remove), so the newer may never go first.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::segment::SegmentSeed;
use crate::types::{Lsn, SegmentId};

/// A segment that holds, or is about to hold, batches.
#[derive(Debug, Clone)]
pub(crate) struct SegmentUse {
    pub(crate) id: SegmentId,
    pub(crate) bytes: u64,
    pub(crate) seed: SegmentSeed,
    /// Position of its first record.
    pub(crate) first_lsn: Lsn,
    /// Entries of any stream whose latest record lies here.
    pub(crate) live_entries: u64,
    /// Streams whose latest state or compaction point lies here (each counts).
    pub(crate) live_pins: u64,
    /// Shared with every read plan that reaches into the segment: it is not freed before they are gone.
    pub(crate) readers: Arc<()>,
}

impl SegmentUse {
    pub(crate) fn new(id: SegmentId, bytes: u64, seed: SegmentSeed, first_lsn: Lsn) -> Self {
        Self { id, bytes, seed, first_lsn, live_entries: 0, live_pins: 0, readers: Arc::new(()) }
    }

    pub(crate) fn is_being_read(&self) -> bool {
        Arc::strong_count(&self.readers) > 1
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    segments: VecDeque<SegmentUse>,
}

impl Ledger {
    pub(crate) fn push(&mut self, segment: SegmentUse) {
        if let Some(last) = self.segments.back() {
            assert!(
                last.id < segment.id && last.first_lsn <= segment.first_lsn,
                "segments are used in order"
            );
        }
        self.segments.push_back(segment);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &SegmentUse> {
        self.segments.iter()
    }

    pub(crate) fn oldest(&self) -> Option<&SegmentUse> {
        self.segments.front()
    }

    pub(crate) fn second(&self) -> Option<&SegmentUse> {
        self.segments.get(1)
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<SegmentUse> {
        self.segments.pop_front()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(crate) fn get(&self, id: SegmentId) -> Option<&SegmentUse> {
        let at = self.segments.binary_search_by_key(&id, |segment| segment.id).ok()?;
        self.segments.get(at)
    }

    fn get_mut(&mut self, id: SegmentId) -> &mut SegmentUse {
        // Nearly every change concerns the segment being written.
        let last = self.segments.len().checked_sub(1).expect("a location names a segment in use");
        let at = if self.segments[last].id == id {
            last
        } else {
            let found = self.segments.binary_search_by_key(&id, |segment| segment.id);
            found.expect("a location names a segment in use")
        };
        &mut self.segments[at]
    }

    pub(crate) fn add_entry(&mut self, id: SegmentId) {
        self.get_mut(id).live_entries += 1;
    }

    pub(crate) fn drop_entries(&mut self, id: SegmentId, count: u64) {
        let segment = self.get_mut(id);
        segment.live_entries = segment.live_entries.checked_sub(count).expect("counted when located");
    }

    pub(crate) fn add_pin(&mut self, id: SegmentId) {
        self.get_mut(id).live_pins += 1;
    }

    pub(crate) fn drop_pin(&mut self, id: SegmentId) {
        let segment = self.get_mut(id);
        segment.live_pins = segment.live_pins.checked_sub(1).expect("counted when located");
    }
}
