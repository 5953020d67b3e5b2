//! The part of the controller that touches the world: where the meta shard is led, its decisions and the wishes of
//! operators go into the log as changes of the map, one at a time, and who wished hears when that is done.

use std::collections::BTreeMap;

use net::map::{ClusterMap, META_SHARD, NodeInfo, Split};
use net::protocol::{Answer, ClusterAccount, ClusterOp, Refusal, Reply, Request};
use net::types::RequestId;
use raft::{Index, Nanos, Term};

use super::{Core, Effect, Origin, usize_of};
use crate::controller::{Controller, View};
use crate::topology::{Change, Place, Topology, What};

/// Ticks between two looks of the controller when nothing has changed.
const LOOK_TICKS: u32 = 4;

/// What a core that may lead the meta shard remembers.
#[derive(Default)]
pub(super) struct Control {
    controller: Controller,
    /// The map as the meta shard's log has it; `None` where this core holds no replica of it, or the log is empty.
    topology: Option<Topology>,
    /// The term in which this core leads the meta shard, where its log ended then, and since when.
    led: Option<(Term, Index, Nanos)>,
    /// Whether something was heard that the controller waits for: it looks at once.
    due: bool,
    /// The change that is in the log and not applied yet.
    under_way: Option<Proposed>,
}

/// A change on its way through the log.
struct Proposed {
    index: Index,
    epoch: u64,
    /// Who asked for it.
    waiter: Option<(Origin, RequestId)>,
}

impl Control {
    /// For how long this core has led the meta shard.
    fn led_for(&self, now: Nanos) -> Nanos {
        self.led.map_or(Nanos::ZERO, |(.., since)| now.since(since))
    }
}

impl Core {
    /// The meta shard's state machine holds this map.
    pub(super) fn follow_topology(&mut self, topology: Topology) {
        let map = topology.map().clone();
        self.control.topology = Some(topology);
        self.follow_log(&map, &[]);
    }

    /// Changes of the map were applied.
    pub(super) fn on_changes(&mut self, changes: &[Change]) {
        for change in changes {
            match &mut self.control.topology {
                Some(topology) => drop(topology.apply(change)),
                none => *none = Topology::found(change),
            }
        }
        if let Some(topology) = &self.control.topology {
            let map = topology.map().clone();
            self.follow_log(&map, changes);
        }
    }

    /// The controller's look at things, where the meta shard is led.
    pub(super) fn tick_control(&mut self) {
        if !self.leads_the_map() {
            return self.rest_control();
        }
        self.settle_change();
        let due = self.control.due || self.ticks.is_multiple_of(LOOK_TICKS);
        if !due || self.control.under_way.is_some() || self.leaving.is_some() {
            return;
        }
        self.control.due = false;
        let what = match &self.control.topology {
            // The first leader founds the cluster with the map of its configuration.
            None => Some(What::Found(Box::new(self.map.clone()))),
            Some(_) => self.with_view(|controller, view| controller.next(view)),
        };
        if let Some(what) = what {
            tracing::info!(?what, "changing the cluster map");
            self.propose_change(what, None);
        }
    }

    /// Reports arrived. Where a shard is cut in two, nobody serves the upper half until the map tells of it.
    pub(super) fn note_reports(&mut self) {
        self.control.due |= self.map.shards.iter().any(|shard| shard.plan.split.is_some());
    }

    /// Whether this core leads the meta shard and has applied all that was in its log when it began to.
    fn leads_the_map(&mut self) -> bool {
        let Some(replica) = self.replicas.first().and_then(Option::as_ref) else { return false };
        if replica.id.shard != META_SHARD || !replica.raft.is_leader() {
            return false;
        }
        let raft = &replica.raft;
        if self.control.led.is_none_or(|(term, ..)| term != raft.term()) {
            let (term, last) = (raft.term(), raft.last_index());
            self.rest_control();
            self.control.led = Some((term, last, self.now));
        }
        self.control
            .led
            .is_some_and(|(_, last, _)| self.replicas[0].as_ref().expect("just seen").raft.applied() >= last)
    }

    fn rest_control(&mut self) {
        self.control.controller = Controller::default();
        self.control.led = None;
        // Another leader may still carry it out.
        if let Some((origin, id)) = self.control.under_way.take().and_then(|proposed| proposed.waiter) {
            let reply = Reply { id, result: Err(Refusal::Timeout) };
            self.effects.push(Effect::Reply { origin, reply });
        }
    }

