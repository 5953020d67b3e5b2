//! Replicas that come, go and are fed by snapshots, as operators ask or disks are lost.

use net::map::{META_SHARD, NodeInfo};
use net::protocol::{AdminOp, Answer, ClusterOp, MemberRole, Op, ReadConsistency, Refusal, ShardDescription};
use raft::Nanos;

use super::cluster::{Cluster, SHARDS, Settings, shard_of, store_of};
use super::{get, put, value};
use crate::core::Event;
use crate::replica_id;

fn admin(cluster: &mut Cluster, shard: u32, op: AdminOp) -> Result<Answer, Refusal> {
    cluster.do_at_shard(shard, Op::Admin(op))
}

fn describe(cluster: &mut Cluster, shard: u32) -> ShardDescription {
    match admin(cluster, shard, AdminOp::Describe) {
        Ok(Answer::Shard(description)) => description,
        other => panic!("not a description: {other:?}"),
    }
}

fn voters(cluster: &mut Cluster, shard: u32) -> Vec<u64> {
    let description = describe(cluster, shard);
    let voters = description.members.iter().filter(|member| member.role == MemberRole::Voter);
    let mut nodes: Vec<u64> = voters.map(|member| member.node).collect();
    nodes.sort_unstable();
    assert!(!description.joint && nodes.len() == description.members.len(), "{description:?}");
    nodes
}

fn settled(cluster: &mut Cluster, shard: u32, wanted: &[u64]) -> bool {
    if cluster.leader(shard).is_none() {
        return false;
    }
    let description = describe(cluster, shard);
    let mut nodes: Vec<u64> = description.members.iter().map(|member| member.node).collect();
    nodes.sort_unstable();
    !description.joint
        && nodes == wanted
        && description.members.iter().all(|member| member.role == MemberRole::Voter)
}

fn fill(cluster: &mut Cluster, from: usize, count: usize) {
    for number in from..from + count {
        let key = format!("key{number}");
        let done = cluster.do_at_leader(&key, put(&key, &format!("value{number}")));
        assert!(matches!(done, Ok(Answer::Written { .. })), "{key}: {done:?}");
    }
}

fn read_all(cluster: &mut Cluster, node: u64, count: usize) {
    for number in 0..count {
        let key = format!("key{number}");
        let id = cluster.ask(node, get(&key, ReadConsistency::Follower), &key);
        cluster.pass(100);
        let answer = cluster.answer(node, id).expect("answered");
        assert_eq!(value(answer).as_deref(), Some(format!("value{number}").as_str()), "{key} at node {node}");
    }
}

/// Four nodes, three of which hold each shard.
fn four() -> Cluster {
    Cluster::with(Settings { nodes: 4, replicas: 3, ..Settings::default() })
}

#[test]
fn a_node_that_lost_its_disk_is_rebuilt_while_the_shards_serve() {
    let mut cluster = Cluster::new();
    fill(&mut cluster, 0, 40);
    cluster.wipe(2, 77);
    cluster
        .pass_until("leaders", 10_000, |cluster| (0..=SHARDS).all(|shard| cluster.leader(shard).is_some()));
    fill(&mut cluster, 40, 20);
    cluster.pass_until("every shard has three voters", 30_000, |cluster| {
        (0..=SHARDS).all(|shard| {
            settled(cluster, shard, &[1, 2, 3])
                && describe(cluster, shard).members.iter().any(|member| {
                    member.raft_id == replica_id::raft_id(2, 77) && member.is_active && member.lag == 0
                })
        })
    });
    cluster.pass(10_000);
    read_all(&mut cluster, 2, 60);
    // The majority needs the new one now.
    cluster.cut.push(1);
    cluster.pass_until("leaders without node 1", 10_000, |cluster| {
        (0..=SHARDS).all(|shard| cluster.leader(shard).is_some())
    });
    fill(&mut cluster, 60, 10);
}

