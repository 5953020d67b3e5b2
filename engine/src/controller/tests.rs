use net::map::{ReplicaInfo, ShardPlan, SlotRange, Split};

use super::*;
use crate::topology::{Change, Topology};

const FOR_EVER: Nanos = Nanos(u64::MAX);

/// A cluster whose groups do what they are told, one a step.
struct World {
    topology: Topology,
    reports: BTreeMap<u32, ShardReport>,
    silent: BTreeMap<u64, Nanos>,
    controller: Controller,
    moves_max: usize,
    now: Nanos,
    /// Replicas that were made.
    made: usize,
    most_moving: usize,
}

fn node(id: u64) -> NodeInfo {
    NodeInfo { id, cores: 1, weight: 1, ..NodeInfo::default() }
}

impl World {
    fn new(nodes: u64, shards: u32) -> World {
        let founders: Vec<u64> = (1..=nodes).collect();
        let shard = |id: u32| {
            let bound = |at: u32| u16::try_from(at * 16384 / shards).unwrap();
            let range = |id: u32| SlotRange { first: bound(id - 1), last: bound(id) - 1 };
            ShardInfo {
                id,
                slots: (id > 0).then(|| range(id)),
                replicas: founders.iter().map(|node| ReplicaInfo { node: *node, core: 0 }).collect(),
                leader: None,
                plan: ShardPlan { epoch: 1, founders: founders.clone(), copies: 3, ..ShardPlan::default() },
            }
        };
        let map = ClusterMap {
            epoch: 1,
            nodes: (1..=nodes).map(node).collect(),
            shards: (0..=shards).map(shard).collect(),
        };
        let found = Change { epoch: 1, what: What::Found(Box::new(map)) };
        let mut world = World {
            topology: Topology::found(&found).unwrap(),
            reports: BTreeMap::new(),
            silent: BTreeMap::new(),
            controller: Controller::default(),
            moves_max: 2,
            now: Nanos::ZERO,
            made: 0,
            most_moving: 0,
        };
        for shard in 0..=shards {
            world.report(shard, founders.clone());
        }
        world
    }

    fn report(&mut self, shard: u32, voters: Vec<u64>) {
        let info = self.topology.map().shard(shard).cloned();
        let index = self.reports.get(&shard).map_or(1, |report| report.index + 1);
        let slots = info.and_then(|info| info.slots);
        let leader = voters[0];
        let report = ShardReport { shard, term: 1, index, leader, voters, slots, ..ShardReport::default() };
        self.reports.insert(shard, report);
    }

    fn change(&mut self, what: What) {
        let epoch = self.topology.map().epoch + 1;
        self.topology.apply(&Change { epoch, what }).expect("it fits");
    }

