//! Three nodes become six and three others, under load: nothing is lost or stale, writes never stop, little more moves
//! than has to, and what has moved away leaves the disk.
//!
//! `tools/elastic` runs a longer form of this and shows its findings. The environment says how long:
//! `RINGKV_ELASTIC_SECONDS` for the quiet times between changes, `RINGKV_ELASTIC_KEYS` written before, and
//! `RINGKV_ELASTIC_JSON` where the findings go.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Cluster, Load, LoadConfig, Settings, Topology, read_back, until, value_of, with_client};
use net::protocol::ClusterOp;
use serde_json::{Value, json};

const SHARDS: u32 = 16;
const COPIES: usize = 3;
/// All shards have moved within this, however slow the machine.
const SETTLED_MAX: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(30);
/// The cluster never goes without an acknowledged write for longer.
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// What may move, beside what has to.
const MOVED_MAX: f64 = 1.2;
/// Tasks that write what is there before.
const WRITERS: u64 = 32;

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}")),
        Err(_) => default,
    }
}

/// Keys that are there before anything moves, and the numbers of their values.
fn fill(cluster: &Cluster, count: u64) -> Vec<(Bytes, u64)> {
    let key = |number: u64| Bytes::from(format!("kept-{number}"));
    with_client(cluster.endpoints(), async move |client| {
        let write = |writer| {
            let client = client.clone();
            glommio::spawn_local(async move {
                for number in (writer..count).step_by(usize::try_from(WRITERS).expect("few")) {
                    client.put(key(number), value_of(number)).await.expect("the cluster takes writes");
                }
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        for writer in writers {
            writer.await;
        }
    });
    (0..count).map(|number| (key(number), number)).collect()
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

/// Bytes of the replicas of a node, logs and spare segments aside.
fn replica_bytes(cluster: &Cluster, node: u64) -> u64 {
    cluster.node(node).replica_folders(0).iter().map(|folder| bytes_below(folder)).sum()
}

/// Snapshots that a node has received, and their bytes, as its log says.
fn received(cluster: &Cluster, node: u64) -> (usize, u64) {
    let log = cluster.node(node).log();
    let lines = log.lines().filter(|line| line.contains("received a snapshot"));
    let bytes = |line: &str| -> u64 {
        let (_, rest) = line.split_once(" bytes=").unwrap_or_default();
        rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    let sizes: Vec<u64> = lines.map(bytes).collect();
    (sizes.len(), sizes.iter().sum())
}

/// What was found, and what of it is wrong.
#[derive(Default)]
struct Findings {
    periods: Vec<Value>,
    other: serde_json::Map<String, Value>,
    wrong: Vec<String>,
}

impl Findings {
    fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }

    /// A stretch of the load: what its probes saw.
    fn period(&mut self, name: &str, load: &Load, from: u64, to: u64) {
        let latencies = load.latencies(from, to);
        let at = |share: usize| {
            let position = (latencies.len() * share / 1000).min(latencies.len().saturating_sub(1));
            latencies.get(position).map_or(0.0, |it| it.as_secs_f64() * 1000.0)
        };
        let seconds = Duration::from_nanos(to - from).as_secs_f64();
        let silence = load.longest_silence(from, to);
        let outage = load.worst_outage(from, to);
        let found = json!({
            "name": name,
            "seconds": seconds,
            "writes": latencies.len(),
            "writes_per_s": latencies.len() as f64 / seconds,
            "p50_ms": at(500), "p99_ms": at(990), "p999_ms": at(999),
            "longest_silence_ms": silence.as_millis() as u64,
            "worst_shard_outage_ms": outage.longest.as_millis() as u64,
            "worst_shard": outage.shard,
        });
        println!("{found}");
        self.periods.push(found);
        self.check(silence <= SILENCE_MAX, || format!("{name}: no write was acknowledged for {silence:?}"));
    }

    fn p99(&self, name: &str) -> f64 {
        let period = self.periods.iter().find(|period| period["name"] == name).expect("it was measured");
        period["p99_ms"].as_f64().expect("a number")
    }

    fn note(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("{name}: {value}");
        self.other.insert(name.to_owned(), value);
    }

    /// Replicas that were placed anew beside those that had to be.
    fn moved(&mut self, name: &str, placements: usize, ideal: f64) {
        let share = placements as f64 / ideal;
        self.note(name, json!({"placements": placements, "ideal": ideal, "of_ideal": share}));
        self.check(share <= MOVED_MAX, || format!("{name}: {placements} replicas moved, {ideal} had to"));
    }

    /// Writes everything down, and fails if anything is wrong.
    fn conclude(self) {
        let ok = self.wrong.is_empty();
        let mut document = self.other;
        document.insert("periods".to_owned(), self.periods.into());
        document.insert("wrong".to_owned(), self.wrong.clone().into());
        document.insert("ok".to_owned(), ok.into());
        if let Some(path) = std::env::var_os("RINGKV_ELASTIC_JSON") {
            let text = serde_json::to_string_pretty(&document).expect("plain data can be written");
            fs::write(&path, text + "\n").expect("RINGKV_ELASTIC_JSON names a file that can be written");
        }
        assert!(ok, "{} things are wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

/// A load, its cluster and what was found.
struct Run {
    cluster: Cluster,
    load: Load,
    findings: Findings,
    quiet: Duration,
}

impl Run {
    fn topology(&self) -> Topology {
        Topology::at(self.cluster.endpoints())
    }

    fn epoch(&self) -> u64 {
        until("the map to be told", SOON, || self.topology().account()).epoch
    }

    /// Lets the load run for a while, with nothing else to do.
    fn rest(&mut self, name: &str) {
        let from = self.load.now();
        let until_then = Instant::now() + self.quiet;
        while Instant::now() < until_then {
            self.load.wait_for_operations(50, SOON);
        }
        let to = self.load.now();
        self.findings.period(name, &self.load, from, to);
    }

    /// Three more nodes join, all at once, and get their share.
    fn grow(&mut self) {
        let (from, before) = (self.load.now(), self.epoch());
        for _ in 0..3 {
            self.cluster.join_node();
        }
        let topology = self.topology();
        let map = topology.wait_until_settled(&(1..=6).collect(), SETTLED_MAX, |_| {});
        let to = self.load.now();
        self.findings.period("three nodes join", &self.load, from, to);
        let all = (map.shards.len() * COPIES) as f64;
        self.findings.moved("moved_by_growing", topology.placements(before, map.epoch), all / 2.0);
        let received: Vec<(usize, u64)> = (4..=6).map(|node| received(&self.cluster, node)).collect();
        self.findings.note("snapshots_received_by_new_nodes", received.iter().map(|it| it.0).sum::<usize>());
        self.findings.note("snapshot_bytes_received", received.iter().map(|it| it.1).sum::<u64>());
        self.even(&topology, 6);
    }

    /// The first three nodes leave, all at once, and end with nothing on their disks.
    fn shrink(&mut self) {
        let (from, before) = (self.load.now(), self.epoch());
        let topology = self.topology();
        let account = until("the map to be told", SOON, || topology.account());
        let map = account.map.expect("asked for");
        let held = |node: &u64| map.shards.iter().filter(|shard| shard.plan.placed.contains(node)).count();
        let ideal: usize = (1..=3).map(|node| held(&node)).sum();
        let bytes: u64 = (1..=3).map(|node| replica_bytes(&self.cluster, node)).sum();
        for node in 1..=3 {
            topology.change(&ClusterOp::Leave { node, stay: false, dry_run: false });
        }
        let map = topology.wait_until_settled(&(4..=6).collect(), SETTLED_MAX, |_| {});
        let to = self.load.now();
        self.findings.period("three nodes leave", &self.load, from, to);
        let placements = topology.placements(before, map.epoch);
        self.findings.moved("moved_by_shrinking", placements, ideal as f64);
        let left = until("the nodes that left to have emptied their disks", SOON, || {
            let left: u64 = (1..=3).map(|node| replica_bytes(&self.cluster, node)).sum();
            let folders: usize = (1..=3).map(|node| self.cluster.node(node).replica_folders(0).len()).sum();
            if folders == 0 { Ok(left) } else { Err(format!("{folders} replicas, {left} bytes are left")) }
        });
        self.findings.note("replica_bytes_of_leaving_nodes", json!({"before": bytes, "after": left}));
        self.findings.check(bytes > 0, || "the nodes that left held nothing before".to_owned());
        self.even(&topology, 3);
        for node in 1..=3 {
            self.cluster.node_mut(node).kill();
        }
        self.load.wait_for_operations(200, SOON);
    }

    /// Replicas and leaders are spread evenly over so many nodes.
    fn even(&mut self, topology: &Topology, nodes: usize) {
        let shards = usize::try_from(SHARDS).expect("few");
        let spread = harness::within(SOON, || {
            let account = topology.account()?;
            let (replicas, leaders) = (&account.replicas, &account.leaders);
            let most = leaders.values().max().copied().unwrap_or(0);
            let fair = u32::try_from(shards.div_ceil(nodes)).expect("few") + 1;
            let whole: u32 = replicas.values().sum();
            let seen = format!("replicas {replicas:?}, leaders {leaders:?}");
            if whole as usize == shards * COPIES && most <= fair { Ok(seen) } else { Err(seen) }
        });
        match spread {
            Ok(seen) => println!("{nodes} nodes: {seen}"),
            Err(seen) => self.findings.wrong.push(format!("{nodes} nodes: uneven: {seen}")),
        }
    }

    /// All that was acknowledged is there, and every answer was right.
    fn verify(self, mut written: Vec<(Bytes, u64)>) -> Findings {
        let Run { cluster, load, mut findings, .. } = self;
        let (failed, surprises) = (load.failed(), load.surprises());
        let result = load.finish();
        findings.note("operations_checked", result.history.count(|_| true));
        for trouble in failed.iter().chain(&surprises) {
            findings.wrong.push(format!("an error: {trouble}"));
        }
        written.extend(result.written);
        findings.note("keys_read_back", written.len());
        let lost = read_back(cluster.endpoints(), written);
        findings.check(lost.is_empty(), || format!("{} writes are lost, such as {}", lost.len(), lost[0]));
        if let Err(violation) = result.history.check() {
            findings.wrong.push(format!("not linearizable: {violation}"));
        }
        findings
    }
}

#[test]
fn three_nodes_become_six_and_three_others_under_load() {
    let quiet = Duration::from_secs(from_environment("RINGKV_ELASTIC_SECONDS", 4));
    let keys = from_environment("RINGKV_ELASTIC_KEYS", 8_000);
    let settings = Settings { shards: SHARDS, log_level: "info", ..Settings::default() };
    let cluster = Cluster::start(settings);
    let written = fill(&cluster, keys);
    let config = LoadConfig { keys: 32, pause: Duration::from_millis(6), ..LoadConfig::default() };
    let load = Load::start(cluster.endpoints(), config);
    load.wait_until_writes_flow(load.now(), SOON);
    let begun = load.now();
    let mut run = Run { cluster, load, findings: Findings::default(), quiet };
    run.rest("three nodes");
    run.grow();
    run.rest("six nodes");
    run.shrink();
    run.rest("three others");
    let nodes: BTreeSet<u64> = until("the map to be told", SOON, || run.topology().account())
        .map
        .into_iter()
        .flat_map(|map| map.nodes)
        .map(|node| node.id)
        .collect();
    run.findings.check(nodes == (4..=6).collect(), || format!("nodes {nodes:?} are left"));
    let whole = (begun, run.load.now());
    run.findings.period("all of it", &run.load, whole.0, whole.1);
    for (moving, before, after) in
        [("three nodes join", "three nodes", "six nodes"), ("three nodes leave", "six nodes", "three others")]
    {
        let beside = |quiet| run.findings.p99(moving) / run.findings.p99(quiet).max(0.001);
        let ratios = json!({"beside_before": beside(before), "beside_after": beside(after)});
        run.findings.note(&format!("p99_while_{}", moving.replace(' ', "_")), ratios);
    }
    run.verify(written).conclude();
}
