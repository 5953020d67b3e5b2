//! The history checker is itself checked: it passes what a linearizable store can do, and fails what it cannot.

use engine::sim::history::{
    Action, Answer, End, Exhausted, History, Record, STEPS_MAX, Verdict, Violation, check_register,
};

fn record(client: u32, times: (u64, u64), action: Action, answer: Answer) -> Record {
    let end = End::Ok { at: times.1, answer, version: None };
    Record { key: "k".to_owned(), client, invoked: times.0, action, end }
}

fn put(times: (u64, u64), value: u64) -> Record {
    record(1, times, Action::Put(value), Answer::Stored)
}

fn get(times: (u64, u64), found: Option<u64>) -> Record {
    record(2, times, Action::Get, Answer::Found(found))
}

fn delete(times: (u64, u64), existed: bool) -> Record {
    record(3, times, Action::Delete, Answer::Deleted(existed))
}

fn swap(times: (u64, u64), expected: Option<u64>, new: Option<u64>, made: bool) -> Record {
    record(4, times, Action::Swap { expected, new }, Answer::Swapped(made))
}

fn lost(invoked: u64, action: Action) -> Record {
    Record { key: "k".to_owned(), client: 5, invoked, action, end: End::Indeterminate }
}

fn failed(invoked: u64, action: Action) -> Record {
    Record { end: End::Failed, ..lost(invoked, action) }
}

fn versioned(mut record: Record, told: u64) -> Record {
    if let End::Ok { version, .. } = &mut record.end {
        *version = Some(told);
    }
    record
}

fn verdict(records: &[Record]) -> Verdict {
    check_register(&records.iter().collect::<Vec<_>>(), STEPS_MAX)
}

#[track_caller]
fn passes(records: &[Record]) {
    let verdict = verdict(records);
    assert!(matches!(verdict, Verdict::Linearizable), "{verdict:?}");
}

#[track_caller]
fn fails(records: &[Record]) {
    let verdict = verdict(records);
    assert!(matches!(verdict, Verdict::Violated { .. }), "{verdict:?}");
}

#[test]
fn a_sequential_history_passes() {
    passes(&[
        get((0, 1), None),
        put((2, 3), 1),
        get((4, 5), Some(1)),
        swap((6, 7), Some(1), Some(2), true),
        swap((8, 9), Some(1), Some(3), false),
        get((10, 11), Some(2)),
        delete((12, 13), true),
        delete((14, 15), false),
        swap((16, 17), None, Some(4), true),
        get((18, 19), Some(4)),
    ]);
}

#[test]
fn concurrent_operations_may_take_effect_in_any_order() {
    passes(&[put((0, 10), 1), put((0, 10), 2), get((11, 12), Some(1))]);
    passes(&[put((0, 10), 1), put((0, 10), 2), get((11, 12), Some(2))]);
    passes(&[put((0, 10), 1), get((1, 2), None), get((3, 4), Some(1))]);
}

#[test]
fn a_stale_read_fails() {
    fails(&[put((0, 1), 1), put((2, 3), 2), get((4, 5), Some(1))]);
}

#[test]
fn a_lost_write_fails() {
    fails(&[put((0, 1), 1), get((2, 3), None)]);
    fails(&[put((0, 1), 1), delete((2, 3), false)]);
}

#[test]
fn a_value_out_of_thin_air_fails() {
    fails(&[put((0, 1), 1), get((2, 3), Some(9))]);
    fails(&[get((0, 1), Some(9))]);
}

#[test]
fn reads_that_go_back_in_time_fail() {
    // While the put is pending either content is right, but not first the new and then the old.
    fails(&[put((0, 1), 1), put((2, 20), 2), get((3, 4), Some(2)), get((5, 6), Some(1))]);
}

#[test]
fn a_swap_made_twice_fails() {
    fails(&[put((0, 1), 1), swap((2, 10), Some(1), Some(2), true), swap((2, 10), Some(1), Some(3), true)]);
    passes(&[put((0, 1), 1), swap((2, 10), Some(1), Some(2), true), swap((2, 10), Some(1), Some(3), false)]);
}

#[test]
fn a_swap_refused_without_reason_fails() {
    fails(&[put((0, 1), 1), swap((2, 3), Some(1), Some(2), false)]);
}

#[test]
fn a_write_that_came_back_fails() {
    // The duplicate of an old put, executed again later.
    fails(&[put((0, 1), 1), put((2, 3), 2), get((4, 5), Some(2)), get((6, 7), Some(1))]);
    fails(&[put((0, 1), 1), delete((2, 3), true), get((4, 5), Some(1))]);
}

#[test]
fn a_write_in_doubt_may_take_effect_late_or_never() {
    let doubt = lost(0, Action::Put(1));
    passes(&[doubt.clone(), get((2, 3), None), get((100, 101), None)]);
    passes(&[doubt.clone(), get((2, 3), None), get((100, 101), Some(1))]);
    passes(&[doubt.clone(), get((2, 3), Some(1)), get((100, 101), Some(1))]);
    fails(&[doubt, get((2, 3), Some(1)), get((4, 5), None)]);
}

#[test]
fn a_write_in_doubt_takes_effect_at_most_once() {
    let doubt = lost(0, Action::Put(1));
    passes(&[doubt.clone(), get((1, 2), Some(1)), put((3, 4), 2), get((5, 6), Some(2))]);
    fails(&[doubt, get((1, 2), Some(1)), put((3, 4), 2), get((5, 6), Some(2)), get((7, 8), Some(1))]);
}

#[test]
fn a_write_in_doubt_does_not_take_effect_before_it_began() {
    fails(&[get((0, 1), Some(1)), lost(2, Action::Put(1))]);
}

