//! Looks at one segment as it is, whatever state it is in: for `waldump`.
//!
//! Unlike recovery it judges nothing: every block that starts a sound batch of this life of the file is
//! shown, part of the log or not.

use crate::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::record::{Change, RecordView};
use crate::segment::SegmentHeader;
use crate::types::{BLOCK, BLOCK_BYTES, Lsn, StreamId};
use crate::width::{len_of, to_u64, to_usize};

/// One record found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRecord {
    /// Where it starts.
    pub lsn: Lsn,
    /// Offset in the file.
    pub offset: u64,
    /// Its stream.
    pub stream: StreamId,
    /// Its number among the stream's records.
    pub sequence: u32,
    /// What it does.
    pub change: Change,
}

/// What lies at one place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A sound batch header, its records up to the first damaged one, and where and how that is damaged.
    Batch {
        /// Offset in the file.
        offset: u64,
        /// What it says.
        header: BatchHeader,
        /// Its sound records.
        records: Vec<FoundRecord>,
        /// Offset of the first damaged record, and what is wrong.
        damage: Option<(u64, &'static str)>,
    },
    /// Blocks in which no batch starts: unused, left from an earlier life, or damaged.
    Other {
        /// Offset of the first.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// Whether they are all zero.
        zeros: bool,
        /// What is wrong with the first.
        why: &'static str,
    },
}

/// Everything in a segment whose header is `header` and whose whole contents are `bytes`.
pub fn inspect(header: &SegmentHeader, bytes: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = BLOCK_BYTES;
    while at < bytes.len() {
        let offset = to_u64(at);
        match BatchHeader::decode(header.id, header.seed(), offset, &bytes[at..]) {
            Ok(batch) => {
                let end = bytes.len().min(at + to_usize(batch.len_bytes));
                let (records, damage) = records(header, &batch, offset, &bytes[at..end]);
                found.push(Found::Batch { offset, header: batch, records, damage });
                at = end;
            }
            Err(why) => {
                let end = bytes.len().min(at + BLOCK_BYTES);
                let zeros = bytes[at..end].iter().all(|byte| *byte == 0);
                extend_other(&mut found, offset, to_u64(end - at), zeros, why);
                at = end;
            }
        }
    }
    found
}

fn extend_other(found: &mut Vec<Found>, at: u64, len: u64, is_zero: bool, why: &'static str) {
    if let Some(Found::Other { bytes, zeros, .. }) = found.last_mut().filter(|last| match last {
        Found::Other { zeros, .. } => *zeros == is_zero,
        Found::Batch { .. } => false,
    }) {
        *bytes += len;
        *zeros = is_zero;
        return;
    }
    found.push(Found::Other { offset: at, bytes: len, zeros: is_zero, why });
}

type Damage = Option<(u64, &'static str)>;

fn records(
    segment: &SegmentHeader,
    batch: &BatchHeader,
    offset: u64,
    bytes: &[u8],
) -> (Vec<FoundRecord>, Damage) {
    let end = bytes.len().min(BATCH_HEADER_BYTES + to_usize(batch.records_bytes));
    let (mut at, mut lsn) = (BATCH_HEADER_BYTES, batch.first_lsn);
    let mut records = Vec::new();
    while at < end {
        let place = offset + to_u64(at);
        match RecordView::parse(segment.seed(), place, &bytes[at..end]) {
            Ok(view) => {
                let (stream, sequence, change) = (view.stream, view.sequence, view.change());
                records.push(FoundRecord { lsn, offset: place, stream, sequence, change });
                at += view.len_bytes();
                lsn.0 += view.len_lsn();
            }
            Err(why) => return (records, Some((place, why))),
        }
    }
    let whole = len_of(u64::from(batch.len_bytes)) == bytes.len() && lsn == batch.end_lsn();
    (records, (!whole).then_some((offset + BLOCK, "the batch is cut short")))
}
