//! Everything a core asks of the world. The driver carries effects out; their completions come back as
//! [`Event`](super::Event)s.

use std::sync::Arc;

use net::peer::GroupMessage;
use net::protocol::{Reply, Request};
use raft::{FetchId, Index};
use wal::{ReadPlan, SegmentTask, WriteBatch};

use crate::store::StorageEngine;

use super::{ApplyBatch, ConnectionId, CoreStatus, Origin, ReadTask, ReplicaId};

/// A storage engine on its way to a thread that may block.
#[derive(Clone)]
pub struct Engine(pub Arc<dyn StorageEngine>);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
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
    /// Send the messages of all groups to one core of one node, in one go.
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
    /// Take a checkpoint of a state machine and keep only the newest few.
    Checkpoint {
        /// Whose.
        replica: ReplicaId,
        /// Its engine.
        engine: Engine,
        /// The applied index when it was asked for: its name.
        index: Index,
    },
    /// Tell the other cores of this node about this core's shards.
    Publish(CoreStatus),
}
