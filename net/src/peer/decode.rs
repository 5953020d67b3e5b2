//! Frames of the peer door to plain types. Pure, and safe on any input.

use super::{
    AppendResult, FOUNDERS_MAX, FRAME_MESSAGES_MAX, Founder, GroupBody, GroupMessage, MAP_CHANGES_MAX,
    MapChange, POSITION_MAX, PeerEntry, PeerHello, PeerHelloReply, Purpose, ShardReport, StoreInfo,
};
use crate::frame::{Frame, FrameKind};
use crate::generated::peer_generated as wire;
use crate::map::SlotRange;
use crate::protocol::DecodeError;
use crate::protocol::{Payload, expect_kind, verified};
use bytes::Bytes;
use std::collections::HashSet;

/// Reads a [`PeerHello`].
///
/// # Errors
/// [`DecodeError`]; report and close. Version and cluster are not judged here.
pub fn decode_peer_hello(frame: &Frame) -> Result<PeerHello, DecodeError> {
    expect_kind(frame, FrameKind::PeerHello)?;
    let hello = verified::<wire::PeerHello<'_>>(&frame.meta)?;
    Payload::new(frame.payload.clone()).finish()?;
    Ok(PeerHello {
        version: hello.version(),
        node: hello.node(),
        core: hello.core(),
        cluster_id: hello.cluster_id().to_owned(),
        wants_core: hello.wants_core(),
        purpose: purpose(hello.purpose())?,
        store: store_info(hello.store(), hello.settled(), hello.founders())?,
        vote_hold_ms: hello.vote_hold_ms(),
    })
}

/// Reads a [`PeerHelloReply`].
///
/// # Errors
/// [`DecodeError`]; close.
pub fn decode_peer_hello_reply(frame: &Frame) -> Result<PeerHelloReply, DecodeError> {
    expect_kind(frame, FrameKind::PeerHelloReply)?;
    let reply = verified::<wire::PeerHelloReply<'_>>(&frame.meta)?;
    Payload::new(frame.payload.clone()).finish()?;
    Ok(PeerHelloReply {
        version: reply.version(),
        node: reply.node(),
        core: reply.core(),
        store: store_info(reply.store(), reply.settled(), reply.founders())?,
        vote_hold_ms: reply.vote_hold_ms(),
    })
}

fn purpose(code: u8) -> Result<Purpose, DecodeError> {
    match code {
        0 => Ok(Purpose::Messages),
        1 => Ok(Purpose::Snapshot),
        2 => Ok(Purpose::Identity),
        other => Err(DecodeError::UnknownVariant { what: "purpose", code: u64::from(other) }),
    }
}

fn store_info(
    store: u64,
    settled: bool,
    list: Option<flatbuffers::Vector<'_, wire::Founder>>,
) -> Result<StoreInfo, DecodeError> {
    let list = list.unwrap_or_default();
    if list.len() > FOUNDERS_MAX {
        return Err(DecodeError::Inconsistent { why: "too many founders" });
    }
    let founders: Vec<Founder> =
        list.iter().map(|it| Founder { node: it.node(), store: it.store() }).collect();
    let nodes: HashSet<u64> = founders.iter().map(|founder| founder.node).collect();
    if nodes.len() < founders.len() {
        return Err(DecodeError::Inconsistent { why: "a founder named twice" });
    }
    Ok(StoreInfo { store, settled, founders })
}

/// Appends the messages of a frame to `messages`, in the order they were sent; entry data are slices of
/// the frame.
///
/// # Errors
/// [`DecodeError`], with `messages` as it was. Raft tolerates the loss, but a peer that sends such a frame
/// is broken: report and close.
pub fn decode_messages(frame: &Frame, messages: &mut Vec<GroupMessage>) -> Result<(), DecodeError> {
    expect_kind(frame, FrameKind::PeerMessages)?;
    let list = verified::<wire::Messages<'_>>(&frame.meta)?.messages();
    let mut payload = Payload::new(frame.payload.clone());
    let before = messages.len();
    let result = decode_list(list, &mut payload, messages).and_then(|()| payload.finish());
    if result.is_err() {
        messages.truncate(before);
    }
    result
}

