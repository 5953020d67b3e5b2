//! Numbers as values: a value says which write it is, and is long enough to be worth storing. Bytes that no write
//! made are recognised.

use bytes::Bytes;

/// Values have up to so many bytes more than the number.
const PADDING_BYTES_MAX: u64 = 2048;

/// The value that stands for a number.
pub fn value_of(token: u64) -> Bytes {
    let mut value = format!("{token:016x}").into_bytes();
    let padding =
        usize::try_from(token.wrapping_mul(0x9E37_79B9_7F4A_7C15) % PADDING_BYTES_MAX).expect("small");
    let [filler, ..] = token.to_le_bytes();
    value.resize(value.len() + padding, filler);
    value.into()
}

/// The number a value stands for.
///
/// # Panics
/// When no write made that value: the store has damaged it.
pub fn token_of(value: &[u8]) -> u64 {
    let digits = value.get(..16).and_then(|digits| std::str::from_utf8(digits).ok());
    let token = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match token.filter(|token| value_of(*token) == value) {
        Some(token) => token,
        None => panic!("a value that nobody wrote: {:?}", String::from_utf8_lossy(value)),
    }
}
