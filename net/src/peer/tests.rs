use super::*;
use crate::frame::{Frame, FrameDecoder, FrameKind};
use crate::generated::peer_generated as wire;
use crate::protocol::DecodeError;
use crate::types::RequestId;
use bytes::BytesMut;
use proptest::option;
use proptest::prelude::*;

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(0, u32::MAX);
    decoder.feed(bytes);
    std::iter::from_fn(|| decoder.next_frame().unwrap()).collect()
}

fn decoded(bytes: &[u8]) -> Vec<GroupMessage> {
    let mut messages = Vec::new();
    for frame in frames(bytes) {
        decode_messages(&frame, &mut messages).unwrap();
    }
    messages
}

fn append(group: u32, prev_index: u64, data: &[&[u8]]) -> GroupMessage {
    let entries = data.iter().zip(prev_index + 1..).map(|(data, index)| PeerEntry {
        term: 2,
        index,
        kind: 0,
        data: Bytes::copy_from_slice(data),
    });
    let body =
        GroupBody::Append { prev_index, prev_term: 1, entries: entries.collect(), commit: 1, round: 4 };
    GroupMessage { group, from: 1, to: 2, term: 2, body }
}

fn position() -> impl Strategy<Value = u64> {
    0..=POSITION_MAX
}

fn reports() -> impl Strategy<Value = ShardReport> {
    let nodes = || prop::collection::vec(any::<u64>(), 0..4);
    let slots = option::of(any::<(u16, u16)>().prop_map(|(first, last)| SlotRange { first, last }));
    (any::<u32>(), (position(), position()), any::<u64>(), (nodes(), nodes(), any::<bool>()), slots).prop_map(
        |(shard, (term, index), leader, (voters, learners, joint), slots)| ShardReport {
            shard,
            term,
            index,
            leader,
            voters,
            learners,
            joint,
            slots,
        },
    )
}

fn bodies() -> impl Strategy<Value = GroupBody> {
    let result = prop_oneof![
        position().prop_map(|match_index| AppendResult::Accepted { match_index }),
        (position(), position(), position()).prop_map(|(rejected_index, hint_index, hint_term)| {
            AppendResult::Rejected { rejected_index, hint_index, hint_term }
        }),
    ];
    let entry = (position(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..60));
    prop_oneof![
        (position(), position())
            .prop_map(|(last_index, last_term)| GroupBody::PreVote { last_index, last_term }),
        any::<bool>().prop_map(|granted| GroupBody::PreVoteResponse { granted }),
        (position(), position(), any::<bool>()).prop_map(|(last_index, last_term, transfer)| {
            GroupBody::Vote { last_index, last_term, transfer }
        }),
        any::<bool>().prop_map(|granted| GroupBody::VoteResponse { granted }),
        (0..POSITION_MAX - 9, (position(), position(), any::<u64>()), prop::collection::vec(entry, 0..5))
            .prop_map(|(prev_index, (prev_term, commit, round), entries)| GroupBody::Append {
                prev_index,
                prev_term,
                entries: (prev_index + 1..)
                    .zip(entries)
                    .map(|(index, (term, kind, data))| PeerEntry { term, index, kind, data: data.into() })
                    .collect(),
                commit,
                round,
            }),
        (result, any::<u64>()).prop_map(|(result, round)| GroupBody::AppendResponse { result, round }),
        (position(), any::<u64>()).prop_map(|(commit, round)| GroupBody::Heartbeat { commit, round }),
        any::<u64>().prop_map(|round| GroupBody::HeartbeatResponse { round }),
        any::<u64>().prop_map(|context| GroupBody::ReadIndex { context }),
        (any::<u64>(), option::of(position()))
            .prop_map(|(context, index)| GroupBody::ReadIndexResponse { context, index }),
        Just(GroupBody::TimeoutNow),
        Just(GroupBody::Join),
        Just(GroupBody::Invite),
        position().prop_map(|index| GroupBody::Gone { index }),
        position().prop_map(|commit| GroupBody::Sleep { commit }),
        prop::collection::vec(reports(), 0..4).prop_map(GroupBody::Reports),
        any::<(u64, bool)>().prop_map(|(epoch, takes_changes)| GroupBody::MapEpoch { epoch, takes_changes }),
        prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..60)), 0..4).prop_map(
            |changes| {
                let change = |(digest, change): (u64, Vec<u8>)| MapChange { digest, change: change.into() };
                GroupBody::MapChanges(changes.into_iter().map(change).collect())
            }
        ),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|map| GroupBody::Map { map: map.into() }),
    ]
}

fn messages() -> impl Strategy<Value = Vec<GroupMessage>> {
    let message = (any::<(u32, u64, u64)>(), position(), bodies())
        .prop_map(|((group, from, to), term, body)| GroupMessage { group, from, to, term, body });
    prop::collection::vec(message, 0..20)
}