#[test]
fn a_node_wiped_again_before_it_was_rebuilt_is_rebuilt_all_the_same() {
    let mut cluster = Cluster::new();
    fill(&mut cluster, 0, 20);
    cluster.wipe(3, 5);
    cluster.pass(2_050);
    cluster.wipe(3, 6);
    cluster.pass_until("every shard has three voters", 60_000, |cluster| {
        (0..=SHARDS).all(|shard| {
            settled(cluster, shard, &[1, 2, 3])
                && describe(cluster, shard)
                    .members
                    .iter()
                    .any(|member| member.raft_id == replica_id::raft_id(3, 6))
        })
    });
}

#[test]
fn a_follower_whose_entries_are_gone_gets_a_snapshot_and_follows_again() {
    let mut cluster = Cluster::with(Settings { log_bytes_max: 64 << 10, ..Settings::default() });
    cluster.pass(20_000);
    cluster.cut.push(3);
    cluster.pass_until("leaders without node 3", 10_000, |cluster| {
        (0..=SHARDS).all(|shard| cluster.leader(shard).is_some())
    });
    let large = "x".repeat(1000);
    for round in 0..300 {
        for number in 0..20 {
            let key = format!("key{number}");
            let done = cluster.do_at_leader(&key, put(&key, &format!("{round}{large}")));
            assert!(done.is_ok(), "{done:?}");
        }
        cluster.pass(50);
    }
    for shard in 1..=SHARDS {
        let description = describe(&mut cluster, shard);
        assert!(description.log_bytes < 6 * (64 << 10), "{description:?}");
        assert!(description.first_index > 1);
    }
    cluster.cut.clear();
    cluster.pass_until("node 3 follows", 20_000, |cluster| {
        (1..=SHARDS).all(|shard| describe(cluster, shard).members.iter().all(|member| member.lag == 0))
    });
    assert!(cluster.node(3).core.status().counters.snapshots_installed > 0);
    cluster.pass(5_000);
    let id = cluster.ask(3, get("key7", ReadConsistency::Follower), "key7");
    cluster.pass(200);
    let read = value(cluster.answer(3, id).expect("answered"));
    assert_eq!(read, Some(format!("299{large}")));
}

#[test]
fn a_dead_follower_never_pins_the_disk() {
    let settings = Settings { log_bytes_max: 128 << 10, wal_retain_bytes: 6 << 20, ..Settings::default() };
    let mut cluster = Cluster::with(settings);
    cluster.cut.push(2);
    cluster.pass_until("leaders without node 2", 10_000, |cluster| {
        (0..=SHARDS).all(|shard| cluster.leader(shard).is_some())
    });
    let large = "x".repeat(8000);
    // One entry of each shard lies in the oldest segment; afterwards only one shard writes.
    fill(&mut cluster, 0, 30);
    let mut most = 0;
    for round in 0..4_000 {
        assert!(cluster.do_at_leader("k", put("k", &large)).is_ok());
        if round % 4 == 0 {
            cluster.pass(50);
        }
        most = most.max(cluster.node(1).core.status().wal_disk_bytes);
        most = most.max(cluster.node(3).core.status().wal_disk_bytes);
    }
    assert!(most < 16 << 20, "32 MB were written, and {most} bytes of log kept");
}

