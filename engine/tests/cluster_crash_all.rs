//! All nodes die by `kill -9` at the same moment, under load, and come back: everything that was acknowledged is there.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::time::Duration;

use harness::{Cluster, Load, LoadConfig, Settings, read_back};

const ROUNDS: u32 = 5;
/// Acknowledged operations between two crashes.
const OPERATIONS: u64 = 1_000;

fn crash_and_restart(settings: Settings) {
    let mut cluster = Cluster::start(settings);
    let load = Load::start(cluster.endpoints(), LoadConfig { seed: 2, ..LoadConfig::default() });
    for round in 1..=ROUNDS {
        load.wait_until_writes_flow(load.now(), Duration::from_secs(20));
        load.wait_for_operations(OPERATIONS, Duration::from_secs(30));
        cluster.kill_all();
        cluster.start_all();
        cluster.wait_until_all_shards_have_leaders();
        println!("round {round}: all are back at {:?}", Duration::from_nanos(load.now()));
    }
    load.wait_until_writes_flow(load.now(), Duration::from_secs(20));
    let result = load.finish();
    println!("{} operations, {} single writes", result.history.count(|_| true), result.written.len());
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
    cluster.wait_until_all_caught_up(Duration::from_secs(20));
}

#[test]
fn everything_acknowledged_survives_a_crash_of_all_nodes() {
    crash_and_restart(Settings::default());
}

#[test]
fn the_memory_engine_is_rebuilt_from_the_log() {
    crash_and_restart(Settings { engine: "memory", ..Settings::default() });
}
