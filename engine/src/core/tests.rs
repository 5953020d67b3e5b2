//! Three cores in one thread, with a network and disks that do at once what they are asked: the machines alone, without
//! a driver.

mod cluster;
mod division;
mod maps;
mod members;
mod operators;
mod programs;
mod quiet;
mod snapshots;

use bytes::Bytes;
use net::protocol::{
    Answer, Expected, Mutation, MutationOutcome, Op, ReadConsistency, Refusal, WriteConsistency,
};
use net::slot::slot_of;
use net::types::RequestId;
use raft::Nanos;

use super::Event;
use crate::placement;
use cluster::{Cluster, SHARDS, Settings, shard_of};

fn put(key: &str, value: &str) -> Op {
    write(vec![Mutation::Put { key: bytes(key), value: bytes(value), ttl_ms: None }])
}

fn write(mutations: Vec<Mutation>) -> Op {
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations }
}

fn get(key: &str, consistency: ReadConsistency) -> Op {
    Op::Get { key: bytes(key), consistency }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn value(answer: Result<Answer, Refusal>) -> Option<String> {
    match answer.expect("an answer") {
        Answer::Value { value, .. } => value.map(|value| String::from_utf8(value.data.to_vec()).unwrap()),
        other => panic!("not a value: {other:?}"),
    }
}

#[test]
fn leaders_spread_as_preferred() {
    let mut cluster = Cluster::new();
    cluster.pass(20_000);
    for shard in 0..=SHARDS {
        assert_eq!(
            cluster.leader(shard),
            Some(placement::preferred_leader(shard, &[1, 2, 3])),
            "shard {shard}"
        );
    }
}

#[test]
fn a_write_is_read_back_from_every_replica() {
    let mut cluster = Cluster::new();
    // Until every shard is led by whom it should be: a read meanwhile may find no leader.
    cluster.pass(20_000);
    for number in 0..50 {
        let key = format!("key{number}");
        let done = cluster.do_at_leader(&key, put(&key, "v"));
        assert!(matches!(done, Ok(Answer::Written { .. })), "{done:?}");
    }
    for number in 0..50 {
        let key = format!("key{number}");
        for node in 1..=3 {
            let id = cluster.ask(node, get(&key, ReadConsistency::Follower), &key);
            cluster.pass(200);
            let answer = cluster.answer(node, id).expect("answered");
            assert_eq!(value(answer).as_deref(), Some("v"), "{key} at node {node}");
        }
    }
}

#[test]
fn compare_and_swap_tells_what_it_found() {
    let mut cluster = Cluster::new();
    let swap = |expected, new: &str| {
        write(vec![Mutation::CompareAndSwap { key: bytes("k"), expected, new: Some(bytes(new)) }])
    };
    let outcome = |answer| match answer {
        Ok(Answer::Written { outcomes, .. }) => outcomes[0],
        other => panic!("{other:?}"),
    };
    let first = outcome(cluster.do_at_leader("k", swap(Expected::Absent, "one")));
    let MutationOutcome::Swapped { version } = first else { panic!("{first:?}") };
    let again = outcome(cluster.do_at_leader("k", swap(Expected::Absent, "two")));
    assert_eq!(again, MutationOutcome::NotSwapped { current: Some(version) });
    let right = outcome(cluster.do_at_leader("k", swap(Expected::Version(version), "two")));
    assert!(matches!(right, MutationOutcome::Swapped { .. }));
    assert_eq!(
        value(cluster.do_at_leader("k", get("k", ReadConsistency::Linearizable))).as_deref(),
        Some("two")
    );
}

#[test]
fn nothing_is_acknowledged_before_a_majority_has_flushed() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader_of("k");
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node(id).disk_works = false;
    }
    let id = cluster.ask(leader, put("k", "v"), "k");
    cluster.settle();
    assert_eq!(cluster.answer(leader, id), None, "the leader alone has it");
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let held = std::mem::take(&mut cluster.node(other).held_writes);
    assert!(!held.is_empty());
    for batch in held {
        cluster.node(other).events.push_back(Event::WalWritten { batch });
    }
    cluster.settle();
    assert!(matches!(cluster.answer(leader, id), Some(Ok(Answer::Written { .. }))));
}

#[test]
fn a_write_may_be_acknowledged_before_the_leaders_own_flush() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader_of("k");
    cluster.node(leader).disk_works = false;
    let id = cluster.ask(leader, put("k", "v"), "k");
    cluster.settle();
    assert!(
        matches!(cluster.answer(leader, id), Some(Ok(Answer::Written { .. }))),
        "two followers have flushed it"
    );
}

