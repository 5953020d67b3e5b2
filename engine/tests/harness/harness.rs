//! Real clusters of real `ringkv` processes on loopback, with real files, for the tests in this folder.
//!
//! ```text
//!   settings   what a test wants of its cluster → one configuration file per node
//!   cluster    a set of nodes; waits for leaders and for replicas to catch up
//!     node     one process: start, kill -9, SIGTERM, SIGSTOP, memory, exit, log
//!     status   a node's account of itself
//!   forge      frames that no honest client sends, kernels that no honest host runs
//!   wire       the binary protocol on a plain blocking socket, for what the client library would never send
//!   strace     what nodes ask of the kernel, and calls that fail
//!   walread    the log of a node that is down
//!   library    the client library on an executor of its own
//!   groups     the replicas of shards, as their leaders see them, and changes to them
//!   topology   its map: who is in it, where shards are, what moves
//!   load       clients that work and record what they did and saw
//!   register   numbers as values, and back
//! ```
//!
//! Invariants: every process started here ends with its [`Node`], whether the test passes, fails or is killed; every
//! wait has a deadline and a condition; ports are taken outside the range the kernel gives to outgoing connections.

mod cluster;
mod deadline;
mod forge;
mod groups;
mod library;
mod load;
mod node;
mod ports;
mod register;
mod settings;
mod status;
mod strace;
mod topology;
mod walread;
mod wire;

pub use cluster::Cluster;
pub use deadline::{until, within};
pub use forge::{Forge, refuse_io_uring};
pub use groups::{Groups, voters};
pub use library::{client_config, with_client, with_config};
pub use load::{Load, LoadConfig, LoadResult, Outage, read_back};
pub use node::{Node, Signal};
pub use register::{token_of, value_of};
pub use settings::{MIB, Settings};
pub use status::{NodeStatus, ShardStatus};
pub use strace::{Call, Strace, Trace};
pub use topology::{Topology, assert_slots_have_one_owner, holders};
pub use walread::{Logged, read_log};
pub use wire::{Incoming, Wire, key_in, shard_of};
