//! The machine by examples; `reference` compares it with a naive one on random logs.

mod division;
mod programs;
mod reference;
mod topology;

use raft::{ConfChange, ConfChangeStep, NodeId};

use super::*;
use crate::command::{KeyPlace, Mutation, NewValue, Session, StoredKeyBuf, encode, encode_removal};
use crate::store::MemEngine;

const PLACE: KeyPlace = KeyPlace { namespace: 0, slot: 42 };

/// The membership every test's group was founded with.
fn founders() -> ConfState {
    ConfState { voters: [1, 2, 3].map(NodeId).to_vec(), ..ConfState::default() }
}

fn machine() -> Machine {
    Machine::open(Arc::new(MemEngine::new()), founders()).expect("a machine")
}

fn put<'a>(key: &'a str, data: &'a str) -> Mutation<'a> {
    Mutation::Put { place: PLACE, key: key.as_bytes(), value: NewValue::plain(data.as_bytes()) }
}

fn put_until<'a>(key: &'a str, data: &'a str, expiry_ms: u64) -> Mutation<'a> {
    let value = NewValue { data: data.as_bytes(), flags: 0, expiry_ms };
    Mutation::Put { place: PLACE, key: key.as_bytes(), value }
}

fn delete(key: &str) -> Mutation<'_> {
    Mutation::Delete { place: PLACE, key: key.as_bytes() }
}

fn swap<'a>(key: &'a str, expected: Expected<'a>, new: Option<&'a str>) -> Mutation<'a> {
    let new = new.map(|data| NewValue::plain(data.as_bytes()));
    Mutation::CompareAndSwap { place: PLACE, key: key.as_bytes(), expected, new }
}

fn stamp(client: u64, sequence: u64, acked_below: u64) -> Option<Session> {
    Some(Session { client, sequence, acked_below })
}

fn entry(index: u64, time_ms: u64, session: Option<Session>, mutations: &[Mutation<'_>]) -> MachineEntry {
    let payload = encode(time_ms, index, session, mutations);
    MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome: true }
}

