//! One core's machine: its replicas, its share of the log and the requests in flight, as a function of
//! (state, event). The driver feeds [`Event`]s, ends each turn with [`Core::settle`] and carries out the
//! [`Effect`]s; the simulator does the same.
//!
//! A turn batches: all requests, messages and completions that have arrived are taken in first, then each touched
//! replica hands over one `Ready`; their entries share the next batch of the log, their messages one frame per peer
//! core, and their committed entries one task of the apply lane.
//!
//! Invariants:
//! - a promise (vote, append acknowledgement, own vote toward commit) leaves only after the log position it depends
//!   on is flushed;
//! - completions that name a replica carry its incarnation, and are dropped when it is not the current one;
//! - what is in flight is bounded in bytes: over the limit, writes are refused as busy, not queued.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use net::map::ClusterMap;
use net::peer::GroupMessage;
use raft::{ConfState, Index, Message, Nanos, RawNode, ReadyId, Term};
use wal::{Lsn, StreamId, Wal};

mod admin;
mod apply;
mod balance;
mod cluster;
mod compaction;
mod control;
mod division;
mod effect;
mod epochs;
mod event;
mod expiry;
mod handover;
#[cfg(feature = "sim")]
mod inspect;
mod membership;
mod namesakes;
mod peers;
mod programs;
mod refusals;
mod replicas;
mod requests;
mod sleep;
mod snapshots;
mod stages;
mod status;
mod turn;

pub use crate::replica::{ReadDone, ReadTask, ReplicaId};
#[cfg(feature = "sim")]
pub(crate) use apply::machine_entry;
pub use apply::{Applied, ApplyBatch};
pub(crate) use division::{Hold, Proposal};
pub use division::{Kin, Opened};
pub use effect::{
    Effect, Engine, Installed, MapNews, ReceivedSnapshot, SnapshotOffer, TakenSnapshot, Transfer,
};
pub use event::{Event, Origin};
pub(crate) use snapshots::Incoming;
pub use stages::{BUCKETS, Durations, Stages};
pub use status::{CoreStatus, Counters, ShardStatus};

use crate::machine::Domain;
use crate::placement;
use crate::replica::{Budget, Replica, WalLog};
use crate::replica_id;
use crate::store::StorageEngine;
use crate::topology::Topology;

/// A connection of one core; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a core needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node.
    pub node: u64,
    /// The identity of its data directory; 0: not known.
    pub store: u64,
    /// This core of the node.
    pub core: u32,
    /// Cores of this node.
    pub cores: u32,
    /// Raft timing and windows; identity and priority are filled in per replica.
    pub raft: raft::Config,
    /// Longest key.
    pub key_bytes_max: u64,
    /// Longest value.
    pub value_bytes_max: u64,
    /// Writes in flight (proposed, not applied) over all replicas of the core; more are refused as busy.
    pub inflight_bytes_max: u64,
    /// Reads of one shard that wait for a quorum or for apply; more are refused as busy.
    pub reads_bytes_max: u64,
    /// How long a request may wait.
    pub request_timeout: Nanos,
    /// Log size at which state machines are flushed so that it can be purged.
    pub wal_retain_bytes: u64,
    /// Time between checkpoints of a shard that changed; zero for none.
    pub snapshot_interval: Nanos,
    /// Log bytes of a shard between checkpoints; zero for none.
    pub snapshot_threshold_bytes: u64,
    /// Log of one shard that is kept for replicas that lag; one that needs more gets a snapshot.
    pub log_bytes_max: u64,
    /// Snapshots being sent at a time.
    pub snapshots_sending_max: usize,
    /// Whether idle groups stop their heartbeats.
    pub hibernate: bool,
    /// How long the log may take to write a batch before this core hands its leaderships over; zero for any time.
    pub slow_write: Nanos,
    /// How long a node is silent before its replicas are placed elsewhere; zero for ever.
    pub replace_after: Nanos,
    /// Shards that the controller lets move at a time.
    pub moves_max: usize,
}

