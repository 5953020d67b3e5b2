//! The world: nodes, network and clients under one clock, moved by a queue of events.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use net::peer::GroupMessage;
use net::protocol::{Reply, Request};
use wal::SegmentTask;

use super::Counts;
use super::chaos::Chaos;
use super::client::Timer;
use super::network::Network;
use super::node::{Node, Setup};
use super::oracle::{Oracle, Verdict, violated};
use super::perform::Task;
use super::plan::{MS, Plan};
use super::rng::Rng;
use super::trace::note;
use super::workload::Workload;
use crate::bootstrap::{self, Decision};
use crate::core::{ConnectionId, Event, Origin};
use crate::identity::Stage;
use crate::{config, placement};

/// Something that is going to happen.
pub enum Happening {
    /// The executor wakes, as it does twice per tick of Raft.
    Clock(Place),
    /// A turn of a core.
    Turn(Place),
    /// Something comes back to a core.
    Local(Place, Box<Event>),
    /// The disk may have finished something.
    Disk(Place),
    /// A segment task that failed is tried again.
    Segment(Place, SegmentTask),
    /// The apply thread finishes its next job.
    Lane(Place),
    /// Another thread finishes a task.
    Task(Place, Box<Task>),
    /// A frame arrives at a node.
    Deliver { to: (usize, usize), from: (usize, usize), messages: Vec<GroupMessage> },
    /// A request arrives at a node.
    Request { node: usize, core: usize, connection: ConnectionId, request: Box<Request> },
    /// An answer arrives at a client.
    Answer { client: usize, reply: Box<Reply> },
    /// A client's own timers.
    Client(Timer),
    /// A fault begins or ends.
    Chaos(Chaos),
}

/// A core of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Position of the node.
    pub node: usize,
    /// Position of the core.
    pub core: usize,
    /// Which of the node's processes.
    pub life: u64,
}

/// The random stream of each subsystem.
pub struct Streams {
    /// Turns and completions.
    pub executor: Rng,
    /// Engines, transfers.
    pub store: Rng,
    /// Clocks.
    pub clock: Rng,
    /// Disks.
    pub disk: Rng,
    /// Crashes, partitions, pauses.
    pub crash: Rng,
    /// Administrators.
    pub members: Rng,
    /// Shards that are cut in two.
    pub splits: Rng,
}

/// A whole cluster and its clients.
pub struct World {
    pub(super) setup: Setup,
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) workload: Workload,
    pub(super) oracle: Oracle,
    pub(super) streams: Streams,
    pub(super) healed: bool,
    pub(super) counts: Counts,
    /// Replicas, by shard and Raft id, whose data are gone for good.
    pub(super) lost: BTreeSet<(u32, u64)>,
    /// Processes that have heard of each other: node, core and life of both.
    pub(super) links: BTreeSet<(usize, usize, u64, usize, usize, u64)>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    free: Vec<usize>,
    order: u64,
    events_left: u64,
}

