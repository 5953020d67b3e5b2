//! Plain types to frames.
//!
//! Payload order is that of the schema's comments; `decode` mirrors this file function by function.

use super::{
    Answer, ClientHello, ErrorCode, ErrorReport, Expected, Freshness, HelloReply, Mutation, MutationOutcome,
    Op, Oversize, ReadConsistency, Refusal, Reply, Request, ScanItem, SessionStamp, WriteConsistency, admin,
    program,
};
use crate::frame::{FrameKind, FrameTooLong, FrameWriter};
use crate::generated::{client_generated as wire, frame_generated as wire_frame};
use crate::map::{ClusterMap, NodeInfo, ShardInfo, ShardPlan};
use crate::types::RequestId;
use bytes::{Bytes, BytesMut};
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

pub(super) mod codes {
    //! Codes of the enums that travel as plain bytes.
    pub const PUT: u8 = 0;
    pub const DELETE: u8 = 1;
    pub const COMPARE_AND_SWAP: u8 = 2;

    pub const EXPECT_ABSENT: u8 = 0;
    pub const EXPECT_VERSION: u8 = 1;
    pub const EXPECT_VALUE: u8 = 2;

    pub const OUTCOME_PUT: u8 = 0;
    pub const OUTCOME_DELETED: u8 = 1;
    pub const OUTCOME_SWAPPED: u8 = 2;
    pub const OUTCOME_NOT_SWAPPED: u8 = 3;
    pub const OUTCOME_ACCEPTED: u8 = 4;
    pub const OUTCOME_NOT_APPLIED: u8 = 5;

    pub const BUSY: u8 = 0;
    pub const NOT_LEADER: u8 = 1;
    pub const WRONG_SHARD: u8 = 2;
    pub const UNAVAILABLE: u8 = 3;
    pub const INVALID: u8 = 4;
    pub const TOO_LARGE_KEY: u8 = 5;
    pub const TOO_LARGE_VALUE: u8 = 6;
    pub const TOO_LARGE_BATCH: u8 = 7;
    pub const TOO_LARGE_REQUEST: u8 = 8;
    pub const SESSION_EXPIRED: u8 = 9;
    pub const TIMEOUT: u8 = 10;
    pub const INTERNAL: u8 = 11;
    pub const CONFLICT: u8 = 12;

    pub const BAD_FRAME: u16 = 1;
    pub const BAD_MESSAGE: u16 = 2;
    pub const UNSUPPORTED_VERSION: u16 = 3;
    pub const WRONG_CLUSTER: u16 = 4;
    pub const TOO_MANY_CONNECTIONS: u16 = 5;
    pub const SHUTTING_DOWN: u16 = 6;
}

/// A builder kept between messages, so that encoding allocates nothing in steady state.
pub(crate) type Builder = FlatBufferBuilder<'static>;

/// Encodes messages of the client door as frames.
pub struct Encoder {
    builder: Builder,
    frame_bytes_max: u32,
}

impl Encoder {
    /// An encoder that refuses to make frames whose body is over `frame_bytes_max`.
    #[must_use]
    pub fn new(frame_bytes_max: u32) -> Encoder {
        Encoder { builder: FlatBufferBuilder::new(), frame_bytes_max }
    }

    /// Refuses to make frames whose body is over `frame_bytes_max` from now on.
    pub fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Appends a hello.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn client_hello(&mut self, hello: &ClientHello, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let args = wire::ClientHelloArgs { version: hello.version, wants_core: hello.wants_core };
        let root = wire::ClientHello::create(&mut self.builder, &args);
        self.seal(root, FrameKind::ClientHello, RequestId(0), 0, out, |_| ())
    }

