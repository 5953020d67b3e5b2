//! The cluster map as replicated state: the meta shard's log holds changes of it, each makes one epoch.
//!
//! A [`Topology`] is the map and how it came about, a function of the changes applied. The nodes adopt each epoch
//! ([`crate::core`]), and the controller ([`crate::controller`]) decides which change comes next. What the leaders of
//! shards report (leaders, members) is no part of it: it is seen anew every time.
//!
//! Invariants:
//! - a change is applied only to the epoch it was made for; one that does not fit changes nothing, on every replica alike;
//! - shards are numbered without gaps, the meta shard is 0, and user shards own every slot exactly once;
//! - a shard is placed on nodes of the map only, each once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use net::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, ShardPlan, SlotRange, Split};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::placement;

mod recent;

pub use recent::{Recent, Touched, decided, digest};

/// Begins the payload of an entry that changes the map; no other kind of entry begins so.
const TAG: u8 = 0xC8;
/// Changes that are remembered at least, for those who ask for the map as it was, and by which others the replicas of the
/// meta shard make their maps when they start.
const HISTORY_MIN: usize = 1024;
/// Changes that are forgotten at a time: then the map before them is stored anew, whole.
const FORGOTTEN_AT_ONCE: usize = 1024;

/// One change of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The epoch of the map with it.
    pub epoch: u64,
    /// What changes.
    pub what: What,
}

/// Where a shard is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The shard.
    pub shard: u32,
    /// Its nodes: first the one to lead it, then its successors in order.
    pub nodes: Vec<u64>,
    /// Whether an operator wants it there.
    pub pinned: bool,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The map that the cluster begins with.
    Found(Box<ClusterMap>),
    /// A node is there, or is described anew.
    PutNode(NodeInfo),
    /// A node is to give everything away, or may stay.
    SetLeaving {
        /// The node.
        node: u64,
        /// Whether it is to go.
        leaving: bool,
    },
    /// A node is gone.
    RemoveNode {
        /// The node.
        node: u64,
    },
    /// Shards are to be elsewhere.
    Place(Vec<Place>),
    /// No shard stays where an operator has put it.
    Unpin,
    /// A shard is to be cut in two.
    BeginSplit {
        /// The shard.
        shard: u32,
        /// Where, and the new shard.
        split: Split,
    },
    /// A shard has been cut in two.
    EndSplit {
        /// The shard.
        shard: u32,
        /// The nodes that hold both halves.
        nodes: Vec<u64>,
    },
}

/// Why a change does not fit the map.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// The map has changed since.
    #[error("the change makes epoch {wanted}, and the map is at {found}")]
    Epoch {
        /// The epoch it would make.
        wanted: u64,
        /// The map's.
        found: u64,
    },
    /// There is no such node.
    #[error("the cluster has no node {0}")]
    NoNode(u64),
    /// There is no such shard.
    #[error("the cluster has no shard {0}")]
    NoShard(u32),
    /// Something refers to the node.
    #[error("node {node} is still to hold shard {shard}")]
    StillPlaced {
        /// The node.
        node: u64,
        /// The shard.
        shard: u32,
    },
    /// It is nonsense.
    #[error("{0}")]
    Nonsense(&'static str),
}

impl Change {
    /// The payload of the entry that carries it.
    pub fn encode(&self) -> Bytes {
        let mut payload = vec![TAG];
        serde_json::to_writer(&mut payload, self).expect("plain data can be written");
        payload.into()
    }

    /// The change in an entry; `None` for any other payload.
    pub fn decode(payload: &[u8]) -> Option<Change> {
        serde_json::from_slice(payload.strip_prefix(&[TAG])?).ok()
    }

    /// Changes the map; on an error it is as it was.
    pub fn apply(&self, map: &mut ClusterMap) -> Result<(), ChangeError> {
        if self.epoch != map.epoch + 1 {
            return Err(ChangeError::Epoch { wanted: self.epoch, found: map.epoch });
        }
        match &self.what {
            What::Found(_) => return nonsense("the cluster was founded before"),
            What::PutNode(node) => put_node(map, node)?,
            What::SetLeaving { node, leaving } => node_mut(map, *node)?.leaving = *leaving,
            What::RemoveNode { node } => remove_node(map, *node)?,
            What::Place(places) => place(map, places, self.epoch)?,
            What::Unpin => map.shards.iter_mut().for_each(|shard| shard.plan.pinned = false),
            What::BeginSplit { shard, split } => begin_split(map, *shard, *split, self.epoch)?,
            What::EndSplit { shard, nodes } => end_split(map, *shard, nodes, self.epoch)?,
        }
        map.epoch = self.epoch;
        Ok(())
    }
}

