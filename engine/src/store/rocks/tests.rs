//! The RocksDB engine against the conformance suite, against crashes, and against what may lie in its
//! folder.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use super::*;
use crate::host::background;
use crate::store::Write;
use crate::store::conformance::{conformance_tests, contents};

/// Small budgets: memtables fill and files merge within a short test.
static SHARED: LazyLock<RocksShared> = LazyLock::new(|| shared(64 << 10));

fn shared(memtable_bytes: usize) -> RocksShared {
    let config = RocksConfig {
        block_cache_bytes: 4 << 20,
        blob_cache_bytes: 4 << 20,
        memtables_bytes: 16 * memtable_bytes,
        memtable_bytes,
        ..RocksConfig::default()
    };
    RocksShared::new(config).expect("the shared parts")
}

fn open(folder: &Path) -> Box<dyn StorageEngine> {
    Box::new(RocksEngine::open(folder, &SHARED).expect("open"))
}

conformance_tests!(open);

fn open_error(folder: &Path) -> OpenError {
    RocksEngine::open(folder, &SHARED).map(drop).expect_err("not to be opened")
}

fn apply_one(engine: &dyn StorageEngine, index: u64) {
    let value = index.to_le_bytes().repeat(256);
    let writes = [Write::Put { key: b"\x01key", value: &value }];
    engine.apply(&WriteSet { applied: Applied { index, term: 1 }, writes: &writes }).expect("apply");
}

#[test]
fn one_folder_is_opened_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = open(folder.path());
    assert!(matches!(open_error(folder.path()), OpenError::Locked { .. }));
    drop(engine);
    drop(open(folder.path()));
}

#[test]
fn a_folder_with_something_else_in_it_is_foreign() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("notes.txt"), b"mine").expect("write");
    let error = open_error(folder.path());
    assert!(matches!(&error, OpenError::Foreign { detail, .. } if detail.contains("notes.txt")), "{error}");
    assert!(folder.path().join("notes.txt").exists());
}

#[test]
fn a_database_without_identity_is_foreign_and_a_newer_one_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let database = folder.path().join("db-00000001");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    {
        let database = rocksdb::DB::open(&options, &database).expect("a plain database");
        database.put(b"key", b"value").expect("put");
    }
    assert!(matches!(open_error(folder.path()), OpenError::Foreign { .. }));
    {
        let database = rocksdb::DB::open(&options, &database).expect("a plain database");
        database.put(b"\x00i", b"RingKV\x09\x00\x00\x00").expect("put");
    }
    let error = open_error(folder.path());
    assert!(matches!(error, OpenError::Newer { found: 9, known: 1, .. }), "{error}");
}

#[test]
fn damage_is_corruption_with_the_folder_named() {
    for (victim, cut) in [("CURRENT", true), ("MANIFEST", false), (".sst", true)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        {
            let engine = open(folder.path());
            apply_one(engine.as_ref(), 1);
            engine.flush().expect("flush");
        }
        let database = folder.path().join("db-00000001");
        let entries = std::fs::read_dir(&database).expect("the database");
        let mut damaged = 0;
        for entry in entries {
            let path = entry.expect("an entry").path();
            if !path.file_name().expect("a name").to_string_lossy().contains(victim) {
                continue;
            }
            damaged += 1;
            if cut {
                std::fs::remove_file(&path).expect("remove");
            } else {
                let mut bytes = std::fs::read(&path).expect("read");
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                std::fs::write(&path, bytes).expect("write");
            }
        }
        assert!(damaged > 0, "no {victim} to damage");
        let error = open_error(folder.path());
        let named = |path: &Path| path.starts_with(folder.path());
        assert!(matches!(&error, OpenError::Corrupt { path, .. } if named(path)), "{victim}: {error}");
    }
}

#[test]
fn a_damaged_value_is_corruption_and_not_an_answer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        let engine = open(folder.path());
        apply_one(engine.as_ref(), 1);
        engine.flush().expect("flush");
    }
    let database = folder.path().join("db-00000001");
    for entry in std::fs::read_dir(&database).expect("the database") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "blob") {
            let mut bytes = std::fs::read(&path).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::write(&path, bytes).expect("write");
        }
    }
    let engine = open(folder.path());
    let error = engine.get(b"\x01key", ReadTier::All).expect_err("a damaged value");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

