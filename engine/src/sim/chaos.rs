//! When faults begin and end, as the plan says. Each draws its next time when it strikes.

use raft::Role;

use super::oracle::Verdict;
use super::plan::MS;
use super::trace::note;
use super::world::{Happening, World};
use crate::core::{ConnectionId, Event, Origin};
use crate::placement::core_of;
use net::protocol::{AdminOp, Op, Request};
use net::types::RequestId;

/// A fault.
#[derive(Clone, Debug)]
pub enum Chaos {
    /// Some process dies, or all do.
    Crash,
    /// A node comes back.
    Restart(usize),
    /// A node that was just elected dies, or is not heard any more.
    Strike(usize),
    /// The power fails everywhere.
    Blackout,
    /// Ways between nodes are cut.
    Partition,
    /// They are open again.
    Reconnect(Vec<(usize, usize)>),
    /// A disk gets slow.
    SlowDisk,
    /// It is as fast as before.
    FastDisk(usize, usize),
    /// A disk is full.
    FullDisk,
    /// It has room again.
    FreeDisk(usize, usize),
    /// Somebody sets a clock.
    Jump,
    /// An executor stands still.
    Pause,
    /// A state machine makes itself durable.
    Flush,
    /// An administrator changes the members of a shard.
    Members,
    /// An operator changes the cluster: its nodes, or where a shard is.
    Operator,
    /// An operator has a shard cut in two.
    Split,
    /// A node asks to be taken in.
    Join(usize),
    /// An administrator moves a leadership.
    Transfer,
    /// An administrator asks for a snapshot or a compaction.
    Maintain,
    /// The clients rest.
    Lull,
    /// They go on.
    Rush,
}

/// The connection of administrators: no client has it.
pub(super) const ADMIN: ConnectionId = ConnectionId(u64::MAX);

impl World {
    /// Plans the first of each fault.
    pub(super) fn begin_chaos(&mut self) {
        use Chaos::{
            Crash, Flush, FullDisk, Jump, Lull, Maintain, Members, Operator, Partition, Pause, SlowDisk,
            Split, Transfer,
        };
        let all = [
            Crash, Partition, SlowDisk, FullDisk, Jump, Pause, Flush, Members, Transfer, Maintain, Lull,
            Operator, Split,
        ];
        for chaos in all {
            self.plan_next(chaos);
        }
        self.plan_joins();
    }

    fn interval(&self, chaos: &Chaos) -> u64 {
        let plan = &self.setup.plan;
        match chaos {
            Chaos::Crash => plan.crashes.interval,
            Chaos::Partition => plan.network.partition,
            Chaos::SlowDisk => plan.disk.slow,
            Chaos::FullDisk => plan.disk.full,
            Chaos::Jump => plan.time.jump,
            Chaos::Pause => plan.time.pause,
            Chaos::Flush => plan.store.flush,
            Chaos::Members => plan.members.change,
            Chaos::Operator => plan.members.operator,
            Chaos::Split => plan.members.split,
            Chaos::Transfer => plan.members.transfer,
            Chaos::Maintain => plan.members.maintain,
            Chaos::Lull => plan.workload.lull,
            Chaos::Restart(_)
            | Chaos::Join(_)
            | Chaos::Strike(_)
            | Chaos::Blackout
            | Chaos::Reconnect(_)
            | Chaos::FastDisk(..)
            | Chaos::FreeDisk(..)
            | Chaos::Rush => 0,
        }
    }

    fn plan_next(&mut self, chaos: Chaos) {
        let interval = self.interval(&chaos);
        if interval > 0 {
            let stream = match chaos {
                Chaos::Split => &mut self.streams.splits,
                _ => &mut self.streams.crash,
            };
            let delay = stream.around(interval);
            self.after(delay, Happening::Chaos(chaos));
        }
    }

