//! Cores of a few nodes, wired in memory: messages arrive at once, disks do at once what they are asked (unless a test
//! holds their writes), state machines are ordered maps with images on a real disk.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use net::peer::GroupMessage;
use net::protocol::{Answer, Op, Refusal, Reply, Request};
use net::slot::slot_of;
use net::types::RequestId;
use raft::{ConfState, Index, Nanos, SnapshotMeta, Term};
use wal::{Recovered, Wal, WalConfig};

use crate::config::Config;
use crate::core::{
    ConnectionId, Core, CoreConfig, Effect, Event, Installed, Opened, Origin, ReceivedSnapshot, ReplicaId,
    ReplicaSeed, ShardStatus, SnapshotOffer, TakenSnapshot, Transfer,
};
use crate::machine::{Cut, Machine, division};
use crate::placement;
use crate::replica_id;
use crate::store::{Applied, MemEngine, OpenError, ReadTier, StorageEngine, offspring};

pub const TICK: Nanos = Nanos::from_millis(50);
pub const SHARDS: u32 = 4;

/// What differs between the tests.
#[derive(Clone, Copy)]
pub struct Settings {
    pub nodes: u64,
    /// Nodes each shard begins on; 0 for all.
    pub replicas: u32,
    pub inflight_bytes_max: u64,
    pub log_bytes_max: u64,
    pub wal_retain_bytes: u64,
    pub hibernate: bool,
    pub slow_write: Nanos,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            nodes: 3,
            replicas: 0,
            inflight_bytes_max: 1 << 20,
            log_bytes_max: 1 << 30,
            wal_retain_bytes: 1 << 30,
            hibernate: false,
            slow_write: Nanos(0),
        }
    }
}

/// Messages by the node they are for.
type Sent = Vec<(u64, Vec<GroupMessage>)>;
/// Snapshots that replicas owe.
type Offers = Vec<(ReplicaId, SnapshotOffer)>;

pub struct Node {
    id: u64,
    pub core: Core,
    pub machines: HashMap<ReplicaId, Machine>,
    pub events: VecDeque<Event>,
    pub replies: Vec<Reply>,
    /// Whether log writes complete.
    pub disk_works: bool,
    pub held_writes: Vec<wal::BatchId>,
    /// Replicas destroyed: shard and generation.
    pub destroyed: Vec<(u32, u64)>,
    pub dropped_snapshots: usize,
    pub stopped: bool,
    settings: Settings,
    folder: tempfile::TempDir,
    files: u64,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub now: Nanos,
    next_request: u64,
    /// Nodes that hear and tell nothing.
    pub cut: Vec<u64>,
    /// A group whose messages are lost.
    pub mute: Option<u32>,
    /// Messages delivered that are more than signs of life.
    pub messages: u64,
    /// Whether snapshots wait for a test to send them, rather than leave at once.
    pub holds_offers: bool,
    /// Those that wait, each with the node that owes it.
    pub held_offers: Vec<(u64, ReplicaId, SnapshotOffer)>,
}

fn config(settings: &Settings) -> Config {
    let nodes: String = (1..=settings.nodes)
        .map(|id| {
            format!("[[cluster.nodes]]\nid = {id}\nbinary = \"127.0.0.1:{id}\"\npeer = \"127.0.0.1:1{id}\"\n")
        })
        .collect();
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"d\"\n[listen]\nbinary = \"127.0.0.1:1\"\npeer = \"127.0.0.1:11\"\n\
         [cluster]\nid = \"test\"\nshards = {SHARDS}\nreplicas = {}\n{nodes}",
        settings.replicas
    );
    Config::parse(&text, Path::new("test")).unwrap()
}

/// The data directory of a node.
pub fn store_of(node: u64) -> u64 {
    100 + node
}

pub fn core_config(id: u64, settings: &Settings) -> CoreConfig {
    CoreConfig {
        node: id,
        store: store_of(id),
        core: 0,
        cores: 1,
        raft: raft::Config { tick: TICK, ..raft::Config::new(raft::NodeId(id)) },
        key_bytes_max: 1024,
        value_bytes_max: 64 << 10,
        inflight_bytes_max: settings.inflight_bytes_max,
        reads_bytes_max: 8 << 10,
        request_timeout: Nanos::from_millis(2_000),
        wal_retain_bytes: settings.wal_retain_bytes,
        snapshot_interval: Nanos(0),
        snapshot_threshold_bytes: 0,
        log_bytes_max: settings.log_bytes_max,
        snapshots_sending_max: 2,
        hibernate: settings.hibernate,
        slow_write: settings.slow_write,
        replace_after: Nanos::ZERO,
        moves_max: 2,
    }
}

