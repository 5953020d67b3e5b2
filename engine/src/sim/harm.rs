//! Disks that lose what was flushed: whole nodes wiped, and damage in the middle of a log. Only where the others can
//! make up for it: of no group more than one member is ever lost at a time, and never more than a minority.

use std::collections::BTreeSet;

use raft::{ConfState, NodeId};
use wal::disk::sim::SimDisk;
use wal::{StreamId, Wal, WalConfig};

use super::trace::note;
use super::world::World;
use crate::replica_id;

impl World {
    /// Whether a node may lose its data now: every group has a leader, no group counts on a replica that was lost before,
    /// all groups have a majority without this node and will have, and all others know the present members for good. (Who
    /// has just committed that a lost replica is gone may be the only one to know; without it, the others count on two that
    /// are lost.)
    pub(super) fn may_lose(&self, node: usize) -> bool {
        let id = self.nodes[node].id;
        (0..self.oracle.shards()).all(|shard| {
            let Some(conf_state) = self.conf_state(shard) else { return false };
            if !self.is_known_for_good(shard, &conf_state, id) || self.oracle.has_open_change(shard) {
                return false;
            }
            let outlives = |voters: &[NodeId]| {
                let left = voters.iter().filter(|voter| replica_id::node_of(voter.0) != id).count();
                voters.is_empty() || left > voters.len() / 2
            };
            self.lost_voters(shard, &conf_state).next().is_none()
                && outlives(&conf_state.voters)
                && outlives(&conf_state.voters_outgoing)
        })
    }

    /// Whether an operator who knows what was lost would take a node out of a group: not while another member is lost and
    /// not replaced, for who is left may then be too few.
    pub(super) fn may_remove(&self, shard: u32, node: u64) -> bool {
        self.conf_state(shard).is_none_or(|conf_state| {
            self.lost_voters(shard, &conf_state).all(|voter| replica_id::node_of(voter.0) == node)
        })
    }

    /// The voters of a group whose data are lost.
    fn lost_voters<'a>(&self, shard: u32, conf_state: &'a ConfState) -> impl Iterator<Item = &'a NodeId> {
        let voters = conf_state.voters.iter().chain(&conf_state.voters_outgoing);
        voters.filter(move |voter| self.lost.contains(&(shard, voter.0)))
    }

    /// Whether all voters but those of a node have durably applied the present configuration.
    fn is_known_for_good(&self, shard: u32, conf_state: &ConfState, except: u64) -> bool {
        let core = crate::placement::core_of(shard, self.setup.plan.cores);
        let core = usize::try_from(core).expect("few cores");
        let changed_at = self.oracle.last_conf_change(shard);
        let mut voters = conf_state.voters.iter().chain(&conf_state.voters_outgoing);
        voters.all(|voter| {
            let node = replica_id::node_of(voter.0);
            let place = usize::try_from(node - 1).expect("few nodes");
            let running = self.nodes[place].cores[core].running.as_ref();
            node == except
                || running.and_then(|running| running.replica(shard)).is_some_and(|replica| {
                    let durable = replica.engine.applied_durable().map_or(0, |applied| applied.index);
                    replica.raft.id() == *voter
                        && replica.raft.conf_state() == *conf_state
                        && changed_at <= durable
                })
        })
    }

    /// The members of a group, as its leader knows them.
    pub(super) fn conf_state(&self, shard: u32) -> Option<ConfState> {
        let core = crate::placement::core_of(shard, self.setup.plan.cores);
        let core = usize::try_from(core).expect("few cores");
        let replicas = self.nodes.iter().filter_map(|node| node.cores[core].running.as_ref()?.replica(shard));
        let leaders = replicas.filter(|replica| replica.raft.is_leader());
        leaders.max_by_key(|leader| leader.raft.term()).map(|leader| leader.raft.conf_state())
    }

    /// Perhaps costs a node that is down some of its data.
    pub(super) fn harm(&mut self, node: usize) {
        if self.streams.disk.chance(self.setup.plan.disk.wipe) {
            note!(self.now, self.nodes[node].id, 0, "wipe");
            self.counts.wiped += 1;
            for core in 0..self.nodes[node].cores.len() {
                self.lose_core(node, core);
            }
            self.nodes[node].wipe(&self.setup.plan, &mut self.streams.disk);
        } else if self.streams.disk.chance(self.setup.plan.disk.damage) {
            let core = self.streams.disk.index(self.nodes[node].cores.len());
            self.damage(node, core);
        }
    }

    /// Counts the replicas of a core as lost.
    fn lose_core(&mut self, node: usize, core: usize) {
        let node = &self.nodes[node];
        let ids = node.cores[core]
            .engines
            .keys()
            .map(|(shard, generation)| (*shard, replica_id::raft_id(node.id, *generation)));
        self.lost.extend(ids);
    }

    /// Whether recovery tells all that a disk has lost against the one that a core has now: each stream is as it was, or
    /// known to be damaged.
    fn is_noticed(&self, node: usize, core: usize, config: &WalConfig, mut damaged: SimDisk) -> bool {
        let whole =
            self.nodes[node].cores[core].disk.clone().recover(config).expect("nothing happened to it");
        let Ok(found) = damaged.recover(config) else { return false };
        let known: BTreeSet<StreamId> =
            found.damage.iter().flat_map(|damage| damage.streams.iter().copied()).collect();
        let (whole, found) = (Wal::new(config.clone(), whole), Wal::new(config.clone(), found));
        let is_as_it_was = |stream: StreamId| {
            found.contains(stream)
                && found.last_index(stream) == whole.last_index(stream)
                && found.state(stream) == whole.state(stream)
        };
        !known.is_empty() && whole.streams().all(|stream| known.contains(&stream) || is_as_it_was(stream))
    }

    /// Damages what was flushed, if recovery can tell that from a write that was under way at the crash. Damage to the very
    /// end of a log cannot be told from that, which is why a log at rest is sealed.
    fn damage(&mut self, node: usize, core: usize) {
        let id = self.nodes[node].id;
        let config = self.setup.wal_config(id, u32::try_from(core).expect("few cores"));
        let rng = &mut self.streams.disk;
        let mut disk = self.nodes[node].cores[core].disk.clone();
        let files: Vec<_> = disk.files().map(|(segment, bytes)| (segment, bytes.len())).collect();
        if files.is_empty() {
            return;
        }
        let (segment, len) = *rng.pick(&files);
        match rng.below(4) {
            0 => disk.lose_file(segment),
            1 => disk.misdirect(segment, rng.index(len), rng.index(len)),
            _ => {
                for _ in 0..rng.between(1, 16) {
                    let (offset, bit) = (rng.index(len), rng.below(8));
                    let offset = u64::try_from(offset).expect("64-bit machine");
                    disk.flip_bit(segment, offset, u8::try_from(bit).expect("below 8"));
                }
            }
        }
        if self.is_noticed(node, core, &config, disk.clone()) {
            note!(self.now, id, u32::try_from(core).expect("few"), "damage", segment = segment.0);
            self.counts.damaged += 1;
            self.nodes[node].cores[core].disk = disk;
            self.lose_core(node, core);
        }
    }
}
