//! Groups that sleep, disks that crawl, processes that end.

use net::protocol::{Answer, Mutation, Op, ReadConsistency};
use raft::Nanos;

use super::cluster::{Cluster, SHARDS, Settings, shard_of};
use super::{bytes, get, put, value, write};
use crate::core::Event;

fn sleeping() -> Cluster {
    let mut cluster = Cluster::with(Settings { hibernate: true, ..Settings::default() });
    cluster.pass_until("all groups sleep", 30_000, |cluster| all(cluster, |asleep| asleep));
    cluster
}

fn all(cluster: &mut Cluster, wanted: impl Fn(bool) -> bool) -> bool {
    cluster.nodes.iter().all(|node| node.core.status().shards.iter().all(|shard| wanted(shard.asleep)))
}

#[test]
fn idle_groups_say_nothing_and_wake_for_a_request() {
    let mut cluster = sleeping();
    let before = cluster.messages;
    cluster.pass(30_000);
    // Every 5 s the two followers of each group ask the two other nodes whether they still belong.
    let questions_max = (30 / 5 + 1) * u64::from(SHARDS + 1) * 2 * 2;
    // Every 10 s the three nodes tell each other which map they have, and how the groups stand that they lead.
    let accounts_max = (30 / 10 + 1) * 3 * 2 * 2;
    let said = cluster.messages - before;
    assert!(
        said <= questions_max + accounts_max,
        "nothing but signs of life, {questions_max} questions and {accounts_max} accounts: {said}"
    );
    assert!(all(&mut cluster, |asleep| asleep));
    let key = "k";
    assert!(cluster.do_at_leader(key, put(key, "v")).is_ok());
    let leader = cluster.leader_of(key);
    let shard = shard_of(key);
    assert!(!cluster.node(leader).shard(shard).unwrap().asleep);
    let others = (0..=SHARDS).filter(|other| *other != shard);
    assert!(others.clone().count() > 0);
    for other in others {
        assert!(cluster.node(leader).shard(other).unwrap().asleep, "shard {other} sleeps on");
    }
    cluster.pass_until("it sleeps again", 10_000, |cluster| all(cluster, |asleep| asleep));
}

#[test]
fn what_expires_goes_while_nobody_writes_and_wakes_its_group_once() {
    let mut cluster = sleeping();
    let key = "k";
    let passing = Mutation::Put { key: bytes(key), value: bytes("v"), ttl_ms: Some(60_000) };
    assert!(cluster.do_at_leader(key, write(vec![passing])).is_ok());
    let count = |cluster: &mut Cluster| {
        let consistency = ReadConsistency::Stale;
        let count = Op::Count { first_slot: 0, last_slot: 16383, consistency };
        match cluster.do_at_shard(shard_of(key), count) {
            Ok(Answer::Counted { count }) => count,
            other => panic!("{other:?}"),
        }
    };
    let applied = |cluster: &mut Cluster| {
        let leader = cluster.leader_of(key);
        cluster.node(leader).shard(shard_of(key)).unwrap().applied
    };
    cluster.pass_until("all groups sleep", 30_000, |cluster| all(cluster, |asleep| asleep));
    let before = applied(&mut cluster);
    cluster.pass(20_000);
    assert!(all(&mut cluster, |asleep| asleep), "nothing is due");
    assert_eq!((count(&mut cluster), applied(&mut cluster)), (1, before));
    cluster.pass_until("what has expired is gone", 60_000, |cluster| count(cluster) == 0);
    cluster.pass_until("it sleeps again", 10_000, |cluster| all(cluster, |asleep| asleep));
    assert_eq!(applied(&mut cluster), before + 1, "by one entry");
    cluster.pass(120_000);
    assert!(all(&mut cluster, |asleep| asleep), "nothing more is due");
    assert_eq!(applied(&mut cluster), before + 1);
}

