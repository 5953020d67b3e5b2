//! Snapshots taken, kept, sent and installed, over every engine that can be opened again; `crash` stops at every file
//! operation of each.

mod crash;
mod space;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use raft::{ConfChange, ConfChangeStep, ConfState, EntryKind, Index, NodeId, SnapshotMeta};

use super::*;
use crate::command::{Expected, KeyPlace, Mutation, NewValue, Session, encode};
use crate::machine::{Machine, MachineEntry};
use crate::store::{MemEngine, RocksConfig, RocksEngine, RocksShared, StorageEngine, files};

const SHARD: u32 = 7;
const PLACE: KeyPlace = KeyPlace { namespace: 0, slot: 42 };

type Open = fn(&Path) -> Arc<dyn StorageEngine>;

fn open_mem(folder: &Path) -> Arc<dyn StorageEngine> {
    Arc::new(MemEngine::open(folder).expect("open"))
}

fn open_rocks(folder: &Path) -> Arc<dyn StorageEngine> {
    static SHARED: LazyLock<RocksShared> = LazyLock::new(|| {
        let config = RocksConfig {
            block_cache_bytes: 4 << 20,
            blob_cache_bytes: 4 << 20,
            memtables_bytes: 1 << 20,
            memtable_bytes: 64 << 10,
            ..RocksConfig::default()
        };
        RocksShared::new(config).expect("the shared parts")
    });
    Arc::new(RocksEngine::open(folder, &SHARED).expect("open"))
}

const ENGINES: [Open; 2] = [open_mem, open_rocks];

fn founders() -> ConfState {
    ConfState { voters: [1, 2, 3].map(NodeId).to_vec(), ..ConfState::default() }
}

/// A replica's folder with all that lies in it.
struct Replica {
    folder: tempfile::TempDir,
    open: Open,
    machine: Option<Machine>,
    library: Library,
}

impl Replica {
    fn new(open: Open) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machine = Some(open_machine(open, folder.path()));
        let library = Library::open(folder.path(), SHARD).expect("a library");
        Self { folder, open, machine, library }
    }

    /// As after a restart of the process.
    fn reopen(&mut self) {
        self.machine = None;
        self.machine = Some(open_machine(self.open, self.folder.path()));
        self.library = Library::open(self.folder.path(), SHARD).expect("a library");
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("it is open")
    }

    fn engine(&self) -> Arc<dyn StorageEngine> {
        Arc::clone(self.machine.as_ref().expect("it is open").engine())
    }

    /// Applies the entries of the log up to and including `last`.
    fn apply_to(&mut self, last: u64) {
        let machine = self.machine();
        for index in machine.applied().index + 1..=last {
            machine.apply(&[log_entry(index)]).expect("apply");
        }
    }

    fn take(&self) -> PinnedSnapshot {
        self.library.take(self.engine().as_ref(), &founders(), TakenTo::Keep, &|_| ()).expect("a snapshot")
    }

    fn indexes(&self) -> Vec<u64> {
        self.library.list().iter().map(|meta| meta.index.0).collect()
    }

    /// Installs, and opens the machine anew as its owner must.
    fn install(&mut self, place: &Path) -> Result<SnapshotMeta, InstallError> {
        let engine = self.engine();
        let meta = self.library.install(engine.as_ref(), place)?;
        self.machine = Some(Machine::open(engine, meta.conf_state.clone()).expect("a machine"));
        Ok(meta)
    }

    /// Everything the engine holds, the machine's own records included, and what the machine knows.
    fn everything(&self) -> (Vec<(bytes::Bytes, bytes::Bytes)>, ConfState, u64, usize) {
        let machine = self.machine.as_ref().expect("it is open");
        let page = machine.engine().scan(&[], &[0xff], usize::MAX, usize::MAX).expect("scan");
        (page.items, machine.conf_state().clone(), machine.clock_ms(), machine.session_count())
    }
}

fn open_machine(open: Open, folder: &Path) -> Machine {
    Machine::open(open(&folder.join("store")), founders()).expect("a machine")
}

