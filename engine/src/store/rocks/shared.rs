//! What all databases of a node share: caches, the memtable budget, background threads, the reaper; and
//! the options of each database.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, DB, DBCompressionType, Env, LogLevel, Options, WriteBufferManager,
};

use super::budget::Budget;
use super::config::{BlobCompression, RocksConfig};
use super::folder;
use super::live::Live;
use crate::host::background;
use crate::store::OpenError;

/// Memtables of one database that may wait for their flush before RocksDB stops writes. Admission acts on
/// bytes long before; see [`crate::store::StoreStats::memtable_bytes`].
const MEMTABLES_MAX: c_int = 64;
/// What a memtable takes from the node's budget at a time, and so the least that a replica with anything unflushed holds.
/// RocksDB's own choice, up to 1 MiB, has a node of a hundred shards flush a memtable at nearly every write.
const ARENA_BLOCK_BYTES: usize = 64 << 10;
/// Flushes and compactions at once.
const BACKGROUND_JOBS_MAX: u16 = 64;
/// Unmerged files before RocksDB slows or stops writes: never.
const LEVEL0_NEVER: c_int = 1 << 20;
/// Unmerged files before they are merged.
const LEVEL0_MERGE: c_int = 4;
/// RocksDB's own info log per database.
const INFO_LOG_BYTES: usize = 4 << 20;
const INFO_LOGS_KEPT: usize = 2;
/// What garbage collection reads of a blob file at a time.
const BLOB_READAHEAD_BYTES: u64 = 1 << 20;
/// With buffered writes, writeback is started every so many bytes, so that the sync at a file's end finds
/// little to do.
const BYTES_PER_SYNC: u64 = 1 << 20;
const BLOOM_BITS_PER_KEY: f64 = 10.0;

/// A database that was replaced or destroyed, to be closed and removed.
pub(super) struct Corpse {
    pub(super) database: DB,
    pub(super) folder: PathBuf,
}

impl Corpse {
    /// Closes the database and removes its files. Blocks.
    pub(super) fn bury(self) {
        drop(self.database);
        if let Err(error) = folder::remove(&self.folder) {
            // Not fatal: the next open of the replica's folder tries again.
            tracing::warn!(%error, "could not remove a database that is no longer used");
        }
    }
}

/// The shared parts; cheap to clone.
#[derive(Clone)]
pub struct RocksShared {
    parts: Arc<Parts>,
}

struct Parts {
    config: RocksConfig,
    block_cache: Cache,
    blob_cache: Cache,
    memtables: WriteBufferManager,
    budget: Budget,
    env: Env,
    reaper: Sender<Corpse>,
}

