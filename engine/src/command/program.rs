//! Commands executed by the state machine as they were given: what a payload with the program flag holds instead of
//! operations.
//!
//! ```text
//! program = value_bytes_max u32 | watched count u32 | watched* | command*      command count: in the header
//! watched = version u64 | stored key length u32 | reserved u32 | stored key
//! command = namespace u8 | reserved u8 × 3 | argument count u32 | (length u32 | bytes)*
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use super::decode::{Cursor, DecodeError, length, u32_at, u64_at};
use super::encode::length as length32;
use super::key::{STORED_KEY_PREFIX_BYTES, StoredKey, prefix};
use super::{FLAG_PROGRAM, FORMAT, HEADER_BYTES, KeyPlace};

const PROGRAM_HEADER_BYTES: usize = 8;
const WATCHED_HEADER_BYTES: usize = 16;
const COMMAND_HEADER_BYTES: usize = 8;
const ARG_HEADER_BYTES: usize = 4;

/// A key that must be as it was, input of [`encode_program`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewWatched<'a> {
    /// Namespace and slot of the key.
    pub place: KeyPlace,
    /// The user's key.
    pub key: &'a [u8],
    /// The version it had; 0 for none.
    pub version: u64,
}

/// One command, input of [`encode_program`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCommand<'a> {
    /// The namespace of its keys.
    pub namespace: u8,
    /// Its name and arguments.
    pub args: &'a [Bytes],
}

/// A key that must be as it was, as read from a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched<'a> {
    /// The key in its stored form.
    pub key: StoredKey<'a>,
    /// The version it had; 0 for none.
    pub version: u64,
}

/// A borrowed view of a program in a payload.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Longest value that its commands may store: the leader's limit, for limits may differ between nodes.
    pub value_bytes_max: u32,
    payload: &'a [u8],
    /// Where the watched keys begin.
    at: usize,
    watched: u32,
    /// Where the commands begin.
    commands_at: usize,
    commands: u32,
}

impl<'a> Program<'a> {
    /// The keys that must be as they were.
    pub fn watched(&self) -> impl Iterator<Item = Watched<'a>> + use<'a> {
        let mut cursor = Cursor { payload: self.payload, at: self.at };
        (0..self.watched)
            .map(move |_| cursor.take_watched().expect("decode checked every part of this payload"))
    }

    /// The commands, in order: the namespace, and the arguments with the name first.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = (u8, Vec<&'a [u8]>)> + use<'a> {
        let mut cursor = Cursor { payload: self.payload, at: self.commands_at };
        let mut next = move || cursor.take_command().expect("decode checked every part of this payload");
        (0..length(self.commands)).map(move |_| next())
    }
}

/// The exact size [`encode_program`] will produce.
pub fn program_bytes<'a>(
    watched: impl Iterator<Item = NewWatched<'a>>,
    commands: impl Iterator<Item = NewCommand<'a>>,
) -> usize {
    let watched = watched.map(|it| WATCHED_HEADER_BYTES + STORED_KEY_PREFIX_BYTES + it.key.len());
    let args = |command: NewCommand<'_>| -> usize {
        command.args.iter().map(|arg| ARG_HEADER_BYTES + arg.len()).sum()
    };
    let commands = commands.map(|command| COMMAND_HEADER_BYTES + args(command));
    HEADER_BYTES + PROGRAM_HEADER_BYTES + watched.sum::<usize>() + commands.sum::<usize>()
}

