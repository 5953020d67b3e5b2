//! Before the first start: asks the other nodes who they are, and tells them who this one is, until it is decided
//! whether this node founds the cluster ([`crate::bootstrap`]). Runs on an executor of its own, with the peer door; what
//! knocks there for anything else is sent away and comes back.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::peer::{PEER_VERSION, PeerHello, PeerHelloReply, Purpose};
use net::protocol::ErrorCode;
use net::transport::{Connection, ConnectionConfig, Listener};

use super::clients::report;
use super::{doors, executor, greet};
use crate::bootstrap::{Decision, decide};
use crate::config::Config;
use crate::convert;
use crate::identity::Standing;

/// Pause between two questions to a node that has not answered, or is not settled.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// Time between two lines in the log that say for whom this node waits.
const SAY_PAUSE: Duration = Duration::from_secs(3);

/// What is known so far.
struct Inquiry {
    config: Arc<Config>,
    standing: Standing,
    answers: RefCell<BTreeMap<u64, Standing>>,
    /// Why a node has not answered.
    silence: RefCell<BTreeMap<u64, String>>,
}

/// Asks until it is decided whether this node is a founder or a replacement. Never [`Decision::Wait`].
pub fn run(config: Arc<Config>, standing: Standing, door: TcpListener) -> io::Result<Decision> {
    executor::run_client(move || async move {
        let inquiry =
            Rc::new(Inquiry { config, standing, answers: RefCell::default(), silence: RefCell::default() });
        inquiry.work(door).await
    })
}

impl Inquiry {
    async fn work(self: Rc<Self>, door: TcpListener) -> Decision {
        let others: BTreeSet<u64> = self.others().map(|(node, _)| node).collect();
        // All of them end with the executor.
        glommio::spawn_local(self.clone().answer(door)).detach();
        for (node, address) in self.others() {
            glommio::spawn_local(self.clone().ask(node, address.to_owned())).detach();
        }
        let mut said = Instant::now();
        loop {
            let node = self.config.node.id;
            let decision = decide(node, self.standing.store, &others, &self.answers.borrow());
            let Decision::Wait { missing } = &decision else { return decision };
            if said.elapsed() >= SAY_PAUSE {
                said = Instant::now();
                let silence = self.silence.borrow();
                let why: Vec<String> = (missing.iter())
                    .map(|node| format!("{node}: {}", silence.get(node).map_or("asked", String::as_str)))
                    .collect();
                tracing::info!(nodes = ?missing, why = why.join("; "),
                    "first start of this data directory: waiting for these nodes to tell whether the cluster exists");
            }
            glommio::timer::sleep(ASK_PAUSE).await;
        }
    }

    fn others(&self) -> impl Iterator<Item = (u64, &str)> {
        let nodes = self.config.cluster.nodes.iter();
        nodes.filter(|node| node.id != self.config.node.id).map(|node| (node.id, node.peer.as_str()))
    }

    /// Asks one node again and again: one that was not settled may have settled meanwhile.
    async fn ask(self: Rc<Self>, node: u64, address: String) {
        loop {
            match self.ask_once(node, &address).await {
                Ok(reply) => {
                    self.silence.borrow_mut().remove(&node);
                    self.answers.borrow_mut().insert(node, convert::standing(reply.store));
                }
                Err(why) => {
                    self.silence.borrow_mut().insert(node, why);
                }
            }
            glommio::timer::sleep(ASK_PAUSE).await;
        }
    }

    async fn ask_once(&self, node: u64, address: &str) -> Result<PeerHelloReply, String> {
        let hello = PeerHello {
            version: PEER_VERSION,
            node: self.config.node.id,
            core: 0,
            cluster_id: self.config.cluster.id.clone(),
            wants_core: 0,
            purpose: Purpose::Identity,
            store: convert::store_info(&self.standing),
            vote_hold_ms: 0,
        };
        let (_, _, reply) = greet::dial(&hello, node, address, ConnectionConfig::default()).await?;
        Ok(reply)
    }

    /// Answers who asks.
    async fn answer(self: Rc<Self>, door: TcpListener) {
        let listener = Listener::from_std(door).expect("a bound listener has an address");
        loop {
            let config = ConnectionConfig::default();
            let Some(connection) = doors::accept(&listener, config).await else { continue };
            glommio::spawn_local(self.clone().answer_one(connection)).detach();
        }
    }

    async fn answer_one(self: Rc<Self>, mut connection: Connection) {
        let cores_of = |node| self.config.cluster.node(node).map(|node| node.cores);
        let hello = match doors::read_peer_hello(&self.config, cores_of, &mut connection).await {
            Ok(Some(hello)) => hello,
            Ok(None) => return,
            Err(refusal) => {
                tracing::warn!(error = %refusal, "refused a connection at the peer door");
                return doors::refuse(connection, &refusal).await;
            }
        };
        if hello.purpose != Purpose::Identity {
            let why = "this node has not started yet".to_owned();
            return doors::refuse(connection, &report(ErrorCode::BadMessage, why)).await;
        }
        let store = convert::store_info(&self.standing);
        greet::answer_identity(connection, self.config.node.id, store).await;
    }
}