impl Node {
    /// A node that begins with the cluster, or one that has lost its disk and holds fresh replicas.
    pub fn new(id: u64, settings: Settings, generation: u64) -> Node {
        let map = placement::cluster_map(&config(&settings));
        let folder = tempfile::tempdir().unwrap();
        let mut seeds = Vec::new();
        let mut machines = HashMap::new();
        let placed = map.shards.iter().filter(|shard| shard.replica_on(id).is_some());
        for (incarnation, shard) in (1..).zip(placed) {
            let engine: Arc<dyn StorageEngine> =
                Arc::new(MemEngine::open(&folder.path().join(format!("{}", shard.id))).unwrap());
            let founders = placement::founders(&map, shard.id);
            let replica = ReplicaId { shard: shard.id, incarnation };
            machines.insert(replica, Machine::open(engine.clone(), founders.clone()).unwrap());
            seeds.push(ReplicaSeed {
                shard: shard.id,
                generation,
                engine,
                applied: Index(0),
                applied_term: Term(0),
                conf_state: founders,
                topology: None,
                domain: None,
            });
        }
        let wal_config = WalConfig {
            segment_bytes: 1 << 20,
            batch_bytes_max: 256 << 10,
            payload_bytes_max: 512 << 10,
            ..WalConfig::new(id, 0)
        };
        let wal = Wal::new(wal_config, Recovered::empty(id));
        let core = Core::new(core_config(id, &settings), map, wal, seeds, 7 + generation).unwrap();
        Node {
            id,
            core,
            machines,
            events: VecDeque::new(),
            replies: Vec::new(),
            disk_works: true,
            held_writes: Vec::new(),
            destroyed: Vec::new(),
            dropped_snapshots: 0,
            stopped: false,
            settings,
            folder,
            files: 0,
        }
    }

    /// One turn; what it sends, and the snapshots it owes.
    fn turn(&mut self, now: Nanos) -> (Sent, Offers) {
        self.core.handle(Event::Tick { now, wall_ms: 1_000 + now.0 / 1_000_000 });
        while let Some(event) = self.events.pop_front() {
            self.core.handle(event);
        }
        let (mut sent, mut offers) = (Vec::new(), Vec::new());
        for effect in self.core.settle().collect::<Vec<Effect>>() {
            match effect {
                Effect::Reply { reply, .. } => self.replies.push(reply),
                Effect::Send { node, messages, .. } => sent.push((node, messages)),
                Effect::WriteWal(batch) if self.disk_works => {
                    self.events.push_back(Event::WalWritten { batch: batch.id });
                }
                Effect::WriteWal(batch) => self.held_writes.push(batch.id),
                Effect::Segment(task) => self.events.push_back(Event::SegmentDone { task }),
                Effect::SendSnapshot { replica, offer, .. } => offers.push((replica, offer)),
                Effect::DropSnapshot { .. } => self.dropped_snapshots += 1,
                Effect::Stopped => self.stopped = true,
                Effect::MapChanged(_) => {}
                other => self.perform(other),
            }
        }
        (sent, offers)
    }

