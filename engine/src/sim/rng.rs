//! Seeded randomness: one independent stream per subsystem, so that switching a fault on or off does not change what
//! the others draw.

/// A stream of random numbers (SplitMix64: small, fast, good enough to be unkind).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream called `name` of the world `seed`.
    pub fn new(seed: u64, name: &str) -> Rng {
        let mut rng = Rng(mix(seed ^ hash_bytes(0x5eed, name.as_bytes())));
        rng.next();
        rng
    }

    /// A stream of its own, drawn from this one.
    pub fn fork(&mut self) -> Rng {
        Rng(self.next())
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True `parts` times in a million.
    pub fn chance(&mut self, parts: u64) -> bool {
        parts > 0 && self.below(1_000_000) < parts
    }

    /// True every second time.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A time around `mean`, with a long tail: between a quarter and, rarely, four times of it.
    pub fn around(&mut self, mean: u64) -> u64 {
        let quarter = (mean / 4).max(1);
        let tail = if self.below(8) == 0 { 3 * mean } else { mean };
        quarter + self.below(tail.max(1))
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    /// A position in something of `len` items.
    pub fn index(&mut self, len: usize) -> usize {
        let len = u64::try_from(len).expect("64-bit machine");
        usize::try_from(self.below(len)).expect("64-bit machine")
    }
}

/// A number that depends on all bits of `x`.
pub fn mix(x: u64) -> u64 {
    let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash that is the same in every process.
pub fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix(seed ^ u64::try_from(bytes.len()).expect("64-bit machine"));
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_reproducible_and_differ() {
        let draw = |seed, name| {
            let mut rng = Rng::new(seed, name);
            [rng.next(), rng.next()]
        };
        assert_eq!(draw(1, "disk"), draw(1, "disk"));
        assert_ne!(draw(1, "disk"), draw(1, "network"));
        assert_ne!(draw(1, "disk"), draw(2, "disk"));
    }

    #[test]
    fn numbers_stay_in_their_bounds() {
        let mut rng = Rng::new(7, "bounds");
        for _ in 0..10_000 {
            assert!((3..=5).contains(&rng.between(3, 5)));
            assert!(rng.around(1_000) >= 250);
        }
        assert!(!rng.chance(0));
        assert!(rng.chance(1_000_000));
    }

    #[test]
    fn every_byte_counts() {
        let mut hashes: Vec<u64> = (0..32u8)
            .map(|at| {
                let mut bytes = [0u8; 19];
                bytes[usize::from(at % 19)] = 1 + at / 19;
                hash_bytes(0, &bytes)
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 32);
    }
}
