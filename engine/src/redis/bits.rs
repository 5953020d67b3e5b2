//! Values as arrays of bits, the first of which is the highest of the first byte.

use bytes::Bytes;
use net::resp::Value;

use super::arguments::{Complaint, Halt, count, integer, integer_argument, is_word, syntax};
use super::execute::{Context, Outcome};
use super::keyspace::{ENCODING_RAW, Entry, Keyspace};
use super::strings::clamp;

/// A position of a bit. It must lie in a value that there may be. With `field_bits`, `#n` means the n-th field of that
/// many bits.
pub(super) fn bit_offset<K: Keyspace>(
    context: &Context<'_, K>,
    text: &[u8],
    field_bits: Option<u32>,
) -> Result<usize, Complaint> {
    let (text, times) = match (text, field_bits) {
        ([b'#', rest @ ..], Some(bits)) => (rest, i64::from(bits)),
        _ => (text, 1),
    };
    let offset =
        integer(text).map(|offset| offset.wrapping_mul(times)).and_then(|at| usize::try_from(at).ok());
    offset
        .filter(|offset| offset / 8 < context.keyspace.value_bytes_max())
        .ok_or(Complaint::new("ERR bit offset is not an integer or out of range"))
}

/// A copy of the value, if there is one, long enough for the bit at `last_bit`.
pub(super) fn writable(entry: Option<&Entry>, last_bit: usize) -> Vec<u8> {
    let data = entry.map_or(&[][..], |entry| &entry.data);
    let length = data.len().max(last_bit / 8 + 1);
    let mut copy = Vec::with_capacity(length);
    copy.extend_from_slice(data);
    copy.resize(length, 0);
    copy
}

pub(super) fn setbit<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let key = &context.args[1];
    let offset = bit_offset(context, &context.args[2], None)?;
    let on = match integer(&context.args[3]) {
        Some(bit @ (0 | 1)) => bit == 1,
        _ => return Err(Complaint::new("ERR bit is not an integer or out of range").into()),
    };
    let entry = context.get(key)?;
    let mut data = writable(entry.as_ref(), offset);
    let mask = 0x80 >> (offset % 8);
    let former = data[offset / 8] & mask != 0;
    if on {
        data[offset / 8] |= mask;
    } else {
        data[offset / 8] &= !mask;
    }
    put_edited(context, key, entry, data)?;
    Ok(Value::Integer(former.into()))
}

/// Stores what was edited in place, unless it is what it was: then nobody who watches the key hears of it.
pub(super) fn put_edited<K: Keyspace>(
    context: &mut Context<'_, K>,
    key: &[u8],
    former: Option<Entry>,
    data: Vec<u8>,
) -> Result<(), Halt<K::Error>> {
    if former.as_ref().is_some_and(|entry| entry.flags & ENCODING_RAW != 0 && entry.data == data) {
        return Ok(());
    }
    context.put(key, Entry { data: data.into(), flags: ENCODING_RAW, ..former.unwrap_or_default() })
}

pub(super) fn getbit<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let offset = bit_offset(context, &context.args[2], None)?;
    let data = context.get(&context.args[1])?.unwrap_or_default().data;
    let byte = data.get(offset / 8).copied().unwrap_or(0);
    Ok(Value::Integer((byte & (0x80 >> (offset % 8)) != 0).into()))
}

/// `BIT` or `BYTE`: are positions those of bits?
fn counts_bits(unit: &[u8]) -> Result<bool, Complaint> {
    if is_word(unit, b"bit") {
        return Ok(true);
    }
    if is_word(unit, b"byte") { Ok(false) } else { Err(syntax()) }
}

pub(super) fn bitcount<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let Some(Entry { data, .. }) = context.get(&context.args[1])? else {
        return Ok(Value::Integer(0));
    };
    let (start, end, unit) = match &context.args[2..] {
        [] => return Ok(count(ones(&data))),
        [start, end] => (start, end, None),
        [start, end, unit] => (start, end, Some(unit)),
        _ => return Err(syntax().into()),
    };
    let (start, end) = (integer_argument(start)?, integer_argument(end)?);
    if start < 0 && end < 0 && start > end {
        return Ok(Value::Integer(0));
    }
    let by_bit = unit.map_or(Ok(false), |unit| counts_bits(unit))?;
    let length = if by_bit { data.len() * 8 } else { data.len() };
    let Some((first, last)) = clamp(start, end, length) else {
        return Ok(Value::Integer(0));
    };
    if !by_bit {
        return Ok(count(ones(&data[first..=last])));
    }
    let before = (data[first / 8] & !(0xff >> (first % 8))).count_ones();
    let after = (data[last / 8] & !head_mask(last)).count_ones();
    Ok(count(ones(&data[first / 8..=last / 8]) - before as usize - after as usize))
}

