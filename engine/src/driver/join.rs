//! Joining a cluster that is there: asks its nodes to take this one in, until they have or will not. Runs on an executor
//! of its own, before the node has anything else.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::map::{ClusterMap, NodeInfo};
use net::peer::{PEER_VERSION, PeerHello, PeerHelloReply, Purpose, StoreInfo};
use net::protocol::{ClusterOp, ErrorCode, Refusal};
use net::transport::ConnectionConfig;
use net::{Client, ClientConfig, ClientError};

use super::executor;
use super::greet::{self, GreetError};
use crate::config::Config;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two lines in the log that say why this node is not in yet, while the reason is the same.
const SAY_PAUSE: Duration = Duration::from_secs(5);
/// How long one attempt may wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why an attempt to join failed.
enum Trouble {
    /// The cluster does not want this node as it is.
    Refused(String),
    /// Another attempt may succeed.
    Retry(String),
}

/// Who wants to join, and whom it asks.
struct Applicant {
    config: Arc<Config>,
    own: NodeInfo,
    endpoints: Vec<String>,
}

/// Asks the nodes with these binary doors until this one, `own`, is in the map that comes back; `Err` with the reason when
/// the cluster will not have it.
pub fn run(
    config: Arc<Config>,
    own: NodeInfo,
    endpoints: Vec<String>,
) -> io::Result<Result<ClusterMap, String>> {
    executor::run_client(move || Applicant { config, own, endpoints }.work())
}

/// Whether a map that came from a door for clients is of this node's cluster, as a peer door of it says.
pub(super) async fn is_of_cluster(
    config: Arc<Config>,
    own: NodeInfo,
    map: &ClusterMap,
) -> Result<(), String> {
    let asked = Applicant { config, own, endpoints: Vec::new() }.check_cluster(map).await;
    asked.map_err(|(Trouble::Refused(why) | Trouble::Retry(why))| why)
}

impl Applicant {
    async fn work(self) -> Result<ClusterMap, String> {
        tracing::info!(node = self.own.id, through = ?self.endpoints, "joining the cluster");
        let mut said: Option<(Instant, String)> = None;
        loop {
            let why = match self.attempt().await {
                Ok(map) => return Ok(map),
                Err(Trouble::Refused(why)) => return Err(why),
                Err(Trouble::Retry(why)) => why,
            };
            if said.as_ref().is_none_or(|(at, before)| at.elapsed() >= SAY_PAUSE || *before != why) {
                tracing::warn!(node = self.own.id, through = ?self.endpoints, why, "not in the cluster yet; asking again");
                said = Some((Instant::now(), why));
            }
            glommio::timer::sleep(PAUSE).await;
        }
    }

    async fn attempt(&self) -> Result<ClusterMap, Trouble> {
        let config =
            ClientConfig { request_timeout: ANSWER_MAX, ..ClientConfig::new(self.endpoints.clone()) };
        let client = Client::connect(config).await.map_err(|error| Trouble::Retry(error.to_string()))?;
        let map = client.cluster_map();
        self.check_cluster(&map).await?;
        self.check_name_is_free(&map).await?;
        let account = client.cluster(ClusterOp::Join { node: self.own.clone() }).await.map_err(trouble)?;
        let map = match account.map {
            Some(map) => map,
            None => {
                let account = client.cluster(ClusterOp::Map { epoch: None }).await.map_err(trouble)?;
                account.map.ok_or_else(|| Trouble::Retry("the cluster did not tell its map".to_owned()))?
            }
        };
        if map.node(self.own.id).is_none_or(|known| known.store != self.own.store) {
            return Err(Trouble::Retry("the cluster has not taken this node in yet".to_owned()));
        }
        Ok(map)
    }

    /// The binary door does not ask for the name of the cluster, the peer doors do: without them no node can work.
    async fn check_cluster(&self, map: &ClusterMap) -> Result<(), Trouble> {
        let mut silence = Vec::new();
        for node in map.nodes.iter().filter(|node| node.id != self.own.id) {
            match self.ask(node).await {
                Ok(_) => return Ok(()),
                Err(GreetError::Refused(report)) => match report.code {
                    ErrorCode::WrongCluster | ErrorCode::UnsupportedVersion => {
                        return Err(Trouble::Refused(format!("node {}: {report}", node.id)));
                    }
                    // It does not know this node, which is as it should be.
                    _ => return Ok(()),
                },
                Err(GreetError::Failed(why)) => silence.push(format!("node {}: {why}", node.id)),
            }
        }
        if silence.is_empty() {
            let why = "only this node itself answers there; give the binary door of another one with --join";
            return Err(Trouble::Retry(why.to_owned()));
        }
        Err(Trouble::Retry(format!("no peer door of the cluster can be reached: {}", silence.join("; "))))
    }

    /// Two processes of one name would take each other's connections.
    async fn check_name_is_free(&self, map: &ClusterMap) -> Result<(), Trouble> {
        let namesake = map.node(self.own.id).filter(|known| known.peer_addr != self.own.peer_addr);
        let Some(namesake) = namesake else { return Ok(()) };
        match self.ask(namesake).await {
            Ok(reply) if reply.store.store != self.own.store => Err(Trouble::Refused(format!(
                "the cluster has a node {} already, and it runs, at {}; give this one another node.id, or stop that one",
                self.own.id, namesake.peer_addr
            ))),
            _ => Ok(()),
        }
    }

    /// Asks a node who it is.
    async fn ask(&self, node: &NodeInfo) -> Result<PeerHelloReply, GreetError> {
        let hello = PeerHello {
            version: PEER_VERSION,
            node: self.own.id,
            core: 0,
            cluster_id: self.config.cluster.id.clone(),
            wants_core: 0,
            purpose: Purpose::Identity,
            store: StoreInfo { store: self.own.store, ..StoreInfo::default() },
            vote_hold_ms: 0,
        };
        let asked = greet::dial(&hello, node.id, &node.peer_addr, ConnectionConfig::default());
        let (_, _, reply) = asked.await?;
        Ok(reply)
    }
}

fn trouble(error: ClientError) -> Trouble {
    match error {
        ClientError::Refused(Refusal::Invalid { why } | Refusal::Conflict { why }) => Trouble::Refused(why),
        error => Trouble::Retry(error.to_string()),
    }
}
