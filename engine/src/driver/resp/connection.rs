//! One Redis connection.
//!
//! **Order.** Replies leave in the order of the commands, and a command sees what earlier ones of its connection did: one
//! that reads a key waits for writes of it that are under way, and the other way round. Writes of one key wait for each
//! other: one that a hand-over refuses is sent on, and must not be overtaken. Commands about one key that have arrived
//! together need not wait: they are gathered, and asked as one (`resp/batch`).
//!
//! **Bounds.** A connection is read on only while it has few commands under way and few replies unread. What it sends
//! without ever finishing a request is received into a buffer that grows with it, up to the longest request; all
//! connections of a core together may hold so much unfinished, and who would hold more is closed.

mod receive;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use net::resp::{RequestDecoder, Value, Version};
use net::transport::connection::prepare;

use super::wait::{self, Written};
use super::work::{Batch, Part, Work};
use super::{Door, tasks, wall_us};
use crate::driver::gateway;
use crate::resp::action::Slots;
use crate::resp::batch::{self, Cost};
use crate::resp::{Action, Call, Node, Row, Session, Task, Touches};

/// Commands of one connection under way: at first, however long their replies are, and at most.
const UNDER_WAY_UNKNOWN: usize = 32;
const UNDER_WAY_MIN: usize = 8;
const UNDER_WAY_MAX: usize = 1024;
/// Bytes of their arguments.
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;
/// Commands that one wake-up starts before others get their turn.
const STARTED_MAX: usize = 128;
/// Reads of one wake-up.
const ROUNDS_MAX: usize = 4;
/// The shortest buffer that is worth a call.
const READ_BYTES_MIN: usize = 16 << 10;
/// Send buffers longer than this are given back when empty.
const KEPT_BUFFER_BYTES: usize = 16 << 10;
/// A client whose host says nothing for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a closing connection may take to deliver what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a connection until its end.
pub(super) async fn serve(door: Rc<Door>, cluster: bool, fd: OwnedFd) -> io::Result<()> {
    // SAFETY: an owned descriptor gives up its ownership; if it is no TCP socket, calls on it fail.
    let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
    prepare(&stream, SILENCE_MAX)?;
    let address = |address: glommio::Result<std::net::SocketAddr, ()>| {
        address.map(|address| address.to_string()).unwrap_or_default()
    };
    let registry = door.gateway.registry();
    let (peer, local) = (address(stream.peer_addr()), address(stream.local_addr()));
    let row = registry.enter(peer, local, stream.as_raw_fd(), wall_us() / 1000);
    let mut connection = Connection::new(door.clone(), cluster, stream, row.clone());
    poll_fn(|cx| connection.poll(cx)).await;
    let ended = glommio::timer::timeout(CLOSE_TIMEOUT, async { Ok(connection.end().await) }).await;
    door.gateway.registry().leave(row.id);
    ended.unwrap_or(Ok(()))
}

struct Connection {
    door: Rc<Door>,
    stream: TcpStream,
    session: Session,
    decoder: RequestDecoder,
    /// Received, and not yet a request.
    input: BytesMut,
    /// Whether `input` is a piece of the shared buffer; then how much of `Door::unfinished_bytes` it takes.
    pooled: bool,
    counted_bytes: usize,
    /// Whether `input` holds no whole request.
    drained: bool,
    /// `output[sent..]` is to be sent.
    output: BytesMut,
    sent: usize,
    under_way: VecDeque<Entry>,
    written: Written,
    /// The last of them that are not asked yet; none between wake-ups.
    gathered: Vec<Gathered>,
    reads: usize,
    writes: usize,
    held_bytes: usize,
    /// What the next reply is feared to take: the longest of the last few.
    feared_bytes: usize,
    /// The next command, which waits for earlier ones.
    waiting: Option<Decided>,
    /// The last entry must be answered before the next command is read.
    alone: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client sends nothing more; it still gets its answers.
    Ended,
    /// Nothing more is read: the client said QUIT, or something that is no request.
    Closing,
    /// The connection is gone.
    Broken,
}

/// A command, and how its reply is to be written.
struct Decided {
    action: Action,
    silent: bool,
    version: Version,
    bytes: usize,
}

struct Entry {
    work: Work,
    touches: Vec<Touches>,
    silent: bool,
    version: Version,
    bytes: usize,
}

/// Commands under way that are not asked yet: all of one key.
struct Gathered {
    /// The first of them, by its place among those under way.
    first: usize,
    count: usize,
    write: bool,
    /// Together; `None` for one that is asked by itself.
    cost: Option<Cost>,
}

