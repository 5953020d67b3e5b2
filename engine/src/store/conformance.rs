//! What every storage engine must do, as tests any engine can be put through.
//!
//! An engine's test module calls [`conformance_tests`] with a function that opens it on a folder; each
//! property becomes a test of its own. Engines outside of this crate do the same with its feature `conformance`:
//! `examples/btree_engine.rs` is one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Applied, Look, Lookup, OpenError, ReadTier, StorageEngine, StoreError, Write, WriteSet};

mod histories;

pub use histories::any_history_matches_the_model;

/// Opens the engine under test on a folder.
pub type Open = fn(&Path) -> Box<dyn StorageEngine>;

/// Expands to one test per property for the engine `$open` opens.
#[macro_export]
macro_rules! conformance_tests {
    ($open:expr) => {
        $crate::conformance_tests!($open;
            a_fresh_engine_is_empty, writes_are_seen_in_order, a_range_is_removed_with_all_in_it, the_position_must_grow,
            a_flush_makes_everything_durable, what_is_reopened_is_a_prefix, scans_respect_their_limits,
            a_consistent_read_sees_nothing_of_what_is_applied_meanwhile, memory_reads_never_lie, values_outlive_what_they_came_from,
            a_checkpoint_is_installed_whole, a_checkpoint_keeps_its_place, a_bad_checkpoint_changes_nothing,
            a_checkpoint_beside_writes_is_consistent, a_checkpoint_is_looked_into_and_left_as_it_is,
            an_install_leaves_nothing_old_in_memory, readers_beside_an_install_see_one_state, a_destroyed_engine_is_gone,
            readers_beside_a_writer_see_whole_batches, any_history_matches_the_model);
    };
    ($open:expr; $($property:ident),*) => {
        $(#[test]
        fn $property() {
            $crate::store::conformance::$property($open);
        })*
    };
}
pub use crate::conformance_tests;

/// Everything a stored key can be.
const ALL: (&[u8], &[u8]) = (&[0x01], &[0xff]);
const NO_LIMIT: usize = usize::MAX;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn at(index: u64) -> Applied {
    Applied { index, term: index / 3 + 1 }
}

fn delete(key: &[u8]) -> Write<'_> {
    Write::Delete { key }
}

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Write<'a> {
    Write::Put { key, value }
}

