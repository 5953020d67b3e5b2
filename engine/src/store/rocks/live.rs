//! One open database.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BottommostLevelCompaction, CompactOptions, DB, DBPinnableSlice, ErrorKind, FlushOptions, ReadOptions,
    ReadTier as RocksTier, WriteBatch, WriteOptions,
};

use super::shared::{Corpse, RocksShared};
use crate::command::META_TAG;
use crate::store::{
    Applied, Look, Lookup, OpenError, ReadTier, ScanPage, StoreError, StoreStats, Write, WriteSet,
};

/// Where the applied position is kept: index u64, term u64, little-endian.
const APPLIED_KEY: [u8; 2] = [META_TAG, b'a'];
/// Where the identity is kept: the magic, then the format u32, little-endian.
const IDENTITY_KEY: [u8; 2] = [META_TAG, b'i'];
const MAGIC: &[u8; 6] = b"RingKV";
const FORMAT: u32 = 1;
/// The file without which there is no database.
const CURRENT: &str = "CURRENT";
/// Values up to this long are copied out instead of pinned: as cheap, and they hold nothing back.
const COPY_BYTES_MAX: usize = 1024;
/// What a write batch spends on a write beside key and value, at most.
const BATCH_WRITE_BYTES: usize = 11;
const BATCH_HEADER_BYTES: usize = 12;
const APPLIED_BYTES: usize = 16;

/// An open database. Closes when the last `Arc` goes; if it was retired, its files go with it.
pub(super) struct Live {
    /// `Some` until dropped.
    database: Option<DB>,
    folder: PathBuf,
    generation: u64,
    /// What `applied` answers; the database's record is its durable twin.
    applied: Mutex<Applied>,
    write_options: WriteOptions,
    read_memory: ReadOptions,
    read_all: ReadOptions,
    read_persisted: ReadOptions,
    /// Set once the database was replaced or destroyed.
    retired: AtomicBool,
    /// Where the remains lie, once retired.
    remains: Mutex<PathBuf>,
    reaper: Sender<Corpse>,
    shared: RocksShared,
}

impl Live {
    /// Makes a database with an identity at `folder`, durably, and closes it.
    pub(super) fn create(folder: &Path, shared: &RocksShared) -> Result<(), OpenError> {
        let failed = |error| open_error(folder, &error);
        let mut options = shared.options().map_err(failed)?;
        options.create_if_missing(true);
        options.set_error_if_exists(true);
        let database = DB::open(&options, folder).map_err(failed)?;
        let mut identity = MAGIC.to_vec();
        identity.extend_from_slice(&FORMAT.to_le_bytes());
        database.put_opt(IDENTITY_KEY, identity, &write_options()).map_err(failed)?;
        database.flush().map_err(failed)
    }

    /// Opens the database at `folder`.
    pub(super) fn open(folder: &Path, generation: u64, shared: &RocksShared) -> Result<Self, OpenError> {
        let options = shared.options().map_err(|error| open_error(folder, &error))?;
        let database = DB::open(&options, folder).map_err(|error| open_error(folder, &error))?;
        let applied = identify(&database, folder)?;
        Ok(Self {
            database: Some(database),
            folder: folder.to_owned(),
            generation,
            applied: Mutex::new(applied),
            write_options: write_options(),
            read_memory: read_options(RocksTier::BlockCache),
            read_all: read_options(RocksTier::All),
            read_persisted: read_options(RocksTier::Persisted),
            retired: AtomicBool::new(false),
            remains: Mutex::new(PathBuf::new()),
            reaper: shared.reaper(),
            shared: shared.clone(),
        })
    }

    /// Whether there is a database at `folder`, sound or not.
    pub(super) fn is_at(folder: &Path) -> bool {
        folder.join(CURRENT).exists()
    }

