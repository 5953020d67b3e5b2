//! Zipf-distributed ranks in constant time and memory, whatever the size of the key space.
//!
//! Rejection-inversion (W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from
//! monotone discrete distributions", ACM TOMACS 6(3), 1996). The density h(x) = x^-e is integrated in
//! closed form, inverted at a uniform point, rounded to a rank, and rejected where the step lies outside
//! the histogram; less than one draw in ten is rejected for the exponents in use.

use crate::random::Random;

/// Draws ranks `1..=count` with probability proportional to `rank^-exponent`.
#[derive(Debug, Clone)]
pub struct Zipf {
    count: u64,
    exponent: f64,
    integral_of_first: f64,
    integral_of_last: f64,
    /// Ranks this close above their inverted point are accepted without evaluating the density.
    shortcut: f64,
}

impl Zipf {
    /// A distribution over `1..=count`; `count` is not zero, `exponent` finite and not negative.
    pub fn new(count: u64, exponent: f64) -> Self {
        assert!(count > 0 && exponent.is_finite() && exponent >= 0.0, "zipf over {count} with {exponent}");
        // Exact up to 2^53; the key space ends at 10^12.
        let last = count as f64;
        Self {
            count,
            exponent,
            integral_of_first: integral(1.5, exponent) - 1.0,
            integral_of_last: integral(last + 0.5, exponent),
            shortcut: 2.0 - inverse_integral(integral(2.5, exponent) - density(2.0, exponent), exponent),
        }
    }

    /// The next rank, in `1..=count`; 1 is the most frequent.
    pub fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let point =
                self.integral_of_last + random.unit() * (self.integral_of_first - self.integral_of_last);
            let inverted = inverse_integral(point, self.exponent);
            // A cast from float saturates; the clamp takes care of the rounding at both ends.
            let rank = ((inverted + 0.5) as u64).clamp(1, self.count);
            let center = rank as f64;
            if center - inverted <= self.shortcut
                || point >= integral(center + 0.5, self.exponent) - density(center, self.exponent)
            {
                return rank;
            }
        }
    }
}

/// h(x) = x^-e.
fn density(x: f64, exponent: f64) -> f64 {
    (-exponent * x.ln()).exp()
}

/// H(x), an antiderivative of h: (x^(1-e) - 1) / (1 - e), and ln x where e is 1. Written with `exp_m1`
/// so that it is smooth through e = 1.
fn integral(x: f64, exponent: f64) -> f64 {
    let ln = x.ln();
    let power = (1.0 - exponent) * ln;
    if power.abs() > 1e-8 { power.exp_m1() / power * ln } else { ln * (1.0 + power / 2.0) }
}

/// The inverse of [`integral`].
fn inverse_integral(y: f64, exponent: f64) -> f64 {
    // Rounding may carry the argument of ln_1p below its domain for large exponents.
    let scaled = (y * (1.0 - exponent)).max(-1.0);
    let ln = if scaled.abs() > 1e-8 { scaled.ln_1p() / scaled * y } else { y * (1.0 - scaled / 2.0) };
    ln.exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares draws with the exact probabilities by the chi-squared statistic; ranks whose expectation
    /// is small are pooled.
    fn chi_squared(count: u64, exponent: f64, draws: u32) -> (f64, f64) {
        let zipf = Zipf::new(count, exponent);
        let mut random = Random::new(42, count);
        let mut seen = vec![0_u32; usize::try_from(count).expect("small")];
        for _ in 0..draws {
            let rank = zipf.rank(&mut random);
            assert!((1..=count).contains(&rank));
            seen[usize::try_from(rank - 1).expect("small")] += 1;
        }
        let weights: Vec<f64> = (1..=count).map(|rank| (rank as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        let (mut statistic, mut cells) = (0.0, 0.0);
        let (mut pooled_expected, mut pooled_seen) = (0.0, 0.0);
        for (weight, seen) in weights.iter().zip(&seen) {
            pooled_expected += weight / sum * f64::from(draws);
            pooled_seen += f64::from(*seen);
            if pooled_expected >= 20.0 {
                statistic += (pooled_seen - pooled_expected).powi(2) / pooled_expected;
                cells += 1.0;
                (pooled_expected, pooled_seen) = (0.0, 0.0);
            }
        }
        (statistic, cells)
    }

    #[test]
    fn frequencies_are_exact() {
        for exponent in [0.0, 0.5, 0.99, 1.0, 1.5, 3.0] {
            for count in [2, 3, 10, 1_000] {
                let (statistic, cells) = chi_squared(count, exponent, 400_000);
                // Mean cells - 1, variance twice that: five deviations, and the seed is fixed.
                let limit = cells + 5.0 * (2.0 * cells).sqrt();
                assert!(statistic < limit, "e={exponent} n={count}: {statistic} of {limit}");
            }
        }
    }

    #[test]
    fn the_statistic_notices_a_wrong_exponent() {
        let zipf = Zipf::new(100, 0.9);
        let mut random = Random::new(42, 0);
        let draws = 400_000;
        let first = (0..draws).filter(|_| zipf.rank(&mut random) == 1).count() as f64;
        let sum: f64 = (1..=100).map(|rank| f64::from(rank).powf(-0.99)).sum();
        let expected = f64::from(draws) / sum;
        assert!((first - expected).powi(2) / expected > 100.0);
    }

    #[test]
    fn one_key_is_always_that_key() {
        let zipf = Zipf::new(1, 0.99);
        let mut random = Random::new(0, 0);
        assert!((0..1_000).all(|_| zipf.rank(&mut random) == 1));
    }

    #[test]
    fn the_largest_key_space_stays_in_range() {
        let count = 1_000_000_000_000;
        for exponent in [0.0, 0.99, 10.0] {
            let zipf = Zipf::new(count, exponent);
            let mut random = Random::new(3, 0);
            for _ in 0..10_000 {
                assert!((1..=count).contains(&zipf.rank(&mut random)));
            }
        }
    }

    #[test]
    fn integral_and_inverse_agree() {
        for exponent in [0.0, 0.5, 0.99, 1.0 - 1e-12, 1.0, 1.0 + 1e-12, 2.0] {
            for x in [0.5, 1.0, 1.5, 10.0, 1e6, 1e12] {
                let back = inverse_integral(integral(x, exponent), exponent);
                let error = (back - x).abs() / x;
                assert!(error < 1e-3, "e={exponent} x={x}: {back}");
            }
        }
    }
}
