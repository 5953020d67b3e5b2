//! The figures of a run, and the three forms they take: a table, JSON, a plot.
//!
//! Invariant: every form shows the same figures, computed here once.
//!
//! - `requests`: due inside the window, whenever they finished. `errors` of them failed.
//! - `qps`: successes that finished inside the window, a second of the window.
//! - `mb_per_s`: their value bytes, in units of 10^6 bytes.
//! - latencies: of all successes, also those that finished after the window.

pub mod json;
pub mod plot;
pub mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::{Load, Plan};
use crate::histogram::Percentiles;
use crate::run::Outcome;
use crate::sample::{Counts, Failure, Failures, Tally};
use crate::timeline::Row;

/// Above this share of its threads' time the generator is suspected of being the limit.
const BUSY_SHARE: f64 = 0.9;

/// Figures of one kind of request, or of all.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Requests, successful or not.
    pub requests: u64,
    /// Those that failed, by kind.
    pub failures: Failures,
    /// Successes a second.
    pub qps: f64,
    /// Millions of value bytes a second.
    pub mb_per_s: f64,
    /// Latencies in microseconds.
    pub latency: Percentiles,
}

impl Figures {
    fn of(inside: &Tally, late: &Tally, window: Duration) -> Self {
        let mut all = inside.clone();
        all.merge(late);
        let seconds = window.as_secs_f64();
        Self {
            requests: all.requests(),
            qps: inside.latency.count() as f64 / seconds,
            mb_per_s: inside.bytes as f64 / 1e6 / seconds,
            latency: all.latency.percentiles(),
            failures: all.failures,
        }
    }

    /// Requests that failed.
    pub fn errors(&self) -> u64 {
        self.failures.total()
    }
}

/// One request in so many may stay unsent before the rate counts as missed.
const UNSENT_SHARE: u64 = 1_000;

/// Everything a report shows.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was asked for.
    pub plan: Arc<Plan>,
    /// Length of the window.
    pub window: Duration,
    /// Reads and writes together.
    pub all: Figures,
    /// Reads and writes apart, of a mixed load.
    pub apart: Option<(Figures, Figures)>,
    /// Requests that finished after the window.
    pub late: u64,
    /// Open loop: requests never sent.
    pub unsent: u64,
    /// Open loop: time from due to sent, in microseconds.
    pub lag: Option<Percentiles>,
    /// An example of each kind of failure.
    pub examples: BTreeMap<Failure, String>,
    /// Processor time of the load generator in the window.
    pub cpu: Duration,
    /// The seconds of the window.
    pub rows: Vec<Row>,
}

impl Report {
    /// The figures of what a run has counted.
    pub fn of(outcome: Outcome) -> Self {
        let Outcome { plan, window, totals, unsent, examples, cpu } = outcome;
        let Counts { reads, writes, lag } = &totals.inside;
        let late = &totals.late;
        let apart = matches!(plan.load, Load::Mixed { .. })
            .then(|| (Figures::of(reads, &late.reads, window), Figures::of(writes, &late.writes, window)));
        let lag = plan.rate.map(|_| {
            let mut lag = lag.clone();
            lag.merge(&late.lag);
            lag.percentiles()
        });
        let late_both = late.both();
        Self {
            all: Figures::of(&totals.inside.both(), &late_both, window),
            apart,
            late: late_both.requests(),
            unsent,
            lag,
            examples,
            cpu,
            rows: totals.rows,
            window,
            plan,
        }
    }

    /// Whether the run is a success: requests were made, and none failed.
    pub fn is_clean(&self) -> bool {
        self.all.requests > 0 && self.all.errors() == 0
    }

    /// Processor time of the generator, in threads kept busy.
    pub fn busy_threads(&self) -> f64 {
        self.cpu.as_secs_f64() / self.window.as_secs_f64()
    }

    /// Processor time of the generator for each request, in microseconds.
    pub fn cpu_micros_per_request(&self) -> f64 {
        if self.all.requests == 0 {
            return 0.0;
        }
        self.cpu.as_secs_f64() * 1e6 / self.all.requests as f64
    }

    /// What a reader of the figures should know before believing them.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.all.requests == 0 {
            warnings.push("no request was made in the window".to_owned());
        }
        // The last requests of a window may fall due too late to be sent in it.
        if self.unsent > self.all.requests / UNSENT_SHARE {
            warnings.push(format!(
                "{} requests were due and never sent: the cluster, or --clients x --pipeline, is too small \
                 for --rate; the latencies are those of an overload",
                self.unsent
            ));
        }
        let threads = f64::from(self.plan.threads);
        if self.busy_threads() >= BUSY_SHARE * threads {
            warnings.push(format!(
                "the load generator kept {:.2} of its {threads} threads busy: it may be the limit, not the \
                 cluster (see --threads)",
                self.busy_threads()
            ));
        }
        if self.window < self.plan.window {
            warnings.push("interrupted: the window is shorter than asked for".to_owned());
        }
        if self.all.failures.iter().any(|(failure, _)| failure == Failure::MissingKey) {
            warnings.push(
                "keys were missing: run without --no-load to write them first, or with --allow-missing"
                    .to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
pub mod tests;
