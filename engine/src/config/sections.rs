//! The sections of the configuration file, their defaults and their own checks.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::{ConfigError, address, invalid};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// `[node]`: identity, data directory and cores.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Identity of the node in its cluster, from 1; never reused.
    pub id: u64,
    /// Folder that holds everything this node stores.
    pub data_dir: PathBuf,
    /// Executors, each with its own write-ahead log and shards; they float over all CPUs. Ignored when `cpus` is given.
    #[serde(default = "one")]
    pub cores: u32,
    /// CPUs to pin one executor to each.
    #[serde(default)]
    pub cpus: Vec<usize>,
    /// How long an idle executor spins before it sleeps, in microseconds; 0 sleeps at once.
    #[serde(default)]
    pub spin_us: u64,
}

impl Node {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.id == 0 {
            return invalid("node.id", "0 stands for no node; number the nodes from 1");
        }
        if self.cores == 0 || self.cores > 512 || self.cpus.len() > 512 {
            return invalid("node.cores", "give 1 to 512 cores");
        }
        let mut cpus = self.cpus.clone();
        cpus.sort_unstable();
        cpus.dedup();
        if cpus.len() != self.cpus.len() {
            return invalid("node.cpus", "a CPU is listed twice; pin at most one executor to each");
        }
        Ok(())
    }
}

fn one() -> u32 {
    1
}

/// `[listen]`: the addresses this node binds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Address of the binary protocol.
    pub binary: SocketAddr,
    /// Address for the other nodes.
    pub peer: SocketAddr,
    /// Address for Redis clients that know nothing of clusters; closed when absent.
    pub resp: Option<SocketAddr>,
    /// Address for Redis clients that follow redirections; closed when absent.
    pub resp_cluster: Option<SocketAddr>,
    /// Address of the HTTP interface and the status page; closed when absent.
    pub http: Option<SocketAddr>,
}

/// `[resp]`: the Redis protocol.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resp {
    /// What clients must give with AUTH; empty: nothing.
    pub password: Password,
    /// Whether clients may use DEBUG, which is for tests.
    pub debug_commands: bool,
}

/// A password. It is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// The password itself; `None` when none is wanted.
    pub fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "hidden" })
    }
}

/// `[cluster]`: who belongs to it and how its keys are split.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Name of the cluster: nodes of different clusters refuse to talk.
    pub id: String,
    /// Number of shards that hold keys; fixed when the cluster is created.
    #[serde(default = "default_shards")]
    pub shards: u32,
    /// Replicas that each shard begins with, on as many nodes; 0 stands for one on every node.
    #[serde(default)]
    pub replicas: u32,
    /// How long a node may be silent before its replicas are made elsewhere, in seconds; 0 for any time.
    #[serde(default = "default_replace_after_s")]
    pub replace_after_s: u64,
    /// Shards that move to other nodes at a time.
    #[serde(default = "default_moves_max")]
    pub moves_max: usize,
    /// All nodes when the cluster is created; of a node that joins later, its own entry is enough.
    pub nodes: Vec<ClusterNode>,
}

/// `[[cluster.nodes]]`: one node as the others and the clients reach it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNode {
    /// Identity of the node.
    pub id: u64,
    /// Address of its binary protocol, as clients reach it.
    pub binary: String,
    /// Address of its peer protocol, as the other nodes reach it.
    pub peer: String,
    /// Address of its Redis protocol, as clients reach it.
    pub resp: Option<String>,
    /// Address of its Redis protocol for clients that follow redirections: what redirections name.
    pub resp_cluster: Option<String>,
    /// Address of its HTTP interface, as clients reach it.
    pub http: Option<String>,
    /// Its number of executors.
    #[serde(default = "one")]
    pub cores: u32,
    /// Where it stands: the replicas of a shard are spread over zones.
    pub zone: Option<String>,
    /// Its share of replicas beside those of the others.
    #[serde(default = "one")]
    pub weight: u32,
}

