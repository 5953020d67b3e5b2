//! Random logs through the machine and through a naive one that knows no batches, overlays or records;
//! and the same log cut differently, which must leave byte-identical engines. Programs run over the naive machine's map
//! as they run over the batch.

use std::collections::BTreeMap;

use net::resp::{self, Version};
use net::slot::slot_of;
use proptest::prelude::*;

use super::programs::{LoggedProgram, logged_program};
use super::*;
use crate::redis::{self, Entry, Keyspace};
use crate::store::conformance::contents;

/// Small, so that random logs reach them.
const LIMITS: SessionLimits = SessionLimits { sessions_max: 3, session_writes_max: 4, shard_outcomes_max: 9 };

#[derive(Clone, Debug)]
enum Want {
    Absent,
    /// The version a write of this many entries ago would have.
    VersionAgo(u64),
    Value(u8),
}

#[derive(Clone, Debug)]
enum Change {
    Put { key: u8, value: u8, expiry_ms: u64 },
    Delete { key: u8 },
    Swap { key: u8, want: Want, new: Option<u8> },
}

#[derive(Clone, Debug)]
struct LoggedCommand {
    time_ms: u64,
    session: Option<Session>,
    changes: Vec<Change>,
    want_outcome: bool,
    /// What it is instead.
    program: Option<LoggedProgram>,
}

fn change() -> impl Strategy<Value = Change> {
    let key = 0..4_u8;
    let want = prop_oneof![
        Just(Want::Absent),
        (1..6_u64).prop_map(Want::VersionAgo),
        (0..3_u8).prop_map(Want::Value)
    ];
    prop_oneof![
        (key.clone(), 0..3_u8, prop_oneof![2 => Just(0), 1 => 1..60_u64])
            .prop_map(|(key, value, expiry_ms)| Change::Put { key, value, expiry_ms }),
        key.clone().prop_map(|key| Change::Delete { key }),
        (key, want, proptest::option::of(0..3_u8)).prop_map(|(key, want, new)| Change::Swap {
            key,
            want,
            new
        }),
    ]
}

fn command() -> impl Strategy<Value = LoggedCommand> {
    let session = (0..5_u64, 1..12_u64, 0..8_u64).prop_map(|(client, sequence, acked_below)| Session {
        client,
        sequence,
        acked_below,
    });
    (
        0..60_u64,
        proptest::option::weighted(0.7, session),
        proptest::collection::vec(change(), 0..5),
        any::<bool>(),
        proptest::option::weighted(0.4, logged_program()),
    )
        .prop_map(|(time_ms, session, changes, want_outcome, program)| LoggedCommand {
            time_ms,
            session,
            changes,
            want_outcome,
            program,
        })
}

fn entry_of(index: u64, command: &LoggedCommand, want_outcome: bool) -> MachineEntry {
    if let Some(program) = &command.program {
        return program.entry(index, command.time_ms, want_outcome);
    }
    let mutations: Vec<_> = command
        .changes
        .iter()
        .map(|change| match change {
            Change::Put { key, value, expiry_ms } => Mutation::Put {
                place: place(*key),
                key: std::slice::from_ref(key),
                value: NewValue { data: std::slice::from_ref(value), flags: 0, expiry_ms: *expiry_ms },
            },
            Change::Delete { key } => Mutation::Delete { place: place(*key), key: std::slice::from_ref(key) },
            Change::Swap { key, want, new } => Mutation::CompareAndSwap {
                place: place(*key),
                key: std::slice::from_ref(key),
                expected: match want {
                    Want::Absent => Expected::Absent,
                    Want::VersionAgo(ago) => Expected::Version(index.saturating_sub(*ago)),
                    Want::Value(value) => Expected::Value(std::slice::from_ref(value)),
                },
                new: new.as_ref().map(|value| NewValue::plain(std::slice::from_ref(value))),
            },
        })
        .collect();
    let payload = encode(command.time_ms, index, command.session, &mutations);
    MachineEntry { index, term: 1, kind: EntryKind::Normal, payload, want_outcome }
}

fn place(key: u8) -> KeyPlace {
    KeyPlace { namespace: 0, slot: slot_of(&[key]) }
}

#[derive(Clone, Debug)]
struct Held {
    value: Bytes,
    flags: u8,
    version: u64,
    expiry_ms: u64,
}

impl Held {
    fn plain(value: u8, version: u64, expiry_ms: u64) -> Held {
        Held { value: Bytes::copy_from_slice(&[value]), flags: 0, version, expiry_ms }
    }
}

type Data = BTreeMap<u8, Held>;