impl RocksShared {
    /// Sets up caches and threads. One per process is meant, though several work.
    pub fn new(config: RocksConfig) -> Result<Self, OpenError> {
        let failed = |detail: String| OpenError::Io { path: PathBuf::from("(RocksDB)"), detail };
        let mut env = Env::new().map_err(|error| failed(error.into_string()))?;
        start_threads(&mut env, &config).map_err(|error| failed(error.to_string()))?;
        let (reaper, corpses) = channel::<Corpse>();
        // Ends with the last sender: after the last engine.
        background::spawn("store-reaper".to_owned(), move || corpses.into_iter().for_each(Corpse::bury))
            .map_err(|error| failed(error.to_string()))?;
        let parts = Parts {
            block_cache: Cache::new_lru_cache(config.block_cache_bytes),
            blob_cache: Cache::new_lru_cache(config.blob_cache_bytes),
            memtables: WriteBufferManager::new_write_buffer_manager(2 * config.memtables_bytes, false),
            budget: Budget::new(config.memtables_bytes),
            config,
            env,
            reaper,
        };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// Bytes all memtables of the node hold now: what admission compares with
    /// [`RocksConfig::memtables_bytes`]. Cheap.
    pub fn memtables_bytes(&self) -> usize {
        self.parts.memtables.get_usage()
    }

    /// A database that was opened: it shares the budget of memtables.
    pub(super) fn enter(&self, live: &Arc<Live>) {
        self.parts.budget.enter(live);
    }

    /// So many bytes were written to one of them.
    pub(super) fn wrote(&self, bytes: usize) {
        self.parts.budget.wrote(bytes);
    }

    /// The share of blobs, the oldest, that is moved when what refers to it is compacted.
    pub(super) fn blob_gc_age_percent(&self) -> u8 {
        self.parts.config.blob_gc_age_percent
    }

    pub(super) fn reaper(&self) -> Sender<Corpse> {
        self.parts.reaper.clone()
    }

    /// The options of one database.
    pub(super) fn options(&self) -> Result<Options, rocksdb::Error> {
        let parts = &self.parts;
        let config = &parts.config;
        // Without it closing a database flushes its memtables, which makes dropping a replica slow and
        // hides in tests what a crash would lose. The binding has no setter for it, and starting from a
        // string must come first, for it makes new options.
        let mut options = Options::default().get_options_from_string("avoid_flush_during_shutdown=true")?;
        options.set_env(&parts.env);
        options.set_write_buffer_manager(&parts.memtables);
        options.set_max_background_jobs(c_int::from(
            config.background_jobs.min(BACKGROUND_JOBS_MAX).cast_signed(),
        ));
        set_write_path(&mut options, config);
        set_no_stalls(&mut options);
        set_blobs(&mut options, config, &parts.blob_cache);
        set_tables(&mut options, &parts.block_cache);
        set_housekeeping(&mut options);
        Ok(options)
    }
}

/// Starts RocksDB's own threads, which otherwise would begin as what opens the first database: pinned to a core that serves
/// clients. Flushes free memory that writes need; compactions give way.
fn start_threads(env: &mut Env, config: &RocksConfig) -> std::io::Result<()> {
    let jobs = c_int::from(config.background_jobs.clamp(1, BACKGROUND_JOBS_MAX).cast_signed());
    let flushes = (jobs / 4).max(1);
    let mut compacting = env.clone();
    let start = |nicer, start: &mut (dyn FnMut() + Send)| {
        std::thread::scope(|scope| {
            let body = move || {
                background::give_way(nicer);
                start();
            };
            std::thread::Builder::new().name("rocksdb".to_owned()).spawn_scoped(scope, body).map(drop)
        })
    };
    start(0, &mut || env.set_high_priority_background_threads(flushes))?;
    start(background::COMPACTION_NICER, &mut || {
        compacting.set_low_priority_background_threads((jobs - flushes).max(1));
    })
}

/// One writer, no log: nothing of the machinery for many writers is of use.
fn set_write_path(options: &mut Options, config: &RocksConfig) {
    options.set_write_buffer_size(config.memtable_bytes);
    options.set_arena_block_size(ARENA_BLOCK_BYTES.min(config.memtable_bytes / 8));
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_enable_pipelined_write(false);
    options.set_use_direct_io_for_flush_and_compaction(config.direct_writes);
    options.set_bytes_per_sync(BYTES_PER_SYNC);
}

/// Backpressure is admission's; RocksDB must neither slow nor stop a write.
fn set_no_stalls(options: &mut Options) {
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_level_zero_file_num_compaction_trigger(LEVEL0_MERGE);
    options.set_level_zero_slowdown_writes_trigger(LEVEL0_NEVER);
    options.set_level_zero_stop_writes_trigger(LEVEL0_NEVER);
    // Zero stands for no limit.
    options.set_soft_pending_compaction_bytes_limit(0);
    options.set_hard_pending_compaction_bytes_limit(0);
}

fn set_blobs(options: &mut Options, config: &RocksConfig, cache: &Cache) {
    options.set_enable_blob_files(true);
    options.set_min_blob_size(config.blob_min_bytes);
    options.set_blob_file_size(config.blob_file_bytes);
    options.set_blob_compression_type(match config.blob_compression {
        BlobCompression::None => DBCompressionType::None,
        BlobCompression::Lz4 => DBCompressionType::Lz4,
        BlobCompression::Zstd => DBCompressionType::Zstd,
    });
    options.set_enable_blob_gc(true);
    // Without it collecting garbage reads value by value, past the page cache: a disk access each.
    options.set_blob_compaction_readahead_size(BLOB_READAHEAD_BYTES);
    options.set_blob_gc_age_cutoff(f64::from(config.blob_gc_age_percent.min(100)) / 100.0);
    options.set_blob_gc_force_threshold(f64::from(config.blob_gc_force_percent.min(100)) / 100.0);
    options.set_blob_cache(cache);
}

fn set_tables(options: &mut Options, cache: &Cache) {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(cache);
    tables.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    tables.set_format_version(6);
    tables.set_checksum_type(ChecksumType::XXH3);
    // Tables hold keys and small values only, so their indexes and filters are small: kept with the open
    // table, a lookup in memory never fails for want of them.
    tables.set_cache_index_and_filter_blocks(false);
    options.set_block_based_table_factory(&tables);
    options.set_max_open_files(-1);
    options.set_compression_type(DBCompressionType::Lz4);
    // The first two levels are rewritten so often that compressing them does not pay.
    options.set_min_level_to_compress(2);
}

/// Closing a table or deleting its file never falls to a reader; no statistics, dumps or chatter.
fn set_housekeeping(options: &mut Options) {
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_keep_log_file_num(INFO_LOGS_KEPT);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
}