impl Cluster {
    /// The node with this identity.
    pub fn node(&self, id: u64) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.id.is_empty() || self.id.len() > 64 {
            return invalid("cluster.id", "give the cluster a name of 1 to 64 bytes");
        }
        if !(1..=4096).contains(&self.shards) {
            return invalid("cluster.shards", format!("{} shards; give 1 to 4096", self.shards));
        }
        if self.nodes.is_empty() {
            return invalid("cluster.nodes", "list every node in a [[cluster.nodes]] table");
        }
        let nodes = self.nodes.len();
        // One that is listed alone may be about to join others.
        if nodes > 1 && usize::try_from(self.replicas).is_ok_and(|replicas| replicas > nodes) {
            return invalid(
                "cluster.replicas",
                format!("{} on {nodes} nodes; give at most {nodes}", self.replicas),
            );
        }
        if self.moves_max == 0 {
            return invalid("cluster.moves_max", "must be at least 1, or no shard would ever move");
        }
        self.nodes.iter().enumerate().try_for_each(|(place, node)| node.validate(&self.nodes[..place]))
    }
}

impl ClusterNode {
    fn validate(&self, before: &[ClusterNode]) -> Result<(), ConfigError> {
        if self.id == 0 {
            return invalid("cluster.nodes.id", "0 stands for no node; number the nodes from 1");
        }
        if self.id > crate::replica_id::PLACE_MAX {
            let most = crate::replica_id::PLACE_MAX;
            return invalid("cluster.nodes.id", format!("{} is too large: at most {most}", self.id));
        }
        if before.iter().any(|other| other.id == self.id) {
            return invalid("cluster.nodes.id", format!("node {} is listed twice", self.id));
        }
        if self.cores == 0 || self.cores > 512 {
            return invalid("cluster.nodes.cores", "give 1 to 512 cores");
        }
        address("cluster.nodes.binary", &self.binary)?;
        address("cluster.nodes.peer", &self.peer)?;
        let optional = [
            ("cluster.nodes.resp", &self.resp),
            ("cluster.nodes.resp_cluster", &self.resp_cluster),
            ("cluster.nodes.http", &self.http),
        ];
        for (key, text) in optional {
            text.as_ref().map(|text| address(key, text)).transpose()?;
        }
        Ok(())
    }
}

fn default_shards() -> u32 {
    16
}

fn default_replace_after_s() -> u64 {
    1800
}

fn default_moves_max() -> usize {
    2
}

/// `[raft]`: consensus timing and windows.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftSection {
    /// Length of one tick.
    pub tick_ms: u64,
    /// Shortest election timeout; the actual one is drawn between this and twice this.
    pub election_timeout_ms: u64,
    /// Time between heartbeats.
    pub heartbeat_ms: u64,
    /// Whether leaders answer linearizable reads by lease (bounded clock drift) instead of asking a quorum.
    pub lease: bool,
    /// Largest clock rate difference between two nodes that leases allow for, in parts per million.
    pub clock_drift_ppm: u32,
    /// Largest AppendEntries message.
    pub append_bytes_max: u64,
    /// AppendEntries in flight per follower and shard.
    pub inflight_messages_max: usize,
    /// Bytes of entries in flight per follower and shard.
    pub inflight_bytes_max: u64,
    /// Log of one shard that is kept for replicas that lag; one that needs more gets a snapshot.
    pub log_bytes_max: u64,
    /// Whether groups without requests stop their heartbeats.
    pub hibernate: bool,
    /// How long the log may take to write a batch before this node hands its leaderships over; 0 for any time.
    pub slow_write_ms: u64,
}

impl Default for RaftSection {
    fn default() -> Self {
        Self {
            tick_ms: 50,
            election_timeout_ms: 500,
            heartbeat_ms: 100,
            lease: true,
            clock_drift_ppm: 50_000,
            append_bytes_max: MIB,
            inflight_messages_max: 256,
            inflight_bytes_max: 8 * MIB,
            log_bytes_max: 256 * MIB,
            hibernate: true,
            slow_write_ms: 500,
        }
    }
}

