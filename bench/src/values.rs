//! Values: incompressible bytes, and the stamp that lets a reader check them.
//!
//! Values are slices of a pool filled once: making one costs a reference count, not a copy. With
//! `--verify` a value is instead built for its key:
//!
//! ```text
//!  0        8        16        24            32                     value_size
//!  | magic  | key    | counter | pool offset | pool[offset..] ....  |
//! ```
//!
//! Invariant: the pool depends on the value size alone, not on `--seed`, so that any later run with the
//! same `--value-size` can check what an earlier one wrote.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::random::Random;

/// Bytes at the head of a stamped value; a verified value has at least these.
pub const STAMP_BYTES: usize = 32;

/// Bytes of pool beyond one value. Larger than compression windows, so that no two values close to each
/// other look alike; small enough not to drive the servers that share the machine out of its caches.
const POOL_BYTES: usize = 2 * 1024 * 1024;
/// Slices begin at a multiple of this, a cache line.
const ALIGN_BYTES: usize = 64;
const POOL_SEED: u64 = 0x52_69_6e_67_4b_56;
const MAGIC: u64 = 0x01_76_6b_67_6e_69_72_00;

/// Makes values, and checks them.
#[derive(Debug)]
pub struct Values {
    pool: Bytes,
    value_bytes: usize,
    counter: u64,
}

/// What is wrong with a value that was read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Mismatch {
    /// Not as long as the values of this run.
    #[error("value has {found} bytes instead of {expected}")]
    Length {
        /// Bytes read.
        found: usize,
        /// Bytes in every value of this run.
        expected: usize,
    },
    /// No stamp: it was written without `--verify`, or not by this program.
    #[error("value was not written with --verify")]
    NoStamp,
    /// The stamp names another key.
    #[error("value belongs to key {found}")]
    OtherKey {
        /// The key number in the stamp.
        found: u64,
    },
    /// The stamp is right and the bytes after it are not.
    #[error("value is damaged")]
    Damaged,
}

impl Values {
    /// Values of `value_bytes` bytes. Stamps count up from `first_counter`.
    pub fn new(value_bytes: usize, first_counter: u64) -> Self {
        let mut pool = vec![0; POOL_BYTES + value_bytes];
        Random::new(POOL_SEED, 0).fill(&mut pool);
        Self { pool: pool.into(), value_bytes, counter: first_counter }
    }

    /// A value, without a stamp and without a copy.
    pub fn plain(&self, random: &mut Random) -> Bytes {
        let offset = random_offset(random);
        self.pool.slice(offset..offset + self.value_bytes)
    }

    /// A value that says which key it belongs to. Values have room for a stamp.
    pub fn stamped(&mut self, key_number: u64, random: &mut Random) -> Bytes {
        let body_bytes = self.value_bytes - STAMP_BYTES;
        let offset = random_offset(random);
        let mut value = BytesMut::with_capacity(self.value_bytes);
        value.put_u64_le(MAGIC);
        value.put_u64_le(key_number);
        value.put_u64_le(self.counter);
        value.put_u64_le(offset as u64);
        value.put_slice(&self.pool[offset..offset + body_bytes]);
        self.counter = self.counter.wrapping_add(1);
        value.freeze()
    }

    /// Checks that `value` was stamped for `key_number` and is whole.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, key_number: u64, value: &[u8]) -> Result<(), Mismatch> {
        if value.len() != self.value_bytes {
            return Err(Mismatch::Length { found: value.len(), expected: self.value_bytes });
        }
        let (stamp, body) = value.split_at_checked(STAMP_BYTES).ok_or(Mismatch::NoStamp)?;
        if word(stamp, 0) != MAGIC {
            return Err(Mismatch::NoStamp);
        }
        if word(stamp, 1) != key_number {
            return Err(Mismatch::OtherKey { found: word(stamp, 1) });
        }
        let offset = usize::try_from(word(stamp, 3)).map_err(|_| Mismatch::Damaged)?;
        let end = offset.checked_add(body.len()).ok_or(Mismatch::Damaged)?;
        if self.pool.get(offset..end) == Some(body) { Ok(()) } else { Err(Mismatch::Damaged) }
    }
}

fn random_offset(random: &mut Random) -> usize {
    let lines = POOL_BYTES / ALIGN_BYTES;
    // Lossless both ways: usize has 64 bits on the only platform there is.
    random.below(lines as u64) as usize * ALIGN_BYTES
}

fn word(stamp: &[u8], index: usize) -> u64 {
    let bytes = &stamp[index * 8..][..8];
    u64::from_le_bytes(bytes.try_into().expect("a slice of eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_values_share_the_pool() {
        let values = Values::new(4096, 0);
        let mut random = Random::new(1, 0);
        let pool = values.pool.as_ptr_range();
        for _ in 0..100 {
            let value = values.plain(&mut random);
            assert_eq!(value.len(), 4096);
            assert!(pool.contains(&value.as_ptr()), "copied instead of sliced");
        }
        assert_ne!(values.plain(&mut random), values.plain(&mut random));
    }

    #[test]
    fn the_pool_does_not_repeat_a_byte_too_often() {
        let values = Values::new(0, 0);
        let mut counts = [0_u32; 256];
        values.pool.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        let expected = u32::try_from(POOL_BYTES / 256).expect("small");
        assert!(counts.iter().all(|count| count.abs_diff(expected) < expected / 12));
    }

    #[test]
    fn a_stamped_value_is_checked_by_a_later_run() {
        let mut writer = Values::new(100, 7);
        let mut random = Random::new(2, 0);
        let value = writer.stamped(12, &mut random);
        let reader = Values::new(100, 0);
        assert_eq!(reader.check(12, &value), Ok(()));
        assert_eq!(reader.check(13, &value), Err(Mismatch::OtherKey { found: 12 }));
        assert_ne!(value, writer.stamped(12, &mut random), "the counter tells writes apart");
    }

    #[test]
    fn every_flipped_bit_but_the_counters_is_noticed() {
        let mut values = Values::new(STAMP_BYTES + 65, 0);
        let mut random = Random::new(3, 0);
        let value = values.stamped(5, &mut random);
        for bit in 0..value.len() * 8 {
            let mut damaged = value.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let counter = (16..24).contains(&(bit / 8));
            assert_eq!(values.check(5, &damaged).is_err(), !counter, "bit {bit}");
        }
    }

    #[test]
    fn wrong_lengths_and_missing_stamps_are_told_apart() {
        let mut values = Values::new(STAMP_BYTES, 0);
        let mut random = Random::new(4, 0);
        let value = values.stamped(1, &mut random);
        assert_eq!(values.check(1, &value), Ok(()), "a stamp alone is a value");
        assert_eq!(values.check(1, &value[1..]), Err(Mismatch::Length { found: 31, expected: 32 }));
        assert_eq!(values.check(1, &values.plain(&mut random)), Err(Mismatch::NoStamp));
        assert_eq!(Values::new(3, 0).check(1, b"abc"), Err(Mismatch::NoStamp));
    }
}
