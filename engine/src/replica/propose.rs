//! Writes: from a client's mutations, or a program, to an entry, and from the entry's progress back to the client's answer.
//!
//! What a write waits for is its consistency (`strong`: committed, and applied where the answer depends on the
//! state; `leader`: flushed here; `eventual`: nothing).

use net::protocol::{
    Answer, Mutation, MutationOutcome, Program, Refusal, Reply, SessionStamp, WriteConsistency,
};
use net::slot::slot_of;
use net::types::RequestId;
use raft::mutation::{self, Mutation as Fault};
use raft::{Index, Nanos, ProposeError};

use super::{Proposed, Replica, Shape, Waiter};
use crate::command::{self, KeyPlace, NewCommand, NewWatched};
use crate::convert;
use crate::core::{Durations, Effect, Origin};
use crate::machine::Outcome;
use crate::replica_id;

/// A write as the core hands it on: checked against limits, shard and slots.
pub(crate) struct Admit<'a> {
    pub origin: Origin,
    pub request: RequestId,
    pub change: Change<'a>,
    /// Epoch of this node's map.
    pub epoch: u64,
    pub now: Nanos,
    pub wall_ms: u64,
    pub deadline: Nanos,
}

/// What a write is to do.
pub(crate) enum Change<'a> {
    Mutations {
        namespace: u8,
        session: Option<SessionStamp>,
        consistency: WriteConsistency,
        mutations: &'a [Mutation],
        /// Slot of each mutation's key.
        slots: &'a [u16],
    },
    /// Answered when applied, whatever its consistency: its replies depend on the state.
    Program { program: &'a Program, value_bytes_max: u32 },
}

impl Replica {
    /// Proposes a write. On success the bytes it added to what is in flight; the answer comes when its time has
    /// come. On refusal nothing happened.
    pub fn propose(&mut self, write: &Admit<'_>, effects: &mut Vec<Effect>) -> Result<u64, Refusal> {
        if !self.raft.is_leader() {
            return Err(self.not_leader(write.epoch));
        }
        // This node's clock may be behind a former leader's, or step back; the stamps of entries do not.
        self.time_ms = self.time_ms.max(write.wall_ms);
        self.note_leadership();
        let version = self.raft.next_index().0;
        let payload = encode(&write.change, self.time_ms, version);
        let bytes = u64::try_from(payload.len()).expect("a command fits the address space");
        let (_, index) = self.raft.propose(payload).map_err(|error| match error {
            ProposeError::NotLeader { .. } => self.not_leader(write.epoch),
            ProposeError::Busy => Refusal::Busy { retry_after_ms: 5 },
            ProposeError::Transferring { .. } => {
                Refusal::Unavailable { why: "the shard's leadership moves; try again".to_owned() }
            }
        })?;
        assert_eq!(index.0, version, "the leader appends at the index it announced");
        self.proposed.push_back(Proposed { index, bytes, at: write.now });
        let waiter = Waiter {
            index,
            origin: write.origin,
            request: write.request,
            shape: Shape::of(&write.change),
            deadline: write.deadline,
        };
        let Change::Mutations { session, consistency, .. } = &write.change else {
            self.on_apply.push_back(waiter);
            return Ok(bytes);
        };
        let puts = matches!(waiter.shape, Shape::Puts(_));
        let retry = session.is_some_and(|session| session.retry);
        match consistency {
            // What a retry did is known only to the state machine, which may have executed an earlier attempt.
            _ if puts && retry => self.on_apply.push_back(waiter),
            WriteConsistency::Strong
                if puts && (self.knows_its_log() || mutation::active(Fault::AckOverCut)) =>
            {
                self.on_commit.push_back(waiter);
            }
            WriteConsistency::Strong => self.on_apply.push_back(waiter),
            WriteConsistency::Leader => self.on_flush.push_back(waiter),
            WriteConsistency::Eventual => effects.push(accepted(waiter)),
        }
        Ok(bytes)
    }

