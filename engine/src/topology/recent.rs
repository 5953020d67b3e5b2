//! What a core remembers beside its copy of the map: the last changes, for nodes that are a little behind, and a digest of
//! the map, by which a change is applied only to the map it was made for.
//!
//! Only what is decided counts here. The members and leaders of shards, which a map also tells, each core fills in by
//! itself from what it hears: no change depends on them.
//!
//! Invariant: the digest is that of the map the changes lead to; it costs as much as what changes, not as the map.

use std::collections::VecDeque;

use net::map::{ClusterMap, NodeInfo, ShardInfo, ShardPlan};
use net::peer::{MAP_CHANGES_MAX, MapChange};

use super::{Change, ChangeError, What};

/// Bytes of changes that are remembered.
const BYTES_MAX: usize = 1 << 20;
/// About what a node or a shard takes in an encoded map.
const PART_BYTES: usize = 128;

/// The last changes of one copy of the map, and its digest.
pub struct Recent {
    digest: u64,
    /// Of one epoch after the other, up to the map's.
    changes: VecDeque<MapChange>,
    bytes: usize,
}

impl Recent {
    /// Of a map that came whole.
    pub fn of(map: &ClusterMap) -> Recent {
        Recent { digest: digest(map), changes: VecDeque::new(), bytes: 0 }
    }

    /// The digest of the map.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Applies a change to the map, and remembers it. On an error all is as it was.
    pub fn apply(&mut self, map: &mut ClusterMap, change: &Change) -> Result<Touched, ChangeError> {
        let touched = Touched::by(&change.what, map);
        let before = touched.digest(map);
        change.apply(map)?;
        let remembered = MapChange { digest: self.digest, change: change.encode() };
        self.digest = self.digest.wrapping_sub(before).wrapping_add(touched.digest(map));
        self.bytes += remembered.change.len();
        self.changes.push_back(remembered);
        while self.changes.len() > MAP_CHANGES_MAX || self.bytes > BYTES_MAX {
            let oldest = self.changes.pop_front().expect("there are some");
            self.bytes -= oldest.change.len();
        }
        Ok(touched)
    }

    /// The changes that a node with the map of an epoch lacks; `None` if some are forgotten, or longer than the map.
    pub fn since(&self, epoch: u64, map: &ClusterMap) -> Option<Vec<MapChange>> {
        let lacks = usize::try_from(map.epoch.checked_sub(epoch)?).ok()?;
        let first = self.changes.len().checked_sub(lacks)?;
        let changes: Vec<MapChange> = self.changes.range(first..).cloned().collect();
        let bytes: usize = changes.iter().map(|change| change.change.len()).sum();
        (bytes <= PART_BYTES * (map.nodes.len() + map.shards.len())).then_some(changes)
    }
}

/// The parts of the map that a change may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Nodes that are there before or after it.
    pub nodes: Vec<u64>,
    /// Shards, each once.
    pub shards: Vec<u32>,
}

impl Touched {
    /// By a change that is about to be applied to a map.
    fn by(what: &What, map: &ClusterMap) -> Touched {
        let node = |node: u64| Touched { nodes: vec![node], shards: Vec::new() };
        let shards = |mut shards: Vec<u32>| {
            shards.sort_unstable();
            shards.dedup();
            Touched { nodes: Vec::new(), shards }
        };
        match what {
            What::Found(_) => Touched::default(),
            What::PutNode(info) => node(info.id),
            What::SetLeaving { node: id, .. } | What::RemoveNode { node: id } => node(*id),
            What::Place(places) => shards(places.iter().map(|place| place.shard).collect()),
            What::Unpin => {
                let pinned = map.shards.iter().filter(|shard| shard.plan.pinned);
                shards(pinned.map(|shard| shard.id).collect())
            }
            What::BeginSplit { shard, .. } => shards(vec![*shard]),
            What::EndSplit { shard, .. } => {
                let split = map.shard(*shard).and_then(|info| info.plan.split);
                shards(split.map(|split| split.into).into_iter().chain([*shard]).collect())
            }
        }
    }

    fn digest(&self, map: &ClusterMap) -> u64 {
        let nodes = self.nodes.iter().filter_map(|id| map.node(*id)).map(of_node);
        let shards = self.shards.iter().filter_map(|id| map.shard(*id)).map(of_shard);
        nodes.chain(shards).fold(0, u64::wrapping_add)
    }
}

/// The digest of what is decided in a map: the sum over its nodes and shards, in whatever order. Two maps of one epoch
/// that differ have the same one by chance only.
pub fn digest(map: &ClusterMap) -> u64 {
    let (nodes, shards) = (map.nodes.iter().map(of_node), map.shards.iter().map(of_shard));
    nodes.chain(shards).fold(0, u64::wrapping_add)
}

/// The map without what is seen, not decided.
pub fn decided(map: &ClusterMap) -> ClusterMap {
    let shard = |shard: &ShardInfo| ShardInfo { replicas: Vec::new(), leader: None, ..shard.clone() };
    ClusterMap { shards: map.shards.iter().map(shard).collect(), ..map.clone() }
}

fn of_node(node: &NodeInfo) -> u64 {
    let NodeInfo {
        id,
        binary_addr,
        peer_addr,
        cores,
        resp_addr,
        resp_cluster_addr,
        http_addr,
        zone,
        weight,
        leaving,
        store,
    } = node;
    let mut mixer = Mixer(1);
    mixer.numbers(&[*id, u64::from(*cores), u64::from(*weight), u64::from(*leaving), *store]);
    mixer.text(Some(binary_addr));
    mixer.text(Some(peer_addr));
    for text in [resp_addr, resp_cluster_addr, http_addr, zone] {
        mixer.text(text.as_deref());
    }
    mixer.0
}

fn of_shard(shard: &ShardInfo) -> u64 {
    let ShardInfo { id, slots, replicas: _, leader: _, plan } = shard;
    let ShardPlan { epoch, placed, pinned, founders, copies, split } = plan;
    let pair = |pair: Option<(u64, u64)>| pair.map_or([0, 0, 0], |(one, other)| [1, one, other]);
    let mut mixer = Mixer(2);
    mixer.numbers(&[u64::from(*id), *epoch, u64::from(*pinned), u64::from(*copies)]);
    mixer.numbers(&pair(slots.map(|slots| (slots.first.into(), slots.last.into()))));
    mixer.numbers(&pair(split.map(|split| (split.at.into(), split.into.into()))));
    mixer.numbers(placed);
    mixer.numbers(founders);
    mixer.0
}

/// Sixty-four bits of some numbers, each of which changes about half of them (the finalizer of splitmix64).
struct Mixer(u64);

impl Mixer {
    fn number(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 = mixed ^ (mixed >> 31);
    }

    /// Numbers, and how many: what follows them is not taken for one.
    fn numbers(&mut self, numbers: &[u64]) {
        self.number(u64::try_from(numbers.len()).expect("64-bit machine"));
        numbers.iter().for_each(|number| self.number(*number));
    }

    fn text(&mut self, text: Option<&str>) {
        let Some(text) = text else { return self.number(u64::MAX) };
        self.number(u64::try_from(text.len()).expect("64-bit machine"));
        for piece in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            self.number(u64::from_le_bytes(bytes));
        }
    }
}

#[cfg(test)]
mod tests;
