//! What the driver does with the effects of a core, on simulated disks, threads and networks.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use net::frame::FrameDecoder;
use net::peer::{GroupBody, GroupMessage, PeerEncoder, decode_messages};
use raft::{FetchId, Index, LogReadError, Term};
use wal::disk::sim::SimDone;
use wal::{ReadPlan, SegmentTask, WriteBatch};

use super::network::Fate;
use super::oracle::Verdict;
use super::plan::MS;
use super::store::{Image, SimEngine};
use super::trace::note;
use super::world::{Happening, Place, World};
use crate::convert;
use crate::core::{
    ApplyBatch, Effect, Event, Installed, MapNews, Opened, Origin, ReadTask, ReceivedSnapshot, ReplicaId,
    SnapshotOffer, TakenSnapshot, Transfer,
};
use crate::machine::{Cut, division};
use crate::placement;
use crate::replica_id::FOUNDING;
use crate::store::{ReadTier, StorageEngine};
use net::protocol::Reply;

/// A job of the apply thread.
pub enum Job {
    /// Apply entries.
    Apply(Vec<ApplyBatch>),
    /// Replace a state machine by a snapshot.
    Install(ReplicaId, ReceivedSnapshot),
    /// Open the state machine of a shard that was cut off another.
    Open(ReplicaId),
    /// Open an empty state machine.
    Create(ReplicaId, u64),
    /// Drop one for good.
    Destroy(ReplicaId, u64),
}

/// A job of another thread, which may end after the process that began it.
pub enum Task {
    /// Read entries back from the log.
    ReadWal { replica: ReplicaId, fetch: FetchId, plan: ReadPlan },
    /// Read what memory did not have.
    Read(ReadTask),
    /// Tell how far a state machine is durable.
    Durable { replica: ReplicaId, flush: bool },
    /// Take a snapshot and keep it.
    Take { replica: ReplicaId },
    /// Begin to send a snapshot.
    Send { replica: ReplicaId, offer: SnapshotOffer },
    /// A snapshot has crossed the network.
    Arrive { replica: ReplicaId, offer: SnapshotOffer, image: Arc<Image> },
}

impl World {
    /// Carries one effect out.
    pub(super) fn perform(&mut self, place: Place, effect: Effect) -> Verdict {
        match effect {
            Effect::Reply { origin, reply } => return self.reply(place, origin, reply),
            Effect::Forward { core, connection, request } => {
                let own = u32::try_from(place.core).expect("few cores");
                let origin = Origin { core: own, connection };
                self.mesh(place, core, Event::Request { origin, request });
            }
            Effect::Send { node, core, messages } => self.send(place, node, core, messages),
            Effect::WriteWal(batch) => self.write_wal(place, batch),
            Effect::Segment(task) => self.run_segment_task(place, task),
            Effect::ReadWal { replica, fetch, plan } => {
                self.task(place, 20_000, 5 * MS, Task::ReadWal { replica, fetch, plan });
            }
            Effect::Apply(batches) => self.lane(place, Job::Apply(batches)),
            Effect::Read(task) => self.task(place, 20_000, 2 * MS, Task::Read(task)),
            Effect::QueryDurable { replica, flush, .. } => {
                self.task(place, 10_000, 20 * MS, Task::Durable { replica, flush });
            }
            Effect::TakeSnapshot { replica, .. } => self.task(place, MS, 100 * MS, Task::Take { replica }),
            Effect::SendSnapshot { replica, offer, .. } => {
                self.task(place, MS, 100 * MS, Task::Send { replica, offer });
            }
            Effect::InstallSnapshot { replica, snapshot, .. } => {
                self.lane(place, Job::Install(replica, snapshot));
            }
            Effect::DropSnapshot { snapshot } => {
                let key = snapshot.place.to_string_lossy().into_owned();
                self.nodes[place.node].received.remove(&key);
            }
            Effect::CreateReplica { replica, generation } => {
                self.lane(place, Job::Create(replica, generation));
            }
            Effect::OpenReplica { replica } => self.lane(place, Job::Open(replica)),
            Effect::TellKin { core, kin } => {
                let own = u32::try_from(place.core).expect("few cores");
                self.mesh(place, core, Event::Kin { core: own, kin });
            }
            Effect::DestroyReplica { replica, generation, .. } => {
                self.lane(place, Job::Destroy(replica, generation));
            }
            Effect::Publish(status) => self.broadcast(place, || Event::Sibling(status.clone())),
            Effect::MapChanged(news) => return self.on_map_changed(place, news),
            Effect::Report(reports) if place.core == 0 => {
                self.broadcast(place, || Event::Reports(reports.clone()));
            }
            Effect::Report(reports) => self.mesh(place, 0, Event::Reports(reports)),
            Effect::Reclaim { .. } | Effect::Stopped => {}
        }
        Ok(())
    }

