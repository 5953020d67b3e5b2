//! One simulated node: what survives its process (disks, engines), and the process while it runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use raft::{ConfState, Index, Nanos, Term};
use wal::disk::sim::SimDisk;
use wal::{Recovered, Wal, WalConfig};

use super::clock::Clock;
use super::open_machine;
use super::perform::Job;
use super::plan::Plan;
use super::rng::Rng;
use super::store::{Image, SimEngine};
use crate::core::{Core, CoreConfig, Event, ReplicaId, ReplicaSeed};
use crate::machine::Machine;
use crate::placement;
use crate::replica_id;
use crate::store::StorageEngine;
use net::map::ClusterMap;

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

/// A node.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its clocks.
    pub clock: Clock,
    /// Its cores.
    pub cores: Vec<CoreSlot>,
    /// Whether the process runs.
    pub up: bool,
    /// Counts processes: what belongs to a former one is dropped.
    pub life: u64,
    /// Snapshots that were received, by their place.
    pub received: BTreeMap<String, Arc<Image>>,
}

/// What all nodes are started with.
pub struct Setup {
    /// The plan.
    pub plan: Plan,
    /// The cluster map.
    pub map: ClusterMap,
    /// The members a group begins with.
    pub founders: ConfState,
}

impl Setup {
    /// The settings of a core.
    pub fn core_config(&self, node: u64, core: u32) -> CoreConfig {
        let plan = &self.plan;
        CoreConfig {
            node,
            core,
            cores: plan.cores,
            raft: plan.raft.clone(),
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
        }
    }

    fn wal_config(&self, node: u64, core: u32) -> WalConfig {
        let core = u16::try_from(core).expect("few cores");
        WalConfig { node_id: node, core, ..self.plan.wal.clone() }
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

    /// Recovers the log and starts the machine, as a process does.
    fn start(&mut self, setup: &Setup, node: u64, core: u32, rng: &mut Rng) {
        let config = setup.wal_config(node, core);
        let recovered = if self.disk.files().next().is_none() {
            Recovered::empty(rng.next())
        } else {
            self.disk.recover(&config).unwrap_or_else(|error| panic!("node {node} cannot recover: {error}"))
        };
        let mut seeds = Vec::new();
        for info in &setup.map.shards {
            if placement::core_of(info.id, setup.plan.cores) == core {
                let generation = replica_id::FOUNDING;
                let incarnation = u64::try_from(seeds.len()).expect("few") + 1;
                let replica = ReplicaId { shard: info.id, incarnation };
                seeds.push(self.open(setup, replica, generation, rng));
            }
        }
        let wal = Wal::new(config, recovered);
        let machine = Core::new(setup.core_config(node, core), setup.map.clone(), wal, seeds, rng.next());
        self.running = Some(machine.expect("the configuration is valid"));
    }

    fn open(&mut self, setup: &Setup, replica: ReplicaId, generation: u64, rng: &mut Rng) -> ReplicaSeed {
        let hosted = self.host(setup, replica, generation, rng);
        let applied = hosted.machine.applied();
        ReplicaSeed {
            shard: replica.shard,
            generation,
            engine: hosted.engine.clone(),
            applied: Index(applied.index),
            applied_term: Term(applied.term),
            conf_state: hosted.machine.conf_state().clone(),
        }
    }

    /// Opens the engine and the state machine of a replica.
    pub fn host(&mut self, setup: &Setup, replica: ReplicaId, generation: u64, rng: &mut Rng) -> &Hosted {
        let cold = setup.plan.store.cold;
        let engine = self.engines.entry((replica.shard, generation));
        let engine = engine.or_insert_with(|| Arc::new(SimEngine::new(cold, rng.fork()))).clone();
        let shared: Arc<dyn StorageEngine> = engine.clone();
        let machine = open_machine(shared, &setup.founders);
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
            up: false,
            life: 0,
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
            slot.start(setup, self.id, core, rng);
        }
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
