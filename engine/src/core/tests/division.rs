//! A shard is cut in two while it serves.

use std::sync::Arc;

use net::map::{ClusterMap, Split};
use net::protocol::{AdminOp, Answer, MemberRole, Op, ReadConsistency, Refusal, ShardDescription};
use net::slot::slot_of;
use wal::StreamId;

use super::cluster::{Cluster, SHARDS, Settings};
use super::{get, put, value};
use crate::command::StoredKeyBuf;
use crate::core::{Event, MapNews, usize_of};
use crate::replica_id::{self, FOUNDING};
use crate::store::{Lookup, ReadTier};

/// The shard that is cut, where, and into what.
const PARENT: u32 = 2;
const AT: u16 = 6000;
const CHILD: u32 = SHARDS + 1;

/// Tells every node of another map.
fn tell(cluster: &mut Cluster, change: impl Fn(&mut ClusterMap)) {
    for node in &mut cluster.nodes {
        let mut map = node.core.map.clone();
        // Above what the controller comes to by itself.
        map.epoch += 1_000;
        change(&mut map);
        node.events.push_back(Event::Map(MapNews::Whole(Arc::new(map))));
    }
}

/// What the controller does first: it wants the shard cut.
fn want_split(cluster: &mut Cluster) {
    tell(cluster, |map| map.shards[usize_of(PARENT)].plan.split = Some(Split { at: AT, into: CHILD }));
    cluster.settle();
}

/// And last: the map has both.
fn list_child(cluster: &mut Cluster) {
    tell(cluster, |map| {
        let parent = &mut map.shards[usize_of(PARENT)];
        parent.plan.split = None;
        let mut child = parent.clone();
        child.id = CHILD;
        child.slots.as_mut().unwrap().first = AT;
        child.plan.founders.clear();
        parent.slots.as_mut().unwrap().last = AT - 1;
        map.shards.push(child);
    });
    cluster.settle();
}

/// Keys of the shard, below the cut and above.
fn keys() -> (Vec<String>, Vec<String>) {
    let of_parent = |key: &String| super::shard_of(key) == PARENT;
    (0..400)
        .map(|number| format!("key{number}"))
        .filter(of_parent)
        .partition(|key| slot_of(key.as_bytes()) < AT)
}

fn fill(cluster: &mut Cluster, keys: &[String]) {
    for key in keys {
        let done = cluster.do_at_leader(key, put(key, "v"));
        assert!(matches!(done, Ok(Answer::Written { .. })), "{key}: {done:?}");
    }
}

fn read(cluster: &mut Cluster, shard: u32, key: &str) -> Result<Answer, Refusal> {
    cluster.do_at_shard(shard, get(key, ReadConsistency::Linearizable))
}

fn child_leads(cluster: &mut Cluster) -> bool {
    cluster.leader(CHILD).is_some()
}

#[test]
fn both_halves_serve_what_they_held_and_nothing_else() {
    let mut cluster = Cluster::new();
    let (low, high) = keys();
    assert!(low.len() > 5 && high.len() > 5);
    fill(&mut cluster, &low);
    fill(&mut cluster, &high);
    want_split(&mut cluster);
    cluster.pass_until("the new shard has a leader", 600, child_leads);
    assert_eq!(cluster.leader(CHILD), cluster.leader(PARENT), "it is led where its parent is");
    // Until the map tells, another map would not help.
    let refused = read(&mut cluster, PARENT, &high[0]);
    assert!(matches!(refused, Err(Refusal::Unavailable { .. })), "{refused:?}");
    list_child(&mut cluster);
    let refused = read(&mut cluster, PARENT, &high[0]);
    assert!(matches!(refused, Err(Refusal::WrongShard { .. })), "{refused:?}");
    cluster.pass(500);
    for (shard, own, other) in [(PARENT, &low, &high), (CHILD, &high, &low)] {
        for key in own {
            assert_eq!(value(read(&mut cluster, shard, key)).as_deref(), Some("v"), "{key} of {shard}");
            let done = cluster.do_at_shard(shard, put(key, "w"));
            assert!(matches!(done, Ok(Answer::Written { .. })), "{key} of {shard}: {done:?}");
            assert_eq!(value(read(&mut cluster, shard, key)).as_deref(), Some("w"), "{key} of {shard}");
        }
        for key in other {
            let refused = cluster.do_at_shard(shard, put(key, "x"));
            assert!(matches!(refused, Err(Refusal::WrongShard { .. })), "{key} of {shard}: {refused:?}");
        }
    }
}