impl Connection {
    fn new(door: Rc<Door>, cluster: bool, stream: TcpStream, row: Arc<Row>) -> Connection {
        let feared_bytes = door.output_bytes_max / UNDER_WAY_UNKNOWN;
        Connection {
            session: Session::new(cluster, row, &*door),
            decoder: RequestDecoder::new(door.limits),
            door,
            stream,
            input: BytesMut::new(),
            pooled: false,
            counted_bytes: 0,
            drained: true,
            output: BytesMut::new(),
            sent: 0,
            under_way: VecDeque::new(),
            written: Written::default(),
            gathered: Vec::new(),
            reads: 0,
            writes: 0,
            feared_bytes,
            held_bytes: 0,
            waiting: None,
            alone: false,
            phase: Phase::Open,
        }
    }

    /// One wake-up. Ready when nothing more will be answered.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut commands = 0;
        let mut rounds = 0;
        loop {
            self.collect(cx);
            let started = self.start(STARTED_MAX - commands);
            commands += started;
            if commands >= STARTED_MAX || rounds >= ROUNDS_MAX {
                // The others first.
                cx.waker().wake_by_ref();
                break;
            }
            if started > 0 {
                // Some of them may be answered already, and let others start.
                continue;
            }
            // What cannot start now waits for the oldest under way, which has just been asked, or for room.
            if !self.wants_input() {
                break;
            }
            rounds += 1;
            match self.receive(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.phase = Phase::Broken,
                Poll::Pending => break,
            }
        }
        let was_full = self.is_full();
        self.flush(cx);
        if was_full && !self.is_full() {
            cx.waker().wake_by_ref();
        }
        if commands > 0 {
            self.account(commands);
        }
        let over = self.phase == Phase::Broken
            || (self.phase != Phase::Open
                && self.under_way.is_empty()
                && self.waiting.is_none()
                && (self.phase == Phase::Closing || self.drained));
        if over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn account(&self, commands: usize) {
        let count = u64::try_from(commands).expect("few");
        self.door.registry().commands.fetch_add(count, Ordering::Relaxed);
        self.session.publish(wall_us() / 1000, self.input.len(), self.output.len() - self.sent);
    }

    fn has_room(&self) -> bool {
        let most = self.door.output_bytes_max / self.feared_bytes.max(1);
        self.under_way.len() < most.clamp(UNDER_WAY_MIN, UNDER_WAY_MAX)
            && self.held_bytes < UNDER_WAY_BYTES_MAX
            && !self.is_full()
            && !self.alone
    }

    /// Whether the client leaves too many replies unread.
    fn is_full(&self) -> bool {
        self.output.len() - self.sent >= self.door.output_bytes_max
    }

    fn wants_input(&self) -> bool {
        self.phase == Phase::Open && self.drained && self.waiting.is_none() && self.has_room()
    }

    // ---- Commands ---------------------------------------------------------------------------------------------

    /// Starts commands that have arrived; how many.
    fn start(&mut self, most: usize) -> usize {
        let mut started = 0;
        while started < most && self.has_room() && matches!(self.phase, Phase::Open | Phase::Ended) {
            let Some(decided) = self.waiting.take().or_else(|| self.decide()) else { break };
            let left = match self.gather(decided) {
                None => None,
                Some(decided) if self.may_start(&decided.action) => {
                    if !is_answered_here(&decided.action) {
                        self.ask_gathered();
                    }
                    self.begin(decided);
                    None
                }
                waiting => waiting,
            };
            if left.is_some() {
                self.waiting = left;
                break;
            }
            started += 1;
        }
        self.ask_gathered();
        started
    }

    /// Takes the next command from what has arrived.
    fn decide(&mut self) -> Option<Decided> {
        if self.input.is_empty() {
            self.drained = true;
            return None;
        }
        match self.decoder.decode(&mut self.input) {
            Ok(Some(args)) => {
                let bytes = args.iter().map(Bytes::len).sum();
                let action = self.session.command(args, &*self.door);
                self.decoder.set_authenticated(self.session.is_authenticated());
                Some(Decided {
                    action,
                    silent: self.session.is_silent(),
                    version: self.session.version(),
                    bytes,
                })
            }
            Ok(None) => {
                self.drained = true;
                None
            }
            Err(error) => {
                let action = Action::Close(Value::Error(format!("ERR {error}")));
                Some(Decided { action, silent: false, version: self.session.version(), bytes: 0 })
            }
        }
    }

