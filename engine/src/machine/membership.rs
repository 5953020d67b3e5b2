//! Who belongs to the group, as a record beside the data.
//!
//! ```text
//! record = format u8 | voters | learners | outgoing voters       each: count u32 | raft id u64 *   little-endian
//! ```

use std::path::Path;

use bytes::{Buf, BufMut};
use raft::{ConfState, NodeId};
use thiserror::Error;

use crate::command::META_TAG;
use crate::store::{Applied, Lookup, OpenError, ReadTier, StorageEngine, StoreError};

/// Where the record is kept, written together with the position it belongs to.
pub(super) const KEY: [u8; 2] = [META_TAG, b'm'];
const FORMAT: u8 = 1;

/// A membership record that cannot be read: rebuild the replica from its peers by snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the membership record is damaged: {what}")]
pub struct ConfStateCorrupt {
    /// What is wrong.
    pub what: &'static str,
}

/// The record of `engine`, if it holds one.
pub(super) fn read(
    engine: &dyn StorageEngine,
) -> Result<Result<Option<ConfState>, ConfStateCorrupt>, StoreError> {
    match engine.get(&KEY, ReadTier::All)? {
        Lookup::Found(record) => Ok(decode(&record).map(Some)),
        Lookup::Missing => Ok(Ok(None)),
        Lookup::NotInMemory => unreachable!("a read of every tier answers"),
    }
}

/// The position of the checkpoint at `path`, and the membership record it holds, if it holds one.
pub(crate) fn of_checkpoint(
    engine: &dyn StorageEngine,
    path: &Path,
) -> Result<(Applied, Result<Option<ConfState>, ConfStateCorrupt>), OpenError> {
    let (applied, record) = engine.read_checkpoint(path, &KEY)?;
    Ok((applied, record.map(|record| decode(&record)).transpose()))
}

/// The record of a membership.
pub(super) fn encode(state: &ConfState) -> Vec<u8> {
    let mut record = vec![FORMAT];
    for nodes in [&state.voters, &state.learners, &state.voters_outgoing] {
        record.put_u32_le(u32::try_from(nodes.len()).expect("a group has few members"));
        nodes.iter().for_each(|node| record.put_u64_le(node.0));
    }
    record
}

/// Reads a record.
pub(super) fn decode(mut record: &[u8]) -> Result<ConfState, ConfStateCorrupt> {
    let corrupt = |what| ConfStateCorrupt { what };
    match record.try_get_u8() {
        Ok(FORMAT) => {}
        Ok(_) => return Err(corrupt("its format is not known")),
        Err(_) => return Err(corrupt("it is empty")),
    }
    let mut nodes = || -> Result<Vec<NodeId>, ConfStateCorrupt> {
        let short = |_| corrupt("it is cut short");
        let count = record.try_get_u32_le().map_err(short)?;
        (0..count).map(|_| record.try_get_u64_le().map(NodeId).map_err(short)).collect()
    };
    let state = ConfState { voters: nodes()?, learners: nodes()?, voters_outgoing: nodes()? };
    if record.is_empty() { Ok(state) } else { Err(corrupt("bytes trail it")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_damaged_one_is_refused() {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let state = ConfState {
            voters: nodes(&[1, 2, (7 << 20) | 3]),
            learners: nodes(&[u64::MAX]),
            voters_outgoing: nodes(&[]),
        };
        let record = encode(&state);
        assert_eq!(decode(&record), Ok(state));
        for cut in 0..record.len() {
            assert!(decode(&record[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode(&[&record[..], &[0]].concat()).is_err());
        assert!(decode(&[&[9], &record[1..]].concat()).is_err());
        assert_eq!(decode(&encode(&ConfState::default())), Ok(ConfState::default()));
    }
}
