//! A shard is cut in two at a slot: what lies from there on becomes another shard, on the same nodes.
//!
//! ```text
//!   leader of P    the map wants it ─▶ split entry proposed ─▶ keys of the upper half refused from here on
//!   each replica   entry committed ─▶ Prepare ─▶ N's core makes N's stream ── flushed ──▶ Prepared
//!                    ─▶ entry applied: N's folder from a copy of P, durable; then P narrowed, durable ─▶ Applied
//!                    ─▶ Born ─▶ OpenReplica ─▶ ReplicaOpened ─▶ N's replica runs; that on P's leader's node stands
//!   later          the map has N for a while ─▶ trim entries of P and N: each removes the other's data
//! ```
//!
//! N lives on the core that its number gives it, which may be another one than P's, so the two cores of a node talk to each
//! other about it ([`Kin`]).
//!
//! What a crash leaves on a node, and how the next start goes on:
//! - N's stream, empty, and no folder: nothing began. The stream stays as it is; P's log is replayed, and the entry makes
//!   the folder;
//! - stream and folder: N's replica starts. P's log may be replayed over the entry once more, and only narrows P, for the
//!   node holds a replica of N;
//! - a folder without a stream cannot be: the entry waits for the stream.
//!
//! Invariants:
//! - N's founding replica of a node is made once: no stream of it is in the log before, and P's state machine is durable
//!   past the entry before N's replica is known to its core, and so before that can be removed;
//! - only a replica of P that votes when the entry is applied makes one: what a node has lost is not founded again;
//! - a node that holds a replica of N already, or is making one, makes no other: it was invited because others were faster;
//! - whoever is told a write is done has it: puts are answered when committed only while the leader has applied all that
//!   its log held when it was elected, and knows that no cut lies before them; else when applied, which tells.
//! - a leader that has proposed the cut, or knows of it, takes no key of the upper half: the machines would refuse it;
//! - whoever has the entry in its log applies it, and gets no snapshot from behind it instead, which makes no replica of N:
//!   a leader can feed it, for until it has heard of a leader of N, no replica of P that was cut drops anything of its log
//!   ([`Core::is_parting`]). The entry is committed, so a majority of P's voters have it, and these are N's voters: as long
//!   as P has a leader, N gets one. So that they all are fed, it is proposed only while nobody needs what the leader has
//!   dropped, and the members stay: those at the entry are those it was committed by. Who nevertheless gets no replica of N
//!   is a lost member of it: N's leader hears nothing, and has its node make another. (What is left: among five voters two
//!   that need a snapshot at once right after the cut, one of which is then elected before N has begun.)

use raft::{ConfState, Entry, EntryKind, Index, Nanos, Term};
use wal::{Lsn, StreamId, StreamState};

use super::effect::Engine;
use super::replicas::Creating;
use super::{Core, Effect, ReplicaId, ReplicaSeed, usize_of};
use crate::command::{Division, SLOT_LAST};
use crate::machine::Domain;
use crate::placement::core_of;
use crate::replica::Replica;
use crate::replica_id::{self, FOUNDING};

/// What two cores of a node tell each other about a shard that is made from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// The sender's shard will be cut: make room for the new one.
    Prepare {
        /// The new shard.
        into: u32,
        /// The shard that is cut.
        of: u32,
    },
    /// There is room: the new shard's stream is in the log, durably.
    Prepared {
        /// The new shard.
        into: u32,
        /// The shard that is cut.
        of: u32,
        /// Whether a replica is to be made; otherwise there is one.
        make: bool,
    },
    /// The new shard's folder is there, durably.
    Born {
        /// The new shard.
        into: u32,
        /// Whether it should lead.
        leads: bool,
    },
    /// No replica was made: this node does not found the group.
    Unborn {
        /// The new shard.
        into: u32,
    },
}

/// A stream made for a replica to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    into: u32,
    of: u32,
    /// The core of `of`.
    core: u32,
    lsn: Lsn,
    told: bool,
}

/// The state machine of a new shard's replica, opened for the first time.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its engine.
    pub engine: Engine,
    /// The entry by which it was made.
    pub applied: Index,
    /// That entry's term.
    pub applied_term: Term,
    /// The first members of its group.
    pub conf_state: ConfState,
    /// Its slots.
    pub domain: Option<Domain>,
}

