//! The client library: what applications use.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use net::{Client, ClientConfig};
//! let client = Client::connect(ClientConfig::new(vec!["127.0.0.1:7051".into()])).await?;
//! client.put("greeting", "hello").await?;
//! assert_eq!(client.get("greeting").await?.unwrap().data, "hello");
//! # Ok(()) }
//! ```
//!
//! Many requests in flight on one [`Client`] share one connection per (node, core): start several futures
//! at once and they are pipelined. All waiting and resending is decided by
//! [`ClientCore`](crate::client::core::ClientCore); here are only sockets, a timer and wakers.

mod admin;
mod driver;

use crate::client::{ClientConfig, ClientError, ConnectError};
use crate::map::ClusterMap;
use crate::protocol::{
    Access, Answer, Expected, Freshness, Mutation, MutationOutcome, Op, Program, ReadConsistency, ScanItem,
    WriteConsistency,
};
use crate::types::Value;
use bytes::Bytes;
use driver::{Driver, Shutdown};
use std::rc::Rc;
use std::time::Duration;

pub use crate::client::core::Target;

/// A connection pool, router and retrier for one executor. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    driver: Rc<Driver>,
    /// Ends the driver's tasks when the last clone goes.
    _shutdown: Rc<Shutdown>,
    namespace: u8,
}

/// How to store a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Time until the key expires; `None`: never.
    pub ttl: Option<Duration>,
    /// When the write counts as done.
    pub consistency: WriteConsistency,
}

/// What a compare-and-swap did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Made; the version is that of the new value.
    Done {
        /// Version of the new value (of the removal, when the swap removed the key).
        version: u64,
    },
    /// Not made: the key is not as expected.
    Mismatch {
        /// Version found; `None`: the key does not exist.
        current: Option<u64>,
    },
}

/// A part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// Keys and values in (slot, key) order.
    pub items: Vec<ScanItem>,
    /// `start` of the next page; `None`: there is none.
    pub next: Option<Bytes>,
}

impl Client {
    /// Learns the cluster from the first endpoint that answers.
    ///
    /// # Errors
    /// [`ConnectError`] when none did within `config.request_timeout`.
    pub async fn connect(config: ClientConfig) -> Result<Client, ConnectError> {
        let driver = Driver::start(config)?;
        let shutdown = Rc::new(Shutdown::new(Rc::clone(&driver)));
        driver.bootstrapped().await?;
        Ok(Client { driver, _shutdown: shutdown, namespace: 0 })
    }

    /// A client of another key space over the same connections.
    #[must_use]
    pub fn with_namespace(&self, namespace: u8) -> Client {
        Client { namespace, ..self.clone() }
    }