    /// Takes note of the term it leads, if it does, before anything is proposed in it.
    fn note_leadership(&mut self) {
        let leads = self.raft.is_leader().then(|| self.raft.term());
        if leads.is_some() && self.led_term != leads {
            self.log_at_election = self.raft.last_index();
            self.led_term = leads;
        }
    }

    /// The refusal that names the leader as far as this replica knows it.
    pub fn not_leader(&self, epoch: u64) -> Refusal {
        Refusal::NotLeader { leader: self.raft.leader().map(|leader| replica_id::node_of(leader.0)), epoch }
    }

    /// Answers the writes whose entries are flushed or committed by now, and all of them "outcome unknown" when the
    /// leadership they were proposed under has ended.
    pub fn answer_progress(
        &mut self,
        now: Nanos,
        replicate: &mut Durations,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        let leads = self.raft.is_leader().then(|| self.raft.term());
        if self.led_term != leads {
            let freed = self.abandon_waiters(effects);
            self.led_term = None;
            self.note_leadership();
            return freed;
        }
        let flushed = self.raft.flushed();
        while self.on_flush.front().is_some_and(|waiter| waiter.index <= flushed) {
            effects.push(accepted(self.on_flush.pop_front().expect("just seen")));
        }
        let committed = self.raft.committed();
        while let Some(entry) =
            self.proposed.get(self.proposed_committed).filter(|entry| entry.index <= committed)
        {
            replicate.record(entry.at, now);
            self.proposed_committed += 1;
        }
        while self.on_commit.front().is_some_and(|waiter| waiter.index <= committed) {
            effects.push(accepted(self.on_commit.pop_front().expect("just seen")));
        }
        0
    }

    /// Takes note that entries up to `applied` are applied, and answers the writes that waited for it. Returns the
    /// bytes no longer in flight.
    pub fn answer_applied(
        &mut self,
        applied: Index,
        outcomes: Vec<(u64, Outcome)>,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        for (index, outcome) in outcomes {
            let found = self.on_apply.binary_search_by_key(&Index(index), |waiter| waiter.index);
            let Some(waiter) = found.ok().and_then(|position| self.on_apply.remove(position)) else {
                continue;
            };
            let result = convert::outcome(index, outcome);
            effects
                .push(Effect::Reply { origin: waiter.origin, reply: Reply { id: waiter.request, result } });
        }
        let mut freed = 0;
        while self.proposed.front().is_some_and(|entry| entry.index <= applied) {
            freed += self.proposed.pop_front().expect("just seen").bytes;
            self.proposed_committed = self.proposed_committed.saturating_sub(1);
        }
        freed
    }

    /// Answers the writes and reads that waited too long. The writes may still take effect.
    pub fn expire(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        for queue in [&mut self.on_flush, &mut self.on_commit, &mut self.on_apply] {
            while queue.front().is_some_and(|waiter| waiter.deadline <= now) {
                effects.push(unknown(queue.pop_front().expect("just seen")));
            }
        }
        self.reads.expire(now, effects);
    }

    pub(super) fn abandon_waiters(&mut self, effects: &mut Vec<Effect>) -> u64 {
        for queue in [&mut self.on_flush, &mut self.on_commit, &mut self.on_apply] {
            effects.extend(queue.drain(..).map(unknown));
        }
        self.proposed_committed = 0;
        self.proposed.drain(..).map(|entry| entry.bytes).sum()
    }
}

/// Encodes a write for the log. One allocation and one copy of the value, where there is one mutation.
fn encode(change: &Change<'_>, time_ms: u64, version: u64) -> bytes::Bytes {
    let (namespace, session, mutations, slots) = match change {
        Change::Mutations { namespace, session, mutations, slots, .. } => {
            (*namespace, session.map(convert::session), *mutations, *slots)
        }
        Change::Program { program, value_bytes_max } => {
            let (watched, commands) = (watched(program), commands(program));
            return command::encode_program(time_ms, version, *value_bytes_max, watched, commands);
        }
    };
    let one = |mutation, slot| convert::mutation(mutation, KeyPlace { namespace, slot }, time_ms);
    if let ([mutation], [slot]) = (mutations, slots) {
        return command::encode(time_ms, version, session, &[one(mutation, *slot)]);
    }
    let mutations: Vec<command::Mutation<'_>> =
        mutations.iter().zip(slots).map(|(mutation, slot)| one(mutation, *slot)).collect();
    command::encode(time_ms, version, session, &mutations)
}

