//! Commands of one connection about one key, made into one question.
//!
//! A command that meets an earlier one of the same key must see what that did, and where one of both writes, the two are
//! not under way side by side (see [`super::action::Touches`]). What arrives together need not wait all the same: the
//! commands become one write, or one program, which its shard executes in their order.
//!
//! **Nobody notices.** Each command is answered as by itself. So a batch stays far from the bounds of a program, where
//! one command's replies or writes would be at the cost of the next one's; what has no known bound is never in one.

use bytes::Bytes;
use net::protocol::{Access, Mutation, Op, Program, ProgramCommand, ReadConsistency, WriteConsistency};

use super::action::{Call, Shape, Slots};

/// Arguments of a batch: it is one entry of the log, and others' entries should not wait for it.
const ARG_BYTES_MAX: usize = 256 << 10;
/// What an argument takes beside its bytes.
const ARG_BYTES: usize = 16;
const COMMANDS_MAX: usize = 256;
/// No reply without a value in it is longer; no error is.
const SHORT_REPLY_BYTES: usize = 512;
/// What a number takes as a value.
const NUMBER_BYTES: usize = 32;
/// Of what a program may reply and write, in longest values (ARCHITECTURE.md, Bounds), a batch stays below this.
const REPLIES_MAX: usize = 2;
const WRITES_MAX: usize = 7;

/// The longest key and value.
#[derive(Clone, Copy, Debug)]
pub struct Longest {
    /// Of a key, in bytes.
    pub key_bytes: usize,
    /// Of a value, in bytes.
    pub value_bytes: usize,
}

/// What the commands of a batch may cost, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    commands: usize,
    arg_bytes: usize,
    reply_bytes: usize,
    written_bytes: usize,
}

impl Cost {
    /// Of one command; `None` for one that is always asked by itself.
    pub fn of(call: &Call, longest: Longest) -> Option<Cost> {
        let Slots::Key(_, key) = &call.touches.slots else { return None };
        let (long, arg_bytes) = match &call.op {
            Op::Get { key, consistency: ReadConsistency::Linearizable } => {
                (Long::REPLY, ARG_BYTES + key.len())
            }
            Op::Exists { key, consistency: ReadConsistency::Linearizable } => {
                (Long::NEITHER, ARG_BYTES + key.len())
            }
            Op::Write { session: None, consistency: WriteConsistency::Strong, mutations } => {
                match &mutations[..] {
                    [Mutation::Put { key, value, .. }] => {
                        (Long::NEITHER, 2 * ARG_BYTES + key.len() + value.len())
                    }
                    [Mutation::Delete { key }] => (Long::NEITHER, ARG_BYTES + key.len()),
                    _ => return None,
                }
            }
            Op::Execute {
                program,
                consistency:
                    Access::Read(ReadConsistency::Linearizable) | Access::Write(WriteConsistency::Strong),
            } if program.watched.is_empty() && program.commands.len() == 1 => {
                let args = &program.commands[0].args;
                (Long::of(args)?, args.iter().map(|arg| ARG_BYTES + arg.len()).sum())
            }
            _ => return None,
        };
        // One that is refused for its size is refused alone.
        if key.len() > longest.key_bytes || arg_bytes > longest.value_bytes {
            return None;
        }
        let reply_bytes = SHORT_REPLY_BYTES + if long.reply { longest.value_bytes } else { 0 };
        let written_bytes = arg_bytes + NUMBER_BYTES + if long.write { longest.value_bytes } else { 0 };
        Some(Cost { commands: 1, arg_bytes, reply_bytes, written_bytes })
    }

    /// Of both; `None` when that is too much for one batch.
    pub fn and(self, other: Cost, longest: Longest) -> Option<Cost> {
        let both = Cost {
            commands: self.commands + other.commands,
            arg_bytes: self.arg_bytes + other.arg_bytes,
            reply_bytes: self.reply_bytes + other.reply_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        };
        let fits = both.commands <= COMMANDS_MAX
            && both.arg_bytes <= ARG_BYTES_MAX.min(longest.value_bytes)
            && both.reply_bytes <= REPLIES_MAX * longest.value_bytes
            && both.written_bytes <= WRITES_MAX * longest.value_bytes;
        fits.then_some(both)
    }
}

