//! Which nodes should hold the replicas of each shard, and who should lead it: a pure function of where they are now.
//!
//! Consistent hashing with virtual nodes says whom a shard prefers; bounds on the load of each node, from its weight,
//! say whom it may have. What is placed already stays, unless its node is gone, holds more than its bound, or zones
//! could be spread better; so a node that joins receives its share and nothing else moves, and a node that leaves
//! gives away what it held.
//!
//! In order of importance:
//! - no node holds two replicas of a shard;
//! - the replicas of a shard are in as many zones as possible, and as evenly as possible, so that the loss of a zone
//!   costs as few of them as can be; a node without a zone is a zone of its own;
//! - the load of each node is its share by weight, rounded down or up;
//! - as little as possible moves.
//!
//! **Invariant**: each step improves a measure strictly or does nothing, and [`plan`] goes on until nothing is done:
//! hence its result is a fixed point.

mod balance;
mod leaders;
mod ring;
mod shares;

use ring::Ring;
use shares::{Bounds, Demand, Pattern};

/// A node that may hold replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedNode {
    /// Its number in the cluster; no two nodes share one.
    pub id: u64,
    /// What fails together, a rack or a data centre; empty: none, the node fails alone.
    pub zone: String,
    /// Its share of the replicas and of the leaders, relative to the other nodes; from 1 (0 counts as 1).
    pub weight: u32,
    /// False when it drains or is dead: it gets nothing and gives all away.
    pub available: bool,
}

/// A shard and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedShard {
    /// Its number in the cluster; no two shards share one.
    pub id: u32,
    /// Wanted copies; it gets fewer when fewer nodes are available.
    pub replicas: usize,
    /// The nodes that hold it, by rank: first the preferred leader; empty when it is new.
    pub current: Vec<u64>,
    /// Stays on all of `current`, but for nodes that are gone or not available: those are replaced.
    pub pinned: bool,
}

/// How often the steps are repeated at most. Once is enough but where nodes of pinned shards are gone: then twice.
const ROUNDS_MAX: usize = 8;

/// Where each shard should be, in the order given: first the preferred leader, then the others by rank.
///
/// A shard's list is empty only when no node is available. The order of `nodes` does not matter. The same arguments
/// give the same answer on every machine, and planning again from the answer changes nothing.
pub fn plan(nodes: &[PlacedNode], shards: &[PlacedShard]) -> Vec<Vec<u64>> {
    let mut current: Vec<Vec<u64>> = shards.iter().map(|shard| shard.current.clone()).collect();
    for _ in 0..ROUNDS_MAX {
        let next = plan_once(nodes, shards, &current);
        if next == current {
            break;
        }
        current = next;
    }
    current
}

/// How many replicas of `after` are not in `before`: each is a copy of a shard's data to be made.
///
/// # Panics
/// When the two are not about equally many shards.
pub fn movement(before: &[Vec<u64>], after: &[Vec<u64>]) -> usize {
    assert_eq!(before.len(), after.len(), "two placements of the same shards");
    let copied =
        |(before, after): (&Vec<u64>, &Vec<u64>)| after.iter().filter(|node| !before.contains(*node)).count();
    before.iter().zip(after).map(copied).sum()
}

fn plan_once(nodes: &[PlacedNode], shards: &[PlacedShard], current: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let mut layout = Layout::new(nodes, shards, current);
    if layout.nodes.is_empty() {
        return vec![Vec::new(); shards.len()];
    }
    layout.trim();
    layout.fill();
    layout.balance();
    layout.spread_leaders();
    let ids = |shard: &Shard| shard.nodes.iter().map(|node| layout.nodes[*node].id).collect();
    layout.shards.iter().map(ids).collect()
}

/// An available node. It is known by its place in [`Layout::nodes`], as is a zone by its own number.
struct Node {
    id: u64,
    zone: usize,
    weight: u32,
    bounds: Bounds,
}

struct Shard {
    /// Where on the ring its walk begins.
    hash: u64,
    wanted: usize,
    /// How many of `nodes`, from the first, stay in any case: all that a pinned shard began with.
    kept: usize,
    /// The available nodes that hold it, by rank.
    nodes: Vec<usize>,
    /// The present preferred leader, while it keeps its replica.
    leader: Option<usize>,
}

impl Shard {
    fn movable(&self) -> &[usize] {
        &self.nodes[self.kept..]
    }
}

