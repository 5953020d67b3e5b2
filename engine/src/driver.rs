//! The only async code of the engine: turns I/O into [`Event`]s for a core's machine and carries its [`Effect`]s out.
//!
//! One executor runs, for its core: the machine's task, a reader and a writer task per connection, a task per log
//! write in flight, and a task each for the clock, the storage threads and the other cores. The machine's task runs
//! once per wake-up and takes everything that has arrived: that is where all batching comes from.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use net::map::ClusterMap;
use net::transport::ConnectionConfig;
use net::types::Limits;
use raft::Nanos;

pub mod bootstrap;
mod clients;
mod current_map;
mod disk;
mod doors;
pub mod executor;
mod gateway;
mod greet;
mod http;
mod inbox;
pub mod join;
mod keeper;
mod mesh;
mod peers;
mod presence;
mod resp;
mod snapshots;
mod stop;
mod store;
mod transfers;

use keeper::Keeping;
pub use mesh::{DoorKind, Mesh, MeshMessage, Stopper};
use store::Maintenance;
pub use store::{Hosted, Store, StoreParams};
pub use transfers::Transfers;

use crate::config::Config;
use crate::convert;
use crate::core::{Core, Effect, Event, ReadTask};
use crate::identity::DataDir;
use clients::Clients;
use current_map::CurrentMap;
use disk::Disk;
use inbox::Inbox;
use peers::Peers;

/// Everything a core runs on, opened.
pub struct CoreParts {
    /// The configuration of the node.
    pub config: Arc<Config>,
    /// The cluster as the core knows it.
    pub map: Arc<ClusterMap>,
    /// Its data directory.
    pub data: Arc<DataDir>,
    /// The machine, recovered.
    pub core: Core,
    /// The log's files.
    pub disk: wal::disk::RealDisk,
    /// The storage threads.
    pub store: Store,
    /// The channels to the other cores.
    pub mesh: Mesh,
    /// The node's doors, on its first core.
    pub doors: Option<Doors>,
    /// What limits snapshots to and from other nodes.
    pub transfers: Transfers,
    /// Start of the process: the zero of its monotonic clock.
    pub started: Instant,
}

/// The listening sockets of a node, bound.
pub struct Doors {
    /// For clients.
    pub binary: TcpListener,
    /// For the other nodes.
    pub peer: TcpListener,
    /// For clients of other protocols, where the node has such doors.
    pub others: Vec<(DoorKind, TcpListener)>,
}

/// A client whose host says nothing for so long is gone.
const CLIENT_SILENCE_MAX: Duration = Duration::from_secs(60);
/// A link to a peer is given up sooner: a new one works as soon as the network does again.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(4);
/// A turn ends after this, whatever has arrived, so that ticks, heartbeats and other clients never wait long.
const TURN_MAX: Duration = Duration::from_millis(10);
/// Reads on the reader threads at a time: enough to keep a disk busy.
const READS_IN_FLIGHT_MAX: usize = 64;
/// Events between two looks at the clock.
const TURN_LOOK_EVENTS: u32 = 16;

/// One core at work.
struct Driver {
    config: Arc<Config>,
    data: Arc<DataDir>,
    map: CurrentMap,
    /// The map on its way to the disk, on the first core.
    saving: presence::Saving,
    limits: Limits,
    /// Borrowed only between two awaits.
    core: RefCell<Core>,
    inbox: Rc<Inbox>,
    disk: Disk,
    store: Store,
    mesh: Mesh,
    clients: Rc<Clients>,
    /// Requests of the doors for other protocols.
    calls: gateway::Calls,
    /// What the HTTP connections share.
    http: Rc<http::Door>,
    /// What the Redis connections of this core share, once there is one.
    resp: OnceCell<Rc<resp::Door>>,
    peers: Rc<Peers>,
    /// Reads that memory could not answer, before and on the reader threads.
    reads: RefCell<VecDeque<ReadTask>>,
    reads_in_flight: Cell<usize>,
    transfers: Transfers,
    /// Whether the last steps before the end are under way, and whether they are done.
    finishing: Cell<bool>,
    stopped: Cell<bool>,
    started: Instant,
}

