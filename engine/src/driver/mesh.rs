//! What the cores of one node tell each other: the only thing they share.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use net::peer::{PeerHello, ShardReport};
use net::protocol::{Reply, Request};
use net::transport::Handoff;

use crate::core::{ConnectionId, CoreStatus, Kin, MapNews, Origin};
use crate::http::requests::Requests;
use crate::resp::Registry;
use crate::store::StoreStats;

/// A message between two cores of this node.
pub enum MeshMessage {
    /// A client's connection now belongs to the receiver.
    Client(Handoff, ConnectionSlot),
    /// A peer's connection now belongs to the receiver.
    Peer(Handoff, PeerHello),
    /// A connection that another door accepted now belongs to the receiver.
    Door(DoorKind, OwnedFd, ConnectionSlot),
    /// A request for a shard of the receiver.
    Request(Origin, Request),
    /// The answer to a request that the receiver forwarded.
    Reply(ConnectionId, Reply),
    /// The sender's account of itself.
    Status(CoreStatus),
    /// What is new in the cluster map that the first core goes by.
    Map(MapNews),
    /// How groups stand.
    Reports(Vec<ShardReport>),
    /// The figures of the storage engines of a core, by shard.
    Stores(u32, Vec<(u32, StoreStats)>),
    /// What a core has to say about a shard that is made from another.
    Kin(u32, Kin),
    /// The process was asked to end.
    Stop,
}

/// The doors that speak other people's protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorKind {
    /// Redis clients that know nothing of clusters.
    Resp,
    /// Redis Cluster clients.
    RespCluster,
    /// Browsers, scripts, Prometheus.
    Http,
}

/// Tells all cores of the node to stop.
pub struct Stopper {
    to: Vec<flume::Sender<MeshMessage>>,
}

impl Stopper {
    /// Tells them. One that is gone needs not be told.
    pub fn stop(&self) {
        for core in &self.to {
            let _ = core.send(MeshMessage::Stop);
        }
    }
}

/// A client connection among those of the node, whichever core has it: the one number that cores share.
pub struct ConnectionSlot(Arc<AtomicUsize>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One core's ends of the channels between all cores. What is in them is bounded by the connections: each stops
/// reading while too much of what it asked is unanswered.
pub struct Mesh {
    /// This core.
    pub core: u32,
    to: Vec<flume::Sender<MeshMessage>>,
    connections: Arc<AtomicUsize>,
    /// The Redis connections of the node.
    pub redis: Arc<Registry>,
    /// What became of the HTTP requests of the node.
    pub http: Arc<Requests>,
    from: flume::Receiver<MeshMessage>,
}

impl Mesh {
    /// The ends for all `cores` of a node, in order.
    pub fn all(cores: u32) -> Vec<Mesh> {
        let (to, from): (Vec<_>, Vec<_>) = (0..cores).map(|_| flume::unbounded()).unzip();
        let connections = Arc::new(AtomicUsize::new(0));
        let redis = Arc::new(Registry::default());
        let http = Arc::new(Requests::default());
        (0..cores)
            .zip(from)
            .map(|(core, from)| Mesh {
                core,
                to: to.clone(),
                connections: connections.clone(),
                redis: redis.clone(),
                http: http.clone(),
                from,
            })
            .collect()
    }

    /// What stops all cores.
    pub fn stopper(&self) -> Stopper {
        Stopper { to: self.to.clone() }
    }

    /// Number of cores.
    pub fn cores(&self) -> u32 {
        u32::try_from(self.to.len()).expect("cores are numbered in 32 bits")
    }

    /// Counts one more client connection of the node, until the slot is dropped; also how many there are now.
    pub fn take_slot(&self) -> (ConnectionSlot, usize) {
        let count = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        (ConnectionSlot(self.connections.clone()), count)
    }

    /// Client connections of the node now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Sends to a core. A core that is gone takes the process with it, so nothing is lost silently.
    pub fn send(&self, core: u32, message: MeshMessage) {
        let to = usize::try_from(core).expect("64-bit machine");
        if self.to[to].send(message).is_err() {
            crate::fatal::abort(crate::fatal::Reason::ThreadGone { thread: "core" });
        }
    }

    /// Sends to every other core.
    pub fn broadcast(&self, message: impl Fn() -> MeshMessage) {
        for core in (0..self.cores()).filter(|core| *core != self.core) {
            self.send(core, message());
        }
    }

    /// Waits for the next message.
    pub async fn receive(&self) -> MeshMessage {
        match self.from.recv_async().await {
            Ok(message) => message,
            Err(_) => crate::fatal::abort(crate::fatal::Reason::ThreadGone { thread: "core" }),
        }
    }
}