    /// Appends a hello's answer.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn hello_reply(&mut self, reply: &HelloReply, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let map = cluster_map(&mut self.builder, &reply.map);
        let args = wire::HelloReplyArgs {
            version: reply.version,
            node: reply.node,
            core: reply.core,
            key_bytes_max: reply.key_bytes_max,
            value_bytes_max: reply.value_bytes_max,
            frame_bytes_max: reply.frame_bytes_max,
            map: Some(map),
        };
        let root = wire::HelloReply::create(&mut self.builder, &args);
        self.seal(root, FrameKind::HelloReply, RequestId(0), 0, out, |_| ())
    }

    /// Appends a request.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn request(&mut self, request: &Request, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let (op_type, op, payload_bytes) = op(&mut self.builder, &request.op);
        let args = wire::RequestArgs {
            shard: request.shard,
            epoch: request.epoch,
            namespace: request.namespace,
            op_type,
            op: Some(op),
        };
        let root = wire::Request::create(&mut self.builder, &args);
        self.seal(root, FrameKind::Request, request.id, payload_bytes, out, |frame| match &request.op {
            Op::Get { key, .. } | Op::Exists { key, .. } => frame.put(key),
            Op::Scan { start, end, .. } => {
                frame.put(start);
                frame.put(end.as_deref().unwrap_or_default());
            }
            Op::Write { mutations, .. } => {
                for (key, value, expected) in mutations.iter().map(mutation_pieces) {
                    frame.put(key);
                    frame.put(value);
                    frame.put(expected);
                }
            }
            Op::Execute { program, .. } => program::put_execute(frame, program),
            Op::Cluster(op) => frame.put(&op.to_json()),
            Op::ClusterMap | Op::Status | Op::Admin(_) | Op::Count { .. } => {}
        })
    }

    /// Appends a reply.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended: refuse with [`Refusal::TooLarge`] instead.
    pub fn reply(&mut self, reply: &Reply, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let (answer_type, answer, payload_bytes) = match &reply.result {
            Ok(answer) => answer_body(&mut self.builder, answer),
            Err(refusal) => (wire::Answer::Refused, refused(&mut self.builder, refusal), 0),
        };
        let root =
            wire::Reply::create(&mut self.builder, &wire::ReplyArgs { answer_type, answer: Some(answer) });
        self.seal(root, FrameKind::Reply, reply.id, payload_bytes, out, |frame| match &reply.result {
            Ok(Answer::Value { value: Some(value), .. }) => frame.put(&value.data),
            Ok(Answer::Scan { items, next, .. }) => {
                for item in items {
                    frame.put(&item.key);
                    frame.put(&item.value.data);
                }
                frame.put(next.as_deref().unwrap_or_default());
            }
            Ok(Answer::Status(json)) => frame.put(json),
            Ok(Answer::Cluster(account)) => frame.put(&account.to_json()),
            Ok(Answer::Executed { replies: Some(replies), .. }) => frame.put(replies),
            _ => {}
        })
    }

    /// Appends an error report: the last frame before closing, on either door.
    ///
    /// # Errors
    /// [`FrameTooLong`]; nothing was appended.
    pub fn error(&mut self, report: &ErrorReport, out: &mut BytesMut) -> Result<(), FrameTooLong> {
        self.builder.reset();
        let message = self.builder.create_string(&report.message);
        let args = wire_frame::ErrorReportArgs { code: error_code(report.code), message: Some(message) };
        let root = wire_frame::ErrorReport::create(&mut self.builder, &args);
        self.seal(root, FrameKind::Error, RequestId(0), 0, out, |_| ())
    }

    fn seal<T>(
        &mut self,
        root: WIPOffset<T>,
        kind: FrameKind,
        id: RequestId,
        payload_bytes: usize,
        out: &mut BytesMut,
        payload: impl FnOnce(&mut FrameWriter<'_>),
    ) -> Result<(), FrameTooLong> {
        self.builder.finish(root, None);
        let meta = self.builder.finished_data();
        let mut frame = FrameWriter::begin(out, kind, id, meta, payload_bytes, self.frame_bytes_max)?;
        payload(&mut frame);
        frame.finish();
        Ok(())
    }
}

