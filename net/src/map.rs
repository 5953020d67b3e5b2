//! The cluster map as clients and peers see it, and its validated routing table.
//!
//! **Invariant**: a [`RoutingTable`] owns a checked map: slot ranges do not overlap, ids are unique, every
//! replica names a node of the map, every leader one of the shard's replicas.

pub use crate::protocol::{decode_map, encode_map};
use crate::slot::{SLOT_COUNT, slot_of};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The shard that holds the map itself, and no keys.
pub const META_SHARD: u32 = 0;

/// Nodes, their addresses and cores, and who serves which slots; versioned by one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Grows by one with each change. Leader changes alone do not change it.
    pub epoch: u64,
    /// All members.
    pub nodes: Vec<NodeInfo>,
    /// All shards, the meta shard among them.
    pub shards: Vec<ShardInfo>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: u64,
    /// `host:port` of the binary door.
    pub binary_addr: String,
    /// `host:port` of the peer door.
    pub peer_addr: String,
    /// Number of its cores; core ids are `0..cores`.
    pub cores: u32,
    /// `host:port` of the Redis door that answers for the whole cluster; `None`: closed.
    pub resp_addr: Option<String>,
    /// `host:port` of the Redis door that redirects to leaders; `None`: closed.
    pub resp_cluster_addr: Option<String>,
    /// `host:port` of the HTTP door; `None`: closed.
    pub http_addr: Option<String>,
    /// Where it stands: replicas of a shard are spread over zones. `None`: in none.
    pub zone: Option<String>,
    /// Its share of replicas beside those of the others; 0 counts as 1.
    pub weight: u32,
    /// Whether it is to give away all its replicas, and leave.
    pub leaving: bool,
    /// The identity of its data directory; 0: not known.
    pub store: u64,
}

/// One shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Its id; 0 is the meta shard.
    pub id: u32,
    /// The slots it owns; `None` for the meta shard.
    pub slots: Option<SlotRange>,
    /// Its replicas.
    pub replicas: Vec<ReplicaInfo>,
    /// The node that leads it, as far as the sender of the map knows.
    pub leader: Option<u64>,
    /// What the controller has decided about it.
    pub plan: ShardPlan,
}

/// What the controller has decided about a shard. What is, its leader reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// The epoch of the map in which this, or the shard's slots, last changed.
    pub epoch: u64,
    /// The nodes that are to hold its replicas: first the one that is to lead it, then its successors in order. Empty:
    /// the controller has not touched the shard, and it stays as it is.
    pub placed: Vec<u64>,
    /// Whether an operator put it there: then only the loss of a node moves it.
    pub pinned: bool,
    /// The nodes whose founding replicas were its first members; empty where no replica can begin from an empty log.
    pub founders: Vec<u64>,
    /// How many replicas it is to have.
    pub copies: u32,
    /// That it is to be cut in two.
    pub split: Option<Split>,
}

/// A shard in two: what lies below a slot stays, the rest becomes another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The first slot of the new shard.
    pub at: u16,
    /// The number of the new shard.
    pub into: u32,
}

/// A contiguous range of slots, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
}

impl SlotRange {
    /// Whether the range holds `slot`.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        (self.first..=self.last).contains(&slot)
    }
}

/// Where a replica lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplicaInfo {
    /// The node.
    pub node: u64,
    /// The core of that node.
    pub core: u32,
}

/// Why a map cannot be routed by: its sender is broken; keep the map you have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Two nodes share an id.
    #[error("node {0} appears twice")]
    DuplicateNode(u64),
    /// Two shards share an id.
    #[error("shard {0} appears twice")]
    DuplicateShard(u32),
    /// A slot range is reversed or leaves the slot space.
    #[error("shard {0} has an impossible slot range")]
    BadRange(u32),
    /// Two shards own a slot.
    #[error("shards {0} and {1} overlap")]
    Overlap(u32, u32),
    /// A replica is on a node the map does not list.
    #[error("shard {shard} names unknown node {node}")]
    UnknownNode {
        /// The shard.
        shard: u32,
        /// The node.
        node: u64,
    },
}

impl ClusterMap {
    /// The node with this id.
    #[must_use]
    pub fn node(&self, id: u64) -> Option<&NodeInfo> {
        // They are in order in the maps of servers.
        let at = self.nodes.binary_search_by_key(&id, |node| node.id).ok();
        at.map(|position| &self.nodes[position]).or_else(|| self.nodes.iter().find(|node| node.id == id))
    }