#[derive(Debug)]
struct NaiveSession {
    client: u64,
    floor: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

/// The specification, spelled out.
#[derive(Default)]
struct Naive {
    data: Data,
    clock_ms: u64,
    /// Used longest ago first.
    sessions: Vec<NaiveSession>,
}

impl Naive {
    fn apply(&mut self, index: u64, command: &LoggedCommand) -> Outcome {
        self.clock_ms = self.clock_ms.max(command.time_ms);
        if let Some(program) = &command.program {
            return self.execute_program(index, program);
        }
        let Some(stamp) = command.session else { return self.execute(index, &command.changes) };
        let place = self.sessions.iter().position(|session| session.client == stamp.client);
        let mut session = match place {
            Some(place) => self.sessions.remove(place),
            None => NaiveSession { client: stamp.client, floor: 0, outcomes: BTreeMap::new() },
        };
        session.floor = session.floor.max(stamp.acked_below);
        // Eviction for a new session comes before its first write, for its weight after it.
        while self.sessions.len() >= LIMITS.sessions_max {
            self.sessions.remove(0);
        }
        session.outcomes = session.outcomes.split_off(&session.floor);
        let outcome = if stamp.sequence < session.floor {
            Outcome::SessionExpired
        } else if let Some(remembered) = session.outcomes.get(&stamp.sequence) {
            remembered.clone()
        } else {
            let outcome = self.execute(index, &command.changes);
            session.outcomes.insert(stamp.sequence, outcome.clone());
            while session.outcomes.len() > LIMITS.session_writes_max {
                let (sequence, _) = session.outcomes.pop_first().expect("more than one");
                session.floor = sequence + 1;
            }
            outcome
        };
        self.sessions.push(session);
        while self.sessions.iter().map(weight).sum::<usize>() > LIMITS.shard_outcomes_max
            && self.sessions.len() > 1
        {
            self.sessions.remove(0);
        }
        outcome
    }

    fn execute_program(&mut self, index: u64, program: &LoggedProgram) -> Outcome {
        let mut keys = NaiveKeys { data: &mut self.data, clock_ms: self.clock_ms, index };
        for (key, ago) in &program.watched {
            let Ok(found) = keys.get(0, &[*key]);
            if found.map_or(0, |entry| entry.version) != index.saturating_sub(*ago) {
                return Outcome::Executed(None);
            }
        }
        let mut replies = bytes::BytesMut::new();
        for command in &program.commands {
            let Ok(reply) = redis::execute(&mut keys, 0, command);
            resp::encode(&reply, Version::Resp3, &mut replies);
        }
        Outcome::Executed(Some(replies.freeze()))
    }

    fn execute(&mut self, index: u64, changes: &[Change]) -> Outcome {
        let mut data = self.data.clone();
        let mut outcomes = Vec::new();
        for (at, change) in changes.iter().enumerate() {
            let outcome = change_one(&mut data, self.clock_ms, index, change);
            outcomes.push(outcome);
            if matches!(outcome, MutationOutcome::NotSwapped { .. }) {
                let mut refused = vec![MutationOutcome::NotApplied; changes.len()];
                refused[at] = outcome;
                return Outcome::from(refused);
            }
        }
        self.data = data;
        Outcome::from(outcomes)
    }
}

fn weight(session: &NaiveSession) -> usize {
    session.outcomes.values().map(|outcome| outcome.mutations().len().max(1)).sum()
}

fn change_one(data: &mut Data, clock_ms: u64, index: u64, change: &Change) -> MutationOutcome {
    let visible = |data: &Data, key: &u8| {
        data.get(key).filter(|held| held.expiry_ms == 0 || clock_ms < held.expiry_ms).cloned()
    };
    match change {
        Change::Put { key, value, expiry_ms } => {
            data.insert(*key, Held::plain(*value, index, *expiry_ms));
            MutationOutcome::Put { version: index }
        }
        Change::Delete { key } => {
            let existed = visible(data, key).is_some();
            data.remove(key);
            MutationOutcome::Deleted { existed }
        }
        Change::Swap { key, want, new } => {
            let current = visible(data, key);
            let holds = match (want, &current) {
                (Want::Absent, None) => true,
                (Want::VersionAgo(ago), Some(held)) => held.version == index.saturating_sub(*ago),
                (Want::Value(value), Some(held)) => held.value[..] == [*value],
                _ => false,
            };
            if !holds {
                return MutationOutcome::NotSwapped { current: current.map(|held| held.version) };
            }
            match new {
                Some(value) => data.insert(*key, Held::plain(*value, index, 0)),
                None => data.remove(key),
            };
            MutationOutcome::Swapped { version: index }
        }
    }
}

/// The naive machine's map, as commands see it.
struct NaiveKeys<'d> {
    data: &'d mut Data,
    clock_ms: u64,
    index: u64,
}

