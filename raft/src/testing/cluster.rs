//! A group of nodes, their disks and the network between them, driven step by step and watched by every checker.
//!
//! Invariant: after every public call each node's own invariants hold and no safety property was violated, or the call
//! panics with what happened.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::checker::{
    ElectionSafety, LeaderCompleteness, LogMatching, ReadFreshness, StateMachineSafety, Violation,
};
use super::describe::describe_message;
use super::disk::Disk;
use crate::config::Config;
use crate::entry::{ConfState, Entry, EntryKind};
use crate::error::{ProposeError, ReadError, StepError};
use crate::message::Message;
use crate::raw_node::RawNode;
use crate::ready::{ReadStart, ReadState, Ready};
use crate::status::Role;
use crate::storage::{LogStorage, MemStorage};
use crate::types::{Index, Nanos, NodeId, Term};

/// One node with what surrounds it.
#[derive(Debug)]
pub struct Host {
    config: Config,
    node: Option<RawNode<MemStorage>>,
    /// Its disk, whether or not it runs.
    pub disk: Disk,
    clock: Nanos,
    incarnation: u64,
    observed: Index,
    /// Reads that got their index.
    pub read_states: Vec<ReadState>,
    /// Reads that were given up.
    pub reads_dropped: Vec<u64>,
    /// Followers that were reported to need a snapshot.
    pub snapshots_needed: Vec<NodeId>,
    /// What was applied since the start.
    pub applied: Vec<Entry>,
}

/// The safety properties.
#[derive(Debug, Default)]
pub struct Checkers {
    /// One leader per term.
    pub elections: ElectionSafety,
    /// Logs agree up to a common entry.
    pub logs: LogMatching,
    /// Leaders hold what was committed.
    pub leaders: LeaderCompleteness,
    /// The same is applied everywhere.
    pub machines: StateMachineSafety,
    /// Reads see what was committed.
    pub reads: ReadFreshness,
}

/// The group.
#[derive(Debug)]
pub struct Cluster {
    conf_state: ConfState,
    hosts: BTreeMap<NodeId, Host>,
    /// Messages under way, oldest first. Tests may reorder, drop and copy them.
    pub wire: Vec<Message>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// What watches.
    pub checkers: Checkers,
    /// What was delivered, if a script asked for it.
    pub(super) trace: Option<Vec<String>>,
    led: BTreeSet<(NodeId, Term)>,
    seed: u64,
}

impl Cluster {
    /// A group of these members; every node that is listed runs, with an empty log unless `disks` holds one.
    ///
    /// # Panics
    /// If a configuration or a disk is not valid.
    #[must_use]
    pub fn new(
        configs: Vec<Config>,
        conf_state: ConfState,
        mut disks: BTreeMap<NodeId, Disk>,
        seed: u64,
    ) -> Cluster {
        let mut cluster = Cluster {
            conf_state,
            hosts: BTreeMap::new(),
            wire: Vec::new(),
            cut: BTreeSet::new(),
            checkers: Checkers::default(),
            trace: None,
            led: BTreeSet::new(),
            seed,
        };
        for config in configs {
            let id = config.id;
            let host = Host {
                disk: disks.remove(&id).unwrap_or_default(),
                config,
                node: None,
                clock: Nanos::ZERO,
                incarnation: 0,
                observed: Index::ZERO,
                read_states: Vec::new(),
                reads_dropped: Vec::new(),
                snapshots_needed: Vec::new(),
                applied: Vec::new(),
            };
            cluster.hosts.insert(id, host);
            cluster.start(id);
        }
        cluster
    }

    // Getters