/// Encodes a program: `time_ms` is the leader's clock (milliseconds since the Unix epoch), `version` the index the entry
/// will get, `value_bytes_max` the leader's limit.
///
/// # Panics
/// When a length or a number of parts does not fit 32 bits, or a slot does not exist: the front doors' limits lie far
/// below.
pub fn encode_program<'a>(
    time_ms: u64,
    version: u64,
    value_bytes_max: u32,
    watched: impl ExactSizeIterator<Item = NewWatched<'a>> + Clone,
    commands: impl ExactSizeIterator<Item = NewCommand<'a>> + Clone,
) -> Bytes {
    let total = program_bytes(watched.clone(), commands.clone());
    let mut payload = BytesMut::with_capacity(total);
    payload.put_u8(FORMAT);
    payload.put_u8(FLAG_PROGRAM);
    payload.put_u16_le(0);
    payload.put_u32_le(length32(commands.len()));
    payload.put_u64_le(time_ms);
    payload.put_u64_le(version);
    payload.put_u32_le(value_bytes_max);
    payload.put_u32_le(length32(watched.len()));
    for it in watched {
        payload.put_u64_le(it.version);
        payload.put_u32_le(length32(STORED_KEY_PREFIX_BYTES + it.key.len()));
        payload.put_u32_le(0);
        payload.put_slice(&prefix(it.place.namespace, it.place.slot));
        payload.put_slice(it.key);
    }
    for command in commands {
        payload.put_u8(command.namespace);
        payload.put_bytes(0, 3);
        payload.put_u32_le(length32(command.args.len()));
        for arg in command.args {
            payload.put_u32_le(length32(arg.len()));
            payload.put_slice(arg);
        }
    }
    assert_eq!(payload.len(), total, "the size of a payload was computed wrong");
    payload.freeze()
}

