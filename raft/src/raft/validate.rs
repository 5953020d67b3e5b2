//! What is refused at the door: messages that break the protocol, and recovered states that do not hang together.

use super::{Raft, State};
use crate::entry::{Entry, InitialState, SnapshotMeta};
use crate::error::{ConfigError, StepError};
use crate::message::{AppendResult, Message, MessageBody};
use crate::storage::LogStorage;
use crate::tracker::Membership;
use crate::types::{Index, Round, Term};

/// Whether the log, the hard state and the applied index can be of one node.
pub(super) fn recovered(initial: &InitialState, storage: &impl LogStorage) -> Result<(), ConfigError> {
    let (first, last, applied) = (storage.first_index(), storage.last_index(), initial.applied);
    for (cursor, position) in [("commit", initial.hard_state.commit), ("applied", applied)] {
        if position > last {
            return Err(ConfigError::LogTooShort { last, cursor, position });
        }
    }
    if applied < first.prev() {
        return Err(ConfigError::LogStartsTooLate { first, applied });
    }
    let last_term = storage.term(last).map_err(|error| ConfigError::Log { index: last, error })?;
    if last_term > initial.hard_state.term {
        return Err(ConfigError::TermBehindLog { term: initial.hard_state.term, last_term });
    }
    Ok(())
}

impl<S: LogStorage> Raft<S> {
    /// Refuses what no correct node sends. Changes nothing.
    pub(super) fn validate(&self, message: &Message) -> Result<(), StepError> {
        let (from, to) = (message.from, message.to);
        if to != self.config.id || from == self.config.id {
            return Err(StepError::Misrouted { from, to });
        }
        if message.term == Term::ZERO || message.term == Term(u64::MAX) {
            return Err(StepError::Malformed { from, reason: "a term that no node enters" });
        }
        if let MessageBody::Heartbeat { commit, .. } | MessageBody::Sleep { commit } = message.body
            && message.term >= self.term
            && commit > self.log.last_index()
        {
            return Err(StepError::LostEntries { from, commit, last: self.log.last_index() });
        }
        let broken = match &message.body {
            MessageBody::Append { prev_index, prev_term, entries, .. } => {
                broken_append(message.term, *prev_index, *prev_term, entries)
                    .or_else(|| self.second_leader(message))
            }
            MessageBody::Heartbeat { .. } | MessageBody::TimeoutNow | MessageBody::Sleep { .. } => {
                self.second_leader(message)
            }
            MessageBody::Snapshot { meta } => {
                broken_snapshot(message.term, meta).or_else(|| self.second_leader(message))
            }
            MessageBody::AppendResponse { result, round } => {
                self.broken_round(message, *round).or_else(|| self.broken_result(message, result))
            }
            MessageBody::HeartbeatResponse { round } => self.broken_round(message, *round),
            _ => None,
        };
        broken.map_or(Ok(()), |reason| Err(StepError::Malformed { from, reason }))
    }

    /// Election safety (thesis §3.4): a term has one leader.
    fn second_leader(&self, message: &Message) -> Option<&'static str> {
        let other = self.leader.is_some_and(|leader| leader != message.from);
        (message.term == self.term && other).then_some("a second leader in one term")
    }

    fn broken_round(&self, message: &Message, round: Round) -> Option<&'static str> {
        match &self.state {
            State::Leader(leader) if message.term == self.term && round > leader.current_round() => {
                Some("the echo of a round not opened yet")
            }
            _ => None,
        }
    }

    fn broken_result(&self, message: &Message, result: &AppendResult) -> Option<&'static str> {
        if !self.is_leader() || message.term != self.term {
            return None;
        }
        let last = self.log.last_index();
        match *result {
            AppendResult::Accepted { match_index } if match_index > last => {
                Some("an acknowledgement past the log")
            }
            AppendResult::Rejected { rejected_index, .. } if rejected_index > last => {
                Some("a refusal past the log")
            }
            AppendResult::Rejected { rejected_index, hint_index, .. } if hint_index > rejected_index => {
                Some("a hint past the refusal")
            }
            _ => None,
        }
    }
}

/// Entries are contiguous, and terms rise along the log up to the leader's own.
fn broken_append(term: Term, prev_index: Index, prev_term: Term, entries: &[Entry]) -> Option<&'static str> {
    let (mut index, mut below) = (prev_index, prev_term);
    for entry in entries {
        if index.0.checked_add(1) != Some(entry.index.0) {
            return Some("entries with a gap");
        }
        if entry.term < below {
            return Some("terms fall along the log");
        }
        (index, below) = (entry.index, entry.term);
    }
    (below > term).then_some("entries of a later term")
}

/// A snapshot is of a position that its sender had committed, and names a group.
fn broken_snapshot(term: Term, meta: &SnapshotMeta) -> Option<&'static str> {
    if meta.index == Index::ZERO || meta.term == Term::ZERO || meta.term > term {
        return Some("a snapshot of no committed entry");
    }
    let sound = !meta.conf_state.voters.is_empty() && Membership::new(&meta.conf_state).is_ok();
    (!sound).then_some("a snapshot with an unsound configuration")
}
