//! Programs at the machines: where they are refused, and that all replicas come to the same.

use net::protocol::{Access, Oversize, Program, ProgramCommand, Watched};
use net::resp::{Value, decode_value};

use super::*;

const WRITE: Access = Access::Write(WriteConsistency::Strong);

fn execute(key: &str, consistency: Access, commands: &[&[&str]]) -> Op {
    let command =
        |args: &&[&str]| ProgramCommand { namespace: 0, args: args.iter().map(|arg| bytes(arg)).collect() };
    let commands = commands.iter().map(command).collect();
    Op::Execute { program: Program { slot: slot_of(key.as_bytes()), watched: vec![], commands }, consistency }
}

fn replies(answer: Result<Answer, Refusal>) -> Vec<Value> {
    match answer {
        Ok(Answer::Executed { replies: Some(mut replies), .. }) => {
            std::iter::from_fn(|| decode_value(&mut replies).expect("replies")).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_replica_reads_what_a_program_wrote() {
    let mut cluster = Cluster::new();
    cluster.pass(20_000);
    let made = cluster.do_at_leader("n", execute("n", WRITE, &[&["INCRBY", "n", "7"], &["INCR", "n"]]));
    assert_eq!(replies(made), [Value::Integer(7), Value::Integer(8)]);
    for node in 1..=3 {
        for commands in [&[&["GET", "n"][..]][..], &[&["GETRANGE", "n", "0", "-1"]]] {
            let read = execute("n", Access::Read(ReadConsistency::Follower), commands);
            let id = cluster.ask(node, read, "n");
            cluster.pass(200);
            let answer = cluster.answer(node, id).expect("answered");
            assert_eq!(replies(answer), [Value::bulk("8")], "at node {node}");
        }
    }
    let leader = cluster.leader_of("n");
    let follower = (1..=3).find(|id| *id != leader).expect("three nodes");
    let id = cluster.ask(follower, execute("n", WRITE, &[&["INCR", "n"]]), "n");
    cluster.settle();
    let refused = cluster.answer(follower, id);
    assert!(matches!(refused, Some(Err(Refusal::NotLeader { leader: Some(it), .. })) if it == leader));
}

#[test]
fn a_program_waits_for_apply_whatever_its_consistency() {
    let mut cluster = Cluster::new();
    for consistency in [WriteConsistency::Eventual, WriteConsistency::Leader] {
        let op = execute("n", Access::Write(consistency), &[&["APPEND", "n", "x"]]);
        assert!(matches!(replies(cluster.do_at_leader("n", op))[..], [Value::Integer(_)]));
    }
}

#[test]
fn programs_of_other_shards_and_beyond_limits_are_refused_with_the_reason() {
    let mut cluster = Cluster::new();
    let home = shard_of("k");
    let far =
        (0..).map(|number| format!("far{number}")).find(|key| shard_of(key) != home).expect("there is one");
    let elsewhere = cluster.do_at_leader("k", execute("k", WRITE, &[&["MSET", "k", "v", &far, "v"]]));
    assert!(matches!(elsewhere, Err(Refusal::WrongShard { .. })), "{elsewhere:?}");
    let Op::Execute { mut program, consistency } = execute("k", WRITE, &[&["GET", "k"]]) else {
        unreachable!()
    };
    program.watched.push(Watched { namespace: 0, key: bytes(&far), version: 0 });
    let elsewhere = cluster.do_at_leader("k", Op::Execute { program, consistency });
    assert!(matches!(elsewhere, Err(Refusal::WrongShard { .. })), "{elsewhere:?}");
    let long = "k".repeat(2000);
    let refused = cluster.do_at_leader(&long, execute(&long, WRITE, &[&["INCR", &long]]));
    assert!(matches!(refused, Err(Refusal::TooLarge { what: Oversize::Key, .. })), "{refused:?}");
    let half = "v".repeat(40 << 10);
    let refused =
        cluster.do_at_leader("k", execute("k", WRITE, &[&["SET", "k", &half], &["SET", "k", &half]]));
    assert!(matches!(refused, Err(Refusal::TooLarge { what: Oversize::Request, .. })), "{refused:?}");
    for commands in [&["SET", "k"][..], &["NONSENSE", "k"], &["PING"], &["DBSIZE"]] {
        let refused = cluster.do_at_leader("k", execute("k", WRITE, &[commands]));
        assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{commands:?}: {refused:?}");
    }
    let read = Access::Read(ReadConsistency::Linearizable);
    let refused = cluster.do_at_leader("k", execute("k", read, &[&["GET", "k"], &["GETDEL", "k"]]));
    assert!(matches!(refused, Err(Refusal::Invalid { .. })), "{refused:?}");
    assert_eq!(value(cluster.do_at_leader("k", get("k", ReadConsistency::Linearizable))), None);
}

#[test]
fn stages_count_what_was_written() {
    let mut cluster = Cluster::new();
    for _ in 0..10 {
        assert!(cluster.do_at_leader("k", put("k", "v")).is_ok());
    }
    let leader = cluster.leader_of("k");
    let stages = cluster.node(leader).core.status().stages;
    assert!(stages.replicate.count >= 10, "{stages:?}");
    for stage in [&stages.replicate, &stages.queue, &stages.apply, &stages.wal] {
        assert!(stage.count > 0, "{stages:?}");
        assert_eq!(stage.buckets.iter().sum::<u64>(), stage.count);
    }
}
