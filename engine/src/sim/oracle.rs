//! Everything the simulator holds against what the cluster does. Each property has a file; this one walks over what
//! changed since a core's last turn and tells them.
//!
//! The oracle believes disks and state machines, never what a core says of them: an entry counts as flushed when the
//! simulated disk has written its batch, a state is compared by what lies in its engine.

mod acknowledgement;
mod commitment;
mod cursors;
mod exactly_once;
mod mirror;
mod open_changes;
mod reference;
mod same_map;
mod stale_reads;
mod state_equality;

use raft::confchange::changed;
use raft::testing::checker::{ElectionSafety, LeaderCompleteness, LogMatching, Violation};
use raft::{ConfState, EntryKind, Index, NodeId, Role, Term};
use wal::Lsn;
use wal::disk::sim::SimDisk;

use crate::core::Core;
use crate::replica::Replica;
use crate::topology::Topology;
use mirror::Mirror;

pub use acknowledgement::Claim;
pub use stale_reads::StaleRead;

/// What a checker answers.
pub type Verdict = Result<(), Violation>;

/// Names a property and what contradicts it.
pub fn violated(property: &'static str, detail: String) -> Verdict {
    Err(Violation { property, detail })
}

/// What is known of one shard.
struct Shard {
    election: ElectionSafety,
    matching: LogMatching,
    completeness: LeaderCompleteness,
    commitment: commitment::Commitment,
    reference: reference::Reference,
    equality: state_equality::StateEquality,
    conf_changes: usize,
    /// The entry of the last one.
    last_conf_change: u64,
    /// Shards that were cut off this one, and that nobody has taken note of.
    cut_off: Vec<(u32, Shard)>,
}

/// A replica as it was after its core's last turn.
struct Seen {
    raft_id: u64,
    mirror: Mirror,
    /// End of the core's log at that time: nothing of the mirror changes while it stands still.
    end_lsn: Lsn,
    flushed_lsn: Lsn,
    /// Entries on disk, as the disk says.
    flushed: u64,
    role: Role,
    term: Term,
    /// The members, as of `conf_index`.
    conf_state: ConfState,
    conf_index: u64,
    cursors: cursors::Cursors,
}

/// All checkers of one world.
pub struct Oracle {
    shards: Vec<Shard>,
    /// By node (from 1) and shard; gone while the node is down.
    seen: Vec<Vec<Option<Seen>>>,
    /// Nodes that have just begun to lead some shard.
    elected: Vec<u64>,
    /// Changes of members committed since somebody asked.
    conf_changes: usize,
    maps: same_map::SameMap,
}

impl Oracle {
    /// Nothing has happened yet, in a cluster of so many nodes and of shards with these first members (the meta shard's
    /// first).
    pub fn new(nodes: usize, founders: &[ConfState]) -> Oracle {
        let shard =
            |founders| Shard::new(commitment::Commitment::default(), reference::Reference::new(founders));
        let unseen = || founders.iter().map(|_| None).collect();
        Oracle {
            shards: founders.iter().map(shard).collect(),
            seen: (0..=nodes).map(|_| unseen()).collect(),
            elected: Vec::new(),
            conf_changes: 0,
            maps: same_map::SameMap::default(),
        }
    }

    /// Shards begin that were cut off others.
    fn take_in(&mut self, cut_off: Vec<(u32, Shard)>) {
        for (number, shard) in cut_off {
            assert_eq!(place(u64::from(number)), self.shards.len(), "a new shard takes the next number");
            self.shards.push(shard);
            self.seen.iter_mut().for_each(|seen| seen.push(None));
        }
    }

    /// How many shards there are, the meta shard among them.
    pub fn shards(&self) -> u32 {
        u32::try_from(self.shards.len()).expect("few shards")
    }

    fn shard(&self, shard: u32) -> &Shard {
        &self.shards[usize::try_from(shard).expect("64-bit machine")]
    }

    fn shard_mut(&mut self, shard: u32) -> &mut Shard {
        &mut self.shards[usize::try_from(shard).expect("64-bit machine")]
    }

    fn seen_mut(&mut self, node: u64, shard: u32) -> &mut Option<Seen> {
        &mut self.seen[place(node)][place(u64::from(shard))]
    }

    /// A core has had a turn, or has just started.
    pub fn observe(&mut self, node: u64, core: &Core, disk: &SimDisk) -> Verdict {
        for replica in core.replicas() {
            let mut seen = match self.seen_mut(node, replica.id.shard).take() {
                Some(seen) if seen.raft_id == replica.raft.id().0 => seen,
                _ => Seen::new(core, replica),
            };
            let shard = self.shard_mut(replica.id.shard);
            let led = seen.role == Role::Leader;
            let verdict = shard.observe(&mut seen, core, replica, disk);
            let conf_changes = std::mem::take(&mut shard.conf_changes);
            let cut_off = std::mem::take(&mut shard.cut_off);
            self.take_in(cut_off);
            self.conf_changes += conf_changes;
            if seen.role == Role::Leader && !led {
                self.elected.push(node);
            }
            *self.seen_mut(node, replica.id.shard) = Some(seen);
            verdict?;
        }
        Ok(())
    }

