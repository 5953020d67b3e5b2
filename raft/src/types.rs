//! The integers of Raft, one type each, so that an index can never be passed for a term.
//!
//! Arithmetic is checked: running out of 64 bits is a bug, not a case to handle.

use std::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }

        impl From<$name> for u64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

newtype! {
    /// The identity of a member of the group. Zero is not a node.
    NodeId
}
newtype! {
    /// A term: the logical clock of elections (thesis §3.3). Zero is the term before the first election.
    Term
}
newtype! {
    /// A position in the log. The first entry has index 1; zero is the position before it.
    Index
}
newtype! {
    /// The number of one [`Ready`](crate::Ready), rising by one from 1 within one incarnation of a node.
    ReadyId
}
newtype! {
    /// The number of one [`Fetch`](crate::Fetch), rising by one from 1 within one incarnation of a node.
    FetchId
}
newtype! {
    /// A leader's probe round within its term. Rises with every tick and every batch of reads; each message to a
    /// follower carries the newest one and the follower echoes it. Round 0 asks for no echo.
    Round
}
newtype! {
    /// Nanoseconds, either a reading of the local monotonic clock or a length of time.
    Nanos
}

impl Index {
    /// The position before the first entry.
    pub const ZERO: Index = Index(0);

    /// The index that follows.
    #[must_use]
    pub fn next(self) -> Index {
        self.plus(1)
    }

    /// The index before; the one before zero is zero.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }

    /// The index `count` entries on.
    #[must_use]
    pub fn plus(self, count: u64) -> Index {
        Index(self.0.checked_add(count).expect("a log index past 2^64"))
    }

    /// How many entries lie in `(before, self]`; zero if `before` is not before.
    #[must_use]
    pub fn distance_from(self, before: Index) -> u64 {
        self.0.saturating_sub(before.0)
    }
}

impl Term {
    /// The term before the first election.
    pub const ZERO: Term = Term(0);

    /// The term that follows.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.checked_add(1).expect("a term past 2^64"))
    }
}

impl Round {
    /// Asks for no echo.
    pub const NONE: Round = Round(0);

    /// The round that follows.
    #[must_use]
    pub fn next(self) -> Round {
        Round(self.0.checked_add(1).expect("a round past 2^64"))
    }
}

impl ReadyId {
    /// The number that follows.
    #[must_use]
    pub fn next(self) -> ReadyId {
        ReadyId(self.0.checked_add(1).expect("a ready number past 2^64"))
    }
}

impl FetchId {
    /// The number that follows.
    #[must_use]
    pub fn next(self) -> FetchId {
        FetchId(self.0.checked_add(1).expect("a fetch number past 2^64"))
    }
}

impl Nanos {
    /// The start of the clock, or no time at all.
    pub const ZERO: Nanos = Nanos(0);

    /// `millis` thousandths of a second.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Nanos {
        Nanos(millis.saturating_mul(1_000_000))
    }

    /// The instant `length` after this one, or the end of time.
    #[must_use]
    pub fn saturating_add(self, length: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(length.0))
    }

    /// The time since `earlier`; zero if that is in the future.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// This length `count` times over.
    #[must_use]
    pub fn times(self, count: u32) -> Nanos {
        Nanos(self.0.saturating_mul(u64::from(count)))
    }
}
