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
    replace_after: Nanos,
    led_for: Nanos,
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
            replace_after: Nanos::from_millis(1_000),
            led_for: Nanos::ZERO,
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
            replace_after: self.replace_after,
            moves_max: self.moves_max,
            led_for: self.led_for,
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

/// Looks as often as the controller decides something; what it has decided.
fn decisions(world: &mut World) -> Vec<What> {
    let mut all = Vec::new();
    while let Some(what) = world.with_view(|controller, view| controller.next(view)) {
        assert!(all.len() < 100, "it comes to no end: {all:?}");
        world.change(what.clone());
        all.push(what);
    }
    all
}

/// The shards that the controller sends to other nodes than they are on.
fn sent(world: &mut World) -> Vec<u32> {
    let decisions = decisions(world);
    let places = decisions.iter().flat_map(|what| match what {
        What::Place(places) => places.as_slice(),
        _ => &[],
    });
    let set = |nodes: &[u64]| nodes.iter().copied().collect::<BTreeSet<u64>>();
    let moves = places.filter(|place| set(&place.nodes) != set(&world.reports[&place.shard].voters));
    moves.map(|place| place.shard).collect()
}

fn wait(world: &mut World, seconds: u64) {
    world.now = world.now.saturating_add(Nanos::from_millis(seconds * 1_000));
}

/// Six nodes, each shard on three of them, where each was placed.
fn six_nodes(shards: u32) -> World {
    let mut world = World::new(3, shards);
    (4..=6).for_each(|id| world.change(What::PutNode(node(id))));
    world.settle();
    world
}

#[test]
fn shards_that_have_lost_their_majority_do_not_keep_the_others_from_being_mended() {
    let mut world = six_nodes(16);
    for dead in [5, 6] {
        world.silent.insert(dead, FOR_EVER);
    }
    let on =
        |world: &World, shard: u32| world.reports[&shard].voters.iter().filter(|node| **node > 4).count();
    let lost: Vec<u32> = (0..=16).filter(|shard| on(&world, *shard) == 2).collect();
    let mendable: Vec<u32> = (0..=16).filter(|shard| on(&world, *shard) == 1).collect();
    assert!(lost.len() > 2 && mendable.len() > 2, "{lost:?} {mendable:?}");
    for _ in 0..200 {
        for shard in sent(&mut world) {
            assert!(!lost.contains(&shard), "shard {shard} cannot go anywhere");
        }
        assert!(world.moving().len() <= 2, "no more than it was told");
        wait(&mut world, 1);
        if let Some(shard) = world.moving().first().copied() {
            let placed = world.topology.map().shards[shard as usize].plan.placed.clone();
            world.report(shard, placed);
        }
    }
    assert!(mendable.iter().all(|shard| on(&world, *shard) == 0), "they have three living nodes again");
    let stuck = world.with_view(|controller, view| controller.stuck(view));
    assert_eq!(stuck.iter().map(|it| it.shard).collect::<Vec<_>>(), lost);
    assert_eq!(stuck[0].why, "no majority of its nodes is heard of: 2 of 3 are not (5, 6)");
    let (_, waiting) = world.with_view(|controller, view| controller.progress(view));
    assert_eq!(waiting.len(), lost.len(), "they wait for their nodes");
}

#[test]
fn shards_on_their_way_without_a_majority_are_not_counted() {
    let mut world = World::new(3, 8);
    world.change(What::PutNode(node(4)));
    let first = sent(&mut world);
    assert_eq!(first.len(), 2);
    // Their groups were elsewhere than the others, and have lost two nodes each.
    for shard in &first {
        world.report(*shard, vec![1, 7, 8]);
    }
    assert_eq!(sent(&mut world).len(), 2, "two others go");
}

