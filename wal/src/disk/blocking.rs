//! Real files through the page cache: `pwrite`, then `fdatasync`, on a thread of the log's own.
//!
//! For file systems that refuse O_DIRECT (in memory, some network and overlay ones), and for whoever wants to
//! see each write of the log as a system call. Slower than [`DmaDisk`](super::dma::DmaDisk), and the same otherwise: the
//! same files in the same format, so either opens what the other wrote.
//!
//! Invariants: a batch is reported only after an `fdatasync` of its file that began when all of the batch was
//! written; after a write or sync failed, none succeeds any more, because a second sync could report success
//! for data that the first one lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::folder::{self, OpenError};
use crate::batch::WriteBatch;
use crate::config::WalConfig;
use crate::pool::SegmentTask;
use crate::read::{ReadExtent, ReadPlan};
use crate::recovery::{Recovered, Recovery, SegmentFile};
use crate::segment::{SegmentHeader, file_name, parse_file_name, parse_unfinished_name, unfinished_name};
use crate::types::SegmentId;
use crate::width::{len_of, to_u64};

/// Zeros written at once while filling a segment.
const FILL_BYTES: usize = 1 << 20;

/// Segments by id. The threads share them.
type OpenFiles = BTreeMap<SegmentId, Arc<File>>;

/// The folder of one core's WAL. Clones are the same disk; methods may run concurrently in several tasks of
/// one executor.
#[derive(Debug, Clone)]
pub struct BlockingDisk {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: Folder,
    /// Open segments, by id.
    files: RefCell<OpenFiles>,
    writer: Worker<WriteJob>,
    keeper: Worker<TaskJob>,
    /// Held until both threads have ended: keeps a second process out.
    _lock: File,
}

#[derive(Debug, Clone)]
struct Folder {
    dir: PathBuf,
}

