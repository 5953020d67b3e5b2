//! The format of a dump, read and written as a stream: no more than a block is in memory.
//!
//! ```text
//!   file    = header  block*  end
//!   header  = "RINGKVD1"  flags u32  created_ms u64  crc u32           flags bit 0: expiry times are kept
//!   block   = 1 u8  length u32  crc u32  record*                       length: of the records, in bytes
//!   record  = namespace u8  expiry_ms u64  key_length u32  value_length u32  key  value
//!   end     = 2 u8  8 u32  crc u32  records u64                        how many there are in the whole file
//! ```
//!
//! Numbers are little-endian. `expiry_ms` is wall time since 1970, 0 for a key that does not expire. Every `crc` is a
//! CRC-32C: of the header before it, or of kind, length and payload of a block. A file without its end is not whole.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

const MAGIC: &[u8; 8] = b"RINGKVD1";
const HEADER_BYTES: usize = 24;
const BLOCK_HEADER_BYTES: usize = 9;
const RECORD_META_BYTES: usize = 17;
const KEEPS_EXPIRY: u32 = 1;
const RECORDS: u8 = 1;
const END: u8 = 2;
/// A block is written once it has grown to this; a single larger record is a block of its own.
const BLOCK_BYTES: usize = 1024 * 1024;
/// No block is longer: the servers' longest values are far shorter.
const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// What stands at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// When the dump was begun, in wall time.
    pub created_ms: u64,
    /// Whether `expiry_ms` of the records says anything.
    pub keeps_expiry: bool,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key space it lives in.
    pub namespace: u8,
    /// When it expires, in wall time; 0: never.
    pub expiry_ms: u64,
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Why a dump cannot be read.
#[derive(Debug, Error)]
pub enum FormatError {
    /// Something else.
    #[error("this is no dump of RingKV")]
    NotADump,
    /// Not as it was written.
    #[error("the dump is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where the damaged block begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Its end is missing.
    #[error("the dump is cut off after byte {offset}: the dumping did not end, or a copy of it")]
    Truncated {
        /// Where the cut-off block begins.
        offset: u64,
    },
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Writes a dump.
pub struct Writer<W> {
    out: W,
    block: BytesMut,
    records: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a dump.
    pub fn new(mut out: W, header: Header) -> io::Result<Writer<W>> {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(if header.keeps_expiry { KEEPS_EXPIRY } else { 0 });
        bytes.put_u64_le(header.created_ms);
        bytes.put_u32_le(crc32c::crc32c(&bytes));
        out.write_all(&bytes)?;
        Ok(Writer { out, block: BytesMut::new(), records: 0 })
    }

    /// Adds a key.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let needed = RECORD_META_BYTES + record.key.len() + record.value.len();
        if !self.block.is_empty() && self.block.len() + needed > BLOCK_BYTES {
            self.write_block(RECORDS)?;
        }
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).map_err(|_| too_long());
        let (key_length, value_length) = (length(&record.key)?, length(&record.value)?);
        self.block.reserve(needed);
        self.block.put_u8(record.namespace);
        self.block.put_u64_le(record.expiry_ms);
        self.block.put_u32_le(key_length);
        self.block.put_u32_le(value_length);
        self.block.put_slice(&record.key);
        self.block.put_slice(&record.value);
        self.records += 1;
        Ok(())
    }

    /// Ends the dump; returns how many keys it holds, and where it went.
    pub fn finish(mut self) -> io::Result<(u64, W)> {
        if !self.block.is_empty() {
            self.write_block(RECORDS)?;
        }
        self.block.put_u64_le(self.records);
        self.write_block(END)?;
        self.out.flush()?;
        Ok((self.records, self.out))
    }

    fn write_block(&mut self, kind: u8) -> io::Result<()> {
        let length = u32::try_from(self.block.len()).map_err(|_| too_long())?;
        if length > BLOCK_BYTES_MAX {
            return Err(too_long());
        }
        let mut header = BytesMut::with_capacity(BLOCK_HEADER_BYTES);
        header.put_u8(kind);
        header.put_u32_le(length);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &self.block);
        header.put_u32_le(crc);
        self.out.write_all(&header)?;
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

