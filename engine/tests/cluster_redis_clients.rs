//! The clients people have, unchanged: redis-py, its cluster client and coredis call every supported command, and
//! count through the death of a node. What comes back is compared with a real Redis and a real Redis Cluster.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use harness::{Cluster, Node, Settings};

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/redis-clients");

/// Runs the clients, ends and starts the nodes they ask for; what they print besides is what differed.
fn run_clients(cluster: &mut Cluster, client: &str) -> (bool, Vec<String>) {
    let addresses = |pick: fn(&Node) -> SocketAddr| {
        let all: Vec<String> = cluster.nodes().iter().map(|node| pick(node).to_string()).collect();
        all.join(",")
    };
    let mut command = Command::new(TOOL);
    command.args([
        "--plain",
        &addresses(|node| node.resp),
        "--cluster",
        &addresses(|node| node.resp_cluster),
    ]);
    command.args(["--only", client, "--control-pipe"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    let mut orders = child.stdin.take().expect("a pipe was asked for");
    let mut differences = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("a pipe was asked for")).lines() {
        let line = line.expect("the tool prints text");
        let node = |id: &str| id.parse().expect("the number of a node");
        match line.split_once(' ') {
            Some(("kill", id)) => cluster.node_mut(node(id)).kill(),
            Some(("restart", id)) => cluster.node_mut(node(id)).start(),
            _ => {
                differences.push(line);
                continue;
            }
        }
        writeln!(orders, "done").expect("the tool waits for this");
    }
    (child.wait().expect("a child can be waited for").success(), differences)
}

fn clients_cannot_tell(client: &str) {
    let mut cluster = Cluster::start(Settings { shards: 6, ..Settings::default() });
    cluster.wait_until_leaders_are_home();
    let (well, differences) = run_clients(&mut cluster, client);
    assert!(well, "{client} (the reason is above, if it is not here): {differences:#?}");
}

#[test]
fn redis_py_and_its_cluster_client_cannot_tell_it_from_redis() {
    clients_cannot_tell("redis-py");
}

#[test]
fn coredis_and_its_cluster_client_cannot_tell_it_from_redis() {
    clients_cannot_tell("coredis");
}