/// A replica to start with: its state machine, opened, and how far that is applied.
pub struct ReplicaSeed {
    /// The shard.
    pub shard: u32,
    /// Which of this node's successive replicas of the shard: see [`crate::replica_id`].
    pub generation: u64,
    /// Its data.
    pub engine: Arc<dyn StorageEngine>,
    /// The last entry the state machine has applied; it is durable, for it was just opened.
    pub applied: Index,
    /// The term of that entry.
    pub applied_term: Term,
    /// The members of the group as of that entry; nobody for a replica that has yet to be taken in.
    pub conf_state: ConfState,
    /// The cluster map as of that entry, if it is the meta shard's.
    pub topology: Option<Topology>,
    /// The slots that the state machine has on record as its own; `None`: those that the map gives the shard.
    pub domain: Option<Domain>,
}

/// A `Ready` whose log records are not flushed yet.
struct Unflushed {
    lsn: Lsn,
    replica: ReplicaId,
    ready: ReadyId,
    messages: Vec<Message>,
}

/// One core's machine.
pub struct Core {
    config: CoreConfig,
    map: ClusterMap,
    /// Who each shard's group began with: what a new replica takes for its members until its log tells more.
    founders: Vec<ConfState>,
    wal: Rc<RefCell<Wal>>,
    /// By shard number; `None` where another core hosts the shard.
    replicas: Vec<Option<Replica>>,
    /// Shards touched in this turn, each once.
    touched: VecDeque<u32>,
    is_touched: Vec<bool>,
    unflushed: VecDeque<Unflushed>,
    outbox: peers::Outbox,
    /// For how long other nodes vote for nobody else, as each said last.
    vote_holds: BTreeMap<u64, Nanos>,
    namesakes: namesakes::Namesakes,
    lane: apply::Lane,
    balance: balance::Balance,
    standing: cluster::Standing,
    epochs: epochs::Epochs,
    control: control::Control,
    /// Replicas whose state machines are being opened.
    creating: Vec<replicas::Creating>,
    /// Streams made for replicas that will be made from other shards'.
    expected: Vec<division::Expected>,
    /// Split entries that wait to hear what came of an earlier one: core of the parent, new shard, parent.
    postponed: Vec<(u32, u32, u32)>,
    /// Removed replicas whose data go once the log says so: by the end of that record.
    removals: VecDeque<(Lsn, Effect)>,
    sending: snapshots::Sending,
    writes: handover::WriteWatch,
    /// Whether the log was slow at the last look.
    log_is_slow: bool,
    /// Until when a core that was asked to end waits for its groups to be taken over.
    leaving: Option<Nanos>,
    has_stopped: bool,
    /// Shards whose replicas get ticks, each once.
    awake: Vec<u32>,
    /// Replicas made so far by this process.
    incarnations: u64,
    /// Where the core's random numbers are.
    random: u64,
    /// Leaders of all shards, as this core's replicas or the sibling cores know them; 0 for none.
    leaders: Vec<u64>,
    siblings: Vec<Option<CoreStatus>>,
    /// Whether the siblings should hear of this core's shards before the next round.
    status_due: bool,
    ticks: u32,
    now: Nanos,
    wall_ms: u64,
    next_tick: Nanos,
    /// When followers that sleep next ask whether they still belong.
    sleepers_ask_at: Nanos,
    /// The end of the log when it was last sealed.
    sealed: Lsn,
    inflight_bytes: u64,
    /// What this turn may still answer.
    budget: Budget,
    counters: Counters,
    stages: Stages,
    effects: Vec<Effect>,
}

