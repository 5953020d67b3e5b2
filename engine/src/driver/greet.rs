//! Hellos between nodes: dialling a peer for a purpose, and answering one that only asks who this node is.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use net::frame::FrameKind;
use net::peer::{PEER_VERSION, PeerEncoder, PeerHello, PeerHelloReply, StoreInfo, decode_peer_hello_reply};
use net::protocol::ErrorReport;
use net::transport::{Connection, ConnectionConfig, FrameReader, FrameSender};
use thiserror::Error;

/// A node that has not taken the connection, or not answered the hello, by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a reply may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// Hellos are short.
const HELLO_BYTES_MAX: u32 = 1 << 20;

/// Why a node was not greeted.
#[derive(Clone, Debug, Error)]
pub(super) enum GreetError {
    /// It does not want to talk.
    #[error("{0}")]
    Refused(ErrorReport),
    /// It was not reached, or is another.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for GreetError {
    fn from(why: String) -> GreetError {
        GreetError::Failed(why)
    }
}

impl From<GreetError> for String {
    fn from(error: GreetError) -> String {
        error.to_string()
    }
}

/// Dials the core `hello.wants_core` of `node`, and exchanges hellos.
pub(super) async fn dial(
    hello: &PeerHello,
    node: u64,
    address: &str,
    config: ConnectionConfig,
) -> Result<(FrameReader, FrameSender, PeerHelloReply), GreetError> {
    let socket = resolve(address)?;
    let connection =
        Connection::connect(socket, CONNECT_TIMEOUT, config).await.map_err(|error| error.to_string())?;
    let (mut reader, sender) = connection.split();
    let mut encoder = PeerEncoder::new(0, HELLO_BYTES_MAX);
    sender
        .append(|buffer| encoder.hello(hello, buffer))
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let reply = glommio::timer::timeout(CONNECT_TIMEOUT, async { Ok(reader.read_frame().await) })
        .await
        .map_err(|_| "no answer to the hello".to_owned())?;
    match reply.map_err(|error| error.to_string())? {
        Some(frame) if frame.kind == FrameKind::PeerHelloReply => {
            let reply = decode_peer_hello_reply(&frame).map_err(|error| error.to_string())?;
            if reply.node != node || reply.core != hello.wants_core {
                let why = format!(
                    "expected node {node} core {} at {address}, found node {} core {}; correct [[cluster.nodes]]",
                    hello.wants_core, reply.node, reply.core
                );
                return Err(GreetError::Failed(why));
            }
            Ok((reader, sender, reply))
        }
        Some(frame) if frame.kind == FrameKind::Error => Err(net::protocol::decode_error(&frame)
            .map_or_else(|error| GreetError::Failed(error.to_string()), GreetError::Refused)),
        Some(frame) => Err(GreetError::Failed(format!("unexpected {:?}", frame.kind))),
        None => Err(GreetError::Failed("closed during the hello".to_owned())),
    }
}

/// Says who this node is, and closes.
pub(super) async fn answer_identity(connection: Connection, node: u64, store: StoreInfo) {
    let (_reader, sender) = connection.split();
    let reply = PeerHelloReply { version: PEER_VERSION, node, core: 0, store, vote_hold_ms: 0 };
    let sent = sender.append(|buffer| PeerEncoder::new(0, HELLO_BYTES_MAX).hello_reply(&reply, buffer));
    if matches!(sent, Ok(Ok(()))) {
        let _ = glommio::timer::timeout(FLUSH_TIMEOUT, async { Ok(sender.flushed().await) }).await;
    }
    sender.close();
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    found.next().ok_or_else(|| format!("{address}: no such host"))
}
