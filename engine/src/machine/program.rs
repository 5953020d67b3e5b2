//! Programs: commands that the state machine executes over the batch being applied.
//!
//! Invariants:
//! - What a program changes and answers is a function of the log: of its own bytes, of the state before it, of the
//!   machine's clock and of the limits that the leader stamped.
//! - It is never undone: a watched key that has changed ends it before its first command.
//! - Bounded: it writes at most [`WRITES_MAX`] times the longest value, one command reads at most [`READS_MAX`] times
//!   that, and the answer is at most [`REPLIES_MAX`] times that.

use std::collections::BTreeMap;

use bumpalo::Bump;
use bytes::{Bytes, BytesMut};
use net::resp::{self, Value, Version};
use net::slot::slot_of;

use super::expiry::Expiries;
use super::overlay::Overlay;
use super::{ApplyError, Outcome, read};
use crate::command::{self, Record, StoredKeyBuf};
use crate::redis::{self, Entry, Keyspace};
use crate::store::{Lookup, ReadTier, StorageEngine, Write};

/// Bytes of values that a program may write, in longest values: what it writes is in memory until it is done.
const WRITES_MAX: u64 = 8;
/// Bytes of values that one command may read, in longest values: it may hold all of them at a time.
const READS_MAX: u64 = 8;
/// Bytes of all replies of a program, in longest values: a frame holds two of them.
const REPLIES_MAX: usize = 2;

/// Why a command did not come to its end.
#[derive(Debug)]
pub(crate) enum Halt<E> {
    /// It has read more than one command may. It answers an error; the next one goes on.
    ReadsTooMuch,
    /// The state cannot be read.
    Failed(E),
}

/// How much the command under way may still read.
#[derive(Debug)]
pub(crate) struct ReadBudget {
    left: u64,
    max: u64,
}

impl ReadBudget {
    pub(crate) fn new(value_bytes_max: usize) -> Self {
        let max = len64(value_bytes_max).saturating_mul(READS_MAX);
        Self { left: max, max }
    }

    /// The next command begins.
    pub(crate) fn refill(&mut self) {
        self.left = self.max;
    }

    pub(crate) fn take<E>(&mut self, bytes: usize) -> Result<(), Halt<E>> {
        self.left = self.left.checked_sub(len64(bytes)).ok_or(Halt::ReadsTooMuch)?;
        Ok(())
    }

    fn reply(&self) -> Value {
        Value::error(format!("ERR one command may read at most {} bytes", self.max))
    }
}

/// A keyspace that counts what is read.
pub(crate) trait Budgeted {
    /// What is left.
    fn budget(&mut self) -> &mut ReadBudget;
}

/// The replies of a program's commands, encoded one after the other.
#[derive(Debug)]
pub(crate) struct Replies {
    encoded: BytesMut,
    bytes_max: usize,
}

impl Replies {
    pub(crate) fn new(value_bytes_max: usize) -> Self {
        Self { encoded: BytesMut::new(), bytes_max: value_bytes_max.saturating_mul(REPLIES_MAX) }
    }

    /// Takes the reply of one command, or says instead that it is too long.
    pub(crate) fn push(&mut self, reply: &Value) {
        if self.encoded.len().saturating_add(payload_bytes(reply)) <= self.bytes_max {
            resp::encode(reply, Version::Resp3, &mut self.encoded);
        } else {
            let why = format!("ERR the replies are longer than {} bytes together", self.bytes_max);
            resp::encode(&Value::Error(why), Version::Resp3, &mut self.encoded);
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        self.encoded.freeze()
    }
}

/// About how long the encoding of a reply will be.
fn payload_bytes(reply: &Value) -> usize {
    const OVERHEAD: usize = 16;
    let all = |values: &[Value]| values.iter().map(payload_bytes).fold(0, usize::saturating_add);
    let own = match reply {
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => bytes.len(),
        Value::Simple(text) => text.len(),
        Value::Error(text) | Value::BigNumber(text) => text.len(),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => all(values),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| payload_bytes(key).saturating_add(payload_bytes(value)))
            .fold(0, usize::saturating_add),
        Value::Null | Value::NullArray | Value::Integer(_) | Value::Double(_) | Value::Boolean(_) => 0,
    };
    own.saturating_add(OVERHEAD)
}

