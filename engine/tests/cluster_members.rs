//! The replicas of shards move between nodes while clients work, and whatever is cut short is finished or undone.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::{Cluster, Groups, Load, LoadConfig, Settings, Signal, read_back, until, voters};
use net::ClientError;
use net::protocol::Refusal;

/// One change of one shard's replicas is done within this, on two CPUs that do everything else too.
const CHANGE_MAX: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(20);

fn four_nodes(engine: &'static str) -> Settings {
    Settings { engine, nodes: 4, replicas: 3, shards: 4, ..Settings::default() }
}

fn groups(cluster: &Cluster) -> Groups {
    Groups::at(cluster.endpoints())
}

/// The nodes a shard's voters live on.
fn nodes_of(groups: &Groups, shard: u32) -> BTreeSet<u64> {
    groups.wait("the shard to be led", shard, SOON, |shard| Some(voters(shard).into_keys().collect()))
}

fn replace_a_node_under_load(engine: &'static str) {
    const LEAVES: u64 = 3;
    let mut cluster = Cluster::start(four_nodes(engine));
    let groups = groups(&cluster);
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), SOON);
    let mut moved = 0;
    for shard in 0..=cluster.settings.shards {
        let before = nodes_of(&groups, shard);
        if !before.contains(&LEAVES) {
            continue;
        }
        let joins = (1..=4).find(|node| !before.contains(node)).expect("three of four nodes");
        groups.add_replica(shard, joins, CHANGE_MAX);
        let all: BTreeSet<u64> = (1..=4).collect();
        groups.wait_for_voters(shard, &all, CHANGE_MAX);
        groups.remove_replica(shard, LEAVES, CHANGE_MAX);
        let after: BTreeSet<u64> = all.into_iter().filter(|node| *node != LEAVES).collect();
        groups.wait_for_voters(shard, &after, CHANGE_MAX);
        moved += 1;
    }
    assert!(moved >= 3, "node {LEAVES} had replicas of {moved} shards");
    load.wait_for_operations(200, SOON);
    // The node that left holds nothing any more: neither replicas nor folders.
    until("the node that left to be empty", SOON, || {
        let status = cluster.node(LEAVES).status().map_err(|error| error.to_string())?;
        let left: Vec<u32> = status.shards().map(|replica| replica.shard).collect();
        let folders = cluster.node(LEAVES).replica_folders(0);
        if left.is_empty() && folders.is_empty() { Ok(()) } else { Err(format!("{left:?}, {folders:?}")) }
    });
    cluster.node_mut(LEAVES).kill();
    load.wait_for_operations(200, SOON);
    let failed = load.failed();
    let result = load.finish();
    assert!(failed.is_empty(), "{} writes failed, such as {}", failed.len(), failed[0]);
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
}

#[test]
fn a_node_is_replaced_under_load_on_rocksdb() {
    replace_a_node_under_load("rocksdb");
}

#[test]
fn a_node_is_replaced_under_load_in_memory() {
    replace_a_node_under_load("memory");
}

/// Waits, looking all the time, until a node tells of a joint change of shard 1 after `from` bytes of its log. It may be over
/// when this returns: it takes some milliseconds.
fn wait_for_joint_change(cluster: &Cluster, node: u64, from: usize) {
    let deadline = Instant::now() + CHANGE_MAX;
    while !changes(cluster, node, from).iter().any(|change| is_joint(change)) {
        assert!(Instant::now() < deadline, "no joint change within {CHANGE_MAX:?}");
    }
}

/// The configurations of shard 1 that a node has told of in its log, after so many bytes.
fn changes(cluster: &Cluster, node: u64, from: usize) -> Vec<String> {
    let log = cluster.node(node).log();
    let lines = log.get(from..).unwrap_or_default().lines();
    let whole = lines.filter(|line| line.contains("the group changed shard=1 ") && line.ends_with('}'));
    whole.map(str::to_owned).collect()
}

fn is_joint(change: &str) -> bool {
    !change.contains("voters_outgoing: []")
}

