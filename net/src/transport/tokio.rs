//! The client library on tokio: a handle that is `Send + Sync` and may be used from any task.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use net::ClientConfig;
//! use net::tokio::Client;
//! let client = Client::connect(ClientConfig::new(vec!["127.0.0.1:7051".into()])).await?;
//! client.put("greeting", "hello").await?;
//! assert_eq!(client.get("greeting").await?.unwrap().data, "hello");
//! # Ok(()) }
//! ```
//!
//! It has the methods of [`net::Client`](crate::transport::client::Client) and means the same by them. Requests of all
//! tasks share one connection per (node, core) and travel together.

mod driver;

use crate::client::methods::typed_methods;
use crate::client::{ClientConfig, ClientError, ConnectError, calls};
use crate::map::ClusterMap;
use crate::protocol::{
    Access, AdminAccepted, AdminOp, Answer, ClusterAccount, ClusterOp, Expected, Freshness, Mutation,
    MutationOutcome, Op, Program, ReadConsistency, ShardDescription, WriteConsistency,
};
use crate::types::Value;
use ::tokio::runtime::Handle;
use bytes::Bytes;
use driver::{Driver, Shutdown};
use std::sync::Arc;

pub use crate::client::{PutOptions, ScanPage, Swap, Target};

/// A connection pool, router and retrier. Clones share everything.
#[derive(Clone, Debug)]
pub struct Client {
    driver: Arc<Driver>,
    /// Ends the driver's tasks when the last clone goes.
    _shutdown: Arc<Shutdown>,
    namespace: u8,
}

impl Client {
    /// Learns the cluster from the first endpoint that answers. Its tasks run on the present runtime, which must have
    /// I/O and time enabled.
    ///
    /// # Errors
    /// [`ConnectError`] when none did within `config.request_timeout`.
    ///
    /// # Panics
    /// Outside of a tokio runtime: see [`Client::connect_on`].
    pub async fn connect(config: ClientConfig) -> Result<Client, ConnectError> {
        Client::connect_on(&Handle::current(), config).await
    }

    /// As [`Client::connect`], with its tasks on the runtime given: this future, and those of the client's methods, may
    /// then be awaited anywhere. Once the runtime has ended every request fails with [`ClientError::Closed`].
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_on(runtime: &Handle, config: ClientConfig) -> Result<Client, ConnectError> {
        let (driver, bootstrapped) = Driver::start(runtime.clone(), config)?;
        let shutdown = Arc::new(Shutdown::new(Arc::clone(&driver)));
        match bootstrapped.await {
            Ok(result) => result?,
            Err(_) => return Err(ConnectError::Unreachable { last: "the runtime has ended".to_owned() }),
        }
        Ok(Client { driver, _shutdown: shutdown, namespace: 0 })
    }

    typed_methods!([async] [.await]);

    /// The cluster map as last heard.
    #[must_use]
    pub fn cluster_map(&self) -> ClusterMap {
        self.driver.cluster_map()
    }

    /// Any request: what all others are made of. The session of a write is stamped on the way.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn call(&self, target: Target, op: Op) -> Result<Answer, ClientError> {
        self.call_in(self.namespace, target, op).await
    }

    /// For the client that waits, which has a namespace of its own.
    pub(super) async fn call_in(&self, namespace: u8, target: Target, op: Op) -> Result<Answer, ClientError> {
        self.driver.call(target, namespace, op).await
    }
}
