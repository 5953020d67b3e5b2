//! Drives [`ClientCore`] on tokio: one task a connection, one keeps the time, all of them and the callers take turns
//! at one lock.
//!
//! **Invariants**: the lock is never held across an await or while a caller's waker runs; frames leave in the order
//! they were encoded. What waits for a socket is bounded by the core's `inflight_bytes_max`.

use crate::client::core::{ClientCore, ConnectionId, Effect, Event, OpId, Target};
use crate::client::{ClientConfig, ClientError, ConnectError};
use crate::frame::FrameDecoder;
use crate::map::ClusterMap;
use crate::protocol::{Answer, Encoder, FrameTooLong, Op};
use crate::transport::link::{self, LinkError};
use crate::transport::slots::Slots;
use crate::types::{Nanos, RequestId};
use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::TcpStream;
use ::tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use ::tokio::runtime::Handle;
use ::tokio::sync::{Notify, oneshot};
use ::tokio::task::AbortHandle;
use ::tokio::time::{sleep, timeout};
use bytes::BytesMut;
use futures_lite::future::or;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A write buffer that grew beyond this gives its memory back after the burst.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;
/// Length of read buffers; a longer frame gets a buffer of its own.
const READ_BUFFER_BYTES: usize = 128 * 1024;
/// How long the other side's host may leave what was sent unacknowledged.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A connection, from the moment it is dialled.
struct Link {
    /// Encoded and not yet taken by the task that writes.
    pending: BytesMut,
    work: Arc<Notify>,
    /// What the server takes, once its hello has said so.
    frame_bytes_max: u32,
    task: AbortHandle,
}

/// What the lock protects.
struct State {
    core: ClientCore,
    encoder: Encoder,
    slots: Slots,
    links: BTreeMap<ConnectionId, Link>,
    /// Taken when the cluster was found, or not.
    bootstrap: Option<oneshot::Sender<Result<(), ConnectError>>>,
    /// What the timer task sleeps until.
    armed: Nanos,
    closed: bool,
}

/// Whether the cluster was found.
type Bootstrapped = oneshot::Receiver<Result<(), ConnectError>>;

/// The state all clones of a client share.
pub(super) struct Driver {
    state: Mutex<State>,
    runtime: Handle,
    rearmed: Notify,
    timer: Mutex<Option<AbortHandle>>,
    connect_timeout: Duration,
    frame_bytes_max: u32,
    started: Instant,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

/// Closes the client when dropped.
#[derive(Debug)]
pub(super) struct Shutdown {
    driver: Arc<Driver>,
}

impl Shutdown {
    pub(super) fn new(driver: Arc<Driver>) -> Shutdown {
        Shutdown { driver }
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        self.driver.shut_down();
        let timer = self.driver.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(timer) = timer {
            timer.abort();
        }
    }
}

impl Driver {
    /// Begins to look for the cluster; the receiver hears the outcome.
    pub(super) fn start(
        runtime: Handle,
        config: ClientConfig,
    ) -> Result<(Arc<Driver>, Bootstrapped), ConnectError> {
        let (bootstrap, bootstrapped) = oneshot::channel();
        let (connect_timeout, frame_bytes_max) = (config.connect_timeout, config.frame_bytes_max);
        let seed = link::seed(&config);
        let state = State {
            core: ClientCore::new(config, seed)?,
            encoder: Encoder::new(frame_bytes_max),
            slots: Slots::default(),
            links: BTreeMap::new(),
            bootstrap: Some(bootstrap),
            armed: Nanos(u64::MAX),
            closed: false,
        };
        let driver = Arc::new(Driver {
            state: Mutex::new(state),
            runtime,
            rearmed: Notify::new(),
            timer: Mutex::new(None),
            connect_timeout,
            frame_bytes_max,
            started: Instant::now(),
        });
        let guard = EndOfRuntime(Arc::clone(&driver));
        let timer = driver.runtime.spawn(run_timer(guard)).abort_handle();
        *driver.timer.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
        driver.act(|state, now| state.core.start(now));
        Ok((driver, bootstrapped))
    }

    pub(super) fn cluster_map(&self) -> ClusterMap {
        self.lock().core.cluster_map().cloned().unwrap_or_default()
    }

