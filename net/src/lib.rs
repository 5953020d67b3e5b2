//! RingKV's wire: frames, the two FlatBuffers protocols, the cluster map, and the client library.
//!
//! ```text
//!   protocol (client door)     peer (Raft messages)      what is said
//!            \                     /
//!                    frame                               header, checksums, limits
//!                      |
//!                  transport                             sockets (glommio): the only async code
//!
//!   client::core  routing, retries, sessions: a function of (event, now), driven by transport::client
//! ```
//!
//! Everything outside [`transport`] is pure: no clock, no socket, no ambient randomness. Decoders accept
//! any bytes, verify before they trust, and hand out [`bytes::Bytes`] slices of the read buffer.
//!
//! **Invariant**: a key, a value or an entry's data is copied once on its way out (into the write buffer)
//! and not at all on its way in.

pub mod frame;
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]
#[allow(dead_code, unused_imports, unsafe_op_in_unsafe_fn, rust_2018_idioms, mismatched_lifetime_syntaxes)]
#[rustfmt::skip]
mod generated;

pub mod client;
pub mod map;
pub mod peer;
pub mod protocol;
pub mod resp;
pub mod slot;
pub mod transport;
pub mod types;

pub use client::{ClientConfig, ClientError, ConnectError};
pub use frame::{Frame, FrameDecoder, FrameError, FrameKind};
pub use map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
pub use transport::client::{Client, PutOptions};
pub use types::{Limits, Nanos, RequestId, Value};
