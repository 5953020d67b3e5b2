//! Runs one command: checks it against the table and hands it to the function of its name.

use std::borrow::Cow;

use bytes::Bytes;
use net::resp::Value;

use super::arguments::{Complaint, Halt, TOO_LONG};
use super::table::{CommandFlags, CommandSpec, lookup, resolve};
use super::{Entry, Keyspace};
use super::{bitfield, bits, dump, expiry, keys, lcs, numbers, strings};

/// Most bytes of values in one reply. MGET of many long values would need more: an error, rather than a reply that no
/// buffer holds. A single value may always be read.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// One command being run.
pub(super) struct Context<'a, K> {
    pub(super) keyspace: &'a mut K,
    pub(super) namespace: u8,
    /// The name and what follows; their number is what the command takes.
    pub(super) args: &'a [Bytes],
    pub(super) spec: &'static CommandSpec,
}

pub(super) type Outcome<K> = Result<Value, Halt<<K as Keyspace>::Error>>;

impl<K: Keyspace> Context<'_, K> {
    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, Halt<K::Error>> {
        self.keyspace.get(self.namespace, key).map_err(Halt::Keyspace)
    }

    pub(super) fn exists(&mut self, key: &[u8]) -> Result<bool, Halt<K::Error>> {
        self.exists_in(self.namespace, key)
    }

    pub(super) fn exists_in(&mut self, namespace: u8, key: &[u8]) -> Result<bool, Halt<K::Error>> {
        self.keyspace.exists(namespace, key).map_err(Halt::Keyspace)
    }

    /// Stores a value. One that has expired already is not there afterwards.
    pub(super) fn put(&mut self, key: &[u8], value: Entry) -> Result<(), Halt<K::Error>> {
        self.put_in(self.namespace, key, value)
    }

    pub(super) fn put_in(&mut self, namespace: u8, key: &[u8], value: Entry) -> Result<(), Halt<K::Error>> {
        if value.expiry_ms != 0 && value.expiry_ms <= self.keyspace.now_ms() {
            return self.keyspace.delete(namespace, key).map_err(Halt::Keyspace);
        }
        self.check_length(value.data.len())?;
        self.keyspace.put(namespace, key, value).map_err(Halt::Keyspace)
    }

    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), Halt<K::Error>> {
        self.keyspace.delete(self.namespace, key).map_err(Halt::Keyspace)
    }

    /// May there be a value of this length?
    pub(super) fn check_length(&self, bytes: usize) -> Result<(), Complaint> {
        if bytes > self.keyspace.value_bytes_max() { Err(Complaint::new(TOO_LONG)) } else { Ok(()) }
    }

    /// Now, in milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        i64::try_from(self.keyspace.now_ms()).unwrap_or(i64::MAX)
    }
}

/// Runs one command over the keys of one shard; `args[0]` is its name, in any case. What a client did wrong is an error
/// reply; it leaves the keys as they were. An `Err` is the keyspace's: where [`Keyspace::get`] gave it, the keys are as
/// they were too, for no command gets a value after it has changed a key.
pub fn execute<K: Keyspace>(keyspace: &mut K, namespace: u8, args: &[Bytes]) -> Result<Value, K::Error> {
    let Some(name) = args.first() else {
        return Ok(Value::error("ERR no command"));
    };
    let internal = lookup(name)
        .filter(|spec| spec.flags.contains(CommandFlags::INTERNAL))
        .filter(|spec| spec.check_arity(args.len()));
    let spec = match internal.map_or_else(|| resolve(args), Ok) {
        Ok(spec) => spec,
        Err(text) => return Ok(Value::Error(text)),
    };
    match dispatch(&mut Context { keyspace, namespace, args, spec }) {
        Ok(value) => Ok(value),
        Err(Halt::Complaint(text)) => Ok(Value::Error(Cow::into_owned(text))),
        Err(Halt::Keyspace(error)) => Err(error),
    }
}

#[rustfmt::skip]
fn dispatch<K: Keyspace>(context: &mut Context<'_, K>) -> Outcome<K> {
    match context.spec.name.as_str() {
        "get" => strings::get(context),
        "set" => strings::set(context),
        "setnx" => strings::setnx(context),
        "setex" | "psetex" => strings::setex(context),
        "getset" => strings::getset(context),
        "getdel" => strings::getdel(context),
        "getex" => strings::getex(context),
        "mget" => strings::mget(context),
        "mset" => strings::mset(context),
        "msetnx" => strings::msetnx(context),
        "append" => strings::append(context),
        "strlen" => strings::strlen(context),
        "getrange" | "substr" => strings::getrange(context),
        "setrange" => strings::setrange(context),
        "incr" | "decr" | "incrby" | "decrby" => numbers::incr(context),
        "incrbyfloat" => numbers::incrbyfloat(context),
        "setbit" => bits::setbit(context),
        "getbit" => bits::getbit(context),
        "bitcount" => bits::bitcount(context),
        "bitpos" => bits::bitpos(context),
        "bitop" => bits::bitop(context),
        "bitfield" | "bitfield_ro" => bitfield::bitfield(context),
        "lcs" => lcs::lcs(context),
        "del" | "unlink" => keys::del(context),
        "exists" | "touch" => keys::exists(context),
        "type" => keys::type_of(context),
        "rename" | "renamenx" => keys::rename(context),
        "copy" => keys::copy(context),
        "object|encoding" | "object|refcount" | "object|idletime" | "object|freq" => keys::object(context),
        "object|help" => Ok(keys::object_help()),
        "ringkv.version" => keys::version(context),
        "expire" | "pexpire" | "expireat" | "pexpireat" => expiry::expire(context),
        "ttl" | "pttl" | "expiretime" | "pexpiretime" => expiry::ttl(context),
        "persist" => expiry::persist(context),
        "dump" => dump::dump(context),
        "restore" => dump::restore(context),
        name => Err(Halt::Complaint(format!("ERR '{name}' has no meaning for the keys of one shard").into())),
    }
}