/// How long the entry of a program will be.
pub(crate) fn program_bytes(program: &Program) -> usize {
    command::program_bytes(watched(program), commands(program))
}

fn watched(program: &Program) -> impl ExactSizeIterator<Item = NewWatched<'_>> + Clone {
    program.watched.iter().map(|it| NewWatched {
        place: KeyPlace { namespace: it.namespace, slot: slot_of(&it.key) },
        key: &it.key,
        version: it.version,
    })
}

fn commands(program: &Program) -> impl ExactSizeIterator<Item = NewCommand<'_>> + Clone {
    program.commands.iter().map(|it| NewCommand { namespace: it.namespace, args: &it.args })
}

fn accepted(waiter: Waiter) -> Effect {
    let index = waiter.index.0;
    let outcomes = match waiter.shape {
        Shape::Puts(count) => vec![MutationOutcome::Put { version: index }; count],
        Shape::Mixed(count) => vec![MutationOutcome::Accepted; count],
        Shape::Program => unreachable!("a program is answered when it is applied"),
    };
    let result = Ok(Answer::Written { index, outcomes });
    Effect::Reply { origin: waiter.origin, reply: Reply { id: waiter.request, result } }
}

fn unknown(waiter: Waiter) -> Effect {
    Effect::Reply {
        origin: waiter.origin,
        reply: Reply { id: waiter.request, result: Err(Refusal::Timeout) },
    }
}

/// A log-compaction entry: all replicas may drop their log up to an index that every replica holds, once their own
/// state machine is durable up to there. The leader decides through the log, so all replicas keep what any of them
/// may still need.
const COMPACTION_TAG: u8 = 0xC0;

impl Replica {
    /// Has what has expired by now removed, where that is due and nothing of it is under way. Whether it was proposed.
    pub fn propose_removal(&mut self, wall_ms: u64) -> bool {
        let time_ms = self.time_ms.max(wall_ms);
        let (term, asked) = self.removal_asked;
        let under_way = term == self.raft.term() && asked > self.raft.applied();
        if self.due_ms > time_ms || under_way || !self.raft.is_leader() {
            return false;
        }
        let version = self.raft.next_index().0;
        // A refusal needs no answer: the next tick asks again.
        let proposed = self.raft.propose(command::encode_removal(time_ms, version));
        let Ok((term, index)) = proposed else { return false };
        assert_eq!(index.0, version, "the leader appends at the index it announced");
        self.time_ms = time_ms;
        self.removal_asked = (term, index);
        true
    }

    /// Proposes that all replicas drop the log up to `index`.
    pub fn propose_compaction(&mut self, index: Index) {
        let mut payload = [COMPACTION_TAG; 9];
        payload[1..].copy_from_slice(&index.0.to_le_bytes());
        // Refusals need no answer: the next round asks again.
        let _ = self.raft.propose(bytes::Bytes::copy_from_slice(&payload));
    }
}

/// The index that a log-compaction entry names, `None` for any other payload.
pub(crate) fn compaction_index(payload: &[u8]) -> Option<Index> {
    let (&tag, index) = payload.split_first()?;
    (tag == COMPACTION_TAG).then_some(())?;
    Some(Index(u64::from_le_bytes(index.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compaction_entries_are_told_from_commands() {
        assert_eq!(compaction_index(&[]), None);
        assert_eq!(compaction_index(&[COMPACTION_TAG, 1]), None);
        let mut payload = vec![COMPACTION_TAG];
        payload.extend(77u64.to_le_bytes());
        assert_eq!(compaction_index(&payload), Some(Index(77)));
        let command = command::encode(1, 2, None, &[]);
        assert_eq!(compaction_index(&command), None);
    }
}
