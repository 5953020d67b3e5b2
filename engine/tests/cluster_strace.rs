//! The kernel as witness: a write is acknowledged only after it was synced on two nodes, and a node whose log cannot be
//! written ends itself while the others go on.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use harness::{Cluster, Load, LoadConfig, Settings, Strace, Trace, Wire, key_in, read_back};
use net::protocol::{Answer, Mutation, Op, WriteConsistency};

const WRITES: usize = 200;
const VALUE_BYTES: usize = 4096;
/// Acknowledged operations between two faults.
const OPERATIONS: u64 = 300;

fn buffered() -> Settings {
    Settings { wal_io: "buffered", shards: 3, ..Settings::default() }
}

/// Text of one write that is nowhere else.
fn marker(number: usize) -> String {
    format!("<write {number:06}>")
}

/// Where strace puts what it saw.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo's folder for tests is writable")
}

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let dir = dir.canonicalize().expect("a running node has a log");
    let files = fs::read_dir(dir).expect("the folder of the log").flatten().map(|entry| entry.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "wal")).collect()
}

/// The nodes on which this write was synced before the place `before` of the trace. A node is known by the folder its
/// log lies in.
fn synced_on(trace: &Trace, number: usize, before: usize) -> BTreeSet<String> {
    let marker = marker(number);
    let writes =
        trace.named("pwrite64").filter(|call| call.file().ends_with(".wal") && call.args.contains(&marker));
    let durable = writes.filter(|write| trace.synced(write).is_some_and(|at| at < before));
    durable.map(|write| write.file().rsplit_once('/').expect("an absolute path").0.to_owned()).collect()
}

/// What is wrong with a trace of `writes` writes made one after the other over the connection to `port`.
fn violation(trace: &Trace, writes: usize, port: u16) -> Option<String> {
    let client = format!("->127.0.0.1:{port}");
    let answers: Vec<usize> =
        trace.named("sendto").filter(|call| call.file().ends_with(&client)).map(|call| call.began).collect();
    if answers.len() != writes {
        return Some(format!("{writes} writes, {} answers", answers.len()));
    }
    (0..writes).zip(answers).find_map(|(number, answered)| {
        let nodes = synced_on(trace, number, answered);
        (nodes.len() < 2).then(|| format!("write {number} was acknowledged when synced on {nodes:?} only"))
    })
}

#[test]
fn an_answer_leaves_after_two_nodes_have_synced_the_write() {
    if let Some(why) = Strace::missing() {
        println!("SKIPPED: system calls cannot be traced here: {why}");
        return;
    }
    let cluster = Cluster::start(buffered());
    let leader = cluster.wait_until_leaders_are_home()[&1];
    let (mut wire, _) = Wire::connect(cluster.node(leader).binary, None).expect("the leader runs");
    let key = key_in(&cluster.map(), 1, "traced-");
    let scratch = scratch();
    let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.pid()).collect();
    let args = ["-e".to_owned(), "trace=pwrite64,fdatasync,sendto".to_owned()];
    let strace = Strace::follow(&pids, &scratch.path().join("trace"), &args);
    for number in 0..WRITES {
        let value: Vec<u8> = marker(number).bytes().cycle().take(VALUE_BYTES).collect();
        let mutation = Mutation::Put { key: key.clone(), value: Bytes::from(value), ttl_ms: None };
        let op =
            Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] };
        let written = wire.call(1, op);
        assert!(matches!(written, Ok(Answer::Written { .. })), "{written:?}");
    }
    let trace = strace.finish();
    let port = wire.stream().local_addr().expect("a connected socket").port();
    assert_eq!(violation(&trace, WRITES, port), None);
    let everywhere = (0..WRITES).filter(|number| synced_on(&trace, *number, usize::MAX).len() == 3).count();
    println!(
        "{WRITES} answers, each after two nodes had synced the write; {everywhere} writes reached all three"
    );

    // The same trace with calls taken out of it: the check must notice.
    let without = |gone: &dyn Fn(&harness::Call) -> bool| {
        let calls = trace.calls.iter().filter(|call| !gone(call)).cloned().collect();
        violation(&Trace { calls }, WRITES, port)
    };
    let folders: Vec<PathBuf> =
        cluster.nodes().iter().map(|node| node.wal_dir(0).canonicalize().expect("a log")).collect();
    let on = |call: &harness::Call, node: usize| Path::new(call.file()).starts_with(&folders[node]);
    assert!(without(&|call| call.name == "fdatasync").is_some());
    assert!(without(&|call| call.name == "fdatasync" && (on(call, 0) || on(call, 1))).is_some());
    assert!(without(&|call| call.name == "pwrite64" && (on(call, 1) || on(call, 2))).is_some());
}