/// The length of a piece of payload. Saturates: a piece that long makes the frame too long anyway.
pub(crate) fn piece_len(piece: &[u8]) -> u32 {
    u32::try_from(piece.len()).unwrap_or(u32::MAX)
}

fn op(builder: &mut Builder, op: &Op) -> (wire::Op, WIPOffset<UnionWIPOffset>, usize) {
    match op {
        Op::Get { key, consistency } => {
            let args = wire::GetArgs { consistency: read_consistency(*consistency) };
            (wire::Op::Get, wire::Get::create(builder, &args).as_union_value(), key.len())
        }
        Op::Exists { key, consistency } => {
            let args = wire::ExistsArgs { consistency: read_consistency(*consistency) };
            (wire::Op::Exists, wire::Exists::create(builder, &args).as_union_value(), key.len())
        }
        Op::Scan { start, end, limit, consistency, keys_only } => {
            let args = wire::ScanArgs {
                start_len: piece_len(start),
                end_len: end.as_deref().map(piece_len),
                limit: *limit,
                consistency: read_consistency(*consistency),
                keys_only: *keys_only,
            };
            let bytes = start.len() + end.as_ref().map_or(0, bytes::Bytes::len);
            (wire::Op::Scan, wire::Scan::create(builder, &args).as_union_value(), bytes)
        }
        Op::Write { session, consistency, mutations } => {
            let bytes = mutations
                .iter()
                .map(mutation_pieces)
                .map(|(key, value, expected)| key.len() + value.len() + expected.len())
                .sum();
            let vector = builder.create_vector_from_iter(mutations.iter().map(mutation));
            let session = session.as_ref().map(|SessionStamp { client, sequence, acked_below, retry }| {
                wire::Session::new(*client, *sequence, *acked_below, *retry)
            });
            let args = wire::WriteArgs {
                consistency: write_consistency(*consistency),
                session: session.as_ref(),
                mutations: Some(vector),
            };
            (wire::Op::Write, wire::Write::create(builder, &args).as_union_value(), bytes)
        }
        Op::ClusterMap => {
            let query = wire::MapQuery::create(builder, &wire::MapQueryArgs {});
            (wire::Op::MapQuery, query.as_union_value(), 0)
        }
        Op::Status => {
            let query = wire::StatusQuery::create(builder, &wire::StatusQueryArgs {});
            (wire::Op::StatusQuery, query.as_union_value(), 0)
        }
        Op::Cluster(op) => {
            let args = wire::ClusterCommandArgs { is_change: op.is_change() };
            let command = wire::ClusterCommand::create(builder, &args);
            (wire::Op::ClusterCommand, command.as_union_value(), op.to_json().len())
        }
        Op::Admin(op) => {
            let (op_type, op) = admin::encode_op(builder, *op);
            (op_type, op, 0)
        }
        Op::Execute { program, consistency } => {
            let it = program::encode_execute(builder, program, *consistency);
            (wire::Op::Execute, it, program.payload_bytes())
        }
        Op::Count { first_slot, last_slot, consistency } => {
            let args = wire::CountArgs {
                first_slot: *first_slot,
                last_slot: *last_slot,
                consistency: read_consistency(*consistency),
            };
            (wire::Op::Count, wire::Count::create(builder, &args).as_union_value(), 0)
        }
    }
}

pub(super) fn read_consistency(consistency: ReadConsistency) -> u8 {
    match consistency {
        ReadConsistency::Linearizable => 0,
        ReadConsistency::Follower => 1,
        ReadConsistency::Stale => 2,
    }
}

pub(super) fn write_consistency(consistency: WriteConsistency) -> u8 {
    match consistency {
        WriteConsistency::Strong => 0,
        WriteConsistency::Leader => 1,
        WriteConsistency::Eventual => 2,
    }
}

