//! Bodies of requests and answers. What a core holds of them is bounded over all its connections; what was announced
//! and has not come holds nothing.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::http::reply::Problem;

/// A body is here this long after its head, or never.
const BODY_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer given to hyper at a time: it copies them.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes that count as held as long as this lives.
pub(super) struct Held {
    bytes: usize,
    all: Rc<Cell<usize>>,
}

impl Held {
    pub fn nothing(all: &Rc<Cell<usize>>) -> Held {
        Held { bytes: 0, all: all.clone() }
    }

    /// So many bytes, if there is room for them.
    pub fn all(all: &Rc<Cell<usize>>, bytes: usize, limit: usize) -> Option<Held> {
        let mut held = Held::nothing(all);
        held.grow(bytes, limit).then_some(held)
    }

    /// Holds more; false when that would be too much.
    fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        let total = self.all.get() + bytes;
        // One that is alone always has room: limits of values are checked elsewhere.
        if total > limit && self.all.get() > self.bytes {
            return false;
        }
        self.bytes += bytes;
        self.all.set(total);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.bytes);
    }
}

/// Reads a body of at most `bytes_max`, while all bodies of the core hold at most `held_max`.
pub(super) async fn read(
    body: Incoming,
    bytes_max: u64,
    held: &Rc<Cell<usize>>,
    held_max: usize,
) -> Result<(Bytes, Held), Problem> {
    if body.size_hint().lower() > bytes_max {
        return Err(Problem::body_too_long(bytes_max));
    }
    let mut held = Held::nothing(held);
    let whole = async { Ok(read_pieces(body, bytes_max, &mut held, held_max).await) };
    match glommio::timer::timeout(BODY_MAX, whole).await {
        Ok(read) => Ok((read?, held)),
        Err(_timeout) => {
            let seconds = BODY_MAX.as_secs();
            let message = format!("the body of the request did not come within {seconds} s");
            Err(Problem::new(408, "too_slow", message))
        }
    }
}

async fn read_pieces(
    mut body: Incoming,
    bytes_max: u64,
    held: &mut Held,
    held_max: usize,
) -> Result<Bytes, Problem> {
    let limit = usize::try_from(bytes_max).expect("64-bit machine");
    let mut whole = BytesMut::new();
    while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| Problem::invalid(format!("the body cannot be read: {error}")))?;
        let Ok(piece) = frame.into_data() else { continue };
        if whole.len() + piece.len() > limit {
            return Err(Problem::body_too_long(bytes_max));
        }
        if !held.grow(piece.len(), held_max) {
            return Err(Problem::busy());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// Passes over a body that is not for this node; whether it was read to its end, so that another request may follow. One
/// that its client is not sending before it is asked to (`Expect: 100-continue`) is not asked for.
pub(super) async fn pass_over(mut body: Incoming, is_expected: bool, bytes_max: u64) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if is_expected || body.size_hint().lower() > bytes_max {
        return false;
    }
    let mut left = bytes_max;
    let whole = async {
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let length = frame.ok().map(|frame| frame.data_ref().map_or(0, Bytes::len));
            let length = length.and_then(|length| u64::try_from(length).ok());
            match length.and_then(|length| left.checked_sub(length)) {
                Some(rest) => left = rest,
                None => return Ok(false),
            }
        }
        Ok(true)
    };
    glommio::timer::timeout(BODY_MAX, whole).await.unwrap_or(false)
}

/// The body of an answer.
pub(super) struct ReplyBody {
    rest: Bytes,
    _held: Held,
}

impl ReplyBody {
    pub fn new(rest: Bytes, held: Held) -> ReplyBody {
        ReplyBody { rest, _held: held }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).expect("64-bit machine"))
    }
}