/// A split entry that waits to be applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub index: Index,
    pub into: u32,
    /// Whether to make a replica of the new shard; `None`: not known yet.
    pub make: Option<bool>,
}

/// A split entry that a leader has proposed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposal {
    term: Term,
    index: Index,
    at: u16,
}

/// Entries by which a voter may lag when its shard is to be cut.
const FOUNDER_BEHIND_MAX: u64 = 1024;
/// Ticks between two rounds.
const ROUND_TICKS: u32 = 2;
/// How long a new shard's replica on the node of its parent's leader stands again and again: the others are as fast.
const STANDS_FOR: Nanos = Nanos::from_millis(5_000);

impl Core {
    /// What the map wants cut is cut; new shards get leaders.
    pub(super) fn tick_division(&mut self) {
        if !self.ticks.is_multiple_of(ROUND_TICKS) {
            return;
        }
        for position in 0..self.map.shards.len() {
            if self.map.shards[position].plan.split.is_some() {
                self.propose_split(position);
            }
        }
        self.tick_trim();
        for position in 0..self.awake.len() {
            let shard = self.awake[position];
            let Some(replica) = self.replicas[usize_of(shard)].as_mut() else { continue };
            if replica.stands_until > self.now && replica.raft.leader().is_none() {
                replica.raft.campaign();
                self.touch(shard);
            }
        }
    }

    /// Has what went to other shards removed, some time after everybody can know where it went.
    fn tick_trim(&mut self) {
        let (now, pause) = (self.now, self.config.request_timeout.times(2));
        for position in 0..self.replicas.len() {
            let Some(replica) = self.replicas[position].as_mut().filter(|replica| replica.untrimmed) else {
                continue;
            };
            let shard = replica.id.shard;
            let listed =
                self.map.shard(shard).and_then(|info| info.slots).map(|slots| (slots.first, slots.last));
            if listed != replica.slots || !replica.raft.is_leader() {
                replica.listed_since = None;
                continue;
            }
            let since = *replica.listed_since.get_or_insert(now);
            if now.since(since) >= pause && replica.knows_its_log() {
                // If it is refused or lost, it is asked for again.
                replica.listed_since = Some(now);
                let _ = replica.raft.propose(Division::Trim.encode());
                self.wake(shard);
                self.touch(shard);
            }
        }
    }

    fn propose_split(&mut self, position: usize) {
        let info = &self.map.shards[position];
        let (shard, Some(split)) = (info.id, info.plan.split) else { return };
        let Some(replica) = self.replicas.get(usize_of(shard)).and_then(Option::as_ref) else { return };
        if !replica.may_split(split.at) {
            return;
        }
        self.wake(shard);
        if self.replica_mut(shard).propose_split(split.at, split.into) {
            tracing::info!(shard, at = split.at, into = split.into, "cutting the shard in two");
            self.touch(shard);
        }
    }

    /// Whether a shard's cut is under way at this replica: proposed here, committed, or applied, and no leader of the new
    /// shard was heard of. Its log then stays as it is, and so do the nodes of its group.
    pub(super) fn is_parting(&self, shard: u32) -> bool {
        let Some(replica) = self.replicas[usize_of(shard)].as_ref() else { return false };
        if !replica.holds.is_empty() || replica.ceded_from().is_some() {
            return true;
        }
        let Some((_, last)) = replica.slots.filter(|(_, last)| replica.untrimmed && *last < SLOT_LAST) else {
            return false;
        };
        let listed = self.map.shard(shard).and_then(|info| info.slots).map(|slots| slots.last);
        let mut reported = self.standing.reports.values().filter_map(|report| report.slots);
        listed != Some(last) && !reported.any(|slots| slots.first == last + 1)
    }

    /// Makes room for the shards that committed entries will make.
    pub(super) fn expect_divisions(&mut self, shard: u32, committed: &[Entry]) {
        for entry in committed {
            let Some(Division::Split { into, .. }) = division_of(entry) else { continue };
            self.replica_mut(shard).holds.push(Hold { index: entry.index, into, make: None });
            self.tell_kin(into, Kin::Prepare { into, of: shard });
        }
    }

