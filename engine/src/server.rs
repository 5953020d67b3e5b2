//! Starts a node: checks the host, claims the data directory and the ports, recovers every core, and runs.
//!
//! The order matters to whoever made a mistake: each check comes before anything it could damage, and each failure
//! names what to mend.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use net::map::ClusterMap;
use raft::Nanos;
use thiserror::Error;
use wal::disk::OpenError;
use wal::{RecoveryMode, WalConfig};

pub(crate) mod join;
mod open;
pub(crate) mod replicas;
mod signals;

use crate::config::{Config, EngineKind, Listen, WalIo};
use crate::core::{Core, CoreConfig};
use crate::driver::executor;
use crate::driver::{self, CoreParts, DoorKind, Doors, Mesh, Store, StoreParams, Transfers};
use crate::fatal;
use crate::home::Home;
use crate::host::{self, HostError};
use crate::identity::{DataDir, DataDirError};
use crate::map_file::MapFileError;
use crate::placement;
use crate::store::{RocksConfig, RocksShared, files};
use open::Opened;

/// Why a node does not start, or stopped.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The map of the cluster cannot be used.
    #[error(transparent)]
    Map(#[from] MapFileError),
    /// The cluster that it was to join does not want the node.
    #[error("the cluster does not take node {node} in: {why}")]
    NotTakenIn {
        /// The node.
        node: u64,
        /// Why.
        why: String,
    },
    /// The configuration wants more replicas than nodes, and no cluster was named that has more.
    #[error(
        "cluster.replicas = {replicas}, and [[cluster.nodes]] lists this node alone: list all nodes that the cluster begins with, or join one that is there with --join"
    )]
    TooFewNodes {
        /// The replicas wanted.
        replicas: u32,
    },
    /// The node is no part of its cluster any more.
    #[error(
        "node {node} has left the cluster; to bring it back, start it with --join and the binary door of a node that is in; else remove its data directory"
    )]
    Left {
        /// The node.
        node: u64,
    },
    /// The node is a cluster of its own, and cannot be part of another.
    #[error(
        "the data directory {path} holds a cluster that this node founded alone, so it cannot join another; give it an empty node.data_dir, and --join at its first start"
    )]
    Alone {
        /// The directory.
        path: PathBuf,
    },
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({key}): {source}{remedy}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Its key in the configuration.
        key: &'static str,
        /// What the system said.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A core's log cannot be opened.
    #[error("core {core}: {source}")]
    Wal {
        /// The core.
        core: u32,
        /// Why.
        source: OpenError,
    },
    /// A core's folder cannot be read, or its log not begun.
    #[error("core {core}: {source}; check the disk and who owns the data directory")]
    Begin {
        /// The core.
        core: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A state machine cannot be opened.
    #[error("shard {shard}: {detail}")]
    Store {
        /// The shard.
        shard: u32,
        /// Why.
        detail: String,
    },
    /// A replica's recovered state does not hang together.
    #[error("core {core}: {source}; its data directory was damaged or exchanged: restore the right one")]
    Replica {
        /// The core.
        core: u32,
        /// Why.
        source: raft::ConfigError,
    },
    /// A thread or executor cannot be started.
    #[error("cannot start {what}: {detail}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        detail: String,
    },
}