    pub(super) async fn call(
        self: &Arc<Self>,
        target: Target,
        namespace: u8,
        op: Op,
    ) -> Result<Answer, ClientError> {
        let (slot, op) = self.act(|state, now| {
            if state.closed {
                return Err(ClientError::Closed);
            }
            let slot = state.slots.occupy();
            match state.core.submit(target, namespace, op, slot, now) {
                Ok(op) => Ok((slot, op)),
                Err(error) => {
                    state.slots.release(slot);
                    Err(error)
                }
            }
        })?;
        Waiting { driver: self, slot, op, over: false }.await
    }

    // A panic while the lock is held is a bug; the state may be half changed, so nothing goes on with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Nanos {
        Nanos(0).after(self.started.elapsed())
    }

    /// Changes the state, then does what the core wants, until it wants no more.
    fn act<T>(self: &Arc<Self>, change: impl FnOnce(&mut State, Nanos) -> T) -> T {
        let now = self.now();
        let mut woken = Vec::new();
        let mut state = self.lock();
        let result = change(&mut state, now);
        while let Some(effect) = state.core.poll_effect() {
            woken.extend(self.perform(&mut state, effect, now));
        }
        let next = state.core.next_deadline();
        let rearm = next.is_some_and(|next| next < state.armed);
        drop(state);
        if rearm {
            self.rearmed.notify_one();
        }
        woken.into_iter().for_each(Waker::wake);
        result
    }

    /// Does one thing the core wants; returns whom to wake.
    fn perform(self: &Arc<Self>, state: &mut State, effect: Effect, now: Nanos) -> Option<Waker> {
        match effect {
            Effect::Connect { connection, address, wants_core } => {
                let work = Arc::new(Notify::new());
                let dial = run_link(Arc::clone(self), connection, address, wants_core, Arc::clone(&work));
                let task = self.runtime.spawn(dial).abort_handle();
                let frame_bytes_max = self.frame_bytes_max;
                let link = Link { pending: BytesMut::new(), work, frame_bytes_max, task };
                state.links.insert(connection, link);
            }
            Effect::Send { connection, id } => state.send(connection, id, now),
            Effect::Close { connection } => {
                if let Some(link) = state.links.remove(&connection) {
                    link.task.abort();
                }
            }
            Effect::Complete { token, result, .. } => return state.slots.fill(token, result),
            Effect::Ready => state.end_bootstrap(Ok(())),
            Effect::Unreachable { error } => state.end_bootstrap(Err(error)),
        }
        None
    }

    fn shut_down(self: &Arc<Self>) {
        self.act(|state, _| {
            state.closed = true;
            state.bootstrap = None;
            state.core.shut_down();
        });
    }

