//! What a test wants of its cluster, and the configuration files that say so.
//!
//! The defaults make nodes that are small and start quickly; times are those the product ships with.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// What a test wants of its cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of nodes.
    pub nodes: u64,
    /// User shards.
    pub shards: u32,
    /// Replicas that each shard begins with; 0 for one on every node.
    pub replicas: u32,
    /// Executors of each node.
    pub cores: u32,
    /// `rocksdb` or `memory`.
    pub engine: &'static str,
    /// Longest value.
    pub value_bytes_max: u64,
    /// Size of a log segment; a batch may take half of it.
    pub segment_bytes: u64,
    /// Writes in flight per core.
    pub inflight_bytes_max: u64,
    /// Answers queued per connection.
    pub connection_bytes_max: u64,
    /// Messages queued per peer.
    pub peer_bytes_max: u64,
    /// Client connections of a node.
    pub connections_max: usize,
    /// Longest wait inside the server.
    pub request_timeout_ms: u64,
    /// Further keys of `[raft]`, one per line.
    pub raft: &'static str,
    /// `direct` or `buffered`: how the log is written.
    pub wal_io: &'static str,
    /// Keys of `[snapshot]`, one per line.
    pub snapshot: &'static str,
    /// Filter of the nodes' logs.
    pub log_level: &'static str,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            nodes: 3,
            shards: 4,
            replicas: 0,
            cores: 1,
            engine: "rocksdb",
            value_bytes_max: MIB,
            segment_bytes: 8 * MIB,
            inflight_bytes_max: 16 * MIB,
            connection_bytes_max: 8 * MIB,
            peer_bytes_max: 16 * MIB,
            connections_max: 20_000,
            request_timeout_ms: 5_000,
            raft: "",
            wal_io: "direct",
            snapshot: "",
            log_level: "info",
        }
    }
}

/// Addresses of one node.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Its door for clients.
    pub binary: SocketAddr,
    /// Its door for the other nodes.
    pub peer: SocketAddr,
    /// Its door for Redis clients.
    pub resp: SocketAddr,
    /// Its door for Redis Cluster clients.
    pub resp_cluster: SocketAddr,
    /// Its door for HTTP.
    pub http: SocketAddr,
}

impl Addresses {
    /// Doors of a node.
    pub const COUNT: usize = 5;

    /// The doors of a node at so many addresses.
    pub fn of(free: &[SocketAddr]) -> Addresses {
        let &[binary, peer, resp, resp_cluster, http] = free else { panic!("not {} addresses", Self::COUNT) };
        Addresses { binary, peer, resp, resp_cluster, http }
    }

    /// As the configuration gives them.
    fn lines(&self) -> String {
        let Addresses { binary, peer, resp, resp_cluster, http } = self;
        format!(
            "binary = \"{binary}\"\npeer = \"{peer}\"\nresp = \"{resp}\"\nresp_cluster = \"{resp_cluster}\"\nhttp = \"{http}\"\n"
        )
    }
}

impl Settings {
    /// Largest write to a log: room for two values.
    pub fn batch_bytes_max(&self) -> u64 {
        self.segment_bytes / 2 + MIB
    }

    /// The configuration of node `id` that lists these nodes, itself among them.
    pub fn config(&self, id: u64, data_dir: &Path, listed: &[(u64, Addresses)]) -> String {
        let (_, own) = listed.iter().find(|(other, _)| *other == id).expect("a node lists itself");
        let Settings { shards, replicas, cores, engine, raft, wal_io, snapshot, log_level, .. } = self;
        let mut text = format!(
            "[node]\nid = {id}\ndata_dir = {data_dir:?}\ncores = {cores}\n\n\
             [listen]\n{}\n\
             [cluster]\nid = \"tested\"\nshards = {shards}\nreplicas = {replicas}\n\n",
            own.lines()
        );
        for (id, node) in listed {
            write!(text, "[[cluster.nodes]]\nid = {id}\n{}cores = {cores}\n\n", node.lines())
                .expect("writing to a string");
        }
        write!(
            text,
            "[resp]\ndebug_commands = true\n\n[raft]\n{raft}\n\n[snapshot]\n{snapshot}\n\n\
             [wal]\nio = \"{wal_io}\"\nsegment_bytes = {}\nbatch_bytes_max = {}\npool_min = 2\npool_max = 4\ncache_bytes = {}\n\
             retain_bytes = {}\n\n\
             [storage]\nengine = \"{engine}\"\ncache_bytes = {}\nwrite_buffer_bytes = {}\n\n\
             [limits]\nvalue_bytes_max = {}\ninflight_bytes_max = {}\nconnection_bytes_max = {}\n\
             peer_bytes_max = {}\nconnections_max = {}\nrequest_timeout_ms = {}\n\n\
             [log]\nlevel = \"{log_level}\"\n",
            self.segment_bytes,
            self.batch_bytes_max(),
            16 * MIB,
            8 * self.segment_bytes,
            32 * MIB,
            16 * MIB,
            self.value_bytes_max,
            self.inflight_bytes_max,
            self.connection_bytes_max,
            self.peer_bytes_max,
            self.connections_max,
            self.request_timeout_ms,
        )
        .expect("writing to a string");
        text
    }
}
