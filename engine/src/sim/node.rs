//! One simulated node: what survives its process (disks, engines), and the process while it runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use raft::mutation::{self, Mutation};
use raft::{ConfState, Index, Nanos, Term};
use wal::disk::sim::{SimDisk, SimDone};
use wal::{Recovered, RecoveryMode, StreamId, StreamState, Wal, WalConfig};

use super::clock::Clock;
use super::open_machine;
use super::perform::Job;
use super::plan::Plan;
use super::rng::Rng;
use super::store::{Image, SimEngine};
use crate::core::{Core, CoreConfig, Event, ReplicaId, ReplicaSeed};
use crate::identity::{Stage, Standing, StoreId};
use crate::machine::Machine;
use crate::placement;
use crate::replica_id;
use crate::server::replicas::{Found, Plan as Replicas};
use crate::store::StorageEngine;
use net::map::{ClusterMap, ShardInfo};

/// A replica of the running process.
pub struct Hosted {
    /// Its data.
    pub engine: Arc<SimEngine>,
    /// Its state machine; none while it cannot be used.
    pub machine: Machine,
    /// Which of the node's successive replicas of the shard it is.
    pub generation: u64,
}

/// One core: its disk, and its machine while the process runs.
pub struct CoreSlot {
    /// The log's disk.
    pub disk: SimDisk,
    /// Engines by shard and generation: as the data directory holds them.
    pub engines: BTreeMap<(u32, u64), Arc<SimEngine>>,
    /// The newest snapshot of each replica.
    pub snapshots: BTreeMap<(u32, u64), Arc<Image>>,
    /// The machine.
    pub running: Option<Core>,
    /// What has arrived and was not handled.
    pub inbox: VecDeque<Event>,
    /// When the next turn is due, if one is.
    pub turn_at: Option<u64>,
    /// Until when the executor stands still.
    pub paused_until: u64,
    /// Replicas of the process.
    pub hosted: HashMap<ReplicaId, Hosted>,
    /// Jobs of the apply thread.
    pub lane: VecDeque<Job>,
    /// When the apply thread is free again.
    pub lane_free_at: u64,
    /// When the disk was last asked to be looked at.
    pub disk_due: Option<u64>,
}

/// What a data directory says of its node.
pub struct Directory {
    /// Its name.
    pub store: StoreId,
    /// How far it has come.
    pub stage: Stage,
    /// The directory of every node when the cluster was founded.
    pub founders: BTreeMap<u64, StoreId>,
}

impl Directory {
    /// What its node tells others of it.
    pub fn standing(&self) -> Standing {
        Standing { store: self.store, settled: self.stage != Stage::New, founders: self.founders.clone() }
    }
}

fn stream(shard: u32, generation: u64) -> StreamId {
    StreamId(replica_id::stream_id(shard, generation))
}

/// A node.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its clocks.
    pub clock: Clock,
    /// Its cores.
    pub cores: Vec<CoreSlot>,
    /// What its data directory says of it.
    pub directory: Directory,
    /// Whether the process runs.
    pub up: bool,
    /// Counts processes: what belongs to a former one is dropped.
    pub life: u64,
    /// Whether it belongs to the cluster, if it was not there at the beginning.
    pub has_joined: bool,
    /// The cluster map on its disk.
    pub map: Option<Arc<ClusterMap>>,
    /// Snapshots that were received, by their place.
    pub received: BTreeMap<String, Arc<Image>>,
}

/// What all nodes are started with.
pub struct Setup {
    /// The plan.
    pub plan: Plan,
    /// The cluster map.
    pub map: ClusterMap,
    /// The members each group begins with, the meta shard's first.
    pub founders: Vec<ConfState>,
}

impl Setup {
    /// The members that a shard begins with.
    pub fn founders(&self, shard: u32) -> &ConfState {
        static NOBODY: ConfState =
            ConfState { voters: Vec::new(), learners: Vec::new(), voters_outgoing: Vec::new() };
        self.founders.get(usize::try_from(shard).expect("few shards")).unwrap_or(&NOBODY)
    }

    /// The settings of a core.
    pub fn core_config(&self, node: u64, core: u32) -> CoreConfig {
        let plan = &self.plan;
        CoreConfig {
            node,
            store: 0,
            core,
            cores: plan.cores,
            raft: plan.raft_of(node),
            key_bytes_max: 256,
            value_bytes_max: 4 << 10,
            inflight_bytes_max: 256 << 10,
            reads_bytes_max: 64 << 10,
            request_timeout: Nanos::from_millis(2_000),
            wal_retain_bytes: plan.wal_retain_bytes,
            snapshot_interval: Nanos(plan.store.snapshot_interval),
            snapshot_threshold_bytes: plan.store.snapshot_bytes,
            log_bytes_max: plan.log_bytes_max,
            snapshots_sending_max: 2,
            hibernate: plan.hibernate,
            slow_write: Nanos::from_millis(500),
            replace_after: Nanos(plan.members.replace_after),
            moves_max: plan.members.moves_max,
        }
    }

