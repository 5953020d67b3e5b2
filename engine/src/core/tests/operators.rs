//! What operators ask of the cluster, and what the controller makes of who is heard and who is not.

use std::sync::Arc;

use net::map::{META_SHARD, NodeInfo};
use net::protocol::{Answer, ClusterAccount, ClusterOp, Op, ReadConsistency, Refusal};
use raft::Nanos;

use super::cluster::{Cluster, SHARDS, shard_of};
use super::{get, put, value};
use crate::core::{Event, MapNews, usize_of};

/// Asks the leader of the meta shard until it is not busy.
fn operate(cluster: &mut Cluster, op: &ClusterOp) -> Result<ClusterAccount, Refusal> {
    for _ in 0..50 {
        let leader = cluster.leader(META_SHARD).expect("the meta shard has a leader");
        let asked = cluster.ask_shard(leader, Op::Cluster(op.clone()), META_SHARD);
        cluster.pass(200);
        match cluster.answer(leader, asked).expect("answered") {
            Err(Refusal::Busy { .. }) => {}
            answer => {
                return answer.map(|answer| match answer {
                    Answer::Cluster(account) => *account,
                    other => panic!("not an account: {other:?}"),
                });
            }
        }
    }
    panic!("busy for ever")
}

fn refused(answer: Result<ClusterAccount, Refusal>) -> String {
    match answer {
        Err(Refusal::Conflict { why }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_begun_that_waits_for_a_silent_node() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader(META_SHARD).unwrap();
    let silent = leader % 3 + 1;
    let split = ClusterOp::Split { shard: 1, at: None, dry_run: true };
    let to = ClusterOp::Move { shard: 1, nodes: vec![leader, silent], dry_run: true };
    for op in [&split, &to] {
        operate(&mut cluster, op).expect("all nodes are there");
    }
    cluster.cut.push(silent);
    cluster.pass(5_000);
    let why = refused(operate(&mut cluster, &split));
    assert!(
        why.contains(&format!("node {silent}, which holds a replica of shard 1, was not heard of")),
        "{why}"
    );
    let why = refused(operate(&mut cluster, &to));
    assert!(why.contains(&format!("node {silent} was not heard of for")), "{why}");
    cluster.cut.clear();
    cluster.pass(5_000);
    for op in [&split, &to] {
        operate(&mut cluster, op).expect("all nodes are there again");
    }
}

#[test]
fn the_silence_of_a_node_begins_when_it_comes_into_the_map() {
    let mut cluster = Cluster::new();
    cluster.pass(60_000);
    // Its process was not started yet.
    let node = NodeInfo { id: 9, cores: 1, weight: 1, ..NodeInfo::default() };
    cluster.cut.push(9);
    operate(&mut cluster, &ClusterOp::Join { node }).expect("taken in");
    let account = operate(&mut cluster, &ClusterOp::Map { epoch: None }).unwrap();
    assert!(account.map.unwrap().node(9).is_some());
    let silent = account.silent_ms.get(&9).copied().unwrap_or(0);
    assert!(silent < 20_000, "{silent}");
    cluster.pass(20_000);
    let account = operate(&mut cluster, &ClusterOp::Map { epoch: None }).unwrap();
    assert!(account.silent_ms[&9] >= 20_000);
}

#[test]
fn a_leader_that_stood_still_does_not_take_the_others_for_dead() {
    let mut cluster = Cluster::new();
    cluster.pass(1_000);
    let leader = cluster.leader(META_SHARD).unwrap();
    // All of them stood still: what they have said is taken in after the first look at the clock.
    cluster.now = cluster.now.saturating_add(Nanos::from_millis(3_600_000));
    let asked = cluster.ask_shard(leader, Op::Cluster(ClusterOp::Map { epoch: None }), META_SHARD);
    cluster.settle();
    match cluster.answer(leader, asked).expect("answered") {
        Ok(Answer::Cluster(account)) => assert_eq!(account.silent_ms, [].into()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cluster_that_was_left_alone_is_kept_in_order_once_it_is_rebalanced() {
    let mut cluster = Cluster::new();
    cluster.pass(20_000);
    let placed = |account: &ClusterAccount| {
        let shards = &account.map.as_ref().unwrap().shards;
        shards.iter().filter(|shard| shard.plan.placed.len() == 3).count()
    };
    let untouched = operate(&mut cluster, &ClusterOp::Map { epoch: None }).unwrap();
    assert_eq!(placed(&untouched), 0);
    operate(&mut cluster, &ClusterOp::Rebalance { dry_run: false }).unwrap();
    let account = operate(&mut cluster, &ClusterOp::Map { epoch: None }).unwrap();
    assert_eq!(placed(&account), usize_of(SHARDS) + 1);
    assert!(account.moving.is_empty() && account.unheard.is_empty() && account.stuck.is_empty());
}

#[test]
fn a_replica_that_does_not_know_its_slots_yet_refuses_and_learns_them_from_the_map() {
    let mut cluster = Cluster::new();
    let written = cluster.do_at_leader("key", put("key", "v"));
    assert!(matches!(written, Ok(Answer::Written { .. })), "{written:?}");
    cluster.pass(200);
    let shard = shard_of("key");
    let other = cluster.leader(shard).unwrap() % 3 + 1;
    cluster.node(other).core.replicas[usize_of(shard)].as_mut().unwrap().slots = None;
    let read = |cluster: &mut Cluster| {
        let asked = cluster.ask(other, get("key", ReadConsistency::Follower), "key");
        cluster.pass(100);
        cluster.answer(other, asked).expect("answered")
    };
    assert!(matches!(read(&mut cluster), Err(Refusal::NotLeader { .. })));
    let mut map = cluster.node(other).core.map.clone();
    map.epoch += 1_000;
    map.shards[usize_of(shard)].plan.epoch = map.epoch;
    cluster.node(other).events.push_back(Event::Map(MapNews::Whole(Arc::new(map))));
    cluster.settle();
    assert_eq!(value(read(&mut cluster)).as_deref(), Some("v"));
}
