//! What becomes of an attempt: answered, refused, lost, overdue; and what that means for its request.
//!
//! ```text
//!   refused, not executed      try again (elsewhere, later), or give up: it did not take effect
//!   lost, or refused in doubt  a read, or a write with a stamp: try again; else Indeterminate
//!   overdue                    sent or in doubt: Indeterminate; else TimedOut
//! ```

use super::operations::{OpId, Operation, State};
use super::{ClientCore, ConnectionId, Effect};
use crate::client::{ClientError, ConnectError};
use crate::protocol::{Answer, Op, Oversize, Refusal, Reply};
use crate::types::{Nanos, RequestId};
use std::time::Duration;

/// Redirects followed without a pause; more mean that two nodes point at each other.
const REDIRECTS_MAX: u32 = 3;

/// How soon to try again.
enum Pause {
    /// At once, the first time; then with growing pauses.
    Short,
    /// With growing pauses, at least this long.
    AtLeast(Duration),
    /// With growing pauses, at most this long.
    AtMost(Duration),
}

/// How long a map that is being asked for may take, as long as all is well.
const MAP_PAUSE: Duration = Duration::from_millis(15);

impl ClientCore {
    pub(super) fn on_reply(&mut self, id: ConnectionId, reply: Reply, now: Nanos) {
        let Some(op) = self.answered(id, reply.id, now) else { return };
        match reply.result {
            Ok(answer) => {
                if let Answer::ClusterMap(map) = &answer {
                    let from = self.connections.get(id).and_then(|connection| connection.node);
                    self.install_map(map.clone(), from, now);
                }
                if let Some(operation) = self.detach(op) {
                    self.complete(op, operation, Ok(answer));
                }
            }
            Err(refusal) => self.on_refusal(op, id, refusal, now),
        }
        self.pump(id, now);
    }

    pub(super) fn on_garbled(&mut self, id: ConnectionId, request: RequestId, now: Nanos) {
        let Some(op) = self.answered(id, request, now) else { return };
        if let Some(operation) = self.operations.get_mut(op) {
            operation.doubtful |= operation.request.op.is_write();
            self.fail(op, ClientError::UnexpectedAnswer);
        }
        self.pump(id, now);
    }

    pub(super) fn on_unsendable(&mut self, request: RequestId, length: u64, limit: u32, now: Nanos) {
        let Some((op, operation)) = self.operations.by_request(request) else { return };
        if let State::InFlight(id) = operation.state {
            self.take_off(op, id);
            self.fail(
                op,
                ClientError::TooLarge { what: Oversize::Request, actual: length, limit: u64::from(limit) },
            );
            self.pump(id, now);
        }
    }

    pub(super) fn on_closed(&mut self, id: ConnectionId, why: &str, now: Nanos) {
        let Some(connection) = self.connections.remove(id) else { return };
        self.health.failed(&connection.address, now, &mut self.random);
        let why = format!("{}: {why}", connection.address);
        for op in self.operations.ids() {
            let Some(operation) = self.operations.get_mut(op) else { continue };
            let sent = operation.state == State::InFlight(id);
            if !sent && operation.state != State::Queued(id) {
                continue;
            }
            operation.state = State::Idle;
            self.on_lost(op, sent, why.clone(), now);
        }
        if self.table.is_some() {
            self.fetch_map(now);
        }
    }

    pub(super) fn on_deadline(&mut self, now: Nanos) {
        for (id, why) in self.connections.overdue(now, self.config.silence_timeout) {
            self.effects.push_back(Effect::Close { connection: id });
            self.on_closed(id, why, now);
        }
        while let Some(&(at, op)) = self.deadlines.front() {
            if at > now && self.operations.contains(op) {
                break;
            }
            self.deadlines.pop_front();
            self.expire(op, now);
        }
        // Ends: pauses are never zero, so what is parked again is parked later than now.
        while let Some(&(at, op)) = self.parked.first().filter(|(at, _)| *at <= now) {
            self.parked.remove(&(at, op));
            self.dispatch(op, now);
        }
    }

