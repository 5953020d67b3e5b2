use proptest::prelude::*;

use super::super::tests::{founding, node, whats};
use super::super::{Place, Topology};
use super::*;
use net::map::Split;

proptest! {
    #[test]
    fn a_copy_that_follows_changes_is_the_map_and_knows_its_digest(
        whats in prop::collection::vec(whats(), 1..60),
        came in 0..60usize,
    ) {
        let found = Change { epoch: 1, what: What::Found(Box::new(founding())) };
        let mut topology = Topology::found(&found).unwrap();
        let mut copy = founding();
        let mut recent = Recent::of(&copy);
        let mut behind = None;
        for (step, what) in whats.into_iter().enumerate() {
            if step == came {
                behind = Some((copy.clone(), Recent::of(&copy)));
            }
            let change = Change { epoch: copy.epoch + 1, what };
            let before = copy.clone();
            let accepted = topology.apply(&change).map(drop);
            let touched = recent.apply(&mut copy, &change);
            prop_assert_eq!(touched.as_ref().map(drop), accepted.as_ref().copied());
            prop_assert_eq!(&copy, &**topology.map());
            prop_assert_eq!(recent.digest(), digest(&copy));
            if let Ok(touched) = touched {
                untouched_is_as_it_was(&before, &copy, &touched)?;
            }
        }
        if let Some((mut map, mut digests)) = behind
            && let Some(changes) = recent.since(map.epoch, &copy)
        {
            for sent in changes {
                prop_assert_eq!(sent.digest, digests.digest());
                digests.apply(&mut map, &Change::decode(&sent.change).unwrap()).unwrap();
            }
            prop_assert_eq!(map, copy);
        }
    }
}

fn untouched_is_as_it_was(
    before: &ClusterMap,
    after: &ClusterMap,
    touched: &Touched,
) -> Result<(), TestCaseError> {
    // Who holds replicas is not decided; a node that has left is listed nowhere.
    let (after, before) = (decided(after), decided(before));
    for shard in after.shards.iter().filter(|shard| !touched.shards.contains(&shard.id)) {
        prop_assert_eq!(Some(shard), before.shard(shard.id));
    }
    for node in after.nodes.iter().chain(&before.nodes).filter(|node| !touched.nodes.contains(&node.id)) {
        prop_assert_eq!(after.node(node.id), before.node(node.id));
    }
    Ok(())
}

/// A map in which everything that is decided differs from the default, and the next one in one thing each.
#[test]
fn maps_that_differ_have_different_digests() {
    let map = founding();
    let changes: Vec<fn(&mut ClusterMap)> = vec![
        |map| map.nodes[0].id = 9,
        |map| map.nodes[0].binary_addr.push('0'),
        |map| map.nodes[0].peer_addr.push('0'),
        |map| map.nodes[0].cores += 1,
        |map| map.nodes[0].resp_addr = Some(String::new()),
        |map| map.nodes[0].resp_cluster_addr = Some(String::new()),
        |map| map.nodes[0].http_addr = Some(String::new()),
        |map| map.nodes[0].zone = Some(String::new()),
        |map| map.nodes[0].weight += 1,
        |map| map.nodes[0].leaving = true,
        |map| map.nodes[0].store = 7,
        |map| drop(map.nodes.pop()),
        |map| drop(map.shards.pop()),
        |map| map.shards[1].id = 9,
        |map| map.shards[1].slots = None,
        |map| map.shards[1].slots.as_mut().unwrap().last -= 1,
        |map| map.shards[1].plan.epoch += 1,
        |map| map.shards[1].plan.placed = vec![1, 2, 3],
        |map| map.shards[1].plan.placed = vec![2, 1, 3],
        |map| map.shards[1].plan.placed = std::mem::take(&mut map.shards[1].plan.founders),
        |map| map.shards[1].plan.pinned = true,
        |map| map.shards[1].plan.founders.truncate(2),
        |map| map.shards[1].plan.copies += 1,
        |map| map.shards[1].plan.split = Some(Split { at: 0, into: 0 }),
        |map| map.shards.swap(1, 2),
    ];
    let mut seen = vec![digest(&map)];
    let last = changes.len() - 1;
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = map.clone();
        change(&mut other);
        let found = digest(&other);
        assert_eq!(seen.contains(&found), number == last, "change {number}: only the order does not matter");
        seen.push(found);
    }
    let mut other = map.clone();
    other.shards[1].replicas.clear();
    other.shards[1].leader = Some(2);
    assert_eq!(digest(&other), digest(&map), "what is seen is not decided");
    assert_ne!(other, map);
    assert_eq!(decided(&other), decided(&map));
}

#[test]
fn what_is_remembered_is_bounded_and_never_longer_than_the_map() {
    let mut map = founding();
    let mut recent = Recent::of(&map);
    let place = |map: &mut ClusterMap, recent: &mut Recent, nodes: &[u64]| {
        let what = What::Place(vec![Place { shard: 1, nodes: nodes.to_vec(), pinned: false }]);
        recent.apply(map, &Change { epoch: map.epoch + 1, what }).unwrap();
    };
    for step in 0..MAP_CHANGES_MAX + 7 {
        place(&mut map, &mut recent, if step.is_multiple_of(2) { &[1, 2, 3] } else { &[3, 2, 1] });
    }
    assert_eq!(recent.changes.len(), MAP_CHANGES_MAX);
    assert_eq!(recent.bytes, recent.changes.iter().map(|change| change.change.len()).sum::<usize>());
    assert_eq!(recent.since(map.epoch + 1, &map), None, "of a node that is ahead nothing is known");
    assert_eq!(recent.since(map.epoch, &map), Some(Vec::new()));
    assert_eq!(recent.since(map.epoch - 2, &map).map(|changes| changes.len()), Some(2));
    assert_eq!(recent.since(map.epoch - 20, &map), None, "the map of six parts is shorter");
    // In a large map more is worth sending, as far as it is remembered.
    map.shards.resize_with(10_000, ShardInfo::default);
    let all = u64::try_from(MAP_CHANGES_MAX).unwrap();
    assert_eq!(recent.since(map.epoch - all, &map).map(|changes| changes.len()), Some(MAP_CHANGES_MAX));
    assert_eq!(recent.since(map.epoch - all - 1, &map), None);
    // One change that is too long for all that may be remembered: nothing is.
    let zone = Some("z".repeat(BYTES_MAX));
    let what = What::PutNode(NodeInfo { zone, ..node(4) });
    let change = Change { epoch: map.epoch + 1, what };
    recent.apply(&mut map, &change).unwrap();
    assert_eq!((recent.changes.len(), recent.bytes), (0, 0));
    assert_eq!(recent.since(map.epoch - 1, &map), None);
}
