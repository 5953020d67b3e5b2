//! Frames over one TCP connection.
//!
//! ```text
//!   reader: wait for readiness, one receive into a large buffer, then every complete frame in it
//!   sender: frames are appended to `pending`; the writer task swaps it with `sending` and sends that
//! ```
//!
//! All that tasks append before the writer's turn leaves in one send; while it is under way the next batch
//! gathers. **Invariant**: bytes leave in the order they were appended, and nothing appended after a close
//! is sent.
//!
//! A broken pipe must be an error, not a signal: the Rust runtime ignores `SIGPIPE`, keep it so.

use super::link::detect_silence;
use super::listener::duplicate;
use super::signal::Signal;
use crate::frame::{Frame, FrameDecoder, FrameError};
use crate::types::Limits;
use bytes::{Bytes, BytesMut};
use futures_lite::future::poll_fn;
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// A write buffer that grew beyond this gives its memory back after the burst.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;

/// How a connection reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionConfig {
    /// Longest frame body accepted.
    pub frame_bytes_max: u32,
    /// Length of read buffers; a longer frame gets a buffer of its own.
    pub read_buffer_bytes: usize,
    /// Bytes queued for sending at which [`FrameSender::is_full`] says so. A signal, not a wall: a frame
    /// appended past it is still sent, so the owner must stop taking requests until there is room.
    pub write_queue_bytes_max: usize,
    /// How long the other side's host may leave what was sent unacknowledged, or an idle connection's probes
    /// unanswered, before the connection counts as broken.
    pub silence_max: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            frame_bytes_max: Limits::DEFAULT.frame_bytes_max,
            read_buffer_bytes: 128 * 1024,
            write_queue_bytes_max: 4 * 1024 * 1024,
            silence_max: Duration::from_secs(60),
        }
    }
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection is broken: close it.
    #[error("receive failed: {0}")]
    Io(#[from] io::Error),
    /// The bytes are no frame; see [`FrameError::is_fatal`].
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer closed in the middle of a frame.
    #[error("connection closed in the middle of a frame ({buffered} bytes of it)")]
    Truncated {
        /// Bytes of the unfinished frame.
        buffered: usize,
    },
}

/// The connection is closed or closing; what was to be sent is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed")]
pub struct SenderClosed;

/// A connection on its way between executors: the socket, and what was read of it but not yet used.
#[derive(Debug)]
pub struct Handoff {
    fd: OwnedFd,
    unread: Bytes,
}

/// A connection not yet split into reader and sender. Nothing has been sent on it.
#[derive(Debug)]
pub struct Connection {
    reader: FrameReader,
    config: ConnectionConfig,
}

impl Connection {
    /// Dials.
    ///
    /// # Errors
    /// Those of connect(2); [`io::ErrorKind::TimedOut`] after `timeout`.
    pub async fn connect(
        address: SocketAddr,
        timeout: Duration,
        config: ConnectionConfig,
    ) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(address, timeout).await.map_err(io::Error::from)?;
        Connection::from_stream(stream, config)
    }

    /// Takes over an accepted socket on the present executor.
    ///
    /// # Errors
    /// Those of setsockopt(2): the socket is already dead.
    pub fn from_fd(fd: OwnedFd, config: ConnectionConfig) -> io::Result<Connection> {
        // SAFETY: an owned descriptor gives up its ownership; if it is no TCP socket, calls on it fail.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        Connection::from_stream(stream, config)
    }

    /// Goes on, on the present executor, with a connection another one gave up.
    ///
    /// # Errors
    /// As [`Connection::from_fd`].
    pub fn from_handoff(handoff: Handoff, config: ConnectionConfig) -> io::Result<Connection> {
        let mut connection = Connection::from_fd(handoff.fd, config)?;
        connection.reader.decoder.feed(&handoff.unread);
        Ok(connection)
    }

    /// Gives the connection up for another executor.
    ///
    /// # Errors
    /// Those of dup(2); the connection is then closed.
    pub fn into_handoff(self) -> io::Result<Handoff> {
        let fd = duplicate(&*self.reader.shared.stream.borrow())?;
        Ok(Handoff { fd, unread: self.reader.decoder.into_unread() })
    }

    /// Reads one frame, usually the hello; see [`FrameReader::read_frame`].
    ///
    /// # Errors
    /// As [`FrameReader::read_frame`].
    pub async fn read_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        self.reader.read_frame().await
    }

    /// Splits it, and starts the task that writes.
    #[must_use]
    pub fn split(self) -> (FrameReader, FrameSender) {
        let shared = Rc::clone(&self.reader.shared);
        glommio::spawn_local(write_loop(Rc::clone(&shared))).detach();
        let handle = Rc::new(SenderHandle { shared, full_bytes: self.config.write_queue_bytes_max });
        (self.reader, FrameSender { handle })
    }

    fn from_stream(stream: TcpStream, config: ConnectionConfig) -> io::Result<Connection> {
        prepare(&stream, config.silence_max)?;
        let shared = Rc::new(Shared {
            stream: RefCell::new(stream),
            pending: RefCell::new(BytesMut::new()),
            sending_bytes: Cell::new(0),
            state: Cell::new(State::Open),
            work: Signal::default(),
            room: Signal::default(),
        });
        let decoder = FrameDecoder::new(config.read_buffer_bytes, config.frame_bytes_max);
        Ok(Connection { reader: FrameReader { shared, decoder }, config })
    }
}

