//! The map of an epoch is the same wherever it is known, that of the meta shard's log: what is decided in it, for who belongs
//! to groups and leads them each core knows by itself. Where a map came from does not matter.

use std::collections::BTreeMap;

use net::map::ClusterMap;

use super::{Verdict, violated};
use crate::core::Core;
use crate::topology::{Topology, decided};

const PROPERTY: &str = "one map of an epoch";

/// Compares maps with those of the log.
#[derive(Debug, Default)]
pub struct SameMap {
    /// What is decided, by epoch.
    maps: BTreeMap<u64, ClusterMap>,
}

impl SameMap {
    /// A replica of the meta shard has applied up to a map.
    pub fn observe_log(&mut self, node: u64, topology: &Topology) -> Verdict {
        let newest = topology.map().epoch;
        if let Some(known) = self.maps.get(&newest) {
            return same(node, known, topology.map());
        }
        let first = self.maps.keys().last().map_or(1, |epoch| epoch + 1);
        for epoch in first..=newest {
            let map = topology.at(epoch).expect("worlds are too short to forget maps");
            self.maps.insert(epoch, decided(&map));
        }
        Ok(())
    }

    /// A core goes by a map.
    pub fn observe(&self, node: u64, core: &Core) -> Verdict {
        let map = core.known_map();
        // All nodes have the same configuration here, so every change fits wherever the one before it does.
        if core.counters().map_changes_refused > 0 {
            return violated(PROPERTY, format!("node {node} was sent a change that does not fit its map"));
        }
        match self.maps.get(&map.epoch) {
            Some(known) => same(node, known, map),
            None => violated(PROPERTY, format!("node {node} has a map of epoch {}, and no log", map.epoch)),
        }
    }
}

fn same(node: u64, known: &ClusterMap, map: &ClusterMap) -> Verdict {
    let found = decided(map);
    if found == *known {
        return Ok(());
    }
    violated(PROPERTY, format!("node {node} has {found:?}, the log {known:?}"))
}
