//! Raft consensus as a pure function of (state, event).
//!
//! Nothing in this crate reads a clock, touches a file or a socket, starts a thread or draws ambient
//! randomness: time comes in as [`Nanos`] and ticks, randomness as one seed, and everything to be done leaves
//! through [`Ready`]. The terms are those of Ongaro's thesis ("Consensus: Bridging Theory and Practice") and of
//! etcd/raft.
//!
//! [`RawNode`] is the whole public facade; its documentation gives the order of calls. The other public types
//! are what goes in ([`Message`], [`Config`], [`InitialState`]) and comes out ([`Ready`], [`Status`]).

mod types;

pub mod mutation;

mod config;
mod entry;
mod error;
mod message;
mod ready;
mod status;

pub mod confchange;

mod raw_node;

mod raft;

mod log;
mod tracker;

mod lease;
mod read_index;

mod rng;

pub mod quorum;
pub mod storage;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use confchange::{ConfChange, ConfChangeStep};
pub use config::Config;
pub use entry::{ConfState, ENTRY_OVERHEAD_BYTES, Entry, EntryKind, HardState, InitialState, SnapshotMeta};
pub use error::{
    ConfChangeError, ConfigError, LogReadError, ProposeConfError, ProposeError, ReadError, StepError,
    TransferError, UnknownEntryKind,
};
pub use message::{AppendResult, Message, MessageBody};
pub use raw_node::RawNode;
pub use ready::{Fetch, ReadStart, ReadState, Ready, SoftState};
pub use status::{PeerState, PeerStatus, Role, Status};
pub use storage::{LogStorage, MemStorage};
pub use types::{FetchId, Index, Nanos, NodeId, ReadyId, Round, Term};
