//! Changes of the membership (thesis §4), and the leader that is removed by one.
//!
//! A configuration takes effect when it is applied. One change is under way at a time: a leader proposes the next one
//! when it has applied everything up to the last one, and a new leader when it has applied the first entry of its term,
//! for it cannot know what lies before. `log/conf_entries` tells why that is safe. A joint configuration is left by a
//! change that the leader proposes by itself.
//!
//! Who is removed may take its data away, and its vote. Yet a survivor that crashes may come back with the configuration
//! before, not knowing the change committed, and need that vote. So after a change the leader appends an
//! empty entry: when the new configuration has committed that, a quorum of it knows *on disk* that the change
//! is committed, for the commit index goes to the disk with the entry. Only then does a leader [dismiss](Raft::dismisses)
//! the removed, and only then does a leader that was removed itself ask the best of the others to stand for election
//! (thesis §4.2.2 has it stop earlier, at the commit of the change; there a configuration takes effect when it is
//! appended). Until then it leads without counting itself.

use bytes::Bytes;

use super::{Raft, State};
use crate::confchange::{ConfChange, changed, changed_by};
use crate::entry::{ConfState, Entry, EntryKind};
use crate::error::ProposeConfError;
use crate::message::MessageBody;
use crate::quorum::VoteResult;
use crate::status::{PeerState, PeerStatus};
use crate::storage::LogStorage;
use crate::tracker::Membership;
use crate::types::{Index, NodeId, Round, Term};

impl<S: LogStorage> Raft<S> {
    // Proposing

    pub(crate) fn propose_conf_change(&mut self, change: &ConfChange) -> Result<Index, ProposeConfError> {
        let leader_known = self.leader;
        let State::Leader(leader) = &self.state else {
            return Err(ProposeConfError::NotLeader { leader: leader_known });
        };
        if self.retires() {
            return Err(ProposeConfError::NotLeader { leader: None });
        }
        if let Some(to) = leader.transferring_to() {
            return Err(ProposeConfError::Transferring { to });
        }
        if self.log.applied() < leader.pending_change {
            return Err(ProposeConfError::InFlight { index: leader.pending_change });
        }
        let current = self.conf_state();
        let next = changed_by(&current, change)?;
        if next == current {
            return Err(ProposeConfError::NoEffect);
        }
        let next = Membership::new(&next).expect("a change keeps the configuration sound");
        if next.voters.incoming.vote_result(|voter| Some(self.is_active(voter))) != VoteResult::Won {
            return Err(ProposeConfError::NoQuorum);
        }
        self.rouse(None);
        Ok(self.append_conf_change(change))
    }

    pub(crate) fn is_changing(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        self.membership.is_joint() || self.log.applied() < leader.pending_change
    }

    /// Whether this node, or a peer that was lately heard.
    fn is_active(&self, node: NodeId) -> bool {
        node == self.config.id || self.peers().any(|peer| peer.node == node && peer.active)
    }

    fn append_conf_change(&mut self, change: &ConfChange) -> Index {
        let index = self.log.last_index().next();
        let data = change.encode_after(self.log.applied());
        let State::Leader(leader) = &mut self.state else { unreachable!("only a leader appends") };
        // Not charged: it is rare, and must pass whatever waits.
        leader.uncommitted.push(0);
        leader.pending_change = index;
        self.log.push(Entry { term: self.term, index, kind: EntryKind::ConfChange, data });
        index
    }

    /// Leaves a joint configuration as soon as it may. Repeated at every tick and whenever something is applied.
    pub(super) fn leave_joint(&mut self) {
        let State::Leader(leader) = &self.state else { return };
        let free = leader.transfer.is_none() && self.log.applied() >= leader.pending_change;
        if self.membership.is_joint() && free {
            self.rouse(None);
            self.append_conf_change(&ConfChange::leave());
        }
    }

