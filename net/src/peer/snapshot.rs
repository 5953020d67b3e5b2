//! One snapshot on a connection of its own:
//!
//! ```text
//!   sender                                              receiver
//!     SnapshotHeader   which replica, of what, which files  ──▶
//!                  ◀── SnapshotAnswer   what it already holds of each file, or why it wants none
//!     SnapshotChunk    a piece of a file  ──▶  …  ──▶
//!                  ◀── SnapshotEnd      all there, on disk and checked; or what is wrong
//! ```
//!
//! Either side may close at any time; the receiver keeps what it has, and the next attempt begins there. TCP is the
//! flow control: a receiver that reads slowly slows the sender.
//!
//! Decoders check bounds and form. Whether chunks fit their file, and whether the bytes are those that were promised,
//! is for whoever keeps the files.

use super::{POSITION_MAX, PeerEncoder};
use crate::frame::{Frame, FrameKind, FrameTooLong};
use crate::generated::peer_generated as wire;
use crate::protocol::{DecodeError, Payload, expect_kind, piece_len, verified};
use bytes::{Bytes, BytesMut};
use flatbuffers::Vector;
use std::collections::HashSet;

/// Most members of each list of a [`ConfState`].
pub const MEMBERS_MAX: usize = 64;
/// Most files of a snapshot. A replica of hundreds of gigabytes has thousands.
pub const FILES_MAX: usize = 64 * 1024;
/// Longest name of a file, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// The members of a group at the index of a snapshot, by their raft ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Those who vote, never none; the incoming ones while a change is under way.
    pub voters: Vec<u64>,
    /// Those who only follow.
    pub learners: Vec<u64>,
    /// Those who voted before the change under way; none when there is none.
    pub voters_outgoing: Vec<u64>,
}

/// First frame of a snapshot, from its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The shard.
    pub shard: u32,
    /// Raft id of the sending replica.
    pub from: u64,
    /// Raft id of the replica it is for.
    pub to: u64,
    /// The sender's term.
    pub term: u64,
    /// Index of the last entry the snapshot contains.
    pub index: u64,
    /// Term of that entry.
    pub snapshot_term: u64,
    /// The members as of that entry.
    pub conf_state: ConfState,
    /// What it consists of, in the order that chunks count them.
    pub files: Vec<SnapshotFile>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// A relative path below the snapshot's folder: names joined by `/`, none of them empty, `.` or `..`.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
    /// CRC32C of all of it.
    pub crc32c: u32,
}

/// The receiver's answer to a [`SnapshotHeader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotAnswer {
    /// Send.
    Accept {
        /// For each file of the header, how many of its bytes are there already: begin after them.
        have: Vec<u64>,
    },
    /// Do not send.
    Refuse {
        /// For people.
        reason: String,
    },
}

/// A piece of a file, from the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Position of the file in the header.
    pub file: u32,
    /// Where in the file the piece begins.
    pub offset: u64,
    /// The piece: a slice of the frame, never empty.
    pub data: Bytes,
}

/// Last frame of a snapshot, from its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// That all is on disk and checked, or what is wrong.
    pub result: Result<(), String>,
}