#[test]
fn what_a_crash_left_in_the_folder_is_cleaned() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    {
        let engine = open(folder.path());
        apply_one(engine.as_ref(), 1);
        let copy = folder.path().with_extension("copy");
        engine.create_checkpoint(&copy).expect("checkpoint");
        // As if a crash came right after the next generation got its name.
        std::fs::rename(&copy, folder.path().join("db-00000002")).expect("rename");
    }
    for leftover in ["new-00000003", "dead-00000004"] {
        std::fs::create_dir(folder.path().join(leftover)).expect("a folder");
        std::fs::write(folder.path().join(leftover).join("file"), b"").expect("a file");
    }
    let engine = open(folder.path());
    assert_eq!(engine.applied().expect("applied").index, 1);
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .expect("the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["db-00000002"]);
}

#[test]
fn a_held_value_keeps_a_destroyed_database_until_it_goes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = open(folder.path());
    apply_one(engine.as_ref(), 1);
    let Lookup::Found(value) = engine.get(b"\x01key", ReadTier::All).expect("get") else {
        panic!("the value was written")
    };
    engine.destroy().expect("destroy");
    let dead = folder.path().join("dead-00000001");
    assert!(dead.exists());
    assert_eq!(&value[..8], &1_u64.to_le_bytes());
    // A new engine lives beside it, in another generation; opening it removes the remains.
    let again = open(folder.path());
    assert!(!dead.exists());
    apply_one(again.as_ref(), 1);
    assert_eq!(&value[..8], &1_u64.to_le_bytes());
    drop(value);
    assert_eq!(again.applied().expect("applied").index, 1);
}

#[test]
fn a_replaced_database_does_not_come_back_when_its_successor_goes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (home, copy) = (folder.path().join("engine"), folder.path().join("copy"));
    let engine = open(&home);
    apply_one(engine.as_ref(), 1);
    let old = engine.get(b"\x01key", ReadTier::All).expect("get");
    engine.create_checkpoint(&copy).expect("checkpoint");
    engine.install_checkpoint(&copy).expect("install");
    // The held value keeps the files of the old one, under another name.
    assert!(home.join("dead-00000001").exists() && !home.join("db-00000001").exists());
    engine.destroy().expect("destroy");
    let again = open(&home);
    assert_eq!(again.applied().expect("applied"), Applied::default());
    let Lookup::Found(value) = old else { panic!("the value was written") };
    assert_eq!(&value[..8], &1_u64.to_le_bytes());
}

#[test]
fn figures_show_what_is_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = open(folder.path());
    let empty = engine.stats().expect("stats");
    for index in 1..=8 {
        apply_one(engine.as_ref(), index);
    }
    let filled = engine.stats().expect("stats");
    assert!(filled.memtable_bytes >= empty.memtable_bytes + 8 * 2048, "{filled:?}");
    assert!(SHARED.memtables_bytes() > 0);
    engine.flush().expect("flush");
    let flushed = engine.stats().expect("stats");
    assert!(flushed.memtable_bytes < filled.memtable_bytes);
    assert!(flushed.blob_bytes >= 2048 && flushed.table_bytes > 0, "{flushed:?}");
    assert_eq!((flushed.background_errors, flushed.write_stopped), (0, false));
}

const CRASH_FOLDER: &str = "RINGKV_TEST_CRASH_FOLDER";
const CRASH_TEST: &str = "a_killed_process_keeps_a_prefix_with_all_that_was_durable";
const CRASH_BATCHES: u64 = 200_000;

/// The writes of batch `index`: overwrites, deletes, values in tables and in blob files.
#[test]
fn many_databases_with_little_in_them_share_a_budget_without_flushing() {
    const DATABASES: usize = 24;
    let config =
        RocksConfig { memtables_bytes: 16 << 20, memtable_bytes: 16 << 20, ..RocksConfig::default() };
    let shared = RocksShared::new(config).expect("the shared parts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engines: Vec<RocksEngine> = (0..DATABASES)
        .map(|number| RocksEngine::open(&folder.path().join(number.to_string()), &shared).expect("open"))
        .collect();
    (1..=100).for_each(|index| engines.iter().for_each(|engine| apply_one(engine, index)));
    let bytes = shared.memtables_bytes();
    assert!(bytes < 12 << 20, "{bytes} bytes of memory for 5 MB");
}

/// The highest number of a file in the first database of an engine: how many it has made.
fn files_made(root: &Path) -> u64 {
    let names =
        std::fs::read_dir(RocksEngine::first_database(root)).expect("the database's folder").flatten();
    let numbers = names.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.split_once('.')?.0.parse().ok()
    });
    numbers.max().unwrap_or(0)
}

