//! What a leader knows of one follower, and may send to it.
//!
//! ```text
//!            accept                    snapshot needed
//!   Probe ───────────▶ Replicate ─────────────────────▶ Snapshot ──▶ Replicate   it acknowledges what the log goes on from
//!     ▲ ◀─────────────── │  reject, unreachable            │
//!     └──────────────────────────────────────────────────-─┘ not sent; or sent, and it says where its log ends
//! ```

use super::inflights::Inflights;
use crate::entry::Entry;
use crate::status::{PeerState, PeerStatus};
use crate::types::{FetchId, Index, NodeId, Round};

/// How a follower is sent to.
#[derive(Clone, Debug)]
pub(crate) enum Flow {
    /// Where the logs agree is not known: one append at a time. `sent` is the round of the one under way.
    Probe { sent: Option<Round> },
    /// The logs agree up to `next_index - 1`, by all the leader knows: appends are pipelined.
    Replicate { inflights: Inflights },
    /// The log no longer holds what the follower needs.
    Snapshot(Awaited),
}

/// Where a snapshot is on its way to a follower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    /// The caller has yet to be told that it is needed.
    report_due: bool,
    /// All of it is with the follower, which may take a while to install it. Now and then an empty append at the end of the
    /// log asks whether it has.
    sent: bool,
    /// The entry before the last such append.
    asked: Option<Index>,
}

/// The limits of the pipeline to one follower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: u64,
}

/// An append that could be sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AppendDue {
    /// With what follows from `next_index`, if anything.
    Entries,
    /// Empty, to learn whether the ones before it were lost.
    Check,
}

/// What a leader knows of one follower.
///
/// Invariants: `match_index < next_index`; in Replicate every inflight append ends in `(match_index, next_index)`.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    pub(crate) node: NodeId,
    pub(crate) learner: bool,
    /// The last entry known to be durable there. Never falls.
    pub(crate) match_index: Index,
    /// The next entry to send.
    pub(crate) next_index: Index,
    pub(crate) flow: Flow,
    /// The newest round it echoed in this term.
    pub(crate) acked_round: Round,
    /// The leader's tick at which it was last heard of.
    pub(crate) heard_tick: u64,
    /// The commit index it was last told, as far as it could take it.
    pub(crate) told_commit: Index,
    pub(crate) heartbeat_due: bool,
    /// In Replicate: acknowledgements stay out, and an empty append should find out why.
    check_due: bool,
    /// The storage failed to deliver; do not ask again before the next tick.
    pub(crate) stalled: bool,
    /// The read from disk under way for it.
    pub(crate) fetch: Option<FetchId>,
    /// What that read brought, to be sent next if it begins at `next_index`.
    pub(crate) fetched: Vec<Entry>,
    /// `match_index` and `acked_round` at the last heartbeat.
    at_heartbeat: (Index, Round),
}

impl Progress {
    pub(crate) fn new(node: NodeId, learner: bool, last: Index, heard_tick: u64) -> Progress {
        Progress {
            node,
            learner,
            match_index: Index::ZERO,
            next_index: last.next(),
            flow: Flow::Probe { sent: None },
            acked_round: Round::NONE,
            heard_tick,
            told_commit: Index::ZERO,
            heartbeat_due: false,
            check_due: false,
            stalled: false,
            fetch: None,
            fetched: Vec::new(),
            at_heartbeat: (Index::ZERO, Round::NONE),
        }
    }

    // State changes

    pub(crate) fn become_probe(&mut self, next_index: Index) {
        self.next_index = next_index.max(self.match_index.next());
        self.become_flow(Flow::Probe { sent: None });
    }

    pub(crate) fn become_replicate(&mut self) {
        self.next_index = self.match_index.next();
        self.become_flow(Flow::Replicate { inflights: Inflights::default() });
    }

    pub(crate) fn become_snapshot(&mut self) {
        self.become_flow(Flow::Snapshot(Awaited { report_due: true, sent: false, asked: None }));
    }

    /// The transfer of a snapshot ended. One that failed is asked for again at the next tick, if the log still lacks what
    /// the follower needs.
    pub(crate) fn on_snapshot_sent(&mut self, sent: bool) {
        match &mut self.flow {
            Flow::Snapshot(awaited) if sent => *awaited = Awaited { report_due: false, sent, asked: None },
            Flow::Snapshot(_) => {
                self.become_probe(self.match_index.next());
                self.stalled = true;
            }
            Flow::Probe { .. } | Flow::Replicate { .. } => {}
        }
    }

    fn become_flow(&mut self, flow: Flow) {
        self.flow = flow;
        self.check_due = false;
        self.stalled = false;
        self.fetch = None;
        self.fetched = Vec::new();
    }

    // What the follower answers

    /// It durably holds everything up to `match_index`. `first` is the first entry that the leader's log holds.
    /// Returns whether that is news.
    pub(crate) fn accept(&mut self, match_index: Index, first: Index) -> bool {
        let advanced = match_index > self.match_index;
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(self.match_index.next());
        match &mut self.flow {
            Flow::Probe { .. } if match_index == self.match_index => self.become_replicate(),
            Flow::Probe { .. } => {}
            Flow::Replicate { inflights } => inflights.free_to(self.match_index),
            Flow::Snapshot(_) if self.match_index.next() >= first => self.become_replicate(),
            Flow::Snapshot(_) => {}
        }
        advanced
    }

