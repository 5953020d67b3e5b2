//! Requests of clients: checked against map, limits and admission, then handed to their replica, forwarded to the
//! core that hosts it, or refused with the reason.

use net::map::ShardInfo;
use net::protocol::{
    Access, Answer, Expected, Mutation, Op, Oversize, ReadConsistency, Refusal, Reply, Request,
    SESSION_WINDOW, SessionStamp,
};
use net::slot::slot_of;
use raft::Nanos;
use raft::mutation::{self, Mutation as Fault};

use super::programs::compact;
use super::{Core, Effect, Origin, usize_of};
use crate::placement::{META_SHARD, core_of};
use crate::replica::{Admit, Change, Clock, Query, ReadRequest, SPLITTING};

impl Core {
    /// Takes a request in.
    pub(super) fn on_request(&mut self, origin: Origin, request: Request) {
        self.counters.requests += 1;
        match &request.op {
            Op::ClusterMap => return self.answer(origin, &request, Ok(Answer::ClusterMap(self.map()))),
            Op::Status => return self.answer(origin, &request, Ok(Answer::Status(self.status_json()))),
            _ => {}
        }
        let is_admin = matches!(request.op, Op::Admin(_) | Op::Cluster(_));
        if self.shard_of(request.shard, is_admin).is_none() {
            return self.answer(origin, &request, Err(Refusal::WrongShard { epoch: self.map.epoch }));
        }
        let core = core_of(request.shard, self.config.cores);
        if core != self.config.core {
            if origin.core == self.config.core {
                self.counters.forwarded += 1;
                self.effects.push(Effect::Forward { core, connection: origin.connection, request });
            } else {
                self.answer(origin, &request, Err(Refusal::WrongShard { epoch: self.map.epoch }));
            }
            return;
        }
        if let Err(refusal) = self.execute(origin, &request) {
            self.counters.refused += 1;
            self.answer(origin, &request, Err(refusal));
        }
    }

    /// The shard, if it is one that takes such a request: the meta shard has no keys.
    fn shard_of(&self, shard: u32, is_admin: bool) -> Option<&ShardInfo> {
        // Shards are listed in order, the meta shard first.
        self.map.shards.get(usize_of(shard)).filter(|_| is_admin || shard != META_SHARD)
    }

    pub(super) fn answer(&mut self, origin: Origin, request: &Request, result: Result<Answer, Refusal>) {
        self.effects.push(Effect::Reply { origin, reply: Reply { id: request.id, result } });
    }

    fn execute(&mut self, origin: Origin, request: &Request) -> Result<(), Refusal> {
        if self.replicas[usize_of(request.shard)].is_none() {
            return Err(self.not_here(request.shard));
        }
        let namespace = request.namespace;
        let (query, consistency) = match &request.op {
            Op::Write { session, consistency, mutations } => {
                check_session(session.as_ref())?;
                self.admit_write()?;
                let slots = self.check_mutations(request.shard, mutations)?;
                let change = Change::Mutations {
                    namespace,
                    session: *session,
                    consistency: *consistency,
                    mutations,
                    slots: &slots,
                };
                return self.write(origin, request, change);
            }
            Op::Get { key, consistency } => {
                let slot = self.check_key(request.shard, key)?;
                (Query::Get { namespace, slot, key: copy(key) }, *consistency)
            }
            Op::Exists { key, consistency } => {
                let slot = self.check_key(request.shard, key)?;
                (Query::Exists { namespace, slot, key: copy(key) }, *consistency)
            }
            Op::Scan { start, end, limit, consistency, keys_only } => {
                let slots = self.listed_slots(request)?;
                let query = Query::Scan {
                    namespace,
                    slots,
                    start: copy(start),
                    end: end.as_ref().map(copy),
                    limit: *limit,
                    keys_only: *keys_only,
                };
                (query, *consistency)
            }
            Op::Execute { program, consistency: Access::Write(_) } => {
                self.admit_write()?;
                self.check_program(request.shard, program, true)?;
                let value_bytes_max = u32::try_from(self.config.value_bytes_max).unwrap_or(u32::MAX);
                return self.write(origin, request, Change::Program { program, value_bytes_max });
            }
            Op::Execute { program, consistency: Access::Read(consistency) } => {
                let is_light = self.check_program(request.shard, program, false)?;
                let value_bytes_max = usize::try_from(self.config.value_bytes_max).expect("64-bit machine");
                (Query::Program { program: compact(program), is_light, value_bytes_max }, *consistency)
            }
            Op::Count { first_slot, last_slot, consistency } => {
                let (first, last) = self.listed_slots(request)?;
                let slots = ((*first_slot).max(first), (*last_slot).min(last));
                (self.count(namespace, slots)?, *consistency)
            }
            Op::Admin(op) => {
                let answer = self.administer(request.shard, *op)?;
                self.answer(origin, request, Ok(answer));
                return Ok(());
            }
            Op::Cluster(op) => {
                if let Some(answer) = self.administer_cluster(origin, request, op)? {
                    self.answer(origin, request, Ok(answer));
                }
                return Ok(());
            }
            Op::ClusterMap | Op::Status => unreachable!("answered before"),
        };
        self.read(origin, request, query, consistency)
    }

