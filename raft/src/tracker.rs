//! The members of the group, and what a leader knows of each.

mod inflights;
mod progress;

pub(crate) use progress::{AppendDue, Flow, Progress, Window};

use crate::entry::ConfState;
use crate::error::ConfigError;
use crate::quorum::{JointConfig, MajorityConfig};
use crate::types::{Index, NodeId};

/// Who belongs to the group.
///
/// Invariant: no node is listed twice in one half, nor both as voter and learner.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) voters: JointConfig,
    pub(crate) learners: Vec<NodeId>,
}

impl Membership {
    pub(crate) fn new(state: &ConfState) -> Result<Membership, ConfigError> {
        refuse_duplicates(state.voters.iter().chain(&state.learners))?;
        refuse_duplicates(state.voters_outgoing.iter().chain(&state.learners))?;
        let voters = JointConfig {
            incoming: MajorityConfig::new(state.voters.iter().copied()),
            outgoing: MajorityConfig::new(state.voters_outgoing.iter().copied()),
        };
        let mut learners = state.learners.clone();
        learners.sort_unstable();
        Ok(Membership { voters, learners })
    }

    pub(crate) fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.voters().to_vec(),
            learners: self.learners.clone(),
            voters_outgoing: self.voters.outgoing.voters().to_vec(),
        }
    }
}

fn refuse_duplicates<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> Result<(), ConfigError> {
    let mut nodes: Vec<NodeId> = nodes.copied().collect();
    nodes.sort_unstable();
    match nodes.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ConfigError::DuplicateMember { node: pair[0] }),
        None => Ok(()),
    }
}

/// What a leader knows of each other member, ascending by node. A group is small: a scan beats a map.
#[derive(Debug)]
pub(crate) struct Tracker {
    peers: Vec<Progress>,
}

impl Tracker {
    /// Knows nothing yet of any member but `own`; all are probed at the end of the log (thesis §3.5).
    pub(crate) fn new(own: NodeId, membership: &Membership, last: Index) -> Tracker {
        let voters = membership.voters.voters().map(|node| (node, false));
        let learners = membership.learners.iter().map(|node| (*node, true));
        let mut peers: Vec<Progress> = voters
            .chain(learners)
            .filter(|(node, _)| *node != own)
            .map(|(node, learner)| Progress::new(node, learner, last))
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node);
        Tracker { peers }
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Progress> {
        self.peers.iter().find(|peer| peer.node == node)
    }

    pub(crate) fn get_mut(&mut self, node: NodeId) -> Option<&mut Progress> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Progress> {
        self.peers.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Progress> {
        self.peers.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(voters: &[u64], learners: &[u64], outgoing: &[u64]) -> ConfState {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
        ConfState { voters: nodes(voters), learners: nodes(learners), voters_outgoing: nodes(outgoing) }
    }

    #[test]
    fn a_node_is_listed_once() {
        let refused = |state| Membership::new(&state).err();
        let duplicate = |node| Some(ConfigError::DuplicateMember { node: NodeId(node) });
        assert_eq!(refused(conf(&[1, 2, 2], &[], &[])), duplicate(2));
        assert_eq!(refused(conf(&[1, 2], &[1], &[])), duplicate(1));
        assert_eq!(refused(conf(&[1, 2], &[3], &[3])), duplicate(3));
        assert_eq!(refused(conf(&[1, 2], &[3], &[1, 2])), None);
    }

    #[test]
    fn the_tracker_follows_everyone_else_once() {
        let membership = Membership::new(&conf(&[1, 2], &[9], &[2, 4])).unwrap();
        let tracker = Tracker::new(NodeId(1), &membership, Index(7));
        let seen: Vec<_> = tracker.iter().map(|peer| (peer.node.0, peer.learner)).collect();
        assert_eq!(seen, [(2, false), (4, false), (9, true)]);
    }
}
