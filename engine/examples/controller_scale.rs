//! How the controller and the map bear a large cluster: prints the size of the map, how long a decision takes, how many
//! steps a second it makes, with groups that do at once what they are told, and what an epoch costs between nodes and on each,
//! as the whole map and as a change of it.
//!
//! ```text
//! cargo run --release --all-features --example controller_scale -- [NODES] [SHARDS] [STEPS]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use engine::controller::{Controller, View};
use engine::core::{Core, CoreConfig, Event};
use engine::topology::{self, Change, Place, Topology, What};
use net::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, ShardPlan, encode_map};
use net::peer::{GroupBody, GroupMessage, MapChange, PeerEncoder, ShardReport};
use raft::Nanos;
use wal::{Recovered, Wal, WalConfig};

const COPIES: u64 = 3;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let nodes = arguments.next().unwrap_or(1_000);
    let shards = arguments.next().unwrap_or(100_000);
    let steps = arguments.next().unwrap_or(2_000);
    let mut cluster = Cluster::new(nodes, u32::try_from(shards).expect("shards are numbered in 20 bits"));
    println!("{nodes} nodes, {shards} shards of {COPIES} replicas");
    println!("the map: {} bytes", encode_map(cluster.topology.map()).len());
    let joins = nodes / 10;
    for id in nodes + 1..=nodes + joins {
        cluster.change(What::PutNode(node(id)));
    }
    let first = cluster.step().expect("there is something to do");
    println!("{joins} nodes join: the first decision, with a new goal: {first:?}");
    let begun = Instant::now();
    let mut decisions = Duration::ZERO;
    let mut done = 0;
    while done < steps {
        let Some(took) = cluster.step() else { break };
        decisions += took;
        done += 1;
    }
    let second = begun.elapsed().as_secs_f64();
    let each = decisions / u32::try_from(done.max(1)).expect("few");
    println!(
        "{done} steps: {:.0} a second, a decision {each:?}",
        f64::from(u32::try_from(done).expect("few")) / second
    );
    println!("{} replicas were made", cluster.made);
    let before = cluster.topology.map().clone();
    let placed = before.shards[1].plan.placed.iter().rev().chain(&[1, 2, 3]).take(3).copied().collect();
    let place = What::Place(vec![Place { shard: 1, nodes: placed, pinned: true }]);
    let change = Change { epoch: before.epoch + 1, what: place };
    cluster.change(change.what.clone());
    travel(&before, &change, cluster.topology.map());
}

/// What it costs that a node hears of an epoch from another.
fn travel(before: &ClusterMap, change: &Change, after: &ClusterMap) {
    let begun = Instant::now();
    let digest = topology::digest(before);
    println!("the digest of the whole map takes {:?}", begun.elapsed());
    let changes = vec![MapChange { digest, change: change.encode() }];
    let bodies = [
        ("the whole map", GroupBody::Map { map: encode_map(after) }),
        ("its change", GroupBody::MapChanges(changes)),
    ];
    for (what, body) in bodies {
        let message = GroupMessage { group: 0, from: 2, to: 1, term: 0, body };
        let (mut frame, mut encoder) = (BytesMut::new(), PeerEncoder::new(1 << 20, u32::MAX));
        encoder.messages(std::slice::from_ref(&message), &mut frame).expect("it fits a frame");
        let mut core = core(before.clone());
        core.handle(Event::Tick { now: Nanos::from_millis(1), wall_ms: 1 });
        drop(core.settle());
        let begun = Instant::now();
        core.handle(Event::Peer { node: 2, core: 0, messages: vec![message] });
        let took = begun.elapsed();
        assert_eq!(core.known_map().epoch, after.epoch);
        println!("an epoch as {what}: {} bytes on the wire, taken in {took:?}", frame.len());
    }
}

/// The first core of a node that holds no replica.
fn core(map: ClusterMap) -> Core {
    let config = CoreConfig {
        node: 1,
        store: 0,
        core: 0,
        cores: 8,
        raft: raft::Config::new(raft::NodeId(1)),
        key_bytes_max: 1 << 10,
        value_bytes_max: 1 << 20,
        inflight_bytes_max: 1 << 20,
        reads_bytes_max: 1 << 20,
        request_timeout: Nanos::from_millis(1_000),
        wal_retain_bytes: 1 << 30,
        snapshot_interval: Nanos::ZERO,
        snapshot_threshold_bytes: 0,
        log_bytes_max: 1 << 30,
        snapshots_sending_max: 2,
        hibernate: true,
        slow_write: Nanos::ZERO,
        replace_after: Nanos::ZERO,
        moves_max: 2,
    };
    let wal = Wal::new(WalConfig::new(1, 0), Recovered::empty(1));
    Core::new(config, map, wal, Vec::new(), 1).expect("the configuration is valid")
}

fn node(id: u64) -> NodeInfo {
    NodeInfo {
        id,
        binary_addr: format!("10.0.{}.{}:7050", id / 256, id % 256),
        peer_addr: format!("10.0.{}.{}:7051", id / 256, id % 256),
        cores: 8,
        weight: 1,
        ..NodeInfo::default()
    }
}

struct Cluster {
    topology: Topology,
    reports: BTreeMap<u32, ShardReport>,
    controller: Controller,
    made: usize,
}

impl Cluster {
    fn new(nodes: u64, shards: u32) -> Cluster {
        let founders =
            |id: u32| (0..COPIES).map(|turn| (u64::from(id) + turn) % nodes + 1).collect::<Vec<u64>>();
        let shard = |id: u32| ShardInfo {
            id,
            replicas: founders(id).into_iter().map(|node| ReplicaInfo { node, core: id % 8 }).collect(),
            plan: ShardPlan { epoch: 1, founders: founders(id), copies: 3, ..ShardPlan::default() },
            ..ShardInfo::default()
        };
        let report = |id: u32| {
            let leader = founders(id)[0];
            (
                id,
                ShardReport {
                    shard: id,
                    term: 1,
                    index: 1,
                    leader,
                    voters: founders(id),
                    ..ShardReport::default()
                },
            )
        };
        let map = ClusterMap {
            epoch: 1,
            nodes: (1..=nodes).map(node).collect(),
            shards: (0..=shards).map(shard).collect(),
        };
        let found = Change { epoch: 1, what: What::Found(Box::new(map)) };
        Cluster {
            topology: Topology::found(&found).expect("a founding change"),
            reports: (0..=shards).map(report).collect(),
            controller: Controller::default(),
            made: 0,
        }
    }

    fn change(&mut self, what: What) {
        let epoch = self.topology.map().epoch + 1;
        self.topology.apply(&Change { epoch, what }).expect("it fits");
    }

    /// One decision, applied, and carried out by its group; how long the decision took.
    fn step(&mut self) -> Option<Duration> {
        let map = self.topology.map().clone();
        let silent = BTreeMap::new();
        let view = View {
            map: &map,
            reports: &self.reports,
            silent: &silent,
            replace_after: Nanos::ZERO,
            moves_max: 2,
            led_for: Nanos::ZERO,
            now: Nanos::ZERO,
        };
        let begun = Instant::now();
        let what = self.controller.next(&view)?;
        let took = begun.elapsed();
        drop(map);
        if let What::Place(places) = &what {
            for place in places {
                let report = self.reports.get_mut(&place.shard).expect("every group reports");
                let before: BTreeSet<u64> = report.voters.iter().copied().collect();
                self.made += place.nodes.iter().filter(|node| !before.contains(node)).count();
                report.voters = place.nodes.clone();
                report.index += 1;
            }
        }
        self.change(what);
        Some(took)
    }
}
