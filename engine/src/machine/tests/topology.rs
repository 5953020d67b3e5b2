//! The cluster map in the meta shard's state machine.

use super::*;
use crate::topology::tests::founding;
use crate::topology::{Change, Place, What};

fn change(machine: &mut Machine, what: What) {
    let epoch = machine.topology().map_or(1, |topology| topology.map().epoch + 1);
    let payload = Change { epoch, what }.encode();
    let index = machine.applied().index + 1;
    let entry = MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome: false };
    assert_eq!(machine.apply(&[entry]).expect("apply").changes.len(), 1, "it fits");
}

#[test]
fn the_map_is_there_after_a_restart_whatever_was_forgotten_of_its_past() {
    let mut machine = machine();
    change(&mut machine, What::Found(Box::new(founding())));
    for turn in 0..2100u64 {
        let nodes = vec![1 + turn % 3, 1 + (turn + 1) % 3];
        change(&mut machine, What::Place(vec![Place { shard: 1, nodes, pinned: false }]));
        if [0, 1, 1024, 2046, 2047, 2048, 2099].contains(&turn) {
            let again = Machine::open(machine.engine().clone(), ConfState::default()).expect("open");
            assert_eq!(again.topology(), machine.topology(), "after {turn} changes");
        }
    }
    let topology = machine.topology().expect("it was founded");
    assert_eq!((topology.map().epoch, topology.base().epoch), (2101, 1025));
}
