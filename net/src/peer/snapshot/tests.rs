use super::*;
use crate::frame::FrameDecoder;
use crate::types::RequestId;
use proptest::option;
use proptest::prelude::*;

fn encoded(encode: impl FnOnce(&mut PeerEncoder, &mut BytesMut) -> Result<(), FrameTooLong>) -> Frame {
    let mut out = BytesMut::new();
    encode(&mut PeerEncoder::new(usize::MAX, u32::MAX), &mut out).unwrap();
    let mut decoder = FrameDecoder::new(0, u32::MAX);
    decoder.feed(&out);
    let frame = decoder.next_frame().unwrap().expect("one frame");
    assert_eq!(decoder.buffered_bytes(), 0, "one frame and nothing else");
    frame
}

fn header_frame(header: &SnapshotHeader) -> Frame {
    encoded(|encoder, out| encoder.snapshot_header(header, out))
}

fn file(name: &str) -> SnapshotFile {
    SnapshotFile { name: name.to_owned(), bytes: 10, crc32c: 1 }
}

fn header(files: Vec<SnapshotFile>) -> SnapshotHeader {
    SnapshotHeader {
        shard: 3,
        from: 1,
        to: 7 << 20 | 2,
        term: 5,
        index: 100,
        snapshot_term: 4,
        conf_state: ConfState { voters: vec![1, 2, 3], learners: vec![7 << 20 | 2], voters_outgoing: vec![] },
        files,
    }
}

fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::btree_set(1..u64::MAX, 0..8).prop_map(|ids| ids.into_iter().collect())
}

fn headers() -> impl Strategy<Value = SnapshotHeader> {
    let conf_state = (ids(), ids(), ids()).prop_filter_map("sound", |(voters, learners, voters_outgoing)| {
        let learners: Vec<u64> = learners.into_iter().filter(|it| !voters.contains(it)).collect();
        (!voters.is_empty()).then_some(ConfState { voters, learners, voters_outgoing })
    });
    let files = prop::collection::btree_map("[a-z0-9]{1,9}(/[A-Zä.]x){0,2}", any::<(u32, u32)>(), 0..20);
    let positions = (0..=POSITION_MAX, 1..=POSITION_MAX, 0..=POSITION_MAX);
    (any::<(u32, u64, u64)>(), positions, conf_state, files).prop_map(
        |(ids, positions, conf_state, files)| {
            let ((shard, from, to), (term, index, snapshot_term)) = (ids, positions);
            let files = files.into_iter();
            let files = files.map(|(name, (bytes, crc32c))| SnapshotFile {
                name,
                bytes: u64::from(bytes) << 20,
                crc32c,
            });
            SnapshotHeader { shard, from, to, term, index, snapshot_term, conf_state, files: files.collect() }
        },
    )
}

