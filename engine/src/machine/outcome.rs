//! What became of a command, mutation by mutation, or of a program.

use bytes::Bytes;

/// What became of one mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MutationOutcome {
    /// The value was written.
    Put {
        /// Its version: the index of the entry.
        version: u64,
    },
    /// The key is gone.
    Deleted {
        /// Whether there was a visible value before.
        existed: bool,
    },
    /// The expectation held and the swap was made.
    Swapped {
        /// The version written: the index of the entry, also where the swap removed the key.
        version: u64,
    },
    /// The expectation did not hold; nothing of the command was applied.
    NotSwapped {
        /// The version of the visible value there is, if any.
        current: Option<u64>,
    },
    /// Another mutation of the same command was not swapped, so this one was not applied (or not even
    /// looked at).
    NotApplied,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a command with one mutation.
    One(MutationOutcome),
    /// Of a command with several mutations or none, in their order.
    Batch(Box<[MutationOutcome]>),
    /// The session has forgotten this sequence: the write was not applied now, and whether it was
    /// applied before cannot be told.
    SessionExpired,
    /// Of a command or a program with a key outside of the machine's slots: nothing was done, and nothing remembered.
    WrongShard,
    /// Of a program: the replies of its commands as RESP3 values, one after the other, empty where nobody wants them;
    /// `None`: a watched key has changed, and nothing was done.
    Executed(Option<Bytes>),
    /// Of a program that was executed: the batch's replies are longer together than are held in memory. Whoever waits
    /// hears that its outcome is unknown.
    Untold,
}

impl Outcome {
    /// Of an entry without mutations.
    pub(super) fn empty() -> Self {
        Self::Batch(Box::default())
    }

    /// Of a command of `count` mutations whose mutation `at` ended with `refusal`.
    pub(super) fn refused(count: usize, at: usize, refusal: MutationOutcome) -> Self {
        if count == 1 {
            return Self::One(refusal);
        }
        let mut all = vec![MutationOutcome::NotApplied; count];
        all[at] = refusal;
        Self::Batch(all.into())
    }

    /// The mutations' outcomes, in order; none for an expired session, a wrong shard or a program.
    pub fn mutations(&self) -> &[MutationOutcome] {
        match self {
            Self::One(outcome) => std::slice::from_ref(outcome),
            Self::Batch(outcomes) => outcomes,
            Self::SessionExpired | Self::WrongShard | Self::Executed(_) | Self::Untold => &[],
        }
    }
}

/// Bytes of replies of one batch that are told; beyond it, only short ones are.
const REPLIES_BYTES_MAX: usize = 32 << 20;
/// Replies this short are always told.
const SHORT_REPLIES_BYTES: usize = 1 << 10;

/// The outcomes of a batch that somebody waits for.
#[derive(Default)]
pub(super) struct Told {
    pub(super) outcomes: Vec<(u64, Outcome)>,
    bytes: usize,
}

impl Told {
    pub(super) fn push(&mut self, index: u64, outcome: Outcome) {
        let bytes = match &outcome {
            Outcome::Executed(Some(replies)) => replies.len(),
            _ => 0,
        };
        let is_untold = bytes > SHORT_REPLIES_BYTES && self.bytes + bytes > REPLIES_BYTES_MAX;
        if is_untold {
            self.outcomes.push((index, Outcome::Untold));
        } else {
            self.bytes += bytes;
            self.outcomes.push((index, outcome));
        }
    }
}

impl From<Vec<MutationOutcome>> for Outcome {
    fn from(outcomes: Vec<MutationOutcome>) -> Self {
        match outcomes.as_slice() {
            [outcome] => Self::One(*outcome),
            _ => Self::Batch(outcomes.into()),
        }
    }
}

/// Gathers the outcomes of a command; touches the heap only for several that are wanted.
pub(super) struct Collector {
    count: usize,
    wanted: bool,
    first: Option<MutationOutcome>,
    all: Vec<MutationOutcome>,
}

impl Collector {
    pub(super) fn new(count: usize, wanted: bool) -> Self {
        let several = if wanted && count > 1 { count } else { 0 };
        Self { count, wanted, first: None, all: Vec::with_capacity(several) }
    }

    pub(super) fn push(&mut self, outcome: MutationOutcome) {
        match (self.wanted, self.count) {
            (false, _) => {}
            (true, 1) => self.first = Some(outcome),
            (true, _) => self.all.push(outcome),
        }
    }

    pub(super) fn finish(self) -> Option<Outcome> {
        match (self.wanted, self.first) {
            (false, _) => None,
            (true, Some(outcome)) => Some(Outcome::One(outcome)),
            (true, None) => Some(Outcome::Batch(self.all.into())),
        }
    }
}
