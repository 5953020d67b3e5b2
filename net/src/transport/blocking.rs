//! The client library for programs without a runtime: every method waits for its answer.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use net::ClientConfig;
//! use net::blocking::Client;
//! let client = Client::connect(ClientConfig::new(vec!["127.0.0.1:7051".into()]))?;
//! client.put("greeting", "hello")?;
//! assert_eq!(client.get("greeting")?.unwrap().data, "hello");
//! # Ok(()) }
//! ```
//!
//! Its sockets live on a thread of its own, which runs [the tokio client](super::tokio). Requests of several threads
//! share the connections and travel together, so a program that wants many in flight starts threads. Do not call it
//! from async code: it holds up the thread it is called on.

use super::tokio as on_tokio;
use crate::client::methods::typed_methods;
use crate::client::{ClientConfig, ClientError, ConnectError, calls};
use crate::map::ClusterMap;
use crate::protocol::{
    Access, AdminAccepted, AdminOp, Answer, ClusterAccount, ClusterOp, Expected, Freshness, Mutation,
    MutationOutcome, Op, Program, ReadConsistency, ShardDescription, WriteConsistency,
};
use crate::types::Value;
use ::tokio::runtime::{Builder, Handle};
use ::tokio::sync::oneshot;
use bytes::Bytes;
use futures_lite::future::block_on;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use crate::client::{PutOptions, ScanPage, Swap, Target};

/// A connection pool, router and retrier. Clones share everything, from any thread.
#[derive(Clone, Debug)]
pub struct Client {
    inner: on_tokio::Client,
    /// Ends when the last clone goes, after the client on it: fields are dropped in this order.
    _thread: Arc<Thread>,
    namespace: u8,
}

impl Client {
    /// Learns the cluster from the first endpoint that answers.
    ///
    /// # Errors
    /// [`ConnectError`] when none did within `config.request_timeout`, or the system gives no thread.
    pub fn connect(config: ClientConfig) -> Result<Client, ConnectError> {
        let thread = Thread::start().map_err(|error| ConnectError::NoThread { why: error.to_string() })?;
        let inner = block_on(on_tokio::Client::connect_on(&thread.runtime, config))?;
        Ok(Client { inner, _thread: Arc::new(thread), namespace: 0 })
    }

    typed_methods!([] []);

    /// The cluster map as last heard.
    #[must_use]
    pub fn cluster_map(&self) -> ClusterMap {
        self.inner.cluster_map()
    }

    /// Any request: what all others are made of. The session of a write is stamped on the way.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn call(&self, target: Target, op: Op) -> Result<Answer, ClientError> {
        block_on(self.inner.call_in(self.namespace, target, op))
    }
}

/// The thread the sockets live on.
#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    fn start() -> io::Result<Thread> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let name = "ringkv-client".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            // It ends by the sender being dropped: nothing is ever sent.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Thread { runtime: handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so; there is nothing more to end.
            let _ = thread.join();
        }
    }
}