/// Whether a command answers a value, and writes one, that its arguments do not bound.
#[derive(Clone, Copy)]
struct Long {
    reply: bool,
    write: bool,
}

impl Long {
    const NEITHER: Long = Long { reply: false, write: false };
    const REPLY: Long = Long { reply: true, write: false };
    const WRITE: Long = Long { reply: false, write: true };
    const BOTH: Long = Long { reply: true, write: true };

    /// Commands of one key.
    fn of(args: &[Bytes]) -> Option<Long> {
        let name = args[0].to_ascii_lowercase();
        Some(match &name[..] {
            b"set" if args.iter().skip(3).any(|option| option.eq_ignore_ascii_case(b"get")) => Long::REPLY,
            b"set" | b"setnx" | b"setex" | b"psetex" | b"incr" | b"decr" | b"incrby" | b"decrby" => {
                Long::NEITHER
            }
            b"del" | b"unlink" | b"exists" | b"touch" | b"type" | b"strlen" => Long::NEITHER,
            b"ttl" | b"pttl" | b"expiretime" | b"pexpiretime" => Long::NEITHER,
            b"getbit" | b"bitcount" | b"bitpos" => Long::NEITHER,
            b"get" | b"mget" | b"getdel" | b"getset" | b"getrange" | b"substr" => Long::REPLY,
            // The value as it is, with another expiry or other bytes in it.
            b"append" | b"setrange" | b"setbit" | b"incrbyfloat" => Long::WRITE,
            b"expire" | b"pexpire" | b"expireat" | b"pexpireat" | b"persist" => Long::WRITE,
            b"getex" => Long::BOTH,
            _ => return None,
        })
    }
}

/// One question for several commands of one key, in their order; each has a [`Cost`].
pub fn merge(calls: Vec<Call>) -> Call {
    let mut calls = calls.into_iter();
    let first = calls.next().expect("a batch is of several commands");
    let (shard, slot, namespace) = (first.shard, first.slot, first.namespace);
    let mut touches = first.touches.clone();
    let all: Vec<Call> = std::iter::once(first).chain(calls).collect();
    touches.write = all.iter().any(|call| call.touches.write);
    let only_writes = |call: &Call| matches!(call.op, Op::Write { .. }) && call.namespace == namespace;
    // Puts are answered before they are applied, and may be sent again: better than a program, where there is a choice.
    let (op, shape) = if all.iter().all(only_writes) {
        let mutations = all.into_iter().flat_map(|call| match call.op {
            Op::Write { mutations, .. } => mutations,
            _ => unreachable!("just looked at"),
        });
        let mutations = mutations.collect();
        (Op::Write { session: None, consistency: WriteConsistency::Strong, mutations }, Shape::Stored)
    } else {
        let consistency = match touches.write {
            true => Access::Write(WriteConsistency::Strong),
            false => Access::Read(ReadConsistency::Linearizable),
        };
        let commands = all.into_iter().map(command).collect();
        (
            Op::Execute { program: Program { slot, watched: Vec::new(), commands }, consistency },
            Shape::Program,
        )
    };
    Call { shard, slot, namespace, op, shape, touches }
}

/// What a call is as a command of a program.
fn command(call: Call) -> ProgramCommand {
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    let args = match call.op {
        Op::Get { key, .. } => vec![word("GET"), key],
        Op::Exists { key, .. } => vec![word("EXISTS"), key],
        Op::Write { mut mutations, .. } => match mutations.pop() {
            Some(Mutation::Put { key, value, ttl_ms: None }) => vec![word("SET"), key, value],
            Some(Mutation::Put { key, value, ttl_ms: Some(ms) }) => {
                vec![word("SET"), key, value, word("PX"), ms.to_string().into()]
            }
            Some(Mutation::Delete { key }) => vec![word("DEL"), key],
            other => unreachable!("no command of a batch: {other:?}"),
        },
        Op::Execute { mut program, .. } => program.commands.pop().expect("a program of one command").args,
        other => unreachable!("no command of a batch: {other:?}"),
    };
    ProgramCommand { namespace: call.namespace, args }
}

#[cfg(test)]
mod tests;
