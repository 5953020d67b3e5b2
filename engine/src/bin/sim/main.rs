//! `sim`: runs simulated clusters: one seed, or as many as fit a given time. `tools/sim` is the usual way to call it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use engine::sim::{self, Counts, Options, Report, trace};

#[cfg(feature = "mutations")]
mod mutations;

/// Runs whole clusters of RingKV in simulation, under faults and checkers.
#[derive(Parser, Debug)]
#[command(name = "sim")]
struct Arguments {
    /// Run this seed alone.
    #[arg(long, conflicts_with_all = ["sweep", "seeds"])]
    seed: Option<u64>,
    /// Print everything that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Simulated seconds of faults in each world.
    #[arg(long, default_value_t = sim::SECONDS)]
    seconds: u64,
    /// Run seeds one after the other for so many real seconds.
    #[arg(long)]
    sweep: Option<u64>,
    /// Run so many seeds.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed of several.
    #[arg(long, default_value_t = 1)]
    seed_from: u64,
    /// Worlds at a time; all CPUs if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Go on after a world that failed (not possible where a machine's own assertion ended the process).
    #[arg(long)]
    keep_going: bool,
    /// Build a deliberate bug in (needs the feature `mutations`).
    #[arg(long)]
    mutate: Option<String>,
    /// Look for every deliberate bug, or for the one named with --mutate, and print how it was found (needs the feature
    /// `mutations`).
    #[arg(long)]
    mutations: bool,
    /// Seeds after which a bug that was not found has survived.
    #[arg(long, default_value_t = 1000)]
    seeds_max: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    std::panic::set_hook(Box::new(|panic| {
        // Which world it was is known to the thread alone.
        let what = panic.to_string();
        eprintln!("{}", trace::report(&what).unwrap_or(what));
        std::process::exit(1);
    }));
    if arguments.mutations {
        return prove_mutations(&arguments);
    }
    match arguments.seed {
        Some(seed) => {
            build_in(arguments.mutate.as_deref());
            run_one(&arguments, seed)
        }
        None => sweep(&arguments),
    }
}

#[cfg(feature = "mutations")]
fn prove_mutations(arguments: &Arguments) -> ExitCode {
    let effort = mutations::Effort {
        seeds: arguments.seeds.unwrap_or(50),
        seeds_max: arguments.seeds_max,
        from: arguments.seed_from,
        jobs: jobs(arguments),
    };
    mutations::prove(effort, arguments.mutate.as_deref())
}

/// Builds a deliberate bug into all worlds of this thread.
#[cfg(feature = "mutations")]
fn build_in(name: Option<&str>) {
    let Some(name) = name else { return };
    let known = raft::mutation::ALL.iter().find(|(known, _)| *known == name);
    let Some((_, mutation)) = known else {
        let names: Vec<&str> = raft::mutation::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("no mutation is called {name}; there are {}", names.join(", "));
        std::process::exit(2);
    };
    raft::mutation::set(Some(*mutation));
}

#[cfg(not(feature = "mutations"))]
fn prove_mutations(_: &Arguments) -> ExitCode {
    eprintln!("this build has no deliberate bugs: build it with --features mutations");
    ExitCode::FAILURE
}

#[cfg(not(feature = "mutations"))]
fn build_in(name: Option<&str>) {
    if name.is_some() {
        eprintln!("this build has no deliberate bugs: build it with --features mutations");
        std::process::exit(2);
    }
}

fn jobs(arguments: &Arguments) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.jobs.unwrap_or(cpus).max(1)
}

fn options(arguments: &Arguments, seed: u64) -> Options {
    let mut options = Options { seconds: arguments.seconds, trace: arguments.trace, ..Options::new(seed) };
    if let Some(name) = &arguments.mutate {
        options.rerun = options.rerun.replace("--features sim", "--features mutations") + " --mutate " + name;
    }
    if arguments.seconds != sim::SECONDS {
        options.rerun.push_str(&format!(" --seconds {}", arguments.seconds));
    }
    options
}

fn run_one(arguments: &Arguments, seed: u64) -> ExitCode {
    let begun = Instant::now();
    let report = sim::run(&options(arguments, seed));
    let simulated = Duration::from_nanos(report.simulated_ns);
    println!(
        "seed {seed}: {:.1} simulated seconds in {:.3} s, {} operations, trace hash {:#018x}\n{:?}",
        simulated.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        report.operations,
        report.hash,
        report.counts,
    );
    match report.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            eprintln!("{}", failure.text);
            ExitCode::FAILURE
        }
    }
}

/// What all worlds of a sweep came to.
#[derive(Default)]
struct Total {
    worlds: u64,
    simulated_ns: u64,
    operations: u64,
    counts: Counts,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.worlds += 1;
        self.simulated_ns += report.simulated_ns;
        self.operations += report.operations;
        self.counts.add(&report.counts);
    }
}

fn sweep(arguments: &Arguments) -> ExitCode {
    let begun = Instant::now();
    let jobs = jobs(arguments);
    let seconds = arguments.sweep.unwrap_or(if arguments.seeds.is_some() { u64::MAX / 2 } else { 60 });
    let until = Duration::from_secs(seconds);
    let last = arguments.seeds.map_or(u64::MAX, |seeds| arguments.seed_from + seeds - 1);
    let next = Arc::new(AtomicU64::new(arguments.seed_from));
    let failed = Arc::new(AtomicBool::new(false));
    let total = Arc::new(Mutex::new(Total::default()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                build_in(arguments.mutate.as_deref());
                while begun.elapsed() < until && (arguments.keep_going || !failed.load(Ordering::Relaxed)) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    let report = sim::run(&options(arguments, seed));
                    total.lock().expect("no thread panics and lives").add(&report);
                    if let Some(failure) = report.failure {
                        let text = match arguments.keep_going {
                            true => format!("seed {seed} FAILED: {}", failure.violation),
                            false => failure.text,
                        };
                        eprintln!("{text}");
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let total = total.lock().expect("all threads have ended");
    let simulated = Duration::from_nanos(total.simulated_ns).as_secs_f64();
    let real = begun.elapsed().as_secs_f64();
    println!(
        "{} worlds from seed {}, {:.1} simulated hours in {real:.0} s on {jobs} CPUs: {:.0} simulated hours per real \
         hour, {:.0} simulated seconds per CPU second\n{} operations, {:?}",
        total.worlds,
        arguments.seed_from,
        simulated / 3600.0,
        simulated / real,
        simulated / real / f64::from(u32::try_from(jobs).unwrap_or(u32::MAX)),
        total.operations,
        total.counts,
    );
    if failed.load(Ordering::Relaxed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
