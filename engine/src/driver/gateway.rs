//! How the doors that speak other people's protocols reach data, one gateway per core.
//!
//! A request for a shard that this node can answer goes through the core's own inbox, as if a connection of the binary
//! door had sent it: no socket, no copy. All others go through a client of this cluster, which finds leaders and waits
//! out elections; so does what was refused here because leadership had just moved.
//!
//! A call has begun when [`Gateway::call`] returns: calls started in a row share a turn of the machine, and those for
//! one shard reach it in that order. It does not promise more: a call that is sent on or tried again may be overtaken by
//! a later one, so whoever needs an order between two calls waits for the first.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use net::map::{ClusterMap, NodeInfo, SlotRange};
use net::protocol::{Access, Answer, Expected, Mutation, Op, ReadConsistency, Refusal, Reply, Request};
use net::slot::slot_of;
use net::transport::client::Target;
use net::types::RequestId;
use net::{Client, ClientConfig, ClientError, ConnectError};
use thiserror::Error;

use super::Driver;
use crate::config::Config;
use crate::core::{ConnectionId, CoreStatus, Event, Origin};
use crate::http::requests::Requests;
use crate::resp::Registry;
use crate::resp::scan::{behind, slot_end, slot_of_position};

/// The connection that a core's own calls seem to come on; those of clients are counted from 1.
pub(super) const CONNECTION: ConnectionId = ConnectionId(1 << 63);
/// What a call holds beside its keys and values.
const CALL_BYTES: usize = 256;

/// What to do with a request that this node cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Send it on to the node that can.
    Proxy,
    /// Say who can; while nobody knows, as with `Proxy`: an election or a hand-over is waited out.
    LocalOnly,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum GatewayError {
    /// Only with [`Mode::LocalOnly`]: not executed, another node has to be asked.
    #[error("shard {shard} is not led here (leader: {leader:?})")]
    NotHere {
        /// The shard.
        shard: u32,
        /// The node that leads it, as far as this one knows.
        leader: Option<u64>,
    },
    /// Not executed; the refusal says whether another attempt may help.
    #[error("{0}")]
    Refused(Refusal),
    /// A write that **may or may not** have taken effect, now or later.
    #[error("the outcome is unknown: {cause}")]
    Indeterminate {
        /// What happened last, for people.
        cause: String,
    },
    /// No answer in time. Not executed.
    #[error("no answer in time: {last}")]
    TimedOut {
        /// What happened last, for people.
        last: String,
    },
}

/// A core's calls under way, and its client.
#[derive(Default)]
pub(super) struct Calls {
    waiting: RefCell<HashMap<u64, Slot>>,
    next_id: Cell<u64>,
    /// Bytes of all calls that have not ended.
    bytes: Cell<usize>,
    client: RefCell<Option<Rc<Dialing>>>,
}

#[derive(Default)]
struct Slot {
    waker: Option<Waker>,
    result: Option<Result<Answer, Refusal>>,
}

