//! The log's effects on real files: batches, segments and reads, each its own task, so that several are in flight.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use raft::{Entry, FetchId, LogReadError};
use wal::disk::RealDisk;
use wal::{ReadPlan, SegmentTask, WriteBatch};

use super::inbox::Inbox;
use crate::convert;
use crate::core::{Event, ReplicaId};
use crate::fatal::{self, Reason};

/// The log's files and where their completions go.
#[derive(Clone)]
pub(super) struct Disk {
    disk: RealDisk,
    dir: PathBuf,
    inbox: Rc<Inbox>,
    writing: Rc<Cell<usize>>,
}

/// How long to wait before a failed creation of a segment is tried again: disk space may come back.
const SEGMENT_RETRY: Duration = Duration::from_millis(500);

impl Disk {
    pub fn new(disk: RealDisk, dir: PathBuf, inbox: Rc<Inbox>) -> Disk {
        Disk { disk, dir, inbox, writing: Rc::default() }
    }

    /// Whether batches are under way.
    pub fn is_writing(&self) -> bool {
        self.writing.get() > 0
    }

    /// Writes a batch. A failure ends the process: what is on disk is unknown, and acknowledging later writes over it
    /// would lose data.
    pub fn write(&self, batch: WriteBatch) {
        let this = self.clone();
        self.writing.set(self.writing.get() + 1);
        glommio::spawn_local(async move {
            let id = batch.id;
            let written = this.disk.write(batch).await;
            this.writing.set(this.writing.get() - 1);
            match written {
                Ok(()) => this.inbox.push(Event::WalWritten { batch: id }),
                Err(source) => fatal::abort(Reason::WalWrite { dir: this.dir, source }),
            }
        })
        .detach();
    }

    /// Creates, recycles or deletes a segment. Creating ahead may fail on a full disk and is tried again: nothing that
    /// was acknowledged depends on it.
    pub fn segment(&self, task: SegmentTask) {
        let this = self.clone();
        glommio::spawn_local(async move {
            while let Err(error) = this.disk.run_segment_task(&task).await {
                tracing::error!(dir = %this.dir.display(), ?task, %error,
                    "cannot prepare a log segment; writes stop when the ready ones are used up; free some disk space");
                glommio::timer::sleep(SEGMENT_RETRY).await;
            }
            this.inbox.push(Event::SegmentDone { task });
        })
        .detach();
    }

    /// Reads entries back.
    pub fn read(&self, replica: ReplicaId, fetch: FetchId, plan: ReadPlan) {
        let this = self.clone();
        glommio::spawn_local(async move {
            let result = this.fetch(&plan).await;
            this.inbox.push(Event::EntriesRead { replica, fetch, result });
        })
        .detach();
    }

    async fn fetch(&self, plan: &ReadPlan) -> Result<Vec<Entry>, LogReadError> {
        let buffers = self.disk.read(plan).await.map_err(|error| {
            // The segment may have been purged meanwhile; Raft asks again or falls back to a snapshot.
            tracing::warn!(dir = %self.dir.display(), %error, "cannot read entries back");
            LogReadError::Unavailable
        })?;
        match plan.decode(&buffers) {
            Ok(entries) => Ok(entries.into_iter().map(convert::raft_entry).collect()),
            Err(corrupt) => fatal::abort(Reason::WalCorrupt { detail: corrupt.to_string() }),
        }
    }
}
