//! Commands about keys: to which shards they go, as what.

use bytes::Bytes;
use net::protocol::{Access, Mutation, Op, Program, ProgramCommand, WriteConsistency};
use net::resp::Value;
use net::slot::{SLOT_COUNT, slot_of};

use super::action::{Action, Call, Merge, Shape, Slots, Task, Touches};
use super::cluster::moved;
use super::session::{NOT_AN_INTEGER, Node, SYNTAX, Session, integer};
use crate::redis::table::{self, CommandFlags, CommandSpec};

pub(super) const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
/// Keys of one program: a longer command is asked in pieces.
const PIECE_KEYS_MAX: usize = 16 << 10;
/// A longer time to live is left to the command itself, which knows what is too long.
const SIMPLE_TTL_MS_MAX: i64 = 1 << 50;

impl Session {
    /// The commands that are asked most need no program and no look into the table.
    pub(super) fn simple(&mut self, args: &[Bytes], node: &dyn Node) -> Option<Action> {
        let (name, key) = match args {
            [name, key, ..] if name.len() <= 6 && !key.is_empty() => (name, key),
            _ => return None,
        };
        let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
        let consistency = self.consistency();
        let (known_as, op, shape) = match args {
            [_, _] if is(b"get") => ("get", Op::Get { key: key.clone(), consistency }, Shape::Value),
            [_, _] if is(b"exists") => {
                ("exists", Op::Exists { key: key.clone(), consistency }, Shape::Exists)
            }
            [_, _] if is(b"del") => ("del", write(Mutation::Delete { key: key.clone() }), Shape::Removed),
            [_, _] if is(b"unlink") => {
                ("unlink", write(Mutation::Delete { key: key.clone() }), Shape::Removed)
            }
            [_, _, value, options @ ..] if is(b"set") => {
                let ttl_ms = simple_ttl(options)?;
                let put = Mutation::Put { key: key.clone(), value: value.clone(), ttl_ms };
                ("set", write(put), Shape::Stored)
            }
            _ => return None,
        };
        self.set_last_command(known_as);
        let slot = slot_of(key);
        let touches = Touches { write: op.is_write(), slots: Slots::Key(slot, key.clone()) };
        let shard = node.shard_of_slot(slot);
        Some(Action::Call(Call { shard, slot, namespace: self.namespace, op, shape, touches }))
    }

    pub(super) fn data(&mut self, spec: &CommandSpec, args: Vec<Bytes>, node: &dyn Node) -> Action {
        let Ok(positions) = spec.key_positions(&args) else {
            return Action::Reply(Value::error(SYNTAX));
        };
        let positions: Vec<usize> = positions.collect();
        let slots: Vec<u16> = positions.iter().map(|position| slot_of(&args[*position])).collect();
        let Some(&slot) = slots.first() else { return Action::Reply(Value::error(SYNTAX)) };
        let one_slot = slots.iter().all(|other| *other == slot);
        let merge = if self.cluster { None } else { splittable(&spec.name) };
        match merge {
            Some(kind) if !one_slot || positions.len() > PIECE_KEYS_MAX => {
                // An odd number of arguments is no matter of keys: the command says what is wrong with it.
                if kind == Split::Stores && args.len().is_multiple_of(2) {
                    return Action::Reply(Value::error("ERR wrong number of arguments for 'mset' command"));
                }
                self.split(spec, kind, &args, &slots, node)
            }
            _ if !one_slot => Action::Reply(Value::error(CROSS_SLOT)),
            _ => {
                let slots = match positions[..] {
                    [position] => Slots::Key(slot, args[position].clone()),
                    _ => Slots::One(slot),
                };
                let commands = vec![ProgramCommand { namespace: self.namespace, args }];
                Action::Call(self.program(commands, Vec::new(), is_write(spec), slot, slots, node))
            }
        }
    }

    pub(super) fn program(
        &self,
        commands: Vec<ProgramCommand>,
        watched: Vec<net::protocol::Watched>,
        write: bool,
        slot: u16,
        slots: Slots,
        node: &dyn Node,
    ) -> Call {
        let consistency = match write {
            true => Access::Write(WriteConsistency::Strong),
            false => Access::Read(self.consistency()),
        };
        Call {
            shard: node.shard_of_slot(slot),
            slot,
            namespace: self.namespace,
            op: Op::Execute { program: Program { slot, watched, commands }, consistency },
            shape: Shape::Program,
            touches: Touches { write, slots },
        }
    }

