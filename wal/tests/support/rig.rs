//! A WAL on real files, driven the simple way.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use wal::disk::{Io, OpenError, RealDisk};
use wal::{SegmentId, Wal, WalConfig};

use crate::model::{Streams, assert_holds};

/// Runs each of these functions as a test of its own, over each way to write files.
macro_rules! over_both {
    ($($name:ident)*) => {
        mod direct {
            $(#[test] fn $name() { super::$name(wal::disk::Io::Direct) })*
        }
        mod buffered {
            $(#[test] fn $name() { super::$name(wal::disk::Io::Buffered) })*
        }
    };
}

/// A folder on the disk the tests are built on, not one in memory.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Where a batch went.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub segment: SegmentId,
    pub offset_bytes: u64,
    pub len_bytes: usize,
    /// Within the batch: the padding starts here.
    pub records_end: usize,
}

pub struct Rig {
    pub wal: Rc<RefCell<Wal>>,
    pub disk: RealDisk,
}

impl Rig {
    pub async fn open(dir: &Path, config: &WalConfig, io: Io) -> Result<Self, OpenError> {
        let (disk, recovered) = RealDisk::open(dir, config, io).await?;
        Ok(Self { wal: Rc::new(RefCell::new(Wal::new(config.clone(), recovered))), disk })
    }

    /// Writes until nothing is queued, several batches at once. Answers where the last batch went.
    pub async fn settle(&mut self) -> Option<Written> {
        let mut last = None;
        loop {
            let mut writes = Vec::new();
            while let Some(batch) = self.next_batch() {
                let records_end = 80 + usize::try_from(batch.header().records_bytes).unwrap();
                last = Some(Written {
                    segment: batch.segment,
                    offset_bytes: batch.offset_bytes,
                    len_bytes: batch.len_bytes,
                    records_end,
                });
                let (disk, wal) = (self.disk.clone(), Rc::clone(&self.wal));
                writes.push(glommio::spawn_local(async move {
                    let id = batch.id;
                    disk.write(batch).await.expect("a sound disk");
                    wal.borrow_mut().on_written(id);
                }));
            }
            let idle = writes.is_empty();
            for write in writes {
                write.await;
            }
            let task = self.wal.borrow_mut().poll_segment_task();
            if let Some(task) = task {
                self.disk.run_segment_task(&task).await.expect("room on the disk");
                self.wal.borrow_mut().on_segment_task_done(task);
            } else if idle {
                assert_eq!(self.wal.borrow().queued_bytes(), 0);
                return last;
            }
        }
    }

    fn next_batch(&self) -> Option<wal::WriteBatch> {
        self.wal.borrow_mut().poll_write()
    }

    pub async fn assert_holds(&mut self, streams: &Streams) {
        // Plans first, then the reads, so that no borrow is held across an await.
        let (disk, wal) = (self.disk.clone(), Rc::clone(&self.wal));
        let mut fetched = std::collections::BTreeMap::new();
        let plans: Vec<wal::ReadPlan> = {
            let wal = wal.borrow();
            let plan = |stream: &wal::StreamId| {
                wal.plan_read(*stream, wal.first_index(*stream), wal.last_index(*stream) + 1, u64::MAX)
            };
            streams.keys().filter_map(plan).collect()
        };
        for plan in plans {
            let buffers = disk.read(&plan).await.expect("readable files");
            for entry in plan.decode(&buffers).expect("sound files") {
                fetched.insert((plan.stream(), entry.index), entry);
            }
        }
        assert_holds(&wal.borrow(), streams, |plan| {
            let (low, high) = plan.range();
            (low..high).map(|index| fetched[&(plan.stream(), index)].clone()).collect()
        });
        wal.borrow().check_invariants();
    }
}
