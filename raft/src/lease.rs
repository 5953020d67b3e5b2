//! The leader's probe rounds: the one mechanism behind check-quorum, leases and read confirmation.
//!
//! A leader numbers its messages with rounds, and followers echo the number. It remembers when each round was opened,
//! which is never later than any message of that round was sent. So a quorum that echoed a round proves that nobody else
//! was elected before all those messages were sent, and that no member of the quorum will vote for another until an
//! election timeout, by its own clock, after it received one. Hence:
//!
//! - a *read* is confirmed when a quorum echoes a round no message of which left before the read came (thesis §6.4);
//! - the *lease* runs from the opening of the newest round a quorum echoed, for an election timeout less the clocks'
//!   greatest drift (thesis §6.4.1);
//! - *check-quorum* asks whether a quorum echoed a round opened since the last check (thesis §6.2).
//!
//! An echo counts only in the term it was sent in; the comparison of terms that every message undergoes sees to it.

use std::collections::VecDeque;

use crate::types::{Nanos, Round};

/// Without check-quorum, nothing else ends the memory of a leader that no quorum answers.
const REMEMBERED_MAX: usize = 4096;

/// The rounds of one leader in one term.
///
/// Invariant: `opened` holds the opening times of the rounds up to `current`, the oldest first, and at least that one.
#[derive(Debug)]
pub(crate) struct Rounds {
    current: Round,
    opened: VecDeque<Nanos>,
    /// Whether a message of the current round has left.
    used: bool,
}

impl Rounds {
    /// The first round.
    pub(crate) fn new(now: Nanos) -> Rounds {
        Rounds { current: Round::NONE.next(), opened: VecDeque::from([now]), used: false }
    }

    pub(crate) fn current(&self) -> Round {
        self.current
    }

    pub(crate) fn open(&mut self, now: Nanos) -> Round {
        if self.opened.len() == REMEMBERED_MAX {
            self.opened.pop_front();
        }
        self.current = self.current.next();
        self.opened.push_back(now);
        self.used = false;
        self.current
    }

    /// A round whose messages will all leave after this call: the current one unless it is in use.
    pub(crate) fn for_read(&mut self, now: Nanos) -> Round {
        if self.used { self.open(now) } else { self.current }
    }

    /// A message of the current round leaves.
    pub(crate) fn mark_used(&mut self) -> Round {
        self.used = true;
        self.current
    }

    /// When `round` was opened; `None` if that is forgotten, or never was.
    pub(crate) fn opened_at(&self, round: Round) -> Option<Nanos> {
        let age = usize::try_from(self.current.0.checked_sub(round.0)?).ok()?;
        let position = self.opened.len().checked_sub(age)?.checked_sub(1)?;
        self.opened.get(position).copied()
    }

    /// A quorum echoed `round`: older ones do not matter any more.
    pub(crate) fn forget_before(&mut self, round: Round) {
        let newer = usize::try_from(self.current.0.saturating_sub(round.0)).unwrap_or(usize::MAX);
        while self.opened.len() > newer.saturating_add(1) {
            self.opened.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_in_use_is_not_given_to_a_new_read() {
        let mut rounds = Rounds::new(Nanos(10));
        assert_eq!(rounds.for_read(Nanos(11)), Round(1));
        rounds.mark_used();
        assert_eq!(
            rounds.for_read(Nanos(12)),
            Round(2),
            "a message of round 1 may have left before this read"
        );
        assert_eq!(rounds.for_read(Nanos(13)), Round(2));
    }

    #[test]
    fn opening_times_are_remembered_until_forgotten() {
        let mut rounds = Rounds::new(Nanos(10));
        for now in [20, 30, 40] {
            rounds.open(Nanos(now));
        }
        let at = |rounds: &Rounds, round| rounds.opened_at(Round(round)).map(|nanos| nanos.0);
        assert_eq!(
            [0, 1, 2, 4, 5].map(|round| at(&rounds, round)),
            [None, Some(10), Some(20), Some(40), None]
        );
        rounds.forget_before(Round(3));
        assert_eq!([1, 2, 3, 4].map(|round| at(&rounds, round)), [None, None, Some(30), Some(40)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut rounds = Rounds::new(Nanos(0));
        for now in 0..2 * u64::try_from(REMEMBERED_MAX).unwrap() {
            rounds.open(Nanos(now));
        }
        assert_eq!(rounds.opened.len(), REMEMBERED_MAX);
        assert_eq!(rounds.opened_at(Round(1)), None);
    }
}