/// The placement as it is being worked out.
struct Layout {
    nodes: Vec<Node>,
    /// Available nodes of each zone.
    zone_sizes: Vec<usize>,
    shards: Vec<Shard>,
    /// Replicas on each node: always what `shards` says.
    loads: Vec<usize>,
    /// By the number of wanted replicas: how they spread over the zones.
    patterns: Vec<Pattern>,
    ring: Ring,
}

impl Layout {
    fn new(nodes: &[PlacedNode], shards: &[PlacedShard], current: &[Vec<u64>]) -> Layout {
        let (mut nodes, zone_sizes) = available_nodes(nodes);
        let place = |id: &u64| nodes.binary_search_by_key(id, |node| node.id).ok();
        let mut loads = vec![0; nodes.len()];
        let mut placed = Vec::with_capacity(shards.len());
        for (shard, current) in shards.iter().zip(current) {
            let mut held: Vec<usize> = Vec::with_capacity(shard.replicas.max(current.len()));
            for node in current.iter().filter_map(place) {
                if !held.contains(&node) {
                    held.push(node);
                    loads[node] += 1;
                }
            }
            let kept = if shard.pinned { held.len() } else { 0 };
            let wanted = shard.replicas.min(nodes.len()).max(kept);
            let (hash, leader) = (ring::shard_hash(shard.id), held.first().copied());
            placed.push(Shard { hash, wanted, kept, nodes: held, leader });
        }
        let wanted_max = placed.iter().map(|shard| shard.wanted).max().unwrap_or(0);
        let patterns: Vec<Pattern> =
            (0..=wanted_max).map(|wanted| Pattern::new(wanted, &zone_sizes)).collect();
        let demand = Demand::new(&placed, &nodes, wanted_max);
        for (node, bounds) in shares::bounds(&nodes, &zone_sizes, &patterns, &demand).into_iter().enumerate()
        {
            nodes[node].bounds = bounds;
        }
        let ring = Ring::new(&nodes);
        Layout { nodes, zone_sizes, shards: placed, loads, patterns, ring }
    }

    /// Gives up replicas that are too many, or too many in their zones.
    fn trim(&mut self) {
        for shard in 0..self.shards.len() {
            while self.shards[shard].kept == 0 && self.is_crowded(shard) {
                let node = self.most_dispensable(shard);
                self.remove(shard, node);
            }
        }
    }

    fn is_crowded(&self, shard: usize) -> bool {
        let Shard { nodes, wanted, .. } = &self.shards[shard];
        if nodes.len() > *wanted {
            return true;
        }
        let pattern = self.patterns[*wanted];
        let mut crowded = 0;
        for (rank, node) in nodes.iter().enumerate() {
            let zone = self.nodes[*node].zone;
            let is_first = !nodes[..rank].iter().any(|other| self.nodes[*other].zone == zone);
            let count = if is_first { self.count_in_zone(shard, zone) } else { 0 };
            if count > pattern.least + 1 {
                return true;
            }
            crowded += usize::from(count == pattern.least + 1);
        }
        crowded > pattern.zones_above
    }

    /// Of the zone with the most replicas the fullest node; the leader only when it must be.
    fn most_dispensable(&self, shard: usize) -> usize {
        let rank_of = |node: &usize| {
            let in_zone = self.count_in_zone(shard, self.nodes[*node].zone);
            let follows = self.shards[shard].leader != Some(*node);
            // What is left below its bound; the number of shards on top, since it may hold more than its bound.
            let room = self.nodes[*node].bounds.high + self.shards.len() - self.loads[*node];
            (in_zone, follows, std::cmp::Reverse(room), *node)
        };
        *self.shards[shard]
            .nodes
            .iter()
            .max_by_key(|node| rank_of(node))
            .expect("a crowded shard has replicas")
    }

    /// Gives every shard the replicas that it lacks.
    fn fill(&mut self) {
        let mut lacking: usize =
            self.shards.iter().map(|shard| shard.wanted.saturating_sub(shard.nodes.len())).sum();
        let mut deficit: usize = (0..self.nodes.len()).map(|node| self.deficit(node)).sum();
        let mut ring = std::mem::take(&mut self.ring);
        for shard in 0..self.shards.len() {
            while self.shards[shard].nodes.len() < self.shards[shard].wanted {
                // A node may go above its lower bound only while enough replicas are left to bring all others there.
                let spare = lacking > deficit;
                let node = self.choose(shard, spare, &mut ring);
                deficit -= usize::from(self.deficit(node) > 0);
                lacking -= 1;
                self.add(shard, node);
            }
        }
        ring.reopen();
        self.ring = ring;
    }

