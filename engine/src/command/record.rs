//! Stored values: a fixed header, then the user's bytes.
//!
//! ```text
//! record = kind u8 | flags u8 | reserved u16 | expiry_ms u64 | version u64 | value     little-endian
//! ```

use thiserror::Error;

/// Bytes in front of the user's value.
pub const RECORD_HEADER_BYTES: usize = 20;
const KIND_STRING: u8 = 1;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Plain bytes.
    String,
}

/// Why bytes are not a record: either corruption or a newer version's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Fewer bytes than the header.
    #[error("a record needs at least {RECORD_HEADER_BYTES} bytes, found {found}")]
    Short {
        /// How many there were.
        found: usize,
    },
    /// A kind this version does not know.
    #[error("unknown value kind {found}")]
    Kind {
        /// The kind read.
        found: u8,
    },
    /// Reserved bytes that are not zero.
    #[error("reserved header bytes hold {found:#06x}")]
    Reserved {
        /// What they hold.
        found: u16,
    },
}

/// A stored value with its header, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    /// Checks the header of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let Some((header, _)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
            return Err(RecordError::Short { found: bytes.len() });
        };
        if header[0] != KIND_STRING {
            return Err(RecordError::Kind { found: header[0] });
        }
        let reserved = u16::from_le_bytes([header[2], header[3]]);
        if reserved != 0 {
            return Err(RecordError::Reserved { found: reserved });
        }
        Ok(Self(bytes))
    }

    /// The header of a plain value, to be stored in front of it.
    pub fn header(flags: u8, expiry_ms: u64, version: u64) -> [u8; RECORD_HEADER_BYTES] {
        header(flags, expiry_ms, version)
    }

    /// Header and value, exactly what is stored.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// What the value is.
    pub fn kind(self) -> ValueKind {
        ValueKind::String
    }

    /// The client's flags.
    pub fn flags(self) -> u8 {
        self.0[1]
    }

    /// When the value becomes invisible, in milliseconds since the Unix epoch; 0 for never.
    pub fn expiry_ms(self) -> u64 {
        u64_at(self.0, 4)
    }

    /// The index of the entry that wrote the value.
    pub fn version(self) -> u64 {
        u64_at(self.0, 12)
    }

    /// The user's bytes.
    pub fn value(self) -> &'a [u8] {
        &self.0[RECORD_HEADER_BYTES..]
    }

    /// Whether the value can be seen at `now_ms`: it is gone from its expiry on.
    pub fn is_visible(self, now_ms: u64) -> bool {
        let expiry_ms = self.expiry_ms();
        expiry_ms == 0 || now_ms < expiry_ms
    }
}

/// The header of a plain value.
pub(super) fn header(flags: u8, expiry_ms: u64, version: u64) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[0] = KIND_STRING;
    header[1] = flags;
    header[4..12].copy_from_slice(&expiry_ms.to_le_bytes());
    header[12..].copy_from_slice(&version.to_le_bytes());
    header
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