/// Key, value and expected value, in payload order.
fn mutation_pieces(mutation: &Mutation) -> (&[u8], &[u8], &[u8]) {
    match mutation {
        Mutation::Put { key, value, .. } => (key, value, &[]),
        Mutation::Delete { key } => (key, &[], &[]),
        Mutation::CompareAndSwap { key, expected, new } => {
            let expected: &[u8] = if let Expected::Value(value) = expected { value } else { &[] };
            (key, new.as_deref().unwrap_or_default(), expected)
        }
    }
}

fn mutation(mutation: &Mutation) -> wire::Mutation {
    let (key, value, expected_value) = mutation_pieces(mutation);
    let (kind, ttl_ms, has_value) = match mutation {
        Mutation::Put { ttl_ms, .. } => (codes::PUT, *ttl_ms, true),
        Mutation::Delete { .. } => (codes::DELETE, None, false),
        Mutation::CompareAndSwap { new, .. } => (codes::COMPARE_AND_SWAP, None, new.is_some()),
    };
    let (expected, expected_version) = match mutation {
        Mutation::CompareAndSwap { expected: Expected::Version(version), .. } => {
            (codes::EXPECT_VERSION, *version)
        }
        Mutation::CompareAndSwap { expected: Expected::Value(_), .. } => (codes::EXPECT_VALUE, 0),
        _ => (codes::EXPECT_ABSENT, 0),
    };
    wire::Mutation::new(
        ttl_ms.unwrap_or(0),
        expected_version,
        piece_len(key),
        piece_len(value),
        piece_len(expected_value),
        kind,
        expected,
        has_value,
        ttl_ms.is_some(),
    )
}

fn cluster_map(builder: &mut Builder, map: &ClusterMap) -> WIPOffset<wire::ClusterMap<'static>> {
    let nodes: Vec<_> = map.nodes.iter().map(|node| node_info(builder, node)).collect();
    let shards: Vec<_> = map.shards.iter().map(|shard| shard_info(builder, shard)).collect();
    let args = wire::ClusterMapArgs {
        epoch: map.epoch,
        nodes: Some(builder.create_vector(&nodes)),
        shards: Some(builder.create_vector(&shards)),
    };
    wire::ClusterMap::create(builder, &args)
}

fn node_info(builder: &mut Builder, node: &NodeInfo) -> WIPOffset<wire::NodeInfo<'static>> {
    let door =
        |builder: &mut Builder, addr: &Option<String>| addr.as_deref().map(|it| builder.create_string(it));
    let args = wire::NodeInfoArgs {
        id: node.id,
        binary_addr: Some(builder.create_string(&node.binary_addr)),
        peer_addr: Some(builder.create_string(&node.peer_addr)),
        cores: node.cores,
        resp_addr: door(builder, &node.resp_addr),
        resp_cluster_addr: door(builder, &node.resp_cluster_addr),
        http_addr: door(builder, &node.http_addr),
        zone: door(builder, &node.zone),
        weight: node.weight,
        leaving: node.leaving,
        store: node.store,
    };
    wire::NodeInfo::create(builder, &args)
}

fn shard_info(builder: &mut Builder, shard: &ShardInfo) -> WIPOffset<wire::ShardInfo<'static>> {
    let replicas = shard.replicas.iter().map(|replica| wire::Replica::new(replica.node, replica.core));
    let replicas = builder.create_vector_from_iter(replicas);
    let args = wire::ShardInfoArgs {
        id: shard.id,
        first_slot: shard.slots.map(|range| range.first),
        last_slot: shard.slots.map(|range| range.last),
        replicas: Some(replicas),
        leader: shard.leader,
        plan: (shard.plan != ShardPlan::default()).then(|| shard_plan(builder, &shard.plan)),
    };
    wire::ShardInfo::create(builder, &args)
}

fn shard_plan(builder: &mut Builder, plan: &ShardPlan) -> WIPOffset<wire::ShardPlan<'static>> {
    let split = plan.split.map(|split| wire::Split::new(split.into, split.at));
    let args = wire::ShardPlanArgs {
        epoch: plan.epoch,
        placed: Some(builder.create_vector(&plan.placed)),
        pinned: plan.pinned,
        copies: plan.copies,
        founders: Some(builder.create_vector(&plan.founders)),
        split: split.as_ref(),
    };
    wire::ShardPlan::create(builder, &args)
}

