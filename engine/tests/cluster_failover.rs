//! A leader dies by `kill -9` under load, ten times: no acknowledged write is lost, every key stays linearizable,
//! writes flow again within two seconds, and the node that comes back catches up.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::{Cluster, Load, LoadConfig, Outage, Settings, read_back};

const ROUNDS: u32 = 10;
const SHARDS: u32 = 6;
/// Acknowledged operations before each kill.
const OPERATIONS: u64 = 500;
/// The product's promise: a shard whose leader died takes writes again within this.
const OUTAGE_MAX: Duration = Duration::from_secs(2);
/// A restarted node has recovered and caught up within this.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);

/// The node that leads the most of the shards whose leader was not killed yet; of all shards when none is left.
fn victim(leaders: &BTreeMap<u32, u64>, covered: &BTreeSet<u32>) -> u64 {
    let led = |node: u64, only_new: bool| {
        leaders
            .iter()
            .filter(|(shard, leader)| **leader == node && !(only_new && covered.contains(shard)))
            .count()
    };
    let nodes: BTreeSet<u64> = leaders.values().copied().collect();
    nodes.into_iter().max_by_key(|node| (led(*node, true), led(*node, false))).expect("somebody leads")
}

#[test]
fn leaders_die_under_load_and_nothing_is_lost() {
    let mut cluster = Cluster::start(Settings { shards: SHARDS, ..Settings::default() });
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), Duration::from_secs(10));
    let mut covered = BTreeSet::new();
    let mut worst = Outage { longest: Duration::ZERO, shard: 0 };
    for round in 1..=ROUNDS {
        let leaders = cluster.wait_until_all_shards_have_leaders();
        let victim = victim(&leaders, &covered);
        load.wait_for_operations(OPERATIONS, Duration::from_secs(30));
        let led: BTreeSet<u32> =
            leaders.iter().filter(|(_, node)| **node == victim).map(|(shard, _)| *shard).collect();
        let killed = load.now();
        cluster.node_mut(victim).kill();
        let outages = load.wait_until_writes_flow(killed, Duration::from_secs(15));
        let longest = outages.into_iter().max().expect("there are shards");
        println!("round {round}: node {victim}, leader of {led:?}, killed: longest outage {longest:?}");
        worst = worst.max(longest);
        covered.extend(led);
        cluster.node_mut(victim).start();
        cluster.wait_until_caught_up(victim, CATCH_UP_MAX);
    }
    let result = load.finish();
    let operations = result.history.count(|_| true);
    println!(
        "{operations} operations and {} single writes checked; worst outage {worst:?}",
        result.written.len()
    );
    assert_eq!(covered, (0..=SHARDS).collect(), "the leader of every shard was killed at least once");
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
    assert!(worst.longest <= OUTAGE_MAX, "a shard took no writes for {worst:?}");
}
