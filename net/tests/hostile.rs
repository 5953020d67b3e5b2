//! What a broken or hostile sender could make of valid frames: bytes and numbers changed, cut off, moved, parts of one
//! frame put into another, kinds exchanged, all behind intact checksums. No decoder may panic or allocate beyond its
//! bounds, and what is accepted must mean one thing: encoded again, it decodes to the same.

use bytes::{Bytes, BytesMut};
use net::frame::{Frame, FrameDecoder, FrameKind, FrameWriter};
use net::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
use net::peer::{
    AppendResult, ConfState, Founder, GroupBody, GroupMessage, PEER_VERSION, PeerEncoder, PeerEntry,
    PeerHello, PeerHelloReply, Purpose, SnapshotAnswer, SnapshotEnd, SnapshotFile, SnapshotHeader, StoreInfo,
};
use net::protocol::{
    Access, AdminOp, Answer, ClientHello, Encoder, ErrorCode, ErrorReport, Expected, HelloReply,
    MemberDescription, MemberProgress, MemberRole, Mutation, MutationOutcome, Op, PROTOCOL_VERSION, Program,
    ProgramCommand, ReadConsistency, Refusal, Reply, Request, ScanItem, SessionStamp, ShardDescription,
    SnapshotDescription, Watched, WriteConsistency,
};
use net::{RequestId, Value};
use proptest::prelude::*;
use proptest::sample::Index;

#[path = "../fuzz/judge.rs"]
mod judge;
use judge::{arrived, check_client, check_peer, frames};

const KINDS: [FrameKind; 12] = [
    FrameKind::ClientHello,
    FrameKind::HelloReply,
    FrameKind::Request,
    FrameKind::Reply,
    FrameKind::Error,
    FrameKind::PeerHello,
    FrameKind::PeerHelloReply,
    FrameKind::PeerMessages,
    FrameKind::SnapshotHeader,
    FrameKind::SnapshotAnswer,
    FrameKind::SnapshotChunk,
    FrameKind::SnapshotEnd,
];

// ---- Valid frames ---------------------------------------------------------------------------------------------

fn group_message(body: GroupBody) -> GroupMessage {
    GroupMessage { group: 3, from: 1, to: 7 << 20 | 2, term: 9, body }
}

fn bodies() -> Vec<GroupBody> {
    let entry = |index| PeerEntry { term: 8, index, kind: 1, data: Bytes::from_static(b"entry data") };
    vec![
        GroupBody::PreVote { last_index: 4, last_term: 3 },
        GroupBody::PreVoteResponse { granted: true },
        GroupBody::Vote { last_index: 4, last_term: 3, transfer: true },
        GroupBody::VoteResponse { granted: false },
        GroupBody::Append {
            prev_index: 10,
            prev_term: 7,
            entries: (11..15).map(entry).collect(),
            commit: 10,
            round: 6,
        },
        GroupBody::AppendResponse { result: AppendResult::Accepted { match_index: 14 }, round: 6 },
        GroupBody::AppendResponse {
            result: AppendResult::Rejected { rejected_index: 10, hint_index: 5, hint_term: 2 },
            round: 6,
        },
        GroupBody::Heartbeat { commit: 10, round: 7 },
        GroupBody::HeartbeatResponse { round: 7 },
        GroupBody::ReadIndex { context: 77 },
        GroupBody::ReadIndexResponse { context: 77, index: Some(10) },
        GroupBody::TimeoutNow,
        GroupBody::Join,
        GroupBody::Invite,
        GroupBody::Gone { index: 0 },
        GroupBody::Sleep { commit: 14 },
    ]
}

