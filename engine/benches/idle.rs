//! What [`GROUPS`] groups without requests cost one core: three cores wired in memory, an hour of silence cut short.
//!
//! `cargo bench -p ringkv-engine --bench idle`. Time is simulated and turns come as often as a driver's do; what is
//! counted is the CPU time of the thread, a third of it for each core. The figure criterion prints is CPU time per second
//! of simulated time: 20 ms are 2 % of a core.

#![allow(missing_docs, reason = "criterion's macros write functions without any")]

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use engine::config::Config;
use engine::core::{Core, CoreConfig, Effect, Event, ReplicaId, ReplicaSeed};
use engine::machine::{Cut, Machine};
use engine::placement;
use engine::store::{MemEngine, StorageEngine};
use raft::{Index, Nanos, Term};
use wal::{Recovered, Wal, WalConfig};

/// User shards; the meta shard is one more.
const GROUPS: u32 = 1_000;
const NODES: u64 = 3;
const TICK: Nanos = Nanos::from_millis(50);
/// A driver lets a turn happen twice per tick.
const TURN: Nanos = Nanos::from_millis(25);

struct Node {
    id: u64,
    core: Core,
    machines: HashMap<ReplicaId, Machine>,
    events: VecDeque<Event>,
}

struct Cluster {
    nodes: Vec<Node>,
    now: Nanos,
}

fn config() -> Config {
    let nodes: String = (1..=NODES)
        .map(|id| {
            format!("[[cluster.nodes]]\nid = {id}\nbinary = \"127.0.0.1:{id}\"\npeer = \"127.0.0.1:1{id}\"\n")
        })
        .collect();
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"d\"\n[listen]\nbinary = \"127.0.0.1:1\"\npeer = \"127.0.0.1:11\"\n\
         [cluster]\nid = \"bench\"\nshards = {GROUPS}\n{nodes}"
    );
    Config::parse(&text, Path::new("bench")).expect("a configuration")
}

impl Node {
    fn new(id: u64, hibernate: bool) -> Node {
        let map = placement::cluster_map(&config());
        let (mut seeds, mut machines) = (Vec::new(), HashMap::new());
        for (incarnation, shard) in (1..).zip(&map.shards) {
            let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::new());
            let founders = placement::founders(&map, shard.id);
            let machine = Machine::open(engine.clone(), founders.clone()).expect("an empty machine");
            machines.insert(ReplicaId { shard: shard.id, incarnation }, machine);
            seeds.push(ReplicaSeed {
                shard: shard.id,
                generation: 0,
                engine,
                applied: Index(0),
                applied_term: Term(0),
                conf_state: founders,
                topology: None,
                domain: None,
            });
        }
        let config = CoreConfig {
            node: id,
            store: 0,
            core: 0,
            cores: 1,
            raft: raft::Config { tick: TICK, ..raft::Config::new(raft::NodeId(id)) },
            key_bytes_max: 1024,
            value_bytes_max: 64 << 10,
            inflight_bytes_max: 64 << 20,
            reads_bytes_max: 1 << 20,
            request_timeout: Nanos::from_millis(2_000),
            wal_retain_bytes: 1 << 30,
            snapshot_interval: Nanos(0),
            snapshot_threshold_bytes: 0,
            log_bytes_max: 256 << 20,
            snapshots_sending_max: 2,
            hibernate,
            slow_write: Nanos(0),
            replace_after: Nanos(0),
            moves_max: 2,
        };
        let wal = Wal::new(WalConfig::new(id, 0), Recovered::empty(id));
        let core = Core::new(config, map, wal, seeds, 7).expect("fresh replicas");
        Node { id, core, machines, events: VecDeque::new() }
    }

    /// One turn; the messages it sends.
    fn turn(&mut self, now: Nanos) -> Vec<(u64, Event)> {
        self.core.handle(Event::Tick { now, wall_ms: now.0 / 1_000_000 });
        while let Some(event) = self.events.pop_front() {
            self.core.handle(event);
        }
        let mut sent = Vec::new();
        for effect in self.core.settle() {
            match effect {
                Effect::Send { node, messages, .. } => {
                    sent.push((node, Event::Peer { node: self.id, core: 0, messages }));
                }
                Effect::WriteWal(batch) => self.events.push_back(Event::WalWritten { batch: batch.id }),
                Effect::Segment(task) => self.events.push_back(Event::SegmentDone { task }),
                Effect::Apply(batches) => {
                    let machines = &mut self.machines;
                    let applied = batches.into_iter().map(|batch| {
                        let machine = machines.get_mut(&batch.replica).expect("one per replica");
                        let found = |_: &dyn StorageEngine, _: &Cut, _| panic!("nobody cuts a shard");
                        batch.apply(machine, found).expect("an engine in memory")
                    });
                    self.events.push_back(Event::Applied(applied.collect()));
                }
                Effect::QueryDurable { replica, .. } => {
                    self.events.push_back(Event::Durable { replica, index: Index(0) });
                }
                other => panic!("an idle core does not ask for {other:?}"),
            }
        }
        sent
    }
}

impl Cluster {
    fn new(hibernate: bool) -> Cluster {
        let nodes = (1..=NODES).map(|id| Node::new(id, hibernate)).collect();
        let mut cluster = Cluster { nodes, now: Nanos(0) };
        // Elections, hand-overs to the preferred leaders (one per core and half second), and falling asleep.
        for _ in 0..100 {
            cluster.pass(Nanos::from_millis(10_000));
            let asleep =
                cluster.nodes.iter().all(|node| node.core.status().shards.iter().all(|it| it.asleep));
            if asleep || !hibernate {
                break;
            }
        }
        cluster
    }

    fn pass(&mut self, length: Nanos) {
        let end = self.now.saturating_add(length);
        while self.now < end {
            self.now = self.now.saturating_add(TURN);
            // A message and its answer within one turn's time, as on a fast network.
            for _ in 0..4 {
                self.round();
            }
        }
    }

    fn round(&mut self) {
        for position in 0..self.nodes.len() {
            for (to, event) in self.nodes[position].turn(self.now) {
                let to = usize::try_from(to).expect("64-bit machine") - 1;
                self.nodes[to].events.push_back(event);
            }
        }
    }

    fn asleep(&self) -> usize {
        let shards = self.nodes.iter().flat_map(|node| node.core.status().shards);
        shards.filter(|shard| shard.asleep).count()
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this frame.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the clock of a thread is there");
    let seconds = u64::try_from(time.tv_sec).expect("a time since the thread began");
    Duration::new(seconds, u32::try_from(time.tv_nsec).expect("below a second"))
}

fn idle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("idle");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (name, hibernate) in [("asleep", true), ("awake", false)] {
        let mut cluster = Cluster::new(hibernate);
        let replicas = cluster.nodes.len() * usize::try_from(GROUPS + 1).expect("64-bit machine");
        println!("{name}: {} of {replicas} replicas sleep", cluster.asleep());
        let mut shares = Vec::new();
        group.bench_function(format!("{GROUPS} groups, {name}, one simulated second"), |bencher| {
            bencher.iter_custom(|seconds| {
                let begun = cpu_time();
                cluster.pass(Nanos(seconds * 1_000_000_000));
                let one_core = (cpu_time() - begun) / u32::try_from(NODES).expect("few");
                shares.push(one_core.as_secs_f64() / std::time::Duration::from_secs(seconds).as_secs_f64());
                one_core
            });
        });
        let most = shares.iter().copied().fold(0.0, f64::max);
        println!("{name}: at most {:.3} % of one core", 100.0 * most);
    }
    group.finish();
}

criterion_group!(benches, idle);
criterion_main!(benches);
