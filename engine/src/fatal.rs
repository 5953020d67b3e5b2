//! Everything that ends the process on purpose. A database that goes on after a failed flush or a broken invariant
//! loses data; a named exit is repaired by a restart, or tells the operator what to mend.

use std::path::PathBuf;

use thiserror::Error;

/// Why the process ends itself.
#[derive(Debug, Error)]
pub enum Reason {
    /// The log could not be written or synced. What the disk holds now is unknown, so it is never retried.
    #[error(
        "the write-ahead log in {dir} could not be written: {source}; check the disk, then restart: recovery keeps every acknowledged write"
    )]
    WalWrite {
        /// Folder of the log.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A record that was written cannot be read back.
    #[error(
        "the write-ahead log is damaged: {detail}; check the disk, then restart: what cannot be read is rebuilt from the other nodes"
    )]
    WalCorrupt {
        /// File, offset and reason.
        detail: String,
    },
    /// The state machine could not apply committed entries.
    #[error(
        "shard {shard} could not apply committed entries: {detail}; check the disk, then restart: the log replays them"
    )]
    Apply {
        /// The shard.
        shard: u32,
        /// What the engine said.
        detail: String,
    },
    /// A snapshot could not be installed, and the state machine's data may be neither the old nor the new.
    #[error("shard {shard}: a snapshot could not be installed: {detail}; check the disk, then restart")]
    Install {
        /// The shard.
        shard: u32,
        /// What failed.
        detail: String,
    },
    /// This node had acknowledged entries that its log no longer holds.
    #[error(
        "shard {shard} has lost acknowledged entries: {detail}; its data directory was damaged or exchanged: restore the right one"
    )]
    LostEntries {
        /// The shard.
        shard: u32,
        /// What the leader counts on.
        detail: String,
    },
    /// A thread of the process is gone.
    #[error("the {thread} thread ended; restart, and report what it printed before")]
    ThreadGone {
        /// Which.
        thread: &'static str,
    },
}

/// Ends the process at once, as one that did what it was asked to. Threads of the storage engines still run; what the
/// usual way out of a process would tear down under them is not worth a crash at the very end.
pub fn leave() -> ! {
    // SAFETY: _exit(2) touches no memory of the process.
    unsafe { libc::_exit(0) }
}

/// Ends the process at once, naming the reason on standard error and in the log.
pub fn abort(reason: Reason) -> ! {
    // A simulated node that ends itself is a finding, to be reported with its seed.
    #[cfg(feature = "sim")]
    assert!(!crate::sim::trace::is_running(), "a node ended itself: {reason}");
    tracing::error!(%reason, "fatal");
    eprintln!("ringkv: fatal: {reason}");
    std::process::abort()
}
