//! The client library on tokio and without a runtime, against real nodes: every call, and writers that do not notice a
//! leader die. What glommio's client does is what all other cluster tests are made of.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use harness::{Cluster, Settings, until};
use net::protocol::{Expected, Mutation, MutationOutcome, ReadConsistency, WriteConsistency};
use net::{ClientConfig, PutOptions, Swap, blocking, tokio as on_tokio};

const SHARDS: u32 = 3;
const WRITERS: u64 = 8;

fn config(cluster: &Cluster) -> ClientConfig {
    ClientConfig { request_timeout: Duration::from_secs(20), ..ClientConfig::new(cluster.endpoints()) }
}

/// The same calls for the client that is awaited and for the one that waits.
macro_rules! every_call {
    ($client:ident, [$($await:tt)*]) => {{
        assert_eq!($client.get("a")$($await)*.unwrap(), None);
        let first = $client.put("a", "1")$($await)*.unwrap();
        let second = $client.put("a", "2")$($await)*.unwrap();
        assert!(second > first, "versions grow");
        assert_eq!($client.get("a")$($await)*.unwrap().unwrap().data, "2");
        let follower = $client.get_with("a", ReadConsistency::Follower)$($await)*.unwrap();
        assert_eq!(follower.unwrap().version, second, "a follower read is linearizable");
        let (_, freshness) = $client.get_stale("a")$($await)*.unwrap();
        assert!(freshness.is_some(), "a stale read says how stale");
        assert!($client.exists("a")$($await)*.unwrap());
        let swap = $client.compare_and_swap("a", Expected::Version(first), None)$($await)*.unwrap();
        assert_eq!(swap, Swap::Mismatch { current: Some(second) });
        let swap = $client.compare_and_swap("a", Expected::Value("2".into()), Some("3".into()))$($await)*.unwrap();
        assert!(matches!(swap, Swap::Done { .. }), "{swap:?}");
        let other = $client.with_namespace(9);
        assert_eq!(other.get("a")$($await)*.unwrap(), None, "namespaces are apart");
        let options = PutOptions { ttl: Some(Duration::from_millis(1)), consistency: WriteConsistency::Leader };
        other.put_with("brief", "x", options)$($await)*.unwrap();
        while other.exists("brief")$($await)*.unwrap() {}
        let put = |name: &str| Mutation::Put { key: format!("{{t}}{name}").into(), value: "v".into(), ttl_ms: None };
        let batch = vec![put("1"), put("2"), Mutation::Delete { key: "{t}3".into() }];
        let outcomes = $client.batch(batch, WriteConsistency::Strong)$($await)*.unwrap();
        assert_eq!(outcomes[2], MutationOutcome::Deleted { existed: false });
        let mut keys = 0;
        for shard in 1..=SHARDS {
            let mut next = Some(Bytes::new());
            while let Some(start) = next {
                let page = $client.scan(shard, start, None, 1, ReadConsistency::Linearizable)$($await)*.unwrap();
                keys += page.items.len();
                next = page.next;
            }
        }
        assert_eq!(keys, 3);
        assert!($client.delete("a")$($await)*.unwrap());
        assert!(!$client.delete("a")$($await)*.unwrap());
        assert_eq!($client.fetch_cluster_map()$($await)*.unwrap().nodes.len(), 3);
        assert_eq!($client.describe_shard(1)$($await)*.unwrap().shard, 1);
        for name in ["1", "2"] {
            assert!($client.delete(format!("{{t}}{name}"))$($await)*.unwrap());
        }
    }};
}

#[test]
fn every_call_reaches_real_nodes() {
    let cluster = Cluster::start(Settings { shards: SHARDS, ..Settings::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = on_tokio::Client::connect(config(&cluster)).await.unwrap();
        every_call!(client, [.await]);
    });
    let client = blocking::Client::connect(config(&cluster)).unwrap();
    every_call!(client, []);
}

/// Counts what writers have written, and tells them when to end.
#[derive(Default)]
struct Load {
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Lets the writers work, kills the leader of shard 1 meanwhile, and lets them work on.
    fn through_the_death_of_a_leader(&self, cluster: &mut Cluster) {
        let more = |what: &str| {
            let from = self.acknowledged.load(Ordering::SeqCst);
            until(what, Duration::from_secs(30), || match self.acknowledged.load(Ordering::SeqCst) - from {
                200.. => Ok(()),
                few => Err(format!("{few} writes")),
            });
        };
        more("writes before");
        let leader = cluster.wait_until_all_shards_have_leaders()[&1];
        cluster.node_mut(leader).kill();
        more("writes after a leader was killed");
        cluster.node_mut(leader).start();
        self.stop.store(true, Ordering::SeqCst);
    }
}

#[test]
fn writers_on_tokio_outlive_a_leader() {
    let mut cluster = Cluster::start(Settings { shards: SHARDS, ..Settings::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = runtime.block_on(on_tokio::Client::connect(config(&cluster))).unwrap();
    let load = std::sync::Arc::new(Load::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (client, load) = (client.clone(), load.clone());
            runtime.spawn(async move {
                let mut round = 0_u64;
                while !load.stop.load(Ordering::SeqCst) {
                    round += 1;
                    client.put(format!("key-{writer}-{}", round % 50), round.to_string()).await.unwrap();
                    load.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                round
            })
        })
        .collect();
    load.through_the_death_of_a_leader(&mut cluster);
    for (writer, rounds) in (0..WRITERS).zip(writers) {
        let last = runtime.block_on(rounds).unwrap();
        let key = format!("key-{writer}-{}", last % 50);
        let value = runtime.block_on(client.get(key)).unwrap().expect("it was acknowledged");
        assert_eq!(value.data, last.to_string());
    }
}

#[test]
fn threads_without_a_runtime_outlive_a_leader() {
    let mut cluster = Cluster::start(Settings { shards: SHARDS, ..Settings::default() });
    let client = blocking::Client::connect(config(&cluster)).unwrap();
    let load = Load::default();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (client, load) = (client.clone(), &load);
                scope.spawn(move || {
                    let (mut version, mut swaps) = (None, 0_u64);
                    while !load.stop.load(Ordering::SeqCst) {
                        let key = format!("counter-{writer}");
                        let expected = version.map_or(Expected::Absent, Expected::Version);
                        swaps += 1;
                        // Nobody else writes the key: a mismatch would be a retry that was executed twice.
                        match client.compare_and_swap(key, expected, Some(swaps.to_string().into())).unwrap()
                        {
                            Swap::Done { version: now } => version = Some(now),
                            mismatch => panic!("{mismatch:?} after {swaps} swaps"),
                        }
                        load.acknowledged.fetch_add(1, Ordering::SeqCst);
                    }
                    swaps
                })
            })
            .collect();
        load.through_the_death_of_a_leader(&mut cluster);
        for (writer, swaps) in (0..WRITERS).zip(writers) {
            let swaps = swaps.join().expect("a writer");
            let value = client.get(format!("counter-{writer}")).unwrap().expect("it was swapped in");
            assert_eq!(value.data, swaps.to_string());
        }
    });
}
