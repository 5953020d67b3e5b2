//! What the decoders of frames must do with any bytes: no panic, nothing beyond their bounds, and what is accepted means
//! one thing: encoded again, it decodes to the same. Used by the fuzz targets and by the tests of the crate.

use bytes::BytesMut;
use net::frame::{Frame, FrameDecoder, FrameKind, FrameWriter};
use net::peer::snapshot::{FILES_MAX, MEMBERS_MAX, NAME_BYTES_MAX};
use net::peer::{
    FRAME_MESSAGES_MAX, GroupBody, GroupMessage, PeerEncoder, decode_messages, decode_peer_hello,
    decode_peer_hello_reply, decode_snapshot_answer, decode_snapshot_chunk, decode_snapshot_end,
    decode_snapshot_header,
};
use net::protocol::{
    Encoder, decode_client_hello, decode_error, decode_hello_reply, decode_reply, decode_request,
};
use net::{Limits, RequestId};

/// The frames of a stream of valid ones.
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = FrameDecoder::new(0, u32::MAX);
    decoder.feed(bytes);
    std::iter::from_fn(|| decoder.next_frame().expect("valid")).collect()
}

/// Sends a frame through checksum and decoder, as it would arrive.
pub fn arrived(kind: FrameKind, meta: &[u8], payload: &[u8]) -> Frame {
    let mut out = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut out, kind, RequestId(5), meta, payload.len(), u32::MAX).unwrap();
    writer.put(payload);
    writer.finish();
    frames(&out).remove(0)
}

fn only(out: &BytesMut) -> Frame {
    let mut all = frames(out);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Checks what a node may send to a node.
pub fn check_peer(frame: &Frame) {
    let mut out = BytesMut::new();
    let mut encoder = PeerEncoder::new(usize::MAX, u32::MAX);
    match frame.kind {
        FrameKind::PeerHello => {
            if let Ok(hello) = decode_peer_hello(frame) {
                encoder.hello(&hello, &mut out).unwrap();
                assert_eq!(decode_peer_hello(&only(&out)), Ok(hello));
            }
        }
        FrameKind::PeerHelloReply => {
            if let Ok(reply) = decode_peer_hello_reply(frame) {
                encoder.hello_reply(&reply, &mut out).unwrap();
                assert_eq!(decode_peer_hello_reply(&only(&out)), Ok(reply));
            }
        }
        FrameKind::PeerMessages => check_messages(frame, &mut encoder),
        FrameKind::SnapshotHeader => {
            if let Ok(header) = decode_snapshot_header(frame) {
                let state = &header.conf_state;
                let lists = [&state.voters, &state.learners, &state.voters_outgoing];
                assert!(lists.iter().all(|list| list.len() <= MEMBERS_MAX) && !state.voters.is_empty());
                assert!(header.files.len() <= FILES_MAX);
                assert!(header.files.iter().all(|file| {
                    file.name.len() <= NAME_BYTES_MAX
                        && file.name.split('/').all(|part| !matches!(part, "" | ".."))
                }));
                encoder.snapshot_header(&header, &mut out).unwrap();
                assert_eq!(decode_snapshot_header(&only(&out)), Ok(header));
            }
        }
        FrameKind::SnapshotAnswer => {
            if let Ok(answer) = decode_snapshot_answer(frame) {
                encoder.snapshot_answer(&answer, &mut out).unwrap();
                assert_eq!(decode_snapshot_answer(&only(&out)), Ok(answer));
            }
        }
        FrameKind::SnapshotChunk => {
            if let Ok(chunk) = decode_snapshot_chunk(frame) {
                assert_eq!(chunk.data, frame.payload);
                encoder.snapshot_chunk(chunk.file, chunk.offset, &chunk.data, &mut out).unwrap();
                assert_eq!(decode_snapshot_chunk(&only(&out)), Ok(chunk));
            }
        }
        FrameKind::SnapshotEnd => {
            if let Ok(end) = decode_snapshot_end(frame) {
                encoder.snapshot_end(&end, &mut out).unwrap();
                assert_eq!(decode_snapshot_end(&only(&out)), Ok(end));
            }
        }
        _ => {}
    }
}

fn check_messages(frame: &Frame, encoder: &mut PeerEncoder) {
    let before = GroupMessage { group: 3, from: 1, to: 2, term: 9, body: GroupBody::Join };
    let mut messages = vec![before];
    if decode_messages(frame, &mut messages).is_err() {
        assert_eq!(messages.len(), 1, "all or nothing");
        return;
    }
    messages.remove(0);
    assert!(messages.len() <= FRAME_MESSAGES_MAX);
    let entries = messages.iter().filter_map(|message| match &message.body {
        GroupBody::Append { entries, .. } => Some(entries),
        _ => None,
    });
    let data: usize = entries.flatten().map(|entry| entry.data.len()).sum();
    assert_eq!(data, frame.payload.len(), "every byte belongs to one entry");
    let mut out = BytesMut::new();
    encoder.messages(&messages, &mut out).unwrap();
    let mut again = Vec::new();
    frames(&out).iter().for_each(|frame| decode_messages(frame, &mut again).unwrap());
    assert_eq!(again, messages);
}

/// Checks what a client and a node may send each other.
pub fn check_client(frame: &Frame) {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(u32::MAX);
    match frame.kind {
        FrameKind::ClientHello => {
            if let Ok(hello) = decode_client_hello(frame) {
                encoder.client_hello(&hello, &mut out).unwrap();
                assert_eq!(decode_client_hello(&only(&out)), Ok(hello));
            }
        }
        FrameKind::HelloReply => {
            if let Ok(reply) = decode_hello_reply(frame) {
                let _ = reply.map.clone().into_routing();
                encoder.hello_reply(&reply, &mut out).unwrap();
                assert_eq!(decode_hello_reply(&only(&out)), Ok(reply));
            }
        }
        FrameKind::Request => {
            if let Ok(request) = decode_request(frame, &Limits::DEFAULT) {
                encoder.request(&request, &mut out).unwrap();
                assert_eq!(decode_request(&only(&out), &Limits::DEFAULT), Ok(request));
            }
        }
        FrameKind::Reply => {
            if let Ok(reply) = decode_reply(frame) {
                encoder.reply(&reply, &mut out).unwrap();
                assert_eq!(decode_reply(&only(&out)), Ok(reply));
            }
        }
        FrameKind::Error => {
            if let Ok(report) = decode_error(frame) {
                encoder.error(&report, &mut out).unwrap();
                assert_eq!(decode_error(&only(&out)), Ok(report));
            }
        }
        _ => {}
    }
}
