//! Latencies, counted in a histogram of high dynamic range (hdrhistogram): three significant digits from
//! one microsecond to an hour, constant memory, exact under merging.

use std::time::Duration;

use hdrhistogram::Histogram;

const MICROS_MAX: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// A count of latencies.
#[derive(Debug, Clone)]
pub struct LatencyHistogram {
    micros: Histogram<u64>,
}

/// The figures taken from a histogram, in microseconds; all zero if it is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// Half of the latencies are at most this.
    pub p50: u64,
    /// 90 % are at most this.
    pub p90: u64,
    /// 99 % are at most this.
    pub p99: u64,
    /// 99.9 % are at most this.
    pub p999: u64,
    /// All are at most this.
    pub max: u64,
}

impl LatencyHistogram {
    /// An empty histogram.
    pub fn new() -> Self {
        let micros = Histogram::new_with_bounds(1, MICROS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that hdrhistogram accepts");
        Self { micros }
    }

    /// Counts one latency, to the nearest microsecond. More than an hour counts as an hour.
    pub fn record(&mut self, latency: Duration) {
        let micros = (latency.as_nanos() + 500) / 1_000;
        self.micros.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
    }

    /// Adds the latencies of `other`.
    pub fn merge(&mut self, other: &Self) {
        // An empty histogram still costs a walk through all its buckets.
        if !other.micros.is_empty() {
            self.micros.add(&other.micros).expect("all histograms have the same bounds");
        }
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.micros.len()
    }

    /// The percentiles; each is the upper edge of the bucket it falls in, so never too small.
    pub fn percentiles(&self) -> Percentiles {
        if self.micros.is_empty() {
            return Percentiles::default();
        }
        Percentiles {
            p50: self.micros.value_at_quantile(0.5),
            p90: self.micros.value_at_quantile(0.9),
            p99: self.micros.value_at_quantile(0.99),
            p999: self.micros.value_at_quantile(0.999),
            max: self.micros.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_micros(values: impl IntoIterator<Item = u64>) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::new();
        values.into_iter().for_each(|micros| histogram.record(Duration::from_micros(micros)));
        histogram
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let figures = of_micros(1..=1_000).percentiles();
        assert_eq!(figures, Percentiles { p50: 500, p90: 900, p99: 990, p999: 999, max: 1_000 });
    }

    #[test]
    fn percentiles_are_within_a_thousandth_and_ordered() {
        let figures = of_micros((1..=100_000).map(|value| value * 100)).percentiles();
        for (found, exact) in [(figures.p50, 5_000_000), (figures.p99, 9_900_000), (figures.max, 10_000_000)]
        {
            assert!(found >= exact && found - exact <= exact / 1_000, "{found} for {exact}");
        }
        assert!(figures.p50 <= figures.p90 && figures.p90 <= figures.p99);
        assert!(figures.p99 <= figures.p999 && figures.p999 <= figures.max);
    }

    #[test]
    fn merging_equals_counting_together() {
        let mut merged = of_micros((1..5_000).step_by(2));
        merged.merge(&of_micros((2..5_000).step_by(2)));
        merged.merge(&LatencyHistogram::new());
        assert_eq!(merged.percentiles(), of_micros(1..5_000).percentiles());
        assert_eq!(merged.count(), 4_999);
    }

    #[test]
    fn nanoseconds_round_and_extremes_saturate() {
        let mut histogram = LatencyHistogram::new();
        histogram.record(Duration::from_nanos(1_499));
        assert_eq!(histogram.percentiles().max, 1);
        histogram.record(Duration::from_nanos(1_500));
        assert_eq!(histogram.percentiles().max, 2);
        histogram.record(Duration::MAX);
        let max = histogram.percentiles().max;
        assert!((MICROS_MAX..MICROS_MAX + MICROS_MAX / 1_000).contains(&max), "{max}");
        assert_eq!(LatencyHistogram::new().percentiles(), Percentiles::default());
    }
}
