//! One function per decoder that takes any bytes: what the fuzzer calls, and what a test of the crate calls with the
//! corpora kept here. A panic is a finding.

#[path = "judge.rs"]
mod judge;

use bytes::{Bytes, BytesMut};
use net::frame::{FrameDecoder, FrameKind};
use net::resp::{DecoderLimits, RequestDecoder, Value, Version, decode_value, encode};

use judge::{arrived, check_client, check_peer};

/// A target: its name, which is also that of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("resp_requests", resp_requests),
    ("resp_values", resp_values),
    ("frame_stream", frame_stream),
    ("frame_bodies", frame_bodies),
];

const LIMITS: DecoderLimits =
    DecoderLimits { args_max: 1000, bulk_bytes_max: 64 << 10, request_bytes_max: 128 << 10 };

/// Requests of the Redis protocol mean the same in whatever pieces they arrive, and stay within the limits.
pub fn resp_requests(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let whole = requests(stream, stream.len().max(1));
    let in_pieces = requests(stream, usize::from(*first).max(1));
    assert_eq!(whole, in_pieces, "the same bytes in pieces");
    for request in whole.0 {
        assert!(!request.is_empty() && request.len() <= LIMITS.args_max.max(64 << 10));
        assert!(request.iter().map(Bytes::len).sum::<usize>() <= LIMITS.request_bytes_max);
    }
}

/// The requests of a stream received in pieces of this length, and the error that ended it.
fn requests(stream: &[u8], piece: usize) -> (Vec<Vec<Bytes>>, Option<String>) {
    let mut decoder = RequestDecoder::new(LIMITS);
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error.to_string())),
            }
        }
    }
    (requests, None)
}

/// A reply that is accepted means one thing: encoded again, it decodes to the same; its form for old clients can be
/// read, too; and less of it is never another reply.
pub fn resp_values(data: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(data);
    let Ok(Some(value)) = decode_value(&mut bytes) else { return };
    let taken = data.len() - bytes.len();
    let mut out = BytesMut::new();
    encode(&value, Version::Resp3, &mut out);
    assert_eq!(told(&decoded(out.freeze())), told(&value));
    let mut out = BytesMut::new();
    encode(&value, Version::Resp2, &mut out);
    decoded(out.freeze());
    for cut in [taken / 3, taken / 2, taken - 1] {
        let mut less = Bytes::copy_from_slice(&data[..cut]);
        assert_eq!(decode_value(&mut less), Ok(None), "{cut} of {taken} bytes");
        assert_eq!(less.len(), cut, "nothing is taken");
    }
}

/// As text, because "not a number" is not equal to itself. Version 3 has one kind of null, and a line in a short text is
/// not broken when it is sent.
fn told(value: &Value) -> String {
    format!("{value:?}").replace("NullArray", "Null").replace("\\n", " ").replace("\\r", " ")
}

fn decoded(mut bytes: Bytes) -> Value {
    let value = decode_value(&mut bytes).expect("what was encoded can be read").expect("as a whole");
    assert!(bytes.is_empty(), "and nothing is left");
    value
}

/// A stream of frames, damaged anywhere and received in pieces.
pub fn frame_stream(data: &[u8]) {
    const LIMIT: u32 = 64 << 10;
    let Some((first, stream)) = data.split_first() else { return };
    let mut decoder = FrameDecoder::new(0, LIMIT);
    for piece in stream.chunks(usize::from(*first).max(1)) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    check_peer(&frame);
                    check_client(&frame);
                }
                Ok(None) => break,
                Err(error) if error.is_fatal() => {
                    assert_eq!(decoder.next_frame(), Err(error), "lost for good");
                    return;
                }
                Err(_skipped) => {}
            }
        }
        assert!(decoder.buffered_bytes() <= (64 << 10) + piece.len() + 32);
    }
}

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

/// The contents of a frame behind intact checksums: its kind, the length of its description, that, and its payload.
pub fn frame_bodies(data: &[u8]) {
    let [kind, low, high, rest @ ..] = data else { return };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let (meta, payload) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
    let frame = arrived(kind, meta, payload);
    check_peer(&frame);
    check_client(&frame);
}
