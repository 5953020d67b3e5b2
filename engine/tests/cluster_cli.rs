//! The command line against a real cluster, as a person or a script uses it: what it prints and how it exits.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Cluster, Settings, until};
use serde_json::Value;

const RINGKV: &str = env!("CARGO_BIN_EXE_ringkv");

/// How a command ended, and what it said.
struct Said {
    code: Option<i32>,
    out: Vec<u8>,
    error: String,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// A command with nothing of the environment that could change it.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(RINGKV);
    command.args(arguments).env_remove("RINGKV_ENDPOINTS");
    command
}

fn run(mut command: Command, input: &[u8]) -> Said {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    // A command that does not read its input closes it: that is its right.
    let _ = child.stdin.take().expect("it was piped").write_all(input);
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    Said { code: output.status.code(), out: output.stdout, error }
}

/// Runs a command against the cluster.
fn ringkv(cluster: &Cluster, arguments: &[&str]) -> Said {
    ringkv_with(cluster, arguments, b"")
}

fn ringkv_with(cluster: &Cluster, arguments: &[&str], input: &[u8]) -> Said {
    let mut command = command(arguments);
    command.args(["--endpoints", &cluster.endpoints().join(",")]);
    let said = run(command, input);
    eprintln!("$ ringkv {arguments:?}: {:?}\n{}{}", said.code, said.text(), said.error);
    said
}

#[track_caller]
fn expect(cluster: &Cluster, arguments: &[&str], code: i32, out: &str) {
    let said = ringkv(cluster, arguments);
    assert_eq!((said.code, said.text().as_str()), (Some(code), out), "{arguments:?}: {}", said.error);
}

fn json(said: &Said) -> Value {
    serde_json::from_slice(&said.out).expect("one JSON document")
}

#[test]
fn keys_by_hand() {
    let cluster = Cluster::start(Settings { shards: 3, ..Settings::default() });
    expect(&cluster, &["get", "a"], 1, "");
    expect(&cluster, &["set", "a", "one"], 0, "OK\n");
    expect(&cluster, &["get", "a"], 0, "one\n");
    expect(&cluster, &["get", "a", "--consistency", "follower"], 0, "one\n");
    expect(&cluster, &["get", "a", "--namespace", "3"], 1, "");
    expect(&cluster, &["set", "a", "three", "--namespace", "3", "--consistency", "leader"], 0, "OK\n");
    expect(&cluster, &["get", "a"], 0, "one\n");
    let told = json(&ringkv(&cluster, &["get", "a", "--namespace", "3", "--output", "json"]));
    assert_eq!((&told["key"], &told["value"], &told["found"]), (&"a".into(), &"three".into(), &true.into()));
    assert!(told["version"].as_u64().is_some_and(|version| version > 0), "{told}");
    let absent = ringkv(&cluster, &["get", "absent", "--output", "json"]);
    assert_eq!((absent.code, json(&absent)["found"].as_bool()), (Some(1), Some(false)));

    let bytes = [0, 255, b'\n'];
    assert_eq!(ringkv_with(&cluster, &["set", "binary"], &bytes).code, Some(0));
    assert_eq!(ringkv(&cluster, &["get", "binary"]).out, [0, 255, b'\n', b'\n']);
    let told = json(&ringkv(&cluster, &["get", "binary", "--output", "json"]));
    assert_eq!(told["value_hex"], "00ff0a");

    expect(&cluster, &["del", "a", "absent"], 1, "deleted\nno such key\n");
    expect(&cluster, &["del", "binary", "--output", "json"], 0, "{\"existed\":true,\"key\":\"binary\"}\n");
    expect(&cluster, &["set", "brief", "x", "--ttl", "300ms"], 0, "OK\n");
    until("a key to expire", Duration::from_secs(10), || {
        let said = ringkv(&cluster, &["get", "brief"]);
        if said.code == Some(1) { Ok(()) } else { Err(said.text()) }
    });

    for key in 0..20 {
        expect(&cluster, &["set", &format!("key{key}"), &key.to_string()], 0, "OK\n");
    }
    let listed = ringkv(&cluster, &["scan", "key1"]).text();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed.len(), 11, "{listed:?}");
    assert_eq!(listed[..3], ["key1", "key10", "key11"]);
    let limited = ringkv(&cluster, &["scan", "--values", "--limit", "5", "--output", "json"]).text();
    let documents = limited.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let right = |it: &Value| {
        format!("key{}", it["value"].as_str().expect("text")) == it["key"].as_str().expect("text")
    };
    assert_eq!(documents.filter(right).count(), 5, "{limited}");

    let watched = ringkv(&cluster, &["watch-status", "--count", "2", "--interval", "1", "--output", "json"]);
    assert_eq!((watched.code, watched.text().lines().count()), (Some(0), 2));
    let wrong = ringkv(&cluster, &["get", "a", "--consistency", "maybe"]);
    assert_eq!(wrong.code, Some(2));
    let nobody = run(command(&["get", "a", "--timeout", "1", "--endpoints", "127.0.0.1:1"]), b"");
    assert_eq!(nobody.code, Some(3), "{}", nobody.error);
}

