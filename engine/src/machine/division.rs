//! Cutting a state machine in two, and the record of the slots that are its own.
//!
//! ```text
//! record = format u8 | first u16 | last u16 | is trimmed u8                           little-endian
//! ```
//!
//! A machine without the record takes every key: its group was never cut, and its leader looks at the slots. From the
//! entry on that cuts it, the machine itself refuses keys outside, for a leader that does not know of the cut yet may
//! propose them.
//!
//! The entry is carried out twice on each replica: on a copy of the state before it, which becomes the state of the new
//! shard's replica ([`found`]), and on the machine itself, whose slots it narrows. Both are at the entry's position then,
//! so the new shard's log goes on from there. The sessions go both ways: a write that was executed before the cut is
//! known as executed wherever its retry goes.
//!
//! Invariants:
//! - what an entry does to the slots is a function of the log alone, whatever the map says meanwhile;
//! - a cut removes no data: reads that began before it still find them. What is outside goes with a trim entry, which is
//!   proposed when no such read can be left.

use bumpalo::Bump;
use raft::mutation::{self, Mutation};
use raft::{ConfState, NodeId};
use thiserror::Error;

use super::membership;
use super::overlay::Overlay;
use crate::command::{Division, META_TAG, SESSION_RANGE, SLOT_LAST, slot_range_end, slot_range_start};
use crate::replica_id::{FOUNDING, node_of, raft_id};
use crate::store::{Applied, Lookup, ReadTier, StorageEngine, StoreError, Write, WriteSet};

/// First and last slot.
pub type Slots = (u16, u16);

/// What a machine that was cut, or was cut off another, has on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The slots that are its own.
    pub slots: Slots,
    /// Whether all that lies outside of them is gone.
    pub is_trimmed: bool,
}

/// Where the record is kept, written together with the position it belongs to.
pub(super) const KEY: [u8; 2] = [META_TAG, b'h'];
const FORMAT: u8 = 1;
const RECORD_BYTES: usize = 6;

/// A record of slots that cannot be read: rebuild the replica from its peers by snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the record of the shard's slots is damaged")]
pub struct SlotsCorrupt;

/// What becomes of a machine at an entry that cuts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The new shard.
    pub into: u32,
    /// The slots that stay.
    pub kept: Slots,
    /// The slots of the new shard.
    pub given: Slots,
    /// The new shard's first members: the founding replicas of the nodes that vote here.
    pub founders: ConfState,
}

impl Cut {
    /// What an entry does to a machine with these slots on record and these members. Nothing while the members change:
    /// whose replicas found the new group must be plain.
    pub(super) fn of(division: Division, recorded: Option<Domain>, members: &ConfState) -> Option<Cut> {
        let Division::Split { at, into, slots } = division else { return None };
        let (first, last) = recorded.map_or(slots, |domain| domain.slots);
        if at <= first || at > last || !members.voters_outgoing.is_empty() || members.voters.is_empty() {
            return None;
        }
        let mut founders: Vec<NodeId> =
            members.voters.iter().map(|id| NodeId(raft_id(node_of(id.0), FOUNDING))).collect();
        founders.sort_unstable();
        founders.dedup();
        let founders = ConfState { voters: founders, ..ConfState::default() };
        Some(Cut { into, kept: (first, at - 1), given: (at, last), founders })
    }
}

/// What `engine` has on record.
pub(crate) fn read(engine: &dyn StorageEngine) -> Result<Result<Option<Domain>, SlotsCorrupt>, StoreError> {
    match engine.get(&KEY, ReadTier::All)? {
        Lookup::Found(record) => Ok(decode(&record).map(Some)),
        Lookup::Missing => Ok(Ok(None)),
        Lookup::NotInMemory => unreachable!("a read of every tier answers"),
    }
}

