//! What clients ask for and what they saw: keys, values that name their write, and the history that is checked.

use std::collections::HashMap;

use bytes::Bytes;
use net::protocol::{
    Access, Answer, Expected, Mutation, MutationOutcome, Op, Program, ProgramCommand, ReadConsistency, Reply,
    Watched, WriteConsistency,
};
use net::slot::slot_of;
use net::types::RequestId;

use super::history::{self, Action, End, History, Record};
use super::oracle::{Claim, Oracle, StaleRead, Verdict, violated};
use super::plan::{Plan, Workload as Settings};
use super::rng::{Rng, hash_bytes};
use crate::command::StoredKeyBuf;

/// What a request asked for, as far as its answer must be checked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The shard.
    pub shard: u32,
    /// The keys of its operation, in order.
    pub keys: Vec<Bytes>,
    /// How it reads or writes.
    pub kind: Kind,
    /// Whose it is: client and slot.
    pub whose: (usize, usize),
}

/// Kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A write.
    Write(WriteConsistency),
    /// A read.
    Read(ReadConsistency),
    /// A program that writes.
    Program,
    /// Something whose answer is not checked.
    Other,
}

/// An operation, made up but not sent.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The shard.
    pub shard: u32,
    /// What to send; the session of a write is filled in with each attempt.
    pub op: Op,
    /// What it means for each key; empty where the history does not want it.
    pub actions: Vec<(Bytes, Action)>,
    /// How it reads or writes.
    pub kind: Kind,
    /// Whether a write may be repeated.
    pub has_session: bool,
}

struct Key {
    name: Bytes,
    operations: u32,
}

/// All clients' operations.
pub struct Workload {
    pub(super) settings: Settings,
    pub(super) rng: Rng,
    pub(super) clients: Vec<super::client::Client>,
    /// Whether clients begin nothing new.
    pub(super) resting: bool,
    /// Operations that must be done before anything is made up.
    pub(super) assigned: Vec<Operation>,
    shards: u32,
    /// Keys in use, by user shard from 1.
    keys: Vec<Vec<Key>>,
    next_key: u64,
    next_value: u64,
    next_request: u64,
    asked: HashMap<u64, Asked>,
    history: History,
    answered: u64,
}

impl Workload {
    /// Nothing asked yet.
    pub fn new(plan: &Plan, mut rng: Rng) -> Workload {
        let settings = plan.workload.clone();
        let clients = (0..settings.clients)
            .map(|_| super::client::Client::new(&mut rng, settings.depth, plan.shards + 1))
            .collect();
        let mut workload = Workload {
            settings,
            rng,
            clients,
            resting: false,
            assigned: Vec::new(),
            shards: plan.shards,
            keys: Vec::new(),
            next_key: 0,
            next_value: 0,
            next_request: 0,
            asked: HashMap::new(),
            history: History::default(),
            answered: 0,
        };
        for shard in 1..=plan.shards {
            let keys = (0..workload.settings.keys).map(|_| workload.new_key(shard)).collect();
            workload.keys.push(keys);
        }
        workload
    }

    fn new_key(&mut self, shard: u32) -> Key {
        loop {
            let name = format!("k{}", self.next_key);
            self.next_key += 1;
            if 1 + u32::from(slot_of(name.as_bytes())) * self.shards / 16384 == shard {
                return Key { name: Bytes::from(name), operations: 0 };
            }
        }
    }

    fn keys_of(&mut self, shard: u32) -> &mut Vec<Key> {
        &mut self.keys[usize::try_from(shard - 1).expect("few shards")]
    }

    /// Whether clients begin nothing new.
    pub fn rest(&mut self, resting: bool) {
        self.resting = resting;
    }

    /// Operations answered so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// What a request asked for.
    pub fn asked(&self, request: RequestId) -> Option<Asked> {
        self.asked.get(&request.0).cloned()
    }

    /// Names a request.
    pub fn register(&mut self, asked: Asked) -> RequestId {
        self.next_request += 1;
        self.asked.insert(self.next_request, asked);
        RequestId(self.next_request)
    }

