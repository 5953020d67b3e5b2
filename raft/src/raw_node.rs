//! The public facade: what comes in, what goes out.

use bytes::Bytes;

use crate::confchange::ConfChange;
use crate::config::Config;
use crate::entry::{ConfState, Entry, InitialState, SnapshotMeta};
use crate::error::{
    ConfigError, LogReadError, ProposeConfError, ProposeError, ReadError, StepError, TransferError,
};
use crate::message::Message;
use crate::raft::Raft;
use crate::ready::{ReadStart, Ready};
use crate::status::{PeerStatus, Role, Status};
use crate::storage::LogStorage;
use crate::types::{FetchId, Index, Nanos, NodeId, ReadyId, Term};

/// One member of one Raft group, as a function of what it is told.
///
/// Its methods fall in four families: *inputs* (`tick`, `step`, `on_*`, `report_*`) tell it what happened, *commands*
/// (`propose`, `read_index`, `transfer_leader`, `campaign`) ask it for something, *outputs* (`has_ready`, `ready`) say
/// what it wants done, and the rest are getters.
///
/// The loop of a driver: give it all inputs and commands at hand; then, while [`has_ready`](RawNode::has_ready), take
/// one [`Ready`] and do what its documentation asks. The more inputs between two Readys, the larger the batches.
///
/// `now` is a reading of the local monotonic clock and must not fall from call to call. Ticks drive the timers;
/// `now` bounds what depends on true time: leases, and votes that could break one. So it must be read after the message,
/// the read or the tick it comes with arrived; one reading may serve a whole batch that was at hand when it was taken.
#[derive(Debug)]
pub struct RawNode<S> {
    raft: Raft<S>,
}

impl<S: LogStorage> RawNode<S> {
    /// A node that follows, in the term it had. `seed` feeds its randomness, and must differ between nodes and between
    /// incarnations of a node: numbers drawn from it tell late answers to a former incarnation from answers to this one.
    ///
    /// # Errors
    /// If the configuration breaks a bound, or the recovered state does not hang together.
    pub fn new(config: Config, initial: InitialState, storage: S, seed: u64) -> Result<Self, ConfigError> {
        Ok(RawNode { raft: Raft::new(config, initial, storage, seed)? })
    }

    // Inputs

    /// One more tick of [`Config::tick`] has passed.
    pub fn tick(&mut self, now: Nanos) {
        self.raft.tick(now);
    }

    /// A message has arrived. Messages of former terms and from strangers are harmless and not an error.
    ///
    /// # Errors
    /// If the message is not for this node, breaks the protocol, or shows that this node has lost data.
    pub fn step(&mut self, message: Message, now: Nanos) -> Result<(), StepError> {
        self.raft.step(message, now)
    }

    /// Everything of Ready `id`, and of all before it, is durable. Cumulative; repeating it does nothing.
    pub fn on_persisted(&mut self, id: ReadyId) {
        self.raft.on_persisted(id);
    }

    /// The state machine has applied everything up to `index`.
    pub fn on_applied(&mut self, index: Index) {
        self.raft.on_applied(index);
    }

    /// The answer to a [`Fetch`](crate::Fetch). A late one is ignored.
    pub fn on_entries_fetched(&mut self, fetch: FetchId, result: Result<Vec<Entry>, LogReadError>) {
        self.raft.on_entries_fetched(fetch, result);
    }

    /// Messages to `node` were probably lost, e.g. its connection broke.
    pub fn report_unreachable(&mut self, node: NodeId) {
        self.raft.report_unreachable(node);
    }

    /// A membership change, out of [`Ready::committed`], counts from now on. Returns the configuration it leads to. A node
    /// that is not in it goes on until it is [dismissed](RawNode::dismisses).
    ///
    /// # Panics
    /// If the entry is not the next change handed out.
    pub fn apply_conf_change(&mut self, entry: &Entry) -> ConfState {
        self.raft.apply_conf_change(entry)
    }

