//! Bytes in, frames out, without copying them.
//!
//! The buffer is kept zero-initialised up to its length, `filled` of it holding received bytes: a socket
//! can read straight into [`FrameDecoder::unfilled`] with no unsafe code. Frames are split off the front;
//! a new buffer is taken only when the rest is too short to be worth a read. Buffers begin short and double
//! whenever a read fills one: a thousand idle connections must not cost what a thousand busy ones may.

use super::{Frame, FrameError, HEADER_BYTES, Header};
use bytes::{Bytes, BytesMut};

/// A read shorter than this is not worth a system call: get a new buffer first.
const READ_BYTES_MIN: usize = 16 * 1024;

/// Turns a stream of bytes into frames. Fill it (`unfilled` + `advance`, or `feed`), then call
/// `next_frame` until it yields `None`.
#[derive(Debug)]
pub struct FrameDecoder {
    /// `buffer[..filled]` is received and not yet handed out; the rest is zeroed room.
    buffer: BytesMut,
    filled: usize,
    /// Header of the frame at the front, once it is complete and checked.
    header: Option<Header>,
    /// Length of the next buffer, up to `buffer_bytes_max`.
    buffer_bytes: usize,
    buffer_bytes_max: usize,
    frame_bytes_max: u32,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// A decoder that reads into buffers of up to `buffer_bytes_max` (longer for a longer frame) and refuses
    /// frames whose body is over `frame_bytes_max`.
    #[must_use]
    pub fn new(buffer_bytes_max: usize, frame_bytes_max: u32) -> FrameDecoder {
        FrameDecoder {
            buffer: BytesMut::new(),
            filled: 0,
            header: None,
            buffer_bytes: READ_BYTES_MIN,
            buffer_bytes_max: buffer_bytes_max.max(READ_BYTES_MIN),
            frame_bytes_max,
            failed: None,
        }
    }

    /// Refuses, from the next frame on, those whose body is over `frame_bytes_max`.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Received bytes not yet handed out in a frame.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.filled
    }

    /// Room to read into; never empty. Follow with [`FrameDecoder::advance`].
    pub fn unfilled(&mut self) -> &mut [u8] {
        let missing = self.header.map_or(0, |header| header.frame_bytes().saturating_sub(self.filled));
        let room = self.buffer.len() - self.filled;
        if room < READ_BYTES_MIN.max(missing) {
            self.make_room(missing);
        }
        &mut self.buffer[self.filled..]
    }

    /// Says that the first `count` bytes of [`FrameDecoder::unfilled`] now hold received bytes.
    ///
    /// # Panics
    /// If that is more than the room there was.
    pub fn advance(&mut self, count: usize) {
        let room = self.buffer.len() - self.filled;
        assert!(count <= room, "more bytes received than room given");
        if count == room {
            self.buffer_bytes = (self.buffer_bytes * 2).min(self.buffer_bytes_max);
        }
        self.filled += count;
    }

    /// Copies bytes in: for input that does not come from a socket.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.unfilled();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.advance(count);
            bytes = &bytes[count..];
        }
    }

    /// The next complete frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`]; unless it is fatal, calling again yields the frame after the bad one. After a fatal
    /// one every call returns it again.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.parse();
        if let Err(error) = result
            && error.is_fatal()
        {
            self.failed = Some(error);
        }
        result
    }

    /// What was received and not handed out, to go on with elsewhere.
    #[must_use]
    pub fn into_unread(mut self) -> Bytes {
        self.buffer.truncate(self.filled);
        self.buffer.freeze()
    }

    fn parse(&mut self) -> Result<Option<Frame>, FrameError> {
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(bytes) = self.buffer[..self.filled].first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                *self.header.insert(Header::parse(bytes, self.frame_bytes_max)?)
            }
        };
        let total = header.frame_bytes();
        if self.filled < total {
            return Ok(None);
        }
        let frame = self.buffer.split_to(total).freeze();
        self.filled -= total;
        self.header = None;
        let computed = crc32c::crc32c(&frame[HEADER_BYTES..]);
        if computed != header.body_checksum {
            return Err(FrameError::BadBodyChecksum {
                id: header.id,
                stored: header.body_checksum,
                computed,
            });
        }
        let kind = header.kind.map_err(|found| FrameError::UnknownKind { id: header.id, found })?;
        let payload_at = HEADER_BYTES + header.meta_bytes;
        Ok(Some(Frame {
            kind,
            id: header.id,
            meta: frame.slice(HEADER_BYTES..payload_at),
            payload: frame.slice(payload_at..),
        }))
    }

    /// Makes the buffer long enough for `missing` more bytes and a worthwhile read, in place when every
    /// frame handed out of it has been dropped.
    fn make_room(&mut self, missing: usize) {
        let length = self.buffer_bytes.max(self.filled + missing).max(self.filled + READ_BYTES_MIN);
        self.buffer.truncate(self.filled);
        if self.buffer.try_reclaim(length - self.filled) {
            self.buffer.resize(length, 0);
        } else {
            let mut fresh = BytesMut::zeroed(length);
            fresh[..self.filled].copy_from_slice(&self.buffer);
            self.buffer = fresh;
        }
    }
}
