//! One test per clause of chapters 4 (membership) and 5 (compaction) of the thesis (Ongaro: "Consensus: Bridging Theory and
//! Practice"); the section stands in each name or comment. Where configurations take effect when applied, and not when
//! appended as there, the test says what holds instead.

#[path = "paper/node.rs"]
mod node;

use bytes::Bytes;
use raft::{
    AppendResult, ConfChange, ConfChangeStep, ConfState, Entry, EntryKind, Index, LogStorage, MemStorage,
    MessageBody, Nanos, NodeId, ProposeConfError, RawNode, Role, Round, SnapshotMeta, StepError, Term,
};

use node::*;

fn change(steps: &[ConfChangeStep]) -> ConfChange {
    ConfChange { steps: steps.to_vec() }
}

fn voters(ids: &[u64]) -> ConfState {
    ConfState { voters: ids.iter().map(|id| NodeId(*id)).collect(), ..ConfState::default() }
}

fn change_entry(index: u64, term: u64, step: ConfChangeStep) -> Entry {
    let data = ConfChange::one(step).encode();
    Entry { term: Term(term), index: Index(index), kind: EntryKind::ConfChange, data }
}

/// Node 1 leads term 1 of `count` voters, and everyone has its first entry.
fn leader(count: u64) -> RawNode<MemStorage> {
    let mut node = node(count, &[], 0);
    elect(&mut node, &(2..=count).collect::<Vec<_>>());
    sync(&mut node);
    (2..=count).for_each(|peer| step(&mut node, peer, 1, accepted(1)));
    sync(&mut node);
    assert_eq!(node.applied(), Index(1));
    node
}

fn propose(node: &mut RawNode<MemStorage>, steps: &[ConfChangeStep]) -> u64 {
    let (_, index) = node.propose_conf_change(&change(steps)).unwrap();
    sync(node);
    index.0
}

/// `peers` acknowledge everything.
fn acknowledge(node: &mut RawNode<MemStorage>, peers: &[u64]) {
    for peer in peers {
        let last = node.last_index().0;
        step(node, *peer, 1, accepted(last));
        sync(node);
    }
}

fn asked_for_votes(node: &mut RawNode<MemStorage>) -> Vec<u64> {
    node.campaign();
    let sent = sync(node);
    sent.iter().filter(|sent| matches!(sent.body, MessageBody::Vote { .. })).map(|sent| sent.to.0).collect()
}

// Chapter 4

#[test]
fn section_4_1_a_new_voter_counts_once_the_change_is_applied() {
    let mut node = leader(3);
    let index = propose(&mut node, &[ConfChangeStep::AddVoter(NodeId(4))]);
    step(&mut node, 2, 1, accepted(index));
    assert_eq!(node.committed(), Index(index), "two of three commit it");
    sync(&mut node);
    assert_eq!(node.conf_state(), voters(&[1, 2, 3, 4]));
    acknowledge(&mut node, &[2]);
    assert_eq!(node.committed(), Index(index), "two of four commit nothing");
    acknowledge(&mut node, &[3]);
    assert_eq!(node.committed(), node.last_index());
}

#[test]
fn section_4_1_one_change_at_a_time() {
    let mut node = leader(3);
    let index = propose(&mut node, &[ConfChangeStep::AddLearner(NodeId(4))]);
    let second = node.propose_conf_change(&change(&[ConfChangeStep::Remove(NodeId(3))]));
    assert_eq!(second, Err(ProposeConfError::InFlight { index: Index(index) }));
    acknowledge(&mut node, &[2, 3]);
    assert!(node.propose_conf_change(&change(&[ConfChangeStep::Remove(NodeId(3))])).is_ok());
}

/// The thesis has it as an erratum: otherwise two leaders could commit changes by disjoint majorities.
#[test]
fn section_4_1_a_leader_changes_nothing_before_it_has_committed_in_its_term() {
    let mut node = node(3, &[], 0);
    elect(&mut node, &[2]);
    sync(&mut node);
    let early = node.propose_conf_change(&change(&[ConfChangeStep::AddLearner(NodeId(4))]));
    assert_eq!(early, Err(ProposeConfError::InFlight { index: Index(1) }));
    acknowledge(&mut node, &[2]);
    assert!(node.propose_conf_change(&change(&[ConfChangeStep::AddLearner(NodeId(4))])).is_ok());
}