/// Lets small pieces leave at once, and the kernel find out that the other side's host is gone.
///
/// # Errors
/// Those of setsockopt(2): the socket is already dead.
pub fn prepare(stream: &TcpStream, silence_max: Duration) -> io::Result<()> {
    stream.set_nodelay(true).map_err(io::Error::from)?;
    detect_silence(stream, silence_max)
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReader {
    shared: Rc<Shared>,
    decoder: FrameDecoder,
}

impl FrameReader {
    /// Waits until the socket is readable and receives once. Returns the number of bytes; 0: the peer will
    /// send nothing more. Then take the frames with [`FrameReader::next_frame`].
    ///
    /// # Errors
    /// Those of recv(2): close the connection.
    pub async fn fill(&mut self) -> io::Result<usize> {
        // A peer that always has more to send must not keep the other tasks from running.
        glommio::executor().yield_if_needed().await;
        let room = self.decoder.unfilled();
        let shared = &self.shared;
        let count = poll_fn(|cx| Pin::new(&mut *shared.stream.borrow_mut()).poll_read(cx, room)).await?;
        self.decoder.advance(count);
        Ok(count)
    }

    /// The next frame already received; `None`: [`FrameReader::fill`] first.
    ///
    /// # Errors
    /// As [`FrameDecoder::next_frame`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        self.decoder.next_frame()
    }

    /// The next frame, received if need be; `None`: the peer closed between two frames.
    ///
    /// # Errors
    /// [`ReadError`]; after a frame error that is not fatal the next call goes on.
    pub async fn read_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                return match self.decoder.buffered_bytes() {
                    0 => Ok(None),
                    buffered => Err(ReadError::Truncated { buffered }),
                };
            }
        }
    }

    /// Refuses, from the next frame on, those whose body is over `frame_bytes_max`: for what the peer's hello says of
    /// its frames.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.decoder.set_frame_bytes_max(frame_bytes_max);
    }

    /// Received bytes that make no complete frame yet.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.decoder.buffered_bytes()
    }
}

/// The sending half; clones share it. Dropping the last one closes as [`FrameSender::close`] does.
#[derive(Clone, Debug)]
pub struct FrameSender {
    handle: Rc<SenderHandle>,
}

#[derive(Debug)]
struct SenderHandle {
    shared: Rc<Shared>,
    full_bytes: usize,
}

impl Drop for SenderHandle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl FrameSender {
    /// Lets `write` append whole frames to what is to be sent; they leave at the end of this turn.
    ///
    /// # Errors
    /// [`SenderClosed`]; `write` was not called.
    pub fn append<R>(&self, write: impl FnOnce(&mut BytesMut) -> R) -> Result<R, SenderClosed> {
        let shared = &self.handle.shared;
        if shared.state.get() != State::Open {
            return Err(SenderClosed);
        }
        let mut pending = shared.pending.borrow_mut();
        let was_empty = pending.is_empty();
        let result = write(&mut pending);
        let wake = was_empty && !pending.is_empty();
        drop(pending);
        if wake {
            shared.work.notify();
        }
        Ok(result)
    }

