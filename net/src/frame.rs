//! The frame: a checksummed header, FlatBuffers metadata, then raw payload bytes.
//!
//! ```text
//!   0  magic "RK"          8  id u64               24  body checksum u32 (metadata and payload)
//!   2  version u8         16  metadata length u32  28  header checksum u32 (bytes 0..28)
//!   3  kind u8            20  payload length u32   32  metadata, payload
//!   4  flags u32 (zero)
//! ```
//!
//! Little-endian; checksums are CRC32C. The header has a checksum of its own so that a damaged length is
//! noticed at once, not after waiting for bytes that never come. The id stands in the header so that a
//! request whose metadata is garbage can still be refused by id.
//!
//! **Invariants**: a frame handed out is complete and both checksums held; its `meta` and `payload` are
//! slices of the read buffer; after a fatal [`FrameError`] the decoder hands out nothing more.

mod decoder;

pub use decoder::FrameDecoder;

use crate::types::{RequestId, wide};
use bytes::{BufMut, Bytes, BytesMut};

/// Length of a frame header.
pub const HEADER_BYTES: usize = 32;
/// Version of the frame layout.
pub const FRAME_VERSION: u8 = 1;

const MAGIC: [u8; 2] = *b"RK";
/// Bytes the header checksum covers.
const HEADER_CHECKED_BYTES: usize = 28;
const _: () = assert!(HEADER_CHECKED_BYTES + 4 == HEADER_BYTES);

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// [`crate::protocol::ClientHello`]
    ClientHello,
    /// [`crate::protocol::HelloReply`]
    HelloReply,
    /// [`crate::protocol::Request`]
    Request,
    /// [`crate::protocol::Reply`]
    Reply,
    /// [`crate::protocol::ErrorReport`]
    Error,
    /// [`crate::peer::PeerHello`]
    PeerHello,
    /// [`crate::peer::PeerHelloReply`]
    PeerHelloReply,
    /// Many [`crate::peer::GroupMessage`]
    PeerMessages,
    /// [`crate::peer::SnapshotHeader`]
    SnapshotHeader,
    /// [`crate::peer::SnapshotAnswer`]
    SnapshotAnswer,
    /// [`crate::peer::SnapshotChunk`]
    SnapshotChunk,
    /// [`crate::peer::SnapshotEnd`]
    SnapshotEnd,
}

impl FrameKind {
    const ALL: [FrameKind; 12] = [
        FrameKind::ClientHello,
        FrameKind::HelloReply,
        FrameKind::Request,
        FrameKind::Reply,
        FrameKind::Error,
        FrameKind::PeerHello,
        FrameKind::PeerHelloReply,
        FrameKind::PeerMessages,
        FrameKind::SnapshotHeader,
        FrameKind::SnapshotAnswer,
        FrameKind::SnapshotChunk,
        FrameKind::SnapshotEnd,
    ];

    const fn code(self) -> u8 {
        match self {
            FrameKind::ClientHello => 1,
            FrameKind::HelloReply => 2,
            FrameKind::Request => 3,
            FrameKind::Reply => 4,
            FrameKind::Error => 5,
            FrameKind::PeerHello => 6,
            FrameKind::PeerHelloReply => 7,
            FrameKind::PeerMessages => 8,
            FrameKind::SnapshotHeader => 9,
            FrameKind::SnapshotAnswer => 10,
            FrameKind::SnapshotChunk => 11,
            FrameKind::SnapshotEnd => 12,
        }
    }

    fn from_code(code: u8) -> Option<FrameKind> {
        FrameKind::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// One complete, checksummed frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Request id; 0 where the kind has none.
    pub id: RequestId,
    /// FlatBuffers metadata, not yet verified.
    pub meta: Bytes,
    /// Raw bytes the metadata describes.
    pub payload: Bytes,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer does not speak this protocol. Close.
    #[error("not a RingKV frame: it begins with {found:02x?}")]
    NotAFrame {
        /// The first two bytes.
        found: [u8; 2],
    },
    /// The peer speaks another frame layout. Report it, then close.
    #[error("frame version {found}, this build speaks {FRAME_VERSION}")]
    BadVersion {
        /// The peer's version.
        found: u8,
    },
    /// The header is damaged. Report it, then close.
    #[error("header checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    BadHeaderChecksum {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes received.
        computed: u32,
    },
    /// The frame uses a feature this build does not know. Report it, then close.
    #[error("unknown frame flags {found:#010x}")]
    UnknownFlags {
        /// The flags.
        found: u32,
    },
    /// The frame is longer than the receiver accepts. Report it, then close.
    #[error("frame body of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The request it belongs to.
        id: RequestId,
        /// Length of metadata and payload.
        length: u64,
        /// The receiver's limit.
        limit: u32,
    },
    /// The body is damaged. Report it, then close.
    #[error("body checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    BadBodyChecksum {
        /// The request it belongs to.
        id: RequestId,
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes received.
        computed: u32,
    },
    /// An intact frame of a kind this build does not know; it has been skipped. The stream stays usable.
    #[error("unknown frame kind {found}")]
    UnknownKind {
        /// The request it belongs to.
        id: RequestId,
        /// The kind's code.
        found: u8,
    },
}