impl PeerEncoder {
    /// Appends a snapshot's header.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn snapshot_header(
        &mut self,
        header: &SnapshotHeader,
        out: &mut BytesMut,
    ) -> Result<(), FrameTooLong> {
        let builder = &mut self.builder;
        builder.reset();
        let list = |ids: &[u64], builder: &mut crate::protocol::Builder| {
            (!ids.is_empty()).then(|| builder.create_vector(ids))
        };
        let files = header
            .files
            .iter()
            .map(|file| wire::SnapshotFile::new(file.bytes, file.crc32c, piece_len(file.name.as_bytes())));
        let args = wire::SnapshotHeaderArgs {
            shard: header.shard,
            from: header.from,
            to: header.to,
            term: header.term,
            index: header.index,
            snapshot_term: header.snapshot_term,
            voters: Some(builder.create_vector(&header.conf_state.voters)),
            learners: list(&header.conf_state.learners, builder),
            voters_outgoing: list(&header.conf_state.voters_outgoing, builder),
            files: Some(builder.create_vector_from_iter(files)),
        };
        let root = wire::SnapshotHeader::create(builder, &args);
        let names: Vec<&[u8]> = header.files.iter().map(|file| file.name.as_bytes()).collect();
        self.seal(root, FrameKind::SnapshotHeader, &names, out)
    }

    /// Appends the answer to a snapshot's header.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn snapshot_answer(
        &mut self,
        answer: &SnapshotAnswer,
        out: &mut BytesMut,
    ) -> Result<(), FrameTooLong> {
        let builder = &mut self.builder;
        builder.reset();
        let args = match answer {
            SnapshotAnswer::Accept { have } => {
                wire::SnapshotAnswerArgs { have: Some(builder.create_vector(have)), refusal: None }
            }
            SnapshotAnswer::Refuse { reason } => {
                wire::SnapshotAnswerArgs { have: None, refusal: Some(builder.create_string(reason)) }
            }
        };
        let root = wire::SnapshotAnswer::create(builder, &args);
        self.seal(root, FrameKind::SnapshotAnswer, &[], out)
    }

    /// Appends a piece of a file; `data` is copied once.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended: send shorter pieces.
    pub fn snapshot_chunk(
        &mut self,
        file: u32,
        offset: u64,
        data: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), FrameTooLong> {
        debug_assert!(!data.is_empty(), "an empty chunk says nothing and is refused");
        self.builder.reset();
        let root = wire::SnapshotChunk::create(&mut self.builder, &wire::SnapshotChunkArgs { file, offset });
        self.seal(root, FrameKind::SnapshotChunk, &[data], out)
    }

    /// Appends a snapshot's end.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn snapshot_end(&mut self, end: &SnapshotEnd, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        let builder = &mut self.builder;
        builder.reset();
        let error = end.result.as_ref().err().map(|error| builder.create_string(error));
        let root = wire::SnapshotEnd::create(builder, &wire::SnapshotEndArgs { error });
        self.seal(root, FrameKind::SnapshotEnd, &[], out)
    }
}

/// Reads a [`SnapshotHeader`].
///
/// # Errors
/// [`DecodeError`]; report and close.
pub fn decode_snapshot_header(frame: &Frame) -> Result<SnapshotHeader, DecodeError> {
    expect_kind(frame, FrameKind::SnapshotHeader)?;
    let header = verified::<wire::SnapshotHeader<'_>>(&frame.meta)?;
    let mut payload = Payload::new(frame.payload.clone());
    let conf_state = ConfState {
        voters: members(Some(header.voters()))?,
        learners: members(header.learners())?,
        voters_outgoing: members(header.voters_outgoing())?,
    };
    check_conf_state(&conf_state)?;
    let files = files(header.files(), &mut payload)?;
    payload.finish()?;
    if header.index() == 0 || header.index().max(header.term()).max(header.snapshot_term()) > POSITION_MAX {
        return Err(inconsistent("a snapshot of no entry"));
    }
    Ok(SnapshotHeader {
        shard: header.shard(),
        from: header.from(),
        to: header.to(),
        term: header.term(),
        index: header.index(),
        snapshot_term: header.snapshot_term(),
        conf_state,
        files,
    })
}

/// Reads a [`SnapshotAnswer`]. That it has a number for each file of the header is for the caller to check.
///
/// # Errors
/// [`DecodeError`]; close.
pub fn decode_snapshot_answer(frame: &Frame) -> Result<SnapshotAnswer, DecodeError> {
    expect_kind(frame, FrameKind::SnapshotAnswer)?;
    let answer = verified::<wire::SnapshotAnswer<'_>>(&frame.meta)?;
    Payload::new(frame.payload.clone()).finish()?;
    match (answer.have(), answer.refusal()) {
        (Some(have), None) if have.len() <= FILES_MAX => {
            Ok(SnapshotAnswer::Accept { have: have.iter().collect() })
        }
        (Some(_), None) => Err(inconsistent("too many files")),
        (None, Some(reason)) => Ok(SnapshotAnswer::Refuse { reason: reason.to_owned() }),
        _ => Err(inconsistent("neither accepted nor refused, or both")),
    }
}

