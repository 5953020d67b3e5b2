//! Ranks the replicas of each shard: who should lead it, who should be next.
//!
//! Each shard chooses one of its replicas, so that the sum over the nodes of `chosen^2 / weight` is least; with equal
//! weights no two nodes differ by more than one, where the placement allows. A choice changes only when that makes the
//! sum less. The next in rank are chosen in the same way among the shards of each leader: if it is lost, all who
//! share shards with it inherit equally.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::Layout;

impl Layout {
    /// Puts the leader of each shard first and its heir second; the others stay in their order.
    pub(super) fn spread_leaders(&mut self) {
        let weights: Vec<u64> = self.nodes.iter().map(|node| u64::from(node.weight)).collect();
        let all: Vec<usize> =
            (0..self.shards.len()).filter(|shard| !self.shards[*shard].nodes.is_empty()).collect();
        let present = all.iter().map(|shard| self.shards[*shard].leader).collect();
        self.rank(0, &all, present, &weights, true);
        let mut led: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for shard in all {
            let nodes = &self.shards[shard].nodes;
            if nodes.len() > 2 {
                led[nodes[0]].push(shard);
            }
        }
        for shards in led {
            let present = shards.iter().map(|shard| Some(self.shards[*shard].nodes[1])).collect();
            self.rank(1, &shards, present, &weights, false);
        }
    }

    /// Chooses, for each of the shards, who has this rank among those who have no better one.
    fn rank(
        &mut self,
        rank: usize,
        shards: &[usize],
        present: Vec<Option<usize>>,
        weights: &[u64],
        chains: bool,
    ) {
        let choices = shards.iter().map(|shard| &self.shards[*shard].nodes[rank..]).collect();
        let mut spread = Spread::new(choices, present, weights);
        spread.improve_directly();
        if chains {
            spread.improve_by_chains();
        }
        for (shard, node) in shards.iter().zip(spread.chosen) {
            let nodes = &mut self.shards[*shard].nodes;
            let place = nodes.iter().position(|other| *other == node).expect("one of the replicas");
            nodes[rank..=place].rotate_right(1);
        }
    }
}

/// A choice among some nodes for each of some shards (both known by their places).
struct Spread<'a> {
    choices: Vec<&'a [usize]>,
    chosen: Vec<usize>,
    /// How often each node is chosen: always what `chosen` says.
    counts: Vec<u64>,
    weights: &'a [u64],
}

