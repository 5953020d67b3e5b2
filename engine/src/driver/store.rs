//! The threads beside an executor that may block: one applies committed entries, some read what is not in memory,
//! one flushes, and makes and removes replicas, and one keeps snapshots (`keeper`). Each job is a batch, and so is each answer: one wake-up
//! for many entries.
//!
//! Invariant: whatever changes a state machine goes through the apply thread, in the order the core wanted it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use raft::{ConfState, Index, Term};

use super::Transfers;
use super::keeper::{Keeper, Keeping};
use crate::core::{
    Applied, ApplyBatch, Engine, Event, Installed, Opened, ReadTask, ReceivedSnapshot, ReplicaId,
};
use crate::fatal::{self, Reason};
use crate::home::Home;
use crate::host::background;
use crate::machine::{ApplyError, Cut, Machine};
use crate::placement;
use crate::replica_id::FOUNDING;
use crate::store::snapshot::{InstallError, Library};
use crate::store::{ReadTier, RocksShared, StorageEngine, StoreError};

/// How long to wait before a replica that could not be made or removed is tried again: disk space may come back.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A core's storage threads, as seen from its executor.
pub struct Store {
    apply: flume::Sender<ApplyJob>,
    read: flume::Sender<Vec<ReadTask>>,
    reader_threads: usize,
    maintain: flume::Sender<Maintenance>,
    keep: flume::Sender<Keeping>,
    events: flume::Receiver<Vec<Event>>,
    libraries: Libraries,
}

/// A replica's state machine and snapshots, opened.
pub struct Hosted {
    /// The shard.
    pub shard: u32,
    /// The generation of the replica.
    pub generation: u64,
    /// Its state machine.
    pub machine: Machine,
    /// Its snapshots.
    pub library: Library,
}

/// The snapshots of each replica of the core, by shard: shared with the threads that send and receive them.
#[derive(Clone, Default)]
pub(super) struct Libraries(Arc<Mutex<BTreeMap<u32, (u64, Library)>>>);

impl Libraries {
    /// The snapshots of the replica of a shard, and its generation.
    pub fn get(&self, shard: u32) -> Option<(u64, Library)> {
        self.all().get(&shard).cloned()
    }

