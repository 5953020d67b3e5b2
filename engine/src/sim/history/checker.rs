//! Linearizability of one register: just-in-time linearization (Wing and Gong 1993; Lowe 2017).
//!
//! The invocations and returns of all operations are replayed in the order of time. A *configuration* is a possible
//! world: the register's content and which of the pending operations have taken effect already. At a return, only the
//! worlds survive in which that operation has taken effect with the answer it gave; pending operations are made to
//! take effect as late as possible, that is then. When no world is left, no order explains the history.
//!
//! What keeps the number of worlds small, without changing the verdict:
//! - An operation that leaves the content as it is takes effect as soon as the content allows: that cannot hinder
//!   anything later.
//! - An indeterminate operation never returns, so it need never take effect. It does so only right before one that
//!   needs the content it leaves; of several alike the first is taken; and of two worlds that differ only in that one
//!   has used up more of them, that one is dropped. An indeterminate swap is never made to fail.
//!
//! Invariant: the worlds kept after every event are an antichain under that order, and all reachable worlds are
//! represented; so the verdict is exact, unless the bound on steps is hit, which is a verdict of its own.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Action, Answer, End, Record};

/// Worlds examined for one key before the checker gives up.
pub const STEPS_MAX: u64 = 20_000_000;
/// Operations pending at once, indeterminate ones included.
const PENDING_MAX: usize = 128;
/// Events shown before the one that cannot be explained.
const CONTEXT_EVENTS: usize = 24;

/// What the checker found.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Some order explains everything.
    Linearizable,
    /// None does.
    Violated {
        /// For people.
        detail: String,
    },
    /// Not found out.
    Undecided(Exhausted),
}

/// Which bound stopped the checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// Too many worlds.
    Steps,
    /// Too many operations pending at the same time.
    Pending,
}

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exhausted::Steps => write!(f, "more than {STEPS_MAX} possible worlds were examined"),
            Exhausted::Pending => write!(f, "more than {PENDING_MAX} operations were pending at once"),
        }
    }
}

/// A possible world: what the register holds, and which pending operations, by place, have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct World {
    content: Option<u64>,
    done: u128,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Invoke(usize),
    Return(usize),
}

/// Checks the operations of one key, in any order. At most `steps_max` worlds are examined.
pub fn check_register(records: &[&Record], steps_max: u64) -> Verdict {
    let events = events_of(records);
    let mut search = Search::new(records, steps_max);
    for (position, &(_, event)) in events.iter().enumerate() {
        let step = match event {
            Event::Invoke(op) => search.invoke(op),
            Event::Return(op) => search.complete(op),
        };
        if let Err(reason) = step {
            return Verdict::Undecided(reason);
        }
        if let (Event::Return(op), true) = (event, search.worlds.is_empty()) {
            return Verdict::Violated { detail: search.explain(op, &events[..=position]) };
        }
    }
    Verdict::Linearizable
}

/// Invocations and returns in time order. An operation that returned at the very time another was invoked may have
/// overlapped it, so invocations come first.
fn events_of(records: &[&Record]) -> Vec<((u64, u8), Event)> {
    let mut events = Vec::new();
    for (op, record) in records.iter().enumerate() {
        match (record.end, record.action) {
            // What never took effect, and a read nobody saw the answer of, say nothing.
            (End::Failed, _) | (End::Indeterminate, Action::Get) => {}
            (End::Indeterminate, _) => events.push(((record.invoked, 0), Event::Invoke(op))),
            (End::Ok { at, .. }, _) => {
                assert!(at >= record.invoked, "an answer comes after its question: {record:?}");
                events.push(((record.invoked, 0), Event::Invoke(op)));
                events.push(((at, 1), Event::Return(op)));
            }
        }
    }
    events.sort_by_key(|(time, _)| *time);
    events
}

struct Search<'a> {
    records: &'a [&'a Record],
    worlds: HashSet<World>,
    /// Worlds before the last return, for the explanation.
    before: HashSet<World>,
    /// Pending operations by place.
    pending: Vec<Option<usize>>,
    place_of: HashMap<usize, usize>,
    /// Places of indeterminate operations.
    optional: u128,
    steps: u64,
    steps_max: u64,
}

