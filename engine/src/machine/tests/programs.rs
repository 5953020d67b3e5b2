//! Programs by examples, and how random ones are made.

use net::resp::{self, Value};
use net::slot::slot_of;
use proptest::prelude::*;

use super::*;
use crate::command::{NewCommand, NewWatched, encode_program};

/// Random programs stay below what it bounds.
pub(super) const VALUE_BYTES_MAX: usize = 1000;

/// A program of a random log, over keys of one byte.
#[derive(Clone, Debug)]
pub(super) struct LoggedProgram {
    /// Keys, and how many entries ago they were written.
    pub(super) watched: Vec<(u8, u64)>,
    pub(super) commands: Vec<Vec<Bytes>>,
}

impl LoggedProgram {
    pub(super) fn entry(&self, index: u64, time_ms: u64, want_outcome: bool) -> MachineEntry {
        let watched = self.watched.iter().map(|(key, ago)| NewWatched {
            place: KeyPlace { namespace: 0, slot: slot_of(&[*key]) },
            key: std::slice::from_ref(key),
            version: index.saturating_sub(*ago),
        });
        let commands = self.commands.iter().map(|args| NewCommand { namespace: 0, args });
        let value_bytes_max = u32::try_from(VALUE_BYTES_MAX).expect("small");
        let payload = encode_program(time_ms, index, value_bytes_max, watched, commands);
        MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome }
    }
}

fn random_command() -> impl Strategy<Value = Vec<Bytes>> {
    let name = prop::sample::select(vec![
        "set",
        "get",
        "append",
        "incr",
        "incrby",
        "del",
        "mset",
        "mget",
        "getdel",
        "pexpire",
        "rename",
        "copy",
        "setrange",
        "strlen",
        "exists",
        "ringkv.version",
        "nonsense",
    ]);
    (name, 0..4_u8, 0..4_u8, 0..60_u32).prop_map(|(name, first, second, number)| {
        let key = |name: u8| Bytes::copy_from_slice(&[name]);
        let (one, two, number) = (key(first), key(second), Bytes::from(number.to_string()));
        let args = match name {
            "set" | "append" | "incrby" | "pexpire" => vec![one, number],
            "mset" => vec![one, number.clone(), two, number],
            "mget" | "del" | "exists" | "rename" | "copy" => vec![one, two],
            "setrange" => vec![one, number, "x".into()],
            _ => vec![one],
        };
        std::iter::once(Bytes::from(name)).chain(args).collect()
    })
}

pub(super) fn logged_program() -> impl Strategy<Value = LoggedProgram> {
    let watched = prop::collection::vec((0..4_u8, 1..4_u64), 0..2);
    let watched = prop_oneof![3 => Just(Vec::new()), 1 => watched];
    (watched, prop::collection::vec(random_command(), 1..5))
        .prop_map(|(watched, commands)| LoggedProgram { watched, commands })
}

/// An entry of a program over keys in any slot; a watched key comes with the version it had.
fn program(index: u64, value_bytes_max: u32, watched: &[(&str, u64)], commands: &[&[&str]]) -> MachineEntry {
    let watched = watched.iter().map(|(key, version)| NewWatched {
        place: KeyPlace { namespace: 0, slot: slot_of(key.as_bytes()) },
        key: key.as_bytes(),
        version: *version,
    });
    let commands: Vec<Vec<Bytes>> = commands
        .iter()
        .map(|args| args.iter().map(|arg| Bytes::copy_from_slice(arg.as_bytes())).collect())
        .collect();
    let commands = commands.iter().map(|args| NewCommand { namespace: 0, args });
    let payload = encode_program(1, index, value_bytes_max, watched, commands);
    MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome: true }
}

/// What the entries answered: the values of each.
fn run_all(machine: &mut Machine, entries: &[MachineEntry]) -> Vec<Option<Vec<Value>>> {
    let applied = machine.apply(entries).expect("apply");
    let replies = |(_, outcome): (u64, Outcome)| match outcome {
        Outcome::Executed(replies) => replies.map(|mut bytes| {
            std::iter::from_fn(|| resp::decode_value(&mut bytes).expect("an encoder's value")).collect()
        }),
        other => panic!("{other:?}"),
    };
    applied.outcomes.into_iter().map(replies).collect()
}

fn run_one(machine: &mut Machine, value_bytes_max: u32, commands: &[&[&str]]) -> Vec<Value> {
    let entry = program(machine.applied().index + 1, value_bytes_max, &[], commands);
    run_all(machine, &[entry]).remove(0).expect("nothing was watched")
}

#[test]
fn commands_see_what_came_before_them_in_program_and_batch() {
    let mut machine = machine();
    let entries = [
        program(1, 100, &[], &[&["INCR", "n"], &["INCRBY", "n", "5"], &["GET", "n"]]),
        program(2, 100, &[], &[&["APPEND", "n", "0"], &["DEL", "n"], &["GET", "n"], &["INCR", "n"]]),
    ];
    let integer = Value::Integer;
    let first = vec![integer(1), integer(6), Value::bulk("6")];
    let second = vec![integer(2), integer(1), Value::Null, integer(1)];
    assert_eq!(run_all(&mut machine, &entries), [Some(first), Some(second)]);
    assert_eq!(run_one(&mut machine, 100, &[&["RINGKV.VERSION", "n"]]), [integer(2)]);
}

