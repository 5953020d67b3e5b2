//! The protocol: what a node is, the rule of terms that every message undergoes, and the changes of role.
//!
//! Split by role and concern; all files add methods to [`Raft`]:
//!
//! | file | what |
//! |---|---|
//! | `timers` | ticks, the election timeout, and whom a node has lately heard |
//! | `vote` | granting and refusing votes |
//! | `candidate` | pre-elections and elections |
//! | `follower` | appends and heartbeats from the leader |
//! | `leader` | proposals, acknowledgements, commit, check-quorum |
//! | `replicate` | what is sent to whom |
//! | `reads` | read indexes and leases |
//! | `transfer` | handing the leadership over |
//! | `membership` | changes of the membership |
//! | `snapshot` | snapshots in place of the log |
//! | `hibernate` | groups that sleep |
//! | `output` | the `Ready` |
//! | `invariants` | what must always hold |

mod candidate;
mod follower;
mod hibernate;
mod invariants;
mod leader;
mod membership;
mod output;
mod reads;
mod replicate;
mod snapshot;
mod timers;
mod transfer;
mod validate;
mod vote;

use crate::config::Config;
use crate::entry::{ConfState, Entry, InitialState, SnapshotMeta};
use crate::error::{ConfigError, LogReadError, StepError};
use crate::log::{RaftLog, assert_contiguous};
use crate::message::{Message, MessageBody};
use crate::read_index::ForwardedReads;
use crate::rng::Rng;
use crate::status::{PeerStatus, Role, Status};
use crate::storage::LogStorage;
use crate::tracker::Membership;
use crate::types::{FetchId, Index, Nanos, NodeId, ReadyId, Round, Term};

use candidate::Ballot;
use leader::Leader;
use output::{ApplyReader, Output};
use timers::Timers;

/// One node of one group.
#[derive(Debug)]
pub(crate) struct Raft<S> {
    pub(crate) config: Config,
    pub(crate) term: Term,
    vote: Option<NodeId>,
    pub(crate) leader: Option<NodeId>,
    state: State,
    /// As of what was handed out to be applied.
    membership: Membership,
    /// The change that led to it, or before.
    changed_at: Index,
    /// The snapshot being installed.
    installing: Option<SnapshotMeta>,
    /// Asleep until something happens.
    dormant: bool,
    pub(crate) log: RaftLog<S>,
    timers: Timers,
    /// What the other members allow a lease to last.
    pub(crate) lease_limit: Nanos,
    rng: Rng,
    /// Reads sent on to the leader; empty unless one is known and it is another node.
    forwarded: ForwardedReads,
    /// The term and vote that are on disk.
    durable_ballot: (Term, Option<NodeId>),
    apply_reader: ApplyReader,
    output: Output,
}

/// The role, with what only that role knows.
#[derive(Debug)]
enum State {
    Follower,
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Box<Leader>),
}

impl<S: LogStorage> Raft<S> {
    pub(crate) fn new(
        config: Config,
        initial: InitialState,
        storage: S,
        seed: u64,
    ) -> Result<Raft<S>, ConfigError> {
        config.validate()?;
        let membership = Membership::new(&initial.conf_state)?;
        validate::recovered(&initial, &storage)?;
        let hard = initial.hard_state;
        let committed = hard.commit.max(initial.applied);
        let mut rng = Rng::new(seed);
        let first_batch = rng.next_u64();
        let hold = config.lease && hard.term > Term::ZERO;
        let timeout_ticks = timers::draw_timeout(config.election_ticks, config.priority, &mut rng);
        Ok(Raft {
            term: hard.term,
            vote: hard.vote,
            leader: None,
            state: State::Follower,
            membership,
            changed_at: initial.applied,
            installing: None,
            dormant: false,
            log: RaftLog::new(storage, committed, initial.applied),
            timers: Timers::new(hold, timeout_ticks),
            lease_limit: Nanos(u64::MAX),
            forwarded: ForwardedReads::new(first_batch),
            durable_ballot: (hard.term, hard.vote),
            apply_reader: ApplyReader::default(),
            output: Output::new(hard, committed),
            rng,
            config,
        })
    }

    // Inputs

    pub(crate) fn tick(&mut self, now: Nanos) {
        let stood_still = now.since(self.timers.now) > self.config.election_timeout();
        self.timers.observe(now);
        if stood_still {
            self.doubt_members();
        }
        self.apply_reader.stalled = false;
        if self.dormant {
            return;
        }
        self.tick_forwarded_reads();
        match self.state {
            State::Leader(_) => self.tick_leader(),
            State::Follower => self.tick_election(),
            State::PreCandidate(_) | State::Candidate(_) => {
                self.tick_election();
                self.tick_ballot();
            }
        }
    }

