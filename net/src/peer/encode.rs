//! Peer messages to frames: many messages a frame, entry data copied once.

use super::{
    AppendResult, FRAME_MESSAGES_MAX, GroupBody, GroupMessage, MapChange, PeerEntry, PeerHello,
    PeerHelloReply, Purpose, ShardReport, StoreInfo,
};
use crate::frame::{FrameKind, FrameTooLong, FrameWriter};
use crate::generated::peer_generated as wire;
use crate::protocol::{Builder, piece_len};
use crate::types::RequestId;
use bytes::{Bytes, BytesMut};
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

/// Rough metadata of one message and of one entry; only the cut into frames depends on them.
const MESSAGE_META_BYTES: usize = 128;
const ENTRY_META_BYTES: usize = 24;
const REPORT_META_BYTES: usize = 160;
const MAP_CHANGE_META_BYTES: usize = 16;

/// Why messages were not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerEncodeError {
    /// One message alone is over the hard limit: the consensus core was allowed appends longer than the
    /// frames of this connection. Nothing of it was written; the messages before it were.
    #[error("message {position} does not fit a frame: {source}")]
    MessageTooLong {
        /// Its place in the list.
        position: usize,
        /// How long it is.
        source: FrameTooLong,
    },
}

/// Encodes messages of the peer door as frames. Keep one per connection: its buffers are reused.
pub struct PeerEncoder {
    pub(super) builder: Builder,
    offsets: Vec<WIPOffset<wire::GroupMessage<'static>>>,
    frame_bytes_target: usize,
    frame_bytes_max: u32,
}

impl PeerEncoder {
    /// An encoder that starts a new frame when one would exceed `frame_bytes_target`, and refuses a single
    /// message over `frame_bytes_max`.
    #[must_use]
    pub fn new(frame_bytes_target: usize, frame_bytes_max: u32) -> PeerEncoder {
        PeerEncoder {
            builder: FlatBufferBuilder::new(),
            offsets: Vec::new(),
            frame_bytes_target,
            frame_bytes_max,
        }
    }

    /// Appends a hello.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn hello(&mut self, hello: &PeerHello, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let args = wire::PeerHelloArgs {
            version: hello.version,
            node: hello.node,
            core: hello.core,
            cluster_id: Some(self.builder.create_string(&hello.cluster_id)),
            wants_core: hello.wants_core,
            purpose: purpose(hello.purpose),
            store: hello.store.store,
            settled: hello.store.settled,
            founders: founders(&mut self.builder, &hello.store),
            vote_hold_ms: hello.vote_hold_ms,
        };
        let root = wire::PeerHello::create(&mut self.builder, &args);
        self.seal_bare(root, FrameKind::PeerHello, out)
    }

    /// Appends a hello's answer.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn hello_reply(&mut self, reply: &PeerHelloReply, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let args = wire::PeerHelloReplyArgs {
            version: reply.version,
            node: reply.node,
            core: reply.core,
            store: reply.store.store,
            settled: reply.store.settled,
            founders: founders(&mut self.builder, &reply.store),
            vote_hold_ms: reply.vote_hold_ms,
        };
        let root = wire::PeerHelloReply::create(&mut self.builder, &args);
        self.seal_bare(root, FrameKind::PeerHelloReply, out)
    }

    /// Appends all `messages`, in order, in as few frames as the target allows; of none, one empty frame, which is a
    /// sign of life. Returns how many.
    ///
    /// # Errors
    /// [`PeerEncodeError`]; the messages before the one it names were appended.
    pub fn messages(
        &mut self,
        messages: &[GroupMessage],
        out: &mut BytesMut,
    ) -> Result<usize, PeerEncodeError> {
        let (mut first, mut frames) = (0, 0);
        while first < messages.len() || frames == 0 {
            let count = self.fitting(&messages[first..]);
            self.one_frame(&messages[first..first + count], out).map_err(|source| {
                // A frame of several messages stays under the target, so this is a message alone.
                PeerEncodeError::MessageTooLong { position: first, source }
            })?;
            first += count;
            frames += 1;
        }
        Ok(frames)
    }

    /// How many of the messages go into the next frame; at least one.
    fn fitting(&self, messages: &[GroupMessage]) -> usize {
        let hard = usize::try_from(self.frame_bytes_max).unwrap_or(usize::MAX);
        let target = self.frame_bytes_target.min(hard);
        let mut bytes = 0usize;
        for (position, message) in messages.iter().enumerate() {
            bytes = bytes.saturating_add(estimated_bytes(message));
            if bytes > target || position == FRAME_MESSAGES_MAX {
                return position.max(1);
            }
        }
        messages.len()
    }

    fn one_frame(&mut self, messages: &[GroupMessage], out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        self.offsets.clear();
        for message in messages {
            let offset = group_message(&mut self.builder, message);
            self.offsets.push(offset);
        }
        let list = self.builder.create_vector(&self.offsets);
        let root = wire::Messages::create(&mut self.builder, &wire::MessagesArgs { messages: Some(list) });
        self.builder.finish(root, None);
        let data = || messages.iter().flat_map(pieces);
        let payload_bytes = data().map(Bytes::len).sum();
        let meta = self.builder.finished_data();
        let mut frame = FrameWriter::begin(
            out,
            FrameKind::PeerMessages,
            RequestId(0),
            meta,
            payload_bytes,
            self.frame_bytes_max,
        )?;
        for piece in data() {
            frame.put(piece);
        }
        frame.finish();
        Ok(())
    }

    fn seal_bare<T>(
        &mut self,
        root: WIPOffset<T>,
        kind: FrameKind,
        out: &mut BytesMut,
    ) -> Result<(), FrameTooLong> {
        self.seal(root, kind, &[], out)
    }

    /// Finishes a frame of the metadata `root` and the `pieces` of its payload.
    pub(super) fn seal<T>(
        &mut self,
        root: WIPOffset<T>,
        kind: FrameKind,
        pieces: &[&[u8]],
        out: &mut BytesMut,
    ) -> Result<(), FrameTooLong> {
        self.builder.finish(root, None);
        let meta = self.builder.finished_data();
        let payload_bytes = pieces.iter().map(|piece| piece.len()).sum();
        let mut frame =
            FrameWriter::begin(out, kind, RequestId(0), meta, payload_bytes, self.frame_bytes_max)?;
        for piece in pieces {
            frame.put(piece);
        }
        frame.finish();
        Ok(())
    }
}