#[test]
fn a_trace_is_read_in_the_order_of_beginnings_and_ends() {
    let text = "\
7 1.000001 pwrite64(5</n/1/a.wal>, \"x<write 000000>\"..., 4096, 8192 <unfinished ...>
8 1.000002 fdatasync(9</n/1/a.wal>)   = 0
7 1.000003 <... pwrite64 resumed>)        = 4096
7 1.000004 fdatasync(5</n/1/a.wal> <unfinished ...>
9 1.000005 sendto(3<TCP:[127.0.0.1:70->127.0.0.1:99]>, \"ok\", 2, MSG_DONTWAIT, NULL, 0) = 2
7 1.000006 <... fdatasync resumed>)       = 0
8 1.000007 fdatasync(9</n/2/a.wal>)   = -1 EIO (Input/output error) (INJECTED)
12 1.000008 +++ exited with 0 +++
";
    let trace = Trace::parse(text);
    assert_eq!(trace.calls.len(), 5);
    let write = trace.named("pwrite64").next().expect("one");
    assert_eq!((write.file(), write.ended.map(|end| end.1)), ("/n/1/a.wal", Some(4096)));
    let answer = trace.named("sendto").next().expect("one");
    assert_eq!(answer.file(), "127.0.0.1:70->127.0.0.1:99");
    // The sync that began before the write had ended proves nothing, and the other one ended too late.
    assert!(trace.synced(write).expect("it was synced") > answer.began);
    assert_eq!(violation(&trace, 1, 99).as_deref(), Some("write 0 was acknowledged when synced on {} only"));
    assert_eq!(trace.calls[4].ended.map(|end| end.1), Some(-1));
}

/// Makes one system call on the log of a node fail while clients work, and looks at what becomes of it all.
fn fault(cluster: &mut Cluster, load: &Load, victim: u64, call: &str, errno: &str, text: &str) {
    load.wait_for_operations(OPERATIONS, Duration::from_secs(30));
    let scratch = scratch();
    let mut args = vec!["-e".to_owned(), format!("trace={call}")];
    args.extend(["-e".to_owned(), format!("inject={call}:error={errno}:when=25")]);
    for file in wal_files(&cluster.node(victim).wal_dir(0)) {
        args.extend(["-P".to_owned(), file.display().to_string()]);
    }
    let strace = Strace::follow(&[cluster.node(victim).pid()], &scratch.path().join("trace"), &args);
    let status = cluster.node_mut(victim).wait_exit(Duration::from_secs(30));
    let failed = load.now();
    let trace = strace.finish();
    let injected: Vec<_> =
        trace.named(call).filter(|call| call.ended.is_some_and(|end| end.1 == -1)).collect();
    assert_eq!(injected.len(), 1, "one call was made to fail");
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{status:?}");
    let log = cluster.node(victim).log();
    let dir = cluster.node(victim).wal_dir(0);
    let reason = format!("ringkv: fatal: the write-ahead log in {} could not be written: ", dir.display());
    let said = log.lines().rev().find(|line| line.contains(&reason));
    assert!(said.is_some_and(|line| line.contains(text) && line.contains(".wal")), "{said:?}");
    let outages = load.wait_until_writes_flow(failed, Duration::from_secs(15));
    println!("{call} failed with {errno} on node {victim}: longest outage {:?}", outages.iter().max());
    cluster.node_mut(victim).start();
    cluster.wait_until_caught_up(victim, Duration::from_secs(30));
}

#[test]
fn a_node_whose_log_fails_ends_itself_and_nothing_is_lost() {
    if let Some(why) = Strace::missing() {
        println!("SKIPPED: system calls cannot be made to fail here: {why}");
        return;
    }
    let mut cluster = Cluster::start(buffered());
    let load = Load::start(cluster.endpoints(), LoadConfig::default());
    load.wait_until_writes_flow(load.now(), Duration::from_secs(10));
    fault(&mut cluster, &load, 1, "fdatasync", "EIO", "Input/output error");
    fault(&mut cluster, &load, 2, "pwrite64", "EIO", "Input/output error");
    fault(&mut cluster, &load, 3, "pwrite64", "ENOSPC", "No space left on device");
    cluster.wait_until_all_shards_have_leaders();
    let result = load.finish();
    let operations = result.history.count(|_| true);
    println!("{operations} operations and {} single writes checked", result.written.len());
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
}
