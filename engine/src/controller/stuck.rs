//! Shards that should be elsewhere and do not get there: a group without a majority cannot change, and one that waits for
//! a node that makes no replica may wait for ever. They must not take the place of those that can move.
//!
//! What is remembered is only since when a group has been as it is: whoever begins to lead the meta shard begins to count.

use std::collections::{BTreeMap, BTreeSet};

use net::map::ShardInfo;
use net::peer::ShardReport;
use net::protocol::StuckShard;
use raft::Nanos;

use super::View;

/// How long a group may stay as it is while it waits for nodes that have nothing of it yet.
const BEGINS_WITHIN: Nanos = Nanos::from_millis(120_000);
/// How long it may while a node that is heard is being fed: a large shard takes its time.
const ARRIVES_WITHIN: Nanos = Nanos::from_millis(15 * 60_000);

/// The shards on their way.
#[derive(Clone, Debug, Default)]
pub(super) struct Moving(BTreeMap<u32, Way>);

/// How far a shard has come.
#[derive(Clone, Debug)]
struct Way {
    /// The epoch in which it was sent where it goes.
    epoch: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    joint: bool,
    /// Since when all this has been so.
    since: Nanos,
}

impl Way {
    fn new(shard: &ShardInfo, report: &ShardReport, since: Nanos) -> Way {
        let (voters, learners) = (report.voters.clone(), report.learners.clone());
        Way { epoch: shard.plan.epoch, voters, learners, joint: report.joint, since }
    }

    fn is_at(&self, shard: &ShardInfo, report: &ShardReport) -> bool {
        self.epoch == shard.plan.epoch
            && self.joint == report.joint
            && self.voters == report.voters
            && self.learners == report.learners
    }
}

impl Moving {
    /// Looks at how far they have come.
    pub fn follow(&mut self, view: &View<'_>) {
        let mut former = std::mem::take(&mut self.0);
        for shard in view.map.shards.iter().filter(|shard| view.is_moving(shard)) {
            let report = &view.reports[&shard.id];
            let known = former.remove(&shard.id).filter(|way| way.is_at(shard, report));
            self.0.insert(shard.id, known.unwrap_or_else(|| Way::new(shard, report, view.now)));
        }
    }

    /// How many are on their way and get on.
    pub fn underway(&self, view: &View<'_>) -> usize {
        let gets_on =
            |(shard, way): &(&u32, &Way)| view.has_majority(**shard) && !self.is_late(view, **shard, way);
        self.0.iter().filter(gets_on).count()
    }

    /// The nodes where a shard was to go and did not come: others are not sent there as well.
    pub fn dead_ends(&self, view: &View<'_>) -> BTreeSet<u64> {
        let late = self
            .0
            .iter()
            .filter(|(shard, way)| view.has_majority(**shard) && self.is_late(view, **shard, way));
        late.flat_map(|(shard, way)| missing(view, *shard, way)).collect()
    }

    /// All that are stuck, and why; the groups that cannot change among them, whether they are to move or not.
    pub fn stuck(&self, view: &View<'_>) -> Vec<StuckShard> {
        let of = |shard: &ShardInfo| {
            if let Some(lost) = view.majority_lost(shard.id) {
                return Some((lost, without_majority(view, shard.id)));
            }
            let way = self.0.get(&shard.id).filter(|way| self.is_late(view, shard.id, way))?;
            Some((view.now.since(way.since), waits_for(view, shard.id, way)))
        };
        let told = |shard: &ShardInfo| {
            let (time, why) = of(shard)?;
            Some(StuckShard { shard: shard.id, for_ms: time.0 / 1_000_000, why })
        };
        view.map.shards.iter().filter_map(told).collect()
    }

    fn is_late(&self, view: &View<'_>, shard: u32, way: &Way) -> bool {
        let missing = missing(view, shard, way);
        let fed = missing.iter().any(|node| way.learners.contains(node) && !view.is_unheard(*node));
        let patience = if fed { ARRIVES_WITHIN } else { BEGINS_WITHIN };
        view.now.since(way.since) >= patience
    }
}

/// The nodes where a shard is to be that have no vote in its group yet.
fn missing(view: &View<'_>, shard: u32, way: &Way) -> Vec<u64> {
    let placed = view.map.shard(shard).map_or(&[][..], |info| &info.plan.placed);
    placed.iter().copied().filter(|node| !way.voters.contains(node)).collect()
}

fn waits_for(view: &View<'_>, shard: u32, way: &Way) -> String {
    let missing = missing(view, shard, way);
    if missing.is_empty() {
        return "its group does not let go of who is to leave it".to_owned();
    }
    let told = |node: &u64| match (way.learners.contains(node), view.is_unheard(*node)) {
        (true, true) => format!("node {node}, which was receiving its data and is not heard of"),
        (true, false) => format!("node {node}, which receives its data"),
        (false, true) => format!("node {node}, which is not heard of"),
        (false, false) => format!("node {node}, which has made no replica"),
    };
    format!("waits for {}", missing.iter().map(told).collect::<Vec<_>>().join(", and "))
}

fn without_majority(view: &View<'_>, shard: u32) -> String {
    let voters = view.reports.get(&shard).map_or(&[][..], |report| &report.voters);
    let unheard: BTreeSet<u64> = voters.iter().copied().filter(|node| view.is_unheard(*node)).collect();
    let unheard: Vec<String> = unheard.iter().map(u64::to_string).collect();
    format!(
        "no majority of its nodes is heard of: {} of {} are not ({})",
        unheard.len(),
        voters.len(),
        unheard.join(", ")
    )
}

impl View<'_> {
    /// Whether a majority of a shard's voters is heard of, as far as its group is known.
    pub fn has_majority(&self, shard: u32) -> bool {
        self.reports.contains_key(&shard) && self.majority_lost(shard).is_none()
    }

    /// For how long a shard's group has had no majority, if it has none.
    fn majority_lost(&self, shard: u32) -> Option<Nanos> {
        let voters = &self.reports.get(&shard)?.voters;
        let mut silences: Vec<Nanos> =
            voters.iter().filter(|node| self.is_unheard(**node)).map(|node| self.silence(*node)).collect();
        // It was lost with the one that fell silent when half were left.
        let decisive = voters.len() - voters.len() / 2;
        if voters.is_empty() || silences.len() < decisive {
            return None;
        }
        silences.sort_unstable_by(|one, other| other.cmp(one));
        Some(silences[decisive - 1])
    }
}
