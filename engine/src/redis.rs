//! The Redis commands over a shard's keys: pure functions of the keyspace, the arguments and the given time.
//!
//! A write runs in the state machine when its log entry is applied, a read over a replica's state, so each command has
//! one meaning, written once. Same program, same state and same time give the same changes and the same replies.

mod keyspace;

pub use keyspace::{ENCODING_RAW, Entry, Keyspace};
