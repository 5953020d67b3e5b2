//! Programs: routed by their slot, and never executed twice, for they carry no session.

use super::*;
use crate::protocol::{Access, Program};

fn program(access: Access) -> Op {
    let args = vec![Bytes::from_static(b"INCR"), Bytes::from_static(b"bar")];
    Op::Execute { program: Program::single(slot_of(b"bar"), 0, args), consistency: access }
}

const WRITE: Access = Access::Write(WriteConsistency::Strong);
const READ: Access = Access::Read(ReadConsistency::Linearizable);

fn executed() -> Result<Answer, Refusal> {
    let replies = Some(Bytes::from_static(b":1\r\n"));
    Ok(Answer::Executed { index: 7, replies, freshness: None })
}

#[test]
fn a_refused_program_is_sent_again_and_a_lost_one_is_indeterminate() {
    let (mut script, one, _) = Script::connected(config());
    script.submit(program(WRITE), 1);
    for refusal in [
        Refusal::Busy { retry_after_ms: 1 },
        Refusal::Unavailable { why: "no quorum".into() },
        Refusal::NotLeader { leader: None, epoch: 1 },
    ] {
        let (to, request) = script.take_sent();
        assert_eq!(request.op, program(WRITE));
        script.reply(to, &request, Err(refusal));
        script.pass(Duration::from_secs(1));
    }
    let (to, request) = script.take_sent();
    script.reply(to, &request, executed());
    assert_eq!(script.take_completed(), (1, executed().map_err(ClientError::Refused)));

    script.submit(program(WRITE), 2);
    let (to, request) = script.take_sent();
    script.reply(to, &request, Err(Refusal::Timeout));
    assert!(matches!(script.take_completed(), (2, Err(ClientError::Indeterminate { .. }))));
    script.pass(Duration::from_secs(1));
    assert!(script.sent.iter().all(|(_, request)| !request.op.is_write()), "it was sent again");

    script.submit(program(WRITE), 3);
    script.down(one);
    let (token, result) = script.take_completed();
    assert!(matches!((token, result), (3, Err(ClientError::Indeterminate { .. }))));
}

#[test]
fn a_lost_program_that_only_reads_is_sent_again() {
    let (mut script, _, _) = Script::connected(config());
    script.submit(program(READ), 1);
    let (to, request) = script.take_sent();
    script.reply(to, &request, Err(Refusal::Timeout));
    script.pass(Duration::from_secs(1));
    let (to, again) = script.take_sent();
    assert_eq!(again.op, program(READ));
    script.reply(to, &again, executed());
    assert_eq!(script.take_completed(), (1, executed().map_err(ClientError::Refused)));
}

#[test]
fn a_program_and_a_count_go_to_the_leader_of_their_slot() {
    let (mut script, one, two) = Script::connected(config());
    script.submit(program(WRITE), 1);
    assert_eq!(script.take_sent().0, one, "bar is in the first shard");
    let consistency = ReadConsistency::Linearizable;
    script.submit(Op::Count { first_slot: 9000, last_slot: 9000, consistency }, 2);
    assert_eq!(script.take_sent().0, two);
    let args = vec![Bytes::from(vec![0; 1001])];
    let long = Op::Execute { program: Program::single(0, 0, args), consistency: READ };
    let what = Oversize::Value;
    assert_eq!(script.refused(long), ClientError::TooLarge { what, actual: 1001, limit: 1000 });
}
