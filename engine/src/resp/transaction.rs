//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`: a transaction is one program of one slot, checked against the versions of what
//! was watched.

use bytes::Bytes;
use net::protocol::{PROGRAM_ARGS_MAX, ProgramCommand, Watched};
use net::resp::Value;
use net::slot::slot_of;

use super::action::{Action, Slots};
use super::data::{CROSS_SLOT, is_write, slots_of};
use super::session::{Node, Session};
use crate::redis::table::CommandSpec;

/// Bytes that a transaction may hold before it is executed; in one program they must pass the log as one entry.
const QUEUED_BYTES_MAX: usize = 8 << 20;
/// Keys one session may watch.
const WATCHED_MAX: usize = 1024;

/// A transaction that has begun.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    commands: Vec<(&'static CommandSpec, Vec<Bytes>)>,
    args: usize,
    bytes: usize,
    spoilt: bool,
}

impl Transaction {
    /// Commands queued.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// A command was refused, so nothing will be executed.
    pub fn spoil(&mut self) {
        self.spoilt = true;
        self.commands.clear();
    }
}

impl Session {
    pub(super) fn multi(&mut self) -> Action {
        if self.transaction.is_some() {
            return Action::Reply(Value::error("ERR MULTI calls can not be nested"));
        }
        self.transaction = Some(Transaction::default());
        Action::Reply(Value::OK)
    }

    pub(super) fn discard(&mut self) -> Action {
        if self.transaction.take().is_none() {
            return Action::Reply(Value::error("ERR DISCARD without MULTI"));
        }
        self.watched.clear();
        Action::Reply(Value::OK)
    }

    pub(super) fn watch(&mut self, args: &[Bytes], node: &dyn Node) -> Action {
        if self.transaction.is_some() {
            return Action::Reply(Value::error("ERR WATCH inside MULTI is not allowed"));
        }
        let slots: Vec<u16> = args[1..].iter().map(|key| slot_of(key)).collect();
        if self.cluster {
            if slots.iter().any(|slot| *slot != slots[0]) {
                return Action::Reply(Value::error(CROSS_SLOT));
            }
            if let Some(moved) = self.redirection(slots[0], true, node) {
                return Action::Reply(Value::Error(moved));
            }
        }
        let namespace = self.namespace;
        // What is watched already keeps its version: a change since then must be noticed.
        let known =
            |key: &Bytes| self.watched.iter().any(|(other, held, _)| *other == namespace && held == key);
        let keys: Vec<Bytes> = args[1..].iter().filter(|key| !known(key)).cloned().collect();
        if self.watched.len() + keys.len() > WATCHED_MAX {
            return Action::Reply(Value::error(format!("ERR more than {WATCHED_MAX} keys watched")));
        }
        if keys.is_empty() {
            return Action::Reply(Value::OK);
        }
        let calls = keys.iter().map(|key| {
            let commands = vec![ProgramCommand { namespace, args: version_of(key) }];
            let slot = slot_of(key);
            self.program(commands, Vec::new(), false, slot, Slots::Key(slot, key.clone()), node)
        });
        Action::Watch(calls.collect(), keys.into_iter().map(|key| (namespace, key)).collect())
    }

    /// Takes a command into the transaction, or refuses it and spoils the transaction.
    pub(super) fn queue(&mut self, spec: &'static CommandSpec, args: Vec<Bytes>, node: &dyn Node) -> Action {
        if takes_steps(&spec.name) {
            return self.reject("ERR Command not allowed inside a transaction".to_owned());
        }
        let slots = slots_of(spec, &args);
        if let Some(&slot) = slots.first() {
            if self.cluster && slots.iter().any(|other| *other != slot) {
                return self.reject(CROSS_SLOT.to_owned());
            }
            if let Some(moved) = self.redirection(slot, is_write(spec), node) {
                return self.reject(moved);
            }
        }
        let transaction = self.transaction.as_mut().expect("one has begun");
        transaction.args += args.len();
        transaction.bytes += args.iter().map(|arg| arg.len() + 64).sum::<usize>();
        let args_max = usize::try_from(PROGRAM_ARGS_MAX).expect("64-bit machine");
        if transaction.bytes > QUEUED_BYTES_MAX || transaction.args + WATCHED_MAX > args_max {
            return self.reject("ERR the transaction is too large".to_owned());
        }
        if !transaction.spoilt {
            transaction.commands.push((spec, args));
        }
        Action::Reply(Value::Simple("QUEUED".into()))
    }

    pub(super) fn exec(&mut self, node: &dyn Node) -> Action {
        let Some(transaction) = self.transaction.take() else {
            return Action::Reply(Value::error("ERR EXEC without MULTI"));
        };
        let watched = std::mem::take(&mut self.watched);
        if transaction.spoilt {
            let why = "EXECABORT Transaction discarded because of previous errors.";
            return Action::Reply(Value::error(why));
        }
        let commands = transaction.commands.iter();
        let mut slots: Vec<u16> = commands.flat_map(|(spec, args)| slots_of(spec, args)).collect();
        slots.extend(watched.iter().map(|(_, key, _)| slot_of(key)));
        if slots.iter().any(|slot| *slot != slots[0]) {
            return Action::Reply(Value::error(CROSS_SLOT));
        }
        let mut program = Vec::new();
        let mut parts = Vec::with_capacity(transaction.commands.len());
        let mut write = false;
        for (spec, args) in transaction.commands {
            if spec.has_keys() {
                write |= is_write(spec);
                program.push(ProgramCommand { namespace: self.namespace, args });
                parts.push(None);
            } else {
                parts.push(Some(self.local(spec, &args, node)));
            }
        }
        let Some(&slot) = slots.first() else { return Action::Execute(None, parts) };
        if program.is_empty() {
            // Whether what is watched has changed must still be asked; the answer of this command is left over.
            let (namespace, key, _) = &watched[0];
            program.push(ProgramCommand { namespace: *namespace, args: version_of(key) });
        }
        let watched = watched.into_iter();
        let watched = watched.map(|(namespace, key, version)| Watched { namespace, key, version }).collect();
        Action::Execute(Some(self.program(program, watched, write, slot, Slots::One(slot), node)), parts)
    }
}

fn version_of(key: &Bytes) -> Vec<Bytes> {
    vec![Bytes::from_static(b"RINGKV.VERSION"), key.clone()]
}

/// Commands over all keys, or that wait: nothing that one entry of one shard's log could do.
fn takes_steps(name: &str) -> bool {
    let names = ["keys", "scan", "dbsize", "randomkey", "flushdb", "flushall", "wait", "client|reply"];
    let in_slot = ["cluster|countkeysinslot", "cluster|getkeysinslot"];
    names.contains(&name) || in_slot.contains(&name) || name.starts_with("debug")
}
