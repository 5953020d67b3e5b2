//! The map on its way between first cores, over a network that loses, repeats and reorders what they say.

use net::map::{ClusterMap, NodeInfo};
use net::peer::{GroupBody, GroupMessage};
use proptest::prelude::*;
use raft::Nanos;
use wal::{Recovered, Wal, WalConfig};

use super::cluster::{Settings, TICK, core_config};
use crate::core::{Core, CoreConfig, Effect, Event, MapNews};
use crate::topology::tests::{founding, node, whats};
use crate::topology::{Change, Place, Topology, What, decided};

/// A message between two nodes.
struct Flying {
    from: u64,
    to: u64,
    message: GroupMessage,
}

/// Three nodes, the first of which has the map from the log of the meta shard.
struct World {
    topology: Topology,
    cores: Vec<Core>,
    /// What each machine's driver has of the map.
    copies: Vec<ClusterMap>,
    flying: Vec<Flying>,
    now: Nanos,
    /// The epoch of a wrong map that the third node was started with.
    wrong: u64,
}

fn core(id: u64, map: ClusterMap) -> Core {
    let config = CoreConfig { cores: 2, ..core_config(id, &Settings::default()) };
    let wal = Wal::new(WalConfig::new(id, 0), Recovered::empty(id));
    Core::new(config, map, wal, Vec::new(), id).unwrap()
}

impl World {
    /// The third node's configuration tells another map than that which the cluster was founded with.
    fn new() -> World {
        let found = Change { epoch: 1, what: What::Found(Box::new(founding())) };
        let mut own = founding();
        own.nodes[0].zone = Some("elsewhere".to_owned());
        let maps = vec![founding(), founding(), own];
        let mut world = World {
            topology: Topology::found(&found).unwrap(),
            cores: (1..).zip(&maps).map(|(id, map)| core(id, map.clone())).collect(),
            copies: maps,
            flying: Vec::new(),
            now: Nanos::ZERO,
            // That of its configuration.
            wrong: 1,
        };
        world.pass(TICK);
        world
    }

    /// Everybody has a map of the log, not of the configuration.
    fn begun() -> World {
        let mut world = World::new();
        world.place(&[1, 2]);
        world.heal();
        world
    }

    /// What the log makes of a change reaches the first node.
    fn change(&mut self, what: What) {
        // Nobody of the three goes: they would be told nothing any more.
        if matches!(what, What::RemoveNode { node } if node <= 3) {
            return;
        }
        let change = Change { epoch: self.topology.map().epoch + 1, what };
        if self.topology.apply(&change).is_ok() {
            self.cores[0].follow_log(self.topology.map(), &[change]);
            self.settle(0);
        }
    }

    fn settle(&mut self, at: usize) {
        let from = u64::try_from(at).unwrap() + 1;
        for effect in self.cores[at].settle().collect::<Vec<Effect>>() {
            match effect {
                Effect::Send { node, core: 0, messages } => {
                    let flying = messages.into_iter().map(|message| Flying { from, to: node, message });
                    self.flying.extend(flying.filter(|it| it.to <= 3));
                }
                Effect::MapChanged(MapNews::Whole(map)) => self.copies[at] = (*map).clone(),
                Effect::MapChanged(MapNews::Changes(changes)) => {
                    changes.iter().for_each(|change| change.apply(&mut self.copies[at]).unwrap());
                }
                _ => {}
            }
        }
        let known = decided(self.cores[at].known_map());
        assert_eq!(decided(&self.copies[at]), known, "the driver is told of every change");
        if at != 2 || known.epoch != self.wrong {
            assert_eq!(known, decided(&self.topology.at(known.epoch).unwrap()), "node {from}");
        }
    }

    fn pass(&mut self, time: Nanos) {
        self.now = self.now.saturating_add(time);
        for at in 0..self.cores.len() {
            self.cores[at].handle(Event::Tick { now: self.now, wall_ms: 1 });
            self.settle(at);
        }
    }

    fn deliver(&mut self, flying: Flying) {
        let at = usize::try_from(flying.to).unwrap() - 1;
        self.cores[at].handle(Event::Peer { node: flying.from, core: 0, messages: vec![flying.message] });
        self.settle(at);
    }