    /// Asks each shard about its own keys: atomic in each, and not over all.
    fn split(
        &self,
        spec: &CommandSpec,
        kind: Split,
        args: &[Bytes],
        slots: &[u16],
        node: &dyn Node,
    ) -> Action {
        let step = if kind == Split::Stores { 2 } else { 1 };
        // Of each piece: its shard, a slot of it, the positions of its keys.
        let mut pieces: Vec<(u32, Vec<usize>)> = Vec::new();
        for (position, slot) in slots.iter().enumerate() {
            let shard = node.shard_of_slot(*slot);
            let open = pieces.iter_mut().rev().find(|(other, _)| *other == shard);
            match open.filter(|(_, keys)| keys.len() < PIECE_KEYS_MAX) {
                Some((_, keys)) => keys.push(position),
                None => pieces.push((shard, vec![position])),
            }
        }
        let calls = pieces.iter().map(|(_, keys)| {
            let mut piece = Vec::with_capacity(1 + keys.len() * step);
            piece.push(args[0].clone());
            for key in keys {
                piece.extend_from_slice(&args[1 + key * step..][..step]);
            }
            let touched = Slots::Many(keys.iter().map(|key| slots[*key]).collect());
            let commands = vec![ProgramCommand { namespace: self.namespace, args: piece }];
            self.program(commands, Vec::new(), is_write(spec), slots[keys[0]], touched, node)
        });
        let calls = calls.collect();
        let merge = match kind {
            Split::Counts => Merge::Sum,
            Split::Stores => Merge::Ok,
            Split::Reads => Merge::Order(pieces.into_iter().map(|(_, keys)| keys).collect()),
        };
        Action::Calls(calls, merge)
    }

    /// Commands over all keys, and others that take several steps.
    pub(super) fn whole(&mut self, spec: &CommandSpec, args: &[Bytes], node: &dyn Node) -> Option<Action> {
        let (namespace, consistency) = (self.namespace, self.consistency());
        let task = match &spec.name[..] {
            "keys" => Task::Keys { namespace, pattern: args[1].clone(), consistency },
            "dbsize" => Task::Size { namespace, consistency },
            "randomkey" => Task::RandomKey { namespace, consistency },
            "flushdb" | "flushall" => match &args[1..] {
                [] => Task::Flush { namespace: (spec.name == "flushdb").then_some(namespace) },
                [how] if how.eq_ignore_ascii_case(b"sync") || how.eq_ignore_ascii_case(b"async") => {
                    Task::Flush { namespace: (spec.name == "flushdb").then_some(namespace) }
                }
                _ => return Some(Action::Reply(Value::error(SYNTAX))),
            },
            "scan" => match self.scan(args) {
                Ok(task) => task,
                Err(error) => return Some(Action::Reply(Value::error(error))),
            },
            "wait" => match wait(args) {
                Ok(task) => task,
                Err(error) => return Some(Action::Reply(Value::error(error))),
            },
            "debug|sleep" | "debug" => return self.debug(args).map(Action::Task),
            "info" => return super::info::keyspace_task(args, node).map(Action::Task),
            "cluster|countkeysinslot" | "cluster|getkeysinslot" => {
                return Some(self.keys_in_slot(spec, args, node));
            }
            _ => return None,
        };
        Some(Action::Task(task))
    }

