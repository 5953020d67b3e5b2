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
//! A shard that cannot move does not keep the others from it ([`stuck`]).
//!
//! Invariants:
//! - no more shards move at a time than it was told, but for those that are stuck, and no shard is sent where another
//!   one is stuck;
//! - a shard is never given fewer nodes than it has, but by an operator;
//! - a shard whose group is not heard of, or has no majority, is not sent anywhere: it could not go;
//! - a node leaves the map only when no shard is placed on it, every group is known, and none reports a member there.

pub mod stuck;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use net::map::{ClusterMap, NodeInfo, ShardInfo};
use net::peer::ShardReport;
use net::protocol::{PlannedMove, StuckShard};
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
    /// For how long its node has led the meta shard.
    pub led_for: Nanos,
    /// The time.
    pub now: Nanos,
}

/// How long a node that leaves must have nothing left before it is removed: its last replicas are told meanwhile that
/// they are not needed any more, which they hear from nobody once the node is out of the map.
/// They must be able to hear it: only the time counts in which the node was heard, unless it is gone.
const DRAINED_FOR: Nanos = Nanos::from_millis(15_000);
/// Silence after which a node counts as not heard.
pub const HEARD_WITHIN: Nanos = Nanos::from_millis(2_000);
/// Silence after which a node that leaves, and has nothing left, need not be told so.
const GONE_AFTER: Nanos = Nanos::from_millis(60_000);
/// Silence after which a node does not count for the majority of a group.
const UNHEARD_AFTER: Nanos = Nanos::from_millis(10_000);
/// For how long whoever begins to lead the meta shard waits for the reports of all groups: leaders repeat them each 10 s.
/// A group without a majority has nobody to report, and must not stop the others for ever.
const REPORTS_WITHIN: Nanos = Nanos::from_millis(30_000);

impl View<'_> {
    fn silence(&self, node: u64) -> Nanos {
        self.silent.get(&node).copied().unwrap_or_default()
    }

    fn is_dead(&self, node: u64) -> bool {
        self.replace_after > Nanos::ZERO && self.silence(node) >= self.replace_after
    }

    fn is_unheard(&self, node: u64) -> bool {
        self.map.node(node).is_none() || self.is_dead(node) || self.silence(node) >= UNHEARD_AFTER
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

    /// How many nodes a shard is to be on; `None` while that, or where it is, cannot be told.
    fn copies(&self, shard: &ShardInfo) -> Option<usize> {
        let report = self.reports.get(&shard.id)?;
        match (shard.plan.placed.is_empty(), shard.plan.pinned) {
            // As many as operators gave it. Amid a change of its members those of before and after are reported.
            (true, _) => Some(report.voters.len()).filter(|_| !report.joint),
            (false, true) => Some(shard.plan.placed.len()),
            (false, false) => Some(usize::try_from(shard.plan.copies).expect("64-bit machine")),
        }
    }

    /// Whether reports may be on their way without which there is no telling where things are.
    fn awaits_reports(&self) -> bool {
        let mut shards = self.map.shards.iter();
        self.led_for < REPORTS_WITHIN && shards.any(|shard| !self.reports.contains_key(&shard.id))
    }

    /// Whether a shard's group is not yet what it should be, as far as it is heard of.
    fn is_moving(&self, shard: &ShardInfo) -> bool {
        let placed = &shard.plan.placed;
        if placed.is_empty() {
            return false;
        }
        let Some(report) = self.reports.get(&shard.id) else { return false };
        let there =
            report.voters.len() == placed.len() && placed.iter().all(|node| report.voters.contains(node));
        report.joint || !report.learners.is_empty() || !there
    }

    /// Whether anybody ever changed what there is, or has to now. That a node tells of another address is no such change.
    fn is_managed(&self) -> bool {
        let map = self.map;
        let founded = |id: u64| map.shards.iter().any(|shard| shard.plan.founders.contains(&id));
        let touched =
            |node: &NodeInfo| node.leaving || self.is_dead(node.id) || (map.epoch > 1 && !founded(node.id));
        map.shards.iter().any(|shard| !shard.plan.placed.is_empty()) || map.nodes.iter().any(touched)
    }

    /// Every shard that was never placed, where it is: whoever is told so keeps them in order from then on.
    pub fn as_it_is(&self) -> Vec<Place> {
        let shards = self.map.shards.iter();
        let known = shards.filter(|shard| shard.plan.placed.is_empty() && self.copies(shard).is_some());
        known.map(|shard| Place { shard: shard.id, nodes: self.current(shard), pinned: false }).collect()
    }
}

/// What the goal depends on: a new one is made when this changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    /// Id, zone, weight, whether it is available.
    nodes: Vec<(u64, Option<String>, u32, bool)>,
    /// Copies, if that can be told, whether pinned, and where, if so.
    shards: Vec<(Option<usize>, Option<Vec<u64>>)>,
}