    pub(crate) fn step(&mut self, message: Message, now: Nanos) -> Result<(), StepError> {
        self.validate(&message)?;
        self.timers.observe(now);
        if self.pass_term(&message) && self.rouse_by(&message) {
            self.dispatch(message);
        }
        Ok(())
    }

    /// The rule of terms (thesis §3.3): a newer term makes a follower of anyone, an older one is refused. Returns whether
    /// the message is to be processed.
    fn pass_term(&mut self, message: &Message) -> bool {
        if message.term < self.term {
            self.refuse_stale(message);
            // A snapshot takes long to send, and stays true whoever leads.
            return matches!(message.body, MessageBody::Snapshot { .. });
        }
        if message.term == self.term {
            return true;
        }
        match message.body {
            // Of a term that may never begin.
            MessageBody::PreVote { .. } | MessageBody::PreVoteResponse { granted: true } => {}
            // A node cut off and back must not depose a leader that the others hear, nor break its lease (§4.2.3, §6.4.1).
            MessageBody::Vote { transfer: false, .. } if self.is_sticky() => return false,
            MessageBody::Append { .. }
            | MessageBody::Heartbeat { .. }
            | MessageBody::Snapshot { .. }
            | MessageBody::Sleep { .. } => self.become_follower(message.term, Some(message.from)),
            _ => self.become_follower(message.term, None),
        }
        true
    }

    /// Lets the sender of an old term know the new one, where it would otherwise not get out of it.
    fn refuse_stale(&mut self, message: &Message) {
        let body = match message.body {
            MessageBody::PreVote { .. } => MessageBody::PreVoteResponse { granted: false },
            MessageBody::Vote { .. } => MessageBody::VoteResponse { granted: false },
            MessageBody::Append { .. } | MessageBody::Heartbeat { .. } | MessageBody::Sleep { .. } => {
                MessageBody::HeartbeatResponse { round: Round::NONE }
            }
            _ => return,
        };
        self.respond(message.from, body);
    }

    fn dispatch(&mut self, message: Message) {
        let Message { from, to: _, term, body } = message;
        match body {
            MessageBody::PreVote { last_index, last_term } => {
                self.on_pre_vote(from, term, last_index, last_term)
            }
            MessageBody::Vote { last_index, last_term, transfer } => {
                self.on_vote(from, last_index, last_term, transfer);
            }
            MessageBody::PreVoteResponse { granted } => self.on_pre_vote_response(from, term, granted),
            MessageBody::VoteResponse { granted } => self.on_vote_response(from, granted),
            MessageBody::Append { prev_index, prev_term, entries, commit, round } => {
                self.hear_leader(from);
                self.on_append(from, (prev_index, prev_term), entries, commit, round);
            }
            MessageBody::Heartbeat { commit, round } => {
                self.hear_leader(from);
                self.on_heartbeat(from, commit, round);
            }
            MessageBody::AppendResponse { result, round } => self.on_append_response(from, result, round),
            MessageBody::HeartbeatResponse { round } => self.on_round_echoed(from, round),
            MessageBody::ReadIndex { context } => self.on_read_index(from, context),
            MessageBody::ReadIndexResponse { context, index } => {
                self.on_read_index_response(from, context, index)
            }
            MessageBody::TimeoutNow => self.on_timeout_now(from),
            MessageBody::Snapshot { meta } => {
                if term == self.term {
                    self.hear_leader(from);
                }
                self.on_snapshot(self.leader.unwrap_or(from), meta);
            }
            MessageBody::Sleep { commit } => {
                self.hear_leader(from);
                self.on_sleep(commit);
            }
        }
    }

    pub(crate) fn on_persisted(&mut self, id: ReadyId) {
        assert!(id <= self.output.last_ready(), "ready {id} became durable before it was handed out");
        let Some(write) = self.log.on_persisted(id) else { return };
        self.durable_ballot = write.ballot;
        match self.state {
            State::Candidate(_) => self.count_own_vote(),
            State::Leader(_) => self.advance_commit(),
            State::Follower | State::PreCandidate(_) => {}
        }
    }

    pub(crate) fn on_applied(&mut self, index: Index) {
        let unapplied = self.output.changes_handed_out.front();
        assert!(
            unapplied.is_none_or(|change| *change > index),
            "applied {index} before the change in {unapplied:?}"
        );
        self.log.on_applied(index);
        self.leave_joint();
    }

    pub(crate) fn on_entries_fetched(&mut self, id: FetchId, result: Result<Vec<Entry>, LogReadError>) {
        if let Ok(entries) = &result {
            let low = entries.first().map(|entry| entry.index);
            assert_contiguous(low.expect("a fetch brings at least one entry"), entries);
        }
        if self.apply_reader.fetch == Some(id) {
            self.on_apply_fetched(result);
        } else {
            self.on_peer_fetched(id, result);
        }
    }