/// Applies one command and returns its outcome.
fn run(machine: &mut Machine, time_ms: u64, session: Option<Session>, mutations: &[Mutation<'_>]) -> Outcome {
    let index = machine.applied().index + 1;
    let batch = machine.apply(&[entry(index, time_ms, session, mutations)]).expect("apply");
    assert_eq!(batch.applied, Applied { index, term: 1 });
    assert_eq!(batch.outcomes.len(), 1);
    assert_eq!(batch.outcomes[0].0, index);
    batch.outcomes.into_iter().next().expect("one outcome").1
}

fn one(machine: &mut Machine, mutation: Mutation<'_>) -> MutationOutcome {
    match run(machine, 1, None, &[mutation]) {
        Outcome::One(outcome) => outcome,
        other => panic!("one mutation gave {other:?}"),
    }
}

fn read(machine: &Machine, key: &str, now_ms: u64) -> Option<(String, u64)> {
    let engine = machine.engine().as_ref();
    match read_value(engine, 0, 42, key.as_bytes(), now_ms, ReadTier::All).expect("read") {
        ReadValue::Found(value) => {
            Some((String::from_utf8(value.data.to_vec()).expect("text"), value.version))
        }
        ReadValue::Missing => None,
        ReadValue::NotInMemory => panic!("a read of every tier answers"),
    }
}

#[test]
fn puts_and_deletes_answer_what_they_did() {
    let mut machine = machine();
    assert_eq!(one(&mut machine, put("a", "1")), MutationOutcome::Put { version: 1 });
    assert_eq!(one(&mut machine, put("a", "2")), MutationOutcome::Put { version: 2 });
    assert_eq!(read(&machine, "a", 1), Some(("2".to_owned(), 2)));
    assert_eq!(one(&mut machine, delete("a")), MutationOutcome::Deleted { existed: true });
    assert_eq!(one(&mut machine, delete("a")), MutationOutcome::Deleted { existed: false });
    assert_eq!(read(&machine, "a", 1), None);
}

#[test]
fn a_swap_needs_what_it_expects() {
    let mut machine = machine();
    let refused = |current| MutationOutcome::NotSwapped { current };
    assert_eq!(one(&mut machine, swap("a", Expected::Version(0), Some("x"))), refused(None));
    assert_eq!(one(&mut machine, swap("a", Expected::Value(b""), Some("x"))), refused(None));
    let swapped = |version| MutationOutcome::Swapped { version };
    assert_eq!(one(&mut machine, swap("a", Expected::Absent, Some("1"))), swapped(3));
    assert_eq!(one(&mut machine, swap("a", Expected::Absent, Some("x"))), refused(Some(3)));
    assert_eq!(one(&mut machine, swap("a", Expected::Version(2), Some("x"))), refused(Some(3)));
    assert_eq!(one(&mut machine, swap("a", Expected::Value(b"2"), Some("x"))), refused(Some(3)));
    assert_eq!(read(&machine, "a", 1), Some(("1".to_owned(), 3)));
    assert_eq!(one(&mut machine, swap("a", Expected::Version(3), Some("2"))), swapped(7));
    assert_eq!(one(&mut machine, swap("a", Expected::Value(b"2"), None)), swapped(8));
    assert_eq!(read(&machine, "a", 1), None);
}

#[test]
fn a_batch_is_all_or_nothing_and_sees_itself() {
    let mut machine = machine();
    let both = run(&mut machine, 1, None, &[put("a", "1"), swap("a", Expected::Version(1), Some("2"))]);
    let expected = [MutationOutcome::Put { version: 1 }, MutationOutcome::Swapped { version: 1 }];
    assert_eq!(both.mutations(), expected);
    let mutations = [put("b", "x"), delete("a"), swap("a", Expected::Version(1), Some("3")), put("c", "x")];
    let refused = run(&mut machine, 1, None, &mutations);
    let none = MutationOutcome::NotApplied;
    assert_eq!(refused.mutations(), [none, none, MutationOutcome::NotSwapped { current: None }, none]);
    assert_eq!(read(&machine, "a", 1), Some(("2".to_owned(), 1)));
    assert_eq!((read(&machine, "b", 1), read(&machine, "c", 1)), (None, None));
    assert_eq!(run(&mut machine, 1, None, &[]).mutations(), []);
}

#[test]
fn entries_of_one_batch_see_each_other_and_a_refused_one_leaves_no_trace() {
    let mut machine = machine();
    one(&mut machine, put("a", "0"));
    let entries = [
        entry(2, 1, None, &[put("a", "1")]),
        entry(3, 1, None, &[put("a", "x"), delete("a"), swap("a", Expected::Version(1), None)]),
        entry(4, 1, None, &[swap("a", Expected::Value(b"1"), Some("2"))]),
        entry(5, 1, None, &[delete("b")]),
        entry(6, 1, None, &[put("b", "1"), delete("b"), delete("b")]),
    ];
    let outcomes = machine.apply(&entries).expect("apply").outcomes;
    let deleted = |existed| MutationOutcome::Deleted { existed };
    assert_eq!(outcomes[1].1.mutations()[2], MutationOutcome::NotSwapped { current: None });
    assert_eq!(outcomes[2].1, Outcome::One(MutationOutcome::Swapped { version: 4 }));
    assert_eq!(outcomes[3].1, Outcome::One(deleted(false)));
    assert_eq!(outcomes[4].1.mutations()[1..], [deleted(true), deleted(false)]);
    assert_eq!(read(&machine, "a", 1), Some(("2".to_owned(), 4)));
    assert_eq!(read(&machine, "b", 1), None);
}

#[test]
fn expiry_follows_the_entries_clock_which_never_runs_back() {
    let mut machine = machine();
    run(&mut machine, 100, None, &[put_until("a", "1", 200)]);
    assert_eq!(read(&machine, "a", 199), Some(("1".to_owned(), 1)));
    assert_eq!(read(&machine, "a", 200), None);
    let present = run(&mut machine, 199, None, &[swap("a", Expected::Absent, Some("x"))]);
    assert_eq!(present.mutations(), [MutationOutcome::NotSwapped { current: Some(1) }]);
    run(&mut machine, 250, None, &[put("b", "1")]);
    // A new leader whose clock is behind: what was expired stays expired.
    let deleted = run(&mut machine, 150, None, &[delete("a")]);
    assert_eq!(deleted.mutations(), [MutationOutcome::Deleted { existed: false }]);
    assert_eq!(machine.clock_ms(), 250);
    run(&mut machine, 150, None, &[put_until("c", "1", 240)]);
    let mut machine = Machine::open(Arc::clone(machine.engine()), founders()).expect("a restart");
    assert_eq!(machine.clock_ms(), 250);
    let swapped = run(&mut machine, 160, None, &[swap("c", Expected::Absent, Some("2"))]);
    assert_eq!(swapped.mutations(), [MutationOutcome::Swapped { version: 6 }]);
}

#[test]
fn what_has_expired_is_removed_and_what_was_written_since_is_not() {
    let mut machine = machine();
    run(&mut machine, 100, None, &[put_until("gone", "1", 200), put_until("kept", "1", 200)]);
    run(&mut machine, 100, None, &[put_until("refused", "1", 110), swap("none", Expected::Version(9), None)]);
    run(&mut machine, 150, None, &[put_until("kept", "2", 900), put_until("swapped", "1", 160)]);
    run(&mut machine, 170, None, &[swap("swapped", Expected::Absent, Some("2"))]);
    let stored = |machine: &Machine| {
        let page = machine.engine().scan(&[], &[0xff], usize::MAX, usize::MAX).expect("scan");
        let is_due = |key: &Bytes| key.starts_with(&[META_TAG, b'e']);
        let due = page.items.iter().filter(|(key, _)| is_due(key)).count();
        let data = page.items.iter().filter(|(key, _)| key[0] != META_TAG);
        let names = data.map(|(key, _)| String::from_utf8_lossy(&key[4..]).into_owned());
        (names.collect::<Vec<_>>(), due)
    };
    assert_eq!(stored(&machine), (["gone", "kept", "swapped"].map(str::to_owned).to_vec(), 4));
    // Nothing is removed but at the entries where the log says so, also after a restart.
    let mut machine = Machine::open(Arc::clone(machine.engine()), founders()).expect("a restart");
    for index in 5..=SWEEP_EVERY {
        assert_eq!(stored(&machine).1, 4, "before entry {index}");
        run(&mut machine, 500, None, &[put("other", "1")]);
    }
    assert_eq!(stored(&machine), (["kept", "other", "swapped"].map(str::to_owned).to_vec(), 1));
    assert_eq!(read(&machine, "kept", 500), Some(("2".to_owned(), 3)));
    assert_eq!(read(&machine, "swapped", 500), Some(("2".to_owned(), 4)));
    assert_eq!(
        one(&mut machine, swap("gone", Expected::Absent, Some("3"))),
        MutationOutcome::Swapped { version: SWEEP_EVERY + 1 }
    );
    // More at a time than one sweep takes: the next go on.
    for index in machine.applied().index + 1..=3 * SWEEP_EVERY {
        let keys: Vec<String> = (0..4).map(|at| format!("many{index}-{at}")).collect();
        let puts: Vec<_> = keys.iter().map(|key| put_until(key, "1", 600)).collect();
        run(&mut machine, 500, None, &puts);
    }
    for round in 0..6 {
        let many = stored(&machine).1;
        assert!(many <= 1 || round < 5, "{many} left in round {round}");
        for _ in 0..SWEEP_EVERY {
            run(&mut machine, 800, None, &[]);
        }
    }
    assert_eq!(stored(&machine), (["gone", "kept", "other", "swapped"].map(str::to_owned).to_vec(), 1));
}

#[test]
fn what_is_due_is_removed_by_an_entry_that_is_there_for_it() {
    let mut machine = machine();
    let removal = |index, time_ms| {
        let payload = encode_removal(time_ms, index);
        MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome: false }
    };
    let stored = |machine: &Machine, key: &str| {
        let key = StoredKeyBuf::new(PLACE.namespace, PLACE.slot, key.as_bytes());
        matches!(machine.engine().get(key.as_bytes(), ReadTier::All), Ok(Lookup::Found(_)))
    };
    run(&mut machine, 100, None, &[put_until("a", "1", 200), put_until("b", "1", 900), put("c", "1")]);
    assert_eq!(machine.times(), Times { clock_ms: 100, due_ms: 200 });
    machine.apply(&[removal(2, 199)]).expect("apply");
    assert!(stored(&machine, "a"), "not before it is due");
    machine.apply(&[removal(3, 200)]).expect("apply");
    assert!(!stored(&machine, "a") && stored(&machine, "b") && stored(&machine, "c"));
    assert_eq!(machine.times(), Times { clock_ms: 200, due_ms: 960 }, "rounded up");
    // In one batch with what it is to remove, and by a leader whose clock is behind.
    let late = entry(4, 950, None, &[put_until("d", "1", 970)]);
    machine.apply(&[late, removal(5, 990), removal(6, 100)]).expect("apply");
    assert!(!stored(&machine, "d") && !stored(&machine, "b") && stored(&machine, "c"));
    assert_eq!(machine.times(), Times { clock_ms: 990, due_ms: u64::MAX });
}

