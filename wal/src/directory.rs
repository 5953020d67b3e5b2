//! The directory at the end of a batch: which streams have records in it, and which.
//!
//! ```text
//! per share: 0 stream u64 | 8 first sequence u32 | 12 records u32        then: crc u32
//! ```
//!
//! Needed only when a record of the batch is damaged: with it, the loss has a name, and every other stream is
//! known to be whole. Without it, any stream might have had a record there.

use crate::record::Record;
use crate::segment::SegmentSeed;
use crate::types::StreamId;
use crate::width::{get_u32, get_u64, put_u32, put_u64};

const SHARE_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Records of one stream with consecutive sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) stream: StreamId,
    pub(crate) first_sequence: u32,
    pub(crate) records: u32,
}

impl Share {
    pub(crate) fn holds(&self, stream: StreamId, sequence: u32) -> bool {
        self.stream == stream && sequence.wrapping_sub(self.first_sequence) < self.records
    }

    /// Whether `later` goes on where this ends.
    fn continues(&self, later: &Share) -> bool {
        self.stream == later.stream && self.first_sequence.wrapping_add(self.records) == later.first_sequence
    }
}

/// Bytes of a directory of `shares`.
pub(crate) fn len_bytes(shares: usize) -> usize {
    if shares == 0 { 0 } else { shares * SHARE_BYTES + CRC_BYTES }
}

/// The directory of a batch of these records. Empty if it would be longer than a batch header can say.
pub(crate) fn of(records: &[Record]) -> Vec<Share> {
    let mut runs: Vec<Share> = Vec::new();
    for record in records {
        let one = Share { stream: record.stream, first_sequence: record.sequence, records: 1 };
        match runs.last_mut().filter(|last| last.continues(&one)) {
            Some(last) => last.records += 1,
            None => runs.push(one),
        }
    }
    // Stable, so that the runs of one stream stay in order.
    runs.sort_by_key(|run| run.stream);
    runs.dedup_by(|later, earlier| {
        let joined = earlier.continues(later);
        if joined {
            earlier.records += later.records;
        }
        joined
    });
    if u16::try_from(runs.len()).is_err() {
        runs.clear();
    }
    runs
}

/// Writes a directory to the front of `buf`, which lies at `offset` of the segment. Answers its length.
pub(crate) fn encode(shares: &[Share], seed: SegmentSeed, offset: u64, buf: &mut [u8]) -> usize {
    let len = len_bytes(shares.len());
    if len == 0 {
        return 0;
    }
    let (entries, crc) = buf[..len].split_at_mut(len - CRC_BYTES);
    for (share, at) in shares.iter().zip((0..).step_by(SHARE_BYTES)) {
        put_u64(entries, at, share.stream.0);
        put_u32(entries, at + 8, share.first_sequence);
        put_u32(entries, at + 12, share.records);
    }
    put_u32(crc, 0, seed.crc(offset, entries));
    len
}

/// Reads the directory of `shares` at the front of `bytes`, which lie at `offset` of the segment. `None` if there
/// is none, or it is damaged.
pub(crate) fn decode(shares: u16, seed: SegmentSeed, offset: u64, bytes: &[u8]) -> Option<Vec<Share>> {
    let len = len_bytes(usize::from(shares));
    let bytes = bytes.get(..len).filter(|_| len > 0)?;
    let (entries, crc) = bytes.split_at(len - CRC_BYTES);
    if seed.crc(offset, entries) != get_u32(crc, 0) {
        return None;
    }
    let share = |entry: &[u8]| Share {
        stream: StreamId(get_u64(entry, 0)),
        first_sequence: get_u32(entry, 8),
        records: get_u32(entry, 12),
    };
    Some(entries.chunks_exact(SHARE_BYTES).map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Change;
    use crate::segment::SegmentHeader;
    use crate::types::SegmentId;

    fn records(list: &[(u64, u32)]) -> Vec<Record> {
        let record = |(stream, sequence): &(u64, u32)| Record {
            stream: StreamId(*stream),
            sequence: *sequence,
            change: Change::Remove,
        };
        list.iter().map(record).collect()
    }

    fn share(stream: u64, first_sequence: u32, records: u32) -> Share {
        Share { stream: StreamId(stream), first_sequence, records }
    }

    #[test]
    fn interleaved_records_become_one_share_per_stream_and_life() {
        let last = u32::MAX;
        let records = records(&[(2, last), (1, 5), (2, 0), (2, 1), (1, 6), (3, 9), (3, 0), (1, 7)]);
        let shares = of(&records);
        assert_eq!(shares, [share(1, 5, 3), share(2, last, 3), share(3, 9, 1), share(3, 0, 1)]);
        assert!(shares[1].holds(StreamId(2), 1) && !shares[1].holds(StreamId(2), 2));
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn a_directory_survives_a_round_trip_and_no_flipped_bit() {
        let seed =
            SegmentHeader { id: SegmentId(1), node_id: 1, core: 0, segment_bytes: 65536, nonce: 5 }.seed();
        let shares = vec![share(1, 5, 3), share(u64::MAX - 1, 0, 1)];
        let mut buf = vec![0; len_bytes(2)];
        assert_eq!(encode(&shares, seed, 96, &mut buf), buf.len());
        assert_eq!(decode(2, seed, 96, &buf), Some(shares));
        assert_eq!(decode(2, seed, 97, &buf), None, "another place");
        assert_eq!(decode(0, seed, 96, &buf), None);
        for bit in 0..buf.len() * 8 {
            let mut bad = buf.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(2, seed, 96, &bad), None, "bit {bit}");
        }
    }
}
