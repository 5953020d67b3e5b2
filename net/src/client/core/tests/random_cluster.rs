//! The client against a fake cluster that fails at random: connections break with requests or replies
//! under way, leaders move, servers are busy or silent. Checked for every write: it is executed at most
//! once, an acknowledged one was executed, and one reported as not executed never is.

use super::super::{ClientCore, ConnectionId, Effect, Event, Target};
use super::{Random, config, hello, test_map};
use crate::client::{ClientConfig, ClientError};
use crate::protocol::{
    Answer, Mutation, MutationOutcome, Op, Refusal, Reply, Request, SessionStamp, WriteConsistency,
};
use crate::types::Nanos;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Default)]
struct Servers {
    leader: u64,
    /// Connections that are up, and the node at the other end.
    up: BTreeMap<ConnectionId, u64>,
    /// Requests that have arrived, in order.
    arrived: Vec<(ConnectionId, Request)>,
    executed: BTreeMap<String, usize>,
    remembered: BTreeMap<(u64, u64), Answer>,
}

impl Servers {
    fn execute(&mut self, request: &Request) -> Answer {
        let Op::Write { session, mutations, .. } = &request.op else {
            return Answer::ClusterMap(test_map(1));
        };
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
        if is_write && node != self.leader {
            let leader = (!chance.next().is_multiple_of(3)).then_some(self.leader);
            return Err(Refusal::NotLeader { leader, epoch: 1 });
        }
        match chance.next() % 10 {
            0 => Err(Refusal::Busy { retry_after_ms: 20 }),
            1 if is_write => {
                if chance.next().is_multiple_of(2) {
                    self.execute(request);
                }
                Err(Refusal::Timeout)
            }
            _ => Ok(self.execute(request)),
        }
    }
}

struct World {
    core: ClientCore,
    now: Nanos,
    chance: Random,
    servers: Servers,
    dialling: Vec<(ConnectionId, u64)>,
    outcomes: BTreeMap<u64, Result<Answer, ClientError>>,
}

impl World {
    fn new(seed: u64, sessions: bool) -> World {
        let config = ClientConfig { sessions, request_timeout: Duration::from_secs(3), ..config() };
        let core = ClientCore::new(config, seed).unwrap();
        let servers = Servers { leader: 1, ..Servers::default() };
        let (dialling, outcomes) = (Vec::new(), BTreeMap::new());
        let chance = Random::new(!seed);
        let mut world = World { core, now: Nanos(0), chance, servers, dialling, outcomes };
        world.core.start(world.now);
        world.look();
        world
    }

    fn look(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Connect { connection, address, .. } => {
                    let node = address[1..2].parse().expect("addresses are n1:7050 and so on");
                    self.dialling.push((connection, node));
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
        let Some((connection, node)) = self.dialling.pop() else { return };
        if healthy || !self.chance.next().is_multiple_of(4) {
            self.servers.up.insert(connection, node);
            self.event(Event::Connected { connection, hello: hello(node, test_map(1)) });
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

    fn step(&mut self) {
        match self.chance.next() % 16 {
            0 => {
                let place = usize::try_from(self.chance.next() % 3).unwrap();
                let broken = self.servers.up.keys().copied().nth(place);
                if let Some(connection) = broken {
                    self.close(connection);
                }
            }
            1 => self.servers.leader = self.chance.next() % 3 + 1,
            2 => self.advance(100),
            3..=5 => self.advance(3),
            6..=8 => self.dial(false),
            _ => (0..6).for_each(|_| self.serve()),
        }
    }
}

fn run(seed: u64, sessions: bool) -> (usize, usize) {
    let mut world = World::new(seed, sessions);
    for token in 0..200u64 {
        let mutation = Mutation::Put { key: format!("k{token}").into(), value: "v".into(), ttl_ms: None };
        let op =
            Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] };
        world.core.submit(Target::Key, 0, op, token, world.now).unwrap();
        world.look();
        for _ in 0..8 {
            world.step();
        }
    }
    // Everything heals; every request must end by its deadline.
    for _ in 0..4000 {
        world.dial(true);
        world.serve();
        world.advance(1);
    }
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
    (done, doubtful)
}

#[test]
fn writes_are_executed_at_most_once_and_reported_truly() {
    let (mut done, mut doubtful_without) = (0, 0);
    for seed in 0..60 {
        done += run(seed, true).0;
        doubtful_without += run(seed, false).1;
    }
    assert!(done > 60 * 150, "most writes succeed with sessions: {done}");
    assert!(doubtful_without > 60, "the faults do hit writes under way: {doubtful_without}");
}