    /// Whose request it was; it is forgotten.
    pub fn unregister(&mut self, request: RequestId) -> Option<Asked> {
        self.asked.remove(&request.0)
    }

    /// Takes note of how an operation ended.
    pub fn record(&mut self, client: usize, operation: &Operation, invoked: u64, ends: &[End]) {
        self.answered += 1;
        for ((key, action), end) in operation.actions.iter().zip(ends) {
            let key = String::from_utf8_lossy(key).into_owned();
            let client = u32::try_from(client).expect("few clients");
            self.history.extend([Record { key, client, invoked, action: *action, end: *end }]);
        }
    }

    /// Whether some order explains what the clients saw.
    pub fn check_history(&self) -> Verdict {
        match self.history.check() {
            Ok(()) => Ok(()),
            // Proves nothing either way: too many writes of unknown outcome on one key.
            Err(history::Violation::Undecided { .. }) => Ok(()),
            Err(violation) => violated("linearizability", violation.to_string()),
        }
    }

    /// An operation on some key. `seen` is what the client last saw of it: value and version.
    pub fn make_up(&mut self, memory: &HashMap<Bytes, (u64, u64)>) -> Operation {
        let shard = 1 + u32::try_from(self.rng.below(u64::from(self.shards))).expect("few shards");
        let key = self.some_key(shard);
        match self.rng.below(100) {
            0..=34 => self.put(shard, key),
            35..=39 => self.put_two(shard, key),
            40..=47 => {
                self.write(shard, vec![Mutation::Delete { key: key.clone() }], vec![(key, Action::Delete)])
            }
            48..=62 => self.swap(shard, key, memory),
            63..=64 => self.put_expiring(shard),
            65 => self.scan(shard),
            66 => self.program(shard),
            67..=82 => read(shard, key, ReadConsistency::Linearizable),
            83..=93 => read(shard, key, ReadConsistency::Follower),
            _ => read(shard, key, ReadConsistency::Stale),
        }
    }

    fn some_key(&mut self, shard: u32) -> Bytes {
        let position = self.rng.index(self.settings.keys);
        let operations_max = self.settings.key_operations;
        let key = &mut self.keys_of(shard)[position];
        key.operations += 1;
        let name = key.name.clone();
        if key.operations == operations_max {
            let fresh = self.new_key(shard);
            self.keys_of(shard)[position] = fresh;
        }
        name
    }

    fn new_value(&mut self) -> (u64, Bytes) {
        self.next_value += 1;
        let number = self.next_value;
        let spread = self.settings.value_bytes;
        let padding = hash_bytes(number, b"padding") % spread;
        let mut value = number.to_le_bytes().to_vec();
        value.resize(8 + usize::try_from(padding).expect("small"), 0x5a);
        (number, Bytes::from(value))
    }

    /// A put of a new value.
    pub fn put(&mut self, shard: u32, key: Bytes) -> Operation {
        let (number, value) = self.new_value();
        let put = Mutation::Put { key: key.clone(), value, ttl_ms: None };
        self.write(shard, vec![put], vec![(key, Action::Put(number))])
    }

    fn put_two(&mut self, shard: u32, key: Bytes) -> Operation {
        let other = self.some_key(shard);
        if other == key {
            return self.put(shard, key);
        }
        let ((one, value), (two, other_value)) = (self.new_value(), self.new_value());
        let puts = vec![
            Mutation::Put { key: key.clone(), value, ttl_ms: None },
            Mutation::Put { key: other.clone(), value: other_value, ttl_ms: None },
        ];
        self.write(shard, puts, vec![(key, Action::Put(one)), (other, Action::Put(two))])
    }

    fn swap(&mut self, shard: u32, key: Bytes, memory: &HashMap<Bytes, (u64, u64)>) -> Operation {
        let seen = memory.get(&key).copied();
        let (expected, before) = match seen {
            Some((value, version)) if self.rng.coin() => (Expected::Version(version), Some(value)),
            Some((value, _)) => (Expected::Value(self.value_of(value)), Some(value)),
            None => (Expected::Absent, None),
        };
        let (number, value) = self.new_value();
        let new = (!self.rng.chance(150_000)).then_some((number, value));
        let action = Action::Swap { expected: before, new: new.as_ref().map(|(number, _)| *number) };
        let swap = Mutation::CompareAndSwap { key: key.clone(), expected, new: new.map(|(_, value)| value) };
        self.write(shard, vec![swap], vec![(key, action)])
    }

