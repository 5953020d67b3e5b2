//! Random groups under random faults, which compact their logs, send snapshots, change their members and fall asleep: every
//! safety property holds at every step, and once the faults end the group heals, elects a leader and agrees.
//!
//! A failing case prints its seed; `RINGKV_RAFT_SEED=<seed>` runs that one alone, and `RINGKV_RAFT_CASES` sets how many run.

#[path = "properties/case.rs"]
mod case;
#[cfg(feature = "mutations")]
#[path = "properties/mutations.rs"]
mod mutations;

use raft::{Index, LogStorage};

use case::Case;

fn run(seed: u64, steps: usize) -> Case {
    let mut case = Case::new(seed);
    for _ in 0..steps {
        case.step();
    }
    case.heal();
    case
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn safety_holds_under_faults_and_the_group_heals() {
    let cases = setting("RINGKV_RAFT_CASES").unwrap_or(300);
    let first = setting("RINGKV_RAFT_SEED");
    let mut sums = Sums::default();
    let seeds = first.map_or(0..cases, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| Sums::of(&run(seed, 12_000)));
        sums.add(outcome.unwrap_or_else(|_| panic!("seed {seed} failed")));
    }
    println!("{sums:?}");
    // The cases are worth something only if things happen in them.
    if first.is_none() {
        assert!(sums.led > 2 * cases && sums.served > 5 * cases && sums.committed > 20 * cases, "{sums:?}");
        assert!(sums.changes > cases && sums.snapshots > cases / 2 && sums.slept > cases / 10, "{sums:?}");
    }
}

/// What happened in all cases.
#[derive(Debug, Default)]
struct Sums {
    led: u64,
    served: u64,
    committed: u64,
    changes: u64,
    snapshots: u64,
    slept: u64,
}

impl Sums {
    fn of(case: &Case) -> Sums {
        let checkers = &case.cluster.checkers;
        let count = |number: usize| u64::try_from(number).expect("few");
        Sums {
            led: count(checkers.elections.terms_led()),
            served: checkers.reads.served(),
            committed: checkers.leaders.last_committed().distance_from(Index::ZERO),
            changes: count(checkers.configurations.changes()),
            snapshots: case.snapshots,
            slept: case.slept,
        }
    }

    fn add(&mut self, more: Sums) {
        self.led += more.led;
        self.served += more.served;
        self.committed += more.committed;
        self.changes += more.changes;
        self.snapshots += more.snapshots;
        self.slept += more.slept;
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let case = run(seed, 2000);
        let ids: Vec<_> = case.cluster.ids().into_iter().filter(|id| case.cluster.is_up(*id)).collect();
        let logs: Vec<_> = ids.iter().map(|id| case.cluster.log(*id)).collect();
        let ends: Vec<_> = ids.iter().map(|id| case.cluster.node(*id).storage().last_index()).collect();
        (logs, ends, ids.iter().map(|id| case.cluster.node(*id).status()).collect::<Vec<_>>())
    };
    for seed in 0..10 {
        assert_eq!(history(seed), history(seed));
    }
}
