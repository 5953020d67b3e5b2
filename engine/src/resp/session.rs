//! What one client has said so far, and what its next command means.

use std::sync::Arc;

use bytes::Bytes;
use net::map::ClusterMap;
use net::protocol::ReadConsistency;
use net::resp::{Value, Version};

use super::action::Action;
use super::config;
use super::info::Facts;
use super::registry::{Registry, Row};
use super::transaction::Transaction;
use crate::redis::table::{self, CommandFlags, CommandSpec};

/// Namespaces that clients may select.
pub const NAMESPACES: u8 = 16;

/// What a session may know of its node.
pub trait Node {
    /// The node's number.
    fn id(&self) -> u64;
    /// Microseconds since the Unix epoch.
    fn wall_us(&self) -> u64;
    /// The shard that owns a slot.
    fn shard_of_slot(&self, slot: u16) -> u32;
    /// The node that leads a shard, as far as this one knows.
    fn leader_of(&self, shard: u32) -> Option<u64>;
    /// Whether this node has a replica of a shard.
    fn hosts(&self, shard: u32) -> bool;
    /// Where another node has its door that redirects.
    fn cluster_address(&self, node: u64) -> Option<String>;
    /// The cluster map, with leaders.
    fn map(&self) -> ClusterMap;
    /// What clients must give with AUTH, if anything.
    fn password(&self) -> Option<&str>;
    /// Whether DEBUG is allowed.
    fn allows_debug(&self) -> bool;
    /// The connections of the node.
    fn registry(&self) -> &Registry;
    /// Figures of the node.
    fn facts(&self) -> Facts;
}

/// Which replies a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Replies {
    #[default]
    All,
    /// None until it says otherwise.
    Off,
    /// Neither that of this command nor that of the next.
    SkipThisAndNext,
    /// Not that of this command.
    Skip,
}

/// One client. For each of its commands call [`Session::command`], then [`Session::is_silent`] and look at the version.
#[derive(Debug)]
pub struct Session {
    pub(super) cluster: bool,
    pub(super) row: Arc<Row>,
    pub(super) version: Version,
    pub(super) namespace: u8,
    pub(super) authenticated: bool,
    pub(super) follower: bool,
    pub(super) no_evict: bool,
    pub(super) replies: Replies,
    pub(super) name: String,
    pub(super) library: (String, String),
    pub(super) transaction: Option<Transaction>,
    /// Namespace, key and version of what is watched.
    pub(super) watched: Vec<(u8, Bytes, u64)>,
    last_command: &'static str,
}

impl Session {
    /// A client at the door that redirects (`cluster`) or at the one that does not.
    pub fn new(cluster: bool, row: Arc<Row>, node: &dyn Node) -> Session {
        Session {
            cluster,
            row,
            version: Version::Resp2,
            namespace: 0,
            authenticated: node.password().is_none(),
            follower: false,
            no_evict: false,
            replies: Replies::All,
            name: String::new(),
            library: (String::new(), String::new()),
            transaction: None,
            watched: Vec::new(),
            last_command: "NULL",
        }
    }

    /// Whether it came to the door that redirects.
    pub fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// The protocol its next reply is to be written in.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it has given the password, if there is one.
    pub fn is_authenticated(&self) -> bool {
        self.authenticated
    }

    /// Whether the reply to the last command is not wanted.
    pub fn is_silent(&self) -> bool {
        self.replies != Replies::All
    }

