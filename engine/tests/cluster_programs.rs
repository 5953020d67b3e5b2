//! Programs of Redis commands on a real cluster: atomic, executed once or in doubt, read wherever the consistency lets.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use harness::{Cluster, Settings, Signal, until, with_client};
use net::protocol::{Access, Program, ProgramCommand, ReadConsistency, Refusal, Watched, WriteConsistency};
use net::resp::{Value, decode_value};
use net::slot::slot_of;
use net::{Client, ClientError};

const WRITE: Access = Access::Write(WriteConsistency::Strong);
const READ: Access = Access::Read(ReadConsistency::Linearizable);

fn program(commands: &[&[&str]]) -> Program {
    let command = |args: &&[&str]| ProgramCommand {
        namespace: 0,
        args: args.iter().map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect(),
    };
    let slot = slot_of(commands[0][1].as_bytes());
    Program { slot, watched: Vec::new(), commands: commands.iter().map(command).collect() }
}

fn values(mut replies: Bytes) -> Vec<Value> {
    std::iter::from_fn(|| decode_value(&mut replies).expect("a node's replies")).collect()
}

async fn run(client: &Client, access: Access, commands: &[&[&str]]) -> Vec<Value> {
    values(client.execute(program(commands), access).await.expect("executed").expect("nothing is watched"))
}

#[test]
fn programs_read_and_write_as_one_step() {
    let cluster = Cluster::start(Settings::default());
    with_client(cluster.endpoints(), async |client| {
        replies_are_those_of_redis(&client).await;
        watched_keys_guard(&client).await;
        reads_are_of_one_moment(&client).await;
        what_is_wrong_is_refused(&client).await;
        keys_are_counted(&client).await;
    });
}

async fn replies_are_those_of_redis(client: &Client) {
    let made =
        run(client, WRITE, &[&["SET", "{a}1", "10"], &["INCR", "{a}1"], &["APPEND", "{a}2", "xyz"]]).await;
    assert_eq!(made, [Value::OK, Value::Integer(11), Value::Integer(3)]);
    for consistency in [ReadConsistency::Linearizable, ReadConsistency::Follower] {
        let access = Access::Read(consistency);
        let read =
            run(client, access, &[&["GET", "{a}1"], &["GETRANGE", "{a}2", "1", "-1"], &["GET", "{a}3"]])
                .await;
        assert_eq!(read, [Value::bulk("11"), Value::bulk("yz"), Value::Null]);
    }
    let wrong = run(client, WRITE, &[&["INCR", "{a}2"], &["SET", "{a}2", "1"]]).await;
    assert!(matches!(&wrong[0], Value::Error(text) if text.contains("not an integer")), "{wrong:?}");
    assert_eq!(wrong[1], Value::OK, "an error of one command leaves the others");
    assert_eq!(client.get("{a}1").await.unwrap().unwrap().data, "11", "a program's keys are everybody's");
}

async fn watched_keys_guard(client: &Client) {
    let version = client.put("w", "1").await.unwrap();
    let guarded = |version| Program {
        watched: vec![Watched { namespace: 0, key: "w".into(), version }],
        ..program(&[&["INCR", "w"]])
    };
    assert_eq!(client.execute(guarded(version + 1), WRITE).await, Ok(None));
    let done = client.execute(guarded(version), WRITE).await.unwrap().expect("it is as it was");
    assert_eq!(values(done), [Value::Integer(2)]);
    assert_eq!(client.execute(guarded(version), WRITE).await, Ok(None), "that was a change");
    assert_eq!(run(client, READ, &[&["GET", "w"]]).await, [Value::bulk("2")]);
    let reading = Program { commands: program(&[&["GET", "w"]]).commands, ..guarded(version) };
    assert_eq!(client.execute(reading, READ).await, Ok(None), "what only reads is guarded too");
}

/// While one task moves two keys together, no program sees one without the other.
async fn reads_are_of_one_moment(client: &Client) {
    let stop = Rc::new(RefCell::new(false));
    let writer = {
        let (client, stop) = (client.clone(), Rc::clone(&stop));
        glommio::spawn_local(async move {
            for round in 0.. {
                let round = format!("{round}{}", "x".repeat(2000));
                run(&client, WRITE, &[&["MSET", "{m}1", &round, "{m}2", &round]]).await;
                if *stop.borrow() {
                    return;
                }
            }
        })
    };
    for _ in 0..300 {
        for consistency in [ReadConsistency::Linearizable, ReadConsistency::Follower, ReadConsistency::Stale]
        {
            let read =
                run(client, Access::Read(consistency), &[&["GET", "{m}1"], &["MGET", "{m}2", "{m}1"]]).await;
            let Value::Array(both) = &read[1] else { panic!("{read:?}") };
            assert!(both.iter().all(|value| *value == read[0]), "a program saw two moments");
        }
    }
    *stop.borrow_mut() = true;
    writer.await;
}

async fn what_is_wrong_is_refused(client: &Client) {
    let refused = async |access, commands: &[&[&str]]| match client.execute(program(commands), access).await {
        Err(ClientError::Refused(Refusal::Invalid { why })) => why,
        other => panic!("{commands:?} gave {other:?}"),
    };
    assert!(refused(READ, &[&["SET", "k", "v"]]).await.contains("read only"));
    assert!(refused(WRITE, &[&["NONSENSE", "k"]]).await.contains("unknown command"));
    assert!(refused(WRITE, &[&["SET", "k"]]).await.contains("wrong number of arguments"));
    assert!(refused(WRITE, &[&["PING", "k"]]).await.contains("no command over keys"));
    assert!(refused(READ, &[&["KEYS", "*"]]).await.contains("no keys"));
}

