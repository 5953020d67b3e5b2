//! Whole clusters in one thread, on simulated time: the machines that ship ([`Core`](crate::core::Core) with its log,
//! the state machines) over disks, networks and clocks that fail as a seed says, under checkers that look after every
//! turn. See `README.md` beside this file for how to run it and what it has found.
//!
//! ```text
//!   plan       what a seed has in store: shape of the cluster, faults and their strength
//!   world      the event queue; node, perform, network, chaos: the drivers that ship, replaced by simulated ones
//!   workload   clients with sessions, retries and a history
//!   oracle     one checker per property, fed with what changed in a turn
//!   history    linearizability of what the clients saw, also for tests of real clusters
//! ```
//!
//! Invariant: a run is a function of its seed and options. Nothing here reads a clock, and nothing iterates over a hash
//! table in an order that could matter.

mod chaos;
mod client;
mod clock;
mod convergence;
mod harm;
pub mod history;
mod network;
mod node;
mod operators;
mod oracle;
mod perform;
mod plan;
mod rng;
mod store;
#[doc(hidden)]
pub mod trace;
mod workload;
mod world;

use std::sync::Arc;

use raft::ConfState;
use raft::testing::checker::Violation;

use crate::machine::Machine;
use crate::store::StorageEngine;

pub use plan::{Plan, SECOND};

/// How to run one world.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed: it decides everything.
    pub seed: u64,
    /// Simulated seconds of faults, before the healing.
    pub seconds: u64,
    /// Whether to print everything that happens.
    pub trace: bool,
    /// How to run it again, for the report of a failure.
    pub rerun: String,
}

impl Options {
    /// The usual run of a seed.
    pub fn new(seed: u64) -> Options {
        Options {
            seed,
            seconds: SECONDS,
            trace: false,
            rerun: format!("cargo run --release --features sim --bin sim -- --seed {seed} --trace"),
        }
    }
}

/// Simulated seconds of faults in a usual run.
pub const SECONDS: u64 = 30;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Hash of all that happened.
    pub hash: u64,
    /// Simulated time.
    pub simulated_ns: u64,
    /// Operations of clients that were answered.
    pub operations: u64,
    /// What happened how often.
    pub counts: Counts,
    /// What went wrong, with everything a person needs to find out why.
    pub failure: Option<Failure>,
}

/// A property that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which, and what contradicts it.
    pub violation: Violation,
    /// For people: the last events and how to run it again.
    pub text: String,
}

/// How often the interesting things happened: a simulator that never does them proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Turns of all cores.
    pub turns: u64,
    /// Entries committed, over all shards.
    pub committed: u64,
    /// Processes crashed.
    pub crashes: u64,
    /// Partitions.
    pub partitions: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Nodes whose disks were wiped.
    pub wiped: u64,
    /// Disks damaged in what was flushed.
    pub damaged: u64,
    /// Changes of the members asked for and begun.
    pub member_changes: u64,
    /// Nodes that joined later.
    pub joined: u64,
    /// Shards cut in two.
    pub cut: u64,
    /// Whole cluster maps that nodes sent to others, as they arrived.
    pub maps: u64,
    /// Changes of the cluster map that nodes sent to others, as they arrived.
    pub map_changes: u64,
}

impl Counts {
    /// Adds those of another world.
    pub fn add(&mut self, other: &Counts) {
        self.turns += other.turns;
        self.committed += other.committed;
        self.crashes += other.crashes;
        self.partitions += other.partitions;
        self.snapshots_installed += other.snapshots_installed;
        self.wiped += other.wiped;
        self.damaged += other.damaged;
        self.member_changes += other.member_changes;
        self.joined += other.joined;
        self.cut += other.cut;
        self.maps += other.maps;
        self.map_changes += other.map_changes;
    }
}

/// Runs one world to its end.
pub fn run(options: &Options) -> Report {
    trace::begin(options.seed, options.rerun.clone(), options.trace);
    let plan = Plan::new(options.seed, options.seconds.saturating_mul(SECOND));
    let mut world = world::World::new(options.seed, plan);
    let verdict = world.run();
    let failure = verdict.err().map(|violation| {
        let text = trace::report(&violation.to_string()).unwrap_or_default();
        Failure { violation, text }
    });
    let (simulated_ns, operations, counts) = world.account();
    // Engines and machines end before the trace does: a panic in a destructor has a seed too.
    drop(world);
    Report { hash: trace::end(), simulated_ns, operations, counts, failure }
}

/// Opens a state machine as a node does when it starts.
fn open_machine(engine: Arc<dyn StorageEngine>, founders: &ConfState) -> Machine {
    Machine::open(engine, founders.clone()).expect("a simulated engine holds what a machine wrote")
}
