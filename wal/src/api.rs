//! The public surface, published before the bodies so that callers can compile against it.
#![allow(missing_docs, unused_variables, clippy::todo, dead_code)]
use crate::*;
pub struct Wal { c: WalConfig }
pub struct Recovered { pub torn_tail: Option<TornTail>, pub damage: Vec<Damage> }
impl Recovered {
    /// A WAL that has never been written.
    pub fn empty(nonce: u64) -> Self { todo!() }
}
pub struct TornTail { pub file: String, pub offset: u64, pub lsn: Lsn }
pub struct Damage { pub file: String, pub offset: u64, pub why: String, pub streams: Vec<StreamId> }
pub struct WriteBatch { pub id: BatchId, pub segment: SegmentId, pub offset_bytes: u64, pub len_bytes: usize }
impl WriteBatch { pub fn encode_into(&self, buf: &mut [u8]) { todo!() } }
/// Opaque to the engine: hand it to the disk, then back to the WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentTask { Create { id: SegmentId }, Recycle { old: SegmentId, id: SegmentId }, Delete { id: SegmentId } }
pub struct ReadExtent { pub segment: SegmentId, pub offset_bytes: u64, pub len_bytes: usize }
pub struct ReadPlan { e: Vec<ReadExtent> }
impl ReadPlan {
    /// What to read, in order: 4 KiB aligned.
    pub fn extents(&self) -> &[ReadExtent] { &self.e }
    /// Turns what was read (one buffer per extent) into entries.
    pub fn decode<B: AsRef<[u8]>>(&self, buffers: &[B]) -> Result<Vec<Entry>, CorruptRecord> { todo!() }
}
/// The stream that keeps the oldest segment alive.
pub struct StreamPin { pub stream: StreamId, pub segment: SegmentId, pub first_index: u64, pub last_index_pinned: u64 }
impl Wal {
    pub fn new(config: WalConfig, recovered: Recovered) -> Wal { todo!() }
    pub fn append(&mut self, stream: StreamId, entries: &[Entry]) -> Lsn { todo!() }
    pub fn truncate_suffix(&mut self, stream: StreamId, from_index: u64) -> Lsn { todo!() }
    pub fn set_state(&mut self, stream: StreamId, state: StreamState) -> Lsn { todo!() }
    pub fn compact_to(&mut self, stream: StreamId, index: u64, term: u64) -> Lsn { todo!() }
    pub fn remove(&mut self, stream: StreamId) -> Lsn { todo!() }
    /// Queues an empty batch that records how far the log is flushed; call when idle and before a clean stop.
    pub fn seal(&mut self) { todo!() }
    pub fn poll_write(&mut self) -> Option<WriteBatch> { todo!() }
    pub fn poll_segment_task(&mut self) -> Option<SegmentTask> { todo!() }
    pub fn on_written(&mut self, batch: BatchId) -> Lsn { todo!() }
    pub fn on_segment_task_done(&mut self, task: SegmentTask) { todo!() }
    /// The task comes again at the next `poll_segment_task`; the caller paces the retries.
    pub fn on_segment_task_failed(&mut self, task: SegmentTask) { todo!() }
    pub fn flushed_lsn(&self) -> Lsn { todo!() }
    /// End of the last record queued.
    pub fn end_lsn(&self) -> Lsn { todo!() }
    pub fn has_queued(&self) -> bool { todo!() }
    pub fn queued_bytes(&self) -> u64 { todo!() }
    pub fn inflight(&self) -> usize { todo!() }
    pub fn disk_bytes(&self) -> u64 { todo!() }
    pub fn cache_bytes(&self) -> u64 { todo!() }
    /// Zero-filled segments ready for use.
    pub fn spare_segments(&self) -> usize { todo!() }
    pub fn contains(&self, stream: StreamId) -> bool { todo!() }
    /// Compaction point + 1; 1 for an unknown stream.
    pub fn first_index(&self, stream: StreamId) -> u64 { todo!() }
    /// 0 for an unknown stream.
    pub fn last_index(&self, stream: StreamId) -> u64 { todo!() }
    pub fn term(&self, stream: StreamId, index: u64) -> Result<u64, ReadError> { todo!() }
    pub fn state(&self, stream: StreamId) -> Option<StreamState> { todo!() }
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ { std::iter::empty() }
    pub fn entries(&self, stream: StreamId, low: u64, high_exclusive: u64, bytes_max: u64) -> Result<Vec<Entry>, ReadError> { todo!() }
    pub fn plan_read(&self, stream: StreamId, low: u64, high_exclusive: u64, bytes_max: u64) -> Option<ReadPlan> { todo!() }
    pub fn pinned_by(&self) -> Option<StreamPin> { todo!() }
    pub fn check_invariants(&self) { todo!() }
}