fn nonsense<T>(why: &'static str) -> Result<T, ChangeError> {
    Err(ChangeError::Nonsense(why))
}

fn node_mut(map: &mut ClusterMap, id: u64) -> Result<&mut NodeInfo, ChangeError> {
    map.nodes.iter_mut().find(|node| node.id == id).ok_or(ChangeError::NoNode(id))
}

fn shard_mut(map: &mut ClusterMap, id: u32) -> Result<&mut ShardInfo, ChangeError> {
    let position = usize::try_from(id).expect("64-bit machine");
    map.shards.get_mut(position).filter(|shard| shard.id == id).ok_or(ChangeError::NoShard(id))
}

fn put_node(map: &mut ClusterMap, node: &NodeInfo) -> Result<(), ChangeError> {
    if node.id == 0 || node.id > crate::replica_id::PLACE_MAX || node.cores == 0 {
        return nonsense("a node needs an id from 1 to 1048575, and cores");
    }
    match map.nodes.iter_mut().find(|known| known.id == node.id) {
        // Where its replicas are on its cores follows from their number.
        Some(known) if known.cores != node.cores => nonsense("a node cannot change the number of its cores"),
        Some(known) => {
            // Only an operator has a node leave, or stay.
            let leaving = known.leaving;
            *known = NodeInfo { leaving, ..node.clone() };
            Ok(())
        }
        None => {
            map.nodes.push(NodeInfo { leaving: false, ..node.clone() });
            map.nodes.sort_by_key(|node| node.id);
            Ok(())
        }
    }
}

fn remove_node(map: &mut ClusterMap, id: u64) -> Result<(), ChangeError> {
    node_mut(map, id)?;
    // A shard that was never placed is on its founders.
    let holds = |shard: &&ShardInfo| match shard.plan.placed.is_empty() {
        true => shard.plan.founders.contains(&id),
        false => shard.plan.placed.contains(&id),
    };
    if let Some(shard) = map.shards.iter().find(holds) {
        return Err(ChangeError::StillPlaced { node: id, shard: shard.id });
    }
    map.nodes.retain(|node| node.id != id);
    // What a replica listed there was, nobody has reported otherwise yet.
    map.shards.iter_mut().for_each(|shard| shard.replicas.retain(|replica| replica.node != id));
    Ok(())
}

fn place(map: &mut ClusterMap, places: &[Place], epoch: u64) -> Result<(), ChangeError> {
    for place in places {
        let mut nodes = place.nodes.clone();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.is_empty() || nodes.len() != place.nodes.len() {
            return nonsense("a shard is placed on at least one node, and once on each");
        }
        if let Some(stranger) = nodes.iter().find(|id| map.node(**id).is_none()) {
            return Err(ChangeError::NoNode(*stranger));
        }
        if map.shard(place.shard).is_none() {
            return Err(ChangeError::NoShard(place.shard));
        }
    }
    for place in places {
        let plan = &mut shard_mut(map, place.shard)?.plan;
        // What operators gave it before the controller took it over. A pin says nothing of how many it is to have later.
        if plan.placed.is_empty() && !place.pinned {
            plan.copies = u32::try_from(place.nodes.len()).expect("nodes are numbered in 20 bits");
        }
        *plan = ShardPlan { epoch, placed: place.nodes.clone(), pinned: place.pinned, ..plan.clone() };
    }
    Ok(())
}

fn begin_split(map: &mut ClusterMap, id: u32, split: Split, epoch: u64) -> Result<(), ChangeError> {
    if map.shards.iter().any(|shard| shard.plan.split.is_some()) {
        return nonsense("another shard is being cut in two: wait for its end");
    }
    let next = u32::try_from(map.shards.len()).expect("shards are numbered in 20 bits");
    if split.into != next || u64::from(next) > crate::replica_id::PLACE_MAX {
        return nonsense("the new shard takes the next number");
    }
    let shard = shard_mut(map, id)?;
    let Some(slots) = shard.slots else { return nonsense("the meta shard has no slots") };
    if split.at <= slots.first || split.at > slots.last {
        return nonsense("a shard is cut between two of its slots");
    }
    shard.plan.split = Some(split);
    shard.plan.epoch = epoch;
    Ok(())
}