/// The log of every test: writes of all kinds and sizes, sessions, and now and then a membership change.
fn log_entry(index: u64) -> MachineEntry {
    let entry =
        |kind, payload| MachineEntry { index, term: index / 10 + 1, kind, payload, want_outcome: false };
    let learner = NodeId((5 << 20) | 4);
    match index % 20 {
        7 => {
            return entry(
                EntryKind::ConfChange,
                ConfChange { steps: vec![ConfChangeStep::AddLearner(learner)] }.encode(),
            );
        }
        17 => {
            return entry(
                EntryKind::ConfChange,
                ConfChange { steps: vec![ConfChangeStep::Remove(learner)] }.encode(),
            );
        }
        0 => return entry(EntryKind::Noop, bytes::Bytes::new()),
        _ => {}
    }
    let key = format!("key{}", index * 7 % 23);
    let value = index.to_le_bytes().repeat(if index.is_multiple_of(3) { 300 } else { 4 });
    let mutation = match index % 5 {
        1 => Mutation::Delete { place: PLACE, key: key.as_bytes() },
        2 => Mutation::CompareAndSwap {
            place: PLACE,
            key: key.as_bytes(),
            expected: Expected::Absent,
            new: Some(NewValue { data: &value, flags: 1, expiry_ms: index + 9 }),
        },
        _ => Mutation::Put { place: PLACE, key: key.as_bytes(), value: NewValue::plain(&value) },
    };
    let session = Session { client: index % 4, sequence: index, acked_below: index.saturating_sub(30) };
    let payload = encode(index, index, index.is_multiple_of(2).then_some(session), &[mutation]);
    entry(EntryKind::Normal, payload)
}

/// Sends in small pieces what the receiver does not hold, but at most `pieces` of them.
fn send(snapshot: &PinnedSnapshot, incoming: &mut Incoming, pieces: usize) -> Result<(), ReceiveError> {
    let mut left = pieces;
    for (file, held) in incoming.held().into_iter().enumerate() {
        let bytes = std::fs::read(snapshot.path(file)).expect("a file of the snapshot");
        let mut offset = usize::try_from(held).expect("64-bit machine");
        while offset < bytes.len() {
            if left == 0 {
                return Ok(());
            }
            left -= 1;
            let end = bytes.len().min(offset + 1500);
            incoming.write(file, u64::try_from(offset).expect("64-bit machine"), &bytes[offset..end])?;
            offset = end;
        }
    }
    Ok(())
}

fn receive_all(snapshot: &PinnedSnapshot, library: &Library) -> Result<PathBuf, ReceiveError> {
    let mut incoming = library.receive(snapshot.manifest().clone(), 0)?;
    send(snapshot, &mut incoming, usize::MAX)?;
    incoming.finish()
}

/// The folder of what has arrived.
fn partly_received(follower: &Replica) -> PathBuf {
    let incoming = follower.folder.path().join("incoming");
    incoming.join(&files::names(&incoming).expect("names")[0])
}

#[test]
fn the_newest_are_kept_and_what_is_lent_stays() {
    for open in ENGINES {
        let mut replica = Replica::new(open);
        let nothing = replica.library.take(replica.engine().as_ref(), &founders(), TakenTo::Keep, &|_| ());
        assert!(matches!(nothing, Err(TakeError::Empty)));
        replica.apply_to(6);
        let first = replica.take();
        assert_eq!(
            first.manifest().meta,
            SnapshotMeta { index: Index(6), term: raft::Term(1), conf_state: founders() }
        );
        assert_eq!(replica.take().manifest(), first.manifest(), "nothing was applied since");
        replica.apply_to(15);
        let learners = replica.take().manifest().meta.conf_state.learners.clone();
        assert_eq!(learners, [NodeId((5 << 20) | 4)]);
        replica.apply_to(25);
        drop(replica.take());
        assert_eq!(replica.indexes(), [6, 15, 25]);
        assert_eq!(replica.library.pin(Index(25)).expect("it is there").manifest().meta.index, Index(25));
        assert!(replica.library.pin(Index(26)).is_none());
        replica.library.prune(1).expect("prune");
        assert_eq!(replica.indexes(), [6, 25], "what is lent stays");
        assert!((0..first.manifest().files.len()).all(|file| first.path(file).exists()));
        drop(first);
        replica.reopen();
        assert_eq!(replica.indexes(), [6, 25]);
        replica.library.prune(1).expect("prune");
        assert_eq!(replica.indexes(), [25]);
        let newest = replica.take();
        replica.library.discard(&newest).expect("discard");
        assert!(replica.indexes().is_empty());
        drop(newest);
        drop(replica.take());
        assert_eq!(files::names(&replica.folder.path().join("snapshots")).expect("names").len(), 1);
    }
}

#[test]
fn a_file_that_an_older_snapshot_holds_is_not_read_again() {
    let mut replica = Replica::new(open_rocks);
    replica.apply_to(30);
    let first = replica.take();
    let at =
        first.manifest().files.iter().position(|file| file.name.ends_with(".blob")).expect("large values");
    let mut bytes = std::fs::read(first.path(at)).expect("the file");
    bytes[20] ^= 1;
    std::fs::write(first.path(at), &bytes).expect("write");
    replica.apply_to(31);
    let second = replica.take();
    let listed = second.manifest().files.iter().find(|file| file.name == first.manifest().files[at].name);
    assert_eq!(listed, Some(&first.manifest().files[at]), "summed when it was first seen");
    // What changed since is noticed by whoever receives it, and a new snapshot sums everything anew.
    let receiver = Replica::new(open_rocks);
    let error = receive_all(&second, &receiver.library).expect_err("a changed file");
    assert!(matches!(error, ReceiveError::Checksum { .. }), "{error}");
    replica.library.discard(&first).expect("discard");
    replica.library.discard(&second).expect("discard");
    let third = replica.take();
    assert_ne!(third.manifest().files, second.manifest().files);
}

