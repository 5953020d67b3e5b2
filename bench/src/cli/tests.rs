//! The command line as a person types it.

use super::*;

/// The plan of a command line without the program's name; it must be a good one.
pub fn plan(line: &str) -> Plan {
    parse(line).expect("parses").plan().expect("is consistent")
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("ringkv-bench").chain(line.split_whitespace()))
}

fn parse_failure(line: &str) -> String {
    parse(line).expect_err("is refused").to_string()
}

fn plan_failure(line: &str) -> PlanError {
    parse(line).expect("parses").plan().expect_err("is refused")
}

#[test]
fn the_definition_has_no_contradictions() {
    <Cli as clap::CommandFactory>::command().debug_assert();
}

#[test]
fn defaults_need_endpoints_alone() {
    let plan = plan("write --endpoints 127.0.0.1:7051,127.0.0.1:7052,[::1]:7053");
    assert_eq!(plan.load, Load::Write);
    assert_eq!(plan.endpoints, ["127.0.0.1:7051", "127.0.0.1:7052", "[::1]:7053"]);
    assert_eq!((plan.value_bytes, plan.rate, plan.threads), (4096, None, 1));
    assert_eq!(plan.distribution, Distribution::Uniform);
    assert_eq!((plan.write_level, plan.read_level), (WriteLevel::Strong, ReadLevel::Linearizable));
    assert!(!plan.preload && !plan.verify && !plan.allow_missing);
    assert!(parse_failure("write").contains("--endpoints"));
}

#[test]
fn reads_load_their_keys_unless_told_not_to() {
    assert!(plan("read --endpoints a:1").preload);
    assert!(plan("mixed --endpoints a:1").preload);
    let plan = plan("read --endpoints a:1 --no-load --allow-missing");
    assert!(!plan.preload && plan.allow_missing);
    assert!(parse_failure("write --endpoints a:1 --no-load").contains("--no-load"));
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    for (options, culprit) in [
        ("--clients 0", "--clients"),
        ("--pipeline 0", "--pipeline"),
        ("--keys 0", "--keys"),
        ("--rate 0", "--rate"),
        ("--seconds 0", "--seconds"),
        ("--seconds nan", "--seconds"),
        ("--seconds inf", "--seconds"),
        ("--warmup -1", "-1"),
        ("--value-size 8388609", "--value-size"),
        ("--zipf-exponent 11", "--zipf-exponent"),
        ("--distribution normal", "--distribution"),
        ("--keys 1000000000001", "--keys"),
    ] {
        let message = parse_failure(&format!("write --endpoints a:1 {options}"));
        assert!(message.contains(culprit), "{options}: {message}");
    }
    assert!(parse_failure("mixed --endpoints a:1 --read-ratio 1.5").contains("from 0 to 1"));
}

#[test]
fn endpoints_are_host_and_port() {
    for endpoint in ["a", ":1", "a:", "a:0", "a:65536", "a:b", "a:1,,b:2"] {
        let message = parse_failure(&format!("write --endpoints {endpoint}"));
        assert!(message.contains("--endpoints"), "{endpoint}: {message}");
    }
}

#[test]
fn seconds_may_be_fractions() {
    let plan = plan("write --endpoints a:1 --seconds 0.25 --warmup 0");
    assert_eq!((plan.window, plan.warmup), (Duration::from_millis(250), Duration::ZERO));
}

#[test]
fn consistency_belongs_to_what_is_measured() {
    let mixed = plan("mixed --endpoints a:1 --consistency stale,leader");
    assert_eq!((mixed.write_level, mixed.read_level), (WriteLevel::Leader, ReadLevel::Stale));
    assert_eq!(plan("write --endpoints a:1 --consistency eventual").write_level, WriteLevel::Eventual);
    assert_eq!(plan("read --endpoints a:1 --consistency follower").read_level, ReadLevel::Follower);

    let failure = plan_failure("write --endpoints a:1 --consistency stale");
    assert_eq!(failure.to_string(), "--consistency stale is for reads, and `write` makes none");
    let failure = plan_failure("read --endpoints a:1 --consistency strong");
    assert_eq!(failure.to_string(), "--consistency strong is for writes, and `read` makes none");
    let failure = plan_failure("mixed --endpoints a:1 --consistency strong,leader");
    assert_eq!(failure, PlanError::ConsistencyTwice { kind: "write" });
}

#[test]
fn contradictions_are_found_before_the_run() {
    assert_eq!(
        plan_failure("write --endpoints a:1 --verify --value-size 31"),
        PlanError::ValueTooSmallToVerify { min: 32 }
    );
    assert!(plan("write --endpoints a:1 --verify --value-size 32").verify);
    assert_eq!(
        plan_failure("write --endpoints a:1 --clients 2 --threads 3"),
        PlanError::MoreThreadsThanClients { threads: 3, clients: 2 }
    );
}