    fn count(&self, namespace: u8, slots: (u16, u16)) -> Result<Query, Refusal> {
        if slots.0 > slots.1 {
            return Err(Refusal::WrongShard { epoch: self.map.epoch });
        }
        Ok(Query::Count { namespace, slots })
    }

    fn write(&mut self, origin: Origin, request: &Request, change: Change<'_>) -> Result<(), Refusal> {
        let write = Admit {
            origin,
            request: request.id,
            change,
            epoch: self.map.epoch,
            now: self.now,
            wall_ms: self.wall_ms,
            deadline: self.deadline(),
        };
        let replica = self.replicas[usize_of(request.shard)].as_mut().expect("hosted here");
        self.inflight_bytes += replica.propose(&write, &mut self.effects)?;
        self.note_awake(request.shard);
        self.touch(request.shard);
        Ok(())
    }

    fn read(
        &mut self,
        origin: Origin,
        request: &Request,
        query: Query,
        consistency: ReadConsistency,
    ) -> Result<(), Refusal> {
        let stale = consistency == ReadConsistency::Stale;
        let (id, deadline) = (request.id, self.deadline());
        let slots = self.replicas[usize_of(request.shard)].as_ref().and_then(|replica| replica.slots);
        let read = ReadRequest { origin, request: id, query, slots, stale, deadline };
        let (clock, reads_bytes_max) = (self.clock(), self.config.reads_bytes_max);
        if stale {
            self.note_rest(request.shard);
        }
        let replica = self.replicas[usize_of(request.shard)].as_mut().expect("hosted here");
        if replica.reads_bytes() >= reads_bytes_max {
            return Err(Refusal::Busy { retry_after_ms: 5 });
        }
        // One that was never told who belongs to its group knows nothing of its data either.
        if stale && !replica.is_member() {
            return Err(self.not_here(request.shard));
        }
        replica.active_at = clock.now;
        replica.read(read, consistency, clock, &mut self.budget, &mut self.effects)?;
        self.note_awake(request.shard);
        self.touch(request.shard);
        Ok(())
    }

    /// The refusal of a shard that this node has no replica of, or none that is a member.
    fn not_here(&self, shard: u32) -> Refusal {
        let leader = self.leaders[usize_of(shard)];
        let leader = (leader != 0 && leader != self.config.node).then_some(leader);
        Refusal::NotLeader { leader, epoch: self.map.epoch }
    }

    /// Time and map of this turn.
    pub(super) fn clock(&self) -> Clock {
        Clock { now: self.now, wall_ms: self.wall_ms, epoch: self.map.epoch }
    }

    fn deadline(&self) -> Nanos {
        self.now.saturating_add(self.config.request_timeout)
    }

    /// Refuses a write at once while the core has more in flight than it may: proposed or committed, not applied.
    fn admit_write(&self) -> Result<(), Refusal> {
        let limit = self.config.inflight_bytes_max;
        if self.inflight_bytes >= limit || self.lane.queued_bytes >= limit {
            return Err(Refusal::Busy { retry_after_ms: 10 });
        }
        Ok(())
    }

    /// The shard's slots, if they are those of the map: whoever reads all of them goes by that, and must not take what has
    /// gone to a shard that is not in it for missing.
    fn listed_slots(&self, request: &Request) -> Result<(u16, u16), Refusal> {
        let (shard, slots) = (request.shard, self.slots(request.shard)?);
        let info = self.map.shard(shard);
        // Whoever has an older map would go on where the shard ended then.
        if info.is_some_and(|info| request.epoch < info.plan.epoch) {
            return Err(Refusal::WrongShard { epoch: self.map.epoch });
        }
        match info.and_then(|info| info.slots) {
            Some(listed) if (listed.first, listed.last) != slots => {
                Err(self.not_in_shard(shard, listed.last))
            }
            _ => Ok(slots),
        }
    }