    // Changes of role: nothing else assigns `state`, `term` or `leader`.

    fn become_follower(&mut self, term: Term, leader: Option<NodeId>) {
        assert!(term >= self.term, "back to term {term} from {}", self.term);
        self.leave_role(term);
        self.enter_term(term, None);
        self.dormant = false;
        self.leader = leader;
        self.state = State::Follower;
        self.reset_election_timer();
    }

    fn become_pre_candidate(&mut self) {
        assert!(!self.is_leader(), "a leader does not campaign");
        self.timers.stood = true;
        self.leave_role(self.term);
        self.leader = None;
        self.state = State::PreCandidate(Ballot::new(false));
        self.reset_election_timer();
    }

    fn become_candidate(&mut self, transfer: bool) {
        assert!(!self.is_leader(), "a leader does not campaign");
        self.timers.stood = true;
        let term = self.term.next();
        self.leave_role(term);
        self.enter_term(term, Some(self.config.id));
        self.leader = None;
        self.state = State::Candidate(Ballot::new(transfer));
        self.reset_election_timer();
    }

    fn become_leader(&mut self) {
        assert!(matches!(self.state, State::Candidate(_)), "only a candidate is elected");
        let own = (self.term, Some(self.config.id));
        assert_eq!(self.durable_ballot, own, "a leader whose own vote a crash could undo");
        self.leave_role(self.term);
        self.leader = Some(self.config.id);
        self.timers.stood = false;
        let last = self.log.last_index();
        self.state =
            State::Leader(Box::new(Leader::new(self.config.id, &self.membership, last, self.timers.now)));
        self.append_noop();
    }

    fn enter_term(&mut self, term: Term, vote: Option<NodeId>) {
        if term > self.term {
            self.term = term;
            self.vote = vote;
            // What they promise may be dropped from the log before it is ever written.
            self.output.persisted_messages.clear();
        }
    }

    /// Gives up what depends on the present role, term or leader; `term` is the one to come.
    fn leave_role(&mut self, term: Term) {
        if self.is_leader() {
            self.drop_leader_reads(term == self.term);
        }
        let mut contexts = self.forwarded.take_all();
        self.output.reads_dropped.append(&mut contexts);
    }

    // Getters

    pub(crate) fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.state, State::Leader(_))
    }

    pub(crate) fn conf_state(&self) -> ConfState {
        self.membership.conf_state()
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerStatus> {
        let leader = match &self.state {
            State::Leader(leader) => Some(leader),
            _ => None,
        };
        leader.into_iter().flat_map(|leader| leader.peers(self.config.election_ticks))
    }

    pub(crate) fn status(&self) -> Status {
        let leader = match &self.state {
            State::Leader(leader) => Some(leader),
            _ => None,
        };
        Status {
            id: self.config.id,
            role: self.role(),
            leader: self.leader,
            term: self.term,
            vote: self.vote,
            committed: self.log.committed(),
            applied: self.log.applied(),
            flushed: self.log.flushed(),
            last_index: self.log.last_index(),
            uncommitted_bytes: leader.map_or(0, |leader| leader.uncommitted_bytes()),
            lease: self.has_lease(),
            dormant: self.dormant,
            conf_state: self.conf_state(),
            installing: self.installing.as_ref().map(|meta| meta.index),
            transferring_to: leader.and_then(|leader| leader.transferring_to()),
            pending_reads: self.forwarded.len() + leader.map_or(0, |leader| leader.pending_reads()),
            peers: self.peers().collect(),
        }
    }

    pub(crate) fn is_dormant(&self) -> bool {
        self.dormant
    }

    /// Whether this node may stand for election.
    ///
    /// A voter may, by the newest configuration it knows to count. So may a node that was removed, until it is dismissed: it
    /// may be the only one who knows (thesis §4.2.2). If nodes 2 and 3 are the group, and 3 applies its own removal and
    /// crashes, then 2 still needs the vote of 3, and does not get it if the log of 3 is longer.
    fn is_promotable(&self) -> bool {
        let own = self.config.id;
        let removed = !self.membership.contains(own) && self.log.last_index() > Index::ZERO;
        let stands = self.membership.voters.contains(own) || removed && !self.membership.is_empty();
        stands && self.installing.is_none() && !self.log.may_hold_unapplied_change()
    }

    /// Whether this node alone is a quorum, and its log cannot tell otherwise.
    fn is_alone(&self) -> bool {
        self.membership.voters.is_only(self.config.id) && !self.log.may_hold_change()
    }
}