impl<'a> Search<'a> {
    fn new(records: &'a [&'a Record], steps_max: u64) -> Search<'a> {
        Search {
            records,
            worlds: HashSet::from([World { content: None, done: 0 }]),
            before: HashSet::new(),
            pending: Vec::new(),
            place_of: HashMap::new(),
            optional: 0,
            steps: 0,
            steps_max,
        }
    }

    fn invoke(&mut self, op: usize) -> Result<(), Exhausted> {
        let place = match self.pending.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.pending.len() == PENDING_MAX => return Err(Exhausted::Pending),
            None => {
                self.pending.push(None);
                self.pending.len() - 1
            }
        };
        self.pending[place] = Some(op);
        self.place_of.insert(op, place);
        if self.records[op].end == End::Indeterminate {
            self.optional |= 1 << place;
        } else {
            let settled = |world: &World| match effect(self.records[op], world.content) {
                Some(content) if content == world.content => {
                    World { done: world.done | 1 << place, ..*world }
                }
                _ => *world,
            };
            self.worlds = self.worlds.iter().map(settled).collect();
        }
        Ok(())
    }

    /// Keeps the worlds in which `op` has taken effect with its answer by now.
    fn complete(&mut self, op: usize) -> Result<(), Exhausted> {
        let place = self.place_of.remove(&op).expect("an operation is invoked before it returns");
        let bit = 1u128 << place;
        let mut kept = Antichain::new(self.optional);
        let mut seen = Antichain::new(self.optional);
        // Worlds that used up fewer indeterminate operations come first, so that they shadow the others.
        let mut queue: Vec<World> = self.worlds.iter().copied().collect();
        queue.sort_by_key(|world| (world.done & self.optional).count_ones());
        let mut next = 0;
        while let Some(&world) = queue.get(next) {
            next += 1;
            self.steps += 1;
            if self.steps > self.steps_max {
                return Err(Exhausted::Steps);
            }
            if world.done & bit != 0 {
                kept.insert(World { done: world.done & !bit, ..world });
                continue;
            }
            if !seen.insert(world) {
                continue;
            }
            self.successors(world, &mut queue);
        }
        self.pending[place] = None;
        self.before = std::mem::replace(&mut self.worlds, kept.into_worlds());
        self.retire_settled();
        Ok(())
    }

    /// The worlds one operation further.
    fn successors(&self, world: World, queue: &mut Vec<World>) {
        for (place, op) in self.waiting(world) {
            let Some(content) = effect(self.records[op], world.content) else { continue };
            let after = self.settled(World { content, done: world.done | 1 << place });
            if self.optional & (1 << place) == 0
                || (self.is_first_alike(world, place, op) && self.is_needed(world, after, place))
            {
                queue.push(after);
            }
        }
    }

    /// Pending operations that have not taken effect in a world.
    fn waiting(&self, world: World) -> impl Iterator<Item = (usize, usize)> {
        let pending = self.pending.iter().enumerate().filter_map(|(place, op)| Some((place, (*op)?)));
        pending.filter(move |(place, _)| world.done & (1 << place) == 0)
    }

    /// The world in which all that leave the content as it is have taken effect.
    fn settled(&self, world: World) -> World {
        let certain = self.waiting(world).filter(|(place, _)| self.optional & (1 << place) == 0);
        let unchanged =
            certain.filter(|(_, op)| effect(self.records[*op], world.content) == Some(world.content));
        World { done: unchanged.fold(world.done, |done, (place, _)| done | 1 << place), ..world }
    }

    fn is_first_alike(&self, world: World, place: usize, op: usize) -> bool {
        let alike = |other: usize| self.records[other].action == self.records[op].action;
        let mut earlier = self.waiting(world).take_while(|(other, _)| *other < place);
        !earlier.any(|(other, op)| self.optional & (1 << other) != 0 && alike(op))
    }

    /// Whether something can happen `after` an indeterminate operation that could not have happened without it.
    fn is_needed(&self, before: World, after: World, place: usize) -> bool {
        let settled_something = after.done != before.done | 1 << place;
        settled_something
            || self.waiting(after).any(|(_, op)| {
                let (now, then) =
                    (effect(self.records[op], after.content), effect(self.records[op], before.content));
                now.is_some() && then.is_none()
            })
    }

    /// Gives the places of indeterminate operations free that have taken effect in every world.
    fn retire_settled(&mut self) {
        let settled = self.worlds.iter().fold(self.optional, |common, world| common & world.done);
        if settled == 0 || self.worlds.is_empty() {
            return;
        }
        self.worlds =
            self.worlds.iter().map(|world| World { done: world.done & !settled, ..*world }).collect();
        self.optional &= !settled;
        for (place, op) in self.pending.iter_mut().enumerate() {
            if settled & (1 << place) != 0 {
                *op = None;
            }
        }
    }

    fn explain(&self, op: usize, events: &[((u64, u8), Event)]) -> String {
        let show = |op: usize| {
            let record = self.records[op];
            format!("client {} {:?} -> {:?}", record.client, record.action, record.end)
        };
        let mut contents: Vec<Option<u64>> = self.before.iter().map(|world| world.content).collect();
        contents.sort_unstable();
        contents.dedup();
        let mut text = format!("no order explains [{}]; before it the key could hold {contents:?}", show(op));
        text.push_str("\nlast events:");
        for ((at, _), event) in events.iter().skip(events.len().saturating_sub(CONTEXT_EVENTS)) {
            let (what, op) = match event {
                Event::Invoke(op) => ("invoke", *op),
                Event::Return(op) => ("return", *op),
            };
            text.push_str(&format!("\n  {:>12.6} ms {what} #{op} {}", ms(*at), show(op)));
        }
        text
    }
}

