//! The RingKV server: composes Raft, the write-ahead log, the network and the storage engines.
//!
//! ```text
//!   server      opens everything, starts one executor per core
//!     driver    the only async code: sockets, files, threads, clock
//!       core    one core's machine: (state, event) → effects
//!         replica   one shard's Raft state, waiting requests and apply queue
//!   machine     the replicated state machine, on the apply thread
//!     command   what an entry says        store   where its data lies
//!     http      the HTTP interface, without its sockets
//!     redis     the Redis commands, as functions of a keyspace
//! ```

pub mod bootstrap;
pub mod command;
pub mod config;
pub mod controller;
pub mod convert;
pub mod core;
pub mod driver;
pub mod fatal;
pub mod home;
pub mod host;
pub mod http;
pub mod identity;
pub mod machine;
pub mod map_file;
pub mod placement;
pub mod redis;
mod replica;
pub mod replica_id;
pub mod resp;
pub mod server;
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod topology;