#[test]
fn an_error_of_one_command_leaves_the_others() {
    let mut machine = machine();
    let replies = run_one(&mut machine, 100, &[&["SET", "k", "x"], &["INCR", "k"], &["APPEND", "k", "y"]]);
    assert_eq!(replies[0], Value::OK);
    assert!(matches!(&replies[1], Value::Error(text) if text.starts_with("ERR value is not an integer")));
    assert_eq!(replies[2], Value::Integer(2));
}

#[test]
fn a_watched_key_that_changed_means_nothing_is_done() {
    let mut machine = machine();
    assert_eq!(run_one(&mut machine, 100, &[&["SET", "k", "x"]]), [Value::OK]);
    let set = |index, watched: &[(&str, u64)]| program(index, 100, watched, &[&["SET", "k", "y"]]);
    let entries =
        [set(2, &[("k", 0)]), set(3, &[("k", 1), ("other", 0)]), set(4, &[("k", 1)]), set(5, &[("k", 3)])];
    let done = || Some(vec![Value::OK]);
    assert_eq!(run_all(&mut machine, &entries), [None, done(), None, done()]);
    assert_eq!(run_one(&mut machine, 100, &[&["RINGKV.VERSION", "k"]]), [Value::Integer(5)]);
}

#[test]
fn what_a_program_reads_writes_and_answers_is_bounded() {
    let mut machine = machine();
    let long = "x".repeat(100);
    let set = ["SET", "k", &long];
    // Eight longest values may be written; the ninth is refused, and so is what follows.
    let replies = run_one(&mut machine, 100, &[&set[..]; 10]);
    assert!(replies[..8].iter().all(|reply| *reply == Value::OK), "{replies:?}");
    assert!(replies[8..].iter().all(|it| matches!(it, Value::Error(text) if text.starts_with("OOM"))));
    let gets = run_one(&mut machine, 100, &[&["GET", "k"], &["GET", "k"], &["STRLEN", "k"]]);
    assert_eq!(gets[0], Value::bulk(long));
    assert!(matches!(&gets[1], Value::Error(text) if text.contains("200 bytes")), "{gets:?}");
    assert_eq!(gets[2], Value::Integer(100));
    let nine = |name| [&[name][..], &["k"; 9]].concat();
    let read = run_one(&mut machine, 100, &[&nine("MGET"), &["STRLEN", "k"], &nine("EXISTS")]);
    assert!(matches!(&read[0], Value::Error(text) if text.contains("800 bytes")), "{read:?}");
    assert_eq!(read[1], Value::Integer(100), "the next command may read again");
    assert_eq!(read[2], Value::Integer(9), "values that are not kept do not count");
}

/// A batch of programs that write much goes down in several writes.
#[test]
fn a_batch_of_large_writes_is_cut_and_seen_whole() {
    let mut machine = machine();
    let long = "x".repeat(1 << 20);
    let mut entries: Vec<_> =
        (1..=40).map(|index| program(index, 2 << 20, &[], &[&["SET", "k", &long]])).collect();
    entries.push(program(41, 2 << 20, &[], &[&["STRLEN", "k"], &["RINGKV.VERSION", "k"]]));
    let last = run_all(&mut machine, &entries).pop().expect("the last");
    assert_eq!(last, Some(vec![Value::Integer(1 << 20), Value::Integer(40)]));
    assert_eq!(machine.applied().index, 41);
    assert!(machine.arena.allocated_bytes() <= ARENA_KEPT_BYTES_MAX);
}

/// Replies of a batch are in memory together: long ones beyond a bound are not told, short ones are.
#[test]
fn long_replies_beyond_a_bound_are_untold() {
    let mut machine = machine();
    let long = "x".repeat(4 << 20);
    let value_bytes_max = 4 << 20;
    let mut entries = vec![program(1, value_bytes_max, &[], &[&["SET", "k", &long]])];
    entries.extend((2..12).map(|index| program(index, value_bytes_max, &[], &[&["GET", "k"]])));
    entries.push(program(12, value_bytes_max, &[], &[&["STRLEN", "k"]]));
    let outcomes = machine.apply(&entries).expect("apply").outcomes;
    let told = outcomes.iter().filter(|(_, outcome)| *outcome != Outcome::Untold).count();
    assert_eq!(told, 1 + 7 + 1, "seven of 4 MiB and a little fit 32 MiB");
    assert!(matches!(&outcomes[11].1, Outcome::Executed(Some(_))), "a short one is told");
    assert_eq!(machine.applied().index, 12);
}

#[test]
fn a_value_with_an_expiry_that_a_program_wrote_is_removed() {
    let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::new());
    let mut machine = Machine::open(Arc::clone(&engine), founders()).expect("a machine");
    machine.sweep_every = 1;
    let replies = run_one(&mut machine, 100, &[&["SET", "k", "x", "PX", "50"], &["PTTL", "k"]]);
    assert_eq!(replies, [Value::OK, Value::Integer(50)]);
    let stored = || engine.scan(&[1], &[2], 10, 1000).expect("scan").items.len();
    assert_eq!(stored(), 1);
    for index in 2..5 {
        let late = entry(index, 10_000, None, &[]);
        machine.apply(&[late]).expect("apply");
    }
    assert_eq!(stored(), 0);
}