#[test]
fn numbers_grow() {
    let cluster = Cluster::start(Settings { shards: 3, ..Settings::default() });
    expect(&cluster, &["incr", "n"], 0, "1\n");
    expect(&cluster, &["incr", "n", "--by", "41"], 0, "42\n");
    expect(&cluster, &["incr", "n", "--by", "-50", "--output", "json"], 0, "{\"value\":-8}\n");
    expect(&cluster, &["incr", "n", "--namespace", "5"], 0, "1\n");
    expect(&cluster, &["get", "n"], 0, "-8\n");
    expect(&cluster, &["set", "word", "x"], 0, "OK\n");
    let refused = ringkv(&cluster, &["incr", "word"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.error.contains("not an integer"), "{}", refused.error);
}

/// Keys of several blocks, in two namespaces; two of them expire.
fn fill(cluster: &Cluster) {
    let endpoints = cluster.endpoints();
    harness::with_client(endpoints, async |client| {
        for key in 0..300_u32 {
            let value = vec![b'v'; 10_000 + usize::try_from(key).expect("small")];
            client.put(format!("key{key}"), value).await.expect("put");
        }
        client.with_namespace(2).put(vec![0xff, 0], "elsewhere").await.expect("put");
        let ttl = |seconds| net::PutOptions { ttl: Some(Duration::from_secs(seconds)), ..Default::default() };
        client.put_with("lives", "long", ttl(10_000)).await.expect("put");
        client.put_with("dies", "soon", ttl(15)).await.expect("put");
    });
}

fn ttl_ms(cluster: &Cluster, key: &'static str) -> i64 {
    use net::protocol::{Access, Program, ReadConsistency};
    harness::with_client(cluster.endpoints(), async move |client| {
        let args = vec!["PTTL".into(), key.into()];
        let program = Program::single(net::slot::slot_of(key.as_bytes()), 0, args);
        let read = Access::Read(ReadConsistency::Linearizable);
        let mut replies =
            client.execute(program, read).await.expect("it answers").expect("nothing is watched");
        match net::resp::decode_value(&mut replies) {
            Ok(Some(net::resp::Value::Integer(ms))) => ms,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn what_is_dumped_is_loaded() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (all, one) = (path("all.dump"), path("one.dump"));
    let listed = {
        let cluster = Cluster::start(Settings { shards: 3, ..Settings::default() });
        fill(&cluster);
        let said = ringkv(&cluster, &["dump", &all, "--all"]);
        assert_eq!(said.code, Some(0), "{}", said.error);
        // One of them may have expired by now.
        assert!(
            ["302", "303"].iter().any(|count| said.error.contains(&format!("{count} keys dumped"))),
            "{}",
            said.error
        );
        assert_eq!(ringkv(&cluster, &["dump", &all]).code, Some(3), "a dump is not written over");
        assert_eq!(ringkv(&cluster, &["dump", &one, "--namespace", "2"]).code, Some(0));
        let piped = ringkv(&cluster, &["dump", "--namespace", "2"]);
        assert_eq!(piped.out.len(), fs::read(&one).expect("a dump").len(), "the same, but for the time");
        ringkv(&cluster, &["scan", "key", "--values"]).text()
    };
    assert!(fs::metadata(&all).expect("a dump").len() > 3_000_000);

    let cluster = Cluster::start(Settings { shards: 5, ..Settings::default() });
    // A load that was interrupted: the dump is cut off inside its third block.
    let bytes = fs::read(&all).expect("a dump");
    let cut = path("cut.dump");
    fs::write(&cut, &bytes[..2_500_000]).expect("a folder");
    let stopped = ringkv(&cluster, &["load", &cut]);
    assert_eq!(stopped.code, Some(3));
    assert!(stopped.error.contains("cut off"), "{}", stopped.error);
    assert!(Path::new(&path("cut.dump.progress")).exists(), "how far it came is noted");
    let before = ringkv(&cluster, &["scan"]).text().lines().count();
    assert!((100..300).contains(&before), "{before} keys of whole blocks");
    assert_eq!(ringkv(&cluster, &["load", &all, "--resume"]).code, Some(3), "this one was never begun");

    let loaded = ringkv(&cluster, &["load", &all, "--output", "json"]);
    assert_eq!(loaded.code, Some(0), "{}", loaded.error);
    let told = json(&loaded);
    let total = told["loaded"].as_u64().expect("a number") + told["expired"].as_u64().expect("a number");
    assert!([302, 303].contains(&total), "{total}");
    let values = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let again = ringkv(&cluster, &["scan", "key", "--values"]).text();
    assert!(values(&again) == values(&listed), "the values are others");
    expect(&cluster, &["scan", "--namespace", "2"], 0, "\\xff\\x00\n");
    let left = ttl_ms(&cluster, "lives");
    assert!((1..=10_000_000).contains(&left) && left > 9_000_000, "{left} ms are left");
    assert_eq!(ttl_ms(&cluster, "key7"), -1);
    until("a key to expire where it was loaded, too", Duration::from_secs(30), || {
        let said = ringkv(&cluster, &["get", "dies"]);
        if said.code == Some(1) { Ok(()) } else { Err(said.text()) }
    });
    let dump = fs::read(&one).expect("a dump");
    assert_eq!(ringkv_with(&cluster, &["load", "-", "--namespace", "9"], &dump).code, Some(0));
    expect(&cluster, &["scan", "--namespace", "9", "--values"], 0, "\\xff\\x00\telsewhere\n");
    let garbage = ringkv_with(&cluster, &["load"], b"this is no dump");
    assert!(garbage.code == Some(3) && garbage.error.contains("no dump"), "{}", garbage.error);
}

#[test]
fn a_load_goes_on_where_it_was_interrupted() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let dump = folder.path().join("dump").to_str().expect("UTF-8").to_owned();
    let cluster = Cluster::start(Settings { shards: 3, ..Settings::default() });
    fill(&cluster);
    assert_eq!(ringkv(&cluster, &["dump", &dump]).code, Some(0));
    let whole = fs::read(&dump).expect("a dump");
    // A broken disk, then a mended one: the same file, with a byte of its last block damaged meanwhile.
    let mut damaged = whole.clone();
    let at = damaged.len() - 5_000;
    damaged[at] ^= 1;
    fs::write(&dump, &damaged).expect("a folder");
    let stopped = ringkv(&cluster, &["load", &dump, "--namespace", "7"]);
    assert!(stopped.code == Some(3) && stopped.error.contains("checksum"), "{}", stopped.error);
    let before = ringkv(&cluster, &["scan", "--namespace", "7"]).text().lines().count();
    assert!((100..302).contains(&before), "{before}");
    fs::write(&dump, &whole).expect("a folder");
    let resumed = ringkv(&cluster, &["load", &dump, "--namespace", "7", "--resume", "--output", "json"]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.error);
    let loaded = json(&resumed)["loaded"].as_u64().expect("a number");
    assert!(loaded < 200, "only the rest: {loaded}");
    let after = ringkv(&cluster, &["scan", "key", "--namespace", "7"]).text().lines().count();
    assert_eq!(after, 300);
    assert_eq!(ringkv(&cluster, &["load", &dump, "--resume"]).code, Some(3), "it is done");
}