impl<'a> Cursor<'a> {
    /// Checks a program of so many commands, and steps over it.
    pub(super) fn take_program(&mut self, commands: u32) -> Result<Program<'a>, DecodeError> {
        let header = self.take_array::<PROGRAM_HEADER_BYTES>("a program's header")?;
        let (value_bytes_max, watched) = (u32_at(header, 0), u32_at(header, 4));
        let at = self.at;
        for _ in 0..watched {
            self.take_watched()?;
        }
        let commands_at = self.at;
        for op in 0..length(commands) {
            let at = self.at;
            let (_, args) = self.take_command_header()?;
            if args == 0 {
                return Err(DecodeError::Op { op, at, what: "a command without a name" });
            }
            for _ in 0..args {
                self.take_arg()?;
            }
        }
        Ok(Program { value_bytes_max, payload: self.payload, at, watched, commands_at, commands })
    }

    fn take_watched(&mut self) -> Result<Watched<'a>, DecodeError> {
        let at = self.at;
        let header = self.take_array::<WATCHED_HEADER_BYTES>("a watched key's header")?;
        if u32_at(header, 12) != 0 {
            return Err(DecodeError::Reserved { at: at + 12 });
        }
        let key = self.take(length(u32_at(header, 8)), "a watched key")?;
        let key = StoredKey::parse(key).map_err(|source| DecodeError::Key { op: 0, source })?;
        Ok(Watched { key, version: u64_at(header, 0) })
    }

    fn take_command(&mut self) -> Result<(u8, Vec<&'a [u8]>), DecodeError> {
        let (namespace, count) = self.take_command_header()?;
        let args = (0..count).map(|_| self.take_arg()).collect::<Result<_, _>>()?;
        Ok((namespace, args))
    }

    /// The namespace of the next command, and the number of its arguments.
    fn take_command_header(&mut self) -> Result<(u8, u32), DecodeError> {
        let at = self.at;
        let header = self.take_array::<COMMAND_HEADER_BYTES>("a command's header")?;
        if header[1..4] != [0, 0, 0] {
            return Err(DecodeError::Reserved { at: at + 1 });
        }
        Ok((header[0], u32_at(header, 4)))
    }

    fn take_arg(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = u32_at(self.take_array::<ARG_HEADER_BYTES>("an argument's length")?, 0);
        self.take(length(bytes), "an argument")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::{Mutation, Session, decode, encode};

    type OwnedWatched = (u8, u16, Vec<u8>, u64);
    type OwnedCommand = (u8, Vec<Bytes>);

    fn encoded(value_bytes_max: u32, watched: &[OwnedWatched], commands: &[OwnedCommand]) -> Bytes {
        let watched = watched.iter().map(|(namespace, slot, key, version)| NewWatched {
            place: KeyPlace { namespace: *namespace, slot: *slot },
            key,
            version: *version,
        });
        let commands = commands.iter().map(|(namespace, args)| NewCommand { namespace: *namespace, args });
        encode_program(10, 20, value_bytes_max, watched, commands)
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
    }

    fn watched() -> impl Strategy<Value = Vec<OwnedWatched>> {
        proptest::collection::vec((any::<u8>(), 0..16384_u16, bytes(), any::<u64>()), 0..4)
    }

    fn commands() -> impl Strategy<Value = Vec<OwnedCommand>> {
        let args = proptest::collection::vec(bytes().prop_map(Bytes::from), 1..5);
        proptest::collection::vec((any::<u8>(), args), 0..5)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            value_bytes_max: u32,
            watched in watched(),
            commands in commands(),
        ) {
            let payload = encoded(value_bytes_max, &watched, &commands);
            let command = decode(&payload).expect("an encoder's payload");
            prop_assert_eq!((command.time_ms, command.version, command.ops().len()), (10, 20, 0));
            let program = command.program.expect("a program");
            prop_assert_eq!(program.value_bytes_max, value_bytes_max);
            let found: Vec<OwnedWatched> = program
                .watched()
                .map(|it| (it.key.namespace(), it.key.slot(), it.key.user_key().to_vec(), it.version))
                .collect();
            prop_assert_eq!(found, watched);
            prop_assert_eq!(program.commands().len(), commands.len());
            for ((namespace, args), expected) in program.commands().zip(&commands) {
                prop_assert_eq!(namespace, expected.0);
                prop_assert_eq!(&args, &expected.1);
            }
        }

        #[test]
        fn a_damaged_one_is_refused_or_read_whole(
            watched in watched(),
            commands in commands(),
            at: prop::sample::Index,
            value: u8,
        ) {
            let mut payload = encoded(1, &watched, &commands).to_vec();
            let at = at.index(payload.len());
            payload[at] = value;
            if let Some(program) = decode(&payload).ok().and_then(|command| command.program) {
                program.watched().for_each(drop);
                program.commands().for_each(drop);
            }
        }
    }

    fn sample() -> Vec<u8> {
        let args = ["INCRBY", "key", "5"].map(Bytes::from).to_vec();
        encoded(100, &[(3, 9, b"key".to_vec(), 7)], &[(3, args)]).to_vec()
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
        let damaged = |at: usize, bytes: &[u8]| {
            let mut payload = sample();
            payload[at..at + bytes.len()].copy_from_slice(bytes);
            decode(&payload).expect_err("a damaged payload")
        };
        let watched_at = HEADER_BYTES + PROGRAM_HEADER_BYTES;
        let command_at = watched_at + WATCHED_HEADER_BYTES + STORED_KEY_PREFIX_BYTES + 3;
        let reserved = |at| DecodeError::Reserved { at };
        assert_eq!(damaged(watched_at + 14, &[1]), reserved(watched_at + 12));
        assert_eq!(damaged(command_at + 2, &[1]), reserved(command_at + 1));
        let nameless = DecodeError::Op { op: 0, at: command_at, what: "a command without a name" };
        assert_eq!(damaged(command_at + 4, &[0]), nameless);
        let key = damaged(watched_at + WATCHED_HEADER_BYTES, &[0]);
        assert!(matches!(key, DecodeError::Key { .. }), "{key}");
        // The command behind the watched key is read as another one.
        let crowd = damaged(HEADER_BYTES + 4, &u32::MAX.to_le_bytes());
        assert!(matches!(crowd, DecodeError::Reserved { .. }), "{crowd}");
        for count_at in [4, watched_at + 8, command_at + 4, command_at + 8] {
            let error = damaged(count_at, &u32::MAX.to_le_bytes());
            assert!(matches!(error, DecodeError::Truncated { .. }), "{error}");
        }
    }

    /// A program is never taken for a repetition, so it must not look as if it could be one.
    #[test]
    fn a_program_with_a_session_is_refused() {
        let session = Some(Session { client: 1, sequence: 2, acked_below: 3 });
        let place = KeyPlace { namespace: 0, slot: 0 };
        let mut payload = encode(1, 2, session, &[Mutation::Delete { place, key: b"" }]).to_vec();
        payload[1] |= FLAG_PROGRAM;
        assert_eq!(decode(&payload).expect_err("both flags"), DecodeError::Flags { found: 3 });
    }
}