fn apply(engine: &dyn StorageEngine, index: u64, writes: &[Write<'_>]) {
    engine.apply(&WriteSet { applied: at(index), writes }).expect("apply");
}

fn get(engine: &dyn StorageEngine, key: &[u8]) -> Option<Vec<u8>> {
    match engine.get(key, ReadTier::All).expect("get") {
        Lookup::Found(value) => Some(value.to_vec()),
        Lookup::Missing => None,
        Lookup::NotInMemory => panic!("a read of every tier answers"),
    }
}

/// All data keys and their values.
pub fn contents(engine: &dyn StorageEngine) -> Model {
    let page = engine.scan(ALL.0, ALL.1, NO_LIMIT, NO_LIMIT).expect("scan");
    assert!(!page.more);
    page.items.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A new folder holds nothing, and opening it twice changes that not.
pub fn a_fresh_engine_is_empty(open: Open) {
    let folder = scratch();
    for _ in 0..2 {
        let engine = open(&folder.path().join("engine"));
        assert_eq!(engine.applied().expect("applied"), Applied::default());
        assert_eq!(engine.applied_durable().expect("durable"), Applied::default());
        assert_eq!(get(engine.as_ref(), b"\x01a"), None);
        assert!(contents(engine.as_ref()).is_empty());
        engine.flush().expect("flushing nothing");
    }
}

/// Later writes of a key win, within a set and between sets.
pub fn writes_are_seen_in_order(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    let engine = engine.as_ref();
    apply(engine, 1, &[put(b"\x01a", b"1"), put(b"\x01b", b"2"), put(b"\x01a", b"3")]);
    assert_eq!(get(engine, b"\x01a"), Some(b"3".to_vec()));
    apply(engine, 2, &[Write::Delete { key: b"\x01a" }, Write::Delete { key: b"\x01never" }]);
    assert_eq!(get(engine, b"\x01a"), None);
    apply(engine, 3, &[Write::Delete { key: b"\x01b" }, put(b"\x01b", b"")]);
    assert_eq!(get(engine, b"\x01b"), Some(Vec::new()));
    apply(engine, 9, &[]);
    assert_eq!(engine.applied().expect("applied"), at(9));
}

/// A range takes what lies in it, wherever that is by then, and nothing else; what is written after it stays.
pub fn a_range_is_removed_with_all_in_it(open: Open) {
    let folder = scratch();
    let path = folder.path().join("engine");
    let keys = |from: u16, to: u16| (from..to).map(|number| [&[1], &number.to_be_bytes()[..]].concat());
    let expected: Model = keys(0, 100).chain(keys(201, 300)).map(|key| (key, vec![3; 2000])).collect();
    {
        let engine = open(&path);
        let engine = engine.as_ref();
        for (index, (from, to)) in (1..).zip([(0, 150), (150, 300)]) {
            let written: Vec<_> = keys(from, to).collect();
            let writes: Vec<_> = written.iter().map(|key| put(key, &[3; 2000])).collect();
            apply(engine, index, &writes);
            if index == 1 {
                engine.flush().expect("flush");
            }
        }
        let (start, end) = ([1, 0, 100], [1, 0, 201]);
        let inside = [1, 0, 150];
        let range = |start, end| Write::DeleteRange { start, end };
        apply(engine, 3, &[put(&inside, b"new"), range(&start, &end), range(&end, &start)]);
        for key in [&start, &inside] {
            assert_eq!(get(engine, key), None);
            assert_ne!(engine.get(key, ReadTier::Memory).expect("get"), Lookup::Found(vec![3; 2000].into()));
        }
        assert_eq!(contents(engine), expected);
        apply(engine, 4, &[range(&inside, &inside), put(&inside, b"again")]);
        assert_eq!(get(engine, &inside), Some(b"again".to_vec()));
        apply(engine, 5, &[delete(&inside)]);
        engine.flush().expect("flush");
    }
    assert_eq!(contents(open(&path).as_ref()), expected);
}

/// Applying an entry twice panics and changes nothing.
pub fn the_position_must_grow(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    apply(engine.as_ref(), 5, &[put(b"\x01a", b"1")]);
    for index in [4, 5] {
        let again = std::panic::AssertUnwindSafe(|| apply(engine.as_ref(), index, &[put(b"\x01a", b"2")]));
        assert!(std::panic::catch_unwind(again).is_err());
    }
    assert_eq!(get(engine.as_ref(), b"\x01a"), Some(b"1".to_vec()));
}

/// What was applied before a flush is there after opening again.
pub fn a_flush_makes_everything_durable(open: Open) {
    let folder = scratch();
    let path = folder.path().join("engine");
    {
        let engine = open(&path);
        apply(engine.as_ref(), 1, &[put(b"\x01a", b"1"), put(b"\x00s1", b"session")]);
        apply(engine.as_ref(), 2, &[put(b"\x01b", &[7; 5000])]);
        assert!(engine.applied_durable().expect("durable") <= at(2));
        engine.flush().expect("flush");
        assert_eq!(engine.applied_durable().expect("durable"), at(2));
        apply(engine.as_ref(), 3, &[Write::Delete { key: b"\x01a" }]);
        assert!(engine.applied_durable().expect("durable") >= at(2));
        engine.flush().expect("flush");
    }
    let engine = open(&path);
    assert_eq!(engine.applied().expect("applied"), at(3));
    assert_eq!(engine.applied_durable().expect("durable"), at(3));
    assert_eq!(contents(engine.as_ref()), Model::from([(b"\x01b".to_vec(), vec![7; 5000])]));
    assert_eq!(get(engine.as_ref(), b"\x00s1"), Some(b"session".to_vec()));
}

/// An engine opened again holds what some `apply` left behind, at the position it tells.
pub fn what_is_reopened_is_a_prefix(open: Open) {
    let folder = scratch();
    let path = folder.path().join("engine");
    let mut next = 1;
    for round in 0..4 {
        let durable = {
            let engine = open(&path);
            assert_eq!(engine.applied().expect("applied").index, next - 1);
            for index in next..next + 10 {
                let value = index.to_le_bytes();
                apply(engine.as_ref(), index, &[put(b"\x01last", &value), put(&[1, 1, round], &value)]);
                if index == next + 5 {
                    engine.flush().expect("flush");
                }
            }
            engine.applied_durable().expect("durable")
        };
        assert!(durable.index >= next + 5);
        let engine = open(&path);
        let applied = engine.applied().expect("applied");
        assert!(applied >= durable, "{applied:?} was durable at {durable:?}");
        assert_eq!(get(engine.as_ref(), b"\x01last"), Some(applied.index.to_le_bytes().to_vec()));
        assert_eq!(get(engine.as_ref(), &[1, 1, round]), Some(applied.index.to_le_bytes().to_vec()));
        next = applied.index + 1;
    }
}

/// Ranges, limits of items and of bytes, and whether there is more.
pub fn scans_respect_their_limits(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    let engine = engine.as_ref();
    let keys: Vec<[u8; 3]> = (0..20).map(|n| [1, 0, n]).collect();
    let writes: Vec<_> = keys.iter().map(|key| put(key, &[0; 97])).collect();
    apply(engine, 1, &writes);
    apply(engine, 2, &[put(b"\x00meta", b"hidden"), Write::Delete { key: &keys[4] }]);
    let scan = |start: u8, end: u8, limit, bytes_max| {
        let page = engine.scan(&[1, 0, start], &[1, 0, end], limit, bytes_max).expect("scan");
        (page.items.iter().map(|(key, _)| key[2]).collect::<Vec<_>>(), page.more)
    };
    assert_eq!(scan(2, 7, NO_LIMIT, NO_LIMIT), (vec![2, 3, 5, 6], false));
    assert_eq!(scan(2, 7, 4, NO_LIMIT), (vec![2, 3, 5, 6], false));
    assert_eq!(scan(2, 7, 3, NO_LIMIT), (vec![2, 3, 5], true));
    assert_eq!(scan(2, 7, 0, NO_LIMIT), (vec![], true));
    assert_eq!(scan(2, 7, NO_LIMIT, 200), (vec![2, 3], true));
    assert_eq!(scan(2, 7, NO_LIMIT, 199), (vec![2], true));
    assert_eq!(scan(2, 7, NO_LIMIT, 0), (vec![2], true));
    assert_eq!(scan(7, 7, NO_LIMIT, NO_LIMIT), (vec![], false));
    assert_eq!(scan(7, 2, NO_LIMIT, NO_LIMIT), (vec![], false));
    assert_eq!(scan(18, 255, NO_LIMIT, NO_LIMIT), (vec![18, 19], false));
}

/// A consistent read sees the state as it began, whatever is applied beside it, in both tiers.
pub fn a_consistent_read_sees_nothing_of_what_is_applied_meanwhile(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    apply(engine.as_ref(), 1, &[put(b"\x01a", b"1"), put(b"\x01c", &[3; 4000])]);
    let three = Lookup::Found(vec![3; 4000].into());
    // Called twice it would panic: the position would not grow.
    let mut read = |look: &Look<'_>| {
        let look = |key: &[u8]| look(key, ReadTier::All).expect("a lookup");
        apply(engine.as_ref(), 2, &[put(b"\x01a", b"2"), put(b"\x01b", b"2"), delete(b"\x01c")]);
        assert_eq!(look(b"\x01a"), Lookup::Found("1".into()));
        assert_eq!(look(b"\x01b"), Lookup::Missing);
        assert_eq!(look(b"\x01c"), three);
    };
    engine.read_consistently(&mut read).expect("a view");
    let mut later = Lookup::NotInMemory;
    let mut read = |look: &Look<'_>| later = look(b"\x01c", ReadTier::All).expect("a lookup");
    engine.read_consistently(&mut read).expect("a view");
    assert_eq!(later, Lookup::Missing);
}

/// A read of memory finds the value or says that it cannot tell.
pub fn memory_reads_never_lie(open: Open) {
    let folder = scratch();
    let path = folder.path().join("engine");
    let big = vec![9; 4000];
    {
        let engine = open(&path);
        apply(engine.as_ref(), 1, &[put(b"\x01small", b"1"), put(b"\x01big", &big)]);
        let fresh = engine.get(b"\x01big", ReadTier::Memory).expect("get");
        assert_eq!(fresh, Lookup::Found(big.clone().into()), "what was just written is in memory");
        engine.flush().expect("flush");
    }
    let engine = open(&path);
    for (key, value) in [(b"\x01small".as_slice(), b"1".as_slice()), (b"\x01big", &big)] {
        let cold = engine.get(key, ReadTier::Memory).expect("get");
        assert!(cold == Lookup::NotInMemory || cold == Lookup::Found(value.to_vec().into()), "{cold:?}");
        assert_eq!(get(engine.as_ref(), key).as_deref(), Some(value));
        let warm = engine.get(key, ReadTier::Memory).expect("get");
        assert_eq!(warm, Lookup::Found(value.to_vec().into()), "what was just read is in memory");
    }
}

/// A value read stays whole while the engine moves on, and when it is gone.
pub fn values_outlive_what_they_came_from(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    let big = vec![5; 100_000];
    apply(engine.as_ref(), 1, &[put(b"\x01a", &big), put(b"\x01b", &big)]);
    let from_memtable = engine.get(b"\x01a", ReadTier::All).expect("get");
    engine.flush().expect("flush");
    let from_disk = engine.get(b"\x01b", ReadTier::All).expect("get");
    let from_cache = engine.get(b"\x01b", ReadTier::All).expect("get");
    apply(engine.as_ref(), 2, &[put(b"\x01a", b""), Write::Delete { key: b"\x01b" }]);
    engine.flush().expect("flush");
    engine.destroy().expect("destroy");
    drop(engine);
    for value in [from_memtable, from_disk, from_cache] {
        assert_eq!(value, Lookup::Found(big.clone().into()));
    }
}

/// A checkpoint replaces everything, the position too, and is consumed.
pub fn a_checkpoint_is_installed_whole(open: Open) {
    let folder = scratch();
    let (source_path, target_path) = (folder.path().join("source"), folder.path().join("target"));
    let copy = folder.path().join("copy");
    let source = open(&source_path);
    apply(source.as_ref(), 7, &[put(b"\x01a", b"source"), put(b"\x01big", &[1; 9000])]);
    apply(source.as_ref(), 8, &[put(b"\x00s1", b"session")]);
    assert_eq!(source.create_checkpoint(&copy).expect("checkpoint"), at(8));
    apply(source.as_ref(), 9, &[put(b"\x01a", b"later"), put(b"\x01late", b"")]);
    {
        let target = open(&target_path);
        apply(target.as_ref(), 3, &[put(b"\x01a", b"target"), put(b"\x01old", b"")]);
        let held = target.get(b"\x01a", ReadTier::All).expect("get");
        assert_eq!(target.install_checkpoint(&copy).expect("install"), at(8));
        assert!(!copy.exists(), "a checkpoint is consumed");
        assert_eq!(held, Lookup::Found("target".into()));
        assert_eq!(target.applied().expect("applied"), at(8));
        assert_eq!(target.applied_durable().expect("durable"), at(8));
        apply(target.as_ref(), 9, &[put(b"\x01new", b"")]);
        target.flush().expect("flush");
    }
    let target = open(&target_path);
    assert_eq!(target.applied().expect("applied"), at(9));
    let expected = [(&b"\x01a"[..], b"source".to_vec()), (b"\x01big", vec![1; 9000]), (b"\x01new", vec![])];
    assert_eq!(contents(target.as_ref()), expected.map(|(key, value)| (key.to_vec(), value)).into());
    assert_eq!(get(target.as_ref(), b"\x00s1"), Some(b"session".to_vec()));
    assert_eq!(get(source.as_ref(), b"\x01a"), Some(b"later".to_vec()), "the source goes on");
}

/// No folder is written over, and an engine may go back to a checkpoint of its own.
pub fn a_checkpoint_keeps_its_place(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    apply(engine.as_ref(), 1, &[put(b"\x01a", b"1")]);
    let copy = folder.path().join("copy");
    engine.create_checkpoint(&copy).expect("checkpoint");
    assert!(engine.create_checkpoint(&copy).is_err(), "an existing folder is not written over");
    let nowhere = folder.path().join("missing/copy");
    assert!(engine.create_checkpoint(&nowhere).is_err(), "the parent must exist");
    // Going back to an own older checkpoint works too: it is the checkpoint that counts.
    apply(engine.as_ref(), 2, &[put(b"\x01a", b"2")]);
    assert_eq!(engine.install_checkpoint(&copy).expect("install"), at(1));
    assert_eq!(get(engine.as_ref(), b"\x01a"), Some(b"1".to_vec()));
    apply(engine.as_ref(), 2, &[put(b"\x01a", b"2 again")]);
    assert_eq!(get(engine.as_ref(), b"\x01a"), Some(b"2 again".to_vec()));
}

/// What is no checkpoint is refused, and the engine is as it was.
pub fn a_bad_checkpoint_changes_nothing(open: Open) {
    let folder = scratch();
    let path = folder.path().join("engine");
    let engine = open(&path);
    apply(engine.as_ref(), 4, &[put(b"\x01a", b"1")]);
    engine.flush().expect("flush");
    let bad = folder.path().join("bad");
    std::fs::create_dir(&bad).expect("a folder");
    std::fs::write(bad.join("garbage"), b"garbage").expect("a file");
    for path in [bad.clone(), folder.path().join("missing")] {
        let error = engine.install_checkpoint(&path).expect_err("not a checkpoint");
        assert!(matches!(error, OpenError::Foreign { .. } | OpenError::Corrupt { .. }), "{error}");
    }
    assert_eq!(get(engine.as_ref(), b"\x01a"), Some(b"1".to_vec()));
    drop(engine);
    let engine = open(&path);
    assert_eq!(engine.applied().expect("applied"), at(4));
    assert_eq!(get(engine.as_ref(), b"\x01a"), Some(b"1".to_vec()));
}

/// A checkpoint taken while a writer runs is what one `apply` left behind.
pub fn a_checkpoint_beside_writes_is_consistent(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut index = 0_u64;
            while !stop.load(Ordering::Relaxed) && index < 100_000 {
                index += 1;
                let value = index.to_le_bytes();
                apply(engine.as_ref(), index, &[put(b"\x01first", &value), put(b"\x01second", &value)]);
            }
        });
        for round in 0..5 {
            let before = engine.applied().expect("applied");
            let copy = folder.path().join(format!("copy-{round}"));
            let position = engine.create_checkpoint(&copy).expect("checkpoint");
            assert!(position >= before);
            let other = open(&folder.path().join(format!("other-{round}")));
            assert_eq!(other.install_checkpoint(&copy).expect("install"), position);
            let expected = (position.index > 0).then(|| position.index.to_le_bytes().to_vec());
            assert_eq!(get(other.as_ref(), b"\x01first"), expected);
            assert_eq!(get(other.as_ref(), b"\x01second"), expected);
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer");
    });
}

