//! Programs: Redis commands over keys of one shard, executed in order as one step, by the state machine where they
//! write, and over one replica's state where they only read. And counting keys.
//!
//! The payload of a request is all watched keys, then all arguments; that of an answer is the replies as they were made.
//! What the commands mean is no matter of this crate.

use super::checks::{DecodeError, Payload, within};
use super::encode::{Builder, piece_len, read_consistency, write_consistency};
use super::{Op, Oversize, ReadConsistency, WriteConsistency, decode};
use crate::frame::FrameWriter;
use crate::generated::client_generated as wire;
use crate::slot::SLOT_COUNT;
use crate::types::{Limits, wide};
use bytes::Bytes;
use flatbuffers::{UnionWIPOffset, WIPOffset};

/// Most arguments of all commands of a program together, names included; and most keys it may watch.
pub const PROGRAM_ARGS_MAX: u32 = 128 * 1024;

/// Whether a program may write, and when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// It only reads: any replica may execute it that is fresh enough.
    Read(ReadConsistency),
    /// It goes through the log. It carries no session: one whose outcome is in doubt is not tried again.
    Write(WriteConsistency),
}

/// Commands executed in order as one step, over keys of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The slot of its keys: routes it.
    pub slot: u16,
    /// Keys that must be as they were, or nothing is executed.
    pub watched: Vec<Watched>,
    /// The commands. One that fails answers so; the others are executed all the same.
    pub commands: Vec<ProgramCommand>,
}

/// A key that must not have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Its namespace.
    pub namespace: u8,
    /// The key.
    pub key: Bytes,
    /// The version it had; 0: there was none.
    pub version: u64,
}

/// One command of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCommand {
    /// The namespace of its keys.
    pub namespace: u8,
    /// Its name and arguments; never empty.
    pub args: Vec<Bytes>,
}

impl Program {
    /// A program of one command.
    #[must_use]
    pub fn single(slot: u16, namespace: u8, args: Vec<Bytes>) -> Program {
        Program { slot, watched: Vec::new(), commands: vec![ProgramCommand { namespace, args }] }
    }

    /// All its bytes, in the order of the payload.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        let watched = self.watched.iter().map(|it| &it.key);
        watched.chain(self.commands.iter().flat_map(|command| &command.args))
    }

    /// Bytes of all [`Program::pieces`].
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.pieces().map(Bytes::len).sum()
    }
}

pub(super) fn encode_execute(
    builder: &mut Builder,
    program: &Program,
    consistency: Access,
) -> WIPOffset<UnionWIPOffset> {
    let watched =
        program.watched.iter().map(|it| wire::WatchedKey::new(it.version, piece_len(&it.key), it.namespace));
    let watched = (!program.watched.is_empty()).then(|| builder.create_vector_from_iter(watched));
    let commands = program.commands.iter().map(|command| {
        let count = u32::try_from(command.args.len()).unwrap_or(u32::MAX);
        wire::ProgramCommand::new(count, command.namespace)
    });
    let commands = builder.create_vector_from_iter(commands);
    let lengths: Vec<u32> =
        program.commands.iter().flat_map(|command| &command.args).map(|arg| piece_len(arg)).collect();
    let lengths = builder.create_vector(&lengths);
    let (is_write, consistency) = match consistency {
        Access::Read(consistency) => (false, read_consistency(consistency)),
        Access::Write(consistency) => (true, write_consistency(consistency)),
    };
    let args = wire::ExecuteArgs {
        is_write,
        consistency,
        slot: program.slot,
        watched,
        commands: Some(commands),
        arg_lens: Some(lengths),
    };
    wire::Execute::create(builder, &args).as_union_value()
}

pub(super) fn put_execute(frame: &mut FrameWriter<'_>, program: &Program) {
    for piece in program.pieces() {
        frame.put(piece);
    }
}

pub(super) fn decode_execute(
    execute: &wire::Execute<'_>,
    payload: &mut Payload,
    limits: &Limits,
) -> Result<Op, DecodeError> {
    let consistency = if execute.is_write() {
        Access::Write(decode::write_consistency(execute.consistency())?)
    } else {
        Access::Read(decode::read_consistency(execute.consistency())?)
    };
    let (listed, lengths) = (execute.commands(), execute.arg_lens());
    let watched = execute.watched();
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    within(Oversize::Batch, count(lengths.len()), PROGRAM_ARGS_MAX)?;
    within(Oversize::Batch, watched.map_or(0, |list| count(list.len())), PROGRAM_ARGS_MAX)?;
    if listed.is_empty() {
        return Err(DecodeError::Inconsistent { why: "a program without commands" });
    }
    if execute.slot() >= SLOT_COUNT {
        return Err(DecodeError::Inconsistent { why: "a slot that does not exist" });
    }
    let mut program = Program { slot: execute.slot(), ..Program::default() };
    for it in watched.iter().flatten() {
        within(Oversize::Key, u64::from(it.key_len()), limits.key_bytes_max)?;
        let key = payload.take(it.key_len())?;
        program.watched.push(Watched { namespace: it.namespace(), key, version: it.version() });
    }
    let arg_bytes_max = limits.value_bytes_max.max(limits.key_bytes_max);
    let mut lengths = lengths.iter();
    for command in listed {
        if command.arg_count() == 0 {
            return Err(DecodeError::Inconsistent { why: "a command without a name" });
        }
        if wide(command.arg_count()) > lengths.len() {
            return Err(DecodeError::Inconsistent { why: "fewer arguments than announced" });
        }
        let mut args = Vec::with_capacity(wide(command.arg_count()));
        for length in lengths.by_ref().take(wide(command.arg_count())) {
            within(Oversize::Value, u64::from(length), arg_bytes_max)?;
            args.push(payload.take(length)?);
        }
        program.commands.push(ProgramCommand { namespace: command.namespace(), args });
    }
    if lengths.len() != 0 {
        return Err(DecodeError::Inconsistent { why: "arguments of no command" });
    }
    Ok(Op::Execute { program, consistency })
}

pub(super) fn decode_count(count: &wire::Count<'_>) -> Result<Op, DecodeError> {
    let (first_slot, last_slot) = (count.first_slot(), count.last_slot());
    if last_slot >= SLOT_COUNT || first_slot > last_slot {
        return Err(DecodeError::Inconsistent { why: "not a range of slots" });
    }
    let consistency = decode::read_consistency(count.consistency())?;
    Ok(Op::Count { first_slot, last_slot, consistency })
}
