//! Whether a node whose data directory has never been used may take part in founding its cluster.
//!
//! A directory that was lost (a new disk, a wiped folder) looks like one that was never used, but the node may have
//! voted and acknowledged with the lost one. So every directory has an identity of its own, drawn when it is made, and
//! a cluster remembers with which directories it was founded: those, and no others, may start replicas that count from
//! the first entry on. A later directory begins with fresh replicas that the shards' leaders take in as new members.
//!
//! Invariants:
//! - a node founds only when every other node has told that it is not settled either, or when a settled one names its
//!   very directory as a founder; if any settled node names another directory for it, it is a replacement;
//! - once a node is settled it never decides again.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{Standing, StoreId};

/// What an unsettled node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Ask again: these nodes have not answered.
    Wait {
        /// Which, in order.
        missing: Vec<u64>,
    },
    /// Start with the replicas of the first placement.
    Founder {
        /// The directory of every node.
        founders: BTreeMap<u64, StoreId>,
    },
    /// Start with fresh replicas and ask to be taken in: the cluster was founded with another directory of this node.
    Replacement {
        /// The directory of every node when the cluster was founded, as far as is known.
        founders: BTreeMap<u64, StoreId>,
    },
}

/// Decides for the node `node` with the directory `store`. `others` are all other nodes of the configuration,
/// `answers` what those that could be asked have told.
pub fn decide(
    node: u64,
    store: StoreId,
    others: &BTreeSet<u64>,
    answers: &BTreeMap<u64, Standing>,
) -> Decision {
    let settled: Vec<&Standing> =
        others.iter().filter_map(|other| answers.get(other)).filter(|standing| standing.settled).collect();
    // One that does not name this directory outweighs one that does: whoever has forgotten must not vote as if it knew.
    if let Some(stranger) = settled.iter().find(|standing| standing.founders.get(&node) != Some(&store)) {
        return Decision::Replacement { founders: stranger.founders.clone() };
    }
    if let Some(fellow) = settled.first() {
        return Decision::Founder { founders: fellow.founders.clone() };
    }
    let missing: Vec<u64> = others.iter().copied().filter(|other| !answers.contains_key(other)).collect();
    if !missing.is_empty() {
        return Decision::Wait { missing };
    }
    let mut founders: BTreeMap<u64, StoreId> =
        others.iter().map(|other| (*other, answers[other].store)).collect();
    founders.insert(node, store);
    Decision::Founder { founders }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: StoreId = StoreId(10);

    fn others() -> BTreeSet<u64> {
        [2, 3].into()
    }

    fn founders(own: u64) -> BTreeMap<u64, StoreId> {
        [(1, StoreId(own)), (2, StoreId(20)), (3, StoreId(30))].into()
    }

    fn unsettled(store: u64) -> Standing {
        Standing { store: StoreId(store), settled: false, founders: BTreeMap::new() }
    }

    fn settled(store: u64, founders: BTreeMap<u64, StoreId>) -> Standing {
        Standing { store: StoreId(store), settled: true, founders }
    }

    fn decided(answers: impl IntoIterator<Item = (u64, Standing)>) -> Decision {
        decide(1, MINE, &others(), &answers.into_iter().collect())
    }

    #[test]
    fn a_node_alone_founds_at_once() {
        let alone = decide(1, MINE, &BTreeSet::new(), &BTreeMap::new());
        assert_eq!(alone, Decision::Founder { founders: [(1, MINE)].into() });
    }

    #[test]
    fn nobody_founds_before_everybody_has_answered() {
        assert_eq!(decided([]), Decision::Wait { missing: vec![2, 3] });
        assert_eq!(decided([(3, unsettled(30))]), Decision::Wait { missing: vec![2] });
        let all = decided([(2, unsettled(20)), (3, unsettled(30))]);
        assert_eq!(all, Decision::Founder { founders: founders(10) });
    }

    #[test]
    fn a_settled_node_that_names_this_directory_is_enough() {
        let named = Decision::Founder { founders: founders(10) };
        assert_eq!(decided([(2, settled(20, founders(10)))]), named);
        assert_eq!(decided([(2, settled(20, founders(10))), (3, unsettled(30))]), named);
    }

    #[test]
    fn a_directory_that_was_not_there_is_a_replacement() {
        let replacement = Decision::Replacement { founders: founders(11) };
        assert_eq!(decided([(2, settled(20, founders(11)))]), replacement);
        assert_eq!(decided([(2, settled(20, founders(11))), (3, unsettled(30))]), replacement);
        // A cluster from before founders were remembered names nobody.
        let unnamed = Decision::Replacement { founders: BTreeMap::new() };
        assert_eq!(decided([(2, settled(20, BTreeMap::new()))]), unnamed);
    }

    #[test]
    fn among_contradicting_founders_the_cautious_one_counts() {
        // The directory was lost between the decisions of the two others.
        let torn = decided([(2, settled(20, founders(10))), (3, settled(30, founders(11)))]);
        assert_eq!(torn, Decision::Replacement { founders: founders(11) });
    }

    #[test]
    fn who_is_not_in_the_configuration_has_no_say() {
        assert_eq!(decided([(9, settled(90, founders(11)))]), Decision::Wait { missing: vec![2, 3] });
    }
}