    /// Nodes that have begun to lead some shard since the last call.
    pub fn take_elected(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.elected)
    }

    /// The last entry of a shard that changed its members, 0 if none did.
    pub fn last_conf_change(&self, shard: u32) -> u64 {
        self.shard(shard).last_conf_change
    }

    /// Whether some replica of a shard has a change of members in its log that may yet be committed.
    pub fn has_open_change(&self, shard: u32) -> bool {
        let settled = self.last_conf_change(shard);
        self.seen.iter().filter_map(|replicas| replicas[place(u64::from(shard))].as_ref()).any(|seen| {
            let past = settled.max(seen.mirror.base()) + 1..=seen.mirror.last();
            past.into_iter().any(|index| {
                seen.mirror.entry(index).is_some_and(|entry| entry.kind == EntryKind::ConfChange)
            })
        })
    }

    /// How many changes of members were committed since the last call.
    pub fn take_conf_changes(&mut self) -> usize {
        std::mem::take(&mut self.conf_changes)
    }

    /// A node's process is gone.
    pub fn forget(&mut self, node: u64) {
        self.seen[place(node)].fill_with(|| None);
    }

    /// The newest entry of a shard that is known to be committed.
    pub fn committed(&self, shard: u32) -> u64 {
        self.shard(shard).commitment.last()
    }

    /// A state machine has applied up to `index`; `hash` is that of its engine.
    pub fn observe_state(&mut self, node: u64, shard: u32, index: u64, hash: u64) -> Verdict {
        let shard = self.shard_mut(shard);
        shard.equality.observe(&shard.reference, node, index, hash)
    }

    /// A node's replica of the meta shard holds a cluster map, and the changes that led to it.
    pub fn observe_topology(&mut self, node: u64, topology: &Topology) -> Verdict {
        self.maps.observe_log(node, topology)
    }

    /// A core goes by another map than before.
    pub fn observe_map(&self, node: u64, core: &Core) -> Verdict {
        self.maps.observe(node, core)
    }

    /// A snapshot of `shard` was made, or is about to be installed.
    pub fn observe_snapshot(&mut self, node: u64, shard: u32, index: u64, hash: u64) -> Verdict {
        self.shard(shard).equality.observe_snapshot(&self.shard(shard).reference, node, index, hash)
    }

    /// A node tells a client that its write is done.
    pub fn observe_claim(&self, node: u64, claim: &Claim) -> Verdict {
        let shard = self.shard(claim.shard);
        let seen = &self.seen[place(node)][place(u64::from(claim.shard))];
        let flushed = seen.as_ref().map_or(0, |seen| seen.flushed);
        acknowledgement::check(claim, node, flushed, &shard.commitment, &shard.reference)
    }

    /// A node answers a stale read.
    pub fn observe_stale_read(&self, node: u64, read: &StaleRead<'_>) -> Verdict {
        stale_reads::check(&self.shard(read.shard).reference, node, read)
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("small")
}

impl Seen {
    /// The configurations that the replica had since its core's last turn: each membership change may have let the
    /// entries after it be committed.
    fn confs_since(&self, replica: &Replica) -> Vec<ConfState> {
        let mut confs = vec![self.conf_state.clone()];
        let applied =
            (self.conf_index + 1..=replica.conf_index.0).filter_map(|index| self.mirror.entry(index));
        for entry in applied.filter(|entry| entry.kind == EntryKind::ConfChange) {
            let Ok(next) = changed(confs.last().expect("begun with one"), &entry.data) else { break };
            confs.push(next);
        }
        confs.push(replica.raft.conf_state());
        confs
    }

    fn new(core: &Core, replica: &Replica) -> Seen {
        Seen {
            raft_id: replica.raft.id().0,
            mirror: Mirror::new(&core.log(), core.stream(replica)),
            end_lsn: Lsn(u64::MAX),
            flushed_lsn: Lsn(u64::MAX),
            flushed: 0,
            role: Role::Follower,
            term: Term::ZERO,
            conf_state: replica.raft.conf_state(),
            conf_index: replica.conf_index.0,
            cursors: cursors::Cursors::default(),
        }
    }
}

impl Shard {
    fn new(commitment: commitment::Commitment, reference: reference::Reference) -> Shard {
        Shard {
            election: ElectionSafety::default(),
            matching: LogMatching::default(),
            completeness: LeaderCompleteness::default(),
            commitment,
            reference,
            equality: state_equality::StateEquality::default(),
            conf_changes: 0,
            last_conf_change: 0,
            cut_off: Vec::new(),
        }
    }