fn end_split(map: &mut ClusterMap, id: u32, nodes: &[u64], epoch: u64) -> Result<(), ChangeError> {
    let shard = shard_mut(map, id)?;
    let (Some(split), Some(slots)) = (shard.plan.split, shard.slots) else {
        return nonsense("the shard is not being cut in two");
    };
    shard.plan.split = None;
    shard.slots = Some(SlotRange { first: slots.first, last: split.at - 1 });
    shard.plan.epoch = epoch;
    // The new one has no founders to tell where it is.
    if shard.plan.placed.is_empty() {
        shard.plan.placed = nodes.to_vec();
        shard.plan.copies = u32::try_from(nodes.len()).expect("nodes are numbered in 20 bits");
    }
    let plan = ShardPlan { founders: Vec::new(), ..shard.plan.clone() };
    let new = ShardInfo {
        id: split.into,
        slots: Some(SlotRange { first: split.at, last: slots.last }),
        replicas: shard.replicas.clone(),
        leader: None,
        plan,
    };
    let replicas = relocated(&new, map);
    map.shards.push(ShardInfo { replicas, ..new });
    Ok(())
}

/// The replicas of a shard on the cores that hold it there.
fn relocated(shard: &ShardInfo, map: &ClusterMap) -> Vec<ReplicaInfo> {
    let on = |replica: &ReplicaInfo| {
        let node = map.node(replica.node)?;
        Some(ReplicaInfo { node: node.id, core: placement::core_of(shard.id, node.cores) })
    };
    shard.replicas.iter().filter_map(on).collect()
}

/// The map, and the changes that led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    map: Arc<ClusterMap>,
    /// The map before the changes that are remembered.
    base: Arc<ClusterMap>,
    changes: VecDeque<Change>,
}

/// What a change makes of the remembered history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The epochs whose changes were forgotten, and are now part of the base.
    pub forgotten: Vec<u64>,
}

impl Topology {
    /// From its parts, as they were stored: the map before the changes that are remembered, and those.
    pub fn new(base: ClusterMap, changes: VecDeque<Change>) -> Result<Topology, ChangeError> {
        let mut map = base.clone();
        changes.iter().try_for_each(|change| change.apply(&mut map))?;
        Ok(Topology { map: Arc::new(map), base: Arc::new(base), changes })
    }

    /// The topology that a founding change makes.
    pub fn found(change: &Change) -> Option<Topology> {
        let What::Found(map) = &change.what else { return None };
        let map = Arc::new(ClusterMap { epoch: change.epoch, ..(**map).clone() });
        Some(Topology { base: map.clone(), map, changes: VecDeque::new() })
    }

    /// The map.
    pub fn map(&self) -> &Arc<ClusterMap> {
        &self.map
    }

    /// The map before the changes that are remembered.
    pub fn base(&self) -> &ClusterMap {
        &self.base
    }

    /// The map as it was at an epoch; `None` for one that is forgotten, or has not been.
    pub fn at(&self, epoch: u64) -> Option<ClusterMap> {
        if epoch > self.map.epoch || epoch < self.base.epoch {
            return None;
        }
        let mut map = (*self.base).clone();
        for change in self.changes.iter().take_while(|change| change.epoch <= epoch) {
            change.apply(&mut map).expect("it was applied before");
        }
        Some(map)
    }

    /// Applies a change, and remembers it.
    pub fn apply(&mut self, change: &Change) -> Result<Accepted, ChangeError> {
        change.apply(Arc::make_mut(&mut self.map))?;
        self.changes.push_back(change.clone());
        let mut forgotten = Vec::new();
        if self.changes.len() >= HISTORY_MIN + FORGOTTEN_AT_ONCE {
            let base = Arc::make_mut(&mut self.base);
            for oldest in self.changes.drain(..FORGOTTEN_AT_ONCE) {
                oldest.apply(base).expect("it was applied before");
                forgotten.push(oldest.epoch);
            }
        }
        Ok(Accepted { forgotten })
    }
}

#[cfg(test)]
pub(crate) mod tests;