/// Runs one command; one that reads too much answers an error.
pub(crate) fn run_command<K, E>(keyspace: &mut K, namespace: u8, args: &[Bytes]) -> Result<Value, E>
where
    K: Keyspace<Error = Halt<E>> + Budgeted,
{
    keyspace.budget().refill();
    match redis::execute(keyspace, namespace, args) {
        Ok(reply) => Ok(reply),
        Err(Halt::ReadsTooMuch) => Ok(keyspace.budget().reply()),
        Err(Halt::Failed(error)) => Err(error),
    }
}

/// The keys as a program sees them while it is applied.
pub(super) struct ProgramKeys<'k, 'a> {
    pub(super) engine: &'k dyn StorageEngine,
    pub(super) overlay: &'k mut Overlay<'a>,
    /// The entry's index: the version of what is written.
    pub(super) index: u64,
    pub(super) clock_ms: u64,
    value_bytes_max: usize,
    /// The machine's own slots, if it has them on record, and whether a key outside of them was asked for.
    slots: Option<super::Slots>,
    went_outside: bool,
    reads: ReadBudget,
    writes_left: u64,
    /// What the program has changed so far, by stored key; `None`: removed.
    changed: BTreeMap<Vec<u8>, Option<Entry>>,
}

impl<'k, 'a> ProgramKeys<'k, 'a> {
    fn new(
        engine: &'k dyn StorageEngine,
        overlay: &'k mut Overlay<'a>,
        (index, clock_ms): (u64, u64),
        value_bytes_max: usize,
    ) -> Self {
        Self {
            engine,
            overlay,
            index,
            clock_ms,
            value_bytes_max,
            slots: None,
            went_outside: false,
            reads: ReadBudget::new(value_bytes_max),
            writes_left: len64(value_bytes_max).saturating_mul(WRITES_MAX),
            changed: BTreeMap::new(),
        }
    }

    /// Takes note of where a key lies.
    fn pass(&mut self, key: &[u8]) {
        let slot = u16::from_be_bytes([key[2], key[3]]);
        self.went_outside |= self.slots.is_some_and(|(first, last)| slot < first || slot > last);
    }

    /// The visible value under a stored key.
    fn find(&mut self, key: &[u8]) -> Result<Option<Entry>, ApplyError> {
        self.pass(key);
        if let Some(changed) = self.changed.get(key) {
            let is_visible = |entry: &&Entry| entry.expiry_ms == 0 || self.clock_ms < entry.expiry_ms;
            return Ok(changed.as_ref().filter(is_visible).cloned());
        }
        let stored = match self.overlay.find(key) {
            // A copy: the command may keep it for longer than the batch lasts.
            Some(Write::Put { value, .. }) => Bytes::copy_from_slice(value),
            Some(Write::Delete { .. } | Write::DeleteRange { .. }) => return Ok(None),
            None => match self.engine.get(key, ReadTier::All)? {
                Lookup::Found(value) => value,
                Lookup::Missing => return Ok(None),
                Lookup::NotInMemory => unreachable!("a read of every tier answers"),
            },
        };
        let index = self.index;
        let visible = read::visible(stored, self.clock_ms);
        visible.map(|it| it.map(Entry::from)).map_err(|source| ApplyError::StoredRecord { index, source })
    }

