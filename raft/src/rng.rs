//! The node's only randomness: SplitMix64 from the seed it was given (Steele, Lea, Flood, OOPSLA 2014).

/// A stream of numbers that depends on the seed alone.
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`. The bias of the remainder is below 2⁻³², since `bound` has 32 bits.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "no number is below zero");
        u32::try_from(self.next_u64() % u64::from(bound)).expect("below a 32-bit bound")
    }
}
