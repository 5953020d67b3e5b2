use proptest::prelude::*;

use super::ConfChangeStep::{AddLearner, AddVoter, Remove};
use super::*;
use crate::quorum::{JointConfig, MajorityConfig, VoteResult};

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

fn state(voters: &[u64], learners: &[u64], outgoing: &[u64]) -> ConfState {
    ConfState { voters: nodes(voters), learners: nodes(learners), voters_outgoing: nodes(outgoing) }
}

fn change(state: &ConfState, steps: &[ConfChangeStep]) -> Result<ConfState, ConfChangeError> {
    changed(state, &ConfChange { steps: steps.to_vec() }.encode())
}

#[test]
fn one_voter_changes_in_one_step() {
    let three = state(&[1, 2, 3], &[9], &[]);
    assert_eq!(change(&three, &[AddVoter(NodeId(4))]), Ok(state(&[1, 2, 3, 4], &[9], &[])));
    assert_eq!(change(&three, &[AddVoter(NodeId(9))]), Ok(state(&[1, 2, 3, 9], &[], &[])));
    assert_eq!(change(&three, &[Remove(NodeId(2))]), Ok(state(&[1, 3], &[9], &[])));
    assert_eq!(change(&three, &[Remove(NodeId(9)), Remove(NodeId(2))]), Ok(state(&[1, 3], &[], &[])));
    assert_eq!(change(&three, &[AddLearner(NodeId(4))]), Ok(state(&[1, 2, 3], &[4, 9], &[])));
}

#[test]
fn more_go_through_a_joint_configuration() {
    let three = state(&[1, 2, 3], &[9], &[]);
    let joint = change(&three, &[AddVoter(NodeId(9)), Remove(NodeId(1))]).unwrap();
    assert_eq!(joint, state(&[2, 3, 9], &[], &[1, 2, 3]));
    assert_eq!(change(&joint, &[AddLearner(NodeId(7))]), Err(ConfChangeError::Joint));
    assert_eq!(change(&joint, &[]), Ok(state(&[2, 3, 9], &[], &[])));
}

#[test]
fn what_does_not_fit_is_refused() {
    let three = state(&[1, 2, 3], &[], &[]);
    assert_eq!(change(&three, &[]), Err(ConfChangeError::NotJoint));
    assert_eq!(change(&three, &[AddVoter(NodeId(0))]), Err(ConfChangeError::ZeroNodeId));
    assert_eq!(change(&three, &[AddLearner(NodeId(2))]), Err(ConfChangeError::IsVoter { node: NodeId(2) }));
    let twice = [AddVoter(NodeId(4)), Remove(NodeId(4))];
    assert_eq!(change(&three, &twice), Err(ConfChangeError::Repeated { node: NodeId(4) }));
    assert_eq!(change(&state(&[1], &[2], &[]), &[Remove(NodeId(1))]), Err(ConfChangeError::NoVoters));
    for broken in [&b""[..], b"\x02\0\0\0\0\0\0\0\0", b"\x01\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0", b"\x01\0"]
    {
        assert_eq!(changed(&three, broken), Err(ConfChangeError::Malformed));
    }
}

#[test]
fn the_floor_travels_beside_the_steps() {
    let change =
        ConfChange { steps: vec![AddVoter(NodeId(4)), Remove(NodeId(1)), AddLearner(NodeId(u64::MAX))] };
    let data = change.encode_after(Index(77));
    assert_eq!((floor(&data), ConfChange::decode(&data)), (Index(77), Ok(change)));
    assert_eq!(floor(b"nonsense"), Index::ZERO);
}

fn joint(state: &ConfState) -> JointConfig {
    JointConfig {
        incoming: MajorityConfig::new(state.voters.iter().copied()),
        outgoing: MajorityConfig::new(state.voters_outgoing.iter().copied()),
    }
}

/// Whether some set of nodes is a quorum of the one and its complement a quorum of the other.
fn can_split(one: &ConfState, other: &ConfState) -> bool {
    let (one, other) = (joint(one), joint(other));
    (0..1u64 << 7).any(|set| {
        let inside = |node: NodeId| Some(set >> node.0 & 1 == 1);
        let outside = |node: NodeId| Some(set >> node.0 & 1 == 0);
        one.vote_result(inside) == VoteResult::Won && other.vote_result(outside) == VoteResult::Won
    })
}

fn step() -> impl Strategy<Value = ConfChangeStep> {
    (0..3u8, 1..7u64).prop_map(|(kind, node)| match kind {
        0 => AddLearner(NodeId(node)),
        1 => AddVoter(NodeId(node)),
        _ => Remove(NodeId(node)),
    })
}

proptest! {
    #[test]
    fn quorums_of_consecutive_configurations_intersect(
        changes in proptest::collection::vec(proptest::collection::vec(step(), 0..5), 1..12),
    ) {
        let mut current = state(&[1, 2, 3], &[], &[]);
        for steps in changes {
            let Ok(next) = change(&current, &steps) else { continue };
            prop_assert!(!next.voters.is_empty());
            prop_assert!(!can_split(&current, &next), "{current:?} and {next:?}");
            let listed = next.voters.iter().chain(&next.learners);
            let mut listed: Vec<NodeId> = listed.copied().collect();
            let count = listed.len();
            listed.sort_unstable();
            listed.dedup();
            prop_assert_eq!(listed.len(), count, "a node is voter and learner: {:?}", next);
            prop_assert!(next.learners.iter().all(|node| !next.voters_outgoing.contains(node)));
            current = next;
        }
    }
}