#[test]
fn a_retry_is_answered_and_not_applied_also_after_a_restart() {
    let mut machine = machine();
    let first = run(&mut machine, 1, stamp(9, 1, 0), &[swap("a", Expected::Absent, Some("1"))]);
    run(&mut machine, 1, None, &[delete("a")]);
    let again =
        |machine: &mut Machine| run(machine, 1, stamp(9, 1, 0), &[swap("a", Expected::Absent, Some("1"))]);
    assert_eq!(again(&mut machine), first);
    assert_eq!(read(&machine, "a", 1), None, "the retry changed nothing");
    let mut machine = Machine::open(Arc::clone(machine.engine()), founders()).expect("a restart");
    assert_eq!(machine.session_count(), 1);
    assert_eq!(again(&mut machine), first);
    // A refusal is remembered as well, and so is a whole batch.
    let batch = [put("b", "1"), swap("none", Expected::Version(7), None)];
    let refused = run(&mut machine, 1, stamp(9, 2, 0), &batch);
    assert_eq!(run(&mut machine, 1, stamp(9, 2, 0), &[put("b", "other")]), refused);
    assert_eq!(read(&machine, "b", 1), None);
}

#[test]
fn a_retry_within_one_batch_is_recognised() {
    let mut machine = machine();
    let entries = [
        entry(1, 1, stamp(9, 1, 0), &[put("a", "1")]),
        entry(2, 1, stamp(9, 1, 0), &[put("a", "1")]),
        entry(3, 1, stamp(8, 1, 0), &[put("b", "1")]),
    ];
    let outcomes = machine.apply(&entries).expect("apply").outcomes;
    assert_eq!(outcomes[0].1, outcomes[1].1);
    assert_eq!(outcomes[2].1, Outcome::One(MutationOutcome::Put { version: 3 }));
    assert_eq!(read(&machine, "a", 1), Some(("1".to_owned(), 1)));
}

