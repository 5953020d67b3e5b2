//! The stored form of a session: compact, because it is written once per session and batch.
//!
//! ```text
//! record   = format u8 | last_used | floor | outcome count | outcome*           numbers are LEB128 varints
//! outcome  = sequence - floor | mutation count | version | mutation*
//! mutation = kind u8 | current version (only with KIND_NOT_SWAPPED)
//! ```
//!
//! `version` is the one all writes of a command share (0 where nothing was written). A single put takes
//! five to eight bytes.

use std::collections::VecDeque;

use super::super::outcome::{MutationOutcome, Outcome};
use super::{ClientSession, SessionCorrupt, weight};

const FORMAT: u8 = 1;
const KIND_PUT: u8 = 1;
const KIND_DELETED: u8 = 2;
const KIND_DELETED_NOTHING: u8 = 3;
const KIND_SWAPPED: u8 = 4;
const KIND_NOT_SWAPPED: u8 = 5;
const KIND_NOT_SWAPPED_ABSENT: u8 = 6;
const KIND_NOT_APPLIED: u8 = 7;
/// A varint of 64 bits takes at most this many bytes.
const VARINT_BYTES_MAX: usize = 10;

/// Appends the record of `session` to `out`.
pub(super) fn encode(session: &ClientSession, out: &mut Vec<u8>) {
    out.push(FORMAT);
    put_varint(out, session.last_used);
    put_varint(out, session.floor);
    put_varint(out, count(session.outcomes.len()));
    for (sequence, outcome) in &session.outcomes {
        let mutations = outcome.mutations();
        put_varint(out, sequence - session.floor);
        put_varint(out, count(mutations.len()));
        put_varint(out, written_version(mutations));
        for mutation in mutations {
            put_mutation(out, *mutation);
        }
    }
}

/// Reads a record back.
pub(super) fn decode(client: u64, record: &[u8]) -> Result<ClientSession, SessionCorrupt> {
    let mut reader = Reader { client, record, at: 0 };
    let format = reader.byte()?;
    if format != FORMAT {
        return Err(reader.corrupt("unknown format"));
    }
    let last_used = reader.varint()?;
    let floor = reader.varint()?;
    let outcomes = reader.varint()?;
    let mut session = ClientSession { last_used, floor, outcomes: VecDeque::new(), weight: 0 };
    let mut lowest = floor;
    for _ in 0..outcomes {
        let sequence = floor.checked_add(reader.varint()?);
        let Some(sequence) = sequence.filter(|sequence| *sequence >= lowest) else {
            return Err(reader.corrupt("its sequences do not ascend"));
        };
        lowest = sequence.saturating_add(1);
        let outcome = reader.outcome()?;
        session.weight += weight(&outcome);
        session.outcomes.push_back((sequence, outcome));
    }
    if reader.at != record.len() {
        return Err(reader.corrupt("bytes trail its last outcome"));
    }
    Ok(session)
}

/// The version the writes among `mutations` share.
fn written_version(mutations: &[MutationOutcome]) -> u64 {
    let version = |mutation: &MutationOutcome| match mutation {
        MutationOutcome::Put { version } | MutationOutcome::Swapped { version } => Some(*version),
        _ => None,
    };
    mutations.iter().find_map(version).unwrap_or(0)
}