fn purpose(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::Messages => 0,
        Purpose::Snapshot => 1,
        Purpose::Identity => 2,
    }
}

type Founders = WIPOffset<flatbuffers::Vector<'static, wire::Founder>>;

fn founders(builder: &mut Builder, store: &StoreInfo) -> Option<Founders> {
    if store.founders.is_empty() {
        return None;
    }
    let founders = store.founders.iter().map(|it| wire::Founder::new(it.node, it.store));
    Some(builder.create_vector_from_iter(founders))
}

/// What of a message goes into the payload.
fn pieces(message: &GroupMessage) -> impl Iterator<Item = &Bytes> {
    let entries = if let GroupBody::Append { entries, .. } = &message.body { &entries[..] } else { &[] };
    let changes = if let GroupBody::MapChanges(changes) = &message.body { &changes[..] } else { &[] };
    entries.iter().map(|entry| &entry.data).chain(changes.iter().map(|change| &change.change))
}

fn estimated_bytes(message: &GroupMessage) -> usize {
    let data: usize = match &message.body {
        GroupBody::Append { entries, .. } => {
            entries.iter().map(|entry| ENTRY_META_BYTES + entry.data.len()).sum()
        }
        GroupBody::Reports(reports) => reports.len() * REPORT_META_BYTES,
        GroupBody::Map { map } => map.len(),
        GroupBody::MapChanges(changes) => {
            changes.iter().map(|change| MAP_CHANGE_META_BYTES + change.change.len()).sum()
        }
        _ => 0,
    };
    MESSAGE_META_BYTES + data
}

fn group_message(builder: &mut Builder, message: &GroupMessage) -> WIPOffset<wire::GroupMessage<'static>> {
    let (body_type, body) = body(builder, &message.body);
    let args = wire::GroupMessageArgs {
        group: message.group,
        from: message.from,
        to: message.to,
        term: message.term,
        body_type,
        body: Some(body),
    };
    wire::GroupMessage::create(builder, &args)
}

