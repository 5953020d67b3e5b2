//! The client against a fake cluster that fails at random: connections break with requests or replies
//! under way, leaders move, servers are busy or silent; and, where asked for, the cluster itself changes:
//! replicas go to other nodes, nodes come, leave and move to other addresses, and each server learns of it
//! when it does. Checked for every write: it is executed at most once, an acknowledged one was executed, and
//! one reported as not executed never is. Once all is well again, everything succeeds.

use super::super::{ClientCore, ConnectionId, Effect, Event, Target};
use super::{Random, config, hello};
use crate::client::{ClientConfig, ClientError};
use crate::map::{ClusterMap, NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
use crate::protocol::{
    Answer, Mutation, MutationOutcome, Op, Refusal, Reply, Request, SessionStamp, WriteConsistency,
};
use crate::types::Nanos;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Nodes 1 and 2 are the client's endpoints: they never leave or move, though they may lose their replicas.
const NODES: u64 = 6;

struct Servers {
    epoch: u64,
    /// The nodes of the cluster and the port of each.
    nodes: BTreeMap<u64, u16>,
    /// Those with a replica of the one shard that matters.
    replicas: BTreeSet<u64>,
    leader: u64,
    /// The newest map, without leaders.
    published: ClusterMap,
    /// The map each node has heard of.
    heard: BTreeMap<u64, ClusterMap>,
    /// Connections that are up, and the node at the other end.
    up: BTreeMap<ConnectionId, u64>,
    /// Requests that have arrived, in order.
    arrived: Vec<(ConnectionId, Request)>,
    executed: BTreeMap<String, usize>,
    remembered: BTreeMap<(u64, u64), Answer>,
}

impl Servers {
    fn new() -> Servers {
        let mut servers = Servers {
            epoch: 0,
            nodes: [1, 2, 3].map(|node| (node, 7050)).into(),
            replicas: [1, 2, 3].into(),
            leader: 1,
            published: ClusterMap::default(),
            heard: BTreeMap::new(),
            up: BTreeMap::new(),
            arrived: Vec::new(),
            executed: BTreeMap::new(),
            remembered: BTreeMap::new(),
        };
        servers.publish();
        servers.spread();
        servers
    }

    /// Makes a new map of what is now; so far only the leader knows.
    fn publish(&mut self) {
        self.epoch += 1;
        let node = |(&id, port): (&u64, &u16)| NodeInfo {
            id,
            binary_addr: format!("n{id}:{port}"),
            peer_addr: String::new(),
            cores: 1,
            ..NodeInfo::default()
        };
        let shard = ShardInfo {
            id: 1,
            slots: Some(SlotRange { first: 0, last: 16383 }),
            replicas: self.replicas.iter().map(|&node| ReplicaInfo { node, core: 0 }).collect(),
            leader: None,
            ..ShardInfo::default()
        };
        let nodes = self.nodes.iter().map(node).collect();
        self.published = ClusterMap { epoch: self.epoch, nodes, shards: vec![shard] };
        self.heard.insert(self.leader, self.published.clone());
    }

    /// Every node learns of the newest map.
    fn spread(&mut self) {
        self.heard = (1..=NODES).map(|node| (node, self.published.clone())).collect();
    }

    fn map_of(&self, node: u64) -> ClusterMap {
        let mut map = self.heard[&node].clone();
        // A leader knows itself, whatever the map says of its replicas.
        map.shards[0].leader = (node == self.leader).then_some(node);
        map
    }

    fn execute(&mut self, request: &Request) -> Answer {
        let Op::Write { session, mutations, .. } = &request.op else { unreachable!("asked for a map") };
        let stamp = session.map(|SessionStamp { client, sequence, .. }| (client, sequence));
        if let Some(answer) = stamp.and_then(|stamp| self.remembered.get(&stamp)) {
            return answer.clone();
        }
        let key = String::from_utf8(mutations[0].key().to_vec()).unwrap();
        *self.executed.entry(key).or_default() += 1;
        let answer = Answer::Written { index: 1, outcomes: vec![MutationOutcome::Put { version: 1 }] };
        if let Some(stamp) = stamp {
            self.remembered.insert(stamp, answer.clone());
        }
        answer
    }

    fn answer(&mut self, node: u64, request: &Request, chance: &mut Random) -> Result<Answer, Refusal> {
        let is_write = request.op.is_write();
        let epoch = self.map_of(node).epoch;
        if is_write && !self.replicas.contains(&node) {
            return Err(Refusal::WrongShard { epoch });
        }
        if is_write && node != self.leader {
            let leader = (!chance.next().is_multiple_of(3)).then_some(self.leader);
            return Err(Refusal::NotLeader { leader, epoch });
        }
        match chance.next() % 10 {
            0 => Err(Refusal::Busy { retry_after_ms: 20 }),
            1 if is_write => {
                if chance.next().is_multiple_of(2) {
                    self.execute(request);
                }
                Err(Refusal::Timeout)
            }
            _ if !is_write => Ok(Answer::ClusterMap(self.map_of(node))),
            _ => Ok(self.execute(request)),
        }
    }
}

struct World {
    core: ClientCore,
    now: Nanos,
    chance: Random,
    servers: Servers,
    changes: bool,
    dialling: Vec<(ConnectionId, String)>,
    outcomes: BTreeMap<u64, Result<Answer, ClientError>>,
}

impl World {
    fn new(seed: u64, sessions: bool, changes: bool) -> World {
        let config = ClientConfig { sessions, request_timeout: Duration::from_secs(3), ..config() };
        let core = ClientCore::new(config, seed).unwrap();
        let (dialling, outcomes) = (Vec::new(), BTreeMap::new());
        let (chance, servers) = (Random::new(!seed), Servers::new());
        let mut world = World { core, now: Nanos(0), chance, servers, changes, dialling, outcomes };
        world.core.start(world.now);
        world.look();
        world
    }

    fn look(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Connect { connection, address, .. } => {
                    self.dialling.push((connection, address.to_string()));
                }
                Effect::Send { connection, id } => {
                    let Some(request) = self.core.request(id).cloned() else { continue };
                    if self.servers.up.contains_key(&connection) {
                        self.servers.arrived.push((connection, request));
                    }
                }
                Effect::Close { connection } => {
                    self.servers.up.remove(&connection);
                    self.dialling.retain(|(known, _)| *known != connection);
                }
                Effect::Complete { token, result, .. } => {
                    let earlier = self.outcomes.insert(token, result);
                    assert!(earlier.is_none(), "request {token} ended twice");
                }
                Effect::Ready | Effect::Unreachable { .. } => {}
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.look();
    }

    fn close(&mut self, connection: ConnectionId) {
        self.servers.up.remove(&connection);
        self.event(Event::Closed { connection, why: "broken".into() });
    }

    fn dial(&mut self, healthy: bool) {
        let Some((connection, address)) = self.dialling.pop() else { return };
        let (name, port) = address.split_once(':').expect("addresses are n1:7050 and so on");
        let node = name[1..].parse().expect("a number");
        let listens = self.servers.nodes.get(&node).is_some_and(|it| it.to_string() == port);
        if listens && (healthy || !self.chance.next().is_multiple_of(4)) {
            self.servers.up.insert(connection, node);
            self.event(Event::Connected { connection, hello: hello(node, self.servers.map_of(node)) });
        } else {
            self.close(connection);
        }
    }

    /// A server takes up an arrived request, even of a connection that has closed since; the reply is
    /// delivered if it has not.
    fn serve(&mut self) {
        if self.servers.arrived.is_empty() {
            return;
        }
        let (connection, request) = self.servers.arrived.remove(0);
        let Some(&node) = self.servers.up.get(&connection) else {
            if self.chance.next().is_multiple_of(2) {
                let leader = self.servers.leader;
                let _ = self.servers.answer(leader, &request, &mut self.chance);
            }
            return;
        };
        let result = self.servers.answer(node, &request, &mut self.chance);
        let reply = Reply { id: request.id, result };
        self.event(Event::Reply { connection, reply });
    }

    fn advance(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
        if self.core.next_deadline().is_some_and(|at| at <= self.now) {
            self.event(Event::Deadline);
        }
    }

    fn pick(&mut self, from: &[u64]) -> Option<u64> {
        let count = u64::try_from(from.len()).unwrap();
        let place = usize::try_from(self.chance.next() % count.max(1)).unwrap();
        from.get(place).copied()
    }

    fn move_leader(&mut self) {
        let replicas: Vec<u64> = self.servers.replicas.iter().copied().collect();
        self.servers.leader = self.pick(&replicas).expect("a shard has replicas");
    }

    /// The cluster changes, as an operator would change it.
    fn change(&mut self) {
        let has_replica = |world: &World, node: &u64| world.servers.replicas.contains(node);
        match self.chance.next() % 5 {
            0 => {
                let absent: Vec<u64> =
                    (1..=NODES).filter(|node| !self.servers.nodes.contains_key(node)).collect();
                let Some(node) = self.pick(&absent) else { return };
                self.servers.nodes.insert(node, 7050);
            }
            1 => {
                let idle: Vec<u64> = (3..=NODES).filter(|node| !has_replica(self, node)).collect();
                let Some(node) = self.pick(&idle) else { return };
                self.servers.nodes.remove(&node);
                self.hang_up_on(node);
            }
            2 => {
                let movable: Vec<u64> = self.servers.nodes.keys().copied().filter(|node| *node > 2).collect();
                let Some(node) = self.pick(&movable) else { return };
                *self.servers.nodes.get_mut(&node).expect("picked from them") += 1;
                self.hang_up_on(node);
            }
            _ => {
                // A replica elsewhere, perhaps that of the leader; often the newcomer leads.
                let targets: Vec<u64> =
                    self.servers.nodes.keys().copied().filter(|node| !has_replica(self, node)).collect();
                let Some(node) = self.pick(&targets) else { return };
                self.servers.replicas.insert(node);
                let others: Vec<u64> =
                    self.servers.replicas.iter().copied().filter(|it| *it != node).collect();
                let gone = self.pick(&others).expect("there were three");
                self.servers.replicas.remove(&gone);
                if gone == self.servers.leader || self.chance.next().is_multiple_of(2) {
                    self.servers.leader = node;
                }
                // Sometimes the map falls behind the group.
                if self.chance.next().is_multiple_of(2) {
                    return;
                }
            }
        }
        self.servers.publish();
    }

    fn hang_up_on(&mut self, node: u64) {
        let theirs: Vec<_> =
            self.servers.up.iter().filter(|(_, it)| **it == node).map(|(id, _)| *id).collect();
        theirs.into_iter().for_each(|connection| self.close(connection));
    }

    fn step(&mut self) {
        match self.chance.next() % 16 {
            0 => {
                let place = usize::try_from(self.chance.next() % 3).unwrap();
                let broken = self.servers.up.keys().copied().nth(place);
                if let Some(connection) = broken {
                    self.close(connection);
                }
            }
            1 if self.changes && self.chance.next().is_multiple_of(4) => self.change(),
            1 => self.move_leader(),
            2 => self.advance(100),
            3..=5 => self.advance(3),
            6..=8 => self.dial(false),
            9 if self.changes => {
                let node = self.chance.next() % NODES + 1;
                self.servers.heard.insert(node, self.servers.published.clone());
            }
            _ => (0..6).for_each(|_| self.serve()),
        }
    }

    fn submit(&mut self, token: u64) {
        let mutation = Mutation::Put { key: format!("k{token}").into(), value: "v".into(), ttl_ms: None };
        let op =
            Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] };
        self.core.submit(Target::Key, 0, op, token, self.now).unwrap();
        self.look();
    }

    fn run_well(&mut self, millis: usize) {
        for _ in 0..millis {
            self.dial(true);
            self.serve();
            self.advance(1);
        }
    }
}

