//! The node's listening sockets: accept, read the hello, hand the connection to the core it asks for.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use net::peer::{PEER_VERSION, PeerHello, Purpose, decode_peer_hello};
use net::protocol::{Encoder, ErrorCode, ErrorReport, PROTOCOL_VERSION, decode_client_hello};
use net::transport::connection::ReadError;
use net::transport::{Connection, ConnectionConfig, Handoff, Listener};

use super::clients::{greeting, report};
use super::gateway::Gateway;
use super::mesh::ConnectionSlot;
use super::{DoorKind, Doors, Driver, MeshMessage, greet, http, resp};
use crate::config::Config;
use crate::http::reply::Problem;

/// A connection that has not said hello by then is closed.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest first frame: before its hello a connection is nobody's, and must not make this node keep much.
const HELLO_BYTES_MAX: u32 = 256 << 10;
/// Connections beyond the limit that are told so at a time.
const REFUSED_MAX: usize = 256;
/// Pause after a failed accept: descriptors may have run out for a moment.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts on both doors from now on.
pub(super) fn open(driver: &Rc<Driver>, doors: Doors) {
    glommio::spawn_local(accept_clients(driver.clone(), doors.binary)).detach();
    glommio::spawn_local(accept_peers(driver.clone(), doors.peer)).detach();
    for (kind, listener) in doors.others {
        glommio::spawn_local(accept_others(driver.clone(), kind, listener)).detach();
    }
}

