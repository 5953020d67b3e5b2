//! `CONFIG`: what of Redis' configuration has a meaning here. Nothing of it can change while the node runs, so setting a
//! parameter to what it is succeeds, and to anything else is refused.

use bytes::Bytes;
use net::resp::Value;

use super::session::{NAMESPACES, Node};
use crate::redis::glob;

pub(super) fn config(args: &[Bytes], node: &dyn Node) -> Value {
    match args[1].to_ascii_lowercase().as_slice() {
        b"get" => get(&args[2..], node),
        b"set" => set(&args[2..], node),
        b"resetstat" => {
            node.registry().reset();
            Value::OK
        }
        b"rewrite" => Value::error("ERR The server is running without a config file"),
        _ => Value::Array(HELP.iter().map(|line| Value::Simple((*line).into())).collect()),
    }
}

const HELP: &[&str] = &[
    "CONFIG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Set the configuration <directive> to <value>.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "HELP",
    "    Prints this help.",
];

fn parameters(node: &dyn Node) -> Vec<(&'static str, String)> {
    let facts = node.facts();
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    vec![
        ("appendfsync", "always".to_owned()),
        ("appendonly", "yes".to_owned()),
        ("bind", facts.bind.clone()),
        ("cluster-enabled", yes_no(true)),
        ("databases", NAMESPACES.to_string()),
        ("dir", facts.dir.clone()),
        ("enable-debug-command", yes_no(node.allows_debug())),
        ("maxclients", facts.connections_max.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("min-replicas-to-write", "0".to_owned()),
        ("port", facts.port.to_string()),
        ("proto-max-bulk-len", facts.value_bytes_max.to_string()),
        ("requirepass", node.password().map_or_else(String::new, |_| "(hidden)".to_owned())),
        ("save", String::new()),
        ("tcp-keepalive", "60".to_owned()),
        ("timeout", "0".to_owned()),
    ]
}

fn get(patterns: &[Bytes], node: &dyn Node) -> Value {
    let wanted = |name: &str| patterns.iter().any(|it| glob::matches(it, name.as_bytes(), true));
    let found = parameters(node).into_iter().filter(|(name, _)| wanted(name));
    Value::Map(found.map(|(name, value)| (Value::bulk(name.as_bytes()), Value::bulk(value))).collect())
}

fn set(pairs: &[Bytes], node: &dyn Node) -> Value {
    if !pairs.len().is_multiple_of(2) {
        return Value::error("ERR wrong number of arguments for 'config|set' command");
    }
    let parameters = parameters(node);
    for pair in pairs.chunks(2) {
        let shown = String::from_utf8_lossy(&pair[0]);
        let known = parameters.iter().find(|(name, _)| pair[0].eq_ignore_ascii_case(name.as_bytes()));
        let Some((_, value)) = known else {
            let why = format!("ERR Unknown option or number of arguments for CONFIG SET - '{shown}'");
            return Value::error(why);
        };
        if !pair[1].eq_ignore_ascii_case(value.as_bytes()) {
            let why = "can't set immutable config";
            return Value::error(format!(
                "ERR CONFIG SET failed (possibly related to argument '{shown}') - {why}"
            ));
        }
    }
    Value::OK
}
