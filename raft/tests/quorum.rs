//! The quorum arithmetic against a naive twin that sorts, and against the definition of a quorum.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raft::NodeId;
use raft::quorum::{JointConfig, MajorityConfig, VoteResult};

type Values = BTreeMap<NodeId, u64>;
type Votes = BTreeMap<NodeId, bool>;

/// Sorts what the voters reached and takes the one that a majority is at or past.
fn naive_agreed(config: &MajorityConfig, values: &Values) -> Option<u64> {
    let mut reached: Vec<u64> =
        config.voters().iter().map(|voter| values.get(voter).copied().unwrap_or(0)).collect();
    reached.sort_unstable_by(|a, b| b.cmp(a));
    reached.get(reached.len() / 2).copied()
}

/// Fills in the missing votes both ways: decided if both give the same.
fn naive_vote(config: &MajorityConfig, votes: &Votes) -> VoteResult {
    let wins = |missing: bool| {
        let yes = config.voters().iter().filter(|voter| votes.get(voter).copied().unwrap_or(missing)).count();
        config.voters().is_empty() || 2 * yes > config.voters().len()
    };
    match (wins(false), wins(true)) {
        (true, _) => VoteResult::Won,
        (false, false) => VoteResult::Lost,
        (false, true) => VoteResult::Pending,
    }
}

fn config() -> impl Strategy<Value = MajorityConfig> {
    proptest::collection::vec(1..10u64, 0..8).prop_map(|ids| MajorityConfig::new(ids.into_iter().map(NodeId)))
}

fn values() -> impl Strategy<Value = Values> {
    proptest::collection::btree_map((1..10u64).prop_map(NodeId), 0..6u64, 0..9)
}

fn votes() -> impl Strategy<Value = Votes> {
    proptest::collection::btree_map((1..10u64).prop_map(NodeId), any::<bool>(), 0..9)
}

proptest! {
    #[test]
    fn a_majority_agrees_as_the_twin_says(config in config(), values in values()) {
        let agreed = config.agreed(|node| values.get(&node).copied().unwrap_or(0));
        prop_assert_eq!(agreed, naive_agreed(&config, &values));
    }

    #[test]
    fn a_majority_votes_as_the_twin_says(config in config(), votes in votes()) {
        prop_assert_eq!(config.vote_result(|node| votes.get(&node).copied()), naive_vote(&config, &votes));
    }

    #[test]
    fn a_joint_quorum_is_one_of_both(incoming in config(), outgoing in config(), values in values(), votes in votes()) {
        let joint = JointConfig { incoming: incoming.clone(), outgoing: outgoing.clone() };
        let both = [naive_agreed(&incoming, &values), naive_agreed(&outgoing, &values)];
        let agreed = joint.agreed(|node| values.get(&node).copied().unwrap_or(0));
        prop_assert_eq!(agreed, both.into_iter().flatten().min());
        let expected = match (naive_vote(&incoming, &votes), naive_vote(&outgoing, &votes)) {
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            (first, second) if first == VoteResult::Lost || second == VoteResult::Lost => VoteResult::Lost,
            _ => VoteResult::Pending,
        };
        prop_assert_eq!(joint.vote_result(|node| votes.get(&node).copied()), expected);
    }

    #[test]
    fn the_voters_of_a_joint_configuration_are_listed_once(incoming in config(), outgoing in config()) {
        let joint = JointConfig { incoming, outgoing };
        let mut listed: Vec<NodeId> = joint.voters().collect();
        let count = listed.len();
        listed.sort_unstable();
        listed.dedup();
        prop_assert_eq!(listed.len(), count);
        for id in (1..10).map(NodeId) {
            prop_assert_eq!(joint.contains(id), listed.contains(&id));
            prop_assert_eq!(joint.is_only(id), listed == [id]);
        }
    }
}