    /// Takes a command about one key that waits for nothing but what is gathered; gives back any other.
    fn gather(&mut self, decided: Decided) -> Option<Decided> {
        let Action::Call(call) = &decided.action else { return Some(decided) };
        if !matches!(call.touches.slots, Slots::Key(..)) {
            return Some(decided);
        }
        let longest = self.door.longest;
        let write = call.touches.write;
        let is_same_key = |it: &Gathered| self.under_way[it.first].touches[0].slots.meet(&call.touches.slots);
        match self.gathered.iter().position(is_same_key) {
            Some(at) => {
                let cost = Cost::of(call, longest);
                let open = &mut self.gathered[at];
                let both = open.cost.zip(cost).and_then(|(open, cost)| open.and(cost, longest));
                // Reads side by side need not be asked as one.
                if both.is_none() && (write || open.write) {
                    return Some(decided);
                }
                open.cost = both;
                open.count += 1;
                open.write |= write;
            }
            None if self.must_wait(&call.touches) => return Some(decided),
            None => {
                let (first, cost) = (self.under_way.len(), Cost::of(call, longest));
                self.gathered.push(Gathered { first, count: 1, write, cost });
            }
        }
        let Decided { action: Action::Call(call), silent, version, bytes } = decided else {
            unreachable!("just looked at")
        };
        let touches = vec![call.touches.clone()];
        self.enter(Entry { work: Work::Unasked(Box::new(call)), touches, silent, version, bytes });
        None
    }

    /// Asks what is gathered.
    fn ask_gathered(&mut self) {
        let Some(oldest) = self.gathered.first().map(|it| it.first) else { return };
        for open in std::mem::take(&mut self.gathered).iter().filter(|it| it.count > 1 && it.write) {
            let slots = self.under_way[open.first].touches[0].slots.clone();
            let members = (open.first..self.under_way.len())
                .filter(|at| self.under_way[*at].touches.first().is_some_and(|it| it.slots == slots));
            let members: Vec<usize> = members.collect();
            let calls: Vec<Call> =
                members.iter().map(|at| self.under_way[*at].work.take_unasked().expect("gathered")).collect();
            let slot = calls[0].slot;
            let batch = Batch::new(self.ask(batch::merge(calls)));
            for at in members {
                self.under_way[at].work = Work::Member { batch: batch.clone(), slot };
            }
        }
        for at in oldest..self.under_way.len() {
            if let Some(call) = self.under_way[at].work.take_unasked() {
                let (shape, slot) = (call.shape, call.slot);
                self.under_way[at].work = Work::Call { call: self.ask(call), shape, slot };
            }
        }
    }

    fn may_start(&self, action: &Action) -> bool {
        match action {
            Action::Reply(_) | Action::Close(_) | Action::Cut | Action::Execute(None, _) => true,
            Action::Call(call) | Action::Execute(Some(call), _) => !self.must_wait(&call.touches),
            Action::Calls(calls, _) => !calls.iter().any(|call| self.must_wait(&call.touches)),
            Action::Watch(..) | Action::Task(_) => self.under_way.is_empty(),
        }
    }

    /// Whether something about the same keys is under way that must be over first.
    fn must_wait(&self, wanted: &Touches) -> bool {
        let meets = |write: bool| {
            let touched = self.under_way.iter().flat_map(|entry| &entry.touches);
            touched.filter(|it| it.write == write).any(|it| it.slots.meet(&wanted.slots))
        };
        if !wanted.write {
            return self.writes > 0 && meets(true);
        }
        // Also where the shard is led here: a write that a hand-over refuses is sent on, and must not be overtaken.
        (self.reads > 0 && meets(false)) || (self.writes > 0 && meets(true))
    }

    fn begin(&mut self, decided: Decided) {
        let Decided { action, mut silent, version, bytes } = decided;
        let mut touches = Vec::new();
        let work = match action {
            Action::Reply(value) => Work::Reply(value),
            Action::Close(value) => {
                self.phase = Phase::Closing;
                Work::Reply(value)
            }
            Action::Cut => {
                self.phase = Phase::Closing;
                silent = true;
                Work::Reply(Value::Null)
            }
            Action::Call(call) => {
                let (shape, slot) = (call.shape, call.slot);
                touches.push(call.touches.clone());
                Work::Call { call: self.ask(call), shape, slot }
            }
            Action::Calls(calls, merge) => Work::Calls { parts: self.parts(calls, &mut touches), merge },
            Action::Watch(calls, keys) => {
                self.alone = true;
                Work::Watch { parts: self.parts(calls, &mut touches), keys }
            }
            Action::Execute(call, parts) => {
                let call = call.map(|call| {
                    touches.push(call.touches.clone());
                    let slot = call.slot;
                    (self.ask(call), slot)
                });
                Work::Execute { call, parts }
            }
            Action::Task(task) => {
                self.alone = true;
                Work::Task(self.task(task))
            }
        };
        self.enter(Entry { work, touches, silent, version, bytes });
    }

