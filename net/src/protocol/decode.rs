//! Frames to plain types. Pure, and safe on any input: everything is verified before it is used, and
//! nothing is allocated for a count that the bytes received do not back.

use super::checks::{DecodeError, Payload, expect_kind, length64, verified, within};
use super::encode::codes;
use super::{
    Answer, ClientHello, ClusterAccount, ClusterOp, ErrorCode, ErrorReport, Expected, Freshness, HelloReply,
    Mutation, MutationOutcome, Op, Oversize, ReadConsistency, Refusal, Reply, Request, ScanItem,
    SessionStamp, WriteConsistency, admin, program,
};
use crate::frame::{Frame, FrameKind};
use crate::generated::{client_generated as wire, frame_generated as wire_frame};
use crate::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, ShardPlan, SlotRange, Split};
use crate::types::{Limits, Value};

/// Reads a [`ClientHello`].
///
/// # Errors
/// [`DecodeError`]; report and close. The version is not judged here.
pub fn decode_client_hello(frame: &Frame) -> Result<ClientHello, DecodeError> {
    expect_kind(frame, FrameKind::ClientHello)?;
    let hello = verified::<wire::ClientHello<'_>>(&frame.meta)?;
    Payload::new(frame.payload.clone()).finish()?;
    Ok(ClientHello { version: hello.version(), wants_core: hello.wants_core() })
}

/// Reads a [`HelloReply`].
///
/// # Errors
/// [`DecodeError`]; close.
pub fn decode_hello_reply(frame: &Frame) -> Result<HelloReply, DecodeError> {
    expect_kind(frame, FrameKind::HelloReply)?;
    let reply = verified::<wire::HelloReply<'_>>(&frame.meta)?;
    Payload::new(frame.payload.clone()).finish()?;
    Ok(HelloReply {
        version: reply.version(),
        node: reply.node(),
        core: reply.core(),
        key_bytes_max: reply.key_bytes_max(),
        value_bytes_max: reply.value_bytes_max(),
        frame_bytes_max: reply.frame_bytes_max(),
        map: cluster_map(&reply.map())?,
    })
}

/// Reads an [`ErrorReport`].
///
/// # Errors
/// [`DecodeError`]; close.
pub fn decode_error(frame: &Frame) -> Result<ErrorReport, DecodeError> {
    expect_kind(frame, FrameKind::Error)?;
    let report = verified::<wire_frame::ErrorReport<'_>>(&frame.meta)?;
    Ok(ErrorReport { code: error_code(report.code()), message: report.message().to_owned() })
}

/// Reads a [`Request`] within `limits`; keys and values are slices of the frame.
///
/// # Errors
/// [`DecodeError`]; answer `frame.id` with [`DecodeError::refusal`], the connection goes on.
pub fn decode_request(frame: &Frame, limits: &Limits) -> Result<Request, DecodeError> {
    expect_kind(frame, FrameKind::Request)?;
    let request = verified::<wire::Request<'_>>(&frame.meta)?;
    let mut payload = Payload::new(frame.payload.clone());
    let op = op(&request, &mut payload, limits)?;
    payload.finish()?;
    Ok(Request {
        id: frame.id,
        shard: request.shard(),
        epoch: request.epoch(),
        namespace: request.namespace(),
        op,
    })
}

/// Reads a [`Reply`]; keys and values are slices of the frame.
///
/// # Errors
/// [`DecodeError`]; the request `frame.id` has no usable answer, the connection could go on.
pub fn decode_reply(frame: &Frame) -> Result<Reply, DecodeError> {
    expect_kind(frame, FrameKind::Reply)?;
    let reply = verified::<wire::Reply<'_>>(&frame.meta)?;
    let mut payload = Payload::new(frame.payload.clone());
    let result = match reply.answer_as_refused() {
        Some(refused) => Err(refusal(&refused)?),
        None => Ok(answer(&reply, &mut payload)?),
    };
    payload.finish()?;
    Ok(Reply { id: frame.id, result })
}

fn unknown(what: &'static str, code: impl Into<u64>) -> DecodeError {
    DecodeError::UnknownVariant { what, code: code.into() }
}

