//! Real files through glommio: O_DIRECT | O_DSYNC over zero-filled extents.
//!
//! Linux turns such a write into a single FUA write; over new or merely allocated extents each would pay
//! a journal commit. So a segment is filled with zeros before it gets its name. One batch is one
//! io_uring write from one buffer of the executor's registered arena: give the executor
//! (`LocalExecutorBuilder::io_memory`) at least `inflight_max` times `batch_bytes_max`, or batches use
//! unregistered memory.
//!
//! Invariants: one process per folder (a lock file); what [`DmaDisk::open`] recovered is durable when it
//! returns, even if a killed predecessor never saw its writes complete.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions, ReadResult};

use super::folder::{self, OpenError};
use crate::batch::WriteBatch;
use crate::config::WalConfig;
use crate::pool::SegmentTask;
use crate::read::{ReadExtent, ReadPlan};
use crate::recovery::{Recovered, Recovery, SegmentFile};
use crate::segment::{SegmentHeader, file_name, parse_file_name, parse_unfinished_name, unfinished_name};
use crate::types::{BLOCK_BYTES, SegmentId};
use crate::width::{len_of, to_u64};

/// Zeros written at once while filling a segment: small enough not to delay a batch.
const FILL_BYTES: usize = 1 << 20;

/// The folder of one core's WAL. Clones are the same disk; methods may run concurrently in several tasks of
/// one executor.
#[derive(Debug, Clone)]
pub struct DmaDisk {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// Open segments, by id.
    files: RefCell<BTreeMap<SegmentId, Rc<DmaFile>>>,
    /// Held as long as the disk lives: keeps a second process out.
    _lock: File,
}

/// What was read for one extent of a plan.
#[derive(Debug, Clone)]
pub struct DmaRead(ReadResult);

impl AsRef<[u8]> for DmaRead {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl DmaDisk {
    /// Opens a folder, making it if it does not exist, and recovers the log in it.
    pub async fn open(dir: &Path, config: &WalConfig) -> Result<(Self, Recovered), OpenError> {
        config.validate().map_err(crate::error::RecoveryError::from)?;
        let (dir, lock) = folder::claim(dir)?;
        folder::check_direct_io(&dir)?;
        let disk = Self { inner: Rc::new(Inner { dir, files: RefCell::new(BTreeMap::new()), _lock: lock }) };
        // glommio learns whether a device can be polled from the first file it opens there, by a read.
        // An empty file, or a hole, would answer without asking the device, and every later read fail.
        let probed = open_durable(&disk.path(folder::LOCK_NAME)).await;
        drop(probed.map_err(|source| disk.folder_failed(source))?);
        let files = disk.open_segments().await?;
        let mut recovery = Recovery::new(config, files)?;
        while let Some(request) = recovery.poll_read() {
            let extent = ReadExtent {
                segment: request.segment,
                offset_bytes: request.offset_bytes,
                len_bytes: request.len_bytes,
            };
            let bytes = disk.read_extent(extent).await;
            let bytes = bytes.map_err(|source| disk.failed(extent.segment, extent.offset_bytes, source))?;
            recovery.on_read(bytes.as_ref())?;
        }
        let recovered = recovery.finish(folder::random().map_err(|source| disk.folder_failed(source))?)?;
        // A write that a killed process had under way may have been read from the drive's cache: it
        // counts as flushed from now on, so it must be.
        for segment in recovered.segments() {
            let sync = async { disk.file(segment)?.fdatasync().await.map_err(plain) };
            sync.await.map_err(|source| disk.failed(segment, 0, source))?;
        }
        Ok((disk, recovered))
    }

