//! GET and SET in all their forms, and the commands that work on bytes of a value.

use bytes::Bytes;
use net::resp::Value;

use super::arguments::{Complaint, count, integer_argument, is_word, syntax};
use super::execute::{Context, Outcome, REPLY_BYTES_MAX};
use super::keyspace::{ENCODING_RAW, Entry, Keyspace};

/// How an option gives an expiry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Milliseconds,
    SecondsSinceEpoch,
    MillisecondsSinceEpoch,
}

/// The options of SET and GETEX.
#[derive(Default)]
struct Options<'a> {
    only_new: bool,
    only_existing: bool,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    expiry: Option<(Unit, &'a Bytes)>,
}

impl<'a> Options<'a> {
    /// Reads the options that follow the fixed arguments. `is_set` tells SET's from GETEX'. As in Redis, an option may
    /// be repeated, but not together with one that contradicts it.
    fn parse(args: &'a [Bytes], is_set: bool) -> Result<Options<'a>, Complaint> {
        let mut options = Options::default();
        let mut rest = args;
        while let Some((option, after)) = rest.split_first() {
            rest = after;
            let is = |name: &[u8]| is_word(option, name);
            if is_set && is(b"nx") && !options.only_existing {
                options.only_new = true;
            } else if is_set && is(b"xx") && !options.only_new {
                options.only_existing = true;
            } else if is_set && is(b"get") {
                options.get = true;
            } else if is_set && is(b"keepttl") && options.expiry.is_none() {
                options.keep_ttl = true;
            } else if !is_set && is(b"persist") && options.expiry.is_none() {
                options.persist = true;
            } else {
                let unit = unit(option).ok_or(syntax())?;
                let (value, after) = rest.split_first().ok_or(syntax())?;
                let contradicted = options.expiry.is_some_and(|(other, _)| other != unit);
                if options.keep_ttl || options.persist || contradicted {
                    return Err(syntax());
                }
                options.expiry = Some((unit, value));
                rest = after;
            }
        }
        Ok(options)
    }
}

fn unit(option: &[u8]) -> Option<Unit> {
    let units: [(&[u8], Unit); 4] = [
        (b"ex", Unit::Seconds),
        (b"px", Unit::Milliseconds),
        (b"exat", Unit::SecondsSinceEpoch),
        (b"pxat", Unit::MillisecondsSinceEpoch),
    ];
    units.into_iter().find(|(name, _)| is_word(option, name)).map(|(_, unit)| unit)
}

/// When it expires, in milliseconds since 1970. Zero and less is an error; the past is not.
fn expiry_ms<K: Keyspace>(context: &Context<'_, K>, unit: Unit, text: &[u8]) -> Result<u64, Complaint> {
    let invalid = || Complaint(format!("ERR invalid expire time in '{}' command", context.spec.name).into());
    let given = integer_argument(text)?;
    if given <= 0 {
        return Err(invalid());
    }
    let milliseconds = match unit {
        Unit::Seconds | Unit::SecondsSinceEpoch => given.checked_mul(1000).ok_or_else(invalid)?,
        Unit::Milliseconds | Unit::MillisecondsSinceEpoch => given,
    };
    let instant = match unit {
        Unit::Seconds | Unit::Milliseconds => {
            milliseconds.checked_add(context.now_ms()).ok_or_else(invalid)?
        }
        Unit::SecondsSinceEpoch | Unit::MillisecondsSinceEpoch => milliseconds,
    };
    u64::try_from(instant).map_err(|_| invalid())
}

fn bulk_or_null(entry: Option<Entry>) -> Value {
    entry.map_or(Value::Null, |entry| Value::Bulk(entry.data))
}

pub(super) fn get<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    Ok(bulk_or_null(context.get(&context.args[1])?))
}

pub(super) fn set<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (key, value) = (&context.args[1], &context.args[2]);
    let options = Options::parse(&context.args[3..], true)?;
    let expiry = match options.expiry {
        Some((unit, text)) => expiry_ms(context, unit, text)?,
        None => 0,
    };
    let looks = options.get || options.only_new || options.only_existing || options.keep_ttl;
    let former = if looks { context.get(key)? } else { None };
    let refused = (options.only_new && former.is_some()) || (options.only_existing && former.is_none());
    if !refused {
        let kept = former.as_ref().map_or(0, |entry| entry.expiry_ms);
        let expiry = if options.keep_ttl { kept } else { expiry };
        context.put(key, Entry { data: value.clone(), expiry_ms: expiry, ..Entry::default() })?;
    }
    Ok(match (options.get, refused) {
        (true, _) => bulk_or_null(former),
        (false, true) => Value::Null,
        (false, false) => Value::OK,
    })
}

pub(super) fn setnx<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (key, value) = (&context.args[1], &context.args[2]);
    if context.exists(key)? {
        return Ok(Value::Integer(0));
    }
    context.put(key, Entry { data: value.clone(), ..Entry::default() })?;
    Ok(Value::Integer(1))
}

/// SETEX and PSETEX.
pub(super) fn setex<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let unit = if context.spec.name == "setex" { Unit::Seconds } else { Unit::Milliseconds };
    let expiry_ms = expiry_ms(context, unit, &context.args[2])?;
    let value = context.args[3].clone();
    context.put(&context.args[1], Entry { data: value, expiry_ms, ..Entry::default() })?;
    Ok(Value::OK)
}