#[test]
fn section_4_1_strangers_are_served_by_the_rules_of_terms_and_logs_alone() {
    let mut follower = node(3, &[1], 1);
    step(&mut follower, 9, 2, append((1, 1), &[entry(2, 2)], 0));
    assert_eq!((follower.leader(), follower.last_index()), (Some(NodeId(9)), Index(2)));
    let mut voter = node(3, &[1], 1);
    step(&mut voter, 9, 2, vote(1, 1));
    assert_eq!(bodies(sync(&mut voter)), [GRANTED]);
}

#[test]
fn section_4_2_1_a_learner_gets_the_log_and_neither_votes_nor_counts() {
    let mut node = leader(2);
    let index = propose(&mut node, &[ConfChangeStep::AddLearner(NodeId(3))]);
    acknowledge(&mut node, &[2, 2]);
    assert_eq!(node.committed(), Index(index + 1), "the change, and the empty entry after it");
    acknowledge(&mut node, &[3]);
    node.propose(Bytes::from_static(b"command")).unwrap();
    let to: Vec<u64> = sync(&mut node).iter().map(|message| message.to.0).collect();
    assert!(to.contains(&2) && to.contains(&3), "{to:?}");
    acknowledge(&mut node, &[3]);
    assert_eq!(node.committed(), Index(index + 1));
    step(&mut node, 3, 2, MessageBody::VoteResponse { granted: false });
    assert_eq!(asked_for_votes(&mut node), [2]);
}

#[test]
fn section_4_2_2_a_leader_that_is_removed_commits_without_counting_itself_and_hands_over() {
    let mut node = leader(3);
    let index = propose(&mut node, &[ConfChangeStep::Remove(NodeId(1))]);
    acknowledge(&mut node, &[2]);
    assert_eq!((node.committed(), node.is_leader()), (Index(index), true));
    assert_eq!(node.conf_state(), voters(&[2, 3]));
    assert!(node.propose(Bytes::from_static(b"command")).is_err());
    step(&mut node, 2, 1, accepted(index + 1));
    assert_eq!(node.committed(), Index(index), "one of two, and itself");
    step(&mut node, 3, 1, accepted(index + 1));
    assert_eq!((node.committed(), node.role()), (Index(index + 1), Role::Follower));
    let last = sync(&mut node);
    assert!(last.iter().any(|message| message.body == MessageBody::TimeoutNow && message.to == NodeId(2)));
}

#[test]
fn section_4_2_2_a_node_that_applied_its_removal_may_still_be_needed_as_leader() {
    let mut node = node(2, &[1], 1);
    let removal = change_entry(2, 1, ConfChangeStep::Remove(NodeId(1)));
    step(&mut node, 2, 1, append((1, 1), &[removal], 2));
    sync(&mut node);
    assert_eq!(node.conf_state(), voters(&[2]));
    assert_eq!(asked_for_votes(&mut node), Vec::<u64>::new(), "first it asks whether it would win");
    assert_eq!((node.role(), node.term()), (Role::PreCandidate, Term(1)));
    step(&mut node, 2, 2, MessageBody::PreVoteResponse { granted: true });
    sync(&mut node);
    step(&mut node, 2, 2, GRANTED);
    assert!(node.is_leader());
}

#[test]
fn section_4_2_2_the_removed_are_dismissed_only_when_a_quorum_of_the_rest_knows_on_disk() {
    let mut node = leader(3);
    let index = propose(&mut node, &[ConfChangeStep::Remove(NodeId(3))]);
    assert!(!node.dismisses(NodeId(3)));
    acknowledge(&mut node, &[3]);
    assert_eq!((node.conf_state(), node.committed()), (voters(&[1, 2]), Index(index)));
    assert!(!node.dismisses(NodeId(3)), "node 2 may come back not knowing, and need its vote");
    acknowledge(&mut node, &[2]);
    assert_eq!(node.committed(), Index(index + 1));
    assert!(node.dismisses(NodeId(3)) && !node.dismisses(NodeId(2)));
    (0..12).for_each(|tick| node.tick(Nanos::from_millis(50 * tick)));
    assert!(!node.dismisses(NodeId(3)), "it may have been deposed without knowing");
}

#[test]
fn section_4_2_2_a_dismissal_is_believed_unless_a_later_leader_counts_on_the_node() {
    let mut node = node(3, &[1, 2], 7);
    assert!(node.believes_dismissal(Term(2)), "its own elections do not matter");
    step(&mut node, 2, 7, append((2, 2), &[], 0));
    assert!(node.believes_dismissal(Term(2)), "nor does what it holds of older terms");
    step(&mut node, 2, 7, append((2, 2), &[entry(3, 7)], 0));
    assert!(!node.believes_dismissal(Term(6)) && node.believes_dismissal(Term(7)));
}

