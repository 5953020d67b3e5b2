//! Reads of user values, for the executor (memory only) and the reader threads (everything).

use bytes::Bytes;
use thiserror::Error;

use crate::command::{
    KeyError, RECORD_HEADER_BYTES, Record, RecordError, STORED_KEY_PREFIX_BYTES, StoredKey, StoredKeyBuf,
    slot_range_end,
};
use crate::redis::Entry;
use crate::store::{Lookup, ReadTier, StorageEngine, StoreError};

/// A user's value as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// The bytes. They may pin memory of the engine's cache until dropped.
    pub data: Bytes,
    /// The client's flags.
    pub flags: u8,
    /// When it becomes invisible, in milliseconds since the Unix epoch; 0 for never.
    pub expiry_ms: u64,
    /// The index of the entry that wrote it.
    pub version: u64,
}

impl From<StoredValue> for Entry {
    fn from(value: StoredValue) -> Self {
        let StoredValue { data, flags, expiry_ms, version } = value;
        Self { data, flags, expiry_ms, version }
    }
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadValue {
    /// A visible value.
    Found(StoredValue),
    /// None, or one that has expired.
    Missing,
    /// Memory alone cannot tell; ask a thread that may block, with [`ReadTier::All`].
    NotInMemory,
}

/// Why a read failed.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A stored record is damaged: rebuild the replica from its peers by snapshot.
    #[error("a damaged record: {0}")]
    Record(#[from] RecordError),
    /// A stored key is damaged: rebuild the replica from its peers by snapshot.
    #[error("a damaged key: {0}")]
    Key(#[from] KeyError),
    /// The engine failed; its error says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a scan begins or ends: a place in the order (slot, key) of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanPosition {
    /// The hash slot.
    pub slot: u16,
    /// The user's key; empty for the beginning of the slot.
    pub key: Bytes,
}

/// One visible item of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanItem {
    /// The hash slot.
    pub slot: u16,
    /// The user's key.
    pub key: Bytes,
    /// The value.
    pub value: StoredValue,
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanValues {
    /// The visible items, in the order (slot, key).
    pub items: Vec<ScanItem>,
    /// Where to go on, if a limit ended the scan. There may be nothing visible from there on.
    pub next: Option<ScanPosition>,
}

/// Reads `key` as visible at `now_ms` (milliseconds since the Unix epoch).
pub fn read_value(
    engine: &dyn StorageEngine,
    namespace: u8,
    slot: u16,
    key: &[u8],
    now_ms: u64,
    tier: ReadTier,
) -> Result<ReadValue, ReadError> {
    let key = StoredKeyBuf::new(namespace, slot, key);
    match engine.get(key.as_bytes(), tier)? {
        Lookup::Found(record) => Ok(visible(record, now_ms)?.map_or(ReadValue::Missing, ReadValue::Found)),
        Lookup::Missing => Ok(ReadValue::Missing),
        Lookup::NotInMemory => Ok(ReadValue::NotInMemory),
    }
}

/// Reads the items of `namespace` from `start` (included) up to and including slot `last_slot`, in the
/// order (slot, key), as visible at `now_ms`. At most `limit` stored items are looked at and about
/// `bytes_max` bytes read; expired ones count too, so a page may hold fewer and still have a `next`.
/// May block.
pub fn scan_values(
    engine: &dyn StorageEngine,
    namespace: u8,
    start: &ScanPosition,
    last_slot: u16,
    now_ms: u64,
    limit: usize,
    bytes_max: usize,
) -> Result<ScanValues, ReadError> {
    let end = slot_range_end(namespace, last_slot);
    let from = StoredKeyBuf::new(namespace, start.slot, &start.key);
    let page = engine.scan(from.as_bytes(), &end, limit, bytes_max)?;
    let next = match (page.more, page.items.last()) {
        (true, Some((key, _))) => Some(successor(StoredKey::parse(key)?)),
        (true, None) => Some(start.clone()),
        (false, _) => None,
    };
    let mut items = Vec::with_capacity(page.items.len());
    for (key, record) in page.items {
        let slot = StoredKey::parse(&key)?.slot();
        if let Some(value) = visible(record, now_ms)? {
            items.push(ScanItem { slot, key: key.slice(STORED_KEY_PREFIX_BYTES..), value });
        }
    }
    Ok(ScanValues { items, next })
}

/// How many items of `namespace` are stored in the slots from the first to the last, both included; expired ones count.
/// Not one view: what is written meanwhile may count or not. May block, and read all of them.
pub fn count_stored(
    engine: &dyn StorageEngine,
    namespace: u8,
    (first_slot, last_slot): (u16, u16),
) -> Result<u64, StoreError> {
    let end = slot_range_end(namespace, last_slot);
    let mut from = StoredKeyBuf::new(namespace, first_slot, &[]).as_bytes().to_vec();
    let mut count = 0;
    loop {
        let page = engine.scan(&from, &end, COUNT_PAGE_ITEMS, COUNT_PAGE_BYTES)?;
        count += u64::try_from(page.items.len()).expect("64-bit machine");
        match page.items.last() {
            Some((last, _)) if page.more => {
                from.clear();
                from.extend_from_slice(last);
                from.push(0);
            }
            _ => return Ok(count),
        }
    }
}

const COUNT_PAGE_ITEMS: usize = 10_000;
const COUNT_PAGE_BYTES: usize = 4 << 20;

/// The first position after `key`: the key with a zero byte appended.
fn successor(key: StoredKey<'_>) -> ScanPosition {
    let mut next = Vec::with_capacity(key.user_key().len() + 1);
    next.extend_from_slice(key.user_key());
    next.push(0);
    ScanPosition { slot: key.slot(), key: next.into() }
}

pub(crate) fn visible(stored: Bytes, now_ms: u64) -> Result<Option<StoredValue>, RecordError> {
    let record = Record::parse(&stored)?;
    if !record.is_visible(now_ms) {
        return Ok(None);
    }
    let (flags, expiry_ms, version) = (record.flags(), record.expiry_ms(), record.version());
    let data = stored.slice(RECORD_HEADER_BYTES..);
    Ok(Some(StoredValue { data, flags, expiry_ms, version }))
}