/// A map by itself, as nodes keep it and send it to each other.
#[must_use]
pub fn encode_map(map: &ClusterMap) -> Bytes {
    let mut builder = Builder::new();
    let root = cluster_map(&mut builder, map);
    builder.finish_minimal(root);
    Bytes::copy_from_slice(builder.finished_data())
}

fn answer_body(builder: &mut Builder, answer: &Answer) -> (wire::Answer, WIPOffset<UnionWIPOffset>, usize) {
    match answer {
        Answer::Value { value, freshness } => {
            let freshness = freshness.as_ref().map(wire_freshness);
            let args = wire::ValueAnswerArgs {
                found: value.is_some(),
                version: value.as_ref().map_or(0, |value| value.version),
                freshness: freshness.as_ref(),
            };
            let bytes = value.as_ref().map_or(0, |value| value.data.len());
            (wire::Answer::ValueAnswer, wire::ValueAnswer::create(builder, &args).as_union_value(), bytes)
        }
        Answer::Exists { exists, freshness } => {
            let freshness = freshness.as_ref().map(wire_freshness);
            let args = wire::ExistsAnswerArgs { exists: *exists, freshness: freshness.as_ref() };
            (wire::Answer::ExistsAnswer, wire::ExistsAnswer::create(builder, &args).as_union_value(), 0)
        }
        Answer::Scan { items, next, freshness } => {
            let bytes: usize = items.iter().map(|item| item.key.len() + item.value.data.len()).sum();
            let bytes = bytes + next.as_ref().map_or(0, bytes::Bytes::len);
            let vector = builder.create_vector_from_iter(items.iter().map(scan_item));
            let freshness = freshness.as_ref().map(wire_freshness);
            let args = wire::ScanAnswerArgs {
                items: Some(vector),
                next_len: next.as_deref().map(piece_len),
                freshness: freshness.as_ref(),
            };
            (wire::Answer::ScanAnswer, wire::ScanAnswer::create(builder, &args).as_union_value(), bytes)
        }
        Answer::Written { index, outcomes } => {
            let vector = builder.create_vector_from_iter(outcomes.iter().map(outcome));
            let args = wire::WrittenAnswerArgs { index: *index, outcomes: Some(vector) };
            (wire::Answer::WrittenAnswer, wire::WrittenAnswer::create(builder, &args).as_union_value(), 0)
        }
        Answer::ClusterMap(map) => {
            let args = wire::MapAnswerArgs { map: Some(cluster_map(builder, map)) };
            (wire::Answer::MapAnswer, wire::MapAnswer::create(builder, &args).as_union_value(), 0)
        }
        Answer::Cluster(account) => {
            let answer = wire::ClusterAnswer::create(builder, &wire::ClusterAnswerArgs {});
            (wire::Answer::ClusterAnswer, answer.as_union_value(), account.to_json().len())
        }
        Answer::Status(json) => {
            let status = wire::StatusAnswer::create(builder, &wire::StatusAnswerArgs {});
            (wire::Answer::StatusAnswer, status.as_union_value(), json.len())
        }
        Answer::AdminAccepted(accepted) => {
            (wire::Answer::AdminAccepted, admin::encode_accepted(builder, *accepted), 0)
        }
        Answer::Shard(described) => {
            (wire::Answer::ShardDescription, admin::encode_description(builder, described), 0)
        }
        Answer::Executed { index, replies, freshness } => {
            let bytes = replies.as_ref().map_or(0, bytes::Bytes::len);
            let executed = executed_answer(builder, *index, replies.is_some(), freshness.as_ref());
            (wire::Answer::ExecutedAnswer, executed, bytes)
        }
        Answer::Counted { count } => {
            let it = wire::CountedAnswer::create(builder, &wire::CountedAnswerArgs { count: *count });
            (wire::Answer::CountedAnswer, it.as_union_value(), 0)
        }
    }
}

