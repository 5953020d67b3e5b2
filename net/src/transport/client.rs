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

mod driver;

use crate::client::methods::typed_methods;
use crate::client::{ClientConfig, ClientError, ConnectError, calls};
use crate::map::ClusterMap;
use crate::protocol::{
    Access, AdminAccepted, AdminOp, Answer, ClusterAccount, ClusterOp, Expected, Freshness, Mutation,
    MutationOutcome, Op, Program, ReadConsistency, ShardDescription, WriteConsistency,
};
use crate::types::Value;
use bytes::Bytes;
use driver::{Driver, Shutdown};
use std::rc::Rc;

pub use crate::client::{PutOptions, ScanPage, Swap, Target};

/// A connection pool, router and retrier for one executor. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    driver: Rc<Driver>,
    /// Ends the driver's tasks when the last clone goes.
    _shutdown: Rc<Shutdown>,
    namespace: u8,
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

    typed_methods!([async] [.await]);

    /// The cluster map as last heard.
    #[must_use]
    pub fn cluster_map(&self) -> ClusterMap {
        self.driver.cluster_map()
    }

    /// The epoch of that map.
    #[must_use]
    pub fn map_epoch(&self) -> u64 {
        self.driver.map_epoch()
    }

    /// Any request: what all others are made of. The session of a write is stamped on the way.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn call(&self, target: Target, op: Op) -> Result<Answer, ClientError> {
        self.driver.call(target, self.namespace, op).await
    }
}
