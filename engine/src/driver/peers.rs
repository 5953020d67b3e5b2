//! Links to the cores of the other nodes: one connection for each pair of cores, used both ways, dialled by the node
//! with the lower id. Losing one loses messages, which Raft repairs.
//!
//! Links follow the cluster map: nodes that are new in it are dialled, links to those that have left it end. A node is
//! dialled where the map has it and, turn about, where the configuration does: after all nodes have got new addresses at
//! once, nobody could tell anybody.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::frame::{Frame, FrameKind};
use net::peer::{
    GroupMessage, PEER_VERSION, PeerEncoder, PeerHello, PeerHelloReply, Purpose, StoreInfo, decode_messages,
};
use net::protocol::ErrorReport;
use net::transport::{Connection, ConnectionConfig, FrameReader, FrameSender, Handoff};

use super::current_map::CurrentMap;
use super::greet;
use super::inbox::Inbox;
use crate::config::Config;
use crate::core::Event;
use raft::Nanos;

const REDIAL_MIN: Duration = Duration::from_millis(20);
const REDIAL_MAX: Duration = Duration::from_millis(500);
/// Time between two lines in the log about the same refusal.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);
/// Nobody talks to a node that has left, but it might have been taken in again.
const REDIAL_AFTER_LEAVING: Duration = Duration::from_secs(30);
/// Frames grow to about this size: large enough to cost little per message, small enough to be checked and taken in
/// without a long pause.
const FRAME_BYTES_TARGET: usize = 1 << 20;

/// This core's links.
pub(super) struct Peers {
    config: Arc<Config>,
    core: u32,
    map: CurrentMap,
    /// What this node says of its data directory.
    pub store: StoreInfo,
    /// For how long its replicas vote for nobody else after they heard a leader.
    pub vote_hold: Nanos,
    pub connection: ConnectionConfig,
    inbox: Rc<Inbox>,
    encoder: RefCell<PeerEncoder>,
    links: RefCell<HashMap<(u64, u32), FrameSender>>,
    /// The cores that a task keeps a link to.
    dialled: RefCell<HashSet<(u64, u32)>>,
    /// The refusal that was told last, and when.
    refused: RefCell<Option<(String, Instant)>>,
}

