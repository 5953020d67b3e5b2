//! The hash ring: where shards and the virtual nodes lie, and walks along it past nodes that are full.

use super::Node;

/// Virtual nodes of a node of average weight. More make smoother preferences; the bounds make the balance.
const POINTS_PER_NODE: u64 = 64;
/// Virtual nodes of one node at most, however large its weight.
const POINTS_MAX: u64 = 4096;
/// How many nodes that do not fit a walk tries: where zones leave few nodes, looking at all of them is cheaper.
const TRIES_MAX: usize = 256;

/// The finalizer of splitmix64: fixed for ever, since where shards lie depends on it.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Where a shard lies on the ring.
pub(super) fn shard_hash(shard: u32) -> u64 {
    // Shards and nodes have small numbers alike: a constant keeps their sequences apart.
    mix(mix(u64::from(shard)) ^ 0x5ba3_91d6_0c4e_87f2)
}

#[derive(Clone, Copy)]
struct Point {
    hash: u64,
    node: usize,
}

/// The virtual nodes in the order of their hashes.
#[derive(Default)]
pub(super) struct Ring {
    points: Vec<Point>,
    /// For each point the next one, from itself on, that may be of an open node; the number of points at the end.
    /// Shortcuts past closed nodes, so that walks stay short when nearly all are full.
    next: Vec<usize>,
}

/// A place on a ring where a walk stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stop {
    /// Clockwise, from where the walk began.
    pub(super) distance: u64,
    pub(super) node: usize,
    point: usize,
}

impl Ring {
    pub(super) fn new(nodes: &[Node]) -> Ring {
        let weights: u64 = nodes.iter().map(|node| u64::from(node.weight)).sum();
        let count = u64::try_from(nodes.len()).expect("64-bit machine");
        let mut points = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            let number = POINTS_PER_NODE * count * u64::from(node.weight) / weights;
            let seed = mix(node.id);
            let hashes = (0..number.clamp(1, POINTS_MAX)).map(|point| mix(seed ^ mix(point)));
            points.extend(hashes.map(|hash| Point { hash, node: place }));
        }
        points.sort_unstable_by_key(|point| (point.hash, point.node));
        Ring::of(points)
    }

    fn of(points: Vec<Point>) -> Ring {
        let next = (0..=points.len()).collect();
        Ring { points, next }
    }

    /// The ring of some of the nodes.
    pub(super) fn only(&self, keep: impl Fn(usize) -> bool) -> Ring {
        Ring::of(self.points.iter().filter(|point| keep(point.node)).copied().collect())
    }

    /// Forgets which nodes were closed.
    pub(super) fn reopen(&mut self) {
        self.next = (0..=self.points.len()).collect();
    }

    /// The first node clockwise from `hash` that is open and fits. A node once closed must stay closed until
    /// [`Ring::reopen`]; none when there is no such node nearby.
    pub(super) fn walk(
        &mut self,
        hash: u64,
        is_open: impl Fn(usize) -> bool,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut stop = self.begin(hash, &is_open)?;
        for _ in 0..TRIES_MAX {
            if fits(stop.node) {
                return Some(stop.node);
            }
            stop = self.advance(hash, stop, &is_open)?;
        }
        None
    }

    /// The first point of an open node at or after `hash`.
    pub(super) fn begin(&mut self, hash: u64, is_open: &impl Fn(usize) -> bool) -> Option<Stop> {
        let first = self.points.partition_point(|point| point.hash < hash);
        self.open_from(first, hash, is_open)
    }

    /// The point of an open node after `stop`; none when that goes all the way round.
    pub(super) fn advance(
        &mut self,
        hash: u64,
        stop: Stop,
        is_open: &impl Fn(usize) -> bool,
    ) -> Option<Stop> {
        let next = self.open_from(stop.point + 1, hash, is_open)?;
        (next.distance > stop.distance).then_some(next)
    }

    fn open_from(&mut self, point: usize, hash: u64, is_open: &impl Fn(usize) -> bool) -> Option<Stop> {
        let end = self.points.len();
        let mut found = self.skip_closed(point.min(end), is_open);
        if found == end {
            found = self.skip_closed(0, is_open);
        }
        let Point { hash: at, node } = *self.points.get(found)?;
        Some(Stop { distance: at.wrapping_sub(hash), node, point: found })
    }

    fn skip_closed(&mut self, mut point: usize, is_open: &impl Fn(usize) -> bool) -> usize {
        let end = self.points.len();
        loop {
            // To the end of the shortcuts, halving the way for those who come after.
            while self.next[point] != point {
                self.next[point] = self.next[self.next[point]];
                point = self.next[point];
            }
            if point == end || is_open(self.points[point].node) {
                return point;
            }
            self.next[point] = point + 1;
        }
    }
}