    /// The shard with this id.
    #[must_use]
    pub fn shard(&self, id: u32) -> Option<&ShardInfo> {
        // They are numbered without gaps in the maps of servers.
        let at = usize::try_from(id).ok().and_then(|position| self.shards.get(position));
        at.filter(|shard| shard.id == id).or_else(|| self.shards.iter().find(|shard| shard.id == id))
    }

    /// Checks the map and makes it searchable.
    ///
    /// # Errors
    /// [`MapError`] naming the first contradiction found.
    pub fn into_routing(self) -> Result<RoutingTable, MapError> {
        RoutingTable::new(self)
    }
}

impl ShardInfo {
    /// The replica on `node`.
    #[must_use]
    pub fn replica_on(&self, node: u64) -> Option<ReplicaInfo> {
        self.replicas.iter().copied().find(|replica| replica.node == node)
    }
}

/// A checked map with its slots sorted: slot to shard in O(log shards).
#[derive(Clone, Debug)]
pub struct RoutingTable {
    map: ClusterMap,
    /// (range, index into `map.shards`), by first slot.
    ranges: Vec<(SlotRange, usize)>,
}

impl RoutingTable {
    fn new(map: ClusterMap) -> Result<RoutingTable, MapError> {
        let nodes = check_nodes(&map)?;
        let mut shards = BTreeSet::new();
        let mut ranges = Vec::with_capacity(map.shards.len());
        let mut map = map;
        for (position, shard) in map.shards.iter_mut().enumerate() {
            if !shards.insert(shard.id) {
                return Err(MapError::DuplicateShard(shard.id));
            }
            check_replicas(shard, &nodes)?;
            let leader = shard.leader.take();
            lead(shard, leader.filter(|leader| nodes.contains(leader)));
            if let Some(range) = shard.slots {
                if range.first > range.last || range.last >= SLOT_COUNT {
                    return Err(MapError::BadRange(shard.id));
                }
                ranges.push((range, position));
            }
        }
        ranges.sort_by_key(|(range, _)| range.first);
        for pair in ranges.windows(2) {
            if pair[1].0.first <= pair[0].0.last {
                return Err(MapError::Overlap(map.shards[pair[0].1].id, map.shards[pair[1].1].id));
            }
        }
        Ok(RoutingTable { map, ranges })
    }

    /// The map itself.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        &self.map
    }

    /// The map's epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.map.epoch
    }

    /// The shard that owns `slot`; `None` when no shard does.
    #[must_use]
    pub fn shard_of_slot(&self, slot: u16) -> Option<&ShardInfo> {
        let after = self.ranges.partition_point(|(range, _)| range.first <= slot);
        let (range, position) = self.ranges.get(after.checked_sub(1)?)?;
        range.contains(slot).then(|| &self.map.shards[*position])
    }

    /// The shard that owns `key`; `None` when no shard does.
    #[must_use]
    pub fn shard_of_key(&self, key: &[u8]) -> Option<&ShardInfo> {
        self.shard_of_slot(slot_of(key))
    }

    /// Learns who leads a shard; ignored unless that is a node of the map. Returns whether the leader known
    /// changed.
    pub fn set_leader(&mut self, shard: u32, leader: Option<u64>) -> bool {
        if leader.is_some_and(|node| self.map.node(node).is_none()) {
            return false;
        }
        let Some(info) = self.map.shards.iter_mut().find(|info| info.id == shard) else { return false };
        let changed = info.leader != leader;
        lead(info, leader);
        changed
    }
}

fn check_nodes(map: &ClusterMap) -> Result<BTreeSet<u64>, MapError> {
    let mut nodes = BTreeSet::new();
    for node in &map.nodes {
        if !nodes.insert(node.id) {
            return Err(MapError::DuplicateNode(node.id));
        }
    }
    Ok(nodes)
}

fn check_replicas(shard: &ShardInfo, nodes: &BTreeSet<u64>) -> Result<(), MapError> {
    for replica in &shard.replicas {
        if !nodes.contains(&replica.node) {
            return Err(MapError::UnknownNode { shard: shard.id, node: replica.node });
        }
    }
    Ok(())
}

/// Makes a node of the map the leader of a shard. Leaders change without a new epoch and replicas do not: one that the
/// map gives no replica has got it since. Any of its cores will do, for it passes requests on.
fn lead(shard: &mut ShardInfo, leader: Option<u64>) {
    if let Some(node) = leader
        && shard.replica_on(node).is_none()
    {
        shard.replicas.push(ReplicaInfo { node, core: 0 });
    }
    shard.leader = leader;
}

#[cfg(test)]
mod tests;
