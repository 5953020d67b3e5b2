//! Which commands there are: their names, how many arguments they take, and which of those are keys.
//!
//! `table/commands.json` holds, for every command of every door, what Redis 7.0.15 says of it in `COMMAND INFO` and
//! `COMMAND DOCS`; a test compares the two. It is read once, at the first use. `COMMAND` itself is answered by
//! [`command`], unknown commands and wrong numbers of arguments by [`resolve`], with the texts of Redis.

mod introspect;
mod load;

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::Value as Json;

pub use introspect::command;

bitflags::bitflags! {
    /// What kind of command it is; in the order and with the names of `COMMAND INFO`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CommandFlags: u32 {
        /// Changes keys.
        const WRITE = 1;
        /// Reads keys and changes none.
        const READONLY = 1 << 1;
        /// May make values longer.
        const DENYOOM = 1 << 2;
        /// For operators.
        const ADMIN = 1 << 3;
        /// Not for scripts.
        const NOSCRIPT = 1 << 4;
        /// May wait.
        const BLOCKING = 1 << 5;
        /// Answered before the data is there.
        const LOADING = 1 << 6;
        /// Answered even when the data may be old.
        const STALE = 1 << 7;
        /// Not in the log of slow commands.
        const SKIP_SLOWLOG = 1 << 8;
        /// Takes constant or logarithmic time.
        const FAST = 1 << 9;
        /// Allowed before the password was given.
        const NO_AUTH = 1 << 10;
        /// Its keys are where an argument says.
        const MOVABLEKEYS = 1 << 11;
        /// Allowed while something long is running.
        const ALLOW_BUSY = 1 << 12;
        /// RingKV's own: no client may call it, and `COMMAND` does not name it.
        const INTERNAL = 1 << 31;
    }
}

/// One command, or one subcommand of a command.
#[derive(Debug)]
pub struct CommandSpec {
    /// In small letters; a subcommand's is `command|subcommand`.
    pub name: String,
    /// The number of arguments with the name itself; `-n` means `n` or more.
    pub arity: i32,
    /// What kind of command it is.
    pub flags: CommandFlags,
    /// The position of the first key, 0 when there is none.
    pub first_key: i32,
    /// The position of the last key; `-1` is the last argument.
    pub last_key: i32,
    /// From one key to the next.
    pub step: i32,
    /// The access control categories, with their `@`.
    pub acl_categories: Vec<String>,
    /// Hints for cluster clients.
    pub tips: Vec<String>,
    /// What the documentation calls its group.
    pub group: String,
    /// The version of Redis it came with.
    pub since: String,
    /// How long it takes.
    pub complexity: String,
    /// What it does.
    pub summary: String,
    /// The subcommands, if any.
    pub subcommands: Vec<CommandSpec>,
    key_specs: Json,
    docs: Json,
}

/// Why the keys of a command cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It names no subcommand that there is.
    #[error("unknown subcommand")]
    UnknownSubcommand,
    /// It has too few arguments, or too many.
    #[error("wrong number of arguments")]
    Arity,
}

/// The positions of a command's keys among its arguments, in order.
pub type KeyPositions = std::iter::StepBy<std::ops::Range<usize>>;

struct Table {
    commands: Vec<CommandSpec>,
    by_name: HashMap<String, usize>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let commands = load::commands();
    let by_name = commands.iter().enumerate().map(|(at, spec)| (spec.name.clone(), at)).collect();
    Table { commands, by_name }
});

/// No command's name is longer.
const NAME_BYTES_MAX: usize = 32;

/// All commands by name, internal ones among them.
pub fn all() -> &'static [CommandSpec] {
    &TABLE.commands
}

/// The command of this name, in any case, an internal one too.
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut small = [0; NAME_BYTES_MAX];
    let small = small.get_mut(..name.len())?;
    small.copy_from_slice(name);
    small.make_ascii_lowercase();
    let at = *TABLE.by_name.get(std::str::from_utf8(small).ok()?)?;
    Some(&TABLE.commands[at])
}

