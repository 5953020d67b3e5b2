//! What a node is to its cluster, found out before it opens anything: a founder, a replacement, or one that joins; and the
//! map that it starts with.

use std::sync::Arc;

use net::map::{ClusterMap, NodeInfo};

use super::{ServeError, start_failed};
use crate::bootstrap::Decision;
use crate::config::Config;
use crate::driver::{self, Doors};
use crate::identity::{DataDir, Stage};
use crate::placement;

/// Settles the data directory if it is new, and gives the map that the node starts with. `join` are binary doors of a
/// cluster to join; none for a node that founds its cluster, or is in it.
pub(super) fn enter(
    config: &Arc<Config>,
    data: &DataDir,
    doors: &Doors,
    join: Vec<String>,
) -> Result<ClusterMap, ServeError> {
    let node = config.node.id;
    let (known, is_lost) = match data.map() {
        // What is damaged can be asked for again, from those whom the operator names.
        Err(error) if !join.is_empty() => {
            tracing::warn!(%error, "asking the cluster for its map again");
            (None, true)
        }
        known => (known?, false),
    };
    let is_new = data.stage() == Stage::New;
    let is_in = known.as_ref().is_some_and(|map| map.node(node).is_some());
    let alone = || ServeError::Alone { path: config.node.data_dir.clone() };
    match known {
        Some(map) if is_in => {
            if is_new {
                settle_joined(config, data, &map)?;
            } else if !join.is_empty() && map.nodes.len() == 1 {
                return Err(alone());
            } else if !join.is_empty() {
                tracing::info!(node, "this node is in the cluster already: --join is not needed any more");
            }
            Ok(map)
        }
        Some(_) if join.is_empty() => Err(ServeError::Left { node }),
        None if join.is_empty() => {
            if is_new {
                found(config, data, doors)?;
            }
            Ok(placement::cluster_map(config))
        }
        None if !is_new && !is_lost && config.cluster.nodes.len() == 1 => Err(alone()),
        _ => ask_in(config, data, join),
    }
}

/// The node as the others are to know it.
pub(crate) fn own_entry(config: &Config, store: u64) -> NodeInfo {
    NodeInfo { store, ..placement::node_info(config.this_node()) }
}

fn ask_in(config: &Arc<Config>, data: &DataDir, join: Vec<String>) -> Result<ClusterMap, ServeError> {
    let own = own_entry(config, data.standing().store.0);
    let node = own.id;
    let map = driver::join::run(config.clone(), own, join)
        .map_err(|error| start_failed("an executor", &error))?
        .map_err(|why| ServeError::NotTakenIn { node, why })?;
    // A crash from here on finds the map, and goes on with it.
    data.save_map(&map)?;
    if data.stage() == Stage::New {
        settle_joined(config, data, &map)?;
    }
    tracing::info!(node, epoch = map.epoch, nodes = map.nodes.len(), "the cluster has taken this node in");
    Ok(map)
}

/// Takes note that the node is in, and whether the cluster knew it with another data directory.
fn settle_joined(config: &Config, data: &DataDir, map: &ClusterMap) -> Result<(), ServeError> {
    let node = config.node.id;
    let lost = map.shards.iter().any(|shard| placement::is_placed(shard, node));
    if lost {
        tracing::warn!(node, data_dir = %config.node.data_dir.display(),
            "the cluster has replicas on this node: this data directory takes the place of a lost one, and its replicas get \
             their data from the other nodes");
    }
    data.settle_joined(lost)?;
    Ok(())
}

/// Finds out, before the first start of a data directory, what the node is to the cluster of the configuration.
fn found(config: &Arc<Config>, data: &DataDir, doors: &Doors) -> Result<(), ServeError> {
    let replicas = config.cluster.replicas;
    if replicas > 1 && config.cluster.nodes.len() == 1 {
        return Err(ServeError::TooFewNodes { replicas });
    }
    let door = doors.peer.try_clone().map_err(|error| start_failed("the peer door", &error))?;
    let decision = driver::bootstrap::run(config.clone(), data.standing(), door)
        .map_err(|error| start_failed("an executor", &error))?;
    let (stage, founders) = match decision {
        Decision::Founder { founders } => {
            tracing::info!(node = config.node.id, nodes = ?founders.keys(), "the cluster begins with these nodes");
            (Stage::Founding, founders)
        }
        Decision::Replacement { founders } => {
            tracing::warn!(node = config.node.id, data_dir = %config.node.data_dir.display(),
                "the cluster knows this node with another data directory: this one takes the place of the lost one, \
                 and its replicas get their data from the other nodes");
            (Stage::Replacing, founders)
        }
        Decision::Wait { .. } => unreachable!("asked until it is decided"),
    };
    data.settle(stage, &founders)?;
    Ok(())
}