impl Core {
    /// A core with the replicas it holds, as recovered: the seeds, each of a shard that has its place on this core. The
    /// map must list this node, and every shard's founding replicas. `seed` feeds its randomness, and must differ between nodes, cores and starts.
    pub fn new(
        config: CoreConfig,
        map: ClusterMap,
        wal: Wal,
        seeds: Vec<ReplicaSeed>,
        seed: u64,
    ) -> Result<Core, raft::ConfigError> {
        let shards = map.shards.len();
        let mut replicas: Vec<Option<Replica>> = Vec::new();
        replicas.resize_with(shards, || None);
        let mut core = Core {
            outbox: peers::Outbox::new(&map, config.node, config.core, config.cores),
            vote_holds: BTreeMap::new(),
            namesakes: namesakes::Namesakes::default(),
            lane: apply::Lane::default(),
            balance: balance::Balance::default(),
            standing: cluster::Standing::default(),
            epochs: epochs::Epochs::of(&map),
            control: control::Control::default(),
            creating: Vec::new(),
            expected: Vec::new(),
            postponed: Vec::new(),
            removals: VecDeque::new(),
            sending: snapshots::Sending::default(),
            writes: handover::WriteWatch::default(),
            log_is_slow: false,
            leaving: None,
            has_stopped: false,
            awake: Vec::new(),
            incarnations: 0,
            random: seed ^ (config.node << 48) ^ (u64::from(config.core) << 32),
            leaders: vec![0; shards],
            siblings: vec![None; usize_of(config.cores)],
            config,
            founders: map.shards.iter().map(|shard| placement::founders(&map, shard.id)).collect(),
            map,
            wal: Rc::new(RefCell::new(wal)),
            replicas,
            touched: VecDeque::new(),
            status_due: false,
            ticks: 0,
            is_touched: vec![false; shards],
            unflushed: VecDeque::new(),
            now: Nanos(0),
            wall_ms: 0,
            next_tick: Nanos(0),
            sleepers_ask_at: Nanos(0),
            sealed: Lsn::default(),
            inflight_bytes: 0,
            budget: Budget::of_a_turn(),
            counters: Counters::default(),
            stages: Stages::default(),
            effects: Vec::new(),
        };
        for mut seed in seeds {
            let newer = seed.topology.take();
            let id = core.next_replica_id(seed.shard);
            core.start_replica(id, seed)?;
            if let Some(topology) = newer {
                core.follow_topology(topology);
            }
        }
        Ok(core)
    }

    /// Takes one event in. Effects come out of [`settle`](Core::settle), which ends the turn.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { now, wall_ms } => self.on_time(now, wall_ms),
            Event::Request { origin, request } => self.on_request(origin, request),
            Event::Forwarded { connection, reply } => {
                let origin = Origin { core: self.config.core, connection };
                self.effects.push(Effect::Reply { origin, reply });
            }
            Event::Peer { node, core, messages } => self.on_peer(node, core, messages),
            Event::PeerLinked { node, vote_hold, store } => {
                self.namesakes.linked(node, store);
                self.on_peer_linked(node, vote_hold);
            }
            Event::PeerLost { node } => {
                self.namesakes.lost(node);
                self.on_peer_lost(node);
            }
            Event::WalWritten { batch } => self.on_wal_written(batch),
            Event::SegmentDone { task } => self.wal.borrow_mut().on_segment_task_done(task),
            Event::EntriesRead { replica, fetch, result } => {
                if let Some(shard) = self.current(replica) {
                    self.replica_mut(shard).raft.on_entries_fetched(fetch, result);
                    self.touch(shard);
                }
            }
            Event::Applied(applied) => self.on_applied(applied),
            Event::Read(done) => self.effects.push(Effect::Reply { origin: done.origin, reply: done.reply }),
            Event::Durable { replica, index } => self.on_durable(replica, index),
            Event::SnapshotSent { replica, to, outcome } => self.on_snapshot_sent(replica, to, outcome),
            Event::SnapshotReceived { from, to, term, snapshot } => {
                self.on_snapshot_received(from, to, term, snapshot);
            }
            Event::SnapshotInstalled { replica, result } => self.on_snapshot_installed(replica, result),
            Event::SnapshotTaken { replica, snapshot } => self.on_snapshot_taken(replica, snapshot),
            Event::ReplicaCreated { replica, engine } => self.on_replica_created(replica, engine),
            Event::Kin { core, kin } => self.on_kin(core, kin),
            Event::ReplicaOpened { replica, opened } => self.on_replica_opened(replica, opened),
            Event::Sibling(status) => self.on_sibling(status),
            Event::Map(news) => self.on_map_news(&news),
            Event::Reports(reports) => self.on_reports(reports),
            Event::Shutdown => self.on_shutdown(),
        }
    }

    /// Whether there is work that waits for nothing but another turn.
    pub fn wants_turn(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The cluster map with the members of the groups, and without their leaders.
    pub fn known_map(&self) -> &ClusterMap {
        &self.map
    }

    /// The cluster map with the leaders this core knows.
    pub fn map(&self) -> ClusterMap {
        let mut map = self.map.clone();
        for shard in &mut map.shards {
            let leader = self.leaders[usize_of(shard.id)];
            // One that was removed may still be the last that was heard of.
            shard.leader = shard.replica_on(leader).map(|replica| replica.node);
        }
        map
    }

    /// The node that leads a shard, as far as this one knows.
    pub fn leader_of(&self, shard: u32) -> Option<u64> {
        self.leaders.get(usize_of(shard)).copied().filter(|leader| *leader != 0)
    }

    /// Whether this node has a replica of a shard that belongs to its group.
    pub fn hosts(&self, shard: u32) -> bool {
        let info = self.map.shards.get(usize_of(shard));
        info.is_some_and(|info| info.replica_on(self.config.node).is_some())
    }

    /// The storage engines of this core's replicas, by shard.
    pub fn engines(&self) -> Vec<(u32, Engine)> {
        let engine = |replica: &Replica| (replica.id.shard, Engine(replica.engine.clone()));
        self.replicas.iter().flatten().map(engine).collect()
    }

    /// Takes note that a replica has work for the end of the turn.
    fn touch(&mut self, shard: u32) {
        let touched = &mut self.is_touched[usize_of(shard)];
        if !*touched {
            *touched = true;
            self.touched.push_back(shard);
        }
    }

    /// The shard of a replica if that replica is still the current one.
    fn current(&self, id: ReplicaId) -> Option<u32> {
        let replica = self.replicas.get(usize_of(id.shard))?.as_ref()?;
        (replica.id == id).then_some(id.shard)
    }

    fn replica_mut(&mut self, shard: u32) -> &mut Replica {
        self.replicas[usize_of(shard)].as_mut().expect("the shard is hosted by this core")
    }
}

