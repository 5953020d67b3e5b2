//! Operations on the cluster as a whole: its nodes, and where its shards are. They are rare, and travel as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DecodeError;
use crate::map::{ClusterMap, NodeInfo};

/// What to do with the cluster. Only the leader of the meta shard can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClusterOp {
    /// Tell the map, and how far what is has come to what should be.
    Map {
        /// As it was at this epoch, without leaders; `None`: as it is.
        epoch: Option<u64>,
    },
    /// Take a node in, or take note that its addresses or its data directory have changed.
    Join {
        /// The node as the others are to know it.
        node: NodeInfo,
    },
    /// Let a node give away all its replicas and forget it, or (with `stay`) let it stay after all.
    Leave {
        /// The node.
        node: u64,
        /// Take an earlier `Leave` back.
        stay: bool,
        /// Only tell what would happen.
        dry_run: bool,
    },
    /// Put a shard on these nodes and keep it there.
    Move {
        /// The shard.
        shard: u32,
        /// The nodes, first the one to lead it.
        nodes: Vec<u64>,
        /// Only tell what would happen.
        dry_run: bool,
    },
    /// Spread all shards evenly, those put somewhere by hand among them.
    Rebalance {
        /// Only tell what would happen.
        dry_run: bool,
    },
    /// Cut a shard in two.
    Split {
        /// The shard.
        shard: u32,
        /// The first slot of the new one; `None`: in the middle.
        at: Option<u16>,
        /// Only tell what would happen.
        dry_run: bool,
    },
}

impl ClusterOp {
    /// Whether it may change anything.
    #[must_use]
    pub fn is_change(&self) -> bool {
        match self {
            ClusterOp::Map { .. } => false,
            ClusterOp::Join { .. } => true,
            ClusterOp::Leave { dry_run, .. }
            | ClusterOp::Move { dry_run, .. }
            | ClusterOp::Rebalance { dry_run }
            | ClusterOp::Split { dry_run, .. } => !dry_run,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data can be written")
    }

    pub(super) fn from_json(json: &[u8]) -> Result<ClusterOp, DecodeError> {
        serde_json::from_slice(json)
            .map_err(|_| DecodeError::Inconsistent { why: "not an operation on the cluster" })
    }
}

/// Where a shard is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The shard.
    pub shard: u32,
    /// The nodes that hold it, first the one that is to lead.
    pub from: Vec<u64>,
    /// The nodes that are to hold it.
    pub to: Vec<u64>,
}

/// A shard that should be elsewhere and does not get there, or that has lost its majority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckShard {
    /// The shard.
    pub shard: u32,
    /// For how long nothing has changed.
    pub for_ms: u64,
    /// What it waits for, in words.
    pub why: String,
}

/// The answer to a [`ClusterOp`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterAccount {
    /// The epoch of the map: with the change, if there was one.
    pub epoch: u64,
    /// The map asked for, or with the change in it.
    pub map: Option<ClusterMap>,
    /// The shards whose replicas are on their way.
    pub moving: Vec<PlannedMove>,
    /// The shards whose turn has yet to come.
    pub waiting: Vec<PlannedMove>,
    /// Replicas of user shards by node, as their leaders report them.
    pub replicas: BTreeMap<u64, u32>,
    /// Leaderships of user shards by node, as the leaders report them.
    pub leaders: BTreeMap<u64, u32>,
    /// For how long each silent node has not been heard, in milliseconds.
    pub silent_ms: BTreeMap<u64, u64>,
    /// The shards that do not get on.
    #[serde(default)]
    pub stuck: Vec<StuckShard>,
    /// The shards of which no leader has been heard.
    #[serde(default)]
    pub unheard: Vec<u32>,
}

impl ClusterAccount {
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data can be written")
    }

    pub(super) fn from_json(json: &[u8]) -> Result<ClusterAccount, DecodeError> {
        serde_json::from_slice(json)
            .map_err(|_| DecodeError::Inconsistent { why: "not an account of the cluster" })
    }
}