#[test]
fn a_replica_moves_to_another_node_and_the_old_one_goes() {
    let mut cluster = four();
    fill(&mut cluster, 0, 40);
    let shard = shard_of("key1");
    let before = voters(&mut cluster, shard);
    let fresh = (1..=4).find(|node| !before.contains(node)).unwrap();
    assert!(matches!(
        admin(&mut cluster, shard, AdminOp::AddReplica { node: fresh }),
        Ok(Answer::AdminAccepted(_))
    ));
    cluster.pass_until("four voters", 20_000, |cluster| settled(cluster, shard, &[1, 2, 3, 4]));
    fill(&mut cluster, 40, 10);
    let leader = cluster.leader(shard).unwrap();
    let leaves = *before.iter().find(|node| **node != leader).unwrap();
    assert!(matches!(
        admin(&mut cluster, shard, AdminOp::RemoveReplica { node: leaves }),
        Ok(Answer::AdminAccepted(_))
    ));
    let left: Vec<u64> = (1..=4).filter(|node| *node != leaves).collect();
    cluster.pass_until("three voters", 20_000, |cluster| settled(cluster, shard, &left));
    cluster.pass_until("the removed replica is gone", 20_000, |cluster| {
        cluster.node(leaves).destroyed == [(shard, replica_id::FOUNDING)]
    });
    assert!(cluster.node(leaves).shard(shard).is_none());
    fill(&mut cluster, 50, 10);
    let map = cluster.node(fresh).core.map();
    let listed: Vec<u64> =
        map.shards[usize::try_from(shard).unwrap()].replicas.iter().map(|it| it.node).collect();
    assert_eq!(listed, left);
    assert!(map.into_routing().is_ok());
    // A request that comes to the node that left names one that does not exist there.
    let id = cluster.ask_shard(leaves, get("key1", ReadConsistency::Stale), shard);
    cluster.settle();
    assert!(matches!(cluster.answer(leaves, id), Some(Err(Refusal::NotLeader { .. }))));
}

#[test]
fn a_leader_asked_to_remove_itself_hands_over_first() {
    let mut cluster = four();
    cluster.pass(20_000);
    let shard = 2;
    let before = voters(&mut cluster, shard);
    let fresh = (1..=4).find(|node| !before.contains(node)).unwrap();
    admin(&mut cluster, shard, AdminOp::AddReplica { node: fresh }).unwrap();
    cluster.pass_until("four voters", 20_000, |cluster| settled(cluster, shard, &[1, 2, 3, 4]));
    cluster.pass(10_000);
    let leader = cluster.leader(shard).unwrap();
    let refused = admin(&mut cluster, shard, AdminOp::RemoveReplica { node: leader });
    let Err(Refusal::NotLeader { leader: Some(next), .. }) = refused else { panic!("{refused:?}") };
    assert_ne!(next, leader);
    cluster
        .pass_until("another leads", 5_000, |cluster| cluster.leader(shard).is_some_and(|it| it != leader));
    admin(&mut cluster, shard, AdminOp::RemoveReplica { node: leader }).unwrap();
    let left: Vec<u64> = (1..=4).filter(|node| *node != leader).collect();
    cluster.pass_until("three voters", 20_000, |cluster| settled(cluster, shard, &left));
    cluster.pass_until("the removed replica is gone", 20_000, |cluster| {
        cluster.node(leader).destroyed.len() == 1
    });
}

#[test]
fn what_the_group_does_not_allow_is_refused_with_the_reason() {
    let mut cluster = four();
    let shard = 1;
    let members = voters(&mut cluster, shard);
    let outside = (1..=4).find(|node| !members.contains(node)).unwrap();
    for op in [
        AdminOp::AddReplica { node: members[0] },
        AdminOp::AddReplica { node: 9 },
        AdminOp::RemoveReplica { node: outside },
        AdminOp::TransferLeader { node: Some(outside) },
    ] {
        let answer = admin(&mut cluster, shard, op);
        assert!(matches!(answer, Err(Refusal::Conflict { .. })), "{op:?}: {answer:?}");
    }
    let leader = cluster.leader(shard).unwrap();
    let follower = *members.iter().find(|node| **node != leader).unwrap();
    admin(&mut cluster, shard, AdminOp::TransferLeader { node: Some(follower) }).unwrap();
    cluster.pass_until("it leads", 2_000, |cluster| cluster.leader(shard) == Some(follower));
    let snapshot = admin(&mut cluster, shard, AdminOp::TakeSnapshot);
    assert!(matches!(snapshot, Ok(Answer::AdminAccepted(_))), "{snapshot:?}");
    assert!(describe(&mut cluster, shard).snapshot.is_some());
    assert!(admin(&mut cluster, shard, AdminOp::Compact).is_ok());
}

