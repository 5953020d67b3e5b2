//! Snapshots: those this core's leaders owe to followers whose entries the log no longer holds, those its followers
//! install, and those taken for later.
//!
//! ```text
//!   leader    Ready.snapshots_needed ─▶ queue ─▶ SendSnapshot ─▶ SnapshotSent ─▶ report_snapshot
//!   follower  SnapshotReceived ─▶ step ─▶ Ready.snapshot ─▶ apply queue empty ─▶ InstallSnapshot
//!               ─▶ SnapshotInstalled ─▶ log reset ─▶ on_snapshot_installed
//! ```
//!
//! A crash between the state machine's new data and the log's reset leaves a log that ends before the state machine, or
//! knows another entry at its position: it is reset at the next start.
//!
//! Invariants:
//! - while a snapshot is being installed, nothing of the replica is being applied, and it hands out no entries to apply;
//! - a snapshot that was received is installed or dropped, never forgotten.

use std::collections::VecDeque;

use raft::mutation::{self, Mutation};
use raft::{Index, Message, MessageBody, Nanos, NodeId, PeerState, PeerStatus, SnapshotMeta};

use super::effect::Engine;
use super::{Core, Effect, Installed, ReceivedSnapshot, ReplicaId, SnapshotOffer, TakenSnapshot, usize_of};
use crate::{placement, replica_id};

/// Snapshots owed to followers, each follower once.
#[derive(Default)]
pub(super) struct Sending {
    waiting: VecDeque<(ReplicaId, NodeId)>,
    under_way: Vec<(ReplicaId, NodeId)>,
    /// Those that were not sent, and when Raft hears of it.
    failed: Vec<(ReplicaId, NodeId, Nanos)>,
}

/// Pause before a snapshot that could not be sent is tried again.
const RETRY_PAUSE: Nanos = Nanos::from_millis(1_000);

impl Sending {
    fn owe(&mut self, replica: ReplicaId, to: NodeId) {
        let debt = (replica, to);
        let failed = self.failed.iter().any(|(replica, to, _)| (*replica, *to) == debt);
        if !failed && !self.waiting.contains(&debt) && !self.under_way.contains(&debt) {
            self.waiting.push_back(debt);
        }
    }

    /// Whether a follower of this replica is being sent a snapshot, or soon will be.
    pub fn is_for(&self, replica: ReplicaId) -> bool {
        self.waiting.iter().chain(&self.under_way).any(|(owing, _)| *owing == replica)
    }
}

/// A snapshot on its way into a replica.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Raft has not said whether it is wanted.
    Offered(ReceivedSnapshot),
    /// Raft waits for it; entries committed before it are still being applied.
    Wanted(ReceivedSnapshot),
    /// The state machine is being replaced.
    Installing(ReceivedSnapshot),
}

impl Incoming {
    pub fn snapshot(self) -> ReceivedSnapshot {
        match self {
            Incoming::Offered(snapshot) | Incoming::Wanted(snapshot) | Incoming::Installing(snapshot) => {
                snapshot
            }
        }
    }
}

impl Core {
    /// Followers need what the log no longer holds.
    pub(super) fn owe_snapshots(&mut self, shard: u32, followers: &[NodeId]) {
        let Some(replica) = self.replicas[usize_of(shard)].as_ref() else { return };
        for follower in followers {
            self.sending.owe(replica.id, *follower);
        }
        self.send_snapshots();
    }

    fn send_snapshots(&mut self) {
        while self.sending.under_way.len() < self.config.snapshots_sending_max {
            let Some((id, to)) = self.sending.waiting.pop_front() else { return };
            let Some(shard) = self.current(id) else { continue };
            let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
            let node = replica_id::node_of(to.0);
            // It may have been fed by another leader meanwhile.
            let wanted = |peer: &PeerStatus| peer.node == to && peer.state == PeerState::Snapshot;
            let wanted = replica.raft.peers().any(|peer| wanted(&peer));
            let Some(cores) = self.map.node(node).map(|node| node.cores).filter(|_| wanted) else { continue };
            let offer = SnapshotOffer {
                shard,
                from: replica.raft_id,
                to: to.0,
                node,
                core: placement::core_of(shard, cores),
                term: replica.raft.term().0,
                index_min: self.wal.borrow().first_index(replica.stream) - 1,
            };
            tracing::info!(shard, node, index_min = offer.index_min, "sending a snapshot");
            self.sending.under_way.push((id, to));
            let engine = Engine(replica.engine.clone());
            self.effects.push(Effect::SendSnapshot { replica: id, engine, offer });
        }
    }

    /// A snapshot reached its follower, or did not.
    pub(super) fn on_snapshot_sent(&mut self, id: ReplicaId, to: u64, sent: bool) {
        let to = NodeId(to);
        self.sending.under_way.retain(|debt| *debt != (id, to));
        if let Some(shard) = self.current(id) {
            match sent {
                true => self.report_snapshot(shard, to, true),
                // Raft asks again at once: not before what stood in the way may have passed.
                false => self.sending.failed.push((id, to, self.now.saturating_add(RETRY_PAUSE))),
            }
        }
        self.send_snapshots();
    }

