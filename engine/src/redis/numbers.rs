//! INCR and its kin.

use net::resp::Value;

use super::arguments::{Complaint, Halt, decimal, integer_argument};
use super::execute::{Context, Outcome};
use super::extended::{Extended, Parsed};
use super::keyspace::{ENCODING_TEXT, Entry, Keyspace};

/// INCR, DECR, INCRBY and DECRBY.
pub(super) fn incr<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let increment = match context.spec.name.as_str() {
        "incr" => 1,
        "decr" => -1,
        "incrby" => integer_argument(&context.args[2])?,
        _ => integer_argument(&context.args[2])?
            .checked_neg()
            .ok_or(Complaint::new("ERR decrement would overflow"))?,
    };
    let key = &context.args[1];
    let entry = context.get(key)?;
    let former = entry.as_ref().map_or(Ok(0), |entry| integer_argument(&entry.data))?;
    let Some(sum) = former.checked_add(increment) else {
        return Err(Complaint::new("ERR increment or decrement would overflow").into());
    };
    let expiry_ms = entry.map_or(0, |entry| entry.expiry_ms);
    context.put(key, Entry { data: decimal(sum), expiry_ms, ..Entry::default() })?;
    Ok(Value::Integer(sum))
}

pub(super) fn incrbyfloat<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let key = &context.args[1];
    let entry = context.get(key)?;
    let former = entry.as_ref().map_or(Ok(Parsed::Finite(Extended::ZERO)), |entry| float(&entry.data))?;
    let increment = float(&context.args[2])?;
    let sum = match (former, increment) {
        (Parsed::Finite(former), Parsed::Finite(increment)) => former.plus(increment),
        _ => None,
    };
    let Some(sum) = sum else {
        return Err(Halt::Complaint("ERR increment would produce NaN or Infinity".into()));
    };
    let data = bytes::Bytes::from(sum.to_decimal());
    let expiry_ms = entry.map_or(0, |entry| entry.expiry_ms);
    context.put(key, Entry { data: data.clone(), flags: ENCODING_TEXT, expiry_ms, ..Entry::default() })?;
    Ok(Value::Bulk(data))
}

fn float(text: &[u8]) -> Result<Parsed, Complaint> {
    Extended::parse(text).ok_or(Complaint::new("ERR value is not a valid float"))
}
