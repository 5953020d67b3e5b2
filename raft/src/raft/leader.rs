//! The leader: proposals, acknowledgements, commit, and whether it still has a quorum (thesis §3.5, §3.6.2, §6.2).

use std::collections::VecDeque;

use bytes::Bytes;

use super::transfer::Transfer;
use super::{Raft, State};
use crate::entry::{Entry, EntryKind};
use crate::error::ProposeError;
use crate::lease::Rounds;
use crate::message::AppendResult;
use crate::mutation::mutated;
use crate::read_index::PendingReads;
use crate::status::PeerStatus;
use crate::storage::LogStorage;
use crate::tracker::{Membership, Tracker};
use crate::types::{Index, Nanos, NodeId, Round};

/// What a node knows as long as it leads a term.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) tracker: Tracker,
    pub(super) rounds: Rounds,
    pub(super) reads: PendingReads,
    pub(super) transfer: Option<Transfer>,
    /// A `TimeoutNow` was sent in this term. It may arrive at any later time, and the election it starts does not respect
    /// a lease; so this leader has none any more.
    pub(super) lease_forfeited: bool,
    /// Ticks since the election.
    pub(super) tick: u64,
    /// The tick at which it last woke: until its members answer, who of them is there is not known.
    pub(super) woken_tick: Option<u64>,
    heartbeat_ticks: u32,
    check_ticks: u32,
    /// The newest round at the last quorum check.
    check_round: Round,
    /// The first entry of this term.
    pub(super) first_of_term: Index,
    /// The last membership change there may be, or the first entry of the term; the next one waits until it is applied.
    pub(super) pending_change: Index,
    pub(super) uncommitted: Uncommitted,
}

impl Leader {
    pub(super) fn new(own: NodeId, membership: &Membership, last: Index, now: Nanos) -> Leader {
        let rounds = Rounds::new(now);
        Leader {
            tracker: Tracker::new(own, membership, last),
            check_round: rounds.current(),
            rounds,
            reads: PendingReads::default(),
            transfer: None,
            lease_forfeited: false,
            tick: 0,
            woken_tick: None,
            heartbeat_ticks: 0,
            check_ticks: 0,
            first_of_term: last.next(),
            pending_change: last.next(),
            uncommitted: Uncommitted::new(last.next()),
        }
    }

    /// Begins a new interval of check-quorum: who counts has changed, or was not asked.
    pub(super) fn grant_check_interval(&mut self) {
        self.check_ticks = 0;
        self.check_round = self.rounds.current();
    }

    pub(super) fn current_round(&self) -> Round {
        self.rounds.current()
    }

    /// The newest round that a quorum echoed; the leader itself echoes at once.
    pub(super) fn quorum_round(&self, own: NodeId, membership: &Membership) -> Round {
        let echoed = |node| match node == own {
            true => self.rounds.current(),
            false => self.tracker.get(node).map_or(Round::NONE, |peer| peer.acked_round),
        };
        membership.voters.agreed(echoed).unwrap_or(Round::NONE)
    }

    /// When that round was opened.
    pub(super) fn quorum_opened_at(&self, own: NodeId, membership: &Membership) -> Option<Nanos> {
        self.rounds.opened_at(self.quorum_round(own, membership))
    }

    pub(super) fn peers(&self, election_ticks: u32) -> impl Iterator<Item = PeerStatus> {
        self.tracker.iter().map(move |peer| {
            let active = peer.heard_tick + u64::from(election_ticks) > self.tick;
            peer.status(active && peer.acked_round > Round::NONE)
        })
    }

    pub(super) fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted.bytes
    }

    pub(super) fn transferring_to(&self) -> Option<NodeId> {
        self.transfer.as_ref().map(|transfer| transfer.to)
    }

    pub(super) fn pending_reads(&self) -> usize {
        self.reads.len()
    }
}

/// The bytes proposed and not committed, as a bound for admission.
///
/// Invariant: `sizes` holds the sizes of the entries from `first` on, and `bytes` their sum.
#[derive(Debug)]
pub(super) struct Uncommitted {
    first: Index,
    sizes: VecDeque<u64>,
    bytes: u64,
}

impl Uncommitted {
    fn new(first: Index) -> Uncommitted {
        Uncommitted { first, sizes: VecDeque::new(), bytes: 0 }
    }

    fn admits(&self, size: u64, bytes_max: u64) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(size) <= bytes_max
    }

    pub(super) fn push(&mut self, size: u64) {
        self.sizes.push_back(size);
        self.bytes += size;
    }

    fn commit_to(&mut self, index: Index) {
        while self.first <= index
            && let Some(size) = self.sizes.pop_front()
        {
            self.first = self.first.next();
            self.bytes -= size;
        }
    }
}

impl<S: LogStorage> Raft<S> {
    // Commands

