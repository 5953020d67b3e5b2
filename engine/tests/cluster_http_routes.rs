//! Every HTTP route asked with curl, and loaded with wrk, by the same scripts that people run.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::process::Command;

use harness::{Cluster, Settings};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/");

fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(format!("{TOOLS}{tool}")).args(arguments).output().expect("the tool starts");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{tool}: {told}\n{complaints}");
    told
}

#[test]
fn curl_is_answered_well_on_every_route_of_every_node() {
    let cluster = Cluster::start(Settings { cores: 2, ..Settings::default() });
    cluster.wait_until_leaders_are_home();
    for node in cluster.nodes() {
        run("http-routes", &["--url", &format!("http://{}", node.http)]);
    }
}

#[test]
fn wrk_sees_no_error() {
    let cluster = Cluster::start(Settings::default());
    cluster.wait_until_leaders_are_home();
    let url = format!("http://{}", cluster.node(2).http);
    let table = run("http-load", &["--url", &url, "--seconds", "1", "--connections", "20", "--keys", "100"]);
    assert_eq!(table.lines().count(), 5, "{table}");
}