    pub(super) fn each(&self) -> Vec<Library> {
        self.all().values().map(|(_, library)| library.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u32, (u64, Library)>> {
        self.0.lock().expect("nothing panics while holding it")
    }
}

/// Work of the apply thread.
enum ApplyJob {
    /// Apply entries.
    Entries(Vec<ApplyBatch>),
    /// A new replica's state machine.
    Host { shard: u32, machine: Box<Machine> },
    /// Open the state machine of a new shard's replica.
    Open { replica: ReplicaId },
    /// Replace a state machine's data by a snapshot.
    Install { replica: ReplicaId, engine: Engine, snapshot: ReceivedSnapshot },
    /// Make all state machines durable, and tell when they are: the process is about to end.
    Flush(flume::Sender<()>),
    /// Drop a state machine and its data.
    Remove { replica: ReplicaId, generation: u64, engine: Engine },
}

/// Work that may take long.
pub(super) enum Maintenance {
    /// Find out how far an engine is durable, after making it so if `flush`.
    Durable { replica: ReplicaId, engine: Engine, flush: bool },
    /// Remove a snapshot that was received and is not wanted.
    DropSnapshot { snapshot: ReceivedSnapshot },
    /// Open an empty state machine for a new replica of a group that began with `founders`.
    Create { replica: ReplicaId, generation: u64, founders: ConfState },
    /// Remove what was set aside of a shard: its successor is a member.
    ForgetSetAside { shard: u32 },
    /// Remove a former replica: what its engine holds, then its folder.
    Remove { shard: u32, generation: u64, engine: Engine },
    /// Remove the folder of a former replica.
    RemoveFolder { shard: u32, generation: u64 },
}

/// What the threads of one core need.
pub struct StoreParams {
    /// Which core.
    pub core: u32,
    /// Cores of the node.
    pub cores: u32,
    /// Where to pin the apply thread: the CPU of its executor.
    pub cpu: Option<usize>,
    /// Where replicas live.
    pub home: Home,
    /// The replicas of the core.
    pub hosted: Vec<Hosted>,
    /// The memtables of the node, and how many bytes of them are too many.
    pub memtables: Option<(RocksShared, usize)>,
    /// Threads for reads that miss memory.
    pub reader_threads: u32,
    /// Snapshots kept of each shard.
    pub snapshots_kept: usize,
    /// What limits how fast they are taken.
    pub transfers: Transfers,
}

impl Store {
    /// Starts the threads.
    pub fn start(params: StoreParams) -> std::io::Result<Store> {
        let (to_executor, events) = flume::unbounded();
        // What is in these is bounded by the machine: two tasks of entries in the lane, one installation or removal for
        // each replica, reads by the requests in flight.
        let (apply, apply_jobs) = flume::unbounded();
        let (read, read_jobs) = flume::unbounded();
        let (maintain, maintain_jobs) = flume::unbounded();
        let StoreParams { core, cores, cpu, home, hosted, memtables, reader_threads, .. } = params;
        let StoreParams { snapshots_kept, transfers, .. } = params;
        let libraries = Libraries::default();
        let mut machines = HashMap::new();
        for replica in hosted {
            libraries.all().insert(replica.shard, (replica.generation, replica.library));
            machines.insert(replica.shard, replica.machine);
        }
        let mut applier = Applier {
            machines,
            home: home.clone(),
            cores,
            libraries: libraries.clone(),
            maintain: maintain.clone(),
            memtables,
        };
        let done = to_executor.clone();
        spawn(format!("apply-{core}"), cpu, move || applier.work(&apply_jobs, &done))?;
        for reader in 0..reader_threads {
            let (jobs, done) = (read_jobs.clone(), to_executor.clone());
            spawn(format!("read-{core}-{reader}"), cpu, move || read_loop(&jobs, &done))?;
        }
        let maintainer =
            Maintainer { home, libraries: libraries.clone(), apply: apply.clone(), again: maintain.clone() };
        let (keep, keep_jobs) = flume::unbounded();
        let keeper = Keeper { libraries: libraries.clone(), snapshots_kept, transfers };
        let done = to_executor.clone();
        background::spawn(format!("keep-{core}"), move || keeper.work(&keep_jobs, &done))?;
        spawn(format!("store-{core}"), cpu, move || maintainer.work(&maintain_jobs, &to_executor))?;
        let reader_threads = usize::try_from(reader_threads).expect("64-bit machine");
        Ok(Store { apply, read, reader_threads, maintain, keep, events, libraries })
    }

    pub(super) fn apply(&self, batches: Vec<ApplyBatch>) {
        self.order(ApplyJob::Entries(batches));
    }

    pub(super) fn open(&self, replica: ReplicaId) {
        self.order(ApplyJob::Open { replica });
    }

    pub(super) fn install(&self, replica: ReplicaId, engine: Engine, snapshot: ReceivedSnapshot) {
        self.order(ApplyJob::Install { replica, engine, snapshot });
    }

    pub(super) fn remove(&self, replica: ReplicaId, generation: u64, engine: Engine) {
        self.order(ApplyJob::Remove { replica, generation, engine });
    }

    /// Makes all state machines durable, after all that was ordered before; the receiver hears when they are.
    pub(super) fn flush(&self) -> flume::Receiver<()> {
        let (done, wait) = flume::bounded(1);
        self.order(ApplyJob::Flush(done));
        wait
    }

    fn order(&self, job: ApplyJob) {
        must_be_there(self.apply.send(job).is_ok(), "apply");
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

    pub(super) fn keep(&self, job: Keeping) {
        must_be_there(self.keep.send(job).is_ok(), "keep");
    }

    /// The snapshots of the core's replicas.
    pub(super) fn libraries(&self) -> &Libraries {
        &self.libraries
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

/// The apply thread.
struct Applier {
    machines: HashMap<u32, Machine>,
    home: Home,
    /// Cores of the node.
    cores: u32,
    libraries: Libraries,
    maintain: flume::Sender<Maintenance>,
    memtables: Option<(RocksShared, usize)>,
}

impl Applier {
    fn work(&mut self, jobs: &flume::Receiver<ApplyJob>, done: &flume::Sender<Vec<Event>>) {
        while let Ok(job) = jobs.recv() {
            let event = match job {
                ApplyJob::Entries(batches) => {
                    Event::Applied(batches.into_iter().map(|batch| self.apply(batch)).collect())
                }
                ApplyJob::Host { shard, machine } => {
                    self.machines.insert(shard, *machine);
                    continue;
                }
                ApplyJob::Open { replica } => {
                    Event::ReplicaOpened { replica, opened: self.open(replica.shard) }
                }
                ApplyJob::Install { replica, engine, snapshot } => {
                    let result = self.install(replica, engine, &snapshot);
                    Event::SnapshotInstalled { replica, result }
                }
                ApplyJob::Flush(done) => {
                    self.flush();
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                    continue;
                }
                ApplyJob::Remove { replica, generation, engine } => {
                    self.remove(replica.shard, generation, engine);
                    continue;
                }
            };
            if done.send(vec![event]).is_err() {
                return;
            }
        }
    }

    fn apply(&mut self, batch: ApplyBatch) -> Applied {
        let shard = batch.replica.shard;
        let machine = self.machines.get_mut(&shard).expect("a machine for every replica of the core");
        let too_full = self.memtables.as_ref().is_some_and(|(shared, max)| shared.memtables_bytes() > *max);
        // When flushing falls behind, apply waits for it, and admission refuses what apply cannot take: memory
        // stays bounded. Each flushes its own, so that idle memtables cannot keep everyone waiting.
        let room = if too_full { machine.engine().flush().map_err(ApplyError::from) } else { Ok(()) };
        let (home, cores) = (&self.home, self.cores);
        let found = |parent: &dyn StorageEngine, cut: &Cut, applied| {
            if let Err(error) = home.found(placement::core_of(cut.into, cores), parent, cut, applied) {
                let detail = format!("shard {} cannot be made from it: {error}", cut.into);
                fatal::abort(Reason::Apply { shard, detail });
            }
        };
        match room.and_then(|()| batch.apply(machine, found)) {
            Ok(applied) => applied,
            Err(error) => fatal::abort(Reason::Apply { shard, detail: error.to_string() }),
        }
    }

    /// Opens the state machine of a new shard's replica, whose folder was just made.
    fn open(&mut self, shard: u32) -> Opened {
        let open = || -> Result<(Machine, Library), String> {
            let machine =
                self.home.open(shard, FOUNDING, ConfState::default()).map_err(|error| error.to_string())?;
            let library = self.home.library(shard, FOUNDING).map_err(|error| error.to_string())?;
            Ok((machine, library))
        };
        let (machine, library) = match open() {
            Ok(opened) => opened,
            Err(detail) => fatal::abort(Reason::Apply { shard, detail }),
        };
        self.libraries.all().insert(shard, (FOUNDING, library));
        let applied = machine.applied();
        let opened = Opened {
            engine: Engine(machine.engine().clone()),
            applied: Index(applied.index),
            applied_term: Term(applied.term),
            conf_state: machine.conf_state().clone(),
            domain: machine.domain(),
        };
        self.machines.insert(shard, machine);
        opened
    }

    fn install(
        &mut self,
        replica: ReplicaId,
        engine: Engine,
        snapshot: &ReceivedSnapshot,
    ) -> Result<Installed, ()> {
        let shard = replica.shard;
        let failed = |detail: String| -> ! { fatal::abort(Reason::Install { shard, detail }) };
        let Some((_, library)) = self.libraries.get(shard) else { return Err(()) };
        let meta = match library.install(engine.0.as_ref(), &snapshot.place) {
            Ok(meta) => meta,
            Err(error @ InstallError::Io { .. }) => failed(error.to_string()),
            Err(error) => {
                tracing::error!(shard, %error, "a snapshot was received and cannot be installed");
                return Err(());
            }
        };
        match self.home.machine(engine.0, meta.conf_state) {
            Ok(machine) => {
                let topology = machine.topology().cloned().map(Box::new);
                let (time_ms, domain) = (machine.clock_ms(), machine.domain());
                let installed = Installed { applied: meta.index, time_ms, topology, domain };
                self.machines.insert(shard, machine);
                tracing::info!(shard, index = meta.index.0, term = meta.term.0, "installed a snapshot");
                // It may be gigabytes.
                must_be_there(self.maintain.send(Maintenance::ForgetSetAside { shard }).is_ok(), "store");
                Ok(installed)
            }
            Err(error) => failed(error.to_string()),
        }
    }

    fn flush(&self) {
        for (shard, machine) in &self.machines {
            if let Err(error) = machine.engine().flush() {
                tracing::warn!(shard, %error, "cannot flush; the next start replays the log");
            }
        }
    }

    fn remove(&mut self, shard: u32, generation: u64, engine: Engine) {
        // The next replica of the shard may be there already.
        if self.libraries.get(shard).is_some_and(|(held, _)| held == generation) {
            self.machines.remove(&shard);
            self.libraries.all().remove(&shard);
        }
        // It waits for flushes and compactions that run: nothing for this thread.
        let job = Maintenance::Remove { shard, generation, engine };
        must_be_there(self.maintain.send(job).is_ok(), "store");
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

/// The thread for work that may take long.
struct Maintainer {
    home: Home,
    libraries: Libraries,
    apply: flume::Sender<ApplyJob>,
    /// Its own queue, for what failed and is tried again.
    again: flume::Sender<Maintenance>,
}

impl Maintainer {
    fn work(&self, jobs: &flume::Receiver<Maintenance>, done: &flume::Sender<Vec<Event>>) {
        while let Ok(job) = jobs.recv() {
            let event = match job {
                Maintenance::Durable { replica, engine, flush } => {
                    Some(durable(replica, engine.0.as_ref(), flush))
                }
                Maintenance::DropSnapshot { snapshot } => {
                    if let Some((_, library)) = self.libraries.get(snapshot.shard) {
                        library.drop_received(&snapshot.place);
                    }
                    None
                }
                Maintenance::ForgetSetAside { shard } => {
                    self.forget_set_aside(shard);
                    None
                }
                Maintenance::Create { replica, generation, founders } => {
                    self.create(replica, generation, founders)
                }
                Maintenance::Remove { shard, generation, engine } => {
                    if let Err(error) = engine.0.destroy() {
                        tracing::warn!(shard, generation, %error, "cannot remove a former replica's data properly");
                    }
                    self.remove_folder(shard, generation);
                    // The group has gone elsewhere, and its data with it.
                    self.forget_set_aside(shard);
                    None
                }
                Maintenance::RemoveFolder { shard, generation } => {
                    self.remove_folder(shard, generation);
                    None
                }
            };
            if event.is_some_and(|event| done.send(vec![event]).is_err()) {
                return;
            }
        }
    }

    fn forget_set_aside(&self, shard: u32) {
        if let Err(error) = self.home.forget_set_aside(shard) {
            tracing::warn!(shard, %error, "cannot remove what a lost replica left");
        }
    }

    fn remove_folder(&self, shard: u32, generation: u64) {
        if let Err(error) = self.home.remove(shard, generation) {
            tracing::warn!(shard, generation, %error, "cannot remove a former replica's folder yet");
            self.try_again(Maintenance::RemoveFolder { shard, generation });
        }
    }

    fn create(&self, replica: ReplicaId, generation: u64, founders: ConfState) -> Option<Event> {
        let shard = replica.shard;
        let make = || -> Result<(Machine, Library), String> {
            self.home.remove(shard, generation).map_err(|error| error.to_string())?;
            let machine =
                self.home.open(shard, generation, founders.clone()).map_err(|error| error.to_string())?;
            let library = self.home.library(shard, generation).map_err(|error| error.to_string())?;
            Ok((machine, library))
        };
        match make() {
            Ok((machine, library)) => {
                let engine = Engine(machine.engine().clone());
                self.libraries.all().insert(shard, (generation, library));
                must_be_there(
                    self.apply.send(ApplyJob::Host { shard, machine: Box::new(machine) }).is_ok(),
                    "apply",
                );
                Some(Event::ReplicaCreated { replica, engine })
            }
            Err(error) => {
                tracing::error!(shard, generation, error, "cannot make a replica");
                self.try_again(Maintenance::Create { replica, generation, founders });
                None
            }
        }
    }

    /// Puts a job behind all others.
    fn try_again(&self, job: Maintenance) {
        thread::sleep(RETRY_PAUSE);
        must_be_there(self.again.send(job).is_ok(), "store");
    }
}

fn durable(replica: ReplicaId, engine: &dyn StorageEngine, flush: bool) -> Event {
    let result = if flush { engine.flush() } else { Ok(()) };
    match result.and_then(|()| engine.applied_durable()) {
        Ok(applied) => Event::Durable { replica, index: Index(applied.index) },
        // It was removed, or a snapshot is taking its place: nothing new is known.
        Err(StoreError::Destroyed { .. }) => Event::Durable { replica, index: Index::ZERO },
        Err(error) => fatal::abort(Reason::Apply { shard: replica.shard, detail: error.to_string() }),
    }
}