#[test]
fn a_swap_in_doubt_takes_effect_only_where_it_fits() {
    let doubt = lost(2, Action::Swap { expected: Some(1), new: Some(2) });
    passes(&[put((0, 1), 1), doubt.clone(), get((3, 4), Some(2))]);
    fails(&[put((0, 1), 7), doubt, get((3, 4), Some(2))]);
}

#[test]
fn a_delete_in_doubt_explains_an_absence() {
    passes(&[put((0, 1), 1), lost(2, Action::Delete), get((3, 4), Some(1)), get((5, 6), None)]);
    passes(&[put((0, 1), 1), lost(2, Action::Delete), delete((3, 4), false)]);
}

#[test]
fn a_write_that_failed_must_not_be_seen() {
    passes(&[failed(0, Action::Put(1)), get((2, 3), None)]);
    fails(&[failed(0, Action::Put(1)), get((2, 3), Some(1))]);
}

#[test]
fn an_unseen_write_in_doubt_may_be_what_made_a_swap_fail() {
    passes(&[put((0, 1), 1), lost(2, Action::Put(9)), swap((3, 4), Some(1), Some(2), false)]);
    fails(&[
        put((0, 1), 1),
        lost(2, Action::Put(9)),
        swap((3, 4), Some(1), Some(2), false),
        get((5, 6), Some(1)),
    ]);
}

/// A simulated store: operations take effect at a random time inside their window. Always linearizable.
fn simulated(seed: u64, count: u64) -> Vec<Record> {
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut content = None;
    (0..count)
        .map(|value| {
            // Effects happen in order at 10, 20, 30, …; windows reach up to eight operations to either side.
            let effect_at = 1_000 + value * 10;
            let times = (effect_at - random(80), effect_at + random(80));
            let (action, answer) = match random(10) {
                0..4 => (Action::Put(value), Answer::Stored),
                4..7 => (Action::Get, Answer::Found(content)),
                7 => (Action::Delete, Answer::Deleted(content.is_some())),
                _ => {
                    let expected = if random(2) == 0 { content } else { Some(random(count)) };
                    let swapped = expected == content;
                    (Action::Swap { expected, new: Some(value) }, Answer::Swapped(swapped))
                }
            };
            match (action, answer) {
                (Action::Put(value), _) => content = Some(value),
                (Action::Delete, _) => content = None,
                (Action::Swap { new, .. }, Answer::Swapped(true)) => content = new,
                _ => {}
            }
            let mut record = record(0, times, action, answer);
            if random(20) == 0 {
                record.end = End::Indeterminate;
            }
            record
        })
        .collect()
}

#[test]
fn random_linearizable_histories_with_many_writes_in_doubt_pass() {
    for seed in 0..20 {
        passes(&simulated(seed, 400));
    }
}

#[test]
fn one_wrong_read_in_a_random_history_is_found() {
    for seed in 0..20 {
        let mut records = simulated(seed, 200);
        let at = records.iter().map(|record| record.invoked).max().unwrap() + 1_000;
        let stale = records.iter().find_map(|record| match (record.action, record.end) {
            (Action::Put(value), End::Ok { .. }) => Some(value),
            _ => None,
        });
        let last = put((at, at + 1), 1_000_000);
        records.push(last);
        passes(&records);
        records.push(get((at + 2, at + 3), stale));
        fails(&records);
    }
}

#[test]
fn the_search_is_bounded_and_says_so() {
    let records = simulated(1, 400);
    let verdict = check_register(&records.iter().collect::<Vec<_>>(), 100);
    assert!(matches!(verdict, Verdict::Undecided(Exhausted::Steps)), "{verdict:?}");
    let many: Vec<Record> = (0..129).map(|value| lost(value, Action::Put(value))).collect();
    let verdict = self::verdict(&many);
    assert!(matches!(verdict, Verdict::Undecided(Exhausted::Pending)), "{verdict:?}");
}

#[test]
fn a_violation_names_the_operation_and_what_was_possible() {
    let mut history = History::default();
    history.extend([put((0, 1), 1), get((2, 3), Some(9))]);
    let violation = history.check().unwrap_err().to_string();
    assert!(violation.contains("`k`") && violation.contains("Found(Some(9))"), "{violation}");
    assert!(violation.contains("[Some(1)]"), "{violation}");
}

#[test]
fn keys_are_registers_of_their_own() {
    let mut other = get((2, 3), None);
    other.key = "other".to_owned();
    let mut history = History::default();
    history.extend([put((0, 1), 1), other]);
    history.check().expect("the other key was never written");
    assert_eq!(history.count(|record| record.action == Action::Get), 1);
}

#[test]
fn versions_that_contradict_each_other_are_found() {
    let check = |records: &[Record]| {
        let mut history = History::default();
        history.extend(records.iter().cloned());
        history.check()
    };
    let first = versioned(put((0, 1), 1), 10);
    check(&[first.clone(), versioned(get((2, 3), Some(1)), 10)]).expect("one value, one version");
    let two_versions = check(&[first.clone(), versioned(get((2, 3), Some(1)), 11)]);
    assert!(matches!(two_versions, Err(Violation::Version(_))), "{two_versions:?}");
    let going_back = check(&[first.clone(), versioned(put((2, 3), 2), 9)]);
    assert!(matches!(going_back, Err(Violation::Version(_))), "{going_back:?}");
    let overlapping = [first, versioned(put((1, 3), 2), 9), versioned(get((4, 5), Some(1)), 10)];
    check(&overlapping).expect("what overlaps may have either order");
}
