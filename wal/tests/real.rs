//! The same log on real files, through io_uring and direct I/O, and through the page cache.

#[path = "support/model.rs"]
mod model;
#[macro_use]
#[path = "support/rig.rs"]
mod rig;

use std::fs;
use std::os::unix::fs::FileExt;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use model::{Command, Model, Streams, payload};
use rig::{Rig, folder};
use wal::disk::{Io, OpenError, RealDisk};
use wal::{BLOCK, Entry, RecoveryError, RecoveryMode, StreamId, StreamState, WalConfig};

over_both! {
    entries_survive_restarts_recycling_and_come_back_from_disk
    a_batch_cut_short_on_disk_is_dropped_and_what_was_acknowledged_before_it_stays
    a_flipped_bit_in_acknowledged_records_is_reported_and_quarantine_drops_only_the_touched
    a_folder_admits_one_process_and_only_its_own_node
}

fn executor() -> LocalExecutor {
    LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor")
}

fn small() -> WalConfig {
    WalConfig {
        segment_bytes: 16 * BLOCK,
        batch_bytes_max: 16 << 10,
        payload_bytes_max: 20_000,
        pool_min: 2,
        pool_max: 3,
        cache_bytes_max: 20_000,
        ..WalConfig::new(1, 0)
    }
}

fn entry(stream: u64, index: u64, len: usize) -> Command {
    Command::Append(Entry { index, term: 1, kind: 3, payload: payload(StreamId(stream), index, 1, len) })
}

fn entries_survive_restarts_recycling_and_come_back_from_disk(io: Io) {
    let dir = folder();
    executor().run(async {
        let mut model = Model::default();
        for round in 0..4_u64 {
            let mut rig = Rig::open(dir.path(), &small(), io).await.expect("a sound folder");
            rig.assert_holds(&model.now).await;
            for index in 1..=60_u64 {
                let index = round * 60 + index;
                let len = usize::try_from(index * 97 % 9000).unwrap();
                model.give(&mut rig.wal.borrow_mut(), StreamId(1), entry(1, index, len));
                model.give(&mut rig.wal.borrow_mut(), StreamId(2), entry(2, index, 100));
                let state = StreamState { term: index, vote: 2, commit: index - 1 };
                model.give(&mut rig.wal.borrow_mut(), StreamId(2), Command::State(state));
                if index % 10 == 0 {
                    for stream in [StreamId(1), StreamId(2)] {
                        let compact = Command::Compact { index: index - 5, term: 1 };
                        model.give(&mut rig.wal.borrow_mut(), stream, compact);
                    }
                }
                if index % 3 == 0 {
                    rig.settle().await;
                }
            }
            rig.settle().await;
            rig.assert_holds(&model.now).await;
        }
        let files = fs::read_dir(dir.path()).expect("the folder").count();
        assert!(files < 14, "segments are recycled: {files} files");
    });
}

fn a_batch_cut_short_on_disk_is_dropped_and_what_was_acknowledged_before_it_stays(io: Io) {
    let dir = folder();
    executor().run(async {
        let mut model = Model::default();
        let mut rig = Rig::open(dir.path(), &small(), io).await.expect("a new folder");
        let mut acknowledged = Streams::new();
        let mut last = None;
        for index in 1..=4 {
            acknowledged = model.now.clone();
            model.give(&mut rig.wal.borrow_mut(), StreamId(1), entry(1, index, 5000));
            last = rig.settle().await;
        }
        drop(rig);
        let last = last.expect("a batch was written");
        let path = dir.path().join(wal::file_name(last.segment));
        let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("the segment");
        // Every sector boundary of the last write, from its end backwards: what a torn write leaves.
        for cut in (0..last.len_bytes / 512).rev().map(|sector| sector * 512) {
            let zeros = vec![0; last.len_bytes - cut];
            file.write_all_at(&zeros, last.offset_bytes + u64::try_from(cut).unwrap()).expect("damage");
            file.sync_all().expect("damage on disk");
            let mut rig = Rig::open(dir.path(), &small(), io).await.expect("a torn tail is not damage");
            let whole = cut >= last.records_end;
            rig.assert_holds(if whole { &model.now } else { &acknowledged }).await;
        }
    });
}

