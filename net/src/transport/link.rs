//! What the clients of every runtime do alike with a connection: what frames mean, why it ended, how its silence is
//! noticed.

use crate::client::ClientConfig;
use crate::client::core::{ConnectionId, Event};
use crate::frame::{Frame, FrameError, FrameKind, FrameTooLong};
use crate::protocol::{
    ClientHello, DecodeError, Encoder, ErrorReport, HelloReply, PROTOCOL_VERSION, decode_error,
    decode_hello_reply, decode_reply,
};
use bytes::BytesMut;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Why a connection ended, for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Hello(#[from] FrameTooLong),
    #[error("the server says: {0}")]
    Reported(ErrorReport),
    #[error("closed")]
    Closed,
    #[error("closed in the middle of a frame")]
    Truncated,
    #[cfg(feature = "glommio")]
    #[error("the name has no address")]
    NoAddress,
}

/// Appends a client's first frame.
pub(super) fn write_hello(
    wants_core: Option<u32>,
    frame_bytes_max: u32,
    out: &mut BytesMut,
) -> Result<(), FrameTooLong> {
    let hello = ClientHello { version: PROTOCOL_VERSION, wants_core };
    Encoder::new(frame_bytes_max).client_hello(&hello, out)
}

/// Reads a server's first frame.
pub(super) fn read_hello(frame: &Frame) -> Result<HelloReply, LinkError> {
    if frame.kind == FrameKind::Error {
        return Err(LinkError::Reported(decode_error(frame)?));
    }
    Ok(decode_hello_reply(frame)?)
}

/// What a later frame says; `None`: nothing of interest.
pub(super) fn event_of(id: ConnectionId, frame: &Frame) -> Result<Option<Event>, LinkError> {
    match frame.kind {
        FrameKind::Reply => Ok(Some(match decode_reply(frame) {
            Ok(reply) => Event::Reply { connection: id, reply },
            Err(error) => {
                tracing::warn!(%error, "a reply cannot be read");
                Event::Garbled { connection: id, id: frame.id }
            }
        })),
        FrameKind::Error => Err(LinkError::Reported(decode_error(frame)?)),
        other => {
            tracing::debug!(kind = ?other, "frame ignored");
            Ok(None)
        }
    }
}

/// The seed of a client's random choices.
pub(super) fn seed(config: &ClientConfig) -> u64 {
    config.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish())
}

/// Lets the kernel find out that the other side's host is gone (tcp(7)): without it a connection whose peer vanished
/// without a word lives for ever, or for minutes after a partition has healed.
pub(super) fn detect_silence(stream: &impl AsRawFd, silence_max: Duration) -> io::Result<()> {
    let millis = libc::c_int::try_from(silence_max.as_millis()).unwrap_or(libc::c_int::MAX);
    let seconds = (millis / 4000).max(1);
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, seconds),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3),
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, millis),
    ];
    for (level, option, value) in options {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
        // SAFETY: the kernel reads one integer, which lives through the call; the stream keeps its descriptor open.
        let result =
            unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