    /// The work of the storage threads, done at once.
    fn perform(&mut self, effect: Effect) {
        let event = match effect {
            Effect::Apply(batches) => {
                let applied = batches.into_iter().map(|batch| {
                    let (machines, folder) = (&mut self.machines, &self.folder);
                    let machine = machines.get_mut(&batch.replica).expect("a machine for every replica");
                    let found = |parent: &dyn StorageEngine, cut: &Cut, applied| {
                        found(folder.path(), parent, cut, applied)
                    };
                    batch.apply(machine, found).unwrap()
                });
                Event::Applied(applied.collect())
            }
            Effect::Read(task) => Event::Read(task.run(ReadTier::All).unwrap()),
            Effect::QueryDurable { replica, engine, flush } => {
                if flush {
                    engine.0.flush().unwrap();
                }
                Event::Durable { replica, index: Index(engine.0.applied_durable().unwrap().index) }
            }
            Effect::TakeSnapshot { replica, .. } => {
                let (meta, _) = self.checkpoint(replica);
                let taken = TakenSnapshot { index: meta.index, term: meta.term, bytes: 1 };
                Event::SnapshotTaken { replica, snapshot: Some(taken) }
            }
            Effect::InstallSnapshot { replica, engine, snapshot } => {
                let applied = engine.0.install_checkpoint(&snapshot.place).unwrap();
                let machine = Machine::open(engine.0, snapshot.meta.conf_state).unwrap();
                let topology = machine.topology().cloned().map(Box::new);
                let (time_ms, domain) = (machine.clock_ms(), machine.domain());
                let installed = Installed { applied: Index(applied.index), time_ms, topology, domain };
                self.machines.insert(replica, machine);
                Event::SnapshotInstalled { replica, result: Ok(installed) }
            }
            Effect::CreateReplica { replica, generation } => {
                let place = self.folder.path().join(replica_id::folder(replica.shard, generation));
                let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::open(&place).unwrap());
                let map = placement::cluster_map(&config(&self.settings));
                let founders = placement::founders(&map, replica.shard);
                self.machines.insert(replica, Machine::open(engine.clone(), founders).unwrap());
                Event::ReplicaCreated { replica, engine: crate::core::Engine(engine) }
            }
            Effect::OpenReplica { replica } => {
                let name = replica_id::folder(replica.shard, replica_id::FOUNDING);
                let engine = MemEngine::open(&self.folder.path().join(name).join("store")).unwrap();
                let machine = Machine::open(Arc::new(engine), ConfState::default()).unwrap();
                let opened = Opened {
                    engine: crate::core::Engine(machine.engine().clone()),
                    applied: Index(machine.applied().index),
                    applied_term: Term(machine.applied().term),
                    conf_state: machine.conf_state().clone(),
                    domain: machine.domain(),
                };
                self.machines.insert(replica, machine);
                Event::ReplicaOpened { replica, opened }
            }
            Effect::Reclaim { .. } => return,
            Effect::DestroyReplica { replica, generation, .. } => {
                self.machines.remove(&replica).expect("a replica is destroyed once");
                self.destroyed.push((replica.shard, generation));
                return;
            }
            other => panic!("unexpected {other:?}"),
        };
        self.events.push_back(event);
    }

    /// A snapshot of a replica, and its folder.
    fn checkpoint(&mut self, replica: ReplicaId) -> (SnapshotMeta, std::path::PathBuf) {
        let machine = &self.machines[&replica];
        self.files += 1;
        let place = self.folder.path().join(format!("checkpoint-{}", self.files));
        let applied = machine.engine().create_checkpoint(&place).unwrap();
        let conf_state = machine.conf_state().clone();
        (SnapshotMeta { index: Index(applied.index), term: Term(applied.term), conf_state }, place)
    }

    pub fn shard(&self, shard: u32) -> Option<ShardStatus> {
        self.core.status().shards.into_iter().find(|status| status.shard == shard)
    }

    pub fn release_writes(&mut self) {
        self.disk_works = true;
        let held = std::mem::take(&mut self.held_writes);
        self.events.extend(held.into_iter().map(|batch| Event::WalWritten { batch }));
    }
}

