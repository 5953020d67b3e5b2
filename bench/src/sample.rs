//! What one thread measured: the recorder it counts into, and the samples it passes on.
//!
//! ```text
//!  due before the window    due inside the window              not sent: due at or past the end
//!  ------ warm-up ------|-- second 0 --|-- second 1 --| ... --|-- late --
//!        not counted    counted in the second in which it finished
//! ```
//!
//! Invariants: a request counts if it was *due* inside the window, whenever it finishes; the slow ones
//! that finish after the end ("late") are in the latencies and not in the throughput. Every second of the
//! window is passed on exactly once and in order, empty or not.

use std::mem;
use std::time::Duration;

use crate::clock::Moment;
use crate::histogram::LatencyHistogram;
use crate::workload::Kind;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Why a request failed, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The cluster refused for want of room; nothing was done.
    Busy,
    /// No leader, no quorum or no connection in time; nothing was done.
    Unavailable,
    /// A read had no answer in time.
    Timeout,
    /// A write had no answer in time, and may have been done.
    Indeterminate,
    /// The cluster called the request wrong or too large.
    Rejected,
    /// The cluster, or the client library, failed in itself.
    Internal,
    /// A key that should be there is not.
    MissingKey,
    /// A value that is not what was written.
    WrongValue,
    /// Still without an outcome long after its own timeout.
    Unfinished,
}

impl Failure {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Busy,
        Self::Unavailable,
        Self::Timeout,
        Self::Indeterminate,
        Self::Rejected,
        Self::Internal,
        Self::MissingKey,
        Self::WrongValue,
        Self::Unfinished,
    ];

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Indeterminate => "indeterminate",
            Self::Rejected => "rejected",
            Self::Internal => "internal",
            Self::MissingKey => "missing_key",
            Self::WrongValue => "wrong_value",
            Self::Unfinished => "unfinished",
        }
    }
}

/// Failures by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures([u64; Failure::ALL.len()]);

impl Failures {
    /// Counts `count` failures of one kind.
    pub fn add(&mut self, failure: Failure, count: u64) {
        self.0[failure as usize] += count;
    }

    /// Adds the failures of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(all, more)| *all += more);
    }

    /// Failures of every kind.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that happened, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (Failure, u64)> + '_ {
        Failure::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// Requests of one kind.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Latencies of the successful ones.
    pub latency: LatencyHistogram,
    /// Bytes of value in the successful ones.
    pub bytes: u64,
    /// The others.
    pub failures: Failures,
}

impl Tally {
    fn new() -> Self {
        Self { latency: LatencyHistogram::new(), bytes: 0, failures: Failures::default() }
    }

    /// Adds the requests of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.latency.merge(&other.latency);
        self.bytes += other.bytes;
        self.failures.merge(&other.failures);
    }

    /// Requests, successful or not.
    pub fn requests(&self) -> u64 {
        self.latency.count() + self.failures.total()
    }
}

/// Requests of both kinds.
#[derive(Debug, Clone)]
pub struct Counts {
    /// The reads.
    pub reads: Tally,
    /// The writes.
    pub writes: Tally,
    /// Open loop: how long after they were due requests were sent, for want of a free place in flight.
    pub lag: LatencyHistogram,
}

impl Counts {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { reads: Tally::new(), writes: Tally::new(), lag: LatencyHistogram::new() }
    }

    /// Adds the requests of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.lag.merge(&other.lag);
    }

    /// Reads and writes as one.
    pub fn both(&self) -> Tally {
        let mut both = self.reads.clone();
        both.merge(&self.writes);
        both
    }

    fn of(&mut self, kind: Kind) -> &mut Tally {
        match kind {
            Kind::Read => &mut self.reads,
            Kind::Write => &mut self.writes,
        }
    }
}

/// Where in the run a sample belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// A second of the window, counted from 0.
    Second(u64),
    /// After the window's end.
    Late,
}

/// What one thread counted in one period.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When the requests finished.
    pub period: Period,
    /// The requests.
    pub counts: Counts,
}

/// A request that has an outcome.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// Read or write.
    pub kind: Kind,
    /// When it should have been sent: latency counts from here.
    pub due: Moment,
    /// Open loop: when it was sent. In a closed loop a request is due when it is sent.
    pub sent: Option<Moment>,
    /// When its outcome was known.
    pub at: Moment,
    /// Bytes of value moved, or why none were.
    pub outcome: Result<u64, Failure>,
}

/// Counts the requests of one thread, second by second.
#[derive(Debug)]
pub struct Recorder {
    window_start: Moment,
    second: u64,
    current: Counts,
    late: Counts,
    ready: Vec<Sample>,
}

impl Recorder {
    /// Counts requests due from `window_start` on.
    pub fn new(window_start: Moment) -> Self {
        Self { window_start, second: 0, current: Counts::new(), late: Counts::new(), ready: Vec::new() }
    }

    /// Counts a request; `window_end` is the end as known now.
    pub fn record(&mut self, finished: Finished, window_end: Moment) {
        if finished.due < self.window_start || finished.due >= window_end {
            return;
        }
        let counts = if finished.at < window_end {
            self.roll(finished.at);
            &mut self.current
        } else {
            &mut self.late
        };
        if let Some(sent) = finished.sent {
            counts.lag.record(sent.since(finished.due));
        }
        let tally = counts.of(finished.kind);
        match finished.outcome {
            Ok(bytes) => {
                tally.latency.record(finished.at.since(finished.due));
                tally.bytes += bytes;
            }
            Err(failure) => tally.failures.add(failure, 1),
        }
    }

    /// Counts requests given up after the end.
    pub fn record_unfinished(&mut self, kind: Kind, count: u64) {
        self.late.of(kind).failures.add(Failure::Unfinished, count);
    }

    /// Closes the seconds that are over at `now`; they can then be taken.
    pub fn roll(&mut self, now: Moment) {
        let second = now.since(self.window_start).as_secs();
        while self.second < second {
            let counts = mem::replace(&mut self.current, Counts::new());
            self.ready.push(Sample { period: Period::Second(self.second), counts });
            self.second += 1;
        }
    }

    /// Takes the closed seconds, in order.
    pub fn take_ready(&mut self) -> impl Iterator<Item = Sample> + use<> {
        mem::take(&mut self.ready).into_iter()
    }

    /// Closes everything: the seconds up to `window_end`, the last perhaps cut short, and what came late.
    pub fn finish(mut self, window_end: Moment) -> impl Iterator<Item = Sample> {
        let length = window_end.since(self.window_start);
        let seconds = seconds_in(length);
        if seconds > 0 {
            self.roll(self.window_start.after(Duration::from_secs(seconds - 1)));
            self.ready.push(Sample { period: Period::Second(self.second), counts: self.current });
        }
        self.ready.push(Sample { period: Period::Late, counts: self.late });
        self.ready.into_iter()
    }
}

/// How many seconds a window touches; the last may be cut short.
pub fn seconds_in(window: Duration) -> u64 {
    crate::clock::nanos_of(window).div_ceil(NANOS_PER_SECOND)
}

#[cfg(test)]
mod tests;
