use super::*;
use proptest::prelude::*;

fn node(id: u64) -> NodeInfo {
    NodeInfo {
        id,
        binary_addr: format!("n{id}:7050"),
        peer_addr: format!("n{id}:7060"),
        cores: 1,
        ..NodeInfo::default()
    }
}

fn shard(id: u32, slots: Option<(u16, u16)>) -> ShardInfo {
    let replicas = [1, 2, 3].map(|node| ReplicaInfo { node, core: 0 }).to_vec();
    ShardInfo {
        id,
        slots: slots.map(|(first, last)| SlotRange { first, last }),
        replicas,
        leader: Some(1),
        ..ShardInfo::default()
    }
}

fn map(shards: Vec<ShardInfo>) -> ClusterMap {
    ClusterMap { epoch: 3, nodes: vec![node(1), node(2), node(3)], shards }
}

fn even(count: u16) -> ClusterMap {
    let bound = |at: u16| u16::try_from(u32::from(at) * u32::from(SLOT_COUNT) / u32::from(count)).unwrap();
    let mut shards = vec![shard(0, None)];
    for at in (0..count).rev() {
        shards.push(shard(u32::from(at) + 1, Some((bound(at), bound(at + 1) - 1))));
    }
    map(shards)
}

#[test]
fn the_meta_shard_owns_no_slots_and_gaps_belong_to_nobody() {
    let table = map(vec![shard(0, None), shard(1, Some((10, 20))), shard(2, Some((30, 40)))]);
    let table = table.into_routing().unwrap();
    let owner = |slot| table.shard_of_slot(slot).map(|shard| shard.id);
    assert_eq!(
        [9, 10, 20, 21, 29, 30, 40, 41].map(owner),
        [None, Some(1), Some(1), None, None, Some(2), Some(2), None]
    );
}

#[test]
fn contradictions_are_named() {
    let error = |map: ClusterMap| map.into_routing().unwrap_err();
    assert_eq!(error(map(vec![shard(1, None), shard(1, None)])), MapError::DuplicateShard(1));
    assert_eq!(error(map(vec![shard(1, Some((5, 4)))])), MapError::BadRange(1));
    assert_eq!(error(map(vec![shard(1, Some((0, SLOT_COUNT)))])), MapError::BadRange(1));
    let overlapping = map(vec![shard(2, Some((10, 20))), shard(1, Some((0, 10)))]);
    assert_eq!(error(overlapping), MapError::Overlap(1, 2));
    let mut twice = map(vec![]);
    twice.nodes.push(node(2));
    assert_eq!(error(twice), MapError::DuplicateNode(2));
    let mut stranger = map(vec![shard(1, None)]);
    stranger.nodes.pop();
    assert_eq!(error(stranger), MapError::UnknownNode { shard: 1, node: 3 });
}

#[test]
fn a_leader_newer_than_the_replicas_of_its_map_is_believed_if_its_node_is_known() {
    let mut newer = map(vec![shard(1, Some((0, 9))), shard(2, Some((10, 19)))]);
    newer.nodes.push(node(4));
    newer.shards[0].leader = Some(4);
    newer.shards[1].leader = Some(9);
    let mut table = newer.into_routing().unwrap();
    let shard = table.map().shard(1).unwrap();
    assert_eq!((shard.leader, shard.replica_on(4)), (Some(4), Some(ReplicaInfo { node: 4, core: 0 })));
    let shard = table.map().shard(2).unwrap();
    assert_eq!((shard.leader, shard.replicas.len()), (None, 3), "nobody knows node 9");
    assert!(table.set_leader(2, Some(4)));
    assert!(!table.set_leader(2, Some(4)), "nothing new");
    assert_eq!(table.map().shard(2).unwrap().replicas.len(), 4);
}

#[test]
fn only_a_node_of_the_map_can_become_leader() {
    let mut table = even(4).into_routing().unwrap();
    assert!(table.set_leader(2, Some(3)));
    assert!(!table.set_leader(2, Some(3)), "nothing new");
    assert!(!table.set_leader(2, Some(9)), "not a node");
    assert!(!table.set_leader(77, Some(1)), "no such shard");
    assert_eq!(table.map().shard(2).unwrap().leader, Some(3));
    assert!(table.set_leader(2, None));
}

proptest! {
    #[test]
    fn lookup_agrees_with_a_linear_search(count in 1u16..64, slot in 0..SLOT_COUNT) {
        let map = even(count);
        let naive = map.shards.iter().find(|shard| shard.slots.is_some_and(|it| it.contains(slot)));
        let naive = naive.map(|shard| shard.id);
        prop_assert!(naive.is_some());
        let table = map.into_routing().unwrap();
        prop_assert_eq!(table.shard_of_slot(slot).map(|shard| shard.id), naive);
    }
}