#[test]
fn a_leader_that_has_proposed_the_cut_takes_no_key_of_the_upper_half() {
    let mut cluster = Cluster::new();
    let (low, high) = keys();
    fill(&mut cluster, &low[..1]);
    let leader = cluster.leader(PARENT).unwrap();
    // Nothing is committed while the others hear nothing.
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    others.iter().for_each(|id| cluster.node(*id).disk_works = false);
    want_split(&mut cluster);
    cluster.pass(200);
    let refused = cluster.do_at_shard(PARENT, put(&high[0], "v"));
    assert!(matches!(refused, Err(Refusal::Unavailable { .. })), "{refused:?}");
    let id = cluster.ask_shard(leader, put(&low[0], "w"), PARENT);
    cluster.settle();
    assert_eq!(cluster.answer(leader, id), None, "it waits for a majority");
    others.iter().for_each(|id| cluster.node(*id).release_writes());
    cluster.settle();
    assert!(matches!(cluster.answer(leader, id), Some(Ok(Answer::Written { .. }))));
}

#[test]
fn a_put_over_a_cut_that_its_leader_does_not_know_of_is_refused_when_applied() {
    let mut cluster = Cluster::with(Settings { nodes: 3, ..Settings::default() });
    let (low, high) = keys();
    fill(&mut cluster, &high[..1]);
    let old = cluster.leader(PARENT).unwrap();
    // The cut reaches the others' logs, and its leader does not learn so.
    want_split(&mut cluster);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    others.iter().for_each(|id| cluster.node(*id).disk_works = false);
    cluster.pass(200);
    cluster.cut.push(old);
    others.iter().for_each(|id| cluster.node(*id).release_writes());
    // Nobody proposes it again.
    tell(&mut cluster, |map| map.shards[usize_of(PARENT)].plan.split = None);
    let mut asked = None;
    for _ in 0..200 {
        cluster.now = cluster.now.saturating_add(super::cluster::TICK);
        let leader = cluster.leader(PARENT);
        if let (Some(leader), None) = (leader, asked) {
            // In the turn in which it is known: it has applied nothing of its term yet.
            asked = Some((leader, cluster.ask_shard(leader, put(&high[0], "late"), PARENT)));
            let low = cluster.ask_shard(leader, put(&low[0], "late"), PARENT);
            cluster.settle();
            assert!(matches!(cluster.answer(leader, low), Some(Ok(Answer::Written { .. }))));
            break;
        }
        cluster.settle();
    }
    let (leader, id) = asked.expect("a new leader");
    let refused = cluster.answer(leader, id).expect("answered");
    assert!(matches!(refused, Err(Refusal::Unavailable { .. })), "{refused:?}");
    cluster.pass_until("the new shard has a leader", 3_000, child_leads);
    list_child(&mut cluster);
    cluster.cut.clear();
    cluster.pass(3_000);
    assert_eq!(value(read(&mut cluster, CHILD, &high[0])).as_deref(), Some("v"));
    assert_eq!(value(read(&mut cluster, PARENT, &low[0])).as_deref(), Some("late"));
}

#[test]
fn nothing_of_the_new_shard_begins_before_its_stream_is_durable() {
    let mut cluster = Cluster::new();
    let (low, _) = keys();
    fill(&mut cluster, &low[..1]);
    let leader = cluster.leader(PARENT).unwrap();
    let slow = (1..=3).find(|id| *id != leader).unwrap();
    want_split(&mut cluster);
    cluster.pass(50);
    let has_child = |cluster: &mut Cluster, id: u64| cluster.node(id).shard(CHILD).is_some();
    cluster.node(slow).disk_works = false;
    cluster.pass(500);
    // It may have been fast enough; if not, it waits, and the others do not wait for it.
    if !has_child(&mut cluster, slow) {
        assert!(cluster.leader(CHILD).is_some());
        cluster.node(slow).release_writes();
    }
    cluster
        .pass_until("every node has its replica", 1_000, |cluster| (1..=3).all(|id| has_child(cluster, id)));
}