    /// The snapshot of [`Ready::snapshot`] has durably taken the place of the state machine, and the log was reset: the
    /// storage shows an empty log after `meta.index`, whose term it knows. Everything handed out to be applied before was
    /// applied or thrown away. The log's reset itself need not be durable, if a restart repeats it where the state machine
    /// turns out to be ahead of the log.
    ///
    /// # Panics
    /// If no such snapshot was to be installed, or the storage shows something else.
    pub fn on_snapshot_installed(&mut self, meta: &SnapshotMeta) {
        self.raft.on_snapshot_installed(meta);
    }

    /// The snapshot of [`Ready::snapshot`] was not installed: log and state machine are as before.
    pub fn on_snapshot_failed(&mut self) {
        self.raft.on_snapshot_failed();
    }

    /// Sending a snapshot to `to` ended: all of it arrived there, or not. If so the follower is asked from time to time
    /// whether it has installed it; if not, it is named in [`Ready::snapshots_needed`] again.
    pub fn report_snapshot(&mut self, to: NodeId, sent: bool) {
        self.raft.report_snapshot(to, sent);
    }

    // Commands

    /// Appends a command to the log, and says where.
    ///
    /// # Errors
    /// If nothing was appended, and what to do then.
    pub fn propose(&mut self, data: Bytes) -> Result<(Term, Index), ProposeError> {
        let index = self.raft.propose(data)?;
        Ok((self.raft.term, index))
    }

    /// Appends a change of the membership, and says where. A change of more than one voter goes through a joint
    /// configuration, which the leader leaves by itself. A leader may remove itself: it goes on until a quorum of the
    /// others knows, then hands over; to keep the pause short, transfer the leadership first.
    ///
    /// # Errors
    /// If nothing was appended, and what to do then.
    pub fn propose_conf_change(&mut self, change: &ConfChange) -> Result<(Term, Index), ProposeConfError> {
        let index = self.raft.propose_conf_change(change)?;
        Ok((self.raft.term, index))
    }

    /// Starts a linearizable read, identified by `context`. A leader with a valid lease answers at once.
    ///
    /// # Errors
    /// If there is no leader to ask, or too many reads wait.
    pub fn read_index(&mut self, context: u64, now: Nanos) -> Result<ReadStart, ReadError> {
        self.raft.read_index(context, now)
    }

    /// Hands the leadership to `to`, once it has the whole log. Abandoned after an election timeout.
    ///
    /// # Errors
    /// If this node cannot, or need not.
    pub fn transfer_leader(&mut self, to: NodeId) -> Result<(), TransferError> {
        self.raft.transfer_leader(to)
    }

    /// Calls an election now. Does nothing on a leader, on a node without a vote, and where leases are in use and
    /// another node may still hold one.
    pub fn campaign(&mut self) {
        self.raft.campaign();
    }

    /// The node never ran before, whatever its term says: it has heard no leader, and need not wait before it votes.
    pub fn release_hold(&mut self) {
        self.raft.release_hold();
    }

    /// A leader with nothing to do for anybody sends its followers to sleep, and sleeps. Returns whether it did. A node
    /// asleep needs no ticks; whoever runs it watches the leader's machine, and wakes the node when that falls silent.
    pub fn hibernate(&mut self) -> bool {
        self.raft.hibernate()
    }

    /// Wakes a node that sleeps: a follower calls its leader and begins an election timeout, a leader sends heartbeats.
    pub fn wake(&mut self) {
        self.raft.rouse(None);
    }

    /// Changes how much this node is preferred as leader, as [`Config::priority`]; counts from the next election timeout on.
    pub fn set_priority(&mut self, priority: u8) {
        self.raft.config.priority = priority;
    }

