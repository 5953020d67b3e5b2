//! A replica that is far behind, or that has lost everything, recovers by a snapshot while its shard serves; whoever
//! dies meanwhile, nothing that was acknowledged is lost.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use harness::{
    Cluster, Groups, Load, LoadConfig, MIB, Settings, read_back, until, value_of, voters, with_client,
};

/// What a node says in its log.
const INSTALLED: &str = "installed a snapshot";
const RECEIVED: &str = "received a snapshot";
/// A shard of a few megabytes is back within this, on two CPUs that do everything else too.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

fn groups(cluster: &Cluster) -> Groups {
    Groups::at(cluster.endpoints())
}

/// Writes so many values of 32 KiB, some at a time; the keys begin with `prefix`.
fn fill(cluster: &Cluster, prefix: &'static str, count: u64) {
    with_client(cluster.endpoints(), async move |client| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let client = client.clone();
                glommio::spawn_local(async move {
                    for number in (writer..count).step_by(8) {
                        let value = vec![u8::try_from(number % 251).expect("below 256"); 32 << 10];
                        client
                            .put(format!("{prefix}-{number}"), value)
                            .await
                            .expect("the cluster takes writes");
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await;
        }
    });
}

/// Reads back what [`fill`] wrote.
fn is_filled(cluster: &Cluster, prefix: &'static str, count: u64) {
    let wrong = with_client(cluster.endpoints(), async move |client| {
        for number in 0..count {
            let value = vec![u8::try_from(number % 251).expect("below 256"); 32 << 10];
            match client.get(format!("{prefix}-{number}")).await {
                Ok(Some(found)) if found.data == value => {}
                other => {
                    return Some(format!(
                        "{prefix}-{number} is {:?}",
                        other.map(|it| it.map(|it| it.version))
                    ));
                }
            }
        }
        None
    });
    assert_eq!(wrong, None);
}

/// Waits until the replicas of a node vote in every group again, under new names.
fn wait_for_successors(cluster: &Cluster, node: u64) {
    let groups = groups(cluster);
    for shard in 0..=cluster.settings.shards {
        groups.wait("the node to vote under a new name", shard, RECOVERY_MAX, |shard| {
            let voters = voters(shard);
            let settled = !shard.joint && shard.members.len() == 3 && voters.len() == 3;
            voters.get(&node).filter(|raft_id| settled && **raft_id != node).map(drop)
        });
    }
}

/// Has the logs of all user shards dropped up to now, so that nobody can be fed from their first entry on.
fn compact(cluster: &Cluster) {
    let groups = groups(cluster);
    for shard in 1..=cluster.settings.shards {
        let compacted = groups.ask(async move |client| client.compact(shard).await);
        compacted.expect("the leader compacts");
        groups.wait("the log to be compacted", shard, SOON, |shard| (shard.first_index > 1).then_some(()));
    }
}

/// The folders of snapshots that are partly received, over all replicas of a node.
fn incoming(data: &Path) -> Vec<PathBuf> {
    let folders =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let replicas = folders(data.join("core-0"));
    replicas.flat_map(|replica| folders(replica.join("incoming")).collect::<Vec<_>>()).collect()
}

fn bytes_below(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        // Files come and go while they are counted.
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    });
    sizes.sum()
}

fn a_wiped_node_recovers_under_load(engine: &'static str) {
    let mut cluster =
        Cluster::start(Settings { engine, shards: 3, snapshot: "keep = 1", ..Settings::default() });
    fill(&cluster, "before", 200);
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), SOON);
    load.wait_for_operations(300, SOON);
    cluster.wait_until_leaders_are_home();
    compact(&cluster);
    cluster.node_mut(2).kill();
    cluster.node_mut(2).wipe();
    cluster.node_mut(2).start();
    // It comes back as somebody else in every group while the others go on: by a snapshot, but in the groups that it led,
    // whose next leader may still have the whole log.
    load.wait_for_operations(300, SOON);
    wait_for_successors(&cluster, 2);
    let installed = cluster.node(2).says(INSTALLED);
    assert!(installed >= 1, "no snapshot was installed");
    assert_eq!(cluster.node(2).says("this one takes the place of the lost one"), 1);
    load.wait_for_operations(300, SOON);
    cluster.wait_until_caught_up(2, RECOVERY_MAX);
    let failed = load.failed();
    let result = load.finish();
    assert!(failed.is_empty(), "{} writes failed, such as {}", failed.len(), failed[0]);
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    is_filled(&cluster, "before", 200);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
    // The recovered node counts for a majority: without another one, everything is still there and taken.
    cluster.node_mut(3).kill();
    cluster.wait_until_all_shards_have_leaders();
    is_filled(&cluster, "before", 200);
}

#[test]
fn a_wiped_node_recovers_under_load_on_rocksdb() {
    a_wiped_node_recovers_under_load("rocksdb");
}

#[test]
fn a_wiped_node_recovers_under_load_in_memory() {
    a_wiped_node_recovers_under_load("memory");
}

