//! What every operation promises, asked of a real cluster through the client library and over the bare protocol.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Cluster, MIB, Settings, Wire, key_in, shard_of, until, with_client};
use net::map::ClusterMap;
use net::protocol::{
    Answer, Expected, Mutation, MutationOutcome, Op, ReadConsistency, Refusal, SessionStamp, WriteConsistency,
};
use net::slot::slot_of;
use net::transport::client::{ScanPage, Swap};
use net::types::Value;
use net::{Client, PutOptions};

fn put(key: &Bytes, value: impl Into<Bytes>) -> Mutation {
    Mutation::Put { key: key.clone(), value: value.into(), ttl_ms: None }
}

fn write(mutation: Mutation, session: Option<SessionStamp>) -> Op {
    Op::Write { session, consistency: WriteConsistency::Strong, mutations: vec![mutation] }
}

fn get(key: &Bytes, consistency: ReadConsistency) -> Op {
    Op::Get { key: key.clone(), consistency }
}

fn data(value: Option<Value>) -> Option<Bytes> {
    value.map(|value| value.data)
}

/// A connection to the leader of a shard.
fn leader_of(cluster: &Cluster, shard: u32) -> (Wire, u64) {
    let leader = cluster.wait_until_leaders_are_home()[&shard];
    let (wire, _) = Wire::connect(cluster.node(leader).binary, None).expect("the leader runs");
    (wire, leader)
}

#[test]
fn single_keys_batches_scans_and_expiry() {
    let cluster = Cluster::start(Settings::default());
    with_client(cluster.endpoints(), async |client| {
        reads_see_writes(&client).await;
        swaps_compare(&client).await;
        namespaces_are_apart(&client).await;
        batches_are_atomic(&client).await;
        pages_make_the_whole(&client).await;
        weaker_writes_become_visible(&client).await;
        keys_expire(&client).await;
    });
}

async fn reads_see_writes(client: &Client) {
    assert_eq!(client.get("a").await.unwrap(), None);
    assert!(!client.exists("a").await.unwrap());
    let first = client.put("a", "1").await.unwrap();
    let second = client.put("a", "2").await.unwrap();
    assert!(second > first, "versions grow");
    assert_eq!(client.get("a").await.unwrap(), Some(Value { data: "2".into(), version: second }));
    assert!(client.exists("a").await.unwrap());
    let follower = client.get_with("a", ReadConsistency::Follower).await.unwrap();
    assert_eq!(data(follower), Some("2".into()), "a follower read is linearizable");
    assert!(client.delete("a").await.unwrap());
    assert!(!client.delete("a").await.unwrap(), "it is gone");
    assert_eq!(client.get("a").await.unwrap(), None);
    assert_eq!(client.get_with("a", ReadConsistency::Follower).await.unwrap(), None);
    client.put("empty", "").await.unwrap();
    assert_eq!(data(client.get("empty").await.unwrap()), Some(Bytes::new()), "an empty value is a value");
    client.put("", "of the empty key").await.unwrap();
    assert_eq!(data(client.get("").await.unwrap()), Some("of the empty key".into()));
}

async fn swaps_compare(client: &Client) {
    let swap = async |expected, new: Option<&'static str>| {
        client.compare_and_swap("swap", expected, new.map(Bytes::from)).await.unwrap()
    };
    assert_eq!(swap(Expected::Version(1), Some("x")).await, Swap::Mismatch { current: None });
    let Swap::Done { version: first } = swap(Expected::Absent, Some("x")).await else {
        panic!("it was absent")
    };
    assert_eq!(swap(Expected::Absent, Some("y")).await, Swap::Mismatch { current: Some(first) });
    assert_eq!(swap(Expected::Value("z".into()), Some("y")).await, Swap::Mismatch { current: Some(first) });
    let Swap::Done { version: second } = swap(Expected::Value("x".into()), Some("y")).await else {
        panic!("the value was right")
    };
    assert_eq!(swap(Expected::Version(first), Some("z")).await, Swap::Mismatch { current: Some(second) });
    assert!(
        matches!(swap(Expected::Version(second), None).await, Swap::Done { .. }),
        "the version was right"
    );
    assert_eq!(client.get("swap").await.unwrap(), None, "it was removed by the swap");
}

