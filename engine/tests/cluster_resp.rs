//! The Redis doors of real nodes: the order of a pipeline, transactions, redirections, walks over all keys, and clients
//! that behave badly.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{Cluster, Groups, Settings, Signal, until, with_client};
use net::map::{ClusterMap, ShardInfo};
use net::protocol::ClusterOp;
use net::resp::{Value, decode_value};
use net::slot::slot_of;

/// A client that says what it is told and reads what comes.
struct Redis {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Redis {
    fn connect(address: SocketAddr) -> Redis {
        let stream = TcpStream::connect(address).expect("the door is open");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        Redis { stream, received: Vec::new() }
    }

    fn send(&mut self, commands: &[&str]) {
        let mut bytes = Vec::new();
        for command in commands {
            let args: Vec<&str> = command.split(' ').collect();
            bytes.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
            for arg in args {
                bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
            }
        }
        self.stream.write_all(&bytes).expect("the node reads");
    }

    fn read(&mut self) -> Option<Value> {
        loop {
            let mut bytes = Bytes::copy_from_slice(&self.received);
            if let Some(value) = decode_value(&mut bytes).expect("a reply") {
                self.received.drain(..self.received.len() - bytes.len());
                return Some(value);
            }
            let mut piece = [0; 64 << 10];
            match self.stream.read(&mut piece).expect("a reply within the time") {
                0 => return None,
                count => self.received.extend_from_slice(&piece[..count]),
            }
        }
    }

    fn ask(&mut self, command: &str) -> Value {
        self.send(&[command]);
        self.read().expect("the connection stays open")
    }