    fn on_map_changed(&mut self, place: Place, news: MapNews) -> Verdict {
        let node = &mut self.nodes[place.node];
        let core = node.cores[place.core].running.as_ref().expect("it has just had a turn");
        self.oracle.observe_map(node.id, core)?;
        if place.core == 0 {
            node.map = Some(Arc::new(core.known_map().clone()));
            self.broadcast(place, || Event::Map(news.clone()));
        }
        Ok(())
    }

    /// Hands something to every other core of the same node.
    fn broadcast(&mut self, place: Place, event: impl Fn() -> Event) {
        for core in (0..self.nodes[place.node].cores.len()).filter(|core| *core != place.core) {
            self.mesh(place, u32::try_from(core).expect("few cores"), event());
        }
    }

    /// Hands something to another core of the same node. The mesh keeps its order.
    fn mesh(&mut self, place: Place, core: u32, event: Event) {
        let to = Place { core: usize::try_from(core).expect("64-bit machine"), ..place };
        self.after(5_000, Happening::Local(to, Box::new(event)));
    }

    fn reply(&mut self, place: Place, origin: Origin, reply: Reply) -> Verdict {
        let own = u32::try_from(place.core).expect("few cores");
        self.check_reply(place, &reply)?;
        if origin.core != own {
            self.mesh(place, origin.core, Event::Forwarded { connection: origin.connection, reply });
            return Ok(());
        }
        let Ok(client) = usize::try_from(origin.connection.0) else { return Ok(()) };
        if let Some(delay) = self.network.client_delay() {
            self.after(delay, Happening::Answer { client, reply: Box::new(reply) });
        }
        Ok(())
    }

    fn send(&mut self, place: Place, node: u64, core: u32, messages: Vec<GroupMessage>) {
        let to = (usize::try_from(node - 1).expect("few nodes"), usize::try_from(core).expect("few cores"));
        let from = (place.node, place.core);
        match self.network.fate(from, to, self.now) {
            Fate::Lost { reported } => {
                if reported {
                    let lost = Event::PeerLost { node };
                    self.after(MS, Happening::Local(place, Box::new(lost)));
                }
            }
            Fate::Arrives(mut arrivals) => {
                let last = arrivals.pop().expect("at least once");
                for at in arrivals {
                    self.at(at, Happening::Deliver { to, from, messages: messages.clone() });
                }
                self.at(last, Happening::Deliver { to, from, messages });
            }
        }
    }

