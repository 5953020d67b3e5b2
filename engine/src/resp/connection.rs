//! Commands about the connection and the server, answered by the session itself.

use bytes::Bytes;
use net::resp::{Value, Version};

use super::session::{NAMESPACES, NOT_AN_INTEGER, Node, Replies, SYNTAX, Session, integer};
use super::{cluster, info};
use crate::redis::table::{self, CommandSpec};

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD_WANTED: &str = "ERR AUTH <password> called without any password configured for the default user. Are \
                                  you sure your configuration is correct?";
const HELLO_NEEDS_AUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO \
                                <proto> AUTH <user> <pass> option can be used to authenticate the client and select the \
                                RESP protocol version at the same time";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// The version of Redis whose commands these are.
pub const REDIS_VERSION: &str = "7.0.15";

impl Session {
    /// Answers a command that concerns no keys. Its number of arguments is right.
    pub(super) fn local(&mut self, spec: &CommandSpec, args: &[Bytes], node: &dyn Node) -> Value {
        let (name, subcommand) = spec.name.split_once('|').unwrap_or((&spec.name, ""));
        match name {
            "ping" => self.ping(args),
            "echo" => Value::Bulk(args[1].clone()),
            "time" => time(node),
            "select" => self.select(&args[1]),
            "auth" => self.auth_command(args, node),
            "hello" => self.hello(args, node),
            "reset" => {
                self.reset(node);
                Value::Simple("RESET".into())
            }
            "readonly" | "readwrite" => {
                self.follower = name == "readonly";
                Value::OK
            }
            "client" => self.client(subcommand, args, node),
            "command" => table::command(args),
            "object" => crate::redis::object_help(),
            "config" => self.config(args, node),
            "info" => info::info(args, &node.facts()),
            "cluster" => cluster::cluster(subcommand, args, node),
            "function" => function(args),
            "debug" => debug(args),
            "unwatch" => Value::OK,
            _ => Value::error(format!("ERR '{name}' cannot be executed here")),
        }
    }

    fn ping(&self, args: &[Bytes]) -> Value {
        match args {
            [_] => Value::Simple("PONG".into()),
            [_, text] => Value::Bulk(text.clone()),
            _ => Value::error("ERR wrong number of arguments for 'ping' command"),
        }
    }

    fn select(&mut self, index: &[u8]) -> Value {
        match integer(index).map(u8::try_from) {
            Some(Ok(namespace)) if namespace < NAMESPACES => {
                self.namespace = namespace;
                Value::OK
            }
            Some(Ok(_)) => Value::error("ERR DB index is out of range"),
            Some(Err(_)) if integer(index).is_some_and(|index| i32::try_from(index).is_ok()) => {
                Value::error("ERR DB index is out of range")
            }
            Some(Err(_)) => {
                Value::error("ERR value is out of range, value must between -2147483648 and 2147483647")
            }
            None => Value::error(NOT_AN_INTEGER),
        }
    }

    fn auth_command(&mut self, args: &[Bytes], node: &dyn Node) -> Value {
        let (user, password) = match args {
            [_, password] => {
                if node.password().is_none() {
                    return Value::error(NO_PASSWORD_WANTED);
                }
                (&b"default"[..], password)
            }
            [_, user, password] => (&user[..], password),
            _ => return Value::error(SYNTAX),
        };
        match self.authenticate(user, password, node) {
            true => Value::OK,
            false => Value::error(WRONG_PASSWORD),
        }
    }

    fn authenticate(&mut self, user: &[u8], password: &[u8], node: &dyn Node) -> bool {
        let right = node.password().is_none_or(|wanted| same(wanted.as_bytes(), password));
        let passed = user == b"default" && right;
        self.authenticated |= passed;
        passed
    }

    fn hello(&mut self, args: &[Bytes], node: &dyn Node) -> Value {
        let mut version = self.version;
        if let Some(wanted) = args.get(1) {
            version = match integer(wanted) {
                None => return Value::error("ERR Protocol version is not an integer or out of range"),
                Some(2) => Version::Resp2,
                Some(3) => Version::Resp3,
                Some(_) => return Value::error("NOPROTO unsupported protocol version"),
            };
        }
        let mut name = None;
        let mut options = args.get(2..).unwrap_or_default();
        while let [option, rest @ ..] = options {
            options = match rest {
                [user, password, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                    if !self.authenticate(user, password, node) {
                        return Value::error(WRONG_PASSWORD);
                    }
                    rest
                }
                [wanted, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                    let Some(wanted) = plain(wanted) else { return Value::error(BAD_NAME) };
                    name = Some(wanted);
                    rest
                }
                _ => {
                    let option = String::from_utf8_lossy(option);
                    return Value::error(format!("ERR Syntax error in HELLO option '{option}'"));
                }
            };
        }
        if !self.authenticated {
            return Value::error(HELLO_NEEDS_AUTH);
        }
        if let Some(name) = name {
            self.name = name;
        }
        self.version = version;
        let text = |text: &'static str| Value::Bulk(Bytes::from_static(text.as_bytes()));
        Value::Map(vec![
            (text("server"), text("redis")),
            (text("version"), text(REDIS_VERSION)),
            (text("proto"), Value::Integer(if version == Version::Resp3 { 3 } else { 2 })),
            (text("id"), Value::Integer(i64::try_from(self.row.id).unwrap_or(i64::MAX))),
            (text("mode"), text(if self.cluster { "cluster" } else { "standalone" })),
            (text("role"), text("master")),
            (text("modules"), Value::Array(Vec::new())),
        ])
    }

