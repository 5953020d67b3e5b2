//! What a snapshot of a replica of [`BYTES`] costs, in wall-clock time: taking the first (a checkpoint by hard links,
//! and every file read once for its checksum), taking the next (only what is new is read), receiving, and installing.
//!
//! `cargo bench -p ringkv-engine --bench snapshot`. Files are read from the disk unless the page cache holds them:
//! flushes write past it, and summing forgets what it read.

#![allow(missing_docs, reason = "criterion's macros write functions without any")]

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::store::snapshot::{Library, PinnedSnapshot, TakenTo};
use engine::store::{
    Applied, MemEngine, RocksConfig, RocksEngine, RocksShared, StorageEngine, Write, WriteSet,
};
use raft::ConfState;

const BYTES: u64 = 1 << 30;
const VALUE_BYTES: u64 = 4096;
/// Puts between two snapshots, where it is the next that is measured: 1 % of the replica.
const CHANGED: u64 = BYTES / VALUE_BYTES / 100;

/// A replica that grows.
struct Replica {
    engine: Box<dyn StorageEngine>,
    library: Library,
    value: Vec<u8>,
}

impl Replica {
    fn open(folder: &Path, open: &dyn Fn(&Path) -> Box<dyn StorageEngine>) -> Self {
        let engine = open(&folder.join("store"));
        let library = Library::open(folder, 1).expect("a library");
        // Not all alike: some devices and file systems notice.
        let value = (0..VALUE_BYTES).map(|at| (at * 131 % 251).to_le_bytes()[0]).collect();
        Self { engine, library, value }
    }

    fn put(&self, count: u64) {
        let first = self.engine.applied().expect("applied").index + 1;
        for index in first..first + count {
            let key = [&[1], &index.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()[..]].concat();
            let writes = [Write::Put { key: &key, value: &self.value }];
            self.engine
                .apply(&WriteSet { applied: Applied { index, term: 1 }, writes: &writes })
                .expect("apply");
        }
    }

    fn take(&self) -> PinnedSnapshot {
        self.library
            .take(self.engine.as_ref(), &ConfState::default(), TakenTo::Keep, &|_| ())
            .expect("a snapshot")
    }
}

/// Receives from files at hand, in pieces as they come over the wire.
fn receive(snapshot: &PinnedSnapshot, library: &Library) -> std::path::PathBuf {
    let mut incoming = library.receive(snapshot.manifest().clone(), 0).expect("receive");
    for file in 0..snapshot.manifest().files.len() {
        let bytes = std::fs::read(snapshot.path(file)).expect("a file");
        for (piece, offset) in bytes.chunks(256 << 10).zip((0..).step_by(256 << 10)) {
            incoming.write(file, offset, piece).expect("a piece");
        }
    }
    incoming.finish().expect("complete")
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn bench(criterion: &mut Criterion, name: &str, open: &dyn Fn(&Path) -> Box<dyn StorageEngine>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source_path, target_path) = (folder.path().join("source"), folder.path().join("target"));
    let source = Replica::open(&source_path, open);
    source.put(BYTES / VALUE_BYTES);
    source.engine.flush().expect("flush");
    let mut group = criterion.benchmark_group(format!("{name}-1GiB"));
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Bytes(BYTES));
    group.bench_function("take-first", |bencher| {
        bencher.iter_custom(|iterations| {
            (0..iterations).map(|_| timed(|| source.library.discard(&source.take()).expect("discard"))).sum()
        });
    });
    drop(source.take());
    group.bench_function("take-next", |bencher| {
        bencher.iter_custom(|iterations| {
            let next = || {
                source.put(CHANGED);
                let time = timed(|| drop(source.take()));
                source.library.prune(1).expect("prune");
                time
            };
            (0..iterations).map(|_| next()).sum()
        });
    });
    let snapshot = source.take();
    let transfer = |iterations: u64| {
        let (mut received, mut installed) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..iterations {
            let target = Replica::open(&target_path, open);
            let mut place = std::path::PathBuf::new();
            received += timed(|| place = receive(&snapshot, &target.library));
            installed += timed(|| {
                target.library.install(target.engine.as_ref(), &place).expect("installed");
            });
            target.engine.destroy().expect("destroy");
        }
        (received, installed)
    };
    group.bench_function("receive", |bencher| bencher.iter_custom(|iterations| transfer(iterations).0));
    group.bench_function("install", |bencher| bencher.iter_custom(|iterations| transfer(iterations).1));
    group.finish();
}

fn benches(criterion: &mut Criterion) {
    let shared = RocksShared::new(RocksConfig::default()).expect("the shared parts");
    bench(criterion, "rocks", &|folder| Box::new(RocksEngine::open(folder, &shared).expect("an engine")));
    bench(criterion, "memory", &|folder| Box::new(MemEngine::open(folder).expect("an engine")));
}

criterion_group! {
    name = snapshot;
    config = Criterion::default().without_plots();
    targets = benches
}
criterion_main!(snapshot);
