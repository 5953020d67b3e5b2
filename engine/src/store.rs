//! The storage engine under a replica's state machine: an ordered map of bytes, and no more.
//!
//! What a command means (compare-and-swap, sessions, expiry) is decided above, in [`crate::machine`]; an
//! engine only has to write a set of keys *together with the applied position* atomically, read them
//! back, and make checkpoints. That is why another engine is easy to plug in: implement
//! [`StorageEngine`] and pass the `conformance` suite (a feature of this crate). `examples/btree_engine.rs` is a small
//! engine that does; ARCHITECTURE.md says how one becomes a choice of the configuration.
//!
//! Invariants of every engine:
//! - `applied_durable ≤ applied`, both only grow (but for [`StorageEngine::install_checkpoint`], which
//!   sets both to the checkpoint's position).
//! - After a crash the engine holds exactly the state some `apply` left behind: the one that set the
//!   position `applied()` then reports, which is not below the last `applied_durable()` reported before.
//! - Reads see every `apply` that returned before they began.
//!
//! Thread use: `apply` and `install_checkpoint` belong to the apply thread (one caller at a time), `destroy` comes after the
//! last of them; everything else may be called from any thread. `get` and `read_consistently`
//! with [`ReadTier::Memory`] never wait for a disk and may run on an executor; the rest may block.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod mem;
pub mod offspring;
pub mod rocks;
pub mod snapshot;

pub(crate) mod files;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use thiserror::Error;

pub use mem::MemEngine;
pub use rocks::{RocksConfig, RocksEngine, RocksShared};

/// The Raft entry up to which writes are in the engine. Zero stands for "nothing yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// The entry's index.
    pub index: u64,
    /// The entry's term.
    pub term: u64,
}

/// One write. Keys are stored keys (see [`crate::command::StoredKey`]) or meta keys of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Set the key.
    Put {
        /// The key.
        key: &'a [u8],
        /// The whole stored value.
        value: &'a [u8],
    },
    /// Remove the key, present or not.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Remove every key of `[start, end)`.
    DeleteRange {
        /// The first key that may go.
        start: &'a [u8],
        /// The first key above `start` that stays; at or below it, nothing is removed.
        end: &'a [u8],
    },
}

/// What one [`StorageEngine::apply`] writes, all or nothing; later writes of a key win.
#[derive(Clone, Debug)]
pub struct WriteSet<'a> {
    /// The position the engine is at once the writes are in.
    pub applied: Applied,
    /// The writes, in order.
    pub writes: &'a [Write<'a>],
}

/// How far a read may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadTier {
    /// Memory only: what would need the disk is answered by [`Lookup::NotInMemory`].
    Memory,
    /// Everywhere; may block on the disk.
    All,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The stored value. It may pin memory of the engine's cache until dropped.
    Found(Bytes),
    /// There is no such key.
    Missing,
    /// Memory alone cannot tell; ask again with [`ReadTier::All`] from a thread that may block.
    NotInMemory,
}

/// A lookup over one view of an engine: see [`StorageEngine::read_consistently`].
pub type Look<'a> = dyn Fn(&[u8], ReadTier) -> Result<Lookup, StoreError> + 'a;

/// The items of one scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and stored values, in key order.
    pub items: Vec<(Bytes, Bytes)>,
    /// Whether a limit ended the scan before the range did; go on just after the last key.
    pub more: bool,
}

/// Figures for metrics and admission. A field an engine cannot tell is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of applied writes that are in memory only, of this engine alone.
    pub memtable_bytes: u64,
    /// Memtables full and waiting to be flushed.
    pub immutable_memtables: u64,
    /// Bytes of sorted tables on disk.
    pub table_bytes: u64,
    /// Bytes of separated values on disk.
    pub blob_bytes: u64,
    /// Of these, bytes no key refers to any more.
    pub blob_garbage_bytes: u64,
    /// Estimated number of keys.
    pub keys_estimate: u64,
    /// Bytes compaction is behind.
    pub compaction_pending_bytes: u64,
    /// Files that have not been merged into the sorted levels yet.
    pub level0_files: u64,
    /// Flushes running now.
    pub flushes_running: u64,
    /// Compactions running now.
    pub compactions_running: u64,
    /// Background failures since the engine was opened; any is a reason to look at its log.
    pub background_errors: u64,
    /// Whether the engine itself stops writes now. Must never be seen: admission acts long before.
    pub write_stopped: bool,
}