    /// A frame arrives.
    pub(super) fn on_deliver(
        &mut self,
        to: (usize, usize),
        from: (usize, usize),
        messages: Vec<GroupMessage>,
    ) {
        if !self.nodes[to.0].up || self.network.is_cut(from.0, to.0) {
            return;
        }
        // Nobody listens at the door to a node that does not belong to the cluster.
        let map = self.nodes[to.0].map.as_deref().unwrap_or(&self.setup.map);
        if map.node(self.nodes[from.0].id).is_none() {
            return;
        }
        for message in &messages {
            note!(
                self.now,
                self.nodes[to.0].id,
                u32::try_from(to.1).expect("few"),
                kind(message),
                group = message.group,
                from = message.from,
                term = message.term,
                to = message.to
            );
        }
        for message in &messages {
            match &message.body {
                GroupBody::Map { .. } => self.counts.maps += 1,
                GroupBody::MapChanges(changes) => self.counts.map_changes += count(changes.len()),
                _ => {}
            }
        }
        let messages = self.network.carry(messages);
        let place = self.place(to.0, to.1);
        let core = u32::try_from(from.1).expect("few cores");
        let node = self.nodes[from.0].id;
        // The first frame between two processes comes with the hello of its connection.
        let link = (place.node, place.core, place.life, from.0, from.1, self.nodes[from.0].life);
        if self.links.insert(link) {
            let vote_hold = self.setup.plan.raft_of(node).vote_hold();
            self.push(place, Event::PeerLinked { node, vote_hold, store: 0 });
        }
        self.push(place, Event::Peer { node, core, messages });
    }

    fn write_wal(&mut self, place: Place, batch: WriteBatch) {
        let now = self.now;
        self.nodes[place.node].cores[place.core].disk.write(batch, now);
        self.watch_disk(place);
    }

    /// Begins work on a segment.
    pub(super) fn run_segment_task(&mut self, place: Place, task: SegmentTask) {
        let now = self.now;
        self.nodes[place.node].cores[place.core].disk.run_segment_task(task, now);
        self.watch_disk(place);
    }

    /// Sees to it that the disk is looked at when it has something.
    fn watch_disk(&mut self, place: Place) {
        let slot = &mut self.nodes[place.node].cores[place.core];
        let Some(due) = slot.disk.next_completion_ns() else { return };
        if slot.disk_due.is_none_or(|planned| due < planned) {
            slot.disk_due = Some(due);
            self.at(due, Happening::Disk(place));
        }
    }

    /// The disk has finished something.
    pub(super) fn on_disk(&mut self, place: Place) {
        let now = self.now;
        self.nodes[place.node].cores[place.core].disk_due = None;
        while let Some(done) = self.nodes[place.node].cores[place.core].disk.poll_done(now) {
            match done {
                SimDone::Written(batch) => self.push(place, Event::WalWritten { batch }),
                SimDone::Segment(task) => self.push(place, Event::SegmentDone { task }),
                // The driver tries again after half a second.
                SimDone::SegmentFailed(task) => self.after(500 * MS, Happening::Segment(place, task)),
            }
        }
        self.watch_disk(place);
    }

    fn task(&mut self, place: Place, fastest: u64, slowest: u64, task: Task) {
        let delay = self.streams.store.between(fastest, slowest);
        self.after(delay, Happening::Task(place, Box::new(task)));
    }

    fn lane(&mut self, place: Place, job: Job) {
        let (fastest, slowest) = self.setup.plan.store.apply;
        let slot = &mut self.nodes[place.node].cores[place.core];
        let at = slot.lane_free_at.max(self.now) + self.streams.store.between(fastest, slowest);
        slot.lane_free_at = at;
        slot.lane.push_back(job);
        self.at(at, Happening::Lane(place));
    }

