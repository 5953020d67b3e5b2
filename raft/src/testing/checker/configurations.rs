//! Membership (thesis §4.1, §4.3): all nodes come to the same configurations in the same order; quorums of two that
//! follow each other intersect; and at most one change is under way.

use std::collections::BTreeMap;

use super::Violation;
use crate::entry::{ConfState, Entry, EntryKind};
use crate::quorum::{JointConfig, MajorityConfig, VoteResult};
use crate::types::{Index, NodeId};

/// Remembers every configuration that was entered, by the entry that led to it.
#[derive(Debug)]
pub struct Configurations {
    entered: BTreeMap<Index, ConfState>,
}

impl Configurations {
    /// The group was founded with this configuration.
    #[must_use]
    pub fn new(founding: ConfState) -> Configurations {
        Configurations { entered: BTreeMap::from([(Index::ZERO, founding)]) }
    }

    /// `node` applied the change at `index`, which led it to `state`.
    ///
    /// # Errors
    /// If another node came to something else there, or a quorum of the configuration before need not meet one of this.
    pub fn observe_change(&mut self, node: NodeId, index: Index, state: &ConfState) -> Result<(), Violation> {
        if let Some(known) = self.entered.get(&index) {
            let detail = format!("node {node} came to {state:?} with entry {index}, another to {known:?}");
            return holds(known == state, detail);
        }
        let (before_index, before) = self.entered.range(..index).next_back().expect("the founding one");
        let detail = format!("{before:?} of {before_index} and {state:?} of {index} have disjoint quorums");
        holds(!can_split(before, state), detail)?;
        self.entered.insert(index, state.clone());
        Ok(())
    }

    /// `node` goes by `state`, having applied everything up to `applied`.
    ///
    /// # Errors
    /// If that is not the configuration as of there.
    pub fn observe_state(&self, node: NodeId, applied: Index, state: &ConfState) -> Result<(), Violation> {
        let (index, known) = self.entered.range(..=applied).next_back().expect("the founding one");
        let detail = format!("node {node} goes by {state:?} at {applied}; since {index} it is {known:?}");
        holds(known == state, detail)
    }

    /// `uncommitted`: the entries of a node's log past its commit index.
    ///
    /// # Errors
    /// If more than one change is among them.
    pub fn observe_log<'a>(
        &self,
        node: NodeId,
        uncommitted: impl Iterator<Item = &'a Entry>,
    ) -> Result<(), Violation> {
        let changes = uncommitted.filter(|entry| entry.kind == EntryKind::ConfChange);
        let pending: Vec<Index> = changes.map(|entry| entry.index).collect();
        holds(pending.len() <= 1, format!("node {node} holds changes {pending:?} and knows none committed"))
    }

    /// How many changes were entered.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.entered.len() - 1
    }
}

fn holds(condition: bool, detail: String) -> Result<(), Violation> {
    if condition { Ok(()) } else { Err(Violation { property: "membership", detail }) }
}

/// Whether a quorum of the one and one of the other can do without a common node: tries all sets of voters.
fn can_split(one: &ConfState, other: &ConfState) -> bool {
    let mut nodes: Vec<NodeId> = [one, other]
        .into_iter()
        .flat_map(|state| state.voters.iter().chain(&state.voters_outgoing))
        .copied()
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    let voters = |state: &ConfState| JointConfig {
        incoming: MajorityConfig::new(state.voters.iter().copied()),
        outgoing: MajorityConfig::new(state.voters_outgoing.iter().copied()),
    };
    let (one, other) = (voters(one), voters(other));
    let member =
        |set: u32, node| nodes.iter().position(|known| *known == node).is_some_and(|at| set >> at & 1 == 1);
    (0..1u32 << nodes.len()).any(|set| {
        one.vote_result(|node| Some(member(set, node))) == VoteResult::Won
            && other.vote_result(|node| Some(!member(set, node))) == VoteResult::Won
    })
}

#[cfg(test)]
mod tests {
    use super::super::entry;
    use super::*;

    fn state(voters: &[u64], outgoing: &[u64]) -> ConfState {
        let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect();
        ConfState { voters: nodes(voters), learners: Vec::new(), voters_outgoing: nodes(outgoing) }
    }

    #[test]
    fn disjoint_quorums_are_a_violation() {
        let mut checker = Configurations::new(state(&[1, 2, 3], &[]));
        assert!(checker.observe_change(NodeId(1), Index(4), &state(&[1, 2, 3, 4], &[])).is_ok());
        assert!(checker.observe_change(NodeId(1), Index(6), &state(&[3, 4, 5], &[1, 2, 3, 4])).is_ok());
        assert!(checker.observe_change(NodeId(1), Index(8), &state(&[3, 4, 5], &[])).is_ok());
        assert!(checker.observe_change(NodeId(1), Index(9), &state(&[4, 5, 6, 7], &[])).is_err());
    }

    #[test]
    fn different_configurations_are_a_violation() {
        let mut checker = Configurations::new(state(&[1, 2, 3], &[]));
        checker.observe_change(NodeId(1), Index(4), &state(&[1, 2], &[])).unwrap();
        assert!(checker.observe_change(NodeId(2), Index(4), &state(&[1, 3], &[])).is_err());
        assert!(checker.observe_state(NodeId(2), Index(3), &state(&[1, 2, 3], &[])).is_ok());
        assert!(checker.observe_state(NodeId(2), Index(5), &state(&[1, 2, 3], &[])).is_err());
    }

    #[test]
    fn two_changes_under_way_are_a_violation() {
        let checker = Configurations::new(state(&[1], &[]));
        let change = |index| Entry { kind: EntryKind::ConfChange, ..entry(index, 1, "") };
        assert!(checker.observe_log(NodeId(1), [change(4), entry(5, 1, "")].iter()).is_ok());
        assert!(checker.observe_log(NodeId(1), [change(4), change(5)].iter()).is_err());
    }
}