    /// Tells the shortest time for which, by its own clock, a member votes for nobody else after it heard its leader: a
    /// lease never lasts longer, and with 0 every read asks a quorum. Until it is called, all members are taken to be
    /// configured as this node is.
    pub fn limit_lease(&mut self, hold: Nanos) {
        self.raft.lease_limit = self.raft.config.less_the_drift(hold);
    }

    // Outputs

    /// Whether [`ready`](RawNode::ready) has anything to say. Cheap.
    pub fn has_ready(&self) -> bool {
        self.raft.has_ready()
    }

    /// Takes everything the node wants done.
    pub fn ready(&mut self) -> Ready {
        self.raft.ready()
    }

    // Getters

    /// The node at this moment. Allocates; the getters below do not.
    pub fn status(&self) -> Status {
        self.raft.status()
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.raft.role()
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        self.role() == Role::Leader
    }

    /// Whom it takes for the leader.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.leader
    }

    /// Its identity.
    pub fn id(&self) -> NodeId {
        self.raft.config.id
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.raft.term
    }

    /// The newest entry it knows committed.
    pub fn committed(&self) -> Index {
        self.raft.log.committed()
    }

    /// The newest entry its state machine has applied.
    pub fn applied(&self) -> Index {
        self.raft.log.applied()
    }

    /// The end of the log on its own disk.
    pub fn flushed(&self) -> Index {
        self.raft.log.flushed()
    }

    /// The end of its log.
    pub fn last_index(&self) -> Index {
        self.raft.log.last_index()
    }

    /// The index that the next accepted [`propose`](RawNode::propose) gets.
    pub fn next_index(&self) -> Index {
        self.last_index().next()
    }

    /// Who belongs to the group.
    pub fn conf_state(&self) -> ConfState {
        self.raft.conf_state()
    }

    /// Whether this leader may tell `node`, which asks for a vote or to be taken in, that the group is through with it, so
    /// that it can be destroyed. A node that has applied its own removal must wait to be told: the others may not yet know
    /// on disk that it is not needed.
    pub fn dismisses(&self, node: NodeId) -> bool {
        self.raft.dismisses(node)
    }

    /// Whether this node is to believe a leader of `term` that [dismisses](RawNode::dismisses) it, and may be destroyed.
    pub fn believes_dismissal(&self, term: Term) -> bool {
        self.raft.believes_dismissal(term)
    }

    /// Whether this is a leader whose members may be changing: one of its changes, or one that its log held when it was
    /// elected, is not applied here yet, or a joint configuration is not left.
    pub fn is_changing(&self) -> bool {
        self.raft.is_changing()
    }

    /// Whether it sleeps.
    pub fn is_dormant(&self) -> bool {
        self.raft.is_dormant()
    }

    /// Whether [`hibernate`](RawNode::hibernate) would do anything.
    pub fn can_hibernate(&self) -> bool {
        self.raft.can_hibernate()
    }

    /// To whom a leader would best hand over; `None` unless leader, or where no other voter is well.
    pub fn best_successor(&self) -> Option<NodeId> {
        self.raft.best_successor()
    }

    /// The others as a leader sees them; nothing unless leader.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        self.raft.peers()
    }

    /// The lowest match index over all peers, learners too: what lies at or before it is needed by none. `None` unless
    /// leader, or where there are no peers.
    pub fn min_match_index(&self) -> Option<Index> {
        self.peers().map(|peer| peer.match_index).min()
    }

    /// Whether this is a leader that sleeps, or woke so lately that which of its members are active is not known yet.
    pub fn is_waking(&self) -> bool {
        self.raft.is_waking()
    }

    /// The log given to [`new`](RawNode::new).
    pub fn storage(&self) -> &S {
        &self.raft.log.storage
    }

    /// The log given to [`new`](RawNode::new), to be written as a [`Ready`] asks, or compacted up to the applied index.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.raft.log.storage
    }

    /// Panics unless every invariant holds. Tests and simulations call it after every step.
    pub fn check_invariants(&self) {
        self.raft.check_invariants();
    }
}
