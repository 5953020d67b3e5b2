//! The program as a person runs it, against a node that misbehaves on demand: exit codes, files, and
//! figures that must not flatter.

mod node;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use node::{Faults, Node};
use serde_json::Value;

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringkv-bench"));
    command.args(line.split_whitespace());
    command
}

fn run(line: &str) -> Output {
    command(line).output().expect("the program starts")
}

/// Runs an operation against a node; returns the exit code, the JSON and the table.
fn measure(node: &Node, line: &str) -> (i32, Value, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("made/on/demand/report.json");
    let output = run(&format!(
        "{line} --endpoints {} --clients 1 --warmup 0 --json {}",
        node.endpoint(),
        json.display()
    ));
    let table = text(&output.stdout);
    assert!(json.exists(), "no report: {}{table}", text(&output.stderr));
    (output.status.code().expect("not killed"), read_json(&json), table)
}

fn read_json(file: &Path) -> Value {
    let document = std::fs::read_to_string(file).expect("the report was written");
    serde_json::from_str(&document).expect("the report is JSON")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn number(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_else(|| panic!("{name} is a count in {document}"))
}

#[test]
fn a_clean_write_reports_what_the_node_saw() {
    let node = Node::start(Faults::default());
    let (code, report, table) = measure(&node, "write --seconds 0.5 --keys 100 --value-size 1000");
    assert_eq!(code, 0, "{table}");
    assert_eq!(report["op"], "write");
    assert_eq!(number(&report, "errors"), 0);
    assert!(number(&report, "requests") > 0);
    assert_eq!(number(&report, "requests"), node.requests(), "every request is counted, once");
    assert_eq!(node.keys(), 100);
    assert!(table.contains("P99.9"), "{table}");
}

#[test]
fn a_read_loads_every_key_and_checks_what_comes_back() {
    let node = Node::start(Faults::default());
    let line = "read --seconds 0.3 --keys 3000 --value-size 200 --distribution zipf --verify --threads 1";
    let (code, report, table) = measure(&node, line);
    assert_eq!(code, 0, "{table}");
    assert_eq!(node.keys(), 3_000);
    assert_eq!(node.requests(), number(&report, "requests") + 3_000, "the load is not measured");

    // A second run, with another seed, understands the values of the first.
    let (code, _, table) = measure(&node, &format!("{line} --no-load --seed 99"));
    assert_eq!(code, 0, "{table}");
}

#[test]
fn damaged_values_are_errors_under_verify() {
    let node = Node::start(Faults { damages: true, ..Faults::default() });
    let (code, report, table) = measure(&node, "read --seconds 0.2 --keys 50 --value-size 64 --verify");
    assert_eq!(code, 1, "{table}");
    assert_eq!(number(&report["errors_by_kind"], "wrong_value"), number(&report, "errors"));
    assert_eq!(number(&report, "errors"), number(&report, "requests"));
    assert!(table.contains("value is damaged"), "{table}");
}

#[test]
fn missing_keys_are_errors_unless_allowed() {
    let node = Node::start(Faults { forgets: true, ..Faults::default() });
    let (code, report, table) = measure(&node, "read --seconds 0.2 --keys 50");
    assert_eq!(code, 1, "{table}");
    assert_eq!(number(&report["errors_by_kind"], "missing_key"), number(&report, "requests"));
    let (code, report, table) = measure(&node, "read --seconds 0.2 --keys 50 --no-load --allow-missing");
    assert_eq!((code, number(&report, "errors")), (0, 0), "{table}");
}

#[test]
fn refusals_fail_the_run_and_are_shown() {
    let node = Node::start(Faults { refuses_from: Some(20), ..Faults::default() });
    let (code, report, table) = measure(&node, "write --seconds 0.3 --pipeline 4");
    assert_eq!(code, 1, "{table}");
    assert_eq!(number(&report, "requests") - number(&report, "errors"), 19);
    assert!(table.contains("refused on purpose"), "{table}");
    // Places rest after an error: without that, thousands would have been sent.
    assert!(number(&report, "errors") <= 4 * 40, "hammered: {table}");
}

#[test]
fn a_load_that_fails_ends_the_run_without_a_report() {
    let node = Node::start(Faults { refuses_from: Some(20), ..Faults::default() });
    let output = run(&format!("read --keys 100 --seconds 1 --endpoints {} --threads 2", node.endpoint()));
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("cannot load key") && message.contains("refused on purpose"), "{message}");
}