/// Runs a node; at its first start it joins the cluster that has these binary doors, or founds the one of its
/// configuration when none are given. Returns only when it cannot start or serve; when it was asked to stop, the process ends with exit code 0.
pub fn serve(config: Config, join: Vec<String>) -> Result<(), ServeError> {
    let started = Instant::now();
    let config = Arc::new(config);
    let signals = signals::block();
    host::raise_limits();
    host::check(config.cores(), &config.node.cpus)?;
    let data = Arc::new(DataDir::claim(&config)?);
    let doors = bind_doors(&config.listen)?;
    let meshes = Mesh::all(config.cores());
    let serving = Arc::new(AtomicBool::new(false));
    let (stopper, serves) = (meshes[0].stopper(), serving.clone());
    let stop = move || {
        // Before it serves there is nothing to hand over, and nobody to hear of it.
        if !serves.load(Ordering::SeqCst) {
            fatal::leave();
        }
        stopper.stop();
    };
    signals.watch(stop).map_err(|error| start_failed("a thread", &error))?;
    let map = Arc::new(join::enter(&config, &data, &doors, join)?);
    let shared = open_shared(&config)?;
    let transfers = Transfers::new(&config.snapshot, disk_reserve(&config));
    let (news, all_news) = flume::unbounded();
    let mut doors = Some(doors);
    for mesh in meshes {
        let setup = CoreSetup {
            home: Home::new(data.core(mesh.core), shared.clone()),
            config: config.clone(),
            map: map.clone(),
            data: data.clone(),
            shared: shared.clone(),
            mesh,
            doors: doors.take(),
            transfers: transfers.clone(),
            started,
        };
        setup.start(news.clone())?;
    }
    drop(news);
    attend(&config, &data, &all_news, &serving, started)
}

/// Waits until all cores have stopped. A node cannot serve without one of its cores: the first that fails takes it with
/// it.
fn attend(
    config: &Config,
    data: &DataDir,
    all_news: &flume::Receiver<Result<News, ServeError>>,
    serves: &AtomicBool,
    started: Instant,
) -> Result<(), ServeError> {
    let (mut opening, mut serving) = (config.cores(), config.cores());
    for news in all_news {
        match news? {
            News::Serves => opening -= 1,
            News::Stopped => serving -= 1,
        }
        if opening == 0 && serving == config.cores() {
            data.begun()?;
            serves.store(true, Ordering::SeqCst);
            tracing::info!(node = config.node.id, cores = config.cores(), binary = %config.listen.binary,
                peer = %config.listen.peer, doors = ?others_of(config), seconds = started.elapsed().as_secs_f64(), "serving");
        }
        if serving == 0 {
            break;
        }
    }
    tracing::info!(node = config.node.id, "stopped");
    fatal::leave()
}

/// The addresses of the doors for other protocols.
fn others_of(config: &Config) -> Vec<SocketAddr> {
    let listen = &config.listen;
    [listen.resp, listen.resp_cluster, listen.http].into_iter().flatten().collect()
}

fn start_failed(what: &'static str, error: &io::Error) -> ServeError {
    ServeError::Start { what, detail: error.to_string() }
}

/// How long to wait for a port that the process before this one may still hold.
const PORT_FREE_MAX: Duration = Duration::from_secs(3);
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// What a core tells.
enum News {
    /// It has recovered and serves.
    Serves,
    /// It was asked to stop, and nothing is left to do.
    Stopped,
}

/// Where the cores tell their news, or why they do not start.
type NewsSender = flume::Sender<Result<News, ServeError>>;

fn bind_doors(listen: &Listen) -> Result<Doors, ServeError> {
    let others = [
        (DoorKind::Resp, listen.resp, "listen.resp"),
        (DoorKind::RespCluster, listen.resp_cluster, "listen.resp_cluster"),
        (DoorKind::Http, listen.http, "listen.http"),
    ];
    let others = others
        .into_iter()
        .filter_map(|(kind, address, key)| Some(bind(address?, key).map(|listener| (kind, listener))))
        .collect::<Result<_, ServeError>>()?;
    Ok(Doors {
        binary: bind(listen.binary, "listen.binary")?,
        peer: bind(listen.peer, "listen.peer")?,
        others,
    })
}

fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ServeError> {
    let begun = Instant::now();
    loop {
        let source = match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            // The kernel lets go of the sockets of a process that was killed only after its rings, which takes a moment.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < PORT_FREE_MAX => {
                thread::sleep(PORT_PAUSE);
                continue;
            }
            Err(error) => error,
        };
        let remedy = match source.kind() {
            io::ErrorKind::AddrInUse => "; another process has this port: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "; this host has no such address: bind one of its own",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        return Err(ServeError::Listen { address, key, source, remedy });
    }
}

