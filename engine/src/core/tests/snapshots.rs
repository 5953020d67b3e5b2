//! Followers that are fed by snapshots under steady writes, and those that refuse them.

use net::protocol::{AdminOp, Answer, Op};
use raft::Nanos;

use super::cluster::{Cluster, SHARDS, Settings, shard_of};
use super::put;
use crate::core::{Event, ReplicaId, SnapshotOffer, Transfer};

const KEY: &str = "k";
const LOG_BYTES_MAX: u64 = 64 << 10;

/// A cluster where node 3 needs a snapshot of the shard of [`KEY`], which waits to be sent.
fn behind() -> (Cluster, (u64, ReplicaId, SnapshotOffer)) {
    let mut cluster = Cluster::with(Settings { log_bytes_max: LOG_BYTES_MAX, ..Settings::default() });
    cluster.pass(20_000);
    lose_node_3(&mut cluster);
    write(&mut cluster, 4 * LOG_BYTES_MAX);
    cluster.holds_offers = true;
    cluster.cut.clear();
    let offer = next_offer(&mut cluster, 10_000);
    (cluster, offer)
}

fn lose_node_3(cluster: &mut Cluster) {
    cluster.cut.push(3);
    cluster.pass_until("leaders without node 3", 10_000, |cluster| {
        (0..=SHARDS).all(|shard| cluster.leader(shard).is_some())
    });
}

/// Writes so many bytes to one shard, slowly.
fn write(cluster: &mut Cluster, bytes: u64) {
    let large = "x".repeat(1000);
    for _ in 0..bytes / 1000 {
        assert!(cluster.do_at_leader(KEY, put(KEY, &large)).is_ok());
        cluster.pass(50);
    }
}

fn next_offer(cluster: &mut Cluster, millis: u64) -> (u64, ReplicaId, SnapshotOffer) {
    cluster.pass_until("a snapshot is owed", millis, |cluster| !cluster.held_offers.is_empty());
    assert_eq!(cluster.held_offers.len(), 1);
    cluster.held_offers.pop().unwrap()
}

fn lag(cluster: &mut Cluster) -> u64 {
    let leader = cluster.leader_of(KEY);
    let (shard, applied) = (shard_of(KEY), |cluster: &mut Cluster, node| {
        cluster.node(node).shard(shard_of(KEY)).unwrap().applied
    });
    assert!(cluster.node(leader).shard(shard).is_some());
    applied(cluster, leader) - applied(cluster, 3)
}

#[test]
fn one_snapshot_is_enough_however_long_the_follower_takes_to_install_it() {
    let (mut cluster, (from, replica, offer)) = behind();
    // All of it is there; nothing is heard of the follower while it is being installed, and more is written than the log
    // keeps for one that only lags.
    cluster.send_snapshot(from, replica, offer);
    cluster.cut.push(3);
    write(&mut cluster, 2 * LOG_BYTES_MAX);
    assert!(lag(&mut cluster) > 100);
    cluster.cut.clear();
    cluster.pass_until("node 3 follows", 5_000, |cluster| lag(cluster) == 0);
    assert!(cluster.held_offers.is_empty(), "{:?}", cluster.held_offers);
    assert_eq!(cluster.node(3).core.status().counters.snapshots_installed, 1);
    // From here on it is a follower like others: the log waits for it no longer.
    cluster.pass(5_000);
    lose_node_3(&mut cluster);
    write(&mut cluster, 2 * LOG_BYTES_MAX);
    cluster.cut.clear();
    next_offer(&mut cluster, 5_000);
}

#[test]
fn a_snapshot_that_broke_off_is_still_of_use_when_it_is_sent_again() {
    let (mut cluster, (from, replica, offer)) = behind();
    let taken_at = cluster.node(from).shard(offer.shard).unwrap().applied;
    write(&mut cluster, LOG_BYTES_MAX);
    cluster.end_transfer(from, replica, offer, Transfer::Broken);
    write(&mut cluster, LOG_BYTES_MAX / 2);
    let (_, _, again) = next_offer(&mut cluster, 3_000);
    assert!(again.index_min <= taken_at, "the log begins at {}, it was taken at {taken_at}", again.index_min);
}

#[test]
fn the_log_does_not_wait_for_ever() {
    let (mut cluster, (from, replica, offer)) = behind();
    cluster.end_transfer(from, replica, offer, Transfer::Broken);
    // From here on nothing reaches it.
    cluster.holds_offers = false;
    cluster.cut.push(3);
    cluster.pass(301_000);
    write(&mut cluster, 2 * LOG_BYTES_MAX);
    let described = cluster.do_at_shard(offer.shard, Op::Admin(AdminOp::Describe));
    let Ok(Answer::Shard(described)) = described else { panic!("{described:?}") };
    assert!(described.log_bytes < LOG_BYTES_MAX * 3 / 2, "no more than for those that lag: {described:?}");
}

#[test]
fn a_snapshot_that_is_refused_is_offered_less_and_less_often_until_the_node_comes_again() {
    let (mut cluster, mut owed) = behind();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let before = cluster.now;
        let (from, replica, offer) = owed;
        cluster.end_transfer(from, replica, offer, Transfer::Refused);
        owed = next_offer(&mut cluster, 62_000);
        pauses.push(cluster.now.since(before).0 / 1_000_000_000);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let (from, replica, offer) = owed;
    cluster.end_transfer(from, replica, offer, Transfer::Refused);
    cluster.pass(1_000);
    let linked = Event::PeerLinked { node: 3, vote_hold: Nanos::from_millis(500), store: 0 };
    cluster.node(from).events.push_back(linked);
    next_offer(&mut cluster, 500);
}