    /// What is to be done about a command; `args` is not empty.
    pub fn command(&mut self, args: Vec<Bytes>, node: &dyn Node) -> Action {
        self.replies = match self.replies {
            Replies::SkipThisAndNext => Replies::Skip,
            Replies::Skip => Replies::All,
            other => other,
        };
        if self.authenticated
            && self.transaction.is_none()
            && let Some(action) = self.simple(&args, node)
        {
            return action;
        }
        if is_of_a_browser(&args[0]) {
            tracing::warn!(
                client = self.row.id,
                "POST or Host: at the Redis door, as a browser might be made to send: closed"
            );
            return Action::Cut;
        }
        let spec = match table::resolve(&args) {
            Ok(spec) => spec,
            Err(error) if args[0].eq_ignore_ascii_case(b"exec") => {
                (self.transaction, self.watched) = (None, Vec::new());
                let why = error.strip_prefix("ERR ").unwrap_or(&error);
                let text = format!("EXECABORT Transaction discarded because of: {why}");
                return Action::Reply(Value::Error(text));
            }
            Err(error) => return self.reject(error),
        };
        self.last_command = &spec.name;
        if spec.name.starts_with("debug") && !node.allows_debug() {
            return self.reject(DEBUG_REFUSED.to_owned());
        }
        if !self.authenticated && !spec.flags.contains(CommandFlags::NO_AUTH) {
            return self.reject("NOAUTH Authentication required.".to_owned());
        }
        if self.transaction.is_some() {
            match &spec.name[..] {
                "exec" | "discard" | "multi" | "watch" | "quit" | "reset" => {}
                _ => return self.queue(spec, args, node),
            }
        }
        self.run(spec, args, node)
    }

    fn run(&mut self, spec: &'static CommandSpec, args: Vec<Bytes>, node: &dyn Node) -> Action {
        match &spec.name[..] {
            "multi" => self.multi(),
            "exec" => self.exec(node),
            "discard" => self.discard(),
            "watch" => self.watch(&args, node),
            "unwatch" => {
                self.watched.clear();
                Action::Reply(Value::OK)
            }
            "quit" => Action::Close(Value::OK),
            _ if spec.has_keys() => self.data(spec, args, node),
            _ => match self.whole(spec, &args, node) {
                Some(action) => action,
                None => Action::Reply(self.local(spec, &args, node)),
            },
        }
    }

    /// A command that is refused before anybody looks at its arguments; a transaction it belongs to is lost.
    pub(super) fn reject(&mut self, error: String) -> Action {
        if let Some(transaction) = &mut self.transaction {
            transaction.spoil();
        }
        Action::Reply(Value::Error(error))
    }

    /// Begins anew, as `RESET` does.
    pub(super) fn reset(&mut self, node: &dyn Node) {
        *self = Session::new(self.cluster, self.row.clone(), node);
    }

    /// How fresh reads must be.
    pub(super) fn consistency(&self) -> ReadConsistency {
        if self.follower { ReadConsistency::Follower } else { ReadConsistency::Linearizable }
    }

    /// Tells the node's list of connections.
    pub fn publish(&self, now_ms: u64, unread_bytes: usize, unsent_bytes: usize) {
        let mut detail = self.row.detail();
        detail.name.clone_from(&self.name);
        detail.library.clone_from(&self.library.0);
        detail.library_version.clone_from(&self.library.1);
        detail.namespace = self.namespace;
        detail.queued = self.transaction.as_ref().map(Transaction::len);
        detail.no_evict = self.no_evict;
        detail.follower = self.follower;
        detail.version = if self.version == Version::Resp3 { 3 } else { 2 };
        detail.command = self.last_command;
        detail.active_ms = now_ms;
        detail.unread_bytes = unread_bytes;
        detail.unsent_bytes = unsent_bytes;
    }

    pub(super) fn set_last_command(&mut self, name: &'static str) {
        self.last_command = name;
    }

    /// Takes the versions of keys that were to be watched.
    pub fn watch_versions(&mut self, watched: impl IntoIterator<Item = (u8, Bytes, u64)>) {
        self.watched.extend(watched);
    }

    pub(super) fn config(&self, args: &[Bytes], node: &dyn Node) -> Value {
        config::config(args, node)
    }
}

const DEBUG_REFUSED: &str = "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you \
                             can run it from a local connection, otherwise you need to set this option in the \
                             configuration file, and then restart the server.";

/// HTTP at this door is somebody's page that makes a browser talk to it: what it says behind the head must not be obeyed.
fn is_of_a_browser(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// A whole number as Redis reads one.
pub(super) fn integer(bytes: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = plain && (digits == "0" && text.len() == 1 || !digits.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

pub(super) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(super) const SYNTAX: &str = "ERR syntax error";

#[cfg(test)]
mod tests;