#[test]
fn a_shard_goes_elsewhere_when_the_node_it_has_not_come_to_is_to_leave() {
    let mut world = World::new(3, 8);
    world.change(What::PutNode(node(4)));
    let first = sent(&mut world);
    assert_eq!(first.len(), 2);
    // One has come there, one is still being fed.
    let placed = world.topology.map().shards[first[0] as usize].plan.placed.clone();
    world.report(first[0], placed);
    world.reports.get_mut(&first[1]).unwrap().learners = vec![4];
    world.change(What::PutNode(node(5)));
    world.change(What::SetLeaving { node: 4, leaving: true });
    let then = sent(&mut world);
    assert!(then.contains(&first[1]), "{then:?}");
    assert!(!world.topology.map().shards[first[1] as usize].plan.placed.contains(&4));
    world.settle();
    assert!(world.topology.map().node(4).is_none());
}

#[test]
fn a_move_that_makes_no_progress_is_told_and_keeps_only_its_own_target_busy() {
    let mut world = World::new(3, 12);
    world.replace_after = Nanos::ZERO;
    world.change(What::PutNode(node(4)));
    let mut first = sent(&mut world);
    first.sort_unstable();
    assert_eq!(first.len(), 2);
    wait(&mut world, 119);
    world.change(What::PutNode(node(5)));
    let stuck = |world: &mut World| world.with_view(|controller, view| controller.stuck(view));
    assert_eq!((sent(&mut world), stuck(&mut world)), (Vec::new(), Vec::new()));
    wait(&mut world, 1);
    let then = sent(&mut world);
    assert_eq!(then.len(), 2, "two others go");
    for shard in &then {
        let placed = &world.topology.map().shards[*shard as usize].plan.placed;
        assert!(!placed.contains(&4), "nothing else goes where two are stuck: {placed:?}");
    }
    let told = stuck(&mut world);
    assert_eq!(told.iter().map(|it| it.shard).collect::<Vec<_>>(), first);
    assert_eq!(told[0].for_ms, 120_000);
    assert_eq!(told[0].why, "waits for node 4, which has made no replica");
    // One gets on: a large shard has more time.
    let report = world.reports.get_mut(&first[0]).unwrap();
    (report.learners, report.index) = (vec![4], report.index + 1);
    let is_stuck = |world: &mut World, shard: u32| stuck(world).into_iter().find(|it| it.shard == shard);
    assert_eq!(is_stuck(&mut world, first[0]), None);
    wait(&mut world, 15 * 60 - 1);
    assert_eq!(is_stuck(&mut world, first[0]), None);
    assert!(is_stuck(&mut world, first[1]).is_some());
    wait(&mut world, 1);
    let told = is_stuck(&mut world, first[0]).unwrap();
    assert_eq!(told.why, "waits for node 4, which receives its data");
    world.silent.insert(4, FOR_EVER);
    let told = is_stuck(&mut world, first[0]).unwrap();
    assert_eq!(told.why, "waits for node 4, which was receiving its data and is not heard of");
}

#[test]
fn groups_that_are_not_heard_of_are_waited_for_and_then_left_out() {
    let mut world = World::new(3, 4);
    world.change(What::PutNode(node(4)));
    world.reports.remove(&2);
    assert_eq!(decisions(&mut world), [], "its report may be on its way to a new leader");
    // A group without a majority reports nothing, and the others must be mended all the same.
    world.led_for = Nanos::from_millis(30_000);
    assert_eq!(sent(&mut world).len(), 2);
    assert!(world.topology.map().shards[2].plan.placed.is_empty(), "nobody knows where it is");
    world.report(2, vec![1, 2, 3]);
    world.settle();
    assert!(!world.topology.map().shards[2].plan.placed.is_empty(), "it was heard of");
    assert!(world.held(4) > 2);
}

#[test]
fn a_node_stays_in_the_map_while_a_group_is_unheard_of_that_may_count_on_it() {
    let mut world = World::new(4, 4);
    world.led_for = Nanos::from_millis(30_000);
    for shard in 0..=4 {
        world.report(shard, vec![1, 2, 3]);
    }
    world.change(What::SetLeaving { node: 4, leaving: true });
    decisions(&mut world);
    let report = world.reports.remove(&2).unwrap();
    wait(&mut world, 100);
    assert_eq!(decisions(&mut world), []);
    world.reports.insert(2, report);
    decisions(&mut world);
    wait(&mut world, 100);
    assert_eq!(decisions(&mut world), [What::RemoveNode { node: 4 }]);
}

