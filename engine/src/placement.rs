//! Where shards live: slot ranges, replica sets, cores and preferred leaders.
//!
//! The first placement is static: every shard begins with `cluster.replicas` replicas on as many nodes, which go round
//! from shard to shard, as do the preferred leaders; replicas spread over the cores of each node. All nodes derive the
//! same map from the same configuration.

use net::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, ShardPlan, SlotRange};
use net::slot::SLOT_COUNT;

use crate::config::{ClusterNode, Config};
use crate::replica_id;

pub mod plan;

/// The shard that holds the cluster map itself, and no user keys.
pub const META_SHARD: u32 = 0;

/// The slots of user shard `shard` (from 1) when `shards` of them split all slots evenly.
pub fn slot_range(shard: u32, shards: u32) -> (u16, u16) {
    assert!(shard >= 1 && shard <= shards, "user shards are numbered from 1");
    let bound = |position: u32| u64::from(position) * u64::from(SLOT_COUNT) / u64::from(shards);
    let slot = |slot: u64| u16::try_from(slot).expect("below 16384");
    (slot(bound(shard - 1)), slot(bound(shard) - 1))
}

/// The core that hosts a shard's replica on a node with this many cores.
pub fn core_of(shard: u32, cores: u32) -> u32 {
    shard % cores
}

/// The node that should lead a shard when all are well: round the nodes, so that leaders spread evenly.
pub fn preferred_leader(shard: u32, nodes: &[u64]) -> u64 {
    *nodes.iter().min_by_key(|node| leader_rank(shard, **node, nodes)).expect("a cluster has nodes")
}

/// A node's turn to lead a shard, from 0 for the preferred leader. The turns after it go round differently from shard to
/// shard, so that the shards of a lost node spread over all that are left.
pub fn leader_rank(shard: u32, node: u64, nodes: &[u64]) -> usize {
    let place = nodes.iter().position(|other| *other == node).expect("a node of the cluster");
    let shard = usize::try_from(shard).expect("64-bit machine");
    match (place + nodes.len() - shard % nodes.len()) % nodes.len() {
        0 => 0,
        after => 1 + (after - 1 + shard / nodes.len()) % (nodes.len() - 1),
    }
}

/// The nodes that vote, by their turn to lead: as the controller has placed them, or by their rank where it has not.
pub fn ranked(shard: u32, members: &raft::ConfState, placed: &[u64]) -> Vec<u64> {
    let all = voter_nodes(members);
    let mut nodes = all.clone();
    nodes.sort_by_key(|node| match placed.iter().position(|other| other == node) {
        Some(turn) => (0, turn),
        None => (1, leader_rank(shard, *node, &all)),
    });
    nodes
}

/// How early a node stands for election, by its turn among the nodes that vote: see [`raft::Config::priority`].
pub fn priority(node: u64, ranked: &[u64]) -> u8 {
    let Some(turn) = ranked.iter().position(|other| *other == node) else { return 0 };
    let below = turn * (usize::from(u8::MAX) / ranked.len());
    u8::MAX - u8::try_from(below).expect("a turn is below the number of nodes")
}

/// The cluster map of a configuration; leaders are not known yet.
pub fn cluster_map(config: &Config) -> ClusterMap {
    let nodes: Vec<NodeInfo> = config.cluster.nodes.iter().map(node_info).collect();
    let shards = (META_SHARD..=config.cluster.shards)
        .map(|id| ShardInfo {
            id,
            slots: (id != META_SHARD).then(|| {
                let (first, last) = slot_range(id, config.cluster.shards);
                SlotRange { first, last }
            }),
            replicas: founding_nodes(&nodes, config.cluster.replicas, id)
                .map(|node| ReplicaInfo { node: node.id, core: core_of(id, node.cores) })
                .collect(),
            leader: None,
            plan: founding_plan(founding_nodes(&nodes, config.cluster.replicas, id)),
        })
        .collect();
    ClusterMap { epoch: 1, nodes, shards }
}

/// A node of the configuration, as a map has it.
pub fn node_info(node: &ClusterNode) -> NodeInfo {
    NodeInfo {
        id: node.id,
        binary_addr: node.binary.clone(),
        peer_addr: node.peer.clone(),
        cores: node.cores,
        resp_addr: node.resp.clone(),
        resp_cluster_addr: node.resp_cluster.clone(),
        http_addr: node.http.clone(),
        zone: node.zone.clone(),
        weight: node.weight,
        ..NodeInfo::default()
    }
}

/// Whether a shard has, or is to have, a replica on a node.
pub fn is_placed(shard: &ShardInfo, node: u64) -> bool {
    shard.replica_on(node).is_some() || shard.plan.placed.contains(&node)
}

