//! What operators may not ask of a cluster now, and why: a wish that could not come true would be waited for in vain.

use net::map::NodeInfo;
use net::protocol::Refusal;

use super::{Core, usize_of};

fn conflict(why: String) -> Result<(), Refusal> {
    Err(Refusal::Conflict { why })
}

impl Core {
    /// Refuses to let a node go whose replicas nobody could take.
    pub(super) fn may_leave(&self, node: u64) -> Result<(), Refusal> {
        let stays = |other: &&NodeInfo| other.id != node && !other.leaving;
        let staying = self.map.nodes.iter().filter(stays).count();
        let plans = self.map.shards.iter().map(|shard| &shard.plan);
        // A pin may ask for more than the shard has without it.
        let pinned = plans.clone().filter(|plan| plan.pinned).map(|plan| plan.placed.len());
        let copies = plans.map(|plan| usize_of(plan.copies)).chain(pinned).max().unwrap_or(0);
        if staying >= copies {
            return Ok(());
        }
        conflict(format!(
            "only {staying} nodes would stay, and shards have {copies} replicas: have another node join first"
        ))
    }

    /// Refuses to send a shard to nodes that leave, or are not heard of: it would wait for them.
    pub(super) fn may_take(&self, nodes: &[u64]) -> Result<(), Refusal> {
        let leaves = |id: &&u64| self.map.node(**id).is_some_and(|node| node.leaving);
        if let Some(node) = nodes.iter().find(leaves) {
            return conflict(format!("node {node} is leaving the cluster"));
        }
        match self.first_silent(nodes) {
            Some((node, seconds)) => conflict(format!(
                "node {node} was not heard of for {seconds} s: the shard would wait for it; start it first, or name another"
            )),
            None => Ok(()),
        }
    }

    /// Refuses to have a shard cut of which a replica is not heard of: the cut waits until all of them follow closely.
    pub(super) fn may_cut(&self, shard: u32) -> Result<(), Refusal> {
        let Some(report) = self.standing.reports.get(&shard) else {
            return conflict(format!(
                "no leader of shard {shard} was heard of, so nobody could cut it; ask again later"
            ));
        };
        match self.first_silent(&report.voters) {
            Some((node, seconds)) => conflict(format!(
                "node {node}, which holds a replica of shard {shard}, was not heard of for {seconds} s, and a shard is cut when \
                 all its replicas follow: start the node, or move the shard away from it first"
            )),
            None => Ok(()),
        }
    }

    /// The first of these nodes that is silent for longer than a leader may be, and for how many seconds it has been.
    fn first_silent(&self, nodes: &[u64]) -> Option<(u64, u64)> {
        let timeout = self.config.raft.election_timeout();
        let silent = self.silent_nodes();
        let silence = |node: &u64| silent.get(node).filter(|silence| **silence >= timeout);
        nodes.iter().find_map(|node| silence(node).map(|silence| (*node, silence.0 / 1_000_000_000)))
    }
}
