//! The binary protocol on a plain blocking socket: for requests the client library would never send, and for looking
//! at a node without an executor.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use net::frame::{FrameDecoder, FrameKind};
use net::map::ClusterMap;
use net::protocol::{
    Answer, ClientHello, Encoder, ErrorReport, HelloReply, Op, PROTOCOL_VERSION, Refusal, Reply, Request,
    decode_error, decode_hello_reply, decode_reply,
};
use net::slot::slot_of;
use net::types::RequestId;

use super::status::NodeStatus;

const FRAME_BYTES_MAX: u32 = 64 << 20;
/// How long to wait for a connection and for an answer, where the caller does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a node sent.
#[derive(Debug)]
pub enum Incoming {
    /// The answer to a hello.
    Hello(HelloReply),
    /// The answer to a request.
    Reply(Reply),
    /// The node says why it is about to close.
    Error(ErrorReport),
    /// The node closed the connection.
    Closed,
}

/// One connection.
pub struct Wire {
    stream: TcpStream,
    decoder: FrameDecoder,
    encoder: Encoder,
    next_id: u64,
    /// Replies that came while another was waited for.
    early: BTreeMap<u64, Reply>,
}

impl Wire {
    /// Connects and says nothing.
    pub fn dial(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Wire {
            stream,
            decoder: FrameDecoder::new(64 << 10, FRAME_BYTES_MAX),
            encoder: Encoder::new(FRAME_BYTES_MAX),
            next_id: 1,
            early: BTreeMap::new(),
        })
    }

    /// Connects and says hello; the connection goes to the core asked for.
    pub fn connect(address: SocketAddr, wants_core: Option<u32>) -> io::Result<(Wire, HelloReply)> {
        let mut wire = Wire::dial(address)?;
        wire.send_hello(&ClientHello { version: PROTOCOL_VERSION, wants_core })?;
        match wire.receive(PATIENCE)? {
            Incoming::Hello(hello) => Ok((wire, hello)),
            other => Err(io::Error::other(format!("instead of a hello came {other:?}"))),
        }
    }

    /// A second handle of the same connection: one to send on, one to receive on.
    pub fn split(&self) -> io::Result<Wire> {
        Ok(Wire {
            stream: self.stream.try_clone()?,
            decoder: FrameDecoder::new(64 << 10, FRAME_BYTES_MAX),
            encoder: Encoder::new(FRAME_BYTES_MAX),
            next_id: self.next_id,
            early: BTreeMap::new(),
        })
    }

    /// Sends a hello of any content.
    pub fn send_hello(&mut self, hello: &ClientHello) -> io::Result<()> {
        let mut frame = BytesMut::new();
        self.encoder.client_hello(hello, &mut frame).expect("a hello is short");
        self.send_bytes(&frame)
    }

    /// Sends any bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The frame of a request with the next id.
    pub fn encode(&mut self, shard: u32, namespace: u8, op: Op) -> (RequestId, BytesMut) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let mut frame = BytesMut::new();
        let request = Request { id, shard, epoch: 1, namespace, op };
        self.encoder.request(&request, &mut frame).expect("a request within the frame limit");
        (id, frame)
    }

    /// Sends a request and does not wait.
    pub fn send(&mut self, shard: u32, op: Op) -> io::Result<RequestId> {
        let (id, frame) = self.encode(shard, 0, op);
        self.send_bytes(&frame)?;
        Ok(id)
    }

    /// The next thing the node sent. [`io::ErrorKind::TimedOut`] when nothing comes in time.
    pub fn receive(&mut self, limit: Duration) -> io::Result<Incoming> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(io::Error::other)? {
                return match frame.kind {
                    FrameKind::HelloReply => decode_hello_reply(&frame).map(Incoming::Hello),
                    FrameKind::Error => decode_error(&frame).map(Incoming::Error),
                    _ => decode_reply(&frame).map(Incoming::Reply),
                }
                .map_err(io::Error::other);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(self.decoder.unfilled()) {
                Ok(0) => return Ok(Incoming::Closed),
                Ok(count) => self.decoder.advance(count),
                // What a socket's read timeout looks like.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Incoming::Closed),
                Err(error) => return Err(error),
            }
        }
    }

    /// The reply to one request; others that come meanwhile are kept.
    pub fn reply_to(&mut self, id: RequestId, limit: Duration) -> io::Result<Result<Answer, Refusal>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(reply) = self.early.remove(&id.0) {
                return Ok(reply.result);
            }
            match self.receive(deadline.saturating_duration_since(Instant::now()))? {
                Incoming::Reply(reply) => drop(self.early.insert(reply.id.0, reply)),
                other => return Err(io::Error::other(format!("instead of a reply came {other:?}"))),
            }
        }
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Panics
    /// When the connection breaks or nothing comes in time.
    #[track_caller]
    pub fn call(&mut self, shard: u32, op: Op) -> Result<Answer, Refusal> {
        let id = self.send(shard, op).expect("the node takes requests");
        self.reply_to(id, PATIENCE).expect("the node answers")
    }
}

/// Asks the node at `address` for its status.
pub fn status(address: SocketAddr, limit: Duration) -> io::Result<NodeStatus> {
    let (mut wire, _) = Wire::connect(address, None)?;
    let id = wire.send(0, Op::Status)?;
    match wire.reply_to(id, limit)? {
        Ok(Answer::Status(json)) => serde_json::from_slice(&json).map_err(io::Error::other),
        other => Err(io::Error::other(format!("instead of a status came {other:?}"))),
    }
}

/// The shard of a key.
pub fn shard_of(map: &ClusterMap, key: &[u8]) -> u32 {
    let slot = slot_of(key);
    let owner = map.shards.iter().find(|shard| shard.slots.is_some_and(|slots| slots.contains(slot)));
    owner.expect("every slot has a shard").id
}

/// A key of this shard, beginning with `prefix`.
pub fn key_in(map: &ClusterMap, shard: u32, prefix: &str) -> Bytes {
    let key =
        (0..).map(|number| format!("{prefix}{number}")).find(|key| shard_of(map, key.as_bytes()) == shard);
    key.expect("every shard has keys").into()
}
