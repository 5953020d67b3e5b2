//! One random group in one random world.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::testing::{Cluster, describe_conf_state};
use raft::{ConfChange, ConfChangeStep, ConfState, Config, Index, LogStorage, MessageBody, Nanos, NodeId};

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// How bad the world of one case is.
struct Faults {
    loss: u64,
    copy: u64,
    reorder: u64,
    cut: u64,
    crash: u64,
    slow_disk: u64,
    /// How often the membership changes.
    churn: u64,
    /// How often logs are compacted.
    compact: u64,
    /// How often an idle group is sent to sleep.
    sleep: u64,
    /// The length of one tick of each node, in per mille of the configured one.
    clock_rates: Vec<u64>,
}

impl Faults {
    fn draw(rng: &mut Rng, nodes: usize) -> Faults {
        let mut severity = |max: u64| if rng.chance(50) { rng.next() % max } else { 0 };
        Faults {
            loss: severity(30),
            copy: severity(20),
            reorder: severity(60),
            cut: severity(3),
            crash: severity(3),
            slow_disk: severity(90),
            churn: severity(60) + severity(60),
            compact: severity(60),
            sleep: severity(40),
            clock_rates: (0..nodes).map(|_| 980 + rng.next() % 41).collect(),
        }
    }
}

/// Nodes that can be added to a group: an identity that was removed never comes back.
const SPARES: usize = 5;
const VOTERS_MAX: usize = 5;

pub struct Case {
    rng: Rng,
    pub cluster: Cluster,
    faults: Faults,
    context: u64,
    proposed: u64,
    /// How often each rare thing happened.
    pub snapshots: u64,
    pub slept: u64,
}

impl Case {
    pub fn new(seed: u64) -> Case {
        let mut rng = Rng(seed);
        let count = 3 + rng.below(3);
        let (pre_vote, check_quorum) = (rng.chance(70), rng.chance(70));
        let lease = check_quorum && rng.chance(70);
        let configs: Vec<Config> = (1..=u64::try_from(count + SPARES).unwrap())
            .map(|id| Config {
                pre_vote,
                check_quorum,
                lease,
                append_bytes_max: 100 + rng.next() % 400,
                inflight_messages_max: 1 + rng.below(6),
                inflight_bytes_max: 100 + rng.next() % 2000,
                committed_bytes_max: 100 + rng.next() % 500,
                uncommitted_bytes_max: 5000,
                priority: u8::try_from(rng.next() % 256).unwrap(),
                ..Config::new(NodeId(id))
            })
            .collect();
        let mut ids: Vec<NodeId> = configs[..count].iter().map(|config| config.id).collect();
        let learners = if count > 3 && rng.chance(30) { ids.split_off(count - 1) } else { Vec::new() };
        let voters_outgoing = if rng.chance(20) { ids[..2].to_vec() } else { Vec::new() };
        let conf = ConfState { voters: ids, learners, voters_outgoing };
        let faults = Faults::draw(&mut rng, count + SPARES);
        let mut cluster = Cluster::new(configs, conf, BTreeMap::new(), seed);
        if rng.chance(50) {
            // A new node is told nothing, or who founded the group.
            cluster.fresh = ConfState::default();
        }
        Case { rng, cluster, faults, context: 0, proposed: 0, snapshots: 0, slept: 0 }
    }

    fn any(&mut self) -> NodeId {
        let ids = self.existing();
        ids[self.rng.below(ids.len())]
    }

    fn existing(&self) -> Vec<NodeId> {
        self.cluster.ids().into_iter().filter(|id| self.cluster.exists(*id)).collect()
    }

    pub fn step(&mut self) {
        let id = self.any();
        match self.rng.below(22) {
            20 => self.pass_snapshots(id),
            21 => self.reshape(id),
            0 if self.rng.chance(40) => self.pass_tick(),
            1..=4 if self.cluster.is_up(id) => {
                self.proposed += 1;
                let data = Bytes::from(format!("command {}", self.proposed));
                let _refused = self.cluster.propose(id, data);
            }
            5 if self.cluster.is_up(id) => {
                self.context += 1;
                let _refused = self.cluster.read(id, self.context);
            }
            6 if self.cluster.is_up(id) => self.nudge(id),
            7 => self.disturb(id),
            8..=13 => (0..3).for_each(|_| self.deliver()),
            14..=16 if !self.rng.chance(self.faults.slow_disk) => {
                self.cluster.flush(id);
            }
            _ => {
                self.cluster.drain(id);
            }
        }
    }