    /// Starts a node again, with the map of an epoch that its disk has.
    fn restart(&mut self, at: usize, map: ClusterMap) {
        self.cores[at] = core(u64::try_from(at).unwrap() + 1, map.clone());
        self.copies[at] = map;
        self.cores[at].handle(Event::Tick { now: self.now, wall_ms: 1 });
        if at == 0 {
            self.cores[0].follow_log(self.topology.map(), &[]);
        }
        self.settle(at);
        for other in (0..3).filter(|other| *other != at) {
            let node = u64::try_from(at).unwrap() + 1;
            self.cores[other].handle(Event::PeerLinked {
                node,
                store: super::cluster::store_of(node),
                vote_hold: Nanos(u64::MAX),
            });
            self.settle(other);
        }
    }

    /// Everything arrives until nobody has anything to say; all have the map of the log then.
    fn heal(&mut self) {
        for _ in 0..1000 {
            if self.flying.is_empty() {
                self.pass(TICK);
                let newest = self.topology.map().epoch;
                if self.flying.is_empty() && self.cores.iter().all(|core| core.map.epoch == newest) {
                    return;
                }
            }
            for flying in std::mem::take(&mut self.flying) {
                self.deliver(flying);
            }
        }
        let epochs: Vec<u64> = self.cores.iter().map(|core| core.map.epoch).collect();
        panic!("the nodes stay at epochs {epochs:?}, the log is at {}", self.topology.map().epoch);
    }

    fn received(&self, at: usize) -> (u64, u64, u64) {
        let counters = &self.cores[at].counters;
        (counters.maps_received, counters.map_changes_received, counters.map_changes_refused)
    }

    fn place(&mut self, nodes: &[u64]) {
        self.change(What::Place(vec![Place { shard: 1, nodes: nodes.to_vec(), pinned: false }]));
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    Change(What),
    Deliver(prop::sample::Index),
    Repeat(prop::sample::Index),
    Lose(prop::sample::Index),
    Pass,
    Restart(usize, prop::sample::Index),
}

fn steps() -> impl Strategy<Value = Step> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        6 => whats().prop_map(Step::Change),
        12 => any().prop_map(Step::Deliver),
        2 => any().prop_map(Step::Repeat),
        3 => any().prop_map(Step::Lose),
        3 => Just(Step::Pass),
        1 => (0..3usize, any()).prop_map(|(at, epoch)| Step::Restart(at, epoch)),
    ]
}

proptest! {
    #[test]
    fn every_node_ends_with_the_map_of_the_log_whatever_the_network_does(
        steps in prop::collection::vec(steps(), 1..120),
    ) {
        let mut world = World::new();
        for step in steps {
            let flying = world.flying.len();
            match step {
                Step::Change(what) => world.change(what),
                Step::Deliver(index) if flying > 0 => {
                    let flying = world.flying.remove(index.index(flying));
                    world.deliver(flying);
                }
                Step::Repeat(index) if flying > 0 => {
                    let Flying { from, to, message } = &world.flying[index.index(flying)];
                    let again = Flying { from: *from, to: *to, message: message.clone() };
                    world.deliver(again);
                }
                Step::Lose(index) if flying > 0 => drop(world.flying.remove(index.index(flying))),
                Step::Pass => world.pass(TICK),
                Step::Restart(at, epoch) => {
                    let known = world.cores[at].map.epoch;
                    let epoch = 1 + u64::try_from(epoch.index(usize::try_from(known).unwrap())).unwrap();
                    let map = world.topology.at(epoch).unwrap();
                    world.restart(at, map);
                }
                _ => {}
            }
        }
        world.pass(Nanos::from_millis(11_000));
        world.heal();
    }
}

