//! What an acknowledgement is worth: a majority has the write in a log that was written through to the disk.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Cluster, Incoming, Settings, Signal, Wire, key_in, read_log, until, with_client};
use net::protocol::{Answer, Mutation, Op, ReadConsistency, Refusal, WriteConsistency};

/// An answer on loopback comes within this.
const SOON: Duration = Duration::from_secs(5);

fn put(key: &Bytes, value: impl Into<Bytes>) -> Op {
    let mutation = Mutation::Put { key: key.clone(), value: value.into(), ttl_ms: None };
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] }
}

fn connect(cluster: &Cluster, node: u64) -> Wire {
    Wire::connect(cluster.node(node).binary, None).expect("the node runs").0
}

/// Reads every key through the library, which finds the leader wherever it is.
fn all_are_there(cluster: &Cluster, keys: Vec<Bytes>) {
    let missing = with_client(cluster.endpoints(), async move |client| {
        let mut missing = Vec::new();
        for some in keys.chunks(64) {
            let reads: Vec<_> = (some.iter().cloned())
                .map(|key| {
                    let client = client.clone();
                    glommio::spawn_local(async move { (client.exists(key.clone()).await, key) })
                })
                .collect();
            for read in reads {
                let (found, key) = read.await;
                if found != Ok(true) {
                    missing.push((key, found));
                }
            }
        }
        missing
    });
    assert!(
        missing.is_empty(),
        "{} acknowledged writes are not there, such as {:?}",
        missing.len(),
        missing[0]
    );
}