fn op(request: &wire::Request<'_>, payload: &mut Payload, limits: &Limits) -> Result<Op, DecodeError> {
    if let Some(write) = request.op_as_write() {
        return write_op(&write, payload, limits);
    }
    if let Some(get) = request.op_as_get() {
        let key = payload.take_rest();
        within(Oversize::Key, length64(&key), limits.key_bytes_max)?;
        return Ok(Op::Get { key, consistency: read_consistency(get.consistency())? });
    }
    if let Some(exists) = request.op_as_exists() {
        let key = payload.take_rest();
        within(Oversize::Key, length64(&key), limits.key_bytes_max)?;
        return Ok(Op::Exists { key, consistency: read_consistency(exists.consistency())? });
    }
    if let Some(scan) = request.op_as_scan() {
        let consistency = read_consistency(scan.consistency())?;
        // A continuation is a position, not a key: the server may put a few bytes before the key.
        let position_max = limits.key_bytes_max.saturating_add(64);
        within(Oversize::Key, u64::from(scan.start_len()), position_max)?;
        let start = payload.take(scan.start_len())?;
        let end = scan.end_len().map(|length| {
            within(Oversize::Key, u64::from(length), position_max)?;
            payload.take(length)
        });
        return Ok(Op::Scan {
            start,
            end: end.transpose()?,
            limit: scan.limit(),
            consistency,
            keys_only: scan.keys_only(),
        });
    }
    if let Some(op) = admin::decode_op(request) {
        return Ok(Op::Admin(op));
    }
    if let Some(execute) = request.op_as_execute() {
        return program::decode_execute(&execute, payload, limits);
    }
    if let Some(count) = request.op_as_count() {
        return program::decode_count(&count);
    }
    if request.op_as_cluster_command().is_some() {
        return ClusterOp::from_json(&payload.take_rest()).map(Op::Cluster);
    }
    match request.op_type() {
        wire::Op::MapQuery => Ok(Op::ClusterMap),
        wire::Op::StatusQuery => Ok(Op::Status),
        other => Err(unknown("operation", other.0)),
    }
}

fn write_op(write: &wire::Write<'_>, payload: &mut Payload, limits: &Limits) -> Result<Op, DecodeError> {
    let list = write.mutations();
    within(Oversize::Batch, u64::try_from(list.len()).unwrap_or(u64::MAX), limits.mutations_max)?;
    if list.is_empty() {
        return Err(DecodeError::Inconsistent { why: "a write without mutations" });
    }
    let mut mutations = Vec::with_capacity(list.len());
    for described in list {
        mutations.push(mutation(described, payload, limits)?);
    }
    let session = write.session().map(|session| SessionStamp {
        client: session.client(),
        sequence: session.sequence(),
        acked_below: session.acked_below(),
        retry: session.retry(),
    });
    Ok(Op::Write { session, consistency: write_consistency(write.consistency())?, mutations })
}

fn mutation(
    described: &wire::Mutation,
    payload: &mut Payload,
    limits: &Limits,
) -> Result<Mutation, DecodeError> {
    within(Oversize::Key, u64::from(described.key_len()), limits.key_bytes_max)?;
    within(Oversize::Value, u64::from(described.value_len()), limits.value_bytes_max)?;
    within(Oversize::Value, u64::from(described.expected_len()), limits.value_bytes_max)?;
    let key = payload.take(described.key_len())?;
    let value = payload.take(described.value_len())?;
    let expected = payload.take(described.expected_len())?;
    if !described.has_value() && !value.is_empty() {
        return Err(DecodeError::Inconsistent { why: "a value where there is none" });
    }
    let compares_value =
        described.kind() == codes::COMPARE_AND_SWAP && described.expected() == codes::EXPECT_VALUE;
    if !compares_value && !expected.is_empty() {
        return Err(DecodeError::Inconsistent { why: "an expected value where none is compared" });
    }
    match described.kind() {
        codes::PUT if described.has_value() => {
            Ok(Mutation::Put { key, value, ttl_ms: described.has_ttl().then(|| described.ttl_ms()) })
        }
        codes::PUT => Err(DecodeError::Inconsistent { why: "a put without a value" }),
        codes::DELETE if described.has_value() => {
            Err(DecodeError::Inconsistent { why: "a delete with a value" })
        }
        codes::DELETE => Ok(Mutation::Delete { key }),
        codes::COMPARE_AND_SWAP => {
            let expected = match described.expected() {
                codes::EXPECT_ABSENT => Expected::Absent,
                codes::EXPECT_VERSION => Expected::Version(described.expected_version()),
                codes::EXPECT_VALUE => Expected::Value(expected),
                other => return Err(unknown("expectation", other)),
            };
            Ok(Mutation::CompareAndSwap { key, expected, new: described.has_value().then_some(value) })
        }
        other => Err(unknown("mutation", other)),
    }
}

