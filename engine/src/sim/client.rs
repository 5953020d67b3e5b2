//! The clients: they find the leader, repeat what was not answered under the same stamp, and give up in the end.

use std::collections::HashMap;

use bytes::Bytes;
use net::map::ClusterMap;
use net::protocol::{Answer, Op, ReadConsistency, Refusal, Reply, Request, SessionStamp};
use net::slot::slot_of;
use net::types::RequestId;

use super::history::End;
use super::oracle::{Verdict, violated};
use super::plan::MS;
use super::rng::Rng;
use super::trace::note;
use super::workload::{Asked, Kind, Operation, ends, number_of};
use super::world::{Happening, World};
use crate::core::ConnectionId;
use crate::placement::core_of;
use crate::redis::table;

/// Attempts before a client gives an operation up.
const ATTEMPTS_MAX: u32 = 12;

/// A client's own timers.
#[derive(Clone, Copy, Debug)]
pub enum Timer {
    /// A slot is free for something new.
    Think { client: usize, slot: usize },
    /// An attempt was not answered in time.
    Patience { client: usize, slot: usize, request: RequestId },
    /// The next attempt is due.
    Retry { client: usize, slot: usize, invoked: u64 },
}

/// One client with a session.
pub struct Client {
    session: u64,
    next_sequence: u64,
    slots: Vec<Option<Pending>>,
    /// Slots that have a timer for their next operation.
    thinking: Vec<bool>,
    /// The node it takes for each shard's leader.
    leaders: Vec<Option<usize>>,
    /// What it last saw of a key: value and version.
    memory: HashMap<Bytes, (u64, u64)>,
}

/// An operation under way.
struct Pending {
    operation: Operation,
    sequence: Option<u64>,
    invoked: u64,
    attempts: u32,
    /// The attempt that is waited for.
    request: Option<RequestId>,
    /// Whether an earlier attempt may have been executed.
    doubtful: bool,
}

impl Client {
    /// A client that has done nothing.
    pub fn new(rng: &mut Rng, depth: usize, shards: u32) -> Client {
        Client {
            session: rng.next() | 1,
            next_sequence: 1,
            slots: (0..depth).map(|_| None).collect(),
            thinking: vec![false; depth],
            leaders: vec![None; usize::try_from(shards).expect("few shards")],
            memory: HashMap::new(),
        }
    }

    /// All sequences below were answered or given up.
    fn acked_below(&self) -> u64 {
        let open = self.slots.iter().flatten().filter_map(|pending| pending.sequence);
        open.min().unwrap_or(self.next_sequence)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

impl World {
    /// Lets every free slot of every client begin something.
    pub(super) fn begin_workload(&mut self) {
        for client in 0..self.workload.clients.len() {
            for slot in 0..self.workload.clients[client].slots.len() {
                self.think(client, slot);
            }
        }
    }

    fn think(&mut self, client: usize, slot: usize) {
        let of = &mut self.workload.clients[client];
        if of.slots[slot].is_none() && !of.thinking[slot] {
            of.thinking[slot] = true;
            let pause = self.workload.rng.around(self.workload.settings.think);
            self.after(pause, Happening::Client(Timer::Think { client, slot }));
        }
    }

    /// A client's timer fires.
    pub(super) fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Think { client, slot } => {
                self.workload.clients[client].thinking[slot] = false;
                self.begin_operation(client, slot);
            }
            Timer::Patience { client, slot, request } => {
                let pending = self.workload.clients[client].slots[slot].as_mut();
                let Some(pending) = pending.filter(|pending| pending.request == Some(request)) else {
                    return;
                };
                // It may be executed yet.
                pending.doubtful = true;
                pending.request = None;
                let shard = shard_index(pending.operation.shard);
                self.workload.unregister(request);
                self.workload.clients[client].leaders[shard] = None;
                self.again(client, slot, 0);
            }
            Timer::Retry { client, slot, invoked } => {
                let pending = self.workload.clients[client].slots[slot].as_ref();
                if pending.is_some_and(|pending| pending.invoked == invoked && pending.request.is_none()) {
                    self.attempt(client, slot);
                }
            }
        }
    }

    fn begin_operation(&mut self, client: usize, slot: usize) {
        let operation = match self.workload.assigned.pop() {
            Some(operation) => operation,
            None if self.workload.resting => return,
            None => {
                let memory = std::mem::take(&mut self.workload.clients[client].memory);
                let operation = self.workload.make_up(&memory);
                self.workload.clients[client].memory = memory;
                operation
            }
        };
        let of = &mut self.workload.clients[client];
        let sequence = (matches!(operation.kind, Kind::Write(_)) && operation.has_session).then(|| {
            of.next_sequence += 1;
            of.next_sequence - 1
        });
        let pending =
            Pending { operation, sequence, invoked: self.now, attempts: 0, request: None, doubtful: false };
        of.slots[slot] = Some(pending);
        self.attempt(client, slot);
    }

