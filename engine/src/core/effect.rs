//! Everything a core asks of the world. The driver carries effects out; their completions come back as
//! [`Event`](super::Event)s.

use std::path::PathBuf;
use std::sync::Arc;

use net::map::ClusterMap;
use net::peer::{GroupMessage, ShardReport};
use net::protocol::{Reply, Request};
use raft::{FetchId, Index, SnapshotMeta, Term};
use wal::{ReadPlan, SegmentTask, WriteBatch};

use crate::machine::Domain;
use crate::store::StorageEngine;
use crate::topology::{Change, Topology, What};

use super::{ApplyBatch, ConnectionId, CoreStatus, Kin, Origin, ReadTask, ReplicaId};

/// A storage engine on its way to a thread that may block.
#[derive(Clone)]
pub struct Engine(pub Arc<dyn StorageEngine>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

/// How a core's map became a newer one.
#[derive(Clone, Debug)]
pub enum MapNews {
    /// It was replaced by this one. Who leads shards and belongs to them is not as this core knows it.
    Whole(Arc<ClusterMap>),
    /// These changes were made, one epoch after the other.
    Changes(Arc<[Change]>),
}

impl MapNews {
    /// Whether other nodes, or other addresses of nodes, may be in the map.
    pub fn is_of_nodes(&self) -> bool {
        let of_node = |change: &Change| {
            matches!(change.what, What::PutNode(_) | What::SetLeaving { .. } | What::RemoveNode { .. })
        };
        match self {
            MapNews::Whole(_) => true,
            MapNews::Changes(changes) => changes.iter().any(of_node),
        }
    }
}

/// How sending a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The follower has all of it.
    Complete,
    /// The follower took a part of it, and can be sent the rest.
    Broken,
    /// The follower was not reached, or did not want it, or not as it was.
    Refused,
}

/// A snapshot that a leader owes a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The shard.
    pub shard: u32,
    /// Raft id of the leader's replica.
    pub from: u64,
    /// Raft id of the follower's replica.
    pub to: u64,
    /// The node where that lives.
    pub node: u64,
    /// The core there.
    pub core: u32,
    /// The leader's term.
    pub term: u64,
    /// The snapshot must reach at least so far, or the log does not go on from it.
    pub index_min: u64,
}

/// A snapshot that came from a leader and lies complete and verified on this node's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedSnapshot {
    /// The shard.
    pub shard: u32,
    /// The position and the members it stands for.
    pub meta: SnapshotMeta,
    /// Its folder.
    pub place: PathBuf,
}

/// Where a state machine is after a snapshot was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The last entry that its state holds; durable.
    pub applied: Index,
    /// Its clock.
    pub time_ms: u64,
    /// The cluster map it holds, if it is the meta shard's.
    pub topology: Option<Box<Topology>>,
    /// The slots it has on record as its own.
    pub domain: Option<Domain>,
}