    /// The slots of a user shard. A replica that was made before its node's map told of the shard does not know them yet:
    /// it has not been given anything either.
    fn slots(&self, shard: u32) -> Result<(u16, u16), Refusal> {
        let replica = self.replicas[usize_of(shard)].as_ref();
        replica.and_then(|replica| replica.slots).ok_or_else(|| self.not_here(shard))
    }

    /// Checks every mutation; the slots of their keys.
    fn check_mutations(&self, shard: u32, mutations: &[Mutation]) -> Result<SlotsOf, Refusal> {
        if mutations.is_empty() {
            return Err(Refusal::Invalid { why: "a write needs at least one mutation".to_owned() });
        }
        let (mut total, mut compared) = (0, 0);
        let mut slots = SlotsOf::new();
        for mutation in mutations {
            let (key, value, expected) = match mutation {
                Mutation::Put { key, value, .. } => (key, Some(value), None),
                Mutation::Delete { key } => (key, None, None),
                Mutation::CompareAndSwap { key, new, expected: Expected::Value(value) } => {
                    (key, new.as_ref(), Some(value))
                }
                Mutation::CompareAndSwap { key, new, .. } => (key, new.as_ref(), None),
            };
            slots.push(self.check_key(shard, key)?);
            let bytes = value.map_or(0, |value| len64(value));
            if bytes > self.config.value_bytes_max {
                return Err(Refusal::TooLarge { what: Oversize::Value, limit: self.config.value_bytes_max });
            }
            total += bytes + len64(key);
            compared += expected.map_or(0, |value| len64(value));
        }
        // A batch is one entry, and must fit where a largest value does.
        let batch_max = self.config.value_bytes_max + self.config.key_bytes_max;
        if total > batch_max || compared > self.config.value_bytes_max {
            return Err(Refusal::TooLarge { what: Oversize::Request, limit: batch_max });
        }
        Ok(slots)
    }

    /// The slot of a key, if the key is within the limit and the slot within the shard.
    pub(super) fn check_key(&self, shard: u32, key: &[u8]) -> Result<u16, Refusal> {
        if len64(key) > self.config.key_bytes_max {
            return Err(Refusal::TooLarge { what: Oversize::Key, limit: self.config.key_bytes_max });
        }
        let slot = slot_of(key);
        let (first, last) = self.slots(shard)?;
        let replica = self.replicas[usize_of(shard)].as_ref().expect("hosted here");
        let is_ceded = replica.ceded_from().is_some_and(|at| slot >= at);
        if is_ceded && !mutation::active(Fault::TakeCededKeys) {
            return Err(Refusal::Unavailable { why: SPLITTING.to_owned() });
        }
        if (slot < first || slot > last) && !mutation::active(Fault::ServeCutKeys) {
            return Err(self.not_in_shard(shard, slot));
        }
        Ok(slot)
    }

    /// The refusal of a slot that is none of the shard's. Until the map tells where it went, asking for a newer one does
    /// not help.
    fn not_in_shard(&self, shard: u32, slot: u16) -> Refusal {
        let listed = self.map.shard(shard).and_then(|info| info.slots);
        match listed.is_some_and(|slots| slots.contains(slot)) {
            true => Refusal::Unavailable { why: SPLITTING.to_owned() },
            false => Refusal::WrongShard { epoch: self.map.epoch },
        }
    }
}

/// Refuses a write beyond its session's window: the state machine could forget the session's oldest unanswered write
/// and then take its late first attempt for a repetition.
fn check_session(stamp: Option<&SessionStamp>) -> Result<(), Refusal> {
    let Some(stamp) = stamp else { return Ok(()) };
    let in_window =
        stamp.acked_below <= stamp.sequence && stamp.sequence - stamp.acked_below < SESSION_WINDOW;
    if stamp.sequence == 0 || !in_window {
        let why = format!(
            "sequence {} of a session acknowledged below {}: sequences count from 1, and at most {SESSION_WINDOW} may be \
             unanswered; begin another session",
            stamp.sequence, stamp.acked_below
        );
        return Err(Refusal::Invalid { why });
    }
    Ok(())
}

/// Slots of the mutations of one write: on the stack for the common single one.
type SlotsOf = smallvec::SmallVec<[u16; 4]>;

pub(super) fn len64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("64-bit machine")
}

/// A copy that does not pin the buffer the request arrived in.
fn copy(key: &bytes::Bytes) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(key)
}
