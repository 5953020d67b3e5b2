//! Programs of clients: what must hold before one is read by a replica or goes into the log.

use bytes::{Bytes, BytesMut};
use net::protocol::{Oversize, Program, ProgramCommand, Refusal, Watched};

use super::Core;
use super::requests::len64;
use crate::redis::table::{self, CommandFlags, CommandSpec};
use crate::replica::program_bytes;

/// Arguments of a program that an executor runs by itself; a longer one goes to a thread.
const LIGHT_ARGS_MAX: usize = 64;
/// Room for what surrounds one longest key and value in an entry.
const ENTRY_RESERVE_BYTES: u64 = 4096;

impl Core {
    /// That every key of a program lies in the shard, that it holds only commands of the access it asks for, and that it
    /// fits an entry. Tells whether it is short work.
    pub(super) fn check_program(
        &self,
        shard: u32,
        program: &Program,
        may_write: bool,
    ) -> Result<bool, Refusal> {
        let limit = self.config.value_bytes_max + self.config.key_bytes_max;
        if len_of(program_bytes(program)) > limit + ENTRY_RESERVE_BYTES {
            return Err(Refusal::TooLarge { what: Oversize::Request, limit });
        }
        for watched in &program.watched {
            self.check_key(shard, &watched.key)?;
        }
        let mut is_light = true;
        let mut args = program.watched.len();
        for command in &program.commands {
            let spec = spec_of(&command.args)?;
            if !may_write && !spec.flags.contains(CommandFlags::READONLY) {
                let why = format!("'{}' writes, and the program is to read only", spec.name);
                return Err(Refusal::Invalid { why });
            }
            is_light &= spec.flags.contains(CommandFlags::FAST);
            args += command.args.len();
            let keys = table::keys(spec, &command.args).map_err(|error| invalid(error.to_string()))?;
            let mut count = 0;
            for key in keys {
                self.check_key(shard, key)?;
                count += 1;
            }
            if count == 0 {
                return Err(invalid(format!("'{}' has no keys", spec.name)));
            }
            let longest = command.args.iter().map(|arg| len64(arg)).max().unwrap_or(0);
            if longest > self.config.value_bytes_max.max(self.config.key_bytes_max) {
                return Err(Refusal::TooLarge { what: Oversize::Value, limit: self.config.value_bytes_max });
            }
        }
        Ok(is_light && args <= LIGHT_ARGS_MAX)
    }
}

/// What is known of a command, if it is well-formed and one of data.
fn spec_of(args: &[Bytes]) -> Result<&'static CommandSpec, Refusal> {
    let name = args.first().ok_or_else(|| invalid("a command needs a name".to_owned()))?;
    let internal = table::lookup(name).filter(|spec| spec.flags.contains(CommandFlags::INTERNAL));
    let spec = match internal {
        Some(spec) if spec.check_arity(args.len()) => spec,
        _ => table::resolve(args).map_err(invalid)?,
    };
    if !spec.flags.intersects(CommandFlags::READONLY | CommandFlags::WRITE) {
        return Err(invalid(format!("'{}' is no command over keys", spec.name)));
    }
    Ok(spec)
}

/// A copy that does not pin the buffer the request arrived in: one allocation for all its bytes.
pub(super) fn compact(program: &Program) -> Program {
    let mut all = BytesMut::with_capacity(program.payload_bytes());
    program.pieces().for_each(|piece| all.extend_from_slice(piece));
    let mut all = all.freeze();
    let mut take = |piece: &Bytes| all.split_to(piece.len());
    Program {
        slot: program.slot,
        watched: (program.watched.iter())
            .map(|it| Watched { namespace: it.namespace, key: take(&it.key), version: it.version })
            .collect(),
        commands: (program.commands.iter())
            .map(|it| ProgramCommand {
                namespace: it.namespace,
                args: it.args.iter().map(&mut take).collect(),
            })
            .collect(),
    }
}

fn invalid(why: String) -> Refusal {
    Refusal::Invalid { why }
}

fn len_of(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64-bit machine")
}