    /// It refused an append after `rejected`; the logs can agree at `agree_max` at the latest. Does nothing if later
    /// answers have overtaken this one.
    pub(crate) fn reject(&mut self, rejected: Index, agree_max: Index) {
        match self.flow {
            // Even an empty log agrees with the start of every other: this one is of a replica that knows no members yet,
            // and entries would not tell it who founded the group.
            Flow::Probe { .. } if rejected == Index::ZERO && self.match_index == Index::ZERO => {
                self.become_snapshot();
            }
            Flow::Snapshot(Awaited { asked, .. }) if asked == Some(rejected) => {
                self.become_probe(rejected.min(agree_max.next()));
            }
            Flow::Replicate { .. } if rejected > self.match_index => {
                self.become_probe(self.match_index.next())
            }
            Flow::Probe { .. } if rejected == self.next_index.prev() && rejected > self.match_index => {
                self.become_probe(rejected.min(agree_max.next()));
            }
            _ => {}
        }
    }

    // What time brings

    /// A heartbeat is due. It is also when what was lost is found out: a follower that echoes rounds and yet has not
    /// acknowledged what it was sent has not received it, or waits for its disk.
    pub(crate) fn on_heartbeat_due(&mut self) {
        self.heartbeat_due = true;
        let (match_before, round_before) = self.at_heartbeat;
        self.at_heartbeat = (self.match_index, self.acked_round);
        match &mut self.flow {
            Flow::Probe { sent } => {
                if sent.is_some_and(|round| self.acked_round > round) {
                    *sent = None;
                }
            }
            Flow::Replicate { .. } => {
                let outstanding = self.match_index.next() < self.next_index;
                let still = self.match_index == match_before && self.acked_round > round_before;
                self.check_due = outstanding && still;
            }
            Flow::Snapshot(awaited) => self.check_due = awaited.sent,
        }
    }

    // What may be sent

    pub(crate) fn append_due(&self, last: Index, window: Window) -> Option<AppendDue> {
        let behind = self.next_index <= last;
        let readable = !self.stalled && self.fetch.is_none();
        match &self.flow {
            Flow::Probe { sent: None } if readable => Some(AppendDue::Entries),
            Flow::Replicate { inflights } if behind && readable && !full(inflights, window) => {
                Some(AppendDue::Entries)
            }
            Flow::Replicate { .. } | Flow::Snapshot(_) if self.check_due => Some(AppendDue::Check),
            _ => None,
        }
    }

    /// Whether it should be told of `committed` though there is nothing else to send. While appends are under way the
    /// next one, or the answer to the last one, is soon enough: so load does not double the messages.
    pub(crate) fn commit_due(&self, last: Index, committed: Index) -> bool {
        match &self.flow {
            Flow::Replicate { inflights } => {
                inflights.is_empty()
                    && self.next_index > last
                    && self.told_commit < self.match_index.min(committed)
            }
            _ => false,
        }
    }

    /// The entry before an append to be sent now.
    pub(crate) fn append_after(&self, last: Index) -> Index {
        match &self.flow {
            Flow::Snapshot(_) => last,
            Flow::Probe { .. } | Flow::Replicate { .. } => self.next_index.prev(),
        }
    }

    /// A snapshot was asked for and has not come: it may have been forgotten.
    pub(crate) fn repeat_snapshot_report(&mut self) {
        if let Flow::Snapshot(awaited) = &mut self.flow {
            awaited.report_due = !awaited.sent;
        }
    }

    pub(crate) fn take_snapshot_report(&mut self) -> bool {
        match &mut self.flow {
            Flow::Snapshot(awaited) => std::mem::take(&mut awaited.report_due),
            _ => false,
        }
    }

    pub(crate) fn snapshot_report_due(&self) -> bool {
        matches!(self.flow, Flow::Snapshot(Awaited { report_due: true, .. }))
    }

    /// An append left with entries up to `last_sent` (none if that is before `next_index`).
    pub(crate) fn on_append_sent(&mut self, last_sent: Index, bytes: u64, commit: Index, round: Round) {
        let has_entries = last_sent >= self.next_index;
        match &mut self.flow {
            Flow::Probe { sent } => *sent = Some(round),
            Flow::Replicate { inflights } if has_entries => {
                inflights.push(last_sent, bytes);
                self.next_index = last_sent.next();
            }
            Flow::Replicate { .. } => self.check_due = false,
            Flow::Snapshot(awaited) => {
                assert!(awaited.sent, "an append to a follower that awaits a snapshot");
                awaited.asked = Some(last_sent);
                self.check_due = false;
            }
        }
        if !matches!(self.flow, Flow::Snapshot(_)) {
            self.told_commit = self.told_commit.max(commit.min(last_sent));
        }
    }

    // Getters

    pub(crate) fn status(&self, active: bool) -> PeerStatus {
        let (state, messages, bytes) = match &self.flow {
            Flow::Probe { sent } => (PeerState::Probe, usize::from(sent.is_some()), 0),
            Flow::Replicate { inflights } => (PeerState::Replicate, inflights.len(), inflights.bytes()),
            Flow::Snapshot(_) => (PeerState::Snapshot, 0, 0),
        };
        PeerStatus {
            node: self.node,
            learner: self.learner,
            state,
            match_index: self.match_index,
            next_index: self.next_index,
            inflight_messages: messages,
            inflight_bytes: bytes,
            acked_round: self.acked_round,
            active,
        }
    }
}

fn full(inflights: &Inflights, window: Window) -> bool {
    inflights.len() >= window.messages_max || inflights.bytes() >= window.bytes_max
}
