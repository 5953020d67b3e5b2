//! Starts a node: checks the host, claims the data directory and the ports, recovers every core, and runs.
//!
//! The order matters to whoever made a mistake: each check comes before anything it could damage, and each failure
//! names what to mend.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use net::map::ClusterMap;
use raft::{Index, Nanos, Term};
use thiserror::Error;
use wal::WalConfig;
use wal::disk::dma::{DmaDisk, OpenError};

use crate::config::{Config, EngineKind};
use crate::core::{Core, CoreConfig, ReplicaSeed};
use crate::driver::executor;
use crate::driver::{self, CoreParts, Doors, Mesh, Store, StoreParams};
use crate::host::{self, HostError};
use crate::identity::{DataDir, DataDirError};
use crate::machine::{Machine, MachineOpenError};
use crate::placement;
use crate::replica_id;
use crate::store::{MemEngine, RocksConfig, RocksEngine, RocksShared, StorageEngine};

/// Why a node does not start, or stopped.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The host lacks something.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
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

/// Runs a node. Returns only when it cannot start, or when it was asked to stop.
pub fn serve(config: Config) -> Result<(), ServeError> {
    let started = Instant::now();
    let config = Arc::new(config);
    host::raise_limits();
    host::check(config.cores(), &config.node.cpus)?;
    let data = Arc::new(DataDir::claim(&config)?);
    let mut doors = Some(Doors {
        binary: bind(config.listen.binary, "listen.binary")?,
        peer: bind(config.listen.peer, "listen.peer")?,
    });
    let shared = open_shared(&config)?;
    let (news, all_news) = flume::unbounded();
    for mesh in Mesh::all(config.cores()) {
        let setup = CoreSetup {
            config: config.clone(),
            data: data.clone(),
            shared: shared.clone(),
            mesh,
            doors: doors.take(),
            started,
        };
        setup.start(news.clone())?;
    }
    drop(news);
    let mut opening = config.cores();
    for news in all_news {
        // A node cannot serve without one of its cores: the first that fails or ends takes it with it.
        let Opened = news?;
        opening -= 1;
        if opening == 0 {
            tracing::info!(node = config.node.id, cores = config.cores(), binary = %config.listen.binary,
                peer = %config.listen.peer, seconds = started.elapsed().as_secs_f64(), "serving");
        }
    }
    Ok(())
}

/// A core has recovered and serves.
struct Opened;

/// What a core tells while it starts: that it serves, or why it does not.
type News = flume::Sender<Result<Opened, ServeError>>;

fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).map_err(|source| {
        let remedy = match source.kind() {
            io::ErrorKind::AddrInUse => "; another process has this port: stop it, or choose another port",
            io::ErrorKind::AddrNotAvailable => "; this host has no such address: bind one of its own",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        ServeError::Listen { address, key, source, remedy }
    })
}