/// A node that has lost its disk is replaced in a joint change: one voter comes, another one goes, at once.
#[test]
fn a_joint_change_that_all_nodes_are_killed_in_is_finished() {
    const ROUNDS: usize = 5;
    let mut cluster = Cluster::start(Settings { shards: 1, ..Settings::default() });
    let groups = groups(&cluster);
    let load = Load::start(cluster.endpoints(), LoadConfig { workers: 2, ..LoadConfig::default() });
    load.wait_until_writes_flow(load.now(), SOON);
    let mut caught = 0;
    for round in 0..ROUNDS {
        let leader = cluster.wait_until_all_shards_have_leaders()[&1];
        let wiped = if leader == 1 { 2 } else { 1 };
        let before = voters(&groups.describe(1).expect("the shard is led"))[&wiped];
        let from = cluster.node(leader).log().len();
        cluster.node_mut(wiped).kill();
        cluster.node_mut(wiped).wipe();
        cluster.node_mut(wiped).start();
        wait_for_joint_change(&cluster, leader, from);
        cluster.kill_all();
        let last = changes(&cluster, leader, from).pop().expect("just seen");
        caught += usize::from(is_joint(&last));
        println!(
            "round {round}: node {leader} led when all died, and knew of {}",
            &last[last.find("members=").unwrap_or(0)..]
        );
        cluster.start_all();
        groups.wait("the change to be over", 1, CHANGE_MAX, |shard| {
            let voters = voters(shard);
            let over = !shard.joint && shard.members.len() == 3 && voters.len() == 3;
            voters.get(&wiped).filter(|raft_id| over && **raft_id != before).map(drop)
        });
    }
    println!("{caught} of {ROUNDS} rounds ended in the middle of the change");
    load.wait_for_operations(100, SOON);
    let result = load.finish();
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
}

#[test]
fn changes_cut_short_at_any_moment_end_well() {
    const ROUNDS: u64 = 6;
    let mut cluster = Cluster::start(Settings { shards: 1, ..Settings::default() });
    let groups = groups(&cluster);
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), SOON);
    let all: BTreeSet<u64> = (1..=3).collect();
    for round in 0..ROUNDS {
        let leaves = round % 3 + 1;
        let whole = nodes_of(&groups, 1) == all;
        // Refused or not, and whether or not the answer arrives: the group ends where it can be told what it is.
        let _ = groups.ask(async move |client| match whole {
            true => client.remove_replica(1, leaves).await,
            false => client.add_replica(1, leaves).await,
        });
        load.wait_for_operations(round * 20, SOON);
        cluster.kill_all();
        cluster.start_all();
        groups.wait("the change to be over", 1, CHANGE_MAX, |shard| {
            let nodes: BTreeSet<u64> = voters(shard).into_keys().collect();
            let settled = !shard.joint && shard.members.len() == nodes.len();
            println!("round {round}: {nodes:?}");
            settled.then_some(())
        });
        let missing: Vec<u64> = all.difference(&nodes_of(&groups, 1)).copied().collect();
        for node in missing {
            groups.add_replica(1, node, CHANGE_MAX);
        }
        groups.wait_for_voters(1, &all, CHANGE_MAX);
    }
    load.wait_for_operations(200, SOON);
    let result = load.finish();
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
}

#[test]
fn a_leader_asked_to_leave_hands_over_first() {
    let cluster = Cluster::start(Settings { shards: 2, ..Settings::default() });
    let groups = groups(&cluster);
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), SOON);
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let from = load.now();
    let remain: BTreeSet<u64> = (1..=3).filter(|node| *node != leader).collect();
    groups.remove_replica(1, leader, CHANGE_MAX);
    groups.wait_for_voters(1, &remain, CHANGE_MAX);
    let outages = load.wait_until_writes_flow(from, SOON);
    println!("{outages:?}");
    // The group has two voters now. Taking one more away is allowed, and the last one may not go.
    let second = *remain.iter().next().expect("two remain");
    groups.remove_replica(1, second, CHANGE_MAX);
    let last: BTreeSet<u64> = remain.iter().copied().filter(|node| *node != second).collect();
    groups.wait_for_voters(1, &last, CHANGE_MAX);
    let only = *last.iter().next().expect("one remains");
    let refused = groups.ask(async move |client| client.remove_replica(1, only).await);
    assert!(
        matches!(&refused, Err(ClientError::Refused(Refusal::Conflict { .. } | Refusal::Invalid { .. }))),
        "{refused:?}"
    );
    let failed = load.failed();
    let result = load.finish();
    assert!(failed.is_empty(), "{} writes failed, such as {}", failed.len(), failed[0]);
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
}

#[test]
fn a_node_that_is_asked_to_end_hands_over_and_ends_well() {
    let mut cluster = Cluster::start(Settings { shards: 6, ..Settings::default() });
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), SOON);
    cluster.wait_until_leaders_are_home();
    let from = load.now();
    cluster.node(1).signal(Signal::Terminate);
    let status = cluster.node_mut(1).wait_exit(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    let longest = load.wait_until_writes_flow(from, SOON).into_iter().max().expect("there are shards");
    println!("longest outage {longest:?}");
    // Far less than an election takes: nobody waited for a silence to be noticed.
    assert!(longest.longest < Duration::from_millis(500), "{longest:?}");
    cluster.node_mut(1).start();
    cluster.wait_until_caught_up(1, SOON);
    let result = load.finish();
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
}
