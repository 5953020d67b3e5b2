//! The cluster map among the records of the meta shard's state machine.
//!
//! ```text
//! META 't' 'b'            the map before the changes that are remembered
//! META 't' 'c' epoch u64  a change, big-endian so that they lie in order
//! META 't' 'm'            the map itself: of former versions, which wrote it with every change; nobody reads it
//! ```
//!
//! So a change costs what it is long; some thousand changes are applied when a replica starts.

use std::collections::VecDeque;

use bytes::Bytes;
use net::map::{decode_map, encode_map};
use thiserror::Error;

use crate::command::META_TAG;
use crate::store::{Lookup, ReadTier, StorageEngine, StoreError};
use crate::topology::{Change, Topology};

const MAP_KEY: [u8; 3] = [META_TAG, b't', b'm'];
const BASE_KEY: [u8; 3] = [META_TAG, b't', b'b'];
const CHANGE_KIND: [u8; 3] = [META_TAG, b't', b'c'];
const CHANGES_END: [u8; 3] = [META_TAG, b't', b'd'];
const PAGE_BYTES: usize = 1 << 20;

/// A record of the map that cannot be read: rebuild the replica from its peers by snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the record of {what} is damaged")]
pub struct TopologyCorrupt {
    /// Which.
    pub what: &'static str,
}

/// What to write: a key, and its record or that there is none any more.
pub(super) type Records = Vec<(Vec<u8>, Option<Bytes>)>;

/// The topology that an engine holds, if it holds one.
pub(super) fn load(
    engine: &dyn StorageEngine,
) -> Result<Result<Option<Topology>, TopologyCorrupt>, StoreError> {
    let base = match engine.get(&BASE_KEY, ReadTier::All)? {
        Lookup::Found(record) => decode_map(&record),
        Lookup::Missing => return Ok(Ok(None)),
        Lookup::NotInMemory => unreachable!("a read of every tier answers"),
    };
    let Ok(base) = base else { return Ok(Err(TopologyCorrupt { what: "the cluster map" })) };
    let mut changes = VecDeque::new();
    let mut start = CHANGE_KIND.to_vec();
    loop {
        let page = engine.scan(&start, &CHANGES_END, usize::MAX, PAGE_BYTES)?;
        for (key, record) in &page.items {
            let Some(change) = Change::decode(record) else {
                return Ok(Err(TopologyCorrupt { what: "a change of the cluster map" }));
            };
            changes.push_back(change);
            start = [key, &[0][..]].concat();
        }
        if !page.more {
            break;
        }
    }
    let topology = Topology::new(base, changes);
    Ok(topology.map(Some).map_err(|_| TopologyCorrupt { what: "the changes of the cluster map" }))
}

/// Applies a change, if it fits, and adds what is to be stored to `records`. Tells whether it did.
pub(super) fn apply(topology: &mut Option<Topology>, change: &Change, records: &mut Records) -> bool {
    let Some(known) = topology else {
        let Some(founded) = Topology::found(change) else { return false };
        records.push((BASE_KEY.to_vec(), Some(encode_map(founded.base()))));
        *topology = Some(founded);
        return true;
    };
    let Ok(accepted) = known.apply(change) else { return false };
    records.push((change_key(change.epoch), Some(change.encode())));
    if !accepted.forgotten.is_empty() {
        records.extend(accepted.forgotten.into_iter().map(|epoch| (change_key(epoch), None)));
        records.push((BASE_KEY.to_vec(), Some(encode_map(known.base()))));
        records.push((MAP_KEY.to_vec(), None));
    }
    true
}

fn change_key(epoch: u64) -> Vec<u8> {
    [&CHANGE_KIND[..], &epoch.to_be_bytes()].concat()
}