    fn report_snapshot(&mut self, shard: u32, to: NodeId, sent: bool) {
        self.replica_mut(shard).raft.report_snapshot(to, sent);
        self.note_awake(shard);
        self.touch(shard);
    }

    /// Lets snapshots that were not sent be asked for again.
    pub(super) fn tick_snapshots(&mut self) {
        let now = self.now;
        while let Some(position) = self.sending.failed.iter().position(|(.., due)| *due <= now) {
            let (id, to, _) = self.sending.failed.swap_remove(position);
            if let Some(shard) = self.current(id) {
                self.report_snapshot(shard, to, false);
            }
        }
    }

    /// A snapshot lies on this node's disk: Raft decides whether it is wanted.
    pub(super) fn on_snapshot_received(&mut self, from: u64, to: u64, term: u64, snapshot: ReceivedSnapshot) {
        let shard = snapshot.shard;
        let replica = self.replicas.get_mut(usize_of(shard)).and_then(Option::as_mut);
        match replica.filter(|replica| replica.raft_id == to && replica.incoming.is_none()) {
            Some(replica) => {
                let meta = snapshot.meta.clone();
                replica.incoming = Some(Incoming::Offered(snapshot));
                let body = MessageBody::Snapshot { meta };
                self.step(
                    shard,
                    Message { from: NodeId(from), to: NodeId(to), term: raft::Term(term), body },
                );
            }
            None => self.effects.push(Effect::DropSnapshot { snapshot }),
        }
    }

    /// Raft waits for the snapshot it was offered.
    pub(super) fn want_snapshot(&mut self, shard: u32, meta: &SnapshotMeta) {
        let replica = self.replica_mut(shard);
        replica.incoming = match replica.incoming.take() {
            Some(Incoming::Offered(snapshot)) if snapshot.meta == *meta => Some(Incoming::Wanted(snapshot)),
            other => panic!("raft wants a snapshot {meta:?} that was not offered: {other:?}"),
        };
    }

    /// Goes on with the snapshot of a replica as far as it can be at the end of a turn.
    pub(super) fn advance_snapshot(&mut self, shard: u32) {
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        match replica.incoming.take() {
            None => {}
            // Raft has looked at it by now, and said nothing.
            Some(Incoming::Offered(snapshot)) => self.effects.push(Effect::DropSnapshot { snapshot }),
            Some(Incoming::Wanted(snapshot)) if replica.apply.is_drained() => {
                let engine = Engine(replica.engine.clone());
                replica.incoming = Some(Incoming::Installing(snapshot.clone()));
                tracing::info!(shard, index = snapshot.meta.index.0, "installing a snapshot");
                self.effects.push(Effect::InstallSnapshot { replica: replica.id, engine, snapshot });
            }
            waits => replica.incoming = waits,
        }
    }

    /// A snapshot took the place of the state machine's data, or nothing changed.
    pub(super) fn on_snapshot_installed(&mut self, id: ReplicaId, result: Result<Installed, ()>) {
        let Some(shard) = self.current(id) else { return };
        let now = self.now;
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        let Some(Incoming::Installing(snapshot)) = replica.incoming.take() else {
            panic!("shard {shard} installed a snapshot that it was not given")
        };
        match result {
            Ok(installed) => {
                let meta = snapshot.meta;
                assert_eq!(installed.applied, meta.index, "the snapshot holds what it says");
                if !mutation::active(Mutation::SkipStreamReset) {
                    self.wal.borrow_mut().reset(replica.stream, meta.index.0, meta.term.0);
                }
                let mut installed = installed;
                let topology = installed.topology.take();
                replica.follow_snapshot(installed, now);
                replica.raft.on_snapshot_installed(&meta);
                self.counters.snapshots_installed += 1;
                self.follow_membership(shard);
                if let Some(topology) = topology {
                    self.follow_topology(*topology);
                }
            }
            Err(()) => replica.raft.on_snapshot_failed(),
        }
        self.note_awake(shard);
        self.touch(shard);
    }

    /// Has a snapshot of a replica taken, unless one is under way.
    pub(super) fn take_snapshot(&mut self, shard: u32) -> Index {
        let now = self.now;
        let replica = self.replicas[usize_of(shard)].as_mut().expect("hosted here");
        let index = replica.raft.applied();
        if !replica.snapshot_query {
            replica.snapshot_query = true;
            replica.checkpoint = (index, now);
            replica.bytes_since_checkpoint = 0;
            let engine = Engine(replica.engine.clone());
            self.effects.push(Effect::TakeSnapshot { replica: replica.id, engine, index });
        }
        index
    }

    /// A snapshot was taken, or could not be: the next may follow.
    pub(super) fn on_snapshot_taken(&mut self, id: ReplicaId, snapshot: Option<TakenSnapshot>) {
        let now = self.now;
        let Some(shard) = self.current(id) else { return };
        let replica = self.replica_mut(shard);
        replica.snapshot_query = false;
        replica.newest_snapshot = snapshot.or(replica.newest_snapshot);
        // It may have made the state machine durable.
        replica.durable_due = now;
    }
}