/// Runs a core until it was asked to stop and has.
pub async fn run(parts: CoreParts) {
    let vote_hold = parts.core.vote_hold();
    let CoreParts { config, map, data, core, disk, store, mesh, doors, transfers, started } = parts;
    let inbox = Rc::new(Inbox::default());
    let limits = wire_limits(&config);
    let connection = |queue: u64, silence_max| ConnectionConfig {
        frame_bytes_max: limits.frame_bytes_max,
        write_queue_bytes_max: usize::try_from(queue).expect("64-bit machine"),
        silence_max,
        ..ConnectionConfig::default()
    };
    let wal_dir = config.node.data_dir.join(format!("core-{}", mesh.core)).join("wal");
    let map = CurrentMap::new(map);
    let driver = Rc::new(Driver {
        limits,
        core: RefCell::new(core),
        disk: Disk::new(disk, wal_dir, inbox.clone()),
        store,
        clients: Rc::new(Clients::new(
            mesh.core,
            connection(config.limits.connection_bytes_max, CLIENT_SILENCE_MAX),
            limits,
            inbox.clone(),
        )),
        peers: Rc::new(Peers::new(
            config.clone(),
            mesh.core,
            map.clone(),
            convert::store_info(&data.standing()),
            vote_hold,
            connection(config.limits.peer_bytes_max, PEER_SILENCE_MAX),
            inbox.clone(),
        )),
        calls: gateway::Calls::default(),
        http: Rc::new(http::Door::new(started)),
        resp: OnceCell::new(),
        mesh,
        inbox,
        config,
        reads: RefCell::default(),
        reads_in_flight: Cell::new(0),
        transfers,
        finishing: Cell::new(false),
        stopped: Cell::new(false),
        data,
        map,
        saving: presence::Saving::default(),
        started,
    });
    driver.peers.clone().follow_map();
    glommio::spawn_local(driver.clone().keep_time()).detach();
    glommio::spawn_local(driver.clone().hear_store()).detach();
    glommio::spawn_local(driver.clone().hear_mesh()).detach();
    if driver.config.listen.http.is_some() {
        glommio::spawn_local(driver.clone().keep_store_figures()).detach();
    }
    if driver.mesh.core == 0 {
        glommio::spawn_local(driver.clone().introduce()).detach();
        glommio::spawn_local(driver.clone().keep_in_touch()).detach();
    }
    if let Some(doors) = doors {
        doors::open(&driver, doors);
    }
    driver.work().await;
}

/// The limits of the configuration as the wire checks them.
pub fn wire_limits(config: &Config) -> Limits {
    let narrow = |bytes: u64| u32::try_from(bytes).expect("validated: at most 64 MiB");
    let key_bytes_max = narrow(config.limits.key_bytes_max);
    let value_bytes_max = narrow(config.limits.value_bytes_max);
    // A compare-and-swap holds two values; an append may hold a whole message of entries.
    let request = 2 * value_bytes_max + key_bytes_max + (1 << 20);
    let append =
        narrow(config.raft.append_bytes_max.min(64 << 20)) + value_bytes_max + key_bytes_max + (1 << 20);
    Limits {
        key_bytes_max,
        value_bytes_max,
        frame_bytes_max: request.max(append).max(Limits::DEFAULT.frame_bytes_max),
        ..Limits::DEFAULT
    }
}

impl Driver {
    /// The machine's task.
    async fn work(self: Rc<Self>) {
        while !self.stopped.get() {
            self.inbox.wait().await;
            self.turn();
            if self.inbox.end_turn() {
                // What the turn wanted sent, flushed and applied goes on its way before the next one.
                glommio::executor().yield_now().await;
            }
        }
    }

    /// One turn: time, everything that has arrived (as far as it can be handled in [`TURN_MAX`]), and what follows.
    fn turn(self: &Rc<Self>) {
        let mut core = self.core.borrow_mut();
        core.handle(self.time());
        let begun = Instant::now();
        let mut handled = 0u32;
        while let Some(event) = self.inbox.pop() {
            core.handle(event);
            handled += 1;
            // Large answers take long to read and are held until the end of the turn.
            if handled.is_multiple_of(TURN_LOOK_EVENTS) && begun.elapsed() >= TURN_MAX {
                break;
            }
        }
        for effect in core.settle() {
            self.perform(effect);
        }
        if core.wants_turn() {
            self.inbox.tick();
        }
        self.feed_readers();
    }

    /// Hands reads to the reader threads, together but never too many: their answers are held in memory.
    fn feed_readers(&self) {
        let mut waiting = self.reads.borrow_mut();
        let room = READS_IN_FLIGHT_MAX - self.reads_in_flight.get();
        let count = room.min(waiting.len());
        if count > 0 {
            self.reads_in_flight.set(self.reads_in_flight.get() + count);
            self.store.read(waiting.drain(..count));
        }
    }

