//! Client connections of one core: requests in, answers out.
//!
//! A connection stops being read while its client leaves answers unread or has too many requests unanswered, and it
//! may put only so much into one turn of the machine; so what one client can make the node hold, and how long it can
//! make the others wait, is bounded, and TCP tells it to slow down.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use net::frame::{Frame, FrameError, FrameKind};
use net::protocol::{
    Answer, Encoder, ErrorCode, ErrorReport, HelloReply, PROTOCOL_VERSION, Refusal, Reply, decode_request,
};
use net::transport::connection::ReadError;
use net::transport::{Connection, ConnectionConfig, FrameReader, FrameSender, Handoff};
use net::types::Limits;

use super::inbox::Inbox;
use crate::core::{ConnectionId, Event, Origin};

/// Requests of one connection that may be unanswered before its reading pauses.
const UNANSWERED_MAX: usize = 4096;
/// Requests of one connection in one turn, and their bytes: more would make the turn long for everybody else, and be
/// held in memory before admission has seen them.
const TURN_REQUESTS_MAX: usize = 32;
const TURN_BYTES_MAX: usize = 256 << 10;
/// How long a closing connection may take to deliver what is queued.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// This core's client connections.
pub(super) struct Clients {
    pub core: u32,
    pub connection: ConnectionConfig,
    limits: Limits,
    inbox: Rc<Inbox>,
    encoder: RefCell<Encoder>,
    open: RefCell<HashMap<ConnectionId, Rc<Client>>>,
    next_id: Cell<u64>,
}

struct Client {
    sender: FrameSender,
    unanswered: Cell<usize>,
}

impl Clients {
    pub fn new(core: u32, connection: ConnectionConfig, limits: Limits, inbox: Rc<Inbox>) -> Clients {
        Clients {
            core,
            connection,
            limits,
            inbox,
            encoder: RefCell::new(Encoder::new(connection.frame_bytes_max)),
            open: RefCell::default(),
            next_id: Cell::new(1),
        }
    }

    /// Answers a request. The connection may be gone by now; then so is the answer.
    pub fn reply(&self, connection: ConnectionId, reply: &Reply) {
        let open = self.open.borrow();
        let Some(client) = open.get(&connection) else { return };
        client.unanswered.set(client.unanswered.get().saturating_sub(1));
        let large = matches!(
            &reply.result,
            Ok(Answer::Value { .. } | Answer::Scan { .. } | Answer::Status(_) | Answer::ClusterMap(_))
        );
        if large && client.sender.is_full() {
            // The client asks for more than it reads: what is queued for it stays bounded.
            self.send(client, &Reply { id: reply.id, result: Err(Refusal::Busy { retry_after_ms: 20 }) });
            return;
        }
        if is_long_program(&reply.result) && client.sender.is_full() {
            // As above, but it may have written: that it is not known how it ended is the truth.
            self.send(client, &Reply { id: reply.id, result: Err(Refusal::Timeout) });
            return;
        }
        self.send(client, reply);
    }

    fn send(&self, client: &Client, reply: &Reply) {
        let sent = client.sender.append(|buffer| self.encoder.borrow_mut().reply(reply, buffer));
        if let Ok(Err(error)) = sent {
            tracing::error!(%error, "cannot encode an answer");
            let result = Err(Refusal::Internal { why: error.to_string() });
            let refusal = Reply { id: reply.id, result };
            let _ = client.sender.append(|buffer| self.encoder.borrow_mut().reply(&refusal, buffer));
        }
    }

    /// Serves one connection whose hello has been read.
    pub async fn serve(self: Rc<Self>, handoff: Handoff, hello: HelloReply) {
        let Ok(connection) = Connection::from_handoff(handoff, self.connection) else { return };
        let id = ConnectionId(self.next_id.replace(self.next_id.get() + 1));
        let (reader, sender) = connection.split();
        let greeted = sender.append(|buffer| self.encoder.borrow_mut().hello_reply(&hello, buffer));
        if !matches!(greeted, Ok(Ok(()))) {
            return;
        }
        let client = Rc::new(Client { sender, unanswered: Cell::new(0) });
        self.open.borrow_mut().insert(id, client.clone());
        if let Err(report) = self.read_requests(id, &client, reader).await {
            tracing::debug!(connection = id.0, error = %report, "closing a client connection");
            let _ = client.sender.append(|buffer| self.encoder.borrow_mut().error(&report, buffer));
        }
        client.sender.close();
        // A client that does not read the rest is not waited for long. It counts until its memory is gone.
        let _ = glommio::timer::timeout(CLOSE_TIMEOUT, async { Ok(client.sender.flushed().await) }).await;
        client.sender.abort();
        self.open.borrow_mut().remove(&id);
    }

