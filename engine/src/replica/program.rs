//! Programs that only read: executed over one view of a replica's state.

use bytes::Bytes;
use net::protocol::Program;
use net::slot::slot_of;

use crate::command::StoredKeyBuf;
use crate::machine::{self, Budgeted, Halt, ReadBudget, Replies, run_command};
use crate::redis::{Entry, Keyspace};
use crate::store::{Look, Lookup, ReadTier, StorageEngine};

/// Why there are no replies.
#[derive(Debug)]
pub(super) enum ReadHalt {
    /// Memory alone cannot tell: try again with [`ReadTier::All`].
    NotInMemory,
    /// A command wrote: the table of commands is wrong.
    Writes,
    /// The state cannot be read.
    Failed(machine::ReadError),
}

/// Where and how to read.
pub(super) struct ProgramTask<'e> {
    pub engine: &'e dyn StorageEngine,
    pub tier: ReadTier,
    pub now_ms: u64,
    pub value_bytes_max: usize,
}

/// Executes a program; `None` where a watched key has changed.
pub(super) fn run(task: &ProgramTask<'_>, program: &Program) -> Result<Option<Bytes>, ReadHalt> {
    if is_of_one_read(program) {
        return run_over(task, program, &|key, tier| task.engine.get(key, tier));
    }
    let mut done = None;
    let viewed = task.engine.read_consistently(&mut |look| done = Some(run_over(task, program, look)));
    viewed.map_err(|error| ReadHalt::Failed(error.into()))?;
    done.expect("an engine calls back once")
}

/// Whether it looks at one key once, as far as its shape tells: any view will do.
fn is_of_one_read(program: &Program) -> bool {
    let short = |args: &[Bytes]| args.len() == 2;
    program.watched.is_empty() && program.commands.len() == 1 && short(&program.commands[0].args)
}

fn run_over(task: &ProgramTask<'_>, program: &Program, look: &Look<'_>) -> Result<Option<Bytes>, ReadHalt> {
    let mut keys = ReadKeys { task, look, budget: ReadBudget::new(task.value_bytes_max) };
    for watched in &program.watched {
        let found = keys.find(watched.namespace, &watched.key)?;
        if found.map_or(0, |entry| entry.version) != watched.version {
            return Ok(None);
        }
    }
    let mut replies = Replies::new(task.value_bytes_max);
    for command in &program.commands {
        replies.push(&run_command(&mut keys, command.namespace, &command.args)?);
    }
    Ok(Some(replies.finish()))
}

/// The keys as a read sees them.
struct ReadKeys<'e> {
    task: &'e ProgramTask<'e>,
    look: &'e Look<'e>,
    budget: ReadBudget,
}

impl ReadKeys<'_> {
    fn find(&self, namespace: u8, key: &[u8]) -> Result<Option<Entry>, ReadHalt> {
        let key = StoredKeyBuf::new(namespace, slot_of(key), key);
        let look = (self.look)(key.as_bytes(), self.task.tier);
        match look.map_err(|error| ReadHalt::Failed(error.into()))? {
            Lookup::NotInMemory => Err(ReadHalt::NotInMemory),
            Lookup::Missing => Ok(None),
            Lookup::Found(stored) => {
                let visible = machine::visible(stored, self.task.now_ms);
                visible.map(|it| it.map(Entry::from)).map_err(|error| ReadHalt::Failed(error.into()))
            }
        }
    }
}

impl Budgeted for ReadKeys<'_> {
    fn budget(&mut self) -> &mut ReadBudget {
        &mut self.budget
    }
}

impl Keyspace for ReadKeys<'_> {
    type Error = Halt<ReadHalt>;

    fn get(&mut self, namespace: u8, key: &[u8]) -> Result<Option<Entry>, Self::Error> {
        let found = self.find(namespace, key).map_err(Halt::Failed)?;
        self.budget.take(found.as_ref().map_or(0, |entry| entry.data.len()))?;
        Ok(found)
    }

    fn exists(&mut self, namespace: u8, key: &[u8]) -> Result<bool, Self::Error> {
        Ok(self.find(namespace, key).map_err(Halt::Failed)?.is_some())
    }

    fn put(&mut self, _: u8, _: &[u8], _: Entry) -> Result<(), Self::Error> {
        Err(Halt::Failed(ReadHalt::Writes))
    }

    fn delete(&mut self, _: u8, _: &[u8]) -> Result<(), Self::Error> {
        Err(Halt::Failed(ReadHalt::Writes))
    }

    fn now_ms(&self) -> u64 {
        self.task.now_ms
    }

    fn value_bytes_max(&self) -> usize {
        self.task.value_bytes_max
    }
}
