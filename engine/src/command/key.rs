//! Stored keys: how user keys and the machine's own records share one ordered key space.
//!
//! ```text
//! data  = 0x01 | namespace u8 | slot u16 big-endian | user key      ordered by (namespace, slot, key)
//! meta  = 0x00 | ...                                                never seen by a scan of data
//! ```

use thiserror::Error;

/// First byte of the machine's and the engine's own records.
pub const META_TAG: u8 = 0x00;
const DATA_TAG: u8 = 0x01;
/// Bytes in front of the user's key.
pub const STORED_KEY_PREFIX_BYTES: usize = 4;
/// Slots of the key space; a slot is below this.
const SLOT_COUNT: u16 = 16384;
/// The last slot there is.
pub(crate) const SLOT_LAST: u16 = SLOT_COUNT - 1;
/// Keys up to this long are built without touching the heap.
const INLINE_BYTES: usize = 128;
const SESSION_KIND: u8 = b's';

/// Why bytes are not a stored data key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Fewer bytes than the prefix.
    #[error("a stored key needs at least {STORED_KEY_PREFIX_BYTES} bytes, found {found}")]
    Short {
        /// How many there were.
        found: usize,
    },
    /// Not a data key.
    #[error("a data key starts with {DATA_TAG}, found {found}")]
    Tag {
        /// The first byte.
        found: u8,
    },
    /// No such slot.
    #[error("slot {found} is not below {SLOT_COUNT}")]
    Slot {
        /// The slot read.
        found: u16,
    },
}

/// A data key in its stored form, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoredKey<'a>(&'a [u8]);

impl<'a> StoredKey<'a> {
    /// Checks that `bytes` are a data key.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let Some((prefix, _)) = bytes.split_first_chunk::<STORED_KEY_PREFIX_BYTES>() else {
            return Err(KeyError::Short { found: bytes.len() });
        };
        if prefix[0] != DATA_TAG {
            return Err(KeyError::Tag { found: prefix[0] });
        }
        let slot = u16::from_be_bytes([prefix[2], prefix[3]]);
        if slot >= SLOT_COUNT {
            return Err(KeyError::Slot { found: slot });
        }
        Ok(Self(bytes))
    }

    /// The whole stored key.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The namespace.
    pub fn namespace(self) -> u8 {
        self.0[1]
    }

    /// The hash slot.
    pub fn slot(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// The user's key.
    pub fn user_key(self) -> &'a [u8] {
        &self.0[STORED_KEY_PREFIX_BYTES..]
    }
}

/// The prefix that precedes the user's key.
pub(super) fn prefix(namespace: u8, slot: u16) -> [u8; STORED_KEY_PREFIX_BYTES] {
    assert!(slot < SLOT_COUNT, "slot {slot} does not exist");
    let [high, low] = slot.to_be_bytes();
    [DATA_TAG, namespace, high, low]
}

/// A stored key built for a lookup; short keys stay on the stack.
#[derive(Clone, Debug)]
pub struct StoredKeyBuf {
    inline: [u8; INLINE_BYTES],
    inline_bytes: usize,
    /// Holds the whole key when it does not fit inline.
    heap: Vec<u8>,
}

impl StoredKeyBuf {
    /// Builds the stored form of `key`.
    ///
    /// # Panics
    /// When `slot` is not below 16384: slots are computed, never read from a client.
    pub fn new(namespace: u8, slot: u16, key: &[u8]) -> Self {
        let prefix = prefix(namespace, slot);
        let total = STORED_KEY_PREFIX_BYTES + key.len();
        let mut built = Self { inline: [0; INLINE_BYTES], inline_bytes: 0, heap: Vec::new() };
        if total <= INLINE_BYTES {
            built.inline[..STORED_KEY_PREFIX_BYTES].copy_from_slice(&prefix);
            built.inline[STORED_KEY_PREFIX_BYTES..total].copy_from_slice(key);
            built.inline_bytes = total;
        } else {
            built.heap.reserve_exact(total);
            built.heap.extend_from_slice(&prefix);
            built.heap.extend_from_slice(key);
        }
        built
    }

    /// The stored key.
    pub fn as_bytes(&self) -> &[u8] {
        if self.heap.is_empty() { &self.inline[..self.inline_bytes] } else { &self.heap }
    }
}

/// The lowest stored key that a key of `slot` in `namespace` can have: the start of a scan.
pub(crate) fn slot_range_start(namespace: u8, slot: u16) -> [u8; STORED_KEY_PREFIX_BYTES] {
    prefix(namespace, slot)
}

/// The first stored key past every key of `slot` in `namespace`: the exclusive end of a scan.
pub fn slot_range_end(namespace: u8, slot: u16) -> [u8; STORED_KEY_PREFIX_BYTES] {
    let [tag, namespace, high, low] = prefix(namespace, slot);
    // A slot is below 2^14, so the next one always fits, even where no such slot exists.
    let [next_high, next_low] = (u16::from_be_bytes([high, low]) + 1).to_be_bytes();
    [tag, namespace, next_high, next_low]
}

/// The key a client session's record is stored under.
pub(crate) fn session_key(client: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = META_TAG;
    key[1] = SESSION_KIND;
    key[2..].copy_from_slice(&client.to_be_bytes());
    key
}

/// The client whose session record `key` holds, if it is such a key.
pub(crate) fn session_client(key: &[u8]) -> Option<u64> {
    let client = key.strip_prefix(&[META_TAG, SESSION_KIND])?;
    Some(u64::from_be_bytes(client.try_into().ok()?))
}

/// The half-open range `[start, end)` of all session records.
pub(crate) const SESSION_RANGE: ([u8; 2], [u8; 2]) = ([META_TAG, SESSION_KIND], [META_TAG, SESSION_KIND + 1]);