    /// Writes a batch; returns when all of it is durable. An error is fatal: what is on the disk is unknown,
    /// and a second attempt could report success for data the first one lost.
    pub async fn write(&self, batch: WriteBatch) -> io::Result<()> {
        let file = self.file(batch.segment)?;
        let mut buffer = file.alloc_dma_buffer(batch.len_bytes);
        batch.encode_into(&mut buffer.as_bytes_mut()[..batch.len_bytes]);
        let (offset, id) = (batch.offset_bytes, batch.id);
        drop(batch);
        write_all(&file, Rc::new(buffer), offset).await.map_err(|err| {
            let path = self.inner.dir.display();
            io::Error::new(err.kind(), format!("{path}: writing {id} at offset {offset}: {err}"))
        })
    }

    /// Runs a segment task; returns when it is durable. After an error it may be run again: that is how a full
    /// disk is waited out.
    pub async fn run_segment_task(&self, task: &SegmentTask) -> io::Result<()> {
        match task {
            SegmentTask::Create { header } => self.create(header).await,
            SegmentTask::Recycle { old, header } => self.recycle(*old, header).await,
            SegmentTask::Delete { id } => {
                self.inner.files.borrow_mut().remove(id);
                let path = self.path(&file_name(*id));
                match glommio::io::remove(&path).await.map_err(plain) {
                    Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
                    _ => self.sync_folder().await,
                }
            }
        }
    }

    /// Reads what a plan asks for: one buffer per extent, for [`ReadPlan::decode`].
    pub async fn read(&self, plan: &ReadPlan) -> io::Result<Vec<DmaRead>> {
        let mut buffers = Vec::with_capacity(plan.extents().len());
        for extent in plan.extents() {
            buffers.push(self.read_extent(*extent).await?);
        }
        Ok(buffers)
    }

    /// The folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    async fn read_extent(&self, extent: ReadExtent) -> io::Result<DmaRead> {
        let file = self.file(extent.segment)?;
        file.read_at_aligned(extent.offset_bytes, extent.len_bytes).await.map(DmaRead).map_err(plain)
    }

    async fn create(&self, header: &SegmentHeader) -> io::Result<()> {
        let unfinished = self.path(&unfinished_name(header.id));
        let result = self.fill(&unfinished, header.segment_bytes).await;
        if let Err(err) = result {
            // Give the space back: on a full disk somebody else may need it more.
            return match glommio::io::remove(&unfinished).await.map_err(plain) {
                Err(remove) if remove.kind() != io::ErrorKind::NotFound => Err(remove),
                _ => Err(err),
            };
        }
        self.name(&unfinished, header).await
    }

    /// Makes a file of zeros that are really there.
    async fn fill(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = file.dma_open(path).await.map_err(plain)?;
        // Contiguous space, and a full disk noticed at once.
        file.pre_allocate(bytes, false).await.map_err(plain)?;
        let chunk = FILL_BYTES.min(len_of(bytes));
        let mut zeros = file.alloc_dma_buffer(chunk);
        zeros.as_bytes_mut().fill(0);
        let zeros = Rc::new(zeros);
        let mut at = 0;
        while at < bytes {
            let left = len_of(bytes - at);
            if left >= chunk {
                write_all(&file, Rc::clone(&zeros), at).await?;
            } else {
                let mut rest = file.alloc_dma_buffer(left);
                rest.as_bytes_mut().fill(0);
                write_all(&file, Rc::new(rest), at).await?;
            }
            at += to_u64(left.min(chunk));
        }
        file.fdatasync().await.map_err(plain)?;
        file.close().await.map_err(plain)
    }

    /// Old name, no name, header, new name: each step durable before the next, so that a file called
    /// `.wal` always has its own valid header.
    async fn recycle(&self, old: SegmentId, header: &SegmentHeader) -> io::Result<()> {
        self.inner.files.borrow_mut().remove(&old);
        let unfinished = self.path(&unfinished_name(header.id));
        match glommio::io::rename(self.path(&file_name(old)), &unfinished).await.map_err(plain) {
            // A repeated task whose first attempt came this far.
            Err(err) if err.kind() == io::ErrorKind::NotFound && unfinished.exists() => {}
            Err(err) => return Err(err),
            Ok(()) => {}
        }
        self.sync_folder().await?;
        self.name(&unfinished, header).await
    }

