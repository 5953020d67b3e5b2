//! The client's brain: routing by the cluster map, pipelines, retries, sessions, failover, deadlines.
//!
//! A function of (event, now): no clock, socket or ambient randomness. Call order: [`ClientCore::start`]
//! once; then, whenever something happens, [`ClientCore::submit`], [`ClientCore::cancel`] or
//! [`ClientCore::handle`], and after it take every [`ClientCore::poll_effect`] and look at
//! [`ClientCore::next_deadline`].
//!
//! **Invariants**
//! - Every submitted request ends in exactly one [`Effect::Complete`], unless cancelled, at the latest when
//!   its deadline is handled.
//! - A write that may have reached a server is sent again only with the session stamp it had.
//! - A write is reported as not executed only if no attempt of it can have been.

mod connections;
mod health;
mod operations;
mod outcome;
mod random;
mod routing;
mod session;

use super::{ClientConfig, ClientError, ConnectError};
use crate::map::{ClusterMap, RoutingTable};
use crate::protocol::{Answer, HelloReply, Mutation, Op, Oversize, Reply, Request};
use crate::slot::slot_of;
use crate::types::{Nanos, RequestId};
use connections::Connections;
use health::Health;
use operations::{Operation, Operations, Route, State};
use random::Random;
use session::Session;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

pub use operations::OpId;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the shard of its key (of its first mutation's key).
    Key,
    /// To this shard.
    Shard(u32),
    /// To any node.
    AnyNode,
    /// To the node at this `host:port`, which need not be in the map.
    Endpoint(Arc<str>),
}

/// A connection, for as long as it lives; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// A connection is up and its hello answered.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// The server's hello.
        hello: HelloReply,
    },
    /// A connection could not be made, or is gone. Not sent for one closed by [`Effect::Close`].
    Closed {
        /// Which.
        connection: ConnectionId,
        /// For people.
        why: String,
    },
    /// A reply came.
    Reply {
        /// From where.
        connection: ConnectionId,
        /// The reply.
        reply: Reply,
    },
    /// A frame came that should have been the reply to this request but cannot be read.
    Garbled {
        /// From where.
        connection: ConnectionId,
        /// The request.
        id: RequestId,
    },
    /// A request to be sent does not fit a frame. It was not sent.
    Unsendable {
        /// The request.
        id: RequestId,
        /// Bytes it would need.
        length: u64,
        /// Bytes a frame may have.
        limit: u32,
    },
    /// [`ClientCore::next_deadline`] has come.
    Deadline,
}

/// What is to be done outside.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Dial, say hello; then [`Event::Connected`] or [`Event::Closed`].
    Connect {
        /// Names the connection from now on.
        connection: ConnectionId,
        /// `host:port`
        address: Arc<str>,
        /// The core to ask for.
        wants_core: Option<u32>,
    },
    /// Send the request [`ClientCore::request`] shows, if it is still there.
    Send {
        /// Where.
        connection: ConnectionId,
        /// Which.
        id: RequestId,
    },
    /// Close the connection at once.
    Close {
        /// Which.
        connection: ConnectionId,
    },
    /// A submitted request has ended.
    Complete {
        /// Which.
        op: OpId,
        /// The submitter's number for it.
        token: u64,
        /// How.
        result: Result<Answer, ClientError>,
    },
    /// The first map is here: requests can be submitted.
    Ready,
    /// No endpoint answered within the request timeout. [`ClientCore::start`] may be called again.
    Unreachable {
        /// The last failure.
        error: ConnectError,
    },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct ClientCore {
    config: ClientConfig,
    endpoints: Vec<Arc<str>>,
    table: Option<RoutingTable>,
    operations: Operations,
    connections: Connections,
    health: Health,
    session: Session,
    random: Random,
    /// Longest key and value the servers take, as the last hello said.
    lengths_max: Option<(u32, u32)>,
    /// Longest frame the servers take, as the last hello said.
    frame_bytes_max: u32,
    /// The request for a newer map, when one is under way.
    map_fetch: Option<OpId>,
    /// Deadlines of all operations, ended ones included: in order, because every operation has the same time.
    deadlines: VecDeque<(Nanos, OpId)>,
    /// Operations waiting to be tried again.
    parked: BTreeSet<(Nanos, OpId)>,
    effects: VecDeque<Effect>,
}

/// Metadata of a request, of each mutation, and of each piece of a program, counted in its size.
const REQUEST_META_BYTES: usize = 160;
const MUTATION_META_BYTES: usize = 32;
const PIECE_META_BYTES: usize = 16;

