//! What must hold after every call.

use super::{Raft, State};
use crate::storage::LogStorage;
use crate::tracker::Flow;
use crate::types::{NodeId, Round, Term};

impl<S: LogStorage> Raft<S> {
    /// Panics unless every invariant holds.
    pub(crate) fn check_invariants(&self) {
        self.log.check_invariants();
        assert!(self.log.last_term() <= self.term, "an entry of a later term than {}", self.term);
        assert!(self.durable_ballot.0 <= self.term, "a term on disk later than {}", self.term);
        let own = self.config.id;
        assert_eq!(self.is_leader(), self.leader == Some(own), "a leader knows that it leads");
        if matches!(self.state, State::PreCandidate(_) | State::Candidate(_)) {
            assert_eq!(self.leader, None, "who stands for election follows nobody");
        }
        if matches!(self.state, State::Candidate(_) | State::Leader(_)) {
            assert_eq!(self.vote, Some(own), "a candidate votes for itself");
        }
        let forwards = self.leader.is_some_and(|leader| leader != own);
        assert!(forwards || self.forwarded.len() == 0, "reads sent on to nobody");
        assert!(self.installing.is_none() || matches!(self.state, State::Follower), "only followers install");
        assert!(
            !self.dormant || matches!(self.state, State::Follower | State::Leader(_)),
            "a sleeping candidate"
        );
        assert!(self.output.changes_handed_out.len() <= 1 || !self.is_leader(), "one change at a time");
        self.check_leader();
    }

    fn check_leader(&self) {
        let State::Leader(leader) = &self.state else { return };
        let last = self.log.last_index();
        assert!(leader.first_of_term <= last, "a leader has appended an entry of its term");
        assert_eq!(self.log.last_term(), self.term, "a leader appends only entries of its term");
        for peer in leader.tracker.iter() {
            assert!(peer.node != self.config.id && peer.node != NodeId(0), "a peer is another node");
            assert!(peer.match_index < peer.next_index, "match {} of {}", peer.match_index, peer.node);
            assert!(peer.next_index <= last.next(), "next {} of {}", peer.next_index, peer.node);
            assert!(peer.acked_round <= leader.current_round(), "a round echoed before it was opened");
            assert!(self.membership.contains(peer.node), "a peer is a member: {}", peer.node);
            if let Flow::Replicate { inflights } = &peer.flow {
                assert!(inflights.len() <= self.config.inflight_messages_max, "the window of {}", peer.node);
                let settled = peer.match_index.next() == peer.next_index;
                assert_eq!(settled, inflights.is_empty(), "what is under way to {}", peer.node);
            }
        }
        assert!(leader.quorum_round(self.config.id, &self.membership) > Round::NONE || !self.is_alone());
        assert!(self.term > Term::ZERO, "term zero has no leader");
    }
}