/// The heart of it. The node stands still for 0.4 s of a second with a request due every millisecond: 400
/// of 1,000 requests wait, a quarter of all for more than 0.15 s. A generator that measures from the
/// sending, or sends nothing meanwhile and forgets about it, would show one slow request per place.
#[test]
fn a_stall_is_charged_to_every_request_it_delayed() {
    for pipeline in [4, 600] {
        let stall = Some((200, Duration::from_millis(400)));
        let node = Node::start(Faults { stall, ..Faults::default() });
        let line = format!("write --seconds 1 --rate 1000 --value-size 64 --pipeline {pipeline}");
        let (code, report, table) = measure(&node, &line);
        assert_eq!(code, 0, "{table}");
        assert_eq!(number(&report, "requests") + number(&report, "unsent"), 1_000, "{table}");
        // Only lower bounds: a slow machine adds to latencies and takes nothing away.
        assert!(number(&report["latency_us"], "p90") >= 250_000, "pipeline {pipeline}:\n{table}");
        assert!(number(&report["latency_us"], "max") >= 399_000, "pipeline {pipeline}:\n{table}");
        let lag = number(&report["start_lag_us"], "p90");
        assert!(pipeline > 4 || lag >= 250_000, "with few places the wait is for a place:\n{table}");
    }
}

#[test]
fn an_interrupt_prints_what_was_measured() {
    let node = Node::start(Faults::default());
    let endpoint = node.endpoint();
    let line = format!("mixed --endpoints {endpoint} --seconds 600 --warmup 0 --keys 10 --progress");
    let mut child =
        command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut progress = BufReader::new(child.stderr.take().expect("piped")).lines();
    // The first second of the measurement is over once it is shown.
    let shown = progress.by_ref().map_while(Result::ok).any(|line| line.contains("req/s"));
    assert!(shown, "no progress before the end of stderr");
    let pid = libc::pid_t::try_from(child.id()).expect("a process id");
    // SAFETY: the child is alive until it is waited for, below; a signal to it has no memory effects.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let mut table = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut table).expect("text");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{table}");
    assert!(table.contains("mixed") && table.contains("warning: interrupted"), "{table}");
}

#[test]
fn threads_add_up_and_the_plot_is_drawn() {
    let node = Node::start(Faults::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (json, svg) = (folder.path().join("r.json"), folder.path().join("r.svg"));
    let output = run(&format!(
        "mixed --endpoints {} --seconds 0.6 --warmup 0.1 --clients 3 --threads 2 --keys 64 --json {} --svg {}",
        node.endpoint(),
        json.display(),
        svg.display()
    ));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report = read_json(&json);
    let parts = number(&report["read"], "requests") + number(&report["write"], "requests");
    assert_eq!(number(&report, "requests"), parts);
    assert!(node.requests() > parts + 64, "warm-up and load are not counted");
    let plot = std::fs::read_to_string(svg).expect("the plot was written");
    assert!(roxmltree::Document::parse(&plot).is_ok());
}

#[test]
fn bad_arguments_and_dead_endpoints_are_told_apart() {
    let output = run("write --endpoints 127.0.0.1:1 --clients 0");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--clients"));
    let output = run("write --endpoints 127.0.0.1:1 --clients 1 --threads 2");
    assert_eq!(output.status.code(), Some(2));
    // Nothing listens on port 1.
    let output = run("write --endpoints 127.0.0.1:1 --timeout-ms 300");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot connect to the cluster"), "{}", text(&output.stderr));
    let output = run("write --endpoints 127.0.0.1:1 --json /");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write /"), "{}", text(&output.stderr));
}