    fn time(&self) -> Event {
        let now = self.started.elapsed().as_nanos();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Event::Tick {
            now: Nanos(u64::try_from(now).unwrap_or(u64::MAX)),
            wall_ms: u64::try_from(wall).unwrap_or(u64::MAX),
        }
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Reply { origin, reply } if origin.core == self.mesh.core => {
                if origin.connection == gateway::CONNECTION {
                    return self.calls.reply(reply);
                }
                self.clients.reply(origin.connection, &reply);
            }
            Effect::Reply { origin, reply } => {
                self.mesh.send(origin.core, MeshMessage::Reply(origin.connection, reply));
            }
            Effect::Forward { core, connection, request } => {
                let origin = crate::core::Origin { core: self.mesh.core, connection };
                self.mesh.send(core, MeshMessage::Request(origin, request));
            }
            Effect::Send { node, core, messages } => self.peers.send(node, core, &messages),
            Effect::WriteWal(batch) => self.disk.write(batch),
            Effect::Segment(task) => self.disk.segment(task),
            Effect::ReadWal { replica, fetch, plan } => self.disk.read(replica, fetch, plan),
            Effect::Apply(batches) => self.store.apply(batches),
            Effect::Read(task) => self.reads.borrow_mut().push_back(task),
            Effect::QueryDurable { replica, engine, flush } => {
                self.store.maintain(Maintenance::Durable { replica, engine, flush });
            }
            Effect::TakeSnapshot { replica, engine, index: _ } => {
                let founders = self.map.founders(replica.shard);
                self.store.keep(Keeping::Take { replica, engine, founders });
            }
            Effect::SendSnapshot { replica, engine, offer } => {
                glommio::spawn_local(self.clone().send_snapshot(replica, engine, offer)).detach();
            }
            Effect::InstallSnapshot { replica, engine, snapshot } => {
                self.store.install(replica, engine, snapshot);
            }
            Effect::DropSnapshot { snapshot } => self.store.maintain(Maintenance::DropSnapshot { snapshot }),
            Effect::CreateReplica { replica, generation } => {
                let founders = self.map.founders(replica.shard);
                self.store.maintain(Maintenance::Create { replica, generation, founders });
            }
            Effect::OpenReplica { replica } => self.store.open(replica),
            Effect::Reclaim { shard, engine } => self.store.keep(Keeping::Reclaim { shard, engine }),
            Effect::TellKin { core, kin } => self.mesh.send(core, MeshMessage::Kin(self.mesh.core, kin)),
            Effect::DestroyReplica { replica, generation, engine } => {
                self.store.remove(replica, generation, engine);
            }
            Effect::Publish(status) => self.mesh.broadcast(|| MeshMessage::Status(status.clone())),
            Effect::MapChanged(news) => self.on_map_changed(news),
            Effect::Report(reports) if self.mesh.core == 0 => {
                self.mesh.broadcast(|| MeshMessage::Reports(reports.clone()));
            }
            Effect::Report(reports) => self.mesh.send(0, MeshMessage::Reports(reports)),
            Effect::Stopped => {
                glommio::spawn_local(self.clone().finish()).detach();
            }
        }
    }

    /// Lets a turn happen at least twice per Raft tick.
    async fn keep_time(self: Rc<Self>) {
        let pause = Duration::from_millis(self.config.raft.tick_ms) / 2;
        loop {
            glommio::timer::sleep(pause).await;
            self.inbox.tick();
        }
    }

    async fn hear_store(self: Rc<Self>) {
        let events = self.store.events();
        while let Ok(batch) = events.recv_async().await {
            for event in batch {
                if matches!(event, Event::Read(_)) {
                    self.reads_in_flight.set(self.reads_in_flight.get() - 1);
                }
                self.inbox.push(event);
            }
        }
        crate::fatal::abort(crate::fatal::Reason::ThreadGone { thread: "apply" });
    }

    async fn hear_mesh(self: Rc<Self>) {
        loop {
            match self.mesh.receive().await {
                MeshMessage::Client(handoff, slot) => doors::serve_client(&self, handoff, slot),
                MeshMessage::Door(kind, fd, slot) => doors::serve_door(&self, kind, fd, slot),
                MeshMessage::Peer(handoff, hello) => doors::serve_peer(&self, handoff, hello),
                MeshMessage::Request(origin, request) => self.inbox.push(Event::Request { origin, request }),
                MeshMessage::Reply(connection, reply) => {
                    self.inbox.push(Event::Forwarded { connection, reply });
                }
                MeshMessage::Status(status) => self.inbox.push(Event::Sibling(status)),
                MeshMessage::Map(news) => self.inbox.push(Event::Map(news)),
                MeshMessage::Reports(reports) => self.inbox.push(Event::Reports(reports)),
                MeshMessage::Stores(core, figures) => self.on_store_figures(core, figures),
                MeshMessage::Kin(core, kin) => self.inbox.push(Event::Kin { core, kin }),
                MeshMessage::Stop => self.stop(),
            }
        }
    }
}
