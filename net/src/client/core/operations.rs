//! Unfinished requests, in a slab. The id of a request on the wire holds its place in the slab and the
//! number of the attempt: a late reply to an earlier attempt, or to an ended request, finds nothing.

use super::ConnectionId;
use crate::protocol::{Access, Op, ReadConsistency, Request};
use crate::types::{Nanos, RequestId, wide};
use std::sync::Arc;

/// Names a submitted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId {
    place: u32,
    generation: u32,
}

/// Where an operation is to go.
#[derive(Clone, Debug)]
pub(super) enum Route {
    Slot(u16),
    Shard(u32),
    AnyNode,
    Endpoint(Arc<str>),
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being routed.
    Idle,
    /// Waits to be tried again at this time.
    Parked(Nanos),
    /// Waits for the connection to come up, or for room in its window.
    Queued(ConnectionId),
    /// Sent, not answered.
    InFlight(ConnectionId),
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) route: Route,
    /// The submitter's own number for it.
    pub(super) token: u64,
    pub(super) request: Request,
    pub(super) size_bytes: usize,
    pub(super) state: State,
    /// Attempts that failed, redirects not counted.
    pub(super) retries: u32,
    /// Redirects followed at once since the last pause.
    pub(super) redirects: u32,
    /// An earlier attempt of this write may have been executed.
    pub(super) doubtful: bool,
    /// Why the last attempt failed.
    pub(super) last: Option<String>,
}

impl Operation {
    pub(super) fn new(route: Route, namespace: u8, op: Op) -> Operation {
        Operation {
            route,
            token: 0,
            request: Request { id: RequestId(0), shard: 0, epoch: 0, namespace, op },
            size_bytes: 0,
            state: State::Idle,
            retries: 0,
            redirects: 0,
            doubtful: false,
            last: None,
        }
    }

    /// Whether, given up now, it may have taken effect.
    pub(super) fn may_have_executed(&self) -> bool {
        let sent = matches!(self.state, State::InFlight(_));
        self.request.op.is_write() && (sent || self.doubtful)
    }

    /// Says in the stamp of a write whether an earlier attempt may have been executed.
    pub(super) fn mark_retry(&mut self) {
        if let Op::Write { session: Some(stamp), .. } = &mut self.request.op {
            stamp.retry = self.doubtful;
        }
    }

    /// Whether sending it again is safe after an attempt that may have been executed.
    pub(super) fn is_repeatable(&self) -> bool {
        match &self.request.op {
            Op::Write { session, .. } => session.is_some(),
            Op::Admin(op) => !op.is_change(),
            Op::Execute { consistency, .. } => matches!(consistency, Access::Read(_)),
            _ => true,
        }
    }

    /// Whether only the leader of the shard will do.
    pub(super) fn needs_leader(&self) -> bool {
        match &self.request.op {
            Op::Get { consistency, .. }
            | Op::Exists { consistency, .. }
            | Op::Scan { consistency, .. }
            | Op::Count { consistency, .. }
            | Op::Execute { consistency: Access::Read(consistency), .. } => {
                *consistency == ReadConsistency::Linearizable
            }
            Op::Write { .. }
            | Op::Admin(_)
            | Op::Cluster(_)
            | Op::Execute { consistency: Access::Write(_), .. } => true,
            Op::ClusterMap | Op::Status => false,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    generation: u32,
    operation: Option<Operation>,
}

/// The slab.
#[derive(Debug, Default)]
pub(super) struct Operations {
    entries: Vec<Entry>,
    free: Vec<u32>,
    queued_bytes: usize,
    attempts: u32,
}

impl Operations {
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(super) fn ids(&self) -> Vec<OpId> {
        let live = self.entries.iter().zip(0u32..).filter(|(entry, _)| entry.operation.is_some());
        live.map(|(entry, place)| OpId { place, generation: entry.generation }).collect()
    }

    pub(super) fn insert(&mut self, operation: Operation) -> OpId {
        self.queued_bytes += operation.size_bytes;
        let place = self.free.pop().unwrap_or_else(|| {
            // Each entry is larger than a byte: 2^32 of them do not fit the bound on queued bytes.
            let place = u32::try_from(self.entries.len()).expect("fewer than 2^32 unfinished requests");
            self.entries.push(Entry::default());
            place
        });
        let entry = &mut self.entries[wide(place)];
        entry.operation = Some(operation);
        OpId { place, generation: entry.generation }
    }

    pub(super) fn get_mut(&mut self, op: OpId) -> Option<&mut Operation> {
        let entry = self.entries.get_mut(wide(op.place))?;
        if entry.generation == op.generation { entry.operation.as_mut() } else { None }
    }

    pub(super) fn contains(&self, op: OpId) -> bool {
        let entry = self.entries.get(wide(op.place));
        entry.is_some_and(|entry| entry.generation == op.generation && entry.operation.is_some())
    }

    pub(super) fn remove(&mut self, op: OpId) -> Option<Operation> {
        let entry = self.entries.get_mut(wide(op.place))?;
        if entry.generation != op.generation {
            return None;
        }
        let operation = entry.operation.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(op.place);
        self.queued_bytes -= operation.size_bytes;
        Some(operation)
    }

    /// Gives the operation the id of a new attempt.
    pub(super) fn begin_attempt(&mut self, op: OpId) -> RequestId {
        self.attempts = self.attempts.wrapping_add(1);
        let id = RequestId(u64::from(self.attempts) << 32 | u64::from(op.place));
        if let Some(operation) = self.get_mut(op) {
            operation.request.id = id;
        }
        id
    }

    /// The operation whose present attempt has this id.
    pub(super) fn by_request(&self, id: RequestId) -> Option<(OpId, &Operation)> {
        let place = u32::try_from(id.0 & u64::from(u32::MAX)).ok()?;
        let entry = self.entries.get(wide(place))?;
        let operation = entry.operation.as_ref().filter(|operation| operation.request.id == id)?;
        Some((OpId { place, generation: entry.generation }, operation))
    }
}
