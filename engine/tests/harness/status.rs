//! A node's account of itself, as far as tests look at it. The document is defined in `engine/src/core/status.rs`.

use serde::Deserialize;

/// A node.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeStatus {
    /// Which.
    pub node: u64,
    /// Its cores.
    pub cores: Vec<CoreStatus>,
}

/// A core.
#[derive(Clone, Debug, Deserialize)]
pub struct CoreStatus {
    /// Which.
    pub core: u32,
    /// Its replicas.
    pub shards: Vec<ShardStatus>,
    /// What it has done.
    pub counters: Counters,
    /// Bytes proposed and not applied.
    pub inflight_bytes: u64,
}

/// What a core has done since it started.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    /// Requests refused.
    pub refused: u64,
    /// Requests handed to another core.
    pub forwarded: u64,
}

/// A replica.
#[derive(Clone, Debug, Deserialize)]
pub struct ShardStatus {
    /// Of which shard.
    pub shard: u32,
    /// `leader`, `follower`, ….
    pub role: String,
    /// The leader it knows, 0 for none.
    pub leader: u64,
    /// Its term.
    pub term: u64,
    /// Last entry known committed.
    pub committed: u64,
    /// Last entry on its disk.
    pub flushed: u64,
    /// Last entry applied.
    pub applied: u64,
}

impl NodeStatus {
    /// Its replicas, over all cores.
    pub fn shards(&self) -> impl Iterator<Item = &ShardStatus> {
        self.cores.iter().flat_map(|core| &core.shards)
    }

    /// Its replica of one shard.
    pub fn shard(&self, shard: u32) -> Option<&ShardStatus> {
        self.shards().find(|replica| replica.shard == shard)
    }
}