#[test]
fn a_decision_that_came_to_nothing_is_made_again() {
    let mut world = World::new(3, 4);
    world.change(What::PutNode(node(4)));
    let next = |world: &mut World| world.with_view(|controller, view| controller.next(view));
    let orders = next(&mut world);
    assert!(orders.is_some());
    assert_eq!(next(&mut world), orders, "the log did not take it");
    world.change(orders.unwrap());
    let first = next(&mut world);
    assert!(matches!(&first, Some(What::Place(places)) if places.len() == 1), "{first:?}");
    assert_eq!(next(&mut world), first);
    world.change(first.clone().unwrap());
    assert_ne!(next(&mut world), first);
}

#[test]
fn a_node_that_leaves_and_is_gone_for_good_is_not_waited_for() {
    let mut world = World::new(3, 4);
    world.replace_after = Nanos::ZERO;
    world.change(What::PutNode(node(4)));
    world.change(What::SetLeaving { node: 3, leaving: true });
    world.silent.insert(3, Nanos::from_millis(59_000));
    world.settle();
    assert_eq!(world.held(3), 0);
    assert!(world.topology.map().node(3).is_some(), "it may come back, and must hear that it is not needed");
    world.silent.insert(3, Nanos::from_millis(60_000));
    world.settle();
    assert!(world.topology.map().node(3).is_none());
}

#[test]
fn a_lost_member_is_replaced_even_where_a_shard_is_to_be_cut() {
    let mut world = World::new(3, 2);
    world.change(What::PutNode(node(4)));
    world.settle();
    let shard = (1..=2).find(|shard| world.reports[shard].voters.contains(&3)).unwrap();
    let at = if shard == 1 { 100 } else { 9_000 };
    world.change(What::BeginSplit { shard, split: Split { at, into: 3 } });
    world.change(What::PutNode(node(5)));
    let places = sent(&mut world);
    assert!(!places.contains(&shard), "the cut comes first");
    for shard in places {
        let placed = world.topology.map().shards[shard as usize].plan.placed.clone();
        world.report(shard, placed);
    }
    world.silent.insert(3, FOR_EVER);
    assert!(sent(&mut world).contains(&shard), "the cut waits for node 3, which is lost");
}

#[test]
fn a_node_that_tells_of_another_address_touches_nothing() {
    let mut world = World::new(3, 4);
    world.change(What::PutNode(NodeInfo { binary_addr: "elsewhere:1".to_owned(), ..node(2) }));
    // Operators took one replica away here, and are adding one there.
    world.report(3, vec![1, 2]);
    world.report(2, vec![1, 2, 3, 4]);
    world.reports.get_mut(&2).unwrap().joint = true;
    assert_eq!(decisions(&mut world), [], "nothing was added, and nothing taken away");
    world.change(What::PutNode(node(4)));
    decisions(&mut world);
    let placed = |world: &World, shard: usize| world.topology.map().shards[shard].plan.placed.len();
    assert_eq!((placed(&world, 1), placed(&world, 2), placed(&world, 3)), (3, 0, 2));
    world.report(2, vec![1, 2, 4]);
    world.settle();
    assert_eq!((placed(&world, 1), placed(&world, 2), placed(&world, 3)), (3, 3, 2));
    assert_eq!(world.topology.map().shards[3].plan.copies, 2);
}

#[test]
fn a_shard_has_as_many_copies_after_a_pin_as_before() {
    let mut world = World::new(3, 4);
    (4..=5).for_each(|id| world.change(What::PutNode(node(id))));
    world.settle();
    for nodes in [vec![1], vec![1, 2, 3, 4, 5]] {
        world.change(What::Place(vec![Place { shard: 2, nodes: nodes.clone(), pinned: true }]));
        world.settle();
        assert_eq!(world.reports[&2].voters.len(), nodes.len());
        world.change(What::Unpin);
        world.settle();
        assert_eq!(world.reports[&2].voters.len(), 3);
    }
}
