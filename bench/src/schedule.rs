//! Open-loop pacing: when each request is due, whatever the cluster does.
//!
//! Pure functions of time. Request `i` of the whole run is due at `load + i / rate`, computed from `i`
//! each time, so that no error adds up. Thread `t` of `n` takes requests `t`, `t + n`, `t + 2n` and so on.
//!
//! Invariant: a request that could not be sent when it was due stays due. Its latency counts from then,
//! which is what keeps coordinated omission out of the figures.

use std::num::NonZeroU64;

use crate::clock::Moment;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Requests a second over all clients, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(NonZeroU64);

impl Rate {
    /// A rate, unless it is zero.
    pub fn per_second(requests: u64) -> Option<Self> {
        NonZeroU64::new(requests).map(Self)
    }

    /// Requests a second.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

/// One thread's share of the run's requests, and how far it has come.
#[derive(Debug, Clone)]
pub struct Schedule {
    load: Moment,
    rate: Rate,
    thread: u64,
    threads: u64,
    taken: u64,
}

impl Schedule {
    /// The share of thread `thread` of `threads`; the first request of the run is due at `load`.
    pub fn new(load: Moment, rate: Rate, thread: u32, threads: u32) -> Self {
        assert!(thread < threads, "thread {thread} of {threads}");
        Self { load, rate, thread: u64::from(thread), threads: u64::from(threads), taken: 0 }
    }

    /// When the next request of this thread is due.
    pub fn next_due(&self) -> Moment {
        self.due(self.taken)
    }

    /// Takes the next request if it is due by `now` and was due before `end`; says when it was due.
    pub fn take(&mut self, now: Moment, end: Moment) -> Option<Moment> {
        let due = self.next_due();
        if due > now || due >= end {
            return None;
        }
        self.taken += 1;
        Some(due)
    }

    /// Requests of this thread due in `from..to` that were not taken.
    pub fn untaken(&self, from: Moment, to: Moment) -> u64 {
        let first = self.count_before(from).max(self.taken);
        self.count_before(to).saturating_sub(first)
    }

    /// Requests due by `now` and not taken.
    pub fn backlog(&self, now: Moment) -> u64 {
        self.count_before(now.after(std::time::Duration::from_nanos(1))).saturating_sub(self.taken)
    }

    /// When this thread's request number `count` is due.
    fn due(&self, count: u64) -> Moment {
        let index = u128::from(count) * u128::from(self.threads) + u128::from(self.thread);
        let offset = index * NANOS_PER_SECOND / u128::from(self.rate.get());
        let nanos = u128::from(self.load.nanos()) + offset;
        u64::try_from(nanos).map_or(Moment::NEVER, Moment::from_nanos)
    }

    /// How many of this thread's requests are due before `moment`: the inverse of `due`.
    fn count_before(&self, moment: Moment) -> u64 {
        let elapsed = u128::from(moment.nanos().saturating_sub(self.load.nanos()));
        // floor(index * S / rate) < elapsed  <=>  index * S < elapsed * rate  <=>  index < ceil(elapsed * rate / S)
        let of_all = (elapsed * u128::from(self.rate.get())).div_ceil(NANOS_PER_SECOND);
        let of_this = of_all.saturating_sub(u128::from(self.thread)).div_ceil(u128::from(self.threads));
        u64::try_from(of_this).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(nanos: u64) -> Moment {
        Moment::from_nanos(nanos)
    }

    fn rate(requests: u64) -> Rate {
        Rate::per_second(requests).expect("not zero")
    }

    #[test]
    fn requests_are_due_at_exact_intervals_without_drift() {
        let mut schedule = Schedule::new(at(500), rate(3), 0, 1);
        let far = at(u64::MAX - 1);
        let due: Vec<u64> =
            (0..7).map(|_| schedule.take(far, Moment::NEVER).expect("due").nanos() - 500).collect();
        assert_eq!(
            due,
            [0, 333_333_333, 666_666_666, 1_000_000_000, 1_333_333_333, 1_666_666_666, 2_000_000_000]
        );
        for _ in 7..3_000_000 {
            schedule.take(far, Moment::NEVER).expect("due");
        }
        assert_eq!(schedule.next_due(), at(500 + 1_000_000 * 1_000_000_000));
    }

    #[test]
    fn nothing_is_taken_early_or_after_the_end() {
        let mut schedule = Schedule::new(at(0), rate(1_000_000), 0, 1);
        let end = at(2_000);
        assert_eq!(schedule.take(at(0), end), Some(at(0)));
        assert_eq!(schedule.take(at(999), end), None);
        assert_eq!(schedule.take(at(1_000), end), Some(at(1_000)));
        assert_eq!(schedule.take(at(9_000), end), None, "due at the end is past it");
    }

    #[test]
    fn a_stall_leaves_the_requests_due_when_they_were() {
        let mut schedule = Schedule::new(at(0), rate(1_000_000), 0, 1);
        // Nothing could be sent for 5 µs: the six requests due until then keep their times.
        let now = at(5_000);
        assert_eq!(schedule.backlog(now), 6);
        let due: Vec<_> = std::iter::from_fn(|| schedule.take(now, Moment::NEVER)).collect();
        assert_eq!(due, [at(0), at(1_000), at(2_000), at(3_000), at(4_000), at(5_000)]);
        assert_eq!(now.since(due[0]), Duration::from_micros(5));
        assert_eq!(schedule.backlog(now), 0);
    }

    #[test]
    fn threads_share_the_requests_of_one_run() {
        let mut all: Vec<Moment> = Vec::new();
        for thread in 0..3 {
            let mut schedule = Schedule::new(at(10), rate(7_000), thread, 3);
            all.extend(std::iter::from_fn(|| schedule.take(Moment::NEVER, at(1_000_000_010))));
        }
        all.sort();
        let mut alone = Schedule::new(at(10), rate(7_000), 0, 1);
        let expected: Vec<_> = std::iter::from_fn(|| alone.take(Moment::NEVER, at(1_000_000_010))).collect();
        assert_eq!(all.len(), 7_000);
        assert_eq!(all, expected);
    }

    #[test]
    fn untaken_counts_exactly_the_window() {
        for (per_second, threads) in [(3, 1), (7, 2), (1_000, 3), (999_983, 4)] {
            for thread in 0..threads {
                let mut schedule = Schedule::new(at(123), rate(per_second), thread, threads);
                let (from, to) = (at(400_000_000), at(1_300_000_001));
                for taken in [0_u64, 1, 5, 200] {
                    while schedule.taken < taken {
                        schedule.take(Moment::NEVER, Moment::NEVER).expect("endless");
                    }
                    let mut walk = schedule.clone();
                    let counted = std::iter::from_fn(|| walk.take(Moment::NEVER, to))
                        .filter(|due| *due >= from)
                        .count();
                    assert_eq!(schedule.untaken(from, to), u64::try_from(counted).expect("small"));
                }
            }
        }
    }

    #[test]
    fn a_rate_of_zero_is_no_rate() {
        assert_eq!(Rate::per_second(0), None);
    }
}
