//! Payloads: what goes in comes out, and nothing else is taken for a payload.

use proptest::prelude::*;

use super::*;

const PLACE: KeyPlace = KeyPlace { namespace: 3, slot: 16383 };

#[derive(Clone, Debug)]
enum OwnedExpected {
    Absent,
    Version(u64),
    Value(Vec<u8>),
}

#[derive(Clone, Debug)]
enum OwnedMutation {
    Put(Vec<u8>, Vec<u8>, u8, u64),
    Delete(Vec<u8>),
    Swap(Vec<u8>, OwnedExpected, Option<Vec<u8>>),
}

impl OwnedMutation {
    fn borrow(&self, place: KeyPlace) -> Mutation<'_> {
        match self {
            Self::Put(key, data, flags, expiry_ms) => {
                let value = NewValue { data, flags: *flags, expiry_ms: *expiry_ms };
                Mutation::Put { place, key, value }
            }
            Self::Delete(key) => Mutation::Delete { place, key },
            Self::Swap(key, expected, new) => Mutation::CompareAndSwap {
                place,
                key,
                expected: match expected {
                    OwnedExpected::Absent => Expected::Absent,
                    OwnedExpected::Version(version) => Expected::Version(*version),
                    OwnedExpected::Value(value) => Expected::Value(value),
                },
                new: new.as_deref().map(NewValue::plain),
            },
        }
    }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..max)
}

fn mutation() -> impl Strategy<Value = OwnedMutation> {
    let expected = prop_oneof![
        Just(OwnedExpected::Absent),
        any::<u64>().prop_map(OwnedExpected::Version),
        bytes(20).prop_map(OwnedExpected::Value),
    ];
    prop_oneof![
        (bytes(200), bytes(300), any::<u8>(), any::<u64>())
            .prop_map(|(key, data, flags, expiry_ms)| OwnedMutation::Put(key, data, flags, expiry_ms)),
        bytes(30).prop_map(OwnedMutation::Delete),
        (bytes(30), expected, proptest::option::of(bytes(30)))
            .prop_map(|(key, expected, new)| OwnedMutation::Swap(key, expected, new)),
    ]
}

fn session() -> impl Strategy<Value = Option<Session>> {
    proptest::option::of(
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(client, sequence, acked_below)| Session {
            client,
            sequence,
            acked_below,
        }),
    )
}

