//! Drives [`ClientCore`]: sockets and a timer in, effects out.
//!
//! One task a connection reads, one writes (see `connection`), one task keeps the time. Futures of requests
//! wait in a slab of slots, woken one by one; nothing is allocated per request here in steady state.
//! **Invariant**: no borrow of a cell is held across an await or while a waker runs.

use crate::client::core::{ClientCore, ConnectionId, Effect, Event, OpId, Target};
use crate::client::{ClientConfig, ClientError, ConnectError};
use crate::map::ClusterMap;
use crate::protocol::{Answer, Encoder, FrameTooLong, Op};
use crate::transport::link::{self, LinkError};
use crate::transport::signal::Signal;
use crate::transport::slots::Slots;
use crate::transport::{Connection, ConnectionConfig, FrameReader, FrameSender, ReadError};
use crate::types::Nanos;
use futures_lite::future::{self, poll_fn};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A connection that is up.
struct Link {
    sender: FrameSender,
    /// What the server takes, once its hello has said so.
    frame_bytes_max: u32,
}

/// The state all clones of a client share.
pub(super) struct Driver {
    core: RefCell<ClientCore>,
    encoder: RefCell<Encoder>,
    slots: RefCell<Slots>,
    /// `None`: not connected yet.
    links: RefCell<BTreeMap<ConnectionId, Option<Link>>>,
    connect_timeout: Duration,
    frame_bytes_max: u32,
    started: Instant,
    /// `None` while the cluster is being looked for.
    bootstrap: RefCell<Option<Result<(), ConnectError>>>,
    bootstrap_over: Signal,
    /// What the timer task sleeps until.
    armed: Cell<Nanos>,
    rearm: Cell<bool>,
    rearmed: Signal,
    closed: Cell<bool>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("closed", &self.closed).finish_non_exhaustive()
    }
}

/// Closes the client when dropped.
#[derive(Debug)]
pub(super) struct Shutdown {
    driver: Rc<Driver>,
}

impl Shutdown {
    pub(super) fn new(driver: Rc<Driver>) -> Shutdown {
        Shutdown { driver }
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.driver.core.borrow_mut().shut_down();
        self.driver.closed.set(true);
        self.driver.run_effects();
    }
}

impl Driver {
    pub(super) fn start(config: ClientConfig) -> Result<Rc<Driver>, ConnectError> {
        let seed = link::seed(&config);
        let driver = Rc::new(Driver {
            encoder: RefCell::new(Encoder::new(config.frame_bytes_max)),
            slots: RefCell::new(Slots::default()),
            links: RefCell::new(BTreeMap::new()),
            connect_timeout: config.connect_timeout,
            frame_bytes_max: config.frame_bytes_max,
            started: Instant::now(),
            bootstrap: RefCell::new(None),
            bootstrap_over: Signal::default(),
            armed: Cell::new(Nanos(u64::MAX)),
            rearm: Cell::new(false),
            rearmed: Signal::default(),
            closed: Cell::new(false),
            core: RefCell::new(ClientCore::new(config, seed)?),
        });
        driver.core.borrow_mut().start(driver.now());
        glommio::spawn_local(run_timer(Rc::clone(&driver))).detach();
        driver.run_effects();
        Ok(driver)
    }

