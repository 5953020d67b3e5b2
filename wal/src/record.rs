//! One record: a change of one stream, checksummed and bound to its place in its segment.
//!
//! ```text
//!  0 crc u32 | 4 payload_bytes u32 | 8 kind u8 | 9 entry kind u8 | 10 zero u16 | 12 sequence u32
//! 16 stream u64 | 24 a u64 | 32 b u64 | 40 payload
//!
//!            a          b      payload
//! append     index      term   the entry's payload
//! truncate   from       0
//! state      term       vote   commit u64
//! compact    index      term
//! remove     0          0
//! reset      index      term
//! mended     from LSN   to LSN  (of no stream)
//! ```
//!
//! `sequence` counts the records of one stream from 0 (wrapping), so that recovery can prove, after
//! damage, which streams lost nothing.

use bytes::Bytes;

use crate::segment::SegmentSeed;
use crate::types::{Entry, Lsn, StreamId, StreamState};
use crate::width::{get_u16, get_u32, get_u64, put_u32, put_u64, to_u32, to_u64, to_usize};

/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 40;

const COMMIT_BYTES: usize = 8;

const APPEND: u8 = 1;
const TRUNCATE: u8 = 2;
const STATE: u8 = 3;
const COMPACT: u8 = 4;
const REMOVE: u8 = 5;
const RESET: u8 = 6;
const MENDED: u8 = 7;

/// The stream of records that concern the log as a whole.
pub(crate) const NO_STREAM: StreamId = StreamId(u64::MAX);

/// What a record does to its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds one entry, replacing everything from its index on.
    Append(Entry),
    /// Drops the entries from this index on.
    Truncate {
        /// First index dropped.
        from_index: u64,
    },
    /// Replaces the state.
    State(StreamState),
    /// Drops the entries up to and including `index`, and remembers its term.
    Compact {
        /// Last index dropped.
        index: u64,
        /// Term of that entry.
        term: u64,
    },
    /// Forgets the stream.
    Remove,
    /// Drops all entries, whatever their indexes: the stream goes on after `index`.
    Reset {
        /// The index before the next entry.
        index: u64,
        /// Term of the entry at that index.
        term: u64,
    },
    /// Of no stream: what lay in `from..to` of the log is lost, and the streams it touched are gone too.
    Mended {
        /// Where the loss begins.
        from: Lsn,
        /// Where the log is whole again.
        to: Lsn,
    },
}

/// A change and the stream it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) stream: StreamId,
    pub(crate) sequence: u32,
    pub(crate) change: Change,
}

impl Record {
    /// Bytes the record takes in a batch, and the LSNs it consumes.
    pub(crate) fn len_bytes(&self) -> usize {
        let payload = match &self.change {
            Change::Append(entry) => entry.payload.len(),
            Change::State(_) => COMMIT_BYTES,
            Change::Truncate { .. }
            | Change::Compact { .. }
            | Change::Remove
            | Change::Reset { .. }
            | Change::Mended { .. } => 0,
        };
        RECORD_HEADER_BYTES + payload
    }

    /// Writes the record to the front of `buf`, which lies at `offset` of the segment. Answers its length.
    pub(crate) fn encode(&self, seed: SegmentSeed, offset: u64, buf: &mut [u8]) -> usize {
        let commit: [u8; COMMIT_BYTES];
        let (kind, entry_kind, a, b, payload): (u8, u8, u64, u64, &[u8]) = match &self.change {
            Change::Append(entry) => (APPEND, entry.kind, entry.index, entry.term, &entry.payload),
            Change::Truncate { from_index } => (TRUNCATE, 0, *from_index, 0, &[]),
            Change::State(state) => {
                commit = state.commit.to_le_bytes();
                (STATE, 0, state.term, state.vote, &commit)
            }
            Change::Compact { index, term } => (COMPACT, 0, *index, *term, &[]),
            Change::Remove => (REMOVE, 0, 0, 0, &[]),
            Change::Reset { index, term } => (RESET, 0, *index, *term, &[]),
            Change::Mended { from, to } => (MENDED, 0, from.0, to.0, &[]),
        };
        let len = RECORD_HEADER_BYTES + payload.len();
        let buf = &mut buf[..len];
        put_u32(buf, 4, to_u32(payload.len()));
        buf[8] = kind;
        buf[9] = entry_kind;
        buf[10] = 0;
        buf[11] = 0;
        put_u32(buf, 12, self.sequence);
        put_u64(buf, 16, self.stream.0);
        put_u64(buf, 24, a);
        put_u64(buf, 32, b);
        buf[RECORD_HEADER_BYTES..].copy_from_slice(payload);
        let crc = seed.crc(offset, &buf[4..]);
        put_u32(buf, 0, crc);
        len
    }
}

