//! A simulated disk: seeded, synchronous, and as unkind as a real one may be.
//!
//! Writes complete in any order within the configured latencies. At a crash, each write under way is lost,
//! lands whole, or is torn at any byte or into any subset of its sectors; each segment task has happened,
//! has not, or was caught in between. The same seed and calls give the same outcome.

use std::collections::BTreeMap;

use crate::batch::WriteBatch;
use crate::config::WalConfig;
use crate::error::RecoveryError;
use crate::pool::SegmentTask;
use crate::read::ReadPlan;
use crate::recovery::{Recovered, Recovery, SegmentFile};
use crate::segment::SegmentHeader;
use crate::types::{BLOCK_BYTES, BatchId, SegmentId};
use crate::width::{len_of, to_u64};

const SECTOR_BYTES: usize = 512;

/// How the disk behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimConfig {
    /// Every operation takes at least this long.
    pub latency_min_ns: u64,
    /// And at most this long.
    pub latency_max_ns: u64,
    /// Size of the disk; making a segment beyond it fails. `None`: unbounded.
    pub bytes_max: Option<u64>,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self { latency_min_ns: 50_000, latency_max_ns: 2_000_000, bytes_max: None }
    }
}

/// A completed operation, for the input of the same name of [`Wal`](crate::Wal).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimDone {
    /// [`on_written`](crate::Wal::on_written)
    Written(BatchId),
    /// [`on_segment_task_done`](crate::Wal::on_segment_task_done)
    Segment(SegmentTask),
    /// [`on_segment_task_failed`](crate::Wal::on_segment_task_failed)
    SegmentFailed(SegmentTask),
}

/// What a crash leaves of a write under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// Nothing.
    Lost,
    /// All of it.
    Whole,
    /// Its first bytes.
    Prefix(usize),
    /// The 512-byte sectors whose bits are set, repeating every 64 sectors.
    Sectors(u64),
}

#[derive(Debug, Clone)]
enum Operation {
    Write { id: BatchId, segment: SegmentId, offset: usize, bytes: Vec<u8> },
    Task(SegmentTask),
}

#[derive(Debug, Clone)]
struct Pending {
    done_ns: u64,
    operation: Operation,
}

/// The disk under one WAL.
#[derive(Debug, Clone)]
pub struct SimDisk {
    config: SimConfig,
    rng: u64,
    slow_factor: u64,
    full: bool,
    files: BTreeMap<SegmentId, Vec<u8>>,
    pending: Vec<Pending>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(config: SimConfig, seed: u64) -> Self {
        assert!(config.latency_min_ns <= config.latency_max_ns);
        Self { config, rng: seed, slow_factor: 1, full: false, files: BTreeMap::new(), pending: Vec::new() }
    }

    /// What a process finds when it starts. Nothing may be under way: [`crash`](Self::crash) first.
    pub fn recover(&mut self, config: &WalConfig) -> Result<Recovered, RecoveryError> {
        assert!(self.pending.is_empty(), "the last process is gone before the next one starts");
        let files = self.files.iter().map(|(id, bytes)| SegmentFile { id: *id, bytes: to_u64(bytes.len()) });
        let mut recovery = Recovery::new(config, files.collect())?;
        while let Some(request) = recovery.poll_read() {
            let file = &self.files[&request.segment];
            let from = len_of(request.offset_bytes).min(file.len());
            recovery.on_read(&file[from..file.len().min(from + request.len_bytes)])?;
        }
        let nonce = self.random();
        recovery.finish(nonce)
    }

    /// Begins a write.
    pub fn write(&mut self, batch: WriteBatch, now_ns: u64) {
        let mut bytes = vec![0xee; batch.len_bytes];
        batch.encode_into(&mut bytes);
        let offset = len_of(batch.offset_bytes);
        self.begin(Operation::Write { id: batch.id, segment: batch.segment, offset, bytes }, now_ns);
    }

    /// Begins a segment task.
    pub fn run_segment_task(&mut self, task: SegmentTask, now_ns: u64) {
        self.begin(Operation::Task(task), now_ns);
    }

    /// When the next operation under way completes.
    pub fn next_completion_ns(&self) -> Option<u64> {
        self.pending.iter().map(|pending| pending.done_ns).min()
    }

    /// Takes one operation completed by `now_ns`, the earliest first.
    pub fn poll_done(&mut self, now_ns: u64) -> Option<SimDone> {
        let (at, pending) = self.pending.iter().enumerate().min_by_key(|(_, pending)| pending.done_ns)?;
        if pending.done_ns > now_ns {
            return None;
        }
        Some(match self.pending.remove(at).operation {
            Operation::Write { id, segment, offset, bytes } => {
                self.land(segment, offset, &bytes, Landing::Whole);
                SimDone::Written(id)
            }
            Operation::Task(task) => match self.run(&task) {
                true => SimDone::Segment(task),
                false => SimDone::SegmentFailed(task),
            },
        })
    }

    /// Reads what a plan asks for.
    pub fn read(&self, plan: &ReadPlan) -> Vec<Vec<u8>> {
        let read = |extent: &crate::read::ReadExtent| {
            let file = self.files.get(&extent.segment).map_or(&[][..], |file| file);
            let from = len_of(extent.offset_bytes).min(file.len());
            file[from..file.len().min(from + extent.len_bytes)].to_vec()
        };
        plan.extents().iter().map(read).collect()
    }