fn start_raft(
    config: &CoreConfig,
    wal: &Rc<RefCell<Wal>>,
    seed: &ReplicaSeed,
    random: u64,
) -> Result<RawNode<WalLog>, raft::ConfigError> {
    let stream = StreamId(replica_id::stream_id(seed.shard, seed.generation));
    reset_if_behind(&mut wal.borrow_mut(), stream, seed);
    let state = wal.borrow().state(stream);
    let mut hard_state = state.map(crate::convert::hard_state).unwrap_or_default();
    // A crash may keep a Ready's entries and lose the state written behind them. Nothing was promised in their term:
    // promises wait for the whole Ready.
    let last = wal.borrow().last_index(stream);
    if let Ok(term) = wal.borrow().term(stream, last)
        && Term(term) > hard_state.term
    {
        hard_state = raft::HardState { term: Term(term), vote: None, ..hard_state };
    }
    // The commit index is not written on its own, so it may lag behind what was applied and made durable.
    hard_state.commit = hard_state.commit.max(seed.applied);
    let initial =
        raft::InitialState { hard_state, conf_state: seed.conf_state.clone(), applied: seed.applied };
    let id = raft::NodeId(replica_id::raft_id(config.node, seed.generation));
    let raft_config = raft::Config { id, ..config.raft.clone() };
    RawNode::new(raft_config, initial, WalLog::new(wal.clone(), stream), random)
}

/// A crash after a snapshot was installed, and before the log's reset was on disk, leaves a log that ends before the
/// state machine or tells of another entry at its position. The state machine's entries were committed: the log follows.
fn reset_if_behind(wal: &mut Wal, stream: StreamId, seed: &ReplicaSeed) {
    let (index, term) = (seed.applied.0, seed.applied_term.0);
    let disagrees = wal.term(stream, index).is_ok_and(|held| held != term);
    if wal.last_index(stream) < index || disagrees {
        tracing::warn!(shard = seed.shard, index, term, "the log goes on from an installed snapshot");
        wal.reset(stream, index, term);
    }
}

/// Shards, cores and nodes are numbered in 32 bits; this machine has 64.
fn usize_of(number: u32) -> usize {
    usize::try_from(number).expect("64-bit machine")
}

/// A frame's worth of messages for one core of one node.
type Parcel = Vec<GroupMessage>;

#[cfg(test)]
mod tests;
