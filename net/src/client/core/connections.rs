//! The table of connections: which there are, what state they are in, how much is in flight on each.

use super::operations::OpId;
use super::{ClientCore, ConnectionId, Effect, State};
use crate::map::ReplicaInfo;
use crate::types::Nanos;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Given up if not ready by then.
    Connecting(Nanos),
    Ready,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: Arc<str>,
    /// Known once the hello is answered, or when it was dialled for a replica.
    pub(super) node: Option<u64>,
    pub(super) phase: Phase,
    /// Operations that wait for it; may hold ended ones.
    queue: VecDeque<OpId>,
    in_flight: usize,
    in_flight_bytes: usize,
    /// Since when requests are in flight and nothing came; `None`: nothing is in flight.
    silent_since: Option<Nanos>,
}

#[derive(Debug, Default)]
pub(super) struct Connections {
    live: BTreeMap<ConnectionId, Connection>,
    by_core: BTreeMap<(u64, u32), ConnectionId>,
    opened: u64,
}

impl Connections {
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        self.live.keys().copied().collect()
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.live.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.live.get_mut(&id)
    }

    pub(super) fn to_core(&self, replica: ReplicaInfo) -> Option<ConnectionId> {
        self.by_core.get(&(replica.node, replica.core)).copied()
    }

    pub(super) fn to_address(&self, address: &str) -> Option<ConnectionId> {
        self.live.iter().find(|(_, it)| &*it.address == address).map(|(&id, _)| id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.live.iter().map(|(&id, connection)| (id, connection))
    }

    /// Learns where a connection has come out, if no other is known to lead there.
    pub(super) fn identify(&mut self, id: ConnectionId, node: u64, core: u32) {
        self.by_core.entry((node, core)).or_insert(id);
        if let Some(connection) = self.live.get_mut(&id) {
            connection.node = Some(node);
        }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.by_core.retain(|_, known| *known != id);
        self.live.remove(&id)
    }

    pub(super) fn next_deadline(&self, silence: Duration) -> Option<Nanos> {
        self.live.values().filter_map(|connection| connection.deadline(silence)).min()
    }

    /// Connections whose time is up, and why.
    pub(super) fn overdue(&self, now: Nanos, silence: Duration) -> Vec<(ConnectionId, &'static str)> {
        let overdue = self.live.iter().filter(|(_, it)| it.deadline(silence).is_some_and(|at| at <= now));
        overdue
            .map(|(&id, it)| match it.phase {
                Phase::Connecting(_) => (id, "no connection in time"),
                Phase::Ready => (id, "the server fell silent"),
            })
            .collect()
    }
}

impl Connection {
    fn deadline(&self, silence: Duration) -> Option<Nanos> {
        match self.phase {
            Phase::Connecting(until) => Some(until),
            Phase::Ready => self.silent_since.map(|since| since.after(silence)),
        }
    }

    /// Something came: the silence begins anew.
    pub(super) fn heard(&mut self, now: Nanos) {
        self.silent_since = (self.in_flight > 0).then_some(now);
    }

    fn sent(&mut self, size_bytes: usize, now: Nanos) {
        self.in_flight += 1;
        self.in_flight_bytes += size_bytes;
        self.silent_since.get_or_insert(now);
    }

    /// One request less in flight.
    pub(super) fn released(&mut self, size_bytes: usize) {
        self.in_flight -= 1;
        self.in_flight_bytes -= size_bytes;
        if self.in_flight == 0 {
            self.silent_since = None;
        }
    }
}

impl ClientCore {
    /// Dials. `replica`: the core it is meant for.
    pub(super) fn open(
        &mut self,
        address: Arc<str>,
        replica: Option<ReplicaInfo>,
        now: Nanos,
    ) -> ConnectionId {
        self.connections.opened += 1;
        let id = ConnectionId(self.connections.opened);
        let connection = Connection {
            address: Arc::clone(&address),
            node: replica.map(|replica| replica.node),
            phase: Phase::Connecting(now.after(self.config.connect_timeout)),
            queue: VecDeque::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            silent_since: None,
        };
        self.connections.live.insert(id, connection);
        if let Some(replica) = replica {
            self.connections.by_core.insert((replica.node, replica.core), id);
        }
        let wants_core = replica.map(|replica| replica.core);
        self.effects.push_back(Effect::Connect { connection: id, address, wants_core });
        id
    }

    /// Puts an operation on a connection, sending it at once if it may.
    pub(super) fn enqueue(&mut self, op: OpId, id: ConnectionId, now: Nanos) {
        if let (Some(operation), Some(connection)) =
            (self.operations.get_mut(op), self.connections.live.get_mut(&id))
        {
            operation.state = State::Queued(id);
            connection.queue.push_back(op);
            self.pump(id, now);
        }
    }

    /// Sends what waits for the connection, as far as its window allows; one request may always be in
    /// flight, however large.
    pub(super) fn pump(&mut self, id: ConnectionId, now: Nanos) {
        let Some(connection) = self.connections.live.get_mut(&id) else { return };
        if connection.phase != Phase::Ready {
            return;
        }
        while let Some(&op) = connection.queue.front() {
            let waiting = self.operations.get_mut(op).filter(|it| it.state == State::Queued(id));
            let Some(operation) = waiting else {
                connection.queue.pop_front();
                continue;
            };
            let bytes = connection.in_flight_bytes.saturating_add(operation.size_bytes);
            if connection.in_flight > 0 && bytes > self.config.inflight_bytes_max {
                return;
            }
            connection.queue.pop_front();
            operation.state = State::InFlight(id);
            operation.mark_retry();
            connection.sent(operation.size_bytes, now);
            let request = self.operations.begin_attempt(op);
            self.effects.push_back(Effect::Send { connection: id, id: request });
        }
    }
}