    fn deficit(&self, node: usize) -> usize {
        self.nodes[node].bounds.low.saturating_sub(self.loads[node])
    }

    fn has_room(&self, node: usize, spare: bool) -> bool {
        let Bounds { low, high } = self.nodes[node].bounds;
        self.loads[node] < if spare { high } else { low }
    }

    /// The first node clockwise with room, among the zones that hold the fewest replicas of the shard.
    fn choose(&self, shard: usize, spare: bool, ring: &mut Ring) -> usize {
        let level = self.emptiest_zones(shard);
        let fits = |node: usize| {
            !self.shards[shard].nodes.contains(&node)
                && self.count_in_zone(shard, self.nodes[node].zone) == level
        };
        let found = ring.walk(self.shards[shard].hash, |node| self.has_room(node, spare), fits);
        found.unwrap_or_else(|| self.choose_by_load(shard, spare, fits))
    }

    /// Where the walk ends without a node: whichever goes least above its bound. The balance is mended later.
    fn choose_by_load(&self, shard: usize, spare: bool, fits: impl Fn(usize) -> bool) -> usize {
        let rank_of = |node: &usize| {
            let above = self.loads[*node].saturating_sub(self.nodes[*node].bounds.high);
            let order = ring::mix(self.shards[shard].hash ^ self.nodes[*node].id);
            (!self.has_room(*node, spare), !self.has_room(*node, true), above, order)
        };
        let fitting = (0..self.nodes.len()).filter(|node| fits(*node));
        fitting.min_by_key(rank_of).expect("a shard wants no more replicas than there are nodes")
    }

    /// The least number of replicas that a zone holds of the shard, among the zones with a node left for it.
    fn emptiest_zones(&self, shard: usize) -> usize {
        // With more zones than replicas one is empty; this spares looking at many.
        if self.shards[shard].nodes.len() < self.zone_sizes.len() {
            return 0;
        }
        let counts = |zone: usize| (self.count_in_zone(shard, zone), self.zone_sizes[zone]);
        let open = (0..self.zone_sizes.len()).map(counts).filter(|(count, size)| count < size);
        open.map(|(count, _)| count).min().expect("a shard wants no more replicas than there are nodes")
    }

    fn count_in_zone(&self, shard: usize, zone: usize) -> usize {
        self.shards[shard].nodes.iter().filter(|node| self.nodes[**node].zone == zone).count()
    }

    /// True when a replica may move without the zones being spread worse.
    fn may_move(&self, shard: usize, from: usize, to: usize) -> bool {
        if self.shards[shard].nodes.contains(&to) {
            return false;
        }
        let (zone, other) = (self.nodes[from].zone, self.nodes[to].zone);
        zone == other || self.count_in_zone(shard, other) < self.count_in_zone(shard, zone)
    }

    fn add(&mut self, shard: usize, node: usize) {
        assert!(!self.shards[shard].nodes.contains(&node), "two replicas of a shard on one node");
        self.shards[shard].nodes.push(node);
        self.loads[node] += 1;
    }

    fn remove(&mut self, shard: usize, node: usize) {
        let shard = &mut self.shards[shard];
        let rank = shard.nodes.iter().position(|other| *other == node).expect("a replica to remove");
        assert!(rank >= shard.kept, "a pinned shard stays");
        shard.nodes.remove(rank);
        if shard.leader == Some(node) {
            shard.leader = None;
        }
        self.loads[node] -= 1;
    }

    fn relocate(&mut self, shard: usize, from: usize, to: usize) {
        self.remove(shard, from);
        self.add(shard, to);
    }
}

/// The nodes that may hold something, by id; and the sizes of their zones.
fn available_nodes(nodes: &[PlacedNode]) -> (Vec<Node>, Vec<usize>) {
    let mut available: Vec<&PlacedNode> = nodes.iter().filter(|node| node.available).collect();
    available.sort_by_key(|node| node.id);
    available.dedup_by_key(|node| node.id);
    let mut names: Vec<&str> =
        available.iter().map(|node| node.zone.as_str()).filter(|zone| !zone.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let mut zone_sizes = vec![0; names.len()];
    let mut placed = Vec::with_capacity(available.len());
    for node in available {
        let zone = names.binary_search(&node.zone.as_str()).unwrap_or_else(|_| {
            zone_sizes.push(0);
            zone_sizes.len() - 1
        });
        zone_sizes[zone] += 1;
        let weight = node.weight.max(1);
        placed.push(Node { id: node.id, zone, weight, bounds: Bounds::default() });
    }
    (placed, zone_sizes)
}

#[cfg(test)]
mod tests;