    pub(crate) fn propose(&mut self, data: Bytes) -> Result<Index, ProposeError> {
        let leader_known = self.leader;
        let retires = self.retires();
        let State::Leader(leader) = &mut self.state else {
            return Err(ProposeError::NotLeader { leader: leader_known });
        };
        if retires {
            return Err(ProposeError::NotLeader { leader: None });
        }
        if let Some(to) = leader.transferring_to() {
            return Err(ProposeError::Transferring { to });
        }
        let index = self.log.last_index().next();
        let entry = Entry { term: self.term, index, kind: EntryKind::Normal, data };
        let size = entry.size_bytes();
        if !leader.uncommitted.admits(size, self.config.uncommitted_bytes_max) {
            return Err(ProposeError::Busy);
        }
        leader.uncommitted.push(size);
        self.log.push(entry);
        self.rouse(None);
        Ok(index)
    }

    /// The first entry of the term. It carries no command and is admitted whatever waits: what was uncommitted before it
    /// becomes committed with it (thesis §3.6.2).
    pub(super) fn append_noop(&mut self) {
        let State::Leader(leader) = &mut self.state else { unreachable!("only a leader appends") };
        // Its size is not charged, or an idle new leader would not admit one proposal of any size.
        leader.uncommitted.push(0);
        let index = leader.first_of_term;
        self.log.push(Entry { term: self.term, index, kind: EntryKind::Noop, data: Bytes::new() });
    }

    // Inputs

    pub(super) fn on_append_response(&mut self, from: NodeId, result: AppendResult, round: Round) {
        self.on_round_echoed(from, round);
        let State::Leader(leader) = &mut self.state else { return };
        let Some(peer) = leader.tracker.get_mut(from) else { return };
        match result {
            AppendResult::Accepted { match_index } => {
                if peer.accept(match_index, self.log.storage.first_index()) {
                    self.advance_commit();
                    self.pursue_transfer(from);
                }
            }
            AppendResult::Rejected { rejected_index, hint_index, hint_term } => {
                let (agree_max, _) = self.log.conflict_by_term(hint_index, hint_term);
                peer.reject(rejected_index, agree_max);
            }
        }
    }

    pub(super) fn on_round_echoed(&mut self, from: NodeId, round: Round) {
        let State::Leader(leader) = &mut self.state else { return };
        let Some(peer) = leader.tracker.get_mut(from) else { return };
        peer.heard_tick = leader.tick;
        if round <= peer.acked_round {
            return;
        }
        peer.acked_round = round;
        let quorum = leader.quorum_round(self.config.id, &self.membership);
        leader.rounds.forget_before(quorum);
        self.release_reads();
    }

    pub(crate) fn report_unreachable(&mut self, node: NodeId) {
        let State::Leader(leader) = &mut self.state else { return };
        if let Some(peer) = leader.tracker.get_mut(node)
            && matches!(peer.flow, crate::tracker::Flow::Replicate { .. })
        {
            peer.become_probe(peer.match_index.next());
            self.rouse(None);
        }
    }

    /// Commits what a quorum holds on disk, if it is of this term: an entry of a former one may still be replaced although
    /// a quorum holds it, unless one of this term is committed after it (thesis §3.6.2, figure 3.7). The own disk counts
    /// as any other; the others may well be faster.
    pub(super) fn advance_commit(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        let (own, flushed) = (self.config.id, self.log.flushed());
        let held = |node| match node == own {
            true => flushed,
            false => leader.tracker.get(node).map_or(Index::ZERO, |peer| peer.match_index),
        };
        let agreed = match mutated!(LearnerCounts) {
            true => agreed_with_learners(&self.membership, held),
            false => self.membership.voters.agreed(held),
        };
        let Some(quorum) = agreed else { return };
        let of_term = quorum >= leader.first_of_term || mutated!(CommitOldTerm);
        if !of_term || !self.log.commit_to(quorum) {
            return;
        }
        leader.uncommitted.commit_to(quorum);
        self.release_reads();
        self.pursue_retirement();
    }

    pub(super) fn tick_leader(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        leader.tick += 1;
        leader.rounds.open(self.timers.now);
        for peer in leader.tracker.iter_mut() {
            peer.stalled = false;
        }
        leader.heartbeat_ticks += 1;
        if leader.heartbeat_ticks >= self.config.heartbeat_ticks {
            leader.heartbeat_ticks = 0;
            for peer in leader.tracker.iter_mut() {
                peer.on_heartbeat_due();
            }
        }
        leader.check_ticks += 1;
        if leader.check_ticks >= self.config.election_ticks {
            leader.check_ticks = 0;
            self.check_quorum();
        }
        self.expire_reads();
        self.tick_transfer();
        self.leave_joint();
    }

    /// An election timeout has passed since the last check: a leader that no quorum has answered since steps down, so that
    /// its clients look for another (thesis §6.2).
    fn check_quorum(&mut self) {
        let State::Leader(leader) = &mut self.state else { return };
        let alive = leader.quorum_round(self.config.id, &self.membership) >= leader.check_round;
        leader.check_round = leader.rounds.current();
        for peer in leader.tracker.iter_mut() {
            peer.repeat_snapshot_report();
        }
        if !alive && self.config.check_quorum {
            self.become_follower(self.term, None);
        }
    }
}

/// What as many nodes as are a majority of the voters hold, learners among them: a fault, see `mutation`.
fn agreed_with_learners(membership: &Membership, held: impl Fn(NodeId) -> Index) -> Option<Index> {
    let mut values: Vec<Index> = membership.members().map(held).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(membership.voters.incoming.quorum() - 1).copied()
}