#[test]
fn an_acknowledged_sequence_is_forgotten_and_then_refused() {
    let mut machine = machine();
    run(&mut machine, 1, stamp(9, 1, 0), &[put("a", "1")]);
    run(&mut machine, 1, stamp(9, 3, 3), &[put("a", "3")]);
    assert_eq!(run(&mut machine, 1, stamp(9, 1, 0), &[put("a", "late")]), Outcome::SessionExpired);
    assert_eq!(run(&mut machine, 1, stamp(9, 2, 0), &[put("a", "late")]), Outcome::SessionExpired);
    assert_eq!(read(&machine, "a", 1), Some(("3".to_owned(), 2)));
    let fresh = run(&mut machine, 1, stamp(9, 4, 3), &[put("a", "4")]);
    assert_eq!(fresh, Outcome::One(MutationOutcome::Put { version: 5 }));
}

#[test]
fn outcomes_and_sessions_are_bounded() {
    let limits = SessionLimits { sessions_max: 2, session_writes_max: 3, shard_outcomes_max: 5 };
    let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::new());
    let mut machine = Machine::open_with_limits(Arc::clone(&engine), founders(), limits).expect("a machine");
    for sequence in 1..=4 {
        run(&mut machine, 1, stamp(1, sequence, 0), &[put("a", "1")]);
    }
    // The lowest of four gave way, and cannot be told any more.
    assert_eq!(run(&mut machine, 1, stamp(1, 1, 0), &[put("a", "late")]), Outcome::SessionExpired);
    assert_eq!(
        run(&mut machine, 1, stamp(1, 2, 0), &[put("a", "late")]),
        Outcome::One(MutationOutcome::Put { version: 2 })
    );
    run(&mut machine, 1, stamp(2, 1, 0), &[put("b", "1")]);
    assert_eq!(machine.session_count(), 2);
    // A third client pushes out the one used longest ago, in memory and in the engine.
    run(&mut machine, 1, stamp(3, 1, 0), &[put("c", "1")]);
    assert_eq!(machine.session_count(), 2);
    assert_eq!(engine.get(&crate::command::session_key(1), ReadTier::All).expect("get"), Lookup::Missing);
    // A batch larger than a session may remember is remembered, but pushes other sessions out.
    let batch = [put("d", "1"), put("e", "1"), put("f", "1"), put("g", "1"), put("h", "1")];
    let first = run(&mut machine, 1, stamp(3, 2, 0), &batch);
    assert_eq!(machine.session_count(), 1);
    assert_eq!(run(&mut machine, 1, stamp(3, 2, 0), &[put("d", "late")]), first);
    let reopened = Machine::open_with_limits(engine, founders(), limits).expect("a restart");
    assert_eq!(reopened.session_count(), 1);
}