fn run(seed: u64, sessions: bool, changes: bool) -> (usize, usize) {
    let mut world = World::new(seed, sessions, changes);
    for token in 0..200u64 {
        world.submit(token);
        for _ in 0..8 {
            world.step();
        }
    }
    // Everything heals, except that the map may stay behind the group; every request must end by its deadline.
    if seed.is_multiple_of(2) {
        world.servers.publish();
    }
    world.servers.spread();
    world.run_well(4000);
    assert_eq!(world.core.pending_operations(), 0, "seed {seed}: requests outlive their deadline");
    let (mut done, mut doubtful) = (0, 0);
    for token in 0..200u64 {
        let executed = world.servers.executed.get(&format!("k{token}")).copied().unwrap_or(0);
        assert!(executed <= 1, "seed {seed}: write {token} executed {executed} times");
        match &world.outcomes[&token] {
            Ok(_) => {
                assert_eq!(executed, 1, "seed {seed}: write {token} acknowledged, not executed");
                done += 1;
            }
            Err(ClientError::Indeterminate { .. }) => doubtful += 1,
            Err(error) => assert_eq!(executed, 0, "seed {seed}: write {token} executed despite {error}"),
        }
    }
    if sessions {
        (1000..1050).for_each(|token| world.submit(token));
        world.run_well(4000);
        for token in 1000..1050 {
            let outcome = &world.outcomes[&token];
            assert!(outcome.is_ok(), "seed {seed}: write {token} after all was well: {outcome:?}");
        }
    }
    (done, doubtful)
}

#[test]
fn writes_are_executed_at_most_once_and_reported_truly() {
    let (mut done, mut doubtful_without) = (0, 0);
    for seed in 0..60 {
        done += run(seed, true, false).0;
        doubtful_without += run(seed, false, false).1;
    }
    assert!(done > 60 * 150, "most writes succeed with sessions: {done}");
    assert!(doubtful_without > 60, "the faults do hit writes under way: {doubtful_without}");
}

#[test]
fn replicas_and_nodes_may_change_under_the_client() {
    let (mut done, mut doubtful_without) = (0, 0);
    for seed in 0..60 {
        done += run(seed, true, true).0;
        doubtful_without += run(seed, false, true).1;
    }
    assert!(done > 60 * 150, "most writes succeed with sessions: {done}");
    assert!(doubtful_without > 60, "the faults do hit writes under way: {doubtful_without}");
}
