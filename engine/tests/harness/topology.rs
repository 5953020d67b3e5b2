//! The cluster as a whole: its nodes, and where its shards are; by the calls that `ringkv admin` makes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use net::ClientError;
use net::map::{ClusterMap, ShardInfo};
use net::protocol::{ClusterAccount, ClusterOp, Refusal};

use super::deadline::until;
use super::groups::Groups;

/// A change is accepted within this, elections included.
const ACCEPTED_MAX: Duration = Duration::from_secs(20);

/// Access to the map of a cluster.
#[derive(Clone)]
pub struct Topology {
    groups: Groups,
}

impl Topology {
    /// That of the cluster at these addresses.
    pub fn at(endpoints: Vec<String>) -> Topology {
        Topology { groups: Groups::at(endpoints) }
    }

    /// The groups of its shards.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// One operation, sent once.
    pub fn ask(&self, op: ClusterOp) -> Result<ClusterAccount, ClientError> {
        self.groups.ask(async move |client| client.cluster(op).await)
    }

    /// How it is.
    pub fn account(&self) -> Result<ClusterAccount, String> {
        self.ask(ClusterOp::Map { epoch: None }).map_err(|error| error.to_string())
    }

    /// The map as it was.
    pub fn map_at(&self, epoch: u64) -> Result<ClusterMap, String> {
        let account = self.ask(ClusterOp::Map { epoch: Some(epoch) }).map_err(|error| error.to_string())?;
        account.map.ok_or_else(|| format!("no map is told of epoch {epoch}"))
    }

    /// Asks for a change until it is accepted.
    ///
    /// # Panics
    /// When it is refused.
    pub fn change(&self, op: &ClusterOp) -> ClusterAccount {
        until(&format!("{op:?} to be accepted"), ACCEPTED_MAX, || match self.ask(op.clone()) {
            Ok(account) => Ok(account),
            Err(ClientError::Refused(refusal @ (Refusal::Conflict { .. } | Refusal::Invalid { .. }))) => {
                panic!("{op:?}: {refusal}")
            }
            Err(error) => Err(error.to_string()),
        })
    }

    /// Waits until the cluster consists of exactly these nodes and every shard is where it belongs: as the controller
    /// says, and as the shards' own leaders do. `look` sees each account on the way.
    pub fn wait_until_settled(
        &self,
        nodes: &BTreeSet<u64>,
        limit: Duration,
        mut look: impl FnMut(&ClusterAccount),
    ) -> ClusterMap {
        let map = until(&format!("the cluster to settle on {nodes:?}"), limit, || {
            let account = self.account()?;
            look(&account);
            let Some(map) = account.map else { return Err("no map is told".to_owned()) };
            let members: BTreeSet<u64> = map.nodes.iter().map(|node| node.id).collect();
            if members == *nodes && account.moving.is_empty() && account.waiting.is_empty() {
                return Ok(map);
            }
            let (moving, waiting) = (account.moving, account.waiting);
            Err(format!("nodes {members:?}; moving {moving:?}; waiting {waiting:?}; {:?}", account.silent_ms))
        });
        for shard in &map.shards {
            self.groups.wait_for_voters(shard.id, &holders(shard).into_iter().collect(), limit);
        }
        assert_slots_have_one_owner(&map);
        map
    }

    /// How many replicas the controller has placed on nodes without one, from one epoch to another: all that was moved,
    /// detours included.
    pub fn placements(&self, from: u64, to: u64) -> usize {
        let mut before: BTreeMap<u32, BTreeSet<u64>> = placed(&self.map_at_last(from));
        let mut count = 0;
        for epoch in from + 1..=to {
            let now = placed(&self.map_at_last(epoch));
            for (shard, nodes) in &now {
                // A shard that was cut off another one began where that was.
                count += before.get(shard).map_or(0, |old| nodes.difference(old).count());
            }
            before = now;
        }
        count
    }

    fn map_at_last(&self, epoch: u64) -> ClusterMap {
        until("the leader of the meta shard to tell an old map", ACCEPTED_MAX, || self.map_at(epoch))
    }
}

fn placed(map: &ClusterMap) -> BTreeMap<u32, BTreeSet<u64>> {
    map.shards.iter().map(|shard| (shard.id, holders(shard).into_iter().collect())).collect()
}

/// The nodes that are to hold a shard, first the one to lead; as long as the controller has not touched it, its founders.
pub fn holders(shard: &ShardInfo) -> Vec<u64> {
    match shard.plan.placed.is_empty() {
        true => shard.plan.founders.clone(),
        false => shard.plan.placed.clone(),
    }
}

/// Every slot belongs to one shard, and no shard has two replicas on a node.
pub fn assert_slots_have_one_owner(map: &ClusterMap) {
    for shard in &map.shards {
        let nodes = holders(shard);
        let distinct: BTreeSet<&u64> = nodes.iter().collect();
        assert_eq!(distinct.len(), nodes.len(), "shard {} is placed on {nodes:?}", shard.id);
    }
    let routing = map.clone().into_routing().expect("the map makes sense");
    for slot in 0..net::slot::SLOT_COUNT {
        assert!(routing.shard_of_slot(slot).is_some(), "nobody owns slot {slot} at epoch {}", map.epoch);
    }
}