fn peer_frames() -> Vec<Frame> {
    let mut out = BytesMut::new();
    let mut encoder = PeerEncoder::new(1 << 20, u32::MAX);
    let founders = vec![Founder { node: 1, store: 11 }, Founder { node: 2, store: 22 }];
    let store = StoreInfo { store: 11, settled: true, founders };
    let hello = PeerHello {
        version: PEER_VERSION,
        node: 1,
        core: 0,
        cluster_id: "local".into(),
        wants_core: 1,
        purpose: Purpose::Snapshot,
        store: store.clone(),
        vote_hold_ms: 500,
    };
    encoder.hello(&hello, &mut out).unwrap();
    let reply = PeerHelloReply { version: PEER_VERSION, node: 2, core: 1, store, vote_hold_ms: 500 };
    encoder.hello_reply(&reply, &mut out).unwrap();
    let messages: Vec<GroupMessage> = bodies().into_iter().map(group_message).collect();
    encoder.messages(&messages, &mut out).unwrap();
    encoder.messages(&messages[4..5], &mut out).unwrap();
    encoder.snapshot_header(&header(), &mut out).unwrap();
    encoder.snapshot_answer(&SnapshotAnswer::Accept { have: vec![0, 100, 7] }, &mut out).unwrap();
    encoder.snapshot_answer(&SnapshotAnswer::Refuse { reason: "not now".into() }, &mut out).unwrap();
    encoder.snapshot_chunk(1, 100, b"a piece of a file", &mut out).unwrap();
    encoder.snapshot_end(&SnapshotEnd { result: Ok(()) }, &mut out).unwrap();
    encoder.snapshot_end(&SnapshotEnd { result: Err("checksum".into()) }, &mut out).unwrap();
    frames(&out)
}

fn header() -> SnapshotHeader {
    let file = |name: &str| SnapshotFile { name: name.into(), bytes: 1 << 20, crc32c: 0x1234_5678 };
    SnapshotHeader {
        shard: 3,
        from: 1,
        to: 7 << 20 | 2,
        term: 9,
        index: 100,
        snapshot_term: 8,
        conf_state: ConfState {
            voters: vec![1, 2, 3],
            learners: vec![7 << 20 | 2],
            voters_outgoing: vec![1, 2, 4],
        },
        files: vec![file("CURRENT"), file("000012.sst"), file("blob/000013.blob")],
    }
}

fn map() -> ClusterMap {
    let node = |id| NodeInfo {
        id,
        binary_addr: "n:1".into(),
        peer_addr: "n:2".into(),
        cores: 2,
        ..NodeInfo::default()
    };
    let shard = ShardInfo {
        id: 1,
        slots: Some(SlotRange { first: 0, last: 16383 }),
        replicas: [1, 2].map(|node| ReplicaInfo { node, core: 1 }).to_vec(),
        leader: Some(2),
        ..ShardInfo::default()
    };
    ClusterMap { epoch: 4, nodes: [1, 2].map(node).to_vec(), shards: vec![shard] }
}

fn ops() -> Vec<Op> {
    let (key, consistency) = (Bytes::from_static(b"key"), ReadConsistency::Follower);
    let value = Bytes::from_static(b"value");
    let session = Some(SessionStamp { client: 5, sequence: 9, acked_below: 3, retry: true });
    let swap = |expected| Mutation::CompareAndSwap { key: key.clone(), expected, new: Some(value.clone()) };
    let mutations = vec![
        Mutation::Put { key: key.clone(), value: value.clone(), ttl_ms: Some(7) },
        Mutation::Delete { key: key.clone() },
        swap(Expected::Absent),
        swap(Expected::Version(3)),
        swap(Expected::Value(value.clone())),
    ];
    vec![
        Op::Get { key: key.clone(), consistency },
        Op::Exists { key: key.clone(), consistency },
        Op::Scan { start: key.clone(), end: Some(value.clone()), limit: 5, consistency, keys_only: true },
        Op::Write { session, consistency: WriteConsistency::Leader, mutations },
        Op::ClusterMap,
        Op::Status,
        Op::Admin(AdminOp::AddReplica { node: 4 }),
        Op::Admin(AdminOp::TransferLeader { node: Some(4) }),
        Op::Admin(AdminOp::Describe),
        Op::Execute { program: program(&key), consistency: Access::Write(WriteConsistency::Strong) },
        Op::Execute { program: program(&value), consistency: Access::Read(consistency) },
        Op::Count { first_slot: 1, last_slot: 16383, consistency },
    ]
}

fn program(key: &Bytes) -> Program {
    let command = |args: &[&'static [u8]]| ProgramCommand {
        namespace: 3,
        args: args.iter().map(|arg| Bytes::from_static(arg)).collect(),
    };
    Program {
        slot: 12_539,
        watched: vec![Watched { namespace: 3, key: key.clone(), version: 7 }; 2],
        commands: vec![command(&[b"SET", b"key", b"value"]), command(&[b"INCRBY", b"key", b"5"])],
    }
}