#[test]
fn section_4_2_3_who_hears_a_leader_does_not_help_those_who_do_not() {
    let config = raft::Config { pre_vote: true, check_quorum: true, ..config(1) };
    let initial = raft::InitialState { conf_state: voters(&[1, 2, 3]), ..raft::InitialState::default() };
    let mut node = RawNode::new(config, initial, MemStorage::new(), 1).unwrap();
    step(&mut node, 2, 1, append((0, 0), &[entry(1, 1)], 0));
    sync(&mut node);
    step(&mut node, 3, 9, vote(9, 9));
    let ask = MessageBody::PreVote { last_index: Index(9), last_term: Term(9) };
    step(&mut node, 3, 9, ask);
    assert_eq!((node.term(), bodies(sync(&mut node))), (Term(1), vec![]));
}

#[test]
fn section_4_3_a_joint_configuration_needs_both_majorities_and_is_left_by_itself() {
    let mut node = leader(3);
    let steps = [
        ConfChangeStep::AddVoter(NodeId(4)),
        ConfChangeStep::AddVoter(NodeId(5)),
        ConfChangeStep::Remove(NodeId(2)),
        ConfChangeStep::Remove(NodeId(3)),
    ];
    // Two new voters that nobody has heard of would be a majority of three: they are to be learners first.
    assert_eq!(node.propose_conf_change(&change(&steps)), Err(ProposeConfError::NoQuorum));
    propose(&mut node, &[ConfChangeStep::AddLearner(NodeId(4)), ConfChangeStep::AddLearner(NodeId(5))]);
    acknowledge(&mut node, &[2, 3, 4, 5]);
    let index = propose(&mut node, &steps);
    acknowledge(&mut node, &[2]);
    let joint = ConfState { voters_outgoing: voters(&[1, 2, 3]).voters, ..voters(&[1, 4, 5]) };
    assert_eq!((node.conf_state(), node.committed()), (joint, Index(index)));
    assert_eq!(node.last_index(), Index(index + 1), "the leader proposes to leave it");
    acknowledge(&mut node, &[2, 3]);
    assert_eq!(node.committed(), Index(index), "a majority of the old half only");
    acknowledge(&mut node, &[4]);
    assert_eq!(node.conf_state(), voters(&[1, 4, 5]));
    acknowledge(&mut node, &[2, 3]);
    assert_eq!(node.committed(), Index(index + 1), "those who left count no more");
    acknowledge(&mut node, &[5]);
    assert_eq!(node.committed(), node.last_index());
}

#[test]
fn section_4_3_an_election_in_a_joint_configuration_needs_both_majorities() {
    for (granting, elected) in [(vec![4, 5], false), (vec![2, 3], false), (vec![2, 4], true)] {
        let joint = ConfState { voters_outgoing: voters(&[1, 2, 3]).voters, ..voters(&[1, 4, 5]) };
        let mut node = start(MemStorage::new(), joint, (1, 0), 0);
        assert_eq!(asked_for_votes(&mut node), [4, 5, 2, 3]);
        granting.iter().for_each(|voter| step(&mut node, *voter, 2, GRANTED));
        assert_eq!(node.is_leader(), elected, "{granting:?}");
    }
}

#[test]
fn section_4_3_check_quorum_and_reads_in_a_joint_configuration_need_both_majorities() {
    let joint = ConfState { voters_outgoing: voters(&[1, 2, 3]).voters, ..voters(&[1, 4, 5]) };
    for (answering, quorum) in [(vec![4, 5], false), (vec![2, 3], false), (vec![3, 5], true)] {
        let config = raft::Config { check_quorum: true, ..config(1) };
        let initial = raft::InitialState { conf_state: joint.clone(), ..raft::InitialState::default() };
        let mut node = RawNode::new(config, initial, MemStorage::new(), 1).unwrap();
        elect(&mut node, &[2, 3, 4, 5]);
        let mut served = 0;
        for tick in 0..30 {
            node.tick(Nanos::from_millis(50 * tick));
            if tick == 5 && node.is_leader() {
                node.read_index(7, Nanos::from_millis(50 * tick)).unwrap();
            }
            while node.has_ready() {
                let ready = write(&mut node);
                node.on_persisted(ready.id);
                served += ready.read_states.len();
                for message in ready.messages.iter().filter(|message| answering.contains(&message.to.0)) {
                    answer(&mut node, message);
                }
            }
        }
        assert_eq!((node.is_leader(), served > 0), (quorum, quorum), "{answering:?}");
    }
}

