//! The Redis commands over a shard's keys: pure functions of the keyspace, the arguments and the given time.
//!
//! A write runs in the state machine when its log entry is applied, a read over a replica's state, so each command has
//! one meaning, written once. Same program, same state and same time give the same changes and the same replies.
//!
//! ```text
//!   table      which commands there are, their arity and keys; COMMAND
//!   execute    one command: checked against the table, handed to the function of its name
//!     strings  numbers  bits  bitfield  lcs  keys  expiry  dump
//!       arguments  extended (80-bit floats)  rdb (DUMP's format)
//!   keyspace   what all of them see of the shard
//! ```
//!
//! Answers and errors are those of Redis 7.0.15 byte for byte, which `tests/redis_differential.rs` shows beside a real
//! one. What differs, on purpose:
//!
//! - There are only strings: nothing is of the wrong type, and RESTORE of anything else is bad data.
//! - When a key was last used is not kept: OBJECT IDLETIME is 0.
//! - DUMP does not compress; RESTORE reads what is compressed.
//! - Where Redis has `proto-max-bulk-len`, here is [`Keyspace::value_bytes_max`], which BITFIELD may not exceed by the
//!   width of a field either. MGET of more than [`REPLY_BYTES_MAX`] is an error.
//! - Bytes of a client that an error quotes and that are not UTF-8 become U+FFFD.

mod arguments;
mod bitfield;
mod bits;
mod dump;
mod execute;
mod expiry;
mod extended;
pub mod glob;
mod keys;
mod keyspace;
mod lcs;
mod numbers;
mod rdb;
mod strings;
pub mod table;

pub use execute::{REPLY_BYTES_MAX, execute};
pub use keys::{NAMESPACES, object_help};
pub use keyspace::{ENCODING_RAW, ENCODING_TEXT, ENCODING_UNSHARED, Entry, Keyspace};