async fn namespaces_are_apart(client: &Client) {
    let other = client.with_namespace(7);
    client.put("n", "default").await.unwrap();
    assert_eq!(other.get("n").await.unwrap(), None);
    other.put("n", "seven").await.unwrap();
    assert_eq!(data(client.get("n").await.unwrap()), Some("default".into()));
    assert!(client.delete("n").await.unwrap());
    assert_eq!(data(other.get("n").await.unwrap()), Some("seven".into()));
}

async fn batches_are_atomic(client: &Client) {
    let key = |name: &str| Bytes::from(format!("{{batch}}{name}"));
    let swap = |expected, new: &'static str| Mutation::CompareAndSwap {
        key: key("c"),
        expected,
        new: Some(Bytes::from_static(new.as_bytes())),
    };
    let made = vec![put(&key("a"), "1"), put(&key("b"), "1"), swap(Expected::Absent, "1")];
    let outcomes = client.batch(made, WriteConsistency::Strong).await.unwrap();
    assert!(
        matches!(
            outcomes[..],
            [MutationOutcome::Put { .. }, MutationOutcome::Put { .. }, MutationOutcome::Swapped { .. }]
        ),
        "{outcomes:?}"
    );
    let refused = vec![put(&key("a"), "2"), Mutation::Delete { key: key("b") }, swap(Expected::Absent, "2")];
    let outcomes = client.batch(refused, WriteConsistency::Strong).await.unwrap();
    assert!(
        matches!(
            outcomes[..],
            [
                MutationOutcome::NotApplied,
                MutationOutcome::NotApplied,
                MutationOutcome::NotSwapped { current: Some(_) }
            ]
        ),
        "{outcomes:?}"
    );
    for name in ["a", "b", "c"] {
        assert_eq!(data(client.get(key(name)).await.unwrap()), Some("1".into()), "nothing of it was done");
    }
    // While one task moves two keys together, no scan sees one without the other.
    let writer = {
        let client = client.clone();
        glommio::spawn_local(async move {
            for round in 0..200 {
                let value = round.to_string();
                let both = vec![put(&key("a"), value.clone()), put(&key("b"), value)];
                client.batch(both, WriteConsistency::Strong).await.unwrap();
            }
        })
    };
    let shard = shard_of(&client.cluster_map(), &key("a"));
    for _ in 0..100 {
        let page = client.scan(shard, Bytes::new(), None, 100, ReadConsistency::Linearizable).await.unwrap();
        let value_of =
            |name| page.items.iter().find(|item| item.key == key(name)).map(|item| item.value.data.clone());
        assert_eq!(value_of("a"), value_of("b"), "a batch was seen in part");
    }
    writer.await;
}

async fn pages_make_the_whole(client: &Client) {
    let map = client.cluster_map();
    let shard = map.shards.last().expect("there are shards").id;
    let client = client.with_namespace(9);
    let mut expected = BTreeSet::new();
    for number in 0..300 {
        let key = Bytes::from(format!("scan-{number}"));
        if shard_of(&map, &key) == shard {
            client.put(key.clone(), number.to_string()).await.unwrap();
            expected.insert((slot_of(&key), key));
        }
    }
    assert!(expected.len() > 20, "the keys spread over the shards");
    let page = async |start: Bytes, end: Option<Bytes>, limit| -> ScanPage {
        client.scan(shard, start, end, limit, ReadConsistency::Linearizable).await.unwrap()
    };
    let (mut found, mut start, mut second_page) = (Vec::new(), Bytes::new(), None);
    loop {
        let part = page(start, None, 7).await;
        assert!(part.items.len() <= 7, "a page is no longer than asked for");
        found.extend(part.items.into_iter().map(|item| (slot_of(&item.key), item.key)));
        let Some(next) = part.next else { break };
        second_page.get_or_insert(next.clone());
        start = next;
    }
    assert!(found.is_sorted(), "pages come in order of slot and key");
    assert_eq!(found, expected.iter().cloned().collect::<Vec<_>>(), "every key once");
    let first_page: Vec<_> = page(Bytes::new(), second_page, 100).await.items;
    assert_eq!(first_page.len(), 7, "a scan stops before its end");
    let lonely =
        client.with_namespace(10).scan(shard, Bytes::new(), None, 10, ReadConsistency::Linearizable).await;
    assert_eq!(
        lonely.unwrap(),
        ScanPage { items: Vec::new(), next: None },
        "another namespace is another list"
    );
}

