//! What a node wants done.

use crate::entry::{Entry, HardState, SnapshotMeta};
use crate::message::Message;
use crate::status::Role;
use crate::types::{FetchId, Index, NodeId, ReadyId, Term};

/// Everything a node wants done since the last `Ready`. What the caller owes, in this order:
///
/// 1. At once, before any other call on the node: make `truncate_from` and `entries` visible through
///    [`LogStorage`](crate::LogStorage).
/// 2. Submit `truncate_from`, `entries` and `hard_state` to the disk, in the order of the Readys. If `must_sync`, call
///    [`on_persisted`](crate::RawNode::on_persisted) with `id` when they, and those of every earlier Ready, are durable.
/// 3. Send `messages` at once.
/// 4. Send `persisted_messages` when this Ready and all before it are durable, even if this one brings nothing to write.
/// 5. Hand `committed` to the state machine; call [`on_applied`](crate::RawNode::on_applied) as it gets on.
/// 6. Of `committed`, give every membership change to [`apply_conf_change`](crate::RawNode::apply_conf_change), in order and
///    before any other call on the node.
/// 7. Install `snapshot` once everything handed out before is applied, and call
///    [`on_snapshot_installed`](crate::RawNode::on_snapshot_installed) or
///    [`on_snapshot_failed`](crate::RawNode::on_snapshot_failed).
/// 8. Answer `fetches` with [`on_entries_fetched`](crate::RawNode::on_entries_fetched).
///
/// Several Readys may be under way at a time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    /// Its number.
    pub id: ReadyId,
    /// The hard state, if any of it changed.
    pub hard_state: Option<HardState>,
    /// Whether promises depend on this Ready being durable: the term or vote changed, or there are entries.
    pub must_sync: bool,
    /// Drop the log from this index on before appending `entries`, which then begin here.
    pub truncate_from: Option<Index>,
    /// Entries to append: contiguous.
    pub entries: Vec<Entry>,
    /// To be sent at once.
    pub messages: Vec<Message>,
    /// To be sent only when this Ready and all before it are durable.
    pub persisted_messages: Vec<Message>,
    /// To be applied: contiguous from the last one handed out, committed, and durable on this node.
    pub committed: Vec<Entry>,
    /// A snapshot to be installed in place of the log and the state machine. Until that is reported, no appends are taken
    /// and nothing more is handed out to be applied.
    pub snapshot: Option<SnapshotMeta>,
    /// Reads that have their index.
    pub read_states: Vec<ReadState>,
    /// Contexts of reads that were lost, because the leader changed or did not answer: start them anew or refuse them.
    pub reads_dropped: Vec<u64>,
    /// Parts of the log to be read from disk.
    pub fetches: Vec<Fetch>,
    /// The role, leader or term, if any of them changed.
    pub soft_state: Option<SoftState>,
    /// Followers that need entries the log no longer holds. Named again after each election timeout that this lasts.
    pub snapshots_needed: Vec<NodeId>,
}

/// A read that may be served once `index` is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadState {
    /// As given to [`read_index`](crate::RawNode::read_index).
    pub context: u64,
    /// What must be applied first.
    pub index: Index,
}

/// How a read began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadStart {
    /// Serve it once this index is applied.
    At(Index),
    /// Wait for its context in [`Ready::read_states`] or [`Ready::reads_dropped`].
    Pending,
}

/// A part of the log to be read from disk: `[low, high)`, from its start, at least one entry and then as many as fit
/// `bytes_max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Its number, to be given back with the answer.
    pub id: FetchId,
    /// The first entry wanted.
    pub low: Index,
    /// The entry after the last one wanted.
    pub high: Index,
    /// The most bytes of entries wanted.
    pub bytes_max: u64,
}

/// The state worth telling others of that need not survive a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SoftState {
    /// What this node is.
    pub role: Role,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// In which term.
    pub term: Term,
}