    /// A fault begins or ends.
    pub(super) fn on_chaos(&mut self, chaos: Chaos) -> Verdict {
        // Nothing breaks any more, but a node that did not learn yet what it is to the cluster asks again.
        if self.healed && !matches!(chaos, Chaos::Restart(_) | Chaos::Join(_)) {
            return Ok(());
        }
        match &chaos {
            Chaos::Crash => self.crash_some(),
            Chaos::Restart(node) => {
                if !self.nodes[*node].up {
                    self.start_node(*node)?;
                }
            }
            Chaos::Strike(node) => self.strike(*node),
            Chaos::Blackout => self.black_out(),
            Chaos::Partition => self.partition(),
            Chaos::Reconnect(ways) => {
                for (from, to) in ways {
                    note!(self.now, self.nodes[*from].id, 0, "open", to = self.nodes[*to].id);
                    self.network.cut(*from, *to, false);
                }
            }
            Chaos::SlowDisk => self.slow_disk(),
            Chaos::FastDisk(node, core) => self.nodes[*node].cores[*core].disk.set_slow(1),
            Chaos::FullDisk => {
                let (node, core) = self.some_core();
                note!(self.now, self.nodes[node].id, u32::try_from(core).expect("few"), "full disk");
                self.nodes[node].cores[core].disk.set_full(true);
                self.ends_after(3_000 * MS, Chaos::FreeDisk(node, core));
            }
            Chaos::FreeDisk(node, core) => self.nodes[*node].cores[*core].disk.set_full(false),
            Chaos::Jump => {
                let node = self.streams.clock.index(self.nodes.len());
                let max = self.setup.plan.time.skew_ms.max(1_000);
                let by = self.nodes[node].clock.jump(&mut self.streams.clock, max);
                note!(self.now, self.nodes[node].id, 0, "clock set", by_ms = by.unsigned_abs());
            }
            Chaos::Pause => self.pause(),
            Chaos::Flush => self.flush_some(),
            Chaos::Members => self.change_members(),
            Chaos::Operator => self.operate_somehow(),
            Chaos::Split => self.split_some_shard(),
            Chaos::Join(node) => return self.join(*node),
            Chaos::Transfer => {
                let node = self.streams.members.coin().then(|| self.some_node_id());
                self.admin(AdminOp::TransferLeader { node });
            }
            Chaos::Maintain => {
                let op = if self.streams.members.coin() { AdminOp::TakeSnapshot } else { AdminOp::Compact };
                self.admin(op);
            }
            Chaos::Lull => {
                self.workload.rest(true);
                self.ends_after(4_000 * MS, Chaos::Rush);
            }
            Chaos::Rush => self.rush(),
        }
        self.plan_next(chaos);
        Ok(())
    }

    fn slow_disk(&mut self) {
        let (node, core) = self.some_core();
        let factor = self.streams.crash.between(2, self.setup.plan.disk.slow_factor.max(2));
        note!(self.now, self.nodes[node].id, u32::try_from(core).expect("few"), "slow disk", by = factor);
        self.nodes[node].cores[core].disk.set_slow(factor);
        self.ends_after(2_000 * MS, Chaos::FastDisk(node, core));
    }

    fn ends_after(&mut self, mean: u64, end: Chaos) {
        let delay = self.streams.crash.around(mean);
        self.after(delay, Happening::Chaos(end));
    }

    /// A node, the one that leads some shard more often than not: there is most to break.
    fn some_node(&mut self) -> usize {
        let shard = u32::try_from(self.streams.crash.below(u64::from(self.oracle.shards())));
        let leader = self.leader_of(shard.expect("few shards"));
        let any = self.streams.crash.index(self.nodes.len());
        leader.filter(|_| self.streams.crash.chance(600_000)).unwrap_or(any)
    }

    fn some_core(&mut self) -> (usize, usize) {
        let node = self.some_node();
        (node, self.streams.crash.index(self.nodes[node].cores.len()))
    }

    fn some_node_id(&mut self) -> u64 {
        let node = self.streams.members.index(self.nodes.len());
        self.nodes[node].id
    }

    fn crash_some(&mut self) {
        let all = self.streams.crash.chance(self.setup.plan.crashes.all);
        let one = self.some_node();
        for node in 0..self.nodes.len() {
            if self.nodes[node].up && (all || node == one) {
                let may_harm = node == one && self.may_lose(node);
                self.crash(node);
                if may_harm {
                    self.harm(node);
                }
                self.ends_after(self.setup.plan.crashes.down, Chaos::Restart(node));
            }
        }
    }

    /// A node has just been elected: that is when little of what it writes is anywhere else.
    pub(super) fn on_elected(&mut self, node: usize) {
        if !self.healed && self.streams.crash.chance(self.setup.plan.crashes.elected) {
            let delay = self.streams.crash.below(30 * MS);
            self.after(delay, Happening::Chaos(Chaos::Strike(node)));
        }
    }

    /// A change of members was committed, and few know it yet.
    pub(super) fn on_conf_change(&mut self) {
        if !self.healed && self.streams.crash.chance(self.setup.plan.crashes.elected / 3) {
            let delay = self.streams.crash.below(20 * MS);
            self.after(delay, Happening::Chaos(Chaos::Blackout));
        }
    }

    fn black_out(&mut self) {
        for node in 0..self.nodes.len() {
            if self.nodes[node].up {
                self.crash(node);
                self.ends_after(self.setup.plan.crashes.down, Chaos::Restart(node));
            }
        }
    }

    fn strike(&mut self, node: usize) {
        if self.nodes[node].up && self.streams.crash.coin() {
            self.crash(node);
            self.ends_after(self.setup.plan.crashes.down, Chaos::Restart(node));
            return;
        }
        let others = (0..self.nodes.len()).filter(|other| *other != node);
        let mut ways: Vec<_> = others.clone().map(|to| (node, to)).collect();
        if self.streams.crash.coin() {
            ways.extend(others.map(|from| (from, node)));
        }
        note!(self.now, self.nodes[node].id, 0, "not heard");
        for (from, to) in &ways {
            self.network.cut(*from, *to, true);
        }
        self.ends_after(self.setup.plan.network.partition_length, Chaos::Reconnect(ways));
    }