async fn weaker_writes_become_visible(client: &Client) {
    for consistency in [WriteConsistency::Leader, WriteConsistency::Eventual] {
        let key = format!("weak-{consistency:?}");
        client.put_with(key.clone(), "v", PutOptions { ttl: None, consistency }).await.unwrap();
        // A read of the leader waits for nothing but what is committed; the write is on its way there.
        let started = Instant::now();
        while data(client.get(key.clone()).await.unwrap()) != Some("v".into()) {
            assert!(started.elapsed() < Duration::from_secs(5), "a {consistency:?} write got lost");
        }
        let existed = client.delete_with(key, consistency).await.unwrap();
        assert_eq!(existed, None, "a {consistency:?} delete is accepted before its outcome is known");
    }
}

async fn keys_expire(client: &Client) {
    const TTL: Duration = Duration::from_millis(1_500);
    /// Clocks of node and test are read with this much slack.
    const SLACK: Duration = Duration::from_millis(20);
    let options = PutOptions { ttl: Some(TTL), consistency: WriteConsistency::Strong };
    let started = Instant::now();
    client.put_with("brief", "v", options).await.unwrap();
    client.put_with("kept", "v", options).await.unwrap();
    client.put("kept", "for good").await.unwrap();
    while client.exists("brief").await.unwrap() {
        assert!(started.elapsed() < Duration::from_secs(10), "a key outlives its time");
    }
    assert!(started.elapsed() + SLACK >= TTL, "a key was gone after {:?}", started.elapsed());
    assert_eq!(client.get("brief").await.unwrap(), None);
    assert!(!client.delete("brief").await.unwrap(), "what has expired does not exist");
    let swapped = client.compare_and_swap("brief", Expected::Absent, Some("new".into())).await.unwrap();
    assert!(matches!(swapped, Swap::Done { .. }), "what has expired is absent: {swapped:?}");
    assert_eq!(
        data(client.get("kept").await.unwrap()),
        Some("for good".into()),
        "a later put has its own time"
    );
}

