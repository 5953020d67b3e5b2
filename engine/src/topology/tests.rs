use proptest::prelude::*;

use super::*;

pub(crate) fn node(id: u64) -> NodeInfo {
    NodeInfo {
        id,
        binary_addr: format!("n{id}:1"),
        peer_addr: format!("n{id}:2"),
        cores: 2,
        ..NodeInfo::default()
    }
}

pub(crate) fn founding() -> ClusterMap {
    let shard = |id: u32, slots: Option<(u16, u16)>| ShardInfo {
        id,
        slots: slots.map(|(first, last)| SlotRange { first, last }),
        replicas: (1..=3).map(|node| ReplicaInfo { node, core: id % 2 }).collect(),
        leader: None,
        plan: ShardPlan { epoch: 1, founders: vec![1, 2, 3], copies: 3, ..ShardPlan::default() },
    };
    ClusterMap {
        epoch: 1,
        nodes: (1..=3).map(node).collect(),
        shards: vec![shard(0, None), shard(1, Some((0, 8191))), shard(2, Some((8192, 16383)))],
    }
}

/// What may happen to a map; much of it does not fit.
pub(crate) fn whats() -> impl Strategy<Value = What> {
    let nodes = || prop::collection::vec(1..7u64, 1..4);
    let places = prop::collection::vec((0..6u32, nodes(), any::<bool>()), 1..3);
    prop_oneof![
        3 => (1..7u64, any::<bool>()).prop_map(|(id, moved)| {
            let zone = moved.then(|| "z".to_owned());
            What::PutNode(NodeInfo { zone, ..node(id) })
        }),
        1 => (1..7u64, any::<bool>()).prop_map(|(node, leaving)| What::SetLeaving { node, leaving }),
        2 => (1..7u64).prop_map(|node| What::RemoveNode { node }),
        6 => places.prop_map(|places| {
            let place = |(shard, mut nodes, pinned): (u32, Vec<u64>, bool)| {
                nodes.dedup();
                Place { shard, nodes, pinned }
            };
            What::Place(places.into_iter().map(place).collect())
        }),
        1 => Just(What::Unpin),
        3 => (1..6u32, 0..16384u16, 3..7u32)
            .prop_map(|(shard, at, into)| What::BeginSplit { shard, split: Split { at, into } }),
        3 => (1..6u32, nodes()).prop_map(|(shard, nodes)| What::EndSplit { shard, nodes }),
    ]
}

fn begun() -> Topology {
    Topology::found(&Change { epoch: 1, what: What::Found(Box::new(founding())) }).expect("a founding change")
}

fn after(topology: &mut Topology, what: What) -> Result<Accepted, ChangeError> {
    let epoch = topology.map().epoch + 1;
    topology.apply(&Change { epoch, what })
}

fn placed(shard: u32, nodes: &[u64]) -> What {
    What::Place(vec![Place { shard, nodes: nodes.to_vec(), pinned: false }])
}

#[test]
fn changes_go_through_the_log_and_other_payloads_are_none() {
    let change = Change { epoch: 7, what: placed(1, &[2, 3]) };
    assert_eq!(Change::decode(&change.encode()), Some(change));
    assert_eq!(Change::decode(b""), None);
    assert_eq!(Change::decode(&[TAG, b'{']), None);
    assert_eq!(Change::decode(&crate::command::encode(1, 2, None, &[])), None);
}

#[test]
fn a_change_fits_one_epoch_only() {
    let mut topology = begun();
    let change = Change { epoch: 2, what: What::PutNode(node(4)) };
    assert!(topology.apply(&change).is_ok());
    assert_eq!(topology.apply(&change), Err(ChangeError::Epoch { wanted: 2, found: 2 }));
    assert_eq!((topology.map().epoch, topology.map().nodes.len()), (2, 4));
}

#[test]
fn a_node_joins_moves_and_leaves() {
    let mut topology = begun();
    after(&mut topology, What::PutNode(node(4))).unwrap();
    after(&mut topology, What::SetLeaving { node: 4, leaving: true }).unwrap();
    let moved = NodeInfo { binary_addr: "elsewhere:1".into(), ..node(4) };
    after(&mut topology, What::PutNode(moved.clone())).unwrap();
    assert_eq!(
        topology.map().node(4),
        Some(&NodeInfo { leaving: true, ..moved }),
        "whoever announces itself still leaves"
    );
    let cores = NodeInfo { cores: 3, ..node(4) };
    assert!(matches!(after(&mut topology, What::PutNode(cores)), Err(ChangeError::Nonsense(_))));
    after(&mut topology, placed(1, &[4, 1, 2])).unwrap();
    let gone = What::RemoveNode { node: 4 };
    assert_eq!(after(&mut topology, gone.clone()), Err(ChangeError::StillPlaced { node: 4, shard: 1 }));
    assert_eq!(
        after(&mut topology, What::RemoveNode { node: 3 }),
        Err(ChangeError::StillPlaced { node: 3, shard: 0 }),
        "a founder of a shard that was never placed"
    );
    after(&mut topology, placed(1, &[1, 2, 3])).unwrap();
    after(&mut topology, gone).unwrap();
    assert!(topology.map().node(4).is_none());
}

