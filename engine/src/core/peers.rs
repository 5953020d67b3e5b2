//! Messages between this core and the cores of the other nodes: what arrives goes to its replica, what leaves is
//! gathered per destination so that all groups share one frame a turn. A destination that is sent nothing for a while
//! gets an empty frame, so that silence means something: sleeping groups wake when the core of their leader falls silent.

use std::collections::BTreeMap;

use net::map::{ClusterMap, ShardInfo};
use net::peer::{GroupBody, GroupMessage};
use raft::{Message, MessageBody, Nanos, NodeId, StepError};

use super::replicas::JOIN_PAUSE;
use super::{Core, Effect, Parcel, usize_of};
use crate::{convert, placement, replica_id};

/// One core of another node.
struct Link {
    node: u64,
    core: u32,
    /// Whether some shard has a place on both this core and that one.
    shares_shards: bool,
    /// Messages of this turn.
    parcel: Parcel,
    /// When something was last sent there.
    sent: Nanos,
    /// When something was last heard from there.
    heard: Nanos,
    /// Whether that was too long ago, and the groups led from there know.
    silent: bool,
}

/// Messages of this turn by destination.
pub(super) struct Outbox {
    /// All cores of all other nodes, those of one node in order.
    links: Vec<Link>,
    /// Each other node, its number of cores, and where they begin among the links.
    nodes: Vec<(u64, u32, usize)>,
}

impl Outbox {
    pub fn new(map: &ClusterMap, this_node: u64, this_core: u32, this_cores: u32) -> Outbox {
        let mut outbox = Outbox { links: Vec::new(), nodes: Vec::new() };
        outbox.follow(map, (this_node, this_core, this_cores), Nanos::ZERO);
        outbox
    }

    /// Takes the nodes of a map; what is known of those that were there before stays. The silence of new ones begins now.
    pub fn follow(
        &mut self,
        map: &ClusterMap,
        (this_node, this_core, this_cores): (u64, u32, u32),
        now: Nanos,
    ) {
        let former = std::mem::take(&mut self.links);
        let mut former: BTreeMap<(u64, u32), Link> =
            former.into_iter().map(|link| ((link.node, link.core), link)).collect();
        self.nodes.clear();
        // By the number of the other node's cores, for most have as many.
        let mut shared: BTreeMap<u32, Vec<bool>> = BTreeMap::new();
        for node in map.nodes.iter().filter(|node| node.id != this_node) {
            self.nodes.push((node.id, node.cores, self.links.len()));
            let shared = shared.entry(node.cores).or_insert_with(|| {
                let mut shared = vec![false; usize_of(node.cores)];
                let here = |shard: &&ShardInfo| placement::core_of(shard.id, this_cores) == this_core;
                for shard in map.shards.iter().filter(here) {
                    shared[usize_of(placement::core_of(shard.id, node.cores))] = true;
                }
                shared
            });
            for core in 0..node.cores {
                let shares_shards = shared[usize_of(core)];
                let zero = Nanos::ZERO;
                let parcel = Parcel::new();
                let new = Link {
                    node: node.id,
                    core,
                    shares_shards,
                    parcel,
                    sent: zero,
                    heard: now,
                    silent: false,
                };
                let link = former.remove(&(node.id, core)).unwrap_or(new);
                self.links.push(Link { shares_shards, ..link });
            }
        }
    }

    pub fn extend(&mut self, shard: u32, messages: Vec<Message>) {
        for message in messages {
            let node = replica_id::node_of(message.to.0);
            self.push(node, convert::group_message(shard, message));
        }
    }

    /// One message for the core of a node that has a place for the message's shard.
    pub fn push(&mut self, node: u64, message: GroupMessage) {
        let Some((_, cores, first)) = self.nodes.iter().find(|(id, ..)| *id == node) else {
            // It has left, or this core's map is old.
            tracing::debug!(shard = message.group, node, "no message for a node that is not in the map");
            return;
        };
        let core = placement::core_of(message.group, *cores);
        self.links[first + usize_of(core)].parcel.push(message);
    }