/// What a follower with the same log answers.
fn answer(node: &mut RawNode<MemStorage>, message: &raft::Message) {
    let body = match &message.body {
        MessageBody::Append { prev_index, entries, round, .. } => {
            let match_index = entries.last().map_or(*prev_index, |entry| entry.index);
            MessageBody::AppendResponse { result: AppendResult::Accepted { match_index }, round: *round }
        }
        MessageBody::Heartbeat { round, .. } if *round != Round::NONE => {
            MessageBody::HeartbeatResponse { round: *round }
        }
        _ => return,
    };
    step(node, message.to.0, message.term.0, body);
}

/// In the thesis a node uses the newest configuration of its log; here the newest applied one, so it must not stand for
/// election while it knows of one committed and not applied.
#[test]
fn section_4_1_who_knows_a_change_committed_applies_it_before_it_stands() {
    let mut storage = MemStorage::new();
    storage.write(None, &[entry(1, 1), change_entry(2, 1, ConfChangeStep::AddVoter(NodeId(4)))]);
    let mut node = start(storage, voters(&[1, 2, 3]), (1, 2), 0);
    node.campaign();
    assert_eq!(node.role(), Role::Follower);
    sync(&mut node);
    assert_eq!(asked_for_votes(&mut node), [2, 3, 4]);
}

#[test]
fn a_change_reaches_the_disk_after_the_commit_index_it_proves() {
    let mut leader = leader(2);
    propose(&mut leader, &[ConfChangeStep::AddLearner(NodeId(3))]);
    acknowledge(&mut leader, &[2]);
    leader.propose_conf_change(&change(&[ConfChangeStep::AddLearner(NodeId(4))])).unwrap();
    sync(&mut leader);
    let log: Vec<Entry> = leader.storage().iter().cloned().collect();
    // A follower that was told no commit index at all.
    let mut follower = node(2, &[], 1);
    step(&mut follower, 2, 1, append((0, 0), &log, 0));
    // Each change says that everything was committed which its leader had applied.
    for (entries, commit) in [(0..1, 1), (1..3, 2)] {
        let ready = write(&mut follower);
        assert_eq!(ready.entries, log[entries]);
        assert_eq!(ready.hard_state.map(|state| state.commit), Some(Index(commit)));
        assert!(ready.must_sync && ready.persisted_messages.is_empty());
    }
    let last = write(&mut follower);
    assert_eq!(last.entries, log[3..]);
    assert_eq!(bodies(last.persisted_messages), [accepted(4)]);
}

// Chapter 5

fn meta(index: u64, term: u64, ids: &[u64]) -> SnapshotMeta {
    SnapshotMeta { index: Index(index), term: Term(term), conf_state: voters(ids) }
}

fn install(node: &mut RawNode<MemStorage>, meta: &SnapshotMeta) {
    node.storage_mut().reset(meta.index, meta.term);
    node.on_snapshot_installed(meta);
    node.check_invariants();
}

#[test]
fn section_5_1_a_snapshot_takes_the_place_of_log_and_configuration() {
    let mut node = node(3, &[1, 1, 2], 2);
    let snapshot = meta(9, 4, &[1, 2, 4]);
    step(&mut node, 2, 4, MessageBody::Snapshot { meta: snapshot.clone() });
    let ready = write(&mut node);
    assert_eq!(ready.snapshot.as_ref(), Some(&snapshot));
    node.on_persisted(ready.id);
    install(&mut node, &snapshot);
    let at = (node.committed(), node.applied(), node.flushed(), node.last_index());
    assert_eq!(at, (Index(9), Index(9), Index(9), Index(9)));
    assert_eq!(node.conf_state(), snapshot.conf_state);
    let result = AppendResult::Accepted { match_index: Index(9) };
    assert_eq!(bodies(sync(&mut node)), [MessageBody::AppendResponse { result, round: Round::NONE }]);
    // The consistency check and votes go by the snapshot's last entry.
    step(&mut node, 2, 4, append((9, 4), &[entry(10, 4)], 0));
    assert_eq!(bodies(sync(&mut node)), [accepted(10)]);
    step(&mut node, 3, 5, vote(10, 3));
    assert_eq!(bodies(sync(&mut node)), [REFUSED]);
}