/// Looking into a checkpoint changes not a byte of it.
pub fn a_checkpoint_is_looked_into_and_left_as_it_is(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    apply(engine.as_ref(), 3, &[put(b"\x00m", b"members"), put(b"\x01a", &[7; 3000])]);
    let copy = folder.path().join("copy");
    engine.create_checkpoint(&copy).expect("checkpoint");
    apply(engine.as_ref(), 4, &[put(b"\x00m", b"others")]);
    let files = || -> Model {
        let entries = std::fs::read_dir(&copy).expect("the checkpoint").map(|entry| entry.expect("an entry"));
        let read = |entry: std::fs::DirEntry| {
            let bytes = std::fs::read(entry.path()).expect("a file");
            (entry.file_name().into_encoded_bytes(), bytes)
        };
        entries.map(read).collect()
    };
    let before = files();
    for _ in 0..2 {
        let (position, members) = engine.read_checkpoint(&copy, b"\x00m").expect("look");
        assert_eq!((position, members.as_deref()), (at(3), Some(b"members".as_slice())));
        let (_, value) = engine.read_checkpoint(&copy, b"\x01a").expect("look");
        assert_eq!(value.as_deref(), Some([7; 3000].as_slice()));
        assert_eq!(engine.read_checkpoint(&copy, b"\x01b").expect("look"), (at(3), None));
    }
    assert!(files() == before);
    let missing = folder.path().join("missing");
    assert!(engine.read_checkpoint(&missing, b"").is_err());
    assert!(!missing.exists());
}