    fn value_of(&self, number: u64) -> Bytes {
        let padding = hash_bytes(number, b"padding") % self.settings.value_bytes;
        let mut value = number.to_le_bytes().to_vec();
        value.resize(8 + usize::try_from(padding).expect("small"), 0x5a);
        Bytes::from(value)
    }

    /// Values that expire are left out of the history: only that all replicas agree on them is checked.
    fn put_expiring(&mut self, shard: u32) -> Operation {
        let key = self.keys_of(shard)[0].name.clone();
        let slot_twin = Bytes::from([b"{", &key[..], b"}ttl"].concat());
        let ttl_ms = Some(self.rng.between(1, 3_000));
        let (_, value) = self.new_value();
        self.write(shard, vec![Mutation::Put { key: slot_twin, value, ttl_ms }], Vec::new())
    }

    /// Its keys are left out of the history: what it answers must be what the state machine answers to its entry, and
    /// all replicas must agree on what it changes.
    fn program(&mut self, shard: u32) -> Operation {
        let key = self.keys_of(shard)[0].name.clone();
        let twin = |name: &str| Bytes::from([b"{", &key[..], b"}", name.as_bytes()].concat());
        let number = self.rng.between(1, 2_000);
        let names: &[&[&str]] = match self.rng.below(6) {
            0 => &[&["INCR", "n"]],
            1 => &[&["APPEND", "a", "#"], &["STRLEN", "a"], &["INCRBY", "n", "#"]],
            2 => &[&["SET", "e", "#", "PX", "#"], &["PTTL", "e"], &["EXISTS", "a", "e", "n"]],
            3 => &[&["GETDEL", "a"], &["INCR", "a"]],
            4 => &[&["RENAME", "a", "n"], &["INCR", "n"], &["INCR", "e"]],
            _ => &[&["GET", "n"], &["MGET", "a", "e"]],
        };
        let arg = |arg: &&str| match *arg {
            "#" => Bytes::from(number.to_string()),
            name if name.len() == 1 => twin(name),
            word => Bytes::copy_from_slice(word.as_bytes()),
        };
        let commands =
            names.iter().map(|args| ProgramCommand { namespace: 0, args: args.iter().map(arg).collect() });
        let watched =
            number.is_multiple_of(4).then(|| Watched { namespace: 0, key: twin("n"), version: number / 4 });
        let watched = watched.into_iter().collect();
        let program = Program { slot: slot_of(&key), watched, commands: commands.collect() };
        let (kind, consistency) = match names[0][0] {
            "GET" if number.is_multiple_of(2) => (Kind::Other, Access::Read(ReadConsistency::Linearizable)),
            "GET" => (Kind::Read(ReadConsistency::Stale), Access::Read(ReadConsistency::Stale)),
            _ => (Kind::Program, Access::Write(WriteConsistency::Strong)),
        };
        let op = Op::Execute { program, consistency };
        Operation { shard, op, actions: Vec::new(), kind, has_session: false }
    }

    fn scan(&mut self, shard: u32) -> Operation {
        let consistency =
            if self.rng.coin() { ReadConsistency::Stale } else { ReadConsistency::Linearizable };
        let op = Op::Scan {
            start: Bytes::new(),
            end: None,
            limit: 10,
            consistency,
            keys_only: consistency == ReadConsistency::Stale,
        };
        Operation { shard, op, actions: Vec::new(), kind: Kind::Other, has_session: false }
    }

    fn write(&mut self, shard: u32, mutations: Vec<Mutation>, actions: Vec<(Bytes, Action)>) -> Operation {
        let consistency = match self.rng.chance(self.settings.weak) {
            false => WriteConsistency::Strong,
            true if self.rng.coin() => WriteConsistency::Leader,
            true => WriteConsistency::Eventual,
        };
        Operation {
            shard,
            op: Op::Write { session: None, consistency, mutations },
            actions,
            kind: Kind::Write(consistency),
            has_session: !self.rng.chance(self.settings.no_session),
        }
    }