fn too_long() -> io::Error {
    io::Error::other("a key or value is too long for a dump")
}

/// Reads a dump.
pub struct Reader<R> {
    input: R,
    header: Header,
    offset: u64,
    records: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(mut input: R) -> Result<Reader<R>, FormatError> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        input.by_ref().take(wide(HEADER_BYTES)).read_to_end(&mut bytes)?;
        let Some((head, crc)) = bytes.split_last_chunk::<4>() else { return Err(FormatError::NotADump) };
        if bytes.len() < HEADER_BYTES || !head.starts_with(MAGIC) {
            return Err(FormatError::NotADump);
        }
        if crc32c::crc32c(head) != u32::from_le_bytes(*crc) {
            return Err(FormatError::Damaged { offset: 0, what: "the checksum of its header is wrong" });
        }
        let mut rest = &head[MAGIC.len()..];
        let keeps_expiry = rest.get_u32_le() & KEEPS_EXPIRY != 0;
        let header = Header { created_ms: rest.get_u64_le(), keeps_expiry };
        Ok(Reader { input, header, offset: wide(HEADER_BYTES), records: 0, ended: false })
    }

    /// What stands at the head.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Where the next block begins, and how many records lie before it: to go on from there another day.
    pub fn position(&self) -> (u64, u64) {
        (self.offset, self.records)
    }

    /// Goes on where an earlier [`Reader::position`] was; `seek` moves the input there.
    pub fn go_on(
        &mut self,
        (offset, records): (u64, u64),
        seek: impl FnOnce(&mut R, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        seek(&mut self.input, offset)?;
        (self.offset, self.records) = (offset, records);
        Ok(())
    }

    /// The records of the next block; `None`: there are no more, and the dump is whole.
    pub fn next_block(&mut self) -> Result<Option<Vec<Record>>, FormatError> {
        if self.ended {
            return Ok(None);
        }
        let damaged = |what| FormatError::Damaged { offset: self.offset, what };
        let mut header = Vec::with_capacity(BLOCK_HEADER_BYTES);
        self.input.by_ref().take(wide(BLOCK_HEADER_BYTES)).read_to_end(&mut header)?;
        let Some((head, crc)) = header.split_last_chunk::<4>().filter(|_| header.len() == BLOCK_HEADER_BYTES)
        else {
            return Err(FormatError::Truncated { offset: self.offset });
        };
        let (kind, length) = (head[0], (&head[1..]).get_u32_le());
        if length > BLOCK_BYTES_MAX {
            return Err(damaged("a length is impossible"));
        }
        // Memory grows with what is there, not with what is announced.
        let mut payload = Vec::new();
        self.input.by_ref().take(u64::from(length)).read_to_end(&mut payload)?;
        if wide(payload.len()) < u64::from(length) {
            return Err(FormatError::Truncated { offset: self.offset });
        }
        if crc32c::crc32c_append(crc32c::crc32c(head), &payload) != u32::from_le_bytes(*crc) {
            return Err(damaged("a checksum is wrong"));
        }
        let records = match kind {
            RECORDS => records_of(payload.into()).ok_or_else(|| damaged("a record is not whole"))?,
            END if payload == self.records.to_le_bytes() => {
                self.ended = true;
                return Ok(None);
            }
            END => return Err(damaged("it does not hold as many keys as it says")),
            _ => return Err(damaged("a block is of an unknown kind")),
        };
        self.offset += wide(BLOCK_HEADER_BYTES) + u64::from(length);
        self.records += wide(records.len());
        Ok(Some(records))
    }
}

fn records_of(mut block: Bytes) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !block.is_empty() {
        if block.len() < RECORD_META_BYTES {
            return None;
        }
        let (namespace, expiry_ms) = (block.get_u8(), block.get_u64_le());
        let key_length = usize::try_from(block.get_u32_le()).ok()?;
        let value_length = usize::try_from(block.get_u32_le()).ok()?;
        if block.len() < key_length.checked_add(value_length)? {
            return None;
        }
        let (key, value) = (block.split_to(key_length), block.split_to(value_length));
        records.push(Record { namespace, expiry_ms, key, value });
    }
    Some(records)
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).expect("memory is smaller than 2^64")
}

#[cfg(test)]
mod tests;
