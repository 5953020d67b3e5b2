//! Keys: `key:` and twelve decimal digits, sixteen bytes whatever the number.
//!
//! Keys are written one after another into blocks, and handed out as slices of them: one allocation
//! serves thousands of requests. A block is freed when the last of its keys is.

use bytes::{Bytes, BytesMut};

/// Bytes in every key.
pub const KEY_BYTES: usize = PREFIX.len() + DIGITS;

const PREFIX: &[u8] = b"key:";
const DIGITS: usize = 12;
const KEYS_PER_BLOCK: usize = 4096;

/// Makes keys of their numbers.
#[derive(Debug, Default)]
pub struct Keys {
    block: BytesMut,
}

impl Keys {
    /// The key of `number`, which has at most twelve digits.
    pub fn key(&mut self, number: u64) -> Bytes {
        if self.block.capacity() < KEY_BYTES {
            self.block = BytesMut::with_capacity(KEYS_PER_BLOCK * KEY_BYTES);
        }
        self.block.extend_from_slice(&format_key(number));
        self.block.split().freeze()
    }
}

fn format_key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[PREFIX.len()..].iter_mut().rev() {
        // The remainder of ten fits a byte.
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    assert_eq!(rest, 0, "key number {number} has more than {DIGITS} digits");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_fixed_width() {
        let mut keys = Keys::default();
        assert_eq!(keys.key(12_345), "key:000000012345");
        assert_eq!(keys.key(0), "key:000000000000");
        assert_eq!(keys.key(999_999_999_999), "key:999999999999");
    }

    #[test]
    #[should_panic(expected = "more than 12 digits")]
    fn a_number_that_does_not_fit_is_a_bug() {
        Keys::default().key(1_000_000_000_000);
    }

    #[test]
    fn keys_of_one_block_lie_side_by_side_and_outlive_it() {
        let mut keys = Keys::default();
        let count = KEYS_PER_BLOCK + 2;
        let all: Vec<Bytes> = (0..count).map(|number| keys.key(number as u64)).collect();
        assert_eq!(all[1].as_ptr() as usize - all[0].as_ptr() as usize, KEY_BYTES);
        drop(keys);
        for (number, key) in all.iter().enumerate() {
            assert_eq!(key, format!("key:{number:012}").as_bytes());
        }
    }
}