/// Whether an operation says what the mutation it came from says.
fn assert_same(op: Op<'_>, mutation: &Mutation<'_>, command_version: u64) {
    let check_key = |stored: StoredKey<'_>, place: KeyPlace, key: &[u8]| {
        assert_eq!(
            (stored.namespace(), stored.slot(), stored.user_key()),
            (place.namespace, place.slot, key)
        );
        let built = StoredKeyBuf::new(place.namespace, place.slot, key);
        assert_eq!(built.as_bytes(), stored.as_bytes());
    };
    let check_record = |record: Record<'_>, value: &NewValue<'_>| {
        assert_eq!((record.value(), record.flags()), (value.data, value.flags));
        assert_eq!((record.expiry_ms(), record.version()), (value.expiry_ms, command_version));
    };
    match (op, mutation) {
        (Op::Put { key: stored, record }, Mutation::Put { place, key, value }) => {
            check_key(stored, *place, key);
            check_record(record, value);
        }
        (Op::Delete { key: stored }, Mutation::Delete { place, key }) => check_key(stored, *place, key),
        (
            Op::CompareAndSwap { key: stored, expected, new },
            Mutation::CompareAndSwap { place, key, expected: wanted, new: value },
        ) => {
            check_key(stored, *place, key);
            assert_eq!(expected, *wanted);
            assert_eq!(new.is_some(), value.is_some());
            if let (Some(record), Some(value)) = (new, value) {
                check_record(record, value);
            }
        }
        (op, mutation) => panic!("{op:?} came from {mutation:?}"),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        time_ms: u64,
        version: u64,
        session in session(),
        slot in 0..16384_u16,
        owned in proptest::collection::vec(mutation(), 0..6),
    ) {
        let place = KeyPlace { namespace: 7, slot };
        let mutations: Vec<_> = owned.iter().map(|mutation| mutation.borrow(place)).collect();
        let payload = encode(time_ms, version, session, &mutations);
        let command = decode(&payload).expect("an encoder's payload");
        prop_assert_eq!((command.time_ms, command.version), (time_ms, version));
        prop_assert_eq!(command.session, session);
        prop_assert_eq!(command.ops().len(), mutations.len());
        for (op, mutation) in command.ops().zip(&mutations) {
            assert_same(op, mutation, version);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(payload in bytes(300)) {
        if let Ok(command) = decode(&payload) {
            prop_assert_eq!(command.ops().count(), command.ops().len());
        }
    }

    #[test]
    fn a_flipped_byte_is_refused_or_read_whole(
        owned in proptest::collection::vec(mutation(), 1..4),
        at: prop::sample::Index,
        flip in 1..=255_u8,
    ) {
        let mutations: Vec<_> = owned.iter().map(|mutation| mutation.borrow(PLACE)).collect();
        let mut payload = encode(1, 2, None, &mutations).to_vec();
        let at = at.index(payload.len());
        payload[at] ^= flip;
        if let Ok(command) = decode(&payload) {
            prop_assert_eq!(command.ops().count(), command.ops().len());
        }
    }
}

fn sample() -> Vec<u8> {
    let session = Session { client: 1, sequence: 2, acked_below: 3 };
    let put = Mutation::Put { place: PLACE, key: b"key", value: NewValue::plain(b"value") };
    encode(10, 20, Some(session), &[put, Mutation::Delete { place: PLACE, key: b"other" }]).to_vec()
}

#[test]
fn a_payload_cut_anywhere_or_too_long_is_refused() {
    let payload = sample();
    for cut in 0..payload.len() {
        let error = decode(&payload[..cut]).expect_err("a cut payload");
        assert!(matches!(error, DecodeError::Truncated { .. }), "cut at {cut}: {error}");
    }
    let longer = [&payload[..], &[0]].concat();
    assert_eq!(decode(&longer).expect_err("a longer payload"), DecodeError::Trailing { bytes: 1 });
}

#[test]
fn each_kind_of_damage_has_its_error() {
    let put_at = HEADER_BYTES + SESSION_BYTES;
    let key_at = put_at + OP_HEADER_BYTES;
    let record_at = key_at + STORED_KEY_PREFIX_BYTES + 3;
    let damaged = |at: usize, value: u8| {
        let mut payload = sample();
        payload[at] = value;
        decode(&payload).expect_err("a damaged payload")
    };
    assert_eq!(damaged(0, 9), DecodeError::Format { found: 9 });
    assert_eq!(damaged(1, 3), DecodeError::Flags { found: 3 });
    assert_eq!(damaged(3, 1), DecodeError::Reserved { at: 2 });
    assert_eq!(damaged(put_at + 3, 1), DecodeError::Reserved { at: put_at + 3 });
    let what = |error| match error {
        DecodeError::Op { op: 0, at, what } if at == put_at => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(damaged(put_at, 9)), "unknown kind");
    assert_eq!(what(damaged(put_at, KIND_DELETE)), "its parts do not belong to its kind");
    assert_eq!(what(damaged(put_at + 1, 9)), "unknown kind of expectation");
    assert_eq!(what(damaged(put_at + 1, EXPECTED_VERSION)), "an expected version is 8 bytes");
    assert_eq!(what(damaged(put_at + 2, 2)), "the record marker is neither 0 nor 1");
    assert_eq!(what(damaged(put_at + 2, 0)), "a record where none is announced");
    assert_eq!(damaged(key_at, 0), DecodeError::Key { op: 0, source: KeyError::Tag { found: 0 } });
    let slot = KeyError::Slot { found: 0xffff };
    assert_eq!(damaged(key_at + 2, 0xff), DecodeError::Key { op: 0, source: slot });
    assert_eq!(damaged(record_at, 9), DecodeError::Record { op: 0, source: RecordError::Kind { found: 9 } });
    assert_eq!(damaged(record_at + 12, 21), DecodeError::Version { op: 0, found: 21, expected: 20 });
}

#[test]
fn stored_keys_sort_by_namespace_slot_and_key() {
    let key = |namespace, slot, key: &[u8]| StoredKeyBuf::new(namespace, slot, key).as_bytes().to_vec();
    let ordered = [
        key(0, 0, b""),
        key(0, 0, b"a"),
        key(0, 255, b"a"),
        key(0, 256, b""),
        key(0, 16383, b"z"),
        key(1, 0, b""),
    ];
    assert!(ordered.is_sorted_by(|a, b| a < b));
    assert!(ordered[4].as_slice() < &slot_range_end(0, 16383)[..]);
    assert!(slot_range_end(0, 16383)[..] < ordered[5][..]);
    assert!(slot_range_end(0, 255)[..] <= ordered[3][..]);
    assert!(ordered.iter().all(|key| key[0] != META_TAG));
    assert_eq!(session_client(&session_key(77)), Some(77));
    assert_eq!(session_client(&ordered[0]), None);
    let key = session_key(u64::MAX);
    assert!(SESSION_RANGE.0[..] <= key[..] && key[..] < SESSION_RANGE.1[..]);
}

#[test]
fn a_value_is_gone_from_its_expiry_on() {
    let visible = |expiry_ms, now_ms| {
        let value = NewValue { data: b"", flags: 0, expiry_ms };
        let payload = encode(0, 1, None, &[Mutation::Put { place: PLACE, key: b"", value }]);
        match decode(&payload).expect("a payload").ops().next() {
            Some(Op::Put { record, .. }) => record.is_visible(now_ms),
            other => panic!("{other:?}"),
        }
    };
    assert!(visible(0, u64::MAX));
    assert!(visible(100, 99));
    assert!(!visible(100, 100));
    assert!(!visible(100, 101));
}