/// A connection to whoever leads the shard now.
fn to_leader(cluster: &Cluster, shard: u32) -> Wire {
    until("a leader that takes writes", Duration::from_secs(20), || {
        let leader = cluster.leaders()?[&shard];
        let (mut wire, _) =
            Wire::connect(cluster.node(leader).binary, None).map_err(|error| error.to_string())?;
        let id = wire.send(shard, put(&"who leads".into(), "")).map_err(|error| error.to_string())?;
        match wire.reply_to(id, SOON) {
            Ok(Ok(_)) => Ok(wire),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_minority_may_stand_still_and_a_majority_may_not() {
    let cluster = Cluster::start(Settings { shards: 1, request_timeout_ms: 2_000, ..Settings::default() });
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let [first, second] = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
        panic!("three nodes")
    };
    let mut wire = connect(&cluster, leader);
    let key = |number: u32| Bytes::from(format!("durable-{number}"));
    cluster.node(first).signal(Signal::Stop);
    let mut acknowledged = Vec::new();
    for number in 0..100 {
        let written = wire.call(1, put(&key(number), "one follower stands still"));
        assert!(matches!(written, Ok(Answer::Written { .. })), "{written:?}");
        acknowledged.push(key(number));
    }
    cluster.node(second).signal(Signal::Stop);
    let sent: Vec<_> = (100..120)
        .map(|number| wire.send(1, put(&key(number), "both stand still")).expect("the leader takes requests"))
        .collect();
    // Every one of them gets an answer, when the leader gives up at the latest, and none is "written".
    for id in sent {
        match wire.reply_to(id, Duration::from_secs(10)).expect("the leader answers") {
            Err(
                Refusal::Timeout
                | Refusal::NotLeader { .. }
                | Refusal::Busy { .. }
                | Refusal::Unavailable { .. },
            ) => {}
            other => panic!("acknowledged without a majority: {other:?}"),
        }
    }
    let read = wire.call(1, Op::Get { key: key(0), consistency: ReadConsistency::Linearizable });
    assert!(read.is_err(), "a leader without a majority must not read either: {read:?}");
    cluster.node(first).signal(Signal::Continue);
    cluster.node(second).signal(Signal::Continue);
    all_are_there(&cluster, acknowledged);
    cluster.wait_until_all_caught_up(Duration::from_secs(20));
}

#[test]
fn logs_are_open_for_direct_and_synced_writes_only() {
    let cluster = Cluster::start(Settings::default());
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let mut wire = connect(&cluster, leader);
    let key = key_in(&cluster.map(), 1, "direct-");
    for _ in 0..20 {
        assert!(wire.call(1, put(&key, vec![7; 10_000])).is_ok());
    }
    for node in cluster.nodes() {
        let dir = node.wal_dir(0).canonicalize().expect("a running node has a log");
        let segments = node
            .open_files(|path| path.parent() == Some(&dir) && path.extension().is_some_and(|it| it == "wal"));
        assert!(!segments.is_empty(), "node {} has no segment open", node.id);
        for (path, flags) in segments {
            let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
            let through = flags & libc::O_DIRECT != 0 && flags & libc::O_DSYNC == libc::O_DSYNC;
            assert!(!writes || through, "{} is open for writing with flags {flags:#o}", path.display());
        }
    }
}

#[test]
fn what_is_acknowledged_is_flushed_on_a_majority() {
    let cluster = Cluster::start(Settings::default());
    let leaders = cluster.wait_until_leaders_are_home();
    let map = cluster.map();
    for shard in 1..=cluster.settings.shards {
        let mut wire = connect(&cluster, leaders[&shard]);
        let key = key_in(&map, shard, "flushed-");
        for round in 0..25 {
            let Ok(Answer::Written { index, .. }) = wire.call(shard, put(&key, format!("{round}"))) else {
                panic!("the leader of shard {shard} takes writes")
            };
            let flushed: BTreeMap<u64, u64> = (cluster.statuses().iter())
                .filter_map(|(node, status)| Some((*node, status.shard(shard)?.flushed)))
                .collect();
            let holders = flushed.values().filter(|flushed| **flushed >= index).count();
            assert!(
                holders >= 2,
                "entry {index} of shard {shard} is acknowledged, and flushed are {flushed:?}"
            );
        }
    }
}

/// Keeps writes under way for `span`; the keys acknowledged by its end, and the index of each one's entry.
fn pipeline(wire: &mut Wire, shard: u32, prefix: &str, span: Duration) -> BTreeMap<Bytes, u64> {
    const UNDER_WAY: usize = 64;
    let started = Instant::now();
    let mut sent = VecDeque::new();
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        let key = Bytes::from(format!("{prefix}{number}."));
        sent.push_back((
            wire.send(shard, put(&key, vec![b'v'; 600])).expect("the leader takes requests"),
            key,
        ));
        if sent.len() < UNDER_WAY {
            continue;
        }
        let (id, key) = sent.pop_front().expect("many are under way");
        // Leadership may move meanwhile; then what is refused is not acknowledged, that is all.
        if let Ok(Answer::Written { index, .. }) = wire.reply_to(id, SOON).expect("the node answers") {
            acknowledged.insert(key, index);
        }
        if started.elapsed() >= span {
            break;
        }
    }
    // Whatever answers are here already are acknowledgements too.
    let mut known: BTreeMap<u64, Bytes> = sent.into_iter().map(|(id, key)| (id.0, key)).collect();
    loop {
        match wire.receive(Duration::from_micros(1)) {
            Ok(Incoming::Reply(reply)) => {
                let key = known.remove(&reply.id.0).expect("a reply to what was asked");
                if let Ok(Answer::Written { index, .. }) = reply.result {
                    acknowledged.insert(key, index);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return acknowledged,
            other => panic!("the leader answers: {other:?}"),
        }
    }
}

#[test]
fn two_logs_hold_what_was_acknowledged_when_all_nodes_die() {
    const ROUNDS: u64 = 4;
    let mut cluster = Cluster::start(Settings { shards: 1, ..Settings::default() });
    let mut everything: Vec<Bytes> = Vec::new();
    for round in 1..=ROUNDS {
        let mut wire = to_leader(&cluster, 1);
        let acknowledged =
            pipeline(&mut wire, 1, &format!("round-{round}-"), Duration::from_millis(150 * round));
        cluster.kill_all();
        assert!(!acknowledged.is_empty(), "nothing was acknowledged");
        let mut holders: BTreeMap<&Bytes, u32> = acknowledged.keys().map(|key| (key, 0)).collect();
        for node in 1..=3 {
            let log = read_log(&cluster, node, 0, 1);
            let logged: BTreeSet<Bytes> = log.payloads.iter().filter_map(key_within).collect();
            let holds = |key: &Bytes| logged.contains(key) || acknowledged[key] < log.first_index;
            holders.iter_mut().filter(|(key, _)| holds(key)).for_each(|(_, count)| *count += 1);
        }
        println!("round {round}: {} writes were acknowledged when all nodes died", acknowledged.len());
        let lonely: Vec<_> = holders.iter().filter(|(_, count)| **count < 2).collect();
        assert!(
            lonely.is_empty(),
            "{} acknowledged writes are not in two logs: {:?}",
            lonely.len(),
            lonely[0]
        );
        everything.extend(acknowledged.into_keys());
        cluster.start_all();
    }
    all_are_there(&cluster, everything);
}

/// The key of this test that a command carries: it begins with `round-` and ends with a dot.
fn key_within(payload: &Bytes) -> Option<Bytes> {
    let start = payload.windows(6).position(|window| window == b"round-")?;
    let length = payload[start..].iter().position(|byte| *byte == b'.')? + 1;
    Some(payload.slice(start..start + length))
}