    /// Tells the core of a shard, which may be this one.
    fn tell_kin(&mut self, shard: u32, kin: Kin) {
        let core = core_of(shard, self.config.cores);
        if core == self.config.core {
            self.on_kin(core, kin);
        } else {
            self.effects.push(Effect::TellKin { core, kin });
        }
    }

    /// Another core of this node, or this one, has something to say about a shard to come.
    pub(super) fn on_kin(&mut self, core: u32, kin: Kin) {
        match kin {
            Kin::Prepare { into, of } => self.prepare(core, into, of),
            Kin::Prepared { into, of, make } => {
                let Some(replica) = self.replicas[usize_of(of)].as_mut() else {
                    // Removed meanwhile: nothing will be made.
                    return if make {
                        self.tell_kin(into, Kin::Unborn { into })
                    };
                };
                let waits = replica.holds.iter_mut().find(|hold| hold.into == into && hold.make.is_none());
                match waits {
                    Some(hold) => hold.make = Some(make),
                    None if make => self.tell_kin(into, Kin::Unborn { into }),
                    None => {}
                }
                self.touch(of);
            }
            Kin::Born { into, leads } => {
                self.on_born(into, leads);
                self.prepare_postponed(into);
            }
            Kin::Unborn { into } => {
                self.expected.retain(|expected| expected.into != into);
                self.forget_founding_stream(into);
                self.prepare_postponed(into);
            }
        }
    }

    /// Makes room for a shard, which the map may not tell of yet.
    pub(super) fn grow_to(&mut self, shard: u32) {
        let shards = usize_of(shard) + 1;
        if self.replicas.len() < shards {
            self.replicas.resize_with(shards, || None);
            self.is_touched.resize(shards, false);
            self.leaders.resize(shards, 0);
            self.founders.resize(shards, ConfState::default());
        }
    }

    fn prepare(&mut self, core: u32, into: u32, of: u32) {
        self.grow_to(into);
        let is_coming = self.creating.iter().any(|creating| creating.id.shard == into);
        if self.is_expected(into) {
            // An earlier entry, which may cut nothing because the members were changing. What becomes of it comes first.
            return self.postponed.push((core, into, of));
        }
        if self.replicas[usize_of(into)].is_some() || is_coming {
            return self.tell_kin(of, Kin::Prepared { into, of, make: false });
        }
        let stream = founding_stream(into);
        let mut wal = self.wal.borrow_mut();
        if !wal.contains(stream) {
            wal.set_state(stream, StreamState::default());
        }
        let lsn = wal.end_lsn();
        drop(wal);
        self.expected.push(Expected { into, of, core, lsn, told: false });
        self.tell_prepared();
    }

    /// What came of the entry before them is known: the next ones have their turn.
    fn prepare_postponed(&mut self, into: u32) {
        let (due, rest) =
            std::mem::take(&mut self.postponed).into_iter().partition(|(_, other, _)| *other == into);
        self.postponed = rest;
        let due: Vec<(u32, u32, u32)> = due;
        for (core, into, of) in due {
            self.prepare(core, into, of);
        }
    }

    /// Tells of the streams that are durable by now.
    pub(super) fn tell_prepared(&mut self) {
        let flushed = self.wal.borrow().flushed_lsn();
        for position in 0..self.expected.len() {
            let expected = &mut self.expected[position];
            if !expected.told && expected.lsn <= flushed {
                expected.told = true;
                let (into, of, core) = (expected.into, expected.of, expected.core);
                let kin = Kin::Prepared { into, of, make: true };
                if core == self.config.core {
                    self.on_kin(core, kin);
                } else {
                    self.effects.push(Effect::TellKin { core, kin });
                }
            }
        }
    }

    /// Whether a replica of the shard is being made from another shard's.
    pub(super) fn is_expected(&self, shard: u32) -> bool {
        self.expected.iter().any(|expected| expected.into == shard)
    }

    fn on_born(&mut self, into: u32, leads: bool) {
        self.expected.retain(|expected| expected.into != into);
        let replica = self.next_replica_id(into);
        self.creating.push(Creating { id: replica, generation: FOUNDING, leads });
        self.effects.push(Effect::OpenReplica { replica });
    }

