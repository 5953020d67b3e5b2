//! RingKV's write-ahead log: one per core, shared by the logs of all its Raft groups.
//!
//! [`Wal`] is pure: it keeps the index, forms batches and decides which segments live, but never
//! touches a file. A driver in [`disk`] turns its outputs into I/O.

mod api;
mod config;
pub mod disk;
mod error;
mod types;

pub use api::{
    ReadPlan, Recovered, SegmentTask, StreamPin, TornTail, Wal, WriteBatch, ReadExtent, Damage,
};
pub use config::{ConfigError, RecoveryMode, WalConfig};
pub use error::{CorruptRecord, ReadError, RecoveryError};
pub use types::*;