#[test]
fn empty_payloads_move_the_position_and_gaps_are_allowed() {
    let mut machine = machine();
    let empty = |index| MachineEntry {
        index,
        term: 4,
        kind: EntryKind::Noop,
        payload: Bytes::new(),
        want_outcome: true,
    };
    let batch = machine.apply(&[empty(3), empty(7)]).expect("apply");
    assert_eq!(batch.applied, Applied { index: 7, term: 4 });
    assert!(batch.outcomes.iter().all(|(_, outcome)| outcome.mutations().is_empty()));
    assert_eq!(machine.engine().applied().expect("applied"), Applied { index: 7, term: 4 });
    assert_eq!(machine.apply(&[]).expect("apply").applied, Applied { index: 7, term: 4 });
}

#[test]
#[should_panic(expected = "comes after entry")]
fn an_entry_is_not_applied_twice() {
    let mut machine = machine();
    let entry = entry(1, 1, None, &[put("a", "1")]);
    let _ = machine.apply(&[entry.clone(), entry]);
}

#[test]
fn what_cannot_be_applied_is_an_error_and_changes_nothing() {
    let mut machine = machine();
    let good = entry(1, 1, None, &[put("a", "1")]);
    let garbage = MachineEntry { payload: Bytes::from_static(b"garbage"), ..entry(2, 1, None, &[]) };
    let error = machine.apply(&[good.clone(), garbage]).expect_err("garbage");
    assert!(matches!(error, ApplyError::Decode { index: 2, .. }), "{error}");
    assert_eq!(machine.engine().applied().expect("applied"), Applied::default());
    let mut machine = Machine::open(Arc::clone(machine.engine()), founders()).expect("a machine");
    let other_version = MachineEntry { index: 2, ..good };
    let error = machine.apply(&[other_version]).expect_err("a version that is not the index");
    assert!(matches!(error, ApplyError::Version { index: 2, version: 1 }), "{error}");
}

#[test]
fn damaged_records_of_the_machine_are_named() {
    let write = |key: &[u8], value: &[u8]| {
        let engine = Arc::new(MemEngine::new());
        let writes = [Write::Put { key, value }];
        engine.apply(&WriteSet { applied: Applied { index: 1, term: 1 }, writes: &writes }).expect("apply");
        engine
    };
    let open = |engine| Machine::open(engine, founders()).map(drop).expect_err("damaged");
    assert!(matches!(open(write(&CLOCK_KEY, b"123")), MachineOpenError::Clock { bytes: 3 }));
    let session = crate::command::session_key(5);
    assert!(matches!(
        open(write(&session, b"\x09")),
        MachineOpenError::Session(SessionCorrupt { client: 5, .. })
    ));
    let key = crate::command::StoredKeyBuf::new(0, 42, b"a");
    let mut machine = Machine::open(write(key.as_bytes(), b"short"), founders()).expect("a machine");
    let error = machine.apply(&[entry(2, 1, None, &[delete("a")])]).expect_err("a damaged record");
    assert!(matches!(error, ApplyError::StoredRecord { index: 2, .. }), "{error}");
}

