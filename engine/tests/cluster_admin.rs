//! `ringkv admin` against a real cluster, as an operator would go through it; what it prints and how it exits.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::process::Command;

use harness::{Cluster, Settings};
use serde_json::Value;

const RINGKV: &str = env!("CARGO_BIN_EXE_ringkv");

/// How a command ended, and what it said.
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

fn ringkv(cluster: &Cluster, arguments: &str) -> Said {
    let mut command = Command::new(RINGKV);
    command.args(arguments.split_whitespace()).args(["--endpoints", &cluster.endpoints().join(",")]);
    let output = command.output().expect("the binary starts");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { code: output.status.code(), out: said(&output.stdout), error: said(&output.stderr) };
    eprintln!("$ ringkv {arguments}\n{}{}", said.out, said.error);
    said
}

fn done(cluster: &Cluster, arguments: &str) -> String {
    let said = ringkv(cluster, arguments);
    assert_eq!(said.code, Some(0), "{arguments}: {}{}", said.out, said.error);
    said.out
}

fn refused(cluster: &Cluster, arguments: &str, code: i32, why: &str) {
    let said = ringkv(cluster, arguments);
    assert_eq!(said.code, Some(code), "{arguments}: {}{}", said.out, said.error);
    assert!(said.error.contains(why), "{arguments}: {}", said.error);
}

fn described(cluster: &Cluster) -> Value {
    let text = done(cluster, "admin describe --shard 1 --output json");
    serde_json::from_str(&text).expect("one JSON document")
}

fn voters(described: &Value) -> BTreeSet<u64> {
    let members = described["members"].as_array().expect("a list");
    let voters = members.iter().filter(|member| member["role"] == "voter");
    voters.map(|member| member["node"].as_u64().expect("a number")).collect()
}

