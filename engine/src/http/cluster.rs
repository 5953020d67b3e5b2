//! The cluster map as JSON.

use net::map::ClusterMap;
use serde_json::{Value, json};

/// Nodes, shards and leaders, as node `own` knows them.
pub fn describe(map: &ClusterMap, cluster: &str, own: u64) -> Value {
    let nodes = map.nodes.iter().map(|node| {
        json!({
            "id": node.id,
            "binary": node.binary_addr,
            "peer": node.peer_addr,
            "resp": node.resp_addr,
            "resp_cluster": node.resp_cluster_addr,
            "http": node.http_addr,
            "cores": node.cores,
        })
    });
    let shards = map.shards.iter().map(|shard| {
        json!({
            "id": shard.id,
            "slots": shard.slots.map(|slots| [slots.first, slots.last]),
            "replicas": shard.replicas.iter().map(|replica| replica.node).collect::<Vec<u64>>(),
            "leader": shard.leader,
        })
    });
    json!({
        "cluster": cluster,
        "node": own,
        "epoch": map.epoch,
        "nodes": nodes.collect::<Vec<Value>>(),
        "shards": shards.collect::<Vec<Value>>(),
    })
}

/// The shards that have no leader as far as this node knows.
pub fn leaderless(map: &ClusterMap) -> Vec<u32> {
    map.shards.iter().filter(|shard| shard.leader.is_none()).map(|shard| shard.id).collect()
}