    /// Ends an operation: with this error, unless it may have been executed after all.
    pub(super) fn fail(&mut self, op: OpId, error: ClientError) {
        let Some(operation) = self.detach(op) else { return };
        let error = if operation.may_have_executed() {
            ClientError::Indeterminate { cause: error.to_string() }
        } else {
            error
        };
        self.complete(op, operation, Err(error));
    }

    /// Removes an operation from everything that knows it.
    pub(super) fn detach(&mut self, op: OpId) -> Option<Operation> {
        let operation = self.operations.remove(op)?;
        match operation.state {
            State::InFlight(id) => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.released(operation.size_bytes);
                }
            }
            State::Parked(at) => {
                self.parked.remove(&(at, op));
            }
            State::Idle | State::Queued(_) => {}
        }
        while let Some((_, ended)) = self.deadlines.front()
            && !self.operations.contains(*ended)
        {
            self.deadlines.pop_front();
        }
        Some(operation)
    }

    /// Reports the end of an operation that has been detached.
    pub(super) fn complete(&mut self, op: OpId, operation: Operation, result: Result<Answer, ClientError>) {
        self.settle_session(&operation);
        if self.map_fetch != Some(op) {
            self.effects.push_back(Effect::Complete { op, token: operation.token, result });
            return;
        }
        self.map_fetch = None;
        if let (Err(error), None) = (result, &self.table) {
            let last = operation.last.unwrap_or_else(|| error.to_string());
            self.effects.push_back(Effect::Unreachable { error: ConnectError::Unreachable { last } });
        }
    }

    /// A write that ends will not be sent again: its session may forget it.
    pub(super) fn settle_session(&mut self, operation: &Operation) {
        if let Op::Write { session: Some(stamp), .. } = &operation.request.op {
            self.session.settle(stamp);
        }
    }

    /// The operation in flight here under this id, taken off the connection.
    fn answered(&mut self, id: ConnectionId, request: RequestId, now: Nanos) -> Option<OpId> {
        let found = self.operations.by_request(request);
        let op = found.filter(|(_, it)| it.state == State::InFlight(id)).map(|(op, _)| op);
        if let Some(op) = op {
            self.take_off(op, id);
        }
        self.connections.get_mut(id)?.heard(now);
        op
    }

    fn take_off(&mut self, op: OpId, id: ConnectionId) {
        if let Some(operation) = self.operations.get_mut(op) {
            operation.state = State::Idle;
            if let Some(connection) = self.connections.get_mut(id) {
                connection.released(operation.size_bytes);
            }
        }
    }

    fn on_refusal(&mut self, op: OpId, id: ConnectionId, refusal: Refusal, now: Nanos) {
        match refusal {
            Refusal::Busy { retry_after_ms } => {
                let pause = Duration::from_millis(u64::from(retry_after_ms));
                self.retry(op, refusal.to_string(), Pause::AtLeast(pause), now);
            }
            Refusal::NotLeader { leader, epoch } => self.on_not_leader(op, id, leader, epoch, now),
            Refusal::WrongShard { epoch } => {
                self.forget_leader(op, id);
                // A newer map is on its way, and tells where to go: however often it was tried before.
                let is_behind = self.table.as_ref().is_some_and(|table| epoch > table.epoch());
                let pause = if is_behind { Pause::AtMost(MAP_PAUSE) } else { Pause::AtLeast(Duration::ZERO) };
                self.fetch_map(now);
                self.retry(op, refusal.to_string(), pause, now);
            }
            Refusal::Unavailable { .. } => {
                self.retry(op, refusal.to_string(), Pause::AtLeast(Duration::ZERO), now);
            }
            Refusal::Invalid { .. } | Refusal::Conflict { .. } | Refusal::TooLarge { .. } => {
                self.fail(op, ClientError::Refused(refusal));
            }
            Refusal::SessionExpired => self.on_session_expired(op, now),
            Refusal::Timeout => self.on_lost(op, true, refusal.to_string(), now),
            Refusal::Internal { .. } => {
                if let Some(operation) = self.operations.get_mut(op) {
                    operation.doubtful |= operation.request.op.is_write();
                    self.fail(op, ClientError::Refused(refusal));
                }
            }
        }
    }

    fn on_not_leader(&mut self, op: OpId, id: ConnectionId, leader: Option<u64>, epoch: u64, now: Nanos) {
        let Some(operation) = self.operations.get_mut(op) else { return };
        let shard = operation.request.shard;
        let answering = self.connections.get(id).and_then(|connection| connection.node);
        // A node that names itself has just lost the leadership, or is confused.
        let hint = leader.filter(|_| leader != answering);
        let Some(table) = &mut self.table else { return };
        let known = table.map().shard(shard).and_then(|info| info.leader);
        if hint.is_some() || known == answering {
            table.set_leader(shard, hint);
        }
        if epoch > table.epoch() {
            self.fetch_map(now);
        }
        let Some(operation) = self.operations.get_mut(op) else { return };
        if hint.is_some() && operation.redirects < REDIRECTS_MAX {
            operation.redirects += 1;
            self.dispatch(op, now);
            return;
        }
        self.retry(op, "no leader known".to_owned(), Pause::AtLeast(Duration::ZERO), now);
    }

    /// A node without the shard does not lead it: ask the others, whatever the map says.
    fn forget_leader(&mut self, op: OpId, id: ConnectionId) {
        let Some(operation) = self.operations.get_mut(op) else { return };
        let answering = self.connections.get(id).and_then(|connection| connection.node);
        if let Some(table) = &mut self.table {
            let known = table.map().shard(operation.request.shard).and_then(|info| info.leader);
            if known.is_some() && known == answering {
                table.set_leader(operation.request.shard, None);
            }
        }
    }

    /// This attempt was not executed. If an earlier one was not either, the write starts over in a new
    /// session.
    fn on_session_expired(&mut self, op: OpId, now: Nanos) {
        let Some(operation) = self.operations.get_mut(op) else { return };
        if operation.doubtful {
            self.fail(op, ClientError::Refused(Refusal::SessionExpired));
            return;
        }
        if let Op::Write { session: Some(stamp), .. } = &mut operation.request.op {
            if stamp.client == self.session.client() {
                self.session = super::Session::new(self.random.next());
            }
            *stamp = self.session.stamp();
        }
        self.retry(op, Refusal::SessionExpired.to_string(), Pause::Short, now);
    }

    /// An attempt has no outcome. `sent`: it may have been executed.
    fn on_lost(&mut self, op: OpId, sent: bool, why: String, now: Nanos) {
        let Some(operation) = self.operations.get_mut(op) else { return };
        operation.doubtful |= sent && operation.request.op.is_write();
        if operation.doubtful && !operation.is_repeatable() {
            self.fail(op, ClientError::TimedOut { last: why });
            return;
        }
        self.retry(op, why, Pause::Short, now);
    }

    fn retry(&mut self, op: OpId, why: String, pause: Pause, now: Nanos) {
        let Some(operation) = self.operations.get_mut(op) else { return };
        operation.last = Some(why);
        operation.retries = operation.retries.saturating_add(1);
        let retries = operation.retries;
        let pause = match pause {
            Pause::Short if retries == 1 => {
                self.dispatch(op, now);
                return;
            }
            Pause::Short => self.health.backoff(retries, &mut self.random),
            Pause::AtLeast(least) => self.health.backoff(retries, &mut self.random).max(least),
            Pause::AtMost(most) => self.health.backoff(retries, &mut self.random).min(most),
        };
        self.park(op, now.after(pause));
    }

    fn expire(&mut self, op: OpId, now: Nanos) {
        let Some(operation) = self.operations.get_mut(op) else { return };
        let state = operation.state;
        let last = operation.last.take().unwrap_or_else(|| "no answer".to_owned());
        operation.last = Some(last.clone());
        self.fail(op, ClientError::TimedOut { last });
        if let State::InFlight(id) = state {
            self.pump(id, now);
        }
    }
}