#[test]
fn a_sleeping_group_answers_reads_at_every_replica() {
    let mut cluster = Cluster::with(Settings { hibernate: true, ..Settings::default() });
    assert!(cluster.do_at_leader("k", put("k", "v")).is_ok());
    cluster.pass_until("all groups sleep", 30_000, |cluster| all(cluster, |asleep| asleep));
    cluster.pass(10_000);
    for node in 1..=3 {
        let stale = cluster.ask(node, get("k", ReadConsistency::Stale), "k");
        cluster.settle();
        let answer = cluster.answer(node, stale).expect("answered at once");
        let Ok(net::protocol::Answer::Value { value: Some(_), freshness: Some(freshness) }) = answer else {
            panic!("{answer:?}")
        };
        assert!(freshness.lag_ms < 500, "as old as the last sign of life: {freshness:?}");
    }
    assert!(all(&mut cluster, |asleep| asleep), "stale reads wake nobody");
    for node in 1..=3 {
        let read = cluster.ask(node, get("k", ReadConsistency::Follower), "k");
        cluster.pass(500);
        assert_eq!(value(cluster.answer(node, read).expect("answered")).as_deref(), Some("v"));
    }
}

#[test]
fn a_sleeping_group_whose_leader_falls_silent_elects_another() {
    let mut cluster = sleeping();
    let leader = cluster.leader_of("k");
    cluster.cut.push(leader);
    cluster.pass_until("another leads", 5_000, |cluster| cluster.leader(shard_of("k")).is_some());
    assert!(cluster.do_at_leader("k", put("k", "v")).is_ok());
}

#[test]
fn a_leader_told_that_a_node_is_lost_gets_ticks_again() {
    let mut cluster = sleeping();
    let leader = cluster.leader_of("k");
    let lost = if leader == 1 { 2 } else { 1 };
    cluster.node(leader).events.push_back(Event::PeerLost { node: lost });
    cluster.settle();
    let before = cluster.messages;
    cluster.pass(500);
    assert!(cluster.messages > before, "its heartbeats go on");
    cluster.pass_until("all groups sleep again", 30_000, |cluster| all(cluster, |asleep| asleep));
}

#[test]
fn a_group_with_a_member_away_stays_awake() {
    let mut cluster = Cluster::with(Settings { hibernate: true, ..Settings::default() });
    cluster.cut.push(3);
    cluster.pass(20_000);
    for id in [1, 2] {
        let status = cluster.node(id).core.status();
        assert!(status.shards.iter().all(|shard| shard.role != "leader" || !shard.asleep));
    }
}

#[test]
fn a_core_with_a_slow_log_hands_its_groups_over_within_a_second() {
    let slow_write = Nanos::from_millis(300);
    let mut cluster = Cluster::with(Settings { slow_write, ..Settings::default() });
    cluster.pass(20_000);
    let leader = cluster.leader_of("k");
    let shard = shard_of("k");
    cluster.node(leader).disk_works = false;
    let id = cluster.ask(leader, put("k", "v"), "k");
    cluster.settle();
    assert!(cluster.answer(leader, id).is_some_and(|answer| answer.is_ok()), "the followers have it");
    cluster.pass_until("another leads", 1_000, |cluster| {
        (0..=SHARDS).all(|shard| cluster.leader(shard).is_some_and(|it| it != leader))
    });
    assert!(cluster.do_at_leader("k", put("k", "w")).is_ok());
    // As long as the log crawls they do not come back.
    for _ in 0..100 {
        cluster.pass(100);
        assert_ne!(cluster.leader(shard), Some(leader));
    }
    cluster.node(leader).release_writes();
    cluster.pass_until("they come back", 30_000, |cluster| cluster.leader(shard) == Some(leader));
}

#[test]
fn a_process_that_ends_hands_its_groups_over_first() {
    let mut cluster = sleeping();
    let leader = cluster.leader_of("k");
    cluster.node(leader).events.push_back(Event::Shutdown);
    cluster.pass_until("it has stopped", 2_000, |cluster| cluster.node(leader).stopped);
    let led = cluster.node(leader).core.status().shards.iter().filter(|shard| shard.role == "leader").count();
    assert_eq!(led, 0);
    cluster.cut.push(leader);
    cluster.pass(200);
    assert!(cluster.do_at_leader("k", put("k", "v")).is_ok(), "at once, without an election timeout");
}

#[test]
fn a_process_that_nobody_can_succeed_ends_all_the_same() {
    let mut cluster = Cluster::new();
    cluster.cut.extend([2, 3]);
    cluster.node(1).events.push_back(Event::Shutdown);
    cluster.pass_until("it has stopped", 4_000, |cluster| cluster.node(1).stopped);
}
