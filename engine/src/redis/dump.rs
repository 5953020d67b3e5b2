//! DUMP and RESTORE.

use net::resp::Value;

use super::arguments::{Complaint, integer_argument, is_word, syntax};
use super::execute::{Context, Outcome};
use super::keyspace::{Entry, Keyspace};
use super::rdb::{self, RdbError};

pub(super) fn dump<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let entry = context.get(&context.args[1])?;
    Ok(entry.map_or(Value::Null, |entry| Value::Bulk(rdb::encode(&entry.data))))
}

#[derive(Default)]
struct Options {
    replace: bool,
    absolute: bool,
}

impl Options {
    /// IDLETIME and FREQ are checked and have no effect: when a key was last used is not kept.
    fn parse(args: &[bytes::Bytes]) -> Result<Options, Complaint> {
        let mut options = Options::default();
        let (mut idle, mut frequency) = (false, false);
        let mut rest = args;
        while let Some((option, after)) = rest.split_first() {
            rest = after;
            if is_word(option, b"replace") {
                options.replace = true;
            } else if is_word(option, b"absttl") {
                options.absolute = true;
            } else if is_word(option, b"idletime") && !after.is_empty() && !frequency {
                if integer_argument(&after[0])? < 0 {
                    return Err(Complaint::new("ERR Invalid IDLETIME value, must be >= 0"));
                }
                idle = true;
                rest = &after[1..];
            } else if is_word(option, b"freq") && !after.is_empty() && !idle {
                if !(0..=255).contains(&integer_argument(&after[0])?) {
                    return Err(Complaint::new("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
                frequency = true;
                rest = &after[1..];
            } else {
                return Err(syntax());
            }
        }
        Ok(options)
    }
}

pub(super) fn restore<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let key = &context.args[1];
    let options = Options::parse(&context.args[4..])?;
    let taken = context.exists(key)?;
    if taken && !options.replace {
        return Err(Complaint::new("BUSYKEY Target key name already exists.").into());
    }
    let ttl = integer_argument(&context.args[2])?;
    if ttl < 0 {
        return Err(Complaint::new("ERR Invalid TTL value, must be >= 0").into());
    }
    let data = rdb::decode(&context.args[3], context.keyspace.value_bytes_max()).map_err(|error| {
        Complaint::new(match error {
            RdbError::Checksum => "ERR DUMP payload version or checksum are wrong",
            RdbError::Format => "ERR Bad data format",
        })
    })?;
    // A sum too large wraps, as in Redis, and has been long ago.
    let when = if ttl == 0 || options.absolute { ttl } else { ttl.wrapping_add(context.now_ms()) };
    if ttl != 0 && when <= context.now_ms() {
        if taken {
            context.delete(key)?;
        }
        return Ok(Value::OK);
    }
    let expiry_ms = u64::try_from(when).expect("it is zero or in the future");
    context.put(key, Entry { data, expiry_ms, ..Entry::default() })?;
    Ok(Value::OK)
}
