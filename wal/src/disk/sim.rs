//! A simulated disk: seeded, synchronous, crashes on demand.
#![allow(missing_docs, unused_variables, clippy::todo, dead_code)]
use crate::*;
pub struct SimConfig { pub latency_min_ns: u64, pub latency_max_ns: u64, pub bytes_max: Option<u64> }
pub struct SimDisk { s: u64 }
pub enum SimDone { Written(BatchId), Segment(SegmentTask), SegmentFailed(SegmentTask) }
impl SimDisk {
    pub fn new(config: SimConfig, seed: u64) -> Self { todo!() }
    /// What a process start finds on the disk.
    pub fn recover(&mut self, config: &WalConfig) -> Result<Recovered, RecoveryError> { todo!() }
    pub fn write(&mut self, batch: WriteBatch, now_ns: u64) { todo!() }
    pub fn run_segment_task(&mut self, task: SegmentTask, now_ns: u64) { todo!() }
    /// When the next operation in flight completes.
    pub fn next_completion_ns(&self) -> Option<u64> { todo!() }
    /// Takes one operation completed by `now_ns`.
    pub fn poll_done(&mut self, now_ns: u64) -> Option<SimDone> { todo!() }
    pub fn read(&self, plan: &ReadPlan) -> Vec<Vec<u8>> { todo!() }
    /// Power failure: what is in flight lands whole, in part, or not at all.
    pub fn crash(&mut self) { todo!() }
    /// The same disk from now on `factor` times slower.
    pub fn set_slow(&mut self, factor: u64) { todo!() }
    pub fn set_full(&mut self, full: bool) { todo!() }
    pub fn flip_bit(&mut self, segment: SegmentId, offset: u64, bit: u8) { todo!() }
}
