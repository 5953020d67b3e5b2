//! What a command asks the driver to do.

use bytes::Bytes;
use net::protocol::{Op, ReadConsistency};
use net::resp::Value;

/// What is to be done about one command.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Answer this, when all earlier commands have been answered.
    Reply(Value),
    /// Answer this and close the connection.
    Close(Value),
    /// Close the connection without a word.
    Cut,
    /// Ask one shard.
    Call(Call),
    /// Ask several shards, and make one reply of their answers.
    Calls(Vec<Call>, Merge),
    /// Ask for the versions of these keys, tell the session, and only then read its next command.
    Watch(Vec<Call>, Vec<(u8, Bytes)>),
    /// Ask one shard to execute a transaction. The parts are its commands in order: those that are not answered here take
    /// the next reply of the shard. `None` for the call: all are answered here.
    Execute(Option<Call>, Vec<Option<Value>>),
    /// Something that takes several steps: nothing earlier may be under way with it, and nothing later.
    Task(Task),
}

/// One question to one shard.
#[derive(Debug, PartialEq)]
pub struct Call {
    /// The shard.
    pub shard: u32,
    /// A slot of its keys, which a redirection names.
    pub slot: u16,
    /// The namespace.
    pub namespace: u8,
    /// What to ask.
    pub op: Op,
    /// What the answer becomes.
    pub shape: Shape,
    /// The keys.
    pub touches: Touches,
}

/// What an answer becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The value, or null.
    Value,
    /// `OK`.
    Stored,
    /// How many keys there were: 1 or 0.
    Removed,
    /// The same.
    Exists,
    /// How many keys there are.
    Count,
    /// What the command answered.
    Program,
}

/// How the replies of several shards become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Numbers are added up.
    Sum,
    /// All are `OK`.
    Ok,
    /// Element `n` of the reply of call `c` stands where `positions[c][n]` says.
    Order(Vec<Vec<usize>>),
}

/// The keys of a call, to keep what is asked about the same key in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touches {
    /// Whether it may change them.
    pub write: bool,
    /// Their slots; more than one only when there are several keys.
    pub slots: Slots,
}

/// One slot, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots {
    /// One key.
    Key(u16, Bytes),
    /// Several keys, all of one slot.
    One(u16),
    /// Keys of these slots.
    Many(Vec<u16>),
}

impl Slots {
    /// Whether some key may be in both.
    pub fn meet(&self, other: &Slots) -> bool {
        match (self, other) {
            (Slots::Key(slot, key), Slots::Key(other, other_key)) => slot == other && key == other_key,
            (one, Slots::Many(slots)) => slots.iter().any(|slot| one.holds(*slot)),
            (one, Slots::One(slot) | Slots::Key(slot, _)) => one.holds(*slot),
        }
    }

    fn holds(&self, wanted: u16) -> bool {
        match self {
            Slots::Key(slot, _) | Slots::One(slot) => *slot == wanted,
            Slots::Many(slots) => slots.contains(&wanted),
        }
    }
}

/// Something over many keys, or nothing about keys that takes time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// All keys that a pattern describes.
    Keys {
        /// The namespace.
        namespace: u8,
        /// The pattern.
        pattern: Bytes,
        /// How fresh.
        consistency: ReadConsistency,
    },
    /// The next keys behind a cursor.
    Scan {
        /// The namespace.
        namespace: u8,
        /// What the last reply said; 0 to begin.
        cursor: u64,
        /// Keys it does not describe are left out.
        pattern: Option<Bytes>,
        /// About how many keys to look at.
        count: u32,
        /// False: values of another type than there are were asked for.
        any: bool,
        /// How fresh.
        consistency: ReadConsistency,
    },
    /// How many keys there are.
    Size {
        /// The namespace.
        namespace: u8,
        /// How fresh.
        consistency: ReadConsistency,
    },
    /// Some key.
    RandomKey {
        /// The namespace.
        namespace: u8,
        /// How fresh.
        consistency: ReadConsistency,
    },
    /// The first keys of a slot.
    KeysInSlot {
        /// The slot.
        slot: u16,
        /// Most keys to name.
        count: u32,
        /// How fresh.
        consistency: ReadConsistency,
    },
    /// Removes all keys of a namespace, or of all.
    Flush {
        /// The namespace; `None`: all.
        namespace: Option<u8>,
    },
    /// Counts the keys of all namespaces for `INFO`, of which the rest is made.
    Keyspace {
        /// What comes before.
        text: String,
    },
    /// Waits until replicas have what this connection has written; the reply says how many have.
    Wait {
        /// Beside the leaders.
        replicas: i64,
        /// No longer than this; `None`: as long as it takes.
        timeout_ms: Option<u64>,
    },
    /// Waits.
    Sleep {
        /// So many milliseconds.
        ms: u64,
    },
}
