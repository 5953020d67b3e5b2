//! A machine that is cut in two, and what is left when it is trimmed.

use net::resp;
use net::slot::slot_of;

use super::*;
use crate::command::{NewCommand, encode_program};

const SPLIT: Division = Division::Split { at: 8192, into: 9, slots: (0, 16383) };

/// Keys below and above the cut.
fn keys() -> (Vec<String>, Vec<String>) {
    (0..40).map(|number| format!("key{number}")).partition(|key| slot_of(key.as_bytes()) < 8192)
}

fn place(key: &str) -> KeyPlace {
    KeyPlace { namespace: 3, slot: slot_of(key.as_bytes()) }
}

fn put_at<'a>(key: &'a str, data: &'a str) -> Mutation<'a> {
    Mutation::Put { place: place(key), key: key.as_bytes(), value: NewValue::plain(data.as_bytes()) }
}

fn value(machine: &Machine, key: &str) -> Option<String> {
    let engine = machine.engine().as_ref();
    match read_value(engine, 3, slot_of(key.as_bytes()), key.as_bytes(), 1, ReadTier::All).expect("read") {
        ReadValue::Found(value) => Some(String::from_utf8(value.data.to_vec()).expect("text")),
        ReadValue::Missing => None,
        ReadValue::NotInMemory => panic!("a read of every tier answers"),
    }
}

fn divide(index: u64, division: Division) -> MachineEntry {
    let (kind, payload) = (EntryKind::Normal, division.encode());
    MachineEntry { index, term: 1, kind, payload, want_outcome: false }
}

/// What the apply thread does at the entry of a cut: the new shard's machine, then the entry on the old one.
fn cut(machine: &mut Machine, folder: &std::path::Path) -> Machine {
    let entry = divide(machine.applied().index + 1, SPLIT);
    let cut = machine.cut_by(&entry).expect("it can be cut");
    machine.engine().create_checkpoint(&folder.join("child")).expect("a copy");
    let engine = MemEngine::open(&folder.join("engine")).expect("an engine");
    engine.install_checkpoint(&folder.join("child")).expect("the copy");
    crate::machine::division::found(&engine, &cut, Applied { index: entry.index, term: entry.term })
        .expect("founded");
    machine.apply(&[entry]).expect("apply");
    Machine::open(Arc::new(engine), ConfState::default()).expect("the new shard's machine")
}

#[test]
fn each_half_takes_its_own_keys_and_knows_what_was_executed_before() {
    let folder = tempfile::tempdir().unwrap();
    let (low, high) = keys();
    let mut machine = machine();
    assert_eq!(machine.domain(), None);
    for key in low.iter().chain(&high) {
        run(&mut machine, 1, None, &[put_at(key, "before")]);
    }
    let first = run(&mut machine, 1, stamp(7, 1, 1), &[put_at(&high[0], "once")]);
    let mut child = cut(&mut machine, folder.path());
    let fresh = |slots| Some(Domain { slots, is_trimmed: false });
    assert_eq!((machine.domain(), child.domain()), (fresh((0, 8191)), fresh((8192, 16383))));
    assert_eq!(machine.applied(), child.applied());
    assert_eq!(child.conf_state(), &founders());
    // A retry of what was executed before, and a write that was proposed by whoever did not know of the cut.
    assert_eq!(run(&mut machine, 1, stamp(7, 1, 1), &[put_at(&high[0], "twice")]), Outcome::WrongShard);
    assert_eq!(run(&mut child, 1, stamp(7, 1, 1), &[put_at(&high[0], "twice")]), first);
    assert_eq!(value(&child, &high[0]).as_deref(), Some("once"));
    for (machine, own, other) in [(&mut machine, &low, &high), (&mut child, &high, &low)] {
        let sessions = machine.session_count();
        let refused = run(machine, 1, stamp(8, 1, 1), &[put_at(&own[1], "x"), put_at(&other[1], "x")]);
        assert_eq!((refused, machine.session_count()), (Outcome::WrongShard, sessions));
        assert_eq!(value(machine, &own[1]).as_deref(), Some("before"));
        let done = run(machine, 1, stamp(8, 1, 1), &[put_at(&own[1], "after")]);
        assert!(matches!(done, Outcome::One(MutationOutcome::Put { .. })), "{done:?}");
        assert_eq!(value(machine, &own[1]).as_deref(), Some("after"));
        // What was read before the cut is there to be read.
        assert_eq!(value(machine, &other[1]).as_deref(), Some("before"));
    }
}

