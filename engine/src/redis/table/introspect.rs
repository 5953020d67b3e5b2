//! The `COMMAND` command: what the table says, as Redis would say it.

use bytes::Bytes;
use net::resp::Value;
use serde_json::Value as Json;

use super::{CommandFlags, CommandSpec, all, lookup, printable};
use crate::redis::arguments::is_word;
use crate::redis::glob;

const HELP: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all Redis commands.",
    "COUNT",
    "    Return the total number of commands in this Redis server.",
    "LIST",
    "    Return a list of all commands in this Redis server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full Redis command.",
    "GETKEYSANDFLAGS <full-command>",
    "    Return the keys and the access flags from a full Redis command.",
    "HELP",
    "    Prints this help.",
];

/// Documentation fields in the order in which Redis sends them, of a command and of an argument.
const DOC_FIELDS: &[&str] = &[
    "notes",
    "name",
    "type",
    "key_spec_index",
    "token",
    "summary",
    "since",
    "group",
    "complexity",
    "doc_flags",
    "deprecated_since",
    "replaced_by",
    "history",
    "flags",
    "begin_search",
    "find_keys",
    "arguments",
    "spec",
    "index",
    "lastkey",
    "keystep",
    "limit",
];

/// Answers `COMMAND` and its subcommands; `args` has passed [`super::resolve`].
pub fn command(args: &[Bytes]) -> Value {
    let Some(subcommand) = args.get(1) else {
        return Value::Array(listed().map(info).collect());
    };
    let rest = &args[2..];
    match subcommand.to_ascii_lowercase().as_slice() {
        b"count" => Value::Integer(i64::try_from(listed().count()).expect("there are some hundred commands")),
        b"info" if rest.is_empty() => Value::Array(listed().map(info).collect()),
        b"info" => Value::Array(rest.iter().map(|name| named(name).map_or(Value::Null, info)).collect()),
        b"docs" if rest.is_empty() => Value::Map(listed().map(documented).collect()),
        b"docs" => Value::Map(rest.iter().filter_map(|name| named(name)).map(documented).collect()),
        b"list" => list(rest),
        b"getkeys" => get_keys(rest, false),
        b"getkeysandflags" => get_keys(rest, true),
        _ => Value::Array(HELP.iter().map(|&line| Value::Simple(line.into())).collect()),
    }
}

/// The commands that clients may know of.
fn listed() -> impl Iterator<Item = &'static CommandSpec> {
    all().iter().filter(|spec| !spec.flags.contains(CommandFlags::INTERNAL))
}

/// A command by name, or a subcommand by `command|subcommand`.
fn named(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut words = name.splitn(2, |&byte| byte == b'|');
    let spec = lookup(words.next()?).filter(|spec| !spec.flags.contains(CommandFlags::INTERNAL))?;
    match words.next() {
        Some(subcommand) => spec.subcommand(subcommand),
        None => Some(spec),
    }
}

fn info(spec: &CommandSpec) -> Value {
    let flags = spec.flags.iter_names().map(|(name, _)| simple(&name.to_lowercase())).collect();
    Value::Array(vec![
        bulk(&spec.name),
        Value::Integer(spec.arity.into()),
        Value::Set(flags),
        Value::Integer(spec.first_key.into()),
        Value::Integer(spec.last_key.into()),
        Value::Integer(spec.step.into()),
        Value::Set(spec.acl_categories.iter().map(|category| simple(category)).collect()),
        Value::Set(spec.tips.iter().map(|tip| bulk(tip)).collect()),
        Value::Set(elements(&spec.key_specs)),
        if spec.subcommands.is_empty() {
            Value::Set(Vec::new())
        } else {
            Value::Array(spec.subcommands.iter().map(info).collect())
        },
    ])
}

fn documented(spec: &CommandSpec) -> (Value, Value) {
    let mut fields = fields(&spec.docs);
    if !spec.subcommands.is_empty() {
        fields.push((bulk("subcommands"), Value::Map(spec.subcommands.iter().map(documented).collect())));
    }
    (bulk(&spec.name), Value::Map(fields))
}

fn fields(object: &Json) -> Vec<(Value, Value)> {
    let known = DOC_FIELDS.iter().filter_map(|&name| Some((name, object.get(name)?)));
    known.map(|(name, value)| (bulk(name), field(name, value))).collect()
}