    /// Sends an operation, once more perhaps.
    fn attempt(&mut self, client: usize, slot: usize) {
        let of = &mut self.workload.clients[client];
        let acked_below = of.acked_below();
        let session = of.session;
        let pending = of.slots[slot].as_mut().expect("under way");
        pending.attempts += 1;
        let doubtful = pending.doubtful;
        let (keys, shard) = (keys_of(&pending.operation.op), pending.operation.shard);
        let routed = if keys.is_empty() { program_keys(&pending.operation.op) } else { keys.clone() };
        // The map of some node: not the newest, perhaps.
        let known = self.workload.rng.index(self.nodes.len());
        let known = self.nodes[known].map.as_deref().unwrap_or(&self.setup.map);
        let epoch = known.epoch;
        let mut shards: Vec<u32> = routed.iter().map(|key| shard_of(known, key)).collect();
        shards.dedup();
        if shards.len() > 1 {
            // Its keys were in one shard once. What an earlier attempt did, nobody will hear.
            let end = if doubtful { End::Indeterminate } else { End::Failed };
            let pending = self.workload.clients[client].slots[slot].as_ref().expect("under way");
            let ends = vec![end; pending.operation.actions.len()];
            return self.finish(client, slot, &ends);
        }
        let shard = shards.first().copied().unwrap_or(shard);
        let of = &mut self.workload.clients[client];
        let pending = of.slots[slot].as_mut().expect("under way");
        pending.operation.shard = shard;
        of.leaders.resize(of.leaders.len().max(shard_index(shard) + 1), None);
        let pending = of.slots[slot].as_mut().expect("under way");
        let mut op = pending.operation.op.clone();
        if let (Op::Write { session: stamp, .. }, Some(sequence)) = (&mut op, pending.sequence) {
            *stamp = Some(SessionStamp { client: session, sequence, acked_below, retry: pending.doubtful });
        }
        let kind = pending.operation.kind;
        let request = self.workload.register(Asked { shard, keys, kind, whose: (client, slot) });
        let of = &mut self.workload.clients[client];
        of.slots[slot].as_mut().expect("under way").request = Some(request);
        let anywhere = matches!(kind, Kind::Read(ReadConsistency::Follower | ReadConsistency::Stale));
        // Some do not believe what they know: a deposed leader must be asked too, and a new one found early.
        let doubts = self.workload.rng.chance(150_000);
        let node = match of.leaders[shard_index(shard)] {
            Some(leader) if !anywhere && !doubts => leader,
            _ => self.workload.rng.index(self.nodes.len()),
        };
        let own = usize::try_from(core_of(shard, self.setup.plan.cores)).expect("few cores");
        let cores = self.nodes[node].cores.len();
        let core = if self.workload.rng.chance(700_000) { own } else { self.workload.rng.index(cores) };
        note!(
            self.now,
            0,
            u32::try_from(client).expect("few"),
            "ask",
            request = request.0,
            shard = shard,
            node = self.nodes[node].id,
            sequence = acked_below
        );
        if let Some(delay) = self.network.client_delay() {
            let connection = ConnectionId(u64::try_from(client).expect("few clients"));
            let request = Box::new(Request { id: request, shard, epoch, namespace: 0, op });
            self.after(delay, Happening::Request { node, core, connection, request });
        }
        let patience = self.workload.settings.patience;
        self.after(patience, Happening::Client(Timer::Patience { client, slot, request }));
    }

    /// Tries again after a pause, or gives up.
    fn again(&mut self, client: usize, slot: usize, pause: u64) {
        let pending = self.workload.clients[client].slots[slot].as_ref().expect("under way");
        let repeatable = match pending.operation.kind {
            Kind::Write(_) => pending.sequence.is_some() || !pending.doubtful,
            Kind::Program => !pending.doubtful,
            Kind::Read(_) | Kind::Other => true,
        };
        let invoked = pending.invoked;
        // Those of the end must be answered: nothing is broken any more.
        if repeatable && (pending.attempts < ATTEMPTS_MAX || self.healed) {
            self.after(pause, Happening::Client(Timer::Retry { client, slot, invoked }));
        } else {
            let end = if pending.doubtful { End::Indeterminate } else { End::Failed };
            let ends = vec![end; pending.operation.actions.len()];
            self.finish(client, slot, &ends);
        }
    }

