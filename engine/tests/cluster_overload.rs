//! More than a node can take: it refuses at once, stays small, and serves again when the flood is over.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Cluster, Incoming, MIB, Settings, Signal, Wire, until};
use net::protocol::{Answer, Mutation, Op, ReadConsistency, Refusal, WriteConsistency};

/// No node ever has more memory in use: its caches and queues as these tests set them, and room for the rest.
const RESIDENT_MAX: u64 = 400 * MIB;
const VALUE_BYTES: usize = 64 << 10;
const SOON: Duration = Duration::from_secs(10);

fn put(key: String, value: Bytes, consistency: WriteConsistency) -> Op {
    let mutations = vec![Mutation::Put { key: key.into(), value, ttl_ms: None }];
    Op::Write { session: None, consistency, mutations }
}

fn small() -> Settings {
    Settings {
        shards: 1,
        inflight_bytes_max: 4 * MIB,
        connection_bytes_max: 2 * MIB,
        peer_bytes_max: 8 * MIB,
        ..Settings::default()
    }
}

fn connect(cluster: &Cluster, node: u64) -> Wire {
    Wire::connect(cluster.node(node).binary, None).expect("the node runs").0
}

#[track_caller]
fn all_stay_small(cluster: &Cluster) {
    for node in cluster.nodes() {
        let (now, peak) = (node.resident_bytes() / MIB, node.resident_peak_bytes() / MIB);
        println!("node {}: {now} MiB in use, {peak} MiB at most", node.id);
        assert!(peak <= RESIDENT_MAX / MIB, "node {} had {peak} MiB in use", node.id);
    }
}

