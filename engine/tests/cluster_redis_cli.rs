//! As a person would try it: redis-cli at one node, another node stopped, written to, started again, and read.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use harness::{Cluster, Settings, Signal, until};

/// Runs redis-cli; what it prints.
fn redis_cli(address: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]).args(arguments);
    let output = command.output().expect("redis-cli is installed (tools/setup)");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {complaints}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

#[test]
fn a_person_with_redis_cli_finds_what_was_written_while_a_node_was_down() {
    let mut cluster = Cluster::start(Settings::default());
    cluster.wait_until_leaders_are_home();
    let plain = |cluster: &Cluster, node| cluster.node(node).resp;
    assert_eq!(redis_cli(plain(&cluster, 1), &["set", "mykey", "myvalue"]), "OK");
    assert_eq!(redis_cli(plain(&cluster, 1), &["get", "mykey"]), "myvalue");
    assert_eq!(redis_cli(plain(&cluster, 2), &["get", "mykey"]), "myvalue", "any node serves every key");
    for number in 0..20 {
        assert_eq!(redis_cli(plain(&cluster, 3), &["set", &format!("key{number}"), "v"]), "OK");
    }
    let keys: BTreeSet<String> =
        redis_cli(plain(&cluster, 1), &["KEYS", "*"]).lines().map(str::to_owned).collect();
    let mut wanted: BTreeSet<String> = (0..20).map(|number| format!("key{number}")).collect();
    wanted.insert("mykey".to_owned());
    assert_eq!(keys, wanted);

    for stopped in 1..=3 {
        let others: Vec<u64> = (1..=3).filter(|node| *node != stopped).collect();
        cluster.node(stopped).signal(Signal::Terminate);
        cluster.node_mut(stopped).wait_exit(Duration::from_secs(20));
        let value = format!("while {stopped} was down");
        // Errors of the moments without a leader ask for another try, as people do.
        until("a write while a node is down", Duration::from_secs(20), || {
            match redis_cli(plain(&cluster, others[0]), &["set", "mykey", &value]) {
                said if said == "OK" => Ok(()),
                said => Err(said),
            }
        });
        assert_eq!(redis_cli(plain(&cluster, others[1]), &["get", "mykey"]), value);
        cluster.node_mut(stopped).start();
        until("the node to serve again", Duration::from_secs(20), || {
            cluster.node(stopped).status().map_err(|error| error.to_string())?;
            cluster.leaders().map(|_| ())
        });
        assert_eq!(
            redis_cli(plain(&cluster, stopped), &["get", "mykey"]),
            value,
            "read at the node that was down"
        );
    }
}

#[test]
fn redis_cli_follows_the_cluster() {
    let cluster = Cluster::start(Settings::default());
    cluster.wait_until_leaders_are_home();
    let door = cluster.node(1).resp_cluster;
    for number in 0..20 {
        let (key, value) = (format!("key{number}"), format!("value{number}"));
        assert_eq!(redis_cli(door, &["-c", "set", &key, &value]), "OK");
        assert_eq!(redis_cli(door, &["-c", "get", &key]), value);
    }
    // Without -c a person is told where to go.
    let moved = (0..20).map(|number| redis_cli(door, &["get", &format!("key{number}")]));
    let ports: BTreeSet<String> = cluster.nodes().iter().map(|node| node.resp_cluster.to_string()).collect();
    let moved: Vec<String> = moved.filter(|said| said.starts_with("MOVED ")).collect();
    assert!(!moved.is_empty(), "no key of twenty was elsewhere");
    for said in moved {
        let to = said.split_whitespace().nth(2).expect("MOVED slot address");
        assert!(ports.contains(to), "{said}");
    }
    let checked = redis_cli(door, &["--cluster", "check", &door.to_string()]);
    assert!(checked.contains("[OK] All 16384 slots covered."), "{checked}");
}
