//! BITFIELD: integers of any width from 1 to 64 bits, anywhere in a value.

use bytes::Bytes;
use net::resp::Value;

use super::arguments::{Complaint, Halt, integer, integer_argument, is_word, syntax, word};
use super::bits::{bit_offset, put_edited, writable};
use super::execute::{Context, Outcome};
use super::keyspace::Keyspace;

/// What becomes of a number that does not fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// Where a field is and what is in it.
#[derive(Clone, Copy)]
struct Field {
    signed: bool,
    bits: u32,
    offset: usize,
}

enum Operation {
    Get(Field),
    Set(Field, i64, Overflow),
    Increment(Field, i64, Overflow),
}

/// BITFIELD and BITFIELD_RO.
pub(super) fn bitfield<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let operations = parse(context)?;
    let written = operations.iter().filter_map(|operation| match operation {
        Operation::Get(_) => None,
        Operation::Set(field, ..) | Operation::Increment(field, ..) => {
            Some(field.offset + field.bits as usize - 1)
        }
    });
    let key = &context.args[1];
    let Some(last_bit) = written.max() else {
        let data = context.get(key)?.unwrap_or_default().data;
        let values = operations.iter().map(|operation| match operation {
            Operation::Get(field) | Operation::Set(field, ..) | Operation::Increment(field, ..) => {
                Value::Integer(field.get(&data))
            }
        });
        return Ok(Value::Array(values.collect()));
    };
    if context.spec.name == "bitfield_ro" {
        return Err(Halt::Complaint("ERR BITFIELD_RO only supports the GET subcommand".into()));
    }
    let entry = context.get(key)?;
    context.check_length(last_bit / 8 + 1)?;
    let mut data = writable(entry.as_ref(), last_bit);
    let values = operations.iter().map(|operation| operation.run(&mut data)).collect();
    put_edited(context, key, entry, data)?;
    Ok(Value::Array(values))
}

fn parse<K: Keyspace>(context: &Context<'_, K>) -> Result<Vec<Operation>, Complaint> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut rest = &context.args[2..];
    while let Some((name, after)) = rest.split_first() {
        let is = |expected: &[u8]| is_word(name, expected);
        rest = match after {
            [field, offset, after @ ..] if is(b"get") => {
                operations.push(Operation::Get(Field::parse(context, field, offset)?));
                after
            }
            [field, offset, value, after @ ..] if is(b"set") || is(b"incrby") => {
                let field = Field::parse(context, field, offset)?;
                let value = integer_argument(value)?;
                let operation = if is(b"set") { Operation::Set } else { Operation::Increment };
                operations.push(operation(field, value, overflow));
                after
            }
            [kind, after @ ..] if is(b"overflow") => {
                overflow = overflow_kind(kind)?;
                after
            }
            _ => return Err(syntax()),
        };
    }
    Ok(operations)
}

fn overflow_kind(kind: &Bytes) -> Result<Overflow, Complaint> {
    let kinds: [(&[u8], Overflow); 3] =
        [(b"wrap", Overflow::Wrap), (b"sat", Overflow::Saturate), (b"fail", Overflow::Fail)];
    let named = kinds.into_iter().find(|(name, _)| is_word(kind, name));
    named.map(|(_, overflow)| overflow).ok_or(Complaint::new("ERR Invalid OVERFLOW type specified"))
}

impl Field {
    fn parse<K: Keyspace>(context: &Context<'_, K>, kind: &[u8], offset: &[u8]) -> Result<Field, Complaint> {
        let invalid = "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.";
        let (signed, bits) = match word(kind) {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return Err(Complaint::new(invalid)),
        };
        let bits = match integer(bits) {
            Some(bits @ 1..=63) => u32::try_from(bits).expect("in range"),
            Some(64) if signed => 64,
            _ => return Err(Complaint::new(invalid)),
        };
        Ok(Field { signed, bits, offset: bit_offset(context, offset, Some(bits))? })
    }

    /// The number in the field; what lies past the end of the value is zero.
    fn get(self, data: &[u8]) -> i64 {
        let mut value: u64 = 0;
        for at in self.offset..self.offset + self.bits as usize {
            let byte = data.get(at / 8).copied().unwrap_or(0);
            value = value << 1 | u64::from(byte >> (7 - at % 8) & 1);
        }
        let unused = 64 - self.bits;
        if self.signed { (value << unused).cast_signed() >> unused } else { value.cast_signed() }
    }

    /// Writes the lowest bits of the number.
    fn set(self, data: &mut [u8], value: i64) {
        for (nth, at) in (self.offset..self.offset + self.bits as usize).rev().enumerate() {
            let mask = 0x80 >> (at % 8);
            if value >> nth & 1 == 1 {
                data[at / 8] |= mask;
            } else {
                data[at / 8] &= !mask;
            }
        }
    }

    /// `value + increment` in this field; none when it does not fit and must.
    fn fit(self, value: i64, increment: i64, overflow: Overflow) -> Option<i64> {
        let beyond = if self.signed {
            self.beyond_signed(value, increment)
        } else {
            self.beyond_unsigned(value, increment)
        };
        let sum = value.wrapping_add(increment);
        match (beyond, overflow) {
            (None, _) => Some(sum),
            (Some(_), Overflow::Fail) => None,
            (Some(limit), Overflow::Saturate) => Some(limit),
            (Some(_), Overflow::Wrap) => Some(self.wrapped(sum)),
        }
    }

    fn wrapped(self, sum: i64) -> i64 {
        let unused = 64 - self.bits;
        if self.signed { sum << unused >> unused } else { sum & (i64::MAX >> (63 - self.bits)) }
    }

    /// The limit that a sum is beyond. As in Redis, differences wrap: SET of a number far below the lowest of a narrow
    /// field counts as too high.
    fn beyond_signed(self, value: i64, increment: i64) -> Option<i64> {
        let max = i64::MAX >> (64 - self.bits);
        let min = -max - 1;
        let narrow = self.bits != 64;
        let room_up = max.wrapping_sub(value);
        let room_down = min.wrapping_sub(value);
        if value > max || (increment > room_up && (narrow || (value >= 0 && increment > 0))) {
            return Some(max);
        }
        if value < min || (increment < room_down && (narrow || (value < 0 && increment < 0))) {
            return Some(min);
        }
        None
    }

    /// The same without a sign; a negative number to SET is one far too high.
    fn beyond_unsigned(self, value: i64, increment: i64) -> Option<i64> {
        let max = i64::MAX >> (63 - self.bits);
        if value < 0 || value > max || (increment > 0 && increment > max - value) {
            return Some(max);
        }
        if increment < 0 && increment < -value { Some(0) } else { None }
    }
}

impl Operation {
    fn run(&self, data: &mut [u8]) -> Value {
        let (field, written, answered) = match *self {
            Operation::Get(field) => return Value::Integer(field.get(data)),
            Operation::Set(field, value, overflow) => {
                (field, field.fit(value, 0, overflow), Some(field.get(data)))
            }
            Operation::Increment(field, increment, overflow) => {
                let sum = field.fit(field.get(data), increment, overflow);
                (field, sum, sum)
            }
        };
        let Some(value) = written else {
            return Value::Null;
        };
        field.set(data, value);
        answered.map_or(Value::Null, Value::Integer)
    }
}
