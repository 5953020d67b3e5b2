//! Everything that can happen to a core. Drivers and the simulator make these; [`Core::handle`](super::Core::handle)
//! takes them in any order the world produces.

use net::peer::{GroupMessage, ShardReport};
use net::protocol::{Reply, Request};
use raft::{Entry, FetchId, Index, LogReadError, Nanos};
use wal::{BatchId, SegmentTask};

use super::{
    Applied, ConnectionId, CoreStatus, Engine, Installed, Kin, MapNews, Opened, ReadDone, ReceivedSnapshot,
    ReplicaId, TakenSnapshot, Transfer,
};

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// Time passed.
    Tick {
        /// Monotonic time of this node.
        now: Nanos,
        /// Wall-clock time in milliseconds since 1970, stamped into commands by leaders.
        wall_ms: u64,
    },
    /// A client asked for something on a connection of this core.
    Request {
        /// Where the answer goes.
        origin: Origin,
        /// What is asked.
        request: Request,
    },
    /// Another core of this node answered a request that this one forwarded.
    Forwarded {
        /// The connection that waits.
        connection: ConnectionId,
        /// The answer.
        reply: Reply,
    },
    /// Messages of a peer's groups arrived; none at all is a sign of life.
    Peer {
        /// The node that sent them.
        node: u64,
        /// The core there.
        core: u32,
        /// The messages of one frame.
        messages: Vec<GroupMessage>,
    },
    /// A node was linked to.
    PeerLinked {
        /// The node.
        node: u64,
        /// For how long, by its own clock, its replicas vote for nobody else after they heard a leader; zero where they
        /// keep no such promise.
        vote_hold: Nanos,
        /// The identity of its data directory; 0: not known.
        store: u64,
    },
    /// The connection to a node's core broke, or messages for it were dropped.
    PeerLost {
        /// The node.
        node: u64,
    },
    /// A batch of the write-ahead log is on disk.
    WalWritten {
        /// Which one.
        batch: BatchId,
    },
    /// A segment was created, recycled or deleted.
    SegmentDone {
        /// What was asked for.
        task: SegmentTask,
    },
    /// Entries that had left the cache were read back from the log.
    EntriesRead {
        /// Whose.
        replica: ReplicaId,
        /// Raft's name for the read.
        fetch: FetchId,
        /// The entries, or why there are none.
        result: Result<Vec<Entry>, LogReadError>,
    },
    /// The apply lane finished a task.
    Applied(Vec<Applied>),
    /// A reader finished.
    Read(ReadDone),
    /// A state machine told how far it is durable.
    Durable {
        /// Whose.
        replica: ReplicaId,
        /// Every entry up to here survives a crash without the log.
        index: Index,
    },
    /// A snapshot was sent to a follower, or could not be.
    SnapshotSent {
        /// The leader's replica.
        replica: ReplicaId,
        /// Raft id of the follower's replica.
        to: u64,
        /// How that ended.
        outcome: Transfer,
    },
    /// A snapshot from a leader is complete and verified on this node's disk.
    SnapshotReceived {
        /// Raft id of the leader's replica.
        from: u64,
        /// Raft id of the replica it is for.
        to: u64,
        /// The leader's term when it was sent.
        term: u64,
        /// What and where it is.
        snapshot: ReceivedSnapshot,
    },
    /// A snapshot took the place of a state machine's data, durably; or nothing changed.
    SnapshotInstalled {
        /// Whose.
        replica: ReplicaId,
        /// Where the state machine is now; an error when it is where it was.
        result: Result<Installed, ()>,
    },
    /// A snapshot of a state machine was taken.
    SnapshotTaken {
        /// Whose.
        replica: ReplicaId,
        /// What was taken; `None` when it could not be.
        snapshot: Option<TakenSnapshot>,
    },
    /// An empty state machine was opened for a new replica.
    ReplicaCreated {
        /// The replica.
        replica: ReplicaId,
        /// Its engine.
        engine: Engine,
    },
    /// The state machine of a new shard's replica was opened.
    ReplicaOpened {
        /// The replica.
        replica: ReplicaId,
        /// Where it is.
        opened: Opened,
    },
    /// Another core of this node has something to say about a shard to come.
    Kin {
        /// Which core.
        core: u32,
        /// What it says.
        kin: Kin,
    },
    /// Another core of this node told of its shards.
    Sibling(CoreStatus),
    /// A cluster map, or how it changed, from another core of this node or from a client's door: taken as far as it is
    /// newer. Changes go on from a map that this core has had.
    Map(MapNews),
    /// Another core of this node tells how groups stand.
    Reports(Vec<ShardReport>),
    /// The process was asked to end: hand every leadership over.
    Shutdown,
}

/// Where a request came from and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The core of this node that holds the connection.
    pub core: u32,
    /// The connection on that core.
    pub connection: ConnectionId,
}
