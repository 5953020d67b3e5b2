//! The client library's pure part: configuration, errors and [`core::ClientCore`].
//!
//! [`crate::transport`] has what drives it with sockets and timers: one client for glommio, one for tokio, one that
//! waits; a simulator may drive it with neither. `calls` says what the methods of all of them mean.

#[cfg(any(feature = "glommio", feature = "tokio"))]
pub(crate) mod calls;
pub mod core;
#[cfg(any(feature = "glommio", feature = "tokio"))]
pub(crate) mod methods;

use crate::protocol::{Oversize, Refusal};
use std::time::Duration;

pub use self::core::Target;
#[cfg(any(feature = "glommio", feature = "tokio"))]
pub use calls::{PutOptions, ScanPage, Swap};

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of binary doors to learn the cluster from; tried in turn.
    pub endpoints: Vec<String>,
    /// A request gets its answer, or an error, within this time, retries included.
    pub request_timeout: Duration,
    /// A connection that is not up (hello included) within this time has failed.
    pub connect_timeout: Duration,
    /// A connection with requests in flight that says nothing for this long is given up, and its requests
    /// are sent elsewhere. Keep it well under `request_timeout`.
    pub silence_timeout: Duration,
    /// Pause before the first retry; doubles with each further one.
    pub retry_backoff_min: Duration,
    /// Longest pause between retries.
    pub retry_backoff_max: Duration,
    /// Bytes of unanswered requests on one connection; further ones wait their turn in the client.
    pub inflight_bytes_max: usize,
    /// Bytes of all unfinished requests of this client; beyond it a request fails with
    /// [`ClientError::Overloaded`] at once.
    pub queued_bytes_max: usize,
    /// Whether writes carry a session stamp, which makes retrying them safe. Without, a write whose
    /// outcome is in doubt fails with [`ClientError::Indeterminate`] instead of being retried.
    pub sessions: bool,
    /// Longest frame body, in bytes, until a server's hello has told its own limit, which then holds for what is sent to
    /// it and accepted from it.
    pub frame_bytes_max: u32,
    /// Seeds the jitter and the session's identity; `None`: from the system.
    pub seed: Option<u64>,
}

impl ClientConfig {
    /// The defaults for a cluster reached through `endpoints`.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> ClientConfig {
        ClientConfig {
            endpoints,
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            silence_timeout: Duration::from_secs(2),
            retry_backoff_min: Duration::from_millis(5),
            retry_backoff_max: Duration::from_millis(250),
            inflight_bytes_max: 8 * 1024 * 1024,
            queued_bytes_max: 256 * 1024 * 1024,
            sessions: true,
            frame_bytes_max: crate::types::Limits::DEFAULT.frame_bytes_max,
            seed: None,
        }
    }
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The configuration names no endpoint.
    #[error("no endpoints given")]
    NoEndpoints,
    /// The system gives no thread for a client that waits.
    #[error("no thread for the client: {why}")]
    NoThread {
        /// What the system said.
        why: String,
    },
    /// No endpoint answered in time; the cluster may be down or the addresses wrong.
    #[error("no endpoint answered: {last}")]
    Unreachable {
        /// The last failure, for people.
        last: String,
    },
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The write **may or may not** have taken effect, now or later. Read the key to find out.
    #[error("outcome unknown: {cause}")]
    Indeterminate {
        /// What happened last, for people.
        cause: String,
    },
    /// No answer in time. The request did not take effect: it may be sent again.
    #[error("no answer in time: {last}")]
    TimedOut {
        /// What happened last, for people.
        last: String,
    },
    /// The server will not do it. It did not take effect; sending it again will not help.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// Over a limit the servers announced. Not sent.
    #[error("{what:?} of {actual} is over the limit of {limit}")]
    TooLarge {
        /// Which limit.
        what: Oversize,
        /// What was asked.
        actual: u64,
        /// The limit.
        limit: u64,
    },
    /// The keys of a batch belong to different shards. Not sent: give them a common `{hash tag}`.
    #[error("the keys of a batch are in different shards")]
    BatchSpansShards,
    /// A batch without mutations. Not sent.
    #[error("a batch needs at least one mutation")]
    EmptyBatch,
    /// The shard is not in the cluster map, or no shard owns the key's slot. Not sent.
    #[error("no such shard")]
    NoSuchShard,
    /// Too many requests in this client. Not sent: wait for some to finish.
    #[error("too many requests in flight ({queued_bytes} bytes)")]
    Overloaded {
        /// Bytes of unfinished requests.
        queued_bytes: usize,
    },
    /// The server's answer is not one to this request: a bug, or a foreign server. Reads only; a write in
    /// that state is [`ClientError::Indeterminate`].
    #[error("the answer does not fit the request")]
    UnexpectedAnswer,
    /// The client has been shut down.
    #[error("the client is closed")]
    Closed,
}