    /// One tick of time for all, by each node's own clock: they differ by less than the configured drift, or leases would
    /// rightly break.
    fn pass_tick(&mut self) {
        for (position, id) in self.cluster.ids().into_iter().enumerate() {
            let length = Nanos(Config::new(id).tick.0 / 1000 * self.faults.clock_rates[position]);
            if self.cluster.is_up(id) {
                self.cluster.tick_for(id, length);
            } else {
                self.cluster.pass(id, length);
            }
        }
        for id in self.existing() {
            if self.cluster.is_up(id) && self.rng.chance(5) && self.is_abandoned(id) {
                self.cluster.node_mut(id).wake();
            }
        }
    }

    /// Whether a node sleeps and its leader is gone: whoever runs it notices that in time.
    fn is_abandoned(&self, id: NodeId) -> bool {
        let leader = self.cluster.node(id).leader().filter(|leader| self.cluster.is_up(*leader));
        let reached = leader.is_some_and(|leader| {
            self.cluster.node(leader).is_leader() && !self.cluster.cut.contains(&(leader, id))
        });
        self.cluster.node(id).is_dormant() && !reached
    }

    /// Snapshots on their way.
    fn pass_snapshots(&mut self, id: NodeId) {
        if !self.cluster.is_up(id) {
            return;
        }
        for to in std::mem::take(&mut self.cluster.host_mut(id).snapshots_needed) {
            match self.rng.below(4) {
                0 => self.cluster.node_mut(id).report_snapshot(to, false),
                1 => {}
                _ => self.cluster.send_snapshot(id, to),
            }
        }
        if self.cluster.host(id).installing.is_some() && self.rng.chance(30) {
            self.snapshots += 1;
            let done = self.rng.chance(80);
            self.cluster.install(id, done);
        }
    }

    /// Compaction, sleep, and changes of the membership.
    fn reshape(&mut self, id: NodeId) {
        if !self.cluster.is_up(id) {
            return;
        }
        if self.rng.chance(self.faults.compact) {
            let applied = self.cluster.node(id).applied();
            let kept = self.rng.next() % 8;
            self.cluster.compact(id, Index(applied.0.saturating_sub(kept)));
        }
        if self.rng.chance(self.faults.sleep) && self.cluster.node_mut(id).hibernate() {
            self.slept += 1;
        }
        if self.rng.chance(20) {
            self.cluster.dismiss();
        }
        if self.rng.chance(self.faults.churn)
            && let Some(leader) = self.cluster.leader()
        {
            let change = self.draw_change(leader);
            let _refused = self.cluster.change(leader, &change);
        }
    }

    fn draw_change(&mut self, leader: NodeId) -> ConfChange {
        let state = self.cluster.node(leader).conf_state();
        let mut steps = Vec::new();
        let unused: Vec<NodeId> =
            self.cluster.ids().into_iter().filter(|id| self.cluster.host(*id).is_unused()).collect();
        let mut voters = state.voters.len();
        for _ in 0..1 + self.rng.below(3) {
            let new = (!unused.is_empty()).then(|| unused[self.rng.below(unused.len())]);
            let learner =
                (!state.learners.is_empty()).then(|| state.learners[self.rng.below(state.learners.len())]);
            let voter = state.voters[self.rng.below(state.voters.len())];
            let step = match (self.rng.below(6), new, learner) {
                (0, Some(new), _) => ConfChangeStep::AddLearner(new),
                (1, Some(new), _) if voters < VOTERS_MAX => ConfChangeStep::AddVoter(new),
                (2 | 3, _, Some(learner)) if voters < VOTERS_MAX => ConfChangeStep::AddVoter(learner),
                (4, _, Some(learner)) if self.rng.chance(30) => ConfChangeStep::Remove(learner),
                (5, ..) if voters > 1 => ConfChangeStep::Remove(voter),
                _ => continue,
            };
            match step {
                ConfChangeStep::AddVoter(_) => voters += 1,
                ConfChangeStep::Remove(node) if node == voter => voters -= 1,
                _ => {}
            }
            if steps.iter().all(|before: &ConfChangeStep| before.node() != step.node()) {
                steps.push(step);
            }
        }
        for step in &steps {
            if self.cluster.host(step.node()).is_unused() {
                self.cluster.start(step.node());
            }
        }
        ConfChange { steps }
    }

    /// Rare things that are asked of a node.
    fn nudge(&mut self, id: NodeId) {
        let other = self.any();
        match self.rng.below(8) {
            0 => self.cluster.campaign(id),
            1 | 2 => {
                let _refused = self.cluster.node_mut(id).transfer_leader(other);
            }
            3 => self.cluster.node_mut(id).report_unreachable(other),
            6 => self.cluster.node_mut(id).wake(),
            4 | 5 => {
                let evicted = self.cluster.node(id).applied();
                self.cluster.node_mut(id).storage_mut().evict_before(evicted);
            }
            _ => {}
        }
    }