/// Reads a [`SnapshotChunk`]; its data are a slice of the frame.
///
/// # Errors
/// [`DecodeError`]; report and close.
pub fn decode_snapshot_chunk(frame: &Frame) -> Result<SnapshotChunk, DecodeError> {
    expect_kind(frame, FrameKind::SnapshotChunk)?;
    let chunk = verified::<wire::SnapshotChunk<'_>>(&frame.meta)?;
    let data = Payload::new(frame.payload.clone()).take_rest();
    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
    if data.is_empty() {
        return Err(inconsistent("an empty chunk"));
    }
    if chunk.offset().checked_add(length).is_none() {
        return Err(inconsistent("a chunk past the end of all files"));
    }
    Ok(SnapshotChunk { file: chunk.file(), offset: chunk.offset(), data })
}

/// Reads a [`SnapshotEnd`].
///
/// # Errors
/// [`DecodeError`]; close.
pub fn decode_snapshot_end(frame: &Frame) -> Result<SnapshotEnd, DecodeError> {
    expect_kind(frame, FrameKind::SnapshotEnd)?;
    let end = verified::<wire::SnapshotEnd<'_>>(&frame.meta)?;
    Payload::new(frame.payload.clone()).finish()?;
    Ok(SnapshotEnd { result: end.error().map_or(Ok(()), |error| Err(error.to_owned())) })
}

fn inconsistent(why: &'static str) -> DecodeError {
    DecodeError::Inconsistent { why }
}

fn members(list: Option<Vector<'_, u64>>) -> Result<Vec<u64>, DecodeError> {
    let list = list.unwrap_or_default();
    if list.len() > MEMBERS_MAX {
        return Err(inconsistent("too many members"));
    }
    Ok(list.iter().collect())
}

/// What a configuration can never be, whoever made it.
fn check_conf_state(state: &ConfState) -> Result<(), DecodeError> {
    if state.voters.is_empty() {
        return Err(inconsistent("a configuration without voters"));
    }
    for list in [&state.voters, &state.learners, &state.voters_outgoing] {
        let distinct: HashSet<&u64> = list.iter().collect();
        if distinct.len() < list.len() {
            return Err(inconsistent("a member named twice"));
        }
        if distinct.contains(&0) {
            return Err(inconsistent("a member without an id"));
        }
    }
    if state.learners.iter().any(|it| state.voters.contains(it)) {
        return Err(inconsistent("a member that both votes and learns"));
    }
    Ok(())
}

fn files(
    list: Vector<'_, wire::SnapshotFile>,
    payload: &mut Payload,
) -> Result<Vec<SnapshotFile>, DecodeError> {
    if list.len() > FILES_MAX {
        return Err(inconsistent("too many files"));
    }
    let mut files = Vec::with_capacity(list.len());
    let mut names = HashSet::with_capacity(list.len());
    let mut total = 0u64;
    for file in list {
        let name = payload.take(file.name_len())?;
        let name = std::str::from_utf8(&name).map_err(|_| inconsistent("the name of a file is no text"))?;
        check_name(name)?;
        if !names.insert(name.to_owned()) {
            return Err(inconsistent("a file named twice"));
        }
        total = total.checked_add(file.bytes()).ok_or(inconsistent("files longer than any disk"))?;
        files.push(SnapshotFile { name: name.to_owned(), bytes: file.bytes(), crc32c: file.crc32c() });
    }
    Ok(files)
}

/// That a name stays below the folder it is put into.
fn check_name(name: &str) -> Result<(), DecodeError> {
    let long = name.len() > NAME_BYTES_MAX;
    let strange = name.contains(['\0', '\\']) || name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if long || strange { Err(inconsistent("no name for a file")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
