//! A stale read shows a prefix of the log: what the key held at some entry between the applied index it tells and the
//! last one committed by now.

use bytes::Bytes;

use super::reference::Reference;
use super::{Verdict, violated};
use crate::command::Record;

/// The answer to a stale read of one key.
#[derive(Debug)]
pub struct StaleRead<'a> {
    /// The shard.
    pub shard: u32,
    /// The key as the state machine stores it.
    pub stored_key: &'a [u8],
    /// The applied index that the answer tells.
    pub applied_index: u64,
    /// Version and content of the value.
    pub value: Option<(u64, &'a Bytes)>,
}

/// A node answers.
pub fn check(reference: &Reference, node: u64, read: &StaleRead<'_>) -> Verdict {
    let past = reference.values(read.stored_key);
    let before = past.partition_point(|(index, _)| *index <= read.applied_index);
    let at_index = before.checked_sub(1).map_or(&None, |at| &past[at].1);
    let mut possible = std::iter::once(at_index).chain(past[before..].iter().map(|(_, value)| value));
    if possible.any(|stored| matches(stored.as_ref(), read.value)) {
        return Ok(());
    }
    let detail = format!(
        "node {node} told {read:?}; from there on the key held {:?}",
        &past[before.saturating_sub(1)..]
    );
    violated("stale reads show a prefix", detail)
}

fn matches(stored: Option<&Bytes>, told: Option<(u64, &Bytes)>) -> bool {
    let record = stored.and_then(|stored| Record::parse(stored).ok());
    match (record, told) {
        (None, None) => true,
        (Some(record), Some((version, data))) => record.version() == version && record.value() == &data[..],
        _ => false,
    }
}