fn a_flipped_bit_in_acknowledged_records_is_reported_and_quarantine_drops_only_the_touched(io: Io) {
    let dir = folder();
    executor().run(async {
        let mut model = Model::default();
        let mut rig = Rig::open(dir.path(), &small(), io).await.expect("a new folder");
        model.give(&mut rig.wal.borrow_mut(), StreamId(1), entry(1, 1, 50));
        let first = rig.settle().await.expect("a batch");
        model.give(&mut rig.wal.borrow_mut(), StreamId(2), entry(2, 1, 50));
        rig.settle().await;
        model.give(&mut rig.wal.borrow_mut(), StreamId(2), entry(2, 2, 50));
        rig.settle().await;
        drop(rig);
        let name = wal::file_name(first.segment);
        let file = fs::OpenOptions::new().read(true).write(true).open(dir.path().join(&name)).expect("it");
        let at = first.offset_bytes + 130;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 1], at).expect("damage");
        file.sync_all().expect("damage on disk");
        match RealDisk::open(dir.path(), &small(), io).await.map(|_| ()) {
            Err(OpenError::Recovery(RecoveryError::Corrupt { file, offset, .. })) => {
                assert_eq!((file, offset), (name, first.offset_bytes + 80));
            }
            other => panic!("damage went unnoticed: {other:?}"),
        }
        let lenient = WalConfig { recovery_mode: RecoveryMode::Quarantine, ..small() };
        let mut rig = Rig::open(dir.path(), &lenient, io).await.expect("quarantine opens");
        model.now.remove(&StreamId(1));
        rig.settle().await;
        rig.assert_holds(&model.now).await;
        assert_eq!(rig.wal.borrow().lost().collect::<Vec<_>>(), [StreamId(1)]);
        drop(rig);
        let mut rig = Rig::open(dir.path(), &lenient, io).await.expect("quarantine opens");
        let successor = StreamId(3 << 20 | 1);
        model.give(&mut rig.wal.borrow_mut(), successor, Command::Reset { index: 0, term: 0 });
        rig.wal.borrow_mut().remove(StreamId(1));
        rig.wal.borrow_mut().mend();
        rig.settle().await;
        drop(rig);
        let mut rig =
            Rig::open(dir.path(), &small(), io).await.expect("damage that was dealt with is no damage");
        rig.assert_holds(&model.now).await;
    });
}

fn a_folder_admits_one_process_and_only_its_own_node(io: Io) {
    let dir = folder();
    executor().run(async {
        let mut rig = Rig::open(dir.path(), &small(), io).await.expect("a new folder");
        rig.wal.borrow_mut().append(StreamId(1), &[]);
        rig.settle().await;
        match RealDisk::open(dir.path(), &small(), io).await.map(|_| ()) {
            Err(OpenError::Locked { .. }) => {}
            other => panic!("opened twice: {other:?}"),
        }
        drop(rig);
        let stranger = WalConfig { node_id: 2, ..small() };
        match RealDisk::open(dir.path(), &stranger, io).await.map(|_| ()) {
            Err(OpenError::Recovery(RecoveryError::Foreign { found_node: 1, node: 2, .. })) => {}
            other => panic!("a stranger's log was opened: {other:?}"),
        }
        fs::write(dir.path().join("00000000000000ff.tmp"), b"half made").expect("a leftover");
        drop(Rig::open(dir.path(), &small(), io).await.expect("leftovers are cleared"));
        assert!(!dir.path().join("00000000000000ff.tmp").exists());
    });
}

#[test]
fn what_one_way_of_writing_leaves_the_other_goes_on_with() {
    let dir = folder();
    executor().run(async {
        let mut model = Model::default();
        for round in 0..6_u64 {
            let io = if round % 2 == 0 { Io::Direct } else { Io::Buffered };
            let mut rig = Rig::open(dir.path(), &small(), io).await.expect("a sound folder");
            rig.assert_holds(&model.now).await;
            for index in round * 30 + 1..=round * 30 + 30 {
                model.give(&mut rig.wal.borrow_mut(), StreamId(1), entry(1, index, 4000));
                if index % 10 == 0 {
                    let compact = Command::Compact { index: index - 5, term: 1 };
                    model.give(&mut rig.wal.borrow_mut(), StreamId(1), compact);
                    rig.settle().await;
                }
            }
            rig.settle().await;
            rig.assert_holds(&model.now).await;
        }
    });
}

#[test]
fn a_file_system_in_memory_is_refused_unless_writes_are_buffered() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    executor().run(async {
        match RealDisk::open(dir.path(), &small(), Io::Direct).await.map(|_| ()) {
            Err(err @ OpenError::NoDirectIo { .. }) => {
                let text = err.to_string();
                assert!(text.contains("ext4") && text.contains("wal.io = \"buffered\""), "{text}");
            }
            other => panic!("a volatile folder was accepted: {other:?}"),
        }
        let mut model = Model::default();
        for index in 1..=50 {
            let mut rig = Rig::open(dir.path(), &small(), Io::Buffered).await.expect("a folder");
            model.give(&mut rig.wal.borrow_mut(), StreamId(1), entry(1, index, 3000));
            rig.settle().await;
            rig.assert_holds(&model.now).await;
        }
    });
}

/// A limit on the size of a file stands in for a disk that fails: nothing may be reported durable after a failure.
#[test]
fn after_a_failed_write_none_is_reported_durable() {
    let dir = folder();
    executor().run(async {
        let mut rig = Rig::open(dir.path(), &small(), Io::Buffered).await.expect("a new folder");
        rig.wal.borrow_mut().append(StreamId(1), &[]);
        rig.settle().await;
        let mut batches = Vec::new();
        for index in 1..=2 {
            rig.wal.borrow_mut().append(StreamId(1), &[plain_entry(index)]);
            batches.push(rig.wal.borrow_mut().poll_write().expect("a batch"));
        }
        // The file of the first batch cannot be written where the batch belongs.
        batches[0].offset_bytes = i64::MAX as u64 / 4096 * 4096;
        let first = rig.disk.write(batches.remove(0)).await.expect_err("no file is that long");
        assert!(first.to_string().contains(".wal: writing batch"), "{first}");
        let second = rig.disk.write(batches.remove(0)).await.expect_err("the log has failed");
        assert_eq!(second.to_string(), first.to_string());
    });
}

fn plain_entry(index: u64) -> Entry {
    Entry { index, term: 1, kind: 3, payload: payload(StreamId(1), index, 1, 100) }
}