/// Why an operation on an open engine failed; a variant says what to do with the replica.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The data is damaged: give the replica up and rebuild it from its peers by snapshot.
    #[error("{path}: corrupt: {detail}")]
    Corrupt {
        /// The engine's folder.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
    /// The disk is full: refuse writes and keep reading; opening the engine again after space was made
    /// loses nothing, for the Raft log holds what was not durable.
    #[error("{path}: no space left: {detail}")]
    NoSpace {
        /// The engine's folder.
        path: PathBuf,
        /// What the engine said.
        detail: String,
    },
    /// Reading or writing failed: fatal for the process, never retried.
    #[error("{path}: {detail}")]
    Io {
        /// The engine's folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The engine was destroyed (or, for a read under way, replaced by a checkpoint): drop the request.
    #[error("{path}: the engine was destroyed")]
    Destroyed {
        /// The engine's folder.
        path: PathBuf,
    },
}

/// Why an engine cannot be opened, or a checkpoint cannot be installed.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder holds something that is not ours: an operator must look.
    #[error("{path}: not a RingKV store: {detail}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Written by a newer RingKV: run that one.
    #[error("{path}: store format {found} is newer than the {known} this version knows")]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Someone else has it open.
    #[error("{path}: in use: {detail}")]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The data is damaged: rebuild the replica from its peers by snapshot.
    #[error("{path}: corrupt: {detail}")]
    Corrupt {
        /// The folder.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {detail}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The engine was destroyed: the replica is gone.
    #[error("{path}: the engine was destroyed")]
    Destroyed {
        /// The folder.
        path: PathBuf,
    },
}

/// An ordered map of bytes with an applied position. See the module's documentation for what every
/// engine promises and which thread may call what.
pub trait StorageEngine: Send + Sync {
    /// Writes all of `writes` and the position, atomically; not durable before [`Self::flush`] or the
    /// engine's own choice.
    ///
    /// # Panics
    /// When the position does not grow: the caller applied an entry twice.
    fn apply(&self, writes: &WriteSet<'_>) -> Result<(), StoreError>;

    /// The position of the last `apply`. Cheap.
    fn applied(&self) -> Result<Applied, StoreError>;

    /// The position a crash right now would fall back to; the Raft log must keep everything past it.
    /// Reads memory or at worst one disk block.
    fn applied_durable(&self) -> Result<Applied, StoreError>;

    /// Looks `key` up.
    fn get(&self, key: &[u8], tier: ReadTier) -> Result<Lookup, StoreError>;

    /// Calls `read` once with a lookup over one consistent view: it sees every `apply` whole or not at all, and all its
    /// lookups see the same. What it holds back is not freed meanwhile, so it should not take long.
    fn read_consistently(&self, read: &mut dyn FnMut(&Look<'_>)) -> Result<(), StoreError>;

    /// The items of `[start, end)` in key order, at most `limit` of them and at most about `bytes_max`
    /// bytes of keys and values, though always one if there is any and `limit` is not 0. One consistent
    /// view. May block.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize, bytes_max: usize) -> Result<ScanPage, StoreError>;

    /// Makes a durable copy of the engine at `path`, which must not exist yet and whose parent must (on
    /// the engine's file system: files are hard-linked where the engine can). Returns the copy's position, at
    /// least `applied()` as of the call. May run beside `apply`.
    fn create_checkpoint(&self, path: &Path) -> Result<Applied, StoreError>;

    /// The position of the checkpoint at `path`, which is left as it is, and the value it holds under `key`. Does not
    /// verify all of it. May block.
    fn read_checkpoint(&self, path: &Path, key: &[u8]) -> Result<(Applied, Option<Bytes>), OpenError>;

    /// Replaces everything by the checkpoint at `path`, whose files are durable; it is consumed on success. After a crash
    /// the engine holds either the old or the new state, never a mixture. On an error other than
    /// [`OpenError::Io`] the old state is untouched.
    fn install_checkpoint(&self, path: &Path) -> Result<Applied, OpenError>;

    /// Makes all that was applied before the call durable. Blocks until it is; the engine goes on serving
    /// meanwhile. Call it on an idle engine that holds the Raft log back, and on a clean shutdown.
    fn flush(&self) -> Result<(), StoreError>;

    /// Gives the disk space of what was removed back, as far as that takes work; by itself an engine does so in its own
    /// time. May block for as long as writing all of the engine anew takes.
    fn reclaim(&self) -> Result<(), StoreError> {
        self.flush()
    }

    /// Ends the engine and removes its files for good. A later `open` of the same place starts
    /// empty, even after a crash in the middle. Every other call answers `Destroyed` from now on.
    fn destroy(&self) -> Result<(), StoreError>;

    /// Figures for metrics and admission. Cheap enough for once a second, not for every request.
    fn stats(&self) -> Result<StoreStats, StoreError>;
}