    /// Bytes appended and not yet taken by the kernel.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.handle.shared.queued_bytes()
    }

    /// Whether the queue has reached its bound: stop producing, and wait for [`FrameSender::room`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queued_bytes() >= self.handle.full_bytes
    }

    /// Waits until the queue is below its bound.
    ///
    /// # Errors
    /// [`SenderClosed`]
    pub async fn room(&self) -> Result<(), SenderClosed> {
        self.wait(|| !self.is_full()).await
    }

    /// Waits until the kernel has taken everything appended so far and since.
    ///
    /// # Errors
    /// [`SenderClosed`] if the connection broke first.
    pub async fn flushed(&self) -> Result<(), SenderClosed> {
        self.wait(|| self.queued_bytes() == 0).await
    }

    /// Sends what is queued, then tells the peer that nothing more will come. Returns at once.
    pub fn close(&self) {
        self.handle.shared.close();
    }

    /// Drops what is queued and ends both directions now: the reader sees the end of the stream.
    pub fn abort(&self) {
        self.handle.shared.fail();
    }

    /// Whether nothing more can be appended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.handle.shared.state.get() != State::Open
    }

    async fn wait(&self, done: impl Fn() -> bool) -> Result<(), SenderClosed> {
        let shared = &self.handle.shared;
        poll_fn(|cx| {
            if shared.state.get() == State::Broken {
                return Poll::Ready(Err(SenderClosed));
            }
            if done() {
                return Poll::Ready(Ok(()));
            }
            shared.room.register(cx.waker());
            Poll::Pending
        })
        .await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Frames are accepted and sent.
    Open,
    /// What is queued is still sent.
    Closing,
    /// Nothing moves any more.
    Broken,
}

#[derive(Debug)]
struct Shared {
    /// Borrowed only inside a poll, never across an await.
    stream: RefCell<TcpStream>,
    pending: RefCell<BytesMut>,
    /// Bytes of the batch under way that the kernel has not taken yet.
    sending_bytes: Cell<usize>,
    state: Cell<State>,
    /// Wakes the writer.
    work: Signal,
    /// Wakes whoever waits for the queue to shrink.
    room: Signal,
}

impl Shared {
    fn queued_bytes(&self) -> usize {
        self.pending.borrow().len() + self.sending_bytes.get()
    }

    fn close(&self) {
        if self.state.get() == State::Open {
            self.state.set(State::Closing);
            self.work.notify();
        }
    }

    fn fail(&self) {
        if self.state.replace(State::Broken) != State::Broken {
            self.shutdown(Shutdown::Both);
            self.pending.borrow_mut().clear();
            self.sending_bytes.set(0);
            self.work.notify();
            self.room.notify();
        }
    }

    fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // SAFETY: shutdown(2) touches no memory, and the stream keeps its descriptor open meanwhile.
        // It fails only on a connection that is already gone, which is what was asked for.
        let _ = unsafe { libc::shutdown(self.stream.borrow().as_raw_fd(), how) };
    }

    /// Swaps the pending batch into `sending`; false: there will be no more.
    async fn next_batch(&self, sending: &mut BytesMut) -> bool {
        poll_fn(|cx| {
            let mut pending = self.pending.borrow_mut();
            if self.state.get() == State::Broken {
                return Poll::Ready(false);
            }
            if !pending.is_empty() {
                std::mem::swap(&mut *pending, sending);
                self.sending_bytes.set(sending.len());
                return Poll::Ready(true);
            }
            if self.state.get() == State::Closing {
                return Poll::Ready(false);
            }
            self.work.register(cx.waker());
            Poll::Pending
        })
        .await
    }

    async fn send_all(&self, batch: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        while sent < batch.len() {
            let rest = &batch[sent..];
            let count = poll_fn(|cx| {
                if self.state.get() == State::Broken {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, rest)
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            sent += count;
            if self.state.get() != State::Broken {
                self.sending_bytes.set(batch.len() - sent);
            }
        }
        Ok(())
    }
}

async fn write_loop(shared: Rc<Shared>) {
    let mut sending = BytesMut::new();
    while shared.next_batch(&mut sending).await {
        if let Err(error) = shared.send_all(&sending).await {
            tracing::debug!(%error, "send failed, closing the connection");
            shared.fail();
            return;
        }
        sending.clear();
        if sending.capacity() > KEPT_BUFFER_BYTES {
            sending = BytesMut::new();
        }
        shared.room.notify();
    }
    if shared.state.get() == State::Closing {
        shared.shutdown(Shutdown::Write);
        shared.room.notify();
    }
}
