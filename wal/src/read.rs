//! Reads: from memory at once, from disk by a plan.
//!
//! Invariants: an answer is contiguous and begins at the index asked for; a plan pins the segments it
//! reaches into, so their files are not recycled before it is dropped; what comes back from
//! disk is checked against both its checksum and the index before it is handed out.

use std::sync::Arc;

use crate::error::{CorruptRecord, ReadError};
use crate::record::{Change, RECORD_HEADER_BYTES, RecordView};
use crate::segment::{SegmentSeed, file_name};
use crate::stream::{CachedEntry, Location};
use crate::types::{BLOCK, Entry, SegmentId, StreamId, StreamState};
use crate::wal::Wal;
use crate::width::{len_of, to_u64, to_usize};

/// Two records of one plan less than this apart are fetched by one read: a gap is cheaper than another
/// trip to the disk.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// No single read of a plan grows past this, unless one record is larger.
const EXTENT_BYTES_MAX: u64 = 1 << 20;

/// One read: `len_bytes` at `offset_bytes` of `segment`, all multiples of 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadExtent {
    /// The file to read.
    pub segment: SegmentId,
    /// From where.
    pub offset_bytes: u64,
    /// How much.
    pub len_bytes: usize,
}

#[derive(Debug, Clone)]
struct PlannedEntry {
    index: u64,
    extent: usize,
    offset: u64,
    len: usize,
    seed: SegmentSeed,
}

/// How to fetch a range of entries from disk. Keeps the segments it needs from being freed: drop it soon.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    stream: StreamId,
    extents: Vec<ReadExtent>,
    entries: Vec<PlannedEntry>,
    _pins: Vec<Arc<()>>,
}

impl ReadPlan {
    /// What to read, in order.
    pub fn extents(&self) -> &[ReadExtent] {
        &self.extents
    }

    /// The stream that is read.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// First index and index after the last that the plan fetches.
    pub fn range(&self) -> (u64, u64) {
        let first = self.entries.first().map_or(0, |entry| entry.index);
        (first, first + to_u64(self.entries.len()))
    }

    /// Turns what was read into entries: one buffer per extent, in order, each of the extent's length.
    pub fn decode<B: AsRef<[u8]>>(&self, buffers: &[B]) -> Result<Vec<Entry>, CorruptRecord> {
        self.entries.iter().map(|planned| self.decode_entry(planned, buffers)).collect()
    }

    fn decode_entry<B: AsRef<[u8]>>(
        &self,
        planned: &PlannedEntry,
        buffers: &[B],
    ) -> Result<Entry, CorruptRecord> {
        let extent = &self.extents[planned.extent];
        let corrupt = |why| CorruptRecord {
            file: file_name(extent.segment),
            offset: planned.offset,
            stream: self.stream,
            index: planned.index,
            why,
        };
        let at = len_of(planned.offset - extent.offset_bytes);
        let bytes = buffers.get(planned.extent).and_then(|buffer| buffer.as_ref().get(at..at + planned.len));
        let bytes = bytes.ok_or_else(|| corrupt("the file is shorter than it was"))?;
        let view = RecordView::parse(planned.seed, planned.offset, bytes).map_err(corrupt)?;
        match view.change() {
            Change::Append(entry) if view.stream == self.stream && entry.index == planned.index => Ok(entry),
            _ => Err(corrupt("another record lies there")),
        }
    }
}

