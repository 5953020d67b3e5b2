use super::*;
use crate::frame::{Frame, FrameDecoder, FrameKind};
use crate::generated::client_generated as wire;
use crate::slot::SLOT_COUNT;
use crate::types::Limits;
use bytes::BytesMut;
use proptest::option;
use proptest::prelude::*;

mod cluster;

use cluster::{accounts, cluster_ops, maps};

fn decode_one(bytes: &[u8]) -> Frame {
    let mut decoder = FrameDecoder::new(0, u32::MAX);
    decoder.feed(bytes);
    let frame = decoder.next_frame().unwrap().expect("one frame");
    assert_eq!(decoder.buffered_bytes(), 0, "one frame and nothing else");
    frame
}

fn request_frame(request: &Request) -> Frame {
    let mut out = BytesMut::new();
    Encoder::new(u32::MAX).request(request, &mut out).unwrap();
    decode_one(&out)
}

fn request(op: Op) -> Request {
    Request { id: RequestId(5), shard: 3, epoch: 9, namespace: 2, op }
}

fn put(key: &[u8], value: &[u8]) -> Mutation {
    Mutation::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), ttl_ms: None }
}

fn write(mutations: Vec<Mutation>) -> Op {
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations }
}

fn blob() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn reads() -> impl Strategy<Value = ReadConsistency> {
    use ReadConsistency::{Follower, Linearizable, Stale};
    prop_oneof![Just(Linearizable), Just(Follower), Just(Stale)]
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let expected = prop_oneof![
        Just(Expected::Absent),
        any::<u64>().prop_map(Expected::Version),
        blob().prop_map(Expected::Value)
    ];
    prop_oneof![
        (blob(), blob(), option::of(any::<u64>())).prop_map(|(key, value, ttl_ms)| Mutation::Put {
            key,
            value,
            ttl_ms
        }),
        blob().prop_map(|key| Mutation::Delete { key }),
        (blob(), expected, option::of(blob())).prop_map(|(key, expected, new)| Mutation::CompareAndSwap {
            key,
            expected,
            new
        }),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let session = any::<(u64, u64, u64)>().prop_map(|(client, sequence, acked_below)| SessionStamp {
        client,
        sequence,
        acked_below,
        retry: sequence % 2 == 0,
    });
    use WriteConsistency::{Eventual, Leader, Strong};
    let writes = prop_oneof![Just(Strong), Just(Leader), Just(Eventual)];
    prop_oneof![
        (blob(), reads()).prop_map(|(key, consistency)| Op::Get { key, consistency }),
        (blob(), reads()).prop_map(|(key, consistency)| Op::Exists { key, consistency }),
        (blob(), option::of(blob()), any::<u32>(), reads()).prop_map(|(start, end, limit, consistency)| {
            let keys_only = limit % 2 == 1;
            Op::Scan { start, end, limit, consistency, keys_only }
        }),
        (programs(), prop_oneof![reads().prop_map(Access::Read), writes.clone().prop_map(Access::Write)])
            .prop_map(|(program, consistency)| Op::Execute { program, consistency }),
        (0u16..SLOT_COUNT, 0u16..SLOT_COUNT, reads()).prop_map(|(one, other, consistency)| Op::Count {
            first_slot: one.min(other),
            last_slot: one.max(other),
            consistency,
        }),
        (option::of(session), writes, prop::collection::vec(mutations(), 1..5))
            .prop_map(|(session, consistency, mutations)| Op::Write { session, consistency, mutations }),
        Just(Op::ClusterMap),
        Just(Op::Status),
        cluster_ops().prop_map(Op::Cluster),
        admin_ops().prop_map(Op::Admin),
    ]
}

fn programs() -> impl Strategy<Value = Program> {
    let watched = (any::<u8>(), blob(), any::<u64>()).prop_map(|(namespace, key, version)| Watched {
        namespace,
        key,
        version,
    });
    let command = (any::<u8>(), prop::collection::vec(blob(), 1..5))
        .prop_map(|(namespace, args)| ProgramCommand { namespace, args });
    (0u16..SLOT_COUNT, prop::collection::vec(watched, 0..3), prop::collection::vec(command, 1..4))
        .prop_map(|(slot, watched, commands)| Program { slot, watched, commands })
}

fn admin_ops() -> impl Strategy<Value = AdminOp> {
    prop_oneof![
        any::<u64>().prop_map(|node| AdminOp::AddReplica { node }),
        any::<u64>().prop_map(|node| AdminOp::RemoveReplica { node }),
        option::of(any::<u64>()).prop_map(|node| AdminOp::TransferLeader { node }),
        Just(AdminOp::TakeSnapshot),
        Just(AdminOp::Compact),
        Just(AdminOp::Describe),
    ]
}

fn members() -> impl Strategy<Value = MemberDescription> {
    use MemberProgress::{Probe, Replicate, Snapshot};
    use MemberRole::{Incoming, Learner, Outgoing, Voter};
    let role = prop_oneof![Just(Voter), Just(Learner), Just(Incoming), Just(Outgoing)];
    let progress = prop_oneof![Just(Probe), Just(Replicate), Just(Snapshot)];
    (any::<(u64, u64, bool, bool, u64, u64)>(), role, progress).prop_map(|(numbers, role, progress)| {
        let (raft_id, node, is_leader, is_active, match_index, lag) = numbers;
        MemberDescription { raft_id, node, role, is_leader, is_active, match_index, lag, progress }
    })
}

fn descriptions() -> impl Strategy<Value = ShardDescription> {
    let snapshot = option::of(any::<(u64, u64, u64)>())
        .prop_map(|it| it.map(|(index, term, bytes)| SnapshotDescription { index, term, bytes }));
    let positions = any::<(u64, u64, u64, u64, u64, u64)>();
    let list = prop::collection::vec(members(), 0..7);
    (any::<(u32, u64, u64, bool)>(), list, positions, snapshot).prop_map(
        |((shard, node, term, joint), members, positions, snapshot)| {
            let (first_index, last_index, committed, applied, applied_durable, log_bytes) = positions;
            ShardDescription {
                shard,
                node,
                term,
                members,
                joint,
                first_index,
                last_index,
                committed,
                applied,
                applied_durable,
                log_bytes,
                snapshot,
            }
        },
    )
}

fn answers() -> impl Strategy<Value = Answer> {
    let fresh = || {
        option::of(any::<(u64, u64)>())
            .prop_map(|it| it.map(|(applied_index, lag_ms)| Freshness { applied_index, lag_ms }))
    };
    let value = || (blob(), any::<u64>()).prop_map(|(data, version)| Value { data, version });
    let item = (blob(), value()).prop_map(|(key, value)| ScanItem { key, value });
    let outcome = prop_oneof![
        any::<u64>().prop_map(|version| MutationOutcome::Put { version }),
        any::<bool>().prop_map(|existed| MutationOutcome::Deleted { existed }),
        any::<u64>().prop_map(|version| MutationOutcome::Swapped { version }),
        option::of(any::<u64>()).prop_map(|current| MutationOutcome::NotSwapped { current }),
        Just(MutationOutcome::Accepted),
    ];
    prop_oneof![
        (option::of(value()), fresh()).prop_map(|(value, freshness)| Answer::Value { value, freshness }),
        (any::<bool>(), fresh()).prop_map(|(exists, freshness)| Answer::Exists { exists, freshness }),
        (prop::collection::vec(item, 0..5), option::of(blob()), fresh())
            .prop_map(|(items, next, freshness)| Answer::Scan { items, next, freshness }),
        (any::<u64>(), prop::collection::vec(outcome, 0..5))
            .prop_map(|(index, outcomes)| Answer::Written { index, outcomes }),
        maps().prop_map(Answer::ClusterMap),
        blob().prop_map(Answer::Status),
        accounts().prop_map(Box::new).prop_map(Answer::Cluster),
        option::of(any::<(u64, u64)>()).prop_map(|it| Answer::AdminAccepted(AdminAccepted {
            index: it.map(|(index, _)| index),
            node: it.map(|(_, node)| node),
        })),
        descriptions().prop_map(Answer::Shard),
        (any::<u64>(), option::of(blob()), fresh())
            .prop_map(|(index, replies, freshness)| Answer::Executed { index, replies, freshness }),
        any::<u64>().prop_map(|count| Answer::Counted { count }),
    ]
}

fn refusals() -> impl Strategy<Value = Refusal> {
    use Oversize::{Batch, Key, Request, Value};
    let what = prop_oneof![Just(Key), Just(Value), Just(Batch), Just(Request)];
    prop_oneof![
        any::<u32>().prop_map(|retry_after_ms| Refusal::Busy { retry_after_ms }),
        (option::of(any::<u64>()), any::<u64>())
            .prop_map(|(leader, epoch)| Refusal::NotLeader { leader, epoch }),
        any::<u64>().prop_map(|epoch| Refusal::WrongShard { epoch }),
        ".{0,20}".prop_map(|why| Refusal::Unavailable { why }),
        ".{0,20}".prop_map(|why| Refusal::Invalid { why }),
        ".{0,20}".prop_map(|why| Refusal::Conflict { why }),
        (what, any::<u64>()).prop_map(|(what, limit)| Refusal::TooLarge { what, limit }),
        Just(Refusal::SessionExpired),
        Just(Refusal::Timeout),
        ".{0,20}".prop_map(|why| Refusal::Internal { why }),
    ]
}

proptest! {
    #[test]
    fn requests_round_trip(id: u64, shard: u32, epoch: u64, namespace: u8, op in ops()) {
        let request = Request { id: RequestId(id), shard, epoch, namespace, op };
        prop_assert_eq!(decode_request(&request_frame(&request), &Limits::DEFAULT), Ok(request));
    }

    #[test]
    fn replies_round_trip(id: u64, result in prop_oneof![answers().prop_map(Ok), refusals().prop_map(Err)]) {
        let reply = Reply { id: RequestId(id), result };
        let mut out = BytesMut::new();
        Encoder::new(u32::MAX).reply(&reply, &mut out).unwrap();
        prop_assert_eq!(decode_reply(&decode_one(&out)), Ok(reply));
    }

    #[test]
    fn hellos_and_errors_round_trip(
        version: u16, core in option::of(any::<u32>()), map in maps(), code in 1u16..9, message in ".{0,30}",
        frame_bytes_max in option::of(any::<u32>()),
    ) {
        let mut encoder = Encoder::new(u32::MAX);
        let mut out = BytesMut::new();
        let hello = ClientHello { version, wants_core: core };
        encoder.client_hello(&hello, &mut out).unwrap();
        prop_assert_eq!(decode_client_hello(&decode_one(&out)), Ok(hello));
        out.clear();
        let reply =
            HelloReply { version, node: 4, core: 1, key_bytes_max: 10, value_bytes_max: 20, frame_bytes_max, map };
        encoder.hello_reply(&reply, &mut out).unwrap();
        prop_assert_eq!(decode_hello_reply(&decode_one(&out)), Ok(reply));
        out.clear();
        let codes = [ErrorCode::BadFrame, ErrorCode::BadMessage, ErrorCode::UnsupportedVersion,
            ErrorCode::WrongCluster, ErrorCode::TooManyConnections, ErrorCode::ShuttingDown];
        let code = codes.get(usize::from(code) - 1).copied().unwrap_or(ErrorCode::Unknown(code));
        let report = ErrorReport { code, message };
        encoder.error(&report, &mut out).unwrap();
        prop_assert_eq!(decode_error(&decode_one(&out)), Ok(report));
    }

    /// Damage behind an intact checksum, as a broken or hostile peer would send it.
    #[test]
    fn damaged_metadata_never_panics(op in ops(), answer in answers(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut: bool) {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::new(u32::MAX);
        encoder.request(&request(op), &mut out).unwrap();
        let asked = decode_one(&out);
        out.clear();
        encoder.reply(&Reply { id: RequestId(1), result: Ok(answer) }, &mut out).unwrap();
        for mut frame in [asked, decode_one(&out)] {
            let mut meta = frame.meta.to_vec();
            for (at, byte) in &damage {
                let at = at.index(meta.len());
                meta[at] = *byte;
            }
            if cut {
                meta.truncate(damage[0].0.index(meta.len()));
            }
            frame.meta = Bytes::from(meta);
            let _ = decode_request(&frame, &Limits::DEFAULT);
            let _ = decode_reply(&frame);
            for kind in [FrameKind::ClientHello, FrameKind::HelloReply, FrameKind::Error] {
                frame.kind = kind;
                let _ = (decode_client_hello(&frame), decode_hello_reply(&frame), decode_error(&frame));
            }
        }
    }
}

#[test]
fn keys_and_values_are_slices_of_the_frame() {
    let frame = request_frame(&request(write(vec![put(b"key", b"value")])));
    let Op::Write { mutations, .. } = decode_request(&frame, &Limits::DEFAULT).unwrap().op else {
        panic!("a write was sent");
    };
    let Mutation::Put { key, value, .. } = &mutations[0] else { panic!("a put was sent") };
    assert_eq!(key.as_ptr(), frame.payload.as_ptr());
    assert_eq!(value.as_ptr(), frame.payload[3..].as_ptr());
}

#[test]
fn limits_are_enforced_and_become_refusals() {
    let limits = Limits { key_bytes_max: 4, value_bytes_max: 8, mutations_max: 2, ..Limits::DEFAULT };
    let refused = |op: Op| decode_request(&request_frame(&request(op)), &limits).unwrap_err().refusal();
    let too_large = |what, limit| Refusal::TooLarge { what, limit };
    assert_eq!(refused(write(vec![put(b"12345", b"")])), too_large(Oversize::Key, 4));
    assert_eq!(refused(write(vec![put(b"1", b"123456789")])), too_large(Oversize::Value, 8));
    assert_eq!(refused(write(vec![put(b"1", b""); 3])), too_large(Oversize::Batch, 2));
    let get = Op::Get { key: Bytes::from_static(b"12345"), consistency: ReadConsistency::Stale };
    assert_eq!(refused(get), too_large(Oversize::Key, 4));
    assert!(matches!(refused(write(vec![])), Refusal::Invalid { .. }));
    let fits = write(vec![put(b"1234", b"12345678"); 2]);
    assert!(decode_request(&request_frame(&request(fits)), &limits).is_ok());
}

#[test]
fn payload_must_be_as_long_as_described() {
    let mut frame = request_frame(&request(write(vec![put(b"key", b"value")])));
    let whole = frame.payload.clone();
    frame.payload = whole.slice(..7);
    let error = decode_request(&frame, &Limits::DEFAULT).unwrap_err();
    assert_eq!(error, DecodeError::PayloadMismatch { described: 8, actual: 7 });
    frame.payload = Bytes::from([&whole[..], b"!"].concat());
    let error = decode_request(&frame, &Limits::DEFAULT).unwrap_err();
    assert_eq!(error, DecodeError::PayloadMismatch { described: 8, actual: 9 });
}

#[test]
fn a_frame_of_another_kind_is_named() {
    let mut frame = request_frame(&request(Op::Status));
    frame.kind = FrameKind::Reply;
    let error = decode_request(&frame, &Limits::DEFAULT).unwrap_err();
    let expected = DecodeError::WrongKind { expected: FrameKind::Request, found: FrameKind::Reply };
    assert_eq!(error, expected);
}

/// Frames another program could make: every contradiction our encoder cannot express.
#[test]
fn contradictory_mutations_are_refused() {
    type Fields = (u8, u8, bool, u32, u32);
    let decode = |(kind, expected, has_value, value_len, expected_len): Fields| {
        let mut builder = flatbuffers::FlatBufferBuilder::new();
        let mutation =
            wire::Mutation::new(0, 0, 1, value_len, expected_len, kind, expected, has_value, false);
        let list = builder.create_vector(&[mutation]);
        let args = wire::WriteArgs { consistency: 0, session: None, mutations: Some(list) };
        let op = wire::Write::create(&mut builder, &args).as_union_value();
        let args =
            wire::RequestArgs { op_type: wire::Op::Write, op: Some(op), ..wire::RequestArgs::default() };
        let root = wire::Request::create(&mut builder, &args);
        builder.finish(root, None);
        let payload = Bytes::from(vec![0; usize::try_from(1 + value_len + expected_len).unwrap()]);
        let meta = Bytes::copy_from_slice(builder.finished_data());
        decode_request(&Frame { kind: FrameKind::Request, id: RequestId(1), meta, payload }, &Limits::DEFAULT)
    };
    assert!(decode((0, 0, true, 2, 0)).is_ok(), "the harness makes valid requests");
    for (contradiction, fields) in [
        ("a put without a value", (0, 0, false, 0, 0)),
        ("a delete with a value", (1, 0, true, 0, 0)),
        ("value bytes where there is none", (1, 0, false, 2, 0)),
        ("an expected value of a put", (0, 0, true, 1, 2)),
        ("an expected value where a version is compared", (2, 1, true, 1, 2)),
    ] {
        let result = decode(fields);
        assert!(matches!(result, Err(DecodeError::Inconsistent { .. })), "{contradiction}: {result:?}");
    }
    for (what, fields) in [("mutation", (3, 0, true, 0, 0)), ("expectation", (2, 3, true, 0, 0))] {
        assert_eq!(decode(fields), Err(DecodeError::UnknownVariant { what, code: 3 }));
    }
}

/// As above, of programs: (commands' argument counts, lengths, watched key's length, payload bytes).
#[test]
fn contradictory_programs_are_refused() {
    let decode = |slot: u16, counts: &[u32], lengths: &[u32], watched: u32, payload_bytes: usize| {
        let mut builder = flatbuffers::FlatBufferBuilder::new();
        let watched = builder.create_vector(&[wire::WatchedKey::new(0, watched, 0)]);
        let commands: Vec<_> = counts.iter().map(|count| wire::ProgramCommand::new(*count, 0)).collect();
        let args = wire::ExecuteArgs {
            is_write: true,
            consistency: 0,
            slot,
            watched: Some(watched),
            commands: Some(builder.create_vector(&commands)),
            arg_lens: Some(builder.create_vector(lengths)),
        };
        let op = wire::Execute::create(&mut builder, &args).as_union_value();
        let op_type = wire::Op::Execute;
        let args = wire::RequestArgs { op_type, op: Some(op), ..wire::RequestArgs::default() };
        let root = wire::Request::create(&mut builder, &args);
        builder.finish(root, None);
        let payload = Bytes::from(vec![0; payload_bytes]);
        let meta = Bytes::copy_from_slice(builder.finished_data());
        let limits = Limits { key_bytes_max: 4, value_bytes_max: 8, ..Limits::DEFAULT };
        decode_request(&Frame { kind: FrameKind::Request, id: RequestId(1), meta, payload }, &limits)
    };
    assert!(decode(0, &[2, 1], &[3, 8, 0], 4, 15).is_ok(), "the harness makes valid requests");
    for (contradiction, result) in [
        ("no commands", decode(0, &[], &[], 0, 0)),
        ("a command without a name", decode(0, &[0], &[], 0, 0)),
        ("more arguments announced than there are", decode(0, &[3], &[1, 1], 0, 2)),
        ("as above, as many as can be said", decode(0, &[u32::MAX], &[1], 0, 1)),
        ("arguments of no command", decode(0, &[1], &[1, 1], 0, 2)),
        ("no such slot", decode(SLOT_COUNT, &[1], &[1], 0, 1)),
    ] {
        assert!(matches!(result, Err(DecodeError::Inconsistent { .. })), "{contradiction}: {result:?}");
    }
    let short = decode(0, &[1], &[8], 0, 7);
    assert!(matches!(short, Err(DecodeError::PayloadMismatch { .. })), "{short:?}");
    let long = decode(0, &[1], &[3], 0, 7);
    assert!(matches!(long, Err(DecodeError::PayloadMismatch { .. })), "{long:?}");
    let too_large = |what, actual, limit| Err(DecodeError::TooLarge { what, actual, limit });
    assert_eq!(decode(0, &[1], &[9], 0, 9), too_large(Oversize::Value, 9, 8));
    assert_eq!(decode(0, &[1], &[1], 5, 6), too_large(Oversize::Key, 5, 4));
    let many = usize::try_from(PROGRAM_ARGS_MAX).unwrap() + 1;
    let result = decode(0, &[PROGRAM_ARGS_MAX + 1], &vec![0; many], 0, 0);
    let most = u64::from(PROGRAM_ARGS_MAX);
    assert_eq!(result, too_large(Oversize::Batch, most + 1, most));
}

#[test]
fn a_table_shared_many_times_is_refused_not_expanded() {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let text = builder.create_string("n");
    let args = wire::NodeInfoArgs {
        id: 1,
        binary_addr: Some(text),
        peer_addr: Some(text),
        cores: 1,
        ..Default::default()
    };
    let node = wire::NodeInfo::create(&mut builder, &args);
    let nodes = builder.create_vector(&vec![node; 100_000]);
    let shards = builder.create_vector::<flatbuffers::WIPOffset<wire::ShardInfo<'_>>>(&[]);
    let map = wire::ClusterMap::create(
        &mut builder,
        &wire::ClusterMapArgs { epoch: 1, nodes: Some(nodes), shards: Some(shards) },
    );
    let args = wire::HelloReplyArgs { version: 1, map: Some(map), ..wire::HelloReplyArgs::default() };
    let root = wire::HelloReply::create(&mut builder, &args);
    builder.finish(root, None);
    let meta = Bytes::copy_from_slice(builder.finished_data());
    let frame = Frame { kind: FrameKind::HelloReply, id: RequestId(0), meta, payload: Bytes::new() };
    assert!(matches!(decode_hello_reply(&frame), Err(DecodeError::BadMetadata { .. })));
}

#[test]
fn descriptions_beyond_bounds_are_refused() {
    let member = |role, progress| wire::Member::new(1, 1, 0, 0, role, progress, false, true);
    let decode = |members: &[wire::Member]| {
        let mut builder = flatbuffers::FlatBufferBuilder::new();
        let members = Some(builder.create_vector(members));
        let args = wire::ShardDescriptionArgs { members, ..wire::ShardDescriptionArgs::default() };
        let answer = wire::ShardDescription::create(&mut builder, &args).as_union_value();
        let answer_type = wire::Answer::ShardDescription;
        let args = wire::ReplyArgs { answer_type, answer: Some(answer) };
        let root = wire::Reply::create(&mut builder, &args);
        builder.finish(root, None);
        let meta = Bytes::copy_from_slice(builder.finished_data());
        decode_reply(&Frame { kind: FrameKind::Reply, id: RequestId(1), meta, payload: Bytes::new() })
    };
    assert!(decode(&[member(0, 0); DESCRIBED_MEMBERS_MAX]).is_ok());
    let inconsistent = DecodeError::Inconsistent { why: "too many members" };
    assert_eq!(decode(&[member(0, 0); DESCRIBED_MEMBERS_MAX + 1]), Err(inconsistent));
    let unknown = |what| Err(DecodeError::UnknownVariant { what, code: 9 });
    assert_eq!(decode(&[member(9, 0)]), unknown("role of a member"));
    assert_eq!(decode(&[member(0, 9)]), unknown("progress of a member"));
}

#[test]
fn during_a_replacement_the_newer_member_of_a_node_is_shown() {
    let member = |raft_id, node| MemberDescription {
        raft_id,
        node,
        role: MemberRole::Voter,
        is_leader: false,
        is_active: true,
        match_index: 0,
        lag: 0,
        progress: MemberProgress::Probe,
    };
    let members = vec![member(1, 1), member(2, 2), member(9 << 20 | 2, 2)];
    let described = ShardDescription {
        shard: 1,
        node: 1,
        term: 1,
        members,
        joint: false,
        first_index: 1,
        last_index: 1,
        committed: 1,
        applied: 1,
        applied_durable: 1,
        log_bytes: 0,
        snapshot: None,
    };
    assert_eq!(described.member_on(2).map(|it| it.raft_id), Some(9 << 20 | 2));
    assert_eq!(described.member_on(3), None);
}

#[test]
fn only_doubtful_refusals_may_have_executed() {
    assert!(Refusal::Timeout.may_have_executed());
    assert!(Refusal::Internal { why: String::new() }.may_have_executed());
    for refusal in [
        Refusal::Busy { retry_after_ms: 1 },
        Refusal::NotLeader { leader: None, epoch: 1 },
        Refusal::WrongShard { epoch: 1 },
        Refusal::Unavailable { why: String::new() },
        Refusal::Invalid { why: String::new() },
        Refusal::Conflict { why: String::new() },
        Refusal::TooLarge { what: Oversize::Key, limit: 1 },
        Refusal::SessionExpired,
    ] {
        assert!(!refusal.may_have_executed(), "{refusal}");
    }
}

#[test]
fn an_encoder_refuses_what_no_frame_may_hold() {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(1000);
    let error = encoder.request(&request(write(vec![put(b"k", &[0; 2000])])), &mut out).unwrap_err();
    assert!(error.length > 2000 && error.limit == 1000);
    assert!(out.is_empty());
    encoder.request(&request(write(vec![put(b"k", &[0; 500])])), &mut out).unwrap();
    assert!(decode_request(&decode_one(&out), &Limits::DEFAULT).is_ok(), "the encoder is usable after");
}