/// Waits until the cluster takes a write.
fn serves_again(cluster: &Cluster) {
    until("the cluster to take writes", Duration::from_secs(20), || {
        let leader = cluster.leaders()?[&1];
        let (mut wire, _) =
            Wire::connect(cluster.node(leader).binary, None).map_err(|error| error.to_string())?;
        let op = put("after".to_owned(), "the flood".into(), WriteConsistency::Strong);
        let id = wire.send(1, op).map_err(|error| error.to_string())?;
        match wire.reply_to(id, SOON) {
            Ok(Ok(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// What became of many requests.
#[derive(Debug, Default)]
struct Tally {
    written: usize,
    busy: usize,
    refused: usize,
}

impl Tally {
    fn count(&mut self, result: &Result<Answer, Refusal>) {
        match result {
            Ok(_) => self.written += 1,
            Err(Refusal::Busy { .. }) => self.busy += 1,
            Err(_) => self.refused += 1,
        }
    }
}

/// Sends `count` eventual writes as fast as the socket takes them, while another thread reads the answers.
fn flood(cluster: &Cluster, node: u64, flooder: usize, count: usize) -> Tally {
    let mut wire = connect(cluster, node);
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let frames: Vec<_> = (0..count)
        .map(|number| put(format!("flood-{flooder}-{number}"), value.clone(), WriteConsistency::Eventual))
        .collect();
    let mut sender = wire.split().expect("a descriptor to spare");
    thread::scope(|scope| {
        scope.spawn(move || {
            for op in frames {
                sender.send(1, op).expect("the node reads on");
            }
        });
        let mut tally = Tally::default();
        for _ in 0..count {
            match wire.receive(Duration::from_secs(20)).expect("every request is answered") {
                Incoming::Reply(reply) => tally.count(&reply.result),
                other => panic!("instead of a reply came {other:?}"),
            }
        }
        tally
    })
}

#[test]
fn a_leader_that_cannot_commit_says_busy_and_recovers() {
    let cluster = Cluster::start(small());
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for follower in &followers {
        cluster.node(*follower).signal(Signal::Stop);
    }
    // 400 × 64 KiB, and 4 MiB may be under way.
    let tally = flood(&cluster, leader, 0, 400);
    println!("{tally:?}");
    let admitted_max = usize::try_from(4 * MIB).expect("64-bit machine") / VALUE_BYTES + 1;
    assert!(tally.busy > 0, "nobody was told to come back later: {tally:?}");
    assert!(tally.written <= admitted_max, "more was admitted than limits.inflight_bytes_max: {tally:?}");
    all_stay_small(&cluster);
    for follower in &followers {
        cluster.node(*follower).signal(Signal::Continue);
    }
    serves_again(&cluster);
    cluster.wait_until_all_caught_up(Duration::from_secs(20));
    all_stay_small(&cluster);
}

#[test]
fn clients_faster_than_the_disks_do_not_fill_the_memory() {
    const FLOODERS: usize = 8;
    const REQUESTS: usize = 2_000;
    let cluster = Cluster::start(small());
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let flooders: Vec<_> = (0..FLOODERS)
            .map(|flooder| {
                let cluster = &cluster;
                scope.spawn(move || flood(cluster, leader, flooder, REQUESTS))
            })
            .collect();
        flooders.into_iter().map(|flooder| flooder.join().expect("a flooder gets all its answers")).collect()
    });
    println!("{tallies:?}");
    let total = |field: fn(&Tally) -> usize| tallies.iter().map(field).sum::<usize>();
    assert!(total(|tally| tally.written) > 0, "under a flood some work is done: {tallies:?}");
    all_stay_small(&cluster);
    serves_again(&cluster);
    cluster.wait_until_all_caught_up(Duration::from_secs(30));
    all_stay_small(&cluster);
}

#[test]
fn clients_that_never_read_harm_nobody_but_themselves() {
    const CLIENTS: usize = 24;
    const REQUESTS: usize = 500;
    let cluster = Cluster::start(small());
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let mut bystander = connect(&cluster, leader);
    let large = Bytes::from(vec![9; usize::try_from(MIB).expect("64-bit machine")]);
    let written = bystander.call(1, put("large".to_owned(), large.clone(), WriteConsistency::Strong));
    assert!(written.is_ok(), "{written:?}");
    let get = Op::Get { key: "large".into(), consistency: ReadConsistency::Linearizable };
    // Each asks for half a gigabyte and reads nothing of it.
    let mut deaf: Vec<Wire> = (0..CLIENTS).map(|_| connect(&cluster, leader)).collect();
    for wire in &mut deaf {
        for _ in 0..REQUESTS {
            wire.send(1, get.clone()).expect("requests are short");
        }
    }
    for number in 0..200 {
        let written = bystander.call(1, put(format!("k{number}"), "v".into(), WriteConsistency::Strong));
        assert!(written.is_ok(), "{written:?}");
    }
    let read = bystander.call(1, get.clone());
    assert!(
        matches!(read, Ok(Answer::Value { value: Some(value), .. }) if value.data == large),
        "others read on"
    );
    all_stay_small(&cluster);
    // One of them reads after all: it gets an answer to everything it asked.
    let mut late = deaf.pop().expect("many");
    let mut tally = Tally::default();
    for _ in 0..REQUESTS {
        match late.receive(SOON).expect("an answer to every request") {
            Incoming::Reply(reply) => tally.count(&reply.result),
            other => panic!("instead of a reply came {other:?}"),
        }
    }
    assert!(tally.written > 0 && tally.refused == 0, "{tally:?}");
    drop(deaf);
    all_stay_small(&cluster);
}

#[test]
fn a_thousand_idle_connections_cost_little() {
    const CONNECTIONS: usize = 1_000;
    /// Memory that an idle connection may cost a node.
    const IDLE_BYTES_MAX: u64 = 48 << 10;
    raise_open_files();
    let cluster = Cluster::start(small());
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let node = cluster.node(leader);
    let before = node.resident_bytes();
    let mut idle: Vec<Wire> = (0..CONNECTIONS).map(|_| connect(&cluster, leader)).collect();
    let cost = node.resident_bytes().saturating_sub(before);
    println!("{} KiB for each of {CONNECTIONS} idle connections", cost / 1024 / 1_000);
    assert!(cost <= IDLE_BYTES_MAX * 1_000, "idle connections cost {} MiB", cost / MIB);
    // A slow client would show here: everybody is served, the idle ones too.
    let busy = AtomicBool::new(true);
    let slowest = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut wire = connect(&cluster, leader);
            let mut slowest = Duration::ZERO;
            while busy.load(Ordering::Relaxed) {
                let started = Instant::now();
                let written = wire.call(1, put("k".to_owned(), "v".into(), WriteConsistency::Strong));
                assert!(written.is_ok(), "{written:?}");
                slowest = slowest.max(started.elapsed());
            }
            slowest
        });
        for wire in &mut idle {
            let answer =
                wire.call(1, Op::Exists { key: "k".into(), consistency: ReadConsistency::Linearizable });
            assert!(matches!(answer, Ok(Answer::Exists { .. })), "{answer:?}");
        }
        busy.store(false, Ordering::Relaxed);
        worker.join().expect("the worker's writes succeed")
    });
    println!("slowest write beside them: {slowest:?}");
}

/// A thousand sockets are more than some hosts allow by default.
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls touch only the structure they are given.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    };
    assert_eq!(raised, 0, "{}", io::Error::last_os_error());
}
