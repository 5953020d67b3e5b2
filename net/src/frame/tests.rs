use super::*;
use proptest::prelude::*;

fn frame_bytes(kind: FrameKind, id: u64, meta: &[u8], payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    append(&mut out, kind, id, meta, payload);
    out
}

fn append(out: &mut BytesMut, kind: FrameKind, id: u64, meta: &[u8], payload: &[u8]) {
    let mut frame = FrameWriter::begin(out, kind, RequestId(id), meta, payload.len(), u32::MAX).unwrap();
    frame.put(payload);
    frame.finish();
}

fn decoder() -> FrameDecoder {
    FrameDecoder::new(0, 1 << 20)
}

/// The bytes of a frame with its header checksum made right again after a change.
fn resealed(mut bytes: BytesMut) -> BytesMut {
    let checksum = crc32c::crc32c(&bytes[..HEADER_CHECKED_BYTES]);
    bytes[HEADER_CHECKED_BYTES..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn a_frame_is_a_slice_of_the_read_buffer() {
    let mut decoder = decoder();
    decoder.feed(&frame_bytes(FrameKind::Request, 7, b"meta", b"payload"));
    let frame = decoder.next_frame().unwrap().unwrap();
    assert_eq!((frame.kind, frame.id), (FrameKind::Request, RequestId(7)));
    assert_eq!((&frame.meta[..], &frame.payload[..]), (&b"meta"[..], &b"payload"[..]));
    let meta_end = frame.meta.as_ptr_range().end;
    assert_eq!(meta_end, frame.payload.as_ptr(), "metadata and payload lie side by side in one buffer");
    assert_eq!(decoder.next_frame(), Ok(None));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = frame_bytes(FrameKind::Request, 7, b"metadata", b"some payload");
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let mut decoder = decoder();
            decoder.feed(&bad);
            let error = decoder.next_frame().expect_err("a flipped bit went unnoticed");
            assert!(error.is_fatal(), "byte {at} bit {bit}: {error}");
            assert_eq!(decoder.next_frame(), Err(error), "a broken stream stays broken");
        }
    }
}

#[test]
fn a_truncated_frame_waits_for_the_rest() {
    let good = frame_bytes(FrameKind::Reply, 1, b"metadata", b"some payload");
    for cut in 0..good.len() {
        let mut decoder = decoder();
        decoder.feed(&good[..cut]);
        assert_eq!(decoder.next_frame(), Ok(None), "cut at {cut}");
        assert_eq!(decoder.buffered_bytes(), cut);
        decoder.feed(&good[cut..]);
        assert!(decoder.next_frame().unwrap().is_some(), "cut at {cut}");
    }
}

#[test]
fn an_oversize_frame_is_refused_by_its_header_alone() {
    let bytes = frame_bytes(FrameKind::Request, 9, &[1; 600], &[2; 500]);
    let mut decoder = FrameDecoder::new(0, 1099);
    decoder.feed(&bytes[..HEADER_BYTES]);
    let expected = FrameError::TooLong { id: RequestId(9), length: 1100, limit: 1099 };
    assert_eq!(decoder.next_frame(), Err(expected));
    let mut decoder = FrameDecoder::new(0, 1100);
    decoder.feed(&bytes);
    assert!(decoder.next_frame().unwrap().is_some());
}

#[test]
fn each_defect_has_its_error() {
    let good = frame_bytes(FrameKind::Request, 7, b"m", b"p");
    let error_of = |bytes: &[u8]| {
        let mut decoder = decoder();
        decoder.feed(bytes);
        decoder.next_frame().unwrap_err()
    };
    let get = [b"GET / HTTP/1.1\r\n".as_slice(), &[0; 32]].concat();
    assert_eq!(error_of(&get), FrameError::NotAFrame { found: *b"GE" });
    let mut version = good.clone();
    version[2] = 9;
    assert_eq!(error_of(&resealed(version)), FrameError::BadVersion { found: 9 });
    let mut flags = good.clone();
    flags[4] = 1;
    assert_eq!(error_of(&resealed(flags)), FrameError::UnknownFlags { found: 1 });
    let mut header = good.clone();
    header[16] = 200;
    assert!(matches!(error_of(&header), FrameError::BadHeaderChecksum { .. }));
    let mut body = good.clone();
    body[HEADER_BYTES] ^= 1;
    assert!(matches!(error_of(&body), FrameError::BadBodyChecksum { id: RequestId(7), .. }));
}

#[test]
fn an_unknown_kind_is_skipped_and_the_stream_goes_on() {
    let mut unknown = frame_bytes(FrameKind::Request, 7, b"m", b"p");
    unknown[3] = 200;
    let mut bytes = resealed(unknown);
    append(&mut bytes, FrameKind::Reply, 8, b"next", b"");
    let mut decoder = decoder();
    decoder.feed(&bytes);
    assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind { id: RequestId(7), found: 200 }));
    assert_eq!(decoder.next_frame().unwrap().unwrap().id, RequestId(8));
}

#[test]
fn an_unfinished_frame_leaves_no_trace() {
    let mut out = frame_bytes(FrameKind::Request, 1, b"m", b"p");
    let before = out.clone();
    let mut frame =
        FrameWriter::begin(&mut out, FrameKind::Request, RequestId(2), b"meta", 10, u32::MAX).unwrap();
    frame.put(b"half");
    drop(frame);
    assert_eq!(out, before);
    let error = FrameWriter::begin(&mut out, FrameKind::Request, RequestId(2), b"meta", 10, 13).unwrap_err();
    assert_eq!(error, FrameTooLong { length: 14, limit: 13 });
    assert_eq!(out, before);
}

#[test]
fn kinds_have_distinct_codes() {
    for kind in FrameKind::ALL {
        assert_eq!(FrameKind::from_code(kind.code()), Some(kind));
    }
    assert_eq!(FrameKind::from_code(0), None);
}

#[test]
fn unread_bytes_go_on_elsewhere() {
    let bytes = frame_bytes(FrameKind::ClientHello, 0, b"hello", b"");
    let mut first = decoder();
    first.feed(&bytes);
    first.feed(&bytes[..10]);
    first.next_frame().unwrap().unwrap();
    let mut second = decoder();
    second.feed(&first.into_unread());
    second.feed(&bytes[10..]);
    assert_eq!(&second.next_frame().unwrap().unwrap().meta[..], b"hello");
}

proptest! {
    #[test]
    fn frames_survive_any_cut_into_reads(
        bodies in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..80),
            prop::collection::vec(any::<u8>(), 0..60_000)), 1..6),
        reads in prop::collection::vec(1usize..40_000, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for (id, meta, payload) in &bodies {
            append(&mut stream, FrameKind::PeerMessages, *id, meta, payload);
        }
        let mut decoder = decoder();
        let mut frames = Vec::new();
        let (mut rest, mut reads) = (&stream[..], reads.iter().cycle());
        while !rest.is_empty() {
            let room = decoder.unfilled();
            let count = room.len().min(rest.len()).min(*reads.next().unwrap());
            room[..count].copy_from_slice(&rest[..count]);
            decoder.advance(count);
            rest = &rest[count..];
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        prop_assert_eq!(frames.len(), bodies.len());
        for (frame, (id, meta, payload)) in frames.iter().zip(&bodies) {
            prop_assert_eq!(frame.id, RequestId(*id));
            prop_assert_eq!(&frame.meta[..], &meta[..]);
            prop_assert_eq!(&frame.payload[..], &payload[..]);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), framed in any::<bool>()) {
        let mut decoder = decoder();
        if framed {
            decoder.feed(b"RK\x01");
        }
        decoder.feed(&bytes);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }
}