    /// The apply thread finishes its next job.
    pub(super) fn on_lane(&mut self, place: Place) -> Verdict {
        let slot = &mut self.nodes[place.node].cores[place.core];
        let event = match slot.lane.pop_front().expect("one job per happening") {
            Job::Apply(batches) => self.apply(place, batches)?,
            Job::Install(replica, snapshot) => self.install(place, replica, &snapshot)?,
            Job::Open(replica) => {
                let hosted = slot.host(&self.setup, replica, FOUNDING, &mut self.streams.store);
                let (applied, machine) = (hosted.machine.applied(), &hosted.machine);
                let opened = Opened {
                    engine: crate::core::Engine(hosted.engine.clone()),
                    applied: Index(applied.index),
                    applied_term: Term(applied.term),
                    conf_state: machine.conf_state().clone(),
                    domain: machine.domain(),
                };
                Event::ReplicaOpened { replica, opened }
            }
            Job::Create(replica, generation) => {
                slot.engines.remove(&(replica.shard, generation));
                let hosted = slot.host(&self.setup, replica, generation, &mut self.streams.store);
                Event::ReplicaCreated { replica, engine: crate::core::Engine(hosted.engine.clone()) }
            }
            Job::Destroy(replica, generation) => {
                slot.hosted.remove(&replica);
                slot.snapshots.remove(&(replica.shard, generation));
                if let Some(engine) = slot.engines.remove(&(replica.shard, generation)) {
                    engine.destroy().expect("it was there");
                }
                return Ok(());
            }
        };
        // The core hears of it a little later than readers can see it.
        let delay = self.streams.store.between(1_000, 100_000);
        self.after(delay, Happening::Local(place, Box::new(event)));
        Ok(())
    }

    fn apply(
        &mut self,
        place: Place,
        batches: Vec<ApplyBatch>,
    ) -> Result<Event, raft::testing::checker::Violation> {
        let node = self.nodes[place.node].id;
        let slot = &mut self.nodes[place.node].cores[place.core];
        let (mut done, mut born) = (Vec::with_capacity(batches.len()), Vec::new());
        for batch in batches {
            let hosted =
                slot.hosted.get_mut(&batch.replica).expect("a machine for every replica of the core");
            let (cold, rng) = (self.setup.plan.store.cold, self.streams.store.fork());
            let (parent, mut made) = (hosted.engine.clone(), None);
            let found = |_: &dyn StorageEngine, cut: &Cut, applied| {
                let child = SimEngine::new(cold, rng);
                child.install(&parent.image());
                division::found(&child, cut, applied).expect("a simulated engine always can");
                made = Some((cut.into, child));
            };
            let applied = batch.apply(&mut hosted.machine, found).unwrap_or_else(|error| {
                panic!("node {node} cannot apply to shard {}: {error}", batch.replica.shard)
            });
            let index = hosted.machine.applied().index;
            self.oracle.observe_state(node, batch.replica.shard, index, hosted.engine.hash())?;
            if let Some(topology) = hosted.machine.topology() {
                self.oracle.observe_topology(node, topology)?;
            }
            done.push(applied);
            born.extend(made);
        }
        for (shard, engine) in born {
            let cores = u32::try_from(self.nodes[place.node].cores.len()).expect("few cores");
            let core = usize::try_from(placement::core_of(shard, cores)).expect("few cores");
            self.nodes[place.node].cores[core].engines.insert((shard, FOUNDING), Arc::new(engine));
        }
        Ok(Event::Applied(done))
    }

    fn install(
        &mut self,
        place: Place,
        replica: ReplicaId,
        snapshot: &ReceivedSnapshot,
    ) -> Result<Event, raft::testing::checker::Violation> {
        let node = &mut self.nodes[place.node];
        let key = snapshot.place.to_string_lossy().into_owned();
        let image = node.received.remove(&key);
        let fails = !self.healed && self.streams.store.chance(self.setup.plan.store.install_fails);
        let slot = &mut node.cores[place.core];
        let hosted = slot.hosted.get_mut(&replica);
        let (Some(image), Some(hosted), false) = (image, hosted, fails) else {
            return Ok(Event::SnapshotInstalled { replica, result: Err(()) });
        };
        note!(
            self.now,
            node.id,
            u32::try_from(place.core).expect("few"),
            "install snapshot",
            shard = replica.shard,
            index = image.applied.index,
            term = image.applied.term
        );
        hosted.engine.install(&image);
        let shared: Arc<dyn StorageEngine> = hosted.engine.clone();
        hosted.machine = super::open_machine(shared, &snapshot.meta.conf_state);
        self.counts.snapshots_installed += 1;
        self.oracle.observe_snapshot(node.id, replica.shard, image.applied.index, hosted.engine.hash())?;
        let (time_ms, domain) = (hosted.machine.clock_ms(), hosted.machine.domain());
        let topology = hosted.machine.topology().cloned().map(Box::new);
        let installed = Installed { applied: Index(image.applied.index), time_ms, topology, domain };
        Ok(Event::SnapshotInstalled { replica, result: Ok(installed) })
    }