pub(super) fn read_consistency(code: u8) -> Result<ReadConsistency, DecodeError> {
    match code {
        0 => Ok(ReadConsistency::Linearizable),
        1 => Ok(ReadConsistency::Follower),
        2 => Ok(ReadConsistency::Stale),
        other => Err(unknown("read consistency", other)),
    }
}

pub(super) fn write_consistency(code: u8) -> Result<WriteConsistency, DecodeError> {
    match code {
        0 => Ok(WriteConsistency::Strong),
        1 => Ok(WriteConsistency::Leader),
        2 => Ok(WriteConsistency::Eventual),
        other => Err(unknown("write consistency", other)),
    }
}

fn cluster_map(map: &wire::ClusterMap<'_>) -> Result<ClusterMap, DecodeError> {
    let nodes = map.nodes().iter().map(|node| NodeInfo {
        id: node.id(),
        binary_addr: node.binary_addr().to_owned(),
        peer_addr: node.peer_addr().to_owned(),
        cores: node.cores(),
        resp_addr: node.resp_addr().map(str::to_owned),
        resp_cluster_addr: node.resp_cluster_addr().map(str::to_owned),
        http_addr: node.http_addr().map(str::to_owned),
        zone: node.zone().map(str::to_owned),
        weight: node.weight(),
        leaving: node.leaving(),
        store: node.store(),
    });
    let shards = map.shards().iter().map(|shard| shard_info(&shard));
    Ok(ClusterMap {
        epoch: map.epoch(),
        nodes: nodes.collect(),
        shards: shards.collect::<Result<_, DecodeError>>()?,
    })
}

fn shard_info(shard: &wire::ShardInfo<'_>) -> Result<ShardInfo, DecodeError> {
    let slots = match (shard.first_slot(), shard.last_slot()) {
        (Some(first), Some(last)) => Some(SlotRange { first, last }),
        (None, None) => None,
        _ => return Err(DecodeError::Inconsistent { why: "half a slot range" }),
    };
    let replicas = shard.replicas().iter().map(|at| ReplicaInfo { node: at.node(), core: at.core() });
    Ok(ShardInfo {
        id: shard.id(),
        slots,
        replicas: replicas.collect(),
        leader: shard.leader(),
        plan: shard.plan().map(|plan| shard_plan(&plan)).unwrap_or_default(),
    })
}

fn shard_plan(plan: &wire::ShardPlan<'_>) -> ShardPlan {
    let nodes = |list: Option<flatbuffers::Vector<'_, u64>>| list.unwrap_or_default().iter().collect();
    ShardPlan {
        epoch: plan.epoch(),
        placed: nodes(plan.placed()),
        pinned: plan.pinned(),
        copies: plan.copies(),
        founders: nodes(plan.founders()),
        split: plan.split().map(|split| Split { at: split.at(), into: split.into() }),
    }
}

