//! What one request costs on the wire's CPU: a 4 KiB put there and back, and a peer frame of 64 appends.
// The items criterion generates have no documentation.
#![allow(missing_docs)]

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use net::peer::{GroupBody, GroupMessage, PeerEncoder, PeerEntry, decode_messages};
use net::protocol::{Encoder, Mutation, Op, Request, WriteConsistency, decode_request};
use net::{FrameDecoder, Limits, RequestId};
use std::hint::black_box;

const VALUE_BYTES: usize = 4096;

fn put() -> Request {
    let mutation = Mutation::Put {
        key: Bytes::from_static(b"key:000000012345"),
        value: Bytes::from(vec![0x5a; VALUE_BYTES]),
        ttl_ms: None,
    };
    let op = Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] };
    Request { id: RequestId(1), shard: 1, epoch: 1, namespace: 0, op }
}

fn appends(count: u32) -> Vec<GroupMessage> {
    let data = Bytes::from(vec![0x5a; VALUE_BYTES + 64]);
    let message = |group| GroupMessage {
        group,
        from: 1,
        to: 2,
        term: 3,
        body: GroupBody::Append {
            prev_index: 10,
            prev_term: 3,
            entries: vec![PeerEntry { term: 3, index: 11, kind: 0, data: data.clone() }],
            commit: 9,
            round: 4,
        },
    };
    (0..count).map(message).collect()
}

fn wire(criterion: &mut Criterion) {
    let limits = Limits::DEFAULT;
    let mut group = criterion.benchmark_group("put_4k");
    group.throughput(Throughput::Elements(1));
    let (request, mut encoder, mut out) = (put(), Encoder::new(u32::MAX), BytesMut::new());
    group.bench_function("encode", |bench| {
        bench.iter(|| {
            out.clear();
            encoder.request(black_box(&request), &mut out).unwrap();
        });
    });
    group.bench_function("decode", |bench| {
        let mut decoder = FrameDecoder::new(128 * 1024, limits.frame_bytes_max);
        bench.iter(|| {
            decoder.feed(&out);
            let frame = decoder.next_frame().unwrap().unwrap();
            black_box(decode_request(&frame, &limits).unwrap());
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("peer_64_appends");
    group.throughput(Throughput::Elements(64));
    let (messages, mut encoder, mut out) =
        (appends(64), PeerEncoder::new(1 << 20, u32::MAX), BytesMut::new());
    group.bench_function("encode", |bench| {
        bench.iter(|| {
            out.clear();
            encoder.messages(black_box(&messages), &mut out).unwrap();
        });
    });
    group.bench_function("decode", |bench| {
        let mut decoder = FrameDecoder::new(512 * 1024, limits.frame_bytes_max);
        let mut decoded = Vec::new();
        bench.iter(|| {
            decoder.feed(&out);
            let frame = decoder.next_frame().unwrap().unwrap();
            decoded.clear();
            decode_messages(&frame, &mut decoded).unwrap();
            black_box(&decoded);
        });
    });
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