#[test]
fn who_is_a_little_behind_gets_the_changes_and_who_has_another_map_gets_it_whole() {
    let mut world = World::begun();
    assert_eq!((world.received(1), world.received(2)), ((1, 0, 0), (1, 0, 0)), "configurations may differ");
    for turn in 0..6 {
        world.place(if turn % 2 == 0 { &[2, 3] } else { &[3, 1] });
    }
    world.heal();
    assert_eq!((world.received(1), world.received(2)), ((1, 6, 0), (1, 6, 0)));
    // More than the map is long: six parts of it.
    for turn in 0..50 {
        world.place(if turn % 2 == 0 { &[2, 3] } else { &[3, 1] });
        world.flying.clear();
    }
    world.pass(Nanos::from_millis(11_000));
    world.heal();
    assert_eq!((world.received(1), world.received(2)), ((2, 6, 0), (2, 6, 0)));
    // A map that is not what it should be, however that came about.
    let mut wrong = (**world.topology.map()).clone();
    wrong.nodes[0].zone = Some("elsewhere".to_owned());
    world.wrong = wrong.epoch;
    world.restart(2, wrong);
    world.heal();
    world.place(&[2, 3]);
    world.heal();
    assert_eq!((world.received(1), world.received(2)), ((2, 7, 0), (1, 0, 1)));
}

#[test]
fn a_change_that_cannot_be_read_or_does_not_fit_is_never_made() {
    for spoil in [
        |sent: &mut net::peer::MapChange| sent.digest ^= 1,
        |sent: &mut net::peer::MapChange| sent.change = sent.change.slice(..sent.change.len() - 1),
        |sent: &mut net::peer::MapChange| {
            let Change { epoch, .. } = Change::decode(&sent.change).unwrap();
            sent.change = Change { epoch, what: What::RemoveNode { node: 77 } }.encode();
        },
    ] {
        let mut world = World::begun();
        let before = world.topology.map().epoch;
        world.place(&[3, 2]);
        let changes = loop {
            let flying = world.flying.remove(0);
            match flying.message.body {
                GroupBody::MapChanges(changes) if flying.to == 2 => break changes,
                _ => world.deliver(flying),
            }
        };
        let mut changes = changes;
        spoil(&mut changes[0]);
        let message =
            GroupMessage { group: 0, from: 1, to: 2, term: 0, body: GroupBody::MapChanges(changes) };
        world.deliver(Flying { from: 1, to: 2, message });
        assert_eq!(world.cores[1].map.epoch, before);
        world.heal();
        assert_eq!(world.received(1), (2, 0, 1));
    }
}

#[test]
fn who_does_not_ask_for_changes_gets_the_whole_map() {
    let mut world = World::begun();
    world.place(&[3, 2]);
    for takes_changes in [false, true] {
        world.flying.clear();
        let body = GroupBody::MapEpoch { epoch: 2, takes_changes };
        world.deliver(Flying {
            from: 2,
            to: 1,
            message: GroupMessage { group: 0, from: 2, to: 1, term: 0, body },
        });
        let [Flying { to: 2, message, .. }] = &world.flying[..] else { panic!("one answer") };
        assert_eq!(matches!(message.body, GroupBody::MapChanges(_)), takes_changes);
        assert_eq!(matches!(message.body, GroupBody::Map { .. }), !takes_changes);
    }
}

#[test]
fn members_are_known_by_reports_and_not_by_the_map() {
    let mut world = World::begun();
    let report = |voters: &[u64]| {
        let report = net::peer::ShardReport {
            shard: 1,
            term: 1,
            index: 1,
            leader: voters[0],
            voters: voters.to_vec(),
            ..net::peer::ShardReport::default()
        };
        Event::Reports(vec![report])
    };
    let members = |world: &World| -> Vec<u64> {
        world.cores[1].map().shards[1].replicas.iter().map(|replica| replica.node).collect()
    };
    // It is reported before the map knows of the node.
    world.cores[1].handle(report(&[4, 1, 3]));
    assert_eq!(members(&world), [1, 3]);
    world.change(What::PutNode(NodeInfo { zone: None, ..node(4) }));
    world.heal();
    assert_eq!((members(&world), world.cores[1].leader_of(1)), (vec![1, 3, 4], Some(4)));
    world.change(What::RemoveNode { node: 4 });
    world.heal();
    assert_eq!(members(&world), [1, 3], "nobody is sent to a node that is gone");
    assert_eq!(world.received(1), (1, 2, 0));
    let routed = world.cores[1].map().into_routing();
    assert!(routed.is_ok(), "{routed:?}");
}
