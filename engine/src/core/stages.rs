//! How long the stages of a write take: counters by power of two, which cost no allocation and no lock.
//!
//! ```text
//!   proposed ──replicate──▶ committed ──queue──▶ with the apply thread ──apply──▶ applied
//!      └─────────wal: each batch of the log, from its start until it is on the disk
//! ```

use raft::Nanos;
use serde::Serialize;

/// Buckets: up to 1 µs, 2 µs, 4 µs, …, and one for all that took longer.
pub const BUCKETS: usize = 28;

/// Durations of one stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Durations {
    /// How many took up to 2^i µs but more than the bucket before; the last one has no bound.
    pub buckets: [u64; BUCKETS],
    /// How many there were.
    pub count: u64,
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// The upper bound of a bucket, in microseconds; `None`: it has none.
    pub fn bound_us(bucket: usize) -> Option<u64> {
        (bucket + 1 < BUCKETS).then(|| 1 << bucket)
    }

    /// The bucket of a duration.
    pub fn bucket_of(us: u64) -> usize {
        let bits = u64::BITS - us.saturating_sub(1).leading_zeros();
        usize::try_from(bits).expect("at most 64").min(BUCKETS - 1)
    }

    /// Takes one in.
    pub fn record(&mut self, from: Nanos, to: Nanos) {
        let us = to.since(from).0.div_ceil(1000);
        self.buckets[Self::bucket_of(us)] += 1;
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// Durations of the stages, over all shards of a core.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stages {
    /// From the proposal of an entry, on its leader, until it is committed.
    pub replicate: Durations,
    /// From when entries of a shard are committed until the apply thread gets the first of them.
    pub queue: Durations,
    /// From when the apply thread is given a task until it is done.
    pub apply: Durations,
    /// From when the log begins to write a batch until it is on the disk.
    pub wal: Durations,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_bucket_whose_bound_they_reach() {
        let mut all = Durations::default();
        let at = |us: u64| Nanos(us * 1000);
        for us in [0, 1, 2, 3, 4, 5, 1 << 26, (1 << 26) + 1, u64::MAX / 1000] {
            all.record(Nanos(0), at(us));
        }
        assert_eq!(all.buckets[..4], [2, 1, 2, 1]);
        assert_eq!(all.buckets[BUCKETS - 2..], [1, 2]);
        assert_eq!(all.count, 9);
        all.record(at(5), at(3));
        assert_eq!(all.buckets[0], 3, "a clock that stands still took no time");
        for bucket in 0..BUCKETS - 1 {
            let bound = Durations::bound_us(bucket).expect("it has one");
            let mut one = Durations::default();
            one.record(Nanos(0), at(bound));
            assert_eq!(one.buckets[bucket], 1, "bound {bound}");
        }
        assert_eq!(Durations::bound_us(BUCKETS - 1), None);
    }
}
