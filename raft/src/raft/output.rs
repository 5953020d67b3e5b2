//! The `Ready`: what has come up since the last one, collected, and what is worked out only when it is taken.

use std::collections::VecDeque;

use super::Raft;
use crate::entry::{Entry, EntryKind, HardState, SnapshotMeta};
use crate::error::LogReadError;
use crate::message::{Message, MessageBody};
use crate::mutation::mutated;
use crate::ready::{Fetch, ReadState, Ready, SoftState};
use crate::status::Role;
use crate::storage::LogStorage;
use crate::types::{FetchId, Index, NodeId, ReadyId, Term};

/// What has come up since the last `Ready`, and what the last ones said.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) messages: Vec<Message>,
    pub(super) persisted_messages: Vec<Message>,
    pub(super) read_states: Vec<ReadState>,
    pub(super) reads_dropped: Vec<u64>,
    pub(super) snapshots_needed: Vec<NodeId>,
    pub(super) snapshot: Option<SnapshotMeta>,
    /// Membership changes handed out to be applied, and not applied yet.
    pub(super) changes_handed_out: VecDeque<Index>,
    /// The commit index in the hard states that go to the disk before whatever follows.
    pub(super) synced_commit: Index,
    fetches: Vec<Fetch>,
    last_ready: ReadyId,
    last_fetch: FetchId,
    hard_state: HardState,
    soft_state: SoftState,
}

impl Output {
    /// `hard_state`: as recovered. `committed`: what is known committed after every crash from now on.
    pub(super) fn new(hard_state: HardState, committed: Index) -> Output {
        Output {
            messages: Vec::new(),
            persisted_messages: Vec::new(),
            read_states: Vec::new(),
            reads_dropped: Vec::new(),
            snapshots_needed: Vec::new(),
            snapshot: None,
            changes_handed_out: VecDeque::new(),
            synced_commit: committed,
            fetches: Vec::new(),
            last_ready: ReadyId(0),
            last_fetch: FetchId(0),
            hard_state,
            soft_state: SoftState { role: Role::Follower, leader: None, term: hard_state.term },
        }
    }

    pub(super) fn last_ready(&self) -> ReadyId {
        self.last_ready
    }

    /// Asks for a read from disk.
    pub(super) fn fetch(&mut self, fetch: impl FnOnce(FetchId) -> Fetch) -> FetchId {
        self.last_fetch = self.last_fetch.next();
        self.fetches.push(fetch(self.last_fetch));
        self.last_fetch
    }

    fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.persisted_messages.is_empty()
            && self.read_states.is_empty()
            && self.reads_dropped.is_empty()
            && self.snapshots_needed.is_empty()
            && self.snapshot.is_none()
            && self.fetches.is_empty()
    }
}

/// Reading the log for the state machine.
#[derive(Debug, Default)]
pub(super) struct ApplyReader {
    /// The read from disk under way.
    pub(super) fetch: Option<FetchId>,
    /// What it brought: committed, so it stays true.
    fetched: Vec<Entry>,
    /// The storage failed to deliver; do not ask again before the next tick.
    pub(super) stalled: bool,
}

impl<S: LogStorage> Raft<S> {
    /// Sends at once.
    pub(super) fn send(&mut self, to: NodeId, body: MessageBody) {
        self.output.messages.push(Message { from: self.config.id, to, term: self.term, body });
    }

    /// Sends once everything up to the next `Ready` is on disk.
    pub(super) fn send_persisted(&mut self, to: NodeId, body: MessageBody) {
        self.output.persisted_messages.push(Message { from: self.config.id, to, term: self.term, body });
    }

    /// Answers as soon as the term is on disk: the answer promises to refuse older ones.
    pub(super) fn respond(&mut self, to: NodeId, body: MessageBody) {
        if self.is_term_durable() {
            self.send(to, body);
        } else {
            self.send_persisted(to, body);
        }
    }

    pub(super) fn is_term_durable(&self) -> bool {
        self.durable_ballot.0 == self.term
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.output.is_empty()
            || self.log.has_unstable()
            || self.hard_state() != self.output.hard_state
            || self.soft_state() != self.output.soft_state
            || self.applies()
            || self.forwarded.is_collecting()
            || self.replicates()
    }

