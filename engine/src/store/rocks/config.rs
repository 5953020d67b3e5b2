//! What a person may set, and why the defaults are what they are.

/// Compression of separated values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlobCompression {
    /// None: least CPU, and values that come compressed or encrypted gain nothing.
    #[default]
    None,
    /// LZ4: cheap, for text.
    Lz4,
    /// Zstandard: dense, several times LZ4's cost.
    Zstd,
}

/// Options of all RocksDB engines of a node; the budgets are shared by them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RocksConfig {
    /// Cache of table blocks, bytes for the whole node. Keys and small values live there.
    pub block_cache_bytes: usize,
    /// Cache of separated values, bytes for the whole node. A value found in neither this cache nor a
    /// memtable costs a disk read on a reader thread.
    pub blob_cache_bytes: usize,
    /// Memtables of the whole node, bytes. Shortly before, the largest is flushed, whoever writes; nothing
    /// ever waits for it.
    pub memtables_bytes: usize,
    /// One memtable of one engine, bytes, before it is flushed.
    pub memtable_bytes: usize,
    /// Values of at least this many bytes (with their header) are kept out of the tables, in blob files.
    pub blob_min_bytes: u64,
    /// How separated values are compressed.
    pub blob_compression: BlobCompression,
    /// A blob file is closed at this size.
    pub blob_file_bytes: u64,
    /// Oldest share of the blob files, in percent, that compaction rewrites when it meets them.
    pub blob_gc_age_percent: u8,
    /// Share of garbage, in percent, in those oldest blob files that makes RocksDB compact just to rewrite
    /// them; 100 never does.
    pub blob_gc_force_percent: u8,
    /// Flushes and compactions at once, in the whole process; a quarter (at least one) are flushes.
    pub background_jobs: u16,
    /// Whether flush and compaction bypass the page cache. Buffered, 4 KiB puts cost one and a half to two
    /// times the CPU, all threads counted: the kernel's copy into the page cache is the largest single part.
    /// The file system must support `O_DIRECT`.
    pub direct_writes: bool,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 << 20,
            blob_cache_bytes: 256 << 20,
            memtables_bytes: 128 << 20,
            memtable_bytes: 16 << 20,
            blob_min_bytes: 1024,
            blob_compression: BlobCompression::None,
            blob_file_bytes: 256 << 20,
            blob_gc_age_percent: 25,
            blob_gc_force_percent: 50,
            background_jobs: 3,
            direct_writes: true,
        }
    }
}