/// After an install no cache answers with what was before.
pub fn an_install_leaves_nothing_old_in_memory(open: Open) {
    let folder = scratch();
    let target = open(&folder.path().join("target"));
    let keys: Vec<[u8; 2]> = (0..20).map(|n| [1, n]).collect();
    let values = |fill: u8, len: usize| keys.iter().map(|_| vec![fill; len]).collect::<Vec<_>>();
    for round in 1..6_u8 {
        // Engines of the same history name and number their files alike, and the caches are shared.
        for (engine, fill) in
            [(&target, round), (&open(&folder.path().join(format!("source-{round}"))), 100 + round)]
        {
            for (index, len) in [(1, 100), (2, 5000)] {
                let values = values(fill, len);
                let writes: Vec<_> = keys.iter().zip(&values).map(|(key, value)| put(key, value)).collect();
                let next = engine.applied().expect("applied").index + index;
                apply(engine.as_ref(), next, &writes);
                engine.flush().expect("flush");
            }
            for key in &keys {
                assert_eq!(get(engine.as_ref(), key), Some(vec![fill; 5000]));
            }
            if fill > 100 {
                let copy = folder.path().join("copy");
                let position = engine.create_checkpoint(&copy).expect("checkpoint");
                assert_eq!(target.install_checkpoint(&copy).expect("install"), position);
            }
        }
        let new = || vec![100 + round; 5000];
        for key in &keys {
            let found = target.get(key, ReadTier::Memory).expect("get");
            assert!(found == Lookup::NotInMemory || found == Lookup::Found(new().into()));
            assert_eq!(get(target.as_ref(), key), Some(new()));
        }
        assert!(contents(target.as_ref()).into_values().all(|value| value == new()));
    }
}