/// Reads a map that stands by itself.
///
/// # Errors
/// [`DecodeError`] where it is damaged.
pub fn decode_map(map: &[u8]) -> Result<ClusterMap, DecodeError> {
    cluster_map(&verified::<wire::ClusterMap<'_>>(map)?)
}

fn freshness(freshness: Option<&wire::Freshness>) -> Option<Freshness> {
    freshness.map(|known| Freshness { applied_index: known.applied_index(), lag_ms: known.lag_ms() })
}

fn answer(reply: &wire::Reply<'_>, payload: &mut Payload) -> Result<Answer, DecodeError> {
    if let Some(written) = reply.answer_as_written_answer() {
        let outcomes = written.outcomes().iter().map(outcome).collect::<Result<_, _>>()?;
        return Ok(Answer::Written { index: written.index(), outcomes });
    }
    if let Some(found) = reply.answer_as_value_answer() {
        let version = found.version();
        let value = found.found().then(|| Value { data: payload.take_rest(), version });
        return Ok(Answer::Value { value, freshness: freshness(found.freshness()) });
    }
    if let Some(found) = reply.answer_as_exists_answer() {
        return Ok(Answer::Exists { exists: found.exists(), freshness: freshness(found.freshness()) });
    }
    if let Some(scan) = reply.answer_as_scan_answer() {
        let list = scan.items();
        let mut items = Vec::with_capacity(list.len());
        for item in list {
            let key = payload.take(item.key_len())?;
            let data = payload.take(item.value_len())?;
            items.push(ScanItem { key, value: Value { data, version: item.version() } });
        }
        let next = scan.next_len().map(|length| payload.take(length)).transpose()?;
        return Ok(Answer::Scan { items, next, freshness: freshness(scan.freshness()) });
    }
    if let Some(map) = reply.answer_as_map_answer() {
        return Ok(Answer::ClusterMap(cluster_map(&map.map())?));
    }
    if let Some(accepted) = reply.answer_as_admin_accepted() {
        return Ok(Answer::AdminAccepted(admin::decode_accepted(&accepted)));
    }
    if let Some(described) = reply.answer_as_shard_description() {
        return Ok(Answer::Shard(admin::decode_description(&described)?));
    }
    if let Some(executed) = reply.answer_as_executed_answer() {
        let replies = executed.executed().then(|| payload.take_rest());
        let freshness = freshness(executed.freshness());
        return Ok(Answer::Executed { index: executed.index(), replies, freshness });
    }
    if let Some(counted) = reply.answer_as_counted_answer() {
        return Ok(Answer::Counted { count: counted.count() });
    }
    match reply.answer_type() {
        wire::Answer::ClusterAnswer => {
            ClusterAccount::from_json(&payload.take_rest()).map(Box::new).map(Answer::Cluster)
        }
        wire::Answer::StatusAnswer => Ok(Answer::Status(payload.take_rest())),
        other => Err(unknown("answer", other.0)),
    }
}

fn outcome(outcome: &wire::Outcome) -> Result<MutationOutcome, DecodeError> {
    let version = outcome.version();
    match outcome.kind() {
        codes::OUTCOME_PUT => Ok(MutationOutcome::Put { version }),
        codes::OUTCOME_DELETED => Ok(MutationOutcome::Deleted { existed: outcome.flag() }),
        codes::OUTCOME_SWAPPED => Ok(MutationOutcome::Swapped { version }),
        codes::OUTCOME_NOT_SWAPPED => {
            Ok(MutationOutcome::NotSwapped { current: outcome.flag().then_some(version) })
        }
        codes::OUTCOME_ACCEPTED => Ok(MutationOutcome::Accepted),
        codes::OUTCOME_NOT_APPLIED => Ok(MutationOutcome::NotApplied),
        other => Err(unknown("outcome", other)),
    }
}

fn refusal(refused: &wire::Refused<'_>) -> Result<Refusal, DecodeError> {
    let why = || refused.text().unwrap_or_default().to_owned();
    let too_large = |what| Refusal::TooLarge { what, limit: refused.limit() };
    Ok(match refused.kind() {
        codes::BUSY => Refusal::Busy { retry_after_ms: refused.retry_after_ms() },
        codes::NOT_LEADER => Refusal::NotLeader { leader: refused.leader(), epoch: refused.epoch() },
        codes::WRONG_SHARD => Refusal::WrongShard { epoch: refused.epoch() },
        codes::UNAVAILABLE => Refusal::Unavailable { why: why() },
        codes::INVALID => Refusal::Invalid { why: why() },
        codes::CONFLICT => Refusal::Conflict { why: why() },
        codes::TOO_LARGE_KEY => too_large(Oversize::Key),
        codes::TOO_LARGE_VALUE => too_large(Oversize::Value),
        codes::TOO_LARGE_BATCH => too_large(Oversize::Batch),
        codes::TOO_LARGE_REQUEST => too_large(Oversize::Request),
        codes::SESSION_EXPIRED => Refusal::SessionExpired,
        codes::TIMEOUT => Refusal::Timeout,
        codes::INTERNAL => Refusal::Internal { why: why() },
        other => return Err(unknown("refusal", other)),
    })
}

fn error_code(code: u16) -> ErrorCode {
    match code {
        codes::BAD_FRAME => ErrorCode::BadFrame,
        codes::BAD_MESSAGE => ErrorCode::BadMessage,
        codes::UNSUPPORTED_VERSION => ErrorCode::UnsupportedVersion,
        codes::WRONG_CLUSTER => ErrorCode::WrongCluster,
        codes::TOO_MANY_CONNECTIONS => ErrorCode::TooManyConnections,
        codes::SHUTTING_DOWN => ErrorCode::ShuttingDown,
        other => ErrorCode::Unknown(other),
    }
}
