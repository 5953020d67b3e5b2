//! Administrative requests: to the leader wherever it is, and never twice unless they only ask.

use super::*;
use crate::protocol::{AdminAccepted, AdminOp};

fn admin(script: &mut Script, op: AdminOp) {
    script.core.submit(Target::Shard(1), 0, Op::Admin(op), 1, script.now).unwrap();
    script.look();
}

fn accepted() -> Result<Answer, Refusal> {
    Ok(Answer::AdminAccepted(AdminAccepted { index: Some(9), node: None }))
}

fn take_admin(script: &mut Script) -> (ConnectionId, Request) {
    let at = script.sent.iter().position(|(_, it)| matches!(it.op, Op::Admin(_))).expect("it was sent");
    script.sent.remove(at)
}

const CHANGES: [AdminOp; 5] = [
    AdminOp::AddReplica { node: 3 },
    AdminOp::RemoveReplica { node: 3 },
    AdminOp::TransferLeader { node: None },
    AdminOp::TakeSnapshot,
    AdminOp::Compact,
];

#[test]
fn a_change_goes_to_the_leader_and_follows_it() {
    for op in CHANGES {
        let (mut script, one, two) = Script::connected(config());
        admin(&mut script, op);
        let (to, request) = take_admin(&mut script);
        assert_eq!((to, request.shard), (one, 1));
        script.reply(one, &request, Err(Refusal::NotLeader { leader: Some(2), epoch: 1 }));
        let (to, request) = take_admin(&mut script);
        assert_eq!((to, &request.op), (two, &Op::Admin(op)));
        script.reply(two, &request, accepted());
        assert_eq!(script.take_completed(), (1, accepted().map_err(ClientError::Refused)));
    }
}

#[test]
fn a_change_without_outcome_is_not_sent_again() {
    for op in CHANGES {
        for lost in ["connection", "time", "reply", "deadline"] {
            let (mut script, one, _) = Script::connected(config());
            admin(&mut script, op);
            let (_, request) = take_admin(&mut script);
            match lost {
                "connection" => script.down(one),
                "time" => script.reply(one, &request, Err(Refusal::Timeout)),
                "reply" => script.event(Event::Garbled { connection: one, id: request.id }),
                _ => script.pass(config().request_timeout),
            }
            let (token, result) = script.take_completed();
            assert!(
                matches!((token, &result), (1, Err(ClientError::Indeterminate { .. }))),
                "{lost}: {result:?}"
            );
            assert!(!script.sent.iter().any(|(_, it)| matches!(it.op, Op::Admin(_))), "{lost}");
        }
    }
}

#[test]
fn a_change_that_was_not_executed_is_tried_again() {
    let (mut script, one, _) = Script::connected(config());
    admin(&mut script, AdminOp::AddReplica { node: 3 });
    let (_, request) = take_admin(&mut script);
    script.reply(one, &request, Err(Refusal::Unavailable { why: "no leader".into() }));
    script.pass(Duration::from_secs(1));
    let (_, again) = take_admin(&mut script);
    assert_ne!(request.id, again.id);
}

#[test]
fn a_question_is_asked_again_when_its_answer_is_lost() {
    let (mut script, one, two) = Script::connected(config());
    admin(&mut script, AdminOp::Describe);
    let (to, first) = take_admin(&mut script);
    assert_eq!(to, one);
    script.reply(one, &first, Err(Refusal::Timeout));
    let (again, second) = take_admin(&mut script);
    assert_ne!(first.id, second.id);
    script.reply(again, &second, Err(Refusal::NotLeader { leader: Some(2), epoch: 1 }));
    assert_eq!(take_admin(&mut script).0, two);
    assert!(script.completed.is_empty());
}

#[test]
fn what_the_shard_does_not_allow_is_refused_with_its_reason() {
    let (mut script, one, _) = Script::connected(config());
    admin(&mut script, AdminOp::AddReplica { node: 3 });
    let (_, request) = take_admin(&mut script);
    let refusal = Refusal::Conflict { why: "node 3 has a replica already".into() };
    script.reply(one, &request, Err(refusal.clone()));
    assert_eq!(script.take_completed(), (1, Err(ClientError::Refused(refusal))));
}

#[test]
fn without_a_shard_there_is_nowhere_to_go() {
    let (mut script, ..) = Script::connected(config());
    assert_eq!(script.refused(Op::Admin(AdminOp::Describe)), ClientError::NoSuchShard);
    let unknown = script.core.submit(Target::Shard(9), 0, Op::Admin(AdminOp::Compact), 0, script.now);
    assert_eq!(unknown.unwrap_err(), ClientError::NoSuchShard);
}