#[test]
fn a_cut_off_leader_serves_no_reads_and_its_writes_end_unknown() {
    let mut cluster = Cluster::new();
    let old = cluster.leader_of("k");
    assert!(cluster.do_at_leader("k", put("k", "before")).is_ok());
    cluster.cut.push(old);
    let lost = cluster.ask(old, put("k", "lost"), "k");
    for _ in 0..100 {
        cluster.pass(50);
        if cluster.leader(1 + u32::from(slot_of(b"k")) * SHARDS / 16384).is_some() {
            break;
        }
    }
    assert_ne!(cluster.leader_of("k"), old);
    assert!(cluster.do_at_leader("k", put("k", "after")).is_ok());
    let stale = cluster.ask(old, get("k", ReadConsistency::Linearizable), "k");
    cluster.pass(3_000);
    let refused = cluster.answer(old, stale).expect("answered");
    assert!(refused.is_err(), "a deposed leader must not answer: {refused:?}");
    assert_eq!(cluster.answer(old, lost), Some(Err(Refusal::Timeout)));
    cluster.cut.clear();
    cluster.pass(2_000);
    assert_eq!(
        value(cluster.do_at_leader("k", get("k", ReadConsistency::Linearizable))).as_deref(),
        Some("after")
    );
}

#[test]
fn overload_is_refused_as_busy_and_passes() {
    let mut cluster = Cluster::idle(Settings { inflight_bytes_max: 64 << 10, ..Settings::default() });
    cluster.elect();
    let leader = cluster.leader_of("k");
    for id in 1..=3 {
        cluster.node(id).disk_works = false;
    }
    let value = "x".repeat(8 << 10);
    let asked: Vec<RequestId> = (0..40).map(|_| cluster.ask(leader, put("k", &value), "k")).collect();
    cluster.settle();
    let refused: Vec<_> = asked.iter().filter_map(|id| cluster.answer(leader, *id)).collect();
    assert!(refused.len() >= 30, "{} of 40 refused", refused.len());
    assert!(refused.iter().all(|answer| matches!(answer, Err(Refusal::Busy { .. }))));
    for id in 1..=3 {
        let node = cluster.node(id);
        node.disk_works = true;
        let held = std::mem::take(&mut node.held_writes);
        node.events.extend(held.into_iter().map(|batch| Event::WalWritten { batch }));
    }
    cluster.settle();
    assert!(cluster.do_at_leader("k", put("k", "small")).is_ok());
}

#[test]
fn requests_over_a_limit_or_for_another_shard_are_refused_with_the_reason() {
    let mut cluster = Cluster::new();
    let long = "k".repeat(2000);
    assert!(matches!(cluster.do_at_leader(&long, put(&long, "v")), Err(Refusal::TooLarge { .. })));
    let large = "v".repeat(70 << 10);
    assert!(matches!(cluster.do_at_leader("k", put("k", &large)), Err(Refusal::TooLarge { .. })));
    assert!(matches!(cluster.do_at_leader("k", write(Vec::new())), Err(Refusal::Invalid { .. })));
    let leader = cluster.leader_of("k");
    let id = cluster.ask(leader, put("another key", "v"), "k");
    cluster.settle();
    assert!(matches!(cluster.answer(leader, id), Some(Err(Refusal::WrongShard { .. }))));
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let id = cluster.ask(follower, put("k", "v"), "k");
    cluster.settle();
    assert!(
        matches!(cluster.answer(follower, id), Some(Err(Refusal::NotLeader { leader: Some(l), .. })) if l == leader)
    );
}

#[test]
fn reads_that_wait_are_bounded_in_bytes_and_each_is_answered() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader_of("k");
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    // The follower asks a leader that does not hear it: what comes now waits.
    cluster.cut.push(leader);
    let long = format!("{{k}}{}", "x".repeat(1000));
    let asked: Vec<RequestId> =
        (0..50).map(|_| cluster.ask(follower, get(&long, ReadConsistency::Follower), "k")).collect();
    cluster.settle();
    let answers: Vec<_> = asked.iter().map(|id| cluster.answer(follower, *id)).collect();
    let busy = answers.iter().filter(|answer| matches!(answer, Some(Err(Refusal::Busy { .. })))).count();
    assert!((40..50).contains(&busy), "{busy} of 50 refused: 8 KiB hold about seven");
    cluster.pass(5_000);
    let late: Vec<_> = asked.iter().filter_map(|id| cluster.answer(follower, *id)).collect();
    assert_eq!(late.len(), 50 - busy, "those that waited were answered in the end");
    assert!(late.iter().all(Result::is_err));
}

#[test]
fn a_leader_whose_peer_promises_no_votes_reads_by_quorum_alone() {
    let mut cluster = Cluster::new();
    assert!(cluster.do_at_leader("k", put("k", "v")).is_ok());
    let leader = cluster.leader_of("k");
    let promises = |cluster: &mut Cluster, millis| {
        let vote_hold = Nanos::from_millis(millis);
        let node = leader % 3 + 1;
        cluster.node(leader).events.push_back(Event::PeerLinked { node, vote_hold, store: 0 });
        cluster.settle();
    };
    let reads_alone = |cluster: &mut Cluster| {
        cluster.cut.push(leader);
        let read = cluster.ask(leader, get("k", ReadConsistency::Linearizable), "k");
        cluster.settle();
        cluster.cut.clear();
        let answered = cluster.answer(leader, read).is_some();
        cluster.pass(200);
        answered
    };
    cluster.pass(200);
    assert!(reads_alone(&mut cluster), "by its lease");
    promises(&mut cluster, 0);
    assert!(!reads_alone(&mut cluster), "the other may vote for another at any time");
    promises(&mut cluster, 500);
    assert!(reads_alone(&mut cluster), "it was restarted with leases");
}
