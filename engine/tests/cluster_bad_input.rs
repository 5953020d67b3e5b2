//! What clients, operators and disks get wrong: each mistake is named, and nobody else suffers from it.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::fs;
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use harness::{
    Cluster, Forge, Groups, Incoming, MIB, Node, Settings, Signal, Wire, key_in, read_back, refuse_io_uring,
    until, value_of, voters, with_client,
};
use net::protocol::{
    Answer, ClientHello, ErrorCode, Mutation, Op, Oversize, PROTOCOL_VERSION, ReadConsistency, Refusal,
    WriteConsistency,
};
use net::types::RequestId;

/// An answer on loopback comes within this.
const SOON: Duration = Duration::from_secs(5);
/// A node that cannot start has said so and ended by then.
const EXIT: Duration = Duration::from_secs(15);

fn alone() -> Settings {
    Settings { nodes: 1, shards: 1, ..Settings::default() }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    let mutation = Mutation::Put { key: key.into(), value: value.into(), ttl_ms: None };
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] }
}

fn get(key: impl Into<Bytes>) -> Op {
    Op::Get { key: key.into(), consistency: ReadConsistency::Linearizable }
}

/// Writes and reads, as if nothing had happened.
#[track_caller]
fn is_unharmed(bystander: &mut Wire) {
    assert!(matches!(bystander.call(1, put("k", "v")), Ok(Answer::Written { .. })));
    assert!(matches!(bystander.call(1, get("k")), Ok(Answer::Value { value: Some(_), .. })));
}

/// The node says why, then closes.
#[track_caller]
fn is_told_and_closed(wire: &mut Wire, code: ErrorCode, why: &str) {
    match wire.receive(SOON).expect("an answer") {
        Incoming::Error(report) => {
            assert_eq!(report.code, code, "{report}");
            assert!(report.message.contains(why), "`{why}` is not in `{}`", report.message);
        }
        other => panic!("instead of an error about `{why}` came {other:?}"),
    }
    assert!(matches!(wire.receive(SOON), Ok(Incoming::Closed)), "the connection is closed after an error");
}

