//! One small enum per operation; each variant says what the caller should do.

use thiserror::Error;

use crate::types::StreamId;

/// Why a read was not answered from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadError {
    /// Ask [`plan_read`](crate::Wal::plan_read) and read it from disk.
    #[error("the entries are on disk only")]
    OnDisk,
    /// Send a snapshot instead: the entries are gone.
    #[error("the entries were compacted")]
    Compacted,
    /// The range reaches past the end of the stream, or the stream is unknown.
    #[error("the entries do not exist")]
    Unavailable,
}

/// A record read back from disk is not what was written. Never serve it: say which file and offset,
/// and rebuild the replica from its peers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}: the record of {stream}, index {index}, at offset {offset} is damaged: {why}")]
pub struct CorruptRecord {
    /// Name of the segment file inside the WAL's folder.
    pub file: String,
    /// Offset of the record in the file, in bytes.
    pub offset: u64,
    /// The stream whose record is damaged.
    pub stream: StreamId,
    /// Index of the entry that was asked for.
    pub index: u64,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Why a WAL's segments could not be turned back into streams.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecoveryError {
    /// Acknowledged records cannot be read. Restore the file, or open in quarantine mode and let the
    /// streams be rebuilt from their peers.
    #[error(
        "{file}: damaged at offset {offset}: {why}; acknowledged records are lost ({}). {what_to_do}",
        list(streams)
    )]
    Corrupt {
        /// Name of the segment file inside the WAL's folder.
        file: String,
        /// Offset of the damage, in bytes.
        offset: u64,
        /// What is wrong there.
        why: String,
        /// The streams that may have lost records.
        streams: Vec<StreamId>,
        /// Advice for the person who reads the message.
        what_to_do: &'static str,
    },
    /// The folder belongs to another node or core: correct the configuration.
    #[error(
        "{file}: written by node {found_node} core {found_core}, but this is node {node} core {core}: \
         point the node at its own data folder"
    )]
    Foreign {
        /// Name of the segment file inside the WAL's folder.
        file: String,
        /// Node stamped in the file.
        found_node: u64,
        /// Core stamped in the file.
        found_core: u16,
        /// Node of the configuration.
        node: u64,
        /// Core of the configuration.
        core: u16,
    },
    /// The file was written by an incompatible release: open it with that release.
    #[error(
        "{file}: format version {found}, this release reads up to version {supported}: use a matching release"
    )]
    Version {
        /// Name of the segment file inside the WAL's folder.
        file: String,
        /// Version in the file.
        found: u16,
        /// Newest version this code reads.
        supported: u16,
    },
    /// The configuration itself is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
}

fn list(streams: &[StreamId]) -> String {
    const SHOWN_MAX: usize = 8;
    if streams.is_empty() {
        return "streams unknown".to_owned();
    }
    let mut names: Vec<String> = streams.iter().take(SHOWN_MAX).map(StreamId::to_string).collect();
    if streams.len() > SHOWN_MAX {
        names.push(format!("and {} more", streams.len() - SHOWN_MAX));
    }
    names.join(", ")
}