async fn accept_clients(driver: Rc<Driver>, listener: TcpListener) {
    let listener = Listener::from_std(listener).expect("a bound listener has an address");
    let limit = driver.config.limits.connections_max;
    let mut next_core = 0;
    loop {
        let Some(connection) = accept(&listener, driver.clients.connection).await else { continue };
        let (slot, count) = driver.mesh.take_slot();
        if count > limit + REFUSED_MAX {
            // Not even a refusal: descriptors must be left for the node's own files.
            continue;
        }
        let any_core = next_core;
        next_core = (next_core + 1) % driver.mesh.cores();
        let driver = driver.clone();
        glommio::spawn_local(async move {
            match client_hello(connection, any_core, driver.mesh.cores(), count > limit).await {
                Ok(Some((handoff, core))) if core == driver.mesh.core => serve_client(&driver, handoff, slot),
                Ok(Some((handoff, core))) => driver.mesh.send(core, MeshMessage::Client(handoff, slot)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a client connection ended during its hello"),
            }
        })
        .detach();
    }
}

/// Serves a client whose hello was read here or by another core.
pub(super) fn serve_client(driver: &Driver, handoff: Handoff, slot: ConnectionSlot) {
    let map = driver.core.borrow().map();
    let hello = greeting(driver.config.node.id, driver.mesh.core, &driver.limits, map);
    let clients = driver.clients.clone();
    glommio::spawn_local(async move {
        clients.serve(handoff, hello).await;
        drop(slot);
    })
    .detach();
}

/// Accepts at a door for another protocol, and spreads the connections over the cores.
async fn accept_others(driver: Rc<Driver>, kind: DoorKind, listener: TcpListener) {
    let listener = Listener::from_std(listener).expect("a bound listener has an address");
    let mut next_core = 0;
    loop {
        let fd = match listener.accept().await {
            Ok(fd) => fd,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                glommio::timer::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (slot, count) = driver.mesh.take_slot();
        if count > driver.config.limits.connections_max {
            turn_away(kind, fd);
            continue;
        }
        let core = next_core;
        next_core = (next_core + 1) % driver.mesh.cores();
        match core {
            core if core == driver.mesh.core => serve_door(&driver, kind, fd, slot),
            core => driver.mesh.send(core, MeshMessage::Door(kind, fd, slot)),
        }
    }
}

/// Serves a connection of a door for another protocol, accepted here or by another core.
pub(super) fn serve_door(driver: &Rc<Driver>, kind: DoorKind, fd: OwnedFd, slot: ConnectionSlot) {
    let gateway = Gateway::new(driver.clone());
    match kind {
        DoorKind::Http => {
            glommio::spawn_local(http::serve(gateway, driver.http.clone(), fd, slot)).detach();
        }
        DoorKind::Resp | DoorKind::RespCluster => {
            let door = driver.resp.get_or_init(|| Rc::new(resp::Door::new(gateway)));
            let cluster = kind == DoorKind::RespCluster;
            glommio::spawn_local(door.clone().serve(cluster, fd, slot)).detach();
        }
    }
}

/// Tells a client that there are too many, if that can be said without waiting, and closes.
fn turn_away(kind: DoorKind, fd: OwnedFd) {
    let refusal = match kind {
        DoorKind::Resp | DoorKind::RespCluster => "-ERR max number of clients reached\r\n".to_owned(),
        DoorKind::Http => {
            let body = Problem::too_many_connections().into_reply().body;
            let body = String::from_utf8_lossy(&body);
            format!(
                "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
                 connection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        }
    };
    let mut stream = TcpStream::from(fd);
    let told = stream.set_nonblocking(true).and_then(|()| stream.write_all(refusal.as_bytes()));
    tracing::debug!(?kind, told = told.is_ok(), "turned a connection away: limits.connections_max");
}

async fn accept_peers(driver: Rc<Driver>, listener: TcpListener) {
    let listener = Listener::from_std(listener).expect("a bound listener has an address");
    loop {
        let Some(connection) = accept(&listener, driver.peers.connection).await else { continue };
        glommio::spawn_local(admit_peer(driver.clone(), connection)).detach();
    }
}

/// Reads a peer's hello and brings the connection where it wants to be.
async fn admit_peer(driver: Rc<Driver>, mut connection: Connection) {
    let read = read_peer_hello(&driver.config, |node| driver.map.cores_of(node), &mut connection).await;
    let hello = match read {
        Ok(Some(hello)) => hello,
        Ok(None) => return,
        Err(refusal) => {
            driver.peers.tell_refusal(&refusal);
            return refuse(connection, &refusal).await;
        }
    };
    if hello.purpose == Purpose::Identity {
        let store = driver.peers.store.clone();
        return greet::answer_identity(connection, driver.config.node.id, store).await;
    }
    let Ok(handoff) = connection.into_handoff() else { return };
    match hello.wants_core {
        core if core == driver.mesh.core => serve_peer(&driver, handoff, hello),
        core => driver.mesh.send(core, MeshMessage::Peer(handoff, hello)),
    }
}

/// Serves a peer whose hello was read here or by another core.
pub(super) fn serve_peer(driver: &Rc<Driver>, handoff: Handoff, hello: PeerHello) {
    match hello.purpose {
        Purpose::Messages => glommio::spawn_local(driver.peers.clone().accept(handoff, hello)).detach(),
        Purpose::Snapshot => glommio::spawn_local(driver.clone().receive_snapshot(handoff, hello)).detach(),
        Purpose::Identity => return,
    };
}

/// Accepts a connection that may say hello; what takes it over with [`Connection::from_handoff`] sets its own limits.
pub(super) async fn accept(listener: &Listener, config: ConnectionConfig) -> Option<Connection> {
    let config = ConnectionConfig { frame_bytes_max: HELLO_BYTES_MAX, ..config };
    match listener.accept().await {
        Ok(fd) => Connection::from_fd(fd, config).ok(),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            glommio::timer::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Reads a client's hello; the connection and the core it goes to, or `None` when it was refused or gave up.
async fn client_hello(
    mut connection: Connection,
    any_core: u32,
    cores: u32,
    full: bool,
) -> Result<Option<(Handoff, u32)>, ErrorReport> {
    let frame = match first_frame(&mut connection).await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Ok(None),
        Err(refusal) => {
            refuse(connection, &refusal).await;
            return Err(refusal);
        }
    };
    let refusal = match decode_client_hello(&frame) {
        Err(error) => report(ErrorCode::BadMessage, error.to_string()),
        Ok(hello) if hello.version != PROTOCOL_VERSION => report(
            ErrorCode::UnsupportedVersion,
            format!(
                "protocol version {}; this server speaks {PROTOCOL_VERSION}: use the matching client",
                hello.version
            ),
        ),
        Ok(_) if full => report(
            ErrorCode::TooManyConnections,
            "the server has as many connections as limits.connections_max allows; close some, or raise it"
                .to_owned(),
        ),
        Ok(hello) if hello.wants_core.is_some_and(|core| core >= cores) => {
            report(ErrorCode::BadMessage, format!("this node has {cores} cores; ask for one below that"))
        }
        Ok(hello) => {
            let core = hello.wants_core.unwrap_or(any_core);
            return match connection.into_handoff() {
                Ok(handoff) => Ok(Some((handoff, core))),
                Err(error) => Err(report(ErrorCode::BadFrame, error.to_string())),
            };
        }
    };
    refuse(connection, &refusal).await;
    Err(refusal)
}

/// Reads a peer's hello; `None` when it gave up, an error when it is to be refused. `cores_of` tells the nodes of the
/// cluster by their number of cores.
pub(super) async fn read_peer_hello(
    ours: &Config,
    cores_of: impl Fn(u64) -> Option<u32>,
    connection: &mut Connection,
) -> Result<Option<PeerHello>, ErrorReport> {
    let Some(frame) = first_frame(connection).await? else { return Ok(None) };
    let refusal = match decode_peer_hello(&frame) {
        Err(error) => report(ErrorCode::BadMessage, error.to_string()),
        Ok(hello) if hello.version != PEER_VERSION => report(
            ErrorCode::UnsupportedVersion,
            format!("peer protocol version {}; this node speaks {PEER_VERSION}", hello.version),
        ),
        Ok(hello) if hello.cluster_id != ours.cluster.id => report(
            ErrorCode::WrongCluster,
            format!(
                "node {} belongs to cluster `{}`, this one to `{}`",
                hello.node, hello.cluster_id, ours.cluster.id
            ),
        ),
        Ok(hello) if hello.wants_core >= ours.cores() => report(
            ErrorCode::BadMessage,
            format!(
                "node {} asks for core {}, and this node has {}",
                hello.node,
                hello.wants_core,
                ours.cores()
            ),
        ),
        Ok(hello) if cores_of(hello.node).is_none_or(|cores| hello.core >= cores) => report(
            ErrorCode::BadMessage,
            format!(
                "node {} core {} is not in the cluster as this node knows it; a node is added with `ringkv serve --join`",
                hello.node, hello.core
            ),
        ),
        Ok(hello) => return Ok(Some(hello)),
    };
    Err(refusal)
}

/// The first frame, if one comes in time. What is no frame is refused with the reason.
async fn first_frame(connection: &mut Connection) -> Result<Option<net::frame::Frame>, ErrorReport> {
    let read = glommio::timer::timeout(HELLO_TIMEOUT, async { Ok(connection.read_frame().await) }).await;
    match read {
        Err(_timeout) => Ok(None),
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(ReadError::Frame(error))) => Err(report(ErrorCode::BadFrame, error.to_string())),
        Ok(Err(_gone)) => Ok(None),
    }
}

pub(super) async fn refuse(connection: Connection, refusal: &ErrorReport) {
    let (_reader, sender) = connection.split();
    let sent = sender.append(|buffer| Encoder::new(ERROR_FRAME_BYTES_MAX).error(refusal, buffer));
    if matches!(sent, Ok(Ok(()))) {
        let _ = glommio::timer::timeout(HELLO_TIMEOUT, async { Ok(sender.flushed().await) }).await;
    }
    sender.close();
}

/// Room for an error report.
const ERROR_FRAME_BYTES_MAX: u32 = 64 << 10;
