//! Three cores in one thread, with a network and disks that do at once what they are asked: the machines alone, without
//! a driver.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use net::protocol::{
    Answer, Expected, Mutation, MutationOutcome, Op, ReadConsistency, Refusal, Reply, Request,
    WriteConsistency,
};
use net::slot::slot_of;
use net::types::RequestId;
use raft::Nanos;
use wal::{Recovered, Wal, WalConfig};

use super::{ConnectionId, Core, CoreConfig, Effect, Event, Origin, ReplicaSeed};
use crate::config::Config;
use crate::machine::Machine;
use crate::placement;
use crate::store::{MemEngine, ReadTier, StorageEngine};

const TICK: Nanos = Nanos::from_millis(50);
const SHARDS: u32 = 4;

struct Node {
    id: u64,
    core: Core,
    machines: HashMap<u32, Machine>,
    events: VecDeque<Event>,
    replies: Vec<Reply>,
    /// Whether log writes complete.
    disk_works: bool,
    held_writes: Vec<wal::BatchId>,
}

struct Cluster {
    nodes: Vec<Node>,
    now: Nanos,
    next_request: u64,
    /// Nodes that hear and tell nothing.
    cut: Vec<u64>,
}

fn config() -> Config {
    let nodes: String = (1..=3)
        .map(|id| {
            format!("[[cluster.nodes]]\nid = {id}\nbinary = \"127.0.0.1:{id}\"\npeer = \"127.0.0.1:1{id}\"\n")
        })
        .collect();
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"d\"\n[listen]\nbinary = \"127.0.0.1:1\"\npeer = \"127.0.0.1:11\"\n\
         [cluster]\nid = \"test\"\nshards = {SHARDS}\n{nodes}"
    );
    Config::parse(&text, std::path::Path::new("test")).unwrap()
}

