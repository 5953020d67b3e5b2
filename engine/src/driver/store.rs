//! The threads beside an executor that may block: one applies committed entries, some read what is not in memory,
//! one flushes and takes checkpoints. Each job is a batch, and so is each answer: one wake-up for many entries.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use raft::Index;

use crate::core::{Applied, ApplyBatch, Event, ReadTask, ReplicaId};
use crate::fatal::{self, Reason};
use crate::machine::{ApplyError, Machine};
use crate::store::{ReadTier, RocksShared, StorageEngine};

/// A core's storage threads, as seen from its executor.
pub struct Store {
    apply: flume::Sender<Vec<ApplyBatch>>,
    read: flume::Sender<Vec<ReadTask>>,
    reader_threads: usize,
    maintain: flume::Sender<Maintenance>,
    events: flume::Receiver<Vec<Event>>,
}

/// Work that may take long.
pub(super) enum Maintenance {
    /// Find out how far an engine is durable, after making it so if `flush`.
    Durable { replica: ReplicaId, engine: Arc<dyn StorageEngine>, flush: bool },
    /// Take a checkpoint.
    Checkpoint { replica: ReplicaId, engine: Arc<dyn StorageEngine>, index: Index },
}

/// What the threads of one core need.
pub struct StoreParams {
    /// Which core.
    pub core: u32,
    /// Where to pin the apply thread: the CPU of its executor.
    pub cpu: Option<usize>,
    /// State machine of each shard of the core.
    pub machines: HashMap<u32, Machine>,
    /// The memtables of the node, and how many bytes of them are too many.
    pub memtables: Option<(RocksShared, usize)>,
    /// Threads for reads that miss memory.
    pub reader_threads: u32,
    /// Folder of each shard, for its checkpoints.
    pub shard_dirs: HashMap<u32, PathBuf>,
    /// Checkpoints kept of each shard.
    pub checkpoints_kept: usize,
}

impl Store {
    /// Starts the threads.
    pub fn start(params: StoreParams) -> std::io::Result<Store> {
        let (to_executor, events) = flume::unbounded();
        // The machine keeps at most two tasks in the lane; reads are bounded by the requests in flight.
        let (apply, apply_jobs) = flume::bounded(4);
        let (read, read_jobs) = flume::unbounded();
        let (maintain, maintain_jobs) = flume::unbounded();
        let StoreParams { core, cpu, mut machines, memtables, reader_threads, shard_dirs, checkpoints_kept } =
            params;
        let done = to_executor.clone();
        spawn(format!("apply-{core}"), cpu, move || {
            let too_full = || memtables.as_ref().is_some_and(|(shared, max)| shared.memtables_bytes() > *max);
            apply_loop(&apply_jobs, &done, &mut machines, too_full);
        })?;
        for reader in 0..reader_threads {
            let (jobs, done) = (read_jobs.clone(), to_executor.clone());
            spawn(format!("read-{core}-{reader}"), cpu, move || read_loop(&jobs, &done))?;
        }
        spawn(format!("store-{core}"), cpu, move || {
            maintain_loop(&maintain_jobs, &to_executor, &shard_dirs, checkpoints_kept);
        })?;
        let reader_threads = usize::try_from(reader_threads).expect("64-bit machine");
        Ok(Store { apply, read, reader_threads, maintain, events })
    }

    pub(super) fn apply(&self, batches: Vec<ApplyBatch>) {
        must_be_there(self.apply.send(batches).is_ok(), "apply");
    }

    /// Hands reads out, in as many parts as there are threads.
    pub(super) fn read(&self, tasks: impl ExactSizeIterator<Item = ReadTask>) {
        let share = tasks.len().div_ceil(self.reader_threads);
        let mut tasks = tasks.peekable();
        while tasks.peek().is_some() {
            let part = tasks.by_ref().take(share).collect();
            must_be_there(self.read.send(part).is_ok(), "reader");
        }
    }

    pub(super) fn maintain(&self, job: Maintenance) {
        must_be_there(self.maintain.send(job).is_ok(), "store");
    }

    /// Completions of all threads.
    pub(super) fn events(&self) -> flume::Receiver<Vec<Event>> {
        self.events.clone()
    }
}

fn must_be_there(sent: bool, thread: &'static str) {
    if !sent {
        fatal::abort(Reason::ThreadGone { thread });
    }
}

