//! The cluster map on its way through the cluster: each epoch costs about as much as it changes.
//!
//! ```text
//!   meta shard applies changes ─▶ take ─▶ MapChanged: to the sibling cores, and now and then to disk
//!                                   └─▶ MapEpoch to every node ─▶ who is behind says so ─▶ MapChanges ─▶ take
//!                                                                                      └─▶ Map ─▶ adopt
//! ```
//!
//! The first cores of the nodes talk to each other; what they learn they tell their siblings. Who is ahead sends the changes
//! that the other lacks, or the whole map if it does not remember them all. A change comes with the digest of the map it was
//! made to: a node whose own map has another one asks for the whole map.
//!
//! Invariants:
//! - a map is only ever replaced by one of a higher epoch;
//! - what is decided in the map of an epoch is the same on every core of every node, that of the meta shard's log.

use std::collections::BTreeMap;
use std::sync::Arc;

use net::map::{ClusterMap, META_SHARD, ReplicaInfo, decode_map, encode_map};
use net::peer::{GroupBody, GroupMessage, MapChange, ShardReport};
use raft::Nanos;

use super::effect::MapNews;
use super::{Core, Effect, usize_of};
use crate::placement;
use crate::topology::{Change, ChangeError, Recent, Touched};

/// How long a node waits for an answer before it asks again.
const ASK_PAUSE: Nanos = Nanos::from_millis(200);
/// Nodes that are told at once of an epoch that was heard of, not decided here: all of them hear it from those who have it
/// from the log, unless messages are lost.
const TOLD_ON: usize = 8;
/// The epoch of the map in the configuration, which may tell each node another one.
const CONFIGURED: u64 = 1;

/// How this core keeps up with the map.
pub(super) struct Epochs {
    recent: Recent,
    /// The newest epoch heard of, and a node that has it.
    newest: (u64, u64),
    /// When the next question may be asked: one at a time, for answers may be long.
    ask_at: Nanos,
}

impl Epochs {
    pub fn of(map: &ClusterMap) -> Epochs {
        Epochs { recent: Recent::of(map), newest: (0, 0), ask_at: Nanos::ZERO }
    }
}