    async fn serve(
        self: &Arc<Self>,
        id: ConnectionId,
        address: &str,
        wants_core: Option<u32>,
        work: &Notify,
    ) -> Result<(), LinkError> {
        let stream = timeout(self.connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        link::detect_silence(&stream, SILENCE_MAX)?;
        let (reader, mut writer) = stream.into_split();
        let mut hello = BytesMut::new();
        link::write_hello(wants_core, self.frame_bytes_max, &mut hello)?;
        writer.write_all(&hello).await?;
        match or(self.receive(id, reader), self.write(id, writer, work)).await {
            Ok(never) => match never {},
            Err(error) => Err(error),
        }
    }

    /// Reads until the connection ends; one turn at the lock for all that came at once.
    async fn receive(
        self: &Arc<Self>,
        id: ConnectionId,
        mut reader: OwnedReadHalf,
    ) -> Result<std::convert::Infallible, LinkError> {
        let mut decoder = FrameDecoder::new(READ_BUFFER_BYTES, self.frame_bytes_max);
        let mut events = Vec::new();
        let mut greeted = false;
        loop {
            let count = reader.read(decoder.unfilled()).await?;
            if count == 0 {
                let cut = decoder.buffered_bytes() > 0;
                return Err(if cut { LinkError::Truncated } else { LinkError::Closed });
            }
            decoder.advance(count);
            let read = self.take_frames(id, &mut decoder, &mut greeted, &mut events);
            if !events.is_empty() {
                self.act(|state, now| events.drain(..).for_each(|event| state.core.handle(event, now)));
            }
            read?;
        }
    }

    /// Turns what was received into events.
    fn take_frames(
        &self,
        id: ConnectionId,
        decoder: &mut FrameDecoder,
        greeted: &mut bool,
        events: &mut Vec<Event>,
    ) -> Result<(), LinkError> {
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                // A frame of a newer server that was not asked for.
                Err(error) if !error.is_fatal() && *greeted => {
                    tracing::debug!(%error, "frame skipped");
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if *greeted {
                events.extend(link::event_of(id, &frame)?);
                continue;
            }
            let hello = link::read_hello(&frame)?;
            if let Some(frame_bytes_max) = hello.frame_bytes_max {
                decoder.set_frame_bytes_max(frame_bytes_max);
                if let Some(link) = self.lock().links.get_mut(&id) {
                    link.frame_bytes_max = frame_bytes_max;
                }
            }
            *greeted = true;
            events.push(Event::Connected { connection: id, hello });
        }
    }

    /// Writes until the connection ends; what gathers during one write leaves in the next.
    async fn write(
        &self,
        id: ConnectionId,
        mut writer: OwnedWriteHalf,
        work: &Notify,
    ) -> Result<std::convert::Infallible, LinkError> {
        let mut sending = BytesMut::new();
        loop {
            match self.lock().links.get_mut(&id) {
                Some(link) => std::mem::swap(&mut link.pending, &mut sending),
                None => return Err(LinkError::Closed),
            }
            if sending.is_empty() {
                work.notified().await;
                continue;
            }
            writer.write_all(&sending).await?;
            sending.clear();
            if sending.capacity() > KEPT_BUFFER_BYTES {
                sending = BytesMut::new();
            }
        }
    }
}

impl State {
    fn send(&mut self, connection: ConnectionId, id: RequestId, now: Nanos) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        let Some(request) = self.core.request(id) else { return };
        self.encoder.set_frame_bytes_max(link.frame_bytes_max);
        let was_empty = link.pending.is_empty();
        match self.encoder.request(request, &mut link.pending) {
            // Wakes a task of ours, which runs elsewhere.
            Ok(()) if was_empty => link.work.notify_one(),
            Ok(()) => {}
            Err(FrameTooLong { length, limit }) => {
                self.core.handle(Event::Unsendable { id, length, limit }, now);
            }
        }
    }

    fn end_bootstrap(&mut self, result: Result<(), ConnectError>) {
        if let Some(bootstrap) = self.bootstrap.take() {
            // Nobody listens once the connecting future was dropped.
            let _ = bootstrap.send(result);
        }
    }
}

async fn run_link(
    driver: Arc<Driver>,
    id: ConnectionId,
    address: Arc<str>,
    wants_core: Option<u32>,
    work: Arc<Notify>,
) {
    if let Err(error) = driver.serve(id, &address, wants_core, &work).await {
        tracing::debug!(%address, %error, "connection ended");
        driver.act(|state, now| {
            if state.links.remove(&id).is_some() {
                state.core.handle(Event::Closed { connection: id, why: error.to_string() }, now);
            }
        });
    }
}

/// Held by the timer task: a runtime that ends drops its tasks, and nobody would wake the callers any more.
struct EndOfRuntime(Arc<Driver>);

impl Drop for EndOfRuntime {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

async fn run_timer(guard: EndOfRuntime) {
    let driver = &guard.0;
    loop {
        let next = {
            let mut state = driver.lock();
            let next = state.core.next_deadline();
            state.armed = next.unwrap_or(Nanos(u64::MAX));
            next
        };
        let Some(next) = next else {
            driver.rearmed.notified().await;
            continue;
        };
        let pause = next.since(driver.now());
        if !pause.is_zero() {
            or(driver.rearmed.notified(), sleep(pause)).await;
        }
        if driver.now() >= next {
            driver.act(|state, now| state.core.handle(Event::Deadline, now));
        }
    }
}

/// A request's future; dropped early, it cancels the request.
struct Waiting<'a> {
    driver: &'a Arc<Driver>,
    slot: u64,
    op: OpId,
    over: bool,
}

impl Future for Waiting<'_> {
    type Output = Result<Answer, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let taken = self.driver.lock().slots.take(self.slot, cx.waker());
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
        let (slot, op, over) = (self.slot, self.op, self.over);
        if over {
            let waker = self.driver.lock().slots.release(slot);
            drop(waker);
            return;
        }
        let waker = self.driver.act(|state, now| {
            state.core.cancel(op, now);
            state.slots.release(slot)
        });
        drop(waker);
    }
}
