//! What became of the requests of each route, over all cores of the node: counters that any core may add to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::route;
use crate::core::{BUCKETS, Durations};

/// Kinds of status: 1xx to 5xx.
const KINDS: usize = 5;

/// The figures of all routes, and one more for what is no route.
#[derive(Debug)]
pub struct Requests {
    routes: Vec<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    by_kind: [AtomicU64; KINDS],
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { routes: (0..=route::paths().len()).map(|_| Figures::default()).collect() }
    }
}

impl Requests {
    /// Takes in an answered request: its path, the status, and how long it took from its head to its answer.
    pub fn record(&self, path: &str, status: u16, took: Duration) {
        let figures = &self.routes[route::number_of(path).unwrap_or(self.routes.len() - 1)];
        let kind = usize::from(status / 100).clamp(1, KINDS) - 1;
        let us = u64::try_from(took.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX);
        figures.by_kind[kind].fetch_add(1, Ordering::Relaxed);
        figures.buckets[Durations::bucket_of(us)].fetch_add(1, Ordering::Relaxed);
        figures.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Of each route that was asked: its path, how many requests were answered by which kind of status (from 1xx on), and
    /// how long they took.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, [u64; KINDS], Durations)> {
        let paths = route::paths().chain(["other"]);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.routes.iter().zip(paths).filter_map(move |(figures, path)| {
            let buckets = std::array::from_fn(|bucket| read(&figures.buckets[bucket]));
            let durations = Durations { buckets, count: buckets.iter().sum(), sum_us: read(&figures.sum_us) };
            let by_kind = std::array::from_fn(|kind| read(&figures.by_kind[kind]));
            (durations.count > 0).then_some((path, by_kind, durations))
        })
    }
}