    /// Answers who asked for the change that has been applied by now.
    fn settle_change(&mut self) {
        let applied = self.replica_mut(META_SHARD).raft.applied();
        let Some(proposed) = self.control.under_way.take_if(|proposed| proposed.index <= applied) else {
            return;
        };
        let Some((origin, id)) = proposed.waiter else { return };
        let result = if self.map.epoch >= proposed.epoch {
            Ok(Answer::Cluster(Box::new(self.account())))
        } else {
            // Only one change is under way, so this is another leader's doing.
            Err(Refusal::Busy { retry_after_ms: 50 })
        };
        self.effects.push(Effect::Reply { origin, reply: Reply { id, result } });
    }

    fn propose_change(&mut self, what: What, waiter: Option<(Origin, RequestId)>) -> bool {
        let epoch = match &self.control.topology {
            Some(topology) => topology.map().epoch + 1,
            None => self.map.epoch,
        };
        let payload = Change { epoch, what }.encode();
        let Ok((_, index)) = self.replica_mut(META_SHARD).raft.propose(payload) else { return false };
        self.control.under_way = Some(Proposed { index, epoch, waiter });
        self.wake(META_SHARD);
        self.touch(META_SHARD);
        true
    }

    /// Lets the controller look at the cluster.
    fn with_view<T>(&mut self, look: impl FnOnce(&mut Controller, &View<'_>) -> T) -> T {
        let silent = self.silent_nodes();
        let view = View {
            map: &self.map,
            reports: &self.standing.reports,
            silent: &silent,
            replace_after: self.config.replace_after,
            moves_max: self.config.moves_max,
            led_for: self.control.led_for(self.now),
            now: self.now,
        };
        look(&mut self.control.controller, &view)
    }

    /// The cluster as it would be with a map.
    fn view<'a>(&'a self, map: &'a ClusterMap, silent: &'a BTreeMap<u64, Nanos>) -> View<'a> {
        View {
            map,
            reports: &self.standing.reports,
            silent,
            replace_after: self.config.replace_after,
            moves_max: self.config.moves_max,
            led_for: self.control.led_for(self.now),
            now: self.now,
        }
    }

    /// For how long each of the other nodes has not been heard. Whoever just began to lead has listened before.
    pub(super) fn silent_nodes(&self) -> BTreeMap<u64, Nanos> {
        let heard = self.map.nodes.iter().filter(|node| node.id != self.config.node);
        let silent = |node: &NodeInfo| {
            let (heard, _) = self.outbox.heard_at(node.id, META_SHARD)?;
            Some((node.id, self.now.since(heard)))
        };
        heard.filter_map(silent).collect()
    }

    /// How the cluster stands.
    fn account(&mut self) -> ClusterAccount {
        let ((moving, waiting), stuck) =
            self.with_view(|controller, view| (controller.progress(view), controller.stuck(view)));
        let reports = &self.standing.reports;
        let ids = self.map.shards.iter().map(|shard| shard.id);
        let unheard = ids.filter(|shard| !reports.contains_key(shard)).collect();
        let mut account = ClusterAccount {
            epoch: self.map.epoch,
            map: Some(self.map()),
            moving,
            waiting,
            stuck,
            unheard,
            ..ClusterAccount::default()
        };
        for report in self.standing.reports.values().filter(|report| report.shard != META_SHARD) {
            for node in report.voters.iter().chain(&report.learners) {
                *account.replicas.entry(*node).or_default() += 1;
            }
            *account.leaders.entry(report.leader).or_default() += 1;
        }
        let timeout = self.config.raft.election_timeout();
        let silent = self.silent_nodes().into_iter().filter(|(_, silent)| *silent >= timeout);
        account.silent_ms = silent.map(|(node, silent)| (node, silent.0 / 1_000_000)).collect();
        account
    }

    /// An operation on the cluster: an answer now, or none, where one comes when it is done.
    pub(super) fn administer_cluster(
        &mut self,
        origin: Origin,
        request: &Request,
        op: &ClusterOp,
    ) -> Result<Option<Answer>, Refusal> {
        if request.shard != META_SHARD {
            return Err(Refusal::Invalid {
                why: "operations on the cluster are for the meta shard".to_owned(),
            });
        }
        let epoch = self.map.epoch;
        let replica = self.replicas[usize_of(META_SHARD)].as_ref().expect("checked by the caller");
        if !replica.raft.is_leader() {
            return Err(replica.not_leader(epoch));
        }
        self.wake(META_SHARD);
        self.touch(META_SHARD);
        if !self.leads_the_map() || self.control.topology.is_none() {
            return Err(Refusal::Busy { retry_after_ms: 50 });
        }
        self.settle_change();
        if let ClusterOp::Map { epoch } = op {
            return self.tell_map(*epoch).map(|account| Some(Answer::Cluster(Box::new(account))));
        }
        let what = self.wanted(op)?;
        if self.is_so(&what) {
            return Ok(Some(Answer::Cluster(Box::new(self.account()))));
        }
        let mut changed = self.map.clone();
        let change = Change { epoch: epoch + 1, what };
        change.apply(&mut changed).map_err(|error| Refusal::Conflict { why: error.to_string() })?;
        if !op.is_change() {
            return Ok(Some(Answer::Cluster(Box::new(self.foretell(changed)))));
        }
        if self.control.under_way.is_some() {
            return Err(Refusal::Busy { retry_after_ms: 20 });
        }
        tracing::info!(change = ?change.what, "changing the cluster map, as an operator asks");
        match self.propose_change(change.what, Some((origin, request.id))) {
            true => Ok(None),
            false => Err(Refusal::Busy { retry_after_ms: 50 }),
        }
    }

    fn tell_map(&mut self, epoch: Option<u64>) -> Result<ClusterAccount, Refusal> {
        let mut account = self.account();
        if let Some(epoch) = epoch {
            let topology = self.control.topology.as_ref().expect("checked by the caller");
            let Some(map) = topology.at(epoch) else {
                let (oldest, newest) = (topology.base().epoch, topology.map().epoch);
                let why = format!("the map of epoch {epoch} is not known: epochs {oldest} to {newest} are");
                return Err(Refusal::Conflict { why });
            };
            account.map = Some(map);
        }
        Ok(account)
    }

    /// What would be on its way with this map.
    fn foretell(&mut self, map: ClusterMap) -> ClusterAccount {
        let silent = self.silent_nodes();
        let view = self.view(&map, &silent);
        let (moving, waiting) = Controller::default().progress(&view);
        ClusterAccount { epoch: map.epoch, moving, waiting, map: Some(map), ..ClusterAccount::default() }
    }

    /// Whether a change would change nothing.
    fn is_so(&self, what: &What) -> bool {
        match what {
            What::PutNode(node) => self.map.node(node.id) == Some(node),
            What::SetLeaving { node, leaving } => {
                self.map.node(*node).is_some_and(|known| known.leaving == *leaving)
            }
            _ => false,
        }
    }

    /// The change that carries an operation out.
    fn wanted(&self, op: &ClusterOp) -> Result<What, Refusal> {
        let conflict = |why: String| Err(Refusal::Conflict { why });
        match op {
            ClusterOp::Map { .. } => unreachable!("answered before"),
            ClusterOp::Join { node } => {
                self.check_name_is_free(node)?;
                let known = self.map.node(node.id);
                let leaving = known.is_some_and(|known| known.leaving);
                // Operators who describe a node do not know its data directory.
                let store = if node.store == 0 { known.map_or(0, |known| known.store) } else { node.store };
                Ok(What::PutNode(NodeInfo { leaving, store, ..node.clone() }))
            }
            ClusterOp::Leave { node, stay, .. } => {
                if !stay {
                    self.may_leave(*node)?;
                }
                Ok(What::SetLeaving { node: *node, leaving: !stay })
            }
            ClusterOp::Move { shard, nodes, .. } => {
                self.may_take(nodes)?;
                Ok(What::Place(vec![Place { shard: *shard, nodes: nodes.clone(), pinned: true }]))
            }
            ClusterOp::Rebalance { .. } => {
                let silent = self.silent_nodes();
                let places = self.view(&self.map, &silent).as_it_is();
                // A cluster that was left alone so far is to be kept in order from now on.
                match places.len() == self.map.shards.len() {
                    true => Ok(What::Place(places)),
                    false => Ok(What::Unpin),
                }
            }
            ClusterOp::Split { shard, at, .. } => {
                let Some(slots) = self.map.shard(*shard).and_then(|shard| shard.slots) else {
                    return conflict(format!("there is no shard {shard} with slots"));
                };
                if slots.first == slots.last {
                    return conflict(format!("shard {shard} has one slot only"));
                }
                let at = at.unwrap_or_else(|| slots.first + (slots.last - slots.first) / 2 + 1);
                self.may_cut(*shard)?;
                let into = u32::try_from(self.map.shards.len()).expect("shards are numbered in 20 bits");
                Ok(What::BeginSplit { shard: *shard, split: Split { at, into } })
            }
        }
    }
}