impl ClientCore {
    /// A client of the cluster behind `config.endpoints`. `seed` makes all its random choices.
    ///
    /// # Errors
    /// [`ConnectError::NoEndpoints`]
    pub fn new(config: ClientConfig, seed: u64) -> Result<ClientCore, ConnectError> {
        if config.endpoints.is_empty() {
            return Err(ConnectError::NoEndpoints);
        }
        let mut random = Random::new(seed);
        let endpoints = config.endpoints.iter().map(|endpoint| Arc::from(endpoint.as_str())).collect();
        Ok(ClientCore {
            endpoints,
            table: None,
            operations: Operations::default(),
            connections: Connections::default(),
            health: Health::new(config.retry_backoff_min, config.retry_backoff_max),
            session: Session::new(random.next()),
            random,
            lengths_max: None,
            frame_bytes_max: config.frame_bytes_max,
            map_fetch: None,
            deadlines: VecDeque::new(),
            parked: BTreeSet::new(),
            effects: VecDeque::new(),
            config,
        })
    }

    // Getters.

    /// The cluster as last heard.
    #[must_use]
    pub fn cluster_map(&self) -> Option<&ClusterMap> {
        self.table.as_ref().map(RoutingTable::map)
    }

    /// The request an [`Effect::Send`] names; `None`: it has ended meanwhile.
    #[must_use]
    pub fn request(&self, id: RequestId) -> Option<&Request> {
        self.operations.by_request(id).map(|(_, operation)| &operation.request)
    }