fn body(builder: &mut Builder, body: &GroupBody) -> (wire::Body, WIPOffset<UnionWIPOffset>) {
    use wire::Body;
    match *body {
        GroupBody::Append { prev_index, prev_term, ref entries, commit, round } => {
            let vector =
                |builder: &mut Builder| builder.create_vector_from_iter(entries.iter().map(wire_entry));
            let entries = if entries.is_empty() { None } else { Some(vector(builder)) };
            let args = wire::AppendArgs { prev_index, prev_term, commit, round, entries };
            (Body::Append, wire::Append::create(builder, &args).as_union_value())
        }
        GroupBody::AppendResponse { result, round } => append_response(builder, result, round),
        GroupBody::Heartbeat { commit, round } => {
            let it = wire::Heartbeat::create(builder, &wire::HeartbeatArgs { commit, round });
            (Body::Heartbeat, it.as_union_value())
        }
        GroupBody::HeartbeatResponse { round } => {
            let it = wire::HeartbeatResponse::create(builder, &wire::HeartbeatResponseArgs { round });
            (Body::HeartbeatResponse, it.as_union_value())
        }
        GroupBody::ReadIndex { context } => {
            let it = wire::ReadIndex::create(builder, &wire::ReadIndexArgs { context });
            (Body::ReadIndex, it.as_union_value())
        }
        GroupBody::ReadIndexResponse { context, index } => {
            let args = wire::ReadIndexResponseArgs { context, index };
            (Body::ReadIndexResponse, wire::ReadIndexResponse::create(builder, &args).as_union_value())
        }
        GroupBody::PreVote { last_index, last_term } => {
            let it = wire::PreVote::create(builder, &wire::PreVoteArgs { last_index, last_term });
            (Body::PreVote, it.as_union_value())
        }
        GroupBody::PreVoteResponse { granted } => {
            let it = wire::PreVoteResponse::create(builder, &wire::PreVoteResponseArgs { granted });
            (Body::PreVoteResponse, it.as_union_value())
        }
        GroupBody::Vote { last_index, last_term, transfer } => {
            let it = wire::Vote::create(builder, &wire::VoteArgs { last_index, last_term, transfer });
            (Body::Vote, it.as_union_value())
        }
        GroupBody::VoteResponse { granted } => {
            let it = wire::VoteResponse::create(builder, &wire::VoteResponseArgs { granted });
            (Body::VoteResponse, it.as_union_value())
        }
        GroupBody::TimeoutNow => {
            let it = wire::TimeoutNow::create(builder, &wire::TimeoutNowArgs {});
            (Body::TimeoutNow, it.as_union_value())
        }
        GroupBody::Join => (Body::Join, wire::Join::create(builder, &wire::JoinArgs {}).as_union_value()),
        GroupBody::Invite => {
            (Body::Invite, wire::Invite::create(builder, &wire::InviteArgs {}).as_union_value())
        }
        GroupBody::Gone { index } => {
            (Body::Gone, wire::Gone::create(builder, &wire::GoneArgs { index }).as_union_value())
        }
        GroupBody::Reports(ref reports) => wire_reports(builder, reports),
        GroupBody::MapEpoch { epoch, takes_changes } => map_epoch(builder, epoch, takes_changes),
        GroupBody::MapChanges(ref changes) => map_changes(builder, changes),
        GroupBody::Map { ref map } => {
            let args = wire::MapArgs { map: Some(builder.create_vector(map)) };
            (Body::Map, wire::Map::create(builder, &args).as_union_value())
        }
        GroupBody::Sleep { commit } => {
            (Body::Sleep, wire::Sleep::create(builder, &wire::SleepArgs { commit }).as_union_value())
        }
    }
}

fn map_epoch(
    builder: &mut Builder,
    epoch: u64,
    takes_changes: bool,
) -> (wire::Body, WIPOffset<UnionWIPOffset>) {
    let it = wire::MapEpoch::create(builder, &wire::MapEpochArgs { epoch, takes_changes });
    (wire::Body::MapEpoch, it.as_union_value())
}

fn map_changes(builder: &mut Builder, changes: &[MapChange]) -> (wire::Body, WIPOffset<UnionWIPOffset>) {
    let changes = changes.iter().map(|it| wire::MapChange::new(it.digest, piece_len(&it.change)));
    let args = wire::MapChangesArgs { changes: Some(builder.create_vector_from_iter(changes)) };
    (wire::Body::MapChanges, wire::MapChanges::create(builder, &args).as_union_value())
}

fn wire_reports(builder: &mut Builder, reports: &[ShardReport]) -> (wire::Body, WIPOffset<UnionWIPOffset>) {
    let reports: Vec<_> = reports.iter().map(|report| wire_report(builder, report)).collect();
    let args = wire::ReportsArgs { reports: Some(builder.create_vector(&reports)) };
    (wire::Body::Reports, wire::Reports::create(builder, &args).as_union_value())
}

fn wire_report(builder: &mut Builder, report: &ShardReport) -> WIPOffset<wire::ShardReport<'static>> {
    let args = wire::ShardReportArgs {
        shard: report.shard,
        term: report.term,
        index: report.index,
        leader: report.leader,
        voters: Some(builder.create_vector(&report.voters)),
        learners: Some(builder.create_vector(&report.learners)),
        joint: report.joint,
        first_slot: report.slots.map(|slots| slots.first),
        last_slot: report.slots.map(|slots| slots.last),
    };
    wire::ShardReport::create(builder, &args)
}

fn append_response(
    builder: &mut Builder,
    result: AppendResult,
    round: u64,
) -> (wire::Body, WIPOffset<UnionWIPOffset>) {
    match result {
        AppendResult::Accepted { match_index } => {
            let args = wire::AppendAcceptedArgs { match_index, round };
            (wire::Body::AppendAccepted, wire::AppendAccepted::create(builder, &args).as_union_value())
        }
        AppendResult::Rejected { rejected_index, hint_index, hint_term } => {
            let args = wire::AppendRejectedArgs { rejected_index, hint_index, hint_term, round };
            (wire::Body::AppendRejected, wire::AppendRejected::create(builder, &args).as_union_value())
        }
    }
}

fn wire_entry(entry: &PeerEntry) -> wire::Entry {
    wire::Entry::new(entry.term, entry.index, piece_len(&entry.data), entry.kind)
}