#[test]
fn a_replica_that_was_away_makes_its_part_when_it_comes_back() {
    let mut cluster = Cluster::new();
    let (low, high) = keys();
    fill(&mut cluster, &low);
    fill(&mut cluster, &high);
    cluster.pass(20_000);
    let leader = cluster.leader(PARENT).unwrap();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.cut.push(away);
    want_split(&mut cluster);
    cluster.pass_until("the new shard has a leader", 2_000, child_leads);
    list_child(&mut cluster);
    let done = cluster.do_at_shard(CHILD, put(&high[0], "w"));
    assert!(matches!(done, Ok(Answer::Written { .. })), "{done:?}");
    cluster.cut.clear();
    cluster.pass(5_000);
    for (shard, key, expected) in [(CHILD, &high[0], "w"), (CHILD, &high[1], "v"), (PARENT, &low[0], "v")] {
        let id = cluster.ask_shard(away, get(key, ReadConsistency::Follower), shard);
        cluster.pass(200);
        let answer = cluster.answer(away, id).expect("answered");
        assert_eq!(value(answer).as_deref(), Some(expected), "{key} of {shard}");
    }
}

/// A cluster with small logs, in which the shard is cut while one node, which follows, hears nothing. That node.
fn cut_without_one(mute: Option<u32>) -> (Cluster, u64) {
    let mut cluster = Cluster::with(Settings { log_bytes_max: 64 << 10, ..Settings::default() });
    let (low, high) = keys();
    fill(&mut cluster, &low);
    fill(&mut cluster, &high);
    cluster.pass(20_000);
    cluster.mute = mute;
    let leader = cluster.leader(PARENT).unwrap();
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.cut.push(away);
    want_split(&mut cluster);
    cluster.pass_until("the cut", 2_000, |cluster| cluster.node(leader).shard(CHILD).is_some());
    (cluster, away)
}

fn describe(cluster: &mut Cluster, shard: u32) -> ShardDescription {
    match cluster.do_at_shard(shard, Op::Admin(AdminOp::Describe)) {
        Ok(Answer::Shard(description)) => description,
        other => panic!("no description: {other:?}"),
    }
}

/// Writes far more than a log may hold. The shard's log then.
fn overrun(cluster: &mut Cluster, shard: u32, key: &str) -> ShardDescription {
    for round in 0..300 {
        let done = cluster.do_at_shard(shard, put(key, &format!("{round}{}", "x".repeat(2_000))));
        assert!(matches!(done, Ok(Answer::Written { .. })), "{done:?}");
        cluster.pass(50);
    }
    describe(cluster, shard)
}

fn stream_of(cluster: &mut Cluster, node: u64, shard: u32) -> Option<StreamId> {
    let replica = cluster.node(node).core.replicas.get(usize_of(shard))?.as_ref()?;
    Some(replica.stream)
}

#[test]
fn the_log_stays_until_the_new_shard_has_a_leader_so_that_all_of_its_founders_begin() {
    let (mut cluster, away) = cut_without_one(Some(CHILD));
    let (low, _) = keys();
    let before = describe(&mut cluster, PARENT);
    let after = overrun(&mut cluster, PARENT, &low[0]);
    assert_eq!(after.first_index, before.first_index, "nobody leads the new shard");
    assert!(after.log_bytes > 6 * (64 << 10), "{after:?}");
    let removal = Op::Admin(AdminOp::RemoveReplica { node: away });
    let refused = cluster.do_at_shard(PARENT, removal);
    assert!(matches!(refused, Err(Refusal::Busy { .. })), "a founder stays: {refused:?}");
    cluster.cut.clear();
    let founding = Some(StreamId(replica_id::stream_id(CHILD, FOUNDING)));
    cluster.pass_until("the founding replica", 10_000, |cluster| stream_of(cluster, away, CHILD) == founding);
    cluster.mute = None;
    cluster.pass_until("the new shard has a leader", 20_000, child_leads);
    let after = overrun(&mut cluster, PARENT, &low[0]);
    assert!(after.log_bytes < 6 * (64 << 10), "{after:?}");
}