#[test]
fn scans_skip_the_expired_and_go_on_where_they_stopped() {
    let mut machine = machine();
    for (slot, key, expiry_ms) in
        [(5, "a", 0), (5, "b", 50), (5, "c", 0), (6, "", 0), (7, "z", 0), (8, "beyond", 0)]
    {
        let place = KeyPlace { namespace: 1, slot };
        let value = NewValue { data: b"v", flags: 3, expiry_ms };
        run(&mut machine, 1, stamp(1, 1, 1), &[]);
        run(&mut machine, 1, None, &[Mutation::Put { place, key: key.as_bytes(), value }]);
    }
    let engine = machine.engine().as_ref();
    for limit in 1..8 {
        let mut found = Vec::new();
        let mut start = ScanPosition { slot: 5, key: Bytes::new() };
        loop {
            let page = scan_values(engine, 1, &start, 7, 60, limit, 1 << 20).expect("scan");
            assert!(page.items.len() <= limit);
            found.extend(page.items.iter().map(|item| (item.slot, item.key.clone(), item.value.flags)));
            match page.next {
                Some(next) => start = next,
                None => break,
            }
        }
        let expected = [(5, "a"), (5, "c"), (6, ""), (7, "z")];
        assert_eq!(found, expected.map(|(slot, key)| (slot, Bytes::from(key), 3)), "limit {limit}");
    }
}

fn membership_change(index: u64, steps: &[ConfChangeStep]) -> MachineEntry {
    let payload = ConfChange { steps: steps.to_vec() }.encode();
    MachineEntry { index, term: 1, kind: EntryKind::ConfChange, payload, want_outcome: true }
}

#[test]
fn the_membership_is_the_initial_one_until_a_change_and_survives_a_restart() {
    let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::new());
    let open = |initial| Machine::open(Arc::clone(&engine), initial).expect("a machine");
    assert_eq!(open(founders()).conf_state(), &founders());
    let mut machine = open(founders());
    run(&mut machine, 1, None, &[put("a", "1")]);
    // From the first write on it is the stored one that counts, not what the caller thinks.
    let mut machine = open(ConfState::default());
    assert_eq!(machine.conf_state(), &founders());
    let learner = NodeId((9 << 20) | 4);
    let batch = machine
        .apply(&[
            entry(2, 1, None, &[put("a", "2")]),
            membership_change(3, &[ConfChangeStep::AddLearner(learner)]),
            entry(4, 1, None, &[put("a", "3")]),
        ])
        .expect("apply");
    assert_eq!(batch.outcomes.len(), 3);
    assert_eq!(machine.conf_state(), &ConfState { learners: vec![learner], ..founders() });
    // Replacing a voter goes through a joint state, and an empty change leaves it.
    let steps = [ConfChangeStep::AddVoter(learner), ConfChangeStep::Remove(NodeId(3))];
    machine.apply(&[membership_change(5, &steps)]).expect("apply");
    let joint = open(ConfState::default());
    assert_eq!(joint.conf_state().voters_outgoing, founders().voters);
    assert_eq!(joint.conf_state(), machine.conf_state());
    machine.apply(&[membership_change(6, &[])]).expect("apply");
    let voters = vec![NodeId(1), NodeId(2), learner];
    let left = ConfState { voters, ..ConfState::default() };
    assert_eq!(open(ConfState::default()).conf_state(), &left);
    assert_eq!(read(&machine, "a", 1), Some(("3".to_owned(), 4)));
}

#[test]
fn a_membership_change_that_does_not_fit_is_an_error_and_changes_nothing() {
    let mut machine = machine();
    let garbage = MachineEntry { payload: Bytes::from_static(b"garbage"), ..membership_change(1, &[]) };
    let error = machine.apply(&[garbage]).expect_err("garbage");
    assert!(matches!(error, ApplyError::ConfChange { index: 1, .. }), "{error}");
    assert_eq!(machine.engine().applied().expect("applied"), Applied::default());
    let writes = [Write::Put { key: &membership::KEY, value: b"\x09" }];
    let applied = Applied { index: 1, term: 1 };
    machine.engine().apply(&WriteSet { applied, writes: &writes }).expect("apply");
    let error = Machine::open(Arc::clone(machine.engine()), founders()).map(drop).expect_err("damaged");
    assert!(matches!(error, MachineOpenError::ConfState(_)), "{error}");
}
