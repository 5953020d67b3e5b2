//! A segment file: its name, its header block, and the seed that binds its contents to its life.
//!
//! ```text
//! offset 0          4096                                             segment_bytes
//!        | header   | batch | batch | batch | ... | zeros or stale bytes |
//! ```
//!
//! Invariants: a file called `<id>.wal` has a durable, valid header of that very id (it gets its name
//! only afterwards; until then it is `<id>.tmp`). Ids grow and are never reused, so bytes that an
//! earlier life of a recycled file left behind fail every checksum of the present one.

use crate::types::{BLOCK, BLOCK_BYTES, SegmentId};
use crate::width::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};

/// Version of segments, batches and records as they are written.
///
/// 2 added the records `reset` and `mended`, and the directory of a batch. A release that knows less must refuse the log instead of taking what it does
/// not know for damage.
pub const FORMAT_VERSION: u16 = 2;

/// The oldest version that is still read.
pub const FORMAT_VERSION_OLDEST: u16 = 1;

/// Whether this release reads that version.
pub(crate) fn is_read(version: u16) -> bool {
    (FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&version)
}

const MAGIC: &[u8; 8] = b"RKVWALSG";
const CRC_AT: usize = 48;

/// What the first block of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// This life of the file.
    pub id: SegmentId,
    /// The node that wrote it.
    pub node_id: u64,
    /// The core that wrote it.
    pub core: u16,
    /// Length of the file.
    pub segment_bytes: u64,
    /// Random, unknown to clients: seeds every checksum, so no value a client stores can pass for a batch.
    pub nonce: u64,
}

/// Why a header block is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentHeaderError {
    /// Not a segment, or damaged.
    Damaged,
    /// Written by another release.
    Version(u16),
}

impl SegmentHeader {
    /// The header as the first block of the file.
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[..8].copy_from_slice(MAGIC);
        put_u16(&mut block, 8, FORMAT_VERSION);
        put_u16(&mut block, 10, self.core);
        put_u64(&mut block, 16, self.node_id);
        put_u64(&mut block, 24, self.id.0);
        put_u64(&mut block, 32, self.segment_bytes);
        put_u64(&mut block, 40, self.nonce);
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        put_u32(&mut block, CRC_AT, crc);
        block
    }

    /// Reads a header block.
    pub fn decode(block: &[u8]) -> Result<Self, SegmentHeaderError> {
        if block.len() < CRC_AT + 4 || &block[..8] != MAGIC {
            return Err(SegmentHeaderError::Damaged);
        }
        if crc32c::crc32c(&block[..CRC_AT]) != get_u32(block, CRC_AT) {
            return Err(SegmentHeaderError::Damaged);
        }
        let version = get_u16(block, 8);
        if !is_read(version) {
            return Err(SegmentHeaderError::Version(version));
        }
        let header = Self {
            id: SegmentId(get_u64(block, 24)),
            node_id: get_u64(block, 16),
            core: get_u16(block, 10),
            segment_bytes: get_u64(block, 32),
            nonce: get_u64(block, 40),
        };
        let whole_blocks =
            header.segment_bytes.is_multiple_of(BLOCK) && u32::try_from(header.segment_bytes).is_ok();
        if header.id.0 == 0 || !whole_blocks {
            return Err(SegmentHeaderError::Damaged);
        }
        Ok(header)
    }

    pub(crate) fn seed(&self) -> SegmentSeed {
        let crc = crc32c::crc32c(&self.nonce.to_le_bytes());
        SegmentSeed(crc32c::crc32c_append(crc, &self.id.0.to_le_bytes()))
    }
}

/// Seeds the checksums of one segment's batches and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentSeed(u32);

impl SegmentSeed {
    /// Checksum of `bytes` lying at `offset` of the segment: the same bytes anywhere else, or in
    /// another life of the file, have another one.
    pub(crate) fn crc(self, offset: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), bytes)
    }
}

/// Name of a usable segment inside the WAL's folder.
pub fn file_name(id: SegmentId) -> String {
    format!("{:016x}.wal", id.0)
}

/// Name of a segment that is still being made.
pub fn unfinished_name(id: SegmentId) -> String {
    format!("{:016x}.tmp", id.0)
}

/// The segment a file name stands for, if it is one of [`file_name`]'s.
pub fn parse_file_name(name: &str) -> Option<SegmentId> {
    parse(name.strip_suffix(".wal")?)
}

/// The segment an unfinished file stands for, if it is one of [`unfinished_name`]'s.
pub fn parse_unfinished_name(name: &str) -> Option<SegmentId> {
    parse(name.strip_suffix(".tmp")?)
}

fn parse(stem: &str) -> Option<SegmentId> {
    if stem.len() != 16 || !stem.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    u64::from_str_radix(stem, 16).ok().filter(|id| *id != 0).map(SegmentId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader { id: SegmentId(9), node_id: 3, core: 2, segment_bytes: 1 << 20, nonce: 77 }
    }

    #[test]
    fn header_survives_a_round_trip_and_no_flipped_bit() {
        let block = header().encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(header()));
        for bit in 0..(CRC_AT + 4) * 8 {
            let mut bad = block;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut block = header().encode();
        put_u16(&mut block, 8, FORMAT_VERSION + 1);
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        put_u32(&mut block, CRC_AT, crc);
        assert_eq!(SegmentHeader::decode(&block), Err(SegmentHeaderError::Version(FORMAT_VERSION + 1)));
    }

    #[test]
    fn older_versions_are_read() {
        for version in FORMAT_VERSION_OLDEST..=FORMAT_VERSION {
            let mut block = header().encode();
            put_u16(&mut block, 8, version);
            let crc = crc32c::crc32c(&block[..CRC_AT]);
            put_u32(&mut block, CRC_AT, crc);
            assert_eq!(SegmentHeader::decode(&block), Ok(header()));
        }
    }

    #[test]
    fn names_are_their_own_inverse_and_strangers_are_ignored() {
        let id = SegmentId(0xabc);
        assert_eq!(parse_file_name(&file_name(id)), Some(id));
        assert_eq!(parse_unfinished_name(&unfinished_name(id)), Some(id));
        for stranger in
            ["lock", "0.wal", "0000000000000000.wal", "000000000000000G.wal", "+00000000000000a.wal"]
        {
            assert_eq!(parse_file_name(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn the_same_bytes_elsewhere_have_another_checksum() {
        let seed = header().seed();
        assert_ne!(seed.crc(4096, b"x"), seed.crc(8192, b"x"));
        let next_life = SegmentHeader { id: SegmentId(10), ..header() }.seed();
        assert_ne!(seed.crc(4096, b"x"), next_life.crc(4096, b"x"));
    }
}