fn open_shared(config: &Config) -> Result<Option<RocksShared>, ServeError> {
    if config.storage.engine != EngineKind::Rocksdb {
        return Ok(None);
    }
    let bytes = |bytes: u64| usize::try_from(bytes).expect("64-bit machine");
    let shared = RocksShared::new(RocksConfig {
        // What the file system cannot do for the log, it cannot do for tables.
        direct_writes: config.wal.io == WalIo::Direct,
        block_cache_bytes: bytes(config.storage.cache_bytes / 4),
        blob_cache_bytes: bytes(config.storage.cache_bytes / 4 * 3),
        memtables_bytes: bytes(config.storage.write_buffer_bytes),
        background_jobs: u16::try_from(config.storage.background_threads).expect("validated: at most 256"),
        ..RocksConfig::default()
    });
    shared
        .map(Some)
        .map_err(|error| ServeError::Store { shard: placement::META_SHARD, detail: error.to_string() })
}

/// What snapshots from other nodes leave free of the disk: what the logs may grow to, but on a small disk a tenth of it.
fn disk_reserve(config: &Config) -> u64 {
    let logs = config.wal.retain_bytes.saturating_mul(u64::from(config.cores()));
    let total = files::space(&config.node.data_dir).map_or(u64::MAX, |space| space.total);
    logs.min(total / 10)
}

/// What one core is made from.
struct CoreSetup {
    config: Arc<Config>,
    map: Arc<ClusterMap>,
    data: Arc<DataDir>,
    home: Home,
    shared: Option<RocksShared>,
    mesh: Mesh,
    doors: Option<Doors>,
    transfers: Transfers,
    started: Instant,
}

impl CoreSetup {
    fn start(self, news: NewsSender) -> Result<(), ServeError> {
        let spin = Duration::from_micros(self.config.node.spin_us);
        let (core, cpu) = (self.mesh.core, self.cpu());
        executor::start_core(core, cpu, spin, move || self.run_and_tell(news))
            .map_err(|error| ServeError::Start { what: "an executor", detail: error.to_string() })
    }

    async fn run_and_tell(self, news: NewsSender) {
        if let Err(error) = self.run(&news).await {
            // Nobody listens only when the node is going down already.
            let _ = news.send(Err(error));
        }
    }

    fn cpu(&self) -> Option<usize> {
        self.config.node.cpus.get(usize::try_from(self.mesh.core).expect("64-bit machine")).copied()
    }

    async fn run(self, news: &NewsSender) -> Result<(), ServeError> {
        let core = self.mesh.core;
        let Opened { disk, wal, seeds, hosted } = self.open().await?;
        let machine = Core::new(self.core_config(), (*self.map).clone(), wal, seeds, random_seed())
            .map_err(|source| ServeError::Replica { core, source })?;
        let store = Store::start(StoreParams {
            core,
            cores: self.config.cores(),
            cpu: self.cpu(),
            home: self.home.clone(),
            hosted,
            memtables: self.shared.clone().map(|shared| (shared, self.memtables_max())),
            reader_threads: self.config.storage.reader_threads,
            snapshots_kept: usize::try_from(self.config.snapshot.keep).expect("64-bit machine"),
            transfers: self.transfers.clone(),
        })
        .map_err(|error| ServeError::Start { what: "the storage threads", detail: error.to_string() })?;
        let _ = news.send(Ok(News::Serves));
        let CoreSetup { config, map, data, mesh, doors, transfers, started, .. } = self;
        let parts =
            CoreParts { config, map, data, core: machine, disk, store, mesh, doors, transfers, started };
        driver::run(parts).await;
        let _ = news.send(Ok(News::Stopped));
        // The other cores may still talk to this one; the process ends when all have stopped.
        std::future::pending().await
    }