    fn with_view<T>(&mut self, look: impl FnOnce(&mut Controller, &View<'_>) -> T) -> T {
        let map = self.topology.map().clone();
        let view = View {
            map: &map,
            reports: &self.reports,
            silent: &self.silent,
            replace_after: Nanos::from_millis(1_000),
            moves_max: self.moves_max,
            now: self.now,
        };
        look(&mut self.controller, &view)
    }

    fn moving(&self) -> Vec<u32> {
        let differs = |shard: &&ShardInfo| {
            let report = &self.reports[&shard.id];
            let members: BTreeSet<u64> = report.voters.iter().copied().collect();
            !shard.plan.placed.is_empty() && members != shard.plan.placed.iter().copied().collect()
        };
        self.topology.map().shards.iter().filter(differs).map(|shard| shard.id).collect()
    }

    /// Lets the controller and the groups work until nothing is left to do; the controller is lost now and then.
    fn settle(&mut self) {
        let mut quiet = 0;
        for step in 0.. {
            assert!(step < 10_000, "it comes to no end");
            if step % 23 == 3 {
                self.controller = Controller::default();
            }
            let what = self.with_view(|controller, view| controller.next(view));
            let idle = what.is_none();
            if let Some(what) = what {
                self.change(what);
            }
            let moving = self.moving();
            self.most_moving = self.most_moving.max(moving.len());
            self.now = self.now.saturating_add(Nanos::from_millis(1_000));
            quiet = if idle && moving.is_empty() { quiet + 1 } else { 0 };
            if quiet > 40 {
                return;
            }
            // One of them arrives, in its own time.
            let arrives = moving.first().filter(|_| step % 4 == 1);
            if let Some(shard) = arrives {
                let placed = self.topology.map().shards[*shard as usize].plan.placed.clone();
                let before = &self.reports[shard].voters;
                self.made += placed.iter().filter(|node| !before.contains(node)).count();
                self.report(*shard, placed);
            }
        }
    }

    fn held(&self, node: u64) -> usize {
        self.reports.values().filter(|report| report.voters.contains(&node)).count()
    }
}

#[test]
fn a_cluster_that_nobody_changed_is_left_alone() {
    let mut world = World::new(4, 16);
    assert_eq!(world.with_view(|controller, view| controller.next(view)), None);
    world.report(3, vec![1, 2]);
    assert_eq!(
        world.with_view(|controller, view| controller.next(view)),
        None,
        "an operator may have wanted that"
    );
}

#[test]
fn three_nodes_become_six_and_three_again() {
    let mut world = World::new(3, 16);
    for id in 4..=6 {
        world.change(What::PutNode(node(id)));
    }
    world.settle();
    let held: Vec<usize> = (1..=6).map(|id| world.held(id)).collect();
    assert!(held.iter().all(|count| (8..=9).contains(count)), "51 replicas on 6 nodes: {held:?}");
    assert!(world.made <= 31, "{} replicas were made, 26 had to be", world.made);
    assert_eq!(world.most_moving, 2);
    for id in 4..=6 {
        world.change(What::SetLeaving { node: id, leaving: true });
    }
    world.settle();
    let nodes: Vec<u64> = world.topology.map().nodes.iter().map(|node| node.id).collect();
    assert_eq!(nodes, [1, 2, 3]);
    assert!((1..=3).all(|id| world.held(id) == 17));
}

#[test]
fn the_preferred_leaders_are_spread() {
    let mut world = World::new(3, 15);
    world.change(What::PutNode(node(4)));
    world.settle();
    let leads =
        |id: u64| world.topology.map().shards.iter().filter(|shard| shard.plan.placed[0] == id).count();
    let leads: Vec<usize> = (1..=4).map(leads).collect();
    assert!(leads.iter().all(|count| (3..=5).contains(count)), "{leads:?}");
}

#[test]
fn a_node_that_is_dead_for_long_is_replaced_and_only_where_there_are_others() {
    let mut world = World::new(3, 4);
    world.silent.insert(3, FOR_EVER);
    world.settle();
    assert_eq!(world.held(3), 5, "nobody could take its replicas");
    world.change(What::PutNode(node(4)));
    world.settle();
    assert_eq!((world.held(3), world.held(4)), (0, 5));
    assert!(world.topology.map().node(3).is_some(), "it may come back");
    assert_eq!(world.most_moving, 2);
}

#[test]
fn a_target_that_dies_on_the_way_is_replaced_too() {
    let mut world = World::new(3, 6);
    world.change(What::PutNode(node(4)));
    for _ in 0..3 {
        let what = world.with_view(|controller, view| controller.next(view));
        what.into_iter().for_each(|what| world.change(what));
    }
    assert!(!world.moving().is_empty());
    world.change(What::PutNode(node(5)));
    world.silent.insert(4, FOR_EVER);
    world.settle();
    assert_eq!(world.held(4), 0);
    assert!(world.held(5) > 0);
}

#[test]
fn pins_hold_until_the_cluster_is_rebalanced() {
    let mut world = World::new(3, 8);
    world.change(What::PutNode(node(4)));
    world.settle();
    let on_four: Vec<u32> = (0..=8).filter(|shard| world.reports[shard].voters.contains(&4)).collect();
    for shard in &on_four {
        world.change(What::Place(vec![Place { shard: *shard, nodes: vec![1, 2, 3], pinned: true }]));
    }
    world.settle();
    for shard in &on_four {
        assert!(!world.reports[shard].voters.contains(&4));
    }
    world.change(What::Unpin);
    world.settle();
    assert!((6..=7).contains(&world.held(4)), "27 replicas on 4 nodes: {}", world.held(4));
}

#[test]
fn a_split_ends_when_both_halves_say_so() {
    let mut world = World::new(3, 2);
    let split = Split { at: 100, into: 3 };
    world.change(What::BeginSplit { shard: 1, split });
    let next = |world: &mut World| world.with_view(|controller, view| controller.next(view));
    world.report(3, vec![1, 2, 3]);
    assert!(!matches!(next(&mut world), Some(What::EndSplit { .. })));
    let slots = |first, last| Some(SlotRange { first, last });
    world.reports.get_mut(&3).unwrap().slots = slots(100, 8191);
    assert!(!matches!(next(&mut world), Some(What::EndSplit { .. })), "the lower half still has all slots");
    world.reports.get_mut(&1).unwrap().slots = slots(0, 99);
    assert!(matches!(next(&mut world), Some(What::EndSplit { shard: 1, .. })));
}

#[test]
fn nothing_moves_while_a_group_is_unheard_of() {
    let mut world = World::new(3, 4);
    world.change(What::PutNode(node(4)));
    world.reports.remove(&2);
    assert_eq!(world.with_view(|controller, view| controller.next(view)), None);
}