#[test]
fn what_is_not_a_whole_snapshot_is_removed() {
    let mut replica = Replica::new(open_mem);
    let damages: [fn(&Path); 4] = [
        |folder| std::fs::remove_file(folder.join("data/image")).expect("remove"),
        // Another file under the name: the one that was there is the engine's too.
        |folder| {
            std::fs::remove_file(folder.join("data/image")).expect("remove");
            std::fs::write(folder.join("data/image"), b"short").expect("write");
        },
        |folder| std::fs::write(folder.join("MANIFEST"), b"{}\ncrc32c 00000000\n").expect("write"),
        |folder| std::fs::rename(folder, folder.with_file_name("00000000000000000009-1")).expect("rename"),
    ];
    for (at, damage) in (1..).zip(damages) {
        replica.apply_to(at);
        let snapshot = replica.take();
        let folder = snapshot.path(0).parent().and_then(Path::parent).expect("its folder").to_owned();
        drop(snapshot);
        damage(&folder);
        for leftover in ["draft", "gone-1", "00000000000000000003"] {
            let leftover = replica.folder.path().join("snapshots").join(leftover);
            std::fs::create_dir_all(leftover.join("data")).expect("a folder");
        }
        replica.reopen();
        assert!(replica.indexes().is_empty());
        assert!(files::names(&replica.folder.path().join("snapshots")).expect("names").is_empty());
    }
    drop(replica.take());
    let other = Library::open(replica.folder.path(), SHARD + 1).expect("a library");
    assert!(other.newest().is_none(), "another shard's");
}

#[test]
fn a_snapshot_installed_equals_the_log_replayed() {
    for open in ENGINES {
        let mut leader = Replica::new(open);
        for (taken_at, behind_at, end) in [(15, 0, 15), (38, 12, 60), (61, 60, 61), (120, 3, 170)] {
            leader.apply_to(taken_at);
            let snapshot = leader.take();
            let mut follower = Replica::new(open);
            follower.apply_to(behind_at);
            let place = receive_all(&snapshot, &follower.library).expect("received");
            let meta = follower.install(&place).expect("installed");
            assert_eq!(meta, snapshot.manifest().meta);
            assert!(!place.exists());
            assert_eq!(follower.engine().applied_durable().expect("durable").index, taken_at);
            assert_eq!(follower.everything(), leader.everything());
            // Both go on; the follower through a restart, with the sessions, the clock and the members it was given.
            leader.apply_to(end);
            follower.reopen();
            assert_eq!(follower.machine().applied().index, taken_at);
            follower.apply_to(end);
            assert_eq!(follower.everything(), leader.everything());
        }
    }
}

#[test]
fn a_transfer_is_resumed_where_it_stopped() {
    for open in ENGINES {
        let mut leader = Replica::new(open);
        leader.apply_to(55);
        let snapshot = leader.take();
        let mut follower = Replica::new(open);
        let mut before = 0;
        for round in 0.. {
            let mut incoming = follower.library.receive(snapshot.manifest().clone(), 0).expect("receive");
            let held = incoming.held().iter().sum::<u64>();
            assert!(held >= before, "{held} held, {before} before");
            before = held;
            if held == snapshot.manifest().bytes() {
                assert!(round > 2);
                break;
            }
            send(&snapshot, &mut incoming, 3).expect("send");
            before += incoming.held().iter().sum::<u64>() - before;
            if round % 2 == 0 {
                follower.reopen();
            }
        }
        // What was only partly written when the power went, and what does not belong there, is not trusted.
        let folder = partly_received(&follower);
        std::fs::remove_file(folder.join("VERIFIED")).expect("the notes");
        let data = folder.join("data");
        let victim = files::names(&data).expect("names").pop().expect("a file");
        let mut bytes = std::fs::read(data.join(&victim)).expect("the file");
        bytes[0] ^= 1;
        std::fs::write(data.join(&victim), bytes).expect("write");
        std::fs::write(data.join("stranger"), b"").expect("write");
        let place = receive_all(&snapshot, &follower.library).expect("received");
        follower.install(&place).expect("installed");
        assert_eq!(follower.everything(), leader.everything());
    }
}