    fn client(&mut self, subcommand: &str, args: &[Bytes], node: &dyn Node) -> Value {
        let now_ms = node.wall_us() / 1000;
        match subcommand {
            "id" => Value::Integer(i64::try_from(self.row.id).unwrap_or(i64::MAX)),
            "getname" if self.name.is_empty() => Value::Null,
            "getname" => Value::bulk(self.name.clone()),
            "setname" => match plain(&args[2]) {
                Some(name) => {
                    self.name = name;
                    Value::OK
                }
                None => Value::error(BAD_NAME),
            },
            "setinfo" => self.set_info(&args[2], &args[3]),
            "info" => {
                self.publish(now_ms, 0, 0);
                text(format!("{}\n", self.row.line(now_ms)))
            }
            "list" => {
                self.publish(now_ms, 0, 0);
                client_list(&args[2..], node)
            }
            "no-evict" | "no-touch" => match switch(&args[2]) {
                Some(on) => {
                    self.no_evict = on;
                    Value::OK
                }
                None => Value::error(SYNTAX),
            },
            "reply" => self.client_reply(&args[2]),
            _ => Value::Array(CLIENT_HELP.iter().map(|line| Value::Simple((*line).into())).collect()),
        }
    }

    fn set_info(&mut self, option: &[u8], value: &[u8]) -> Value {
        let field = match option.to_ascii_lowercase().as_slice() {
            b"lib-name" => &mut self.library.0,
            b"lib-ver" => &mut self.library.1,
            _ => {
                let option = String::from_utf8_lossy(option);
                return Value::error(format!("ERR Unrecognized option '{option}'"));
            }
        };
        let Some(value) = plain(value) else {
            let option = String::from_utf8_lossy(option);
            let why = format!("ERR {option} cannot contain spaces, newlines or special characters.");
            return Value::error(why);
        };
        *field = value;
        Value::OK
    }

    fn client_reply(&mut self, how: &[u8]) -> Value {
        self.replies = match how.to_ascii_lowercase().as_slice() {
            b"on" => Replies::All,
            b"off" => Replies::Off,
            // Neither this command nor the next one is answered, unless nothing is anyway.
            b"skip" if self.replies == Replies::Off => Replies::Off,
            b"skip" => Replies::SkipThisAndNext,
            _ => return Value::error(SYNTAX),
        };
        Value::OK
    }
}

const CLIENT_HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "GETNAME",
    "    Return the name of the current connection.",
    "ID",
    "    Return the ID of the current connection.",
    "INFO",
    "    Return information about the current client connection.",
    "LIST [options ...]",
    "    Return information about client connections. Options:",
    "    * TYPE (NORMAL|MASTER|REPLICA|PUBSUB)",
    "      Return clients of specified type.",
    "REPLY (ON|OFF|SKIP)",
    "    Control the replies sent to the current connection.",
    "SETNAME <name>",
    "    Assign the name <name> to the current connection.",
    "SETINFO <option> <value>",
    "    Say which library the client is, with LIB-NAME and LIB-VER.",
    "NO-EVICT (ON|OFF)",
    "    Protect current client connection from eviction.",
    "HELP",
    "    Prints this help.",
];

/// A text as it is shown to people.
pub(super) fn text(text: String) -> Value {
    Value::Verbatim { format: *b"txt", text: text.into() }
}

/// Compares in a time that does not depend on where the two differ.
fn same(wanted: &[u8], given: &[u8]) -> bool {
    let differences = wanted.iter().enumerate();
    let differences =
        differences.fold(0, |sum, (at, byte)| sum | (byte ^ given.get(at).copied().unwrap_or(!byte)));
    differences == 0 && wanted.len() == given.len()
}

/// A name without spaces and control characters.
fn plain(bytes: &[u8]) -> Option<String> {
    let fits = bytes.len() <= 1024 && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte));
    fits.then(|| String::from_utf8_lossy(bytes).into_owned())
}

fn switch(word: &[u8]) -> Option<bool> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Some(true),
        b"off" => Some(false),
        _ => None,
    }
}

fn client_list(options: &[Bytes], node: &dyn Node) -> Value {
    let now_ms = node.wall_us() / 1000;
    match options {
        [] => text(node.registry().list(now_ms, |_| true)),
        [option, kind] if option.eq_ignore_ascii_case(b"type") => {
            match kind.to_ascii_lowercase().as_slice() {
                b"normal" => text(node.registry().list(now_ms, |_| true)),
                b"master" | b"replica" | b"slave" | b"pubsub" => text(String::new()),
                _ => Value::error(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(kind))),
            }
        }
        [option, ids @ ..] if option.eq_ignore_ascii_case(b"id") && !ids.is_empty() => {
            let ids: Option<Vec<u64>> =
                ids.iter().map(|id| integer(id).and_then(|id| u64::try_from(id).ok())).collect();
            match ids {
                Some(ids) => text(node.registry().list(now_ms, |id| ids.contains(&id))),
                None => Value::error("ERR Invalid client ID"),
            }
        }
        _ => Value::error(SYNTAX),
    }
}

fn time(node: &dyn Node) -> Value {
    let us = node.wall_us();
    let part = |number: u64| Value::bulk(number.to_string());
    Value::Array(vec![part(us / 1_000_000), part(us % 1_000_000)])
}

fn function(args: &[Bytes]) -> Value {
    match &args[2..] {
        [] => Value::OK,
        [how] if how.eq_ignore_ascii_case(b"sync") || how.eq_ignore_ascii_case(b"async") => Value::OK,
        _ => Value::error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
    }
}

/// `SLEEP` takes time and is answered elsewhere.
fn debug(args: &[Bytes]) -> Value {
    match args.get(1).map(|name| name.to_ascii_lowercase()).as_deref() {
        Some(b"set-active-expire") if args.len() == 3 => Value::OK,
        _ => Value::error("ERR unknown subcommand or wrong number of arguments for 'debug' command"),
    }
}
