//! The shard controller: turns what the cluster map says, and what the leaders of shards report, into the next change of
//! the map. It runs where the meta shard is led, remembers nothing that matters, and decides anew from what is: so it
//! goes on after any crash, wherever it is then.
//!
//! ```text
//!   nodes, weights, pins ──▶ placement::plan ──▶ goal
//!   goal ≠ placed        ──▶ Place, a few shards at a time
//!   placed ≠ members     ──▶ the shard's leader changes its group (`core::membership`), and reports
//! ```
//!
//! It leaves a cluster alone of which nobody ever changed anything: what its groups are is then for operators to say.
//!
//! Invariants:
//! - no more shards move at a time than it was told;
//! - a shard is never given fewer nodes than it has, but by an operator;
//! - a node leaves the map only when no shard is placed on it and no group reports a member there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use net::map::{ClusterMap, NodeInfo, ShardInfo};
use net::peer::ShardReport;
use net::protocol::PlannedMove;
use raft::Nanos;

use crate::placement::{self, plan};
use crate::topology::{Place, What};

/// What the controller sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The map.
    pub map: &'a ClusterMap,
    /// The newest report of each shard.
    pub reports: &'a BTreeMap<u32, ShardReport>,
    /// For how long each node has been silent.
    pub silent: &'a BTreeMap<u64, Nanos>,
    /// Silence after which a node is given up; zero for never.
    pub replace_after: Nanos,
    /// Shards that may be on their way at a time.
    pub moves_max: usize,
    /// The time.
    pub now: Nanos,
}

/// How long a node that leaves must have nothing left before it is removed: its last replicas are told meanwhile that
/// they are not needed any more, which they hear from nobody once the node is out of the map.
/// They must be able to hear it: only the time counts in which the node was heard, unless it is dead.
const DRAINED_FOR: Nanos = Nanos::from_millis(15_000);
/// Silence after which a node counts as not heard.
pub const HEARD_WITHIN: Nanos = Nanos::from_millis(2_000);

impl View<'_> {
    fn is_dead(&self, node: u64) -> bool {
        let silent = self.silent.get(&node).copied().unwrap_or_default();
        self.replace_after > Nanos::ZERO && silent >= self.replace_after
    }

    fn is_available(&self, node: &NodeInfo) -> bool {
        !node.leaving && !self.is_dead(node.id)
    }

    /// The nodes of a shard's group, as reported.
    pub fn members(&self, shard: u32) -> Option<BTreeSet<u64>> {
        let report = self.reports.get(&shard)?;
        Some(report.voters.iter().chain(&report.learners).copied().collect())
    }

    /// Where a shard is placed, the one to lead it first; where it never was, its members.
    fn current(&self, shard: &ShardInfo) -> Vec<u64> {
        if !shard.plan.placed.is_empty() {
            return shard.plan.placed.clone();
        }
        let Some(report) = self.reports.get(&shard.id) else { return shard.plan.founders.clone() };
        let mut nodes = report.voters.clone();
        nodes.sort_unstable();
        nodes.dedup();
        let all = nodes.clone();
        nodes.sort_by_key(|node| placement::leader_rank(shard.id, *node, &all));
        nodes
    }

    /// Whether a shard's group is not yet what it should be.
    fn is_moving(&self, shard: &ShardInfo) -> bool {
        let placed = &shard.plan.placed;
        if placed.is_empty() {
            return false;
        }
        let Some(report) = self.reports.get(&shard.id) else { return true };
        let there =
            report.voters.len() == placed.len() && placed.iter().all(|node| report.voters.contains(node));
        report.joint || !report.learners.is_empty() || !there
    }

    /// Whether anybody ever changed anything, or has to now.
    fn is_managed(&self) -> bool {
        self.map.epoch > 1 || self.map.nodes.iter().any(|node| self.is_dead(node.id))
    }
}

