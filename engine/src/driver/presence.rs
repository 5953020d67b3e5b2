//! What this node and its cluster know of each other, kept true: the newest map on the disk and among the cores, this
//! node's own entry in the map, and news for a node that the others have no links to any more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::map::{ClusterMap, NodeInfo};
use net::protocol::{Answer, ClusterOp, Op, Refusal};
use net::transport::client::Target;

use super::gateway::{Gateway, GatewayError, Mode};
use super::{Driver, MeshMessage};
use crate::core::Event;
use crate::placement::META_SHARD;
use crate::server::join::own_entry;

/// Pause between two looks, or attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two lines in the log that say why something has not been done yet.
const SAY_PAUSE: Duration = Duration::from_secs(10);
/// A node without any link for so long asks at the doors for clients whether the cluster has gone on without it.
const CUT_OFF: Duration = Duration::from_secs(5);

/// The map that is to be saved.
#[derive(Default)]
pub(super) struct Saving {
    next: RefCell<Option<Arc<ClusterMap>>>,
    is_under_way: Cell<bool>,
}

impl Driver {
    /// The machine goes by another map from now on.
    pub(super) fn on_map_changed(self: &Rc<Self>, map: Arc<ClusterMap>) {
        self.map.replace(map.clone());
        self.peers.clone().follow_map();
        if self.mesh.core != 0 {
            return;
        }
        if map.node(self.config.node.id).is_none() {
            tracing::warn!(
                node = self.config.node.id,
                epoch = map.epoch,
                "this node has left the cluster and may be stopped; what its data directory still holds is of no use to anybody"
            );
        }
        *self.saving.next.borrow_mut() = Some(map);
        if !self.saving.is_under_way.replace(true) {
            glommio::spawn_local(self.clone().save_maps()).detach();
        }
    }

    /// Saves the newest map, and then tells the other cores: after a crash no core of this node has known more than its
    /// disk does.
    async fn save_maps(self: Rc<Self>) {
        loop {
            let next = self.saving.next.borrow_mut().take();
            let Some(map) = next else { break };
            let (data, saved) = (self.data.clone(), map.clone());
            match glommio::executor().spawn_blocking(move || data.save_map(&saved)).await {
                Ok(()) => self.mesh.broadcast(|| MeshMessage::Map(map.clone())),
                Err(error) => {
                    tracing::error!(%error, "the cluster map is not saved; trying again");
                    self.saving.next.borrow_mut().get_or_insert(map);
                    glommio::timer::sleep(PAUSE).await;
                }
            }
        }
        self.saving.is_under_way.set(false);
    }

    /// Tells the cluster of this node as long as its map has it otherwise: it has other addresses or another data directory
    /// than when the map was made.
    pub(super) async fn introduce(self: Rc<Self>) {
        let own = own_entry(&self.config, self.data.standing().store.0);
        let gateway = Gateway::new(self.clone());
        let mut said = Instant::now();
        let mut settled = 0;
        loop {
            let epoch = self.map.epoch();
            if epoch != settled {
                match self.map.node(own.id) {
                    Some(known) if !is_known(&known, &own) => tell(&gateway, &own, &mut said).await,
                    // It is as it should be, or has left: nothing to tell before the next map.
                    _ => settled = epoch,
                }
            }
            glommio::timer::sleep(PAUSE).await;
        }
    }

    /// While no other node links to this one: asks at their doors for clients for a newer map. Nodes that have dropped
    /// this one from theirs do not talk to it any more, and those that have moved cannot find it.
    pub(super) async fn keep_in_touch(self: Rc<Self>) {
        let mut linked = Instant::now();
        loop {
            glommio::timer::sleep(PAUSE).await;
            let map = self.map.get();
            let alone = map.nodes.iter().all(|node| node.id == self.config.node.id);
            if alone || self.peers.has_links() {
                linked = Instant::now();
            } else if linked.elapsed() >= CUT_OFF {
                linked = Instant::now();
                if let Some(newer) = self.ask_around(&map).await {
                    tracing::info!(epoch = newer.epoch, "heard of a newer cluster map at a door for clients");
                    self.inbox.push(Event::Map(Arc::new(newer)));
                }
            }
        }
    }

    async fn ask_around(self: &Rc<Self>, known: &ClusterMap) -> Option<ClusterMap> {
        let client = Gateway::new(self.clone()).client().await.ok()?;
        for node in known.nodes.iter().filter(|node| node.id != self.config.node.id) {
            let target = Target::Endpoint(node.binary_addr.as_str().into());
            if let Ok(Answer::ClusterMap(map)) = client.call(target, Op::ClusterMap).await
                && map.epoch > known.epoch
            {
                return Some(map);
            }
        }
        None
    }
}

/// Whether the map has a node as it is. The map of the configuration knows no data directories, and has no need to.
fn is_known(known: &NodeInfo, own: &NodeInfo) -> bool {
    let store = if known.store == 0 { 0 } else { own.store };
    *known == NodeInfo { leaving: known.leaving, store, ..own.clone() }
}

async fn tell(gateway: &Gateway, own: &NodeInfo, said: &mut Instant) {
    let op = Op::Cluster(ClusterOp::Join { node: own.clone() });
    let patience = if said.elapsed() >= SAY_PAUSE { Some(Instant::now()) } else { None };
    match gateway.call(Mode::Proxy, 0, META_SHARD, op).await {
        Ok(_) => tracing::info!(node = own.id, peer = own.peer_addr, "told the cluster where this node is"),
        Err(error) => {
            let hopeless =
                matches!(error, GatewayError::Refused(Refusal::Invalid { .. } | Refusal::Conflict { .. }));
            if hopeless || patience.is_some() {
                *said = patience.unwrap_or_else(Instant::now);
                tracing::warn!(node = own.id, %error, "the cluster does not know yet where this node is; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_speaks_up_when_its_entry_is_wrong() {
        let own = NodeInfo { id: 3, peer_addr: "127.0.0.1:5".to_owned(), store: 7, ..NodeInfo::default() };
        assert!(is_known(&own, &own));
        assert!(is_known(&NodeInfo { leaving: true, ..own.clone() }, &own), "that is for operators to say");
        assert!(is_known(&NodeInfo { store: 0, ..own.clone() }, &own), "a founder of an untouched cluster");
        assert!(!is_known(&NodeInfo { store: 8, ..own.clone() }, &own));
        assert!(!is_known(&NodeInfo { peer_addr: "127.0.0.1:6".to_owned(), ..own.clone() }, &own));
        assert!(!is_known(&NodeInfo { store: 0, weight: 2, ..own.clone() }, &own));
    }
}