    /// Another thread finishes its task.
    pub(super) fn on_task(&mut self, place: Place, task: Task) -> Verdict {
        if let Task::Arrive { replica, offer, image } = task {
            self.on_arrival(place, replica, offer, &image);
            return Ok(());
        }
        if !self.is_current(place) {
            return Ok(());
        }
        let slot = &mut self.nodes[place.node].cores[place.core];
        let event = match task {
            Task::ReadWal { replica, fetch, plan } => {
                let result = match plan.decode(&slot.disk.read(&plan)) {
                    Ok(entries) => Ok(entries.into_iter().map(convert::raft_entry).collect()),
                    Err(_) => Err(LogReadError::Unavailable),
                };
                Event::EntriesRead { replica, fetch, result }
            }
            Task::Read(task) => {
                Event::Read(task.run(ReadTier::All).expect("reading everything always answers"))
            }
            Task::Durable { replica, flush } => {
                let Some(hosted) = slot.hosted.get(&replica) else { return Ok(()) };
                if flush {
                    hosted.engine.flush().expect("a simulated engine always can");
                }
                let durable = hosted.engine.applied_durable().expect("a live engine");
                Event::Durable { replica, index: Index(durable.index) }
            }
            Task::Take { replica } => match self.take_snapshot(place, replica)? {
                Some(image) => {
                    let bytes = image.map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                    let snapshot = TakenSnapshot {
                        index: Index(image.applied.index),
                        term: raft::Term(image.applied.term),
                        bytes: u64::try_from(bytes).expect("64-bit machine"),
                    };
                    Event::SnapshotTaken { replica, snapshot: Some(snapshot) }
                }
                None => Event::SnapshotTaken { replica, snapshot: None },
            },
            Task::Send { replica, offer } => return self.begin_transfer(place, replica, offer),
            Task::Arrive { .. } => unreachable!("handled above"),
        };
        self.push(place, event);
        Ok(())
    }

    fn take_snapshot(
        &mut self,
        place: Place,
        replica: ReplicaId,
    ) -> Result<Option<Arc<Image>>, raft::testing::checker::Violation> {
        let node = &mut self.nodes[place.node];
        let slot = &mut node.cores[place.core];
        let Some(hosted) = slot.hosted.get(&replica) else { return Ok(None) };
        let image = Arc::new(hosted.engine.image());
        self.oracle.observe_snapshot(node.id, replica.shard, image.applied.index, image.hash)?;
        slot.snapshots.insert((replica.shard, hosted.generation), image.clone());
        Ok(Some(image))
    }

    fn begin_transfer(&mut self, place: Place, replica: ReplicaId, offer: SnapshotOffer) -> Verdict {
        let slot = &self.nodes[place.node].cores[place.core];
        let kept = slot
            .hosted
            .get(&replica)
            .and_then(|hosted| slot.snapshots.get(&(replica.shard, hosted.generation)).cloned());
        let image = match kept.filter(|image| image.applied.index >= offer.index_min) {
            Some(image) => Some(image),
            None => self.take_snapshot(place, replica)?,
        };
        match image.filter(|image| image.applied.index >= offer.index_min) {
            Some(image) => {
                let (fastest, slowest) = self.setup.plan.store.transfer;
                self.task(place, fastest, slowest, Task::Arrive { replica, offer, image });
            }
            None => {
                self.push(place, Event::SnapshotSent { replica, to: offer.to, outcome: Transfer::Refused })
            }
        }
        Ok(())
    }