impl Core {
    /// Takes a whole map that is newer than this core's.
    pub(super) fn adopt(&mut self, map: &Arc<ClusterMap>) {
        if map.epoch <= self.map.epoch {
            return;
        }
        let former = std::mem::replace(&mut self.map, (**map).clone());
        tracing::info!(from = former.epoch, to = map.epoch, nodes = map.nodes.len(), "a newer cluster map");
        self.epochs.recent = Recent::of(&self.map);
        self.grow();
        self.keep_members(&former);
        self.follow_nodes();
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_ref() else { continue };
            let shard = replica.id.shard;
            let before = former.shard(shard).map(|info| &info.plan);
            // A shard that was just cut off another is not in the map yet.
            let now = self.map.shards.get(position).map(|info| &info.plan);
            if now.is_some() && before != now {
                self.follow_membership(shard);
                self.wake(shard);
            }
        }
        // What was reported of shards that this core has only now heard of.
        let known: Vec<ShardReport> = self.standing.reports.values().cloned().collect();
        known.iter().for_each(|report| self.note_report(report));
        self.go_by(MapNews::Whole(map.clone()));
    }

    /// Who belongs to the groups is what this core knew before it took a new map, as far as the nodes are still there.
    fn keep_members(&mut self, former: &ClusterMap) {
        let cores: BTreeMap<u64, u32> = self.map.nodes.iter().map(|node| (node.id, node.cores)).collect();
        for (shard, before) in self.map.shards.iter_mut().zip(&former.shards) {
            let replica = |replica: &ReplicaInfo| {
                let core = placement::core_of(shard.id, *cores.get(&replica.node)?);
                Some(ReplicaInfo { node: replica.node, core })
            };
            shard.replicas = before.replicas.iter().filter_map(replica).collect();
        }
    }

    /// Takes the changes of a list that this core's map lacks, up to the first that does not fit it.
    pub(super) fn take(&mut self, changes: &[Change]) -> Result<(), ChangeError> {
        let former = self.map.epoch;
        let mut taken = Vec::new();
        let mut result = Ok(());
        for change in changes.iter().filter(|change| change.epoch > former) {
            let shards = self.map.shards.len();
            match self.epochs.recent.apply(&mut self.map, change) {
                Ok(touched) => {
                    self.grow();
                    // A new shard may be the first that this core shares with one of another node.
                    if !touched.nodes.is_empty() || self.map.shards.len() > shards {
                        self.follow_nodes();
                    }
                    self.follow_change(&touched);
                    taken.push(change.clone());
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if !taken.is_empty() {
            tracing::info!(from = former, to = self.map.epoch, "the cluster map has changed");
            self.go_by(MapNews::Changes(taken.into()));
        }
        result
    }

    /// What follows from a change of the map that has just been made.
    fn follow_change(&mut self, touched: &Touched) {
        let mut shards = touched.shards.clone();
        for node in &touched.nodes {
            // Reports may have named it before the map did.
            let names = |report: &&ShardReport| {
                report.leader == *node || report.voters.contains(node) || report.learners.contains(node)
            };
            shards.extend(self.standing.reports.values().filter(names).map(|report| report.shard));
            let members = self.replicas.iter().flatten();
            let holds = members.filter(|replica| replica.member_nodes().contains(node));
            shards.extend(holds.map(|replica| replica.id.shard));
        }
        for shard in shards {
            if self.replicas.get(usize_of(shard)).is_some_and(Option::is_some) {
                self.follow_membership(shard);
                self.wake(shard);
            }
            if let Some(report) = self.standing.reports.get(&shard).cloned() {
                self.note_report(&report);
            }
        }
    }

    /// This core goes by a newer map from now on.
    fn go_by(&mut self, news: MapNews) {
        self.status_due = true;
        self.epochs.ask_at = Nanos::ZERO;
        self.effects.push(Effect::MapChanged(news));
    }

    fn follow_nodes(&mut self) {
        let here = (self.config.node, self.config.core, self.config.cores);
        self.outbox.follow(&self.map, here, self.now);
    }

    /// Makes room for the shards of the map.
    fn grow(&mut self) {
        let shards = self.map.shards.len();
        self.replicas.resize_with(shards.max(self.replicas.len()), || None);
        self.is_touched.resize(self.replicas.len(), false);
        self.leaders.resize(self.replicas.len(), 0);
        for id in self.founders.len()..shards {
            let id = u32::try_from(id).expect("shards are numbered in 20 bits");
            self.founders.push(placement::founders(&self.map, id));
        }
    }

    /// Another core of this node, or a door for clients, tells of a map.
    pub(super) fn on_map_news(&mut self, news: &MapNews) {
        let former = self.map.epoch;
        match news {
            MapNews::Whole(map) => self.adopt(map),
            // The first core tells its siblings of every epoch, in order.
            MapNews::Changes(changes) => self.take(changes).expect("changes of the map that this core has"),
        }
        if self.map.epoch > former {
            self.tell_epoch_on();
        }
    }

    /// The log of the meta shard has gone on: the map after it, and the changes that led there.
    pub(super) fn follow_log(&mut self, map: &Arc<ClusterMap>, changes: &[Change]) {
        let former = self.map.epoch;
        // What does not fit comes with the whole map.
        let fits = former != CONFIGURED && self.take(changes).is_ok();
        if !fits || self.map.epoch < map.epoch {
            self.adopt(map);
        }
        if self.map.epoch > former {
            self.tell_epoch_to_all();
        }
    }

    /// Tells the first core of every node which map this node has.
    pub(super) fn tell_epoch_to_all(&mut self) {
        if self.config.core == 0 {
            let body = GroupBody::MapEpoch { epoch: self.map.epoch, takes_changes: true };
            self.tell_all(&body);
        }
    }

    /// Tells some nodes, others than those that the nodes before this one tell.
    fn tell_epoch_on(&mut self) {
        let own = self.config.node;
        let (before, after): (Vec<u64>, Vec<u64>) = self.outbox.nodes().partition(|node| *node < own);
        for node in after.into_iter().chain(before).take(TOLD_ON) {
            self.tell_epoch(node, true);
        }
    }

    /// Tells the first core of a node which map this node has, and whether it takes changes for an answer.
    pub(super) fn tell_epoch(&mut self, node: u64, takes_changes: bool) {
        if self.config.core == 0 {
            self.tell(node, GroupBody::MapEpoch { epoch: self.map.epoch, takes_changes });
        }
    }

    pub(super) fn tell_all(&mut self, body: &GroupBody) {
        for node in self.outbox.nodes().collect::<Vec<u64>>() {
            self.tell(node, body.clone());
        }
    }

    /// A message that is for the first core of a node: the place of the meta shard.
    fn tell(&mut self, node: u64, body: GroupBody) {
        let from = self.config.node;
        self.outbox.push(node, GroupMessage { group: META_SHARD, from, to: node, term: 0, body });
    }

    /// A node has the map of an epoch.
    pub(super) fn on_map_epoch(&mut self, node: u64, epoch: u64, takes_changes: bool) {
        if epoch > self.map.epoch {
            if epoch >= self.epochs.newest.0 {
                self.epochs.newest = (epoch, node);
            }
            self.ask_if_behind();
        } else if epoch < self.map.epoch {
            let changes = takes_changes.then(|| self.epochs.recent.since(epoch, &self.map)).flatten();
            let body = match changes {
                Some(changes) => GroupBody::MapChanges(changes),
                None => GroupBody::Map { map: encode_map(&self.map) },
            };
            self.tell(node, body);
        }
    }

    /// Asks for what is newer than this core's map, unless an answer may still be on its way.
    pub(super) fn ask_if_behind(&mut self) {
        let (epoch, node) = self.epochs.newest;
        if epoch > self.map.epoch && self.now >= self.epochs.ask_at {
            self.epochs.ask_at = self.now.saturating_add(ASK_PAUSE);
            self.tell_epoch(node, true);
        }
    }

    /// A node sent changes of the map.
    pub(super) fn on_map_changes(&mut self, node: u64, sent: &[MapChange]) {
        let former = self.map.epoch;
        let Some(changes) = sent.iter().map(|it| Change::decode(&it.change)).collect::<Option<Vec<Change>>>()
        else {
            return self.ask_for_all(node, "a change of the cluster map cannot be read");
        };
        let Some(first) = changes.iter().position(|change| change.epoch > former) else { return };
        if changes[first].epoch > former + 1 {
            // What comes before it was lost, or is late.
            return self.ask_if_behind();
        }
        if sent[first].digest != self.epochs.recent.digest() {
            return self.ask_for_all(node, "this node's cluster map is not that of its epoch");
        }
        let result = self.take(&changes[first..]);
        self.counters.map_changes_received += self.map.epoch - former;
        if result.is_err() {
            return self.ask_for_all(node, "a change does not fit the cluster map");
        }
        self.tell_epoch_on();
    }

    /// Never a wrong map: asks for the whole one.
    fn ask_for_all(&mut self, node: u64, why: &'static str) {
        tracing::warn!(node, epoch = self.map.epoch, why, "asking for the whole cluster map");
        self.counters.map_changes_refused += 1;
        self.tell_epoch(node, false);
    }

    /// A node sent its map.
    pub(super) fn on_map(&mut self, node: u64, map: &[u8]) {
        match decode_map(map) {
            Ok(map) if map.epoch > self.map.epoch => {
                self.adopt(&Arc::new(map));
                self.counters.maps_received += 1;
                self.tell_epoch_on();
            }
            Ok(_) => {}
            Err(error) => tracing::error!(node, %error, "a peer sent a cluster map that cannot be read"),
        }
    }
}
