//! A node in a few threads: one shard, one map of keys, and faults on demand. It speaks the client protocol
//! with the same pure code as a real one, over plain blocking sockets.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use net::protocol::{
    self, Answer, Encoder, HelloReply, Mutation, MutationOutcome, Op, PROTOCOL_VERSION, Refusal, Reply,
    Request,
};
use net::{ClusterMap, FrameDecoder, FrameKind, Limits, NodeInfo, ReplicaInfo, ShardInfo, SlotRange, Value};

const NODE: u64 = 1;
const READ_BYTES: usize = 64 * 1024;

/// What the node does wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Stands still once: after so many requests, for so long.
    pub stall: Option<(u64, Duration)>,
    /// Acknowledges writes and forgets them.
    pub forgets: bool,
    /// Flips a bit in the last byte of every value read.
    pub damages: bool,
    /// Refuses every request from this one on.
    pub refuses_from: Option<u64>,
}

/// A running node. Its threads end with their connections, or with the process.
pub struct Node {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    faults: Faults,
    values: Mutex<HashMap<Bytes, Bytes>>,
    requests: AtomicU64,
}

impl Node {
    /// Starts a node on a port of its own.
    pub fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared =
            Arc::new(Shared { address, faults, values: Mutex::default(), requests: AtomicU64::new(0) });
        let node = Self { address, shared: shared.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                thread::spawn(move || shared.serve(stream));
            }
        });
        node
    }

    /// Where it listens.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Reads and writes it has seen.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Keys it holds.
    pub fn keys(&self) -> usize {
        self.shared.values.lock().expect("no thread panics with it").len()
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut decoder = FrameDecoder::new(READ_BYTES, Limits::DEFAULT.frame_bytes_max);
        let mut encoder = Encoder::new(Limits::DEFAULT.frame_bytes_max);
        let mut input = vec![0; READ_BYTES];
        let mut output = BytesMut::new();
        while let Ok(count) = stream.read(&mut input)
            && count > 0
        {
            decoder.feed(&input[..count]);
            while let Some(frame) = decoder.next_frame().expect("the client sends frames") {
                if frame.kind == FrameKind::ClientHello {
                    encoder.hello_reply(&self.hello(), &mut output).expect("fits a frame");
                    continue;
                }
                let request = protocol::decode_request(&frame, &Limits::DEFAULT).expect("a good request");
                let reply = self.answer(request);
                encoder.reply(&reply, &mut output).expect("fits a frame");
            }
            if stream.write_all(&output).is_err() {
                return;
            }
            output.clear();
        }
    }

    fn answer(&self, request: Request) -> Reply {
        if request.op == Op::ClusterMap {
            // The client asks by itself; it is not part of the load, and no fault concerns it.
            return Reply { id: request.id, result: Ok(Answer::ClusterMap(self.map())) };
        }
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((after, length)) = self.faults.stall
            && number == after
        {
            // The fault itself, not a wait for something: the connection stands still.
            thread::sleep(length);
        }
        let result = if self.faults.refuses_from.is_some_and(|first| number >= first) {
            Err(Refusal::Invalid { why: "refused on purpose".to_owned() })
        } else {
            Ok(self.execute(request.op, number))
        };
        Reply { id: request.id, result }
    }

    fn execute(&self, op: Op, index: u64) -> Answer {
        let mut values = self.values.lock().expect("no thread panics with it");
        match op {
            Op::Get { key, .. } => {
                let value = values.get(&key).map(|data| Value { data: self.spoil(data), version: 1 });
                Answer::Value { value, freshness: None }
            }
            Op::Write { mutations, .. } => {
                let mut outcomes = Vec::new();
                for mutation in mutations {
                    let Mutation::Put { key, value, .. } = mutation else { panic!("only puts are sent") };
                    outcomes.push(MutationOutcome::Put { version: index });
                    if !self.faults.forgets {
                        // Copied: a slice would keep the whole read buffer.
                        values.insert(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value));
                    }
                }
                Answer::Written { index, outcomes }
            }
            other => panic!("the load never asks for {other:?}"),
        }
    }

    fn spoil(&self, data: &Bytes) -> Bytes {
        let mut data = data.to_vec();
        if let (true, Some(last)) = (self.faults.damages, data.last_mut()) {
            *last ^= 1;
        }
        data.into()
    }

    fn hello(&self) -> HelloReply {
        HelloReply {
            version: PROTOCOL_VERSION,
            node: NODE,
            core: 0,
            key_bytes_max: Limits::DEFAULT.key_bytes_max,
            value_bytes_max: Limits::DEFAULT.value_bytes_max,
            frame_bytes_max: Some(Limits::DEFAULT.frame_bytes_max),
            map: self.map(),
        }
    }

    fn map(&self) -> ClusterMap {
        let address = self.address.to_string();
        ClusterMap {
            epoch: 1,
            nodes: vec![NodeInfo {
                id: NODE,
                binary_addr: address.clone(),
                peer_addr: address,
                cores: 1,
                ..NodeInfo::default()
            }],
            shards: vec![ShardInfo {
                id: 1,
                slots: Some(SlotRange { first: 0, last: 16_383 }),
                replicas: vec![ReplicaInfo { node: NODE, core: 0 }],
                leader: Some(NODE),
                ..ShardInfo::default()
            }],
        }
    }
}
