//! How many replicas each node should hold: its share by weight, as far as the number of shards, zones and pins allow.
//!
//! The share of a node is `level * weight`, held between what is pinned to it and one replica of every shard; the sum
//! over a zone is held between what the spread over zones demands of it and allows it. The level is the one at which
//! all replicas have a place; a zone at a limit has a level of its own. Everything is in whole numbers of a small
//! unit, so that all machines agree.

use super::{Node, Shard};

/// The unit of shares: this many to a replica.
const UNIT: u128 = 1 << 20;
/// Levels are finer than shares by this factor, so that a share is exact to one unit.
const LEVEL_UNIT: u128 = 1 << 24;
/// What rounding may have cost a share that is a whole number.
const TOLERANCE: u128 = 16;

/// How many replicas a node should hold: its share rounded down and up.
#[derive(Clone, Copy, Default)]
pub(super) struct Bounds {
    pub(super) low: usize,
    pub(super) high: usize,
}

/// How the replicas of a shard spread over the zones: each zone has `least` (or all its nodes, when it has no more),
/// and `zones_above` of the larger zones have one more.
#[derive(Clone, Copy)]
pub(super) struct Pattern {
    pub(super) least: usize,
    pub(super) zones_above: usize,
}

impl Pattern {
    pub(super) fn new(wanted: usize, zone_sizes: &[usize]) -> Pattern {
        let held = |least: usize| zone_sizes.iter().map(|size| least.min(*size)).sum::<usize>();
        let largest = zone_sizes.iter().copied().max().unwrap_or(0);
        let least = (0..=largest).take_while(|least| held(*least) <= wanted).last().unwrap_or(0);
        Pattern { least, zones_above: wanted.saturating_sub(held(least)) }
    }

    fn most(&self) -> usize {
        self.least + usize::from(self.zones_above > 0)
    }
}

/// What has to be placed.
pub(super) struct Demand {
    /// Replicas on each node that stay there in any case.
    fixed: Vec<usize>,
    /// How many shards are free to move, by their number of replicas.
    free: Vec<usize>,
    /// Pinned shards that lack replicas: each adds some, on any nodes.
    lacking: usize,
    total: usize,
}

impl Demand {
    pub(super) fn new(shards: &[Shard], nodes: &[Node], wanted_max: usize) -> Demand {
        let mut demand =
            Demand { fixed: vec![0; nodes.len()], free: vec![0; wanted_max + 1], lacking: 0, total: 0 };
        for shard in shards {
            demand.total += shard.wanted;
            if shard.kept > 0 {
                shard.nodes.iter().for_each(|node| demand.fixed[*node] += 1);
                demand.lacking += shard.wanted - shard.nodes.len();
            } else {
                demand.free[shard.wanted] += 1;
            }
        }
        demand
    }
}

/// Least and most, in units.
#[derive(Clone, Copy)]
struct Limits {
    least: u128,
    most: u128,
}

impl Limits {
    fn of(least: usize, most: usize) -> Limits {
        Limits { least: wide(least) * UNIT, most: wide(most) * UNIT }
    }

    fn hold(&self, share: u128) -> u128 {
        share.clamp(self.least, self.most)
    }
}

/// A node's weight and what it may hold.
struct Member {
    node: usize,
    weight: u128,
    limits: Limits,
}

impl Member {
    fn share(&self, level: u128) -> u128 {
        self.limits.hold(level * self.weight / LEVEL_UNIT)
    }
}

struct Zone {
    members: Vec<Member>,
    limits: Limits,
}

impl Zone {
    fn sum(&self, level: u128) -> u128 {
        self.members.iter().map(|member| member.share(level)).sum()
    }
}

/// The bounds of each node, for all that has to be placed.
pub(super) fn bounds(
    nodes: &[Node],
    zone_sizes: &[usize],
    patterns: &[Pattern],
    demand: &Demand,
) -> Vec<Bounds> {
    let zones = zones(nodes, zone_sizes, patterns, demand);
    let replicas_most = demand.fixed.iter().max().unwrap_or(&0) + demand.free.iter().sum::<usize>();
    let level_max = (wide(replicas_most + demand.lacking) + 1) * UNIT * LEVEL_UNIT;
    let total = wide(demand.total) * UNIT;
    let sum = |level: u128| zones.iter().map(|zone| zone.limits.hold(zone.sum(level))).sum();
    let level = level_for(total, level_max, sum);
    let mut bounds = vec![Bounds::default(); nodes.len()];
    for zone in &zones {
        let free = zone.sum(level);
        let held = zone.limits.hold(free);
        let level = if free == held { level } else { level_for(held, level_max, |level| zone.sum(level)) };
        for member in &zone.members {
            bounds[member.node] = rounded(member.share(level));
        }
    }
    bounds
}

fn zones(nodes: &[Node], zone_sizes: &[usize], patterns: &[Pattern], demand: &Demand) -> Vec<Zone> {
    let any = demand.lacking + demand.free.iter().skip(1).sum::<usize>();
    let mut zones: Vec<Zone> = zone_sizes
        .iter()
        .map(|size| {
            let replicas = |most: fn(&Pattern) -> usize| -> usize {
                demand
                    .free
                    .iter()
                    .zip(patterns)
                    .map(|(shards, pattern)| shards * most(pattern).min(*size))
                    .sum()
            };
            let limits =
                Limits::of(replicas(|pattern| pattern.least), replicas(Pattern::most) + demand.lacking);
            Zone { members: Vec::with_capacity(*size), limits }
        })
        .collect();
    for (place, node) in nodes.iter().enumerate() {
        let fixed = demand.fixed[place];
        let zone = &mut zones[node.zone];
        zone.limits.least += wide(fixed) * UNIT;
        zone.limits.most += wide(fixed) * UNIT;
        let limits = Limits::of(fixed, fixed + any);
        zone.members.push(Member { node: place, weight: u128::from(node.weight), limits });
    }
    zones
}

/// The least level at which `sum`, which grows with it, reaches `total`.
fn level_for(total: u128, level_max: u128, sum: impl Fn(u128) -> u128) -> u128 {
    let (mut low, mut high) = (0, level_max);
    while low < high {
        let middle = low + (high - low) / 2;
        if sum(middle) < total { low = middle + 1 } else { high = middle }
    }
    low
}

fn rounded(share: u128) -> Bounds {
    let whole = |share: u128| usize::try_from(share / UNIT).expect("no more replicas than there are");
    Bounds { low: whole(share + TOLERANCE), high: whole(share.saturating_sub(TOLERANCE) + UNIT - 1) }
}

fn wide(number: usize) -> u128 {
    u128::try_from(number).expect("128 bits hold any size")
}