    fn scan(&self, args: &[Bytes]) -> Result<Task, &'static str> {
        let cursor = std::str::from_utf8(&args[1]).ok().and_then(|text| text.parse().ok());
        let cursor = cursor.ok_or("ERR invalid cursor")?;
        let (mut pattern, mut count, mut any) = (None, 10, true);
        let options = args[2..].chunks(2);
        for option in options {
            match option {
                [name, wanted] if name.eq_ignore_ascii_case(b"match") => pattern = Some(wanted.clone()),
                [name, wanted] if name.eq_ignore_ascii_case(b"count") => {
                    let wanted = integer(wanted).ok_or(NOT_AN_INTEGER)?;
                    if wanted < 1 {
                        return Err(SYNTAX);
                    }
                    count = u32::try_from(wanted).unwrap_or(u32::MAX);
                }
                [name, wanted] if name.eq_ignore_ascii_case(b"type") => {
                    any = wanted.eq_ignore_ascii_case(b"string");
                }
                _ => return Err(SYNTAX),
            }
        }
        let (namespace, consistency) = (self.namespace, self.consistency());
        Ok(Task::Scan { namespace, cursor, pattern, count, any, consistency })
    }

    fn debug(&self, args: &[Bytes]) -> Option<Task> {
        if !args.get(1)?.eq_ignore_ascii_case(b"sleep") {
            return None;
        }
        let seconds: f64 = std::str::from_utf8(args.get(2)?).ok()?.parse().unwrap_or(0.0);
        let ms = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default().as_millis();
        Some(Task::Sleep { ms: u64::try_from(ms).unwrap_or(u64::MAX) })
    }

    fn keys_in_slot(&self, spec: &CommandSpec, args: &[Bytes], node: &dyn Node) -> Action {
        let Some(slot) = integer(&args[2]) else { return Action::Reply(Value::error(NOT_AN_INTEGER)) };
        let slot = u16::try_from(slot).ok().filter(|slot| *slot < SLOT_COUNT);
        let consistency = self.consistency();
        if spec.name == "cluster|countkeysinslot" {
            let Some(slot) = slot else { return Action::Reply(Value::error("ERR Invalid slot")) };
            return Action::Call(Call {
                shard: node.shard_of_slot(slot),
                slot,
                namespace: self.namespace,
                op: Op::Count { first_slot: slot, last_slot: slot, consistency },
                shape: Shape::Count,
                touches: Touches { write: false, slots: Slots::One(slot) },
            });
        }
        let Some(count) = integer(&args[3]) else { return Action::Reply(Value::error(NOT_AN_INTEGER)) };
        match (slot, u32::try_from(count)) {
            (Some(slot), Ok(count)) => Action::Task(Task::KeysInSlot { slot, count, consistency }),
            _ => Action::Reply(Value::error("ERR Invalid slot or number of keys")),
        }
    }

    /// The redirection a client gets for a slot that is not served here, before anything is asked.
    pub(super) fn redirection(&self, slot: u16, write: bool, node: &dyn Node) -> Option<String> {
        if !self.cluster {
            return None;
        }
        let shard = node.shard_of_slot(slot);
        // Nobody to name: whoever is asked will wait until there is one.
        let leader = node.leader_of(shard)?;
        let here = leader == node.id() || (self.follower && !write && node.hosts(shard));
        (!here).then(|| moved(slot, Some(leader), node))
    }
}

pub(super) fn is_write(spec: &CommandSpec) -> bool {
    spec.flags.contains(CommandFlags::WRITE)
}

/// The keys of a command that `resolve` has let pass.
pub(super) fn slots_of(spec: &CommandSpec, args: &[Bytes]) -> Vec<u16> {
    table::keys(spec, args).map(|keys| keys.map(|key| slot_of(key)).collect()).unwrap_or_default()
}

fn write(mutation: Mutation) -> Op {
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] }
}

/// The time to live of a plain `SET`; `None` for one with other options.
fn simple_ttl(options: &[Bytes]) -> Option<Option<u64>> {
    let (unit, number) = match options {
        [] => return Some(None),
        [unit, number] => (unit, integer(number)?),
        _ => return None,
    };
    let ms = match () {
        () if unit.eq_ignore_ascii_case(b"ex") => number.checked_mul(1000)?,
        () if unit.eq_ignore_ascii_case(b"px") => number,
        () => return None,
    };
    (1..SIMPLE_TTL_MS_MAX).contains(&ms).then(|| u64::try_from(ms).ok())
}

/// Commands that are the sum of what they are for each key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    Counts,
    Reads,
    Stores,
}

fn splittable(name: &str) -> Option<Split> {
    match name {
        "del" | "unlink" | "exists" | "touch" => Some(Split::Counts),
        "mget" => Some(Split::Reads),
        "mset" => Some(Split::Stores),
        _ => None,
    }
}

fn wait(args: &[Bytes]) -> Result<Task, &'static str> {
    let replicas = integer(&args[1]).ok_or(NOT_AN_INTEGER)?;
    let timeout = integer(&args[2]).ok_or("ERR timeout is not an integer or out of range")?;
    let timeout_ms = u64::try_from(timeout).map_err(|_| "ERR timeout is negative")?;
    Ok(Task::Wait { replicas, timeout_ms: (timeout_ms > 0).then_some(timeout_ms) })
}