impl RaftSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.tick_ms == 0 || self.tick_ms > 1_000 {
            return invalid("raft.tick_ms", "give 1 to 1000");
        }
        if self.heartbeat_ms < self.tick_ms {
            return invalid("raft.heartbeat_ms", "must be at least raft.tick_ms");
        }
        if self.election_timeout_ms < 3 * self.heartbeat_ms || self.election_timeout_ms > 600_000 {
            return invalid(
                "raft.election_timeout_ms",
                "must be at least three heartbeats and at most 600000",
            );
        }
        if self.clock_drift_ppm > 500_000 {
            return invalid(
                "raft.clock_drift_ppm",
                "above 500000 a lease is worth nothing; set raft.lease = false",
            );
        }
        if self.append_bytes_max < 4 * KIB || self.inflight_bytes_max < self.append_bytes_max {
            return invalid(
                "raft.inflight_bytes_max",
                "must be at least raft.append_bytes_max, and that at least 4096",
            );
        }
        if self.append_bytes_max > 64 * MIB {
            return invalid(
                "raft.append_bytes_max",
                "must be at most 64 MiB: a message travels in one frame",
            );
        }
        if self.inflight_messages_max == 0 {
            return invalid("raft.inflight_messages_max", "must be at least 1");
        }
        if self.log_bytes_max < MIB {
            return invalid("raft.log_bytes_max", "must be at least 1 MiB");
        }
        if self.slow_write_ms != 0 && self.slow_write_ms < self.tick_ms {
            return invalid("raft.slow_write_ms", "must be 0 or at least raft.tick_ms");
        }
        Ok(())
    }
}

/// `[wal]`: the write-ahead log of each core.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WalSection {
    /// How its files are written.
    pub io: WalIo,
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// Size at which a batch stops growing; a single larger record goes out alone.
    pub batch_bytes_max: u64,
    /// Batches written at the same time.
    pub inflight_max: usize,
    /// Zero-filled segments kept ready.
    pub pool_min: usize,
    /// Spare segments kept for recycling instead of being deleted.
    pub pool_max: usize,
    /// Recent entries kept in memory for followers and apply.
    pub cache_bytes: u64,
    /// Log size at which the state machine is flushed so that the log can be purged.
    pub retain_bytes: u64,
}

/// How the files of the write-ahead log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WalIo {
    /// Past the page cache, each write durable by itself.
    Direct,
    /// Through the page cache, then synced: for file systems without O_DIRECT.
    Buffered,
}

impl Default for WalSection {
    fn default() -> Self {
        Self {
            io: WalIo::Direct,
            segment_bytes: 64 * MIB,
            batch_bytes_max: MIB,
            inflight_max: 4,
            pool_min: 4,
            pool_max: 16,
            cache_bytes: 128 * MIB,
            retain_bytes: 1024 * MIB,
        }
    }
}

impl WalSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.segment_bytes < MIB || !self.segment_bytes.is_multiple_of(4 * KIB) {
            return invalid("wal.segment_bytes", "must be a multiple of 4096 and at least 1 MiB");
        }
        if self.batch_bytes_max < 4 * KIB || self.batch_bytes_max + 64 * KIB > self.segment_bytes {
            return invalid(
                "wal.batch_bytes_max",
                "must be at least 4096, and 64 KiB smaller than wal.segment_bytes",
            );
        }
        if !(1..=64).contains(&self.inflight_max) {
            return invalid("wal.inflight_max", "give 1 to 64");
        }
        if self.pool_min == 0 || self.pool_max < self.pool_min {
            return invalid("wal.pool_min", "must be at least 1 and at most wal.pool_max");
        }
        if self.retain_bytes < 4 * self.segment_bytes {
            return invalid("wal.retain_bytes", "must be at least four segments (4 × wal.segment_bytes)");
        }
        Ok(())
    }
}

/// `[storage]`: the storage engine behind the state machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Storage {
    /// Which engine.
    pub engine: EngineKind,
    /// Block and value cache of the node, shared by its shards.
    pub cache_bytes: u64,
    /// Memtables of the node, shared by its shards.
    pub write_buffer_bytes: u64,
    /// Background threads for flushes and compactions.
    pub background_threads: u32,
    /// Threads per core for reads that miss memory.
    pub reader_threads: u32,
}

/// The engines that ship with RingKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// RocksDB with key-value separation.
    Rocksdb,
    /// An ordered map in memory: rebuilt at every start from its last image and the log.
    Memory,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            engine: EngineKind::Rocksdb,
            cache_bytes: 1024 * MIB,
            write_buffer_bytes: 128 * MIB,
            background_threads: 2,
            reader_threads: 4,
        }
    }
}