    pub fn drain_into(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        for link in &mut self.links {
            if !link.parcel.is_empty() {
                link.sent = now;
                let messages = std::mem::take(&mut link.parcel);
                effects.push(Effect::Send { node: link.node, core: link.core, messages });
            }
        }
    }

    /// The nodes other than this one.
    pub fn nodes(&self) -> impl Iterator<Item = u64> {
        self.nodes.iter().map(|(node, ..)| *node)
    }

    fn heard(&mut self, node: u64, core: u32, now: Nanos) {
        let Some((_, cores, first)) = self.nodes.iter().find(|(id, ..)| *id == node) else { return };
        if core < *cores {
            let link = &mut self.links[first + usize_of(core)];
            link.heard = now;
            link.silent = false;
        }
    }

    /// Tells every core that shares shards with this one, and was sent nothing for `pause`, that this one lives.
    pub fn send_signs_of_life(&mut self, now: Nanos, pause: Nanos, effects: &mut Vec<Effect>) {
        for link in self.links.iter_mut().filter(|link| link.shares_shards) {
            if now.since(link.sent) >= pause && link.parcel.is_empty() {
                link.sent = now;
                effects.push(Effect::Send { node: link.node, core: link.core, messages: Vec::new() });
            }
        }
    }

    /// When the core of a node that has a place for the shard was last heard of, and whether that was too long ago.
    pub fn heard_at(&self, node: u64, shard: u32) -> Option<(Nanos, bool)> {
        let (_, cores, first) = self.nodes.iter().find(|(id, ..)| *id == node)?;
        let link = &self.links[first + usize_of(placement::core_of(shard, *cores))];
        Some((link.heard, link.silent))
    }

    /// This core stood still for a while: nobody was silent for that long because of it.
    pub fn excuse(&mut self, pause: Nanos) {
        for link in &mut self.links {
            link.heard = link.heard.saturating_add(pause);
        }
    }

    /// The cores not heard of for `silence`, each once; as node, core and number of cores.
    pub fn newly_silent(&mut self, now: Nanos, silence: Nanos) -> Vec<(u64, u32, u32)> {
        let mut found = Vec::new();
        for (node, cores, first) in &self.nodes {
            for link in &mut self.links[*first..first + usize_of(*cores)] {
                if !link.silent && link.shares_shards && now.since(link.heard) >= silence {
                    link.silent = true;
                    found.push((*node, link.core, *cores));
                }
            }
        }
        found
    }
}

impl Core {
    /// Messages of a peer arrived. One that no replica here can take is dropped: Raft tolerates loss.
    pub(super) fn on_peer(&mut self, node: u64, core: u32, messages: Vec<GroupMessage>) {
        self.outbox.heard(node, core, self.now);
        for message in messages {
            let shard = message.group;
            let Some(message) = self.on_standing_message(node, message) else { continue };
            let placed = placement::core_of(shard, self.config.cores) == self.config.core;
            // A new shard's replica elsewhere may be faster than this node's.
            if usize_of(shard) >= self.replicas.len() {
                continue;
            }
            if !placed || replica_id::node_of(message.to) != self.config.node {
                tracing::warn!(
                    shard,
                    from = message.from,
                    to = message.to,
                    "dropped a message for another core"
                );
                continue;
            }
            match message.body {
                GroupBody::Join => self.on_join(shard, message.from),
                GroupBody::Invite => self.on_invite(shard),
                GroupBody::Gone { index } => self.on_gone(shard, message.to, message.term, index),
                _ => self.on_raft_message(message),
            }
        }
    }

