//! The appends under way to one follower.

use std::collections::VecDeque;

use crate::types::Index;

/// A window of appends not yet acknowledged, in the order sent.
///
/// Invariants: `last` rises from entry to entry; `bytes` is the sum over the window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflights {
    sent: VecDeque<Sent>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The last entry of the message.
    last: Index,
    bytes: u64,
}

impl Inflights {
    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// Notes a message whose last entry is `last`.
    pub(crate) fn push(&mut self, last: Index, bytes: u64) {
        let rising = self.sent.back().is_none_or(|sent| sent.last < last);
        assert!(rising, "an append ending at {last} sent after a later one");
        self.sent.push_back(Sent { last, bytes });
        self.bytes += bytes;
    }

    /// Forgets the messages that `match_index` acknowledges. An acknowledgement covers all before it, so a lost one
    /// does not hold the window.
    pub(crate) fn free_to(&mut self, match_index: Index) {
        while let Some(sent) = self.sent.front()
            && sent.last <= match_index
        {
            self.bytes -= sent.bytes;
            self.sent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_frees_all_before_it() {
        let mut inflights = Inflights::default();
        for (last, bytes) in [(3, 10), (5, 20), (9, 40)] {
            inflights.push(Index(last), bytes);
        }
        inflights.free_to(Index(2));
        assert_eq!((inflights.len(), inflights.bytes()), (3, 70));
        inflights.free_to(Index(8));
        assert_eq!((inflights.len(), inflights.bytes()), (1, 40));
        inflights.free_to(Index(9));
        assert!(inflights.is_empty());
        assert_eq!(inflights.bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "sent after a later one")]
    fn messages_are_noted_in_order() {
        let mut inflights = Inflights::default();
        inflights.push(Index(3), 1);
        inflights.push(Index(3), 1);
    }
}