/// Makes the replica of a new shard in a node's folder.
fn found(node: &Path, parent: &dyn StorageEngine, cut: &Cut, applied: Applied) {
    let name = replica_id::folder(cut.into, replica_id::FOUNDING);
    let open =
        |place: &Path| -> Result<Arc<dyn StorageEngine>, OpenError> { Ok(Arc::new(MemEngine::open(place)?)) };
    offspring::make(parent, (node, &name), false, &open, |engine| division::found(engine, cut, applied))
        .unwrap();
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Cluster {
        let mut cluster = Cluster::idle(settings);
        cluster.elect();
        cluster
    }

    pub fn idle(settings: Settings) -> Cluster {
        let nodes = (1..=settings.nodes).map(|id| Node::new(id, settings, replica_id::FOUNDING)).collect();
        Cluster {
            nodes,
            now: Nanos(0),
            next_request: 1,
            cut: Vec::new(),
            mute: None,
            messages: 0,
            holds_offers: false,
            held_offers: Vec::new(),
        }
    }

    /// A node loses its disk and begins anew, with replicas of another generation.
    pub fn wipe(&mut self, id: u64, generation: u64) {
        let settings = self.nodes[0].settings;
        *self.node(id) = Node::new(id, settings, generation);
    }

    /// Runs until nothing moves, without time passing.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            let mut moved = false;
            for position in 0..self.nodes.len() {
                moved |= self.turn(position);
            }
            if !moved && self.nodes.iter().all(|node| node.events.is_empty()) {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    fn turn(&mut self, position: usize) -> bool {
        let from = self.nodes[position].id;
        let (sent, offers) = self.nodes[position].turn(self.now);
        let mut moved = !offers.is_empty();
        for (to, mut messages) in sent {
            messages.retain(|message| self.mute != Some(message.group));
            if !self.cut.contains(&from) && !self.cut.contains(&to) {
                moved |= !messages.is_empty();
                self.messages += u64::try_from(messages.len()).unwrap();
                self.node(to).events.push_back(Event::Peer { node: from, core: 0, messages });
            }
        }
        for (replica, offer) in offers {
            let reachable = !self.cut.contains(&from) && !self.cut.contains(&offer.node);
            if self.holds_offers {
                self.held_offers.push((from, replica, offer));
            } else if reachable {
                self.send_snapshot(from, replica, offer);
            } else {
                self.end_transfer(from, replica, offer, Transfer::Refused);
            }
        }
        moved
    }

    /// A snapshot reaches its follower.
    pub fn send_snapshot(&mut self, from: u64, replica: ReplicaId, offer: SnapshotOffer) {
        let (meta, place) = self.node(from).checkpoint(replica);
        assert!(meta.index.0 >= offer.index_min, "a snapshot that the log goes on from");
        let snapshot = ReceivedSnapshot { shard: offer.shard, meta, place };
        let received = Event::SnapshotReceived { from: offer.from, to: offer.to, term: offer.term, snapshot };
        self.node(offer.node).events.push_back(received);
        self.end_transfer(from, replica, offer, Transfer::Complete);
    }

    /// A leader hears how sending a snapshot ended.
    pub fn end_transfer(&mut self, from: u64, replica: ReplicaId, offer: SnapshotOffer, outcome: Transfer) {
        self.node(from).events.push_back(Event::SnapshotSent { replica, to: offer.to, outcome });
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(id).unwrap() - 1]
    }

    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(50) {
            self.now = self.now.saturating_add(TICK);
            self.settle();
        }
    }

    pub fn elect(&mut self) {
        self.pass_until("every shard has a leader", 10_000, |cluster| {
            (0..=SHARDS).all(|shard| cluster.leader(shard).is_some())
        });
        self.pass(200);
    }

    /// Lets time pass until something is so.
    pub fn pass_until(&mut self, what: &str, millis: u64, mut is_so: impl FnMut(&mut Cluster) -> bool) {
        for _ in 0..millis.div_ceil(50) {
            if is_so(self) {
                return;
            }
            self.pass(50);
        }
        assert!(is_so(self), "not within {millis} ms: {what}");
    }

    pub fn leader(&self, shard: u32) -> Option<u64> {
        let connected = self.nodes.iter().filter(|node| !self.cut.contains(&node.id));
        let leads = |node: &&Node| node.shard(shard).is_some_and(|status| status.role == "leader");
        connected.filter(leads).map(|node| node.id).next()
    }

    /// Sends a request for a key to a node; its id.
    pub fn ask(&mut self, node: u64, op: Op, key: &str) -> RequestId {
        self.ask_shard(node, op, shard_of(key))
    }

    pub fn ask_shard(&mut self, node: u64, op: Op, shard: u32) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let origin = Origin { core: 0, connection: ConnectionId(1) };
        let request = Request { id, shard, epoch: 1, namespace: 0, op };
        self.node(node).events.push_back(Event::Request { origin, request });
        id
    }

    pub fn answer(&mut self, node: u64, id: RequestId) -> Option<Result<Answer, Refusal>> {
        let replies = &mut self.node(node).replies;
        let position = replies.iter().position(|reply| reply.id == id)?;
        Some(replies.remove(position).result)
    }

    pub fn leader_of(&mut self, key: &str) -> u64 {
        self.leader(shard_of(key)).expect("the shard has a leader")
    }

    pub fn do_at_leader(&mut self, key: &str, op: Op) -> Result<Answer, Refusal> {
        self.do_at_shard(shard_of(key), op)
    }

    pub fn do_at_shard(&mut self, shard: u32, op: Op) -> Result<Answer, Refusal> {
        let leader = self.leader(shard).expect("the shard has a leader");
        let id = self.ask_shard(leader, op, shard);
        self.settle();
        self.answer(leader, id).expect("answered")
    }
}

pub fn shard_of(key: &str) -> u32 {
    1 + u32::from(slot_of(key.as_bytes())) * SHARDS / 16384
}