#[test]
fn a_founder_that_was_given_a_snapshot_instead_is_replaced_as_one_that_is_lost() {
    let (mut cluster, away) = cut_without_one(None);
    let (low, high) = keys();
    cluster.pass_until("the new shard has a leader", 2_000, child_leads);
    list_child(&mut cluster);
    let cut = describe(&mut cluster, CHILD).first_index;
    let after = overrun(&mut cluster, PARENT, &low[0]);
    assert!(after.first_index > cut, "the log goes on from behind the cut: {after:?}");
    cluster.cut.clear();
    cluster.pass_until("a replica of the new shard", 60_000, |cluster| {
        stream_of(cluster, away, CHILD).is_some()
    });
    let founding = Some(StreamId(replica_id::stream_id(CHILD, FOUNDING)));
    assert_ne!(stream_of(&mut cluster, away, CHILD), founding, "nobody can make that one any more");
    cluster.pass_until("it votes, and the other one is gone", 20_000, |cluster| {
        let members = describe(cluster, CHILD).members;
        let votes = |node: u64| {
            let voters = members.iter().filter(|member| member.role == MemberRole::Voter && member.lag == 0);
            voters.filter(|member| member.node == node).count() == 1
        };
        members.len() == 3 && (1..=3).all(votes)
    });
    let id = cluster.ask_shard(away, get(&high[0], ReadConsistency::Follower), CHILD);
    cluster.pass(200);
    let read = cluster.answer(away, id).expect("answered");
    assert_eq!(value(read).as_deref(), Some("v"));
}

#[test]
fn a_node_that_lost_its_disk_does_not_found_the_new_shard_again() {
    let mut cluster = Cluster::new();
    let (low, high) = keys();
    fill(&mut cluster, &low);
    fill(&mut cluster, &high);
    want_split(&mut cluster);
    cluster.pass_until("the new shard has a leader", 2_000, child_leads);
    list_child(&mut cluster);
    let done = cluster.do_at_shard(CHILD, put(&high[0], "w"));
    assert!(matches!(done, Ok(Answer::Written { .. })), "{done:?}");
    let leads = [PARENT, CHILD].map(|shard| cluster.leader(shard).unwrap());
    let lost = (1..=3).find(|id| !leads.contains(id)).unwrap();
    // Its new replica of the parent reads the log from the first entry on, over the cut.
    cluster.wipe(lost, 77);
    cluster.pass_until("a replica of the new shard", 60_000, |cluster| {
        stream_of(cluster, lost, CHILD).is_some()
    });
    let founding = Some(StreamId(replica_id::stream_id(CHILD, FOUNDING)));
    assert_ne!(stream_of(&mut cluster, lost, CHILD), founding, "it had voted under this name");
    cluster.pass(10_000);
    let done = cluster.do_at_shard(CHILD, put(&high[0], "x"));
    assert!(matches!(done, Ok(Answer::Written { .. })), "{done:?}");
}

#[test]
fn what_went_to_the_other_shard_is_removed_later() {
    let mut cluster = Cluster::new();
    let (low, high) = keys();
    fill(&mut cluster, &low);
    fill(&mut cluster, &high);
    want_split(&mut cluster);
    cluster.pass_until("the new shard has a leader", 600, child_leads);
    let trimmed = |cluster: &mut Cluster, shard: u32| -> Vec<bool> {
        let machines = cluster.nodes.iter().flat_map(|node| &node.machines);
        machines
            .filter(|(id, _)| id.shard == shard)
            .map(|(_, machine)| machine.domain().is_some_and(|domain| domain.is_trimmed))
            .collect()
    };
    // Nobody is told where the upper half is: it stays where it was as well.
    cluster.pass(10_000);
    assert_eq!(trimmed(&mut cluster, PARENT), [false; 3]);
    list_child(&mut cluster);
    cluster.pass(3_000);
    assert_eq!(trimmed(&mut cluster, PARENT), [false; 3], "reads that began before may be left");
    cluster.pass(3_000);
    for (shard, own, other) in [(PARENT, &low, &high), (CHILD, &high, &low)] {
        assert_eq!(trimmed(&mut cluster, shard), [true; 3]);
        for node in &cluster.nodes {
            let (_, machine) = node.machines.iter().find(|(id, _)| id.shard == shard).unwrap();
            let has = |key: &String| {
                let key = StoredKeyBuf::new(0, slot_of(key.as_bytes()), key.as_bytes());
                machine.engine().get(key.as_bytes(), ReadTier::All).unwrap() != Lookup::Missing
            };
            assert!(own.iter().all(has) && !other.iter().any(has), "shard {shard}");
        }
    }
}
