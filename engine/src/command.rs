//! What the payload of a Raft entry says: a leader-stamped command of one or more mutations, or a program of commands
//! ([`encode_program`]) that the state machine executes; or that the shard is cut in two ([`Division`]).
//!
//! The leader encodes a command once ([`encode`]); every replica reads it in place ([`decode`]). The
//! layout is chosen so that apply copies nothing: the key already stands in its stored form and the
//! value already has its stored header in front, so both are slices of the payload.
//!
//! ```text
//! payload  = header session? op*  or  header program               all integers little-endian
//! header   = format u8 | flags u8 (bit 0: session, bit 1: program) | reserved u16 | op count u32
//!          | time_ms u64 | version u64                                                 24 bytes
//! session  = client u64 | sequence u64 | acked_below u64                               24 bytes
//! op       = kind u8 | expected u8 | has_new u8 | reserved u8
//!          | stored key length u32 | expected length u32 | record length u32           16 bytes
//!          | stored key | expected | record
//! ```
//!
//! A header alone has the state machine remove what has expired by its time ([`encode_removal`]).
//!
//! Invariants:
//! - `decode(encode(c))` gives `c` back, and no other payload than an encoder's decodes: reserved bytes
//!   are zero, every length is exact, nothing trails.
//! - A [`Command`] that decoded can be walked without further errors.
//! - Every record of a command carries the command's version.

mod decode;
mod division;
mod encode;
mod key;
mod program;
mod record;

pub use decode::{DecodeError, Ops, decode, removal_time};
pub use division::Division;
pub use encode::{encode, encode_removal};
pub use key::{KeyError, META_TAG, STORED_KEY_PREFIX_BYTES, StoredKey, StoredKeyBuf, slot_range_end};
pub(crate) use key::{SESSION_RANGE, SLOT_LAST, session_client, session_key, slot_range_start};
pub use program::{NewCommand, NewWatched, Program, Watched, encode_program, program_bytes};
pub use record::{RECORD_HEADER_BYTES, Record, RecordError, ValueKind};

/// The client session a write belongs to; retries carry the same client and sequence (thesis §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The client's identity, chosen at random by the client.
    pub client: u64,
    /// The write's number within its client; a retry keeps it.
    pub sequence: u64,
    /// Every sequence below this one has been answered: the state machine may forget them.
    pub acked_below: u64,
}

/// What a compare-and-swap wants to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// No visible value.
    Absent,
    /// A visible value of exactly this version.
    Version(u64),
    /// A visible value with exactly these bytes (the value alone, without its header).
    Value(&'a [u8]),
}

/// A value to be written, as it comes from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewValue<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// Uninterpreted flags kept with the value.
    pub flags: u8,
    /// When the value becomes invisible, in milliseconds since the Unix epoch; 0 for never.
    pub expiry_ms: u64,
}

impl<'a> NewValue<'a> {
    /// A value that never expires, without flags.
    pub fn plain(data: &'a [u8]) -> Self {
        Self { data, flags: 0, expiry_ms: 0 }
    }
}

/// Where a key lives: its namespace and its hash slot (computed by `net`'s slot function).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The namespace (a Redis database, for example).
    pub namespace: u8,
    /// The hash slot, below 16384.
    pub slot: u16,
}

/// One mutation, input of [`encode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation<'a> {
    /// Write the value, whatever was there.
    Put {
        /// Namespace and slot of the key.
        place: KeyPlace,
        /// The user's key.
        key: &'a [u8],
        /// The value to write.
        value: NewValue<'a>,
    },
    /// Remove the key.
    Delete {
        /// Namespace and slot of the key.
        place: KeyPlace,
        /// The user's key.
        key: &'a [u8],
    },
    /// Write (or remove, when `new` is `None`) the key only if it is as expected.
    CompareAndSwap {
        /// Namespace and slot of the key.
        place: KeyPlace,
        /// The user's key.
        key: &'a [u8],
        /// What must be there.
        expected: Expected<'a>,
        /// What to write; `None` removes the key.
        new: Option<NewValue<'a>>,
    },
}

/// One mutation as read from a payload; its parts are slices of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Write the record, whatever was there.
    Put {
        /// The key in its stored form.
        key: StoredKey<'a>,
        /// Header and value, exactly what is stored.
        record: Record<'a>,
    },
    /// Remove the key.
    Delete {
        /// The key in its stored form.
        key: StoredKey<'a>,
    },
    /// Write (or remove, when `new` is `None`) the key only if it is as expected.
    CompareAndSwap {
        /// The key in its stored form.
        key: StoredKey<'a>,
        /// What must be there.
        expected: Expected<'a>,
        /// Header and value to write; `None` removes the key.
        new: Option<Record<'a>>,
    },
}

/// A borrowed view of a payload.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    /// The leader's clock when it proposed, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The version every written value gets: the index of the entry that carries the command.
    pub version: u64,
    /// The session of the write, if the client wants it deduplicated.
    pub session: Option<Session>,
    /// What it is instead of mutations.
    pub program: Option<Program<'a>>,
    ops: Ops<'a>,
}

impl Op<'_> {
    /// The key it is about.
    pub fn key(&self) -> StoredKey<'_> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::CompareAndSwap { key, .. } => *key,
        }
    }
}

impl<'a> Command<'a> {
    /// The mutations, in the order they were given; none of a program.
    pub fn ops(&self) -> Ops<'a> {
        self.ops.clone()
    }
}

/// The only layout known so far.
const FORMAT: u8 = 1;
const FLAG_SESSION: u8 = 1;
/// Commands follow instead of mutations. A program has no session.
const FLAG_PROGRAM: u8 = 2;
const HEADER_BYTES: usize = 24;
const SESSION_BYTES: usize = 24;
const OP_HEADER_BYTES: usize = 16;
const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_COMPARE_AND_SWAP: u8 = 3;
const EXPECTED_NONE: u8 = 0;
const EXPECTED_ABSENT: u8 = 1;
const EXPECTED_VERSION: u8 = 2;
const EXPECTED_VALUE: u8 = 3;

#[cfg(test)]
mod tests;