pub(super) fn getset<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (key, value) = (&context.args[1], &context.args[2]);
    let former = context.get(key)?;
    context.put(key, Entry { data: value.clone(), ..Entry::default() })?;
    Ok(bulk_or_null(former))
}

pub(super) fn getdel<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let key = &context.args[1];
    let former = context.get(key)?;
    if former.is_some() {
        context.delete(key)?;
    }
    Ok(bulk_or_null(former))
}

pub(super) fn getex<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let key = &context.args[1];
    let options = Options::parse(&context.args[2..], false)?;
    let Some(entry) = context.get(key)? else {
        return Ok(Value::Null);
    };
    let expiry = match options.expiry {
        Some((unit, text)) => expiry_ms(context, unit, text)?,
        None if options.persist => 0,
        None => entry.expiry_ms,
    };
    if expiry != entry.expiry_ms {
        context.put(key, Entry { expiry_ms: expiry, ..entry.clone() })?;
    }
    Ok(Value::Bulk(entry.data))
}

pub(super) fn mget<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let keys = &context.args[1..];
    let mut values = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    for key in keys {
        let value = context.get(key)?;
        bytes += value.as_ref().map_or(0, |entry| entry.data.len());
        if bytes > REPLY_BYTES_MAX && keys.len() > 1 {
            return Err(Complaint::new("ERR the values together are longer than a reply may be").into());
        }
        values.push(bulk_or_null(value));
    }
    Ok(Value::Array(values))
}

/// Keys and values in turn, as MSET and MSETNX take them.
fn pairs<'a, K>(context: &Context<'a, K>) -> Result<&'a [Bytes], Complaint> {
    let pairs = &context.args[1..];
    if !pairs.len().is_multiple_of(2) {
        let name = &context.spec.name;
        return Err(Complaint(format!("ERR wrong number of arguments for '{name}' command").into()));
    }
    Ok(pairs)
}

fn put_pairs<K: Keyspace>(context: &mut Context<'_, K>, pairs: &[Bytes], done: Value) -> Outcome<K> {
    for value in pairs.iter().skip(1).step_by(2) {
        context.check_length(value.len())?;
    }
    for pair in pairs.chunks_exact(2) {
        context.put(&pair[0], Entry { data: pair[1].clone(), ..Entry::default() })?;
    }
    Ok(done)
}

pub(super) fn mset<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let pairs = pairs(context)?;
    put_pairs(context, pairs, Value::OK)
}

pub(super) fn msetnx<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let pairs = pairs(context)?;
    for key in pairs.iter().step_by(2) {
        if context.exists(key)? {
            return Ok(Value::Integer(0));
        }
    }
    put_pairs(context, pairs, Value::Integer(1))
}

pub(super) fn append<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (key, addition) = (&context.args[1], &context.args[2]);
    let Some(entry) = context.get(key)? else {
        context.put(key, Entry { data: addition.clone(), ..Entry::default() })?;
        return Ok(count(addition.len()));
    };
    let bytes = entry.data.len() + addition.len();
    context.check_length(bytes)?;
    let mut data = Vec::with_capacity(bytes);
    data.extend_from_slice(&entry.data);
    data.extend_from_slice(addition);
    context.put(key, Entry { data: data.into(), flags: ENCODING_RAW, ..entry })?;
    Ok(count(bytes))
}

pub(super) fn strlen<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    Ok(count(context.get(&context.args[1])?.map_or(0, |entry| entry.data.len())))
}

/// GETRANGE and SUBSTR.
pub(super) fn getrange<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let start = integer_argument(&context.args[2])?;
    let end = integer_argument(&context.args[3])?;
    let data = context.get(&context.args[1])?.map_or(Bytes::new(), |entry| entry.data);
    let range = if start < 0 && end < 0 && start > end { None } else { clamp(start, end, data.len()) };
    Ok(Value::Bulk(range.map_or(Bytes::new(), |(first, last)| data.slice(first..=last))))
}

/// An inclusive range, in which negative positions count from the end, of a value of this length (in whatever is
/// counted), cut to what is there; none when nothing is.
pub(super) fn clamp(start: i64, end: i64, length: usize) -> Option<(usize, usize)> {
    let total = i64::try_from(length).expect("lengths are below 2^63");
    let from_end = |position: i64| if position < 0 { total.wrapping_add(position) } else { position };
    let first = from_end(start).max(0);
    let last = from_end(end).max(0).min(total - 1);
    if first > last {
        return None;
    }
    Some((usize::try_from(first).ok()?, usize::try_from(last).ok()?))
}

pub(super) fn setrange<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (key, patch) = (&context.args[1], &context.args[3]);
    let offset = integer_argument(&context.args[2])?;
    let Ok(offset) = usize::try_from(offset) else {
        return Err(Complaint::new("ERR offset is out of range").into());
    };
    let entry = context.get(key)?;
    let length = entry.as_ref().map_or(0, |entry| entry.data.len());
    if patch.is_empty() {
        return Ok(count(length));
    }
    let end = offset.saturating_add(patch.len());
    context.check_length(end)?;
    let entry = entry.unwrap_or_default();
    let mut data = Vec::with_capacity(end.max(length));
    data.extend_from_slice(&entry.data);
    data.resize(end.max(length), 0);
    data[offset..end].copy_from_slice(patch);
    let length = data.len();
    context.put(key, Entry { data: data.into(), flags: ENCODING_RAW, ..entry })?;
    Ok(count(length))
}