    /// Power failure, with seeded luck.
    pub fn crash(&mut self) {
        let mut rng = self.rng;
        self.crash_with(|_, len| match next_random(&mut rng) % 6 {
            0 | 1 => Landing::Lost,
            2 | 3 => Landing::Whole,
            4 => Landing::Prefix(len_of(next_random(&mut rng) % to_u64(len + 1))),
            _ => Landing::Sectors(next_random(&mut rng)),
        });
        self.rng = rng;
    }

    /// Power failure in which `landing`, told the batch and its length in bytes, decides what becomes of each
    /// write under way.
    pub fn crash_with(&mut self, mut landing: impl FnMut(BatchId, usize) -> Landing) {
        for pending in std::mem::take(&mut self.pending) {
            match pending.operation {
                Operation::Write { id, segment, offset, bytes } => {
                    let landing = landing(id, bytes.len());
                    self.land(segment, offset, &bytes, landing);
                }
                Operation::Task(task) => self.interrupt(&task),
            }
        }
    }

    /// From now on, what begins takes `factor` times as long.
    pub fn set_slow(&mut self, factor: u64) {
        self.slow_factor = factor;
    }

    /// From now on, no segment can be made (or again can).
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Damages one bit, if the file reaches that far.
    pub fn flip_bit(&mut self, segment: SegmentId, offset: u64, bit: u8) {
        if let Some(byte) = self.files.get_mut(&segment).and_then(|file| file.get_mut(len_of(offset))) {
            *byte ^= 1 << (bit % 8);
        }
    }

    /// Writes one block of a file over another, as a disk does that misdirects a write; both are counted in bytes from
    /// the file's start and rounded down to blocks.
    pub fn misdirect(&mut self, segment: SegmentId, from: usize, to: usize) {
        let (from, to) = (from / BLOCK_BYTES * BLOCK_BYTES, to / BLOCK_BYTES * BLOCK_BYTES);
        if let Some(file) = self.files.get_mut(&segment)
            && from.max(to) + BLOCK_BYTES <= file.len()
        {
            file.copy_within(from..from + BLOCK_BYTES, to);
        }
    }

    /// Loses a whole file.
    pub fn lose_file(&mut self, segment: SegmentId) {
        self.files.remove(&segment);
    }

    /// The segment files, oldest first, and what they hold.
    pub fn files(&self) -> impl Iterator<Item = (SegmentId, &[u8])> {
        self.files.iter().map(|(id, bytes)| (*id, bytes.as_slice()))
    }

    fn begin(&mut self, operation: Operation, now_ns: u64) {
        let spread = self.config.latency_max_ns - self.config.latency_min_ns + 1;
        let latency = (self.config.latency_min_ns + self.random() % spread) * self.slow_factor;
        self.pending.push(Pending { done_ns: now_ns + latency, operation });
    }

    fn land(&mut self, segment: SegmentId, offset: usize, bytes: &[u8], landing: Landing) {
        let file = self.files.get_mut(&segment).expect("batches go to segments that were made");
        let target = &mut file[offset..offset + bytes.len()];
        match landing {
            Landing::Lost => {}
            Landing::Whole => target.copy_from_slice(bytes),
            Landing::Prefix(len) => target[..len].copy_from_slice(&bytes[..len]),
            Landing::Sectors(mask) => {
                let sectors = target.chunks_mut(SECTOR_BYTES).zip(bytes.chunks(SECTOR_BYTES));
                for (at, (target, sector)) in sectors.enumerate() {
                    if mask >> (at % 64) & 1 == 1 {
                        target.copy_from_slice(sector);
                    }
                }
            }
        }
    }

    fn run(&mut self, task: &SegmentTask) -> bool {
        match task {
            SegmentTask::Create { header } => {
                let used: u64 = self.files.values().map(|file| to_u64(file.len())).sum();
                let fits = self.config.bytes_max.is_none_or(|max| used + header.segment_bytes <= max);
                if self.full || !fits {
                    return false;
                }
                let file = vec![0; len_of(header.segment_bytes)];
                self.name(file, header);
            }
            SegmentTask::Recycle { old, header } => {
                let file = self.files.remove(old).expect("a file is recycled once");
                self.name(file, header);
            }
            SegmentTask::Delete { id } => {
                self.files.remove(id);
            }
        }
        true
    }

    fn name(&mut self, mut file: Vec<u8>, header: &SegmentHeader) {
        file[..BLOCK_BYTES].copy_from_slice(&header.encode());
        self.files.insert(header.id, file);
    }

    fn interrupt(&mut self, task: &SegmentTask) {
        match (self.random() % 3, task) {
            (0, _) => {}
            // Caught between its two names, a file has none that recovery looks at, and is removed.
            (1, SegmentTask::Recycle { old, .. }) => self.lose_file(*old),
            _ => {
                self.run(task);
            }
        }
    }

    fn random(&mut self) -> u64 {
        next_random(&mut self.rng)
    }
}

/// SplitMix64: small, seedable, good enough to be unkind.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