fn ms(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e3
}

/// What the register holds after the operation took effect; `None` when it cannot take effect here with its answer.
fn effect(record: &Record, content: Option<u64>) -> Option<Option<u64>> {
    let answer = match record.end {
        End::Ok { answer, .. } => Some(answer),
        End::Indeterminate => None,
        End::Failed => return None,
    };
    match (record.action, answer) {
        (Action::Get, Some(Answer::Found(found))) => (found == content).then_some(content),
        (Action::Put(value), Some(Answer::Stored) | None) => Some(Some(value)),
        (Action::Delete, Some(Answer::Deleted(existed))) => (existed == content.is_some()).then_some(None),
        (Action::Delete, None) => Some(None),
        (Action::Swap { expected, new }, Some(Answer::Swapped(true)) | None) => {
            (expected == content).then_some(new)
        }
        (Action::Swap { expected, .. }, Some(Answer::Swapped(false))) => {
            (expected != content).then_some(content)
        }
        (action, answer) => panic!("the answer {answer:?} does not fit {action:?}"),
    }
}

/// Worlds of which none is at least as able as another.
struct Antichain {
    optional: u128,
    /// By content and by the operations that will return, the sets of optional operations used up.
    sets: HashMap<(Option<u64>, u128), Vec<u128>>,
}

impl Antichain {
    fn new(optional: u128) -> Antichain {
        Antichain { optional, sets: HashMap::new() }
    }

    /// False when a world at least as able is there already.
    fn insert(&mut self, world: World) -> bool {
        let used = world.done & self.optional;
        let sets = self.sets.entry((world.content, world.done & !self.optional)).or_default();
        if sets.iter().any(|other| other & used == *other) {
            return false;
        }
        sets.retain(|other| other & used != used);
        sets.push(used);
        true
    }

    fn into_worlds(self) -> HashSet<World> {
        let world = |(content, certain), used| World { content, done: certain | used };
        self.sets
            .into_iter()
            .flat_map(|(key, sets)| sets.into_iter().map(move |used| world(key, used)))
            .collect()
    }
}
