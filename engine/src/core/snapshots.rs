//! Snapshots: those this core's leaders owe to followers whose entries the log no longer holds, those its followers
//! install, and those taken for later.
//!
//! ```text
//!   leader    Ready.snapshots_needed ─▶ queue ─▶ SendSnapshot ─▶ SnapshotSent ─▶ report_snapshot ─▶ it follows
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

use raft::mutation::{self, Mutation};
use raft::{Index, Message, MessageBody, Nanos, NodeId, PeerState, PeerStatus, SnapshotMeta};

use super::effect::Engine;
use super::{
    Core, Effect, Installed, ReceivedSnapshot, ReplicaId, SnapshotOffer, TakenSnapshot, Transfer, usize_of,
};
use crate::{placement, replica_id};

/// Pause before a snapshot that could not be sent is tried again; doubled while the follower takes nothing.
const RETRY_PAUSE_MIN: Nanos = Nanos::from_millis(1_000);
const RETRY_PAUSE_MAX: Nanos = Nanos::from_millis(60_000);
/// For how long the log waits for a follower that was sent a snapshot, or a part of one, and does not get on.
const PATIENCE: Nanos = Nanos::from_millis(300_000);

/// Snapshots owed to followers, each follower once, in the order in which they are to be sent.
#[derive(Default)]
pub(super) struct Sending {
    debts: Vec<Debt>,
}

/// A follower that is being brought back to where the log goes on from. Forgotten when it follows from the log.
struct Debt {
    replica: ReplicaId,
    to: NodeId,
    stage: Stage,
    pause: Nanos,
    /// Until then the log waits for it, whatever the stage: what it has of a snapshot is to be of use.
    awaited_until: Nanos,
    /// How far it was when that was last set.
    matched: Index,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    UnderWay,
    /// It was not sent, and Raft hears of it then.
    Failed(Nanos),
    /// Raft has heard how it ended, and asks again if need be.
    Told,
}

impl Debt {
    fn is_of(&self, replica: ReplicaId, to: NodeId) -> bool {
        (self.replica, self.to) == (replica, to)
    }
}

impl Sending {
    fn owe(&mut self, replica: ReplicaId, to: NodeId) {
        let debt = match self.debts.iter().position(|debt| debt.is_of(replica, to)) {
            Some(position) if self.debts[position].stage != Stage::Told => return,
            // Behind those that wait already.
            Some(position) => Debt { stage: Stage::Waiting, ..self.debts.remove(position) },
            None => Debt {
                replica,
                to,
                stage: Stage::Waiting,
                pause: RETRY_PAUSE_MIN,
                awaited_until: Nanos::ZERO,
                matched: Index::ZERO,
            },
        };
        self.debts.push(debt);
    }

    /// Whether a follower of this replica is being sent a snapshot, or soon will be.
    pub fn is_for(&self, replica: ReplicaId) -> bool {
        let mut own = self.debts.iter().filter(|debt| debt.replica == replica);
        own.any(|debt| matches!(debt.stage, Stage::Waiting | Stage::UnderWay))
    }

    /// Whether the log of this replica waits for a follower that is being sent a snapshot, or was sent one and does not
    /// follow yet.
    pub fn is_awaited(&self, replica: ReplicaId, now: Nanos) -> bool {
        let mut own = self.debts.iter().filter(|debt| debt.replica == replica);
        self.is_for(replica) || own.any(|debt| now < debt.awaited_until)
    }

    /// A node is there again: what it did not take may be tried at once.
    pub fn on_peer_linked(&mut self, node: u64, now: Nanos) {
        for debt in self.debts.iter_mut().filter(|debt| replica_id::node_of(debt.to.0) == node) {
            if let Stage::Failed(due) = &mut debt.stage {
                (*due, debt.pause) = ((*due).min(now), RETRY_PAUSE_MIN);
            }
        }
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
        let under_way = self.sending.debts.iter().filter(|debt| debt.stage == Stage::UnderWay).count();
        let mut room = self.config.snapshots_sending_max.saturating_sub(under_way);
        for position in 0..self.sending.debts.len() {
            let Debt { replica: id, to, stage, .. } = self.sending.debts[position];
            if room == 0 {
                return;
            }
            if stage != Stage::Waiting {
                continue;
            }
            self.sending.debts[position].stage = Stage::Told;
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
            self.sending.debts[position].stage = Stage::UnderWay;
            room -= 1;
            let engine = Engine(replica.engine.clone());
            self.effects.push(Effect::SendSnapshot { replica: id, engine, offer });
        }
    }

    /// A snapshot reached its follower, or did not.
    pub(super) fn on_snapshot_sent(&mut self, id: ReplicaId, to: u64, outcome: Transfer) {
        let (to, now) = (NodeId(to), self.now);
        if let Some(debt) = self.sending.debts.iter_mut().find(|debt| debt.is_of(id, to)) {
            if outcome != Transfer::Refused {
                (debt.pause, debt.awaited_until) = (RETRY_PAUSE_MIN, now.saturating_add(PATIENCE));
            }
            // Raft asks again at once: not before what stood in the way may have passed.
            debt.stage = match outcome {
                Transfer::Complete => Stage::Told,
                Transfer::Broken | Transfer::Refused => Stage::Failed(now.saturating_add(debt.pause)),
            };
            if outcome == Transfer::Refused {
                debt.pause = Nanos(debt.pause.0 * 2).min(RETRY_PAUSE_MAX);
            }
        }
        if outcome == Transfer::Complete
            && let Some(shard) = self.current(id)
        {
            self.report_snapshot(shard, to, true);
        }
        self.send_snapshots();
    }

    fn report_snapshot(&mut self, shard: u32, to: NodeId, sent: bool) {
        self.replica_mut(shard).raft.report_snapshot(to, sent);
        self.note_awake(shard);
        self.touch(shard);
    }

    /// Lets snapshots that were not sent be asked for again, and forgets the followers that follow.
    pub(super) fn tick_snapshots(&mut self) {
        let now = self.now;
        for position in (0..self.sending.debts.len()).rev() {
            let Debt { replica: id, to, stage, .. } = self.sending.debts[position];
            match stage {
                Stage::Waiting | Stage::UnderWay => {}
                Stage::Failed(due) if now < due => {}
                Stage::Failed(_) => {
                    self.sending.debts[position].stage = Stage::Told;
                    if let Some(shard) = self.current(id) {
                        self.report_snapshot(shard, to, false);
                    }
                }
                Stage::Told => self.settle_debt(position),
            }
        }
    }

    /// Forgets a follower that needs no snapshot any more; waits on for one that gets on.
    fn settle_debt(&mut self, position: usize) {
        let now = self.now;
        let Debt { replica: id, to, .. } = self.sending.debts[position];
        let replica = self.current(id).and_then(|shard| self.replicas[usize_of(shard)].as_ref());
        let leader = replica.filter(|replica| replica.raft.is_leader());
        let peer = leader
            .and_then(|leader| leader.raft.peers().find(|peer| peer.node == to).map(|peer| (leader, peer)));
        let Some((leader, peer)) = peer else {
            self.sending.debts.remove(position);
            return;
        };
        if peer.state == PeerState::Replicate && peer.match_index >= self.kept_from(leader) {
            self.sending.debts.remove(position);
            return;
        }
        let debt = &mut self.sending.debts[position];
        if peer.match_index > debt.matched && now < debt.awaited_until {
            (debt.matched, debt.awaited_until) = (peer.match_index, now.saturating_add(PATIENCE));
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