#[test]
fn programs_outside_of_the_slots_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (low, high) = keys();
    let mut machine = machine();
    cut(&mut machine, folder.path());
    let mut program = |commands: &[&[&str]]| {
        let index = machine.applied().index + 1;
        let commands: Vec<Vec<Bytes>> = commands
            .iter()
            .map(|args| args.iter().map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect())
            .collect();
        let commands = commands.iter().map(|args| NewCommand { namespace: 3, args });
        let payload = encode_program(1, index, 1000, std::iter::empty(), commands);
        let entry = MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome: true };
        machine.apply(&[entry]).expect("apply").outcomes.remove(0).1
    };
    assert_eq!(program(&[&["set", &low[0], "1"], &["incr", &high[0]]]), Outcome::WrongShard);
    assert_eq!(program(&[&["exists", &high[0]], &["set", &low[0], "1"]]), Outcome::WrongShard);
    let mut one = bytes::BytesMut::new();
    resp::encode(&resp::Value::Integer(1), resp::Version::Resp3, &mut one);
    assert_eq!(program(&[&["incr", &low[0]]]), Outcome::Executed(Some(one.freeze())));
}

#[test]
fn trimming_leaves_each_half_its_own_whatever_the_batches() {
    for together in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (low, high) = keys();
        let mut machine = machine();
        for key in low.iter().chain(&high) {
            run(&mut machine, 1, None, &[put_at(key, "v")]);
        }
        let mut child = cut(&mut machine, folder.path());
        for (machine, own, other) in [(&mut machine, &low, &high), (&mut child, &high, &low)] {
            let index = machine.applied().index + 1;
            let entries = [
                entry(index, 1, None, &[put_at(&own[0], "w")]),
                divide(index + 1, Division::Trim),
                entry(index + 2, 1, None, &[put_at(&own[1], "w")]),
            ];
            if together {
                assert_eq!(machine.apply(&entries).expect("apply").outcomes.len(), 2);
            } else {
                entries.iter().for_each(|entry| drop(machine.apply(std::slice::from_ref(entry)).unwrap()));
            }
            assert!(own[..2].iter().all(|key| value(machine, key).as_deref() == Some("w")));
            assert!(own[2..].iter().all(|key| value(machine, key).as_deref() == Some("v")));
            assert!(other.iter().all(|key| value(machine, key).is_none()));
            assert!(machine.domain().is_some_and(|domain| domain.is_trimmed));
        }
    }
}

#[test]
fn slots_outlive_a_restart_and_an_entry_that_fits_no_more_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine();
    machine.apply(&[divide(1, Division::Trim)]).expect("nothing to trim");
    cut(&mut machine, folder.path());
    let again = divide(machine.applied().index + 1, SPLIT);
    assert_eq!(machine.cut_by(&again), None);
    machine.apply(&[again]).expect("apply");
    let reopened = Machine::open(machine.engine().clone(), founders()).expect("a machine");
    assert_eq!(reopened.domain(), Some(Domain { slots: (0, 8191), is_trimmed: false }));
    assert_eq!(reopened.domain(), machine.domain());
    // While the members change, whose replicas found the new group would not be plain.
    let steps = vec![ConfChangeStep::AddVoter(NodeId(4)), ConfChangeStep::Remove(NodeId(1))];
    let index = machine.applied().index + 1;
    let payload = ConfChange { steps }.encode();
    let joint = MachineEntry { index, term: 1, kind: EntryKind::ConfChange, payload, want_outcome: false };
    machine.apply(&[joint]).expect("apply");
    let split = divide(index + 1, Division::Split { at: 100, into: 10, slots: (0, 8191) });
    assert_eq!(machine.cut_by(&split), None);
}