    fn task(&mut self, task: Task) -> Pin<Box<dyn Future<Output = Value>>> {
        let door = self.door.clone();
        match task {
            Task::Wait { replicas, timeout_ms } => {
                let (written, client) = (self.written.clone(), self.stream.as_raw_fd());
                Box::pin(wait::run(door, written, client, replicas, timeout_ms.map(Duration::from_millis)))
            }
            task => {
                if matches!(task, Task::Flush { .. }) {
                    self.written.note_all();
                }
                Box::pin(tasks::run(door, self.session.is_cluster(), task))
            }
        }
    }

    fn enter(&mut self, entry: Entry) {
        for touched in &entry.touches {
            self.written.note(touched);
            *if touched.write { &mut self.writes } else { &mut self.reads } += 1;
        }
        self.held_bytes += entry.bytes;
        self.under_way.push_back(entry);
    }

    fn ask(&self, call: Call) -> gateway::Call {
        let mode = Door::mode(self.session.is_cluster());
        self.door.gateway.call(mode, call.namespace, call.shard, call.op)
    }

    fn parts(&self, calls: Vec<Call>, touches: &mut Vec<Touches>) -> Vec<Part> {
        let part = |call: Call| {
            let (shape, slot) = (call.shape, call.slot);
            touches.push(call.touches.clone());
            Part { call: self.ask(call), shape, slot, value: None }
        };
        calls.into_iter().map(part).collect()
    }

    // ---- Replies ----------------------------------------------------------------------------------------------

    /// Writes the replies that are there, up to the first that is not.
    fn collect(&mut self, cx: &mut Context<'_>) {
        while !self.is_full()
            && let Some(entry) = self.under_way.front_mut()
        {
            let Poll::Ready(reply) = entry.work.poll(cx, &self.door, &mut self.session) else { return };
            let entry = self.under_way.pop_front().expect("just looked at");
            for touched in &entry.touches {
                *if touched.write { &mut self.writes } else { &mut self.reads } -= 1;
            }
            self.held_bytes -= entry.bytes;
            self.alone = false;
            if reply.is_error() {
                self.door.registry().errors.fetch_add(1, Ordering::Relaxed);
            }
            if !entry.silent {
                let before = self.output.len();
                reply.append(entry.version, &mut self.output);
                let length = self.output.len() - before;
                self.feared_bytes = length.max(self.feared_bytes - self.feared_bytes / 16);
            }
        }
    }

    /// Sends what there is, as far as the kernel takes it.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while self.sent < self.output.len() && self.phase != Phase::Broken {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.sent..]) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.sent += count;
                    let count = u64::try_from(count).expect("64-bit machine");
                    self.door.registry().bytes_out.fetch_add(count, Ordering::Relaxed);
                }
                Poll::Ready(_) => self.phase = Phase::Broken,
                Poll::Pending => return,
            }
        }
        if self.output.capacity() > KEPT_BUFFER_BYTES {
            self.output = BytesMut::new();
        } else {
            self.output.clear();
        }
        self.sent = 0;
    }

    /// Delivers what is left and closes. Whoever was told what is wrong gets the time to read it: closing with something
    /// unread would take it back.
    async fn end(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            self.flush(cx);
            if self.output.is_empty() || self.phase == Phase::Broken {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        if self.phase == Phase::Closing {
            // SAFETY: shutdown(2) touches no memory, and the stream keeps its descriptor open meanwhile.
            let _ = unsafe { libc::shutdown(self.stream.as_raw_fd(), libc::SHUT_WR) };
            let mut discarded = vec![0; READ_BYTES_MIN];
            while poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut discarded)).await? > 0 {}
        }
        Ok(())
    }
}

fn is_answered_here(action: &Action) -> bool {
    matches!(action, Action::Reply(_) | Action::Close(_) | Action::Cut | Action::Execute(None, _))
}

impl Drop for Connection {
    fn drop(&mut self) {
        let all = &self.door.unfinished_bytes;
        all.set(all.get() - self.counted_bytes);
    }
}