impl Node {
    fn new(id: u64, inflight_bytes_max: u64) -> Node {
        let map = placement::cluster_map(&config());
        let mut machines = HashMap::new();
        let mut seeds = Vec::new();
        for shard in &map.shards {
            let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::new());
            machines.insert(
                shard.id,
                Machine::open(engine.clone(), placement::founders(&map, shard.id)).unwrap(),
            );
            seeds.push(ReplicaSeed {
                shard: shard.id,
                generation: 0,
                engine,
                applied: raft::Index(0),
                applied_term: raft::Term(0),
                conf_state: placement::founders(&map, shard.id),
            });
        }
        let core_config = CoreConfig {
            node: id,
            core: 0,
            cores: 1,
            raft: raft::Config { tick: TICK, ..raft::Config::new(raft::NodeId(id)) },
            key_bytes_max: 1024,
            value_bytes_max: 64 << 10,
            inflight_bytes_max,
            reads_bytes_max: 8 << 10,
            request_timeout: Nanos::from_millis(2_000),
            wal_retain_bytes: 1 << 30,
            snapshot_interval: Nanos(0),
            snapshot_threshold_bytes: 0,
            log_bytes_max: 1 << 30,
            snapshots_sending_max: 2,
            hibernate: false,
            slow_write: Nanos(0),
        };
        let wal = Wal::new(WalConfig::new(id, 0), Recovered::empty(id));
        let core = Core::new(core_config, map, wal, seeds, 7).unwrap();
        Node {
            id,
            core,
            machines,
            events: VecDeque::new(),
            replies: Vec::new(),
            disk_works: true,
            held_writes: Vec::new(),
        }
    }

    /// One turn; the messages it sends.
    fn turn(&mut self, now: Nanos) -> Vec<(u64, Event)> {
        self.core.handle(Event::Tick { now, wall_ms: 1_000 + now.0 / 1_000_000 });
        while let Some(event) = self.events.pop_front() {
            self.core.handle(event);
        }
        let mut sent = Vec::new();
        for effect in self.core.settle() {
            match effect {
                Effect::Reply { reply, .. } => self.replies.push(reply),
                Effect::Send { node, messages, .. } => {
                    sent.push((node, Event::Peer { node: self.id, core: 0, messages }));
                }
                Effect::WriteWal(batch) if self.disk_works => {
                    self.events.push_back(Event::WalWritten { batch: batch.id });
                }
                Effect::WriteWal(batch) => self.held_writes.push(batch.id),
                Effect::Segment(task) => self.events.push_back(Event::SegmentDone { task }),
                Effect::Apply(batches) => {
                    let done = batches
                        .into_iter()
                        .map(|batch| {
                            let machine = self.machines.get_mut(&batch.replica.shard).unwrap();
                            let applied = machine.apply(&batch.entries).unwrap();
                            batch.done(applied.applied.index, machine.clock_ms(), applied.outcomes)
                        })
                        .collect();
                    self.events.push_back(Event::Applied(done));
                }
                Effect::Read(task) => self.events.push_back(Event::Read(task.run(ReadTier::All).unwrap())),
                Effect::QueryDurable { replica, .. } => {
                    self.events.push_back(Event::Durable { replica, index: raft::Index(0) });
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        sent
    }
}

impl Cluster {
    fn new() -> Cluster {
        let mut cluster = Cluster::idle(1 << 20);
        cluster.elect();
        cluster
    }

    fn idle(inflight_bytes_max: u64) -> Cluster {
        let nodes = (1..=3).map(|id| Node::new(id, inflight_bytes_max)).collect();
        Cluster { nodes, now: Nanos(0), next_request: 1, cut: Vec::new() }
    }

    /// Runs until nothing moves, without time passing.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut moved = false;
            for from in 1..=3u64 {
                for (to, event) in self.node(from).turn_at() {
                    if !self.cut.contains(&from) && !self.cut.contains(&to) {
                        moved = true;
                        self.node(to).node.events.push_back(event);
                    }
                }
            }
            if !moved && self.nodes.iter().all(|node| node.events.is_empty()) {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    fn node(&mut self, id: u64) -> At<'_> {
        At { now: self.now, node: &mut self.nodes[usize::try_from(id).unwrap() - 1] }
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(50) {
            self.now = self.now.saturating_add(TICK);
            self.settle();
        }
    }

    fn elect(&mut self) {
        for _ in 0..200 {
            self.pass(50);
            if (0..=SHARDS).all(|shard| self.leader(shard).is_some()) {
                self.pass(200);
                return;
            }
        }
        panic!("no leaders");
    }

    fn leader(&mut self, shard: u32) -> Option<u64> {
        (1..=3).filter(|id| !self.cut.contains(id)).collect::<Vec<_>>().into_iter().find(|id| {
            let status = self.node(*id).node.core.status();
            status.shards.iter().any(|s| s.shard == shard && s.role == "leader")
        })
    }

    /// Sends a request to a node; its id.
    fn ask(&mut self, node: u64, op: Op, key: &str) -> RequestId {
        let shards = u64::from(SHARDS);
        let shard = 1 + u32::try_from(u64::from(slot_of(key.as_bytes())) * shards / 16384).unwrap();
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let origin = Origin { core: 0, connection: ConnectionId(1) };
        let request = Request { id, shard, epoch: 1, namespace: 0, op };
        self.node(node).node.events.push_back(Event::Request { origin, request });
        id
    }

    fn answer(&mut self, node: u64, id: RequestId) -> Option<Result<Answer, Refusal>> {
        let replies = &mut self.node(node).node.replies;
        let position = replies.iter().position(|reply| reply.id == id)?;
        Some(replies.remove(position).result)
    }

    fn leader_of(&mut self, key: &str) -> u64 {
        let shard = 1 + u32::from(slot_of(key.as_bytes())) * SHARDS / 16384;
        self.leader(shard).expect("the shard has a leader")
    }

    fn do_at_leader(&mut self, key: &str, op: Op) -> Result<Answer, Refusal> {
        let leader = self.leader_of(key);
        let id = self.ask(leader, op, key);
        self.settle();
        self.answer(leader, id).expect("answered")
    }
}

struct At<'a> {
    now: Nanos,
    node: &'a mut Node,
}

impl At<'_> {
    fn turn_at(self) -> Vec<(u64, Event)> {
        self.node.turn(self.now)
    }
}

fn put(key: &str, value: &str) -> Op {
    write(vec![Mutation::Put { key: bytes(key), value: bytes(value), ttl_ms: None }])
}

