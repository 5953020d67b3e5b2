//! A batch: everything that was queued when a place in flight became free, as one write.
//!
//! ```text
//!  0 magic u32 | 4 version u16 | 6 shares u16 | 8 segment | 16 generation | 24 generation start (LSN)
//! 32 sequence | 40 first LSN | 48 flushed LSN | 56 oldest LSN (all u64)
//! 64 records bytes u32 | 68 records u32 | 72 batch bytes u32 | 76 crc u32 | 80 records, directory, zeros to a block
//! ```
//!
//! The *directory* says which streams have how many records in the batch (see [`crate::directory`]): when a
//! record cannot be read, it tells whose it was. Sound batches are read without it.
//!
//! Invariants: a batch starts and ends on a block boundary and is written once. A *generation* is one
//! life of the process, named by the first segment it wrote; it starts where the recovery before it
//! ended, and voids whatever older generations hold at or past that LSN. `flushed` and `oldest` are
//! facts at the time of writing: records below `flushed` were durable, records below `oldest` needless.

use crate::directory::{self, Share};
use crate::record::Record;
use crate::segment::{FORMAT_VERSION, SegmentSeed, is_read};
use crate::types::{BLOCK, BLOCK_BYTES, BatchId, Lsn, SegmentId};
use crate::width::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64, to_u64, to_usize};

/// Bytes of a batch before its first record.
pub(crate) const BATCH_HEADER_BYTES: usize = 80;

const MAGIC: u32 = u32::from_le_bytes(*b"RKWB");
const CRC_AT: usize = 76;

const _: () = assert!(CRC_AT + 4 == BATCH_HEADER_BYTES && BATCH_HEADER_BYTES < 512, "one sector, never torn");

/// What the front of a batch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The segment the batch lies in.
    pub segment: SegmentId,
    /// First segment written by the process that wrote this batch.
    pub generation: SegmentId,
    /// Where that process began; older generations are void from here on.
    pub generation_start: Lsn,
    /// Counts batches without a gap.
    pub sequence: BatchId,
    /// Position of the first record.
    pub first_lsn: Lsn,
    /// Everything before this was durable when the batch was written.
    pub flushed_lsn: Lsn,
    /// Everything before this was no longer needed when the batch was written.
    pub oldest_lsn: Lsn,
    /// Bytes of records.
    pub records_bytes: u32,
    /// How many records.
    pub records: u32,
    /// Entries of the directory; none in batches without records, and before version 2.
    pub(crate) shares: u16,
    /// Bytes on disk, a multiple of 4096.
    pub len_bytes: u32,
}

impl BatchHeader {
    /// Position after the last record.
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.records_bytes))
    }

    /// Where in the batch its records end and its directory begins.
    pub(crate) fn records_end(&self) -> usize {
        BATCH_HEADER_BYTES + to_usize(self.records_bytes)
    }

    pub(crate) fn encode(&self, seed: SegmentSeed, offset: u64, buf: &mut [u8]) {
        let buf = &mut buf[..BATCH_HEADER_BYTES];
        put_u32(buf, 0, MAGIC);
        put_u16(buf, 4, FORMAT_VERSION);
        put_u16(buf, 6, self.shares);
        put_u64(buf, 8, self.segment.0);
        put_u64(buf, 16, self.generation.0);
        put_u64(buf, 24, self.generation_start.0);
        put_u64(buf, 32, self.sequence.0);
        put_u64(buf, 40, self.first_lsn.0);
        put_u64(buf, 48, self.flushed_lsn.0);
        put_u64(buf, 56, self.oldest_lsn.0);
        put_u32(buf, 64, self.records_bytes);
        put_u32(buf, 68, self.records);
        put_u32(buf, 72, self.len_bytes);
        let crc = seed.crc(offset, &buf[..CRC_AT]);
        put_u32(buf, CRC_AT, crc);
    }

    /// Reads the header at the front of `bytes`, which lie at `offset` of `segment`.
    pub(crate) fn decode(
        segment: SegmentId,
        seed: SegmentSeed,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Self, &'static str> {
        if bytes.len() < BATCH_HEADER_BYTES || get_u32(bytes, 0) != MAGIC {
            return Err("no batch starts here");
        }
        if seed.crc(offset, &bytes[..CRC_AT]) != get_u32(bytes, CRC_AT) {
            return Err("a batch header's checksum does not match");
        }
        let header = Self {
            segment: SegmentId(get_u64(bytes, 8)),
            generation: SegmentId(get_u64(bytes, 16)),
            generation_start: Lsn(get_u64(bytes, 24)),
            sequence: BatchId(get_u64(bytes, 32)),
            first_lsn: Lsn(get_u64(bytes, 40)),
            flushed_lsn: Lsn(get_u64(bytes, 48)),
            oldest_lsn: Lsn(get_u64(bytes, 56)),
            records_bytes: get_u32(bytes, 64),
            records: get_u32(bytes, 68),
            shares: get_u16(bytes, 6),
            len_bytes: get_u32(bytes, 72),
        };
        let padded = padded_len(header.records_end() + directory::len_bytes(usize::from(header.shares)));
        if header.segment != segment || !is_read(get_u16(bytes, 4)) || padded != to_usize(header.len_bytes) {
            return Err("a batch header is malformed");
        }
        Ok(header)
    }
}

/// `len` rounded up to whole blocks.
pub(crate) fn padded_len(len: usize) -> usize {
    len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// One write for the driver: `len_bytes` at `offset_bytes` of `segment`, all of it durable before
/// [`Wal::on_written`](crate::Wal::on_written) is told. Batches may be written concurrently and land in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteBatch {
    /// To be handed to [`Wal::on_written`](crate::Wal::on_written).
    pub id: BatchId,
    /// The file to write to.
    pub segment: SegmentId,
    /// Where, a multiple of 4096.
    pub offset_bytes: u64,
    /// How much, a multiple of 4096.
    pub len_bytes: usize,
    pub(crate) header: BatchHeader,
    pub(crate) seed: SegmentSeed,
    pub(crate) records: Vec<Record>,
    pub(crate) directory: Vec<Share>,
}

impl WriteBatch {
    /// Fills `buf` (exactly `len_bytes` long, contents arbitrary) with the batch; the only copy a
    /// payload goes through.
    ///
    /// # Panics
    /// If `buf` is of another length.
    pub fn encode_into(&self, buf: &mut [u8]) {
        assert_eq!(buf.len(), self.len_bytes, "the buffer of {}", self.id);
        assert_eq!(self.offset_bytes % BLOCK, 0);
        self.header.encode(self.seed, self.offset_bytes, buf);
        let mut at = BATCH_HEADER_BYTES;
        for record in &self.records {
            at += record.encode(self.seed, self.offset_bytes + to_u64(at), &mut buf[at..]);
        }
        assert_eq!(at, self.header.records_end());
        at += directory::encode(&self.directory, self.seed, self.offset_bytes + to_u64(at), &mut buf[at..]);
        buf[at..].fill(0);
    }

    /// What the batch says about itself.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
}
