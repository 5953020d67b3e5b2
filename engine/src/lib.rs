//! The RingKV server: composes Raft, the write-ahead log, the network and the storage engines.

pub mod command;
pub mod machine;
pub mod store;