#[test]
fn section_5_1_while_a_snapshot_is_installed_nothing_else_comes_in() {
    let mut node = node(3, &[1, 1, 1], 1);
    step(&mut node, 2, 1, append((3, 1), &[], 2));
    node.check_invariants();
    step(&mut node, 2, 1, MessageBody::Snapshot { meta: meta(9, 1, &[1, 2, 3]) });
    step(&mut node, 2, 1, MessageBody::Snapshot { meta: meta(12, 1, &[1, 2, 3]) });
    step(&mut node, 2, 1, append((3, 1), &[entry(4, 1)], 4));
    let ready = write(&mut node);
    assert_eq!(ready.snapshot, Some(meta(9, 1, &[1, 2, 3])), "the first one");
    assert!(ready.committed.is_empty() && ready.entries.is_empty());
    node.on_persisted(ready.id);
    node.campaign();
    assert_eq!(node.role(), Role::Follower);
    // It votes by the log it has.
    step(&mut node, 3, 2, vote(3, 1));
    assert!(bodies(sync(&mut node)).contains(&GRANTED));
    node.on_snapshot_failed();
    step(&mut node, 3, 2, append((3, 1), &[entry(4, 2)], 4));
    sync(&mut node);
    assert_eq!((node.applied(), node.last_index()), (Index(4), Index(4)));
}

#[test]
fn section_5_1_a_snapshot_of_what_the_log_holds_only_tells_the_commit() {
    let mut node = node(3, &[1, 1, 1, 1], 1);
    step(&mut node, 2, 1, MessageBody::Snapshot { meta: meta(3, 1, &[1, 2, 3]) });
    assert_eq!((node.committed(), node.last_index()), (Index(3), Index(4)), "what follows it stays");
    assert_eq!(bodies(write(&mut node).messages).len(), 1);
    step(&mut node, 2, 1, MessageBody::Snapshot { meta: meta(2, 1, &[1, 2, 3]) });
    let ready = write(&mut node);
    assert_eq!((ready.snapshot, node.committed()), (None, Index(3)), "an older one is ignored");
}

#[test]
fn section_5_3_a_leader_sends_a_snapshot_when_the_next_entry_is_gone() {
    let mut node = leader(3);
    for _ in 0..3 {
        node.propose(Bytes::from_static(b"command")).unwrap();
    }
    sync(&mut node);
    acknowledge(&mut node, &[2]);
    let applied = node.applied();
    node.storage_mut().compact_to(applied);
    node.report_unreachable(NodeId(3));
    let mut needed = Vec::new();
    while node.has_ready() {
        let ready = write(&mut node);
        needed.extend(ready.snapshots_needed);
    }
    assert_eq!(needed, [NodeId(3)]);
    node.report_snapshot(NodeId(3), true);
    step(&mut node, 3, 1, accepted(applied.0));
    node.propose(Bytes::from_static(b"command")).unwrap();
    let sent = sync(&mut node);
    let next =
        |body: &MessageBody| matches!(body, MessageBody::Append { prev_index, .. } if *prev_index == applied);
    assert!(sent.iter().any(|message| message.to == NodeId(3) && next(&message.body)));
}

#[test]
fn section_5_3_a_restart_begins_at_the_snapshot() {
    let mut storage = MemStorage::new();
    storage.reset(Index(9), Term(4));
    storage.write(None, &[entry(10, 4)]);
    let mut node = start(storage, voters(&[1]), (4, 9), 9);
    node.campaign();
    sync(&mut node);
    assert_eq!((node.is_leader(), node.applied()), (true, Index(11)));
    assert_eq!(node.storage().first_index(), Index(10));
}

#[test]
fn an_unsound_snapshot_is_an_error() {
    let mut node = node(3, &[], 1);
    let unsound = [
        meta(0, 1, &[1]),
        meta(5, 2, &[1]),
        meta(5, 1, &[]),
        SnapshotMeta {
            conf_state: ConfState { learners: vec![NodeId(1)], ..voters(&[1]) },
            ..meta(5, 1, &[1])
        },
    ];
    for meta in unsound {
        let body = MessageBody::Snapshot { meta };
        let message = raft::Message { from: NodeId(2), to: NodeId(1), term: Term(1), body };
        assert!(matches!(node.step(message, NOW), Err(StepError::Malformed { .. })));
    }
    assert!(!node.has_ready());
}