    /// Writes the header and gives the file its name.
    async fn name(&self, unfinished: &Path, header: &SegmentHeader) -> io::Result<()> {
        let file = open_durable(unfinished).await?;
        let mut block = file.alloc_dma_buffer(BLOCK_BYTES);
        block.as_bytes_mut().copy_from_slice(&header.encode());
        write_all(&file, Rc::new(block), 0).await?;
        file.rename(self.path(&file_name(header.id))).await.map_err(plain)?;
        self.sync_folder().await?;
        self.inner.files.borrow_mut().insert(header.id, Rc::new(file));
        Ok(())
    }

    async fn sync_folder(&self) -> io::Result<()> {
        let dir = self.inner.dir.clone();
        glommio::executor().spawn_blocking(move || File::open(dir)?.sync_all()).await
    }

    /// Opens every segment and removes what a crash left unfinished.
    async fn open_segments(&self) -> Result<Vec<SegmentFile>, OpenError> {
        let mut segments = Vec::new();
        for name in folder::names(&self.inner.dir).map_err(|source| self.folder_failed(source))? {
            if parse_unfinished_name(&name).is_some() {
                let path = self.path(&name);
                std::fs::remove_file(&path).map_err(|source| OpenError::File { path, offset: 0, source })?;
            }
            let Some(id) = parse_file_name(&name) else { continue };
            let open = async {
                let file = open_durable(&self.path(&name)).await?;
                let bytes = file.file_size().await.map_err(plain)?;
                io::Result::Ok((file, bytes))
            };
            let (file, bytes) = open.await.map_err(|source| self.failed(id, 0, source))?;
            self.inner.files.borrow_mut().insert(id, Rc::new(file));
            segments.push(SegmentFile { id, bytes });
        }
        Ok(segments)
    }

    fn file(&self, segment: SegmentId) -> io::Result<Rc<DmaFile>> {
        let files = self.inner.files.borrow();
        files.get(&segment).cloned().ok_or_else(|| {
            let path = self.path(&file_name(segment));
            io::Error::new(io::ErrorKind::NotFound, format!("{}: no such segment is open", path.display()))
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.dir.join(name)
    }

    fn failed(&self, segment: SegmentId, offset: u64, source: io::Error) -> OpenError {
        OpenError::File { path: self.path(&file_name(segment)), offset, source }
    }

    fn folder_failed(&self, source: io::Error) -> OpenError {
        OpenError::Folder { path: self.inner.dir.clone(), source }
    }
}

async fn open_durable(path: &Path) -> io::Result<DmaFile> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(libc::O_DSYNC);
    options.dma_open(path).await.map_err(plain)
}

/// Writes the whole buffer, continuing after short writes.
async fn write_all(file: &DmaFile, buffer: Rc<glommio::io::DmaBuffer>, offset: u64) -> io::Result<()> {
    let mut written = file.write_rc_at(Rc::clone(&buffer), offset).await.map_err(plain)?;
    while written < buffer.len() {
        // Direct I/O goes on from a block boundary; the blocks in between are written again, unchanged.
        let done = written / BLOCK_BYTES * BLOCK_BYTES;
        let mut rest = file.alloc_dma_buffer(buffer.len() - done);
        rest.as_bytes_mut().copy_from_slice(&buffer.as_bytes()[done..]);
        let more = file.write_at(rest, offset + to_u64(done)).await.map_err(plain)?;
        if done + more <= written {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk takes no more bytes"));
        }
        written = done + more;
    }
    Ok(())
}

/// glommio's error as the system's, keeping the errno.
fn plain(err: GlommioError<()>) -> io::Error {
    match err {
        GlommioError::IoError(err) => err,
        GlommioError::EnhancedIoError { source, .. } => source,
        other => io::Error::other(other.to_string()),
    }
}