    fn disturb(&mut self, id: NodeId) {
        if self.rng.chance(self.faults.crash * 10) && self.cluster.is_up(id) {
            let kept = self.rng.below(self.cluster.host(id).disk.under_way() + 1);
            let torn = self.rng.chance(50);
            self.cluster.crash(id, kept, torn);
        } else if !self.cluster.is_up(id) && self.rng.chance(10) {
            self.cluster.start(id);
        }
        if self.rng.chance(self.faults.cut * 5) {
            let other = self.any();
            let leader = self.cluster.leader().filter(|_| self.rng.chance(50));
            if self.rng.chance(50) {
                self.cluster.isolate(leader.unwrap_or(id));
            } else {
                self.cluster.cut.insert((id, other));
            }
        } else if self.rng.chance(2) {
            // A partition lasts some election timeouts, or nothing could come of it.
            self.cluster.cut.clear();
        }
        if self.rng.chance(self.faults.loss) && !self.cluster.wire.is_empty() {
            let lost = self.rng.below(self.cluster.wire.len());
            self.cluster.wire.remove(lost);
        }
    }

    fn deliver(&mut self) {
        if self.cluster.wire.is_empty() {
            return;
        }
        let late = self.rng.chance(self.faults.reorder);
        let position = if late { self.rng.below(self.cluster.wire.len()) } else { 0 };
        let message = self.cluster.wire.remove(position);
        if self.rng.chance(self.faults.copy) {
            self.cluster.wire.push(message.clone());
        }
        if matches!(message.body, MessageBody::Snapshot { .. }) && self.cluster.is_up(message.from) {
            let sent = self.rng.chance(80);
            self.cluster.node_mut(message.from).report_snapshot(message.to, sent);
        }
        if !self.rng.chance(self.faults.loss) {
            self.cluster.deliver(message).expect("no correct node sends what another refuses");
        }
    }

    /// The faults end: the group must elect a leader, commit a command everywhere and answer reads everywhere.
    pub fn heal(&mut self) {
        self.cluster.cut.clear();
        self.cluster.auto_snapshots = true;
        for id in self.existing() {
            if !self.cluster.is_up(id) {
                self.cluster.start(id);
            }
            self.cluster.node_mut(id).wake();
        }
        self.cluster.settle();
        let leader = self.await_leader();
        let data = Bytes::from_static(b"the last command");
        let (term, index) = self.cluster.propose(leader, data).expect("room for a command");
        self.cluster.settle();
        self.cluster.tick_all(10);
        let last = self.cluster.node(leader).last_index();
        assert!(last >= index && self.cluster.node(leader).term() == term, "the leader stays in office");
        let log = self.cluster.log(leader);
        let state = self.cluster.node(leader).conf_state();
        for id in state.voters.iter().chain(&state.learners).copied() {
            let node = self.cluster.node(id);
            assert_eq!(node.applied(), last, "node {id} has applied everything");
            assert_eq!(node.conf_state(), state, "node {id} knows the members");
            let first = node.storage().first_index().max(self.cluster.node(leader).storage().first_index());
            let held = self.cluster.log(id).into_iter().filter(|entry| entry.index >= first);
            assert!(
                held.eq(log.iter().filter(|entry| entry.index >= first).cloned()),
                "the logs of {id} and {leader}"
            );
            self.context += 1;
            self.cluster.read(id, self.context).expect("a leader is known");
        }
        self.cluster.settle();
        for id in self.existing() {
            assert_eq!(self.cluster.node(id).status().pending_reads, 0, "every read of {id} is answered");
        }
        self.cluster.verify_leader(leader);
    }

    /// Elections are a matter of chance: this long suffices with many voters, short of a fault of the protocol. Those who
    /// were removed and do not know it may call for some too, until they are told.
    fn await_leader(&mut self) -> NodeId {
        for _ in 0..600 {
            self.cluster.tick_all(1);
            self.cluster.dismiss();
            let Some(leader) = self.cluster.leader() else { continue };
            let node = self.cluster.node(leader);
            let state = node.conf_state();
            let members = state.voters.len() + state.learners.len();
            let rests = node.applied() == node.last_index() && state.voters_outgoing.is_empty();
            let stays = state.voters.contains(&leader) && node.status().transferring_to.is_none();
            let firm = stays && node.peers().all(|peer| peer.active);
            if rests && firm && self.existing().len() == members {
                return leader;
            }
        }
        panic!("no firm leader after the faults have ended:\n{}", self.describe());
    }

    fn describe(&self) -> String {
        let line = |id: &NodeId| {
            let status = self.cluster.node(*id).status();
            let (term, leader, vote) = (status.term, status.leader, status.vote);
            let (last, committed, applied) = (status.last_index, status.committed, status.applied);
            let members = describe_conf_state(&status.conf_state);
            let role = status.role;
            format!("{id}: {role:?} t{term} {leader:?} {vote:?} {last}/{committed}/{applied} {members}\n")
        };
        self.existing().iter().map(line).collect()
    }
}
