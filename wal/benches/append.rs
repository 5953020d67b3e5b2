//! How much of the disk the log uses: durable MB/s through `DmaDisk` for block size × writes in flight, beside
//! what `fio` (if installed) reaches with the same writes on the same disk.
//!
//! `cargo bench -p ringkv-wal`; `RINGKV_BENCH_DIR` chooses the disk, `RINGKV_BENCH_COMPARE=1` leaves out all but
//! the comparison, and `RINGKV_BENCH_COMPARE=16x4,512x2` (KiB and writes in flight) most of that, too.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use wal::disk::dma::DmaDisk;
use wal::{Entry, StreamId, Wal, WalConfig};

const STREAM: StreamId = StreamId(1);
/// Headers of a batch with one entry and, now and then, one compaction; and its directory of one stream.
const OVERHEAD_BYTES: usize = 180;
/// Compacting this often lets segments be recycled, as in a running node: none is filled with zeros meanwhile.
const COMPACT_EVERY: u64 = 64;
const BLOCKS_KIB: [usize; 4] = [4, 16, 128, 512];
const DEPTHS: [usize; 3] = [1, 2, 4];
const FIO_BYTES: u64 = 256 << 20;

fn main() {
    let dir = std::env::var_os("RINGKV_BENCH_DIR")
        .map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let mut criterion = Criterion::default().configure_from_args();
    if std::env::args().any(|arg| arg == "--test") {
        // Started by `cargo test`: enough to see that it runs.
        println!("{:.0} MB/s", mb_per_s(4096, 32, Rig::new(&dir, 4096, 2).run(32)));
        return;
    }
    if std::env::var_os("RINGKV_BENCH_COMPARE").is_some() {
        return compare(&dir);
    }
    let mut group = criterion.benchmark_group("append");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for block in BLOCKS_KIB.map(|kib| kib << 10) {
        group.throughput(Throughput::Bytes(block as u64));
        for depth in DEPTHS {
            let mut rig = Rig::new(&dir, block, depth);
            let id = BenchmarkId::new(format!("{} KiB", block >> 10), depth);
            group.bench_function(id, |bencher| bencher.iter_custom(|iters| rig.run(iters)));
        }
    }
    group.finish();
    compare(&dir);
}

/// Ours and fio's in turn, several times, so that both see the same disk; prints the medians.
fn compare(dir: &Path) {
    const ROUNDS: usize = 7;
    let file = dir.join("fio.bench");
    println!("{:>8} {:>6} {:>12} {:>12} {:>7}", "KiB", "depth", "ours MB/s", "fio MB/s", "ratio");
    let wanted = std::env::var("RINGKV_BENCH_COMPARE").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|it| it.contains('x')).collect();
    for block in BLOCKS_KIB.map(|kib| kib << 10) {
        for depth in DEPTHS {
            let name = format!("{}x{depth}", block >> 10);
            if !wanted.is_empty() && !wanted.contains(&name.as_str()) {
                continue;
            }
            // A few tenths of a second each: less, and who else uses the disk decides.
            let bytes = if block < 128 << 10 { 48 << 20 } else { 256 << 20_usize };
            let writes = bytes / block.max(32 << 10);
            let mut rig = Rig::new(dir, block, depth);
            rig.settle(block);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                ours.push(mb_per_s(block, writes as u64, rig.run(writes as u64)));
                theirs.extend(fio(&file, block, depth, (writes * block) as u64));
            }
            let (ours, theirs) = (median(ours), median(theirs));
            let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
            let ratio =
                ours.zip(theirs).map_or("-".to_owned(), |(ours, theirs)| format!("{:.2}", ours / theirs));
            println!("{:>8} {depth:>6} {:>12} {:>12} {ratio:>7}", block >> 10, text(ours), text(theirs));
        }
    }
    // Not there if fio is not.
    let _ = std::fs::remove_file(file);
}