    /// The position of the database at `folder`, which is left as it is, and the value of `key`.
    pub(super) fn peek(
        folder: &Path,
        key: &[u8],
        shared: &RocksShared,
    ) -> Result<(Applied, Option<Bytes>), OpenError> {
        let failed = |error| open_error(folder, &error);
        // Opening would make the folder, for its info log.
        if !Self::is_at(folder) {
            return Err(OpenError::Foreign {
                path: folder.to_owned(),
                detail: "no database in it".to_owned(),
            });
        }
        let peek = || {
            let options = shared.options().map_err(failed)?;
            let database = DB::open_for_read_only(&options, folder, false).map_err(failed)?;
            let applied = identify(&database, folder)?;
            Ok((applied, database.get(key).map_err(failed)?.map(Bytes::from)))
        };
        let peeked = peek();
        // Not part of the database: a snapshot holds nothing that another look would change.
        super::folder::remove_info_logs(folder)?;
        peeked
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn apply(&self, writes: &WriteSet<'_>) -> Result<(), StoreError> {
        // Not locked across the write: `applied` is asked for by executors, which must not wait for it. Only
        // one thread applies.
        assert!(writes.applied.index > self.applied().index, "the applied position must grow");
        let mut batch = WriteBatch::with_capacity_bytes(batch_bytes(writes));
        for write in writes.writes {
            match write {
                Write::Put { key, value } => batch.put(key, value),
                Write::Delete { key } => batch.delete(key),
                // One that is reversed would be taken for damage later.
                Write::DeleteRange { start, end } if start < end => batch.delete_range(start, end),
                Write::DeleteRange { .. } => {}
            }
        }
        batch.put(APPLIED_KEY, encode_applied(writes.applied));
        let bytes = batch.size_in_bytes();
        self.database().write_opt(batch, &self.write_options).map_err(|error| self.error(&error))?;
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = writes.applied;
        self.shared.wrote(bytes);
        Ok(())
    }

    /// Bytes of the memtable that is written to.
    pub(super) fn growing_bytes(&self) -> usize {
        let bytes = self.database().property_int_value("rocksdb.cur-size-active-mem-table");
        // Only a name that RocksDB does not know is an error.
        bytes.ok().flatten().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
    }

    /// Has the memtable flushed, and does not wait for it.
    pub(super) fn begin_flush(&self) {
        let mut options = FlushOptions::default();
        options.set_wait(false);
        // What goes wrong, the next write or flush of this database meets as well.
        if let Err(error) = self.database().flush_opt(&options)
            && !self.retired.load(Ordering::Acquire)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot begin to flush a memtable");
        }
    }