    /// When to call [`ClientCore::handle`] with [`Event::Deadline`] at the latest. May come early for an
    /// operation that has ended.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanos> {
        let operation = self.deadlines.front().map(|&(at, _)| at);
        let parked = self.parked.first().map(|&(at, _)| at);
        let connection = self.connections.next_deadline(self.config.silence_timeout);
        [operation, parked, connection].into_iter().flatten().min()
    }

    /// Operations submitted and not ended, the client's own included.
    #[must_use]
    pub fn pending_operations(&self) -> usize {
        self.operations.len()
    }

    // Inputs and commands.

    /// Begins to look for the cluster: [`Effect::Ready`] or [`Effect::Unreachable`] follows.
    pub fn start(&mut self, now: Nanos) {
        self.fetch_map(now);
    }

    /// Takes a request; [`Effect::Complete`] with this id and `token` follows. The session stamp of a write
    /// is made here: leave it `None`.
    ///
    /// # Errors
    /// [`ClientError`] when the request cannot be sent at all; nothing was sent.
    pub fn submit(
        &mut self,
        target: Target,
        namespace: u8,
        op: Op,
        token: u64,
        now: Nanos,
    ) -> Result<OpId, ClientError> {
        let route = self.route_of(target, &op)?;
        let size_bytes = self.checked_size(&op)?;
        let queued_bytes = self.operations.queued_bytes();
        if queued_bytes.saturating_add(size_bytes) > self.config.queued_bytes_max {
            return Err(ClientError::Overloaded { queued_bytes });
        }
        let mut op = op;
        if let Op::Write { session, .. } = &mut op {
            if self.session.is_full() {
                self.session = Session::new(self.random.next());
            }
            *session = self.config.sessions.then(|| self.session.stamp());
        }
        let operation = Operation { token, size_bytes, ..Operation::new(route, namespace, op) };
        let op = self.operations.insert(operation);
        self.deadlines.push_back((now.after(self.config.request_timeout), op));
        self.dispatch(op, now);
        Ok(op)
    }

    /// Forgets a request nobody waits for any more. A write may still take effect.
    pub fn cancel(&mut self, op: OpId, now: Nanos) {
        if let Some(operation) = self.detach(op) {
            self.settle_session(&operation);
            if let State::InFlight(connection) = operation.state {
                self.pump(connection, now);
            }
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, event: Event, now: Nanos) {
        match event {
            Event::Connected { connection, hello } => self.on_connected(connection, hello, now),
            Event::Closed { connection, why } => self.on_closed(connection, &why, now),
            Event::Reply { connection, reply } => self.on_reply(connection, reply, now),
            Event::Garbled { connection, id } => self.on_garbled(connection, id, now),
            Event::Unsendable { id, length, limit } => self.on_unsendable(id, length, limit, now),
            Event::Deadline => self.on_deadline(now),
        }
    }

    /// Ends every request and closes every connection.
    pub fn shut_down(&mut self) {
        for op in self.operations.ids() {
            if let Some(operation) = self.detach(op) {
                let doubtful = operation.may_have_executed();
                let error = if doubtful {
                    ClientError::Indeterminate { cause: "the client was closed".to_owned() }
                } else {
                    ClientError::Closed
                };
                self.complete(op, operation, Err(error));
            }
        }
        for connection in self.connections.ids() {
            self.connections.remove(connection);
            self.effects.push_back(Effect::Close { connection });
        }
        self.deadlines.clear();
    }

    // Outputs.

    /// The next thing to do, in order; `None`: nothing for now.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    // The rest is private.

    fn route_of(&self, target: Target, op: &Op) -> Result<Route, ClientError> {
        match target {
            Target::AnyNode => Ok(Route::AnyNode),
            Target::Endpoint(address) => Ok(Route::Endpoint(address)),
            Target::Shard(shard) => match &self.table {
                Some(table) if table.map().shard(shard).is_none() => Err(ClientError::NoSuchShard),
                _ => Ok(Route::Shard(shard)),
            },
            Target::Key => match op {
                Op::Get { key, .. } | Op::Exists { key, .. } => Ok(Route::Slot(slot_of(key))),
                // A position begins with its slot; without one a scan begins where its shard does.
                Op::Scan { start, .. } => match start.split_first_chunk::<2>() {
                    Some((slot, _)) => Ok(Route::Slot(u16::from_be_bytes(*slot))),
                    None => Err(ClientError::NoSuchShard),
                },
                Op::Write { mutations, .. } => self.route_of_batch(mutations),
                Op::ClusterMap | Op::Status => Ok(Route::AnyNode),
                Op::Cluster(_) => Ok(Route::Shard(crate::map::META_SHARD)),
                Op::Execute { program, .. } => Ok(Route::Slot(program.slot)),
                Op::Count { first_slot, .. } => Ok(Route::Slot(*first_slot)),
                // It has no key: only its shard says where it goes.
                Op::Admin(_) => Err(ClientError::NoSuchShard),
            },
        }
    }

    fn route_of_batch(&self, mutations: &[Mutation]) -> Result<Route, ClientError> {
        let [first, rest @ ..] = mutations else { return Err(ClientError::EmptyBatch) };
        let slot = slot_of(first.key());
        let shard = |slot| self.table.as_ref().and_then(|table| table.shard_of_slot(slot)).map(|it| it.id);
        for mutation in rest {
            let other = slot_of(mutation.key());
            if other != slot && (shard(slot).is_none() || shard(other) != shard(slot)) {
                return Err(ClientError::BatchSpansShards);
            }
        }
        Ok(Route::Slot(slot))
    }

    /// The bytes a request will take, if the servers accept keys and values that long.
    fn checked_size(&self, op: &Op) -> Result<usize, ClientError> {
        let (key_max, value_max) = self.lengths_max.unwrap_or((u32::MAX, u32::MAX));
        let within = |what, bytes: &[u8], limit: u32| {
            let actual = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if actual > u64::from(limit) {
                return Err(ClientError::TooLarge { what, actual, limit: u64::from(limit) });
            }
            Ok(bytes.len())
        };
        let bytes = match op {
            Op::Get { key, .. } | Op::Exists { key, .. } => within(Oversize::Key, key, key_max)?,
            Op::Scan { start, end, .. } => start.len() + end.as_ref().map_or(0, bytes::Bytes::len),
            Op::ClusterMap | Op::Status | Op::Admin(_) | Op::Cluster(_) | Op::Count { .. } => 0,
            Op::Execute { program, .. } => {
                let mut bytes = 0usize;
                for piece in program.pieces() {
                    bytes += PIECE_META_BYTES + within(Oversize::Value, piece, key_max.max(value_max))?;
                }
                bytes
            }
            Op::Write { mutations, .. } => {
                let mut bytes = 0usize;
                for mutation in mutations {
                    bytes += MUTATION_META_BYTES + within(Oversize::Key, mutation.key(), key_max)?;
                    for value in values(mutation).into_iter().flatten() {
                        bytes += within(Oversize::Value, value, value_max)?;
                    }
                }
                bytes
            }
        };
        let size = REQUEST_META_BYTES.saturating_add(bytes);
        let limit = u64::from(self.frame_bytes_max);
        let actual = u64::try_from(size).unwrap_or(u64::MAX);
        if actual > limit {
            return Err(ClientError::TooLarge { what: Oversize::Request, actual, limit });
        }
        Ok(size)
    }
}

/// The values a mutation carries.
fn values(mutation: &Mutation) -> [Option<&bytes::Bytes>; 2] {
    use crate::protocol::Expected;
    match mutation {
        Mutation::Put { value, .. } => [Some(value), None],
        Mutation::Delete { .. } => [None, None],
        Mutation::CompareAndSwap { expected: Expected::Value(value), new, .. } => [Some(value), new.as_ref()],
        Mutation::CompareAndSwap { new, .. } => [new.as_ref(), None],
    }
}

#[cfg(test)]
mod tests;