    /// Memtables may grow past their budget while a flush is under way, but not without bound.
    fn memtables_max(&self) -> usize {
        usize::try_from(2 * self.config.storage.write_buffer_bytes).expect("64-bit machine")
    }

    fn wal_config(&self) -> WalConfig {
        let section = &self.config.wal;
        let bytes = |bytes: u64| usize::try_from(bytes).expect("64-bit machine");
        WalConfig {
            segment_bytes: section.segment_bytes,
            batch_bytes_max: bytes(section.batch_bytes_max),
            inflight_max: section.inflight_max,
            pool_min: section.pool_min,
            pool_max: section.pool_max,
            cache_bytes_max: section.cache_bytes,
            // Not what the limits allow now: an entry from before they were lowered must still fit.
            payload_bytes_max: bytes(section.segment_bytes - (16 << 10)),
            // Nobody could give a node that is alone its records back.
            recovery_mode: match self.map.nodes.len() {
                1 => RecoveryMode::Refuse,
                _ => RecoveryMode::Quarantine,
            },
            ..WalConfig::new(
                self.config.node.id,
                u16::try_from(self.mesh.core).expect("validated: at most 512"),
            )
        }
    }

    fn core_config(&self) -> CoreConfig {
        let (raft, limits) = (&self.config.raft, &self.config.limits);
        let shards =
            self.map.shards.len().div_ceil(usize::try_from(self.config.cores()).expect("64-bit machine"));
        let shards = u64::try_from(shards).expect("64-bit machine").max(1);
        let ticks =
            |ms: u64| u32::try_from(ms / raft.tick_ms).expect("validated: at most ten minutes").max(1);
        CoreConfig {
            node: self.config.node.id,
            store: self.data.standing().store.0,
            core: self.mesh.core,
            cores: self.config.cores(),
            raft: raft::Config {
                tick: Nanos::from_millis(raft.tick_ms),
                election_ticks: ticks(raft.election_timeout_ms),
                heartbeat_ticks: ticks(raft.heartbeat_ms),
                lease: raft.lease,
                clock_drift_max_ppm: raft.clock_drift_ppm,
                append_bytes_max: raft.append_bytes_max,
                inflight_messages_max: raft.inflight_messages_max,
                inflight_bytes_max: raft.inflight_bytes_max,
                uncommitted_bytes_max: limits.inflight_bytes_max,
                ..raft::Config::new(raft::NodeId(self.config.node.id))
            },
            key_bytes_max: limits.key_bytes_max,
            value_bytes_max: limits.value_bytes_max,
            inflight_bytes_max: limits.inflight_bytes_max,
            reads_bytes_max: (limits.inflight_bytes_max / shards).max(READS_BYTES_MIN),
            request_timeout: Nanos::from_millis(limits.request_timeout_ms),
            wal_retain_bytes: self.config.wal.retain_bytes,
            snapshot_interval: Nanos(self.config.snapshot.interval_s.saturating_mul(1_000_000_000)),
            snapshot_threshold_bytes: self.config.snapshot.threshold_bytes,
            log_bytes_max: raft.log_bytes_max,
            snapshots_sending_max: usize::try_from(self.config.snapshot.concurrent_max)
                .expect("64-bit machine"),
            hibernate: raft.hibernate,
            slow_write: Nanos::from_millis(raft.slow_write_ms),
            replace_after: Nanos(self.config.cluster.replace_after_s.saturating_mul(1_000_000_000)),
            moves_max: self.config.cluster.moves_max,
        }
    }
}

/// Every shard may let some reads wait, however many shards share a core's bound.
const READS_BYTES_MIN: u64 = 256 << 10;

/// A seed for election timeouts: they must differ between nodes and starts, and need not be unpredictable.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