    fn on_raft_message(&mut self, message: GroupMessage) {
        let shard = message.group;
        let asks_for_votes = matches!(message.body, GroupBody::PreVote { .. } | GroupBody::Vote { .. });
        if asks_for_votes && self.tell_stranger(shard, message.from) {
            return;
        }
        // For a former replica of this node: its promises are not this one's.
        let current = self.replicas[usize_of(shard)].as_ref().map(|replica| replica.raft_id);
        if current != Some(message.to) {
            return;
        }
        // A follower that cannot apply as fast as it is sent entries refuses more until it has caught up:
        // the leader's window closes, and memory stays bounded.
        let appends = matches!(&message.body, GroupBody::Append { entries, .. } if !entries.is_empty());
        if appends && self.follower_queue_bytes() > 2 * self.config.inflight_bytes_max {
            self.counters.appends_dropped += 1;
            return;
        }
        let from = message.from;
        let Some(message) = convert::raft_message(message) else {
            tracing::error!(
                shard,
                from,
                "dropped a message with an entry of an unknown kind; upgrade this node"
            );
            return;
        };
        self.step(shard, message);
    }

    /// What followers of this core hold that is not flushed, or flushed and not applied.
    fn follower_queue_bytes(&self) -> u64 {
        self.lane.queued_bytes.max(self.wal.borrow().queued_bytes())
    }

    pub(super) fn step(&mut self, shard: u32, message: Message) {
        let (from, term, now) = (message.from, message.term, self.now);
        let told = match message.body {
            MessageBody::Append { commit, .. } | MessageBody::Heartbeat { commit, .. } => Some(commit),
            _ => None,
        };
        let replica = self.replica_mut(shard);
        match replica.raft.step(message, now) {
            Ok(()) => {
                let from_leader = replica.raft.leader() == Some(from) && replica.raft.term() == term;
                if let Some(commit) = told.filter(|_| from_leader) {
                    replica.gone_since = None;
                    replica.joins_at = now.saturating_add(JOIN_PAUSE);
                    replica.note_commit(commit, now);
                }
            }
            Err(error @ StepError::LostEntries { .. }) => {
                crate::fatal::abort(crate::fatal::Reason::LostEntries { shard, detail: error.to_string() })
            }
            Err(error) => tracing::warn!(shard, from = from.0, %error, "refused a message"),
        }
        if replica.raft.is_dormant() {
            self.watch_sleeper(shard);
        }
        self.note_awake(shard);
        self.touch(shard);
    }

    /// A node cannot be reached, or did not get all that was sent: every group falls back to probing it.
    pub(super) fn on_peer_linked(&mut self, node: u64, vote_hold: Nanos) {
        self.greet(node);
        self.sending.on_peer_linked(node, self.now);
        if self.vote_holds.insert(node, vote_hold) == Some(vote_hold) {
            return;
        }
        let own = self.config.raft.election_timeout();
        if self.config.raft.lease && vote_hold < own {
            tracing::warn!(
                node,
                its_ms = vote_hold.0 / 1_000_000,
                own_ms = own.0 / 1_000_000,
                "the other node may vote sooner than this one's leases assume, so they are shortened, or not used: give                  all nodes the same [raft] section"
            );
        }
        let shortest = self.shortest_vote_hold();
        for replica in self.replicas.iter_mut().flatten() {
            replica.raft.limit_lease(shortest);
        }
    }

    /// For how long replicas of this core vote for nobody else after they heard a leader: what other leaders' leases may
    /// count on.
    pub fn vote_hold(&self) -> Nanos {
        self.config.raft.vote_hold()
    }

    /// The shortest time for which any node votes for nobody else, as far as they said.
    pub(super) fn shortest_vote_hold(&self) -> Nanos {
        self.vote_holds.values().copied().min().unwrap_or(Nanos(u64::MAX))
    }

    pub(super) fn on_peer_lost(&mut self, node: u64) {
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_mut() else { continue };
            let shard = replica.id.shard;
            // Two at most: a lost replica and the one that takes its place.
            let lost = replica.members().filter(|id| replica_id::node_of(id.0) == node);
            for id in lost.collect::<smallvec::SmallVec<[NodeId; 2]>>() {
                replica.raft.report_unreachable(id);
            }
            self.note_awake(shard);
        }
    }
}