type Spoiled = (&'static str, fn(&[u8]) -> Vec<u8>);

const BROKEN_FRAMES: [Spoiled; 6] = [
    ("not a RingKV frame", |_| b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
    ("frame version 9", |frame| Forge::new(frame).set(2, 9).bytes()),
    ("header checksum", |frame| Forge::new(frame).claim_payload(77).bytes()),
    ("over the limit", |frame| Forge::new(frame).claim_payload(u32::MAX).sealed().bytes()),
    ("unknown frame flags", |frame| Forge::new(frame).set(4, 1).sealed().bytes()),
    ("body checksum", |frame| Forge::new(frame).spoil_body().bytes()),
];

#[test]
fn broken_frames_are_named_and_only_their_connection_closed() {
    let cluster = Cluster::start(alone());
    let node = cluster.node(1);
    let (mut bystander, _) = Wire::connect(node.binary, None).expect("the node runs");
    let (_, honest) = bystander.encode(1, 0, get("some key"));
    for (why, spoil) in BROKEN_FRAMES {
        let mut fresh = Wire::dial(node.binary).expect("the node accepts");
        fresh.send_bytes(&spoil(&honest)).expect("bytes can be sent");
        is_told_and_closed(&mut fresh, ErrorCode::BadFrame, why);
        let (mut greeted, _) = Wire::connect(node.binary, None).expect("the node accepts");
        greeted.send_bytes(&spoil(&honest)).expect("bytes can be sent");
        is_told_and_closed(&mut greeted, ErrorCode::BadFrame, why);
        is_unharmed(&mut bystander);
    }
    // The door for the other nodes is no different.
    for (why, spoil) in BROKEN_FRAMES {
        let mut wire = Wire::dial(node.peer).expect("the node accepts");
        wire.send_bytes(&spoil(&honest)).expect("bytes can be sent");
        is_told_and_closed(&mut wire, ErrorCode::BadFrame, why);
    }
    // Half a frame and then silence, or a sudden end.
    let (mut half, _) = Wire::connect(node.binary, None).expect("the node accepts");
    half.send_bytes(&honest[..honest.len() / 2]).expect("bytes can be sent");
    drop(half);
    is_unharmed(&mut bystander);
}

#[test]
fn whole_frames_with_bad_content_are_refused_and_the_connection_goes_on() {
    let cluster = Cluster::start(alone());
    let (mut wire, _) = Wire::connect(cluster.node(1).binary, None).expect("the node runs");
    let refused = |wire: &mut Wire, id: RequestId, why: &str| match wire.reply_to(id, SOON).expect("a reply")
    {
        Err(Refusal::Invalid { why: told }) => assert!(told.contains(why), "`{why}` is not in `{told}`"),
        other => panic!("instead of a refusal about `{why}` came {other:?}"),
    };
    let (id, honest) = wire.encode(1, 0, get("some key"));
    wire.send_bytes(&Forge::new(&honest).set(3, 99).sealed().bytes()).expect("bytes can be sent");
    refused(&mut wire, id, "unknown frame kind 99");
    let (id, honest) = wire.encode(1, 0, put("k", "v"));
    wire.send_bytes(&Forge::new(&honest).spoil_metadata().sealed().bytes()).expect("bytes can be sent");
    refused(&mut wire, id, "metadata does not verify");
    // Metadata that describes more payload than came.
    let (id, honest) = wire.encode(1, 0, put("k", "a value of some length"));
    let short = &honest[..honest.len() - 4];
    let payload = u32::from_le_bytes(honest[20..24].try_into().expect("four bytes"));
    let forged = Forge::new(short).claim_payload(payload - 4).sealed().bytes();
    wire.send_bytes(&forged).expect("bytes can be sent");
    refused(&mut wire, id, "payload");
    let nothing = Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: Vec::new() };
    let id = wire.send(1, nothing).expect("the node takes requests");
    refused(&mut wire, id, "mutation");
    is_unharmed(&mut wire);
}

#[test]
fn hellos_that_make_no_sense_are_told_why() {
    let cluster = Cluster::start(Settings { connections_max: 20, ..alone() });
    let node = cluster.node(1);
    let greet = |hello: ClientHello| {
        let mut wire = Wire::dial(node.binary).expect("the node accepts");
        wire.send_hello(&hello).expect("bytes can be sent");
        wire
    };
    let version = PROTOCOL_VERSION;
    let mut newer = greet(ClientHello { version: 99, wants_core: None });
    is_told_and_closed(&mut newer, ErrorCode::UnsupportedVersion, "protocol version 99");
    let mut elsewhere = greet(ClientHello { version, wants_core: Some(5) });
    is_told_and_closed(&mut elsewhere, ErrorCode::BadMessage, "1 cores");
    let mut rude = Wire::dial(node.binary).expect("the node accepts");
    rude.send(1, get("k")).expect("bytes can be sent");
    is_told_and_closed(&mut rude, ErrorCode::BadMessage, "ClientHello");
    let (mut twice, _) = Wire::connect(node.binary, None).expect("the node runs");
    twice.send_hello(&ClientHello { version, wants_core: None }).expect("bytes can be sent");
    is_told_and_closed(&mut twice, ErrorCode::BadMessage, "ClientHello");

    let mut guests: Vec<Wire> = Vec::new();
    let mut crowded = until("the node to be full", SOON, || match Wire::connect(node.binary, None) {
        Ok((guest, _)) if guests.len() < 20 => {
            guests.push(guest);
            Err(format!("{} connections are still welcome", guests.len()))
        }
        Ok(_) => panic!("more than limits.connections_max connections are welcome"),
        Err(_) => Ok(greet(ClientHello { version, wants_core: None })),
    });
    is_told_and_closed(&mut crowded, ErrorCode::TooManyConnections, "limits.connections_max");
    is_unharmed(&mut guests[0]);
    guests.truncate(1);
    until("room for another connection", SOON, || {
        Wire::connect(node.binary, None).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn keys_values_and_batches_over_the_limit_are_refused_by_name() {
    let cluster = Cluster::start(alone());
    let (mut wire, hello) = Wire::connect(cluster.node(1).binary, None).expect("the node runs");
    assert_eq!(u64::from(hello.value_bytes_max), MIB, "clients are told the limits");
    let key_max = usize::try_from(hello.key_bytes_max).expect("64-bit machine");
    let value_max = usize::try_from(hello.value_bytes_max).expect("64-bit machine");
    let too_large = |result: Result<Answer, Refusal>, expected: Oversize| match result {
        Err(Refusal::TooLarge { what, .. }) => assert_eq!(what, expected),
        other => panic!("instead of a refusal as too large came {other:?}"),
    };
    too_large(wire.call(1, put(vec![b'k'; key_max + 1], "v")), Oversize::Key);
    too_large(wire.call(1, get(vec![b'k'; key_max + 1])), Oversize::Key);
    too_large(wire.call(1, put("k", vec![0; value_max + 1])), Oversize::Value);
    let mutation =
        |number: u32| Mutation::Put { key: format!("k{number}").into(), value: "v".into(), ttl_ms: None };
    let batch = |mutations| Op::Write { session: None, consistency: WriteConsistency::Strong, mutations };
    too_large(wire.call(1, batch((0..1_025).map(mutation).collect())), Oversize::Batch);
    let half = |number: u32| Mutation::Put {
        key: format!("k{number}").into(),
        value: vec![0; value_max].into(),
        ttl_ms: None,
    };
    too_large(wire.call(1, batch((0..3).map(half).collect())), Oversize::Request);
    assert!(
        wire.call(1, put(vec![b'k'; key_max], vec![0; value_max])).is_ok(),
        "what is just within goes through"
    );
    assert!(wire.call(1, batch((0..1_024).map(mutation).collect())).is_ok(), "a full batch goes through");
    is_unharmed(&mut wire);
}

/// Starts a node that cannot start; it says why, names every one of `words`, and does not panic.
#[track_caller]
fn does_not_start(node: &mut Node, prepare: impl FnOnce(&mut Command), words: &[&str]) {
    let before = node.log().len();
    node.start_with(prepare);
    let status = node.wait_exit(EXIT);
    let log = node.log()[before..].to_owned();
    assert_eq!(status.code(), Some(3), "{log}");
    for word in words {
        assert!(log.contains(word), "`{word}` is not in what the node said:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
}

/// Changes a node's configuration.
fn edit(node: &Node, from: &str, to: &str) {
    let text = fs::read_to_string(node.config_path()).expect("the configuration is there");
    assert!(text.contains(from), "`{from}` is not in the configuration");
    fs::write(node.config_path(), text.replace(from, to)).expect("the test folder is writable");
}

fn starts(cluster: &mut Cluster) {
    cluster.start_all();
    cluster.wait_until_all_shards_have_leaders();
}

#[test]
fn a_wrong_configuration_is_told_by_its_key() {
    let mut cluster = Cluster::prepare(alone());
    let node = cluster.node_mut(1);
    let honest = fs::read_to_string(node.config_path()).expect("the configuration is there");
    let restore = |node: &Node| fs::write(node.config_path(), &honest).expect("the test folder is writable");
    let wrong: [(&str, &str, &[&str]); 6] = [
        ("[storage]\n", "[storage]\ncompression = \"max\"\n", &["unknown field `compression`", "line"]),
        ("pool_min = 2", "pool_min = \"two\"", &["pool_min", "invalid type"]),
        ("pool_min = 2", "pool_min = 9", &["wal.pool_min"]),
        ("[node]\nid = 1", "[node]\nid = 7", &["node.id", "[[cluster.nodes]]"]),
        ("level = \"info\"", "level = \"lou=d=er\"", &["log.level"]),
        ("cores = 1\n\n[listen]", "cores = 1\ncpus = [9999]\n\n[listen]", &["CPU 9999"]),
    ];
    for (from, to, words) in wrong {
        edit(node, from, to);
        does_not_start(node, |_| {}, words);
        restore(node);
    }
    fs::remove_file(node.config_path()).expect("the configuration is there");
    does_not_start(node, |_| {}, &["cannot read the configuration", "--config"]);
    restore(node);
    starts(&mut cluster);
}

#[test]
fn a_data_directory_made_for_something_else_is_left_alone() {
    let mut cluster = Cluster::start(Settings { nodes: 3, ..Settings::default() });
    let data = cluster.node(1).data_dir();
    // Node 2 on node 1's data, first while node 1 runs, then after it has ended.
    cluster.node_mut(2).kill();
    let own = cluster.node(2).data_dir();
    edit(cluster.node(2), &format!("{own:?}"), &format!("{data:?}"));
    does_not_start(cluster.node_mut(2), |_| {}, &["in use by another ringkv process", "node.data_dir"]);
    cluster.node_mut(1).kill();
    does_not_start(cluster.node_mut(2), |_| {}, &["made for node.id = 1", "says node.id = 2"]);
    edit(cluster.node(2), &format!("{data:?}"), &format!("{own:?}"));
    let changed: [(&str, &str, &str); 2] = [
        ("id = \"tested\"", "id = \"other\"", "made for cluster.id = tested"),
        ("shards = 4", "shards = 8", "made for cluster.shards = 4"),
    ];
    for (from, to, words) in changed {
        edit(cluster.node(1), from, to);
        does_not_start(cluster.node_mut(1), |_| {}, &[words]);
        edit(cluster.node(1), to, from);
    }
    cluster.node_mut(1).start();
    cluster.node_mut(2).start();
    cluster.wait_until_all_shards_have_leaders();
}

#[test]
fn a_node_of_another_cluster_is_not_let_in() {
    let mut cluster = Cluster::start(Settings::default());
    cluster.node_mut(3).kill();
    cluster.node_mut(3).wipe();
    edit(cluster.node(3), "id = \"tested\"", "id = \"other\"");
    cluster.node_mut(3).start();
    until("the stranger to be refused", Duration::from_secs(20), || {
        let logs: String = cluster.nodes().iter().map(Node::log).collect();
        let refused = logs.contains("belongs to cluster `tested`, this one to `other`")
            || logs.contains("belongs to cluster `other`, this one to `tested`");
        refused.then_some(()).ok_or_else(|| "no refusal in the logs".to_owned())
    });
    let leaders = until("the two others to lead everything", Duration::from_secs(20), || {
        let statuses = cluster.statuses();
        let leads = |node: u64, shard| {
            statuses.get(&node)?.shard(shard).filter(|it| it.role == "leader").map(|_| node)
        };
        let leaders: Option<Vec<u64>> = (0..=4).map(|shard| leads(1, shard).or(leads(2, shard))).collect();
        leaders.ok_or_else(|| format!("{statuses:?}"))
    });
    assert_eq!(leaders.len(), 5);
    // It cannot tell whether its cluster exists, so it does not begin; and says for whom it waits.
    until("the stranger to say what it waits for", SOON, || {
        match cluster.node(3).says("waiting for these nodes to tell whether the cluster exists") {
            0 => Err("it says nothing".to_owned()),
            _ => Ok(()),
        }
    });
    assert!(cluster.node(3).status().is_err(), "it does not serve");
}

#[test]
fn a_cluster_begins_when_all_its_nodes_are_there() {
    let mut cluster = Cluster::prepare(Settings::default());
    cluster.node_mut(1).start();
    cluster.node_mut(2).start();
    for node in 1..=2 {
        until("a node to say for whom it waits", Duration::from_secs(20), || {
            let log = cluster.node(node).log();
            let says = log.contains("nodes=[3]") && log.contains("waiting for these nodes");
            says.then_some(()).ok_or(log)
        });
    }
    // One that was told to end while it waits does so, and waits on when it is started again.
    cluster.node(2).signal(Signal::Terminate);
    assert_eq!(cluster.node_mut(2).wait_exit(EXIT).code(), Some(0));
    cluster.node_mut(2).start();
    cluster.node_mut(3).start();
    cluster.wait_until_all_shards_have_leaders();
    // From now on a majority is enough.
    cluster.kill_all();
    cluster.node_mut(1).start();
    cluster.node_mut(3).start();
    until("the two to lead everything", Duration::from_secs(20), || cluster.leaders());
}

#[test]
fn a_port_in_use_is_told_by_its_key() {
    let mut cluster = Cluster::prepare(alone());
    let node = cluster.node_mut(1);
    let squatter = TcpListener::bind(node.binary).expect("the port is free");
    does_not_start(node, |_| {}, &["listen.binary", "another process has this port"]);
    drop(squatter);
    let squatter = TcpListener::bind(node.peer).expect("the port is free");
    does_not_start(node, |_| {}, &["listen.peer", "another process has this port"]);
    drop(squatter);
    starts(&mut cluster);
}

#[test]
fn a_host_without_what_a_node_needs_is_told_what_to_change() {
    let mut cluster = Cluster::prepare(alone());
    let node = cluster.node_mut(1);
    does_not_start(node, |command| refuse_io_uring(command, libc::ENOSYS), &["no io_uring", "Linux 5.8"]);
    does_not_start(
        node,
        |command| refuse_io_uring(command, libc::EPERM),
        &["forbidden", "io_uring_disabled"],
    );
    let too_little = |command: &mut Command| {
        let limit = libc::rlimit { rlim_cur: 64 << 10, rlim_max: 64 << 10 };
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
    };
    does_not_start(node, too_little, &["locked memory is 64 KiB", "ulimit -l"]);
    starts(&mut cluster);
}

/// The file of a log and the place in it where these bytes lie.
fn find_in_log(dir: &Path, wanted: &[u8]) -> Option<(PathBuf, u64)> {
    fs::read_dir(dir).expect("a node has a log").flatten().find_map(|entry| {
        let mut bytes = Vec::new();
        fs::File::open(entry.path())
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .expect("a log can be read");
        let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
        Some((entry.path(), u64::try_from(at).expect("64-bit machine")))
    })
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("the log is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("within the file");
    file.sync_all().expect("the disk takes it");
}

/// Writes a value that can be found again in the logs of shard 1, and many others after it; those others.
fn write_marked(cluster: &Cluster, marker: &Bytes) -> Vec<(Bytes, u64)> {
    let (key, marker) = (key_in(&cluster.map(), 1, "marked-"), marker.clone());
    with_client(cluster.endpoints(), async move |client| {
        client.put(key, marker).await.expect("the cluster takes writes");
        let mut written = Vec::new();
        for token in 2..400 {
            let key = Bytes::from(format!("after-{token}"));
            client.put(key.clone(), value_of(token)).await.expect("the cluster takes writes");
            written.push((key, token));
        }
        written
    })
}

/// Ends a node and flips a byte of the marked value in its log; the file's name, and what undoes it.
fn damage_log(cluster: &mut Cluster, node: u64, marker: &Bytes) -> (String, impl FnOnce() + use<>) {
    cluster.node(node).signal(Signal::Terminate);
    cluster.node_mut(node).wait_exit(EXIT);
    let (file, at) =
        find_in_log(&cluster.node(node).wal_dir(0), marker).expect("the node has the value in its log");
    flip(&file, at);
    let name = file.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
    (name, move || flip(&file, at))
}

fn marker() -> Bytes {
    let mut marker = BytesMut::from(&b"a value to be found again: "[..]);
    marker.extend_from_slice(&value_of(1));
    marker.freeze()
}

#[test]
fn a_flipped_byte_in_the_log_is_found_and_healed_by_the_others() {
    let mut cluster = Cluster::start(Settings::default());
    let written = write_marked(&cluster, &marker());
    cluster.wait_until_all_caught_up(Duration::from_secs(10));
    let (name, _) = damage_log(&mut cluster, 2, &marker());
    cluster.node_mut(2).start();
    // The node starts, says precisely what it found, and comes back as somebody else where it had a hole.
    let groups = Groups::at(cluster.endpoints());
    let all = (1..=3).collect();
    let healed = groups.wait("the damaged replica to be replaced", 1, Duration::from_secs(30), |shard| {
        voters(shard).get(&2).copied().filter(|raft_id| *raft_id != 2 && !shard.joint)
    });
    println!("node 2 is {healed} in shard 1");
    for shard in 0..=cluster.settings.shards {
        groups.wait_for_voters(shard, &all, Duration::from_secs(30));
    }
    let log = cluster.node(2).log();
    let said = log.lines().find(|line| line.contains("ERROR") && line.contains("the log is damaged"));
    let said = said.unwrap_or_else(|| panic!("the damage was not told:\n{log}"));
    for word in [&*name, "offset=", "shards=[", "the other nodes"] {
        assert!(said.contains(word), "`{word}` is not in {said}");
    }
    cluster.wait_until_caught_up(2, Duration::from_secs(20));
    // It has what it lost: with it, and without another one, everything is there.
    cluster.node_mut(3).kill();
    cluster.wait_until_all_shards_have_leaders();
    let lost = read_back(cluster.endpoints(), written.clone());
    assert!(lost.is_empty(), "{lost:?}");
    // The next start finds nothing wrong any more, or at least nothing to be replaced again.
    let replaced = cluster.node(2).says("a fresh one asks the other nodes");
    cluster.node_mut(3).start();
    cluster.node_mut(2).kill();
    cluster.node_mut(2).start();
    cluster.wait_until_caught_up(2, Duration::from_secs(20));
    assert_eq!(cluster.node(2).says("a fresh one asks the other nodes"), replaced);
    let lost = read_back(cluster.endpoints(), written);
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_damaged_database_is_replaced_and_healed_by_the_others() {
    let mut cluster = Cluster::start(Settings::default());
    let written = write_marked(&cluster, &marker());
    cluster.wait_until_all_caught_up(Duration::from_secs(10));
    cluster.node(2).signal(Signal::Terminate);
    cluster.node_mut(2).wait_exit(EXIT);
    let store = cluster.node(2).data_dir().join("core-0/shard-1/store");
    let database =
        fs::read_dir(&store).expect("the replica has a database").flatten().next().expect("one").path();
    let manifest = fs::read_dir(database).expect("a database is a folder").flatten();
    let manifest =
        manifest.map(|entry| entry.path()).find(|path| path.to_string_lossy().contains("MANIFEST"));
    flip(&manifest.expect("a database has a manifest"), 12);
    cluster.node_mut(2).start();
    let groups = Groups::at(cluster.endpoints());
    groups.wait("the damaged replica to be replaced", 1, Duration::from_secs(30), |shard| {
        voters(shard).get(&2).copied().filter(|raft_id| *raft_id != 2 && !shard.joint)
    });
    assert_eq!(cluster.node(2).says("a replica's data are damaged"), 1);
    cluster.wait_until_caught_up(2, Duration::from_secs(20));
    cluster.node_mut(3).kill();
    cluster.wait_until_all_shards_have_leaders();
    let lost = read_back(cluster.endpoints(), written);
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_node_without_others_does_not_start_on_a_damaged_log() {
    let mut cluster = Cluster::start(alone());
    let written = write_marked(&cluster, &marker());
    let (name, undo) = damage_log(&mut cluster, 1, &marker());
    does_not_start(cluster.node_mut(1), |_| {}, &[&name, "damaged at offset", "acknowledged records"]);
    undo();
    cluster.node_mut(1).start();
    cluster.wait_until_all_shards_have_leaders();
    let lost = read_back(cluster.endpoints(), written);
    assert!(lost.is_empty(), "{lost:?}");
}
