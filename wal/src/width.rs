//! Named, checked conversions between integer widths, and little-endian fields of a block.

/// A length in memory as a file length: lossless on the 64-bit targets this crate supports.
pub(crate) fn to_u64(n: usize) -> u64 {
    u64::try_from(n).expect("a length in memory fits 64 bits")
}

/// A length from a format field, lossless on 64-bit targets.
pub(crate) fn to_usize(n: u32) -> usize {
    usize::try_from(n).expect("32 bits fit a length in memory")
}

/// A file length as a length in memory.
pub(crate) fn len_of(n: u64) -> usize {
    usize::try_from(n).expect("a file length fits a length in memory")
}

/// A length that the configuration bounds below 4 GiB (a segment is smaller).
pub(crate) fn to_u32(n: usize) -> u32 {
    u32::try_from(n).expect("lengths inside a segment stay below 4 GiB")
}

/// As [`to_u32`], from an offset inside a segment.
pub(crate) fn offset_u32(n: u64) -> u32 {
    u32::try_from(n).expect("offsets inside a segment stay below 4 GiB")
}

pub(crate) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