fn executed_answer(
    builder: &mut Builder,
    index: u64,
    executed: bool,
    freshness: Option<&Freshness>,
) -> WIPOffset<UnionWIPOffset> {
    let freshness = freshness.map(wire_freshness);
    let args = wire::ExecutedAnswerArgs { index, executed, freshness: freshness.as_ref() };
    wire::ExecutedAnswer::create(builder, &args).as_union_value()
}

fn wire_freshness(freshness: &Freshness) -> wire::Freshness {
    wire::Freshness::new(freshness.applied_index, freshness.lag_ms)
}

fn scan_item(item: &ScanItem) -> wire::ScanItem {
    wire::ScanItem::new(item.value.version, piece_len(&item.key), piece_len(&item.value.data))
}

fn outcome(outcome: &MutationOutcome) -> wire::Outcome {
    match *outcome {
        MutationOutcome::Put { version } => wire::Outcome::new(version, codes::OUTCOME_PUT, true),
        MutationOutcome::Deleted { existed } => wire::Outcome::new(0, codes::OUTCOME_DELETED, existed),
        MutationOutcome::Swapped { version } => wire::Outcome::new(version, codes::OUTCOME_SWAPPED, true),
        MutationOutcome::NotSwapped { current } => {
            wire::Outcome::new(current.unwrap_or(0), codes::OUTCOME_NOT_SWAPPED, current.is_some())
        }
        MutationOutcome::NotApplied => wire::Outcome::new(0, codes::OUTCOME_NOT_APPLIED, false),
        MutationOutcome::Accepted => wire::Outcome::new(0, codes::OUTCOME_ACCEPTED, false),
    }
}

fn refused(builder: &mut Builder, refusal: &Refusal) -> WIPOffset<UnionWIPOffset> {
    let mut args = wire::RefusedArgs::default();
    let mut say = |text: &String| Some(builder.create_string(text));
    args.kind = match refusal {
        Refusal::Busy { retry_after_ms } => {
            args.retry_after_ms = *retry_after_ms;
            codes::BUSY
        }
        Refusal::NotLeader { leader, epoch } => {
            (args.leader, args.epoch) = (*leader, *epoch);
            codes::NOT_LEADER
        }
        Refusal::WrongShard { epoch } => {
            args.epoch = *epoch;
            codes::WRONG_SHARD
        }
        Refusal::Unavailable { why } => {
            args.text = say(why);
            codes::UNAVAILABLE
        }
        Refusal::Invalid { why } => {
            args.text = say(why);
            codes::INVALID
        }
        Refusal::Conflict { why } => {
            args.text = say(why);
            codes::CONFLICT
        }
        Refusal::TooLarge { what, limit } => {
            args.limit = *limit;
            match what {
                Oversize::Key => codes::TOO_LARGE_KEY,
                Oversize::Value => codes::TOO_LARGE_VALUE,
                Oversize::Batch => codes::TOO_LARGE_BATCH,
                Oversize::Request => codes::TOO_LARGE_REQUEST,
            }
        }
        Refusal::SessionExpired => codes::SESSION_EXPIRED,
        Refusal::Timeout => codes::TIMEOUT,
        Refusal::Internal { why } => {
            args.text = say(why);
            codes::INTERNAL
        }
    };
    wire::Refused::create(builder, &args).as_union_value()
}

fn error_code(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::BadFrame => codes::BAD_FRAME,
        ErrorCode::BadMessage => codes::BAD_MESSAGE,
        ErrorCode::UnsupportedVersion => codes::UNSUPPORTED_VERSION,
        ErrorCode::WrongCluster => codes::WRONG_CLUSTER,
        ErrorCode::TooManyConnections => codes::TOO_MANY_CONNECTIONS,
        ErrorCode::ShuttingDown => codes::SHUTTING_DOWN,
        ErrorCode::Unknown(code) => code,
    }
}
