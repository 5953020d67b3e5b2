//! The end of every world: all faults are mended, and then everything must be well again within a bound of simulated
//! time: every shard takes writes, all replicas reach the same state, and every key is read for the last time.

use super::oracle::{Verdict, violated};
use super::plan::{MS, SECOND};
use super::trace::note;
use super::world::World;
use crate::placement::core_of;

/// After the last fault a cluster has this long.
const BOUND: u64 = 60 * SECOND;

impl World {
    /// Mends everything and waits until all is well.
    pub(super) fn converge(&mut self) -> Verdict {
        note!(self.now, 0, 0, "heal");
        self.heal()?;
        let deadline = self.now + BOUND;
        self.workload.rest(true);
        self.workload.assigned = self.workload.last_operations();
        self.begin_workload();
        loop {
            self.run_until(self.now + 250 * MS)?;
            let unwell = self.what_is_unwell();
            match unwell {
                None => break,
                Some(detail) if self.now >= deadline => {
                    return violated("a healed cluster converges", detail);
                }
                Some(_) => {}
            }
        }
        self.workload.check_history()
    }

    fn heal(&mut self) -> Verdict {
        self.healed = true;
        self.network.heal();
        // Only what is broken is mended: the machines stay as fast as they are, but nobody loses patience with them.
        self.workload.settings.patience = 3 * SECOND;
        let (fastest, slowest) = self.setup.plan.store.apply;
        self.setup.plan.store.apply = (fastest, slowest.min(10 * MS));
        for node in 0..self.nodes.len() {
            for slot in &mut self.nodes[node].cores {
                slot.disk.set_slow(1);
                slot.disk.set_full(false);
                slot.paused_until = 0;
            }
            if !self.nodes[node].up && (self.is_founder(node) || self.nodes[node].has_joined) {
                self.start_node(node)?;
            }
        }
        Ok(())
    }

    /// The first thing that is not as it should be.
    fn what_is_unwell(&self) -> Option<String> {
        if !self.workload.assigned.is_empty() || !self.workload.clients.iter().all(|client| client.is_idle())
        {
            return Some("clients wait for answers".to_owned());
        }
        (0..self.oracle.shards()).find_map(|shard| self.unwell_shard(shard)).or_else(|| self.misplaced())
    }

    fn unwell_shard(&self, shard: u32) -> Option<String> {
        let core = usize::try_from(core_of(shard, self.setup.plan.cores)).expect("few cores");
        let Some(leader) = self.leader_of(shard) else { return Some(format!("shard {shard} has no leader")) };
        let replica_of = |node: usize| self.nodes[node].cores[core].running.as_ref()?.replica(shard);
        let leading = replica_of(leader).expect("it leads");
        let (committed, last) = (leading.raft.committed(), leading.raft.last_index());
        if committed != last {
            return Some(format!("shard {shard} has entries up to {last}, committed up to {committed}"));
        }
        let conf_state = leading.raft.conf_state();
        if !conf_state.voters_outgoing.is_empty() {
            return Some(format!("shard {shard} stays in a joint configuration: {conf_state:?}"));
        }
        for id in conf_state.voters.iter().chain(&conf_state.learners) {
            let node = usize::try_from(crate::replica_id::node_of(id.0) - 1).expect("few nodes");
            let Some(replica) = replica_of(node).filter(|replica| replica.raft.id() == *id) else {
                return Some(format!("shard {shard} counts on {id}, which node {} does not have", node + 1));
            };
            if self.lost.contains(&(shard, id.0)) {
                return Some(format!("shard {shard} counts on {id}, whose data are lost"));
            }
            if replica.raft.applied() != committed {
                let applied = replica.raft.applied();
                return Some(format!(
                    "shard {shard} is committed up to {committed}, {id} has applied {applied}"
                ));
            }
        }
        let is_member =
            |id: &raft::NodeId| conf_state.voters.contains(id) || conf_state.learners.contains(id);
        let map = self.newest_map();
        let belongs = |node: &usize| map.node(self.nodes[*node].id).is_some();
        let strangers =
            (0..self.nodes.len()).filter(belongs).filter_map(replica_of).map(|replica| replica.raft.id());
        strangers.filter(|id| !is_member(id)).map(|id| format!("{id} is no member of shard {shard}")).next()
    }
}
