//! What a log holds, and what of a node must survive a crash.

use bytes::Bytes;

use crate::error::UnknownEntryKind;
use crate::types::{Index, NodeId, Term};

/// What every entry is charged on top of its payload wherever bytes are counted: about what its header costs on
/// the wire and in the log. It keeps a flood of empty entries from passing every byte bound.
pub const ENTRY_OVERHEAD_BYTES: u64 = 32;

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EntryKind {
    /// A command of the state machine.
    Normal,
    /// The empty entry a new leader commits first, and with it all before (thesis §6.4).
    Noop,
    /// A change of the group's membership.
    ConfChange,
}

impl From<EntryKind> for u8 {
    fn from(kind: EntryKind) -> u8 {
        match kind {
            EntryKind::Normal => 0,
            EntryKind::Noop => 1,
            EntryKind::ConfChange => 2,
        }
    }
}

impl TryFrom<u8> for EntryKind {
    type Error = UnknownEntryKind;

    fn try_from(byte: u8) -> Result<Self, UnknownEntryKind> {
        match byte {
            0 => Ok(EntryKind::Normal),
            1 => Ok(EntryKind::Noop),
            2 => Ok(EntryKind::ConfChange),
            _ => Err(UnknownEntryKind(byte)),
        }
    }
}

/// One entry of the log. Two entries with the same index and term are the same entry (thesis §3.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The term of the leader that created it.
    pub term: Term,
    /// Its place in the log, from 1.
    pub index: Index,
    /// What it is for.
    pub kind: EntryKind,
    /// Its payload; cloning it shares the memory.
    pub data: Bytes,
}

impl Entry {
    /// What the entry counts for in every byte bound of this crate.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        u64::try_from(self.data.len()).expect("a length fits 64 bits") + ENTRY_OVERHEAD_BYTES
    }
}

/// The part of a node's state, beside its log, that must survive a crash (thesis figure 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The newest term the node has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// The newest entry it knows committed. A lost advance of this field alone does no harm.
    pub commit: Index,
}

/// Who belongs to the group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfState {
    /// The voters; during a joint change (thesis §4.3) the incoming ones.
    pub voters: Vec<NodeId>,
    /// Nodes that receive the log and do not vote.
    pub learners: Vec<NodeId>,
    /// The voters being replaced; empty except during a joint change.
    pub voters_outgoing: Vec<NodeId>,
}

/// What a snapshot of the state machine stands for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotMeta {
    /// The last entry it holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Who belonged to the group as of that entry.
    pub conf_state: ConfState,
}

/// What a node starts from: fresh, or as recovered from disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InitialState {
    /// As last made durable.
    pub hard_state: HardState,
    /// As of `applied`.
    pub conf_state: ConfState,
    /// The last entry the state machine durably holds. It may lie past `hard_state.commit`, which is
    /// written lazily; it then counts as committed.
    pub applied: Index,
}
