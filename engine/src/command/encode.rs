//! Writing a payload: one allocation of the exact size, one copy of each value.

use bytes::{BufMut, Bytes, BytesMut};

use super::key::{STORED_KEY_PREFIX_BYTES, prefix};
use super::record::{RECORD_HEADER_BYTES, header};
use super::{
    EXPECTED_ABSENT, EXPECTED_NONE, EXPECTED_VALUE, EXPECTED_VERSION, Expected, FLAG_SESSION, FORMAT,
    HEADER_BYTES, KIND_COMPARE_AND_SWAP, KIND_DELETE, KIND_PUT, KeyPlace, Mutation, NewValue,
    OP_HEADER_BYTES, SESSION_BYTES, Session,
};

/// Encodes a command: `time_ms` is the leader's clock (milliseconds since the Unix epoch), `version` the
/// index the entry will get.
///
/// # Panics
/// When a key, a value or the number of mutations does not fit 32 bits, or a slot does not exist: the
/// front doors' limits lie far below.
pub fn encode(time_ms: u64, version: u64, session: Option<Session>, mutations: &[Mutation<'_>]) -> Bytes {
    let total = encoded_bytes(session, mutations);
    let mut payload = BytesMut::with_capacity(total);
    payload.put_u8(FORMAT);
    payload.put_u8(if session.is_some() { FLAG_SESSION } else { 0 });
    payload.put_u16_le(0);
    payload.put_u32_le(length(mutations.len()));
    payload.put_u64_le(time_ms);
    payload.put_u64_le(version);
    if let Some(session) = session {
        payload.put_u64_le(session.client);
        payload.put_u64_le(session.sequence);
        payload.put_u64_le(session.acked_below);
    }
    for mutation in mutations {
        put_mutation(&mut payload, version, mutation);
    }
    assert_eq!(payload.len(), total, "the size of a payload was computed wrong");
    payload.freeze()
}

/// Encodes a command that changes nothing but the clock: the state machine removes what has expired by it.
pub fn encode_removal(time_ms: u64, version: u64) -> Bytes {
    encode(time_ms, version, None, &[])
}

/// The exact size [`encode`] will produce.
fn encoded_bytes(session: Option<Session>, mutations: &[Mutation<'_>]) -> usize {
    let ops: usize = mutations.iter().map(mutation_bytes).sum();
    HEADER_BYTES + if session.is_some() { SESSION_BYTES } else { 0 } + ops
}

fn mutation_bytes(mutation: &Mutation<'_>) -> usize {
    let (key, expected, record) = match mutation {
        Mutation::Put { key, value, .. } => (key, 0, record_bytes(value)),
        Mutation::Delete { key, .. } => (key, 0, 0),
        Mutation::CompareAndSwap { key, expected, new, .. } => {
            (key, expected_bytes(expected), new.as_ref().map_or(0, record_bytes))
        }
    };
    OP_HEADER_BYTES + STORED_KEY_PREFIX_BYTES + key.len() + expected + record
}

fn record_bytes(value: &NewValue<'_>) -> usize {
    RECORD_HEADER_BYTES + value.data.len()
}

fn expected_bytes(expected: &Expected<'_>) -> usize {
    match expected {
        Expected::Absent => 0,
        Expected::Version(_) => 8,
        Expected::Value(value) => value.len(),
    }
}

fn put_mutation(payload: &mut BytesMut, version: u64, mutation: &Mutation<'_>) {
    match mutation {
        Mutation::Put { place, key, value } => {
            put_op_header(payload, KIND_PUT, None, key.len(), Some(value));
            put_key(payload, *place, key);
            put_record(payload, version, value);
        }
        Mutation::Delete { place, key } => {
            put_op_header(payload, KIND_DELETE, None, key.len(), None);
            put_key(payload, *place, key);
        }
        Mutation::CompareAndSwap { place, key, expected, new } => {
            put_op_header(payload, KIND_COMPARE_AND_SWAP, Some(expected), key.len(), new.as_ref());
            put_key(payload, *place, key);
            match expected {
                Expected::Absent => {}
                Expected::Version(version) => payload.put_u64_le(*version),
                Expected::Value(value) => payload.put_slice(value),
            }
            if let Some(value) = new {
                put_record(payload, version, value);
            }
        }
    }
}

fn put_op_header(
    payload: &mut BytesMut,
    kind: u8,
    expected: Option<&Expected<'_>>,
    key_bytes: usize,
    new: Option<&NewValue<'_>>,
) {
    payload.put_u8(kind);
    payload.put_u8(match expected {
        None => EXPECTED_NONE,
        Some(Expected::Absent) => EXPECTED_ABSENT,
        Some(Expected::Version(_)) => EXPECTED_VERSION,
        Some(Expected::Value(_)) => EXPECTED_VALUE,
    });
    payload.put_u8(u8::from(new.is_some()));
    payload.put_u8(0);
    payload.put_u32_le(length(STORED_KEY_PREFIX_BYTES + key_bytes));
    payload.put_u32_le(length(expected.map_or(0, expected_bytes)));
    payload.put_u32_le(length(new.map_or(0, record_bytes)));
}

fn put_key(payload: &mut BytesMut, place: KeyPlace, key: &[u8]) {
    payload.put_slice(&prefix(place.namespace, place.slot));
    payload.put_slice(key);
}

fn put_record(payload: &mut BytesMut, version: u64, value: &NewValue<'_>) {
    payload.put_slice(&header(value.flags, value.expiry_ms, version));
    payload.put_slice(value.data);
}

pub(super) fn length(value: usize) -> u32 {
    u32::try_from(value).expect("a length inside a payload fits 32 bits: limits are checked at the door")
}
