//! What can be tuned, and which combinations make sense.

use thiserror::Error;

use crate::types::{BLOCK, BLOCK_BYTES};

/// What recovery does about records that were acknowledged and cannot be read back.
///
/// A torn tail (writes that were never acknowledged) is cut in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecoveryMode {
    /// Refuse to open, naming file, offset and the streams touched. The default.
    #[default]
    Refuse,
    /// Open without the streams that may have lost records: they are listed in
    /// [`Recovered::damage`](crate::Recovered::damage), and again at every start, until the engine has replaced them
    /// and said so ([`Wal::mend`](crate::Wal::mend)). Streams proven whole are kept.
    Quarantine,
}

/// Settings of one core's WAL. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalConfig {
    /// Identity stamped into every segment; another node's segments are refused.
    pub node_id: u64,
    /// The core this WAL belongs to, stamped and checked likewise.
    pub core: u16,
    /// Size of a segment file; a multiple of 4096. Files of another size (after a change of this
    /// setting) are still read, and deleted instead of recycled.
    pub segment_bytes: u64,
    /// A batch stops growing at this size; a single larger record still goes out, in a batch of its own.
    pub batch_bytes_max: usize,
    /// Batches in flight at once; beyond it records wait and the next batch grows.
    pub inflight_max: usize,
    /// Spare zero-filled segments kept ready; below it new ones are made.
    pub pool_min: usize,
    /// Spares kept for reuse; segments freed beyond it are deleted.
    pub pool_max: usize,
    /// Payload bytes kept in memory for reads, over all streams; beyond it the oldest flushed
    /// entries are dropped (they stay readable from disk). Unflushed entries are never dropped.
    pub cache_bytes_max: u64,
    /// Largest payload `append` takes; a larger one is a bug of the caller and panics.
    pub payload_bytes_max: usize,
    /// What to do about damage found while opening.
    pub recovery_mode: RecoveryMode,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Set a multiple of 4096 of at least four blocks and less than 4 GiB.
    #[error("segment_bytes is {0}: must be a multiple of 4096, from 16384 to 4294963200")]
    SegmentBytes(u64),
    /// Set at least one block, at most a segment without its header block.
    #[error("batch_bytes_max is {0}: must be from 4096 to segment_bytes - 4096")]
    BatchBytes(usize),
    /// Set 1 to 64.
    #[error("inflight_max is {0}: must be from 1 to 64")]
    Inflight(usize),
    /// Set `1 <= pool_min <= pool_max`.
    #[error("pool_min is {min} and pool_max {max}: must be 1 <= pool_min <= pool_max")]
    Pool {
        /// The value of `pool_min`.
        min: usize,
        /// The value of `pool_max`.
        max: usize,
    },
    /// Lower it or enlarge the segments: a record must fit into one segment.
    #[error("payload_bytes_max is {0}: must leave 8192 bytes of a segment for headers")]
    PayloadBytes(usize),
}

impl WalConfig {
    /// The defaults, for one core of one node: 64 MiB segments, batches of up to 1 MiB, four in flight.
    pub fn new(node_id: u64, core: u16) -> Self {
        Self {
            node_id,
            core,
            segment_bytes: 64 << 20,
            batch_bytes_max: 1 << 20,
            inflight_max: 4,
            pool_min: 2,
            pool_max: 8,
            cache_bytes_max: 64 << 20,
            payload_bytes_max: 16 << 20,
            recovery_mode: RecoveryMode::Refuse,
        }
    }

    /// Checks that the settings fit together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let segment_max = u64::from(u32::MAX) / BLOCK * BLOCK;
        if !self.segment_bytes.is_multiple_of(BLOCK)
            || self.segment_bytes < 4 * BLOCK
            || self.segment_bytes > segment_max
        {
            return Err(ConfigError::SegmentBytes(self.segment_bytes));
        }
        let room = usize::try_from(self.segment_bytes - BLOCK).unwrap_or(usize::MAX);
        if self.batch_bytes_max < BLOCK_BYTES || self.batch_bytes_max > room {
            return Err(ConfigError::BatchBytes(self.batch_bytes_max));
        }
        if self.inflight_max == 0 || self.inflight_max > 64 {
            return Err(ConfigError::Inflight(self.inflight_max));
        }
        if self.pool_min == 0 || self.pool_min > self.pool_max {
            return Err(ConfigError::Pool { min: self.pool_min, max: self.pool_max });
        }
        if self.payload_bytes_max > room - BLOCK_BYTES {
            return Err(ConfigError::PayloadBytes(self.payload_bytes_max));
        }
        Ok(())
    }
}
