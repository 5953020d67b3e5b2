//! Moves replicas from nodes above their bounds to nodes below, as few as possible.
//!
//! Most moves are direct, the shards chosen by how near the receiver lies on the ring. Where no replica of a full
//! node may go to one with room (it may hold a replica of the same shards already, or lie in the wrong zone),
//! a chain of moves over other nodes does: the shortest, found breadth first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::ring::{Ring, Stop};
use super::{Layout, Node};

/// Says of a node with this load whether it gives, or takes.
type Side = fn(&Node, usize) -> bool;

const ABOVE: Side = |node, load| load > node.bounds.high;
const BELOW: Side = |node, load| load < node.bounds.low;
const CAN_GIVE: Side = |node, load| load > node.bounds.low;
const CAN_TAKE: Side = |node, load| load < node.bounds.high;

/// How many receivers that do not fit are tried for one replica before it waits for a chain.
const TRIES_MAX: usize = 64;

impl Layout {
    /// Brings each node between its bounds, as far as zones and pins allow. The number of moves is the larger of what
    /// is too much on some nodes and what lacks on others, but where chains are needed.
    pub(super) fn balance(&mut self) {
        self.shift(ABOVE, BELOW);
        self.shift(ABOVE, CAN_TAKE);
        self.chain(ABOVE, CAN_TAKE);
        self.shift(CAN_GIVE, BELOW);
        self.chain(CAN_GIVE, BELOW);
    }

    fn is(&self, side: Side, node: usize) -> bool {
        side(&self.nodes[node], self.loads[node])
    }

    fn any(&self, side: Side) -> bool {
        (0..self.nodes.len()).any(|node| self.is(side, node))
    }

    /// Moves replicas straight from givers to takers, nearest on the ring first.
    fn shift(&mut self, gives: Side, takes: Side) {
        if !self.any(gives) || !self.any(takes) {
            return;
        }
        let mut ring = self.ring.only(|node| self.is(takes, node));
        let mut offers = Vec::new();
        for shard in 0..self.shards.len() {
            for from in self.givers_of(shard, gives) {
                let stop = self.receiver(shard, from, takes, &mut ring, None);
                offers.extend(stop.map(|stop| Reverse((stop, shard, from))));
            }
        }
        let mut offers = BinaryHeap::from(offers);
        while let Some(Reverse((stop, shard, from))) = offers.pop() {
            if !self.is(gives, from) || !self.shards[shard].nodes.contains(&from) {
                continue;
            }
            if self.is(takes, stop.node) && self.may_move(shard, from, stop.node) {
                self.relocate(shard, from, stop.node);
                continue;
            }
            let next = self.receiver(shard, from, takes, &mut ring, Some(stop));
            offers.extend(next.map(|stop| Reverse((stop, shard, from))));
        }
    }

    fn givers_of(&self, shard: usize, gives: Side) -> Vec<usize> {
        self.shards[shard].movable().iter().copied().filter(|node| self.is(gives, *node)).collect()
    }

    /// The next taker clockwise that may have the replica.
    fn receiver(
        &self,
        shard: usize,
        from: usize,
        takes: Side,
        ring: &mut Ring,
        after: Option<Stop>,
    ) -> Option<Stop> {
        let is_open = |node: usize| self.is(takes, node);
        let hash = self.shards[shard].hash;
        let mut stop = match after {
            None => ring.begin(hash, &is_open)?,
            Some(stop) => ring.advance(hash, stop, &is_open)?,
        };
        for _ in 0..TRIES_MAX {
            if self.may_move(shard, from, stop.node) {
                return Some(stop);
            }
            stop = ring.advance(hash, stop, &is_open)?;
        }
        None
    }

    /// Moves replicas along chains of nodes from givers to takers, until there is no such chain.
    fn chain(&mut self, gives: Side, takes: Side) {
        if !self.any(gives) || !self.any(takes) {
            return;
        }
        let mut held: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (place, shard) in self.shards.iter().enumerate() {
            shard.movable().iter().for_each(|node| held[*node].push(place));
        }
        while let Some(moves) = Search::new(self, gives).run(self, takes, &held) {
            for Move { shard, from, to } in moves {
                self.relocate(shard, from, to);
                held[from].retain(|other| *other != shard);
                held[to].push(shard);
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Move {
    shard: usize,
    from: usize,
    to: usize,
}

/// A breadth-first search for a chain of moves.
struct Search {
    queue: VecDeque<usize>,
    /// For each node that was reached from another: the move that would bring a replica to it.
    reached_by: Vec<Option<Move>>,
    /// The nodes not reached yet, by zone; zones that have none are left out.
    unseen: Vec<(usize, Vec<usize>)>,
}

impl Search {
    fn new(layout: &Layout, gives: Side) -> Search {
        let mut unseen: Vec<(usize, Vec<usize>)> =
            (0..layout.zone_sizes.len()).map(|zone| (zone, Vec::new())).collect();
        let mut queue = VecDeque::new();
        for (place, node) in layout.nodes.iter().enumerate() {
            if layout.is(gives, place) {
                queue.push_back(place);
            } else {
                unseen[node.zone].1.push(place);
            }
        }
        unseen.retain(|(_, nodes)| !nodes.is_empty());
        Search { queue, reached_by: vec![None; layout.nodes.len()], unseen }
    }

    /// The moves of the shortest chain to a taker, each valid by itself since no shard is in it twice.
    fn run(mut self, layout: &Layout, takes: Side, held: &[Vec<usize>]) -> Option<Vec<Move>> {
        while let Some(from) = self.queue.pop_front() {
            for shard in held[from].iter().copied() {
                if self.chain_to(from).iter().any(|step| step.shard == shard) {
                    continue;
                }
                if let Some(taker) = self.visit(layout, takes, shard, from) {
                    return Some(self.chain_to(taker));
                }
            }
        }
        None
    }

    /// Reaches all nodes that may have this replica; returns a taker among them.
    fn visit(&mut self, layout: &Layout, takes: Side, shard: usize, from: usize) -> Option<usize> {
        let own = layout.nodes[from].zone;
        let crowd = layout.count_in_zone(shard, own);
        let mut taker = None;
        for (zone, nodes) in &mut self.unseen {
            if *zone != own && layout.count_in_zone(shard, *zone) >= crowd {
                continue;
            }
            nodes.retain(|to| {
                let stays = layout.shards[shard].nodes.contains(to);
                if !stays {
                    self.reached_by[*to] = Some(Move { shard, from, to: *to });
                    self.queue.push_back(*to);
                    if layout.is(takes, *to) {
                        taker = taker.or(Some(*to));
                    }
                }
                stays
            });
        }
        self.unseen.retain(|(_, nodes)| !nodes.is_empty());
        taker
    }

    fn chain_to(&self, node: usize) -> Vec<Move> {
        let step = |node: usize| self.reached_by[node];
        std::iter::successors(step(node), |last| step(last.from)).collect()
    }
}
