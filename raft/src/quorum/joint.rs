//! Two sets of voters of which each must agree, while the group passes from one to the other.

use super::{MajorityConfig, VoteResult};
use crate::mutation::mutated;
use crate::types::NodeId;

/// A configuration in joint consensus; outside a change, `outgoing` is empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct JointConfig {
    /// The voters to be.
    pub incoming: MajorityConfig,
    /// The voters being replaced.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// Whether `node` votes in either half.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.incoming.contains(node) || self.outgoing.contains(node)
    }

    /// Whether `node` alone is a quorum.
    #[must_use]
    pub fn is_only(&self, node: NodeId) -> bool {
        self.contains(node) && self.voters().all(|voter| voter == node)
    }

    /// The voters of both halves, each once: first the incoming, then the other outgoing ones.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        let outgoing = self.outgoing.voters().iter().filter(|voter| !self.incoming.contains(**voter));
        self.incoming.voters().iter().chain(outgoing).copied()
    }

    /// The greatest value that a majority of each half has reached; `None` if there is no voter.
    pub fn agreed<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> Option<T> {
        if mutated!(JointIncomingOnly) {
            return self.incoming.agreed(value);
        }
        match (self.incoming.agreed(&value), self.outgoing.agreed(&value)) {
            (Some(incoming), Some(outgoing)) => Some(incoming.min(outgoing)),
            (incoming, outgoing) => incoming.or(outgoing),
        }
    }

    /// Where a vote stands: won if both halves are, lost if either is.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        if mutated!(JointIncomingOnly) {
            return self.incoming.vote_result(vote);
        }
        match (self.incoming.vote_result(&vote), self.outgoing.vote_result(&vote)) {
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }
}
