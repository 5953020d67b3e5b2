//! One test per clause of the Raft paper (Ongaro, Ousterhout: "In Search of an Understandable Consensus Algorithm",
//! extended version); the section stands in each name or comment.

#[path = "paper/node.rs"]
mod node;

use bytes::Bytes;
use raft::{
    AppendResult, ConfState, Index, InitialState, MemStorage, Message, MessageBody, Nanos, NodeId, RawNode,
    Role, Round, StepError, Term,
};

use node::*;

#[test]
fn section_5_1_a_larger_term_updates_ones_own_and_makes_a_follower() {
    for start in [Role::Follower, Role::Candidate, Role::Leader] {
        let mut node = node(3, &[], 1);
        match start {
            Role::Leader => elect(&mut node, &[2]),
            Role::Candidate => node.campaign(),
            _ => {}
        }
        assert_eq!(node.role(), start);
        step(&mut node, 2, 9, append((0, 0), &[], 0));
        assert_eq!((node.role(), node.term(), node.leader()), (Role::Follower, Term(9), Some(NodeId(2))));
    }
}

#[test]
fn section_5_1_a_request_with_a_stale_term_is_rejected() {
    let mut node = node(3, &[], 5);
    step(&mut node, 2, 4, append((0, 0), &[entry(1, 4)], 1));
    step(&mut node, 2, 4, vote(7, 4));
    let answers = sync(&mut node);
    assert!(answers.iter().all(|answer| answer.term == Term(5)), "the sender learns the term");
    assert_eq!(bodies(answers), [MessageBody::HeartbeatResponse { round: Round::NONE }, REFUSED]);
    assert_eq!((node.last_index(), node.leader(), node.status().vote), (Index(0), None, None));
}

#[test]
fn section_5_2_a_node_starts_as_follower() {
    assert_eq!(node(3, &[1], 1).role(), Role::Follower);
}

#[test]
fn section_5_2_a_leader_sends_heartbeats() {
    let mut node = node(3, &[], 0);
    elect(&mut node, &[2]);
    sync(&mut node);
    (0..2).for_each(|tick| node.tick(Nanos(tick)));
    let to: Vec<NodeId> = sync(&mut node)
        .into_iter()
        .filter(|message| matches!(message.body, MessageBody::Heartbeat { .. }))
        .map(|message| message.to)
        .collect();
    assert_eq!(to, [NodeId(2), NodeId(3)]);
}

#[test]
fn section_5_2_without_a_leader_an_election_starts_and_its_votes_are_counted() {
    // (votes granted, votes refused, outcome), besides the own one, of five voters.
    let cases =
        [(2, 0, Role::Leader), (1, 2, Role::Candidate), (1, 3, Role::Follower), (0, 0, Role::Candidate)];
    for (granted, refused, outcome) in cases {
        let mut node = node(5, &[], 0);
        let mut ticks = 0;
        while node.role() == Role::Follower {
            node.tick(Nanos(ticks));
            ticks += 1;
        }
        assert!((10..20).contains(&ticks), "between one and two timeouts: {ticks}");
        let asked = sync(&mut node);
        assert_eq!(asked.len(), 4, "in parallel to each of the others");
        assert_eq!((node.term(), node.status().vote), (Term(1), Some(NodeId(1))));
        (2..2 + granted).for_each(|voter| step(&mut node, voter, 1, GRANTED));
        (2 + granted..2 + granted + refused).for_each(|voter| step(&mut node, voter, 1, REFUSED));
        assert_eq!(node.role(), outcome, "{granted} granted, {refused} refused");
    }
}

#[test]
fn section_5_2_a_vote_repeated_counts_once() {
    let mut node = node(5, &[], 0);
    node.campaign();
    sync(&mut node);
    (0..3).for_each(|_| step(&mut node, 2, 1, GRANTED));
    assert_eq!(node.role(), Role::Candidate);
}

#[test]
fn section_5_2_a_node_votes_for_one_candidate_in_a_term() {
    let mut node = node(3, &[], 1);
    step(&mut node, 2, 2, vote(0, 0));
    step(&mut node, 3, 2, vote(0, 0));
    step(&mut node, 2, 2, vote(0, 0));
    let answers: Vec<_> = sync(&mut node).into_iter().map(|answer| (answer.to.0, answer.body)).collect();
    // A refusal that need not wait overtakes a vote on its way to the disk.
    let to = |node: u64| {
        answers.iter().filter(|(to, _)| *to == node).map(|(_, body)| body.clone()).collect::<Vec<_>>()
    };
    assert_eq!(to(2), [GRANTED, GRANTED]);
    assert_eq!(to(3), [REFUSED]);
}

#[test]
fn section_5_2_a_candidate_that_hears_a_leader_of_its_term_follows_it() {
    let mut node = node(3, &[], 0);
    node.campaign();
    sync(&mut node);
    step(&mut node, 2, 1, append((0, 0), &[], 0));
    assert_eq!((node.role(), node.leader()), (Role::Follower, Some(NodeId(2))));
}

