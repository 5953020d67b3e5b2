//! Snapshots of a replica on disk: those taken here, and one that is being received.
//!
//! ```text
//! <replica>/store/                                the engine
//! <replica>/snapshots/<index>-<term>/             a snapshot: complete, verified, never changed
//!                       MANIFEST                  what it stands for, and each file's length and checksum
//!                       data/                     a checkpoint of the engine
//!                       TO-SEND                   if it was taken only to be sent, and goes when nobody needs it
//! <replica>/snapshots/draft                       one being taken              removed at the next open
//! <replica>/incoming/<index>-<term>-<checksum>/   one being received, in the same form; the checksum is that of
//!                                                 its manifest, so that files of two snapshots cannot mix
//!                       VERIFIED                  which of its files are verified and durable
//! ```
//!
//! Invariants:
//! - A folder under a snapshot's name is a whole snapshot: it gets that name by rename, complete and durable.
//! - A snapshot that is being sent is pinned and stays, however many newer ones there are.
//! - What was received is handed out only once every file has the length and the checksum of the manifest and is
//!   durable. From then until it is installed or dropped nothing else is received.
//! - Installing is one rename inside the engine: a crash leaves the old state or the new one.
//!
//! Everything here may block, some of it for as long as reading all of a replica takes: never call it on an executor.

mod incoming;
mod library;
mod manifest;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{OpenError, StoreError};

pub use incoming::{Incoming, ReceiveError};
pub use library::{Library, PinnedSnapshot, TakenTo};
pub use manifest::{Manifest, ManifestError, SnapshotFile};

/// Where the checkpoint lies in a snapshot's folder.
const DATA: &str = "data";
/// The file that says what a snapshot is.
const MANIFEST: &str = "MANIFEST";

/// Why a snapshot cannot be taken, or the library not be opened.
#[derive(Debug, Error)]
pub enum TakeError {
    /// The replica has applied nothing yet.
    #[error("there is nothing to take a snapshot of")]
    Empty,
    /// The engine failed; its error says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The checkpoint cannot be read back: try again, and look at the disk.
    #[error(transparent)]
    Checkpoint(#[from] OpenError),
    /// The checkpoint holds a membership that cannot be read: rebuild the replica from its peers.
    #[error(transparent)]
    ConfState(#[from] crate::machine::ConfStateCorrupt),
    /// The disk is full: try again once there is room.
    #[error("{path}: no space left: {detail}")]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Reading or writing failed: the state machine itself is untouched.
    #[error("{path}: {detail}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
}

/// Why a snapshot that was received was not installed.
#[derive(Debug, Error)]
pub enum InstallError {
    /// It is no longer there: receive it again.
    #[error("{path}: there is no such snapshot")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is not what its manifest says, and was removed: receive it again. The old state is untouched.
    #[error("{path}: not installed: {detail}")]
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The state machine is already past it, so it was removed.
    #[error("a snapshot at {index} is not installed over a state at {applied}")]
    Stale {
        /// What the snapshot holds.
        index: u64,
        /// What the state machine holds.
        applied: u64,
    },
    /// Reading or writing failed, and the old or the new state may be in place: fatal for the process.
    #[error("{path}: {detail}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The engine was destroyed: the replica is gone.
    #[error("{path}: the engine was destroyed")]
    Destroyed {
        /// Its folder.
        path: PathBuf,
    },
}

fn take_io(path: &Path) -> impl FnOnce(io::Error) -> TakeError {
    let path = path.to_owned();
    move |error| {
        let detail = error.to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => TakeError::NoSpace { path, detail },
            _ => TakeError::Io { path, detail },
        }
    }
}

#[cfg(test)]
mod tests;
