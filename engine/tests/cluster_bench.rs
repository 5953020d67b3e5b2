//! The command line against a real cluster: `ringkv get|set|del|status` and, where it has been built, `ringkv-bench`.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::{Cluster, Settings, Signal};
use serde_json::Value;

const RINGKV: &str = env!("CARGO_BIN_EXE_ringkv");

fn ringkv(cluster: &Cluster, arguments: &[&str]) -> Output {
    let endpoints = cluster.endpoints().join(",");
    let mut command = Command::new(RINGKV);
    command.args(arguments).args(["--endpoints", &endpoints, "--timeout", "4"]);
    command.output().expect("the binary starts")
}

/// Runs it; its exit code and what it printed.
fn answer(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let output = ringkv(cluster, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), said)
}

#[test]
fn the_command_line_says_by_its_exit_code_how_it_went() {
    let mut cluster = Cluster::start(Settings::default());
    assert_eq!(answer(&cluster, &["get", "k"]), (Some(1), String::new()), "there is no such key");
    assert_eq!(answer(&cluster, &["set", "k", "v"]), (Some(0), "OK\n".to_owned()));
    assert_eq!(answer(&cluster, &["get", "k"]), (Some(0), "v\n".to_owned()));
    assert_eq!(answer(&cluster, &["del", "k"]).0, Some(0));
    assert_eq!(answer(&cluster, &["del", "k"]).0, Some(1), "it is gone already");
    assert_eq!(answer(&cluster, &["no-such-command"]).0, Some(2), "wrong usage");
    let (code, table) = answer(&cluster, &["status"]);
    assert_eq!(code, Some(0), "{table}");
    let (code, text) = answer(&cluster, &["status", "--output", "json"]);
    let status: Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!((code, &status["well"]), (Some(0), &Value::Bool(true)), "{status}");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3));

    cluster.node_mut(3).kill();
    let (code, text) = answer(&cluster, &["status", "--output", "json"]);
    let status: Value = serde_json::from_str(&text).expect("one JSON document");
    assert_eq!((code, &status["well"]), (Some(1), &Value::Bool(false)), "a node is down: {status}");
    assert_eq!(answer(&cluster, &["set", "k", "w"]).0, Some(0), "two of three nodes serve");
    for node in [1, 2] {
        cluster.node(node).signal(Signal::Terminate);
        cluster.node_mut(node).wait_exit(std::time::Duration::from_secs(10));
    }
    let output = ringkv(&cluster, &["get", "k"]);
    assert_eq!(output.status.code(), Some(3), "nobody is there to answer");
    assert!(!output.stderr.is_empty(), "and it says so");
}

/// The load generator, if it was built beside the server or named in the environment.
fn bench_binary() -> Option<PathBuf> {
    let beside = Path::new(RINGKV).with_file_name("ringkv-bench");
    let named = std::env::var_os("RINGKV_BENCH").map(PathBuf::from);
    named.or_else(|| beside.exists().then_some(beside))
}

#[test]
fn the_load_generator_measures_without_errors() {
    let Some(bench) = bench_binary() else {
        eprintln!("ringkv-bench has not been built: nothing to test here");
        return;
    };
    let cluster = Cluster::start(Settings::default());
    let folder =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo's folder for tests is writable");
    let endpoints = cluster.endpoints().join(",");
    for operation in ["write", "read", "mixed"] {
        let report = folder.path().join(format!("{operation}.json"));
        let mut command = Command::new(&bench);
        command.args([
            operation,
            "--endpoints",
            &endpoints,
            "--seconds",
            "2",
            "--warmup",
            "0.5",
            "--keys",
            "500",
        ]);
        command.args(["--clients", "4", "--pipeline", "4", "--value-size", "1024", "--json"]).arg(&report);
        let output = command.output().expect("the binary starts");
        assert!(output.status.success(), "{operation}: {}", String::from_utf8_lossy(&output.stderr));
        let report = std::fs::read(&report).expect("a report is written");
        let report: Value = serde_json::from_slice(&report).expect("the report is JSON");
        assert_eq!(report["op"], operation);
        assert_eq!(report["errors"], 0, "{report}");
        assert!(report["requests"].as_u64().is_some_and(|requests| requests > 0), "{report}");
        for number in ["seconds", "qps", "mb_per_s"] {
            assert!(report[number].as_f64().is_some_and(|number| number > 0.0), "{number}: {report}");
        }
        let latency = |name: &str| report["latency_us"][name].as_f64().unwrap_or(-1.0);
        let order = ["p50", "p90", "p99", "p999", "max"].map(latency);
        assert!(order[0] > 0.0 && order.is_sorted(), "{report}");
    }
}
