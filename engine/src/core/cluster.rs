//! What leaders report of their groups.
//!
//! ```text
//!   leaders: who belongs to the group ─▶ Reports ─▶ first core of every node ─▶ its sibling cores
//! ```
//!
//! So every core of every node knows who leads what, and can send clients on, and whichever node comes to lead the meta shard
//! has all reports.

use std::collections::BTreeMap;

use net::map::SlotRange;
use net::peer::{GroupBody, GroupMessage, ShardReport};
use raft::Nanos;

use super::{Core, Effect, usize_of};
use crate::replica::Replica;
use crate::replica_id;

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
    /// Takes what first cores tell each other; any other message comes back.
    pub(super) fn on_standing_message(&mut self, node: u64, message: GroupMessage) -> Option<GroupMessage> {
        match message.body {
            GroupBody::Reports(reports) => self.on_reports(reports),
            GroupBody::MapEpoch { epoch, takes_changes } => self.on_map_epoch(node, epoch, takes_changes),
            GroupBody::MapChanges(changes) => self.on_map_changes(node, &changes),
            GroupBody::Map { map } => self.on_map(node, &map),
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
    pub(super) fn note_report(&mut self, report: &ShardReport) {
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
        self.tell_epoch(node, true);
    }

    /// Reports what is new of this core's groups, and now and then what is not.
    pub(super) fn tick_standing(&mut self) {
        self.ask_if_behind();
        if !self.standing.due && self.now < self.standing.next {
            return;
        }
        if self.now >= self.standing.next {
            self.tell_epoch_to_all();
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
