//! What clients did and saw, and whether one register per key explains it.
//!
//! A [`History`] holds one [`Record`] per operation: when it was invoked, what it asked for, and how it ended. A test
//! runs clients that record, merges what they recorded and calls [`History::check`].
//!
//! Values are numbers here: the workload writes each number at most once, so a read names the write it saw.
//! Invariant: times of all records come from one monotonic clock.

mod checker;
mod versions;

use std::collections::BTreeMap;
use std::fmt;

pub use checker::{Exhausted, STEPS_MAX, Verdict, check_register};
pub use versions::VersionConflict;

/// Nanoseconds since the start of the history.
pub type Nanos = u64;

/// What an operation asks of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read.
    Get,
    /// Store a value.
    Put(u64),
    /// Remove.
    Delete,
    /// Store or remove if the key holds what is expected (`None`: does not exist).
    Swap {
        /// What must be there.
        expected: Option<u64>,
        /// What is there afterwards.
        new: Option<u64>,
    },
}

/// What a successful operation answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The value a read found.
    Found(Option<u64>),
    /// A put was made.
    Stored,
    /// A delete was made; whether there was something to delete.
    Deleted(bool),
    /// Whether a swap was made.
    Swapped(bool),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It took effect between its invocation and this time, with this answer.
    Ok {
        /// When the answer arrived.
        at: Nanos,
        /// The answer.
        answer: Answer,
        /// The version the store told, where it told one.
        version: Option<u64>,
    },
    /// It never took effect and never will.
    Failed,
    /// It may have taken effect, may do so at any later time, or never.
    Indeterminate,
}

/// One operation on one key.
#[derive(Clone, Debug)]
pub struct Record {
    /// The key.
    pub key: String,
    /// Who did it.
    pub client: u32,
    /// When it began.
    pub invoked: Nanos,
    /// What it asked for.
    pub action: Action,
    /// How it ended.
    pub end: End,
}

/// Everything that happened.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: Vec<Record>,
}

/// Why a history cannot be that of a linearizable store.
#[derive(Clone, Debug)]
pub enum Violation {
    /// No order of the operations on a key explains the answers.
    NotLinearizable {
        /// The key.
        key: String,
        /// The operation that no order explains, the states possible before it, and the operations around it.
        detail: String,
    },
    /// The checker gave up on a key: the history proves nothing.
    Undecided {
        /// The key.
        key: String,
        /// How far it came.
        reason: Exhausted,
    },
    /// Versions contradict each other.
    Version(VersionConflict),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::NotLinearizable { key, detail } => {
                write!(f, "key `{key}` is not linearizable: {detail}")
            }
            Violation::Undecided { key, reason } => write!(f, "key `{key}` is undecided: {reason}"),
            Violation::Version(conflict) => conflict.fmt(f),
        }
    }
}

impl History {
    /// Adds what a client recorded.
    pub fn extend(&mut self, records: impl IntoIterator<Item = Record>) {
        self.records.extend(records);
    }

    /// Number of operations that ended as `wanted` says.
    pub fn count(&self, wanted: impl Fn(&Record) -> bool) -> usize {
        self.records.iter().filter(|record| wanted(record)).count()
    }

    /// Checks every key. The first violation found, if any.
    pub fn check(&self) -> Result<(), Violation> {
        versions::check(&self.records).map_err(Violation::Version)?;
        let mut by_key: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
        for record in &self.records {
            by_key.entry(&record.key).or_default().push(record);
        }
        for (key, records) in by_key {
            match check_register(&records, STEPS_MAX) {
                Verdict::Linearizable => {}
                Verdict::Violated { detail } => {
                    return Err(Violation::NotLinearizable { key: key.to_owned(), detail });
                }
                Verdict::Undecided(reason) => {
                    return Err(Violation::Undecided { key: key.to_owned(), reason });
                }
            }
        }
        Ok(())
    }
}