    /// A write to every shard and a read of every key: what a cluster that is well again must answer.
    pub fn last_operations(&mut self) -> Vec<Operation> {
        let mut all = Vec::new();
        for shard in 1..=self.shards {
            let names: Vec<Bytes> = self.keys_of(shard).iter().map(|key| key.name.clone()).collect();
            let mut put = self.put(shard, names[0].clone());
            put.has_session = true;
            if let Op::Write { consistency, .. } = &mut put.op {
                *consistency = WriteConsistency::Strong;
            }
            put.kind = Kind::Write(WriteConsistency::Strong);
            all.push(put);
            for name in names {
                all.push(read(shard, name.clone(), ReadConsistency::Follower));
                all.push(read(shard, name, ReadConsistency::Linearizable));
            }
        }
        all
    }
}

fn read(shard: u32, key: Bytes, consistency: ReadConsistency) -> Operation {
    // What a stale read shows is checked when it is answered.
    let actions = match consistency {
        ReadConsistency::Stale => Vec::new(),
        ReadConsistency::Linearizable | ReadConsistency::Follower => vec![(key.clone(), Action::Get)],
    };
    let op = Op::Get { key, consistency };
    Operation { shard, op, actions, kind: Kind::Read(consistency), has_session: false }
}

/// The number that a value names.
pub fn number_of(value: &[u8]) -> u64 {
    value.first_chunk::<8>().map_or(0, |number| u64::from_le_bytes(*number))
}

/// How each key of an operation that was answered ended.
pub fn ends(operation: &Operation, answer: &Answer, at: u64) -> Vec<End> {
    let ok = |answer, version| End::Ok { at, answer, version };
    match answer {
        Answer::Value { value, .. } => {
            let found = history::Answer::Found(value.as_ref().map(|value| number_of(&value.data)));
            vec![ok(found, value.as_ref().map(|value| value.version))]
        }
        Answer::Written { outcomes, .. } => {
            let weak = operation.kind != Kind::Write(WriteConsistency::Strong);
            let end = |outcome: &MutationOutcome| match *outcome {
                // Acknowledged before it is safe: it may yet be lost.
                _ if weak => End::Indeterminate,
                MutationOutcome::Put { version } => ok(history::Answer::Stored, Some(version)),
                MutationOutcome::Deleted { existed } => ok(history::Answer::Deleted(existed), None),
                MutationOutcome::Swapped { version } => ok(history::Answer::Swapped(true), Some(version)),
                MutationOutcome::NotSwapped { .. } => ok(history::Answer::Swapped(false), None),
                MutationOutcome::NotApplied => End::Failed,
                MutationOutcome::Accepted => End::Indeterminate,
            };
            outcomes.iter().map(end).collect()
        }
        _ => Vec::new(),
    }
}

impl Asked {
    /// Holds a node's answer against what is true at this moment.
    pub fn check(&self, oracle: &Oracle, node: u64, reply: &Reply) -> Verdict {
        match (&reply.result, self.kind) {
            (Ok(answer @ Answer::Written { index, .. }), Kind::Write(consistency)) => {
                let claim = Claim { shard: self.shard, consistency, index: *index, answer: answer.clone() };
                oracle.observe_claim(node, &claim)
            }
            (Ok(answer @ Answer::Executed { index, .. }), Kind::Program) => {
                let consistency = WriteConsistency::Strong;
                let claim = Claim { shard: self.shard, consistency, index: *index, answer: answer.clone() };
                oracle.observe_claim(node, &claim)
            }
            (Ok(Answer::Value { value, freshness: Some(freshness) }), Kind::Read(ReadConsistency::Stale)) => {
                let key = &self.keys[0];
                let stored = StoredKeyBuf::new(0, slot_of(key), key);
                let read = StaleRead {
                    shard: self.shard,
                    stored_key: stored.as_bytes(),
                    applied_index: freshness.applied_index,
                    value: value.as_ref().map(|value| (value.version, &value.data)),
                };
                oracle.observe_stale_read(node, &read)
            }
            _ => Ok(()),
        }
    }
}