    fn observe(&mut self, seen: &mut Seen, core: &Core, replica: &Replica, disk: &SimDisk) -> Verdict {
        let is_new = seen.end_lsn == Lsn(u64::MAX);
        self.observe_log(seen, core, replica, disk)?;
        if is_new {
            open_changes::check(seen.raft_id, &seen.mirror, replica.raft.committed().0)?;
        }
        self.observe_flushes(seen, core, replica);
        self.observe_commits(seen, replica)?;
        if seen.conf_index != replica.conf_index.0 {
            (seen.conf_index, seen.conf_state) = (replica.conf_index.0, replica.raft.conf_state());
        }
        self.observe_role(seen, replica)?;
        seen.cursors.observe(core, replica, seen.flushed)
    }

    fn observe_log(&mut self, seen: &mut Seen, core: &Core, replica: &Replica, disk: &SimDisk) -> Verdict {
        let log = core.log();
        if seen.end_lsn == log.end_lsn() {
            return Ok(());
        }
        seen.end_lsn = log.end_lsn();
        let change = seen.mirror.follow(&log, core.stream(replica), disk)?;
        seen.flushed = seen.flushed.min(change.kept).max(seen.mirror.base());
        if change.kept < seen.cursors.committed {
            let detail = format!(
                "replica {} dropped its log from {} on, having known {} committed",
                seen.raft_id,
                change.kept + 1,
                seen.cursors.committed
            );
            return violated("committed never changes", detail);
        }
        // The disk may have more than was seen of it.
        seen.flushed_lsn = Lsn(u64::MAX);
        for index in change.kept + 1..=seen.mirror.last() {
            let entry = seen.mirror.entry(index).expect("inside the mirror");
            let before = seen.mirror.term(index - 1).expect("the base has a term");
            self.matching.observe_entry(before, entry)?;
        }
        Ok(())
    }

    fn observe_flushes(&mut self, seen: &mut Seen, core: &Core, replica: &Replica) {
        let log = core.log();
        if seen.flushed_lsn == log.flushed_lsn() {
            return;
        }
        seen.flushed_lsn = log.flushed_lsn();
        let flushed = log.flushed_index(core.stream(replica)).min(seen.mirror.last());
        for index in seen.flushed.max(seen.mirror.base()) + 1..=flushed {
            let term = seen.mirror.term(index).expect("inside the mirror");
            self.commitment.flushed(index, seen.raft_id, term);
        }
        seen.flushed = seen.flushed.max(flushed);
    }

    fn observe_commits(&mut self, seen: &mut Seen, replica: &Replica) -> Verdict {
        let (before, committed) = (seen.cursors.committed, replica.raft.committed().0);
        if committed == before {
            return Ok(());
        }
        let confs = seen.confs_since(replica);
        let confs: Vec<&ConfState> = confs.iter().collect();
        let term = replica.raft.term();
        let mut newest = None;
        for index in before.max(seen.mirror.base()) + 1..=committed {
            let Some(entry) = seen.mirror.entry(index) else {
                let detail = format!("replica {} has committed {index} and does not hold it", seen.raft_id);
                return violated("committed never changes", detail);
            };
            self.completeness.observe_commit(term, Index(index), entry.term)?;
            if self.commitment.observe(seen.raft_id, entry, &confs)? {
                newest = Some(entry.term);
                if entry.kind == EntryKind::ConfChange {
                    self.conf_changes += 1;
                    self.last_conf_change = index;
                }
                if let Some((into, reference)) = self.reference.cut_by(entry) {
                    self.cut_off.push((into, Shard::new(self.commitment.of_cut_off(), reference)));
                }
                self.reference.apply(entry)?;
            }
        }
        if let Some(of) = newest.filter(|of| replica.raft.is_leader() && *of != term) {
            let detail =
                format!("replica {}, leading term {term}, commits {committed} of term {of}", seen.raft_id);
            return violated("a leader commits by counting only in its own term", detail);
        }
        Ok(())
    }

    fn observe_role(&mut self, seen: &mut Seen, replica: &Replica) -> Verdict {
        let (role, term) = (replica.raft.role(), replica.raft.term());
        if (role, term) == (seen.role, seen.term) {
            return Ok(());
        }
        if term < seen.term {
            let detail = format!("replica {} went from term {} back to {term}", seen.raft_id, seen.term);
            return violated("cursors only grow", detail);
        }
        let leads_anew = role == Role::Leader && (seen.role != Role::Leader || seen.term != term);
        (seen.role, seen.term) = (role, term);
        if leads_anew {
            let id = NodeId(seen.raft_id);
            self.election.observe_leader(id, term)?;
            let first = Index(seen.mirror.base() + 1);
            self.completeness.observe_leader(id, term, first, |index| seen.mirror.term(index.0))?;
        }
        Ok(())
    }
}
