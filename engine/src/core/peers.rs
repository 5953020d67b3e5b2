//! Messages between this core and the cores of the other nodes: what arrives goes to its replica, what leaves is
//! gathered per destination so that all groups share one frame a turn.

use net::map::ClusterMap;
use net::peer::{GroupBody, GroupMessage};
use raft::{Message, MessageBody, NodeId, StepError};

use super::{Core, Effect, Parcel, usize_of};
use crate::{convert, placement};

/// Messages of this turn by destination.
pub(super) struct Outbox {
    /// Node, its number of cores, and a parcel per core.
    nodes: Vec<(u64, u32, Vec<Parcel>)>,
}

impl Outbox {
    pub fn new(map: &ClusterMap) -> Outbox {
        let nodes = map
            .nodes
            .iter()
            .map(|node| (node.id, node.cores, vec![Parcel::new(); usize_of(node.cores)]))
            .collect();
        Outbox { nodes }
    }

    pub fn extend(&mut self, shard: u32, messages: Vec<Message>) {
        for message in messages {
            let Some((_, cores, parcels)) = self.nodes.iter_mut().find(|(id, ..)| *id == message.to.0) else {
                tracing::error!(shard, node = message.to.0, "a message for a node that is not in the map");
                continue;
            };
            let core = placement::core_of(shard, *cores);
            parcels[usize_of(core)].push(convert::group_message(shard, message));
        }
    }

    pub fn drain_into(&mut self, effects: &mut Vec<Effect>) {
        for (node, cores, parcels) in &mut self.nodes {
            for core in 0..*cores {
                let messages = std::mem::take(&mut parcels[usize_of(core)]);
                if !messages.is_empty() {
                    effects.push(Effect::Send { node: *node, core, messages });
                }
            }
        }
    }
}

impl Core {
    /// Messages of a peer arrived. One that no replica here can take is dropped: Raft tolerates loss.
    pub(super) fn on_peer(&mut self, _node: u64, _core: u32, messages: Vec<GroupMessage>) {
        for message in messages {
            let shard = message.group;
            let hosted = self.replicas.get(usize_of(shard)).is_some_and(Option::is_some);
            if !hosted || message.to != self.config.node {
                tracing::warn!(
                    shard,
                    from = message.from,
                    to = message.to,
                    "dropped a message for another core"
                );
                continue;
            }
            // A follower that cannot apply as fast as it is sent entries refuses more until it has caught up:
            // the leader's window closes, and memory stays bounded.
            let appends = matches!(&message.body, GroupBody::Append { entries, .. } if !entries.is_empty());
            if appends && self.follower_queue_bytes() > 2 * self.config.inflight_bytes_max {
                self.counters.appends_dropped += 1;
                continue;
            }
            self.step(shard, message);
        }
    }

    /// What followers of this core hold that is not flushed, or flushed and not applied.
    fn follower_queue_bytes(&self) -> u64 {
        self.lane.queued_bytes.max(self.wal.borrow().queued_bytes())
    }

    fn step(&mut self, shard: u32, message: GroupMessage) {
        let (from, term, now) = (message.from, message.term, self.now);
        let Some(message) = convert::raft_message(message) else {
            tracing::error!(
                shard,
                from,
                "dropped a message with an entry of an unknown kind; upgrade this node"
            );
            return;
        };
        let told = match message.body {
            MessageBody::Append { commit, .. } | MessageBody::Heartbeat { commit, .. } => Some(commit),
            _ => None,
        };
        let replica = self.replica_mut(shard);
        match replica.raft.step(message, now) {
            Ok(()) => {
                let from_leader =
                    replica.raft.leader() == Some(NodeId(from)) && replica.raft.term().0 == term;
                if let Some(commit) = told.filter(|_| from_leader) {
                    replica.note_commit(commit, now);
                }
            }
            Err(error @ StepError::LostEntries { .. }) => {
                crate::fatal::abort(crate::fatal::Reason::LostEntries { shard, detail: error.to_string() })
            }
            Err(error) => tracing::warn!(shard, from, %error, "refused a message"),
        }
        self.touch(shard);
    }

    /// A node cannot be reached, or did not get all that was sent: every group falls back to probing it.
    pub(super) fn on_peer_lost(&mut self, node: u64) {
        for shard in 0..self.replicas.len() {
            if let Some(replica) = self.replicas[shard].as_mut() {
                replica.raft.report_unreachable(NodeId(node));
            }
        }
    }
}
