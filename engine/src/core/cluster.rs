//! The cluster map on its way through the cluster, and what leaders report of their groups.
//!
//! ```text
//!   meta shard applies a change ─▶ adopt ─▶ MapChanged: to disk, to the sibling cores
//!                                   └─▶ MapEpoch to every node ─▶ who is behind says so ─▶ Map ─▶ adopt
//!   leaders: who belongs to the group ─▶ Reports ─▶ first core of every node ─▶ its sibling cores
//! ```
//!
//! The first cores of the nodes talk to each other; what they learn they tell their siblings. So every core of every node
//! knows who leads what, and can send clients on, and whichever node comes to lead the meta shard has all reports.
//!
//! Invariant: a map is only ever replaced by one of a higher epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use net::map::{ClusterMap, META_SHARD, SlotRange, decode_map, encode_map};
use net::peer::{GroupBody, GroupMessage, ShardReport};
use raft::Nanos;

use super::{Core, Effect, usize_of};
use crate::replica::Replica;
use crate::{placement, replica_id};

/// Time between two reports of a group of which nothing is new: messages may be lost.
const REPORT_PAUSE: Nanos = Nanos::from_millis(10_000);

/// What this core knows of the groups of the cluster.
#[derive(Default)]
pub(super) struct Standing {
    /// The newest report of each shard.
    pub reports: BTreeMap<u32, ShardReport>,
    /// Whether there is something to report of this core's groups.
    pub due: bool,
    next: Nanos,
}

impl Standing {
    /// Whether a report says something new, by which it is remembered.
    fn learn(&mut self, report: &ShardReport) -> bool {
        let known = self.reports.get(&report.shard);
        let is_new = known
            .is_none_or(|known| (known.term, known.index) <= (report.term, report.index) && known != report);
        if is_new {
            self.reports.insert(report.shard, report.clone());
        }
        is_new
    }
}

impl Core {
    /// Takes a map that is newer than this core's.
    pub(super) fn adopt(&mut self, map: &ClusterMap) {
        if map.epoch <= self.map.epoch {
            return;
        }
        let former = std::mem::replace(&mut self.map, map.clone());
        tracing::info!(from = former.epoch, to = map.epoch, nodes = map.nodes.len(), "a newer cluster map");
        self.grow();
        for shard in &former.shards {
            let members: Vec<u64> = shard.replicas.iter().map(|replica| replica.node).collect();
            self.list_replicas(shard.id, &members);
        }
        self.outbox.follow(&self.map, self.config.node, self.config.core, self.config.cores);
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
        self.status_due = true;
        self.effects.push(Effect::MapChanged(Arc::new(self.map.clone())));
        self.tell_epoch(None);
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

    /// Tells the first core of a node, or of all, which map this node has.
    fn tell_epoch(&mut self, only: Option<u64>) {
        if self.config.core != 0 {
            return;
        }
        let body = GroupBody::MapEpoch { epoch: self.map.epoch };
        match only {
            Some(node) => self.tell(node, body),
            None => self.tell_all(&body),
        }
    }

    fn tell_all(&mut self, body: &GroupBody) {
        for node in self.outbox.nodes().collect::<Vec<u64>>() {
            self.tell(node, body.clone());
        }
    }

    /// A message that is for the first core of a node: the place of the meta shard.
    fn tell(&mut self, node: u64, body: GroupBody) {
        let from = self.config.node;
        self.outbox.push(node, GroupMessage { group: META_SHARD, from, to: node, term: 0, body });
    }

    /// Takes what first cores tell each other; any other message comes back.
    pub(super) fn on_standing_message(&mut self, node: u64, message: GroupMessage) -> Option<GroupMessage> {
        match message.body {
            GroupBody::Reports(reports) => self.on_reports(reports),
            GroupBody::MapEpoch { epoch } if epoch > self.map.epoch => self.tell_epoch(Some(node)),
            GroupBody::MapEpoch { epoch } if epoch < self.map.epoch => {
                let map = encode_map(&self.map);
                self.tell(node, GroupBody::Map { map });
            }
            GroupBody::MapEpoch { .. } => {}
            GroupBody::Map { map } => match decode_map(&map) {
                Ok(map) => self.adopt(&map),
                Err(error) => tracing::error!(node, %error, "a peer sent a cluster map that cannot be read"),
            },
            _ => return Some(message),
        }
        None
    }

    /// Reports of leaders arrived.
    pub(super) fn on_reports(&mut self, reports: Vec<ShardReport>) {
        let new: Vec<ShardReport> =
            reports.into_iter().filter(|report| self.standing.learn(report)).collect();
        if new.is_empty() {
            return;
        }
        new.iter().for_each(|report| self.note_report(report));
        self.note_reports();
        if self.config.core == 0 && self.config.cores > 1 {
            self.effects.push(Effect::Report(new));
        }
    }

    /// Who leads a shard and belongs to it, if no replica of this node knows better.
    fn note_report(&mut self, report: &ShardReport) {
        let shard = report.shard;
        let Some(info) = self.map.shards.get(usize_of(shard)) else { return };
        let here = self.replicas[usize_of(shard)].is_some();
        if here || (info.replica_on(self.config.node).is_some() && report.voters.contains(&self.config.node))
        {
            return;
        }
        self.leaders[usize_of(shard)] = report.leader;
        let members: Vec<u64> = report.voters.iter().chain(&report.learners).copied().collect();
        self.list_replicas(shard, &members);
        self.status_due = true;
    }

    /// A node was linked to: what was said before it could hear may be lost.
    pub(super) fn greet(&mut self, node: u64) {
        self.standing.due = true;
        self.tell_epoch(Some(node));
    }

    /// Reports what is new of this core's groups, and now and then what is not.
    pub(super) fn tick_standing(&mut self) {
        if !self.standing.due && self.now < self.standing.next {
            return;
        }
        if self.now >= self.standing.next {
            self.tell_epoch(None);
        }
        self.standing.due = false;
        self.standing.next = self.now.saturating_add(REPORT_PAUSE);
        let node = self.config.node;
        let led = self.replicas.iter().flatten().filter(|replica| replica.raft.is_leader());
        let reports: Vec<ShardReport> = led.map(|replica| replica.report(node)).collect();
        if reports.is_empty() {
            return;
        }
        self.tell_all(&GroupBody::Reports(reports.clone()));
        if self.config.core != 0 {
            self.effects.push(Effect::Report(reports.clone()));
        }
        self.on_reports(reports);
    }
}

impl Replica {
    /// How the group stands, as its leader knows.
    fn report(&self, node: u64) -> ShardReport {
        let nodes = |ids: &[raft::NodeId]| {
            let mut nodes: Vec<u64> = ids.iter().map(|id| replica_id::node_of(id.0)).collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        let members = &self.conf_state;
        let joint = !members.voters_outgoing.is_empty();
        let voters: Vec<raft::NodeId> =
            members.voters.iter().chain(&members.voters_outgoing).copied().collect();
        ShardReport {
            shard: self.id.shard,
            term: self.raft.term().0,
            index: self.conf_index.0,
            leader: node,
            voters: nodes(&voters),
            learners: nodes(&members.learners),
            joint,
            slots: self.slots.map(|(first, last)| SlotRange { first, last }),
        }
    }
}