async fn keys_are_counted(client: &Client) {
    let other = client.with_namespace(5);
    let map = client.cluster_map();
    let count = async || {
        let mut sum = 0;
        for shard in map.shards.iter().filter(|shard| shard.slots.is_some()) {
            sum += other.count(shard.id, (0, 16_383), ReadConsistency::Linearizable).await.unwrap();
        }
        sum
    };
    assert_eq!(count().await, 0);
    for number in 0..50 {
        other.put(format!("counted-{number}"), "v").await.unwrap();
    }
    assert_eq!(count().await, 50);
    let slot = slot_of(b"counted-7");
    let shard = map.shards.iter().find(|it| it.slots.is_some_and(|slots| slots.contains(slot))).unwrap();
    let of_slot = other.count(shard.id, (slot, slot), ReadConsistency::Linearizable).await.unwrap();
    let same = (0..50).filter(|number| slot_of(format!("counted-{number}").as_bytes()) == slot).count();
    assert_eq!(usize::try_from(of_slot).unwrap(), same);
    let page = other.scan_keys(shard.id, "", None, 100, ReadConsistency::Linearizable).await.unwrap();
    assert!(!page.items.is_empty() && page.items.iter().all(|item| item.value.data.is_empty()));
}

/// What was in no cache after a restart is read from the disk.
#[test]
fn programs_read_what_is_not_in_memory() {
    let mut cluster = Cluster::start(Settings::default());
    let long = "x".repeat(5_000);
    let written = long.clone();
    with_client(cluster.endpoints(), async move |client| {
        for number in 0..20 {
            let (one, two) = (format!("{{{number}}}1"), format!("{{{number}}}2"));
            run(&client, WRITE, &[&["MSET", &one, &written, &two, "short"]]).await;
        }
    });
    for id in 1..=3 {
        cluster.node(id).signal(Signal::Terminate);
        assert!(cluster.node_mut(id).wait_exit(Duration::from_secs(20)).success());
    }
    cluster.start_all();
    cluster.wait_until_all_shards_have_leaders();
    with_client(cluster.endpoints(), async move |client| {
        for number in 0..20 {
            let (one, two) = (format!("{{{number}}}1"), format!("{{{number}}}2"));
            let read = run(&client, READ, &[&["STRLEN", &one], &["GET", &two], &["MGET", &two, &one]]).await;
            let both = Value::Array(vec![Value::bulk("short"), Value::bulk(long.clone())]);
            assert_eq!(read, [Value::Integer(5_000), Value::bulk("short"), both]);
        }
    });
}

/// What became of the increments of each key.
#[derive(Debug, Default)]
struct Count {
    /// What the answers said: each increment made another number.
    seen: BTreeSet<i64>,
    in_doubt: i64,
}

const KEYS: usize = 4;

/// Increments by turns until it is to stop.
async fn increment(client: Client, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> BTreeMap<String, Count> {
    let counts: Rc<RefCell<BTreeMap<String, Count>>> = Rc::default();
    let workers: Vec<_> = (0..8)
        .map(|worker| {
            let (client, stop, done, counts) =
                (client.clone(), stop.clone(), done.clone(), Rc::clone(&counts));
            glommio::spawn_local(async move {
                for round in worker.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let key = format!("counter-{}", round % KEYS);
                    let result = client.execute(program(&[&["INCR", &key]]), WRITE).await;
                    let mut counts = counts.borrow_mut();
                    let count = counts.entry(key).or_default();
                    match result {
                        Ok(replies) => {
                            let Value::Integer(number) = values(replies.expect("nothing is watched"))[0]
                            else {
                                panic!("INCR answers a number")
                            };
                            assert!(count.seen.insert(number), "two increments made {number}");
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(ClientError::Indeterminate { .. }) => count.in_doubt += 1,
                        Err(ClientError::TimedOut { .. } | ClientError::Overloaded { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await;
    }
    counts.take()
}

#[test]
fn increments_through_leader_changes_add_up() {
    let mut cluster = Cluster::start(Settings::default());
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = {
        let (endpoints, stop, done) = (cluster.endpoints(), stop.clone(), done.clone());
        std::thread::spawn(move || {
            with_client(endpoints, async move |client| increment(client, stop, done).await)
        })
    };
    let wait_for_more = || {
        let before = done.load(Ordering::Relaxed);
        until("increments to go on", Duration::from_secs(20), || {
            match done.load(Ordering::Relaxed) - before {
                0..300 => Err(format!("{before} so far")),
                _ => Ok(()),
            }
        });
    };
    for victim in [1, 2, 3, 1] {
        wait_for_more();
        cluster.node_mut(victim).kill();
        wait_for_more();
        cluster.node_mut(victim).start();
        cluster.wait_until_caught_up(victim, Duration::from_secs(20));
    }
    stop.store(true, Ordering::Relaxed);
    let counts = clients.join().expect("the clients end");
    assert_eq!(counts.len(), KEYS);
    with_client(cluster.endpoints(), async move |client| {
        for (key, count) in counts {
            let read = run(&client, READ, &[&["GET", &key]]).await;
            let Value::Bulk(found) = &read[0] else { panic!("{read:?}") };
            let found: i64 = std::str::from_utf8(found).unwrap().parse().unwrap();
            let certain = i64::try_from(count.seen.len()).unwrap();
            println!("{key}: {found}, certain {certain}, in doubt {}", count.in_doubt);
            assert!(found >= certain, "an acknowledged increment of {key} is lost");
            assert!(found <= certain + count.in_doubt, "an increment of {key} was executed twice");
            assert!(count.seen.last().is_none_or(|last| *last <= found), "{key} went back");
        }
    });
}
