//! What a leader sends to its followers (thesis §3.5, §10.2).
//!
//! Nothing is sent as it comes up: each `Ready` looks at what every follower may be sent now. So many proposals and
//! acknowledgements between two Readys make one message per follower, and the message leaves beside, not after, the
//! leader's own disk write.

use super::output::Output;
use super::{Raft, State};
use crate::config::Config;
use crate::entry::Entry;
use crate::error::LogReadError;
use crate::lease::Rounds;
use crate::log::RaftLog;
use crate::message::{Message, MessageBody};
use crate::ready::Fetch;
use crate::storage::LogStorage;
use crate::tracker::{AppendDue, Progress, Window};
use crate::types::{FetchId, Index, NodeId, Round, Term};

impl<S: LogStorage> Raft<S> {
    /// Whether [`Raft::replicate`] has anything to do.
    pub(super) fn replicates(&self) -> bool {
        let State::Leader(leader) = &self.state else { return false };
        let (last, committed, window) = (self.log.last_index(), self.log.committed(), self.window());
        leader.tracker.iter().any(|peer| {
            peer.heartbeat_due
                || peer.append_due(last, window).is_some()
                || peer.commit_due(last, committed)
                || peer.snapshot_report_due()
        })
    }

    /// Sends every follower what it may be sent.
    pub(super) fn replicate(&mut self) {
        let window = self.window();
        let State::Leader(leader) = &mut self.state else { return };
        let mut sender = Sender {
            term: self.term,
            config: &self.config,
            log: &self.log,
            rounds: &mut leader.rounds,
            output: &mut self.output,
        };
        for peer in leader.tracker.iter_mut() {
            sender.send_to(peer, window);
        }
    }

    fn window(&self) -> Window {
        Window { messages_max: self.config.inflight_messages_max, bytes_max: self.config.inflight_bytes_max }
    }

    /// A read from disk for a follower came back. It is used if the follower still waits for just that; a leader's log is
    /// not cut as long as it leads, and a later leadership does not know the number.
    pub(super) fn on_peer_fetched(&mut self, id: FetchId, result: Result<Vec<Entry>, LogReadError>) {
        let State::Leader(leader) = &mut self.state else { return };
        let Some(peer) = leader.tracker.iter_mut().find(|peer| peer.fetch == Some(id)) else { return };
        peer.fetch = None;
        match result {
            Ok(entries) => peer.fetched = entries,
            Err(LogReadError::Compacted) => peer.become_snapshot(),
            Err(LogReadError::Pending | LogReadError::Unavailable) => peer.stalled = true,
        }
    }
}

/// What sending needs of a leader, beside the follower.
struct Sender<'a, S> {
    term: Term,
    config: &'a Config,
    log: &'a RaftLog<S>,
    rounds: &'a mut Rounds,
    output: &'a mut Output,
}

impl<S: LogStorage> Sender<'_, S> {
    fn send_to(&mut self, peer: &mut Progress, window: Window) {
        let last = self.log.last_index();
        while let Some(due) = peer.append_due(last, window) {
            self.send_append(peer, due);
        }
        if std::mem::take(&mut peer.heartbeat_due) {
            let round = self.rounds.mark_used();
            self.send_heartbeat(peer, round);
        } else if peer.commit_due(last, self.log.committed()) {
            self.send_heartbeat(peer, Round::NONE);
        }
        if peer.take_snapshot_report() {
            self.output.snapshots_needed.push(peer.node);
        }
    }

    /// Sends an append, or finds out why it cannot; afterwards the same append is not due any more.
    fn send_append(&mut self, peer: &mut Progress, due: AppendDue) {
        let prev_index = peer.append_after(self.log.last_index());
        let read = self.log.term(prev_index).and_then(|prev_term| {
            let entries = match due {
                AppendDue::Entries => self.read_for(peer)?,
                AppendDue::Check => Vec::new(),
            };
            Ok((prev_term, entries))
        });
        match read {
            Ok((prev_term, entries)) => self.send_entries(peer, prev_index, prev_term, entries),
            Err(LogReadError::Compacted) => peer.become_snapshot(),
            Err(LogReadError::Pending) => self.fetch_for(peer),
            Err(LogReadError::Unavailable) => peer.stalled = true,
        }
    }

    fn read_for(&self, peer: &mut Progress) -> Result<Vec<Entry>, LogReadError> {
        if peer.next_index > self.log.last_index() {
            return Ok(Vec::new());
        }
        let fetched = std::mem::take(&mut peer.fetched);
        if let Some(tail) = fetched.last()
            && fetched[0].index == peer.next_index
            && self.log.matches(tail.index, tail.term)
        {
            return Ok(fetched);
        }
        self.log.entries(peer.next_index, self.config.append_bytes_max)
    }

    fn fetch_for(&mut self, peer: &mut Progress) {
        let (low, high) = (peer.next_index, self.log.last_index().next());
        let id = self.output.fetch(|id| Fetch { id, low, high, bytes_max: self.config.append_bytes_max });
        peer.fetch = Some(id);
    }

    fn send_entries(&mut self, peer: &mut Progress, prev_index: Index, prev_term: Term, entries: Vec<Entry>) {
        let (commit, round) = (self.log.committed(), self.rounds.mark_used());
        let last_sent = entries.last().map_or(prev_index, |entry| entry.index);
        let bytes = entries.iter().map(Entry::size_bytes).sum();
        peer.on_append_sent(last_sent, bytes, commit, round);
        self.send(peer.node, MessageBody::Append { prev_index, prev_term, entries, commit, round });
    }

    fn send_heartbeat(&mut self, peer: &mut Progress, round: Round) {
        let commit = peer.match_index.min(self.log.committed());
        peer.told_commit = peer.told_commit.max(commit);
        self.send(peer.node, MessageBody::Heartbeat { commit, round });
    }

    fn send(&mut self, to: NodeId, body: MessageBody) {
        self.output.messages.push(Message { from: self.config.id, to, term: self.term, body });
    }
}