#[test]
fn an_invitation_of_nobody_leaves_no_replica_behind() {
    let mut cluster = four();
    let shard = 1;
    let members = voters(&mut cluster, shard);
    let outside = (1..=4).find(|node| !members.contains(node)).unwrap();
    // A leader's invitation that came late: nobody wants the replica any more.
    let body = net::peer::GroupBody::Invite;
    let message = net::peer::GroupMessage { group: shard, from: members[0], to: outside, term: 1, body };
    let event = super::Event::Peer { node: members[0], core: 0, messages: vec![message] };
    cluster.node(outside).events.push_back(event);
    cluster.pass(100);
    assert!(cluster.node(outside).shard(shard).is_some(), "it was made");
    cluster.pass_until("it is gone again", 20_000, |cluster| cluster.node(outside).destroyed.len() == 1);
    cluster.pass(5_000);
    assert!(cluster.node(outside).shard(shard).is_none());
    assert_eq!(voters(&mut cluster, shard), members);
}

#[test]
fn a_name_that_is_in_use_is_given_to_nobody_else() {
    let mut cluster = Cluster::new();
    // Until every shard is led by whom it should be.
    cluster.pass(20_000);
    let leader = cluster.leader(META_SHARD).expect("elected");
    let other = leader % 3 + 1;
    let join = |cluster: &mut Cluster, id: u64, store: u64| {
        let known = cluster.node(leader).core.map().node(id).cloned().expect("one of three");
        let op = Op::Cluster(ClusterOp::Join { node: NodeInfo { store, ..known } });
        loop {
            let asked = cluster.ask_shard(leader, op.clone(), META_SHARD);
            cluster.pass(200);
            // Busy: the controller is changing the map.
            match cluster.answer(leader, asked).expect("answered") {
                Err(Refusal::Busy { .. }) => {}
                answer => return answer,
            }
        }
    };
    let store_in_map =
        |cluster: &mut Cluster, id: u64| cluster.node(leader).core.map().node(id).unwrap().store;
    let refused = |answer: Result<Answer, Refusal>| match answer {
        Err(Refusal::Conflict { why }) => {
            assert!(why.contains("another node.id") && why.contains("stop"), "{why}")
        }
        other => panic!("{other:?}"),
    };
    let vote_hold = Nanos::from_millis(500);
    let linked = Event::PeerLinked { node: other, vote_hold, store: store_of(other) };
    cluster.node(leader).events.push_back(linked);
    cluster.settle();
    refused(join(&mut cluster, other, 7));
    // Nor that of the node which decides.
    refused(join(&mut cluster, leader, 7));
    assert_eq!((store_in_map(&mut cluster, other), store_in_map(&mut cluster, leader)), (0, 0));
    // The nodes themselves may tell who they are, and operators may describe them.
    for (id, store) in [(other, store_of(other)), (leader, store_of(leader)), (other, 0)] {
        let answer = join(&mut cluster, id, store);
        assert!(answer.is_ok(), "{id} {store}: {answer:?}");
    }
    assert_eq!(store_in_map(&mut cluster, other), store_of(other));
    // Its link is lost: nobody can say yet whether it has ended.
    cluster.node(leader).events.push_back(Event::PeerLost { node: other });
    cluster.settle();
    let answer = join(&mut cluster, other, 7);
    assert!(
        matches!(&answer, Err(Refusal::Unavailable { why }) if why.contains("a moment ago")),
        "{answer:?}"
    );
    cluster.cut.push(other);
    cluster.pass(1_000);
    assert!(join(&mut cluster, other, 7).is_err(), "a pause is no end");
    cluster.pass(1_500);
    assert!(join(&mut cluster, other, 7).is_ok(), "its disk was lost");
    assert_eq!(store_in_map(&mut cluster, other), 7);
}