    /// Waits for the first cluster map.
    pub(super) async fn bootstrapped(&self) -> Result<(), ConnectError> {
        poll_fn(|cx| match &*self.bootstrap.borrow() {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                self.bootstrap_over.register(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    pub(super) fn cluster_map(&self) -> ClusterMap {
        self.core.borrow().cluster_map().cloned().unwrap_or_default()
    }

    pub(super) fn map_epoch(&self) -> u64 {
        self.core.borrow().cluster_map().map_or(0, |map| map.epoch)
    }

    pub(super) async fn call(
        self: &Rc<Self>,
        target: Target,
        namespace: u8,
        op: Op,
    ) -> Result<Answer, ClientError> {
        let slot = self.slots.borrow_mut().occupy();
        let submitted = self.core.borrow_mut().submit(target, namespace, op, slot, self.now());
        let op = match submitted {
            Ok(op) => op,
            Err(error) => {
                self.slots.borrow_mut().release(slot);
                return Err(error);
            }
        };
        self.run_effects();
        Waiting { driver: self, slot, op, over: false }.await
    }

    fn now(&self) -> Nanos {
        Nanos(0).after(self.started.elapsed())
    }

    fn handle(&self, event: Event) {
        self.core.borrow_mut().handle(event, self.now());
    }

    /// Does what the core wants, until it wants no more.
    fn run_effects(self: &Rc<Self>) {
        loop {
            let Some(effect) = self.core.borrow_mut().poll_effect() else { break };
            match effect {
                Effect::Connect { connection, address, wants_core } => {
                    self.links.borrow_mut().insert(connection, None);
                    let task = run_link(Rc::clone(self), connection, address, wants_core);
                    glommio::spawn_local(task).detach();
                }
                Effect::Send { connection, id } => self.send(connection, id),
                Effect::Close { connection } => self.unlink(connection),
                Effect::Complete { token, result, .. } => {
                    let waker = self.slots.borrow_mut().fill(token, result);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Effect::Ready => self.end_bootstrap(Ok(())),
                Effect::Unreachable { error } => self.end_bootstrap(Err(error)),
            }
        }
        let next = self.core.borrow().next_deadline();
        if next.is_some_and(|next| next < self.armed.get()) || self.closed.get() {
            self.rearm.set(true);
            self.rearmed.notify();
        }
    }

    fn send(&self, connection: ConnectionId, id: crate::types::RequestId) {
        let links = self.links.borrow();
        let Some(Some(Link { sender, frame_bytes_max })) = links.get(&connection) else { return };
        let core = self.core.borrow();
        let Some(request) = core.request(id) else { return };
        let mut encoder = self.encoder.borrow_mut();
        encoder.set_frame_bytes_max(*frame_bytes_max);
        // A sender that is closed belongs to a connection whose reader is about to report its end.
        let encoded = sender.append(|out| encoder.request(request, out));
        drop((links, core, encoder));
        if let Ok(Err(FrameTooLong { length, limit })) = encoded {
            self.handle(Event::Unsendable { id, length, limit });
        }
    }

    fn unlink(&self, connection: ConnectionId) {
        let link = self.links.borrow_mut().remove(&connection);
        if let Some(Some(link)) = link {
            link.sender.abort();
        }
    }

    fn end_bootstrap(&self, result: Result<(), ConnectError>) {
        self.bootstrap.borrow_mut().get_or_insert(result);
        self.bootstrap_over.notify();
    }

    async fn serve(
        self: &Rc<Self>,
        id: ConnectionId,
        address: &str,
        wants_core: Option<u32>,
    ) -> Result<(), LinkError> {
        let address = resolve(address).await?;
        let config = ConnectionConfig { frame_bytes_max: self.frame_bytes_max, ..Default::default() };
        let connection = Connection::connect(address, self.connect_timeout, config).await?;
        let (mut reader, sender) = connection.split();
        let written = sender.append(|out| link::write_hello(wants_core, self.frame_bytes_max, out));
        written.map_err(|_| LinkError::Closed)??;
        match self.links.borrow_mut().get_mut(&id) {
            Some(link) => *link = Some(Link { sender, frame_bytes_max: self.frame_bytes_max }),
            None => return Err(LinkError::Closed),
        }
        let frame = reader.read_frame().await.map_err(link_error)?.ok_or(LinkError::Closed)?;
        let hello = link::read_hello(&frame)?;
        drop(frame);
        if let Some(frame_bytes_max) = hello.frame_bytes_max {
            reader.set_frame_bytes_max(frame_bytes_max);
            if let Some(Some(link)) = self.links.borrow_mut().get_mut(&id) {
                link.frame_bytes_max = frame_bytes_max;
            }
        }
        self.handle(Event::Connected { connection: id, hello });
        self.run_effects();
        self.receive(id, &mut reader).await
    }

    async fn receive(self: &Rc<Self>, id: ConnectionId, reader: &mut FrameReader) -> Result<(), LinkError> {
        loop {
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => {
                        if let Some(event) = link::event_of(id, &frame)? {
                            self.handle(event);
                        }
                    }
                    Ok(None) => break,
                    // A frame of a newer server that was not asked for.
                    Err(error) if !error.is_fatal() => tracing::debug!(%error, "frame skipped"),
                    Err(error) => return Err(error.into()),
                }
            }
            // Once per batch of replies: what follows from them leaves in one send.
            self.run_effects();
            if reader.fill().await? == 0 {
                return Err(LinkError::Closed);
            }
        }
    }
}

async fn run_link(driver: Rc<Driver>, id: ConnectionId, address: Arc<str>, wants_core: Option<u32>) {
    let result = driver.serve(id, &address, wants_core).await;
    driver.unlink(id);
    if let Err(error) = result {
        tracing::debug!(%address, %error, "connection ended");
        driver.handle(Event::Closed { connection: id, why: error.to_string() });
        driver.run_effects();
    }
}

fn link_error(error: ReadError) -> LinkError {
    match error {
        ReadError::Io(error) => LinkError::Io(error),
        ReadError::Frame(error) => LinkError::Frame(error),
        ReadError::Truncated { .. } => LinkError::Truncated,
    }
}

/// Names are looked up on the executor's blocking thread.
async fn resolve(address: &str) -> Result<SocketAddr, LinkError> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let name = address.to_owned();
    let found = glommio::executor().spawn_blocking(move || name.to_socket_addrs()).await?;
    found.into_iter().next().ok_or(LinkError::NoAddress)
}

async fn run_timer(driver: Rc<Driver>) {
    while !driver.closed.get() {
        let next = driver.core.borrow().next_deadline();
        driver.armed.set(next.unwrap_or(Nanos(u64::MAX)));
        let rearmed = poll_fn(|cx| {
            if driver.rearm.take() {
                return Poll::Ready(());
            }
            driver.rearmed.register(cx.waker());
            Poll::Pending
        });
        let Some(next) = next else {
            rearmed.await;
            continue;
        };
        let pause = next.since(driver.now());
        if !pause.is_zero() {
            let sleep = async {
                glommio::timer::Timer::new(pause).await;
            };
            future::or(rearmed, sleep).await;
        }
        if driver.now() >= next && !driver.closed.get() {
            driver.handle(Event::Deadline);
            driver.run_effects();
        }
    }
}

/// A request's future; dropped early, it cancels the request.
struct Waiting<'a> {
    driver: &'a Rc<Driver>,
    slot: u64,
    op: OpId,
    over: bool,
}

impl Future for Waiting<'_> {
    type Output = Result<Answer, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let taken = self.driver.slots.borrow_mut().take(self.slot, cx.waker());
        match taken {
            Some(result) => {
                self.over = true;
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.driver.core.borrow_mut().cancel(self.op, self.driver.now());
            self.driver.run_effects();
        }
        self.driver.slots.borrow_mut().release(self.slot);
    }
}