#[test]
fn pieces_that_do_not_fit_and_files_that_differ_are_refused() {
    let mut leader = Replica::new(open_mem);
    leader.apply_to(30);
    let snapshot = leader.take();
    let follower = Replica::new(open_mem);
    let manifest = snapshot.manifest().clone();
    let other_shard = Manifest { shard: SHARD + 1, ..manifest.clone() };
    assert!(matches!(follower.library.receive(other_shard, 0), Err(ReceiveError::Shard { .. })));
    let mut outside = manifest.clone();
    outside.files[0].name = "../../store/image".to_owned();
    let refused = follower.library.receive(outside, 0);
    assert!(matches!(refused, Err(ReceiveError::Manifest(ManifestError::Name { .. }))));
    let mut incoming = follower.library.receive(manifest.clone(), 0).expect("receive");
    let bytes = usize::try_from(manifest.files[0].bytes).expect("64-bit machine");
    for (file, offset, length) in [(1, 0, 1), (0, 1, 1), (0, 0, bytes + 1), (9, 0, 0)] {
        let refused = incoming.write(file, offset, &vec![0; length]);
        assert!(matches!(refused, Err(ReceiveError::Piece { .. })), "{file} {offset} {length}");
    }
    incoming.write(0, 0, &vec![0; bytes - 1]).expect("a piece");
    let error = incoming.write(0, manifest.files[0].bytes - 1, &[0]).expect_err("wrong contents");
    assert!(matches!(error, ReceiveError::Checksum { file: 0, .. }), "{error}");
    assert_eq!(incoming.held(), [0], "to be sent anew");
    send(&snapshot, &mut incoming, 1).expect("send");
    let again = follower.library.receive(manifest.clone(), 0).expect("receive");
    assert!(matches!(send(&snapshot, &mut incoming, 1), Err(ReceiveError::Superseded)));
    assert!(matches!(incoming.finish(), Err(ReceiveError::Superseded)));
    assert!(matches!(again.finish(), Err(ReceiveError::Incomplete { .. })));
    // Another snapshot takes the place of one that is partly there.
    leader.apply_to(31);
    drop(follower.library.receive(leader.take().manifest().clone(), 0).expect("receive"));
    assert_eq!(files::names(&follower.folder.path().join("incoming")).expect("names").len(), 1);
}

#[test]
fn nothing_else_is_received_before_the_last_is_installed_or_dropped() {
    let mut leader = Replica::new(open_mem);
    leader.apply_to(30);
    let snapshot = leader.take();
    let mut follower = Replica::new(open_mem);
    let place = receive_all(&snapshot, &follower.library).expect("received");
    let again = follower.library.receive(snapshot.manifest().clone(), 0);
    assert!(matches!(again, Err(ReceiveError::Waiting)));
    follower.library.drop_received(&place);
    assert!(!place.exists());
    let place = receive_all(&snapshot, &follower.library).expect("received");
    // The log overtook it.
    follower.apply_to(30);
    let stale = follower.install(&place).expect_err("the state is as far");
    assert!(matches!(stale, InstallError::Stale { index: 30, applied: 30 }), "{stale}");
    assert!(!place.exists());
    assert!(matches!(follower.install(&place), Err(InstallError::Missing { .. })));
    let elsewhere = follower.folder.path().join("snapshots");
    assert!(matches!(follower.install(&elsewhere), Err(InstallError::Missing { .. })));
    follower.library.drop_received(&elsewhere);
    assert!(elsewhere.exists());
}

#[test]
fn a_checkpoint_that_is_not_what_its_manifest_says_is_not_installed() {
    for open in ENGINES {
        let mut leader = Replica::new(open);
        leader.apply_to(30);
        let snapshot = leader.take();
        let lies: [fn(&mut SnapshotMeta); 3] = [
            |meta| meta.index = Index(31),
            |meta| meta.term = raft::Term(1),
            |meta| meta.conf_state.voters = vec![NodeId(9)],
        ];
        for lie in lies {
            let mut follower = Replica::new(open);
            follower.apply_to(5);
            let before = follower.everything();
            let mut manifest = snapshot.manifest().clone();
            lie(&mut manifest.meta);
            let mut incoming = follower.library.receive(manifest, 0).expect("receive");
            send(&snapshot, &mut incoming, usize::MAX).expect("send");
            let place = incoming.finish().expect("complete");
            let error = follower.install(&place).expect_err("a lie");
            assert!(matches!(error, InstallError::Damaged { .. }), "{error}");
            assert!(!place.exists());
            assert_eq!(follower.everything(), before);
            follower.reopen();
            assert_eq!(
                follower.machine().applied().index,
                if follower.machine().applied().index == 0 { 0 } else { 5 }
            );
        }
    }
}