/// The command or subcommand that a client's arguments call, of which there are at least one and not too few or too
/// many for it; or Redis' error text.
pub fn resolve(args: &[Bytes]) -> Result<&'static CommandSpec, String> {
    let Some(command) = lookup(&args[0]).filter(|spec| !spec.flags.contains(CommandFlags::INTERNAL)) else {
        return Err(unknown_command(args));
    };
    let Ok(spec) = command.leaf(args) else {
        let name = command.name.to_uppercase();
        let subcommand = printable(&args[1], 128);
        return Err(format!("ERR unknown subcommand '{subcommand}'. Try {name} HELP."));
    };
    if !spec.check_arity(args.len()) {
        return Err(wrong_arity(spec));
    }
    Ok(spec)
}

/// The keys of a command. `spec` may be the command or the subcommand.
pub fn keys<'a>(
    spec: &CommandSpec,
    args: &'a [Bytes],
) -> Result<impl Iterator<Item = &'a Bytes> + use<'a>, KeysError> {
    Ok(spec.key_positions(args)?.map(|position| &args[position]))
}

/// Redis' answer to a wrong number of arguments.
pub(super) fn wrong_arity(spec: &CommandSpec) -> String {
    format!("ERR wrong number of arguments for '{}' command", spec.name)
}

impl CommandSpec {
    /// May it have this many arguments, its name among them?
    pub fn check_arity(&self, args: usize) -> bool {
        let args = i64::try_from(args).unwrap_or(i64::MAX);
        let arity = i64::from(self.arity);
        if arity > 0 { args == arity } else { args >= -arity }
    }

    /// The subcommand that the arguments name, or the command itself when it has none.
    pub fn leaf<'s>(&'s self, args: &[Bytes]) -> Result<&'s CommandSpec, KeysError> {
        if self.subcommands.is_empty() || args.len() < 2 {
            return Ok(self);
        }
        self.subcommand(&args[1]).ok_or(KeysError::UnknownSubcommand)
    }

    /// The subcommand of this name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&CommandSpec> {
        let short = |spec: &CommandSpec| spec.name.len() - (self.name.len() + 1) == name.len();
        let same =
            |spec: &CommandSpec| spec.name.as_bytes()[self.name.len() + 1..].eq_ignore_ascii_case(name);
        self.subcommands.iter().find(|spec| short(spec) && same(spec))
    }

    /// Where among the arguments the keys are; none for a command without keys. Whether each of those is well-formed
    /// is for the command to say.
    pub fn key_positions(&self, args: &[Bytes]) -> Result<KeyPositions, KeysError> {
        let leaf = self.leaf(args)?;
        if !leaf.check_arity(args.len()) {
            return Err(KeysError::Arity);
        }
        let end = match usize::try_from(leaf.last_key) {
            Ok(last) => last + 1,
            Err(_) => args.len() + 1 - usize::try_from(-leaf.last_key).expect("it is negative"),
        };
        let step = usize::try_from(leaf.step).unwrap_or(0).max(1);
        Ok(match usize::try_from(leaf.first_key) {
            Ok(first) if first > 0 => (first..end).step_by(step),
            _ => (0..0).step_by(1),
        })
    }

    /// Can it have keys at all?
    pub fn has_keys(&self) -> bool {
        self.first_key > 0
    }
}

fn unknown_command(args: &[Bytes]) -> String {
    let mut beginning = String::new();
    for argument in &args[1..] {
        if beginning.len() >= 128 {
            break;
        }
        let shown = printable(argument, 128 - beginning.len());
        beginning.push_str(&format!("'{shown}' "));
    }
    format!("ERR unknown command '{}', with args beginning with: {beginning}", printable(&args[0], 128))
}

/// At most so many bytes of what a client sent, up to the first zero, in a form that an error may carry: line breaks
/// would end it, so they become spaces, as in Redis; what is not UTF-8 becomes U+FFFD.
pub(super) fn printable(bytes: &[u8], bytes_max: usize) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()).min(bytes_max);
    String::from_utf8_lossy(&bytes[..end]).replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests;