    /// The state machine of a new shard's replica is open.
    pub(super) fn on_replica_opened(&mut self, id: ReplicaId, opened: Opened) {
        let Some(position) = self.creating.iter().position(|creating| creating.id == id) else { return };
        let Creating { leads, .. } = self.creating.swap_remove(position);
        let seed = ReplicaSeed {
            shard: id.shard,
            generation: FOUNDING,
            engine: opened.engine.0,
            applied: opened.applied,
            applied_term: opened.applied_term,
            conf_state: opened.conf_state,
            topology: None,
            domain: opened.domain,
        };
        self.start_replica(id, seed).expect("a replica that was just made hangs together");
        let stands_until = self.now.saturating_add(STANDS_FOR);
        let replica = self.replica_mut(id.shard);
        // It never ran, so it has heard no leader whose lease could count on it.
        replica.raft.release_hold();
        if leads {
            replica.stands_until = stands_until;
            replica.raft.campaign();
        }
        self.touch(id.shard);
    }

    /// What was cut off is there, or not.
    pub(super) fn on_divided(&mut self, parent: u32, into: u32, order: bool, made: bool) {
        match (order, made) {
            (_, true) => {
                let replica = self.replicas[usize_of(parent)].as_ref();
                let leads = replica.is_some_and(|replica| replica.raft.is_leader());
                self.tell_kin(into, Kin::Born { into, leads });
            }
            (true, false) => self.tell_kin(into, Kin::Unborn { into }),
            (false, false) => {}
        }
    }

    /// A replica goes while its split entry waits: what it was to make is not made.
    pub(super) fn abandon_divisions(&mut self, holds: &[Hold]) {
        for hold in holds.iter().filter(|hold| hold.make == Some(true)) {
            self.tell_kin(hold.into, Kin::Unborn { into: hold.into });
        }
    }

    /// Drops the stream of a founding replica that never began, if there is one: another takes its place, or none is made.
    pub(super) fn forget_founding_stream(&mut self, shard: u32) {
        let is_held = self.replicas[usize_of(shard)]
            .as_ref()
            .is_some_and(|replica| replica.stream == founding_stream(shard));
        let mut wal = self.wal.borrow_mut();
        if !is_held && wal.contains(founding_stream(shard)) {
            wal.remove(founding_stream(shard));
        }
    }
}

fn founding_stream(shard: u32) -> StreamId {
    StreamId(replica_id::stream_id(shard, FOUNDING))
}

/// What an entry says about cutting the shard.
pub(crate) fn division_of(entry: &Entry) -> Option<Division> {
    if entry.kind == EntryKind::Normal { Division::decode(&entry.data) } else { None }
}

impl Replica {
    /// Whether this leader may propose to cut the shard at a slot: nothing of the kind is under way, and it knows all that
    /// its log held when it was elected.
    fn may_split(&self, at: u16) -> bool {
        let fits = self.slots.is_some_and(|(first, last)| first < at && at <= last);
        fits && self.raft.is_leader()
            && self.ceded_from().is_none()
            && self.knows_its_log()
            && !self.raft.is_changing()
            && self.voters_follow()
    }

    /// Whether every voter follows closely, and is fed from this leader's log. One that needs what has been dropped would
    /// get a snapshot from behind the entry, which makes no replica of the new shard.
    fn voters_follow(&self) -> bool {
        let others = self.conf_state.voters.iter().filter(|id| id.0 != self.raft_id);
        let fed = |id| self.raft.peers().any(|peer| peer.node == id && peer.match_index >= self.compacted);
        others.into_iter().all(|id| fed(*id) && self.is_well(*id, FOUNDER_BEHIND_MAX))
    }

    fn propose_split(&mut self, at: u16, into: u32) -> bool {
        let Some(slots) = self.slots else { return false };
        // A refusal needs no answer: the next round asks again.
        let proposed = self.raft.propose(Division::Split { at, into, slots }.encode());
        self.split = proposed.ok().map(|(term, index)| Proposal { term, index, at });
        self.split.is_some()
    }

    /// The first slot that this leader gives away by an entry which is not applied yet.
    pub fn ceded_from(&self) -> Option<u16> {
        let leads = self.raft.is_leader().then(|| self.raft.term());
        let proposal = self.split.filter(|split| Some(split.term) == leads)?;
        (proposal.index > self.raft.applied()).then_some(proposal.at)
    }
}