#[test]
fn replicas_tell_how_fresh_they_are_and_refuse_what_is_the_leaders() {
    let cluster = Cluster::start(Settings::default());
    let map = cluster.map();
    let shard = 1;
    let key = key_in(&map, shard, "fresh-");
    let (mut leader, leader_id) = leader_of(&cluster, shard);
    let follower_id = (1..=3).find(|id| *id != leader_id).expect("three nodes");
    let (mut follower, _) = Wire::connect(cluster.node(follower_id).binary, None).expect("the follower runs");
    let Ok(Answer::Written { index, .. }) = leader.call(shard, write(put(&key, "v"), None)) else {
        panic!("the leader writes")
    };
    match follower.call(shard, get(&key, ReadConsistency::Follower)) {
        Ok(Answer::Value { value: Some(value), freshness: None }) => assert_eq!(value.data, "v"),
        other => panic!("a follower read sees what was acknowledged: {other:?}"),
    }
    match follower.call(shard, get(&key, ReadConsistency::Stale)) {
        // The follower read before has brought this replica up to the write.
        Ok(Answer::Value { value: Some(value), freshness: Some(freshness) }) => {
            assert_eq!(value.data, "v");
            assert!(freshness.applied_index >= index, "{freshness:?}");
        }
        other => panic!("a stale read is answered at once: {other:?}"),
    }
    until("a follower to know itself up to date", Duration::from_secs(10), || {
        match follower.call(shard, get(&key, ReadConsistency::Stale)) {
            Ok(Answer::Value { freshness: Some(freshness), .. }) if freshness.lag_ms < 1_000 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    for op in [get(&key, ReadConsistency::Linearizable), write(put(&key, "w"), None)] {
        match follower.call(shard, op) {
            Err(Refusal::NotLeader { leader, .. }) => assert_eq!(leader, Some(leader_id)),
            other => panic!("only the leader serves this: {other:?}"),
        }
    }
    let elsewhere = key_in(&map, 2, "fresh-");
    for (shard, key) in [(shard, &elsewhere), (0, &key), (99, &key)] {
        let refused = leader.call(shard, get(key, ReadConsistency::Linearizable));
        assert!(matches!(refused, Err(Refusal::WrongShard { .. })), "shard {shard}: {refused:?}");
    }
}

fn stamp(sequence: u64, acked_below: u64, retry: bool) -> Option<SessionStamp> {
    Some(SessionStamp { client: 0xC11E27, sequence, acked_below, retry })
}

#[track_caller]
fn written(result: Result<Answer, Refusal>) -> MutationOutcome {
    match result {
        Ok(Answer::Written { outcomes, .. }) => outcomes[0],
        other => panic!("it should have been written: {other:?}"),
    }
}

fn content(wire: &mut Wire, shard: u32, key: &Bytes) -> Option<Value> {
    match wire.call(shard, get(key, ReadConsistency::Linearizable)) {
        Ok(Answer::Value { value, .. }) => value,
        other => panic!("the leader reads: {other:?}"),
    }
}

#[test]
fn a_retried_write_executes_once_even_on_another_leader() {
    let mut cluster = Cluster::start(Settings::default());
    let map = cluster.map();
    let shard = 2;
    let key = key_in(&map, shard, "once-");
    let swapped = key_in(&map, shard, "swap-");
    let swap =
        Mutation::CompareAndSwap { key: swapped.clone(), expected: Expected::Absent, new: Some("1".into()) };
    let (mut wire, leader) = leader_of(&cluster, shard);
    let first = written(wire.call(shard, write(put(&key, "first"), stamp(1, 1, false))));
    written(wire.call(shard, write(put(&key, "second"), stamp(2, 1, false))));
    let made = written(wire.call(shard, write(swap.clone(), stamp(3, 1, false))));
    assert!(matches!(made, MutationOutcome::Swapped { .. }), "{made:?}");
    let check = |wire: &mut Wire| {
        let again = written(wire.call(shard, write(put(&key, "first"), stamp(1, 1, true))));
        assert_eq!(again, first, "a retry is answered what the first attempt was answered");
        assert_eq!(content(wire, shard, &key).map(|value| value.data), Some("second".into()), "it ran again");
        let again = written(wire.call(shard, write(swap.clone(), stamp(3, 1, true))));
        assert_eq!(again, made, "a swap that was made stays made");
    };
    check(&mut wire);
    cluster.node_mut(leader).kill();
    let mut wire = until("another leader", Duration::from_secs(10), || {
        let now = cluster.leaders()?[&shard];
        Wire::connect(cluster.node(now).binary, None).map(|(wire, _)| wire).map_err(|error| error.to_string())
    });
    check(&mut wire);
    // Sequences below 4 are acknowledged now: forgotten, and refused instead of executed.
    written(wire.call(shard, write(put(&key, "third"), stamp(4, 4, false))));
    let forgotten = wire.call(shard, write(put(&key, "first"), stamp(1, 1, true)));
    assert!(matches!(forgotten, Err(Refusal::SessionExpired)), "{forgotten:?}");
    assert_eq!(content(&mut wire, shard, &key).map(|value| value.data), Some("third".into()));
}

#[test]
fn a_deep_pipeline_of_one_session_loses_nothing_it_was_told_is_written() {
    let cluster = Cluster::start(Settings { shards: 1, ..Settings::default() });
    let (mut wire, _) = leader_of(&cluster, 1);
    // Later writes overtake the first, more of them than a session remembers.
    let mut told = Vec::new();
    let mut sent = Vec::new();
    for sequence in (2..=1_500).chain([1]) {
        let key = Bytes::from(format!("deep-{sequence}"));
        let id =
            wire.send(1, write(put(&key, "v"), stamp(sequence, 1, false))).expect("the node takes requests");
        sent.push((id, key));
    }
    for (id, key) in sent {
        match wire.reply_to(id, Duration::from_secs(20)).expect("the node answers") {
            Ok(Answer::Written { .. }) => told.push(key),
            Err(refusal) => assert!(!refusal.may_have_executed(), "{refusal}"),
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert!(told.len() > 500, "a session may have many writes under way, and only {} were taken", told.len());
    for key in &told {
        assert!(content(&mut wire, 1, key).is_some(), "{key:?} was acknowledged and is not there");
    }
}

#[test]
fn requests_find_the_core_of_their_shard() {
    let cluster = Cluster::start(Settings { cores: 2, ..Settings::default() });
    let map = cluster.map();
    let leaders = cluster.wait_until_leaders_are_home();
    for shard in 1..=cluster.settings.shards {
        let key = key_in(&map, shard, "core-");
        let node = cluster.node(leaders[&shard]);
        for core in 0..2 {
            let (mut wire, hello) = Wire::connect(node.binary, Some(core)).expect("the leader runs");
            assert_eq!(hello.core, core, "a connection goes to the core it asks for");
            written(wire.call(shard, write(put(&key, format!("by core {core}")), None)));
            let found = content(&mut wire, shard, &key).map(|value| value.data);
            assert_eq!(found, Some(format!("by core {core}").into()));
        }
    }
    let forwarded = |node: u64| -> u64 {
        let status = cluster.node(node).status().expect("the node answers");
        status.cores.iter().map(|core| core.counters.forwarded).sum()
    };
    let led: BTreeSet<u64> =
        leaders.iter().filter(|(shard, _)| **shard != 0).map(|(_, node)| *node).collect();
    for node in led {
        // What another core has counted is told with a delay.
        until("a node to count what it forwarded", Duration::from_secs(5), || match forwarded(node) {
            0 => Err(format!("node {node} has forwarded nothing")),
            _ => Ok(()),
        });
    }
    with_client(cluster.endpoints(), async |client| spread_over_all_cores(&client).await);
}

async fn spread_over_all_cores(client: &Client) {
    for number in 0..200 {
        client.put(format!("spread-{number}"), number.to_string()).await.unwrap();
    }
    for number in 0..200 {
        let found = client.get_with(format!("spread-{number}"), ReadConsistency::Follower).await.unwrap();
        assert_eq!(data(found), Some(number.to_string().into()));
    }
}

#[test]
fn the_largest_values_and_keys_go_through() {
    let cluster = Cluster::start(Settings {
        value_bytes_max: 8 * MIB,
        segment_bytes: 64 * MIB,
        inflight_bytes_max: 64 * MIB,
        peer_bytes_max: 64 * MIB,
        ..Settings::default()
    });
    let large = |seed: u64, length: u64| -> Bytes {
        (0..length).map(|at| u8::try_from((at * 31 + seed + (at >> 12)) % 251).expect("below 251")).collect()
    };
    let (value, key) = (large(1, 8 * MIB), large(2, 64 * 1024));
    with_client(cluster.endpoints(), async move |client| {
        client.put("large", value.clone()).await.unwrap();
        assert!(
            data(client.get("large").await.unwrap()) == Some(value.clone()),
            "8 MiB come back as they went"
        );
        client.put(key.clone(), value.clone()).await.unwrap();
        assert!(
            data(client.get(key.clone()).await.unwrap()) == Some(value.clone()),
            "under a key of 64 KiB too"
        );
        let swapped = client.compare_and_swap(key, Expected::Value(value.clone()), Some(value.clone())).await;
        assert!(matches!(swapped, Ok(Swap::Done { .. })), "{swapped:?}");
        // Several at once, to the same shard.
        let tasks: Vec<_> = (0..6)
            .map(|number| {
                let (client, value) = (client.clone(), value.clone());
                glommio::spawn_local(async move { client.put(format!("{{large}}{number}"), value).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let follower = client.get_with("{large}5", ReadConsistency::Follower).await.unwrap();
        assert!(data(follower) == Some(value), "followers hold them too");
    });
    cluster.wait_until_all_caught_up(Duration::from_secs(20));
}

#[test]
fn the_map_tells_every_slot_and_node() {
    let cluster = Cluster::start(Settings { shards: 5, ..Settings::default() });
    let map: ClusterMap = cluster.map();
    assert_eq!(map.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [1, 2, 3]);
    let slots: u32 =
        map.shards.iter().filter_map(|shard| shard.slots).map(|it| u32::from(it.last - it.first) + 1).sum();
    assert_eq!(slots, 16_384);
    for (node, told) in cluster.nodes().iter().zip(&map.nodes) {
        assert_eq!(told.binary_addr, node.binary.to_string());
        assert_eq!(told.peer_addr, node.peer.to_string());
    }
}