fn a_node_that_was_away_too_long_gets_a_snapshot(engine: &'static str) {
    const LOG_MAX: u64 = 2 * MIB;
    let mut cluster = Cluster::start(Settings {
        engine,
        shards: 1,
        segment_bytes: 4 * MIB,
        raft: "log_bytes_max = 2097152",
        ..Settings::default()
    });
    fill(&cluster, "before", 20);
    cluster.wait_until_all_caught_up(SOON);
    cluster.node_mut(3).kill();
    // Ten times what the log of a shard may hold.
    fill(&cluster, "away", 640);
    let kept = groups(&cluster).wait("the log to be compacted", 1, SOON, |shard| {
        // Up to a quarter more may gather between two looks, and the entries of the last flush of the state machine.
        (shard.log_bytes <= 2 * LOG_MAX).then_some(shard.log_bytes)
    });
    println!("the leader keeps {kept} bytes of log for a replica that is away");
    cluster.node_mut(3).start();
    until("the node to get a snapshot", RECOVERY_MAX, || match cluster.node(3).says(INSTALLED) {
        0 => Err("no snapshot yet".to_owned()),
        _ => Ok(()),
    });
    cluster.wait_until_caught_up(3, RECOVERY_MAX);
    cluster.node_mut(1).kill();
    cluster.wait_until_all_shards_have_leaders();
    is_filled(&cluster, "before", 20);
    is_filled(&cluster, "away", 640);
}

#[test]
fn a_node_that_was_away_too_long_gets_a_snapshot_on_rocksdb() {
    a_node_that_was_away_too_long_gets_a_snapshot("rocksdb");
}

#[test]
fn a_node_that_was_away_too_long_gets_a_snapshot_in_memory() {
    a_node_that_was_away_too_long_gets_a_snapshot("memory");
}

/// A cluster with one shard of 16 MiB whose transfer takes some eight seconds, and a node that is being wiped.
fn slow_transfer() -> (Cluster, u64) {
    let mut cluster =
        Cluster::start(Settings { shards: 1, snapshot: "send_bytes_per_s = 2097152", ..Settings::default() });
    fill(&cluster, "big", 512);
    compact(&cluster);
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let wiped = [1, 2, 3].into_iter().find(|node| *node != leader).expect("three nodes");
    cluster.node_mut(wiped).kill();
    cluster.node_mut(wiped).wipe();
    cluster.node_mut(wiped).start();
    wait_for_part(&cluster, wiped);
    (cluster, wiped)
}

/// Waits until a part of the snapshot has arrived.
fn wait_for_part(cluster: &Cluster, node: u64) {
    let data = cluster.node(node).data_dir();
    until("a part of the snapshot to arrive", RECOVERY_MAX, || {
        let bytes: u64 = incoming(&data).iter().map(|path| bytes_below(path)).sum();
        if bytes >= 3 * MIB { Ok(()) } else { Err(format!("{bytes} bytes")) }
    });
}

/// The wiped node has everything, and nothing is left of what was on the way.
fn is_recovered(cluster: &Cluster, node: u64) {
    cluster.wait_until_caught_up(node, RECOVERY_MAX);
    wait_for_successors(cluster, node);
    is_filled(cluster, "big", 512);
    let data = cluster.node(node).data_dir();
    until("nothing to be left of the transfer", SOON, || match incoming(&data) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

#[test]
fn a_receiver_that_dies_goes_on_where_it_was() {
    let (mut cluster, wiped) = slow_transfer();
    let installed = cluster.node(wiped).says(INSTALLED);
    cluster.node_mut(wiped).kill();
    cluster.node_mut(wiped).start();
    is_recovered(&cluster, wiped);
    assert!(cluster.node(wiped).says(INSTALLED) > installed);
    let log = cluster.node(wiped).log();
    let received = log.lines().filter(|line| line.contains(RECEIVED) && line.contains("shard=1"));
    let resumed: Vec<&str> = received.filter(|line| !line.contains("resumed_bytes=0")).collect();
    assert!(!resumed.is_empty(), "what had arrived was sent again:\n{log}");
}

#[test]
fn a_sender_that_dies_does_not_end_the_recovery() {
    let (mut cluster, wiped) = slow_transfer();
    let sender = groups(&cluster).wait("the shard to be led", 1, SOON, |shard| {
        shard.members.iter().find(|member| member.is_leader).map(|member| member.node)
    });
    cluster.node_mut(sender).kill();
    // A replica that is away and one that has nothing: the group has no majority until the sender is back.
    cluster.node_mut(sender).start();
    is_recovered(&cluster, wiped);
}

#[test]
fn a_snapshot_on_demand_is_taken_and_only_so_many_are_kept() {
    let cluster = Cluster::start(Settings { shards: 1, snapshot: "keep = 2", ..Settings::default() });
    let leader = cluster.wait_until_leaders_are_home()[&1];
    for round in 0..4u64 {
        with_client(cluster.endpoints(), async move |client| {
            for token in 0..20 {
                let key = Bytes::from(format!("round-{round}-{token}"));
                client.put(key, value_of(token)).await.expect("the cluster takes writes");
            }
        });
        let taken = groups(&cluster).ask(async move |client| client.take_snapshot(1).await);
        let index = taken.expect("the leader takes a snapshot").index.expect("it says which");
        groups(&cluster).wait("the snapshot to be there", 1, SOON, |shard| {
            shard.snapshot.as_ref().filter(|snapshot| snapshot.index >= index).map(drop)
        });
    }
    let kept = fs::read_dir(cluster.node(leader).data_dir().join("core-0/shard-1/snapshots"))
        .expect("the leader has snapshots")
        .count();
    assert_eq!(kept, 2);
}
