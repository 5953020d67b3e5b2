//! The Redis door without its sockets: what a connection says and what is to be done about it.
//!
//! ```text
//!   bytes ── net::resp ──▶ arguments ── Session::command ──▶ Action ── driver/resp ──▶ calls of the gateway
//!                                                                                     answers, in order ──▶ bytes
//! ```
//!
//! A [`Session`] knows what its client has said so far: the namespace, the transaction, the watched keys. It answers
//! what concerns the connection or the node by itself, and says of everything else which shards are to be asked what,
//! and how the answers make one reply. It has no clock and no socket; [`Node`] is what it may know of the node.

pub mod action;
pub mod batch;
mod cluster;
mod config;
mod connection;
mod data;
pub mod info;
pub mod registry;
pub mod scan;
pub mod session;
mod transaction;

pub use action::{Action, Call, Merge, Shape, Task, Touches};
pub use cluster::moved;
pub use info::Facts;
pub use registry::{Registry, Row};
pub use session::{Node, Session};