impl Calls {
    /// Takes the machine's answer to a call. The call may have been dropped by now.
    pub fn reply(&self, reply: Reply) {
        let waker = self.waiting.borrow_mut().get_mut(&reply.id.0).and_then(|slot| {
            slot.result = Some(reply.result);
            slot.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the answer if it is here; else remembers whom to wake.
    fn take(&self, id: u64, waker: &Waker) -> Option<Result<Answer, Refusal>> {
        let mut waiting = self.waiting.borrow_mut();
        let slot = waiting.get_mut(&id).expect("a slot lives as long as its call");
        let result = slot.result.take();
        if result.is_none() && !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
        result
    }
}

/// A client on its way: whoever needs it waits for the one attempt.
#[derive(Default)]
struct Dialing {
    result: RefCell<Option<Result<Client, ConnectError>>>,
    wakers: RefCell<Vec<Waker>>,
}

/// The way to the data of the cluster. Clones are the same gateway.
#[derive(Clone)]
pub(crate) struct Gateway {
    driver: Rc<Driver>,
}

impl Gateway {
    pub(super) fn new(driver: Rc<Driver>) -> Gateway {
        Gateway { driver }
    }

    /// The configuration of the node.
    pub fn config(&self) -> &Config {
        &self.driver.config
    }

    /// This core of the node.
    pub fn core(&self) -> u32 {
        self.driver.mesh.core
    }

    /// The cores of the node.
    pub fn cores(&self) -> u32 {
        self.driver.mesh.cores()
    }

    /// How long the process has been running.
    pub fn uptime(&self) -> Duration {
        self.driver.started.elapsed()
    }

    /// The Redis connections of the node.
    pub fn registry(&self) -> &Registry {
        &self.driver.mesh.redis
    }

    /// What became of the HTTP requests of the node.
    pub fn http_requests(&self) -> &Requests {
        &self.driver.mesh.http
    }

    /// Whether this node has a replica of a shard.
    pub fn hosts(&self, shard: u32) -> bool {
        self.driver.core.borrow().hosts(shard)
    }

    /// Client connections of the node, over all doors but the peer door.
    pub fn connections(&self) -> usize {
        self.driver.mesh.connections()
    }

    /// The cluster map, with leaders as this node knows them: a copy.
    pub fn map(&self) -> ClusterMap {
        self.driver.core.borrow().map()
    }

    /// The epoch of the cluster map by which this node asks shards.
    pub fn epoch(&self) -> u64 {
        self.driver.map.epoch()
    }

    /// The shards that hold keys, in the order of their slots, by the newest map that a request of this core may have gone
    /// by: the client's, which others answered by, may be ahead of the node's. Whoever walks all keys looks again after each
    /// answer, for a shard may have been cut in two.
    pub fn shards(&self) -> Vec<(u32, SlotRange)> {
        let mut map = self.driver.map.get();
        let dialing = self.driver.calls.client.borrow().clone();
        if let Some(dialing) = dialing
            && let Some(Ok(client)) = &*dialing.result.borrow()
            && client.map_epoch() > map.epoch
        {
            map = client.cluster_map().into();
        }
        let mut shards: Vec<_> =
            map.shards.iter().filter_map(|shard| Some((shard.id, shard.slots?))).collect();
        shards.sort_unstable_by_key(|(_, slots)| slots.first);
        shards
    }

    /// Where a walk over all keys goes on after `shard` has told that it has nothing behind `from`, and `last` was the last
    /// key it gave: where it ends or, if the rest went to another shard meanwhile, there.
    pub fn behind_shard(&self, shard: u32, from: &Bytes, last: Option<&Bytes>) -> Option<Bytes> {
        let slot = slot_of_position(from);
        let shards = self.shards();
        match shards.iter().find(|(_, slots)| slots.contains(slot)) {
            Some((owner, slots)) if *owner == shard => slot_end(slots.last),
            _ => Some(last.map_or_else(|| from.clone(), |key| behind(slot_of(key), key))),
        }
    }

    /// A node of the cluster.
    pub fn node(&self, id: u64) -> Option<NodeInfo> {
        self.driver.map.node(id)
    }

    /// The shard that owns a slot.
    pub fn shard_of_slot(&self, slot: u16) -> u32 {
        self.driver.map.shard_of_slot(slot)
    }

    /// The shard that owns a key.
    pub fn shard_of_key(&self, key: &[u8]) -> u32 {
        self.shard_of_slot(slot_of(key))
    }

    /// The node that leads a shard, as far as this one knows.
    pub fn leader_of(&self, shard: u32) -> Option<u64> {
        self.driver.core.borrow().leader_of(shard)
    }

    /// Whether this node leads a shard.
    pub fn is_local(&self, shard: u32) -> bool {
        self.leader_of(shard) == Some(self.driver.config.node.id)
    }

    /// The accounts that the node's cores give of themselves, this one's as of now.
    pub fn statuses(&self) -> Vec<CoreStatus> {
        self.driver.core.borrow().statuses()
    }

    /// The node's account of itself, as the binary door gives it.
    pub fn status_json(&self) -> Bytes {
        self.driver.core.borrow().status_json()
    }

    /// Starts a request for a shard; the future only waits. Writes carry no session of their own.
    pub fn call(&self, mode: Mode, namespace: u8, shard: u32, op: Op) -> Call {
        let calls = &self.driver.calls;
        let bytes = CALL_BYTES + bytes_of(&op);
        let mut call = Call {
            gateway: self.clone(),
            bytes,
            shard,
            is_write: op.is_write(),
            again: None,
            mode,
            state: State::Over,
        };
        calls.bytes.set(calls.bytes.get() + bytes);
        if u64::try_from(calls.bytes.get()).is_ok_and(|held| held > self.config().limits.inflight_bytes_max) {
            call.state = State::Ended(Err(GatewayError::Refused(Refusal::Busy { retry_after_ms: 10 })));
        } else if self.answers(shard, &op) {
            call.again = Some((namespace, op.clone()));
            call.state = State::Here(self.ask_machine(namespace, shard, op));
        } else {
            call.state = match self.leader_of(shard) {
                Some(leader) if mode == Mode::LocalOnly => {
                    State::Ended(Err(GatewayError::NotHere { shard, leader: Some(leader) }))
                }
                _ => self.send_on(namespace, shard, op),
            };
        }
        call
    }

    /// Whether this node should try to answer.
    fn answers(&self, shard: u32, op: &Op) -> bool {
        let consistency = match op {
            Op::Get { consistency, .. }
            | Op::Exists { consistency, .. }
            | Op::Scan { consistency, .. }
            | Op::Count { consistency, .. }
            | Op::Execute { consistency: Access::Read(consistency), .. } => *consistency,
            Op::ClusterMap | Op::Status => return true,
            Op::Write { .. } | Op::Execute { .. } | Op::Admin(_) | Op::Cluster(_) => {
                ReadConsistency::Linearizable
            }
        };
        self.reads(shard, consistency)
    }

    /// Whether this node should try to answer reads of a shard that are to be so fresh.
    pub fn reads(&self, shard: u32, consistency: ReadConsistency) -> bool {
        match consistency {
            ReadConsistency::Linearizable => self.is_local(shard),
            ReadConsistency::Follower | ReadConsistency::Stale => self.hosts(shard),
        }
    }

    fn ask_machine(&self, namespace: u8, shard: u32, op: Op) -> u64 {
        let calls = &self.driver.calls;
        let id = calls.next_id.replace(calls.next_id.get() + 1);
        calls.waiting.borrow_mut().insert(id, Slot::default());
        let origin = Origin { core: self.core(), connection: CONNECTION };
        let request = Request { id: RequestId(id), shard, epoch: self.driver.map.epoch(), namespace, op };
        self.driver.inbox.push(Event::Request { origin, request });
        id
    }

    fn send_on(&self, namespace: u8, shard: u32, op: Op) -> State {
        let gateway = self.clone();
        let mut sent: Pin<Box<dyn Future<Output = _>>> = Box::pin(async move {
            let client = gateway.client().await?;
            client.with_namespace(namespace).call(target_of(shard, &op), op).await.map_err(error_of)
        });
        // What is not polled is not sent: the order of calls would be that in which they are awaited.
        match sent.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => State::Ended(result),
            Poll::Pending => State::Sent(sent),
        }
    }

    /// The client of this core, connected when first needed.
    pub(super) async fn client(&self) -> Result<Client, GatewayError> {
        let dialing = self.driver.calls.client.borrow().clone();
        let dialing = dialing.unwrap_or_else(|| self.dial());
        std::future::poll_fn(|context| match &*dialing.result.borrow() {
            Some(Ok(client)) => Poll::Ready(Ok(client.clone())),
            Some(Err(error)) => Poll::Ready(Err(GatewayError::TimedOut { last: error.to_string() })),
            None => {
                dialing.wakers.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    fn dial(&self) -> Rc<Dialing> {
        let dialing = Rc::new(Dialing::default());
        *self.driver.calls.client.borrow_mut() = Some(dialing.clone());
        let (driver, waited_for) = (self.driver.clone(), dialing.clone());
        glommio::spawn_local(async move {
            let result = Client::connect(client_config(&driver)).await;
            if let Err(error) = &result {
                tracing::warn!(%error, "no node answers the doors of this one");
                // The next call tries again.
                driver.calls.client.borrow_mut().take();
            }
            *waited_for.result.borrow_mut() = Some(result);
            waited_for.wakers.take().into_iter().for_each(Waker::wake);
        })
        .detach();
        dialing
    }
}

/// Its own node is asked for the map first: it is the one that is surely there.
fn client_config(driver: &Driver) -> ClientConfig {
    let own = driver.config.this_node().binary.clone();
    let map = driver.map.get();
    let others: Vec<String> =
        map.nodes.iter().map(|node| node.binary_addr.clone()).filter(|other| *other != own).collect();
    let timeout = Duration::from_millis(driver.config.limits.request_timeout_ms);
    let config = ClientConfig::new(std::iter::once(own).chain(others).collect());
    ClientConfig {
        request_timeout: timeout,
        connect_timeout: config.connect_timeout.min(timeout / 2),
        silence_timeout: config.silence_timeout.min(timeout / 2),
        queued_bytes_max: usize::try_from(driver.config.limits.inflight_bytes_max).expect("64-bit machine"),
        frame_bytes_max: driver.limits.frame_bytes_max,
        ..config
    }
}

/// A request under way. Dropping it forgets the answer, not the request.
pub(crate) struct Call {
    gateway: Gateway,
    bytes: usize,
    shard: u32,
    is_write: bool,
    mode: Mode,
    /// What to send on when it is refused here for want of leadership.
    again: Option<(u8, Op)>,
    state: State,
}

enum State {
    /// The machine has it.
    Here(u64),
    /// The client has it.
    Sent(Pin<Box<dyn Future<Output = Result<Answer, GatewayError>>>>),
    Ended(Result<Answer, GatewayError>),
    /// The result was taken.
    Over,
}

impl Call {
    /// What to make of a refusal of this node's machine: an end, or the client.
    fn on_refusal(&mut self, refusal: Refusal) -> State {
        let moved = match refusal {
            Refusal::NotLeader { leader: None, .. } => true,
            Refusal::NotLeader { .. } | Refusal::WrongShard { .. } => self.mode == Mode::Proxy,
            // A hand-over or an election: who asks elsewhere would be sent back here.
            Refusal::Unavailable { .. } => true,
            _ => false,
        };
        if moved && let Some((namespace, op)) = self.again.take() {
            return self.gateway.send_on(namespace, self.shard, op);
        }
        State::Ended(Err(match refusal {
            Refusal::NotLeader { leader, .. } if self.mode == Mode::LocalOnly => {
                GatewayError::NotHere { shard: self.shard, leader }
            }
            refusal if refusal.may_have_executed() && self.is_write => {
                GatewayError::Indeterminate { cause: refusal.to_string() }
            }
            Refusal::Timeout => GatewayError::TimedOut { last: "the shard did not answer".to_owned() },
            refusal => GatewayError::Refused(refusal),
        }))
    }

    fn leave_machine(&mut self) {
        if let State::Here(id) = self.state {
            self.gateway.driver.calls.waiting.borrow_mut().remove(&id);
        }
    }
}

impl Future for Call {
    type Output = Result<Answer, GatewayError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Here(id) => {
                    let taken = this.gateway.driver.calls.take(*id, context.waker());
                    let Some(result) = taken else { return Poll::Pending };
                    this.leave_machine();
                    this.state = State::Over;
                    this.state = match result {
                        Ok(answer) => State::Ended(Ok(answer)),
                        Err(refusal) => this.on_refusal(refusal),
                    };
                }
                State::Sent(sent) => match sent.as_mut().poll(context) {
                    Poll::Ready(result) => this.state = State::Ended(result),
                    Poll::Pending => return Poll::Pending,
                },
                State::Ended(_) => match std::mem::replace(&mut this.state, State::Over) {
                    State::Ended(result) => return Poll::Ready(result),
                    _ => unreachable!("just looked at"),
                },
                State::Over => panic!("a call was polled after its end"),
            }
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.leave_machine();
        let bytes = &self.gateway.driver.calls.bytes;
        bytes.set(bytes.get() - self.bytes);
    }
}

/// Where the client takes a request: by its slot where it has one, because the shard may have been cut in two meanwhile, and
/// this node not know yet. Keys of several slots were gathered for this shard alone.
fn target_of(shard: u32, op: &Op) -> Target {
    match op {
        Op::Get { .. } | Op::Exists { .. } | Op::Execute { .. } | Op::Count { .. } => Target::Key,
        Op::Scan { start, .. } if start.len() >= 2 => Target::Key,
        Op::Write { mutations, .. } if mutations.len() == 1 => Target::Key,
        _ => Target::Shard(shard),
    }
}

/// Keys and values of a request.
fn bytes_of(op: &Op) -> usize {
    match op {
        Op::Get { key, .. } | Op::Exists { key, .. } => key.len(),
        Op::Scan { start, end, .. } => start.len() + end.as_ref().map_or(0, Bytes::len),
        Op::Write { mutations, .. } => mutations.iter().map(bytes_of_mutation).sum(),
        Op::Execute { program, .. } => program.payload_bytes(),
        Op::ClusterMap | Op::Status | Op::Admin(_) | Op::Cluster(_) | Op::Count { .. } => 0,
    }
}

fn bytes_of_mutation(mutation: &Mutation) -> usize {
    let key = mutation.key().len();
    key + match mutation {
        Mutation::Put { value, .. } => value.len(),
        Mutation::Delete { .. } => 0,
        Mutation::CompareAndSwap { expected, new, .. } => {
            let expected = if let Expected::Value(value) = expected { value.len() } else { 0 };
            expected + new.as_ref().map_or(0, Bytes::len)
        }
    }
}

fn error_of(error: ClientError) -> GatewayError {
    GatewayError::Refused(match error {
        ClientError::Indeterminate { cause } => return GatewayError::Indeterminate { cause },
        ClientError::TimedOut { last } => return GatewayError::TimedOut { last },
        ClientError::Refused(refusal) => refusal,
        ClientError::TooLarge { what, limit, .. } => Refusal::TooLarge { what, limit },
        ClientError::Overloaded { .. } => Refusal::Busy { retry_after_ms: 20 },
        ClientError::NoSuchShard => Refusal::WrongShard { epoch: 0 },
        ClientError::Closed => Refusal::Unavailable { why: "this node is about to end".to_owned() },
        error @ (ClientError::BatchSpansShards | ClientError::EmptyBatch) => {
            Refusal::Invalid { why: error.to_string() }
        }
        ClientError::UnexpectedAnswer => Refusal::Internal { why: error.to_string() },
    })
}
