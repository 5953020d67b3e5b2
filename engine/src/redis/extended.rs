//! The 80-bit floating-point numbers of x86 in software: what `long double` is for the Redis that people compare with.
//!
//! INCRBYFLOAT reads its numbers with `strtold`, adds, and writes with `%.17Lf`. `f64` would give other digits already
//! for 0.1 + 0.2, and hardware that has no such numbers would give others again, so replicas could disagree. Here every
//! step is exact arithmetic on integers followed by one rounding to 64 bits, half to even.

use std::cmp::Ordering;

use num_bigint::{BigInt, BigUint, Sign};

/// A finite number: `mantissa * 2^exponent`, with at most 64 bits of mantissa.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i32,
}

/// What a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Finite(Extended),
    /// The text says infinity; a number too large is no number.
    Infinite,
}

/// Longest text that Redis reads as a number.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;
const MANTISSA_BITS: i64 = 64;
/// The exponent of the last bit of the smallest numbers.
const EXPONENT_MIN: i64 = -16445;
/// No finite number has a bit at this place or above.
const TOP_BIT_END: i64 = 16384;
/// A power of ten beyond which the digits that fit into a text make it neither finite nor other than zero.
const SCALE_MAX: i64 = 11_000;
/// Exponents as written are cut here; digits cannot make up for more.
const EXPONENT_WRITTEN_MAX: i64 = 100_000;
/// Digits after the point.
const FRACTION_DIGITS: usize = 17;

impl Extended {
    pub(super) const ZERO: Extended = Extended { negative: false, mantissa: 0, exponent: 0 };

    /// Reads what `strtold` reads, without spaces: decimal or hexadecimal, or infinity. None for what is no number, not
    /// a number, or out of range.
    pub(super) fn parse(text: &[u8]) -> Option<Parsed> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Parsed::Infinite);
        }
        let number = match digits {
            [b'0', b'x' | b'X', rest @ ..] => Digits::read(rest, 16)?.binary(negative),
            _ => Digits::read(digits, 10)?.decimal(negative),
        };
        number.map(Parsed::Finite)
    }

    /// The sum, unless it is too large.
    pub(super) fn plus(self, other: Extended) -> Option<Extended> {
        let exponent = self.exponent.min(other.exponent);
        let sum = self.scaled_to(exponent) + other.scaled_to(exponent);
        let (sign, magnitude) = sum.into_parts();
        round(sign == Sign::Minus, magnitude, exponent.into())
    }

    /// The number in units of `2^exponent`, which must not be above its own.
    fn scaled_to(self, exponent: i32) -> BigInt {
        let shift = u32::try_from(self.exponent - exponent).expect("the lesser of both exponents");
        let sign = if self.negative { Sign::Minus } else { Sign::Plus };
        BigInt::from_biguint(sign, BigUint::from(self.mantissa) << shift)
    }

    /// All digits before the point and 17 after it, rounded half to even, without trailing zeros.
    pub(super) fn to_decimal(self) -> String {
        let scaled = BigUint::from(self.mantissa) * BigUint::from(10u32).pow(FRACTION_DIGITS as u32);
        let scaled = match u64::try_from(self.exponent) {
            Ok(shift) => scaled << shift,
            Err(_) => shift_right_rounding(scaled, u64::from(self.exponent.unsigned_abs())),
        };
        let digits = format!("{scaled:0>width$}", scaled = scaled.to_string(), width = FRACTION_DIGITS + 1);
        let (whole, fraction) = digits.split_at(digits.len() - FRACTION_DIGITS);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        let is_zero = whole == "0" && fraction.is_empty();
        let sign = if self.negative && !is_zero { "-" } else { "" };
        format!("{sign}{whole}{point}{fraction}")
    }
}

/// A number as it was written: `digits * base^-fraction_digits`, times ten or two to the `exponent`.
struct Digits {
    digits: BigUint,
    fraction_digits: i64,
    exponent: i64,
}

impl Digits {
    /// Digits with or without a point, then perhaps an exponent: of ten after `e`, of two after `p`.
    fn read(text: &[u8], base: u32) -> Option<Digits> {
        let marker = if base == 10 { b'e' } else { b'p' };
        let end = text.iter().position(|byte| byte.to_ascii_lowercase() == marker).unwrap_or(text.len());
        let (number, exponent) = text.split_at(end);
        let point = number.iter().position(|&byte| byte == b'.');
        let (whole, fraction) = match point {
            Some(point) => (&number[..point], &number[point + 1..]),
            None => (number, &[][..]),
        };
        let is_digit = |byte: &u8| char::from(*byte).is_digit(base);
        let all = [whole, fraction].concat();
        if all.is_empty() || !all.iter().all(is_digit) {
            return None;
        }
        let exponent = match exponent {
            [] => 0,
            [_, sign @ (b'+' | b'-'), rest @ ..] => exponent_of(rest, *sign == b'-')?,
            [_, rest @ ..] => exponent_of(rest, false)?,
        };
        let fraction_digits = i64::try_from(fraction.len()).ok()?;
        Some(Digits { digits: BigUint::parse_bytes(&all, base)?, fraction_digits, exponent })
    }

