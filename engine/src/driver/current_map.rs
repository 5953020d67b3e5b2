//! The cluster map that a core goes by now, prepared for whoever asks per request: what is decided in it, that is. Who leads
//! shards and belongs to them only the machine knows.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use net::map::{ClusterMap, NodeInfo};
use raft::ConfState;

use crate::core::MapNews;
use crate::placement;
use crate::topology::What;

/// The map of one core. Clones are the same.
#[derive(Clone)]
pub(super) struct CurrentMap(Rc<RefCell<Known>>);

struct Known {
    map: Arc<ClusterMap>,
    /// The first slot of each user shard, in order, and the shard.
    slots: Vec<(u16, u32)>,
}

impl Known {
    fn of(map: Arc<ClusterMap>) -> Known {
        let slots = slots(&map);
        Known { map, slots }
    }
}

fn slots(map: &ClusterMap) -> Vec<(u16, u32)> {
    let mut slots: Vec<(u16, u32)> =
        map.shards.iter().filter_map(|shard| Some((shard.slots?.first, shard.id))).collect();
    slots.sort_unstable();
    slots
}

impl CurrentMap {
    pub fn new(map: Arc<ClusterMap>) -> CurrentMap {
        CurrentMap(Rc::new(RefCell::new(Known::of(map))))
    }

    /// Goes by another map from now on, as the machine of this core does.
    pub fn follow(&self, news: MapNews) {
        let mut known = self.0.borrow_mut();
        match news {
            MapNews::Whole(map) => *known = Known::of(map),
            MapNews::Changes(changes) => {
                // Whoever still looks at the map as it was keeps a copy.
                let map = Arc::make_mut(&mut known.map);
                for change in &*changes {
                    change.apply(map).expect("the machine applied it to the same map");
                }
                if changes.iter().any(|change| matches!(change.what, What::EndSplit { .. })) {
                    known.slots = slots(&known.map);
                }
            }
        }
    }

    /// The map itself.
    pub fn get(&self) -> Arc<ClusterMap> {
        self.0.borrow().map.clone()
    }

    pub fn epoch(&self) -> u64 {
        self.0.borrow().map.epoch
    }

    /// A node of the cluster.
    pub fn node(&self, id: u64) -> Option<NodeInfo> {
        self.0.borrow().map.node(id).cloned()
    }

    /// The number of cores of a node of the cluster.
    pub fn cores_of(&self, id: u64) -> Option<u32> {
        self.0.borrow().map.node(id).map(|node| node.cores)
    }

    /// The shard that owns a slot.
    pub fn shard_of_slot(&self, slot: u16) -> u32 {
        let slots = &self.0.borrow().slots;
        // Every slot belongs to a shard.
        slots[slots.partition_point(|(first, _)| *first <= slot) - 1].1
    }

    /// The members that a replica of the shard begins with.
    pub fn founders(&self, shard: u32) -> ConfState {
        placement::founders(&self.0.borrow().map, shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::map::{ShardInfo, SlotRange};

    #[test]
    fn a_slot_is_found_whatever_the_order_of_the_shards() {
        let shard = |id, first, last| ShardInfo {
            id,
            slots: Some(SlotRange { first, last }),
            ..ShardInfo::default()
        };
        let meta = ShardInfo::default();
        // Shard 3 was split off shard 1.
        let shards = vec![meta, shard(1, 0, 99), shard(2, 200, 16383), shard(3, 100, 199)];
        let map = CurrentMap::new(Arc::new(ClusterMap { epoch: 2, nodes: Vec::new(), shards }));
        let found = [0, 99, 100, 199, 200, 16383].map(|slot| map.shard_of_slot(slot));
        assert_eq!(found, [1, 1, 3, 3, 2, 2]);
        assert!(map.founders(9).voters.is_empty(), "a shard that the map does not know yet");
    }

    #[test]
    fn changes_make_the_map_that_the_machine_has() {
        use crate::topology::{Change, tests::founding};
        let map = CurrentMap::new(Arc::new(founding()));
        let before = map.get();
        let split = net::map::Split { at: 9000, into: 3 };
        let changes = [
            Change { epoch: 2, what: What::BeginSplit { shard: 2, split } },
            Change { epoch: 3, what: What::EndSplit { shard: 2, nodes: vec![1, 2, 3] } },
        ];
        map.follow(MapNews::Changes(Arc::new(changes)));
        assert_eq!((before.epoch, map.epoch()), (1, 3), "who looks at a map sees that map");
        assert_eq!([0, 8192, 8999, 9000].map(|slot| map.shard_of_slot(slot)), [1, 2, 2, 3]);
        map.follow(MapNews::Whole(before));
        assert_eq!(map.shard_of_slot(9000), 2);
    }
}