#[test]
fn who_writes_does_not_pay_for_those_who_hold_the_budget() {
    let config =
        RocksConfig { memtables_bytes: 16 << 20, memtable_bytes: 16 << 20, ..RocksConfig::default() };
    let shared = RocksShared::new(config).expect("the shared parts");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = |name: &str| RocksEngine::open(&folder.path().join(name), &shared).expect("open");
    let idle: Vec<RocksEngine> = (0..8).map(|number| open(&number.to_string())).collect();
    // 14 of 16 MiB may grow.
    for index in 1.. {
        idle.iter().for_each(|engine| apply_one(engine, index));
        if shared.memtables_bytes() > 27 << 19 {
            break;
        }
    }
    let busy = open("busy");
    let before = files_made(&folder.path().join("busy"));
    for index in 1..=500 {
        apply_one(&busy, index);
        while busy.stats().expect("stats").immutable_memtables > 0 {
            std::thread::yield_now();
        }
    }
    let made = files_made(&folder.path().join("busy")) - before;
    assert!(made < 20, "{made} files for 1 MB: others had more to flush");
}

#[test]
fn compactions_run_behind_the_threads_of_the_process_and_flushes_do_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    drop(open(folder.path()));
    // SAFETY: a system call without pointers.
    let own =
        unsafe { libc::getpriority(libc::PRIO_PROCESS, libc::id_t::try_from(std::process::id()).unwrap()) };
    let nice_of = |pool: &str| -> Vec<i32> {
        let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
        let threads = threads.filter(|thread| {
            let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            name.trim_end().starts_with(pool)
        });
        threads
            .map(|thread| {
                let id = thread.file_name().to_string_lossy().parse().expect("a thread id");
                // SAFETY: as above.
                unsafe { libc::getpriority(libc::PRIO_PROCESS, id) }
            })
            .collect()
    };
    let (flushing, compacting) = (nice_of("rocksdb:high"), nice_of("rocksdb:low"));
    assert!(!flushing.is_empty() && flushing.iter().all(|nice| *nice == own), "{flushing:?}");
    let nicer = (own + background::COMPACTION_NICER).min(19);
    assert!(!compacting.is_empty() && compacting.iter().all(|nice| *nice == nicer), "{compacting:?}");
}

fn crash_batch(index: u64) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let key = |n: u64| [&[1][..], &(n % 40).to_be_bytes()].concat();
    let len = if index.is_multiple_of(2) { 60 } else { 1500 };
    let mut writes = vec![(key(index * 7), Some(index.to_le_bytes().repeat(len / 8)))];
    if index.is_multiple_of(3) {
        writes.push((key(index * 11 + 1), None));
    }
    writes
}

/// Applies batches until it is killed, and tells what was durable.
fn run_until_killed(folder: &Path) {
    let engine = open(folder);
    let first = engine.applied().expect("applied").index + 1;
    for index in first..first + CRASH_BATCHES {
        let changes = crash_batch(index);
        let writes: Vec<Write<'_>> = changes
            .iter()
            .map(|(key, value)| match value {
                Some(value) => Write::Put { key, value },
                None => Write::Delete { key },
            })
            .collect();
        engine.apply(&WriteSet { applied: Applied { index, term: 1 }, writes: &writes }).expect("apply");
        if index.is_multiple_of(97) {
            engine.flush().expect("flush");
        }
        if index.is_multiple_of(10) {
            println!("durable {}", engine.applied_durable().expect("durable").index);
        }
    }
}

/// Runs this very test in a child, kills it after `lines` reports, returns the last position reported.
fn kill_after(folder: &Path, lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("the test binary"))
        .args([CRASH_TEST, "--nocapture", "--test-threads=1"])
        .env(CRASH_FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let reports =
        output.lines().filter_map(|line| line.expect("a line").strip_prefix("durable ")?.parse().ok());
    let last = reports.take(lines).last().expect("the child reports");
    child.kill().expect("kill -9");
    child.wait().expect("its end");
    last
}

#[test]
fn a_killed_process_keeps_a_prefix_with_all_that_was_durable() {
    if let Some(folder) = std::env::var_os(CRASH_FOLDER) {
        return run_until_killed(Path::new(&folder));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut replayed = 0;
    let mut model = BTreeMap::new();
    for lines in [3, 40, 7, 90, 25] {
        let durable = kill_after(folder.path(), lines);
        let engine = open(folder.path());
        let applied = engine.applied().expect("applied").index;
        assert!(applied >= durable, "{durable} was durable, {applied} is left");
        assert!(applied >= replayed, "what was there before the start is gone");
        for index in replayed + 1..=applied {
            for (key, value) in crash_batch(index) {
                match value {
                    Some(value) => model.insert(key, value),
                    None => model.remove(&key),
                };
            }
        }
        replayed = applied;
        assert_eq!(contents(engine.as_ref()), model);
    }
    assert!(replayed > 0, "no round left anything to check");
}