impl Storage {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.write_buffer_bytes < 8 * MIB {
            return invalid("storage.write_buffer_bytes", "must be at least 8 MiB");
        }
        if self.background_threads == 0 || self.background_threads > 256 {
            return invalid("storage.background_threads", "give 1 to 256");
        }
        if self.reader_threads == 0 || self.reader_threads > 64 {
            return invalid("storage.reader_threads", "give 1 to 64");
        }
        Ok(())
    }
}

/// `[snapshot]`: when the state machine is made durable, which lets the log be compacted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snapshot {
    /// Time between two snapshots of a shard that changed, in seconds; 0 takes none by time.
    pub interval_s: u64,
    /// Log bytes of one shard since its last snapshot that trigger one; 0 takes none by size.
    pub threshold_bytes: u64,
    /// Snapshots kept of each shard; 0 keeps none beside the live state.
    pub keep: u32,
    /// Bytes per second of all snapshots that the node sends to others, together; 0 for as fast as it goes.
    pub send_bytes_per_s: u64,
    /// Bytes per second of all snapshots that the node receives from others, together; 0 for as fast as they come.
    pub receive_bytes_per_s: u64,
    /// Snapshots sent at a time, and received at a time, by the whole node.
    pub concurrent_max: u32,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            interval_s: 0,
            threshold_bytes: 0,
            keep: 1,
            send_bytes_per_s: 100_000_000,
            receive_bytes_per_s: 100_000_000,
            concurrent_max: 2,
        }
    }
}

impl Snapshot {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.threshold_bytes != 0 && self.threshold_bytes < MIB {
            return invalid("snapshot.threshold_bytes", "must be 0 or at least 1 MiB");
        }
        if self.keep > 64 {
            return invalid("snapshot.keep", "give 0 to 64");
        }
        if self.send_bytes_per_s != 0 && self.send_bytes_per_s < MIB {
            return invalid("snapshot.send_bytes_per_s", "must be 0 or at least 1 MiB");
        }
        if self.receive_bytes_per_s != 0 && self.receive_bytes_per_s < MIB {
            return invalid("snapshot.receive_bytes_per_s", "must be 0 or at least 1 MiB");
        }
        if !(1..=64).contains(&self.concurrent_max) {
            return invalid("snapshot.concurrent_max", "give 1 to 64");
        }
        Ok(())
    }
}

/// `[limits]`: sizes and queues. A request over a size limit is refused as too large; over a queue limit as busy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest key.
    pub key_bytes_max: u64,
    /// Longest value.
    pub value_bytes_max: u64,
    /// Writes admitted by one core and not yet applied.
    pub inflight_bytes_max: u64,
    /// Answers queued for one connection that its client has not read; reading from it pauses at this.
    pub connection_bytes_max: u64,
    /// Messages queued for one peer; more are dropped, which Raft repairs.
    pub peer_bytes_max: u64,
    /// Client connections of the node.
    pub connections_max: usize,
    /// How long a request may wait in the server before it is answered with a timeout.
    pub request_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes_max: 64 * KIB,
            value_bytes_max: 8 * MIB,
            inflight_bytes_max: 64 * MIB,
            connection_bytes_max: 16 * MIB,
            peer_bytes_max: 64 * MIB,
            connections_max: 20_000,
            request_timeout_ms: 5_000,
        }
    }
}

impl Limits {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.key_bytes_max == 0 || self.key_bytes_max > MIB {
            return invalid("limits.key_bytes_max", "give 1 to 1 MiB");
        }
        if self.value_bytes_max == 0 || self.value_bytes_max > 64 * MIB {
            return invalid("limits.value_bytes_max", "give 1 to 64 MiB");
        }
        if self.inflight_bytes_max < 2 * self.value_bytes_max {
            return invalid("limits.inflight_bytes_max", "must be at least twice limits.value_bytes_max");
        }
        if self.connection_bytes_max < self.value_bytes_max || self.peer_bytes_max < 2 * self.value_bytes_max
        {
            return invalid(
                "limits.connection_bytes_max",
                "connection_bytes_max must hold one largest value, peer_bytes_max two",
            );
        }
        if self.connections_max == 0 || self.request_timeout_ms == 0 {
            return invalid(
                "limits.connections_max",
                "connections_max and request_timeout_ms must be at least 1",
            );
        }
        Ok(())
    }
}

/// `[log]`: structured logs on standard error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,raft=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}