    fn decimal(self, negative: bool) -> Option<Extended> {
        let scale = self.exponent - self.fraction_digits;
        if self.digits == BigUint::ZERO {
            return Some(Extended { negative, ..Extended::ZERO });
        }
        if scale.abs() > SCALE_MAX {
            return None;
        }
        let power = BigUint::from(10u32).pow(u32::try_from(scale.unsigned_abs()).expect("checked above"));
        if scale >= 0 {
            return nonzero(round(negative, self.digits * power, 0));
        }
        // Enough bits that the last one only says whether something follows.
        let shift = (power.bits() + 66).saturating_sub(self.digits.bits());
        let numerator = self.digits << shift;
        let quotient: BigUint = &numerator / &power;
        let is_inexact = &quotient * &power != numerator;
        let sticky = (quotient << 1u32) + u32::from(is_inexact);
        nonzero(round(negative, sticky, -i64::try_from(shift).ok()? - 1))
    }

    fn binary(self, negative: bool) -> Option<Extended> {
        if self.digits == BigUint::ZERO {
            return Some(Extended { negative, ..Extended::ZERO });
        }
        nonzero(round(negative, self.digits, self.exponent - 4 * self.fraction_digits))
    }
}

/// A number that is not zero and becomes it is out of range.
fn nonzero(number: Option<Extended>) -> Option<Extended> {
    number.filter(|number| number.mantissa != 0)
}

fn exponent_of(digits: &[u8], negative: bool) -> Option<i64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value: i64, digit| (value * 10 + i64::from(digit - b'0')).min(EXPONENT_WRITTEN_MAX));
    Some(if negative { -value } else { value })
}

/// `magnitude * 2^exponent` with 64 bits of mantissa, fewer for the smallest; none when too large.
fn round(negative: bool, magnitude: BigUint, exponent: i64) -> Option<Extended> {
    let bits = i64::try_from(magnitude.bits()).expect("some thousand bits");
    if bits == 0 {
        return Some(Extended { negative, ..Extended::ZERO });
    }
    let dropped = (bits - MANTISSA_BITS).max(EXPONENT_MIN - exponent);
    let mut mantissa = magnitude;
    let mut exponent = exponent;
    if dropped > 0 {
        mantissa = shift_right_rounding(mantissa, dropped.unsigned_abs());
        exponent += dropped;
    }
    let top = exponent + i64::try_from(mantissa.bits()).expect("at most 65");
    if top > TOP_BIT_END {
        return None;
    }
    // Rounding up may have carried into bit 64: then all bits below are zero.
    if mantissa.bits() > 64 {
        mantissa >>= 1u32;
        exponent += 1;
    }
    let mantissa = u64::try_from(&mantissa).expect("64 bits");
    let exponent = if mantissa == 0 { 0 } else { i32::try_from(exponent).expect("within the range") };
    Some(Extended { negative, mantissa, exponent })
}

/// Divided by `2^shift`, half to even.
fn shift_right_rounding(number: BigUint, shift: u64) -> BigUint {
    let quotient: BigUint = &number >> shift;
    let remainder = number - (&quotient << shift);
    let up = match remainder.cmp(&(BigUint::from(1u32) << (shift - 1))) {
        Ordering::Less => false,
        Ordering::Equal => quotient.bit(0),
        Ordering::Greater => true,
    };
    quotient + u32::from(up)
}

#[cfg(test)]
mod tests {
    use super::{Extended, Parsed};

    fn sum(one: &str, other: &str) -> Option<String> {
        let read = |text: &str| match Extended::parse(text.as_bytes()) {
            Some(Parsed::Finite(number)) => Some(number),
            _ => None,
        };
        Some(read(one)?.plus(read(other)?)?.to_decimal())
    }

    #[test]
    fn sums_have_the_digits_of_long_double() {
        let cases = [
            ("0.1", "0.2", "0.3"),
            ("3.0e3", "1.23", "3001.22999999999999998"),
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("-1e-30", "0", "0"),
            ("0x1p-1", "0X.8", "1"),
            ("17179869184", "1e-17", "17179869184"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("123456789.123456789", "0", "123456789.12345678899873747"),
        ];
        for (one, other, expected) in cases {
            assert_eq!(sum(one, other).as_deref(), Some(expected), "{one} + {other}");
        }
    }

    #[test]
    fn the_range_is_that_of_eighty_bits() {
        let largest = "1.18973149535723176502e4932";
        assert!(sum(largest, "0").is_some());
        assert_eq!(sum(largest, largest), None);
        assert_eq!(sum("1e4933", "0"), None);
        assert_eq!(sum("3.7e-4951", "0").as_deref(), Some("0"));
        assert_eq!(Extended::parse(b"1e-4952"), None);
        assert_eq!(Extended::parse(b"1e-999999999999999999999"), None);
        assert_eq!(Extended::parse(b"0e999999999999999999999"), Some(Parsed::Finite(Extended::ZERO)));
        assert_eq!(Extended::parse(b"-Infinity"), Some(Parsed::Infinite));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        let bad = [
            "", "-", "+", ".", "e5", "1e", "1e+", " 1", "1 ", "0x", "0xp1", "nan", "1.2.3", "1_0", "--1",
            "1\0",
        ];
        for text in bad {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Extended::parse(&[b'1'; 5120]), None);
    }
}
