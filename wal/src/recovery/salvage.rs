//! What can still be read of a damaged batch, and whose records are gone.
//!
//! Invariant: a stream that is not named as lost has all its records of this batch among the sound ones.

use std::collections::BTreeSet;

use super::chain::Link;
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::directory::{self, Share};
use crate::record::RecordView;
use crate::types::StreamId;
use crate::width::to_u64;

/// The two halves of a damaged batch.
pub(super) struct Salvaged<'a> {
    /// The sound records and where in the batch they begin, in order.
    pub(super) records: Vec<(usize, RecordView<'a>)>,
    /// The streams that have lost some.
    pub(super) lost: BTreeSet<StreamId>,
    /// The streams that have lost some and then, within the batch, were removed and made anew.
    pub(super) lost_before: BTreeSet<StreamId>,
}

/// Takes a batch at `offset` of its segment apart. `None` if its directory cannot be read: then any stream may have
/// lost records.
pub(super) fn salvage<'a>(
    link: &Link,
    header: &BatchHeader,
    offset: u64,
    batch: &'a [u8],
) -> Option<Salvaged<'a>> {
    let end = header.records_end();
    let shares = directory::decode(header.shares, link.seed, offset + to_u64(end), &batch[end..])?;
    let mut found = vec![0; shares.len()];
    let mut records = Vec::new();
    let mut at = BATCH_HEADER_BYTES;
    while at < end {
        // A damaged record may say any length, so the next one may begin anywhere. Only what the directory
        // expects is looked at closely.
        let record = expected(&shares, &batch[at..end]).and_then(|share| {
            let view = RecordView::parse(link.seed, offset + to_u64(at), &batch[at..end]).ok()?;
            Some((share, view))
        });
        let Some((share, view)) = record else {
            at += 1;
            continue;
        };
        found[share] += 1;
        records.push((at, view));
        at += view.len_bytes();
    }
    let (mut lost, mut lost_before) = (BTreeSet::new(), BTreeSet::new());
    for (at, share) in shares.iter().enumerate().filter(|(at, share)| found[*at] < share.records) {
        let again = shares.get(at + 1).is_some_and(|next| next.stream == share.stream);
        if again { &mut lost_before } else { &mut lost }.insert(share.stream);
    }
    Some(Salvaged { records, lost, lost_before })
}

/// The share to which a record at the front of `bytes` would belong.
fn expected(shares: &[Share], bytes: &[u8]) -> Option<usize> {
    let (stream, sequence) = RecordView::name(bytes)?;
    let first = shares.partition_point(|share| share.stream < stream);
    let of_stream = shares[first..].iter().take_while(|share| share.stream == stream);
    of_stream.zip(first..).find(|(share, _)| share.holds(stream, sequence)).map(|(_, at)| at)
}