/// More events than this per simulated second are a machine that never comes to rest.
const EVENTS_PER_SECOND_MAX: u64 = 400_000;

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, plan: Plan) -> World {
        let map = placement::cluster_map(&configuration(&plan));
        let founders: Vec<_> = map.shards.iter().map(|info| placement::founders(&map, info.id)).collect();
        let stream = |name| Rng::new(seed, name);
        let mut streams = Streams {
            executor: stream("executor"),
            store: stream("store"),
            clock: stream("clock"),
            disk: stream("disk"),
            crash: stream("crash"),
            members: stream("members"),
            splits: stream("split"),
        };
        let nodes: Vec<Node> = (1..=plan.nodes + plan.members.joiners)
            .map(|id| Node::new(id, &plan, &mut streams.clock, &mut streams.disk))
            .collect();
        let cores = usize::try_from(plan.cores).expect("few");
        World {
            now: 0,
            network: Network::new(plan.network.clone(), stream("network"), nodes.len(), cores),
            workload: Workload::new(&plan, stream("workload")),
            oracle: Oracle::new(nodes.len(), &founders),
            nodes,
            streams,
            healed: false,
            counts: Counts::default(),
            lost: BTreeSet::new(),
            links: BTreeSet::new(),
            queue: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            order: 0,
            events_left: (plan.length / super::SECOND + 120) * EVENTS_PER_SECOND_MAX,
            setup: Setup { plan, map, founders },
        }
    }

    /// Runs it to its end.
    pub fn run(&mut self) -> Verdict {
        for node in (0..self.nodes.len()).filter(|node| self.is_founder(*node)).collect::<Vec<_>>() {
            self.start_node(node)?;
        }
        self.begin_chaos();
        self.begin_workload();
        self.run_until(self.setup.plan.length)?;
        self.converge()
    }

    /// Simulated time, operations answered, and counts.
    pub fn account(&mut self) -> (u64, u64, Counts) {
        self.counts.cut = u64::from(self.oracle.shards() - 1 - self.setup.plan.shards);
        self.counts.committed = (0..self.oracle.shards()).map(|shard| self.oracle.committed(shard)).sum();
        (self.now, self.workload.answered(), self.counts)
    }

    /// Lets something happen at a time.
    pub fn at(&mut self, at: u64, happening: Happening) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.happenings[slot] = Some(happening);
                slot
            }
            None => {
                self.happenings.push(Some(happening));
                self.happenings.len() - 1
            }
        };
        self.order += 1;
        self.queue.push(Reverse((at.max(self.now), self.order, slot)));
    }

    /// Lets something happen after a while.
    pub fn after(&mut self, delay: u64, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    /// Lets time pass.
    pub fn run_until(&mut self, end: u64) -> Verdict {
        while let Some(Reverse((at, _, slot))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.free.push(slot);
            self.now = at;
            self.events_left -= 1;
            if self.events_left == 0 {
                return violated("the cluster comes to rest", "too many events".to_owned());
            }
            let happening = self.happenings[slot].take().expect("queued once");
            self.happen(happening)?;
        }
        self.now = end;
        Ok(())
    }

    /// Whether the process of a place still runs.
    pub fn is_current(&self, place: Place) -> bool {
        let node = &self.nodes[place.node];
        node.up && node.life == place.life
    }

    fn happen(&mut self, happening: Happening) -> Verdict {
        match happening {
            Happening::Clock(place) => self.on_clock(place),
            Happening::Turn(place) if self.is_current(place) => return self.turn(place),
            Happening::Local(place, event) if self.is_current(place) => self.push(place, *event),
            Happening::Disk(place) if self.is_current(place) => self.on_disk(place),
            Happening::Segment(place, task) if self.is_current(place) => self.run_segment_task(place, task),
            Happening::Lane(place) if self.is_current(place) => return self.on_lane(place),
            Happening::Task(place, task) => return self.on_task(place, *task),
            Happening::Turn(_)
            | Happening::Local(..)
            | Happening::Disk(_)
            | Happening::Segment(..)
            | Happening::Lane(_) => {}
            Happening::Deliver { to, from, messages } => self.on_deliver(to, from, messages),
            Happening::Request { node, core, connection, request } => {
                if self.nodes[node].up {
                    let origin = Origin { core: u32::try_from(core).expect("few cores"), connection };
                    let place = self.place(node, core);
                    self.push(place, Event::Request { origin, request: *request });
                }
            }
            Happening::Answer { client, reply } => return self.on_answer(client, *reply),
            Happening::Client(timer) => self.on_timer(timer),
            Happening::Chaos(chaos) => return self.on_chaos(chaos),
        }
        Ok(())
    }

    /// The running process of a core.
    pub fn place(&self, node: usize, core: usize) -> Place {
        Place { node, core, life: self.nodes[node].life }
    }

    /// Starts a node's process. One whose directory is new asks the others first what it is to the cluster.
    pub fn start_node(&mut self, node: usize) -> Verdict {
        if !self.settle(node) {
            self.after(500 * MS, Happening::Chaos(Chaos::Restart(node)));
            return Ok(());
        }
        note!(self.now, self.nodes[node].id, 0, "start", life = self.nodes[node].life + 1);
        let Self { nodes, setup, streams, .. } = self;
        nodes[node].start(setup, self.now, &mut streams.executor);
        // What was thought lost may have been found whole.
        let running = nodes[node].cores.iter().filter_map(|slot| slot.running.as_ref());
        for replica in running.flat_map(|core| core.replicas()) {
            self.lost.remove(&(replica.id.shard, replica.raft.id().0));
        }
        for core in 0..self.nodes[node].cores.len() {
            let place = self.place(node, core);
            self.look(place)?;
            let delay = self.streams.executor.below(CLOCK);
            self.after(delay, Happening::Clock(place));
        }
        Ok(())
    }

    /// Whether a node knows what it is to the cluster, having asked those that it reaches.
    fn settle(&mut self, node: usize) -> bool {
        if self.nodes[node].directory.stage != Stage::New {
            return true;
        }
        let reaches = |other: &usize| {
            let begins = self.now == 0;
            let open = !self.network.is_cut(node, *other) && !self.network.is_cut(*other, node);
            *other != node && (begins || self.nodes[*other].up && open)
        };
        let answers = (0..self.nodes.len()).filter(reaches).map(|other| {
            let other = &self.nodes[other];
            (other.id, other.directory.standing())
        });
        let own = &self.nodes[node];
        if !self.is_founder(node) {
            return self.settle_again(node);
        }
        let founders = 1..=self.setup.plan.nodes;
        let others = founders.filter(|other| *other != own.id).collect();
        let decision = bootstrap::decide(own.id, own.directory.store, &others, &answers.collect());
        let directory = &mut self.nodes[node].directory;
        match decision {
            Decision::Wait { .. } => return false,
            Decision::Founder { founders } => {
                (directory.stage, directory.founders) = (Stage::Founding, founders)
            }
            Decision::Replacement { founders } => {
                (directory.stage, directory.founders) = (Stage::Replacing, founders);
            }
        }
        true
    }

    /// A node that joined once has lost its disks: it joins again, if it reaches somebody who knows it.
    fn settle_again(&mut self, node: usize) -> bool {
        let Some(map) = self.map_with(self.nodes[node].id) else { return false };
        self.nodes[node].map = Some(map);
        self.nodes[node].directory.stage = Stage::Replacing;
        true
    }

    /// The driver wakes its core twice per tick.
    fn on_clock(&mut self, place: Place) {
        if self.is_current(place) {
            self.wake(place);
            self.after(CLOCK, Happening::Clock(place));
        }
    }

    /// Puts an event into a core's inbox.
    pub fn push(&mut self, place: Place, event: Event) {
        self.nodes[place.node].cores[place.core].inbox.push_back(event);
        self.wake(place);
    }

    /// Lets a core have a turn soon.
    pub fn wake(&mut self, place: Place) {
        let delay = self.streams.executor.between(500, 20_000);
        let slot = &mut self.nodes[place.node].cores[place.core];
        if slot.turn_at.is_none() && slot.running.is_some() {
            let at = (self.now + delay).max(slot.paused_until);
            slot.turn_at = Some(at);
            self.at(at, Happening::Turn(place));
        }
    }

    /// One turn, as the driver has them: time, what has arrived, and what follows.
    fn turn(&mut self, place: Place) -> Verdict {
        let now = self.now;
        let handled_max = self.streams.executor.between(8, 256);
        let node = &mut self.nodes[place.node];
        let slot = &mut node.cores[place.core];
        slot.turn_at = None;
        if slot.paused_until > now {
            let at = slot.paused_until;
            slot.turn_at = Some(at);
            self.at(at, Happening::Turn(place));
            return Ok(());
        }
        let Some(core) = slot.running.as_mut() else { return Ok(()) };
        self.counts.turns += 1;
        core.handle(Event::Tick { now: node.clock.monotonic(now), wall_ms: node.clock.wall_ms(now) });
        let mut handled = 0;
        while handled < handled_max
            && let Some(event) = slot.inbox.pop_front()
        {
            core.handle(event);
            handled += 1;
        }
        let effects: Vec<_> = core.settle().collect();
        let again = core.wants_turn() || !slot.inbox.is_empty();
        self.look(place)?;
        for effect in effects {
            self.perform(place, effect)?;
        }
        if again {
            self.wake(place);
        }
        Ok(())
    }

    /// Lets the checkers look at a core.
    fn look(&mut self, place: Place) -> Verdict {
        let node = &self.nodes[place.node];
        let slot = &node.cores[place.core];
        let core = slot.running.as_ref().expect("only running cores are looked at");
        if self.counts.turns.is_multiple_of(DEEP_LOOK_TURNS) {
            core.log().check_invariants();
            core.replicas().for_each(|replica| replica.raft.check_invariants());
        }
        self.oracle.observe(node.id, core, &slot.disk)?;
        for node in self.oracle.take_elected() {
            let node = usize::try_from(node - 1).expect("few nodes");
            self.on_elected(node);
        }
        if self.oracle.take_conf_changes() > 0 {
            self.on_conf_change();
        }
        Ok(())
    }
}

/// Between two wake-ups of an idle core.
const CLOCK: u64 = 25 * MS;
/// Every so many turns the machines check themselves thoroughly.
const DEEP_LOOK_TURNS: u64 = 251;

/// The configuration that a cluster of this shape has.
fn configuration(plan: &Plan) -> config::Config {
    let nodes: String = (1..=plan.nodes)
        .map(|id| {
            format!(
                "[[cluster.nodes]]\nid = {id}\nbinary = \"127.0.0.1:{id}\"\npeer = \"127.0.0.1:1{id}\"\ncores = {}\n",
                plan.cores
            )
        })
        .collect();
    let text = format!(
        "[node]\nid = 1\ndata_dir = \"d\"\ncores = {}\n[listen]\nbinary = \"127.0.0.1:1\"\npeer = \"127.0.0.1:11\"\n\
         [cluster]\nid = \"sim\"\nshards = {}\nreplicas = {}\n{nodes}",
        plan.cores, plan.shards, plan.replicas
    );
    config::Config::parse(&text, std::path::Path::new("sim")).expect("a valid configuration")
}