impl Peers {
    pub fn new(
        config: Arc<Config>,
        core: u32,
        map: CurrentMap,
        store: StoreInfo,
        vote_hold: Nanos,
        connection: ConnectionConfig,
        inbox: Rc<Inbox>,
    ) -> Peers {
        Peers {
            config,
            core,
            map,
            store,
            vote_hold,
            connection,
            inbox,
            encoder: RefCell::new(PeerEncoder::new(FRAME_BYTES_TARGET, connection.frame_bytes_max)),
            links: RefCell::default(),
            dialled: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// Dials the nodes of the map that are new, and ends the links to those that have left it.
    pub fn follow_map(self: Rc<Self>) {
        let map = self.map.get();
        for node in map.nodes.iter().filter(|node| node.id > self.config.node.id) {
            for core in 0..node.cores {
                if self.dialled.borrow_mut().insert((node.id, core)) {
                    glommio::spawn_local(self.clone().dial(node.id, core)).detach();
                }
            }
        }
        for ((node, core), link) in &*self.links.borrow() {
            if !self.belongs(*node, *core) {
                // What is queued still leaves: it may be the map that tells the node that it is out.
                link.close();
            }
        }
    }

    /// Whether any other node has a link to this core.
    pub fn has_links(&self) -> bool {
        !self.links.borrow().is_empty()
    }

    /// Says in the log that a connection was refused; the same again only now and then, for who is refused comes back.
    pub fn tell_refusal(&self, refusal: &ErrorReport) {
        let mut told = self.refused.borrow_mut();
        let text = refusal.to_string();
        if told.as_ref().is_some_and(|(before, at)| *before == text && at.elapsed() < REFUSAL_PAUSE) {
            tracing::debug!(error = text, "refused a connection at the peer door");
            return;
        }
        tracing::warn!(error = text, "refused a connection at the peer door");
        *told = Some((text, Instant::now()));
    }

    fn belongs(&self, node: u64, core: u32) -> bool {
        self.map.cores_of(node).is_some_and(|cores| core < cores)
    }

    /// Where to look for a node at this attempt.
    fn address_of(&self, node: u64, attempt: u32) -> String {
        let mapped = self.map.node(node).map(|node| node.peer_addr);
        let configured = self.config.cluster.node(node).map(|node| node.peer.clone());
        let (first, second) =
            if attempt.is_multiple_of(2) { (mapped, configured) } else { (configured, mapped) };
        first.or(second).unwrap_or_default()
    }

    /// Sends messages, or drops them when the link is down or its queue full.
    pub fn send(&self, node: u64, core: u32, messages: &[GroupMessage]) {
        let links = self.links.borrow();
        let Some(link) = links.get(&(node, core)) else { return };
        if link.is_full() {
            tracing::warn!(node, core, "the queue to a peer is full; messages dropped");
            self.inbox.push(Event::PeerLost { node });
            return;
        }
        match link.append(|buffer| self.encoder.borrow_mut().messages(messages, buffer)) {
            Ok(Ok(_frames)) => {}
            Ok(Err(error)) => tracing::error!(node, core, %error, "cannot encode messages to a peer"),
            Err(_closed) => {}
        }
    }

    /// Keeps a link to one core of one node up, for as long as that is in the map.
    async fn dial(self: Rc<Self>, node: u64, core: u32) {
        let mut pause = REDIAL_MIN;
        let mut attempt = 0u32;
        while self.belongs(node, core) {
            let address = self.address_of(node, attempt);
            match self.connect(node, core, &address).await {
                Ok((reader, sender, reply)) => {
                    pause = REDIAL_MIN;
                    self.linked(node, reply.vote_hold_ms, reply.store.store);
                    self.serve(node, core, reader, sender).await;
                }
                Err(error) => {
                    tracing::debug!(node, core, address, %error, "cannot reach a peer");
                    pause = match self.belongs(self.config.node.id, self.core) {
                        true => (pause * 2).min(REDIAL_MAX),
                        false => REDIAL_AFTER_LEAVING,
                    };
                    attempt = attempt.wrapping_add(1);
                }
            }
            self.inbox.push(Event::PeerLost { node });
            glommio::timer::sleep(pause).await;
        }
        tracing::info!(node, core, "the node has left the cluster");
        self.dialled.borrow_mut().remove(&(node, core));
    }

    async fn connect(
        &self,
        node: u64,
        core: u32,
        address: &str,
    ) -> Result<(FrameReader, FrameSender, PeerHelloReply), greet::GreetError> {
        greet::dial(&self.hello(core, Purpose::Messages), node, address, self.connection).await
    }

    /// Tells the machine of a link, before anything that comes over it.
    fn linked(&self, node: u64, vote_hold_ms: u32, store: u64) {
        let vote_hold = Nanos::from_millis(u64::from(vote_hold_ms));
        self.inbox.push(Event::PeerLinked { node, vote_hold, store });
    }

    /// What this core says when it dials another.
    pub fn hello(&self, wants_core: u32, purpose: Purpose) -> PeerHello {
        PeerHello {
            version: PEER_VERSION,
            node: self.config.node.id,
            core: self.core,
            cluster_id: self.config.cluster.id.clone(),
            wants_core,
            purpose,
            store: self.store.clone(),
            vote_hold_ms: self.vote_hold_ms(),
        }
    }

    /// What this core answers when it is dialled.
    pub fn hello_reply(&self) -> PeerHelloReply {
        PeerHelloReply {
            version: PEER_VERSION,
            node: self.config.node.id,
            core: self.core,
            store: self.store.clone(),
            vote_hold_ms: self.vote_hold_ms(),
        }
    }

    fn vote_hold_ms(&self) -> u32 {
        u32::try_from(self.vote_hold.0 / 1_000_000).unwrap_or(u32::MAX)
    }

    /// Takes over a connection that another node dialled.
    pub async fn accept(self: Rc<Self>, handoff: Handoff, hello: PeerHello) {
        let Ok(connection) = Connection::from_handoff(handoff, self.connection) else { return };
        let (reader, sender) = connection.split();
        let reply = self.hello_reply();
        let sent = sender.append(|buffer| self.encoder.borrow_mut().hello_reply(&reply, buffer));
        if matches!(sent, Ok(Ok(()))) {
            self.linked(hello.node, hello.vote_hold_ms, hello.store.store);
            self.serve(hello.node, hello.core, reader, sender).await;
            self.inbox.push(Event::PeerLost { node: hello.node });
        }
    }

    async fn serve(&self, node: u64, core: u32, mut reader: FrameReader, sender: FrameSender) {
        tracing::info!(node, core, "linked to a peer");
        if let Some(former) = self.links.borrow_mut().insert((node, core), sender.clone()) {
            former.abort();
        }
        let why = loop {
            match reader.read_frame().await {
                Ok(Some(frame)) if frame.kind == FrameKind::PeerMessages => match decode(&frame) {
                    Ok(messages) => self.inbox.push(Event::Peer { node, core, messages }),
                    Err(error) => break error.to_string(),
                },
                Ok(Some(frame)) => break format!("unexpected {:?}", frame.kind),
                Ok(None) => break "closed by the peer".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        tracing::info!(node, core, why, "lost the link to a peer");
        sender.abort();
        let mut links = self.links.borrow_mut();
        // A newer connection may have taken the place already.
        if links.get(&(node, core)).is_some_and(FrameSender::is_closed) {
            links.remove(&(node, core));
        }
    }
}

fn decode(frame: &Frame) -> Result<Vec<GroupMessage>, net::protocol::DecodeError> {
    let mut messages = Vec::new();
    decode_messages(frame, &mut messages)?;
    Ok(messages)
}
