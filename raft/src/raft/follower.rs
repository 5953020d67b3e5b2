//! Appends and heartbeats from the leader (thesis §3.5).

use super::Raft;
use crate::entry::Entry;
use crate::message::{AppendResult, MessageBody};
use crate::storage::LogStorage;
use crate::types::{Index, NodeId, Round, Term};

impl<S: LogStorage> Raft<S> {
    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        (prev_index, prev_term): (Index, Term),
        entries: Vec<Entry>,
        commit: Index,
        round: Round,
    ) {
        if self.installing.is_some() {
            return;
        }
        // Entries say what changed since the group was founded, not who founded it.
        if self.membership.is_empty() {
            let result = AppendResult::Rejected {
                rejected_index: prev_index,
                hint_index: Index::ZERO,
                hint_term: Term::ZERO,
            };
            return self.respond(from, MessageBody::AppendResponse { result, round });
        }
        let mut entries = entries;
        let committed = self.log.committed();
        let matched = prev_index.max(committed);
        if prev_index < committed {
            // Late or repeated: what is committed here matches every later leader (thesis §3.6.3).
            entries.retain(|entry| entry.index > committed);
        } else if !self.log.matches(prev_index, prev_term) {
            return self.reject(from, prev_index, prev_term, round);
        }
        let match_index = entries.last().map_or(matched, |entry| entry.index);
        self.log.append(entries);
        self.log.commit_to(commit.min(match_index));
        self.accept(from, match_index, round);
    }

    pub(super) fn on_heartbeat(&mut self, from: NodeId, commit: Index, round: Round) {
        self.log.commit_to(commit);
        if round != Round::NONE {
            self.respond(from, MessageBody::HeartbeatResponse { round });
        }
    }

    /// Acknowledges everything up to `match_index`, when it is on disk. Several appends between two Readys are answered by
    /// one acknowledgement.
    pub(super) fn accept(&mut self, to: NodeId, match_index: Index, round: Round) {
        if match_index <= self.log.flushed() && self.is_term_durable() {
            let result = AppendResult::Accepted { match_index };
            return self.send(to, MessageBody::AppendResponse { result, round });
        }
        let (mut match_index, mut round) = (match_index, round);
        if let Some(last) = self.output.persisted_messages.last()
            && last.to == to
            && last.term == self.term
            && let MessageBody::AppendResponse { result, round: before } = last.body
            && let AppendResult::Accepted { match_index: matched } = result
        {
            match_index = match_index.max(matched);
            round = round.max(before);
            self.output.persisted_messages.pop();
        }
        let result = AppendResult::Accepted { match_index };
        self.send_persisted(to, MessageBody::AppendResponse { result, round });
    }

    /// Refuses, and says how far the logs can agree: entries of later terms than the leader's at that place are certainly
    /// not shared, so one refusal skips all of them (thesis §3.5, end).
    fn reject(&mut self, to: NodeId, prev_index: Index, prev_term: Term, round: Round) {
        let (hint_index, hint_term) = self.log.conflict_by_term(prev_index, prev_term);
        let result = AppendResult::Rejected { rejected_index: prev_index, hint_index, hint_term };
        self.respond(to, MessageBody::AppendResponse { result, round });
    }
}