type MessageList<'a> = flatbuffers::Vector<'a, flatbuffers::ForwardsUOffset<wire::GroupMessage<'a>>>;

fn decode_list(
    list: MessageList<'_>,
    payload: &mut Payload,
    messages: &mut Vec<GroupMessage>,
) -> Result<(), DecodeError> {
    if list.len() > FRAME_MESSAGES_MAX {
        return Err(DecodeError::Inconsistent { why: "too many messages" });
    }
    // No reservation from `list.len()`: FlatBuffers may point many elements at one table.
    for message in list {
        let body = body(&message, payload)?;
        if !within_positions(message.term(), &body) {
            return Err(DecodeError::Inconsistent { why: "an index or term past all logs" });
        }
        messages.push(GroupMessage {
            group: message.group(),
            from: message.from(),
            to: message.to(),
            term: message.term(),
            body,
        });
    }
    Ok(())
}

/// Whether every index and term of a message is one that a log can have. Whoever counts on from a higher one would come
/// to the end of the numbers.
fn within_positions(term: u64, body: &GroupBody) -> bool {
    let highest = match *body {
        GroupBody::PreVote { last_index, last_term } | GroupBody::Vote { last_index, last_term, .. } => {
            last_index.max(last_term)
        }
        GroupBody::Append { prev_index, prev_term, ref entries, commit, .. } => {
            let entries = entries.iter().map(|entry| entry.index.max(entry.term)).max();
            prev_index.max(prev_term).max(commit).max(entries.unwrap_or(0))
        }
        GroupBody::AppendResponse { result: AppendResult::Accepted { match_index }, .. } => match_index,
        GroupBody::AppendResponse {
            result: AppendResult::Rejected { rejected_index, hint_index, hint_term },
            ..
        } => rejected_index.max(hint_index).max(hint_term),
        GroupBody::Heartbeat { commit, .. } | GroupBody::Sleep { commit } => commit,
        GroupBody::Gone { index } => index,
        GroupBody::ReadIndexResponse { index, .. } => index.unwrap_or(0),
        GroupBody::Reports(ref reports) => {
            reports.iter().map(|report| report.term.max(report.index)).max().unwrap_or(0)
        }
        GroupBody::MapEpoch { .. }
        | GroupBody::Map { .. }
        | GroupBody::MapChanges(_)
        | GroupBody::PreVoteResponse { .. }
        | GroupBody::VoteResponse { .. }
        | GroupBody::HeartbeatResponse { .. }
        | GroupBody::ReadIndex { .. }
        | GroupBody::TimeoutNow
        | GroupBody::Join
        | GroupBody::Invite => 0,
    };
    term.max(highest) <= POSITION_MAX
}

fn body(message: &wire::GroupMessage<'_>, payload: &mut Payload) -> Result<GroupBody, DecodeError> {
    if let Some(append) = message.body_as_append() {
        return append_body(&append, payload);
    }
    if let Some(changes) = message.body_as_map_changes() {
        return map_changes_body(&changes, payload);
    }
    if let Some(it) = message.body_as_append_accepted() {
        let result = AppendResult::Accepted { match_index: it.match_index() };
        return Ok(GroupBody::AppendResponse { result, round: it.round() });
    }
    if let Some(it) = message.body_as_append_rejected() {
        let result = AppendResult::Rejected {
            rejected_index: it.rejected_index(),
            hint_index: it.hint_index(),
            hint_term: it.hint_term(),
        };
        return Ok(GroupBody::AppendResponse { result, round: it.round() });
    }
    if let Some(it) = message.body_as_heartbeat() {
        return Ok(GroupBody::Heartbeat { commit: it.commit(), round: it.round() });
    }
    if let Some(it) = message.body_as_heartbeat_response() {
        return Ok(GroupBody::HeartbeatResponse { round: it.round() });
    }
    if let Some(it) = message.body_as_read_index() {
        return Ok(GroupBody::ReadIndex { context: it.context() });
    }
    if let Some(it) = message.body_as_read_index_response() {
        return Ok(GroupBody::ReadIndexResponse { context: it.context(), index: it.index() });
    }
    if let Some(it) = message.body_as_gone() {
        return Ok(GroupBody::Gone { index: it.index() });
    }
    if let Some(it) = message.body_as_sleep() {
        return Ok(GroupBody::Sleep { commit: it.commit() });
    }
    election_body(message)
}