/// What the goal depends on: a new one is made when this changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    /// Id, zone, weight, whether it is available.
    nodes: Vec<(u64, Option<String>, u32, bool)>,
    /// Copies, whether pinned, and where, if so.
    shards: Vec<(u32, Option<Vec<u64>>)>,
}

impl Basis {
    fn of(view: &View<'_>) -> Basis {
        let node = |node: &NodeInfo| (node.id, node.zone.clone(), node.weight, view.is_available(node));
        let shard =
            |shard: &ShardInfo| (shard.plan.copies, shard.plan.pinned.then(|| shard.plan.placed.clone()));
        Basis {
            nodes: view.map.nodes.iter().map(node).collect(),
            shards: view.map.shards.iter().map(shard).collect(),
        }
    }
}

/// Where shards are to go.
#[derive(Clone, Debug)]
struct Goal {
    basis: Basis,
    /// Shards that keep their nodes, in another order.
    orders: Vec<Place>,
    /// Shards that are to be on other nodes, the most urgent first.
    moves: VecDeque<Place>,
}

/// The controller.
#[derive(Clone, Debug, Default)]
pub struct Controller {
    goal: Option<Goal>,
    /// The nodes that leave and have nothing left, and since when.
    drained: BTreeMap<u64, Nanos>,
}

impl Controller {
    /// The next change of the map, if one is due.
    pub fn next(&mut self, view: &View<'_>) -> Option<What> {
        if let Some(split) = ended_split(view) {
            return Some(split);
        }
        if !view.is_managed() || view.map.shards.iter().any(|shard| !view.reports.contains_key(&shard.id)) {
            // Without an account of every group there is no telling where things are.
            return None;
        }
        if let Some(node) = self.drained(view) {
            return Some(What::RemoveNode { node });
        }
        let goal = self.goal(view);
        if !goal.orders.is_empty() {
            return Some(What::Place(std::mem::take(&mut goal.orders)));
        }
        let moving = view.map.shards.iter().filter(|shard| view.is_moving(shard)).count();
        // One that moves already is not given a second goal, unless the first is out of reach.
        let ready = |place: &Place| {
            let shard = view.map.shard(place.shard).expect("a goal is of the map's shards");
            let may = match view.is_moving(shard) {
                true => is_lost(view, place.shard),
                false => moving < view.moves_max.max(1),
            };
            may && shard.plan.split.is_none()
        };
        let position = goal.moves.iter().position(ready)?;
        goal.moves.remove(position).map(|place| What::Place(vec![place]))
    }

    /// The shards on their way, and those whose turn has yet to come.
    pub fn progress(&mut self, view: &View<'_>) -> (Vec<PlannedMove>, Vec<PlannedMove>) {
        let moving = view.map.shards.iter().filter(|shard| view.is_moving(shard)).map(|shard| {
            let from = view.members(shard.id).unwrap_or_default().into_iter().collect();
            PlannedMove { shard: shard.id, from, to: shard.plan.placed.clone() }
        });
        let moving = moving.collect();
        if !view.is_managed() {
            return (moving, Vec::new());
        }
        let current = |place: &Place| view.map.shard(place.shard).map(|shard| view.current(shard));
        let waiting = self.goal(view).moves.iter().map(|place| PlannedMove {
            shard: place.shard,
            from: current(place).unwrap_or_default(),
            to: place.nodes.clone(),
        });
        (moving, waiting.collect())
    }

    /// A node that leaves and has had nothing left for long enough.
    fn drained(&mut self, view: &View<'_>) -> Option<u64> {
        let hears = |node: u64| {
            let silent = view.silent.get(&node).copied().unwrap_or_default();
            silent < HEARD_WITHIN || view.is_dead(node)
        };
        let leaving = view.map.nodes.iter().filter(|node| node.leaving && hears(node.id));
        let free = leaving.filter(|node| is_free(view, node.id));
        let since = |node: &NodeInfo| self.drained.get(&node.id).copied().unwrap_or(view.now);
        self.drained = free.map(|node| (node.id, since(node))).collect();
        let mut drained = self.drained.iter();
        drained.find(|(_, since)| view.now.since(**since) >= DRAINED_FOR).map(|(node, _)| *node)
    }

