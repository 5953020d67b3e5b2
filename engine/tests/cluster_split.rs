//! Shards that are cut in two while clients work.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Cluster, Load, LoadConfig, Settings, read_back, until, with_client};
use net::map::{ClusterMap, ShardInfo};
use net::protocol::ClusterOp;
use net::slot::slot_of;

/// A cut is through within this.
const SOON: Duration = Duration::from_secs(30);
/// How long either half may take no write.
const OUTAGE_MAX: Duration = Duration::from_secs(1);

/// Asks for a cut in the middle, and again until it is heard; the number of the new shard.
fn ask_for_split(cluster: &Cluster, shard: u32) -> u32 {
    let endpoints = cluster.endpoints();
    until("the cut to be begun", SOON, || {
        with_client(endpoints.clone(), async move |client| {
            let map = client.cluster_map();
            let next = u32::try_from(map.shards.len()).expect("few shards");
            if let Some(split) = info(&map, shard)?.plan.split {
                return Ok(split.into);
            }
            let asked = client.cluster(ClusterOp::Split { shard, at: None, dry_run: false }).await;
            asked.map(|_| next).map_err(|error| error.to_string())
        })
    })
}

fn info(map: &ClusterMap, shard: u32) -> Result<&ShardInfo, String> {
    map.shard(shard).ok_or_else(|| format!("shard {shard} is not in the map of epoch {}", map.epoch))
}

/// Waits until the map of a running node has the new shard beside what is left of the old one; that map.
fn wait_until_split(cluster: &Cluster, shard: u32, into: u32) -> ClusterMap {
    let endpoints = cluster.endpoints();
    until("the map to have both halves", SOON, || {
        with_client(endpoints.clone(), async move |client| {
            let map = client.cluster_map();
            let (lower, upper) = (info(&map, shard)?.clone(), info(&map, into)?.clone());
            let (lower, upper) = (lower.slots.expect("it has slots"), upper.slots.expect("it has slots"));
            assert_eq!(lower.last + 1, upper.first, "nothing between the halves, and nothing in both");
            Ok(map)
        })
    })
}

/// Writes one key all the time, and measures how long that did not work.
struct Probe {
    stop: Arc<AtomicBool>,
    client: JoinHandle<Duration>,
}

impl Probe {
    fn start(endpoints: Vec<String>, key: Bytes) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let client = std::thread::spawn(move || {
            with_client(endpoints, async move |client| {
                let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
                while !stopped.load(Ordering::Relaxed) {
                    client.put(key.clone(), "probe").await.expect("a write that is tried again long enough");
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    glommio::timer::sleep(Duration::from_millis(5)).await;
                }
                longest.max(last.elapsed())
            })
        });
        Probe { stop, client }
    }

    fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().expect("a probe ends without a panic")
    }
}

/// A key with a slot that is wanted.
fn key_with(wanted: impl Fn(u16) -> bool) -> Bytes {
    let key = (0..).map(|number| format!("probe-{number}")).find(|key| wanted(slot_of(key.as_bytes())));
    key.expect("every slot has keys").into()
}

/// Everything that was acknowledged is there, and what was seen hangs together.
fn check(cluster: &Cluster, load: Load) {
    load.wait_until_writes_flow(load.now(), SOON);
    let result = load.finish();
    println!("{} operations, {} single writes", result.history.count(|_| true), result.written.len());
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
}

#[test]
fn both_halves_serve_within_a_second_and_nothing_is_lost() {
    // The new shards lie on both cores.
    let cluster = Cluster::start(Settings { shards: 2, cores: 2, ..Settings::default() });
    let load = Load::start(cluster.endpoints(), LoadConfig { seed: 5, ..LoadConfig::default() });
    load.wait_for_operations(1_000, SOON);
    let (mut shard, mut count) = (1, 3);
    for _ in 0..3 {
        let slots = cluster.map().shard(shard).and_then(|info| info.slots).expect("a user shard");
        let middle = slots.first + (slots.last - slots.first) / 2 + 1;
        let probes: [Probe; 2] = [
            key_with(|slot| slot >= slots.first && slot < middle),
            key_with(|slot| slot >= middle && slot <= slots.last),
        ]
        .map(|key| Probe::start(cluster.endpoints(), key));
        load.wait_for_operations(200, SOON);
        let begun = Instant::now();
        let into = ask_for_split(&cluster, shard);
        assert_eq!(into, count);
        wait_until_split(&cluster, shard, into);
        let took = begun.elapsed();
        load.wait_for_operations(500, SOON);
        let outages = probes.map(Probe::finish);
        println!("shard {shard} cut into {into} in {took:?}; its halves took no write for {outages:?}");
        assert!(outages.iter().all(|outage| *outage <= OUTAGE_MAX), "{outages:?}");
        // Next the upper half, which began without a log.
        (shard, count) = (into, count + 1);
    }
    check(&cluster, load);
}

/// Bytes of all files in a folder.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(about) if about.is_dir() => bytes_in(&entry.path()),
            Ok(about) => about.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn disks_hold_each_half_once_in_the_end() {
    const KEYS: u32 = 6_000;
    let settings = Settings { shards: 1, request_timeout_ms: 1_000, ..Settings::default() };
    let cluster = Cluster::start(settings);
    let fill = |endpoints| {
        with_client(endpoints, async move |client| {
            let mut under_way = Vec::new();
            for number in 0..KEYS {
                let client = client.clone();
                let write = async move { client.put(format!("key-{number}"), vec![7; 4096]).await };
                under_way.push(glommio::spawn_local(write));
                if under_way.len() == 64 {
                    for write in under_way.drain(..) {
                        write.await.expect("a write");
                    }
                }
            }
        });
    };
    fill(cluster.endpoints());
    let all = u64::from(KEYS) * 4096;
    let into = ask_for_split(&cluster, 1);
    wait_until_split(&cluster, 1, into);
    for node in cluster.nodes() {
        for shard in [1, into] {
            let folder = node.data_dir().join("core-0").join(format!("shard-{shard}")).join("store");
            until("a half to give the other's space back", SOON, || match bytes_in(&folder) {
                bytes if bytes < all * 6 / 10 && bytes > all * 4 / 10 => Ok(()),
                bytes => Err(format!("{} holds {bytes} of {all} bytes", folder.display())),
            });
        }
    }
    let written = (0..KEYS).map(|number| format!("key-{number}"));
    let missing = with_client(cluster.endpoints(), async move |client| {
        let mut missing = 0;
        for key in written.step_by(17) {
            missing += u32::from(client.get(key).await.expect("a read").is_none());
        }
        missing
    });
    assert_eq!(missing, 0);
}