    /// An entry without a command.
    fn append_seal(&mut self) {
        let index = self.log.last_index().next();
        let State::Leader(leader) = &mut self.state else { unreachable!("only a leader appends") };
        leader.uncommitted.push(0);
        self.log.push(Entry { term: self.term, index, kind: EntryKind::Noop, data: Bytes::new() });
    }

    // Applying

    pub(crate) fn apply_conf_change(&mut self, entry: &Entry) -> ConfState {
        assert_eq!(
            self.output.changes_handed_out.pop_front(),
            Some(entry.index),
            "changes are applied in order"
        );
        let state = changed(&self.conf_state(), &entry.data)
            .unwrap_or_else(|error| panic!("entry {}, a committed membership change: {error}", entry.index));
        self.enter_configuration(&state, entry.index);
        self.conf_state()
    }

    /// From now on this configuration counts, for all this node does.
    pub(super) fn enter_configuration(&mut self, state: &ConfState, index: Index) {
        let own = self.config.id;
        self.membership = Membership::new(state).expect("a sound configuration");
        self.changed_at = index;
        let stands = self.is_promotable();
        match &mut self.state {
            State::PreCandidate(_) | State::Candidate(_) if !stands => {
                self.become_follower(self.term, None);
            }
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => {}
            State::Leader(leader) => {
                let left = leader.tracker.follow(own, &self.membership, self.log.last_index(), leader.tick);
                leader.grant_check_interval();
                if leader.transferring_to().is_some_and(|to| !self.membership.voters.contains(to)) {
                    leader.transfer = None;
                }
                if !self.membership.is_joint() {
                    self.append_seal();
                }
                // Those that hold the change learn that they are out; the others have to ask.
                for peer in left.iter().filter(|peer| peer.match_index >= index) {
                    self.send(peer.node, MessageBody::Heartbeat { commit: index, round: Round::NONE });
                }
                self.advance_commit();
                self.release_reads();
                self.pursue_retirement();
            }
        }
    }

    // Those who left

    /// Whether this is a leader that the applied configuration does not name as a voter.
    pub(super) fn retires(&self) -> bool {
        self.is_leader() && !self.membership.voters.contains(self.config.id)
    }

    /// Whether a quorum of the present configuration knows on disk that it is the present one.
    fn is_sealed(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        self.log.committed() > self.changed_at && self.log.committed() >= leader.first_of_term
    }

    pub(crate) fn dismisses(&self, node: NodeId) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let latest = self.log.applied() >= leader.pending_change && !self.membership.is_joint();
        let sealed = latest && self.is_sealed();
        let stranger = node != self.config.id && !self.membership.contains(node);
        // A later leader may have taken it in. Then it does not believe this one if it matters (see below); yet the group
        // would be left with a member that is gone.
        stranger && sealed && self.was_lately_followed()
    }

    /// A leader that is deposed and does not know may dismiss a node that a later one has taken in. What such a node
    /// acknowledged counts for the later leader only once it holds an entry of that one's term (thesis §3.6.2).
    pub(crate) fn believes_dismissal(&self, term: Term) -> bool {
        !self.is_leader() && term >= self.log.last_term()
    }

    /// A leader that was removed hands over as soon as the others can do without it.
    pub(super) fn pursue_retirement(&mut self) {
        if self.retires() && self.is_sealed() {
            if let Some(successor) = self.best_successor() {
                self.send(successor, MessageBody::TimeoutNow);
            }
            self.become_follower(self.term, None);
        }
    }

    /// The voter, other than this node, that has most of the log of all that were lately heard.
    pub(crate) fn best_successor(&self) -> Option<NodeId> {
        let fit = |peer: &PeerStatus| {
            peer.active
                && peer.state == PeerState::Replicate
                && self.membership.voters.incoming.contains(peer.node)
        };
        let rank = |peer: &PeerStatus| (peer.match_index, std::cmp::Reverse(peer.node));
        self.peers().filter(fit).max_by_key(rank).map(|peer| peer.node)
    }
}