impl Keyspace for NaiveKeys<'_> {
    type Error = std::convert::Infallible;

    fn get(&mut self, _: u8, key: &[u8]) -> Result<Option<Entry>, Self::Error> {
        let visible = |held: &&Held| held.expiry_ms == 0 || self.clock_ms < held.expiry_ms;
        Ok(self.data.get(&key[0]).filter(visible).cloned().map(|held| {
            let Held { value: data, flags, version, expiry_ms } = held;
            Entry { data, flags, expiry_ms, version }
        }))
    }

    fn put(&mut self, _: u8, key: &[u8], value: Entry) -> Result<(), Self::Error> {
        let Entry { data: value, flags, expiry_ms, .. } = value;
        self.data.insert(key[0], Held { value, flags, version: self.index, expiry_ms });
        Ok(())
    }

    fn delete(&mut self, _: u8, key: &[u8]) -> Result<(), Self::Error> {
        self.data.remove(&key[0]);
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.clock_ms
    }

    fn value_bytes_max(&self) -> usize {
        super::programs::VALUE_BYTES_MAX
    }
}

/// Everything in the engine, the machine's own records included.
fn everything(engine: &dyn StorageEngine) -> Vec<(Bytes, Bytes)> {
    engine.scan(&[], &[0xff], usize::MAX, usize::MAX).expect("scan").items
}

/// Often, so that random logs see it.
const SWEEP_EVERY: u64 = 5;

fn open(engine: &Arc<dyn StorageEngine>) -> Machine {
    let machine = Machine::open_with_limits(Arc::clone(engine), founders(), LIMITS).expect("a machine");
    machine.sessions.check_invariants();
    Machine { sweep_every: SWEEP_EVERY, ..machine }
}

/// Applies the log in batches of the given sizes, with a restart after each batch marked so.
fn replay(log: &[MachineEntry], cuts: &[(usize, bool)]) -> (Machine, Vec<(u64, Outcome)>) {
    let engine: Arc<dyn StorageEngine> = Arc::new(MemEngine::new());
    let mut machine = open(&engine);
    let mut outcomes = Vec::new();
    let mut rest = log;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let (size, restart) = cuts.next().expect("cuts repeat");
        let (batch, later) = rest.split_at((*size).min(rest.len()));
        outcomes.extend(machine.apply(batch).expect("apply").outcomes);
        machine.sessions.check_invariants();
        if *restart {
            machine = open(&engine);
        }
        rest = later;
    }
    (machine, outcomes)
}

fn assert_data(machine: &Machine, naive: &Naive) {
    let stored = contents(machine.engine().as_ref());
    // What has expired may be there still or not: nobody can see it.
    let is_visible = |expiry_ms: u64| expiry_ms == 0 || naive.clock_ms < expiry_ms;
    let expected: BTreeMap<_, _> = naive
        .data
        .iter()
        .filter(|(_, held)| is_visible(held.expiry_ms))
        .map(|(key, held)| {
            let key = crate::command::StoredKeyBuf::new(0, place(*key).slot, &[*key]).as_bytes().to_vec();
            (key, (held.value.to_vec(), held.flags, held.version, held.expiry_ms))
        })
        .collect();
    let read = |record: &Vec<u8>| {
        let record = Record::parse(record).expect("a record");
        (record.value().to_vec(), record.flags(), record.version(), record.expiry_ms())
    };
    let found = stored.iter().map(|(key, record)| (key.clone(), read(record)));
    let found: BTreeMap<_, _> = found.filter(|(_, (_, _, _, expiry_ms))| is_visible(*expiry_ms)).collect();
    assert_eq!(found, expected);
}

fn cuts() -> impl Strategy<Value = Vec<(usize, bool)>> {
    proptest::collection::vec((1..9_usize, proptest::bool::weighted(0.3)), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_log_gives_what_the_naive_machine_gives_however_it_is_cut(
        commands in proptest::collection::vec(command(), 1..60),
        first in cuts(),
        second in cuts(),
    ) {
        let mut naive = Naive::default();
        let mut expected = Vec::new();
        let mut leader = Vec::new();
        let mut follower = Vec::new();
        for (index, command) in (1..).zip(&commands) {
            expected.push((index, naive.apply(index, command)));
            leader.push(entry_of(index, command, true));
            follower.push(entry_of(index, command, command.want_outcome));
        }
        let (leader, outcomes) = replay(&leader, &first);
        prop_assert_eq!(&outcomes, &expected);
        assert_data(&leader, &naive);
        prop_assert_eq!(leader.clock_ms(), naive.clock_ms);
        prop_assert_eq!(leader.session_count(), naive.sessions.len());

        let (follower, outcomes) = replay(&follower, &second);
        expected.retain(|(index, _)| {
            let at = usize::try_from(index - 1).expect("a short log");
            commands[at].want_outcome
        });
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(everything(follower.engine().as_ref()), everything(leader.engine().as_ref()));
    }
}
