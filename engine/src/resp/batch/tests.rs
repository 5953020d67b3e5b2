use super::*;
use crate::resp::action::Touches;

const LONGEST: Longest = Longest { key_bytes: 100, value_bytes: 10_000 };
const LINEARIZABLE: ReadConsistency = ReadConsistency::Linearizable;

fn call(op: Op, shape: Shape, key: &str) -> Call {
    let touches = Touches { write: op.is_write(), slots: Slots::Key(7, key.to_owned().into()) };
    Call { shard: 3, slot: 7, namespace: 0, op, shape, touches }
}

fn get(key: &'static str) -> Call {
    call(Op::Get { key: key.into(), consistency: LINEARIZABLE }, Shape::Value, key)
}

fn write(mutation: Mutation) -> Call {
    let key = String::from_utf8(mutation.key().to_vec()).unwrap();
    let op = Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] };
    call(op, Shape::Stored, &key)
}

fn put(value: &str, ttl_ms: Option<u64>) -> Call {
    write(Mutation::Put { key: "k".into(), value: value.to_owned().into(), ttl_ms })
}

fn delete() -> Call {
    write(Mutation::Delete { key: "k".into() })
}

fn program(line: &str) -> Call {
    let args: Vec<Bytes> = line.split(' ').map(|word| word.to_owned().into()).collect();
    let spec = crate::redis::table::lookup(&args[0]).expect("a command");
    let consistency = match super::super::data::is_write(spec) {
        true => Access::Write(WriteConsistency::Strong),
        false => Access::Read(LINEARIZABLE),
    };
    call(Op::Execute { program: Program::single(7, 0, args), consistency }, Shape::Program, "k")
}

fn cost(calls: &[Call]) -> Option<Cost> {
    let mut costs = calls.iter().map(|call| Cost::of(call, LONGEST));
    let first = costs.next().expect("some")?;
    costs.try_fold(first, |sum, cost| sum.and(cost?, LONGEST))
}

fn lines(call: Call) -> Vec<String> {
    let Op::Execute { program, .. } = call.op else { panic!("{call:?}") };
    let line = |args: &[Bytes]| {
        args.iter().map(|it| String::from_utf8(it.to_vec()).unwrap()).collect::<Vec<_>>().join(" ")
    };
    program.commands.iter().map(|command| line(&command.args)).collect()
}

#[test]
fn puts_and_deletes_become_one_write() {
    let merged = merge(vec![put("1", None), delete(), put("2", Some(5))]);
    let Op::Write { session: None, consistency: WriteConsistency::Strong, mutations } = merged.op else {
        panic!()
    };
    let values: Vec<Option<Bytes>> = (mutations.iter())
        .map(|it| if let Mutation::Put { value, .. } = it { Some(value.clone()) } else { None })
        .collect();
    assert_eq!(values, [Some("1".into()), None, Some("2".into())]);
    assert_eq!((merged.shard, merged.slot, merged.touches.write), (3, 7, true));
}

#[test]
fn anything_else_becomes_a_program_of_the_same_commands() {
    let exists = call(Op::Exists { key: "k".into(), consistency: LINEARIZABLE }, Shape::Exists, "k");
    let merged =
        merge(vec![put("1", None), get("k"), put("2", Some(9)), delete(), exists, program("INCRBY k 4")]);
    assert!(matches!(merged.op, Op::Execute { consistency: Access::Write(WriteConsistency::Strong), .. }));
    assert_eq!(lines(merged), ["SET k 1", "GET k", "SET k 2 PX 9", "DEL k", "EXISTS k", "INCRBY k 4"]);
}

#[test]
fn puts_of_two_namespaces_become_a_program_that_says_which_is_which() {
    let other = Call { namespace: 4, ..put("2", None) };
    let Op::Execute { program, .. } = merge(vec![put("1", None), other]).op else { panic!() };
    assert_eq!(program.commands.iter().map(|it| it.namespace).collect::<Vec<_>>(), [0, 4]);
}

#[test]
fn a_batch_stays_within_what_its_program_may_answer() {
    assert!(cost(&[put("1", None), get("k"), program("INCR k"), program("TTL k")]).is_some());
    // Two longest values, and what surrounds them, are more than the replies of a program may be.
    for second in [get("k"), program("GETDEL k"), program("GETRANGE k 0 -1"), program("SET k v GET")] {
        assert_eq!(cost(&[put("1", None), get("k"), second]), None);
    }
    let many: Vec<Call> = (0..30).map(|_| program("INCR k")).collect();
    assert!(cost(&many).is_some());
    let more: Vec<Call> = (0..50).map(|_| program("INCR k")).collect();
    assert_eq!(cost(&more), None, "short replies add up");
}

#[test]
fn a_batch_stays_within_what_its_program_may_write() {
    for line in ["APPEND k x", "SETBIT k 1 1", "EXPIRE k 10", "SETRANGE k 1 x"] {
        let calls: Vec<Call> = (0..6).map(|_| program(line)).collect();
        assert!(cost(&calls).is_some(), "{line}");
        let calls: Vec<Call> = (0..7).map(|_| program(line)).collect();
        assert_eq!(cost(&calls), None, "{line}");
    }
    let long = "v".repeat(3_000);
    assert!(cost(&[put(&long, None), put(&long, None)]).is_some());
    assert_eq!(cost(&[put(&long, None), put(&long, None), put(&long, None), put(&long, None)]), None);
}

#[test]
fn what_is_refused_alone_is_asked_alone() {
    let key: &'static str = "a key that is longer than any may be, for it has more than the hundred bytes that this test allows one";
    assert_eq!(cost(&[get(key)]), None);
    assert_eq!(cost(&[put(&"v".repeat(10_001), None)]), None);
    for line in ["BITFIELD k SET u8 0 1", "DUMP k", "RESTORE k 0 x", "LCS k k"] {
        assert_eq!(cost(&[program(line)]), None, "{line}: nothing bounds it");
    }
    let follower = Op::Get { key: "k".into(), consistency: ReadConsistency::Follower };
    assert_eq!(cost(&[call(follower, Shape::Value, "k")]), None, "it may be answered by another node");
    let several = Call { touches: Touches { write: true, slots: Slots::One(7) }, ..program("MSET k 1 j 2") };
    assert_eq!(cost(&[several]), None);
}
