//! Why entries are not applied, and machines not opened.

use raft::ConfChangeError;
use thiserror::Error;

use super::division::SlotsCorrupt;
use super::membership::ConfStateCorrupt;
use super::session::SessionCorrupt;
use super::topology::TopologyCorrupt;
use crate::command::{DecodeError, RecordError};
use crate::store::StoreError;

/// Why applying failed; every one of them ends the replica as it stands.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// A committed entry cannot be read: a bug, or an entry of a newer version. Stop the node.
    #[error("entry {index}: {source}")]
    Decode {
        /// The entry's index.
        index: u64,
        /// What is wrong with the payload.
        source: DecodeError,
    },
    /// The leader stamped another version than the entry's index, so versions would not be unique. A bug.
    #[error("entry {index} carries a command of version {version}")]
    Version {
        /// The entry's index.
        index: u64,
        /// The command's version.
        version: u64,
    },
    /// A committed membership change does not fit the membership: a bug, or an entry of a newer version.
    /// Stop the node.
    #[error("entry {index}: {source}")]
    ConfChange {
        /// The entry's index.
        index: u64,
        /// Why it does not fit.
        source: ConfChangeError,
    },
    /// A stored record is damaged: rebuild the replica from its peers by snapshot.
    #[error("entry {index} meets a damaged record: {source}")]
    StoredRecord {
        /// The index of the entry that read it.
        index: u64,
        /// What is wrong with the record.
        source: RecordError,
    },
    /// The engine failed; its error says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a machine cannot start on an engine.
#[derive(Debug, Error)]
pub enum MachineOpenError {
    /// The machine's own records are damaged: rebuild the replica from its peers by snapshot.
    #[error(transparent)]
    Session(#[from] SessionCorrupt),
    /// The clock record is damaged: rebuild the replica from its peers by snapshot.
    #[error("the clock record holds {bytes} bytes instead of 8")]
    Clock {
        /// Its length.
        bytes: usize,
    },
    /// The membership record is damaged: rebuild the replica from its peers by snapshot.
    #[error(transparent)]
    ConfState(#[from] ConfStateCorrupt),
    /// The cluster map is damaged: rebuild the replica from its peers by snapshot.
    #[error(transparent)]
    Topology(#[from] TopologyCorrupt),
    /// The record of slots is damaged: rebuild the replica from its peers by snapshot.
    #[error(transparent)]
    Slots(#[from] SlotsCorrupt),
    /// The engine failed; its error says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
}
