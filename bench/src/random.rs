//! Seeded randomness: xoshiro256++ (Blackman and Vigna, 2018), seeded by SplitMix64.
//!
//! Written here because it is forty lines, fast enough to fill megabytes, and its sequence is part of the
//! product: the same `--seed` asks for the same keys in every version.

/// A generator; equal seeds give equal sequences.
#[derive(Debug, Clone)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The generator number `stream` of `seed`; streams of one seed are unrelated.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut mix = SplitMix(seed);
        let mut mix = SplitMix(mix.next() ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        Self { state: [mix.next(), mix.next(), mix.next(), mix.next()] }
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        let state = &mut self.state;
        let result = state[0].wrapping_add(state[3]).rotate_left(23).wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`; `bound` is not zero. By multiplication: the bias is below `bound / 2^64`.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0);
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of a product of 64-bit numbers")
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        // Exact: 53 bits fit a double's significand.
        (self.next() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Fills `bytes`; the bytes do not compress.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): turns any seed, zero too, into a good state.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_matches_its_reference_sequence() {
        // First outputs of the reference implementation for the seed 1234567.
        let mut mix = SplitMix(1_234_567);
        assert_eq!(mix.next(), 6_457_827_717_110_365_317);
        assert_eq!(mix.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn xoshiro_matches_its_reference_sequence() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let first: Vec<u64> = (0..4).map(|_| random.next()).collect();
        assert_eq!(first, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn equal_seeds_agree_and_streams_differ() {
        let draw = |seed, stream| {
            let mut random = Random::new(seed, stream);
            (0..8).map(|_| random.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5, 0), draw(5, 0));
        assert_ne!(draw(5, 0), draw(5, 1));
        assert_ne!(draw(5, 0), draw(6, 0));
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut random = Random::new(1, 0);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            let drawn = usize::try_from(random.below(10)).expect("small");
            counts[drawn] += 1;
        }
        // Expected 10,000 each with a deviation of 95: six of them is a failure of the generator.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 570), "{counts:?}");
    }

    #[test]
    fn fill_reaches_every_byte_of_odd_lengths() {
        let mut random = Random::new(9, 0);
        for length in 0..40 {
            let mut seen = vec![0_u8; length];
            for _ in 0..16 {
                let mut bytes = vec![0_u8; length];
                random.fill(&mut bytes);
                seen.iter_mut().zip(&bytes).for_each(|(all, byte)| *all |= byte);
            }
            assert!(seen.iter().all(|byte| *byte != 0), "a byte of {length} was never written");
        }
    }
}