    /// The settings of a core's log.
    pub fn wal_config(&self, node: u64, core: u32) -> WalConfig {
        let core = u16::try_from(core).expect("few cores");
        WalConfig { node_id: node, core, recovery_mode: RecoveryMode::Quarantine, ..self.plan.wal.clone() }
    }
}

impl CoreSlot {
    fn new(plan: &Plan, rng: &mut Rng) -> CoreSlot {
        CoreSlot {
            disk: SimDisk::new(plan.disk.speed, rng.next()),
            engines: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            running: None,
            inbox: VecDeque::new(),
            turn_at: None,
            paused_until: 0,
            hosted: HashMap::new(),
            lane: VecDeque::new(),
            lane_free_at: 0,
            disk_due: None,
        }
    }

    /// Recovers the log, opens what it knows, begins what was lost anew, and starts the machine: as a process does.
    fn start(&mut self, setup: &Setup, map: &ClusterMap, node: u64, core: u32, stage: Stage, rng: &mut Rng) {
        let config = setup.wal_config(node, core);
        let recovered = if self.disk.files().next().is_none() {
            Recovered::empty(rng.next())
        } else {
            self.disk.recover(&config).unwrap_or_else(|error| panic!("node {node} cannot recover: {error}"))
        };
        let mut plan = self.plan(setup, map, node, core, stage, &recovered);
        let mut wal = Wal::new(config, recovered);
        for (shard, generation) in &plan.forgotten {
            wal.remove(stream(*shard, *generation));
        }
        for held in plan.set_aside.iter().chain(&plan.leftovers) {
            self.drop_replica(*held);
        }
        let mut seeds = Vec::new();
        for (shard, generation) in std::mem::take(&mut plan.held) {
            let first = wal.first_index(stream(shard, generation));
            let engine = self.engines.get(&(shard, generation));
            let applied = engine.map_or(0, |engine| engine.applied().expect("a live engine").index);
            if wal.contains(stream(shard, generation)) && applied + 1 < first {
                wal.remove(stream(shard, generation));
                self.drop_replica((shard, generation));
                plan.fresh.insert(shard);
            } else {
                seeds.push(self.open(setup, seeds.len(), shard, generation, rng));
            }
        }
        for shard in plan.fresh {
            let generation = match mutation::active(Mutation::ReuseRaftId) {
                true => replica_id::FOUNDING,
                false => replica_id::generation_from(rng.next()),
            };
            seeds.push(self.open(setup, seeds.len(), shard, generation, rng));
        }
        for seed in &seeds {
            if !wal.contains(stream(seed.shard, seed.generation)) {
                wal.set_state(stream(seed.shard, seed.generation), StreamState::default());
            }
        }
        for lost in wal.lost().collect::<Vec<_>>() {
            wal.remove(lost);
        }
        wal.mend();
        self.flush(&mut wal);
        let machine = Core::new(setup.core_config(node, core), map.clone(), wal, seeds, rng.next());
        self.running = Some(machine.expect("the configuration is valid"));
    }

    fn plan(
        &self,
        setup: &Setup,
        map: &ClusterMap,
        node: u64,
        core: u32,
        stage: Stage,
        recovered: &Recovered,
    ) -> Replicas {
        let here = |info: &&ShardInfo| placement::core_of(info.id, setup.plan.cores) == core;
        let all: Vec<&ShardInfo> = map.shards.iter().filter(here).collect();
        let shards: Vec<u32> = all.iter().map(|info| info.id).collect();
        let placed = all.iter().filter(|info| info.replicas.iter().any(|it| it.node == node));
        let placed: Vec<u32> = placed.map(|info| info.id).collect();
        let damaged: Vec<(u32, u64)> = recovered
            .damage
            .iter()
            .flat_map(|damage| damage.streams.iter().map(|stream| replica_id::of_stream(stream.0)))
            .collect();
        let streams: Vec<(u32, u64)> = recovered
            .streams()
            .map(|stream| replica_id::of_stream(stream.0))
            .filter(|held| !damaged.contains(held))
            .collect();
        let blank: Vec<(u32, u64)> = (recovered.streams().filter(|stream| recovered.is_blank(*stream)))
            .map(|stream| replica_id::of_stream(stream.0))
            .collect();
        let folders: Vec<(u32, u64)> = self.engines.keys().copied().collect();
        Replicas::of(&Found {
            stage,
            shards: &shards,
            placed: &placed,
            streams: &streams,
            blank: &blank,
            damaged: &damaged,
            hidden: recovered.damage.iter().any(|damage| damage.may_hide_streams),
            folders: &folders,
        })
    }