fn described() -> ShardDescription {
    let member = MemberDescription {
        raft_id: 7 << 20 | 2,
        node: 2,
        role: MemberRole::Incoming,
        is_leader: false,
        is_active: true,
        match_index: 5,
        lag: 4,
        progress: MemberProgress::Snapshot,
    };
    ShardDescription {
        shard: 1,
        node: 1,
        term: 4,
        members: vec![member; 4],
        joint: true,
        first_index: 1,
        last_index: 9,
        committed: 9,
        applied: 8,
        applied_durable: 5,
        log_bytes: 100,
        snapshot: Some(SnapshotDescription { index: 5, term: 3, bytes: 1000 }),
    }
}

fn results() -> Vec<Result<Answer, Refusal>> {
    let value = || Value { data: Bytes::from_static(b"value"), version: 6 };
    let item = || ScanItem { key: Bytes::from_static(b"key"), value: value() };
    let outcomes = vec![MutationOutcome::Put { version: 6 }, MutationOutcome::NotSwapped { current: None }];
    vec![
        Ok(Answer::Value { value: Some(value()), freshness: None }),
        Ok(Answer::Exists { exists: true, freshness: None }),
        Ok(Answer::Scan {
            items: vec![item(), item()],
            next: Some(Bytes::from_static(b"next")),
            freshness: None,
        }),
        Ok(Answer::Written { index: 6, outcomes }),
        Ok(Answer::ClusterMap(map())),
        Ok(Answer::Status(Bytes::from_static(b"{}"))),
        Ok(Answer::Shard(described())),
        Ok(Answer::Executed { index: 6, replies: Some(Bytes::from_static(b"+OK\r\n")), freshness: None }),
        Ok(Answer::Executed { index: 6, replies: None, freshness: None }),
        Ok(Answer::Counted { count: 12 }),
        Err(Refusal::NotLeader { leader: Some(2), epoch: 4 }),
        Err(Refusal::Conflict { why: "busy".into() }),
    ]
}

fn client_frames() -> Vec<Frame> {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(u32::MAX);
    let hello = ClientHello { version: PROTOCOL_VERSION, wants_core: Some(1) };
    encoder.client_hello(&hello, &mut out).unwrap();
    let reply = HelloReply {
        version: PROTOCOL_VERSION,
        node: 1,
        core: 1,
        key_bytes_max: 10,
        value_bytes_max: 20,
        frame_bytes_max: Some(30),
        map: map(),
    };
    encoder.hello_reply(&reply, &mut out).unwrap();
    for op in ops() {
        let request = Request { id: RequestId(5), shard: 3, epoch: 4, namespace: 0, op };
        encoder.request(&request, &mut out).unwrap();
    }
    for result in results() {
        encoder.reply(&Reply { id: RequestId(5), result }, &mut out).unwrap();
    }
    let report = ErrorReport { code: ErrorCode::BadFrame, message: "bad".into() };
    encoder.error(&report, &mut out).unwrap();
    frames(&out)
}

// ---- What a hostile sender makes of them ----------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Harm {
    Byte(Index, u8),
    /// A 32-bit number, wherever it stands: an offset, a length, half of a field.
    Word(Index, u32),
    /// As above, to a value near what stands there.
    Nudge(Index, i8),
    Cut(Index),
    Grow(Vec<u8>),
    /// Repeats a part elsewhere.
    Move(Index, Index, u8),
    /// The same part of another frame.
    Graft(Index),
}

fn harms() -> impl Strategy<Value = Harm> {
    let number = prop_oneof![
        Just(0),
        Just(1),
        Just(u32::MAX),
        Just(u32::MAX >> 1),
        Just(1 << 31),
        0u32..300,
        any::<u32>()
    ];
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, to)| Harm::Byte(at, to)),
        4 => (any::<Index>(), number).prop_map(|(at, to)| Harm::Word(at, to)),
        4 => (any::<Index>(), any::<i8>()).prop_map(|(at, by)| Harm::Nudge(at, by)),
        1 => any::<Index>().prop_map(Harm::Cut),
        1 => prop::collection::vec(any::<u8>(), 1..40).prop_map(Harm::Grow),
        2 => (any::<Index>(), any::<Index>(), 1u8..64).prop_map(|(from, to, count)| Harm::Move(from, to, count)),
        1 => any::<Index>().prop_map(Harm::Graft),
    ]
}

