//! Commands about keys, whatever their values.

use bytes::Bytes;
use net::resp::Value;

use super::arguments::{Complaint, NOT_AN_INTEGER, count, integer, is_word, syntax};
use super::execute::{Context, Outcome};
use super::keyspace::{ENCODING_RAW, ENCODING_TEXT, ENCODING_UNSHARED, Entry, Keyspace};

/// Namespaces that clients may select.
pub const NAMESPACES: u8 = 16;

/// DEL and UNLINK.
pub(super) fn del<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let mut deleted = 0;
    for key in &context.args[1..] {
        if context.exists(key)? {
            context.delete(key)?;
            deleted += 1;
        }
    }
    Ok(count(deleted))
}

/// EXISTS and TOUCH, which count alike: when a key was last used is not kept.
pub(super) fn exists<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let mut there = 0;
    for key in &context.args[1..] {
        there += usize::from(context.exists(key)?);
    }
    Ok(count(there))
}

pub(super) fn type_of<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let name = if context.exists(&context.args[1])? { "string" } else { "none" };
    Ok(Value::Simple(name.into()))
}

/// RENAME and RENAMENX.
pub(super) fn rename<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (from, to) = (&context.args[1], &context.args[2]);
    let only_new = context.spec.name == "renamenx";
    let (done, refused) =
        if only_new { (Value::Integer(1), Value::Integer(0)) } else { (Value::OK, Value::OK) };
    let Some(entry) = context.get(from)? else {
        return Err(Complaint::new("ERR no such key").into());
    };
    if from == to || (only_new && context.exists(to)?) {
        return Ok(refused);
    }
    context.put(to, entry)?;
    context.delete(from)?;
    Ok(done)
}

pub(super) fn copy<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let (from, to) = (&context.args[1], &context.args[2]);
    let (mut replace, mut namespace) = (false, context.namespace);
    let mut rest = &context.args[3..];
    while let Some((option, after)) = rest.split_first() {
        rest = match after {
            _ if is_word(option, b"replace") => {
                replace = true;
                after
            }
            [number, after @ ..] if is_word(option, b"db") => {
                namespace = database(number)?;
                after
            }
            _ => return Err(syntax().into()),
        };
    }
    if namespace == context.namespace && from == to {
        return Err(Complaint::new("ERR source and destination objects are the same").into());
    }
    let Some(entry) = context.get(from)? else {
        return Ok(Value::Integer(0));
    };
    if !replace && context.exists_in(namespace, to)? {
        return Ok(Value::Integer(0));
    }
    let flags = if is_integer(&entry) { entry.flags | ENCODING_UNSHARED } else { entry.flags };
    context.put_in(namespace, to, Entry { flags, ..entry })?;
    Ok(Value::Integer(1))
}

fn database(number: &Bytes) -> Result<u8, Complaint> {
    let number = integer(number).ok_or(Complaint::new(NOT_AN_INTEGER))?;
    if i32::try_from(number).is_err() {
        let text = "ERR value is out of range, value must between -2147483648 and 2147483647";
        return Err(Complaint::new(text));
    }
    let namespace = u8::try_from(number).ok().filter(|&namespace| namespace < NAMESPACES);
    namespace.ok_or(Complaint::new("ERR DB index is out of range"))
}

/// Would Redis hold the value as an integer?
fn is_integer(entry: &Entry) -> bool {
    entry.flags & (ENCODING_RAW | ENCODING_TEXT) == 0 && integer(&entry.data).is_some()
}

/// Longest text that Redis holds in one piece with its header.
const EMBEDDED_BYTES_MAX: usize = 44;

fn encoding(entry: &Entry) -> &'static str {
    if is_integer(entry) {
        return "int";
    }
    let built_in_place = entry.flags & ENCODING_RAW != 0;
    if built_in_place || entry.data.len() > EMBEDDED_BYTES_MAX { "raw" } else { "embstr" }
}

/// How often a value is referred to: Redis shares the small integers, and says so.
fn reference_count(entry: &Entry) -> i64 {
    let small = integer(&entry.data).is_some_and(|number| (0..10_000).contains(&number));
    let shared = small && is_integer(entry) && entry.flags & ENCODING_UNSHARED == 0;
    if shared { i32::MAX.into() } else { 1 }
}

/// OBJECT ENCODING, REFCOUNT, IDLETIME and FREQ. When a key was last used is not kept, so its idle time is always 0.
pub(super) fn object<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let Some(entry) = context.get(&context.args[2])? else {
        return Ok(Value::Null);
    };
    Ok(match context.spec.name.as_str() {
        "object|encoding" => Value::Bulk(Bytes::from_static(encoding(&entry).as_bytes())),
        "object|refcount" => Value::Integer(reference_count(&entry)),
        "object|idletime" => Value::Integer(0),
        _ => Value::error(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ),
    })
}

/// The answer to OBJECT HELP, which is about no key.
pub fn object_help() -> Value {
    let lines = [
        "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "ENCODING <key>",
        "    Return the kind of internal representation used in order to store the value",
        "    associated with a <key>.",
        "FREQ <key>",
        "    Return the access frequency index of the <key>. The returned integer is",
        "    proportional to the logarithm of the recent access frequency of the key.",
        "IDLETIME <key>",
        "    Return the idle time of the <key>, that is the approximated number of",
        "    seconds elapsed since the last access to the key.",
        "REFCOUNT <key>",
        "    Return the number of references of the value associated with the specified",
        "    <key>.",
        "HELP",
        "    Prints this help.",
    ];
    Value::Array(lines.into_iter().map(|line| Value::Simple(line.into())).collect())
}

/// RINGKV.VERSION: what WATCH remembers of a key.
pub(super) fn version<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    let version = context.get(&context.args[1])?.map_or(0, |entry| entry.version);
    Ok(Value::Integer(i64::try_from(version).expect("versions are log indexes, below 2^63")))
}