/// A snapshot that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenSnapshot {
    /// The last entry it holds.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// Bytes of its files.
    pub bytes: u64,
}

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Answer a request of a connection of this core, or hand the answer to the core that has it.
    Reply {
        /// Where to.
        origin: Origin,
        /// The answer.
        reply: Reply,
    },
    /// Hand a request to the core of this node that hosts its shard.
    Forward {
        /// Which core.
        core: u32,
        /// The connection that waits for the answer.
        connection: ConnectionId,
        /// The request.
        request: Request,
    },
    /// Send the messages of all groups to one core of one node, in one go. No messages are a sign of life, and sent too.
    Send {
        /// The node.
        node: u64,
        /// The core there.
        core: u32,
        /// The messages.
        messages: Vec<GroupMessage>,
    },
    /// Write a batch of the log; completes with [`Event::WalWritten`](super::Event::WalWritten). Failure is fatal.
    WriteWal(WriteBatch),
    /// Work on segment files; completes with [`Event::SegmentDone`](super::Event::SegmentDone).
    Segment(SegmentTask),
    /// Read entries back from the log; completes with [`Event::EntriesRead`](super::Event::EntriesRead).
    ReadWal {
        /// For whom.
        replica: ReplicaId,
        /// Raft's name for the read.
        fetch: FetchId,
        /// Where the bytes are.
        plan: ReadPlan,
    },
    /// Apply committed entries; completes with [`Event::Applied`](super::Event::Applied). At most two are under way.
    Apply(Vec<ApplyBatch>),
    /// Read what is not in memory; completes with [`Event::Read`](super::Event::Read).
    Read(ReadTask),
    /// Ask how far a state machine is durable, after making it so if `flush`; completes with
    /// [`Event::Durable`](super::Event::Durable).
    QueryDurable {
        /// Whose.
        replica: ReplicaId,
        /// Its engine.
        engine: Engine,
        /// Whether to flush first.
        flush: bool,
    },
    /// Take a snapshot of a state machine and keep only the newest few; completes with
    /// [`Event::SnapshotTaken`](super::Event::SnapshotTaken).
    TakeSnapshot {
        /// Whose.
        replica: ReplicaId,
        /// Its engine.
        engine: Engine,
        /// The applied index when it was asked for: its name.
        index: Index,
    },
    /// Take a snapshot of a state machine, or use one that reaches far enough, and send it to a follower; completes with
    /// [`Event::SnapshotSent`](super::Event::SnapshotSent), sent or not.
    SendSnapshot {
        /// The leader's replica.
        replica: ReplicaId,
        /// Its engine.
        engine: Engine,
        /// What to send, and where to.
        offer: SnapshotOffer,
    },
    /// Replace a state machine's data by a snapshot, on the thread that applies; nothing of the replica is being applied.
    /// Completes with [`Event::SnapshotInstalled`](super::Event::SnapshotInstalled).
    InstallSnapshot {
        /// Whose.
        replica: ReplicaId,
        /// Its engine.
        engine: Engine,
        /// The snapshot; it is consumed, installed or not.
        snapshot: ReceivedSnapshot,
    },
    /// A snapshot that was received is not wanted: remove it.
    DropSnapshot {
        /// Which.
        snapshot: ReceivedSnapshot,
    },
    /// Open an empty state machine in the folder of this generation, whatever was there before; completes with
    /// [`Event::ReplicaCreated`](super::Event::ReplicaCreated).
    CreateReplica {
        /// The replica to be.
        replica: ReplicaId,
        /// Its generation.
        generation: u64,
    },
    /// Open the state machine of a new shard's replica, which was made from another shard's, on the thread that applies;
    /// completes with [`Event::ReplicaOpened`](super::Event::ReplicaOpened).
    OpenReplica {
        /// The replica to be, of the founding generation.
        replica: ReplicaId,
    },
    /// Give the disk space of what was removed back, as far as that takes work, some time.
    Reclaim {
        /// The shard.
        shard: u32,
        /// The engine.
        engine: Engine,
    },
    /// Tell another core of this node something about a shard to come.
    TellKin {
        /// Which core.
        core: u32,
        /// What.
        kin: Kin,
    },
    /// Drop a state machine and remove its folder, on the thread that applies and after all that it was given.
    DestroyReplica {
        /// Whose.
        replica: ReplicaId,
        /// Its generation.
        generation: u64,
        /// Its engine.
        engine: Engine,
    },
    /// Tell the other cores of this node about this core's shards.
    Publish(CoreStatus),
    /// This core goes by a newer cluster map. The first core of a node keeps it on disk and tells the other cores
    /// ([`Event::Map`](super::Event::Map)); each links to new nodes, and forgets those that are gone.
    MapChanged(MapNews),
    /// Tell the first core of this node how this core's groups stand or, if this is the first, tell all others
    /// ([`Event::Reports`](super::Event::Reports)).
    Report(Vec<ShardReport>),
    /// What [`Event::Shutdown`](super::Event::Shutdown) asked for is done: the core leads nothing, or nobody takes over.
    Stopped,
}
