//! What a command sees of one shard: implemented by the state machine over the batch being applied, and by reads over
//! a replica's state.

use bytes::Bytes;

/// [`Entry::flags`]: the value was made by a command that edits bytes in place (APPEND, SETRANGE, SETBIT), and reports
/// the encoding `raw`.
pub const ENCODING_RAW: u8 = 1;

/// [`Entry::flags`]: the value is text even when it looks like an integer (INCRBYFLOAT), and reports `embstr` or `raw`
/// by its length.
pub const ENCODING_TEXT: u8 = 2;

/// [`Entry::flags`]: an integer that Redis would not share (COPY), for OBJECT REFCOUNT.
pub const ENCODING_UNSHARED: u8 = 4;

/// A visible value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub data: Bytes,
    /// The `ENCODING_*` bits, which only OBJECT shows.
    pub flags: u8,
    /// When it becomes invisible, in milliseconds since the Unix epoch; 0 for never.
    pub expiry_ms: u64,
    /// The index of the log entry that wrote it. Ignored by [`Keyspace::put`]: the state machine stamps it.
    pub version: u64,
}

/// The keys of one shard, in all namespaces, as of one moment.
pub trait Keyspace {
    /// Why the state could not be read, or not be changed.
    type Error;

    /// The visible value of a key.
    fn get(&mut self, namespace: u8, key: &[u8]) -> Result<Option<Entry>, Self::Error>;

    /// Whether a key has a visible value, which is not kept meanwhile: any number of keys may be asked for.
    fn exists(&mut self, namespace: u8, key: &[u8]) -> Result<bool, Self::Error> {
        Ok(self.get(namespace, key)?.is_some())
    }

    /// Stores a value, whatever was there. One that has expired by [`Keyspace::now_ms`] is stored all the same: it is
    /// invisible from the start.
    fn put(&mut self, namespace: u8, key: &[u8], value: Entry) -> Result<(), Self::Error>;

    /// Removes a key, if it is there.
    fn delete(&mut self, namespace: u8, key: &[u8]) -> Result<(), Self::Error>;

    /// The time that decides what has expired, in milliseconds since the Unix epoch: stamped by the leader into the log
    /// entry, so that all replicas agree; for a read, its own.
    fn now_ms(&self) -> u64;

    /// Longest value that may be stored.
    fn value_bytes_max(&self) -> usize;
}