impl FrameError {
    /// Whether the stream is lost: report, then close. Otherwise the next frame can be read.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, FrameError::UnknownKind { .. })
    }
}

/// The body to be sent is over the limit; nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame body of {length} bytes is over the limit of {limit}")]
pub struct FrameTooLong {
    /// Length of metadata and payload.
    pub length: u64,
    /// The limit.
    pub limit: u32,
}

/// Writes one frame to the end of a buffer: `begin`, `put` the payload in pieces, `finish`.
///
/// Dropped unfinished, it takes back what it wrote.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut BytesMut,
    /// Where the frame begins in `out`.
    start: usize,
    /// Where it will end.
    end: usize,
    kind: FrameKind,
    id: RequestId,
    meta_bytes: u32,
    payload_bytes: u32,
    finished: bool,
}

impl<'a> FrameWriter<'a> {
    /// Reserves room for the whole frame and writes its metadata.
    ///
    /// # Errors
    /// [`FrameTooLong`] when metadata and payload exceed `limit`.
    pub fn begin(
        out: &'a mut BytesMut,
        kind: FrameKind,
        id: RequestId,
        meta: &[u8],
        payload_bytes: usize,
        limit: u32,
    ) -> Result<FrameWriter<'a>, FrameTooLong> {
        let length = u64::try_from(meta.len().saturating_add(payload_bytes)).unwrap_or(u64::MAX);
        let (Ok(meta_len), Ok(payload_len), true) =
            (u32::try_from(meta.len()), u32::try_from(payload_bytes), length <= u64::from(limit))
        else {
            return Err(FrameTooLong { length, limit });
        };
        let start = out.len();
        let total = HEADER_BYTES + meta.len() + payload_bytes;
        out.reserve(total);
        out.put_bytes(0, HEADER_BYTES);
        out.put_slice(meta);
        Ok(FrameWriter {
            out,
            start,
            end: start + total,
            kind,
            id,
            meta_bytes: meta_len,
            payload_bytes: payload_len,
            finished: false,
        })
    }

    /// Appends a piece of the payload: the one copy of a value on its way out.
    pub fn put(&mut self, piece: &[u8]) {
        self.out.put_slice(piece);
    }

    /// Seals the frame with its header.
    ///
    /// # Panics
    /// If the pieces put are not as long as `begin` was told: a bug of the caller that would break the
    /// stream for every frame after this one.
    pub fn finish(mut self) {
        assert_eq!(self.out.len(), self.end, "payload is not as long as announced");
        let (header, body) = self.out[self.start..].split_at_mut(HEADER_BYTES);
        header[0..2].copy_from_slice(&MAGIC);
        header[2] = FRAME_VERSION;
        header[3] = self.kind.code();
        header[8..16].copy_from_slice(&self.id.0.to_le_bytes());
        header[16..20].copy_from_slice(&self.meta_bytes.to_le_bytes());
        header[20..24].copy_from_slice(&self.payload_bytes.to_le_bytes());
        header[24..28].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        let checksum = crc32c::crc32c(&header[..HEADER_CHECKED_BYTES]);
        header[HEADER_CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        self.finished = true;
    }
}

impl Drop for FrameWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

/// A header whose checksum held.
#[derive(Clone, Copy, Debug)]
struct Header {
    /// `Err`: the code of a kind unknown here.
    kind: Result<FrameKind, u8>,
    id: RequestId,
    meta_bytes: usize,
    payload_bytes: usize,
    body_checksum: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES], limit: u32) -> Result<Header, FrameError> {
        let found = [bytes[0], bytes[1]];
        if found != MAGIC {
            return Err(FrameError::NotAFrame { found });
        }
        if bytes[2] != FRAME_VERSION {
            return Err(FrameError::BadVersion { found: bytes[2] });
        }
        let stored = u32_at(bytes, HEADER_CHECKED_BYTES);
        let computed = crc32c::crc32c(&bytes[..HEADER_CHECKED_BYTES]);
        if stored != computed {
            return Err(FrameError::BadHeaderChecksum { stored, computed });
        }
        let flags = u32_at(bytes, 4);
        if flags != 0 {
            return Err(FrameError::UnknownFlags { found: flags });
        }
        let id = RequestId(u64::from(u32_at(bytes, 8)) | u64::from(u32_at(bytes, 12)) << 32);
        let (meta, payload) = (u32_at(bytes, 16), u32_at(bytes, 20));
        let length = u64::from(meta) + u64::from(payload);
        if length > u64::from(limit) {
            return Err(FrameError::TooLong { id, length, limit });
        }
        Ok(Header {
            kind: FrameKind::from_code(bytes[3]).ok_or(bytes[3]),
            id,
            meta_bytes: wide(meta),
            payload_bytes: wide(payload),
            body_checksum: u32_at(bytes, 24),
        })
    }

    fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.meta_bytes + self.payload_bytes
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