/// Makes a copy of the state before a cut the state of the new shard at the position of the cut's entry, durably.
pub(crate) fn found(engine: &dyn StorageEngine, cut: &Cut, applied: Applied) -> Result<(), StoreError> {
    let (slots, members) =
        (encode(Domain { slots: cut.given, is_trimmed: false }), membership::encode(&cut.founders));
    let mut writes =
        vec![Write::Put { key: &KEY, value: &slots }, Write::Put { key: &membership::KEY, value: &members }];
    if mutation::active(Mutation::CutForgetsSessions) {
        writes.push(Write::DeleteRange { start: &SESSION_RANGE.0, end: &SESSION_RANGE.1 });
    }
    engine.apply(&WriteSet { applied, writes: &writes })?;
    engine.flush()
}

/// Removes everything outside of `own`, in the namespaces that have something there.
pub(super) fn trim<'a>(
    engine: &dyn StorageEngine,
    own: Slots,
    overlay: &mut Overlay<'a>,
    arena: &'a Bump,
) -> Result<(), StoreError> {
    for namespace in 0..=u8::MAX {
        let below = (slot_range_start(namespace, 0), slot_range_start(namespace, own.0));
        let above = (slot_range_end(namespace, own.1), slot_range_end(namespace, SLOT_LAST));
        for (start, end) in [below, above] {
            if start < end && !engine.scan(&start, &end, 1, 1)?.items.is_empty() {
                let (start, end) = (arena.alloc(start), arena.alloc(end));
                overlay.push(Write::DeleteRange { start: &start[..], end: &end[..] });
            }
        }
    }
    Ok(())
}

/// The record.
pub(super) fn encode(Domain { slots: (first, last), is_trimmed }: Domain) -> [u8; RECORD_BYTES] {
    let ([a, b], [c, d]) = (first.to_le_bytes(), last.to_le_bytes());
    [FORMAT, a, b, c, d, u8::from(is_trimmed)]
}

fn decode(record: &[u8]) -> Result<Domain, SlotsCorrupt> {
    match *record {
        [FORMAT, a, b, c, d, is_trimmed @ (0 | 1)] => {
            let slots = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            Ok(Domain { slots, is_trimmed: is_trimmed == 1 })
        }
        _ => Err(SlotsCorrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[u64], outgoing: &[u64]) -> ConfState {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        ConfState { voters: ids(voters), learners: ids(&[9]), voters_outgoing: ids(outgoing) }
    }

    #[test]
    fn a_record_is_read_back_and_a_damaged_one_is_refused() {
        let domain = |is_trimmed| Domain { slots: (513, 16383), is_trimmed };
        assert_eq!(decode(&encode(domain(true))), Ok(domain(true)));
        let record = encode(domain(false));
        assert_eq!(decode(&record), Ok(domain(false)));
        for bad in [&record[..5], &[2, 0, 0, 0, 0, 0], &[], &[1, 0, 0, 0, 0, 2], &[1; 7]] {
            assert_eq!(decode(bad), Err(SlotsCorrupt));
        }
    }

    #[test]
    fn a_cut_goes_by_the_slots_on_record_and_by_plain_members() {
        let split = Division::Split { at: 100, into: 7, slots: (0, 199) };
        let voters = [raft_id(3, 77), raft_id(1, FOUNDING)];
        let cut = Cut::of(split, None, &members(&voters, &[])).unwrap();
        assert_eq!((cut.into, cut.kept, cut.given), (7, (0, 99), (100, 199)));
        assert_eq!(cut.founders, ConfState { voters: vec![NodeId(1), NodeId(3)], ..ConfState::default() });
        let on_record = |slots| Some(Domain { slots, is_trimmed: true });
        assert_eq!(Cut::of(split, on_record((50, 120)), &members(&voters, &[])).unwrap().given, (100, 120));
        for recorded in [(0, 99), (100, 199), (200, 300)] {
            assert_eq!(Cut::of(split, on_record(recorded), &members(&voters, &[])), None, "{recorded:?}");
        }
        assert_eq!(Cut::of(split, None, &members(&voters, &[1])), None);
        assert_eq!(Cut::of(Division::Trim, None, &members(&voters, &[])), None);
    }
}