    fn goal(&mut self, view: &View<'_>) -> &mut Goal {
        let basis = Basis::of(view);
        if self.goal.as_ref().is_none_or(|goal| goal.basis != basis) {
            self.goal = Some(Goal::new(view, basis));
        }
        self.goal.as_mut().expect("just made")
    }
}

impl Goal {
    fn new(view: &View<'_>, basis: Basis) -> Goal {
        let nodes: Vec<plan::PlacedNode> = (view.map.nodes.iter())
            .map(|node| plan::PlacedNode {
                id: node.id,
                zone: node.zone.clone().unwrap_or_default(),
                weight: node.weight.max(1),
                available: view.is_available(node),
            })
            .collect();
        let shards: Vec<plan::PlacedShard> = (view.map.shards.iter())
            .map(|shard| plan::PlacedShard {
                id: shard.id,
                replicas: usize::try_from(shard.plan.copies).expect("64-bit machine"),
                current: view.current(shard),
                pinned: shard.plan.pinned,
            })
            .collect();
        let wanted = plan::plan(&nodes, &shards);
        let mut goal = Goal { basis, orders: Vec::new(), moves: VecDeque::new() };
        let mut urgent = Vec::new();
        for ((shard, placed), nodes) in view.map.shards.iter().zip(&shards).zip(wanted) {
            let nodes = filled(view, nodes, placed);
            if nodes.is_empty() || nodes == shard.plan.placed {
                continue;
            }
            let place = Place { shard: shard.id, nodes, pinned: shard.plan.pinned };
            let same: BTreeSet<&u64> = place.nodes.iter().collect();
            if same == placed.current.iter().collect() {
                goal.orders.push(place);
            } else if is_lost(view, shard.id) {
                urgent.push(place);
            } else {
                goal.moves.push_back(place);
            }
        }
        urgent.into_iter().rev().for_each(|place| goal.moves.push_front(place));
        goal
    }
}

/// Nodes for a shard when too few are available: it keeps those that are silent, for they may come back.
fn filled(view: &View<'_>, mut nodes: Vec<u64>, placed: &plan::PlacedShard) -> Vec<u64> {
    let missing = placed.replicas.min(placed.current.len()).saturating_sub(nodes.len());
    let stays = |id: &&u64| !nodes.contains(id) && view.map.node(**id).is_some();
    let kept: Vec<u64> = placed.current.iter().filter(stays).take(missing).copied().collect();
    nodes.extend(kept);
    nodes
}

/// Whether a shard is placed on a node that is given up.
fn is_lost(view: &View<'_>, shard: u32) -> bool {
    let Some(shard) = view.map.shard(shard) else { return false };
    view.current(shard).iter().any(|id| view.is_dead(*id) || view.map.node(*id).is_none())
}

/// Whether no shard is placed on a node, and no group reports a member there.
fn is_free(view: &View<'_>, node: u64) -> bool {
    view.map.shards.iter().all(|shard| {
        let placed = &shard.plan.placed;
        let reported = view.members(shard.id).is_none_or(|members| members.contains(&node));
        !placed.is_empty() && !placed.contains(&node) && !reported
    })
}

/// A shard was cut in two when both halves say so.
fn ended_split(view: &View<'_>) -> Option<What> {
    view.map.shards.iter().find_map(|shard| {
        let split = shard.plan.split?;
        let (lower, upper) = (view.reports.get(&shard.id)?, view.reports.get(&split.into)?);
        let done = lower.slots?.last < split.at && upper.slots?.first == split.at;
        done.then(|| What::EndSplit { shard: shard.id, nodes: view.current(shard) })
    })
}

#[cfg(test)]
mod tests;
