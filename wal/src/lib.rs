//! RingKV's write-ahead log: one per core, shared by the logs of all its Raft groups.
//!
//! [`Wal`] is pure: it keeps the index, forms batches and decides which segments live, but never
//! touches a file. A driver in [`disk`] turns its outputs into I/O.

mod batch;
mod cache;
mod config;
mod directory;
pub mod disk;
mod error;
pub mod inspect;
mod ledger;
mod pool;
mod purge;
mod quarantine;
mod read;
mod record;
mod recovery;
mod segment;
mod stream;
mod types;
mod wal;
mod width;

pub use batch::{BatchHeader, WriteBatch};
pub use config::{ConfigError, RecoveryMode, WalConfig};
pub use error::{CorruptRecord, ReadError, RecoveryError};
pub use pool::SegmentTask;
pub use purge::StreamPin;
pub use read::{ReadExtent, ReadPlan};
pub use record::Change;
pub use recovery::{Damage, ReadRequest, Recovered, Recovery, SegmentFile, TornTail};
pub use segment::{
    FORMAT_VERSION, SegmentHeader, SegmentHeaderError, file_name, parse_file_name, parse_unfinished_name,
    unfinished_name,
};
pub use types::{BLOCK, BLOCK_BYTES, BatchId, Entry, Lsn, SegmentId, StreamId, StreamState};
pub use wal::Wal;
