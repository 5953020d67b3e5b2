//! The network between nodes: delays, losses, doubles, late ones, and cuts in one or both directions.

use net::peer::GroupMessage;

use super::plan::Network as Plan;
use super::rng::Rng;

/// Which ways are cut, and the network's own luck.
pub struct Network {
    plan: Plan,
    rng: Rng,
    /// Cuts in force by way; several may overlap.
    cuts: Vec<u32>,
    /// When the last message of each way arrives: connections keep their order.
    last: Vec<u64>,
    nodes: usize,
    cores: usize,
}

/// What becomes of a frame.
pub enum Fate {
    /// It arrives at these times.
    Arrives(Vec<u64>),
    /// It is lost; whether the sender hears of it.
    Lost { reported: bool },
}

impl Network {
    /// Between `nodes` nodes of `cores` cores each.
    pub fn new(plan: Plan, rng: Rng, nodes: usize, cores: usize) -> Network {
        let ways = nodes * nodes;
        Network { plan, rng, cuts: vec![0; ways], last: vec![0; ways * cores * cores], nodes, cores }
    }

    fn way(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }

    /// Whether nothing gets from one node to another.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[self.way(from, to)] > 0
    }

    /// Cuts a way, or removes one of its cuts.
    pub fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        let way = self.way(from, to);
        self.cuts[way] = if is_cut { self.cuts[way] + 1 } else { self.cuts[way].saturating_sub(1) };
    }

    /// Everything works from now on.
    pub fn heal(&mut self) {
        self.cuts.fill(0);
        (self.plan.loss, self.plan.duplicate, self.plan.late) = (0, 0, 0);
    }

    /// What becomes of a frame from a node's core to another's.
    pub fn fate(&mut self, from: (usize, usize), to: (usize, usize), now: u64) -> Fate {
        if self.is_cut(from.0, to.0) || self.rng.chance(self.plan.loss) {
            return Fate::Lost { reported: self.plan.reports_loss && self.rng.chance(200_000) };
        }
        let (fastest, slowest) = self.plan.delay;
        let mut at = now + self.rng.between(fastest, slowest);
        let link = (self.way(from.0, to.0) * self.cores + from.1) * self.cores + to.1;
        if self.rng.chance(self.plan.late) {
            at += self.rng.below(self.plan.late_max.max(1));
        } else {
            at = at.max(self.last[link]);
            self.last[link] = at;
        }
        let mut arrivals = vec![at];
        if self.rng.chance(self.plan.duplicate) {
            arrivals.push(at + self.rng.below(self.plan.late_max.max(1)));
        }
        Fate::Arrives(arrivals)
    }

    /// Time for a frame between a client and a node; `None` when it is lost.
    pub fn client_delay(&mut self) -> Option<u64> {
        let (fastest, slowest) = self.plan.delay;
        let delay = self.rng.between(fastest, slowest);
        let late =
            if self.rng.chance(self.plan.late) { self.rng.below(self.plan.late_max.max(1)) } else { 0 };
        (!self.rng.chance(self.plan.loss)).then_some(delay + late)
    }

    /// The messages as they come out at the other end of the wire.
    pub fn carry(&mut self, messages: Vec<GroupMessage>) -> Vec<GroupMessage> {
        if self.plan.encode { super::perform::through_the_codec(messages) } else { messages }
    }
}
