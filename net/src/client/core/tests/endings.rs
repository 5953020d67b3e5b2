//! Beginnings among dead nodes, requests given up, sessions moving on, and the end of a client.

use super::*;

#[test]
fn the_last_endpoint_is_tried_though_those_before_it_stay_dead() {
    let endpoints = (1..=6).map(|node| format!("n{node}:7050")).collect();
    let mut script = Script::new(ClientConfig::new(endpoints));
    let mut tried = std::collections::BTreeSet::new();
    while tried.len() < 6 {
        while let Some((connection, address)) = script.dialled.pop() {
            tried.insert(address);
            script.down(connection);
        }
        assert!(script.now < Nanos(0).after(Duration::from_secs(1)), "only {tried:?} within a second");
        let at = script.core.next_deadline().expect("it goes on trying");
        script.pass(at.since(script.now));
    }
}

#[test]
fn a_cancelled_request_leaves_nothing_behind() {
    let (mut script, one, _) = Script::connected(ClientConfig { inflight_bytes_max: 1, ..config() });
    let first = script.submit(put("bar"), 1);
    script.submit(put("bar"), 2);
    let (_, sent) = script.take_sent();
    script.core.cancel(first, script.now);
    script.look();
    let (_, next) = script.take_sent();
    assert_eq!(stamp(&next).sequence, stamp(&sent).sequence + 1, "the window is free again");
    script.reply(one, &sent, written());
    assert!(script.completed.is_empty());
    script.reply(one, &next, written());
    assert_eq!(script.take_completed().0, 2);
    assert_eq!((script.core.pending_operations(), script.core.next_deadline()), (0, None));
}

#[test]
fn acked_below_advances_with_the_answers() {
    let (mut script, one, _) = Script::connected(config());
    for token in 1..=3 {
        script.submit(put("bar"), token);
        let (_, request) = script.take_sent();
        assert_eq!((stamp(&request).sequence, stamp(&request).acked_below), (token, token));
        script.reply(one, &request, written());
    }
}

#[test]
fn a_status_goes_to_its_endpoint_even_outside_the_map() {
    let (mut script, _, _) = Script::connected(config());
    let target = Target::Endpoint("elsewhere:1".into());
    script.core.submit(target, 0, Op::Status, 1, script.now).unwrap();
    script.look();
    let (connection, address) = script.take_dialled();
    assert_eq!(address, "elsewhere:1");
    script.up(connection, 3);
    let (to, request) = script.take_sent();
    assert_eq!((to, request.op), (connection, Op::Status));
}

#[test]
fn closing_ends_everything_and_says_what_is_in_doubt() {
    let (mut script, one, two) = Script::connected(ClientConfig { inflight_bytes_max: 1, ..config() });
    script.submit(put("bar"), 1);
    script.submit(put("bar"), 2);
    script.core.shut_down();
    script.look();
    assert!(matches!(&script.completed[0], (1, Err(ClientError::Indeterminate { .. }))));
    assert_eq!(script.completed[1], (2, Err(ClientError::Closed)));
    assert_eq!(script.closed, [one, two]);
    assert_eq!((script.core.pending_operations(), script.core.next_deadline()), (0, None));
}