    fn on_arrival(&mut self, place: Place, replica: ReplicaId, offer: SnapshotOffer, image: &Arc<Image>) {
        let to = usize::try_from(offer.node - 1).expect("few nodes");
        let fails = !self.healed && self.streams.store.chance(self.setup.plan.store.transfer_fails);
        let arrives = self.nodes[to].up && !self.network.is_cut(place.node, to) && !fails;
        if arrives {
            let receiver = self.place(to, usize::try_from(offer.core).expect("few cores"));
            let name = format!("{}-{}-{}-{}", offer.to, image.applied.index, image.applied.term, self.now);
            let meta = super::store::snapshot_meta(image, self.setup.founders(offer.shard));
            let snapshot = ReceivedSnapshot { shard: offer.shard, meta, place: PathBuf::from(&name) };
            self.nodes[to].received.insert(name, image.clone());
            let event =
                Event::SnapshotReceived { from: offer.from, to: offer.to, term: offer.term, snapshot };
            self.push(receiver, event);
        }
        if self.is_current(place) {
            let outcome = match arrives {
                true => Transfer::Complete,
                false if fails => Transfer::Broken,
                false => Transfer::Refused,
            };
            self.push(place, Event::SnapshotSent { replica, to: offer.to, outcome });
        }
    }

    /// Holds an answer against what is known to be true.
    fn check_reply(&self, place: Place, reply: &Reply) -> Verdict {
        let Some(asked) = self.workload.asked(reply.id) else { return Ok(()) };
        let own = u32::try_from(place.core).expect("few cores");
        // The core that only passes an answer on says nothing by itself.
        if placement::core_of(asked.shard, self.setup.plan.cores) != own {
            return Ok(());
        }
        asked.check(&self.oracle, self.nodes[place.node].id, reply)
    }
}

/// A message's name.
fn count(length: usize) -> u64 {
    u64::try_from(length).expect("64-bit machine")
}

fn kind(message: &GroupMessage) -> &'static str {
    use net::peer::GroupBody as Body;
    match message.body {
        Body::PreVote { .. } => "pre-vote?",
        Body::PreVoteResponse { granted: true } => "pre-vote yes",
        Body::PreVoteResponse { granted: false } => "pre-vote no",
        Body::Vote { .. } => "vote?",
        Body::VoteResponse { granted: true } => "vote yes",
        Body::VoteResponse { granted: false } => "vote no",
        Body::Append { ref entries, .. } if entries.is_empty() => "append (probe)",
        Body::Append { .. } => "append",
        Body::AppendResponse { .. } => "appended",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatResponse { .. } => "heartbeat echo",
        Body::ReadIndex { .. } => "read index?",
        Body::ReadIndexResponse { .. } => "read index",
        Body::TimeoutNow => "timeout now",
        Body::Join => "join",
        Body::Invite => "invite",
        Body::Gone { .. } => "gone",
        Body::Sleep { .. } => "sleep",
        Body::Reports(_) => "reports",
        Body::MapEpoch { .. } => "map-epoch",
        Body::Map { .. } => "map",
        Body::MapChanges(_) => "map-changes",
    }
}

/// Messages as they come out of the other end of a wire.
pub fn through_the_codec(messages: Vec<GroupMessage>) -> Vec<GroupMessage> {
    let mut out = BytesMut::new();
    let mut encoder = PeerEncoder::new(1 << 20, 32 << 20);
    encoder.messages(&messages, &mut out).expect("messages fit a frame");
    let mut decoder = FrameDecoder::new(0, u32::MAX);
    decoder.feed(&out);
    let mut arrived = Vec::with_capacity(messages.len());
    while let Some(frame) = decoder.next_frame().expect("a frame of our own") {
        decode_messages(&frame, &mut arrived).expect("a message of our own");
    }
    assert_eq!(arrived, messages, "what was sent is what arrives");
    arrived
}