proptest! {
    #[test]
    fn messages_round_trip_through_any_cut_into_frames(list in messages(), target in 0usize..4000) {
        let mut out = BytesMut::new();
        let count = PeerEncoder::new(target, u32::MAX).messages(&list, &mut out).unwrap();
        prop_assert_eq!(frames(&out).len(), count);
        prop_assert_eq!(decoded(&out), list);
    }

    #[test]
    fn damaged_metadata_never_panics(list in messages(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut out = BytesMut::new();
        PeerEncoder::new(usize::MAX, u32::MAX).messages(&list, &mut out).unwrap();
        for mut frame in frames(&out) {
            let mut meta = frame.meta.to_vec();
            for (at, byte) in &damage {
                let at = at.index(meta.len());
                meta[at] = *byte;
            }
            frame.meta = Bytes::from(meta);
            let mut messages = Vec::new();
            if decode_messages(&frame, &mut messages).is_err() {
                prop_assert!(messages.is_empty(), "all or nothing");
            }
        }
    }
}

#[test]
fn hellos_round_trip() {
    let mut encoder = PeerEncoder::new(usize::MAX, u32::MAX);
    let mut out = BytesMut::new();
    let founders = vec![Founder { node: 2, store: 77 }, Founder { node: 5, store: u64::MAX }];
    let hello = PeerHello {
        version: PEER_VERSION,
        node: 2,
        core: 3,
        cluster_id: "local".into(),
        wants_core: 4,
        purpose: Purpose::Identity,
        store: StoreInfo { store: 77, settled: false, founders: Vec::new() },
        vote_hold_ms: 500,
    };
    let store = StoreInfo { store: u64::MAX, settled: true, founders };
    let reply = PeerHelloReply { version: PEER_VERSION, node: 5, core: 4, store, vote_hold_ms: u32::MAX };
    encoder.hello(&hello, &mut out).unwrap();
    encoder.hello_reply(&reply, &mut out).unwrap();
    let frames = frames(&out);
    assert_eq!(decode_peer_hello(&frames[0]), Ok(hello));
    assert_eq!(decode_peer_hello_reply(&frames[1]), Ok(reply));
    assert!(matches!(decode_peer_hello(&frames[1]), Err(DecodeError::WrongKind { .. })));
}

/// A hello as another program could make it.
fn hello_frame(purpose: u8, founders: &[wire::Founder]) -> Frame {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let args = wire::PeerHelloArgs {
        cluster_id: Some(builder.create_string("local")),
        purpose,
        founders: Some(builder.create_vector(founders)),
        ..wire::PeerHelloArgs::default()
    };
    let root = wire::PeerHello::create(&mut builder, &args);
    builder.finish(root, None);
    let meta = Bytes::copy_from_slice(builder.finished_data());
    Frame { kind: FrameKind::PeerHello, id: RequestId(0), meta, payload: Bytes::new() }
}

#[test]
fn senseless_hellos_are_refused() {
    let founder = |node: usize| wire::Founder::new(u64::try_from(node).unwrap(), 1);
    let all: Vec<_> = (0..=FOUNDERS_MAX).map(founder).collect();
    assert!(decode_peer_hello(&hello_frame(0, &all[..FOUNDERS_MAX])).is_ok());
    let inconsistent = |why| Err(DecodeError::Inconsistent { why });
    assert_eq!(decode_peer_hello(&hello_frame(0, &all)), inconsistent("too many founders"));
    let twice = [founder(1), founder(2), founder(1)];
    assert_eq!(decode_peer_hello(&hello_frame(0, &twice)), inconsistent("a founder named twice"));
    let unknown = DecodeError::UnknownVariant { what: "purpose", code: 3 };
    assert_eq!(decode_peer_hello(&hello_frame(3, &[])), Err(unknown));
}

#[test]
fn many_groups_share_a_frame_and_data_are_slices_of_it() {
    let list: Vec<_> = (0..64).map(|group| append(group, 10, &[b"one", b"two"])).collect();
    let mut out = BytesMut::new();
    assert_eq!(PeerEncoder::new(1 << 20, u32::MAX).messages(&list, &mut out), Ok(1));
    let frame = frames(&out).remove(0);
    assert_eq!(frame.payload.len(), 64 * 6);
    let mut messages = Vec::new();
    decode_messages(&frame, &mut messages).unwrap();
    let GroupBody::Append { entries, .. } = &messages[1].body else { panic!("an append was sent") };
    assert_eq!(entries[0].data.as_ptr(), frame.payload[6..].as_ptr());
}

#[test]
fn frames_are_cut_at_the_target() {
    let list: Vec<_> = (0..10).map(|group| append(group, 0, &[&[7; 1000]])).collect();
    let mut out = BytesMut::new();
    let count = PeerEncoder::new(3000, u32::MAX).messages(&list, &mut out).unwrap();
    assert_eq!(count, 5, "two messages of a good 1000 bytes each fit");
    assert!(frames(&out).iter().all(|frame| frame.meta.len() + frame.payload.len() <= 3000));
    assert_eq!(decoded(&out), list);
}

#[test]
fn a_message_no_frame_may_hold_is_named_and_the_others_are_whole() {
    let list = [append(1, 0, &[b"small"]), append(2, 0, &[&[0; 5000]]), append(3, 0, &[b"small"])];
    let mut out = BytesMut::new();
    let error = PeerEncoder::new(1000, 4000).messages(&list, &mut out).unwrap_err();
    let PeerEncodeError::MessageTooLong { position, source } = error;
    assert_eq!((position, source.limit), (1, 4000));
    assert_eq!(decoded(&out), list[..1]);
}

#[test]
fn entries_with_a_gap_are_refused_and_nothing_is_kept() {
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let entries = builder.create_vector(&[wire::Entry::new(1, 11, 0, 0), wire::Entry::new(1, 13, 0, 0)]);
    let args = wire::AppendArgs { prev_index: 10, entries: Some(entries), ..wire::AppendArgs::default() };
    let body = wire::Append::create(&mut builder, &args).as_union_value();
    let args = wire::GroupMessageArgs {
        body_type: wire::Body::Append,
        body: Some(body),
        ..wire::GroupMessageArgs::default()
    };
    let message = wire::GroupMessage::create(&mut builder, &args);
    let list = builder.create_vector(&[message]);
    let root = wire::Messages::create(&mut builder, &wire::MessagesArgs { messages: Some(list) });
    builder.finish(root, None);
    let meta = Bytes::copy_from_slice(builder.finished_data());
    let frame = Frame { kind: FrameKind::PeerMessages, id: RequestId(0), meta, payload: Bytes::new() };
    let mut kept = vec![append(1, 0, &[])];
    let error = decode_messages(&frame, &mut kept).unwrap_err();
    assert_eq!(error, DecodeError::Inconsistent { why: "entries are not contiguous" });
    assert_eq!(kept.len(), 1);
}

#[test]
fn positions_that_no_log_reaches_are_refused() {
    let refused = |term, body| {
        let message = GroupMessage { group: 1, from: 1, to: 2, term, body };
        let mut out = BytesMut::new();
        PeerEncoder::new(usize::MAX, u32::MAX).messages(&[message], &mut out).unwrap();
        let mut kept = Vec::new();
        let error = decode_messages(&frames(&out)[0], &mut kept).unwrap_err();
        assert!(kept.is_empty());
        assert_eq!(error, DecodeError::Inconsistent { why: "an index or term past all logs" });
    };
    let past = POSITION_MAX + 1;
    refused(past, GroupBody::TimeoutNow);
    refused(1, GroupBody::PreVote { last_index: 1, last_term: past });
    refused(1, GroupBody::Vote { last_index: past, last_term: 1, transfer: false });
    refused(1, GroupBody::Heartbeat { commit: past, round: 1 });
    refused(1, GroupBody::Sleep { commit: past });
    refused(1, GroupBody::ReadIndexResponse { context: 1, index: Some(past) });
    let entry = PeerEntry { term: 1, index: past, kind: 0, data: Bytes::new() };
    let entries = vec![entry];
    refused(1, GroupBody::Append { prev_index: POSITION_MAX, prev_term: 1, entries, commit: 1, round: 1 });
    let hint = AppendResult::Rejected { rejected_index: 1, hint_index: 1, hint_term: past };
    refused(1, GroupBody::AppendResponse { result: hint, round: 1 });
}

#[test]
fn a_frame_holds_so_many_messages_and_no_more() {
    let message = GroupMessage { group: 1, from: 1, to: 2, term: 1, body: GroupBody::Join };
    let list = vec![message; FRAME_MESSAGES_MAX + 1];
    let mut out = BytesMut::new();
    assert_eq!(PeerEncoder::new(usize::MAX, u32::MAX).messages(&list, &mut out), Ok(2));
    assert_eq!(decoded(&out), list);
    let mut builder = flatbuffers::FlatBufferBuilder::new();
    let body = wire::Join::create(&mut builder, &wire::JoinArgs {}).as_union_value();
    let args = wire::GroupMessageArgs {
        body_type: wire::Body::Join,
        body: Some(body),
        ..wire::GroupMessageArgs::default()
    };
    let message = wire::GroupMessage::create(&mut builder, &args);
    let list = builder.create_vector(&vec![message; FRAME_MESSAGES_MAX + 1]);
    let root = wire::Messages::create(&mut builder, &wire::MessagesArgs { messages: Some(list) });
    builder.finish(root, None);
    let meta = Bytes::copy_from_slice(builder.finished_data());
    let frame = Frame { kind: FrameKind::PeerMessages, id: RequestId(0), meta, payload: Bytes::new() };
    assert!(decode_messages(&frame, &mut Vec::new()).is_err());
}

#[test]
fn no_messages_are_one_empty_frame() {
    let mut bytes = BytesMut::new();
    assert_eq!(PeerEncoder::new(1 << 16, 1 << 20).messages(&[], &mut bytes), Ok(1));
    assert_eq!((frames(&bytes).len(), decoded(&bytes).len()), (1, 0));
}