    fn finish(&mut self, client: usize, slot: usize, ends: &[End]) {
        let pending = self.workload.clients[client].slots[slot].take().expect("under way");
        self.workload.record(client, &pending.operation, pending.invoked, ends);
        self.think(client, slot);
    }

    /// An answer arrives.
    pub(super) fn on_answer(&mut self, client: usize, reply: Reply) -> Verdict {
        let Some(asked) = self.workload.unregister(reply.id) else { return Ok(()) };
        let (of, slot) = asked.whose;
        assert_eq!(of, client, "an answer goes to the connection that asked");
        let pending = self.workload.clients[client].slots[slot].as_mut();
        let Some(pending) = pending.filter(|pending| pending.request == Some(reply.id)) else {
            return Ok(());
        };
        pending.request = None;
        note!(self.now, 0, u32::try_from(client).expect("few"), outcome_name(&reply), request = reply.id.0);
        match reply.result {
            Ok(answer) => {
                let ends = ends(&pending.operation, &answer, self.now);
                self.remember(client, slot, &asked, &answer);
                self.finish(client, slot, &ends);
                Ok(())
            }
            Err(refusal) => self.on_refusal(client, slot, &asked, refusal),
        }
    }

    fn remember(&mut self, client: usize, slot: usize, asked: &Asked, answer: &Answer) {
        let of = &mut self.workload.clients[client];
        if let (Answer::Value { value, .. }, [key]) = (answer, &asked.keys[..]) {
            match value {
                Some(value) => of.memory.insert(key.clone(), (number_of(&value.data), value.version)),
                None => of.memory.remove(key),
            };
        }
        let pending = of.slots[slot].as_ref().expect("under way");
        if matches!(pending.operation.kind, Kind::Write(_)) {
            asked.keys.iter().for_each(|key| {
                of.memory.remove(key);
            });
        }
    }

    fn on_refusal(&mut self, client: usize, slot: usize, asked: &Asked, refusal: Refusal) -> Verdict {
        let nodes = self.nodes.len();
        let of = &mut self.workload.clients[client];
        let leader = &mut of.leaders[shard_index(asked.shard)];
        let pending = of.slots[slot].as_mut().expect("under way");
        let pause = match refusal {
            Refusal::NotLeader { leader: told, .. } => {
                let told = told.and_then(|node| usize::try_from(node).ok()?.checked_sub(1));
                *leader = told.filter(|node| *node < nodes);
                if leader.is_some() { 1 } else { 50 * MS }
            }
            Refusal::Busy { retry_after_ms } => u64::from(retry_after_ms) * MS,
            Refusal::Unavailable { .. } | Refusal::WrongShard { .. } => {
                *leader = None;
                100 * MS
            }
            Refusal::Timeout | Refusal::Internal { .. } => {
                pending.doubtful = true;
                *leader = None;
                20 * MS
            }
            // All stamps in use are above `acked_below`, and all requests are right and small.
            refusal => {
                let detail = format!("{:?} was refused: {refusal}", pending.operation.op);
                return violated("what clients may ask is not refused for good", detail);
            }
        };
        let pause = self.workload.rng.around(pause.max(MS));
        self.again(client, slot, pause);
        Ok(())
    }
}

fn shard_index(shard: u32) -> usize {
    usize::try_from(shard).expect("few shards")
}

fn keys_of(op: &Op) -> Vec<Bytes> {
    match op {
        Op::Get { key, .. } | Op::Exists { key, .. } => vec![key.clone()],
        Op::Write { mutations, .. } => mutations.iter().map(|mutation| mutation.key().clone()).collect(),
        _ => Vec::new(),
    }
}

/// The keys of a program's commands.
fn program_keys(op: &Op) -> Vec<Bytes> {
    let Op::Execute { program, .. } = op else { return Vec::new() };
    let keys = program.commands.iter().filter_map(|command| {
        let spec = table::lookup(&command.args[0])?;
        Some(table::keys(spec, &command.args).into_iter().flatten().cloned().collect::<Vec<Bytes>>())
    });
    keys.flatten().collect()
}

fn shard_of(map: &ClusterMap, key: &[u8]) -> u32 {
    let slot = slot_of(key);
    let listed = map.shards.iter().find(|info| info.slots.is_some_and(|slots| slots.contains(slot)));
    listed.expect("every slot is some shard's").id
}

fn outcome_name(reply: &Reply) -> &'static str {
    match &reply.result {
        Ok(Answer::Written { .. }) => "told written",
        Ok(_) => "told",
        Err(Refusal::NotLeader { .. }) => "told not leader",
        Err(Refusal::Busy { .. }) => "told busy",
        Err(Refusal::Timeout) => "told timeout",
        Err(_) => "told no",
    }
}
