//! Time: ticks drive elections, true time guards leases.
//!
//! The election timeout counts ticks, so a node that was held up for a while first sees the messages that waited for it
//! instead of calling an election. Whether it *may* vote for another is a matter of true time: a leader's lease counts
//! on it (see `lease`), and a burst of late ticks must not shorten that.

use super::{Raft, State};
use crate::rng::Rng;
use crate::storage::LogStorage;
use crate::types::{Nanos, NodeId};

/// What a node knows of time.
#[derive(Debug)]
pub(super) struct Timers {
    /// The latest time given to this node.
    pub(super) now: Nanos,
    /// Ticks since the leader was heard, a vote was given, or the role changed.
    pub(super) elapsed_ticks: u32,
    /// How many such ticks start an election.
    timeout_ticks: u32,
    /// The node has called an election since a leader was last heard.
    pub(super) stood: bool,
    /// When a leader, of whatever term, was last heard.
    heard_at: Option<Nanos>,
    /// The node may have heard a leader just before it was restarted, and does not know the time yet.
    hold: bool,
}

impl Timers {
    pub(super) fn new(hold: bool, timeout_ticks: u32) -> Timers {
        Timers { now: Nanos::ZERO, elapsed_ticks: 0, timeout_ticks, stood: false, heard_at: None, hold }
    }

    pub(super) fn observe(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        if std::mem::take(&mut self.hold) {
            self.heard_at = Some(self.now);
        }
    }

    fn heard_within(&self, length: Nanos) -> bool {
        self.hold || self.heard_at.is_some_and(|at| self.now.since(at) < length)
    }
}

/// Draws an election timeout in `[election_ticks, 2 × election_ticks)`: the whole of it but the first tick at priority 0,
/// less and less from the end as the priority rises, and exactly the first tick at 255 (thesis §3.4).
pub(super) fn draw_timeout(election_ticks: u32, priority: u8, rng: &mut Rng) -> u32 {
    let patience = u64::from(u8::MAX - priority);
    if patience == 0 {
        return election_ticks;
    }
    let span = u64::from(election_ticks - 1) * patience / u64::from(u8::MAX);
    let span = u32::try_from(span).expect("a part of a 32-bit number");
    election_ticks + 1 + rng.below(span.max(1))
}

impl<S: LogStorage> Raft<S> {
    pub(super) fn reset_election_timer(&mut self) {
        // Only the first attempt is preferred: two nodes that prefer themselves alike would else split every vote.
        let priority = if self.timers.stood { 0 } else { self.config.priority };
        self.timers.elapsed_ticks = 0;
        self.timers.timeout_ticks = draw_timeout(self.config.election_ticks, priority, &mut self.rng);
    }

    /// The leader of this term gave a sign of life.
    pub(super) fn hear_leader(&mut self, from: NodeId) {
        assert!(!self.is_leader(), "node {from} leads term {} too", self.term);
        self.timers.stood = false;
        if self.leader != Some(from) || !matches!(self.state, State::Follower) {
            self.become_follower(self.term, Some(from));
        }
        self.timers.elapsed_ticks = 0;
        self.timers.heard_at = Some(self.timers.now);
    }

    /// Whether this node must not help another to be elected, since it may be part of what keeps a leader in place.
    ///
    /// It does not matter whether the leader heard is still that of the present term: its lease does not end because
    /// someone else's term is higher.
    pub(super) fn is_sticky(&self) -> bool {
        if !self.config.check_quorum {
            return false;
        }
        let timeout = self.config.election_timeout();
        match &self.state {
            State::Leader(leader) => leader
                .quorum_opened_at(self.config.id, &self.membership)
                .is_some_and(|at| self.timers.now.since(at) < timeout),
            _ => self.timers.heard_within(timeout),
        }
    }

    /// No leader was heard before this node began.
    pub(crate) fn release_hold(&mut self) {
        self.timers.hold = false;
    }

    /// One tick without a leader's sign of life.
    pub(super) fn tick_election(&mut self) {
        self.timers.elapsed_ticks = self.timers.elapsed_ticks.saturating_add(1);
        let due = self.timers.elapsed_ticks >= self.timers.timeout_ticks;
        if due && self.is_promotable() && (self.is_alone() || !self.is_sticky()) {
            self.start_campaign();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(priority: u8) -> (u32, u32) {
        let mut rng = Rng::new(7);
        let draws: Vec<u32> = (0..1000).map(|_| draw_timeout(10, priority, &mut rng)).collect();
        (*draws.iter().min().unwrap(), *draws.iter().max().unwrap())
    }

    #[test]
    fn priority_moves_the_timeout_forward() {
        assert_eq!(drawn(0), (11, 19));
        assert_eq!(drawn(128), (11, 14));
        assert_eq!(drawn(254), (11, 11));
        assert_eq!(drawn(255), (10, 10));
    }

    #[test]
    fn a_restarted_node_holds_its_vote_before_it_knows_the_time() {
        let mut timers = Timers::new(true, 10);
        assert!(timers.heard_within(Nanos(5)));
        timers.observe(Nanos(100));
        assert!(timers.heard_within(Nanos(5)));
        timers.observe(Nanos(105));
        assert!(!timers.heard_within(Nanos(5)));
    }
}
