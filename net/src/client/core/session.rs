//! The session of a client's writes: numbers them, and knows below which all are answered.
//!
//! ```text
//!   sequence:  1 .. base-1      base ......... next-1     next
//!              all answered     done[i]: some answered    not given out
//! ```
//!
//! **Invariant**: `done` is as long as `next - base`, and does not begin with an answered one.

use crate::protocol::{SESSION_WINDOW, SessionStamp};
use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Session {
    client: u64,
    next: u64,
    base: u64,
    done: VecDeque<bool>,
}

impl Session {
    pub(super) fn new(client: u64) -> Session {
        Session { client, next: 1, base: 1, done: VecDeque::new() }
    }

    /// The identity of this session.
    pub(super) fn client(&self) -> u64 {
        self.client
    }

    /// The stamp of a new write.
    pub(super) fn stamp(&mut self) -> SessionStamp {
        let sequence = self.next;
        self.next += 1;
        self.done.push_back(false);
        SessionStamp { client: self.client, sequence, acked_below: self.base, retry: false }
    }

    /// Whether a server would refuse one more write of this session for now.
    pub(super) fn is_full(&self) -> bool {
        self.next - self.base >= SESSION_WINDOW
    }

    /// The write with this stamp will not be sent again. Stamps of an earlier session are ignored.
    pub(super) fn settle(&mut self, stamp: &SessionStamp) {
        let place = stamp.sequence.checked_sub(self.base).and_then(|place| usize::try_from(place).ok());
        let (Some(place), true) = (place, stamp.client == self.client) else { return };
        if let Some(done) = self.done.get_mut(place) {
            *done = true;
        }
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.base += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acked_below_stops_at_the_first_unanswered_write() {
        let mut session = Session::new(7);
        let stamps: Vec<_> = (0..4).map(|_| session.stamp()).collect();
        assert_eq!(stamps.iter().map(|it| it.sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
        session.settle(&stamps[1]);
        session.settle(&stamps[2]);
        assert_eq!(session.stamp().acked_below, 1);
        session.settle(&stamps[0]);
        assert_eq!(session.stamp().acked_below, 4);
    }

    #[test]
    fn settling_twice_or_for_another_session_changes_nothing() {
        let mut session = Session::new(7);
        let first = session.stamp();
        session.settle(&first);
        session.settle(&first);
        session.settle(&SessionStamp { client: 8, sequence: 2, acked_below: 1, retry: false });
        let next = SessionStamp { client: 7, sequence: 2, acked_below: 2, retry: false };
        assert_eq!(session.stamp(), next);
    }
}