fn mb_per_s(block: usize, writes: u64, elapsed: Duration) -> f64 {
    block as f64 * writes as f64 / elapsed.as_secs_f64() / 1e6
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A log whose every batch is one block of one entry.
struct Rig {
    executor: LocalExecutor,
    wal: Rc<RefCell<Wal>>,
    disk: DmaDisk,
    /// Segment tasks under way.
    tasks: Rc<Cell<usize>>,
    depth: usize,
    payload: Bytes,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(dir: &Path, block: usize, depth: usize) -> Self {
        let dir = tempfile::tempdir_in(dir).expect("a folder");
        let config = WalConfig {
            batch_bytes_max: block,
            inflight_max: depth,
            pool_min: 4,
            pool_max: 8,
            cache_bytes_max: 1 << 20,
            ..WalConfig::new(1, 0)
        };
        let executor =
            LocalExecutorBuilder::new(Placement::Unbound).io_memory(16 << 20).make().expect("an executor");
        let (wal, disk) = executor.run(async {
            let (disk, recovered) = DmaDisk::open(dir.path(), &config).await.expect("a folder on a disk");
            let mut wal = Wal::new(config, recovered);
            while let Some(task) = wal.poll_segment_task() {
                disk.run_segment_task(&task).await.expect("room for the segments");
                wal.on_segment_task_done(task);
            }
            (wal, disk)
        });
        let payload = Bytes::from(vec![7; block - OVERHEAD_BYTES]);
        Self {
            executor,
            wal: Rc::new(RefCell::new(wal)),
            disk,
            tasks: Rc::default(),
            depth,
            payload,
            _dir: dir,
        }
    }

    /// Comes to the steady state, in which segments are recycled and none is made any more: large blocks go through
    /// several segments while they are measured, small ones through none.
    fn settle(&mut self, block: usize) {
        let segment_writes = self.wal.borrow().config().segment_bytes / block as u64;
        self.run(if block < 128 << 10 { 64 } else { 8 * segment_writes });
        let (wal, disk, tasks) = (Rc::clone(&self.wal), self.disk.clone(), Rc::clone(&self.tasks));
        self.executor.run(async move {
            loop {
                let task = wal.borrow_mut().poll_segment_task();
                if let Some(task) = task {
                    disk.run_segment_task(&task).await.expect("room for the segments");
                    wal.borrow_mut().on_segment_task_done(task);
                } else if tasks.get() > 0 {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                } else {
                    break;
                }
            }
        });
    }

    /// Writes `writes` blocks, `depth` at a time; answers how long that took.
    fn run(&mut self, writes: u64) -> Duration {
        let left = Rc::new(Cell::new(writes));
        let workers: Vec<_> = (0..self.depth)
            .map(|_| {
                let (wal, tasks, left) = (Rc::clone(&self.wal), Rc::clone(&self.tasks), Rc::clone(&left));
                worker(wal, self.disk.clone(), tasks, left, self.payload.clone())
            })
            .collect();
        self.executor.run(async {
            let start = Instant::now();
            let tasks: Vec<_> = workers.into_iter().map(glommio::spawn_local).collect();
            for task in tasks {
                task.await;
            }
            start.elapsed()
        })
    }
}

/// Keeps one write in flight: with as many workers as places, none ever waits for a place.
async fn worker(
    wal: Rc<RefCell<Wal>>,
    disk: DmaDisk,
    tasks: Rc<Cell<usize>>,
    left: Rc<Cell<u64>>,
    payload: Bytes,
) {
    while left.get() > 0 {
        let batch = {
            let mut wal = wal.borrow_mut();
            if !wal.has_queued() {
                let index = wal.last_index(STREAM) + 1;
                if index.is_multiple_of(COMPACT_EVERY) {
                    wal.compact_to(STREAM, index - COMPACT_EVERY / 2, 1);
                }
                wal.append(STREAM, &[Entry { index, term: 1, kind: 0, payload: payload.clone() }]);
            }
            wal.poll_write()
        };
        if let Some(batch) = batch {
            left.set(left.get().saturating_sub(1));
            let id = batch.id;
            disk.write(batch).await.expect("a sound disk");
            wal.borrow_mut().on_written(id);
        } else {
            // No segment is ready: another worker is making one.
            glommio::executor().yield_task_queue_now().await;
        }
        let task = wal.borrow_mut().poll_segment_task();
        if let Some(task) = task {
            let (wal, disk, tasks) = (Rc::clone(&wal), disk.clone(), Rc::clone(&tasks));
            tasks.set(tasks.get() + 1);
            let run = async move {
                disk.run_segment_task(&task).await.expect("room for the segments");
                wal.borrow_mut().on_segment_task_done(task);
                tasks.set(tasks.get() - 1);
            };
            glommio::spawn_local(run).detach();
        }
    }
}

/// The same writes by fio, over a file filled with zeros before. `None` if fio is not installed.
fn fio(file: &Path, block: usize, depth: usize, bytes: u64) -> Option<f64> {
    if !file.exists() {
        let mut fill = Command::new("fio");
        fill.args(["--name=fill", "--rw=write", "--bs=1M", "--direct=1", "--zero_buffers", "--end_fsync=1"]);
        let filled = fill_args(&mut fill, file, FIO_BYTES).output().ok()?;
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
    }
    let mut run = Command::new("fio");
    run.args(["--name=append", "--rw=write", "--ioengine=io_uring", "--direct=1", "--sync=dsync"]);
    run.args(["--overwrite=0", "--minimal", "--terse-version=3"]);
    run.arg(format!("--bs={block}")).arg(format!("--iodepth={depth}"));
    let output = fill_args(&mut run, file, bytes.min(FIO_BYTES)).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // Terse format 3: field 48 is the write bandwidth in KiB/s.
    let kib_per_s: f64 = text.split(';').nth(47)?.parse().ok()?;
    Some(kib_per_s * 1024.0 / 1e6)
}

fn fill_args<'a>(command: &'a mut Command, file: &Path, bytes: u64) -> &'a mut Command {
    command.arg(format!("--filename={}", file.display())).arg(format!("--size={bytes}")).arg("--thread")
}