proptest! {
    #[test]
    fn headers_round_trip(header in headers()) {
        prop_assert_eq!(decode_snapshot_header(&header_frame(&header)), Ok(header));
    }

    #[test]
    fn answers_chunks_and_ends_round_trip(
        have in prop::collection::vec(any::<u64>(), 0..20), text in ".{0,40}", failed: bool, file: u32,
        offset in 0..u64::MAX / 2, data in prop::collection::vec(any::<u8>(), 1..3000),
    ) {
        let answer =
            if failed { SnapshotAnswer::Refuse { reason: text.clone() } } else { SnapshotAnswer::Accept { have } };
        let frame = encoded(|encoder, out| encoder.snapshot_answer(&answer, out));
        prop_assert_eq!(decode_snapshot_answer(&frame), Ok(answer));
        let end = SnapshotEnd { result: if failed { Err(text) } else { Ok(()) } };
        let frame = encoded(|encoder, out| encoder.snapshot_end(&end, out));
        prop_assert_eq!(decode_snapshot_end(&frame), Ok(end));
        let frame = encoded(|encoder, out| encoder.snapshot_chunk(file, offset, &data, out));
        let chunk = decode_snapshot_chunk(&frame).unwrap();
        prop_assert_eq!(chunk.data.as_ptr(), frame.payload.as_ptr(), "no copy");
        prop_assert_eq!(chunk, SnapshotChunk { file, offset, data: data.into() });
    }

    /// Valid frames with a few bytes changed, cut off or added, behind an intact checksum.
    #[test]
    fn damaged_frames_never_panic_and_stay_within_bounds(
        header in headers(), have in prop::collection::vec(any::<u64>(), 0..20), text in option::of(".{0,40}"),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        meta_cut in option::of(any::<prop::sample::Index>()), payload_cut in option::of(any::<prop::sample::Index>()),
    ) {
        let answer = match &text {
            Some(reason) => SnapshotAnswer::Refuse { reason: reason.clone() },
            None => SnapshotAnswer::Accept { have },
        };
        let end = SnapshotEnd { result: text.map_or(Ok(()), Err) };
        let frames = [
            header_frame(&header),
            encoded(|encoder, out| encoder.snapshot_answer(&answer, out)),
            encoded(|encoder, out| encoder.snapshot_chunk(1, 1 << 20, b"data", out)),
            encoded(|encoder, out| encoder.snapshot_end(&end, out)),
        ];
        for mut frame in frames {
            frame.meta = damaged(&frame.meta, &damage, meta_cut.as_ref());
            frame.payload = damaged(&frame.payload, &damage[1..], payload_cut.as_ref());
            if let Ok(header) = decode_snapshot_header(&frame) {
                prop_assert!(header.files.len() <= FILES_MAX && header.conf_state.voters.len() <= MEMBERS_MAX);
                prop_assert!(header.files.iter().all(|file| check_name(&file.name).is_ok()));
            }
            if let Ok(chunk) = decode_snapshot_chunk(&frame) {
                prop_assert!(!chunk.data.is_empty());
            }
            let _ = (decode_snapshot_answer(&frame), decode_snapshot_end(&frame));
        }
    }
}

fn damaged(bytes: &Bytes, damage: &[(prop::sample::Index, u8)], cut: Option<&prop::sample::Index>) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (at, byte) in damage {
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
    }
    if let (Some(cut), false) = (cut, bytes.is_empty()) {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes.into()
}

#[test]
fn the_most_files_fit_and_one_more_is_refused() {
    let name = |at: usize| format!("{at:0>NAME_BYTES_MAX$}");
    let mut files: Vec<_> = (0..FILES_MAX).map(|at| file(&name(at))).collect();
    let most = header(files.clone());
    assert_eq!(decode_snapshot_header(&header_frame(&most)), Ok(most));
    files.push(file("one-more"));
    let error = decode_snapshot_header(&header_frame(&header(files)));
    assert_eq!(error, Err(inconsistent("too many files")));
    let have = vec![0; FILES_MAX + 1];
    let frame = encoded(|encoder, out| encoder.snapshot_answer(&SnapshotAnswer::Accept { have }, out));
    assert_eq!(decode_snapshot_answer(&frame), Err(inconsistent("too many files")));
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for good in ["MANIFEST-000005", "000012.sst", "blob/000013.blob", "..x", ".hidden"] {
        assert!(decode_snapshot_header(&header_frame(&header(vec![file(good)]))).is_ok(), "{good}");
    }
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    for bad in ["", "/etc/passwd", "..", ".", "a/../b", "a//b", "a/", "./a", "a\0b", "a\\b", &long] {
        let error = decode_snapshot_header(&header_frame(&header(vec![file(bad)])));
        assert_eq!(error, Err(inconsistent("no name for a file")), "{bad:?}");
    }
    let error = decode_snapshot_header(&header_frame(&header(vec![file("a"), file("b"), file("a")])));
    assert_eq!(error, Err(inconsistent("a file named twice")));
}

#[test]
fn names_that_are_no_text_are_refused() {
    let mut frame = header_frame(&header(vec![file("ab")]));
    frame.payload = Bytes::from_static(&[0xff, 0xfe]);
    assert_eq!(decode_snapshot_header(&frame), Err(inconsistent("the name of a file is no text")));
    frame.payload = Bytes::from_static(b"abc");
    assert!(matches!(decode_snapshot_header(&frame), Err(DecodeError::PayloadMismatch { .. })));
}