/// A thread and its jobs. Dropping it waits until all of them are done.
#[derive(Debug)]
struct Worker<J> {
    jobs: Option<flume::Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Worker<J> {
    fn start(name: &str, work: impl FnOnce(flume::Receiver<J>) + Send + 'static) -> io::Result<Self> {
        let (jobs, receiver) = flume::unbounded();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(receiver))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    fn send(&self, job: J) -> io::Result<()> {
        let jobs = self.jobs.as_ref().expect("there until it is dropped");
        jobs.send(job).map_err(|_| thread_gone())
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct WriteJob {
    file: Arc<File>,
    batch: WriteBatch,
    done: flume::Sender<io::Result<()>>,
}

#[derive(Debug)]
struct TaskJob {
    task: SegmentTask,
    done: flume::Sender<io::Result<Option<Arc<File>>>>,
}

impl BlockingDisk {
    /// Opens a folder, making it if it does not exist, and recovers the log in it. Blocks while it does.
    pub fn open(dir: &Path, config: &WalConfig) -> Result<(Self, Recovered), OpenError> {
        config.validate().map_err(crate::error::RecoveryError::from)?;
        let (dir, lock) = folder::claim(dir)?;
        let folder = Folder { dir };
        let (files, segments) = folder.open_segments()?;
        let mut recovery = Recovery::new(config, segments)?;
        while let Some(request) = recovery.poll_read() {
            let (segment, offset, len) = (request.segment, request.offset_bytes, request.len_bytes);
            let bytes = read_at(&files[&segment], offset, len);
            recovery.on_read(&bytes.map_err(|source| folder.failed(segment, offset, source))?)?;
        }
        let recovered = recovery.finish(folder::random().map_err(|source| folder.broken(source))?)?;
        // What was read may be in the page cache only: it counts as flushed from now on, so it must be.
        for segment in recovered.segments() {
            files[&segment].sync_data().map_err(|source| folder.failed(segment, 0, source))?;
        }
        let writes = folder.clone();
        let writer = Worker::start("wal-write", move |jobs| write_jobs(&writes, &jobs));
        let tasks = folder.clone();
        let keeper = Worker::start("wal-files", move |jobs| task_jobs(&tasks, &jobs));
        let writer = writer.map_err(|source| folder.broken(source))?;
        let keeper = keeper.map_err(|source| folder.broken(source))?;
        let inner = Inner { folder, files: RefCell::new(files), writer, keeper, _lock: lock };
        Ok((Self { inner: Rc::new(inner) }, recovered))
    }

    /// Writes a batch; returns when all of it is durable. An error is fatal: what is on the disk is unknown.
    pub async fn write(&self, batch: WriteBatch) -> io::Result<()> {
        let file = self.file(batch.segment)?;
        let (done, answer) = flume::bounded(1);
        self.inner.writer.send(WriteJob { file, batch, done })?;
        answer.recv_async().await.map_err(|_| thread_gone())?
    }

    /// Runs a segment task; returns when it is durable. After an error it may be run again.
    pub async fn run_segment_task(&self, task: &SegmentTask) -> io::Result<()> {
        if let SegmentTask::Recycle { old: gone, .. } | SegmentTask::Delete { id: gone } = task {
            self.inner.files.borrow_mut().remove(gone);
        }
        let (done, answer) = flume::bounded(1);
        self.inner.keeper.send(TaskJob { task: task.clone(), done })?;
        let file = answer.recv_async().await.map_err(|_| thread_gone())??;
        if let (Some(file), SegmentTask::Create { header } | SegmentTask::Recycle { header, .. }) =
            (file, task)
        {
            self.inner.files.borrow_mut().insert(header.id, file);
        }
        Ok(())
    }

    /// Reads what a plan asks for: one buffer per extent, for [`ReadPlan::decode`].
    pub async fn read(&self, plan: &ReadPlan) -> io::Result<Vec<Vec<u8>>> {
        let with_file = |extent: &ReadExtent| Ok((self.file(extent.segment)?, *extent));
        let extents = plan.extents().iter().map(with_file).collect::<io::Result<Vec<_>>>()?;
        let read = move || {
            let read = |(file, extent): &(Arc<File>, ReadExtent)| {
                read_at(file, extent.offset_bytes, extent.len_bytes)
            };
            extents.iter().map(read).collect()
        };
        glommio::executor().spawn_blocking(read).await
    }

    /// The folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.inner.folder.dir
    }

    fn file(&self, segment: SegmentId) -> io::Result<Arc<File>> {
        self.inner.files.borrow().get(&segment).cloned().ok_or_else(|| {
            let path = self.inner.folder.path(&file_name(segment));
            io::Error::new(io::ErrorKind::NotFound, format!("{}: no such segment is open", path.display()))
        })
    }
}

fn thread_gone() -> io::Error {
    io::Error::other("the thread of the log's files ended")
}

/// The writing thread: everything that waits is written, then synced together.
fn write_jobs(folder: &Folder, jobs: &flume::Receiver<WriteJob>) {
    let mut buffer = Vec::new();
    let mut failed: Option<io::Error> = None;
    while let Ok(first) = jobs.recv() {
        let mut written: BTreeMap<SegmentId, Vec<WriteJob>> = BTreeMap::new();
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            if failed.is_none() {
                failed = write_one(folder, &job, &mut buffer).err();
            }
            match &failed {
                None => written.entry(job.batch.segment).or_default().push(job),
                Some(err) => answer(&job, Err(again(err))),
            }
        }
        for (segment, jobs) in written {
            if failed.is_none() {
                let path = folder.path(&file_name(segment));
                let synced = jobs[0].file.sync_data();
                failed = synced.err().map(|err| describe(&err, &format!("{}: syncing", path.display())));
            }
            for job in &jobs {
                answer(job, failed.as_ref().map_or(Ok(()), |err| Err(again(err))));
            }
        }
    }
}

fn write_one(folder: &Folder, job: &WriteJob, buffer: &mut Vec<u8>) -> io::Result<()> {
    let batch = &job.batch;
    if buffer.len() < batch.len_bytes {
        buffer.resize(batch.len_bytes, 0);
    }
    let bytes = &mut buffer[..batch.len_bytes];
    batch.encode_into(bytes);
    job.file.write_all_at(bytes, batch.offset_bytes).map_err(|err| {
        let path = folder.path(&file_name(batch.segment));
        describe(&err, &format!("{}: writing {} at offset {}", path.display(), batch.id, batch.offset_bytes))
    })
}

fn answer(job: &WriteJob, result: io::Result<()>) {
    // Nobody listens when the executor is gone; then nobody is told that the write is durable.
    let _ = job.done.send(result);
}

/// The error for everybody else whom a failure concerns: whoever is heard first tells what happened.
fn again(err: &io::Error) -> io::Error {
    io::Error::new(err.kind(), err.to_string())
}

/// The same kind of error, saying where.
fn describe(err: &io::Error, place: &str) -> io::Error {
    io::Error::new(err.kind(), format!("{place}: {err}"))
}

/// The thread that makes, recycles and deletes segments, one at a time.
fn task_jobs(folder: &Folder, jobs: &flume::Receiver<TaskJob>) {
    for TaskJob { task, done } in jobs {
        let _ = done.send(folder.run(&task));
    }
}

impl Folder {
    fn run(&self, task: &SegmentTask) -> io::Result<Option<Arc<File>>> {
        match task {
            SegmentTask::Create { header } => self.create(header).map(Some),
            SegmentTask::Recycle { old, header } => self.recycle(*old, header).map(Some),
            SegmentTask::Delete { id } => match std::fs::remove_file(self.path(&file_name(*id))) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
                _ => self.sync().map(|()| None),
            },
        }
    }