/// Readers see the old state or the new one, never both.
pub fn readers_beside_an_install_see_one_state(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    let keys: [&[u8]; 3] = [b"\x01a", b"\x01b", b"\x01c"];
    let fill = |engine: &dyn StorageEngine, index: u64| {
        let value = index.to_le_bytes().repeat(300);
        let small = &value[..8];
        apply(engine, index, &[put(keys[0], &value), put(keys[1], small), put(keys[2], &value)]);
    };
    fill(engine.as_ref(), 1);
    let stop = AtomicBool::new(false);
    let one_state = |values: Vec<Vec<u8>>| {
        let heads: Vec<_> = values.iter().map(|value| &value[..8]).collect();
        assert!(heads.len() == 3 && heads.windows(2).all(|pair| pair[0] == pair[1]), "a mixture: {heads:?}");
    };
    let read = |read: &dyn Fn() -> Result<Vec<Vec<u8>>, StoreError>| {
        while !stop.load(Ordering::Relaxed) {
            match read() {
                Ok(values) => one_state(values),
                Err(error) => assert!(matches!(error, StoreError::Destroyed { .. }), "{error}"),
            }
        }
    };
    let by_scan = || -> Result<Vec<Vec<u8>>, StoreError> {
        let page = engine.scan(ALL.0, ALL.1, NO_LIMIT, NO_LIMIT)?;
        Ok(page.items.into_iter().map(|(_, value)| value.to_vec()).collect())
    };
    let by_key = || -> Result<Vec<Vec<u8>>, StoreError> {
        let mut found = Ok(Vec::new());
        let mut all = |look: &Look<'_>| found = keys.iter().map(|key| look(key, ReadTier::All)).collect();
        engine.read_consistently(&mut all)?;
        let value = |lookup| match lookup {
            Lookup::Found(value) => value.to_vec(),
            other => panic!("{other:?}"),
        };
        found.map(|found: Vec<Lookup>| found.into_iter().map(value).collect())
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(|| read(&by_scan)), scope.spawn(|| read(&by_key))];
        for index in 2..10 {
            let source = open(&folder.path().join(format!("source-{index}")));
            fill(source.as_ref(), index);
            let copy = folder.path().join("copy");
            source.create_checkpoint(&copy).expect("checkpoint");
            engine.install_checkpoint(&copy).expect("install");
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("a reader");
        }
    });
    one_state(by_scan().expect("scan"));
}

