//! What applying a 4 KiB put costs, in CPU time of the whole process: the apply thread, flushes and
//! compactions counted, the making of the entries not.
//!
//! `cargo bench -p ringkv-engine --bench apply`. One iteration is [`PUTS`] puts in batches of the size
//! named, so a time in milliseconds divided by 32.768 is microseconds per put. The iteration's last flush is
//! counted; it is why an iteration is that long.

#![allow(missing_docs, reason = "criterion's macros write functions without any")]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::command::{KeyPlace, Mutation, NewValue, Session, encode};
use engine::machine::{Machine, MachineEntry};
use engine::store::{MemEngine, RocksConfig, RocksEngine, RocksShared, StorageEngine};
use raft::{ConfState, EntryKind};

const VALUE_BYTES: usize = 4096;
/// Keys per machine: overwrites happen, so garbage is collected too.
const KEYS: u64 = 20_000;
/// Puts of one iteration: the budget of all memtables.
const PUTS: u64 = 32_768;
/// Replicas of one core, which batches go to in turn.
const REPLICAS: usize = 16;

/// CPU time of the process, user and system, all threads.
struct ProcessCpu;

fn cpu_time(who: libc::c_int) -> Duration {
    // SAFETY: an all-zero rusage is valid, and getrusage writes nothing but it.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(who, &raw mut usage), 0, "getrusage knows both targets");
        usage
    };
    let part = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).expect("time is not negative");
        Duration::from_secs(seconds) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    part(usage.ru_utime) + part(usage.ru_stime)
}

impl Measurement for ProcessCpu {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time(libc::RUSAGE_SELF)
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time(libc::RUSAGE_SELF) - start
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Machines fed in turn with batches of puts.
struct Load {
    machines: Vec<Machine>,
    value: Vec<u8>,
    turn: usize,
    random: u64,
    with_sessions: bool,
}

impl Load {
    fn new(engines: Vec<Arc<dyn StorageEngine>>, with_sessions: bool) -> Self {
        let machines = engines
            .into_iter()
            .map(|engine| Machine::open(engine, ConfState::default()).expect("a machine"))
            .collect();
        // Not all alike: some devices and file systems notice.
        let value = (0..VALUE_BYTES).map(|at| (at * 131 % 251).to_le_bytes()[0]).collect();
        Self { machines, value, turn: 0, random: 1, with_sessions }
    }

    /// The entries of the next batch for the machine whose turn it is.
    fn entries(&mut self, batch: u64) -> Vec<MachineEntry> {
        let first = self.machines[self.turn].applied().index + 1;
        let indexes: Range<u64> = first..first + batch;
        indexes.map(|index| self.entry(index)).collect()
    }

    fn entry(&mut self, index: u64) -> MachineEntry {
        // xorshift64: any spread over the keys will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let key = format!("user{:012}", self.random % KEYS);
        let place = KeyPlace { namespace: 0, slot: 7 };
        let put = Mutation::Put { place, key: key.as_bytes(), value: NewValue::plain(&self.value) };
        // A client with 32 writes in flight, of 50.
        let session =
            Session { client: index % 50, sequence: index, acked_below: index.saturating_sub(1600) };
        let payload = encode(index, index, self.with_sessions.then_some(session), &[put]);
        MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome: true }
    }

    /// Applies `puts` puts; CPU time without that for making entries, memory all written out at the end.
    fn run(&mut self, puts: u64, batch: u64) -> Duration {
        let start = cpu_time(libc::RUSAGE_SELF);
        let mut making = Duration::ZERO;
        for _ in 0..puts / batch {
            let before = cpu_time(libc::RUSAGE_THREAD);
            let entries = self.entries(batch);
            making += cpu_time(libc::RUSAGE_THREAD) - before;
            self.machines[self.turn].apply(&entries).expect("apply");
            self.turn = (self.turn + 1) % self.machines.len();
        }
        for machine in &self.machines {
            machine.engine().flush().expect("flush");
        }
        cpu_time(libc::RUSAGE_SELF) - start - making
    }
}

fn benches(criterion: &mut Criterion<ProcessCpu>) {
    let mut group = criterion.benchmark_group("put-4KiB");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(PUTS));
    for batch in [16_u64, 64] {
        for (name, replicas, with_sessions) in
            [("rocks", 1, false), ("rocks-16-replicas", REPLICAS, false), ("rocks-sessions", 1, true)]
        {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let shared = RocksShared::new(RocksConfig::default()).expect("the shared parts");
            let open = |replica: usize| -> Arc<dyn StorageEngine> {
                let folder = folder.path().join(replica.to_string());
                Arc::new(RocksEngine::open(&folder, &shared).expect("an engine"))
            };
            let mut load = Load::new((0..replicas).map(open).collect(), with_sessions);
            group.bench_function(BenchmarkId::new(name, batch), |bencher| {
                bencher.iter_custom(|iterations| load.run(iterations * PUTS, batch));
            });
        }
        let mut load = Load::new(vec![Arc::new(MemEngine::new())], false);
        group.bench_function(BenchmarkId::new("memory", batch), |bencher| {
            bencher.iter_custom(|iterations| load.run(iterations * PUTS, batch));
        });
    }
    group.finish();
}

criterion_group! {
    name = apply;
    config = Criterion::default().with_measurement(ProcessCpu).without_plots();
    targets = benches
}
criterion_main!(apply);