#[test]
fn section_5_2_election_timeouts_are_random() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let conf_state = ConfState { voters: vec![NodeId(1), NodeId(2)], ..ConfState::default() };
        let initial = InitialState { conf_state, ..InitialState::default() };
        let mut node = RawNode::new(config(1), initial, MemStorage::new(), seed).unwrap();
        let mut ticks = 0;
        while node.role() == Role::Follower {
            ticks += 1;
            node.tick(NOW);
        }
        seen.insert(ticks);
    }
    assert!(seen.len() >= 8 && seen.iter().all(|ticks| (10..20).contains(ticks)), "{seen:?}");
}

#[test]
fn section_5_3_a_proposal_is_sent_in_parallel_and_committed_by_a_majority() {
    let mut node = node(3, &[], 0);
    elect(&mut node, &[2]);
    sync(&mut node);
    step(&mut node, 2, 1, accepted(1));
    step(&mut node, 3, 1, accepted(1));
    sync(&mut node);
    node.propose(Bytes::from_static(b"command")).unwrap();
    let sent = sync(&mut node);
    assert_eq!(sent.iter().map(|message| message.to.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(node.committed(), Index(1));
    step(&mut node, 3, 1, accepted(2));
    assert_eq!(node.committed(), Index(2));
    let ready = write(&mut node);
    assert_eq!(ready.committed.last().map(|entry| entry.index), Some(Index(2)));
}

#[test]
fn section_5_3_a_follower_learns_the_commit_and_applies_in_order() {
    let mut node = node(3, &[], 1);
    step(&mut node, 2, 1, append((0, 0), &[entry(1, 1), entry(2, 1)], 0));
    sync(&mut node);
    assert_eq!(node.applied(), Index(0));
    step(&mut node, 2, 1, append((2, 1), &[entry(3, 1)], 2));
    assert_eq!(write(&mut node).committed, [entry(1, 1), entry(2, 1)]);
}

#[test]
fn section_5_3_a_follower_commits_no_further_than_what_the_message_brings() {
    let mut node = node(3, &[1, 1, 1], 1);
    step(&mut node, 2, 2, append((1, 1), &[], 3));
    assert_eq!(node.committed(), Index(1), "entries 2 and 3 may not be the leader's");
}

#[test]
fn section_5_3_an_append_after_an_entry_not_held_is_refused() {
    for (prev, hint) in [((3, 2), (2, 2)), ((2, 3), (2, 2)), ((2, 1), (1, 1))] {
        let mut node = node(3, &[1, 2], 2);
        step(&mut node, 2, 3, append(prev, &[entry(prev.0 + 1, 3)], 0));
        let result = AppendResult::Rejected {
            rejected_index: Index(prev.0),
            hint_index: Index(hint.0),
            hint_term: Term(hint.1),
        };
        assert_eq!(bodies(sync(&mut node)), [MessageBody::AppendResponse { result, round: Round(1) }]);
        assert_eq!(terms(&node), [1, 2]);
    }
}

#[test]
fn section_5_3_a_conflicting_suffix_is_replaced_and_a_longer_one_kept() {
    let cases = [
        ((2, 2), vec![entry(3, 3)], vec![1, 2, 3]),
        ((1, 1), vec![entry(2, 3), entry(3, 4)], vec![1, 3, 4]),
        ((0, 0), vec![entry(1, 1)], vec![1, 2]),
        ((0, 0), vec![entry(1, 3)], vec![3]),
    ];
    for (prev, entries, expected) in cases {
        let mut node = node(3, &[1, 2], 2);
        step(&mut node, 2, 5, append(prev, &entries, 0));
        sync(&mut node);
        assert_eq!(terms(&node), expected);
    }
}

#[test]
fn section_5_3_an_acknowledgement_waits_for_the_disk() {
    let mut node = node(3, &[], 1);
    step(&mut node, 2, 1, append((0, 0), &[entry(1, 1)], 0));
    let ready = write(&mut node);
    assert!(ready.must_sync && ready.messages.is_empty());
    assert_eq!(bodies(ready.persisted_messages), [accepted(1)]);
    // Repeated before the disk is done, it is acknowledged after the disk all the same.
    step(&mut node, 2, 1, append((0, 0), &[entry(1, 1)], 0));
    let again = write(&mut node);
    assert!(again.messages.is_empty());
    assert_eq!(bodies(again.persisted_messages), [accepted(1)]);
    node.on_persisted(again.id);
    step(&mut node, 2, 1, append((0, 0), &[entry(1, 1)], 0));
    assert_eq!(bodies(write(&mut node).messages), [accepted(1)], "it is durable already");
}

#[test]
fn section_5_3_a_leader_does_not_overwrite_its_own_log() {
    let mut node = node(3, &[1, 1], 1);
    elect(&mut node, &[2]);
    let message =
        Message { from: NodeId(3), to: NodeId(1), term: Term(2), body: append((0, 0), &[entry(1, 2)], 0) };
    assert!(matches!(node.step(message, NOW), Err(StepError::Malformed { .. })));
    sync(&mut node);
    assert_eq!(terms(&node), [1, 1, 2]);
}

#[test]
fn section_5_4_1_a_vote_goes_only_to_a_log_at_least_as_up_to_date() {
    let cases =
        [((3, 1), false), ((2, 2), true), ((1, 2), false), ((1, 3), true), ((3, 2), true), ((9, 1), false)];
    for ((last_index, last_term), granted) in cases {
        let mut node = node(3, &[1, 2], 2);
        step(&mut node, 2, 4, vote(last_index, last_term));
        let expected = if granted { GRANTED } else { REFUSED };
        assert_eq!(bodies(sync(&mut node)), [expected], "{last_index}/{last_term}");
    }
}

#[test]
fn section_5_4_2_an_entry_of_a_former_term_is_not_committed_by_counting() {
    let mut node = node(3, &[1, 2], 2);
    elect(&mut node, &[2]);
    sync(&mut node);
    step(&mut node, 2, 3, accepted(2));
    assert_eq!(node.committed(), Index(0), "figure 8: a majority holds entry 2, and it can be lost");
    step(&mut node, 2, 3, accepted(3));
    assert_eq!(node.committed(), Index(3), "an entry of the own term commits all before it");
}

#[test]
fn section_5_2_the_vote_is_durable_before_it_leaves_and_survives_a_restart() {
    let mut first = node(3, &[], 1);
    step(&mut first, 2, 2, vote(0, 0));
    let ready = write(&mut first);
    assert!(ready.must_sync && ready.messages.is_empty());
    assert_eq!(bodies(ready.persisted_messages), [GRANTED]);
    let hard_state = ready.hard_state.expect("the vote");
    let conf_state = first.conf_state();
    let initial = InitialState { hard_state, conf_state, applied: Index(0) };
    let mut restarted = RawNode::new(config(1), initial, MemStorage::new(), 2).unwrap();
    step(&mut restarted, 3, 2, vote(0, 0));
    assert_eq!(bodies(sync(&mut restarted)), [REFUSED]);
}

#[test]
fn section_5_2_a_vote_in_a_term_already_durable_waits_for_the_disk_too() {
    let mut node = node(3, &[], 2);
    step(&mut node, 2, 2, vote(0, 0));
    let ready = write(&mut node);
    assert!(ready.must_sync && ready.messages.is_empty());
    assert_eq!(bodies(ready.persisted_messages), [GRANTED]);
}

/// Not in the paper, and the reason for waiting: a candidate that led without its own vote on disk could crash and lead
/// the same term again with another log.
#[test]
fn a_candidate_leads_only_after_its_own_vote_is_durable() {
    let mut node = node(3, &[], 0);
    node.campaign();
    let ready = write(&mut node);
    step(&mut node, 2, 1, GRANTED);
    step(&mut node, 3, 1, GRANTED);
    assert_eq!(node.role(), Role::Candidate);
    node.on_persisted(ready.id);
    assert_eq!(node.role(), Role::Leader);
}

#[test]
fn what_no_correct_node_sends_is_an_error_and_changes_nothing() {
    let mut node = node(3, &[], 0);
    elect(&mut node, &[2]);
    sync(&mut node);
    let before = node.status();
    let rejected = |rejected_index, hint_index| MessageBody::AppendResponse {
        result: AppendResult::Rejected {
            rejected_index: Index(rejected_index),
            hint_index: Index(hint_index),
            hint_term: Term(1),
        },
        round: Round(1),
    };
    let broken = [
        (1, accepted(u64::MAX)),
        (1, rejected(u64::MAX, 0)),
        (1, rejected(1, u64::MAX)),
        (1, MessageBody::HeartbeatResponse { round: Round(u64::MAX) }),
        (1, MessageBody::Heartbeat { commit: Index(0), round: Round(1) }),
        (u64::MAX, append((0, 0), &[], 0)),
        (0, vote(0, 0)),
        (2, append((u64::MAX, 1), &[entry(0, 1)], 0)),
        (2, append((0, 0), &[entry(2, 1)], 0)),
        (2, append((0, 0), &[entry(1, 3)], 0)),
        (2, append((1, 2), &[entry(2, 1)], 0)),
        (2, MessageBody::Heartbeat { commit: Index(2), round: Round(1) }),
    ];
    for (term, body) in broken {
        let message = Message { from: NodeId(2), to: NodeId(1), term: Term(term), body };
        assert!(node.step(message.clone(), NOW).is_err(), "{message:?}");
        assert_eq!(node.status(), before);
    }
    let lost = Message { from: NodeId(2), to: NodeId(3), term: Term(1), body: GRANTED };
    assert!(matches!(node.step(lost, NOW), Err(StepError::Misrouted { .. })));
}