/// A record read back, its payload still in the buffer it was read into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordView<'a> {
    pub(crate) stream: StreamId,
    pub(crate) sequence: u32,
    kind: u8,
    entry_kind: u8,
    a: u64,
    b: u64,
    payload: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads and checks the record at the front of `bytes`, which lie at `offset` of the segment.
    /// Answers what is wrong if it is not one.
    pub(crate) fn parse(seed: SegmentSeed, offset: u64, bytes: &'a [u8]) -> Result<Self, &'static str> {
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err("a record is cut short");
        }
        let len = RECORD_HEADER_BYTES + to_usize(get_u32(bytes, 4));
        if bytes.len() < len {
            return Err("a record reaches past its batch");
        }
        let bytes = &bytes[..len];
        if seed.crc(offset, &bytes[4..]) != get_u32(bytes, 0) {
            return Err("a record's checksum does not match");
        }
        let view = Self {
            stream: StreamId(get_u64(bytes, 16)),
            sequence: get_u32(bytes, 12),
            kind: bytes[8],
            entry_kind: bytes[9],
            a: get_u64(bytes, 24),
            b: get_u64(bytes, 32),
            payload: &bytes[RECORD_HEADER_BYTES..],
        };
        let payload_fits = match view.kind {
            APPEND => true,
            STATE => view.payload.len() == COMMIT_BYTES,
            TRUNCATE | COMPACT | REMOVE | RESET | MENDED => view.payload.is_empty(),
            _ => return Err("a record is of an unknown kind"),
        };
        if !payload_fits || get_u16(bytes, 10) != 0 {
            return Err("a record has a malformed body");
        }
        Ok(view)
    }

    /// The stream and sequence that the bytes would name if a record began there, whatever follows.
    pub(crate) fn name(bytes: &[u8]) -> Option<(StreamId, u32)> {
        let plausible = bytes.len() >= RECORD_HEADER_BYTES
            && (APPEND..=MENDED).contains(&bytes[8])
            && get_u16(bytes, 10) == 0;
        plausible.then(|| (StreamId(get_u64(bytes, 16)), get_u32(bytes, 12)))
    }

    /// Bytes the record takes in its batch.
    pub(crate) fn len_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload.len()
    }

    /// The same, as a distance between LSNs.
    pub(crate) fn len_lsn(&self) -> u64 {
        to_u64(self.len_bytes())
    }

    /// The change, with its payload copied out of the buffer.
    pub(crate) fn change(&self) -> Change {
        match self.kind {
            APPEND => Change::Append(Entry {
                index: self.a,
                term: self.b,
                kind: self.entry_kind,
                payload: Bytes::copy_from_slice(self.payload),
            }),
            TRUNCATE => Change::Truncate { from_index: self.a },
            STATE => {
                Change::State(StreamState { term: self.a, vote: self.b, commit: get_u64(self.payload, 0) })
            }
            COMPACT => Change::Compact { index: self.a, term: self.b },
            REMOVE => Change::Remove,
            RESET => Change::Reset { index: self.a, term: self.b },
            MENDED => Change::Mended { from: Lsn(self.a), to: Lsn(self.b) },
            other => unreachable!("parse() refuses kind {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::SegmentHeader;
    use crate::types::SegmentId;

    fn seed() -> SegmentSeed {
        SegmentHeader { id: SegmentId(1), node_id: 1, core: 0, segment_bytes: 65536, nonce: 5 }.seed()
    }

    fn every_change() -> Vec<Change> {
        let entry = Entry { index: 7, term: 3, kind: 2, payload: Bytes::from_static(b"value") };
        vec![
            Change::Append(entry),
            Change::Truncate { from_index: 4 },
            Change::State(StreamState { term: 9, vote: 2, commit: 6 }),
            Change::Compact { index: 5, term: 3 },
            Change::Remove,
            Change::Reset { index: 8, term: 4 },
            Change::Mended { from: Lsn(70), to: Lsn(90) },
        ]
    }

    #[test]
    fn every_change_survives_a_round_trip_and_no_flipped_bit() {
        for change in every_change() {
            let record = Record { stream: StreamId(42), sequence: 11, change };
            let mut buf = vec![0; record.len_bytes()];
            assert_eq!(record.encode(seed(), 8192, &mut buf), buf.len());
            let view = RecordView::parse(seed(), 8192, &buf).expect("what was written");
            assert_eq!(
                (view.stream, view.sequence, view.change()),
                (StreamId(42), 11, record.change.clone())
            );
            assert!(RecordView::parse(seed(), 4096, &buf).is_err(), "another place");
            for bit in 0..buf.len() * 8 {
                let mut bad = buf.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(RecordView::parse(seed(), 8192, &bad).is_err(), "{:?} bit {bit}", record.change);
            }
        }
    }
}
