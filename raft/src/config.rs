//! The knobs of one node and their bounds.

use crate::error::ConfigError;
use crate::types::{Nanos, NodeId};

/// How one node behaves. All members of a group should agree on everything but `id` and `priority`; for `lease`,
/// `check_quorum` and `clock_drift_max_ppm` they must, and a leader must be told of a member that votes sooner
/// ([`RawNode::limit_lease`](crate::RawNode::limit_lease)).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Who this node is.
    pub id: NodeId,
    /// Ticks without a leader before a follower calls an election; the timeout is drawn between this and twice this.
    pub election_ticks: u32,
    /// Ticks between heartbeats. At most half of `election_ticks`.
    pub heartbeat_ticks: u32,
    /// The length of one tick.
    pub tick: Nanos,
    /// Ask before spending a term on an election (thesis §9.6).
    pub pre_vote: bool,
    /// A leader that cannot reach a quorum for an election timeout steps down, and a follower that hears its leader
    /// ignores candidates (thesis §6.2, §4.2.3).
    pub check_quorum: bool,
    /// The leader answers reads by its lease (thesis §6.4.1). Needs `check_quorum` and clocks within
    /// `clock_drift_max_ppm` of each other.
    pub lease: bool,
    /// The most by which two members' clocks may differ in rate, in parts per million. A lease is shortened by it.
    pub clock_drift_max_ppm: u32,
    /// The most bytes of entries in one append message; a single larger entry still goes, alone.
    pub append_bytes_max: u64,
    /// The most append messages in flight to one follower. At the limit it is sent nothing until it answers.
    pub inflight_messages_max: usize,
    /// The most bytes of entries in flight to one follower; the message that crosses the limit still goes.
    pub inflight_bytes_max: u64,
    /// The most bytes of committed entries in one `Ready`, at least one entry. Four times as much may be handed out
    /// and not yet reported by `on_applied`; then no more is handed out.
    pub committed_bytes_max: u64,
    /// The most bytes proposed and not committed. At the limit `propose` answers `Busy`; one proposal always fits.
    pub uncommitted_bytes_max: u64,
    /// The most reads waiting for their index. At the limit `read_index` answers `Busy`.
    pub pending_reads_max: usize,
    /// How much this node is preferred as leader. At 0 its election timeout is drawn from the whole window; the higher
    /// the earlier in the window, and 255 times out first. Counts only for the first attempt after a leader was heard.
    pub priority: u8,
}

impl Config {
    /// The defaults for node `id`: ticks of 50 ms, heartbeats of 100 ms, elections after 0.5–1 s.
    #[must_use]
    pub fn new(id: NodeId) -> Config {
        Config {
            id,
            election_ticks: 10,
            heartbeat_ticks: 2,
            tick: Nanos::from_millis(50),
            pre_vote: true,
            check_quorum: true,
            lease: true,
            clock_drift_max_ppm: 50_000,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 128,
            inflight_bytes_max: 16 << 20,
            committed_bytes_max: 4 << 20,
            uncommitted_bytes_max: 64 << 20,
            pending_reads_max: 1 << 16,
            priority: 0,
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first bound that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id == NodeId(0) {
            return Err(ConfigError::ZeroNodeId);
        }
        if self.tick == Nanos::ZERO {
            return Err(ConfigError::Zero { field: "tick" });
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::Zero { field: "heartbeat_ticks" });
        }
        if self.election_ticks / 2 < self.heartbeat_ticks {
            return Err(ConfigError::ElectionTooShort {
                election_ticks: self.election_ticks,
                heartbeat_ticks: self.heartbeat_ticks,
            });
        }
        if self.election_ticks > ELECTION_TICKS_MAX {
            return Err(ConfigError::ElectionTooLong { election_ticks: self.election_ticks });
        }
        if self.lease && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        if self.clock_drift_max_ppm >= PPM {
            return Err(ConfigError::DriftTooLarge { clock_drift_max_ppm: self.clock_drift_max_ppm });
        }
        let positive = [
            ("append_bytes_max", self.append_bytes_max),
            ("inflight_bytes_max", self.inflight_bytes_max),
            ("committed_bytes_max", self.committed_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
        ];
        if let Some((field, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero { field });
        }
        if self.inflight_messages_max == 0 {
            return Err(ConfigError::Zero { field: "inflight_messages_max" });
        }
        if self.pending_reads_max == 0 {
            return Err(ConfigError::Zero { field: "pending_reads_max" });
        }
        Ok(())
    }

    /// The shortest time without a leader after which a node may vote for another.
    #[must_use]
    pub fn election_timeout(&self) -> Nanos {
        self.tick.times(self.election_ticks)
    }

    /// For how long the node votes for nobody else after it heard a leader, whatever happens to it: what the others' leases
    /// may count on. Nothing without check-quorum, nor without leases, for then it does not wait after a restart.
    #[must_use]
    pub fn vote_hold(&self) -> Nanos {
        if self.lease && self.check_quorum { self.election_timeout() } else { Nanos(0) }
    }

    /// How long a lease runs from the opening of the round that a quorum echoed: the election timeout less the drift.
    #[must_use]
    pub fn lease_length(&self) -> Nanos {
        self.less_the_drift(self.election_timeout())
    }

    /// What another member's `time` is here at least.
    #[must_use]
    pub(crate) fn less_the_drift(&self, time: Nanos) -> Nanos {
        let kept = u128::from(PPM - self.clock_drift_max_ppm);
        let nanos = u128::from(time.0) * kept / u128::from(PPM);
        Nanos(u64::try_from(nanos).expect("a part is no larger than the whole"))
    }
}

const PPM: u32 = 1_000_000;

/// Twice this many ticks still fit 32 bits.
const ELECTION_TICKS_MAX: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::new(NodeId(1)).validate(), Ok(()));
    }

    #[test]
    fn every_bound_is_checked() {
        let base = Config::new(NodeId(1));
        let broken = [
            Config { id: NodeId(0), ..base.clone() },
            Config { tick: Nanos(0), ..base.clone() },
            Config { heartbeat_ticks: 0, ..base.clone() },
            Config { heartbeat_ticks: 6, ..base.clone() },
            Config { election_ticks: u32::MAX, ..base.clone() },
            Config { check_quorum: false, ..base.clone() },
            Config { clock_drift_max_ppm: 1_000_000, ..base.clone() },
            Config { append_bytes_max: 0, ..base.clone() },
            Config { inflight_messages_max: 0, ..base.clone() },
            Config { inflight_bytes_max: 0, ..base.clone() },
            Config { committed_bytes_max: 0, ..base.clone() },
            Config { uncommitted_bytes_max: 0, ..base.clone() },
            Config { pending_reads_max: 0, ..base.clone() },
        ];
        for config in broken {
            assert!(config.validate().is_err(), "{config:?}");
        }
    }

    #[test]
    fn a_lease_is_the_election_timeout_less_the_drift() {
        let config = Config { clock_drift_max_ppm: 100_000, ..Config::new(NodeId(1)) };
        assert_eq!(config.lease_length(), Nanos::from_millis(450));
    }

    #[test]
    fn only_a_node_with_leases_holds_its_vote_over_a_restart() {
        let config = Config::new(NodeId(1));
        assert_eq!(config.vote_hold(), config.election_timeout());
        assert_eq!(Config { lease: false, ..config }.vote_hold(), Nanos(0));
    }
}