    async fn read_requests(
        &self,
        id: ConnectionId,
        client: &Client,
        mut reader: FrameReader,
    ) -> Result<(), ErrorReport> {
        let origin = Origin { core: self.core, connection: id };
        let mut share = Share::default();
        loop {
            if share.is_used_up(self.inbox.turns()) {
                self.inbox.turn_over().await;
            }
            while client.unanswered.get() >= UNANSWERED_MAX || client.sender.is_full() {
                if client.sender.is_closed() {
                    return Ok(());
                }
                if client.sender.is_full() {
                    let _ = client.sender.room().await;
                } else {
                    self.inbox.turn_passed().await;
                }
            }
            match reader.read_frame().await {
                Ok(Some(frame)) => {
                    share.take(self.inbox.turns(), frame.meta.len() + frame.payload.len());
                    self.on_frame(origin, client, &frame)?;
                }
                Ok(None) => return self.drain(client).await,
                // The frame was whole, so its sender may wait for an answer.
                Err(ReadError::Frame(error @ FrameError::UnknownKind { id, .. })) => {
                    let refusal = Refusal::Invalid { why: error.to_string() };
                    self.send(client, &Reply { id, result: Err(refusal) });
                }
                Err(ReadError::Io(_)) => return Ok(()),
                Err(error) => return Err(report(ErrorCode::BadFrame, error.to_string())),
            }
        }
    }

    /// A client that has closed its sending half still gets the answers it waits for.
    async fn drain(&self, client: &Client) -> Result<(), ErrorReport> {
        while client.unanswered.get() > 0 && !client.sender.is_closed() {
            self.inbox.turn_passed().await;
        }
        Ok(())
    }

    fn on_frame(&self, origin: Origin, client: &Client, frame: &Frame) -> Result<(), ErrorReport> {
        if frame.kind != FrameKind::Request {
            let why = format!("a {:?} frame where a request was expected", frame.kind);
            return Err(report(ErrorCode::BadMessage, why));
        }
        match decode_request(frame, &self.limits) {
            Ok(request) => {
                client.unanswered.set(client.unanswered.get() + 1);
                self.inbox.push(Event::Request { origin, request });
            }
            // The frame was whole and its checksum right: the stream is fine, and the request refused by its id.
            Err(error) => self.send(client, &Reply { id: frame.id, result: Err(error.refusal()) }),
        }
        Ok(())
    }
}

/// What a connection has put into the present turn.
#[derive(Default)]
struct Share {
    turn: u64,
    requests: usize,
    bytes: usize,
}

impl Share {
    fn is_used_up(&self, turn: u64) -> bool {
        self.turn == turn && (self.requests >= TURN_REQUESTS_MAX || self.bytes >= TURN_BYTES_MAX)
    }

    fn take(&mut self, turn: u64, bytes: usize) {
        if self.turn != turn {
            *self = Share { turn, ..Share::default() };
        }
        self.requests += 1;
        self.bytes += bytes;
    }
}

/// The greeting of a connection.
pub(super) fn greeting(node: u64, core: u32, limits: &Limits, map: net::map::ClusterMap) -> HelloReply {
    HelloReply {
        version: PROTOCOL_VERSION,
        node,
        core,
        key_bytes_max: limits.key_bytes_max,
        value_bytes_max: limits.value_bytes_max,
        frame_bytes_max: Some(limits.frame_bytes_max),
        map,
    }
}

pub(super) fn report(code: ErrorCode, message: String) -> ErrorReport {
    ErrorReport { code, message }
}

/// Whether an answer is that of a program, and not a short one.
fn is_long_program(result: &Result<Answer, Refusal>) -> bool {
    const SHORT_BYTES: usize = 1 << 10;
    matches!(result, Ok(Answer::Executed { replies: Some(replies), .. }) if replies.len() > SHORT_BYTES)
}
