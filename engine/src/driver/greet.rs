//! Hellos between nodes: dialling a peer for a purpose, and answering one that only asks who this node is.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use net::frame::FrameKind;
use net::peer::{PEER_VERSION, PeerEncoder, PeerHello, PeerHelloReply, StoreInfo, decode_peer_hello_reply};
use net::protocol::ErrorReport;
use net::transport::{Connection, ConnectionConfig, FrameReader, FrameSender};
use thiserror::Error;

use crate::host::background;

/// A node that has not taken the connection, or not answered the hello, by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long what a resolver said is used: until the node is dialled again, if it came too late.
const LOOKUP_STAYS: Duration = Duration::from_secs(1);
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
    let socket = resolve(address).await?;
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

/// What is known of a name: `None` while it is being looked up.
type Lookups = Mutex<BTreeMap<String, Option<(Instant, Result<SocketAddr, String>)>>>;

/// The names that this process has looked up, each on one thread at a time.
static LOOKUPS: Lookups = Mutex::new(BTreeMap::new());

/// The address of a name. It is looked up on a thread of its own: a resolver that does not answer holds up no core, nor
/// whatever else blocks, and what it answers late is there when the node is dialled again.
async fn resolve(address: &str) -> Result<SocketAddr, String> {
    if let Ok(socket) = address.parse() {
        return Ok(socket);
    }
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    while begun.elapsed() < CONNECT_TIMEOUT {
        if let Some(found) = look_up(address, system) {
            return found;
        }
        glommio::timer::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Err(format!("{address}: the resolver has not answered yet"))
}

fn system(address: &str) -> Result<SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    found.next().ok_or_else(|| format!("{address}: no such host"))
}

/// What the resolver said just now; else asks it, unless it is being asked.
fn look_up(
    address: &str,
    resolver: fn(&str) -> Result<SocketAddr, String>,
) -> Option<Result<SocketAddr, String>> {
    let mut lookups = LOOKUPS.lock().expect("nothing panics while holding it");
    match lookups.get(address) {
        Some(None) => return None,
        Some(Some((at, found))) if at.elapsed() < LOOKUP_STAYS => return Some(found.clone()),
        Some(Some(_)) | None => {}
    }
    let name = address.to_owned();
    let run = move || {
        let found = resolver(&name);
        let mut lookups = LOOKUPS.lock().expect("nothing panics while holding it");
        lookups.insert(name, Some((Instant::now(), found)));
    };
    match background::spawn("resolve".to_owned(), run) {
        Ok(()) => {
            lookups.insert(address.to_owned(), None);
            None
        }
        Err(error) => Some(Err(format!("{address}: no thread to look it up: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(_: &str) -> Result<SocketAddr, String> {
        std::thread::sleep(Duration::from_millis(300));
        Ok(SocketAddr::from(([127, 0, 0, 1], 7)))
    }

    fn never_asked(name: &str) -> Result<SocketAddr, String> {
        panic!("{name} is being looked up, or was just now")
    }

    #[test]
    fn a_resolver_that_takes_long_holds_nobody_up_and_is_asked_once() {
        let begun = Instant::now();
        assert_eq!(look_up("slow:7", slow), None);
        assert_eq!(look_up("slow:7", never_asked), None);
        assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
        let found = loop {
            match look_up("slow:7", never_asked) {
                Some(found) => break found,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert_eq!(found, slow("slow:7"));
        assert_eq!(look_up("slow:7", never_asked), Some(found), "for the others who wait for it");
        std::thread::sleep(LOOKUP_STAYS);
        assert_eq!(look_up("slow:7", slow), None, "a name may have moved");
    }
}
