//! A group of nodes, their disks and the network between them, driven step by step and watched by every checker.
//!
//! Invariant: after every public call each node's own invariants hold and no safety property was violated, or the call
//! panics with what happened.

mod effects;
mod members;
mod watch;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::checker::{
    Configurations, Cursors, ElectionSafety, LeaderCompleteness, LogMatching, ReadFreshness,
    StateMachineSafety,
};
use super::describe::describe_message;
use super::disk::Disk;
use crate::config::Config;
use crate::entry::{ConfState, Entry, SnapshotMeta};
use crate::error::{ProposeError, ReadError, StepError};
use crate::message::{Message, MessageBody};
use crate::raw_node::RawNode;
use crate::ready::{ReadStart, ReadState};
use crate::storage::MemStorage;
use crate::types::{Index, Nanos, NodeId, Term};

use watch::must_hold;

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
    /// The snapshot to be installed.
    pub installing: Option<SnapshotMeta>,
    /// What was applied since the start.
    pub applied: Vec<Entry>,
    /// It was destroyed, for good.
    destroyed: bool,
}

impl Host {
    /// Whether it was never started.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.incarnation == 0
    }
}

/// The safety properties.
#[derive(Debug)]
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
    /// Quorums of consecutive configurations meet.
    pub configurations: Configurations,
    /// Nothing falls.
    pub cursors: Cursors,
}

/// The group.
#[derive(Debug)]
pub struct Cluster {
    founding: ConfState,
    /// What a node that is no founder starts with.
    pub fresh: ConfState,
    hosts: BTreeMap<NodeId, Host>,
    /// Messages under way, oldest first. Tests may reorder, drop and copy them.
    pub wire: Vec<Message>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// What watches.
    pub checkers: Checkers,
    /// Snapshots are sent and installed as soon as they are asked for.
    pub auto_snapshots: bool,
    /// What was delivered, if a script asked for it.
    pub(super) trace: Option<Vec<String>>,
    led: BTreeSet<(NodeId, Term)>,
    seed: u64,
}

impl Cluster {
    /// A group founded by these members. Of the nodes listed the founders run, with an empty log unless `disks` holds one;
    /// the others are to be [started](Cluster::start) when they are wanted.
    ///
    /// # Panics
    /// If a configuration or a disk is not valid.
    #[must_use]
    pub fn new(
        configs: Vec<Config>,
        founding: ConfState,
        mut disks: BTreeMap<NodeId, Disk>,
        seed: u64,
    ) -> Cluster {
        let checkers = Checkers {
            elections: ElectionSafety::default(),
            logs: LogMatching::default(),
            leaders: LeaderCompleteness::default(),
            machines: StateMachineSafety::default(),
            reads: ReadFreshness::default(),
            configurations: Configurations::new(founding.clone()),
            cursors: Cursors::default(),
        };
        let mut cluster = Cluster {
            fresh: founding.clone(),
            founding,
            hosts: BTreeMap::new(),
            wire: Vec::new(),
            cut: BTreeSet::new(),
            checkers,
            auto_snapshots: false,
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
                installing: None,
                applied: Vec::new(),
                destroyed: false,
            };
            cluster.hosts.insert(id, host);
            if cluster.is_founder(id) {
                cluster.start(id);
            }
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

    /// Whether it belonged to the group from the beginning.
    #[must_use]
    pub fn is_founder(&self, id: NodeId) -> bool {
        let lists = [&self.founding.voters, &self.founding.learners, &self.founding.voters_outgoing];
        lists.iter().any(|nodes| nodes.contains(&id))
    }

    /// Whether it was destroyed.
    #[must_use]
    pub fn is_destroyed(&self, id: NodeId) -> bool {
        self.host(id).destroyed
    }

    /// Whether it was started once, and not destroyed since.
    #[must_use]
    pub fn exists(&self, id: NodeId) -> bool {
        let host = self.host(id);
        host.incarnation > 0 && !host.destroyed
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
        let (from, is_snapshot) = (message.from, matches!(message.body, MessageBody::Snapshot { .. }));
        let result = match &mut host.node {
            Some(node) => node.step(message, now),
            None => Ok(()),
        };
        if is_snapshot && self.auto_snapshots && self.is_up(from) {
            let arrived = self.is_up(to);
            self.node_mut(from).report_snapshot(to, arrived);
        }
        self.verify(to);
        result
    }

    /// Stops a node at once; `kept` of the writes under way reach the disk all the same, and if `torn` the entries of the
    /// next one without its hard state.
    pub fn crash(&mut self, id: NodeId, kept: usize, torn: bool) {
        let host = self.host_mut(id);
        host.disk.crash(kept, torn);
        host.node = None;
        host.installing = None;
    }

    /// Starts a node from its disk. Its clock goes on.
    ///
    /// # Panics
    /// If it runs, was destroyed, or its disk does not hang together.
    pub fn start(&mut self, id: NodeId) {
        let conf_state = if self.is_founder(id) { &self.founding } else { &self.fresh }.clone();
        let seed = self.seed;
        let host = self.host_mut(id);
        assert!(host.node.is_none() && !host.destroyed, "node {id} runs already, or never again");
        host.incarnation += 1;
        let (initial, log) = host.disk.recover(conf_state);
        let applied = initial.applied;
        let seed = seed ^ (id.0 << 32) ^ host.incarnation;
        host.node = Some(RawNode::new(host.config.clone(), initial, log, seed).expect("a valid node"));
        host.observed = applied;
        host.applied.clear();
        self.checkers.machines.observe_start(id, applied);
        self.checkers.cursors.observe_start(id);
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
                busy |= self.auto_snapshots && self.pass_snapshots(id);
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
}
