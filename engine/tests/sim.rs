//! Simulated clusters: the seeds that once found something, as many others as fit a few seconds, and that a seed
//! decides everything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::sim::{self, Options};

/// The seeds that found something, each with what it was.
const SEEDS: &str = include_str!("seeds.txt");
/// Real time for seeds that nobody has looked at yet.
const SWEEP: Duration = Duration::from_secs(8);

fn must_pass(seed: u64) {
    if let Some(failure) = sim::run(&Options::new(seed)).failure {
        panic!("{}", failure.text);
    }
}

/// Runs what `next` gives on two threads, until it gives no more.
fn side_by_side(next: impl Fn() -> Option<u64> + Sync) {
    let run = || {
        while let Some(seed) = next() {
            must_pass(seed);
        }
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(run), scope.spawn(run)];
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn seeds_that_found_something_pass() {
    let kept: Vec<u64> = SEEDS
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (seed, what) = line.split_once(' ').expect("a seed and what it found");
            assert!(!what.trim().is_empty(), "say what seed {seed} found");
            seed.parse().expect("a line begins with a seed")
        })
        .collect();
    let next = AtomicU64::new(0);
    side_by_side(|| {
        let at = next.fetch_add(1, Ordering::Relaxed);
        kept.get(usize::try_from(at).expect("few seeds")).copied()
    });
}

#[test]
fn other_seeds_pass() {
    let begun = Instant::now();
    let next = AtomicU64::new(1_000_000);
    side_by_side(|| (begun.elapsed() < SWEEP).then(|| next.fetch_add(1, Ordering::Relaxed)));
    let worlds = next.into_inner() - 1_000_000;
    assert!(worlds >= 10, "only {worlds} worlds in {SWEEP:?}");
}

#[test]
fn a_seed_decides_everything() {
    let mut hashes = Vec::new();
    for seed in [1, 2, 3, 4, 5, 6] {
        let (once, again) = (sim::run(&Options::new(seed)), sim::run(&Options::new(seed)));
        assert_eq!((once.hash, once.counts), (again.hash, again.counts), "seed {seed}");
        hashes.push(once.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 6, "every seed is another world");
}

#[test]
fn faults_do_happen() {
    let mut total = sim::Counts::default();
    for seed in 100..130 {
        let report = sim::run(&Options::new(seed));
        assert!(report.failure.is_none());
        total.add(&report.counts);
    }
    assert!(total.crashes > 10 && total.partitions > 10 && total.committed > 1_000, "{total:?}");
    assert!(
        total.maps > 10 && total.map_changes > 10,
        "the map travels whole, and by its changes: {total:?}"
    );
}

/// A few of the deliberate bugs; `tools/sim --mutations` looks for all of them.
#[cfg(feature = "mutations")]
#[test]
fn the_checkers_can_fail() {
    use raft::mutation::{Mutation, set};
    for mutation in [Mutation::AckBeforeFlush, Mutation::LoseTruncate, Mutation::ReorderApply] {
        let found = (1..=20).any(|seed| {
            let world = std::thread::spawn(move || {
                set(Some(mutation));
                sim::run(&Options::new(seed)).failure.is_some()
            });
            // An assertion of the machines themselves is as good as a checker.
            world.join().unwrap_or(true)
        });
        assert!(found, "{mutation:?} was not found in 20 seeds");
    }
}
