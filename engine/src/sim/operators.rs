//! Operators of the whole cluster: nodes that join late, leave and come back, shards that are put somewhere by hand or cut
//! in two.
//!
//! A node that is not there at the beginning does what `ringkv serve --join` does: it asks the leader of the meta shard
//! to be taken in, again and again, and starts with the map of a node that has it.

use std::sync::Arc;

use net::map::{ClusterMap, META_SHARD, NodeInfo};
use net::protocol::{ClusterOp, Op, Request};
use net::types::RequestId;

use super::chaos::{ADMIN, Chaos};
use super::oracle::Verdict;
use super::plan::MS;
use super::trace::note;
use super::world::{Happening, World};
use crate::core::{Event, Origin};
use crate::identity::Stage;

/// Time between two requests of a node to be taken in.
const JOIN_PAUSE: u64 = 500 * MS;
/// Shards that are cut off others in a world.
const SPLITS_MAX: u32 = 3;

impl World {
    /// Whether a node was there at the beginning.
    pub(super) fn is_founder(&self, node: usize) -> bool {
        self.nodes[node].id <= self.setup.plan.nodes
    }

    /// Plans when the nodes that are not there at the beginning join.
    pub(super) fn plan_joins(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.is_founder(node) {
                let at = self.streams.members.below(self.setup.plan.length / 2);
                self.after(at, Happening::Chaos(Chaos::Join(node)));
            }
        }
    }

    /// A node asks to be taken in, until it is.
    pub(super) fn join(&mut self, node: usize) -> Verdict {
        if self.nodes[node].has_joined {
            return Ok(());
        }
        let Some(map) = self.map_with(self.nodes[node].id) else {
            let (id, cores) = (self.nodes[node].id, self.setup.plan.cores);
            let info = NodeInfo { id, cores, weight: 1, ..NodeInfo::default() };
            self.operate(ClusterOp::Join { node: info });
            self.after(JOIN_PAUSE, Happening::Chaos(Chaos::Join(node)));
            return Ok(());
        };
        note!(self.now, self.nodes[node].id, 0, "joins");
        self.counts.joined += 1;
        let joining = &mut self.nodes[node];
        joining.has_joined = true;
        joining.directory.stage = Stage::Running;
        joining.map = Some(map);
        self.start_node(node)
    }

    /// The map of a running node that knows the given one.
    pub(super) fn map_with(&self, id: u64) -> Option<Arc<ClusterMap>> {
        let maps = self.nodes.iter().filter(|node| node.up).filter_map(|node| node.map.clone());
        maps.filter(|map| map.node(id).is_some()).max_by_key(|map| map.epoch)
    }

    /// Somebody changes the cluster.
    pub(super) fn operate_somehow(&mut self) {
        let rng = &mut self.streams.members;
        let nodes = self.nodes.len();
        let node = self.nodes[rng.index(nodes)].id;
        let shards = self.oracle.shards();
        let op = match rng.below(5) {
            0 => ClusterOp::Leave { node, stay: false, dry_run: false },
            1 => ClusterOp::Leave { node, stay: true, dry_run: false },
            2 => {
                let shard = u32::try_from(rng.below(u64::from(shards))).expect("few");
                let mut ids: Vec<u64> = self.nodes.iter().map(|node| node.id).collect();
                // Any three of them, in any order; some of which may not be there.
                while ids.len() > 3 {
                    ids.remove(rng.index(ids.len()));
                }
                let turn = rng.index(ids.len());
                ids.rotate_left(turn);
                ClusterOp::Move { shard, nodes: ids, dry_run: false }
            }
            3 if shards <= self.setup.plan.shards + SPLITS_MAX => {
                let shard = 1 + u32::try_from(rng.below(u64::from(shards) - 1)).expect("few");
                ClusterOp::Split { shard, at: None, dry_run: false }
            }
            _ => ClusterOp::Rebalance { dry_run: false },
        };
        self.operate(op);
    }

    /// An operator has a shard cut in two.
    pub(super) fn split_some_shard(&mut self) {
        let shards = self.oracle.shards();
        if shards <= self.setup.plan.shards + SPLITS_MAX {
            let shard = 1 + u32::try_from(self.streams.splits.below(u64::from(shards) - 1)).expect("few");
            self.operate(ClusterOp::Split { shard, at: None, dry_run: false });
        }
    }

    /// Asks the leader of the meta shard for something.
    fn operate(&mut self, op: ClusterOp) {
        let Some(node) = self.leader_of(META_SHARD).filter(|node| self.nodes[*node].up) else { return };
        note!(self.now, self.nodes[node].id, 0, "operator");
        let op = Op::Cluster(op);
        let request = Request { id: RequestId(u64::MAX), shard: META_SHARD, epoch: 1, namespace: 0, op };
        let place = self.place(node, 0);
        self.push(place, Event::Request { origin: Origin { core: 0, connection: ADMIN }, request });
    }

    /// The newest map that a running node has.
    pub(super) fn newest_map(&self) -> &ClusterMap {
        let maps = self.nodes.iter().filter(|node| node.up).filter_map(|node| node.map.as_deref());
        maps.max_by_key(|map| map.epoch).unwrap_or(&self.setup.map)
    }

    /// What is not yet as the cluster map says.
    pub(super) fn misplaced(&self) -> Option<String> {
        let newest = self.newest_map();
        let behind = self.nodes.iter().find(|node| {
            let known = node.map.as_deref().map_or(1, |map| map.epoch);
            node.up && newest.node(node.id).is_some() && known < newest.epoch
        });
        if let Some(node) = behind {
            return Some(format!("node {} has not heard of the map of epoch {}", node.id, newest.epoch));
        }
        if let Some(shard) = newest.shards.iter().find(|shard| shard.plan.split.is_some()) {
            return Some(format!("shard {} is still to be cut in two", shard.id));
        }
        newest.shards.iter().find_map(|shard| {
            let mut placed = shard.plan.placed.clone();
            placed.sort_unstable();
            let voters = crate::placement::voter_nodes(&self.conf_state(shard.id)?);
            let differs = !placed.is_empty() && placed != voters;
            differs
                .then(|| format!("shard {} is placed on {placed:?} and has voters on {voters:?}", shard.id))
        })
    }
}
