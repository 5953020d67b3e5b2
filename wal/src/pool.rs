//! The spare segments: made ahead of need, recycled rather than made, never empty in normal operation.
//!
//! One task runs at a time, so filling a new segment with zeros never takes more than one write's share
//! of the disk. Ids are handed out in the order segments become ready, hence in the order they are used.

use std::collections::VecDeque;

use crate::segment::SegmentHeader;
use crate::types::SegmentId;
use crate::width::to_u64;

/// Work on segment files for the driver. Each is durable before
/// [`Wal::on_segment_task_done`](crate::Wal::on_segment_task_done) is told, and may be repeated after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentTask {
    /// Make a file of `header.segment_bytes` zeros, really written, with this header.
    Create {
        /// Name and first block of the new file.
        header: SegmentHeader,
    },
    /// Give the file of `old` a new life: new name, new header; the rest of its bytes may stay.
    Recycle {
        /// The segment to reuse.
        old: SegmentId,
        /// Its new name and first block.
        header: SegmentHeader,
    },
    /// Remove the file.
    Delete {
        /// The segment to remove.
        id: SegmentId,
    },
}

/// A file that no stream needs any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeSegment {
    pub(crate) id: SegmentId,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Pool {
    node_id: u64,
    core: u16,
    segment_bytes: u64,
    min: usize,
    max: usize,
    nonce: u64,
    next_id: u64,
    ready: VecDeque<SegmentHeader>,
    free: VecDeque<FreeSegment>,
    running: Option<(SegmentTask, FreeSegment)>,
    failed: Option<(SegmentTask, FreeSegment)>,
}

impl Pool {
    pub(crate) fn new(
        config: &crate::config::WalConfig,
        nonce: u64,
        next_id: SegmentId,
        free: VecDeque<FreeSegment>,
    ) -> Self {
        Self {
            node_id: config.node_id,
            core: config.core,
            segment_bytes: config.segment_bytes,
            min: config.pool_min,
            max: config.pool_max,
            nonce,
            next_id: next_id.0,
            ready: VecDeque::new(),
            free,
            running: None,
            failed: None,
        }
    }

    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn take(&mut self) -> Option<SegmentHeader> {
        self.ready.pop_front()
    }

    pub(crate) fn free(&mut self, segment: FreeSegment) {
        self.free.push_back(segment);
    }

    /// Bytes of all files that are not in use, the one being worked on included.
    pub(crate) fn bytes(&self) -> u64 {
        let free: u64 = self.free.iter().map(|segment| segment.bytes).sum();
        let working = self.running.iter().chain(&self.failed).map(|(_, segment)| segment.bytes).sum::<u64>();
        to_u64(self.ready.len()) * self.segment_bytes + free + working
    }

    pub(crate) fn poll_task(&mut self) -> Option<SegmentTask> {
        if self.running.is_some() {
            return None;
        }
        let (task, segment) = self.failed.take().or_else(|| self.next_task())?;
        self.running = Some((task.clone(), segment));
        Some(task)
    }

    fn next_task(&mut self) -> Option<(SegmentTask, FreeSegment)> {
        if let Some(segment) = self.free.pop_front() {
            let fits = segment.bytes == self.segment_bytes && self.ready.len() < self.max;
            let task = if fits {
                SegmentTask::Recycle { old: segment.id, header: self.next_header() }
            } else {
                SegmentTask::Delete { id: segment.id }
            };
            return Some((task, segment));
        }
        if self.ready.len() >= self.min {
            return None;
        }
        let header = self.next_header();
        Some((SegmentTask::Create { header }, FreeSegment { id: header.id, bytes: header.segment_bytes }))
    }

    fn next_header(&mut self) -> SegmentHeader {
        let id = SegmentId(self.next_id);
        self.next_id += 1;
        SegmentHeader {
            id,
            node_id: self.node_id,
            core: self.core,
            segment_bytes: self.segment_bytes,
            nonce: self.nonce,
        }
    }

    pub(crate) fn on_done(&mut self, task: &SegmentTask) {
        let (running, _) = self.running.take().expect("a task was handed out");
        assert_eq!(running, *task, "the task that was handed out");
        match running {
            SegmentTask::Create { header } | SegmentTask::Recycle { header, .. } => {
                self.ready.push_back(header)
            }
            SegmentTask::Delete { .. } => {}
        }
    }

    pub(crate) fn on_failed(&mut self, task: &SegmentTask) {
        let (running, segment) = self.running.take().expect("a task was handed out");
        assert_eq!(running, *task, "the task that was handed out");
        self.failed = Some((running, segment));
    }
}
