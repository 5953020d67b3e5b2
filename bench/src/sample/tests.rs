//! What is counted, and where.

use super::*;

const SECOND: u64 = NANOS_PER_SECOND;

fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

fn write(due: u64, finished: u64) -> Finished {
    Finished { kind: Kind::Write, due: at(due), sent: None, at: at(finished), outcome: Ok(10) }
}

fn failed(failure: Failure, finished: u64) -> Finished {
    Finished { kind: Kind::Read, due: at(finished), sent: None, at: at(finished), outcome: Err(failure) }
}

fn per_period(samples: impl IntoIterator<Item = Sample>) -> Vec<(Period, u64)> {
    samples.into_iter().map(|sample| (sample.period, sample.counts.both().requests())).collect()
}

#[test]
fn requests_count_by_when_they_were_due() {
    let (start, end) = (at(10 * SECOND), at(12 * SECOND));
    let mut recorder = Recorder::new(start);
    recorder.record(write(10 * SECOND - 1, 10 * SECOND + 5), end);
    recorder.record(write(10 * SECOND, 10 * SECOND + 5), end);
    recorder.record(write(12 * SECOND - 1, 12 * SECOND), end);
    recorder.record(write(12 * SECOND, 12 * SECOND + 1), end);
    let periods = per_period(recorder.finish(end));
    assert_eq!(periods, [(Period::Second(0), 1), (Period::Second(1), 0), (Period::Late, 1)]);
}

#[test]
fn latency_counts_from_the_due_moment_not_from_the_sending() {
    let end = at(100 * SECOND);
    let mut recorder = Recorder::new(at(0));
    // Three requests due one second apart, all stuck until the fifth second.
    for due in 0..3 {
        recorder.record(write(due * SECOND, 5 * SECOND), end);
    }
    recorder.roll(at(6 * SECOND));
    let samples: Vec<_> = recorder.take_ready().collect();
    let figures = samples[5].counts.writes.latency.percentiles();
    assert!(figures.max >= 5_000_000 && figures.max < 5_010_000, "{figures:?}");
    assert!(figures.p50 >= 4_000_000 && figures.p50 < 4_010_000, "{figures:?}");
}

#[test]
fn lag_is_the_part_of_latency_before_the_sending() {
    let end = at(SECOND);
    let mut recorder = Recorder::new(at(0));
    recorder.record(Finished { sent: Some(at(400_000)), ..write(100_000, 900_000) }, end);
    recorder.record(write(100_000, 900_000), end);
    let samples: Vec<_> = recorder.finish(end).collect();
    let counts = &samples[0].counts;
    assert_eq!((counts.lag.count(), counts.lag.percentiles().max), (1, 300));
    assert_eq!(counts.writes.latency.percentiles().max, 800);
}

#[test]
fn a_second_without_requests_is_passed_on_too() {
    let end = at(10 * SECOND);
    let mut recorder = Recorder::new(at(0));
    recorder.record(write(0, 1), end);
    recorder.record(write(1, 3 * SECOND), end);
    assert_eq!(
        per_period(recorder.take_ready()),
        [(Period::Second(0), 1), (Period::Second(1), 0), (Period::Second(2), 0)]
    );
    recorder.roll(at(4 * SECOND));
    assert_eq!(per_period(recorder.take_ready()), [(Period::Second(3), 1)]);
    assert_eq!(per_period(recorder.take_ready()), []);
}

#[test]
fn finishing_closes_every_second_once() {
    for (nanos, seconds) in [(0, 0), (1, 1), (SECOND, 1), (SECOND + 1, 2), (5 * SECOND / 2, 3)] {
        for rolled in [0, nanos / 2, nanos, nanos.saturating_sub(1)] {
            let end = at(nanos);
            let mut recorder = Recorder::new(at(0));
            // The recorder is only rolled inside the window, as the driver does.
            recorder.roll(at(rolled.min(nanos.saturating_sub(1))));
            let mut periods: Vec<Period> = recorder.take_ready().map(|sample| sample.period).collect();
            periods.extend(recorder.finish(end).map(|sample| sample.period));
            let expected: Vec<Period> = (0..seconds).map(Period::Second).chain([Period::Late]).collect();
            assert_eq!(periods, expected, "window of {nanos} ns, rolled at {rolled}");
        }
    }
}

#[test]
fn failures_are_requests_without_a_latency() {
    let end = at(SECOND);
    let mut recorder = Recorder::new(at(0));
    recorder.record(failed(Failure::Busy, 1), end);
    recorder.record(failed(Failure::Busy, 2), end);
    recorder.record(failed(Failure::WrongValue, 3), end);
    recorder.record(write(4, 5), end);
    recorder.record_unfinished(Kind::Read, 7);
    let samples: Vec<_> = recorder.finish(end).collect();
    let both = samples[0].counts.both();
    assert_eq!((both.requests(), both.latency.count(), both.bytes), (4, 1, 10));
    let kinds: Vec<_> = both.failures.iter().collect();
    assert_eq!(kinds, [(Failure::Busy, 2), (Failure::WrongValue, 1)]);
    assert_eq!(samples[1].counts.reads.failures.total(), 7);
    assert_eq!(samples[0].counts.writes.failures.total(), 0);
}

#[test]
fn an_end_that_moves_earlier_drops_what_was_due_after_it() {
    let mut recorder = Recorder::new(at(0));
    recorder.record(write(0, 1), at(9 * SECOND));
    // Interrupted at half a second: what is in flight counts as late.
    let end = at(SECOND / 2);
    recorder.record(write(2, SECOND), end);
    recorder.record(write(SECOND / 2, SECOND), end);
    assert_eq!(per_period(recorder.finish(end)), [(Period::Second(0), 1), (Period::Late, 1)]);
}

#[test]
fn failure_indices_match_their_table() {
    for (index, failure) in Failure::ALL.into_iter().enumerate() {
        assert_eq!(failure as usize, index);
    }
}
