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
use super::{Driver, MeshMessage, join};
use crate::core::{Event, MapNews};
use crate::placement::META_SHARD;
use crate::server::join::own_entry;
use crate::topology::{Change, What};

/// Pause between two looks, or attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two lines in the log that say why something has not been done yet.
const SAY_PAUSE: Duration = Duration::from_secs(10);
/// A node without any link for so long asks at the doors for clients whether the cluster has gone on without it.
const CUT_OFF: Duration = Duration::from_secs(5);

/// Between two writings of the map the disk rests so many times as long as the last one took: however fast the map
/// changes, and however large it is, writing it takes a fifth of the time at most.
const SAVE_REST: u32 = 4;
/// The longest such rest.
const SAVE_REST_MAX: Duration = Duration::from_secs(1);
/// Parts of changes that are kept for the other cores while the map is written; beyond, they get it whole. A part is what a
/// change says of one shard or node: some hundred bytes.
const UNTOLD_MAX: usize = 1024;

/// The map on its way to the disk, and then to the other cores.
#[derive(Default)]
pub(super) struct Saving {
    untold: RefCell<Untold>,
    is_under_way: Cell<bool>,
}

/// What the other cores have not been told.
#[derive(Default)]
enum Untold {
    #[default]
    Nothing,
    Changes(Vec<Change>),
    /// That the map is another one.
    Whole,
}

impl Untold {
    fn add(&mut self, news: MapNews) {
        let mut all = match std::mem::take(self) {
            Untold::Nothing => Vec::new(),
            Untold::Changes(changes) => changes,
            Untold::Whole => return *self = Untold::Whole,
        };
        *self = match news {
            MapNews::Changes(new) if parts(&all) + parts(&new) <= UNTOLD_MAX => {
                all.extend_from_slice(&new);
                Untold::Changes(all)
            }
            _ => Untold::Whole,
        };
    }
}

fn parts(changes: &[Change]) -> usize {
    let of = |change: &Change| match &change.what {
        What::Place(places) => places.len(),
        _ => 1,
    };
    changes.iter().map(of).sum()
}

impl Driver {
    /// The machine goes by another map from now on.
    pub(super) fn on_map_changed(self: &Rc<Self>, news: MapNews) {
        self.map.follow(news.clone());
        if news.is_of_nodes() {
            self.peers.clone().follow_map();
        }
        if self.mesh.core != 0 {
            return;
        }
        if news.is_of_nodes() && self.map.node(self.config.node.id).is_none() {
            tracing::warn!(
                node = self.config.node.id,
                epoch = self.map.epoch(),
                "this node has left the cluster and may be stopped; what its data directory still holds is of no use to anybody"
            );
        }
        self.saving.untold.borrow_mut().add(news);
        if !self.saving.is_under_way.replace(true) {
            glommio::spawn_local(self.clone().save_maps()).detach();
        }
    }

    /// Saves the newest map, and then tells the other cores: after a crash no core of this node has known more than its
    /// disk does.
    async fn save_maps(self: Rc<Self>) {
        loop {
            // A task begins at once, and the machine is in the middle of a turn.
            glommio::executor().yield_now().await;
            let untold = self.saving.untold.take();
            if matches!(untold, Untold::Nothing) {
                break;
            }
            let map = Arc::new(self.core.borrow().known_map().clone());
            let (data, saved, begun) = (self.data.clone(), map.clone(), Instant::now());
            let rest = match glommio::executor().spawn_blocking(move || data.save_map(&saved)).await {
                Ok(()) => {
                    self.tell_siblings(untold, map);
                    begun.elapsed().saturating_mul(SAVE_REST).min(SAVE_REST_MAX)
                }
                Err(error) => {
                    tracing::error!(%error, "the cluster map is not saved; trying again");
                    *self.saving.untold.borrow_mut() = Untold::Whole;
                    PAUSE
                }
            };
            glommio::timer::sleep(rest).await;
        }
        self.saving.is_under_way.set(false);
    }

    /// Tells the other cores what is new in the map that was saved.
    fn tell_siblings(&self, untold: Untold, saved: Arc<ClusterMap>) {
        let news = match untold {
            Untold::Nothing => return,
            Untold::Changes(changes) => MapNews::Changes(changes.into()),
            Untold::Whole => MapNews::Whole(saved),
        };
        self.mesh.broadcast(|| MeshMessage::Map(news.clone()));
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
                    self.inbox.push(Event::Map(MapNews::Whole(Arc::new(newer))));
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
                // Others may be reached now where one of this cluster was.
                let own = own_entry(&self.config, self.data.standing().store.0);
                match join::is_of_cluster(self.config.clone(), own, &map).await {
                    Ok(()) => return Some(map),
                    Err(why) => tracing::warn!(
                        at = node.binary_addr,
                        why,
                        "a door tells a newer cluster map, which nobody vouches for"
                    ),
                }
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
    fn the_other_cores_are_told_of_every_change_or_of_the_whole_map() {
        let change = |epoch| Change { epoch, what: crate::topology::What::Unpin };
        let news = |epochs: std::ops::Range<u64>| MapNews::Changes(epochs.map(change).collect());
        let mut untold = Untold::default();
        untold.add(news(2..3));
        untold.add(news(3..5));
        let Untold::Changes(changes) = &untold else { panic!("few changes") };
        assert_eq!(changes.iter().map(|change| change.epoch).collect::<Vec<u64>>(), [2, 3, 4]);
        untold.add(MapNews::Whole(Arc::default()));
        untold.add(news(6..7));
        assert!(matches!(untold, Untold::Whole), "the map that is saved has the later changes too");
        let mut untold = Untold::default();
        let many = u64::try_from(UNTOLD_MAX).unwrap();
        untold.add(news(2..2 + many));
        assert!(matches!(untold, Untold::Changes(_)));
        untold.add(news(2 + many..3 + many));
        assert!(matches!(untold, Untold::Whole));
    }

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