impl Basis {
    fn of(view: &View<'_>) -> Basis {
        let node = |node: &NodeInfo| (node.id, node.zone.clone(), node.weight, view.is_available(node));
        let shard =
            |shard: &ShardInfo| (view.copies(shard), shard.plan.pinned.then(|| shard.plan.placed.clone()));
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
    /// The shards on their way.
    moving: stuck::Moving,
    /// The nodes that leave and have nothing left, and since when.
    drained: BTreeMap<u64, Nanos>,
}

impl Controller {
    /// The next change of the map, if one is due. It is due until the map shows it.
    pub fn next(&mut self, view: &View<'_>) -> Option<What> {
        self.moving.follow(view);
        if let Some(split) = ended_split(view) {
            return Some(split);
        }
        if !view.is_managed() || view.awaits_reports() {
            return None;
        }
        if let Some(node) = self.drained(view) {
            return Some(What::RemoveNode { node });
        }
        self.goal(view);
        let goal = self.goal.as_ref().expect("just made");
        if !goal.orders.is_empty() {
            return Some(What::Place(goal.orders.clone()));
        }
        let may_begin = self.moving.underway(view) < view.moves_max.max(1);
        let dead_ends = self.moving.dead_ends(view);
        // One that moves already is not given a second goal, unless the first is out of reach.
        let ready = |place: &&Place| {
            let shard = view.map.shard(place.shard).expect("a goal is of the map's shards");
            let lost = is_lost(view, place.shard);
            let may = if view.is_moving(shard) { lost || is_left(view, shard) } else { may_begin };
            let held = view.members(place.shard).unwrap_or_default();
            let reachable = |node: &u64| held.contains(node) || !dead_ends.contains(node);
            may && view.has_majority(place.shard)
                && place.nodes.iter().all(reachable)
                // The cut waits for all voters, and would wait for one that is lost for ever.
                && (shard.plan.split.is_none() || lost)
        };
        goal.moves.iter().find(ready).map(|place| What::Place(vec![place.clone()]))
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
            let silent = view.silence(node);
            silent < HEARD_WITHIN || silent >= GONE_AFTER || view.is_dead(node)
        };
        let leaving = view.map.nodes.iter().filter(|node| node.leaving && hears(node.id));
        let free = leaving.filter(|node| is_free(view, node.id));
        let since = |node: &NodeInfo| self.drained.get(&node.id).copied().unwrap_or(view.now);
        self.drained = free.map(|node| (node.id, since(node))).collect();
        let mut drained = self.drained.iter();
        drained.find(|(_, since)| view.now.since(**since) >= DRAINED_FOR).map(|(node, _)| *node)
    }

    /// The moves that come to nothing, and the groups that cannot move; for people.
    pub fn stuck(&mut self, view: &View<'_>) -> Vec<StuckShard> {
        self.moving.follow(view);
        self.moving.stuck(view)
    }

    fn goal(&mut self, view: &View<'_>) -> &Goal {
        let basis = Basis::of(view);
        if self.goal.as_ref().is_none_or(|goal| goal.basis != basis) {
            self.goal = Some(Goal::new(view, basis));
        }
        let goal = self.goal.as_mut().expect("just made");
        goal.forget_done(view.map);
        goal
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
            .map(|shard| {
                let (copies, current) = (view.copies(shard), view.current(shard));
                let replicas = copies.unwrap_or(current.len());
                // Where it cannot be told, things stay as they are.
                let pinned = shard.plan.pinned || copies.is_none();
                plan::PlacedShard { id: shard.id, replicas, current, pinned }
            })
            .collect();
        let wanted = plan::plan(&nodes, &shards);
        let mut goal = Goal { basis, orders: Vec::new(), moves: VecDeque::new() };
        let mut urgent = Vec::new();
        for ((shard, placed), nodes) in view.map.shards.iter().zip(&shards).zip(wanted) {
            let nodes = filled(view, nodes, placed);
            if nodes.is_empty() || nodes == shard.plan.placed || view.copies(shard).is_none() {
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

    /// What the map shows already need not be decided again.
    fn forget_done(&mut self, map: &ClusterMap) {
        let is_due = |place: &Place| map.shard(place.shard).is_some_and(|it| it.plan.placed != place.nodes);
        self.orders.retain(is_due);
        self.moves.retain(is_due);
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

/// Whether a shard is placed on a node that is to leave, and has not come there: it need not go there first.
fn is_left(view: &View<'_>, shard: &ShardInfo) -> bool {
    let Some(report) = view.reports.get(&shard.id) else { return false };
    let leaves = |id: &u64| view.map.node(*id).is_some_and(|node| node.leaving);
    shard.plan.placed.iter().any(|id| leaves(id) && !report.voters.contains(id))
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
        // Where it was never placed, its members say where it is.
        let told = !shard.plan.placed.is_empty() || !lower.joint;
        let done = told && lower.slots?.last < split.at && upper.slots?.first == split.at;
        done.then(|| What::EndSplit { shard: shard.id, nodes: view.current(shard) })
    })
}

#[cfg(test)]
mod tests;