/// The bits of a byte up to and with the one at this position.
fn head_mask(last: usize) -> u8 {
    !(0x7fu8 >> (last % 8))
}

fn ones(data: &[u8]) -> usize {
    let words = data.chunks_exact(8);
    let rest: u32 = words.remainder().iter().map(|byte| byte.count_ones()).sum();
    let words =
        words.map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes")).count_ones() as usize);
    words.sum::<usize>() + rest as usize
}

pub(super) fn bitpos<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let one = match integer_argument(&context.args[2])? {
        bit @ (0 | 1) => bit == 1,
        _ => return Err(Complaint::new("ERR The bit argument must be 1 or 0.").into()),
    };
    let Some(Entry { data, .. }) = context.get(&context.args[1])? else {
        return Ok(Value::Integer(if one { -1 } else { 0 }));
    };
    let (start, end, unit) = match &context.args[3..] {
        [] => (0, None, None),
        [start] => (integer_argument(start)?, None, None),
        [start, end] => (integer_argument(start)?, Some(end), None),
        [start, end, unit] => (integer_argument(start)?, Some(end), Some(unit)),
        _ => return Err(syntax().into()),
    };
    let by_bit = unit.map_or(Ok(false), |unit| counts_bits(unit))?;
    let end_given = end.is_some();
    let end = end.map_or(Ok(-1), |end| integer_argument(end))?;
    let length = if by_bit { data.len() * 8 } else { data.len() };
    let Some((first, last)) = clamp(start, end, length) else {
        return Ok(Value::Integer(-1));
    };
    let (first, last) = if by_bit { (first, last) } else { (first * 8, last * 8 + 7) };
    Ok(match position(&data, one, first, last) {
        Some(position) => count(position),
        // To the right of a value there are zeros, unless the client said where to stop.
        None if !one && !end_given => count(data.len() * 8),
        None => Value::Integer(-1),
    })
}

/// The first bit that is as asked for, in an inclusive range.
fn position(data: &[u8], one: bool, first: usize, last: usize) -> Option<usize> {
    let flip = if one { 0 } else { 0xff };
    let (first_byte, last_byte) = (first / 8, last / 8);
    let sought = |at: usize| {
        let mut byte = data[at] ^ flip;
        if at == first_byte {
            byte &= 0xff >> (first % 8);
        }
        if at == last_byte {
            byte &= head_mask(last);
        }
        byte
    };
    let found = |at: usize| (sought(at) != 0).then(|| at * 8 + sought(at).leading_zeros() as usize);
    if let Some(position) = found(first_byte) {
        return Some(position);
    }
    // Only the two ends are cut, so the bytes between are compared as they are.
    let between = data.get(first_byte + 1..last_byte).unwrap_or_default();
    let at = between.iter().position(|byte| byte ^ flip != 0).map_or(last_byte, |at| first_byte + 1 + at);
    found(at)
}

pub(super) fn bitop<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let names: [&[u8]; 4] = [b"and", b"or", b"xor", b"not"];
    let name = names.into_iter().find(|name| is_word(&context.args[1], name)).ok_or(syntax())?;
    if name == b"not" && context.args.len() != 4 {
        return Err(Complaint::new("ERR BITOP NOT must be called with a single source key.").into());
    }
    let mut result: Vec<u8> = Vec::new();
    for (at, key) in context.args[3..].iter().enumerate() {
        let data = context.get(key)?.unwrap_or_default().data;
        match name {
            b"not" => result.extend(data.iter().map(|byte| !byte)),
            _ if at == 0 => result.extend_from_slice(&data),
            b"and" => and(&mut result, &data),
            b"or" => combine(&mut result, &data, |byte, other| byte | other),
            _ => combine(&mut result, &data, |byte, other| byte ^ other),
        }
    }
    let (destination, length) = (&context.args[2], result.len());
    if result.is_empty() {
        if context.exists(destination)? {
            context.delete(destination)?;
        }
    } else {
        let data = Bytes::from(result);
        context.put(destination, Entry { data, flags: ENCODING_RAW, ..Entry::default() })?;
    }
    Ok(count(length))
}

/// What one of them lacks counts as zeros; the result is as long as the longer.
fn and(result: &mut Vec<u8>, data: &[u8]) {
    let shared = result.len().min(data.len());
    for (byte, other) in result.iter_mut().zip(data) {
        *byte &= other;
    }
    result[shared..].fill(0);
    result.resize(result.len().max(data.len()), 0);
}

fn combine(result: &mut Vec<u8>, data: &[u8], operation: impl Fn(u8, u8) -> u8) {
    result.resize(result.len().max(data.len()), 0);
    for (byte, other) in result.iter_mut().zip(data) {
        *byte = operation(*byte, *other);
    }
}
