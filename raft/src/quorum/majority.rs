//! One set of voters, of which more than half must agree.

use super::VoteResult;
use crate::types::NodeId;

/// A set of voters. Of an empty set nothing is asked: it agrees to everything, so that the absent half of a joint
/// configuration does not hinder the other.
///
/// Invariant: sorted, no duplicates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MajorityConfig {
    voters: Vec<NodeId>,
}

impl MajorityConfig {
    /// The set of the given voters.
    #[must_use]
    pub fn new(voters: impl IntoIterator<Item = NodeId>) -> MajorityConfig {
        let mut voters: Vec<NodeId> = voters.into_iter().collect();
        voters.sort_unstable();
        voters.dedup();
        MajorityConfig { voters }
    }

    /// The voters, ascending.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Whether `node` is one of them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node)
    }

    /// How many must agree.
    #[must_use]
    pub fn quorum(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The greatest value that a majority has reached, given what each voter has reached; `None` if there is no voter.
    ///
    /// Quadratic in the voters, of which there are few, and free of allocation: it runs for every acknowledgement.
    pub fn agreed<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> Option<T> {
        let reached = |least: T| self.voters.iter().filter(|voter| value(**voter) >= least).count();
        self.voters.iter().map(|voter| value(*voter)).filter(|least| reached(*least) >= self.quorum()).max()
    }

    /// Where a vote stands; `vote` tells what each voter said, if anything.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        if self.voters.is_empty() {
            return VoteResult::Won;
        }
        let said = |what: Option<bool>| self.voters.iter().filter(|voter| vote(**voter) == what).count();
        let (yes, silent) = (said(Some(true)), said(None));
        if yes >= self.quorum() {
            VoteResult::Won
        } else if yes + silent >= self.quorum() {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }
}
