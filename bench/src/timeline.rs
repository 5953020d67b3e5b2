//! The run as a whole: the samples of all threads, added up second by second.
//!
//! Invariant: a second becomes a [`Row`] once every thread has passed it on, and its histogram is then
//! folded into the total; memory does not grow with the rate, and by one row a second.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::histogram::Percentiles;
use crate::sample::{Counts, Period, Sample, Tally};

/// One second of the run, over all threads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Which second of the window, from 0.
    pub second: u64,
    /// Successful requests that finished in it.
    pub completed: u64,
    /// Failed requests that finished in it.
    pub errors: u64,
    /// Bytes of value moved.
    pub bytes: u64,
    /// Latencies of the successful requests, in microseconds.
    pub latency: Percentiles,
}

impl Row {
    fn of(second: u64, tally: &Tally) -> Self {
        Self {
            second,
            completed: tally.latency.count(),
            errors: tally.failures.total(),
            bytes: tally.bytes,
            latency: tally.latency.percentiles(),
        }
    }

    /// The part of this second that lies in a window of this length.
    pub fn length(&self, window: Duration) -> Duration {
        window.saturating_sub(Duration::from_secs(self.second)).min(Duration::from_secs(1))
    }
}

/// Adds up samples.
#[derive(Debug)]
pub struct Timeline {
    threads: u32,
    open: BTreeMap<u64, (Counts, u32)>,
    rows: Vec<Row>,
    inside: Counts,
    late: Counts,
}

/// Everything that was counted.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Requests that finished inside the window.
    pub inside: Counts,
    /// Requests that were due inside the window and finished after it.
    pub late: Counts,
    /// The seconds of the window.
    pub rows: Vec<Row>,
}

impl Timeline {
    /// A timeline of samples from `threads` threads.
    pub fn new(threads: u32) -> Self {
        Self { threads, open: BTreeMap::new(), rows: Vec::new(), inside: Counts::new(), late: Counts::new() }
    }

    /// Adds a sample; returns the row if it was the last one of its second.
    pub fn add(&mut self, sample: &Sample) -> Option<Row> {
        let second = match sample.period {
            Period::Late => {
                self.late.merge(&sample.counts);
                return None;
            }
            Period::Second(second) => second,
        };
        let (counts, reported) = self.open.entry(second).or_insert_with(|| (Counts::new(), 0));
        counts.merge(&sample.counts);
        *reported += 1;
        if *reported < self.threads {
            return None;
        }
        let (counts, _) = self.open.remove(&second)?;
        Some(self.close(second, &counts))
    }

    /// Closes what is open: some threads may have ended early.
    pub fn finish(mut self, window: Duration) -> Totals {
        while let Some((second, (counts, _))) = self.open.pop_first() {
            self.close(second, &counts);
        }
        self.rows.sort_by_key(|row| row.second);
        // An interrupt moves the end to a moment some thread may already have passed.
        self.rows.retain(|row| !row.length(window).is_zero());
        Totals { inside: self.inside, late: self.late, rows: self.rows }
    }

    fn close(&mut self, second: u64, counts: &Counts) -> Row {
        self.inside.merge(counts);
        let row = Row::of(second, &counts.both());
        self.rows.push(row);
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::sample::{Failure, Finished, Recorder};
    use crate::workload::Kind;

    const SECOND: u64 = 1_000_000_000;

    fn thread(finished_at: &[u64], window: u64) -> Vec<Sample> {
        let end = Moment::from_nanos(window);
        let mut recorder = Recorder::new(Moment::ORIGIN);
        for at in finished_at {
            let at = Moment::from_nanos(*at);
            let due = Moment::from_nanos(at.nanos() - 1_000);
            recorder.record(Finished { kind: Kind::Read, due, sent: None, at, outcome: Ok(100) }, end);
            let outcome = Err(Failure::Timeout);
            recorder.record(Finished { kind: Kind::Write, due, sent: None, at, outcome }, end);
        }
        recorder.finish(end).collect()
    }

    #[test]
    fn a_row_appears_when_every_thread_has_reported() {
        let mut timeline = Timeline::new(2);
        let window = 2 * SECOND;
        let (first, second) =
            (thread(&[1_000, SECOND + 5], window), thread(&[2_000, 3_000, window + 10], window));
        assert_eq!(timeline.add(&first[0]), None);
        assert_eq!(timeline.add(&first[1]), None);
        let row = timeline.add(&second[0]).expect("both have reported second 0");
        assert_eq!((row.second, row.completed, row.errors, row.bytes), (0, 3, 3, 300));
        assert_eq!(row.latency.max, 1);
        assert_eq!(timeline.add(&second[1]).expect("second 1").completed, 1);
        assert_eq!(timeline.add(&second[2]), None);
        let totals = timeline.finish(Duration::from_nanos(window));
        assert_eq!(totals.rows.len(), 2);
        assert_eq!((totals.inside.reads.requests(), totals.inside.writes.requests()), (4, 4));
        assert_eq!((totals.late.reads.requests(), totals.late.writes.requests()), (1, 1));
    }

    #[test]
    fn finishing_does_not_wait_for_a_thread_that_ended() {
        let mut timeline = Timeline::new(2);
        for sample in thread(&[1_000, SECOND + 5], 2 * SECOND) {
            assert_eq!(timeline.add(&sample), None);
        }
        let totals = timeline.finish(Duration::from_secs(2));
        assert_eq!(totals.rows.iter().map(|row| row.completed).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(totals.inside.reads.bytes, 200);
    }

    #[test]
    fn a_second_past_an_interrupted_window_is_no_row() {
        let mut timeline = Timeline::new(1);
        for sample in thread(&[1_000], 3 * SECOND) {
            timeline.add(&sample);
        }
        let window = Duration::from_millis(1_500);
        let totals = timeline.finish(window);
        let lengths: Vec<_> = totals.rows.iter().map(|row| row.length(window)).collect();
        assert_eq!(lengths, [Duration::from_secs(1), Duration::from_millis(500)]);
    }
}
