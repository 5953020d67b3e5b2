//! Receiving: into a buffer that all connections of a core share, or one that grows with a long request.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures_lite::AsyncRead;
use net::resp::Value;

use super::{Connection, Entry, Phase, READ_BYTES_MIN, Work};
use crate::driver::resp::UNFINISHED_BYTES_MAX;
use crate::resp::Node;

/// Length of the shared buffer.
const POOL_BYTES: usize = 64 << 10;
/// Most that is received at once of a long request.
const READ_BYTES_MAX: usize = 1 << 20;

impl Connection {
    /// Receives once, behind what is in `input`.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let held = self.input.len();
        let received = match held {
            0..=READ_BYTES_MIN => self.receive_into_pool(cx),
            _ => self.receive_into_own(cx),
        };
        match received {
            Poll::Ready(Ok(0)) => self.phase = Phase::Ended,
            Poll::Ready(Ok(count)) => {
                self.drained = false;
                let count = u64::try_from(count).expect("64-bit machine");
                self.door.registry().bytes_in.fetch_add(count, Ordering::Relaxed);
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                if self.pooled {
                    // Few bytes must not keep a whole buffer from being given back.
                    self.input = BytesMut::from(&self.input[..]);
                    self.pooled = false;
                }
                self.count_unfinished();
                return Poll::Pending;
            }
        }
        self.count_unfinished();
        Poll::Ready(Ok(()))
    }

    /// The usual case: requests arrive whole. The beginning of one that did not is copied in front of what comes.
    fn receive_into_pool(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let held = self.input.len();
        let mut pool = self.door.pool.borrow_mut();
        if pool.len() < held + READ_BYTES_MIN {
            *pool = BytesMut::zeroed(POOL_BYTES);
        }
        let received = Pin::new(&mut self.stream).poll_read(cx, &mut pool[held..]);
        if let Poll::Ready(Ok(count)) = received
            && count > 0
        {
            pool[..held].copy_from_slice(&self.input);
            self.input = pool.split_to(held + count);
            self.pooled = true;
        }
        received
    }

    /// A long request: its buffer doubles with what has arrived of it, whatever was announced.
    fn receive_into_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let held = self.input.len();
        let missing = self.decoder.missing_bytes(&self.input).max(READ_BYTES_MIN);
        let more = held.min(READ_BYTES_MAX).min(missing);
        if self.pooled || self.input.capacity() < held + more {
            let mut own = BytesMut::with_capacity(held + more.max(held.min(missing)));
            own.extend_from_slice(&self.input);
            self.input = own;
            self.pooled = false;
        }
        self.input.resize(held + more, 0);
        let received = Pin::new(&mut self.stream).poll_read(cx, &mut self.input[held..]);
        let count = if let Poll::Ready(Ok(count)) = received { count } else { 0 };
        self.input.truncate(held + count);
        received
    }

    /// Counts what this connection holds of an unfinished request among that of all.
    fn count_unfinished(&mut self) {
        let now = if self.input.len() > READ_BYTES_MIN { self.input.capacity() } else { 0 };
        let all = &self.door.unfinished_bytes;
        all.set(all.get() - self.counted_bytes + now);
        let more = now > self.counted_bytes;
        self.counted_bytes = now;
        if more && all.get() > UNFINISHED_BYTES_MAX && self.phase == Phase::Open {
            self.phase = Phase::Closing;
            let error = Value::error("ERR Protocol error: too many unfinished requests on this server");
            let version = self.session.version();
            let work = Work::Reply(error);
            self.under_way.push_back(Entry { work, touches: Vec::new(), silent: false, version, bytes: 0 });
            self.input = BytesMut::new();
        }
    }
}
