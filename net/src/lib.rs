//! RingKV's wire: frames, the two FlatBuffers protocols, the cluster map, and the client library.
//!
//! ```text
//!   protocol (client door)     peer (Raft messages)      what is said
//!            \                     /
//!                    frame                               header, checksums, limits
//!                      |
//!                  transport                             sockets: the only async code
//!
//!   client::core  routing, retries, sessions: a function of (event, now), driven by one client per runtime:
//!                 [`Client`] (glommio), [`tokio::Client`], [`blocking::Client`]
//! ```
//!
//! Each client is a cargo feature of its own: `glommio` (on by default; it also has what servers need), `tokio` and
//! `blocking`. A program on tokio takes `default-features = false, features = ["tokio"]` and is spared glommio.
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
#[cfg(any(feature = "glommio", feature = "tokio"))]
pub use client::{PutOptions, ScanPage, Swap};
pub use frame::{Frame, FrameDecoder, FrameError, FrameKind};
pub use map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
#[cfg(feature = "blocking")]
pub use transport::blocking;
#[cfg(feature = "glommio")]
pub use transport::client::Client;
#[cfg(feature = "tokio")]
pub use transport::tokio;
pub use types::{Limits, Nanos, RequestId, Value};