    /// The identities, ascending.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.hosts.keys().copied().collect()
    }

    /// One host.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn host(&self, id: NodeId) -> &Host {
        self.hosts.get(&id).expect("a host")
    }

    /// One host, to be tampered with.
    ///
    /// # Panics
    /// If there is none.
    pub fn host_mut(&mut self, id: NodeId) -> &mut Host {
        self.hosts.get_mut(&id).expect("a host")
    }

    /// One running node.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &RawNode<MemStorage> {
        self.host(id).node.as_ref().expect("a running node")
    }

    /// One running node, to be told something; [`Cluster::drain`] it afterwards.
    ///
    /// # Panics
    /// If it does not run.
    pub fn node_mut(&mut self, id: NodeId) -> &mut RawNode<MemStorage> {
        self.host_mut(id).node.as_mut().expect("a running node")
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self, id: NodeId) -> bool {
        self.host(id).node.is_some()
    }

    /// The running leader of the newest term, if any.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let running = self.hosts.iter().filter_map(|(id, host)| Some((id, host.node.as_ref()?)));
        let leaders = running.filter(|(_, node)| node.is_leader());
        leaders.max_by_key(|(_, node)| node.term()).map(|(id, _)| *id)
    }

    /// The log of a running node, compacted entries left out.
    #[must_use]
    pub fn log(&self, id: NodeId) -> Vec<Entry> {
        self.node(id).storage().iter().cloned().collect()
    }

    // What happens to a node

    /// One tick of a node, its clock going on by `length`.
    pub fn tick_for(&mut self, id: NodeId, length: Nanos) {
        let host = self.host_mut(id);
        host.clock = host.clock.saturating_add(length);
        let now = host.clock;
        if let Some(node) = &mut host.node {
            node.tick(now);
        }
        self.verify(id);
    }

    /// One tick of a node, of the configured length.
    pub fn tick(&mut self, id: NodeId) {
        let length = self.host(id).config.tick;
        self.tick_for(id, length);
    }

    /// Time passes without a tick.
    pub fn pass(&mut self, id: NodeId, length: Nanos) {
        let host = self.host_mut(id);
        host.clock = host.clock.saturating_add(length);
    }

    /// Calls an election.
    pub fn campaign(&mut self, id: NodeId) {
        self.node_mut(id).campaign();
        self.verify(id);
    }

    /// Proposes a command.
    ///
    /// # Errors
    /// As the node answers.
    pub fn propose(&mut self, id: NodeId, data: Bytes) -> Result<(Term, Index), ProposeError> {
        let next = self.node(id).next_index();
        let result = self.node_mut(id).propose(data);
        assert!(result.is_err() || result.is_ok_and(|(_, index)| index == next), "next_index was wrong");
        self.verify(id);
        result
    }

    /// Starts a read.
    ///
    /// # Errors
    /// As the node answers.
    pub fn read(&mut self, id: NodeId, context: u64) -> Result<ReadStart, ReadError> {
        self.checkers.reads.observe_start(context);
        let now = self.host(id).clock;
        let result = self.node_mut(id).read_index(context, now);
        let observed = match result {
            Ok(ReadStart::At(index)) => self.checkers.reads.observe_index(context, index),
            Ok(ReadStart::Pending) => Ok(()),
            Err(_) => self.checkers.reads.observe_dropped(context),
        };
        must_hold(observed);
        self.verify(id);
        result
    }

    /// Delivers one message now, unless the addressee is down.
    ///
    /// # Errors
    /// As the node answers.
    pub fn deliver(&mut self, message: Message) -> Result<(), StepError> {
        let to = message.to;
        if let Some(trace) = &mut self.trace {
            trace.push(describe_message(&message));
        }
        let host = self.host_mut(to);
        let now = host.clock;
        let result = match &mut host.node {
            Some(node) => node.step(message, now),
            None => Ok(()),
        };
        self.verify(to);
        result
    }

    /// Does everything a node wants done, except that the disk takes its time. Returns whether there was anything.
    pub fn drain(&mut self, id: NodeId) -> bool {
        let mut any = false;
        while self.is_up(id) && self.node(id).has_ready() {
            any = true;
            let ready = self.node_mut(id).ready();
            self.take(id, ready);
            self.verify(id);
        }
        any
    }

    /// Makes the oldest write of a node durable. Returns whether there was one.
    pub fn flush(&mut self, id: NodeId) -> bool {
        let host = self.host_mut(id);
        let Some((ready, messages)) = host.disk.flush() else { return false };
        if let Some(node) = &mut host.node {
            node.on_persisted(ready);
        }
        self.send(messages);
        self.verify(id);
        true
    }

    /// Stops a node at once; `kept` of the writes under way reach the disk all the same.
    pub fn crash(&mut self, id: NodeId, kept: usize) {
        let host = self.host_mut(id);
        host.disk.crash(kept);
        host.node = None;
    }

    /// Starts a node from its disk. Its clock goes on.
    ///
    /// # Panics
    /// If it runs, or its disk does not hang together.
    pub fn start(&mut self, id: NodeId) {
        let conf_state = self.conf_state.clone();
        let seed = self.seed;
        let host = self.host_mut(id);
        assert!(host.node.is_none(), "node {id} runs already");
        host.incarnation += 1;
        let (initial, log) = host.disk.recover(conf_state);
        let applied = initial.applied;
        let seed = seed ^ (id.0 << 32) ^ host.incarnation;
        host.node = Some(RawNode::new(host.config.clone(), initial, log, seed).expect("a valid node"));
        host.observed = applied;
        host.applied.clear();
        self.checkers.machines.observe_start(id, applied);
        self.verify(id);
    }

    /// Loses what is on the way over cut links.
    pub fn apply_cuts(&mut self) {
        let cut = &self.cut;
        self.wire.retain(|message| !cut.contains(&(message.from, message.to)));
    }

    /// Cuts both ways between `id` and all others.
    pub fn isolate(&mut self, id: NodeId) {
        for other in self.ids() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
        self.apply_cuts();
    }

    /// Everything at hand is done, flushed and delivered, in order, until nothing is left.
    ///
    /// # Panics
    /// If a node refuses a message, or it does not come to rest.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut busy = false;
            for id in self.ids() {
                busy |= self.drain(id);
                while self.flush(id) {
                    busy = true;
                }
            }
            self.apply_cuts();
            for message in std::mem::take(&mut self.wire) {
                busy = true;
                self.deliver(message).expect("a sound message");
            }
            if !busy {
                return;
            }
        }
        panic!("the group does not come to rest");
    }

    /// Ticks all nodes alike and settles after each.
    pub fn tick_all(&mut self, count: u32) {
        for _ in 0..count {
            for id in self.ids() {
                self.tick(id);
            }
            self.settle();
        }
    }

    // Inside

    fn take(&mut self, id: NodeId, mut ready: Ready) {
        assert!(
            ready != Ready { id: ready.id, ..Ready::default() },
            "a ready of node {id} with nothing in it"
        );
        self.observe_appended(id, &ready);
        let host = self.hosts.get_mut(&id).expect("a host");
        let node = host.node.as_mut().expect("a running node");
        node.storage_mut().write(ready.truncate_from, &ready.entries);
        host.disk.submit(&mut ready);
        self.observe_committed(id);
        let host = self.hosts.get_mut(&id).expect("a host");
        let node = host.node.as_mut().expect("a running node");
        for entry in &ready.committed {
            must_hold(self.checkers.machines.observe_apply(id, entry));
            if entry.kind == EntryKind::ConfChange {
                node.apply_conf_change(entry);
            }
        }
        if let Some(last) = ready.committed.last() {
            node.on_applied(last.index);
        }
        for fetch in &ready.fetches {
            let result = node.storage().read(fetch.low, fetch.high, fetch.bytes_max);
            node.on_entries_fetched(fetch.id, result);
        }
        for state in &ready.read_states {
            must_hold(self.checkers.reads.observe_index(state.context, state.index));
        }
        for context in &ready.reads_dropped {
            must_hold(self.checkers.reads.observe_dropped(*context));
        }
        host.applied.append(&mut ready.committed);
        host.read_states.append(&mut ready.read_states);
        host.reads_dropped.append(&mut ready.reads_dropped);
        host.snapshots_needed.append(&mut ready.snapshots_needed);
        self.send(ready.messages);
    }

    fn send(&mut self, messages: Vec<Message>) {
        self.wire.extend(messages);
        self.apply_cuts();
    }

    fn observe_appended(&mut self, id: NodeId, ready: &Ready) {
        let Some(first) = ready.entries.first() else { return };
        let mut prev = self.node(id).storage().term(first.index.prev()).expect("the log goes on");
        for entry in &ready.entries {
            must_hold(self.checkers.logs.observe_entry(prev, entry));
            prev = entry.term;
        }
    }

    /// Checks a node's own invariants, and what it shows to the checkers.
    fn verify(&mut self, id: NodeId) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Some(node) = &host.node else { return };
        node.check_invariants();
        self.checkers.reads.observe_commit(node.committed());
        if node.role() == Role::Leader {
            must_hold(self.checkers.elections.observe_leader(id, node.term()));
            if self.led.insert((id, node.term())) {
                self.verify_leader(id);
            }
        }
    }

    /// Checks that a leader holds everything committed before its term.
    pub fn verify_leader(&self, id: NodeId) {
        let node = self.node(id);
        let term_at = |index| node.storage().term(index).ok();
        let first = node.storage().first_index();
        must_hold(self.checkers.leaders.observe_leader(id, node.term(), first, term_at));
    }

    /// Tells the checkers what a node knows committed; its storage must be current.
    fn observe_committed(&mut self, id: NodeId) {
        let host = self.hosts.get_mut(&id).expect("a host");
        let node = host.node.as_ref().expect("a running node");
        // A membership change may be committed and held back from the storage for one more Ready.
        while host.observed < node.committed().min(node.storage().last_index()) {
            host.observed = host.observed.next();
            let term = node.storage().term(host.observed).expect("what is committed is in the log");
            must_hold(self.checkers.leaders.observe_commit(node.term(), host.observed, term));
        }
    }
}

/// # Panics
/// If a safety property was violated.
fn must_hold(result: Result<(), Violation>) {
    if let Err(violation) = result {
        panic!("{violation}");
    }
}