    pub(super) fn applied(&self) -> Applied {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn applied_durable(&self) -> Result<Applied, StoreError> {
        let record = self.database().get_pinned_opt(APPLIED_KEY, &self.read_persisted);
        match record.map_err(|error| self.error(&error))? {
            None => Ok(Applied::default()),
            Some(record) => decode_applied(&record)
                .map_err(|detail| StoreError::Corrupt { path: self.folder.clone(), detail }),
        }
    }

    pub(super) fn get(this: &Arc<Self>, key: &[u8], tier: ReadTier) -> Result<Lookup, StoreError> {
        Self::lookup(this, this.database().get_pinned_opt(key, this.tier(tier)))
    }

    pub(super) fn read_consistently(this: &Arc<Self>, read: &mut dyn FnMut(&Look<'_>)) {
        let snapshot = this.database().snapshot();
        let options = |tier| {
            let mut options = read_options(tier);
            options.set_snapshot(&snapshot);
            options
        };
        let (memory, all) = (options(RocksTier::BlockCache), options(RocksTier::All));
        read(&|key, tier| {
            let options = match tier {
                ReadTier::Memory => &memory,
                ReadTier::All => &all,
            };
            Self::lookup(this, this.database().get_pinned_opt(key, options))
        });
    }

    pub(super) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
        bytes_max: usize,
    ) -> Result<ScanPage, StoreError> {
        let mut page = ScanPage::default();
        if start >= end {
            return Ok(page);
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        // A scan reads values once; they would only push the hot ones out.
        options.fill_cache(false);
        let mut cursor = self.database().raw_iterator_opt(options);
        cursor.seek(start);
        let mut bytes = 0;
        while let Some((key, value)) = cursor.item() {
            let item_bytes = key.len() + value.len();
            if page.items.len() == limit || (!page.items.is_empty() && bytes + item_bytes > bytes_max) {
                page.more = true;
                break;
            }
            bytes += item_bytes;
            page.items.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            cursor.next();
        }
        cursor.status().map_err(|error| self.error(&error))?;
        Ok(page)
    }

    pub(super) fn create_checkpoint(&self, path: &Path) -> Result<(), StoreError> {
        let checkpoint = Checkpoint::new(self.database()).map_err(|error| self.error(&error))?;
        checkpoint.create_checkpoint(path).map_err(|error| self.error(&error))?;
        let parent = path.parent().unwrap_or(Path::new("."));
        std::fs::File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(|error| StoreError::Io { path: parent.to_owned(), detail: error.to_string() })
    }

    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.database().flush().map_err(|error| self.error(&error))
    }

    /// Writes everything anew, but for what was removed; blob files go when nothing in them is referred to any more, so
    /// what is left in each moves, whatever its age.
    pub(super) fn reclaim(&self, age_percent: u8) -> Result<(), StoreError> {
        self.flush()?;
        let cutoff = |percent: u8| (f64::from(percent.min(100)) / 100.0).to_string();
        let set = |percent| {
            self.database().set_options(&[("blob_garbage_collection_age_cutoff", &cutoff(percent))])
        };
        set(100).map_err(|error| self.error(&error))?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.database().compact_range_opt(None::<&[u8]>, None::<&[u8]>, &options);
        set(age_percent).map_err(|error| self.error(&error))
    }

    /// Ends flushes and compactions; waits for those that run.
    pub(super) fn stop_background_work(&self) {
        self.database().cancel_all_background_work(true);
    }

    /// From here on what a read meets is no fault of the disk: the files are about to lose their names.
    pub(super) fn mark_retired(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Gives the database up, which is marked already: once the last reader let go of it, the reaper closes it and removes `remains`. Never here:
    /// it may take long, and the apply thread has other replicas to serve.
    pub(super) fn retire(this: Arc<Self>, remains: PathBuf) {
        assert!(this.retired.load(Ordering::Acquire), "reads must know before the files go");
        *this.remains.lock().unwrap_or_else(PoisonError::into_inner) = remains;
    }

    pub(super) fn stats(&self) -> Result<StoreStats, StoreError> {
        let read = |name: &str| -> Result<u64, StoreError> {
            let value = self.database().property_int_value(name);
            Ok(value.map_err(|error| self.error(&error))?.unwrap_or(0))
        };
        Ok(StoreStats {
            memtable_bytes: read("rocksdb.cur-size-all-mem-tables")?,
            immutable_memtables: read("rocksdb.num-immutable-mem-table")?,
            table_bytes: read("rocksdb.total-sst-files-size")?,
            blob_bytes: read("rocksdb.total-blob-file-size")?,
            blob_garbage_bytes: read("rocksdb.live-blob-file-garbage-size")?,
            keys_estimate: read("rocksdb.estimate-num-keys")?,
            compaction_pending_bytes: read("rocksdb.estimate-pending-compaction-bytes")?,
            level0_files: self.level0_files()?,
            flushes_running: read("rocksdb.num-running-flushes")?,
            compactions_running: read("rocksdb.num-running-compactions")?,
            background_errors: read("rocksdb.background-errors")?,
            write_stopped: read("rocksdb.is-write-stopped")? != 0,
        })
    }

    /// The only figure RocksDB gives as text alone.
    fn level0_files(&self) -> Result<u64, StoreError> {
        let value = self.database().property_value("rocksdb.num-files-at-level0");
        let value = value.map_err(|error| self.error(&error))?;
        Ok(value.and_then(|value| value.parse().ok()).unwrap_or(0))
    }

    fn database(&self) -> &DB {
        self.database.as_ref().expect("a database is open until it is dropped")
    }

    fn tier(&self, tier: ReadTier) -> &ReadOptions {
        match tier {
            ReadTier::Memory => &self.read_memory,
            ReadTier::All => &self.read_all,
        }
    }

    fn lookup(
        this: &Arc<Self>,
        found: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>,
    ) -> Result<Lookup, StoreError> {
        match found {
            Ok(None) => Ok(Lookup::Missing),
            Ok(Some(slice)) if slice.len() <= COPY_BYTES_MAX => {
                Ok(Lookup::Found(Bytes::copy_from_slice(&slice)))
            }
            Ok(Some(slice)) => Ok(Lookup::Found(Bytes::from_owner(Pinned::new(this, slice)))),
            Err(error) if error.kind() == ErrorKind::Incomplete => Ok(Lookup::NotInMemory),
            Err(error) => Err(this.error(&error)),
        }
    }

    fn error(&self, error: &rocksdb::Error) -> StoreError {
        let path = self.folder.clone();
        // Its files are being taken away: what a late reader meets says nothing about the disk.
        if self.retired.load(Ordering::Acquire) {
            return StoreError::Destroyed { path };
        }
        let detail = error.to_string();
        match error.kind() {
            ErrorKind::Corruption => StoreError::Corrupt { path, detail },
            _ if detail.contains("No space left on device") => StoreError::NoSpace { path, detail },
            _ => StoreError::Io { path, detail },
        }
    }

    /// What is to be closed and removed, if the database was retired.
    fn corpse(&mut self) -> Option<Corpse> {
        if !self.retired.load(Ordering::Acquire) {
            return None;
        }
        let folder = std::mem::take(&mut *self.remains.lock().unwrap_or_else(PoisonError::into_inner));
        self.database.take().map(|database| Corpse { database, folder })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Whoever lets go last may be an executor: closing and removing would block it.
        if let Some(corpse) = self.corpse()
            && let Err(unsent) = self.reaper.send(corpse)
        {
            unsent.0.bury();
        }
    }
}

/// A value in RocksDB's memory, with the database it belongs to.
struct Pinned {
    /// First, so that it is released before the database can close.
    slice: DBPinnableSlice<'static>,
    _live: Arc<Live>,
}

impl Pinned {
    fn new(live: &Arc<Live>, slice: DBPinnableSlice<'_>) -> Self {
        // SAFETY: only the lifetime changes. The slice borrows from a database owned by `live`, which `_live`
        // keeps alive; fields drop in order, so the slice goes first.
        let slice = unsafe { std::mem::transmute::<DBPinnableSlice<'_>, DBPinnableSlice<'static>>(slice) };
        Self { slice, _live: Arc::clone(live) }
    }
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.slice
    }
}

/// Checks that a database is ours and returns its position.
fn identify(database: &DB, folder: &Path) -> Result<Applied, OpenError> {
    let path = || folder.to_owned();
    let read = |key| database.get_pinned(key).map_err(|error| open_error(folder, &error));
    let Some(identity) = read(IDENTITY_KEY)? else {
        return Err(OpenError::Foreign { path: path(), detail: "no identity record".to_owned() });
    };
    let Some(format) = identity.strip_prefix(MAGIC) else {
        let detail = "the identity record has another beginning".to_owned();
        return Err(OpenError::Foreign { path: path(), detail });
    };
    let Ok(format) = <[u8; 4]>::try_from(format) else {
        let detail = "the identity record has another length".to_owned();
        return Err(OpenError::Corrupt { path: path(), detail });
    };
    let found = u32::from_le_bytes(format);
    if found != FORMAT {
        return Err(OpenError::Newer { path: path(), found, known: FORMAT });
    }
    match read(APPLIED_KEY)? {
        None => Ok(Applied::default()),
        Some(record) => decode_applied(&record).map_err(|detail| OpenError::Corrupt { path: path(), detail }),
    }
}

fn open_error(folder: &Path, error: &rocksdb::Error) -> OpenError {
    let (path, detail) = (folder.to_owned(), error.to_string());
    match error.kind() {
        // A database that lacks its CURRENT file counts as an invalid argument: it is not to be created.
        ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound => {
            OpenError::Corrupt { path, detail }
        }
        _ if detail.contains("No such file or directory") => OpenError::Corrupt { path, detail },
        _ if detail.contains("lock") => OpenError::Locked { path, detail },
        _ => OpenError::Io { path, detail },
    }
}

fn encode_applied(applied: Applied) -> [u8; APPLIED_BYTES] {
    let mut record = [0; APPLIED_BYTES];
    record[..8].copy_from_slice(&applied.index.to_le_bytes());
    record[8..].copy_from_slice(&applied.term.to_le_bytes());
    record
}

fn decode_applied(record: &[u8]) -> Result<Applied, String> {
    let wrong = || format!("the applied position holds {} bytes instead of {APPLIED_BYTES}", record.len());
    let record = <[u8; APPLIED_BYTES]>::try_from(record).map_err(|_| wrong())?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&record[at..at + 8]);
        u64::from_le_bytes(word)
    };
    Ok(Applied { index: word(0), term: word(8) })
}

/// An upper bound of the batch's size, so that it is allocated once.
fn batch_bytes(writes: &WriteSet<'_>) -> usize {
    let bytes = |write: &Write<'_>| match write {
        Write::Put { key, value } => BATCH_WRITE_BYTES + key.len() + value.len(),
        Write::Delete { key } => BATCH_WRITE_BYTES + key.len(),
        Write::DeleteRange { start, end } => BATCH_WRITE_BYTES + start.len() + end.len(),
    };
    let all: usize = writes.writes.iter().map(bytes).sum();
    BATCH_HEADER_BYTES + all + BATCH_WRITE_BYTES + APPLIED_KEY.len() + APPLIED_BYTES
}

fn write_options() -> WriteOptions {
    let mut options = WriteOptions::new();
    options.disable_wal(true);
    options
}

fn read_options(tier: RocksTier) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_read_tier(tier);
    options
}
