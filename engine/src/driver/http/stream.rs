//! A socket as hyper reads and writes it, and how long its client has kept it waiting.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};

/// A connection without a request is closed after this.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// A request's head is here this long after its first byte, or never.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A client that reads nothing of its answer for so long is gone.
const WRITE_MAX: Duration = Duration::from_secs(30);
/// How long, and how much, is read of what a client goes on sending after its connection was closed: an answer that it
/// has not read yet would be lost otherwise.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 16 << 10;

/// What a client is told that does not finish its request.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n\
    content-length: 82\r\n\r\n{\"error\":\"too_slow\",\"message\":\"the head of the request did not come within 10 s\"}\n";

/// A socket and the pace of its client.
pub(super) struct Line {
    /// Borrowed only inside a poll, never across an await.
    stream: RefCell<TcpStream>,
    /// Since when there was nothing to do.
    quiet_since: Cell<Instant>,
    /// When the first byte came of a head that is not whole.
    head_since: Cell<Option<Instant>>,
    /// Whether a request is being answered.
    is_busy: Cell<bool>,
    /// Since when the client has not taken what is to be sent.
    stuck_since: Cell<Option<Instant>>,
    is_reset: Cell<bool>,
}

impl Line {
    pub fn new(fd: OwnedFd) -> io::Result<Line> {
        // SAFETY: an owned descriptor gives up its ownership; if it is no TCP socket, calls on it fail.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Line {
            stream: RefCell::new(stream),
            quiet_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            is_busy: Cell::new(false),
            stuck_since: Cell::new(None),
            is_reset: Cell::new(false),
        })
    }

    /// A request's head has been read.
    pub fn head_is_here(&self) {
        self.is_busy.set(true);
        self.head_since.set(None);
    }

    /// The answer to the request is known.
    pub fn answered(&self) {
        self.is_busy.set(false);
        self.quiet_since.set(Instant::now());
    }

    /// Cuts the client off if it has been too slow; false when it was, and needs no further look.
    pub fn look(&self, now: Instant) -> bool {
        let over = |since: Instant, limit| now.duration_since(since) > limit;
        if self.stuck_since.get().is_some_and(|since| over(since, WRITE_MAX)) {
            self.reset();
            return false;
        }
        if self.is_busy.get() || self.stuck_since.get().is_some() {
            return true;
        }
        if self.head_since.get().is_some_and(|since| over(since, HEAD_MAX)) {
            // Nothing else is being sent: there was no request yet.
            self.say_at_once(TOO_SLOW);
            self.shutdown(Shutdown::Both);
            return false;
        }
        if self.head_since.get().is_none() && over(self.quiet_since.get(), IDLE_MAX) {
            self.shutdown(Shutdown::Both);
            return false;
        }
        true
    }

    /// Ends the connection without a word: what is on its way to the client is forgotten, or the kernel would keep it
    /// for as long as the client does not read.
    fn reset(&self) {
        self.is_reset.set(true);
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        let length = libc::socklen_t::try_from(size_of::<libc::linger>()).expect("a small structure");
        // SAFETY: the kernel reads one structure, which lives through the call; the stream keeps its descriptor open.
        let _ = unsafe {
            let (fd, value) = (self.stream.borrow().as_raw_fd(), (&raw const at_once).cast());
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, length)
        };
        self.shutdown(Shutdown::Both);
    }

    /// Closes, and reads for a moment what the client goes on sending.
    pub async fn linger(&self) {
        if self.is_reset.get() {
            return;
        }
        self.shutdown(Shutdown::Write);
        let mut left = LINGER_BYTES_MAX;
        let rest = async {
            let mut buffer = [0; 4096];
            while left > 0 {
                let read = std::future::poll_fn(|context| {
                    Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, &mut buffer)
                });
                match read.await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
            Ok(())
        };
        let _ = glommio::timer::timeout(LINGER_MAX, rest).await;
    }

    fn shutdown(&self, how: Shutdown) {
        let how = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        // SAFETY: shutdown(2) touches no memory, and the stream keeps its descriptor open meanwhile. It fails only on a
        // connection that is already gone, which is what was asked for.
        let _ = unsafe { libc::shutdown(self.stream.borrow().as_raw_fd(), how) };
    }

    fn say_at_once(&self, words: &[u8]) {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the kernel reads `words`, which lives through the call; the stream keeps its descriptor open.
        let _ = unsafe {
            libc::send(self.stream.borrow().as_raw_fd(), words.as_ptr().cast(), words.len(), flags)
        };
    }
}

/// hyper's end of a [`Line`].
pub(super) struct Stream {
    line: Rc<Line>,
}

impl Stream {
    pub fn new(line: Rc<Line>) -> Stream {
        Stream { line }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let line = &self.line;
        let mut buffer = [0; READ_BYTES];
        let wanted = room.remaining().min(READ_BYTES);
        let count =
            ready!(Pin::new(&mut *line.stream.borrow_mut()).poll_read(context, &mut buffer[..wanted]))?;
        room.put_slice(&buffer[..count]);
        if count > 0 && !line.is_busy.get() && line.head_since.get().is_none() {
            line.head_since.set(Some(Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let line = &self.line;
        let written = Pin::new(&mut *line.stream.borrow_mut()).poll_write(context, bytes);
        match written {
            Poll::Ready(_) => {
                line.stuck_since.set(None);
                line.quiet_since.set(Instant::now());
            }
            Poll::Pending => line.stuck_since.set(line.stuck_since.get().or_else(|| Some(Instant::now()))),
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.line.stream.borrow_mut()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.shutdown(Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