    /// The value of a key, linearizable.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, ClientError> {
        self.get_with(key, ReadConsistency::Linearizable).await
    }

    /// The value of a key, as fresh as asked.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: ReadConsistency,
    ) -> Result<Option<Value>, ClientError> {
        match self.call(Target::Key, Op::Get { key: key.into(), consistency }).await? {
            Answer::Value { value, .. } => Ok(value),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// The value of a key on any replica, and how fresh it is as far as the replica says.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn get_stale(
        &self,
        key: impl Into<Bytes>,
    ) -> Result<(Option<Value>, Option<Freshness>), ClientError> {
        let op = Op::Get { key: key.into(), consistency: ReadConsistency::Stale };
        match self.call(Target::Key, op).await? {
            Answer::Value { value, freshness } => Ok((value, freshness)),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// Whether a key exists, linearizable.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn exists(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
        let op = Op::Exists { key: key.into(), consistency: ReadConsistency::Linearizable };
        match self.call(Target::Key, op).await? {
            Answer::Exists { exists, .. } => Ok(exists),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// Stores a value durably on a majority; returns its version.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<u64, ClientError> {
        self.put_with(key, value, PutOptions::default()).await
    }

    /// Stores a value; returns its version.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn put_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<u64, ClientError> {
        // A fraction of a millisecond must not become "at once".
        let ttl_ms = options.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        let mutation = Mutation::Put { key: key.into(), value: value.into(), ttl_ms };
        let (index, outcome) = self.write_one(mutation, options.consistency).await?;
        match outcome {
            MutationOutcome::Put { version } => Ok(version),
            MutationOutcome::Accepted => Ok(index),
            _ => Err(unexpected_write()),
        }
    }

    /// Removes a key, durably on a majority; returns whether it existed.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
        let existed = self.delete_with(key, WriteConsistency::Strong).await?;
        existed.ok_or_else(unexpected_write)
    }

    /// Removes a key; returns whether it existed, if that is known yet (a strong delete always knows).
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn delete_with(
        &self,
        key: impl Into<Bytes>,
        consistency: WriteConsistency,
    ) -> Result<Option<bool>, ClientError> {
        match self.write_one(Mutation::Delete { key: key.into() }, consistency).await?.1 {
            MutationOutcome::Deleted { existed } => Ok(Some(existed)),
            MutationOutcome::Accepted => Ok(None),
            _ => Err(unexpected_write()),
        }
    }

    /// Stores `new` (`None`: removes the key) if the key is as `expected`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected: Expected,
        new: Option<Bytes>,
    ) -> Result<Swap, ClientError> {
        let mutation = Mutation::CompareAndSwap { key: key.into(), expected, new };
        match self.write_one(mutation, WriteConsistency::Strong).await?.1 {
            MutationOutcome::Swapped { version } => Ok(Swap::Done { version }),
            MutationOutcome::NotSwapped { current } => Ok(Swap::Mismatch { current }),
            _ => Err(unexpected_write()),
        }
    }

    /// Executes mutations of one shard atomically; one outcome for each.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn batch(
        &self,
        mutations: Vec<Mutation>,
        consistency: WriteConsistency,
    ) -> Result<Vec<MutationOutcome>, ClientError> {
        let expected = mutations.len();
        let op = Op::Write { session: None, consistency, mutations };
        match self.call(Target::Key, op).await? {
            Answer::Written { outcomes, .. } if outcomes.len() == expected => Ok(outcomes),
            _ => Err(unexpected_write()),
        }
    }

    /// A page of one shard's keys from `start` (empty: from its beginning) to before `end`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn scan(
        &self,
        shard: u32,
        start: impl Into<Bytes>,
        end: Option<Bytes>,
        limit: u32,
        consistency: ReadConsistency,
    ) -> Result<ScanPage, ClientError> {
        self.scan_page(shard, start.into(), end, limit, consistency, false).await
    }

    /// As [`Client::scan`], but the values come back empty.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn scan_keys(
        &self,
        shard: u32,
        start: impl Into<Bytes>,
        end: Option<Bytes>,
        limit: u32,
        consistency: ReadConsistency,
    ) -> Result<ScanPage, ClientError> {
        self.scan_page(shard, start.into(), end, limit, consistency, true).await
    }

    async fn scan_page(
        &self,
        shard: u32,
        start: Bytes,
        end: Option<Bytes>,
        limit: u32,
        consistency: ReadConsistency,
        keys_only: bool,
    ) -> Result<ScanPage, ClientError> {
        let op = Op::Scan { start, end, limit, consistency, keys_only };
        match self.call(Target::Shard(shard), op).await? {
            Answer::Scan { items, next, .. } => Ok(ScanPage { items, next }),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// Executes Redis commands over keys of one shard as one step, wherever its leader is now (a read: wherever the
    /// consistency lets it). Returns the commands' replies as RESP3 values, one after the other; `None`: a watched key has
    /// changed, and nothing was done.
    ///
    /// A write is sent again only while no attempt can have been executed.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn execute(&self, program: Program, consistency: Access) -> Result<Option<Bytes>, ClientError> {
        match self.call(Target::Key, Op::Execute { program, consistency }).await? {
            Answer::Executed { replies, .. } => Ok(replies),
            _ if matches!(consistency, Access::Write(_)) => Err(unexpected_write()),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// How many keys the shard holds in this namespace, in the slots from `first_slot` to `last_slot`. Keys that have
    /// expired and are not removed yet count.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn count(
        &self,
        shard: u32,
        (first_slot, last_slot): (u16, u16),
        consistency: ReadConsistency,
    ) -> Result<u64, ClientError> {
        let op = Op::Count { first_slot, last_slot, consistency };
        match self.call(Target::Shard(shard), op).await? {
            Answer::Counted { count } => Ok(count),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// The cluster map as last heard.
    #[must_use]
    pub fn cluster_map(&self) -> ClusterMap {
        self.driver.cluster_map()
    }

    /// Asks a node for the cluster map.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn fetch_cluster_map(&self) -> Result<ClusterMap, ClientError> {
        match self.call(Target::AnyNode, Op::ClusterMap).await? {
            Answer::ClusterMap(map) => Ok(map),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    /// The status of the node at `endpoint`, a JSON document.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn status(&self, endpoint: &str) -> Result<Bytes, ClientError> {
        match self.call(Target::Endpoint(endpoint.into()), Op::Status).await? {
            Answer::Status(json) => Ok(json),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    async fn write_one(
        &self,
        mutation: Mutation,
        consistency: WriteConsistency,
    ) -> Result<(u64, MutationOutcome), ClientError> {
        let op = Op::Write { session: None, consistency, mutations: vec![mutation] };
        match self.call(Target::Key, op).await? {
            Answer::Written { index, outcomes } => match outcomes[..] {
                [outcome] => Ok((index, outcome)),
                _ => Err(unexpected_write()),
            },
            _ => Err(unexpected_write()),
        }
    }

    /// Any request: what all others are made of. The session of a write is stamped on the way.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn call(&self, target: Target, op: Op) -> Result<Answer, ClientError> {
        self.driver.call(target, self.namespace, op).await
    }
}

/// A write answered with something else was probably executed.
fn unexpected_write() -> ClientError {
    ClientError::Indeterminate { cause: "the answer does not fit the request".to_owned() }
}