#[test]
fn sizes_that_overflow_are_refused() {
    let mut files = vec![file("a"), file("b")];
    files[0].bytes = u64::MAX;
    let error = decode_snapshot_header(&header_frame(&header(files)));
    assert_eq!(error, Err(inconsistent("files longer than any disk")));
    let frame = encoded(|encoder, out| encoder.snapshot_chunk(0, u64::MAX - 1, b"abc", out));
    assert_eq!(decode_snapshot_chunk(&frame), Err(inconsistent("a chunk past the end of all files")));
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let decode = |conf_state: ConfState| {
        decode_snapshot_header(&header_frame(&SnapshotHeader { conf_state, ..header(vec![]) })).map(|_| ())
    };
    let many: Vec<u64> = (1..=MEMBERS_MAX + 1).map(|id| u64::try_from(id).unwrap()).collect();
    let most = many[..MEMBERS_MAX].to_vec();
    let state = |voters: &[u64], learners: &[u64], voters_outgoing: &[u64]| ConfState {
        voters: voters.to_vec(),
        learners: learners.to_vec(),
        voters_outgoing: voters_outgoing.to_vec(),
    };
    assert_eq!(decode(state(&most, &[], &most)), Ok(()));
    assert_eq!(decode(state(&[1, 2], &[3], &[1, 3])), Ok(()), "a voter on its way to become a learner");
    assert_eq!(decode(state(&many, &[], &[])), Err(inconsistent("too many members")));
    assert_eq!(decode(state(&[1], &many, &[])), Err(inconsistent("too many members")));
    assert_eq!(decode(state(&[1], &[], &many)), Err(inconsistent("too many members")));
    assert_eq!(decode(state(&[], &[1], &[2])), Err(inconsistent("a configuration without voters")));
    assert_eq!(decode(state(&[1, 1], &[], &[])), Err(inconsistent("a member named twice")));
    assert_eq!(decode(state(&[1, 0], &[], &[])), Err(inconsistent("a member without an id")));
    assert_eq!(decode(state(&[1, 2], &[2], &[])), Err(inconsistent("a member that both votes and learns")));
}

#[test]
fn positions_that_no_log_reaches_are_refused() {
    let past = POSITION_MAX + 1;
    for wrong in [
        SnapshotHeader { index: 0, ..header(vec![]) },
        SnapshotHeader { index: past, ..header(vec![]) },
        SnapshotHeader { term: past, ..header(vec![]) },
        SnapshotHeader { snapshot_term: past, ..header(vec![]) },
    ] {
        let error = decode_snapshot_header(&header_frame(&wrong));
        assert_eq!(error, Err(inconsistent("a snapshot of no entry")));
    }
}

#[test]
fn empty_chunks_and_answers_of_both_kinds_are_refused() {
    let mut frame = encoded(|encoder, out| encoder.snapshot_chunk(0, 0, b"x", out));
    frame.payload = Bytes::new();
    assert_eq!(decode_snapshot_chunk(&frame), Err(inconsistent("an empty chunk")));
    for both in [true, false] {
        let mut builder = flatbuffers::FlatBufferBuilder::new();
        let refusal = both.then(|| builder.create_string("no"));
        let have = both.then(|| builder.create_vector(&[1u64]));
        let root = wire::SnapshotAnswer::create(&mut builder, &wire::SnapshotAnswerArgs { have, refusal });
        builder.finish(root, None);
        let meta = Bytes::copy_from_slice(builder.finished_data());
        let frame = Frame { kind: FrameKind::SnapshotAnswer, id: RequestId(0), meta, payload: Bytes::new() };
        let error = decode_snapshot_answer(&frame);
        assert_eq!(error, Err(inconsistent("neither accepted nor refused, or both")));
    }
}

#[test]
fn a_chunk_no_frame_may_hold_is_refused() {
    let mut out = BytesMut::new();
    let error = PeerEncoder::new(usize::MAX, 1000).snapshot_chunk(0, 0, &[0; 1000], &mut out).unwrap_err();
    assert!(error.length > 1000 && error.limit == 1000);
    assert!(out.is_empty());
}
