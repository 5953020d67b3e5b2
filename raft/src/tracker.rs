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

    /// Voters and learners, each once.
    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> {
        self.voters.voters().chain(self.learners.iter().copied())
    }

    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.members().any(|member| member == node)
    }

    /// Whether nobody belongs to it: the configuration of a replica that was not told yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.members().next().is_none()
    }

    /// Whether it is a joint one.
    pub(crate) fn is_joint(&self) -> bool {
        !self.voters.outgoing.voters().is_empty()
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
        let mut tracker = Tracker { peers: Vec::new() };
        tracker.follow(own, membership, last, 0);
        tracker
    }

    /// Follows the members of a new configuration: keeps what is known of those that stay, begins with those that are
    /// new as if they had just been heard, and returns those that left.
    pub(crate) fn follow(
        &mut self,
        own: NodeId,
        membership: &Membership,
        last: Index,
        tick: u64,
    ) -> Vec<Progress> {
        let mut former = std::mem::take(&mut self.peers);
        for node in membership.members().filter(|node| *node != own) {
            let known = former.iter().position(|peer| peer.node == node);
            let mut peer = match known {
                Some(position) => former.swap_remove(position),
                None => Progress::new(node, true, last, tick),
            };
            peer.learner = !membership.voters.contains(node);
            self.peers.push(peer);
        }
        self.peers.sort_unstable_by_key(|peer| peer.node);
        former
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

    #[test]
    fn a_new_configuration_keeps_what_is_known() {
        let mut membership = Membership::new(&conf(&[1, 2, 3], &[9], &[])).unwrap();
        let mut tracker = Tracker::new(NodeId(1), &membership, Index(7));
        tracker.get_mut(NodeId(9)).unwrap().accept(Index(5), Index(1));
        membership = Membership::new(&conf(&[1, 2, 9], &[4], &[])).unwrap();
        let left = tracker.follow(NodeId(1), &membership, Index(8), 30);
        assert_eq!(left.iter().map(|peer| peer.node.0).collect::<Vec<_>>(), [3]);
        let seen: Vec<_> = tracker
            .iter()
            .map(|peer| (peer.node.0, peer.learner, peer.match_index.0, peer.heard_tick))
            .collect();
        assert_eq!(seen, [(2, false, 0, 0), (4, true, 0, 30), (9, false, 5, 0)]);
    }
}