    /// Ends a node's process, with all that was not on its disks.
    pub(super) fn crash(&mut self, node: usize) {
        note!(self.now, self.nodes[node].id, 0, "crash");
        self.counts.crashes += 1;
        self.nodes[node].crash(&mut self.streams.disk);
        self.oracle.forget(self.nodes[node].id);
    }

    fn partition(&mut self) {
        self.counts.partitions += 1;
        let one = self.some_node();
        let rng = &mut self.streams.crash;
        let nodes = self.nodes.len();
        // Each side of the cut: one node alone, or any two groups, or one link.
        let mut side = vec![false; nodes];
        match rng.below(4) {
            0 | 1 => side[one] = true,
            2 => side.iter_mut().for_each(|on| *on = rng.coin()),
            _ => {}
        }
        let link = (one, rng.index(nodes));
        let is_link = side.iter().all(|on| !on);
        let one_way = self.setup.plan.network.one_way && rng.coin();
        let mut ways = Vec::new();
        for from in 0..nodes {
            for to in 0..nodes {
                let severed = match (is_link, one_way) {
                    (true, true) => (from, to) == link,
                    (true, false) => (from, to) == link || (to, from) == link,
                    (false, true) => side[from] && !side[to],
                    (false, false) => side[from] != side[to],
                };
                if severed && from != to {
                    ways.push((from, to));
                }
            }
        }
        for (from, to) in &ways {
            note!(self.now, self.nodes[*from].id, 0, "cut", to = self.nodes[*to].id);
            self.network.cut(*from, *to, true);
        }
        self.ends_after(self.setup.plan.network.partition_length, Chaos::Reconnect(ways));
    }

    fn pause(&mut self) {
        let (node, core) = self.some_core();
        let length = self.streams.crash.around(self.setup.plan.time.pause_length);
        let whole = self.streams.crash.coin();
        for (at, slot) in self.nodes[node].cores.iter_mut().enumerate() {
            if whole || at == core {
                slot.paused_until = self.now + length;
            }
        }
        note!(self.now, self.nodes[node].id, 0, "pause", ms = length / MS);
    }

    fn flush_some(&mut self) {
        use crate::store::StorageEngine;
        for slot in self.nodes.iter().filter(|node| node.up).flat_map(|node| &node.cores) {
            for engine in slot.engines.values() {
                if self.streams.store.coin() {
                    engine.flush().expect("a simulated engine always can");
                }
            }
        }
    }

    fn rush(&mut self) {
        self.workload.rest(false);
        self.begin_workload();
    }

    /// Asks the leader of some shard for something.
    fn admin(&mut self, op: AdminOp) {
        let shards = u64::from(self.oracle.shards());
        let shard = u32::try_from(self.streams.members.below(shards)).expect("few shards");
        let leader = self.leader_of(shard);
        let node = leader.unwrap_or_else(|| self.streams.members.index(self.nodes.len()));
        let refrains = matches!(op, AdminOp::RemoveReplica { node } if !self.may_remove(shard, node));
        if !self.nodes[node].up || refrains {
            return;
        }
        let core = core_of(shard, self.setup.plan.cores);
        note!(self.now, self.nodes[node].id, core, "admin", shard = shard, op = op_number(op));
        let request = Request { id: RequestId(u64::MAX), shard, epoch: 1, namespace: 0, op: Op::Admin(op) };
        let place = self.place(node, usize::try_from(core).expect("few cores"));
        self.push(place, Event::Request { origin: Origin { core, connection: ADMIN }, request });
    }

    fn change_members(&mut self) {
        let node = self.some_node_id();
        let op = match self.streams.members.coin() {
            true => AdminOp::AddReplica { node },
            false => AdminOp::RemoveReplica { node },
        };
        self.counts.member_changes += 1;
        self.admin(op);
    }

    /// The node that leads a shard, by its own account.
    pub(super) fn leader_of(&self, shard: u32) -> Option<usize> {
        let core = usize::try_from(core_of(shard, self.setup.plan.cores)).expect("few cores");
        (0..self.nodes.len()).find(|node| {
            let running = self.nodes[*node].cores[core].running.as_ref();
            let replica = running.and_then(|running| running.replica(shard));
            replica.is_some_and(|replica| replica.raft.role() == Role::Leader)
        })
    }
}

fn op_number(op: AdminOp) -> u64 {
    match op {
        AdminOp::AddReplica { node } => 100 + node,
        AdminOp::RemoveReplica { node } => 200 + node,
        AdminOp::TransferLeader { node } => 300 + node.unwrap_or(0),
        AdminOp::TakeSnapshot => 400,
        AdminOp::Compact => 500,
        AdminOp::Describe => 600,
    }
}
