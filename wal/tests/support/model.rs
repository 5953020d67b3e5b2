//! What a WAL must hold: every command ever given, with the LSN at which it takes effect.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use bytes::Bytes;
use wal::{Entry, Lsn, StreamId, StreamState, Wal};

/// What a record takes besides its payload.
pub const RECORD_HEADER_BYTES: usize = 40;

/// A command of one record.
#[derive(Debug, Clone)]
pub enum Command {
    Append(Entry),
    Truncate(u64),
    State(StreamState),
    Compact { index: u64, term: u64 },
    Reset { index: u64, term: u64 },
    Remove,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelStream {
    pub base: (u64, u64),
    pub entries: Vec<Entry>,
    pub state: Option<StreamState>,
}

impl ModelStream {
    pub fn last_index(&self) -> u64 {
        self.base.0 + u64::try_from(self.entries.len()).unwrap()
    }

    pub fn last_term(&self) -> u64 {
        self.entries.last().map_or(self.base.1, |entry| entry.term)
    }
}

pub type Streams = BTreeMap<StreamId, ModelStream>;

#[derive(Debug, Clone, Default)]
pub struct Model {
    history: Vec<(Lsn, StreamId, Command)>,
    /// The effect of the whole history.
    pub now: Streams,
}

impl Model {
    /// Gives the command to the WAL and remembers it.
    pub fn give(&mut self, wal: &mut Wal, stream: StreamId, command: Command) -> Lsn {
        let before = wal.end_lsn();
        let lsn = match &command {
            Command::Append(entry) => wal.append(stream, std::slice::from_ref(entry)),
            Command::Truncate(from) => wal.truncate_suffix(stream, *from),
            Command::State(state) => wal.set_state(stream, *state),
            Command::Compact { index, term } => wal.compact_to(stream, *index, *term),
            Command::Reset { index, term } => wal.reset(stream, *index, *term),
            Command::Remove => wal.remove(stream),
        };
        assert!(lsn >= before);
        apply(&mut self.now, stream, &command);
        self.history.push((lsn, stream, command));
        lsn
    }

    /// The streams as of an LSN.
    pub fn at(&self, lsn: Lsn) -> Streams {
        let mut streams = Streams::new();
        for (_, stream, command) in self.history.iter().take_while(|(end, _, _)| *end <= lsn) {
            apply(&mut streams, *stream, command);
        }
        streams
    }

    /// Forgets what a crash cut off.
    pub fn cut(&mut self, lsn: Lsn) {
        self.history.retain(|(end, _, _)| *end <= lsn);
        self.now = self.at(lsn);
    }
}

fn apply(streams: &mut Streams, stream: StreamId, command: &Command) {
    match command {
        Command::Remove => {
            streams.remove(&stream);
        }
        Command::Truncate(from) => {
            if let Some(model) = streams.get_mut(&stream) {
                model.entries.retain(|entry| entry.index < *from);
            }
        }
        Command::Append(entry) => {
            let model = streams.entry(stream).or_default();
            model.entries.retain(|old| old.index < entry.index);
            model.entries.push(entry.clone());
        }
        Command::Reset { index, term } => {
            let model = streams.entry(stream).or_default();
            model.base = (*index, *term);
            model.entries.clear();
        }
        Command::State(state) => streams.entry(stream).or_default().state = Some(*state),
        Command::Compact { index, term } => {
            let model = streams.entry(stream).or_default();
            if *index > model.base.0 {
                model.base = (*index, *term);
                model.entries.retain(|entry| entry.index > *index);
            }
        }
    }
}

/// A payload that says where it belongs, so that no entry can pass for another.
pub fn payload(stream: StreamId, index: u64, term: u64, len: usize) -> Bytes {
    let text = format!("{}/{index}/{term};", stream.0);
    text.bytes().cycle().take(len).collect::<Vec<u8>>().into()
}

/// Panics unless the WAL holds exactly `streams`; `fetch` reads from its disk.
pub fn assert_holds(wal: &Wal, streams: &Streams, mut fetch: impl FnMut(&wal::ReadPlan) -> Vec<Entry>) {
    let found: Vec<StreamId> = wal.streams().collect();
    let expected: Vec<StreamId> = streams.keys().copied().collect();
    assert_eq!(found, expected, "the streams");
    for (stream, model) in streams {
        assert_eq!(wal.state(*stream), model.state, "{stream}");
        assert_eq!(wal.first_index(*stream), model.base.0 + 1, "{stream}");
        assert_eq!(wal.last_index(*stream), model.last_index(), "{stream}");
        assert_eq!(wal.term(*stream, model.base.0), Ok(model.base.1), "{stream}");
        let bytes: usize = model.entries.iter().map(|entry| RECORD_HEADER_BYTES + entry.payload.len()).sum();
        assert_eq!(wal.stream_bytes(*stream), u64::try_from(bytes).unwrap(), "{stream}");
        for entry in &model.entries {
            assert_eq!(wal.term(*stream, entry.index), Ok(entry.term), "{stream} {}", entry.index);
        }
        assert_eq!(read_all(wal, *stream, &mut fetch), model.entries, "{stream}");
    }
}

fn read_all(wal: &Wal, stream: StreamId, fetch: &mut impl FnMut(&wal::ReadPlan) -> Vec<Entry>) -> Vec<Entry> {
    const BYTES_MAX: u64 = 9000;
    let (mut low, high) = (wal.first_index(stream), wal.last_index(stream) + 1);
    let mut all = Vec::new();
    while low < high {
        let some = match wal.entries(stream, low, high, BYTES_MAX) {
            Ok(entries) => entries,
            Err(wal::ReadError::OnDisk) => {
                let plan =
                    wal.plan_read(stream, low, high, BYTES_MAX).expect("entries on disk can be planned");
                assert!(plan.extents().iter().all(|extent| {
                    extent.offset_bytes % wal::BLOCK == 0 && extent.len_bytes % wal::BLOCK_BYTES == 0
                }));
                fetch(&plan)
            }
            Err(other) => panic!("{stream} {low}..{high}: {other}"),
        };
        assert!(!some.is_empty(), "at least one entry");
        low += u64::try_from(some.len()).unwrap();
        all.extend(some);
    }
    all
}