    fn drop_replica(&mut self, held: (u32, u64)) {
        self.engines.remove(&held);
        self.snapshots.remove(&held);
    }

    /// Writes all that is queued and waits for it: nothing else runs yet. A full disk would keep the node from starting.
    fn flush(&mut self, wal: &mut Wal) {
        self.disk.set_full(false);
        while wal.flushed_lsn() < wal.end_lsn() {
            while let Some(task) = wal.poll_segment_task() {
                self.disk.run_segment_task(task, 0);
            }
            while let Some(batch) = wal.poll_write() {
                self.disk.write(batch, 0);
            }
            while let Some(done) = self.disk.poll_done(u64::MAX) {
                match done {
                    SimDone::Written(batch) => drop(wal.on_written(batch)),
                    SimDone::Segment(task) => wal.on_segment_task_done(task),
                    SimDone::SegmentFailed(task) => panic!("a disk with room cannot do {task:?}"),
                }
            }
        }
    }

    fn open(
        &mut self,
        setup: &Setup,
        before: usize,
        shard: u32,
        generation: u64,
        rng: &mut Rng,
    ) -> ReplicaSeed {
        let incarnation = u64::try_from(before).expect("few") + 1;
        let hosted = self.host(setup, ReplicaId { shard, incarnation }, generation, rng);
        let applied = hosted.machine.applied();
        ReplicaSeed {
            shard,
            generation,
            engine: hosted.engine.clone(),
            applied: Index(applied.index),
            applied_term: Term(applied.term),
            conf_state: hosted.machine.conf_state().clone(),
            topology: hosted.machine.topology().cloned(),
            domain: hosted.machine.domain(),
        }
    }

    /// Opens the engine and the state machine of a replica.
    pub fn host(&mut self, setup: &Setup, replica: ReplicaId, generation: u64, rng: &mut Rng) -> &Hosted {
        let cold = setup.plan.store.cold;
        let engine = self.engines.entry((replica.shard, generation));
        let engine = engine.or_insert_with(|| Arc::new(SimEngine::new(cold, rng.fork()))).clone();
        let shared: Arc<dyn StorageEngine> = engine.clone();
        let machine = open_machine(shared, setup.founders(replica.shard));
        self.hosted.entry(replica).or_insert(Hosted { engine, machine, generation })
    }

    fn stop(&mut self, rng: &mut Rng) {
        self.running = None;
        self.hosted.clear();
        self.inbox.clear();
        self.lane.clear();
        (self.turn_at, self.disk_due) = (None, None);
        (self.paused_until, self.lane_free_at) = (0, 0);
        self.disk.crash();
        for engine in self.engines.values() {
            // Some engines got round to writing out what they had.
            if rng.chance(100_000) {
                engine.flush().expect("a simulated engine always can");
            }
            engine.crash();
        }
    }
}

impl Node {
    /// A new node with empty disks.
    pub fn new(id: u64, plan: &Plan, clocks: &mut Rng, disks: &mut Rng) -> Node {
        Node {
            id,
            clock: Clock::new(clocks, plan.time.drift_ppm, plan.time.skew_ms),
            cores: (0..plan.cores).map(|_| CoreSlot::new(plan, disks)).collect(),
            directory: Directory {
                store: StoreId(disks.next()),
                stage: Stage::New,
                founders: BTreeMap::new(),
            },
            up: false,
            life: 0,
            has_joined: false,
            map: None,
            received: BTreeMap::new(),
        }
    }

    /// Starts the process.
    pub fn start(&mut self, setup: &Setup, now: u64, rng: &mut Rng) {
        assert!(!self.up);
        self.up = true;
        self.life += 1;
        self.clock.start(now);
        for (core, slot) in (0..).zip(&mut self.cores) {
            let map = self.map.as_deref().unwrap_or(&setup.map);
            slot.start(setup, map, self.id, core, self.directory.stage, rng);
        }
        self.directory.stage = Stage::Running;
    }

    /// All its disks are replaced by empty ones.
    pub fn wipe(&mut self, plan: &Plan, rng: &mut Rng) {
        self.directory =
            Directory { store: StoreId(rng.next()), stage: Stage::New, founders: BTreeMap::new() };
        self.cores = (0..plan.cores).map(|_| CoreSlot::new(plan, rng)).collect();
        self.map = None;
    }

    /// The process dies, or the power fails: to the disks it is the same.
    pub fn crash(&mut self, rng: &mut Rng) {
        self.up = false;
        self.received.clear();
        for slot in &mut self.cores {
            slot.stop(rng);
        }
    }
}
