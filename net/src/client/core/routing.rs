//! From a route to a connection: leaders, replicas, and what to do when neither is known.

use super::connections::{Connection, Phase};
use super::operations::{OpId, Operation, Route, State};
use super::{ClientCore, ConnectionId, Effect};
use crate::map::{ClusterMap, NodeInfo, ReplicaInfo, RoutingTable, ShardInfo};
use crate::protocol::{HelloReply, Op, PROTOCOL_VERSION};
use crate::types::Nanos;
use crate::{ClientError, client::core::Health};
use std::sync::Arc;

/// After so many retries every other one goes to any node: the replicas may all be elsewhere than the map says, and one
/// that has got one knows the leader.
const LOST_RETRIES: u32 = 3;

/// Where an operation can go now.
enum Way {
    /// Over this connection.
    Over(ConnectionId),
    /// To this replica, not connected yet.
    ToReplica(ReplicaInfo, Arc<str>),
    /// To this address, not connected yet.
    ToAddress(Arc<str>),
    /// Nowhere before that time.
    Later(Nanos),
    /// Nowhere: no shard owns the slot.
    Nowhere,
}

impl ClientCore {
    /// Routes an operation by what is known now and sends, queues or parks it.
    pub(super) fn dispatch(&mut self, op: OpId, now: Nanos) {
        let random = self.random.next();
        let Some(operation) = self.operations.get_mut(op) else { return };
        let route = operation.route.clone();
        let way = match &route {
            Route::Endpoint(address) => self.way_to_address(address, now),
            Route::AnyNode => self.way_to_any_node(random, now),
            Route::Slot(_) | Route::Shard(_) => self.way_to_shard(op, random, now),
        };
        match way {
            Way::Over(connection) => self.enqueue(op, connection, now),
            Way::ToReplica(replica, address) => {
                let connection = self.open(address, Some(replica), now);
                self.enqueue(op, connection, now);
            }
            Way::ToAddress(address) => {
                let connection = self.open(address, None, now);
                self.enqueue(op, connection, now);
            }
            Way::Later(at) => self.park(op, at),
            Way::Nowhere => self.fail(op, ClientError::NoSuchShard),
        }
    }

    /// Leaves an operation alone until `at`.
    pub(super) fn park(&mut self, op: OpId, at: Nanos) {
        if let Some(operation) = self.operations.get_mut(op) {
            operation.state = State::Parked(at);
            operation.redirects = 0;
            self.parked.insert((at, op));
        }
    }

    /// Asks some node for a newer map, unless that is under way.
    pub(super) fn fetch_map(&mut self, now: Nanos) {
        if self.map_fetch.is_some_and(|op| self.operations.contains(op)) {
            return;
        }
        let op = self.operations.insert(Operation::new(Route::AnyNode, 0, Op::ClusterMap));
        self.map_fetch = Some(op);
        self.deadlines.push_back((now.after(self.config.request_timeout), op));
        self.dispatch(op, now);
    }