    fn ask_all(&mut self, commands: &[&str]) -> Vec<Value> {
        self.send(commands);
        commands.iter().map(|_| self.read().expect("the connection stays open")).collect()
    }
}

fn bulk(text: &str) -> Value {
    Value::bulk(text.to_owned())
}

fn error(value: Value) -> String {
    match value {
        Value::Error(text) => text,
        other => panic!("an error was expected, not {other:?}"),
    }
}

fn keys_of(value: &Value) -> BTreeSet<String> {
    let Value::Array(keys) = value else { panic!("{value:?}") };
    let text = |key: &Value| match key {
        Value::Bulk(key) => String::from_utf8(key.to_vec()).expect("a text"),
        other => panic!("{other:?}"),
    };
    keys.iter().map(text).collect()
}

#[test]
fn redis_clients_are_served_by_every_node() {
    let cluster = Cluster::start(Settings::default());
    let mut clients: Vec<Redis> = cluster.nodes().iter().map(|node| Redis::connect(node.resp)).collect();
    for client in &mut clients {
        a_pipeline_is_a_sequence(client);
        nobody_notices_that_commands_are_asked_together(client);
    }
    many_keys_are_walked(&mut clients);
    transactions_are_one_step(&mut clients);
    namespaces_are_apart(&mut clients[0]);
    what_expires_is_counted_no_more(&mut clients);
    http_ends_the_connection(&cluster);
    redirections_lead_to_the_leader(&cluster);
    a_hand_over_is_waited_out(&cluster);
}

/// Each command sees what those before it did, whoever leads the shards.
fn a_pipeline_is_a_sequence(client: &mut Redis) {
    for key in ["a", "b", "c", "d", "e", "f"] {
        let commands = [
            &format!("SET {key} 1")[..],
            &format!("GET {key}"),
            &format!("SET {key} 2"),
            &format!("INCR {key}"),
            &format!("GET {key}"),
            &format!("DEL {key}"),
            &format!("EXISTS {key}"),
            "PING",
        ];
        let expected = [
            Value::OK,
            bulk("1"),
            Value::OK,
            Value::Integer(3),
            bulk("3"),
            Value::Integer(1),
            Value::Integer(0),
            Value::Simple("PONG".into()),
        ];
        assert_eq!(client.ask_all(&commands), expected, "{key}");
    }
    let sets: Vec<String> = (0..3000).map(|number| format!("SET key:{} {number}", number % 7)).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    assert!(client.ask_all(&sets).iter().all(|reply| *reply == Value::OK));
    let gets: Vec<String> = (0..7).map(|key| format!("GET key:{key}")).collect();
    let gets: Vec<&str> = gets.iter().map(String::as_str).collect();
    let last: Vec<Value> = (0..7).map(|key| bulk(&(2999 - (2999 - key) % 7).to_string())).collect();
    assert_eq!(client.ask_all(&gets), last, "the last of several writes stays");
    assert_eq!(client.ask("FLUSHALL"), Value::OK);
}

/// Commands about one key that arrive together are one program: what one of them does wrong, or how long its value is,
/// is no matter of the others.
fn nobody_notices_that_commands_are_asked_together(client: &mut Redis) {
    let commands = [
        "SET k x",
        "INCR k",
        "SET k 4",
        "SELECT 1",
        "INCR k",
        "SELECT 0",
        "INCR k",
        "PING",
        "SETRANGE k x y",
        "GETSET k 9",
        "EXPIRE k 100",
        "SET k 1 NX",
        "PERSIST k",
        "TTL k",
        "DEL k k",
        "EXISTS k",
        "INCR k",
        "GETDEL k",
    ];
    let wrong = Value::error("ERR value is not an integer or out of range");
    let expected = [
        Value::OK,
        wrong.clone(),
        Value::OK,
        Value::OK,
        Value::Integer(1),
        Value::OK,
        Value::Integer(5),
        Value::Simple("PONG".into()),
        wrong,
        bulk("5"),
        Value::Integer(1),
        Value::Null,
        Value::Integer(1),
        Value::Integer(-1),
        Value::Integer(1),
        Value::Integer(0),
        Value::Integer(1),
        bulk("1"),
    ];
    assert_eq!(client.ask_all(&commands), expected);
    let counted: Vec<Value> = client.ask_all(&["INCR n"; 1000]);
    assert_eq!(counted, (1..=1000).map(Value::Integer).collect::<Vec<_>>());

    // More than one program may read, write and answer.
    let value = "v".repeat(900 << 10);
    let set = format!("SET long {value}");
    let mut commands = vec![&set[..]];
    commands.extend(["APPEND long x"; 20]);
    commands.extend(["GET long", "APPEND long y", "GET long", "APPEND long z", "GET long", "DEL long"]);
    let replies = client.ask_all(&commands);
    let length = |more: usize| i64::try_from(value.len() + more).expect("few");
    assert_eq!(replies[1..21], (1..=20).map(|more| Value::Integer(length(more))).collect::<Vec<_>>());
    let grown = format!("{value}{}", "x".repeat(20));
    assert!(replies[21] == bulk(&grown) && replies[23] == bulk(&format!("{grown}y")));
    assert!(replies[25] == bulk(&format!("{grown}yz")) && replies[26] == Value::Integer(1));
    assert_eq!(client.ask("FLUSHALL"), Value::OK);
}

fn many_keys_are_walked(clients: &mut [Redis]) {
    let pairs: Vec<String> = (0..500).map(|number| format!("walk:{number} {number}")).collect();
    assert_eq!(clients[0].ask(&format!("MSET {}", pairs.join(" "))), Value::OK);
    let names: BTreeSet<String> = (0..500).map(|number| format!("walk:{number}")).collect();
    for client in clients.iter_mut() {
        assert_eq!(keys_of(&client.ask("KEYS *")), names);
        assert_eq!(keys_of(&client.ask("KEYS walk:4[0-4]?")).len(), 50);
        assert_eq!(client.ask("DBSIZE"), Value::Integer(500));
    }
    let mut cursor = "0".to_owned();
    let mut seen = BTreeSet::new();
    loop {
        let Value::Array(page) = clients[1].ask(&format!("SCAN {cursor} COUNT 37")) else { panic!() };
        seen.extend(keys_of(&page[1]));
        let Value::Bulk(next) = &page[0] else { panic!() };
        cursor = String::from_utf8(next.to_vec()).expect("digits");
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, names, "a scan leaves nothing out");
    let Value::Bulk(random) = clients[2].ask("RANDOMKEY") else { panic!() };
    assert!(names.contains(std::str::from_utf8(&random).expect("a text")));
    let Value::Array(values) = clients[2].ask("MGET walk:7 none walk:499") else { panic!() };
    assert_eq!(values, [bulk("7"), Value::Null, bulk("499")]);
    assert_eq!(clients[0].ask("DEL walk:1 walk:2 none"), Value::Integer(2));
    assert_eq!(clients[0].ask("FLUSHDB"), Value::OK);
    assert_eq!(clients[1].ask("DBSIZE"), Value::Integer(0));
}

fn transactions_are_one_step(clients: &mut [Redis]) {
    let [one, other, ..] = clients else { panic!() };
    one.ask_all(&["SET {t}a 1", "WATCH {t}a {t}b", "MULTI", "INCR {t}a", "GET {t}b", "PING"]);
    let Value::Array(replies) = one.ask("EXEC") else { panic!() };
    assert_eq!(replies, [Value::Integer(2), Value::Null, Value::Simple("PONG".into())]);
    one.ask_all(&["WATCH {t}b", "MULTI", "SET {t}a 9"]);
    assert_eq!(other.ask("SET {t}b x"), Value::OK);
    assert_eq!(one.ask("EXEC"), Value::NullArray, "a watched key has changed");
    assert_eq!(one.ask("GET {t}a"), bulk("2"));
    let spoilt = one.ask_all(&["MULTI", "NOSUCH", "SET {t}a 9", "EXEC"]);
    assert!(error(spoilt[3].clone()).starts_with("EXECABORT "));
    let across = one.ask_all(&["MULTI", "SET {t}a 9", "SET {u}a 9", "EXEC"]);
    assert!(error(across[3].clone()).starts_with("CROSSSLOT "));
    let pipelined = one.ask_all(&["WATCH {t}a", "MULTI", "INCR {t}a", "EXEC", "GET {t}a"]);
    assert_eq!(pipelined[3..], [Value::Array(vec![Value::Integer(3)]), bulk("3")]);
}

fn namespaces_are_apart(client: &mut Redis) {
    client.ask_all(&["SET n 0", "SELECT 1", "SET n 1", "SELECT 0"]);
    assert_eq!(client.ask("GET n"), bulk("0"));
    assert_eq!(
        client.ask_all(&["SELECT 1", "FLUSHDB", "GET n", "SELECT 0", "GET n"])[2..],
        [Value::Null, Value::OK, bulk("0")]
    );
}

/// Also while nobody writes.
fn what_expires_is_counted_no_more(clients: &mut [Redis]) {
    assert_eq!(clients[0].ask("FLUSHALL"), Value::OK);
    let sets: Vec<String> = (0..300).map(|number| format!("SET passing:{number} v PX 300")).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    assert!(clients[0].ask_all(&sets).iter().all(|reply| *reply == Value::OK));
    assert_eq!(clients[0].ask("SET staying v"), Value::OK);
    until("what has expired to be gone", Duration::from_secs(20), || match clients[1].ask("DBSIZE") {
        Value::Integer(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(clients[2].ask("DEL staying"), Value::Integer(1));
}

/// A page that makes a browser talk to this port is not obeyed.
fn http_ends_the_connection(cluster: &Cluster) {
    let page = b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET planted 1\r\n";
    for request in [&page[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nSET planted 1\r\n"] {
        let mut browser = Redis::connect(cluster.node(1).resp);
        browser.stream.write_all(request).expect("sent");
        let replies: Vec<Value> = std::iter::from_fn(|| browser.read()).collect();
        let errors = usize::from(request.starts_with(b"GET"));
        assert_eq!(replies.len(), errors, "closed at the first line that no Redis client sends: {replies:?}");
    }
    assert_eq!(Redis::connect(cluster.node(1).resp).ask("EXISTS planted"), Value::Integer(0));
}

fn redirections_lead_to_the_leader(cluster: &Cluster) {
    let mut redirected = 0;
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let mut client = Redis::connect(cluster.node(1).resp_cluster);
        let mut reply = client.ask(&format!("SET {key} {key}"));
        if let Value::Error(moved) = &reply {
            let words: Vec<&str> = moved.split(' ').collect();
            assert_eq!(words[..2], ["MOVED", &slot_of(key.as_bytes()).to_string()], "{moved}");
            client = Redis::connect(words[2].parse().expect("an address"));
            reply = client.ask(&format!("SET {key} {key}"));
            redirected += 1;
        }
        assert_eq!(reply, Value::OK);
        assert_eq!(client.ask(&format!("GET {key}")), bulk(key));
        // A follower may be read by whoever says so.
        for node in cluster.nodes() {
            let mut reader = Redis::connect(node.resp_cluster);
            assert_eq!(reader.ask_all(&["READONLY", &format!("GET {key}")]), [Value::OK, bulk(key)]);
        }
    }
    assert!(redirected > 0, "no node leads all shards");
    let mut client = Redis::connect(cluster.node(1).resp_cluster);
    assert!(error(client.ask("MGET a b c")).starts_with("CROSSSLOT "));
    let Value::Array(slots) = client.ask("CLUSTER SLOTS") else { panic!() };
    assert_eq!(slots.len(), usize::try_from(cluster.settings.shards).expect("few"));
}

/// While a shard has no leader, there is nobody to redirect to: the answer comes later, rather than an error.
fn a_hand_over_is_waited_out(cluster: &Cluster) {
    let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.resp_cluster).collect();
    let groups = Groups::at(cluster.endpoints());
    let shards = cluster.settings.shards;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&over);
        let asking: Vec<_> = (nodes.iter())
            .map(|node| {
                scope.spawn(|| {
                    let mut client = Redis::connect(*node);
                    let mut answered = 0;
                    while !over.load(Ordering::Relaxed) {
                        let keys = (0..16).map(|number| format!("hand:{number}"));
                        let commands: Vec<String> =
                            keys.flat_map(|key| [format!("SET {key} v"), format!("GET {key}")]).collect();
                        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
                        for reply in client.ask_all(&commands) {
                            // A write under way when its leader resigns may or may not be done.
                            let other = matches!(&reply, Value::Error(text)
                                if text.starts_with("MOVED ") || text.starts_with("INDETERMINATE "));
                            answered += usize::from(!other);
                            assert!(other || reply == Value::OK || reply == bulk("v"), "{reply:?}");
                        }
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..4 {
            for shard in 1..=shards {
                groups
                    .ask(async move |client| client.transfer_leader(shard, None).await)
                    .expect("handed over");
            }
        }
        over.store(true, Ordering::Relaxed);
        for client in asking {
            assert!(client.join().expect("no answer but the right ones") > 0);
        }
    });
}

/// What one client does wrong costs the others nothing.
#[test]
fn bad_clients_are_bounded() {
    let cluster = Cluster::start(Settings::default());
    let door = cluster.node(1).resp;
    let mut well = Redis::connect(door);
    assert_eq!(well.ask("SET well known"), Value::OK);

    let mut wrong = Redis::connect(door);
    wrong
        .stream
        .write_all(b"*2\r\n$3\r\nGET\r\n$4\r\nwell\r\n*2\r\n$3\r\nGET\r\n$1073741824\r\n")
        .expect("sent");
    assert_eq!(wrong.read(), Some(bulk("known")), "what came before is answered");
    assert_eq!(error(wrong.read().expect("a reply")), "ERR Protocol error: invalid bulk length");
    assert_eq!(wrong.read(), None, "and then the connection is closed");

    // Many announce what they never send.
    let before = cluster.node(1).resident_bytes();
    let waiting: Vec<Redis> = (0..500)
        .map(|_| {
            let mut client = Redis::connect(door);
            client.stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000000\r\nab").expect("sent");
            client
        })
        .collect();
    assert_eq!(well.ask("GET well"), bulk("known"));
    let grown = cluster.node(1).resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "500 announcements of a megabyte cost {grown} bytes");
    drop(waiting);

    // A half-closed connection still gets its answers.
    let mut half = Redis::connect(door);
    half.send(&["SET half 1", "INCR half", "GET half"]);
    half.stream.shutdown(Shutdown::Write).expect("open");
    let replies: Vec<Value> = std::iter::from_fn(|| half.read()).collect();
    assert_eq!(replies, [Value::OK, Value::Integer(2), bulk("2")]);

    // A hundred thousand commands at once, most of whose replies wait for the client to read.
    let value = "v".repeat(1000);
    assert_eq!(well.ask(&format!("SET big {value}")), Value::OK);
    let mut many = Redis::connect(door);
    let request = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(100_000);
    let mut stream = many.stream.try_clone().expect("a socket");
    let sender = std::thread::spawn(move || stream.write_all(&request).expect("the node reads on"));
    until("so many unread replies that no more commands are read", Duration::from_secs(60), || {
        let Value::Bulk(list) = well.ask("CLIENT LIST") else { panic!() };
        let list = String::from_utf8(list.to_vec()).expect("a text");
        let unsent =
            list.split_ascii_whitespace().filter_map(|word| word.strip_prefix("omem=")?.parse().ok());
        let most: u64 = unsent.max().expect("a client");
        if most >= 4 << 20 { Ok(()) } else { Err(format!("the longest queue is of {most} bytes")) }
    });
    assert_eq!(well.ask("GET well"), bulk("known"), "others are served meanwhile");
    let grown = cluster.node(1).resident_bytes().saturating_sub(before);
    assert!(grown < 160 << 20, "100 MB of replies that nobody reads cost {grown} bytes");
    let expected = format!("$1000\r\n{value}\r\n").into_bytes();
    let mut reply = vec![0; expected.len()];
    for number in 0..100_000 {
        many.stream.read_exact(&mut reply).expect("every command is answered");
        assert!(reply == expected, "reply {number}");
    }
    sender.join().expect("everything was sent");
}

#[test]
fn wait_tells_how_many_replicas_have_what_was_written() {
    let cluster = Cluster::start(Settings { shards: 1, ..Settings::default() });
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let mut client = Redis::connect(cluster.node(leader % 3 + 1).resp);
    let wait = |client: &mut Redis, command: &str| {
        let begun = Instant::now();
        (client.ask(command), begun.elapsed())
    };
    assert_eq!(client.ask("WAIT 2 0"), Value::Integer(2), "nothing is written, which all have");
    assert_eq!(client.ask("WAIT 5 10"), Value::Integer(2));
    assert_eq!(client.ask("SET k v"), Value::OK);
    assert_eq!(client.ask("WAIT 2 20000"), Value::Integer(2));
    // One of the two stands still: a majority has the write, and more will not.
    let other = cluster.node((leader + 1) % 3 + 1);
    other.signal(Signal::Stop);
    assert_eq!(client.ask("SET k w"), Value::OK);
    assert_eq!(client.ask("WAIT 1 20000"), Value::Integer(1));
    let (count, took) = wait(&mut client, "WAIT 2 300");
    assert!(count == Value::Integer(1) && took >= Duration::from_millis(300), "{count:?} after {took:?}");
    // For a client that is gone nobody waits.
    let mut gone = Redis::connect(cluster.node(leader).resp);
    gone.ask("SET k x");
    gone.send(&["WAIT 2 0"]);
    gone.stream.shutdown(Shutdown::Write).expect("an open socket");
    assert_eq!(gone.read(), Some(Value::Integer(1)));
    other.signal(Signal::Continue);
    assert_eq!(client.ask("WAIT 2 0"), Value::Integer(2));
    let errors = ["WAIT x 0", "WAIT 1 x", "WAIT 1 -1"].map(|command| error(client.ask(command)));
    assert!(errors.iter().all(|error| error.starts_with("ERR ")), "{errors:?}");
}

/// Asks for a cut of the shard that has a slot, and waits until it is through.
fn cut_at(cluster: &Cluster, slot: u16) {
    let endpoints = cluster.endpoints();
    let owner = |map: &ClusterMap| {
        let has = |it: &&ShardInfo| it.slots.is_some_and(|slots| slots.contains(slot));
        map.shards.iter().find(has).expect("every slot belongs to a shard").id
    };
    let shard = owner(&with_client(endpoints.clone(), async |client| client.cluster_map()));
    until("the cut to be begun", Duration::from_secs(30), || {
        with_client(endpoints.clone(), async move |client| {
            let asked = client.cluster(ClusterOp::Split { shard, at: None, dry_run: false }).await;
            asked.map(drop).map_err(|error| error.to_string())
        })
    });
    until("the slot to belong to the new shard", Duration::from_secs(30), || {
        let map = with_client(endpoints.clone(), async |client| client.cluster_map());
        if owner(&map) == shard { Err(format!("shard {shard} has it")) } else { Ok(()) }
    });
}

/// All keys there are: those of a slot, which a shard and then the next one is cut off with.
#[test]
fn walks_see_all_keys_while_shards_are_cut_in_two() {
    let cluster = Cluster::start(Settings { shards: 1, ..Settings::default() });
    let (tag, slot) =
        (0..).map(|tag| (tag, slot_of(format!("{tag}").as_bytes()))).find(|it| it.1 > 16_300).unwrap();
    let names: BTreeSet<String> = (0..40).map(|number| format!("{{{tag}}}{number}")).collect();
    let pairs: Vec<String> = names.iter().map(|name| format!("{name} v")).collect();
    assert_eq!(Redis::connect(cluster.node(1).resp).ask(&format!("MSET {}", pairs.join(" "))), Value::OK);
    let stop = AtomicBool::new(false);
    let rounds = [const { AtomicUsize::new(0) }; 3];
    let walk = |node: u64| {
        let mut client = Redis::connect(cluster.node(node).resp);
        while !stop.load(Ordering::Relaxed) {
            let random = client.ask("RANDOMKEY");
            assert!(matches!(&random, Value::Bulk(key) if key.starts_with(b"{")), "node {node}: {random:?}");
            let count = client.ask(&format!("CLUSTER COUNTKEYSINSLOT {slot}"));
            assert_eq!(count, Value::Integer(40), "node {node}");
            assert_eq!(
                keys_of(&client.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100"))),
                names,
                "node {node}"
            );
            assert_eq!(keys_of(&client.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 7"))).len(), 7);
            let none = client.ask(&format!("CLUSTER GETKEYSINSLOT {} 7", slot - 1));
            assert_eq!(none, Value::Array(Vec::new()), "node {node}");
            // Begins within the slot.
            let cursor = (u64::from(slot) + 1) << 32;
            let page = client.ask(&format!("SCAN {cursor} COUNT 1000"));
            let Value::Array(page) = page else { panic!("node {node}: {page:?}") };
            assert_eq!(keys_of(&page[1]), names, "node {node}");
            assert_eq!(client.ask("DBSIZE"), Value::Integer(40), "node {node}");
            // In a namespace of its own, all over the slots.
            let sets: Vec<String> = (0..100).map(|number| format!("SET k{number} v")).collect();
            let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
            assert_eq!(client.ask(&format!("SELECT {node}")), Value::OK);
            assert_eq!(client.ask_all(&sets), vec![Value::OK; 100], "node {node}");
            assert_eq!(
                client.ask_all(&["FLUSHDB", "DBSIZE", "SELECT 0"]),
                [Value::OK, Value::Integer(0), Value::OK]
            );
            rounds[usize::try_from(node - 1).expect("few")].fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        let walk = &walk;
        let walkers = [1, 2, 3].map(|node| scope.spawn(move || walk(node)));
        for cuts in 1..=5 {
            cut_at(&cluster, slot);
            until("everyone to have walked", Duration::from_secs(30), || {
                let done = rounds.each_ref().map(|rounds| rounds.load(Ordering::Relaxed));
                let over = walkers.iter().any(|walker| walker.is_finished());
                if over || done.iter().all(|done| *done >= cuts) {
                    Ok(())
                } else {
                    Err(format!("{done:?} rounds"))
                }
            });
        }
        stop.store(true, Ordering::Relaxed);
        walkers.into_iter().for_each(|walker| walker.join().expect("every walk saw all keys"));
    });
}

/// Threads that go on until they are stopped would keep a failed test from its end.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
