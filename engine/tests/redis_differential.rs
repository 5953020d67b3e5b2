//! The executor beside a real Redis 7.0: the same random commands at both, and every answer compared byte for byte.
//!
//! Each test starts a redis-server of its own on a free loopback port; without one installed they fail (tools/setup
//! installs it). Expiries lie so far ahead, or in the past, that nothing expires while a test runs; answers that say
//! how long something has yet to live may differ by a few seconds, and nothing else may.

#[allow(dead_code)] // each test binary uses its own part
#[path = "redis/generator.rs"]
mod generator;
#[allow(dead_code)]
#[path = "redis/real.rs"]
mod real;

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use engine::redis::{Entry, Keyspace, execute, glob, table};
use generator::{Generator, KEYS, NAMESPACES, Random, VALUE_BYTES_MAX};
use net::resp::{Value, Version, decode_value, encode};
use real::{RealRedis, words};

const COMMANDS_PER_SEED: usize = 20_000;
/// How far two clocks' answers may be apart, in milliseconds: the machine may be busy.
const CLOCKS_APART_MS: i64 = 60_000;

/// A shard in a map.
#[derive(Default)]
struct Memory {
    entries: HashMap<(u8, Vec<u8>), Entry>,
    versions: u64,
    now_ms: u64,
    /// Has the command under way changed a key? Then it gets no more values: a get may fail where there is too much to
    /// read, and half a command must not have happened.
    changed: bool,
}

impl Keyspace for Memory {
    type Error = Infallible;

    fn get(&mut self, namespace: u8, key: &[u8]) -> Result<Option<Entry>, Infallible> {
        assert!(!self.changed, "a command gets what it needs before it changes anything");
        let entry = self.entries.get(&(namespace, key.to_vec()));
        Ok(entry.filter(|entry| entry.expiry_ms == 0 || entry.expiry_ms > self.now_ms).cloned())
    }

    fn exists(&mut self, namespace: u8, key: &[u8]) -> Result<bool, Infallible> {
        let changed = std::mem::take(&mut self.changed);
        let found = self.get(namespace, key);
        self.changed = changed;
        Ok(found?.is_some())
    }

    fn put(&mut self, namespace: u8, key: &[u8], value: Entry) -> Result<(), Infallible> {
        assert!(value.data.len() <= VALUE_BYTES_MAX, "the executor refuses longer values");
        self.changed = true;
        self.versions += 1;
        self.entries.insert((namespace, key.to_vec()), Entry { version: self.versions, ..value });
        Ok(())
    }

    fn delete(&mut self, namespace: u8, key: &[u8]) -> Result<(), Infallible> {
        self.changed = true;
        self.entries.remove(&(namespace, key.to_vec()));
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn value_bytes_max(&self) -> usize {
        VALUE_BYTES_MAX
    }
}

impl Memory {
    fn run(&mut self, namespace: u8, args: &[Bytes]) -> Value {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        self.now_ms = u64::try_from(since.as_millis()).expect("before the year 500 million");
        self.changed = false;
        execute(self, namespace, args).unwrap_or_else(|never| match never {})
    }
}

fn bytes_of(value: &Value, version: Version) -> Bytes {
    let mut out = BytesMut::new();
    encode(value, version, &mut out);
    out.freeze()
}

/// Both, in the same state.
struct Pair {
    real: RealRedis,
    ours: Memory,
    namespace: u8,
}

impl Pair {
    fn start(options: &[&str]) -> Pair {
        let limit = VALUE_BYTES_MAX.to_string();
        let fixed = ["--proto-max-bulk-len", &limit];
        let real = RealRedis::start(&[&fixed[..], options].concat());
        Pair { real, ours: Memory::default(), namespace: 0 }
    }

    fn select(&mut self, namespace: u8) {
        self.namespace = namespace;
        assert_eq!(self.real.line(&format!("SELECT {namespace}")), Value::OK);
    }

    /// Runs a command at both and compares.
    fn same(&mut self, args: &[Bytes], context: &str) -> Value {
        let ours = self.ours.run(self.namespace, args);
        let theirs = self.real.raw(args);
        if bytes_of(&ours, Version::Resp2) != theirs && !only_clocks_differ(args, &ours, &theirs) {
            panic!(
                "{context}: {args:?}\n  Redis: {theirs:?}\n  ours:  {:?}",
                bytes_of(&ours, Version::Resp2)
            );
        }
        ours
    }