    fn create(&self, header: &SegmentHeader) -> io::Result<Arc<File>> {
        let unfinished = self.path(&unfinished_name(header.id));
        if let Err(err) = fill(&unfinished, header.segment_bytes) {
            // Give the space back: on a full disk somebody else may need it more.
            return match std::fs::remove_file(&unfinished) {
                Err(remove) if remove.kind() != io::ErrorKind::NotFound => Err(remove),
                _ => Err(err),
            };
        }
        self.name(&unfinished, header)
    }

    /// Old name, no name, header, new name: each step durable before the next, so that a file called
    /// `.wal` always has its own valid header.
    fn recycle(&self, old: SegmentId, header: &SegmentHeader) -> io::Result<Arc<File>> {
        let unfinished = self.path(&unfinished_name(header.id));
        match std::fs::rename(self.path(&file_name(old)), &unfinished) {
            // A repeated task whose first attempt came this far.
            Err(err) if err.kind() == io::ErrorKind::NotFound && unfinished.exists() => {}
            result => result?,
        }
        self.sync()?;
        self.name(&unfinished, header)
    }

    /// Writes the header and gives the file its name.
    fn name(&self, unfinished: &Path, header: &SegmentHeader) -> io::Result<Arc<File>> {
        let file = open(unfinished)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()?;
        std::fs::rename(unfinished, self.path(&file_name(header.id)))?;
        self.sync()?;
        Ok(Arc::new(file))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Opens every segment and removes what a crash left unfinished.
    fn open_segments(&self) -> Result<(OpenFiles, Vec<SegmentFile>), OpenError> {
        let (mut files, mut segments) = (OpenFiles::new(), Vec::new());
        for name in folder::names(&self.dir).map_err(|source| self.broken(source))? {
            let path = self.path(&name);
            if parse_unfinished_name(&name).is_some() {
                std::fs::remove_file(&path).map_err(|source| OpenError::File { path, offset: 0, source })?;
                continue;
            }
            let Some(id) = parse_file_name(&name) else { continue };
            let opened = open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) = opened.map_err(|source| self.failed(id, 0, source))?;
            files.insert(id, Arc::new(file));
            segments.push(SegmentFile { id, bytes });
        }
        Ok((files, segments))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn failed(&self, segment: SegmentId, offset: u64, source: io::Error) -> OpenError {
        OpenError::File { path: self.path(&file_name(segment)), offset, source }
    }

    fn broken(&self, source: io::Error) -> OpenError {
        OpenError::Folder { path: self.dir.clone(), source }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Makes a file of zeros that are really there.
fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    allocate(&file, bytes)?;
    let zeros = vec![0; FILL_BYTES.min(len_of(bytes))];
    let mut at = 0;
    while at < bytes {
        let len = zeros.len().min(len_of(bytes - at));
        file.write_all_at(&zeros[..len], at)?;
        at += to_u64(len);
    }
    file.sync_data()
}

/// Contiguous space, and a full disk noticed at once, where the file system knows how.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for the whole call, which takes no pointer.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        err if err.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        err => Err(err),
    }
}

/// Reads up to `len` bytes at `offset`; fewer where the file ends.
fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        match file.read_at(&mut bytes[at..], offset + to_u64(at)) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    bytes.truncate(at);
    Ok(bytes)
}