/// The shape that Redis gives to a field: words of a fixed choice are simple strings in a set, lists of arguments are
/// arrays, and so on.
fn field(name: &str, value: &Json) -> Value {
    match (name, value) {
        ("flags" | "doc_flags", Json::Array(words)) => {
            Value::Set(words.iter().map(|word| simple(word.as_str().unwrap_or_default())).collect())
        }
        ("history", Json::Array(_)) => Value::Set(elements(value)),
        _ => converted(value),
    }
}

fn converted(value: &Json) -> Value {
    match value {
        Json::String(text) => bulk(text),
        Json::Number(number) => Value::Integer(number.as_i64().expect("the table holds whole numbers")),
        Json::Array(_) => Value::Array(elements(value)),
        _ => Value::Map(fields(value)),
    }
}

fn elements(value: &Json) -> Vec<Value> {
    value.as_array().map_or(&[][..], Vec::as_slice).iter().map(converted).collect()
}

fn list(args: &[Bytes]) -> Value {
    let mut keep: Box<dyn Fn(&CommandSpec) -> bool> = Box::new(|_| true);
    if let [filter_by, kind, argument] = args
        && is_word(filter_by, b"filterby")
    {
        let argument = printable(argument, argument.len());
        keep = match kind.to_ascii_lowercase().as_slice() {
            b"module" => Box::new(|_| false),
            b"aclcat" => {
                let category = format!("@{}", argument.to_lowercase());
                Box::new(move |spec| spec.acl_categories.contains(&category))
            }
            b"pattern" => {
                Box::new(move |spec| glob::matches(argument.as_bytes(), spec.name.as_bytes(), true))
            }
            _ => return Value::error("ERR syntax error"),
        };
    } else if !args.is_empty() {
        return Value::error("ERR syntax error");
    }
    let with_subcommands = listed().flat_map(|spec| std::iter::once(spec).chain(&spec.subcommands));
    Value::Array(with_subcommands.filter(|spec| keep(spec)).map(|spec| bulk(&spec.name)).collect())
}

fn get_keys(args: &[Bytes], with_flags: bool) -> Value {
    let command = lookup(&args[0]).filter(|spec| !spec.flags.contains(CommandFlags::INTERNAL));
    let leaf = command.and_then(|spec| spec.leaf(args).ok());
    let Some(spec) = leaf else {
        return Value::error("ERR Invalid command specified");
    };
    if !spec.has_keys() {
        return Value::error("ERR The command has no key arguments");
    }
    let Ok(positions) = spec.key_positions(args) else {
        return Value::error("ERR Invalid number of arguments specified for command");
    };
    let keys = positions.map(|position| {
        let key = Value::Bulk(args[position].clone());
        if with_flags { Value::Array(vec![key, key_flags(spec, position, args)]) } else { key }
    });
    Value::Array(keys.collect())
}

/// What the command does with the key at this position: the flags of the key specification that covers it.
fn key_flags(spec: &CommandSpec, position: usize, args: &[Bytes]) -> Value {
    let specs = spec.key_specs.as_array().map_or(&[][..], Vec::as_slice);
    let covering = specs.iter().rev().find(|key_spec| {
        let first = key_spec["begin_search"]["spec"]["index"].as_u64().unwrap_or(u64::MAX);
        usize::try_from(first).is_ok_and(|first| first <= position)
    });
    let Some(covering) = covering else { return Value::Set(Vec::new()) };
    let flags: &[&str] = match spec.name.as_str() {
        "set" if args[3..].iter().any(|option| is_word(option, b"get")) => &["RW", "access", "update"],
        "set" => &["OW", "update"],
        "bitfield" if only_gets(&args[2..]) => &["RO", "access"],
        "bitfield" => &["RW", "access", "update"],
        _ => return field("flags", &covering["flags"]),
    };
    Value::Set(flags.iter().map(|flag| simple(flag)).collect())
}

/// Are the operations of a BITFIELD well-formed and all GETs?
fn only_gets(mut words: &[Bytes]) -> bool {
    while let Some(word) = words.first() {
        let taken = if is_word(word, b"get") { 3 } else { 2 };
        if taken == 2 && !is_word(word, b"overflow") || words.len() < taken {
            return false;
        }
        words = &words[taken..];
    }
    true
}

fn simple(text: &str) -> Value {
    Value::Simple(text.to_owned().into())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}