fn write(mutations: Vec<Mutation>) -> Op {
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations }
}

fn get(key: &str, consistency: ReadConsistency) -> Op {
    Op::Get { key: bytes(key), consistency }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn value(answer: Result<Answer, Refusal>) -> Option<String> {
    match answer.expect("an answer") {
        Answer::Value { value, .. } => value.map(|value| String::from_utf8(value.data.to_vec()).unwrap()),
        other => panic!("not a value: {other:?}"),
    }
}

#[test]
fn leaders_spread_as_preferred() {
    let mut cluster = Cluster::new();
    cluster.pass(20_000);
    for shard in 0..=SHARDS {
        assert_eq!(
            cluster.leader(shard),
            Some(placement::preferred_leader(shard, &[1, 2, 3])),
            "shard {shard}"
        );
    }
}

#[test]
fn a_write_is_read_back_from_every_replica() {
    let mut cluster = Cluster::new();
    // Until every shard is led by whom it should be: a read meanwhile may find no leader.
    cluster.pass(20_000);
    for number in 0..50 {
        let key = format!("key{number}");
        let done = cluster.do_at_leader(&key, put(&key, "v"));
        assert!(matches!(done, Ok(Answer::Written { .. })), "{done:?}");
    }
    for number in 0..50 {
        let key = format!("key{number}");
        for node in 1..=3 {
            let id = cluster.ask(node, get(&key, ReadConsistency::Follower), &key);
            cluster.pass(200);
            let answer = cluster.answer(node, id).expect("answered");
            assert_eq!(value(answer).as_deref(), Some("v"), "{key} at node {node}");
        }
    }
}

#[test]
fn compare_and_swap_tells_what_it_found() {
    let mut cluster = Cluster::new();
    let swap = |expected, new: &str| {
        write(vec![Mutation::CompareAndSwap { key: bytes("k"), expected, new: Some(bytes(new)) }])
    };
    let outcome = |answer| match answer {
        Ok(Answer::Written { outcomes, .. }) => outcomes[0],
        other => panic!("{other:?}"),
    };
    let first = outcome(cluster.do_at_leader("k", swap(Expected::Absent, "one")));
    let MutationOutcome::Swapped { version } = first else { panic!("{first:?}") };
    let again = outcome(cluster.do_at_leader("k", swap(Expected::Absent, "two")));
    assert_eq!(again, MutationOutcome::NotSwapped { current: Some(version) });
    let right = outcome(cluster.do_at_leader("k", swap(Expected::Version(version), "two")));
    assert!(matches!(right, MutationOutcome::Swapped { .. }));
    assert_eq!(
        value(cluster.do_at_leader("k", get("k", ReadConsistency::Linearizable))).as_deref(),
        Some("two")
    );
}

#[test]
fn nothing_is_acknowledged_before_a_majority_has_flushed() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader_of("k");
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.node(id).node.disk_works = false;
    }
    let id = cluster.ask(leader, put("k", "v"), "k");
    cluster.settle();
    assert_eq!(cluster.answer(leader, id), None, "the leader alone has it");
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let held = std::mem::take(&mut cluster.node(other).node.held_writes);
    assert!(!held.is_empty());
    for batch in held {
        cluster.node(other).node.events.push_back(Event::WalWritten { batch });
    }
    cluster.settle();
    assert!(matches!(cluster.answer(leader, id), Some(Ok(Answer::Written { .. }))));
}

#[test]
fn a_write_may_be_acknowledged_before_the_leaders_own_flush() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader_of("k");
    cluster.node(leader).node.disk_works = false;
    let id = cluster.ask(leader, put("k", "v"), "k");
    cluster.settle();
    assert!(
        matches!(cluster.answer(leader, id), Some(Ok(Answer::Written { .. }))),
        "two followers have flushed it"
    );
}

