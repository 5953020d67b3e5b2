//! Redis' own form of a string value, as DUMP gives it and RESTORE takes it.
//!
//! ```text
//!   0 | string | version u16 | CRC-64 of all before u64        little-endian
//!       string = length, bytes
//!              | 0xC0 i8 | 0xC1 i16 | 0xC2 i32                 an integer, little-endian
//!              | 0xC3 length of the compressed, length, LZF
//!       length = 00 + 6 bits | 01 + 14 bits | 0x80 u32 | 0x81 u64   big-endian
//! ```
//!
//! Written as version 10 (Redis 7.0), without compression; every version up to 10 is read. Restoring one that holds
//! anything but a string is refused as bad data.

use bytes::Bytes;
use crc::{CRC_64_REDIS, Crc, Table};

use super::arguments::integer;

const CHECKSUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);
const TYPE_STRING: u8 = 0;
const VERSION: u16 = 10;
const FOOTER_BYTES: usize = 10;
/// No integer of 32 bits has a longer text.
const INTEGER_TEXT_BYTES_MAX: usize = 11;

/// Why a payload was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RdbError {
    /// Of a later version, or not what once was written.
    Checksum,
    /// Not a string.
    Format,
}

/// The payload for a value.
pub(super) fn encode(value: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(value.len() + FOOTER_BYTES + 10);
    out.push(TYPE_STRING);
    match integer(value).filter(|_| value.len() <= INTEGER_TEXT_BYTES_MAX) {
        Some(number) if i8::try_from(number).is_ok() => put_integer(&mut out, 0xc0, number, 1),
        Some(number) if i16::try_from(number).is_ok() => put_integer(&mut out, 0xc1, number, 2),
        Some(number) if i32::try_from(number).is_ok() => put_integer(&mut out, 0xc2, number, 4),
        _ => {
            put_length(&mut out, value.len());
            out.extend_from_slice(value);
        }
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let checksum = CHECKSUM.checksum(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.into()
}

fn put_integer(out: &mut Vec<u8>, kind: u8, number: i64, bytes: usize) {
    out.push(kind);
    out.extend_from_slice(&number.to_le_bytes()[..bytes]);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    if let Ok(short @ 0..=0x3f) = u8::try_from(length) {
        out.push(short);
    } else if let Ok(middle @ 0..=0x3fff) = u16::try_from(length) {
        out.extend_from_slice(&(0x4000 | middle).to_be_bytes());
    } else if let Ok(long) = u32::try_from(length) {
        out.push(0x80);
        out.extend_from_slice(&long.to_be_bytes());
    } else {
        out.push(0x81);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// The value in a payload; it is no longer than allowed, whatever the payload announces.
pub(super) fn decode(payload: &Bytes, value_bytes_max: usize) -> Result<Bytes, RdbError> {
    let body = payload.len().checked_sub(FOOTER_BYTES).ok_or(RdbError::Checksum)?;
    let footer = &payload[body..];
    let version = u16::from_le_bytes([footer[0], footer[1]]);
    let checksum = u64::from_le_bytes(footer[2..].try_into().expect("eight bytes"));
    if version > VERSION || CHECKSUM.checksum(&payload[..body + 2]) != checksum {
        return Err(RdbError::Checksum);
    }
    let mut reader = Reader { rest: payload.clone() };
    if reader.byte()? != TYPE_STRING {
        return Err(RdbError::Format);
    }
    match reader.length()? {
        Length::Bytes(bytes) => reader.take(bytes),
        Length::Encoded(0) => reader.integer::<1>(),
        Length::Encoded(1) => reader.integer::<2>(),
        Length::Encoded(2) => reader.integer::<4>(),
        Length::Encoded(3) => {
            let compressed = reader.plain_length()?;
            let bytes = reader.plain_length()?;
            if bytes > value_bytes_max {
                return Err(RdbError::Format);
            }
            decompress(&reader.take(compressed)?, bytes).ok_or(RdbError::Format)
        }
        Length::Encoded(_) => Err(RdbError::Format),
    }
}

enum Length {
    Bytes(usize),
    /// Not a length but how the bytes are encoded.
    Encoded(u8),
}

struct Reader {
    rest: Bytes,
}

impl Reader {
    fn take(&mut self, bytes: usize) -> Result<Bytes, RdbError> {
        if bytes > self.rest.len() { Err(RdbError::Format) } else { Ok(self.rest.split_to(bytes)) }
    }

    fn byte(&mut self) -> Result<u8, RdbError> {
        Ok(self.take(1)?[0])
    }

    fn big_endian(&mut self, bytes: usize) -> Result<usize, RdbError> {
        let number = self.take(bytes)?.iter().fold(0, |number: u64, &byte| number << 8 | u64::from(byte));
        usize::try_from(number).map_err(|_| RdbError::Format)
    }

    fn length(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        let low = first & 0x3f;
        Ok(match first >> 6 {
            0 => Length::Bytes(low.into()),
            1 => Length::Bytes(usize::from(low) << 8 | usize::from(self.byte()?)),
            2 if first == 0x80 => Length::Bytes(self.big_endian(4)?),
            2 if first == 0x81 => Length::Bytes(self.big_endian(8)?),
            2 => return Err(RdbError::Format),
            _ => Length::Encoded(low),
        })
    }

    /// Redis takes the number of an encoding for a length here.
    fn plain_length(&mut self) -> Result<usize, RdbError> {
        Ok(match self.length()? {
            Length::Bytes(bytes) => bytes,
            Length::Encoded(kind) => kind.into(),
        })
    }

    fn integer<const BYTES: usize>(&mut self) -> Result<Bytes, RdbError> {
        let bytes = self.take(BYTES)?;
        let mut extended = if bytes[BYTES - 1] & 0x80 == 0 { [0; 8] } else { [0xff; 8] };
        extended[..BYTES].copy_from_slice(&bytes);
        Ok(i64::from_le_bytes(extended).to_string().into())
    }
}

/// LZF: runs of up to 32 literal bytes, and references of 3 bytes and more to at most 8 KiB before. None when it does
/// not give exactly the bytes announced.
fn decompress(compressed: &[u8], bytes: usize) -> Option<Bytes> {
    let mut out: Vec<u8> = Vec::with_capacity(bytes);
    let mut rest = compressed;
    while let Some((&control, after)) = rest.split_first() {
        if control < 32 {
            let (literal, after) = after.split_at_checked(usize::from(control) + 1)?;
            out.extend_from_slice(literal);
            rest = after;
        } else {
            let (more, after) = if control >> 5 == 7 { after.split_first()? } else { (&0, after) };
            let (&low, after) = after.split_first()?;
            let length = usize::from(control >> 5) + usize::from(*more) + 2;
            let distance = (usize::from(control & 0x1f) << 8 | usize::from(low)) + 1;
            let start = out.len().checked_sub(distance)?;
            if out.len() + length > bytes {
                return None;
            }
            // The source may reach into what is being written.
            for at in start..start + length {
                out.push(out[at]);
            }
            rest = after;
        }
        if out.len() > bytes {
            return None;
        }
    }
    (out.len() == bytes).then(|| out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Bytes {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(digit).collect::<Vec<_>>().into()
    }

    #[test]
    fn values_of_every_length_and_integers_come_back() {
        let mut values: Vec<Vec<u8>> =
            [0, 1, 63, 64, 16383, 16384, 70_000].map(|length| vec![b'x'; length]).into();
        let numbers = ["0", "127", "-128", "128", "32767", "-32769", "2147483647", "2147483648", "007", "-0"];
        values.extend(numbers.map(|number| number.as_bytes().to_vec()));
        for value in values {
            assert_eq!(decode(&encode(&value), 1 << 20).as_deref(), Ok(&value[..]));
        }
    }

    /// What DUMP of Redis 7.0.15 answered.
    #[test]
    fn what_redis_wrote_is_read() {
        let repeated = "ab".repeat(100);
        let cases = [
            ("10", "00c00a0a006e9f57450eae63bb"),
            ("-300", "00c1d4fe0a00c6c48623febede2e"),
            ("70000", "00c2701101000a0001a408fe953095a5"),
            ("hello world", "000b68656c6c6f20776f726c640a000bfc49b9a6c7a034"),
            (&repeated, "00c30a40c802616261e0ba010161620a0024a6e84170c0c68c"),
        ];
        for (value, payload) in cases {
            assert_eq!(decode(&hex(payload), 1 << 20).as_deref(), Ok(value.as_bytes()));
            let is_compressed = payload.starts_with("00c3");
            assert_eq!(encode(value.as_bytes()) == hex(payload), !is_compressed);
        }
        assert_eq!(decode(&hex(cases[4].1), 199), Err(RdbError::Format), "longer than allowed");
    }

    #[test]
    fn what_was_changed_on_its_way_is_refused() {
        let payload = encode(b"some value that is long enough");
        for at in 0..payload.len() {
            let mut changed = payload.to_vec();
            changed[at] ^= 1;
            assert_eq!(decode(&changed.into(), 1 << 20), Err(RdbError::Checksum));
        }
        for length in 0..payload.len() {
            assert_eq!(decode(&payload.slice(..length), 1 << 20), Err(RdbError::Checksum));
        }
    }

    #[test]
    fn broken_lzf_is_refused() {
        assert_eq!(decompress(&[2, b'a', b'b', b'c', 0x20, 2], 6).as_deref(), Some(&b"abcabc"[..]));
        let broken: [&[u8]; 5] = [&[], &[2, b'a'], &[0x20, 0], &[0xe0, 5], &[0, b'a', 0x20, 5]];
        for compressed in broken {
            assert_eq!(decompress(compressed, 6), None);
        }
        // A few bytes that would become very many are stopped at what was announced.
        let mut bomb = vec![0, b'a'];
        bomb.extend([0xff, 0xff, 0].repeat(1000));
        assert_eq!(decompress(&bomb, 100), None);
    }
}
