//! What to ask next: a pure function of the plan and the seed.
//!
//! Invariant: the sequence of one thread depends on the plan, the seed and the thread's number alone,
//! not on answers or time.

use crate::cli::{Distribution, Load, Plan};
use crate::random::Random;
use crate::zipf::Zipf;

/// A read or a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Read one value.
    Read,
    /// Write one value.
    Write,
}

/// One request: what to do to which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// Read or write.
    pub kind: Kind,
    /// Number of the key, below the size of the key space.
    pub key_number: u64,
}

/// One thread's sequence of requests.
#[derive(Debug)]
pub struct Workload {
    load: Load,
    chooser: Chooser,
    random: Random,
}

#[derive(Debug)]
enum Chooser {
    Uniform { keys: u64 },
    Zipf(Zipf),
    Sequential { next: u64, step: u64, keys: u64 },
}

impl Workload {
    /// The sequence of thread `thread` of `plan.threads`.
    pub fn new(plan: &Plan, thread: u32) -> Self {
        let chooser = match plan.distribution {
            Distribution::Uniform => Chooser::Uniform { keys: plan.keys },
            Distribution::Zipf { exponent } => Chooser::Zipf(Zipf::new(plan.keys, exponent)),
            Distribution::Sequential => Chooser::Sequential {
                next: u64::from(thread) % plan.keys,
                step: u64::from(plan.threads),
                keys: plan.keys,
            },
        };
        Self { load: plan.load, chooser, random: Random::new(plan.seed, u64::from(thread)) }
    }

    /// The next request.
    pub fn next_action(&mut self) -> Action {
        let kind = match self.load {
            Load::Write => Kind::Write,
            Load::Read => Kind::Read,
            Load::Mixed { read_ratio } if self.random.unit() < read_ratio => Kind::Read,
            Load::Mixed { .. } => Kind::Write,
        };
        let key_number = match &mut self.chooser {
            Chooser::Uniform { keys } => self.random.below(*keys),
            // Rank 1 is key 0. Frequent keys are neighbours by number, not by slot: slots are hashes.
            Chooser::Zipf(zipf) => zipf.rank(&mut self.random) - 1,
            Chooser::Sequential { next, step, keys } => {
                let number = *next;
                *next = (number + *step) % *keys;
                number
            }
        };
        Action { kind, key_number }
    }

    /// The thread's randomness, for what does not change the sequence of another thread.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::plan;

    fn sequence(line: &str, thread: u32, count: usize) -> Vec<Action> {
        let mut workload = Workload::new(&plan(line), thread);
        (0..count).map(|_| workload.next_action()).collect()
    }

    #[test]
    fn equal_seeds_ask_for_equal_keys() {
        let line = "mixed --endpoints a:1 --keys 1000 --distribution zipf --seed";
        let first = sequence(&format!("{line} 1"), 0, 200);
        assert_eq!(first, sequence(&format!("{line} 1"), 0, 200));
        assert_ne!(first, sequence(&format!("{line} 2"), 0, 200));
        assert_ne!(first, sequence(&format!("{line} 1"), 1, 200));
    }

    #[test]
    fn every_distribution_stays_in_the_key_space() {
        for distribution in ["uniform", "zipf", "sequential"] {
            for keys in [1, 2, 7] {
                let line = format!("write --endpoints a:1 --keys {keys} --distribution {distribution}");
                let mut seen = std::collections::BTreeSet::new();
                for action in sequence(&line, 0, 500) {
                    assert!(action.key_number < keys && action.kind == Kind::Write);
                    seen.insert(action.key_number);
                }
                assert_eq!(seen.len() as u64, keys, "{distribution} never chose some of {keys} keys");
            }
        }
    }

    #[test]
    fn sequential_threads_cover_every_key_once_a_round() {
        let line = "write --endpoints a:1 --keys 12 --distribution sequential --threads 3";
        let mut all: Vec<u64> =
            (0..3).flat_map(|thread| sequence(line, thread, 4)).map(|action| action.key_number).collect();
        all.sort_unstable();
        assert_eq!(all, (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn the_read_ratio_is_kept() {
        for (ratio, low, high) in [("0", 0, 0), ("0.25", 2_300, 2_700), ("1", 10_000, 10_000)] {
            let line = format!("mixed --endpoints a:1 --read-ratio {ratio}");
            let actions = sequence(&line, 0, 10_000);
            let reads = actions.iter().filter(|action| action.kind == Kind::Read).count();
            assert!((low..=high).contains(&reads), "{reads} reads at a ratio of {ratio}");
        }
    }
}