    /// Whether every watched key has the version it had.
    fn is_as_watched(&mut self, program: &command::Program<'a>) -> Result<bool, ApplyError> {
        for watched in program.watched() {
            let found = self.find(watched.key.as_bytes())?;
            if found.map_or(0, |entry| entry.version) != watched.version {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Hands what was changed to the batch.
    fn finish(self, arena: &'a Bump, expiries: &mut Expiries) {
        self.overlay.begin_command();
        for (key, change) in self.changed {
            let key = arena.alloc_slice_copy(&key);
            self.overlay.push(match change {
                None => Write::Delete { key },
                Some(entry) => {
                    expiries.note(key, entry.expiry_ms, self.clock_ms);
                    let header = Record::header(entry.flags, entry.expiry_ms, self.index);
                    let bytes = header.len() + entry.data.len();
                    let mut record = bumpalo::collections::Vec::with_capacity_in(bytes, arena);
                    record.extend_from_slice_copy(&header);
                    record.extend_from_slice_copy(&entry.data);
                    Write::Put { key, value: record.into_bump_slice() }
                }
            });
        }
    }
}

impl Budgeted for ProgramKeys<'_, '_> {
    fn budget(&mut self) -> &mut ReadBudget {
        &mut self.reads
    }
}

impl Keyspace for ProgramKeys<'_, '_> {
    type Error = Halt<ApplyError>;

    fn get(&mut self, namespace: u8, key: &[u8]) -> Result<Option<Entry>, Self::Error> {
        let key = StoredKeyBuf::new(namespace, slot_of(key), key);
        let found = self.find(key.as_bytes()).map_err(Halt::Failed)?;
        self.reads.take(found.as_ref().map_or(0, |entry| entry.data.len()))?;
        Ok(found)
    }

    fn exists(&mut self, namespace: u8, key: &[u8]) -> Result<bool, Self::Error> {
        let key = StoredKeyBuf::new(namespace, slot_of(key), key);
        Ok(self.find(key.as_bytes()).map_err(Halt::Failed)?.is_some())
    }

    fn put(&mut self, namespace: u8, key: &[u8], value: Entry) -> Result<(), Self::Error> {
        self.writes_left = self.writes_left.saturating_sub(len64(key.len() + value.data.len()));
        let key = StoredKeyBuf::new(namespace, slot_of(key), key).as_bytes().to_vec();
        self.pass(&key);
        self.changed.insert(key, Some(Entry { version: self.index, ..value }));
        Ok(())
    }

    fn delete(&mut self, namespace: u8, key: &[u8]) -> Result<(), Self::Error> {
        self.writes_left = self.writes_left.saturating_sub(len64(key.len()));
        let key = StoredKeyBuf::new(namespace, slot_of(key), key).as_bytes().to_vec();
        self.pass(&key);
        self.changed.insert(key, None);
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.clock_ms
    }

    fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }
}

/// What of the machine a program needs.
pub(super) struct Context<'m> {
    pub(super) engine: &'m dyn StorageEngine,
    pub(super) clock_ms: u64,
    pub(super) slots: Option<super::Slots>,
    pub(super) expiries: &'m mut Expiries,
}

/// Executes a program: all of it, or nothing where a watched key has changed or a key is none of the machine's.
pub(super) fn execute<'a>(
    context: Context<'_>,
    overlay: &mut Overlay<'a>,
    arena: &'a Bump,
    entry: &'a super::MachineEntry,
    program: &command::Program<'a>,
) -> Result<Outcome, ApplyError> {
    let value_bytes_max = usize::try_from(program.value_bytes_max).expect("64-bit machine");
    let at = (entry.index, context.clock_ms);
    let mut keys = ProgramKeys::new(context.engine, overlay, at, value_bytes_max);
    keys.slots = context.slots;
    let is_as_watched = keys.is_as_watched(program)?;
    if keys.went_outside {
        return Ok(Outcome::WrongShard);
    }
    if !is_as_watched {
        return Ok(Outcome::Executed(None));
    }
    let mut replies = Replies::new(value_bytes_max);
    for (namespace, args) in program.commands() {
        let args: Vec<Bytes> = args.into_iter().map(|arg| entry.payload.slice_ref(arg)).collect();
        let reply = if keys.writes_left == 0 {
            let max = len64(value_bytes_max).saturating_mul(WRITES_MAX);
            Value::error(format!("OOM a transaction may write at most {max} bytes"))
        } else {
            run_command(&mut keys, namespace, &args)?
        };
        if entry.want_outcome {
            replies.push(&reply);
        }
    }
    if keys.went_outside {
        return Ok(Outcome::WrongShard);
    }
    keys.finish(arena, context.expiries);
    Ok(Outcome::Executed(Some(replies.finish())))
}

fn len64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64-bit machine")
}
