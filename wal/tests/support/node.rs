//! A WAL on a simulated disk, and the model it is compared with.
#![allow(dead_code, reason = "each test file uses its own part")]

use wal::disk::sim::{SimConfig, SimDisk, SimDone};
use wal::{BatchId, Lsn, Recovered, RecoveryError, StreamId, Wal, WalConfig};

use crate::model::{Command, Model, Streams, assert_holds};

pub struct Node {
    pub config: WalConfig,
    pub wal: Wal,
    pub disk: SimDisk,
    pub model: Model,
    pub now_ns: u64,
}

/// Segments of a few blocks, so that everything happens often.
pub fn tiny(segment_bytes: u64) -> WalConfig {
    WalConfig {
        segment_bytes,
        batch_bytes_max: 8192,
        payload_bytes_max: 6000,
        inflight_max: 3,
        pool_min: 1,
        pool_max: 2,
        cache_bytes_max: 4000,
        ..WalConfig::new(7, 3)
    }
}

impl Node {
    pub fn new(config: WalConfig, seed: u64) -> Self {
        let mut disk = SimDisk::new(SimConfig::default(), seed);
        let wal = Wal::new(config.clone(), disk.recover(&config).expect("an empty disk"));
        Self { config, wal, disk, model: Model::default(), now_ns: 0 }
    }

    pub fn give(&mut self, stream: u64, command: Command) -> Lsn {
        self.model.give(&mut self.wal, StreamId(stream), command)
    }

    /// Starts whatever can be started.
    pub fn start(&mut self) {
        while let Some(task) = self.wal.poll_segment_task() {
            self.disk.run_segment_task(task, self.now_ns);
        }
        while let Some(batch) = self.wal.poll_write() {
            self.disk.write(batch, self.now_ns);
        }
    }

    /// Completes one operation; `false` if none is under way.
    pub fn complete_one(&mut self) -> bool {
        let Some(at) = self.disk.next_completion_ns() else { return false };
        self.now_ns = self.now_ns.max(at);
        match self.disk.poll_done(self.now_ns).expect("one is due") {
            SimDone::Written(batch) => self.on_written(batch),
            SimDone::Segment(task) => self.wal.on_segment_task_done(task),
            SimDone::SegmentFailed(task) => self.wal.on_segment_task_failed(task),
        }
        true
    }

    fn on_written(&mut self, batch: BatchId) {
        let before = self.wal.flushed_lsn();
        let flushed = self.wal.on_written(batch);
        assert!(flushed >= before && flushed == self.wal.flushed_lsn());
    }

    /// Runs until nothing is under way or wanted.
    pub fn settle(&mut self) {
        self.start();
        let mut left = 100_000;
        while self.complete_one() {
            self.start();
            left -= 1;
            assert!(left > 0, "the log never comes to rest");
        }
        assert_eq!(self.wal.queued_bytes(), 0);
        assert_eq!(self.wal.flushed_lsn(), self.wal.end_lsn());
    }

    pub fn assert_holds(&self, streams: &Streams) {
        let fetch = |plan: &wal::ReadPlan| plan.decode(&self.disk.read(plan)).expect("sound files");
        assert_holds(&self.wal, streams, fetch);
        self.wal.check_invariants();
    }

    pub fn assert_holds_model(&self) {
        self.assert_holds(&self.model.now);
    }

    pub fn recover(&mut self) -> Result<Recovered, RecoveryError> {
        self.disk.recover(&self.config)
    }

    /// What recovery would find now.
    pub fn recover_clone(&self) -> Recovered {
        self.disk.clone().recover(&self.config).expect("sound files")
    }

    /// Starts again after a crash: nothing acknowledged may be gone, and what is left is a prefix.
    pub fn restart(&mut self) {
        let acknowledged = self.wal.flushed_lsn();
        let recovered = self.recover().expect("a crash is not damage");
        let end = recovered.end_lsn();
        assert!(end >= acknowledged, "lost acknowledged records: {acknowledged} was flushed, {end} is left");
        self.wal = Wal::new(self.config.clone(), recovered);
        self.model.cut(end);
        self.assert_holds_model();
    }
}