/// Every call on a destroyed engine says so, and its place is empty.
pub fn a_destroyed_engine_is_gone(open: Open) {
    let folder = scratch();
    let path = folder.path().join("engine");
    let engine = open(&path);
    apply(engine.as_ref(), 1, &[put(b"\x01a", b"1")]);
    engine.flush().expect("flush");
    engine.destroy().expect("destroy");
    let gone = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Destroyed { .. })));
    gone(engine.apply(&WriteSet { applied: at(2), writes: &[] }));
    gone(engine.get(b"\x01a", ReadTier::Memory).map(drop));
    gone(engine.read_consistently(&mut |_| ()));
    gone(engine.scan(ALL.0, ALL.1, 1, 1).map(drop));
    gone(engine.applied().map(drop));
    gone(engine.applied_durable().map(drop));
    gone(engine.create_checkpoint(&folder.path().join("copy")).map(drop));
    gone(engine.flush());
    gone(engine.stats().map(drop));
    gone(engine.destroy());
    // Even while the handle of the old one is still around.
    let again = open(&path);
    assert_eq!(again.applied().expect("applied"), Applied::default());
    assert!(contents(again.as_ref()).is_empty());
}

/// A scan beside a writer sees each set of writes whole or not at all.
pub fn readers_beside_a_writer_see_whole_batches(open: Open) {
    let folder = scratch();
    let engine = open(&folder.path().join("engine"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(Ordering::Relaxed) {
                let before = engine.applied().expect("applied").index;
                let page = engine.scan(ALL.0, ALL.1, NO_LIMIT, NO_LIMIT).expect("scan");
                let values: Vec<u64> = page
                    .items
                    .iter()
                    .map(|(_, value)| u64::from_le_bytes(value[..8].try_into().expect("8 bytes")))
                    .collect();
                assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "half a batch: {values:?}");
                let now = values.first().copied().unwrap_or(0);
                assert!(now >= before && now >= seen, "{now} after {before} and {seen}");
                seen = now;
            }
        });
        for index in 1..=2000_u64 {
            let value = index.to_le_bytes().repeat(200);
            apply(engine.as_ref(), index, &[put(b"\x01a", &value), put(b"\x01b", &value[..8])]);
            if index % 500 == 0 {
                engine.flush().expect("flush");
            }
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("the reader");
    });
}