    pub(super) fn on_connected(&mut self, id: ConnectionId, hello: HelloReply, now: Nanos) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let stranger = connection.node.is_some_and(|node| node != hello.node);
        if hello.version != PROTOCOL_VERSION || stranger {
            let why = if stranger { "another node answers there" } else { "another protocol version" };
            self.effects.push_back(Effect::Close { connection: id });
            self.on_closed(id, why, now);
            return;
        }
        connection.phase = Phase::Ready;
        let address = Arc::clone(&connection.address);
        self.health.succeeded(&address);
        self.connections.identify(id, hello.node, hello.core);
        self.lengths_max = Some((hello.key_bytes_max, hello.value_bytes_max));
        self.frame_bytes_max = hello.frame_bytes_max.unwrap_or(self.config.frame_bytes_max);
        self.install_map(hello.map, Some(hello.node), now);
        self.pump(id, now);
    }

    /// Takes a map that came from the node `from`, if it is sound and not older than ours.
    pub(super) fn install_map(&mut self, map: ClusterMap, from: Option<u64>, now: Nanos) {
        let known = self.table.as_ref().map(|table| table.epoch());
        if known.is_some_and(|known| map.epoch < known) {
            return;
        }
        if known == Some(map.epoch) {
            self.learn_leaders(&map, from, now);
            return;
        }
        let Ok(table) = map.into_routing() else { return };
        let (endpoints, nodes) = (&self.endpoints, &table.map().nodes);
        self.health.retain(|address| {
            endpoints.iter().any(|it| &**it == address) || nodes.iter().any(|it| it.binary_addr == address)
        });
        let former = self.table.replace(table);
        if former.is_none() {
            self.effects.push_back(Effect::Ready);
        }
        for (id, why) in self.connections_out_of_place(former.as_ref()) {
            self.effects.push_back(Effect::Close { connection: id });
            self.on_closed(id, why, now);
        }
    }

    /// Connections to nodes that the map has no more, or has elsewhere than the map before. One that was dialled by
    /// another name than the map's stays.
    fn connections_out_of_place(&self, former: Option<&RoutingTable>) -> Vec<(ConnectionId, &'static str)> {
        let Some(table) = &self.table else { return Vec::new() };
        let why = |connection: &Connection| {
            let id = connection.node?;
            let Some(node) = table.map().node(id) else { return Some("the node left the cluster") };
            let before = former.and_then(|former| former.map().node(id))?;
            let moved = *connection.address == *before.binary_addr && before.binary_addr != node.binary_addr;
            moved.then_some("the node has moved")
        };
        self.connections.iter().filter_map(|(id, it)| Some((id, why(it)?))).collect()
    }

    /// Takes over the leaders of a map as old as ours. A follower may lag behind what refusals have told us:
    /// hearsay only fills gaps and replaces leaders out of reach; a node that names itself is believed.
    fn learn_leaders(&mut self, map: &ClusterMap, from: Option<u64>, now: Nanos) {
        let (Some(table), health) = (&mut self.table, &self.health) else { return };
        for shard in map.shards.iter().filter(|shard| shard.leader.is_some()) {
            let known = table.map().shard(shard.id).and_then(|ours| ours.leader);
            let reachable = |node: u64| {
                let node = table.map().node(node);
                node.is_some_and(|node| health.down_until(&node.binary_addr, now).is_none())
            };
            if shard.leader == from || !known.is_some_and(reachable) {
                table.set_leader(shard.id, shard.leader);
            }
        }
    }

    fn way_to_address(&self, address: &Arc<str>, now: Nanos) -> Way {
        if let Some(connection) = self.connections.to_address(address) {
            return Way::Over(connection);
        }
        match self.health.down_until(address, now) {
            Some(until) => Way::Later(until),
            None => Way::ToAddress(Arc::clone(address)),
        }
    }

    /// A ready connection, else one on its way up, else a node of the map, else a configured address. A node
    /// is dialled as its core 0, so that requests for that core find the connection and do not dial again.
    fn way_to_any_node(&self, random: u64, now: Nanos) -> Way {
        let pick = |count: usize| {
            let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
            usize::try_from(random % count).unwrap_or(0)
        };
        let ready: Vec<_> =
            self.connections.iter().filter(|(_, it)| it.phase == Phase::Ready).map(|(id, _)| id).collect();
        if let Some(&connection) = ready.get(pick(ready.len())) {
            return Way::Over(connection);
        }
        if let Some((connection, _)) = self.connections.iter().next() {
            return Way::Over(connection);
        }
        let nodes = self.table.as_ref().map_or(&[][..], |table| &table.map().nodes);
        let (tail, head) = nodes.split_at(pick(nodes.len()));
        let is_up = |node: &&NodeInfo| self.health.down_until(&node.binary_addr, now).is_none();
        if let Some(node) = head.iter().chain(tail).find(is_up) {
            return Way::ToReplica(ReplicaInfo { node: node.id, core: 0 }, Arc::from(&*node.binary_addr));
        }
        first_up(&self.health, self.endpoints.iter(), now)
    }

    fn way_to_shard(&mut self, op: OpId, random: u64, now: Nanos) -> Way {
        let pause = self.health.backoff(1, &mut self.random);
        let Some(operation) = self.operations.get_mut(op) else { return Way::Nowhere };
        let Some(table) = &self.table else {
            self.fetch_map(now);
            return Way::Later(now.after(pause));
        };
        let shard = match operation.route {
            Route::Slot(slot) => table.shard_of_slot(slot),
            Route::Shard(id) => table.map().shard(id),
            Route::AnyNode | Route::Endpoint(_) => None,
        };
        let Some(shard) = shard else { return Way::Nowhere };
        operation.request.shard = shard.id;
        operation.request.epoch = table.epoch();
        let first = if operation.needs_leader() && operation.retries == 0 { 0 } else { random };
        let leader = shard.leader.filter(|_| operation.needs_leader());
        let mut earliest = now.after(pause);
        let mut way_to = |replica: ReplicaInfo| {
            if let Some(connection) = self.connections.to_core(replica) {
                return Some(Way::Over(connection));
            }
            let node = table.map().node(replica.node)?;
            match self.health.down_until(&node.binary_addr, now) {
                None => return Some(Way::ToReplica(replica, Arc::from(node.binary_addr.as_str()))),
                Some(until) => earliest = earliest.min(until),
            }
            None
        };
        let lost = operation.retries >= LOST_RETRIES && !operation.retries.is_multiple_of(2);
        let way = if lost {
            any_node(table.map(), random).find_map(&mut way_to)
        } else {
            candidates(shard, leader, first).find_map(&mut way_to)
        };
        way.unwrap_or(Way::Later(earliest))
    }
}

/// All nodes, beginning anywhere.
fn any_node(map: &ClusterMap, start: u64) -> impl Iterator<Item = ReplicaInfo> + use<'_> {
    let count = u64::try_from(map.nodes.len()).unwrap_or(u64::MAX).max(1);
    let (tail, head) = map.nodes.split_at(usize::try_from(start % count).unwrap_or(0));
    head.iter().chain(tail).map(|node| ReplicaInfo { node: node.id, core: 0 })
}

/// The leader, if only it will do and it is known; then all replicas, beginning anywhere.
fn candidates(
    shard: &ShardInfo,
    leader: Option<u64>,
    start: u64,
) -> impl Iterator<Item = ReplicaInfo> + use<'_> {
    let count = u64::try_from(shard.replicas.len()).unwrap_or(u64::MAX).max(1);
    let start = usize::try_from(start % count).unwrap_or(0);
    let leader = leader.and_then(|node| shard.replica_on(node));
    let (tail, head) = shard.replicas.split_at(start);
    leader.into_iter().chain(head.iter().chain(tail).copied())
}

/// The address that has not failed, or else the one that has been left alone for the longest: where the first ones of many
/// are dead for good, the others get their turn all the same.
fn first_up<'a>(health: &Health, addresses: impl Iterator<Item = &'a Arc<str>>, now: Nanos) -> Way {
    let Some(address) = addresses.min_by_key(|address| health.failing_until(address)) else {
        return Way::Nowhere;
    };
    match health.down_until(address, now) {
        None => Way::ToAddress(Arc::clone(address)),
        Some(until) => Way::Later(until),
    }
}
