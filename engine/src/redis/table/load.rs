//! Reads the table: part of the program, so anything wrong with it is a bug.

use serde_json::Value as Json;

use super::{CommandFlags, CommandSpec};

const COMMANDS: &str = include_str!("commands.json");

/// The commands in the order of the file, which is that of their names.
pub(super) fn commands() -> Vec<CommandSpec> {
    let file: Json = serde_json::from_str(COMMANDS).expect("the table of commands is JSON");
    file.as_array().expect("a list of commands").iter().map(spec).collect()
}

fn spec(entry: &Json) -> CommandSpec {
    let docs = &entry["docs"];
    let mut flags = entry["flags"].as_array().expect("a command has flags").iter().map(flag).collect();
    if entry["internal"] == true {
        flags |= CommandFlags::INTERNAL;
    }
    CommandSpec {
        name: text(&entry["name"]),
        arity: number(&entry["arity"]).expect("a command has an arity"),
        flags,
        first_key: number(&entry["keys"][0]).unwrap_or(0),
        last_key: number(&entry["keys"][1]).unwrap_or(0),
        step: number(&entry["keys"][2]).unwrap_or(0),
        acl_categories: texts(&entry["acl"]),
        tips: texts(&entry["tips"]),
        group: text(&docs["group"]),
        since: text(&docs["since"]),
        complexity: text(&docs["complexity"]),
        summary: text(&docs["summary"]),
        subcommands: list(&entry["subcommands"]).iter().map(spec).collect(),
        key_specs: Json::Array(list(&entry["key_specs"]).to_vec()),
        docs: docs.clone(),
    }
}

fn flag(name: &Json) -> CommandFlags {
    let name = name.as_str().expect("a flag is a word").to_uppercase();
    CommandFlags::from_name(&name).unwrap_or_else(|| panic!("the table names an unknown flag: {name}"))
}

fn number(value: &Json) -> Option<i32> {
    value.as_i64().map(|number| i32::try_from(number).expect("positions are small"))
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Json) -> Vec<String> {
    list(value).iter().map(text).collect()
}

fn list(value: &Json) -> &[Json] {
    value.as_array().map_or(&[], Vec::as_slice)
}
