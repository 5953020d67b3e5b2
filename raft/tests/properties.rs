//! Random groups under random faults: every safety property holds at every step, and once the faults end the group
//! heals, elects a leader and agrees.
//!
//! A failing case prints its seed; `RINGKV_RAFT_SEED=<seed>` runs that one alone, and `RINGKV_RAFT_CASES` sets how many run.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::testing::Cluster;
use raft::{ConfState, Config, Index, LogStorage, Nanos, NodeId};

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
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
    /// The length of one tick of each node, in per mille of the configured one.
    clock_rates: Vec<u64>,
}

impl Faults {
    fn draw(rng: &mut Rng, nodes: usize) -> Faults {
        let mut severity = |max: u64| if rng.chance(50) { rng.next() % max } else { 0 };
        Faults {
            loss: severity(30),
            copy: severity(20),
            reorder: severity(50),
            cut: severity(4),
            crash: severity(3),
            slow_disk: severity(90),
            clock_rates: (0..nodes).map(|_| 980 + rng.next() % 41).collect(),
        }
    }
}

struct Case {
    rng: Rng,
    cluster: Cluster,
    faults: Faults,
    context: u64,
    proposed: u64,
}

impl Case {
    fn new(seed: u64) -> Case {
        let mut rng = Rng(seed);
        let count = 3 + rng.below(3);
        let (pre_vote, check_quorum) = (rng.chance(70), rng.chance(70));
        let lease = check_quorum && rng.chance(70);
        let configs: Vec<Config> = (1..=u64::try_from(count).unwrap())
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
        let mut ids: Vec<NodeId> = configs.iter().map(|config| config.id).collect();
        let learners = if count > 3 && rng.chance(30) { ids.split_off(count - 1) } else { Vec::new() };
        let voters_outgoing = if rng.chance(20) { ids[..2].to_vec() } else { Vec::new() };
        let conf = ConfState { voters: ids, learners, voters_outgoing };
        let faults = Faults::draw(&mut rng, count);
        let cluster = Cluster::new(configs, conf, BTreeMap::new(), seed);
        Case { rng, cluster, faults, context: 0, proposed: 0 }
    }

    fn any(&mut self) -> NodeId {
        let ids = self.cluster.ids();
        ids[self.rng.below(ids.len())]
    }

    fn step(&mut self) {
        let id = self.any();
        match self.rng.below(20) {
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
            self.cluster.crash(id, kept);
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
        if !self.rng.chance(self.faults.loss) {
            self.cluster.deliver(message).expect("no correct node sends what another refuses");
        }
    }

    /// The faults end: the group must elect a leader, commit a command everywhere and answer reads everywhere.
    fn heal(&mut self) {
        self.cluster.cut.clear();
        for id in self.cluster.ids() {
            if !self.cluster.is_up(id) {
                self.cluster.start(id);
            }
        }
        self.cluster.settle();
        // Elections are a matter of chance: twenty timeouts suffice with many voters, short of a fault of the protocol.
        for _ in 0..20 {
            self.cluster.tick_all(20);
            if self.cluster.leader().is_some() {
                break;
            }
        }
        let Some(leader) = self.cluster.leader() else {
            let ids = self.cluster.ids();
            let states: Vec<_> = ids.iter().map(|id| self.cluster.node(*id).status()).collect();
            panic!("no leader after the faults have ended: {states:#?}");
        };
        self.cluster.propose(leader, Bytes::from_static(b"the last command")).expect("room for a command");
        self.cluster.settle();
        self.cluster.tick_all(10);
        let (last, log) = (self.cluster.node(leader).last_index(), self.cluster.log(leader));
        for id in self.cluster.ids() {
            assert_eq!(self.cluster.node(id).applied(), last, "node {id} has applied everything");
            assert_eq!(self.cluster.log(id), log, "node {id} has the leader's log");
            self.context += 1;
            self.cluster.read(id, self.context).expect("a leader is known");
        }
        let served = self.cluster.checkers.reads.served();
        self.cluster.settle();
        let pending: usize =
            self.cluster.ids().iter().map(|id| self.cluster.node(*id).status().pending_reads).sum();
        assert_eq!(pending, 0, "every read is answered");
        assert!(self.cluster.checkers.reads.served() >= served);
        self.cluster.verify_leader(leader);
    }
}

fn run(seed: u64, steps: usize) -> Case {
    let mut case = Case::new(seed);
    for _ in 0..steps {
        case.step();
    }
    case.heal();
    case
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn safety_holds_under_faults_and_the_group_heals() {
    let cases = setting("RINGKV_RAFT_CASES").unwrap_or(300);
    let first = setting("RINGKV_RAFT_SEED");
    let (mut led, mut served, mut committed) = (0, 0, 0);
    let seeds = first.map_or(0..cases, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let case = run(seed, 12_000);
            let checkers = &case.cluster.checkers;
            (checkers.elections.terms_led(), checkers.reads.served(), checkers.leaders.last_committed())
        });
        let (terms, reads, last) = outcome.unwrap_or_else(|_| panic!("seed {seed} failed"));
        led += terms;
        served += reads;
        committed += last.distance_from(Index::ZERO);
    }
    // The cases are worth something only if things happen in them.
    if first.is_none() {
        assert!(led > 2 * usize::try_from(cases).unwrap(), "elections: {led}");
        assert!(served > 5 * cases, "reads: {served}");
        assert!(committed > 20 * cases, "commits: {committed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let case = run(seed, 2000);
        let ids = case.cluster.ids();
        let logs: Vec<_> = ids.iter().map(|id| case.cluster.log(*id)).collect();
        let ends: Vec<_> = ids.iter().map(|id| case.cluster.node(*id).storage().last_index()).collect();
        (logs, ends, ids.iter().map(|id| case.cluster.node(*id).status()).collect::<Vec<_>>())
    };
    for seed in 0..10 {
        assert_eq!(history(seed), history(seed));
    }
}