fn open_shared(config: &Config) -> Result<Option<RocksShared>, ServeError> {
    if config.storage.engine != EngineKind::Rocksdb {
        return Ok(None);
    }
    let bytes = |bytes: u64| usize::try_from(bytes).expect("64-bit machine");
    let shared = RocksShared::new(RocksConfig {
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

/// What one core is made from.
struct CoreSetup {
    config: Arc<Config>,
    data: Arc<DataDir>,
    shared: Option<RocksShared>,
    mesh: Mesh,
    doors: Option<Doors>,
    started: Instant,
}

/// A state machine, opened.
struct OpenShard {
    shard: u32,
    dir: PathBuf,
    engine: Arc<dyn StorageEngine>,
    machine: Machine,
}

impl CoreSetup {
    fn start(self, news: News) -> Result<(), ServeError> {
        let spin = std::time::Duration::from_micros(self.config.node.spin_us);
        let (core, cpu) = (self.mesh.core, self.cpu());
        executor::start_core(core, cpu, spin, move || self.run_and_tell(news))
            .map_err(|error| ServeError::Start { what: "an executor", detail: error.to_string() })
    }

    async fn run_and_tell(self, news: News) {
        if let Err(error) = self.run(&news).await {
            // Nobody listens only when the node is going down already.
            let _ = news.send(Err(error));
        }
    }

    fn cpu(&self) -> Option<usize> {
        self.config.node.cpus.get(usize::try_from(self.mesh.core).expect("64-bit machine")).copied()
    }

    async fn run(self, news: &News) -> Result<(), ServeError> {
        let core = self.mesh.core;
        let map = placement::cluster_map(&self.config);
        let (disk, recovered) = DmaDisk::open(&self.data.wal(core), &self.wal_config())
            .await
            .map_err(|source| ServeError::Wal { core, source })?;
        if let Some(torn) = &recovered.torn_tail {
            tracing::info!(core, file = %torn.file, offset = torn.offset, "cut writes that were never acknowledged");
        }
        let mut seeds = Vec::new();
        let mut machines = HashMap::new();
        let mut shard_dirs = HashMap::new();
        let cores = self.config.cores();
        for info in map.shards.iter().filter(|info| placement::core_of(info.id, cores) == core) {
            let open = self.open_shard(info.id, &map)?;
            let applied = open.machine.applied();
            seeds.push(ReplicaSeed {
                shard: open.shard,
                generation: replica_id::FOUNDING,
                engine: open.engine,
                applied: Index(applied.index),
                applied_term: Term(applied.term),
                conf_state: open.machine.conf_state().clone(),
            });
            machines.insert(open.shard, open.machine);
            shard_dirs.insert(open.shard, open.dir);
        }
        let wal = wal::Wal::new(self.wal_config(), recovered);
        let machine = Core::new(self.core_config(), map.clone(), wal, seeds, random_seed())
            .map_err(|source| ServeError::Replica { core, source })?;
        let store = Store::start(StoreParams {
            core,
            cpu: self.cpu(),
            machines,
            memtables: self.shared.clone().map(|shared| (shared, self.memtables_max())),
            reader_threads: self.config.storage.reader_threads,
            shard_dirs,
            checkpoints_kept: usize::try_from(self.config.snapshot.keep).expect("64-bit machine"),
        })
        .map_err(|error| ServeError::Start { what: "the storage threads", detail: error.to_string() })?;
        let _ = news.send(Ok(Opened));
        let CoreSetup { config, mesh, doors, started, data: _data, .. } = self;
        driver::run(CoreParts { config, map, core: machine, disk, store, mesh, doors, started }).await;
        Ok(())
    }

    fn open_shard(&self, shard: u32, map: &ClusterMap) -> Result<OpenShard, ServeError> {
        let failed = |detail: String| ServeError::Store { shard, detail };
        let dir = self.data.shard(self.mesh.core, shard);
        std::fs::create_dir_all(&dir).map_err(|error| failed(format!("{}: {error}", dir.display())))?;
        let engine: Arc<dyn StorageEngine> = match &self.shared {
            Some(shared) => Arc::new(
                RocksEngine::open(&dir.join("store"), shared).map_err(|error| failed(error.to_string()))?,
            ),
            // Rebuilt from the log, which is never compacted past what the engine holds durably: nothing.
            None => Arc::new(MemEngine::new()),
        };
        let machine = Machine::open(engine.clone(), placement::founders(map))
            .map_err(|error: MachineOpenError| failed(error.to_string()))?;
        Ok(OpenShard { shard, dir, engine, machine })
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
            ..WalConfig::new(
                self.config.node.id,
                u16::try_from(self.mesh.core).expect("validated: at most 512"),
            )
        }
    }

    fn core_config(&self) -> CoreConfig {
        let (raft, limits) = (&self.config.raft, &self.config.limits);
        let shards = u64::from((self.config.cluster.shards + 1).div_ceil(self.config.cores()));
        let ticks =
            |ms: u64| u32::try_from(ms / raft.tick_ms).expect("validated: at most ten minutes").max(1);
        CoreConfig {
            node: self.config.node.id,
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
            snapshots_sending_max: SNAPSHOTS_SENDING_MAX,
            hibernate: raft.hibernate,
            slow_write: Nanos::from_millis(raft.slow_write_ms),
        }
    }
}

/// Each takes a share of the disk and the network from the requests of clients.
const SNAPSHOTS_SENDING_MAX: usize = 2;

/// Every shard may let some reads wait, however many shards share a core's bound.
const READS_BYTES_MIN: u64 = 256 << 10;

/// A seed for election timeouts: they must differ between nodes and starts, and need not be unpredictable.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