fn put_mutation(out: &mut Vec<u8>, mutation: MutationOutcome) {
    match mutation {
        MutationOutcome::Put { .. } => out.push(KIND_PUT),
        MutationOutcome::Deleted { existed: true } => out.push(KIND_DELETED),
        MutationOutcome::Deleted { existed: false } => out.push(KIND_DELETED_NOTHING),
        MutationOutcome::Swapped { .. } => out.push(KIND_SWAPPED),
        MutationOutcome::NotSwapped { current: Some(version) } => {
            out.push(KIND_NOT_SWAPPED);
            put_varint(out, version);
        }
        MutationOutcome::NotSwapped { current: None } => out.push(KIND_NOT_SWAPPED_ABSENT),
        MutationOutcome::NotApplied => out.push(KIND_NOT_APPLIED),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("a length fits 64 bits")
}

struct Reader<'a> {
    client: u64,
    record: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn corrupt(&self, what: &'static str) -> SessionCorrupt {
        SessionCorrupt { client: self.client, at: self.at, what }
    }

    fn byte(&mut self) -> Result<u8, SessionCorrupt> {
        let byte = self.record.get(self.at).copied().ok_or_else(|| self.corrupt("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64, SessionCorrupt> {
        let mut value = 0;
        for place in 0..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * place;
            if (bits << shift) >> shift != bits {
                return Err(self.corrupt("a number exceeds 64 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number exceeds 64 bits"))
    }

    fn outcome(&mut self) -> Result<Outcome, SessionCorrupt> {
        let mutations = self.varint()?;
        let version = self.varint()?;
        // Not reserved up front: the count is not to be trusted further than the record reaches.
        let mut outcomes = Vec::new();
        for _ in 0..mutations {
            outcomes.push(self.mutation(version)?);
        }
        if written_version(&outcomes) != version {
            return Err(self.corrupt("a version without a write"));
        }
        Ok(Outcome::from(outcomes))
    }

    fn mutation(&mut self, version: u64) -> Result<MutationOutcome, SessionCorrupt> {
        Ok(match self.byte()? {
            KIND_PUT => MutationOutcome::Put { version },
            KIND_DELETED => MutationOutcome::Deleted { existed: true },
            KIND_DELETED_NOTHING => MutationOutcome::Deleted { existed: false },
            KIND_SWAPPED => MutationOutcome::Swapped { version },
            KIND_NOT_SWAPPED => MutationOutcome::NotSwapped { current: Some(self.varint()?) },
            KIND_NOT_SWAPPED_ABSENT => MutationOutcome::NotSwapped { current: None },
            KIND_NOT_APPLIED => MutationOutcome::NotApplied,
            _ => return Err(self.corrupt("unknown kind of outcome")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ClientSession {
        let outcomes = [
            (5, Outcome::One(MutationOutcome::Put { version: 300 })),
            (6, Outcome::One(MutationOutcome::NotSwapped { current: Some(u64::MAX) })),
            (
                u64::MAX,
                Outcome::from(vec![
                    MutationOutcome::NotApplied,
                    MutationOutcome::NotSwapped { current: None },
                ]),
            ),
        ];
        let more = [
            MutationOutcome::Swapped { version: 9 },
            MutationOutcome::Deleted { existed: true },
            MutationOutcome::Deleted { existed: false },
        ];
        let mut outcomes = VecDeque::from(outcomes);
        outcomes.insert(2, (7, Outcome::from(more.to_vec())));
        outcomes.insert(3, (8, Outcome::from(Vec::new())));
        let weight = outcomes.iter().map(|(_, outcome)| weight(outcome)).sum();
        ClientSession { last_used: u64::MAX, floor: 3, outcomes, weight }
    }

    #[test]
    fn a_session_is_read_as_it_was_written_and_a_put_is_small() {
        let mut record = Vec::new();
        encode(&sample(), &mut record);
        assert_eq!(decode(1, &record), Ok(sample()));
        let outcomes = VecDeque::from([(1_000_000, Outcome::One(MutationOutcome::Put { version: 1 << 40 }))]);
        let session = ClientSession { last_used: 1, floor: 999_990, outcomes, weight: 1 };
        record.clear();
        encode(&session, &mut record);
        assert!(record.len() <= 16, "{} bytes", record.len());
        assert_eq!(decode(1, &record), Ok(session));
    }

    #[test]
    fn damage_is_named_and_never_panics() {
        let mut record = Vec::new();
        encode(&sample(), &mut record);
        for cut in 0..record.len() {
            assert!(decode(1, &record[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..record.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = record.clone();
                damaged[at] ^= flip;
                assert_ne!(decode(1, &damaged), Ok(sample()), "{flip:#x} at {at}");
            }
        }
        let trailing = [&record[..], &[0]].concat();
        assert_eq!(decode(1, &trailing).map_err(|error| error.what), Err("bytes trail its last outcome"));
        let descending = [FORMAT, 1, 0, 2, 5, 1, 0, KIND_NOT_APPLIED, 5, 1, 0, KIND_NOT_APPLIED];
        assert_eq!(decode(1, &descending).map_err(|error| error.what), Err("its sequences do not ascend"));
        let long = [FORMAT, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(decode(1, &long).map_err(|error| error.what), Err("a number exceeds 64 bits"));
    }
}