impl<'a> Spread<'a> {
    fn new(choices: Vec<&'a [usize]>, present: Vec<Option<usize>>, weights: &'a [u64]) -> Spread<'a> {
        let mut counts = vec![0; weights.len()];
        present.iter().flatten().for_each(|node| counts[*node] += 1);
        let mut spread = Spread { choices, chosen: Vec::new(), counts, weights };
        for (shard, present) in present.into_iter().enumerate() {
            let node = present.unwrap_or_else(|| {
                let node = spread.least_chosen(shard);
                spread.counts[node] += 1;
                node
            });
            spread.chosen.push(node);
        }
        spread
    }

    /// What one choice more would add to the sum: `(n + 1)^2 - n^2`, by weight.
    fn cost_to_take(&self, node: usize) -> Ratio {
        Ratio { part: 2 * self.counts[node] + 1, weight: self.weights[node] }
    }

    /// What one choice less would take from the sum: `n^2 - (n - 1)^2`, by weight.
    fn gain_to_give(&self, node: usize) -> Ratio {
        Ratio { part: (2 * self.counts[node]).saturating_sub(1), weight: self.weights[node] }
    }

    fn least_chosen(&self, shard: usize) -> usize {
        let mut best = self.choices[shard][0];
        for node in &self.choices[shard][1..] {
            if self.cost_to_take(*node) < self.cost_to_take(best) {
                best = *node;
            }
        }
        best
    }

    fn improves(&self, from: usize, to: usize) -> bool {
        self.gain_to_give(from) > self.cost_to_take(to)
    }

    fn change(&mut self, shard: usize, to: usize) {
        self.counts[self.chosen[shard]] -= 1;
        self.counts[to] += 1;
        self.chosen[shard] = to;
    }

    /// Changes single choices while any change improves the sum.
    fn improve_directly(&mut self) {
        let mut changed = true;
        while changed {
            changed = false;
            for shard in 0..self.chosen.len() {
                let to = self.least_chosen(shard);
                if self.improves(self.chosen[shard], to) {
                    self.change(shard, to);
                    changed = true;
                }
            }
        }
    }

    /// Changes chains of choices (one node gives a shard to a second, that another to a third) while any improves the
    /// sum.
    ///
    /// The dearest giver goes first. When no chain from it helps, none helps any node that it reaches: those would
    /// gain less, and reach no more. So these are never looked at again, and all futile searches together cost no
    /// more than one look at every choice.
    fn improve_by_chains(&mut self) {
        let mut chosen_by: Vec<Vec<usize>> = vec![Vec::new(); self.counts.len()];
        for (shard, node) in self.chosen.iter().enumerate() {
            chosen_by[*node].push(shard);
        }
        let mut settled = vec![false; self.counts.len()];
        let giver = |spread: &Self, node: usize| (spread.gain_to_give(node), Reverse(node));
        let mut givers: BinaryHeap<_> = (0..self.counts.len()).map(|node| giver(self, node)).collect();
        while let Some((gain, Reverse(from))) = givers.pop() {
            // A node is entered anew whenever its gain changes.
            if settled[from] || gain != self.gain_to_give(from) {
                continue;
            }
            if !(0..self.counts.len()).any(|node| !settled[node] && self.improves(from, node)) {
                break;
            }
            match self.find_chain(from, &chosen_by, &settled) {
                Ok(chain) => {
                    let to = chain[0].1;
                    for (shard, to) in chain {
                        chosen_by[self.chosen[shard]].retain(|other| *other != shard);
                        chosen_by[to].push(shard);
                        self.change(shard, to);
                    }
                    givers.extend([giver(self, from), giver(self, to)]);
                }
                Err(reached) => reached.into_iter().for_each(|node| settled[node] = true),
            }
        }
    }

    /// The shortest chain of changes from a node to one that should have more, last change first; or all nodes that
    /// chains from it reach.
    fn find_chain(
        &self,
        from: usize,
        chosen_by: &[Vec<usize>],
        settled: &[bool],
    ) -> Result<Vec<(usize, usize)>, Vec<usize>> {
        // The shard that would go to each node.
        let mut reached_by: Vec<Option<usize>> = vec![None; self.counts.len()];
        let mut reached = vec![from];
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for shard in chosen_by[node].iter().copied() {
                for to in self.choices[shard].iter().copied() {
                    if to == from || settled[to] || reached_by[to].is_some() {
                        continue;
                    }
                    reached_by[to] = Some(shard);
                    if self.improves(from, to) {
                        return Ok(self.chain_to(to, &reached_by));
                    }
                    reached.push(to);
                    queue.push_back(to);
                }
            }
        }
        Err(reached)
    }

    fn chain_to(&self, mut node: usize, reached_by: &[Option<usize>]) -> Vec<(usize, usize)> {
        let mut chain = Vec::new();
        while let Some(shard) = reached_by[node] {
            chain.push((shard, node));
            node = self.chosen[shard];
        }
        chain
    }
}

/// `part / weight`, compared exactly.
#[derive(Clone, Copy)]
struct Ratio {
    part: u64,
    weight: u64,
}

impl Ord for Ratio {
    fn cmp(&self, other: &Ratio) -> Ordering {
        let scaled = |part: u64, weight: u64| u128::from(part) * u128::from(weight);
        scaled(self.part, other.weight).cmp(&scaled(other.part, self.weight))
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Ratio) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Ratio) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ratio {}
