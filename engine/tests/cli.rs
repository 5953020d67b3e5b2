//! The parts of the command line that need no cluster: configurations, the doctor, completions.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const RINGKV: &str = env!("CARGO_BIN_EXE_ringkv");

fn ringkv(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(RINGKV).args(arguments).current_dir(folder).output();
    output.expect("the binary starts")
}

#[test]
fn a_configuration_is_written_once_and_is_what_a_node_reads() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let node = format!("1=127.0.0.1:{}", free_port());
    let init = ["init", "one.toml", "--node", &node, "--shards", "2", "--data-dir", "here"];
    let output = ringkv(folder.path(), &init);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(folder.path().join("one.toml")).expect("it was written");
    assert!(text.contains("shards = 2 ") && text.contains("# Raft groups"), "{text}");
    assert_eq!(ringkv(folder.path(), &init).status.code(), Some(3), "it is not written over");
    assert_eq!(fs::read_to_string(folder.path().join("one.toml")).expect("it is there"), text);
    assert_eq!(ringkv(folder.path(), &["init", "-", "--node", "nonsense"]).status.code(), Some(2));
    let printed = ringkv(folder.path(), &["init", "-"]);
    assert_eq!(String::from_utf8_lossy(&printed.stdout), include_str!("../../ringkv.toml"));

    let doctor = ringkv(folder.path(), &["doctor", "--config", "one.toml", "--output", "json"]);
    let told: Value = serde_json::from_slice(&doctor.stdout).expect("one JSON document");
    assert_eq!(doctor.status.code(), Some(0), "{told}");
    assert_eq!(told["fit"], true);
    assert!(!folder.path().join("here").exists(), "the doctor makes nothing");
}

/// A port for a node whose other doors lie above it. Nobody listens there now.
fn free_port() -> u16 {
    let free = |port: &u16| {
        [0, 10, 1_030, 56_740, 57_740]
            .iter()
            .all(|distance| TcpListener::bind(("127.0.0.1", port + distance)).is_ok())
    };
    (3_000..7_000).rev().find(free).expect("one of four thousand is free")
}

#[test]
fn the_doctor_names_what_is_wrong_and_exits_accordingly() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let port = free_port();
    let node = format!("1=127.0.0.1:{port}");
    assert!(ringkv(folder.path(), &["init", "--node", &node]).status.success());
    let _taken = TcpListener::bind(("127.0.0.1", port + 10)).expect("it was free");
    let output = ringkv(folder.path(), &["doctor", "--config", "ringkv.toml"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAULT") && text.contains("listen.peer"), "{text}");
    let missing = ringkv(folder.path(), &["doctor", "--config", "missing.toml"]);
    assert_eq!(missing.status.code(), Some(3));
}

#[test]
fn every_shell_has_completions() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    for (shell, sign) in [("bash", "complete -F"), ("zsh", "#compdef ringkv"), ("fish", "complete -c ringkv")]
    {
        let output = ringkv(folder.path(), &["completions", shell]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains(sign), "{shell}: {text}");
        for command in ["watch-status", "transfer-leader", "rebalance", "doctor"] {
            assert!(text.contains(command), "{shell} knows nothing of {command}");
        }
    }
    // Bash reads what it is given.
    let script = ringkv(folder.path(), &["completions", "bash"]).stdout;
    fs::write(folder.path().join("ringkv.bash"), script).expect("a folder");
    let bash = Command::new("bash").args(["-n", "ringkv.bash"]).current_dir(folder.path()).status();
    assert!(bash.is_ok_and(|status| status.success()));
}
