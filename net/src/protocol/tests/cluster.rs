//! Maps, operations on the cluster and accounts of it, at random.

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::map::{NodeInfo, ReplicaInfo, ShardInfo, ShardPlan, SlotRange, Split, decode_map, encode_map};

fn plans() -> impl Strategy<Value = ShardPlan> {
    let nodes = || prop::collection::vec(any::<u64>(), 0..4);
    let split = option::of(any::<(u16, u32)>().prop_map(|(at, into)| Split { at, into }));
    (any::<(u64, bool, u32)>(), nodes(), nodes(), split).prop_map(
        |((epoch, pinned, copies), placed, founders, split)| ShardPlan {
            epoch,
            placed,
            pinned,
            founders,
            copies,
            split,
        },
    )
}

pub(super) fn cluster_ops() -> impl Strategy<Value = ClusterOp> {
    prop_oneof![
        option::of(any::<u64>()).prop_map(|epoch| ClusterOp::Map { epoch }),
        any::<(u64, bool, bool)>().prop_map(|(node, stay, dry_run)| ClusterOp::Leave { node, stay, dry_run }),
        (any::<u32>(), prop::collection::vec(any::<u64>(), 0..4), any::<bool>())
            .prop_map(|(shard, nodes, dry_run)| ClusterOp::Move { shard, nodes, dry_run }),
        any::<bool>().prop_map(|dry_run| ClusterOp::Rebalance { dry_run }),
        (any::<u32>(), option::of(any::<u16>()), any::<bool>())
            .prop_map(|(shard, at, dry_run)| ClusterOp::Split { shard, at, dry_run }),
        maps().prop_filter_map("a map with a node", |map| {
            map.nodes.into_iter().next().map(|node| ClusterOp::Join { node })
        }),
    ]
}

pub(super) fn accounts() -> impl Strategy<Value = ClusterAccount> {
    let nodes = || prop::collection::vec(any::<u64>(), 0..4);
    let moves = || {
        let planned =
            (any::<u32>(), nodes(), nodes()).prop_map(|(shard, from, to)| PlannedMove { shard, from, to });
        prop::collection::vec(planned, 0..3)
    };
    let counts = || prop::collection::btree_map(any::<u64>(), any::<u32>(), 0..3);
    let silent = prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..3);
    let stuck = (any::<u32>(), any::<u64>(), ".{0,12}").prop_map(|(shard, for_ms, why)| StuckShard {
        shard,
        for_ms,
        why,
    });
    let troubles = (prop::collection::vec(stuck, 0..3), prop::collection::vec(any::<u32>(), 0..3));
    (any::<u64>(), option::of(maps()), (moves(), moves()), (counts(), counts()), silent, troubles).prop_map(
        |(epoch, map, (moving, waiting), (replicas, leaders), silent_ms, (stuck, unheard))| ClusterAccount {
            epoch,
            map,
            moving,
            waiting,
            replicas,
            leaders,
            silent_ms,
            stuck,
            unheard,
        },
    )
}

#[test]
fn a_map_stands_by_itself() {
    proptest!(|(map in maps())| {
        prop_assert_eq!(decode_map(&encode_map(&map)).unwrap(), map);
    });
    assert!(decode_map(b"no map").is_err());
}

pub(super) fn maps() -> impl Strategy<Value = ClusterMap> {
    let door = || option::of(".{0,12}");
    let node = (
        any::<u64>(),
        ".{0,12}",
        ".{0,12}",
        any::<u32>(),
        (door(), door(), door()),
        (door(), any::<u32>(), any::<bool>(), any::<u64>()),
    )
        .prop_map(
            |(
                id,
                binary_addr,
                peer_addr,
                cores,
                (resp_addr, resp_cluster_addr, http_addr),
                (zone, weight, leaving, store),
            )| NodeInfo {
                id,
                binary_addr,
                peer_addr,
                cores,
                resp_addr,
                resp_cluster_addr,
                http_addr,
                zone,
                weight,
                leaving,
                store,
            },
        );
    let range = any::<(u16, u16)>().prop_map(|(first, last)| SlotRange { first, last });
    let replica = any::<(u64, u32)>().prop_map(|(node, core)| ReplicaInfo { node, core });
    let shard = (
        any::<u32>(),
        option::of(range),
        prop::collection::vec(replica, 0..4),
        option::of(any::<u64>()),
        plans(),
    )
        .prop_map(|(id, slots, replicas, leader, plan)| ShardInfo { id, slots, replicas, leader, plan });
    (any::<u64>(), prop::collection::vec(node, 0..4), prop::collection::vec(shard, 0..5))
        .prop_map(|(epoch, nodes, shards)| ClusterMap { epoch, nodes, shards })
}