fn spawn(name: String, cpu: Option<usize>, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let body = move || {
        if let Some(id) = cpu {
            // Not being pinned costs speed, not correctness.
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
        run();
    };
    thread::Builder::new().name(name).spawn(body).map(drop)
}

fn apply_loop(
    jobs: &flume::Receiver<Vec<ApplyBatch>>,
    done: &flume::Sender<Vec<Event>>,
    machines: &mut HashMap<u32, Machine>,
    too_full: impl Fn() -> bool,
) {
    while let Ok(batches) = jobs.recv() {
        let applied: Vec<Applied> = batches
            .into_iter()
            .map(|batch| {
                let shard = batch.replica.shard;
                let machine = machines.get_mut(&shard).expect("a machine for every replica of the core");
                // When flushing falls behind, apply waits for it, and admission refuses what apply cannot take: memory
                // stays bounded. Each flushes its own, so that idle memtables cannot keep everyone waiting.
                let room =
                    if too_full() { machine.engine().flush().map_err(ApplyError::from) } else { Ok(()) };
                match room.and_then(|()| machine.apply(&batch.entries)) {
                    Ok(result) => batch.done(result.applied.index, machine.clock_ms(), result.outcomes),
                    Err(error) => fatal::abort(Reason::Apply { shard, detail: error.to_string() }),
                }
            })
            .collect();
        if done.send(vec![Event::Applied(applied)]).is_err() {
            return;
        }
    }
}

fn read_loop(jobs: &flume::Receiver<Vec<ReadTask>>, done: &flume::Sender<Vec<Event>>) {
    while let Ok(tasks) = jobs.recv() {
        let answers = tasks
            .iter()
            .map(|task| Event::Read(task.run(ReadTier::All).expect("reading everything always answers")))
            .collect();
        if done.send(answers).is_err() {
            return;
        }
    }
}

fn maintain_loop(
    jobs: &flume::Receiver<Maintenance>,
    done: &flume::Sender<Vec<Event>>,
    dirs: &HashMap<u32, PathBuf>,
    kept: usize,
) {
    while let Ok(job) = jobs.recv() {
        let event = match job {
            Maintenance::Durable { replica, engine, flush } => durable(replica, engine.as_ref(), flush),
            Maintenance::Checkpoint { replica, engine, index } => {
                let dir = dirs.get(&replica.shard).expect("a folder for every shard of the core");
                let taken = checkpoint(replica, engine.as_ref(), index, dir, kept);
                Event::SnapshotTaken { replica, index: taken.then_some(index) }
            }
        };
        if done.send(vec![event]).is_err() {
            return;
        }
    }
}

fn durable(replica: ReplicaId, engine: &dyn StorageEngine, flush: bool) -> Event {
    let result = if flush { engine.flush() } else { Ok(()) };
    match result.and_then(|()| engine.applied_durable()) {
        Ok(applied) => Event::Durable { replica, index: Index(applied.index) },
        Err(error) => fatal::abort(Reason::Apply { shard: replica.shard, detail: error.to_string() }),
    }
}

/// Takes a checkpoint named by its applied index and drops the oldest beyond `kept`; whether it was taken.
fn checkpoint(replica: ReplicaId, engine: &dyn StorageEngine, index: Index, dir: &Path, kept: usize) -> bool {
    let snapshots = dir.join("snapshots");
    let taken = if kept == 0 {
        engine.flush().map_err(|error| error.to_string())
    } else {
        std::fs::create_dir_all(&snapshots).map_err(|error| error.to_string()).and_then(|()| {
            let path = snapshots.join(format!("{:020}", index.0));
            let _ = std::fs::remove_dir_all(&path);
            engine.create_checkpoint(&path).map(drop).map_err(|error| error.to_string())
        })
    };
    if let Err(error) = &taken {
        tracing::error!(shard = replica.shard, %error, "cannot take a snapshot");
    }
    let mut all: Vec<PathBuf> = std::fs::read_dir(&snapshots)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    all.sort();
    for old in all.iter().rev().skip(kept) {
        if let Err(error) = std::fs::remove_dir_all(old) {
            tracing::warn!(path = %old.display(), %error, "cannot remove an old snapshot");
        }
    }
    taken.is_ok()
}