#[test]
fn a_cut_off_leader_serves_no_reads_and_its_writes_end_unknown() {
    let mut cluster = Cluster::new();
    let old = cluster.leader_of("k");
    assert!(cluster.do_at_leader("k", put("k", "before")).is_ok());
    cluster.cut.push(old);
    let lost = cluster.ask(old, put("k", "lost"), "k");
    for _ in 0..100 {
        cluster.pass(50);
        if cluster.leader(1 + u32::from(slot_of(b"k")) * SHARDS / 16384).is_some() {
            break;
        }
    }
    assert_ne!(cluster.leader_of("k"), old);
    assert!(cluster.do_at_leader("k", put("k", "after")).is_ok());
    let stale = cluster.ask(old, get("k", ReadConsistency::Linearizable), "k");
    cluster.pass(3_000);
    let refused = cluster.answer(old, stale).expect("answered");
    assert!(refused.is_err(), "a deposed leader must not answer: {refused:?}");
    assert_eq!(cluster.answer(old, lost), Some(Err(Refusal::Timeout)));
    cluster.cut.clear();
    cluster.pass(2_000);
    assert_eq!(
        value(cluster.do_at_leader("k", get("k", ReadConsistency::Linearizable))).as_deref(),
        Some("after")
    );
}

#[test]
fn overload_is_refused_as_busy_and_passes() {
    let mut cluster = Cluster::idle(64 << 10);
    cluster.elect();
    let leader = cluster.leader_of("k");
    for id in 1..=3 {
        cluster.node(id).node.disk_works = false;
    }
    let value = "x".repeat(8 << 10);
    let asked: Vec<RequestId> = (0..40).map(|_| cluster.ask(leader, put("k", &value), "k")).collect();
    cluster.settle();
    let refused: Vec<_> = asked.iter().filter_map(|id| cluster.answer(leader, *id)).collect();
    assert!(refused.len() >= 30, "{} of 40 refused", refused.len());
    assert!(refused.iter().all(|answer| matches!(answer, Err(Refusal::Busy { .. }))));
    for id in 1..=3 {
        let node = cluster.node(id).node;
        node.disk_works = true;
        let held = std::mem::take(&mut node.held_writes);
        node.events.extend(held.into_iter().map(|batch| Event::WalWritten { batch }));
    }
    cluster.settle();
    assert!(cluster.do_at_leader("k", put("k", "small")).is_ok());
}

#[test]
fn requests_over_a_limit_or_for_another_shard_are_refused_with_the_reason() {
    let mut cluster = Cluster::new();
    let long = "k".repeat(2000);
    assert!(matches!(cluster.do_at_leader(&long, put(&long, "v")), Err(Refusal::TooLarge { .. })));
    let large = "v".repeat(70 << 10);
    assert!(matches!(cluster.do_at_leader("k", put("k", &large)), Err(Refusal::TooLarge { .. })));
    assert!(matches!(cluster.do_at_leader("k", write(Vec::new())), Err(Refusal::Invalid { .. })));
    let leader = cluster.leader_of("k");
    let id = cluster.ask(leader, put("another key", "v"), "k");
    cluster.settle();
    assert!(matches!(cluster.answer(leader, id), Some(Err(Refusal::WrongShard { .. }))));
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let id = cluster.ask(follower, put("k", "v"), "k");
    cluster.settle();
    assert!(
        matches!(cluster.answer(follower, id), Some(Err(Refusal::NotLeader { leader: Some(l), .. })) if l == leader)
    );
}

#[test]
fn reads_that_wait_are_bounded_in_bytes_and_each_is_answered() {
    let mut cluster = Cluster::new();
    let leader = cluster.leader_of("k");
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    // The follower asks a leader that does not hear it: what comes now waits.
    cluster.cut.push(leader);
    let long = format!("{{k}}{}", "x".repeat(1000));
    let asked: Vec<RequestId> =
        (0..50).map(|_| cluster.ask(follower, get(&long, ReadConsistency::Follower), "k")).collect();
    cluster.settle();
    let answers: Vec<_> = asked.iter().map(|id| cluster.answer(follower, *id)).collect();
    let busy = answers.iter().filter(|answer| matches!(answer, Some(Err(Refusal::Busy { .. })))).count();
    assert!((40..50).contains(&busy), "{busy} of 50 refused: 8 KiB hold about seven");
    cluster.pass(5_000);
    let late: Vec<_> = asked.iter().filter_map(|id| cluster.answer(follower, *id)).collect();
    assert_eq!(late.len(), 50 - busy, "those that waited were answered in the end");
    assert!(late.iter().all(Result::is_err));
}
