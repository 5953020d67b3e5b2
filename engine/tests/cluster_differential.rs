//! The same random commands at RingKV and at a real Redis: every answer and every error text is compared, one by one and
//! pipelined, in transactions, in both versions of the protocol, and so are answers to bytes that are no protocol.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::process::Command;

use harness::{Cluster, Settings};

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/redis-differential");

#[test]
fn every_answer_is_that_of_redis() {
    let cluster = Cluster::start(Settings::default());
    cluster.wait_until_leaders_are_home();
    // Another number tries other commands; a difference names the episode that shows it.
    let seed = std::env::var("RINGKV_DIFFERENTIAL_SEED").unwrap_or_else(|_| "1".to_owned());
    let mut command = Command::new(TOOL);
    command.args(["--subject", &cluster.node(1).resp.to_string(), "--seed", &seed, "--commands", "20000"]);
    let output = command.output().expect("the tool starts");
    let (told, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complaints}");
}