#[test]
fn a_shard_is_placed_on_known_nodes_once_each() {
    let mut topology = begun();
    for (shard, nodes) in [(1, vec![]), (1, vec![1, 1]), (1, vec![1, 9]), (7, vec![1])] {
        assert!(after(&mut topology, placed(shard, &nodes)).is_err(), "{shard} {nodes:?}");
    }
    let both = What::Place(vec![
        Place { shard: 1, nodes: vec![2, 1], pinned: true },
        Place { shard: 2, nodes: vec![9], pinned: false },
    ]);
    assert!(after(&mut topology, both).is_err());
    assert!(topology.map().shards[1].plan.placed.is_empty(), "all or nothing");
    after(&mut topology, What::Place(vec![Place { shard: 1, nodes: vec![2, 1], pinned: true }])).unwrap();
    let plan = &topology.map().shards[1].plan;
    assert_eq!((&plan.placed[..], plan.pinned, plan.copies, plan.epoch), (&[2, 1][..], true, 3, 2));
    after(&mut topology, What::Unpin).unwrap();
    let plan = &topology.map().shards[1].plan;
    assert_eq!((plan.pinned, plan.copies), (false, 3), "it gets back what it had before the pin");
    after(&mut topology, placed(2, &[1, 2])).unwrap();
    assert_eq!(topology.map().shards[2].plan.copies, 2, "what operators had made of it");
    after(&mut topology, placed(2, &[1, 2, 3])).unwrap();
    assert_eq!(topology.map().shards[2].plan.copies, 2, "and that once only");
}

#[test]
fn a_node_that_has_left_is_listed_nowhere() {
    let mut topology = begun();
    let split = Split { at: 9000, into: 3 };
    after(&mut topology, What::BeginSplit { shard: 2, split }).unwrap();
    after(&mut topology, What::EndSplit { shard: 2, nodes: vec![1, 2, 3] }).unwrap();
    after(&mut topology, What::PutNode(node(4))).unwrap();
    let all = (0..=3).map(|shard| Place { shard, nodes: vec![1, 2, 4], pinned: false }).collect();
    after(&mut topology, What::Place(all)).unwrap();
    after(&mut topology, What::RemoveNode { node: 3 }).unwrap();
    // Nothing was reported yet to whoever catches up by the log; the map must be one that can be routed by.
    let map = (**topology.map()).clone();
    assert!(map.shards.iter().all(|shard| shard.replica_on(3).is_none() && shard.replica_on(1).is_some()));
    map.into_routing().expect("a sound map");
}

#[test]
fn a_split_keeps_every_slot_owned_once() {
    let mut topology = begun();
    let split = Split { at: 9000, into: 3 };
    for (shard, split) in [
        (0, split),
        (1, split),
        (2, Split { at: 8192, into: 3 }),
        (2, Split { at: 16384, into: 3 }),
        (2, Split { into: 4, ..split }),
    ] {
        assert!(after(&mut topology, What::BeginSplit { shard, split }).is_err(), "{shard} {split:?}");
    }
    assert!(after(&mut topology, What::EndSplit { shard: 2, nodes: vec![1, 2, 3] }).is_err());
    after(&mut topology, What::BeginSplit { shard: 2, split }).unwrap();
    assert!(after(&mut topology, What::BeginSplit { shard: 1, split: Split { at: 5, into: 3 } }).is_err());
    after(&mut topology, What::EndSplit { shard: 2, nodes: vec![1, 2, 3] }).unwrap();
    let map = (**topology.map()).clone();
    assert_eq!(map.shards[2].slots, Some(SlotRange { first: 8192, last: 8999 }));
    assert_eq!(map.shards[3].slots, Some(SlotRange { first: 9000, last: 16383 }));
    assert_eq!(map.shards[3].replicas, (1..=3).map(|node| ReplicaInfo { node, core: 1 }).collect::<Vec<_>>());
    assert!(map.shards[3].plan.founders.is_empty() && map.shards[2].plan.split.is_none());
    assert_eq!(
        (&map.shards[2].plan.placed[..], &map.shards[3].plan.placed[..]),
        (&[1, 2, 3][..], &[1, 2, 3][..])
    );
    let routing = map.into_routing().expect("a sound map");
    assert!((0..16384).all(|slot| routing.shard_of_slot(slot).is_some()));
}

#[test]
fn the_map_is_known_as_it_was_within_what_is_remembered() {
    let mut topology = begun();
    let mut maps = vec![(**topology.map()).clone()];
    for step in 0..HISTORY_MIN + FORGOTTEN_AT_ONCE + 10 {
        let nodes = if step.is_multiple_of(2) { [1, 2, 3] } else { [3, 2, 1] };
        after(&mut topology, placed(1, &nodes)).unwrap();
        maps.push((**topology.map()).clone());
    }
    let last = maps.last().unwrap().epoch;
    for map in maps[FORGOTTEN_AT_ONCE..].iter().step_by(31).chain([maps.last().unwrap()]) {
        assert_eq!(topology.at(map.epoch).as_ref(), Some(map));
    }
    let base = topology.base().epoch;
    assert_eq!(base, 1 + u64::try_from(FORGOTTEN_AT_ONCE).unwrap());
    assert_eq!((topology.at(base - 1), topology.at(last + 1)), (None, None));
    assert_eq!(Topology::new(topology.base().clone(), topology.changes.clone()), Ok(topology));
}