#[test]
fn an_operator_moves_a_replica_and_a_leader_and_looks_after_the_log() {
    let cluster = Cluster::start(Settings { nodes: 4, replicas: 3, shards: 2, ..Settings::default() });
    cluster.wait_until_all_shards_have_leaders();
    for key in 0..40 {
        done(&cluster, &format!("set key{key} value"));
    }

    let before = described(&cluster);
    let nodes = voters(&before);
    assert_eq!(nodes.len(), 3, "{before}");
    assert_eq!(before["members"][0]["generation"], "founding");
    let newcomer = (1..=4).find(|node| !nodes.contains(node)).expect("three of four");
    let leader = before["leader"].as_u64().expect("a number");
    let follower = *nodes.iter().find(|node| **node != leader).expect("three");

    refused(&cluster, &format!("admin add-replica --shard 1 --node {follower}"), 1, "already");
    refused(&cluster, &format!("admin remove-replica --shard 1 --node {newcomer}"), 1, "no replica");
    refused(&cluster, "admin add-replica --shard 1 --node 9", 1, "no node 9");
    refused(&cluster, "admin describe --shard 77", 3, "no shard 77");
    refused(&cluster, "admin add-replica --shard 1", 2, "--node");

    let said = done(&cluster, &format!("admin add-replica --shard 1 --node {newcomer} --wait"));
    assert_eq!(said, format!("shard 1: node {newcomer} has a replica that votes\n"));
    let with = described(&cluster);
    assert_eq!(voters(&with), (1..=4).collect(), "{with}");
    let founding = |member: &&Value| member["generation"] == "founding";
    assert_eq!(with["members"].as_array().expect("a list").iter().filter(founding).count(), 3, "{with}");

    done(&cluster, &format!("admin remove-replica --shard 1 --node {leader} --wait"));
    let without = described(&cluster);
    assert!(!voters(&without).contains(&leader) && without["leader"] != leader, "{without}");

    done(&cluster, &format!("admin transfer-leader --shard 1 --node {newcomer} --wait"));
    done(&cluster, "admin transfer-leader --shard 1 --wait");

    let text = done(&cluster, "admin snapshot --shard 1 --wait --output json");
    let snapshot: Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!(snapshot["done"], true);
    assert!(
        snapshot["description"]["snapshot"]["index"].as_u64() >= snapshot["index"].as_u64(),
        "{snapshot}"
    );
    done(&cluster, "admin compact --shard 1 --wait");
    assert!(described(&cluster)["first_index"].as_u64() > before["first_index"].as_u64());

    let table = done(&cluster, "admin describe");
    for shard in 0..=2 {
        assert!(table.contains(&format!("shard {shard}: node ")), "{table}");
    }
    let status: Value =
        serde_json::from_str(&done(&cluster, "status --output json")).expect("one JSON document");
    let replicas: BTreeSet<u64> =
        status["shards"][1]["members"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    assert_eq!(replicas, voters(&described(&cluster)), "{status}");
    assert_eq!(done(&cluster, "get key7"), "value\n");
}

#[test]
fn an_operator_looks_at_the_map() {
    let cluster = Cluster::start(Settings { nodes: 3, shards: 2, ..Settings::default() });
    cluster.wait_until_all_shards_have_leaders();
    let table = done(&cluster, "admin map");
    assert!(table.starts_with("epoch ") && table.contains(": 3 nodes, 2 shards\n"), "{table}");
    for line in ["0-8191", "8192-16383", "the map", "nothing moves"] {
        assert!(table.contains(line), "{line}: {table}");
    }
    for node in cluster.nodes() {
        assert!(table.contains(&node.binary.to_string()), "{table}");
    }
    let told: Value = serde_json::from_str(&done(&cluster, "admin map --output json")).expect("one document");
    assert_eq!(told["map"]["shards"].as_array().map(Vec::len), Some(3), "{told}");
    assert_eq!(told["moving"].as_array().map(Vec::len), Some(0), "{told}");

    let same =
        done(&cluster, &format!("admin join --dry-run --config {}", cluster.node(2).config_path().display()));
    assert_eq!(same, "node 2 is known as its configuration says; nothing would change\n");
    refused(&cluster, "admin join --config nowhere.toml", 3, "nowhere.toml");
    refused(&cluster, "admin leave", 2, "<NODE>");
    refused(&cluster, "admin leave 3 --dry-run --watch", 2, "cannot be used with");
    refused(&cluster, "admin move 1", 2, "<NODES>");
    refused(&cluster, "admin split 1 --at slot", 2, "--at");
    refused(&cluster, "admin leave 9", 1, "refused, nothing was changed");
}

/// The nodes a shard is placed on, as `admin map` tells.
fn placed(cluster: &Cluster, shard: usize) -> Vec<u64> {
    let told: Value = serde_json::from_str(&done(cluster, "admin map --output json")).expect("one document");
    let placed = told["map"]["shards"][shard]["plan"]["placed"].as_array().expect("a list");
    placed.iter().filter_map(Value::as_u64).collect()
}

#[test]
fn an_operator_moves_a_shard_cuts_it_in_two_and_lets_a_node_go() {
    let cluster = Cluster::start(Settings { nodes: 4, replicas: 3, shards: 2, ..Settings::default() });
    cluster.wait_until_all_shards_have_leaders();
    for key in 0..20 {
        done(&cluster, &format!("set key{key} value"));
    }
    let before = voters(&described(&cluster));
    let newcomer = (1..=4).find(|node| !before.contains(node)).expect("three of four");
    let stays = *before.iter().next().expect("three");
    let third = *before.iter().last().expect("three");

    refused(&cluster, "admin move 1 1,9,2", 1, "no node 9");
    refused(&cluster, "admin move 7 1,2,3", 1, "no shard 7");
    refused(&cluster, "admin split 0", 1, "no shard 0 with slots");
    refused(&cluster, "admin split 1 --at 16000", 1, "between two of its slots");
    refused(&cluster, "admin map --epoch 99", 1, "not known");

    let nodes = format!("{newcomer},{stays},{third}");
    let tried = done(&cluster, &format!("admin move 1 {nodes} --dry-run"));
    assert!(tried.contains(&format!("shard 1 would belong on {nodes}")), "{tried}");
    assert_eq!(voters(&described(&cluster)), before, "nothing was done");
    let moved = done(&cluster, &format!("admin move 1 {nodes} --watch"));
    assert!(moved.ends_with("every shard is where it belongs\n"), "{moved}");
    assert_eq!(voters(&described(&cluster)), [newcomer, stays, third].into());
    assert_eq!(placed(&cluster, 1), [newcomer, stays, third]);
    assert!(done(&cluster, "admin map").contains("pinned"));
    done(&cluster, "admin rebalance --watch");
    assert!(!done(&cluster, "admin map").contains("pinned"));

    let cut = done(&cluster, "admin split 1 --watch");
    assert!(cut.contains("shard 1 is cut at slot 4096; what follows becomes shard 3"), "{cut}");
    assert!(cut.ends_with("shard 1 is two: 1 and 3\n"), "{cut}");
    let table = done(&cluster, "admin map");
    assert!(table.contains("0-4095 ") && table.contains("4096-8191 "), "{table}");

    let leave = done(&cluster, "admin leave 4 --dry-run");
    assert!(leave.contains("node 4 would give its replicas away"), "{leave}");
    assert!(done(&cluster, "admin map").contains(": 4 nodes, 3 shards"), "nothing was done");
    let left = done(&cluster, "admin leave 4 --watch");
    assert!(left.ends_with("node 4 has left; its process can be stopped\n"), "{left}");
    assert!(done(&cluster, "admin map").contains(": 3 nodes, 3 shards"));
    assert!(done(&cluster, "admin map --epoch 2").contains(": 4 nodes, 2 shards"));
    refused(&cluster, "admin leave 3", 1, "only 2 nodes would stay");
    for key in 0..20 {
        assert_eq!(done(&cluster, &format!("get key{key}")), "value\n");
    }
}
