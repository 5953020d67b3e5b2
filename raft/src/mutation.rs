//! Faults that tests build in on purpose, to see that the checkers find them.
//!
//! Without the feature `mutations` nothing of this is left: [`active`] is then a constant. The list names the faults of
//! the crates above too, so that one switch serves a whole simulation.

/// A rule broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mutation {
    /// Votes for every candidate that is up to date, whomever it has voted for in the term.
    VoteTwice,
    /// Commits an entry of a former term as soon as a quorum holds it.
    CommitOldTerm,
    /// A leader takes its lease for valid however long no quorum has answered.
    SkipLeaseCheck,
    /// In a joint configuration, asks a majority of the incoming voters only.
    JointIncomingOnly,
    /// Serves reads from the commit index, unconfirmed, also before the first commit of the term.
    ReadUnconfirmed,
    /// Keeps a suffix that contradicts the leader's log, and acknowledges as if it were replaced.
    LoseTruncate,
    /// Installs a snapshot although the node has committed more than it holds.
    SnapshotOverNewer,
    /// Sends what promises something durable before it is.
    AckBeforePersist,
    /// Keeps the former configuration when a snapshot is installed.
    ForgetConfState,
    /// Counts a learner toward the quorum that commits.
    LearnerCounts,
    /// Lets a configuration change reach the disk before what it proves committed is known there.
    ConfChangeBeforeCommit,
    /// The core: acknowledges a write before it is flushed.
    AckBeforeFlush,
    /// The core: hands entries to the state machine in another order.
    ReorderApply,
    /// The state machine: leaves the session table out of a snapshot.
    ForgetSessions,
    /// The core: gives a new replica the raft id of the one it replaces.
    ReuseRaftId,
    /// The core: compacts the log past what the state machine durably holds.
    CompactPastDurable,
    /// The core: leaves the log as it was when a snapshot is installed.
    SkipStreamReset,
    /// The state machine: applies again, after a restart, what it has applied.
    ApplyTwice,
    /// The core: a leader that has proposed to cut its shard takes keys of the upper half until the cut is applied.
    TakeCededKeys,
    /// The core: goes on serving keys that were cut off its shard.
    ServeCutKeys,
    /// The core: a new leader answers puts when they are committed, though its log may hold a cut that it does not know.
    AckOverCut,
    /// The state machine: what is cut off does not take the session table along.
    CutForgetsSessions,
    /// The core: every replica that applies a cut makes a replica of the new shard, also one that did not vote for it.
    FoundAgain,
}

/// Every mutation with its name, as command lines take it.
pub const ALL: &[(&str, Mutation)] = &[
    ("vote-twice", Mutation::VoteTwice),
    ("commit-old-term", Mutation::CommitOldTerm),
    ("skip-lease-check", Mutation::SkipLeaseCheck),
    ("joint-incoming-only", Mutation::JointIncomingOnly),
    ("read-unconfirmed", Mutation::ReadUnconfirmed),
    ("lose-truncate", Mutation::LoseTruncate),
    ("snapshot-over-newer", Mutation::SnapshotOverNewer),
    ("ack-before-persist", Mutation::AckBeforePersist),
    ("forget-conf-state", Mutation::ForgetConfState),
    ("learner-counts", Mutation::LearnerCounts),
    ("conf-change-before-commit", Mutation::ConfChangeBeforeCommit),
    ("ack-before-flush", Mutation::AckBeforeFlush),
    ("reorder-apply", Mutation::ReorderApply),
    ("forget-sessions", Mutation::ForgetSessions),
    ("reuse-raft-id", Mutation::ReuseRaftId),
    ("compact-past-durable", Mutation::CompactPastDurable),
    ("skip-stream-reset", Mutation::SkipStreamReset),
    ("apply-twice", Mutation::ApplyTwice),
    ("take-ceded-keys", Mutation::TakeCededKeys),
    ("serve-cut-keys", Mutation::ServeCutKeys),
    ("ack-over-cut", Mutation::AckOverCut),
    ("cut-forgets-sessions", Mutation::CutForgetsSessions),
    ("found-again", Mutation::FoundAgain),
];

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    // One per thread: many simulations run side by side.
    thread_local!(static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) });

    /// Builds `mutation` into everything this thread runs from now on; `None` ends it.
    pub fn set(mutation: Option<Mutation>) {
        ACTIVE.set(mutation);
    }

    /// Whether `mutation` is built in.
    #[must_use]
    pub fn active(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use switch::{active, set};

/// Whether `mutation` is built in: never, without the feature `mutations`.
#[cfg(not(feature = "mutations"))]
#[must_use]
pub const fn active(_mutation: Mutation) -> bool {
    false
}

/// `mutated!(VoteTwice)`: whether that rule is to be broken here.
macro_rules! mutated {
    ($mutation:ident) => {
        $crate::mutation::active($crate::mutation::Mutation::$mutation)
    };
}

pub(crate) use mutated;
