//! Pre-elections and elections (thesis §3.4, §9.6).

use super::{Raft, State};
use crate::message::{Message, MessageBody};
use crate::quorum::VoteResult;
use crate::storage::LogStorage;
use crate::types::{NodeId, Term};

/// The votes of one (pre-)election.
///
/// Invariant: one vote per voter; a voter does not change its mind.
#[derive(Debug)]
pub(super) struct Ballot {
    votes: Vec<(NodeId, bool)>,
    /// The leader asked for this election.
    transfer: bool,
}

impl Ballot {
    pub(super) fn new(transfer: bool) -> Ballot {
        Ballot { votes: Vec::new(), transfer }
    }

    fn record(&mut self, voter: NodeId, granted: bool) {
        if self.of(voter).is_none() {
            self.votes.push((voter, granted));
        }
    }

    fn of(&self, voter: NodeId) -> Option<bool> {
        self.votes.iter().find(|(node, _)| *node == voter).map(|(_, granted)| *granted)
    }
}

impl<S: LogStorage> Raft<S> {
    /// Calls an election now, unless a lease could be broken by it: the group would hold the vote of a node that has just
    /// promised not to give it.
    pub(crate) fn campaign(&mut self) {
        self.rouse(self.leader);
        let held = self.config.lease && self.is_sticky() && !self.is_alone();
        if !self.is_leader() && self.is_promotable() && !held {
            self.start_campaign();
        }
    }

    pub(super) fn start_campaign(&mut self) {
        // Who was removed and may not be needed at all must not disturb the others by its terms (thesis §4.2.3).
        if !self.config.pre_vote && self.membership.contains(self.config.id) {
            return self.start_election(false);
        }
        self.become_pre_candidate();
        self.record_vote(self.config.id, true);
        self.ask_for_votes();
        self.conclude_pre_vote();
    }

    /// Enters a new term as candidate. The own vote counts once it is on disk.
    pub(super) fn start_election(&mut self, transfer: bool) {
        self.become_candidate(transfer);
        self.ask_for_votes();
    }

    pub(super) fn on_pre_vote_response(&mut self, from: NodeId, term: Term, granted: bool) {
        // A grant speaks of the next term; one of another term answers a former question.
        let current = !granted || term == self.term.next();
        if current && matches!(self.state, State::PreCandidate(_)) {
            self.record_vote(from, granted);
            self.conclude_pre_vote();
        }
    }

    pub(super) fn on_vote_response(&mut self, from: NodeId, granted: bool) {
        if matches!(self.state, State::Candidate(_)) {
            self.record_vote(from, granted);
            self.conclude_vote();
        }
    }

    /// A write became durable: the own vote may be among it.
    pub(super) fn count_own_vote(&mut self) {
        if self.durable_ballot == (self.term, Some(self.config.id)) {
            self.record_vote(self.config.id, true);
            self.conclude_vote();
        }
    }

    /// Asks those again who did not answer: the question or the answer was lost, or they heard a leader until now.
    pub(super) fn tick_ballot(&mut self) {
        let elapsed = self.timers.elapsed_ticks;
        if elapsed > 0 && elapsed.is_multiple_of(self.config.heartbeat_ticks) {
            self.ask_for_votes();
        }
    }

    fn record_vote(&mut self, voter: NodeId, granted: bool) {
        let known = voter == self.config.id || self.membership.voters.contains(voter);
        if let State::PreCandidate(ballot) | State::Candidate(ballot) = &mut self.state
            && known
        {
            ballot.record(voter, granted);
        }
    }

    fn ask_for_votes(&mut self) {
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        let (ballot, term, body) = match &self.state {
            State::PreCandidate(ballot) => {
                (ballot, self.term.next(), MessageBody::PreVote { last_index, last_term })
            }
            State::Candidate(ballot) => {
                (ballot, self.term, MessageBody::Vote { last_index, last_term, transfer: ballot.transfer })
            }
            State::Follower | State::Leader(_) => return,
        };
        let from = self.config.id;
        for to in self.membership.voters.voters().filter(|node| *node != from && ballot.of(*node).is_none()) {
            self.output.messages.push(Message { from, to, term, body: body.clone() });
        }
    }

    fn conclude_pre_vote(&mut self) {
        let State::PreCandidate(ballot) = &self.state else { return };
        match self.membership.voters.vote_result(|voter| ballot.of(voter)) {
            VoteResult::Won => self.start_election(false),
            VoteResult::Lost => self.become_follower(self.term, None),
            VoteResult::Pending => {}
        }
    }

    /// Even with a quorum of others, the election is not won before the own vote is on disk. Otherwise this could happen:
    /// the node leads the term, sends entry 5 and crashes with nothing written; it starts anew in the old term, stands
    /// again, the others repeat their votes for it, and it leads the same term with another entry 5.
    fn conclude_vote(&mut self) {
        let State::Candidate(ballot) = &self.state else { return };
        let own = ballot.of(self.config.id) == Some(true);
        match self.membership.voters.vote_result(|voter| ballot.of(voter)) {
            VoteResult::Won if own => self.become_leader(),
            VoteResult::Lost => self.become_follower(self.term, None),
            VoteResult::Won | VoteResult::Pending => {}
        }
    }
}