impl Wal {
    /// All streams, in order.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.streams.keys().copied()
    }

    /// Whether the stream exists.
    pub fn contains(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    /// First index not compacted, whether or not an entry is there; 1 for an unknown stream.
    pub fn first_index(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |log| log.base_index()) + 1
    }

    /// Last index; that of the compaction point if there are no entries, 0 for an unknown stream.
    pub fn last_index(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |log| log.last_index())
    }

    /// Last entry that is on disk with all before it; the compaction point if there are none.
    pub fn flushed_index(&self, stream: StreamId) -> u64 {
        let Some(log) = self.streams.get(&stream) else { return 0 };
        let flushed_lsn = self.flushed_lsn();
        let end_lsn =
            |cached: &CachedEntry| cached.lsn.0 + to_u64(RECORD_HEADER_BYTES + cached.entry.payload.len());
        let unflushed = log.cached.iter().rev().take_while(|cached| end_lsn(cached) > flushed_lsn.0).count();
        log.last_index() - to_u64(unflushed)
    }

    /// Term of an entry, or of the compaction point (0 at index 0).
    pub fn term(&self, stream: StreamId, index: u64) -> Result<u64, ReadError> {
        match self.streams.get(&stream) {
            None if index == 0 => Ok(0),
            None => Err(ReadError::Unavailable),
            Some(log) if index < log.base_index() => Err(ReadError::Compacted),
            Some(log) => log.term(index).ok_or(ReadError::Unavailable),
        }
    }

    /// Bytes that the stream's entries since its compaction point take in the log, those still queued included;
    /// 0 for an unknown stream.
    pub fn stream_bytes(&self, stream: StreamId) -> u64 {
        self.streams.get(&stream).map_or(0, |log| log.bytes())
    }

    /// The state last set; `None` if none ever was.
    pub fn state(&self, stream: StreamId) -> Option<StreamState> {
        self.streams.get(&stream)?.state()
    }

    /// The entries `low..high_exclusive` as far as `bytes_max` payload bytes reach, at least one, from memory.
    /// An empty range answers with no entries.
    pub fn entries(
        &self,
        stream: StreamId,
        low: u64,
        high_exclusive: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        if low >= high_exclusive {
            return Ok(Vec::new());
        }
        if low < self.first_index(stream) {
            return Err(ReadError::Compacted);
        }
        let log = self.streams.get(&stream).ok_or(ReadError::Unavailable)?;
        if high_exclusive > log.last_index() + 1 {
            return Err(ReadError::Unavailable);
        }
        let first_cached = log.first_cached_index();
        let from = low.checked_sub(first_cached).ok_or(ReadError::OnDisk)?;
        let (from, count) = (len_of(from), len_of(high_exclusive - low));
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += to_u64(entry.payload.len()).max(1);
            first || bytes <= bytes_max
        };
        let cached = log.cached.range(from..from + count).map(|cached| &cached.entry);
        Ok(cached.take_while(fits).cloned().collect())
    }

    /// How to fetch `low..high_exclusive` from disk, as far as `bytes_max` payload bytes reach and up to where
    /// memory takes over; at least one entry. `None` if `low` is not an entry that lies on disk only.
    pub fn plan_read(
        &self,
        stream: StreamId,
        low: u64,
        high_exclusive: u64,
        bytes_max: u64,
    ) -> Option<ReadPlan> {
        let log = self.streams.get(&stream)?;
        let high = high_exclusive.min(log.first_cached_index());
        if low <= log.base_index() || low >= high {
            return None;
        }
        let mut plan = ReadPlan { stream, extents: Vec::new(), entries: Vec::new(), _pins: Vec::new() };
        let mut bytes = 0;
        for index in low..high {
            let location = log.location(index).expect("an index inside the stream");
            bytes += u64::from(location.len());
            if index > low && bytes > bytes_max {
                break;
            }
            self.plan_entry(&mut plan, index, location);
        }
        Some(plan)
    }

    fn plan_entry(&self, plan: &mut ReadPlan, index: u64, location: Location) {
        let segment = location.segment().expect("an entry that memory gave up was flushed");
        let segment = self.ledger.get(segment).expect("a location names a segment in use");
        let (offset, len) = (u64::from(location.offset()), to_usize(location.len()));
        let start = offset / BLOCK * BLOCK;
        let end = (offset + u64::from(location.len())).div_ceil(BLOCK) * BLOCK;
        let grown = plan.extents.last_mut().filter(|last| {
            let last_end = last.offset_bytes + to_u64(last.len_bytes);
            last.segment == segment.id
                && start >= last.offset_bytes
                && start <= last_end + GAP_BYTES_MAX
                && end - last.offset_bytes <= EXTENT_BYTES_MAX
        });
        match grown {
            Some(last) => last.len_bytes = last.len_bytes.max(len_of(end - last.offset_bytes)),
            None => {
                let len_bytes = len_of(end - start);
                plan.extents.push(ReadExtent { segment: segment.id, offset_bytes: start, len_bytes });
                plan._pins.push(Arc::clone(&segment.readers));
            }
        }
        let extent = plan.extents.len() - 1;
        plan.entries.push(PlannedEntry { index, extent, offset, len, seed: segment.seed });
    }
}