    /// Compares all that is stored.
    fn same_state(&mut self, context: &str) {
        for namespace in 0..NAMESPACES {
            self.select(namespace);
            for key in KEYS {
                for line in ["GET", "PEXPIRETIME", "OBJECT ENCODING", "OBJECT REFCOUNT", "DUMP"] {
                    self.same(&words(&format!("{line} {key}")), context);
                }
            }
        }
    }
}

/// Is the answer a time that depends on when exactly the question came, and nearly the same?
fn only_clocks_differ(args: &[Bytes], ours: &Value, theirs: &Bytes) -> bool {
    let scale_ms = match args[0].to_ascii_lowercase().as_slice() {
        b"ttl" | b"expiretime" => 1000,
        b"pttl" | b"pexpiretime" => 1,
        b"object" if args[1].eq_ignore_ascii_case(b"idletime") => 1000,
        _ => return false,
    };
    match (ours, decode_value(&mut theirs.clone())) {
        (&Value::Integer(ours), Ok(Some(Value::Integer(theirs)))) if ours >= 0 && theirs >= 0 => {
            ours.abs_diff(theirs) * scale_ms <= CLOCKS_APART_MS.unsigned_abs()
        }
        _ => false,
    }
}

fn random_commands(seed: u64) {
    let mut pair = Pair::start(&["--rdbcompression", "no"]);
    let mut generator = Generator::new(seed);
    let mut answered: HashMap<&'static str, usize> = HashMap::new();
    for at in 0..COMMANDS_PER_SEED {
        if generator.random.once_in(50) {
            let namespace = u8::try_from(generator.random.below(NAMESPACES.into())).expect("few");
            pair.select(namespace);
        }
        let args = generator.command();
        let answer = pair.same(&args, &format!("seed {seed}, command {at}"));
        if args[0].eq_ignore_ascii_case(b"dump")
            && let Value::Bulk(payload) = &answer
        {
            generator.remember(payload.clone());
        }
        if !matches!(answer, Value::Error(_))
            && let Some(spec) = table::lookup(&args[0])
        {
            *answered.entry(&spec.name).or_default() += 1;
        }
    }
    pair.same_state(&format!("seed {seed}, at the end"));
    // A generator whose commands are all refused would compare nothing.
    for spec in table::all().iter().filter(|spec| is_data_command(spec)) {
        let times = answered.get(spec.name.as_str()).copied().unwrap_or(0);
        assert!(times >= 5, "seed {seed}: {} was answered {times} times", spec.name);
    }
}

/// Is it a command over given keys, which clients may send?
fn is_data_command(spec: &table::CommandSpec) -> bool {
    let internal = spec.flags.contains(table::CommandFlags::INTERNAL);
    !internal && (spec.has_keys() || spec.name == "object") && spec.name != "watch"
}

#[test]
fn random_commands_are_answered_as_by_redis_1() {
    for seed in 1..=4 {
        random_commands(seed);
    }
}

#[test]
fn random_commands_are_answered_as_by_redis_2() {
    for seed in 5..=8 {
        random_commands(seed);
    }
}

#[test]
fn sums_of_floats_have_the_same_digits() {
    let mut pair = Pair::start(&[]);
    let mut random = Random::new(7);
    let mut sums = 0;
    for at in 0..10_000 {
        let first = generator::float(&mut random);
        let set = [Bytes::from_static(b"SET"), Bytes::from_static(b"a"), Bytes::from(first)];
        pair.same(&set, "set");
        let second = generator::float(&mut random);
        let add = [Bytes::from_static(b"INCRBYFLOAT"), Bytes::from_static(b"a"), Bytes::from(second)];
        let context = format!("float {at}: {:?}", set[2]);
        sums += usize::from(matches!(pair.same(&add, &context), Value::Bulk(_)));
    }
    assert!(sums > 5000, "most are numbers: {sums}");
}

#[test]
fn dumps_are_restored_on_either_side() {
    let mut pair = Pair::start(&[]);
    let mut random = Random::new(11);
    let mut compressed = 0;
    for _ in 0..500 {
        let unit: Vec<u8> = (0..=random.below(40)).map(|_| *random.pick(b"abc\0")).collect();
        let times_max = if random.once_in(20) { 5000 } else { 20 };
        let times = usize::try_from(random.below(times_max)).expect("small");
        let value = Bytes::from(unit.repeat(times));
        let set = [Bytes::from_static(b"SET"), Bytes::from_static(b"a"), value.clone()];
        assert_eq!((pair.real.call(&set), pair.ours.run(0, &set)), (Value::OK, Value::OK));
        let (Value::Bulk(theirs), Value::Bulk(ours)) =
            (pair.real.line("DUMP a"), pair.ours.run(0, &words("DUMP a")))
        else {
            panic!("both dump it");
        };
        compressed += usize::from(theirs.len() < ours.len());
        let restore = |payload: Bytes| {
            let mut args = words("RESTORE b 0 payload REPLACE");
            args[3] = payload;
            args
        };
        assert_eq!(pair.ours.run(0, &restore(theirs)), Value::OK);
        assert_eq!(pair.real.call(&restore(ours)), Value::OK);
        assert_eq!(pair.ours.run(0, &words("GET b")), Value::Bulk(value.clone()));
        assert_eq!(pair.real.line("GET b"), Value::Bulk(value));
    }
    assert!(compressed > 100, "Redis compresses many of them: {compressed}");
}

/// Values at the limit, and just above it.
#[test]
fn values_end_where_those_of_redis_end() {
    let mut pair = Pair::start(&[]);
    let limit = VALUE_BYTES_MAX;
    let lines = [
        format!("SETRANGE a {} x", limit - 1),
        format!("SETRANGE a {limit} x"),
        format!("SETRANGE a {} xy", limit - 1),
        "SETRANGE a 9223372036854775807 x".to_owned(),
        "APPEND a x".to_owned(),
        "STRLEN a".to_owned(),
        format!("SETBIT b {} 1", limit * 8 - 1),
        format!("SETBIT b {} 1", limit * 8),
        format!("GETBIT b {}", limit * 8),
        "BITCOUNT b".to_owned(),
        "BITPOS b 1".to_owned(),
        "BITOP NOT c b".to_owned(),
        "BITPOS c 0".to_owned(),
        "BITPOS c 0 0 -2".to_owned(),
        "BITOP XOR d a b c".to_owned(),
        "BITCOUNT d".to_owned(),
        format!("SETRANGE e 510 {}", "x"),
        format!("SETRANGE f 511 {}", "x"),
        "LCS e f LEN".to_owned(),
        "LCS f f LEN".to_owned(),
        "LCS e e IDX WITHMATCHLEN".to_owned(),
        "LCS a b".to_owned(),
        "GETRANGE d 1048574 -1".to_owned(),
    ];
    for line in &lines {
        pair.same(&words(line), "at the limit");
    }
}

/// Sorts what Redis gives in the order of a hash table, and drops the subcommands that are not here.
fn comparable(value: Value, spec: &table::CommandSpec) -> Value {
    let name_of = |value: &Value| match value {
        Value::Array(fields) => fields.first().cloned(),
        _ => None,
    };
    let is_known = |name: &Value| {
        let known = |sub: &&table::CommandSpec| *name == Value::bulk(sub.name.clone());
        spec.subcommands.iter().find(known).is_some()
    };
    match value {
        Value::Array(mut fields) => {
            if let Some(Value::Array(subcommands)) = fields.last_mut() {
                subcommands.retain(|subcommand| name_of(subcommand).is_some_and(|name| is_known(&name)));
                subcommands.sort_by_key(|subcommand| format!("{:?}", name_of(subcommand)));
            }
            Value::Array(fields)
        }
        Value::Map(mut fields) => {
            for (name, value) in &mut fields {
                if let (true, Value::Map(subcommands)) = (*name == Value::bulk("subcommands"), value) {
                    subcommands.retain(|(name, _)| is_known(name));
                    subcommands.sort_by_key(|(name, _)| format!("{name:?}"));
                }
            }
            Value::Map(fields)
        }
        other => other,
    }
}

/// The table says of every command what Redis says, except of CLIENT SETINFO, which came with 7.2.
#[test]
fn the_table_is_that_of_redis() {
    let mut real = RealRedis::start(&[]);
    real.line("HELLO 3");
    let ask = |real: &mut RealRedis, line: String| {
        let ours = bytes_of(&table::command(&words(&line)), Version::Resp3);
        let ours = decode_value(&mut ours.clone()).expect("a reply").expect("a whole one");
        (real.line(&line), ours)
    };
    let listed = table::all()
        .iter()
        .filter(|spec| !spec.flags.contains(table::CommandFlags::INTERNAL))
        .collect::<Vec<_>>();
    let mut compared = 0;
    for spec in &listed {
        for question in ["INFO", "DOCS"] {
            let (theirs, ours) = ask(&mut real, format!("COMMAND {question} {}", spec.name));
            let only = |value: Value| match value {
                Value::Array(mut all) => all.remove(0),
                Value::Map(mut all) => all.remove(0).1,
                other => panic!("{other:?}"),
            };
            let mut ours = comparable(only(ours), spec);
            if spec.name == "client" {
                let keep = |text: &Value| !format!("{text:?}").contains("client|setinfo");
                match &mut ours {
                    Value::Array(fields) => match fields.last_mut() {
                        Some(Value::Array(subcommands)) => subcommands.retain(keep),
                        other => panic!("{other:?}"),
                    },
                    Value::Map(fields) => match fields.last_mut() {
                        Some((_, Value::Map(subcommands))) => subcommands.retain(|(name, _)| keep(name)),
                        other => panic!("{other:?}"),
                    },
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(ours, comparable(only(theirs), spec), "COMMAND {question} {}", spec.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 2 * listed.len());
    assert_eq!(table::command(&words("COMMAND COUNT")), Value::Integer(i64::try_from(listed.len()).unwrap()));
}

#[test]
fn questions_about_keys_are_answered_as_by_redis() {
    let mut real = RealRedis::start(&[]);
    let lines = [
        "COMMAND GETKEYS GET a",
        "COMMAND GETKEYS MSET a 1 b 2 c 3",
        "COMMAND GETKEYS BITOP AND d a b",
        "COMMAND GETKEYS OBJECT ENCODING a",
        "COMMAND GETKEYS PING",
        "COMMAND GETKEYS GET",
        "COMMAND GETKEYS NOPE a",
        "COMMAND GETKEYS RINGKV.VERSION a",
        "COMMAND GETKEYS OBJECT NOPE a",
        "COMMAND GETKEYSANDFLAGS SET a 1",
        "COMMAND GETKEYSANDFLAGS SET a 1 GET",
        "COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0",
        "COMMAND GETKEYSANDFLAGS BITFIELD a GET u8 0 SET u8 0 1",
        "COMMAND GETKEYSANDFLAGS BITFIELD a OVERFLOW SAT",
        "COMMAND GETKEYSANDFLAGS BITFIELD a junk",
        "COMMAND GETKEYSANDFLAGS BITOP AND d a b",
        "COMMAND GETKEYSANDFLAGS COPY a b",
        "COMMAND INFO nope ringkv.version object|nope",
        "COMMAND DOCS nope",
        "COMMAND LIST FILTERBY NOPE a",
        "COMMAND LIST FILTERBY ACLCAT",
        "COMMAND LIST FILTERBY ACLCAT nope",
        "COMMAND LIST FILTERBY MODULE nope",
        "COMMAND LIST FILTERBY PATTERN psete?",
        "COMMAND LIST FILTERBY PATTERN PSETE[w-y]",
        "COMMAND HELP",
    ];
    for line in lines {
        let args = words(line);
        let ours = table::resolve(&args).map_or_else(Value::Error, |_| table::command(&args));
        assert_eq!(bytes_of(&ours, Version::Resp2), real.raw(&words(line)), "{line}");
    }
}

#[test]
fn patterns_match_what_they_match_in_redis() {
    let mut real = RealRedis::start(&[]);
    let mut random = Random::new(13);
    let mut text = |letters: &[u8], length_max: u64| -> Bytes {
        (0..random.below(length_max)).map(|_| *random.pick(letters)).collect()
    };
    let texts: Vec<Bytes> = (0..300).map(|_| text(b"abcA-]^[\\*", 6)).collect();
    for text in &texts {
        assert_eq!(real.call(&[Bytes::from_static(b"SET"), text.clone(), Bytes::new()]), Value::OK);
    }
    let mut matches = 0;
    for _ in 0..3000 {
        let pattern = text(b"ab*?[]^-\\", 9);
        let Value::Array(theirs) = real.call(&[Bytes::from_static(b"KEYS"), pattern.clone()]) else {
            panic!("KEYS gives an array");
        };
        matches += theirs.len();
        for text in &texts {
            let theirs = theirs.contains(&Value::Bulk(text.clone()));
            assert_eq!(glob::matches(&pattern, text, false), theirs, "{pattern:?} {text:?}");
        }
    }
    assert!(matches > 3000, "some patterns match: {matches}");
}

#[test]
fn any_bytes_get_an_answer() {
    let mut ours = Memory::default();
    let mut random = Random::new(17);
    let pool: Vec<Bytes> = (0..64)
        .map(|_| (0..random.below(24)).map(|_| random.next().to_le_bytes()[0]).collect())
        .chain(
            ["0", "-1", "9223372036854775807", "-9223372036854775808", "#9", "i64", "u1", "1e4000"]
                .map(Bytes::from),
        )
        .chain(
            ["GET", "SET", "EX", "DB", "INCRBY", "OVERFLOW", "ENCODING", "LEN", "IDX", "BIT"]
                .map(Bytes::from),
        )
        .collect();
    for spec in table::all() {
        for _ in 0..500 {
            let mut args = vec![Bytes::from(spec.name.clone())];
            args.extend((0..random.below(9)).map(|_| random.pick(&pool).clone()));
            let answer = bytes_of(&ours.run(0, &args), Version::Resp2);
            let mut rest = answer.clone();
            let whole = matches!(decode_value(&mut rest), Ok(Some(_))) && rest.is_empty();
            assert!(whole, "{args:?} is answered {answer:?}");
        }
    }
}

/// What is refused before it is run: no such command, no such subcommand, too many arguments or too few.
#[test]
fn commands_are_refused_as_by_redis() {
    let mut real = RealRedis::start(&[]);
    let long = format!("NOPE {}", ["argument"; 40].join(" "));
    let name = "n".repeat(300);
    let lines = [
        "NOPE",
        "NOPE a",
        &long,
        &name,
        "GET",
        "GET a b",
        "OBJECT",
        "OBJECT nope",
        "OBJECT ENCODING",
        "CONFIG NOPE x",
        "CLIENT SETNAME",
        "COMMAND nope",
        "CLUSTER",
        "MSET a",
        "SET a",
        "RINGKV.VERSION a",
    ];
    for line in lines {
        let refusal = table::resolve(&words(line)).map(|spec| &spec.name).expect_err(line);
        assert_eq!(Value::Error(refusal), real.line(line), "{line}");
    }
    let broken = [Bytes::from_static(b"no\r\npe"), Bytes::from_static(b"a\nb"), Bytes::from_static(b"c\0d")];
    assert_eq!(
        Value::Error(table::resolve(&broken).map(|spec| &spec.name).expect_err("none")),
        real.call(&broken)
    );
}

#[test]
fn a_watched_key_has_another_version_after_each_change() {
    let mut ours = Memory::default();
    let mut version = |line: &str| {
        if !line.is_empty() {
            ours.run(0, &words(line));
        }
        ours.run(0, &words("RINGKV.VERSION a"))
    };
    assert_eq!(version(""), Value::Integer(0));
    let mut former = version("SET a 1");
    for line in ["INCR a", "APPEND a 1", "EXPIRE a 1000", "PERSIST a", "SET a 1"] {
        let now = version(line);
        assert_ne!(now, former, "{line}");
        former = now;
    }
    for line in ["GET a", "EXPIRE a 100 GT", "SETNX a 2", "RENAME a a"] {
        assert_eq!(version(line), former, "{line}");
    }
    let edited = version("SETBIT a 1 1");
    assert_eq!(version("SETBIT a 1 1"), edited);
    assert_eq!(version("BITFIELD a SET u1 1 1"), edited);
    assert_eq!(version("DEL a"), Value::Integer(0));
}