fn harm(bytes: &mut Vec<u8>, harm: &Harm, others: &[Bytes]) {
    if let Harm::Graft(which) = harm {
        *bytes = which.get(others).to_vec();
    }
    let word = |at: &Index, length: usize| at.index(length / 4) * 4;
    match harm {
        Harm::Grow(tail) => bytes.extend_from_slice(tail),
        _ if bytes.len() < 8 => {}
        Harm::Byte(at, to) => {
            let at = at.index(bytes.len());
            bytes[at] = *to;
        }
        Harm::Word(at, to) => {
            let at = word(at, bytes.len());
            bytes[at..at + 4].copy_from_slice(&to.to_le_bytes());
        }
        Harm::Nudge(at, by) => {
            let at = word(at, bytes.len());
            let present = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            let nudged = present.wrapping_add_signed(i32::from(*by));
            bytes[at..at + 4].copy_from_slice(&nudged.to_le_bytes());
        }
        Harm::Cut(at) => bytes.truncate(at.index(bytes.len())),
        Harm::Move(from, to, count) => {
            let count = usize::from(*count).min(bytes.len() / 2);
            let (from, to) = (from.index(bytes.len() - count), to.index(bytes.len() - count));
            bytes.copy_within(from..from + count, to);
        }
        Harm::Graft(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_frame_makes_a_decoder_panic_or_mean_two_things(
        which: Index, kind in prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)],
        to_meta in prop::collection::vec(harms(), 0..6), to_payload in prop::collection::vec(harms(), 0..3),
    ) {
        let all = [peer_frames(), client_frames()].concat();
        let (metas, payloads): (Vec<Bytes>, Vec<Bytes>) =
            all.iter().map(|frame| (frame.meta.clone(), frame.payload.clone())).unzip();
        let frame = which.get(&all);
        let (mut meta, mut payload) = (frame.meta.to_vec(), frame.payload.to_vec());
        to_meta.iter().for_each(|it| harm(&mut meta, it, &metas));
        to_payload.iter().for_each(|it| harm(&mut payload, it, &payloads));
        let kind = kind.map_or(frame.kind, |kind| *kind.get(&KINDS));
        let frame = arrived(kind, &meta, &payload);
        check_peer(&frame);
        check_client(&frame);
    }

    /// The same below the checksums: a stream of frames, damaged anywhere and received in pieces.
    #[test]
    fn no_stream_makes_the_frame_decoder_panic_or_hoard(
        harm_to in prop::collection::vec(harms(), 1..6), piece in 1usize..400, limit in 100u32..100_000,
    ) {
        let mut bytes = Vec::new();
        for frame in [peer_frames(), client_frames()].concat() {
            let mut out = BytesMut::new();
            let (meta, payload) = (&frame.meta, &frame.payload);
            let mut writer = FrameWriter::begin(&mut out, frame.kind, frame.id, meta, payload.len(), u32::MAX).unwrap();
            writer.put(payload);
            writer.finish();
            bytes.extend_from_slice(&out);
        }
        let whole = Bytes::from(bytes.clone());
        harm_to.iter().for_each(|it| harm(&mut bytes, it, std::slice::from_ref(&whole)));
        let mut decoder = FrameDecoder::new(0, limit);
        for piece in bytes.chunks(piece) {
            decoder.feed(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => {
                        prop_assert!(frame.meta.len() + frame.payload.len() <= usize::try_from(limit).unwrap());
                        check_peer(&frame);
                        check_client(&frame);
                    }
                    Ok(None) => break,
                    Err(error) if error.is_fatal() => {
                        prop_assert_eq!(decoder.next_frame(), Err(error), "lost for good");
                        return Ok(());
                    }
                    Err(_skipped) => {}
                }
            }
            prop_assert!(decoder.buffered_bytes() <= usize::try_from(limit).unwrap() + piece.len() + 32);
        }
    }
}