fn founding_plan<'a>(founders: impl Iterator<Item = &'a NodeInfo>) -> ShardPlan {
    let founders: Vec<u64> = founders.map(|node| node.id).collect();
    let copies = u32::try_from(founders.len()).expect("nodes are numbered in 20 bits");
    ShardPlan { epoch: 1, founders, copies, ..ShardPlan::default() }
}

/// The nodes that a shard begins on, in the order of their ids; `replicas` 0 stands for all.
fn founding_nodes(nodes: &[NodeInfo], replicas: u32, shard: u32) -> impl Iterator<Item = &NodeInfo> {
    let wide = |number: u32| usize::try_from(number).expect("64-bit machine");
    let count = if replicas == 0 { nodes.len() } else { wide(replicas) };
    let first = wide(shard) % nodes.len();
    let chosen = move |place: usize| (place + nodes.len() - first) % nodes.len() < count;
    nodes.iter().enumerate().filter(move |(place, _)| chosen(*place)).map(|(_, node)| node)
}

/// The members of a shard's group when it begins from an empty log: a replica of the founding generation on each of its
/// nodes. Nobody for a shard that does not, or that the map does not know: its replicas begin with a snapshot.
pub fn founders(map: &ClusterMap, shard: u32) -> raft::ConfState {
    let founders = map.shard(shard).map_or(&[][..], |info| &info.plan.founders);
    let id = |node: &u64| raft::NodeId(replica_id::raft_id(*node, replica_id::FOUNDING));
    raft::ConfState { voters: founders.iter().map(id).collect(), ..raft::ConfState::default() }
}

/// The nodes whose replicas vote, or will once a change under way is done; in order.
pub fn voter_nodes(members: &raft::ConfState) -> Vec<u64> {
    let mut nodes: Vec<u64> = members.voters.iter().map(|id| replica_id::node_of(id.0)).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_slot_once() {
        for shards in [1, 2, 3, 16, 17, 1000, 4096] {
            let mut next = 0;
            for shard in 1..=shards {
                let (first, last) = slot_range(shard, shards);
                assert_eq!(u32::from(first), next, "shard {shard} of {shards}");
                assert!(last >= first);
                next = u32::from(last) + 1;
            }
            assert_eq!(next, u32::from(SLOT_COUNT));
        }
    }

    #[test]
    fn shards_begin_on_as_many_nodes_as_wanted_and_spread_over_all() {
        let nodes: Vec<NodeInfo> = (1..=4)
            .map(|id| NodeInfo {
                id,
                binary_addr: String::new(),
                peer_addr: String::new(),
                cores: 1,
                ..NodeInfo::default()
            })
            .collect();
        let on = |replicas, shard| -> Vec<u64> {
            founding_nodes(&nodes, replicas, shard).map(|node| node.id).collect()
        };
        assert_eq!([on(3, 0), on(3, 1), on(3, 2), on(3, 3)], [[1, 2, 3], [2, 3, 4], [1, 3, 4], [1, 2, 4]]);
        assert_eq!((on(0, 5), on(1, 5)), (vec![1, 2, 3, 4], vec![2]));
    }

    #[test]
    fn leaders_and_cores_spread_evenly() {
        let nodes = [1, 2, 3];
        let mut led = [0; 4];
        for shard in 1..=15 {
            led[usize::try_from(preferred_leader(shard, &nodes)).unwrap()] += 1;
        }
        assert_eq!(led, [0, 5, 5, 5]);
        // Node 1 is lost: half of its shards go to each of the others.
        let heirs = |heir| {
            let inherits =
                |shard: &u32| leader_rank(*shard, 1, &nodes) == 0 && leader_rank(*shard, heir, &nodes) == 1;
            (0..12).filter(inherits).count()
        };
        assert_eq!((heirs(2), heirs(3)), (2, 2));
        assert_eq!([0, 1, 2].map(|turn| priority(nodes[turn], &nodes)), [255, 170, 85]);
        assert_eq!((priority(9, &[9]), priority(8, &[9])), (255, 0));
        let voters = nodes.iter().map(|node| raft::NodeId(replica_id::raft_id(*node, 0))).collect();
        let members = raft::ConfState { voters, ..raft::ConfState::default() };
        assert_eq!(ranked(1, &members, &[]), [2, 3, 1]);
        assert_eq!(ranked(1, &members, &[3, 9, 1]), [3, 1, 2], "who is elsewhere leads last");
        assert_eq!((0..8).map(|shard| core_of(shard, 4)).collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1, 2, 3]);
    }
}
