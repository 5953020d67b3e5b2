//! Granting and refusing votes (thesis §3.4, §3.6.1, §9.6).

use super::Raft;
use crate::message::{Message, MessageBody};
use crate::mutation::mutated;
use crate::storage::LogStorage;
use crate::types::{Index, NodeId, Term};

impl<S: LogStorage> Raft<S> {
    /// Would this node vote for `from` in term `term`? To a candidate that must not win it keeps silent as long as it
    /// hears the leader: the answer may be another one soon, and a candidate asks again.
    pub(super) fn on_pre_vote(&mut self, from: NodeId, term: Term, last_index: Index, last_term: Term) {
        if self.is_sticky() {
            return;
        }
        let free = term > self.term || self.may_vote_for(from);
        let granted = free && self.log.is_up_to_date(last_index, last_term);
        // A grant speaks of the term asked about; nothing on disk stands behind it. A refusal teaches our own.
        let term = if granted { term } else { self.term };
        let body = MessageBody::PreVoteResponse { granted };
        self.output.messages.push(Message { from: self.config.id, to: from, term, body });
    }

    /// Votes for `from` in this term, if nothing forbids it. The vote leaves when it is on disk.
    pub(super) fn on_vote(&mut self, from: NodeId, last_index: Index, last_term: Term, transfer: bool) {
        if !transfer && self.is_sticky() {
            return;
        }
        let free = self.may_vote_for(from) || mutated!(VoteTwice);
        let granted = free && self.log.is_up_to_date(last_index, last_term);
        if granted {
            self.vote = Some(from);
            self.timers.elapsed_ticks = 0;
        }
        let body = MessageBody::VoteResponse { granted };
        if granted && self.durable_ballot != (self.term, self.vote) {
            self.send_persisted(from, body);
        } else {
            self.respond(from, body);
        }
    }

    fn may_vote_for(&self, candidate: NodeId) -> bool {
        self.vote == Some(candidate) || (self.vote.is_none() && self.leader.is_none())
    }
}