fn election_body(message: &wire::GroupMessage<'_>) -> Result<GroupBody, DecodeError> {
    if let Some(it) = message.body_as_pre_vote() {
        return Ok(GroupBody::PreVote { last_index: it.last_index(), last_term: it.last_term() });
    }
    if let Some(it) = message.body_as_pre_vote_response() {
        return Ok(GroupBody::PreVoteResponse { granted: it.granted() });
    }
    if let Some(it) = message.body_as_vote() {
        return Ok(GroupBody::Vote {
            last_index: it.last_index(),
            last_term: it.last_term(),
            transfer: it.transfer(),
        });
    }
    if let Some(it) = message.body_as_vote_response() {
        return Ok(GroupBody::VoteResponse { granted: it.granted() });
    }
    if let Some(it) = message.body_as_reports() {
        let reports = it.reports().iter().map(|report| shard_report(&report)).collect::<Result<_, _>>()?;
        return Ok(GroupBody::Reports(reports));
    }
    if let Some(it) = message.body_as_map_epoch() {
        return Ok(GroupBody::MapEpoch { epoch: it.epoch(), takes_changes: it.takes_changes() });
    }
    if let Some(it) = message.body_as_map() {
        return Ok(GroupBody::Map { map: Bytes::copy_from_slice(it.map().bytes()) });
    }
    match message.body_type() {
        wire::Body::TimeoutNow => Ok(GroupBody::TimeoutNow),
        wire::Body::Join => Ok(GroupBody::Join),
        wire::Body::Invite => Ok(GroupBody::Invite),
        other => Err(DecodeError::UnknownVariant { what: "message", code: u64::from(other.0) }),
    }
}

fn shard_report(report: &wire::ShardReport<'_>) -> Result<ShardReport, DecodeError> {
    let slots = match (report.first_slot(), report.last_slot()) {
        (Some(first), Some(last)) => Some(SlotRange { first, last }),
        (None, None) => None,
        _ => return Err(DecodeError::Inconsistent { why: "half a slot range" }),
    };
    Ok(ShardReport {
        shard: report.shard(),
        term: report.term(),
        index: report.index(),
        leader: report.leader(),
        voters: report.voters().iter().collect(),
        learners: report.learners().iter().collect(),
        joint: report.joint(),
        slots,
    })
}

fn map_changes_body(changes: &wire::MapChanges<'_>, payload: &mut Payload) -> Result<GroupBody, DecodeError> {
    let list = changes.changes();
    if list.len() > MAP_CHANGES_MAX {
        return Err(DecodeError::Inconsistent { why: "too many changes of the map" });
    }
    let change =
        |it: &wire::MapChange| Ok(MapChange { digest: it.digest(), change: payload.take(it.data_len())? });
    Ok(GroupBody::MapChanges(list.iter().map(change).collect::<Result<_, DecodeError>>()?))
}

fn append_body(append: &wire::Append<'_>, payload: &mut Payload) -> Result<GroupBody, DecodeError> {
    let mut entries = Vec::new();
    if let Some(list) = append.entries() {
        entries.reserve_exact(list.len());
        let mut index = append.prev_index();
        for entry in list {
            index = index.wrapping_add(1);
            if entry.index() != index {
                return Err(DecodeError::Inconsistent { why: "entries are not contiguous" });
            }
            entries.push(PeerEntry {
                term: entry.term(),
                index,
                kind: entry.kind(),
                data: payload.take(entry.data_len())?,
            });
        }
    }
    Ok(GroupBody::Append {
        prev_index: append.prev_index(),
        prev_term: append.prev_term(),
        entries,
        commit: append.commit(),
        round: append.round(),
    })
}