    pub(crate) fn ready(&mut self) -> Ready {
        self.replicate();
        self.forward_reads();
        let committed = self.take_committed();
        // Up to a membership change that must not reach the disk before the commit index in this Ready; the next has it.
        let end = self.log.writable_to(self.output.synced_commit);
        let whole = end == self.log.last_index();
        let (mut hard, soft) = (self.hard_state(), self.soft_state());
        hard.commit = hard.commit.min(end);
        let before = std::mem::replace(&mut self.output.hard_state, hard);
        let soft_changed = std::mem::replace(&mut self.output.soft_state, soft) != soft;
        let must_sync = ballot(&hard) != ballot(&before) || self.log.has_unstable();
        // One that came with a Ready that need not be durable was perhaps not written.
        let hard_changed = hard != before || must_sync && hard.commit != self.output.synced_commit;
        let output = &mut self.output;
        output.last_ready = output.last_ready.next();
        let id = output.last_ready;
        if must_sync {
            // Before the entries leave: until the caller has stored them, only this log knows the last one's term.
            self.log.note_write(id, end, ballot(&hard));
            output.synced_commit = hard.commit;
        }
        let (truncate_from, entries) = self.log.take_unstable(end);
        let output = &mut self.output;
        // What is promised may concern the entries held back.
        let mut persisted_messages =
            if whole { std::mem::take(&mut output.persisted_messages) } else { Vec::new() };
        let mut messages = std::mem::take(&mut output.messages);
        if mutated!(AckBeforePersist) {
            messages.append(&mut persisted_messages);
        }
        Ready {
            id,
            hard_state: hard_changed.then_some(hard),
            must_sync,
            truncate_from,
            entries,
            messages,
            persisted_messages,
            committed,
            snapshot: output.snapshot.take(),
            read_states: std::mem::take(&mut output.read_states),
            reads_dropped: std::mem::take(&mut output.reads_dropped),
            fetches: std::mem::take(&mut output.fetches),
            soft_state: soft_changed.then_some(soft),
            snapshots_needed: std::mem::take(&mut output.snapshots_needed),
        }
    }

    fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed() }
    }

    fn soft_state(&self) -> SoftState {
        SoftState { role: self.role(), leader: self.leader, term: self.term }
    }

    // Applying

    /// Whether [`Raft::take_committed`] has anything to do.
    fn applies(&self) -> bool {
        let reader = &self.apply_reader;
        let idle = reader.fetch.is_none() && !reader.stalled && self.installing.is_none();
        idle && self.log.applicable(self.config.committed_bytes_max).is_some()
    }

    fn take_committed(&mut self) -> Vec<Entry> {
        if !self.applies() {
            return Vec::new();
        }
        let bytes_max = self.config.committed_bytes_max;
        let Some((low, high)) = self.log.applicable(bytes_max) else { return Vec::new() };
        let fetched = std::mem::take(&mut self.apply_reader.fetched);
        let read = match fetched.is_empty() {
            true => self.log.storage.entries(low, high, bytes_max),
            false => Ok(fetched),
        };
        match read {
            Ok(entries) => {
                let changes = entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange);
                self.output.changes_handed_out.extend(changes.map(|entry| entry.index));
                self.log.hand_out(&entries);
                return entries;
            }
            Err(LogReadError::Pending) => {
                let id = self.output.fetch(|id| Fetch { id, low, high, bytes_max });
                self.apply_reader.fetch = Some(id);
            }
            Err(error) => self.on_apply_unreadable(error),
        }
        Vec::new()
    }

    pub(super) fn on_apply_fetched(&mut self, result: Result<Vec<Entry>, LogReadError>) {
        self.apply_reader.fetch = None;
        match result {
            Ok(entries) => self.apply_reader.fetched = entries,
            Err(error) => self.on_apply_unreadable(error),
        }
    }

    fn on_apply_unreadable(&mut self, error: LogReadError) {
        assert_ne!(error, LogReadError::Compacted, "the log was compacted past the applied index");
        self.apply_reader.stalled = true;
    }
}

fn ballot(state: &HardState) -> (Term, Option<NodeId>) {
    (state.term, state.vote)
}
