//! The client's brain against a scripted cluster of three nodes: shard 1 owns the lower half of the slots
//! and is led by node 1, shard 2 the upper half, led by node 2. Key "bar" is in shard 1, "foo" in shard 2.

mod admin;
mod changes;
mod endings;
mod programs;
mod random_cluster;

use super::*;
use crate::map::{NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
use crate::protocol::{
    MutationOutcome, PROTOCOL_VERSION, ReadConsistency, Refusal, SessionStamp, WriteConsistency,
};
use bytes::Bytes;
use std::time::Duration;

pub(super) fn test_map(epoch: u64) -> ClusterMap {
    let node = |id: u64| NodeInfo {
        id,
        binary_addr: format!("n{id}:7050"),
        peer_addr: format!("n{id}:7060"),
        cores: 1,
        ..NodeInfo::default()
    };
    let shard = |id, slots: Option<(u16, u16)>, leader| ShardInfo {
        id,
        slots: slots.map(|(first, last)| SlotRange { first, last }),
        replicas: [1, 2, 3].map(|node| ReplicaInfo { node, core: 0 }).to_vec(),
        leader: Some(leader),
        ..ShardInfo::default()
    };
    ClusterMap {
        epoch,
        nodes: [1, 2, 3].map(node).to_vec(),
        shards: vec![shard(0, None, 1), shard(1, Some((0, 8191)), 1), shard(2, Some((8192, 16383)), 2)],
    }
}

pub(super) fn config() -> ClientConfig {
    ClientConfig::new(vec!["n1:7050".into(), "n2:7050".into()])
}

pub(super) fn hello(node: u64, map: ClusterMap) -> HelloReply {
    HelloReply {
        version: PROTOCOL_VERSION,
        node,
        core: 0,
        key_bytes_max: 100,
        value_bytes_max: 1000,
        frame_bytes_max: None,
        map,
    }
}

fn put(key: &'static str) -> Op {
    let mutation = Mutation::Put { key: key.into(), value: Bytes::from_static(b"value"), ttl_ms: None };
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations: vec![mutation] }
}

fn get(key: &'static str) -> Op {
    Op::Get { key: key.into(), consistency: ReadConsistency::Linearizable }
}

fn written() -> Result<Answer, Refusal> {
    Ok(Answer::Written { index: 7, outcomes: vec![MutationOutcome::Put { version: 7 }] })
}

fn none() -> Result<Answer, Refusal> {
    Ok(Answer::Value { value: None, freshness: None })
}

fn stamp(request: &Request) -> SessionStamp {
    match &request.op {
        Op::Write { session: Some(stamp), .. } => *stamp,
        other => panic!("no stamped write: {other:?}"),
    }
}

/// What a server recognises a repeated write by.
fn identity(request: &Request) -> (u64, u64) {
    let SessionStamp { client, sequence, .. } = stamp(request);
    (client, sequence)
}

/// A core, the time, and what it wanted done since the last look.
struct Script {
    core: ClientCore,
    now: Nanos,
    dialled: Vec<(ConnectionId, String)>,
    sent: Vec<(ConnectionId, Request)>,
    closed: Vec<ConnectionId>,
    completed: Vec<(u64, Result<Answer, ClientError>)>,
    ready: usize,
    unreachable: Vec<ConnectError>,
}

impl Script {
    fn new(config: ClientConfig) -> Script {
        let mut script = Script {
            core: ClientCore::new(config, 1).unwrap(),
            now: Nanos(0),
            dialled: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            completed: Vec::new(),
            ready: 0,
            unreachable: Vec::new(),
        };
        script.core.start(script.now);
        script.look();
        script
    }

    /// With the map known and connections to nodes 1 and 2; the client's own map request is answered.
    fn connected(config: ClientConfig) -> (Script, ConnectionId, ConnectionId) {
        let mut script = Script::new(config);
        let one = script.dialled.remove(0).0;
        script.up(one, 1);
        let (_, fetch) = script.sent.remove(0);
        script.reply(one, &fetch, Ok(Answer::ClusterMap(test_map(1))));
        let op = script.submit(get("foo"), 99);
        let two = script.dialled.remove(0).0;
        script.up(two, 2);
        script.core.cancel(op, script.now);
        script.look();
        script.sent.clear();
        (script, one, two)
    }

    fn look(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Connect { connection, address, .. } => {
                    self.dialled.push((connection, address.to_string()));
                }
                Effect::Send { connection, id } => {
                    if let Some(request) = self.core.request(id) {
                        self.sent.push((connection, request.clone()));
                    }
                }
                Effect::Close { connection } => self.closed.push(connection),
                Effect::Complete { token, result, .. } => self.completed.push((token, result)),
                Effect::Ready => self.ready += 1,
                Effect::Unreachable { error } => self.unreachable.push(error),
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.core.handle(event, self.now);
        self.look();
    }

    fn up(&mut self, connection: ConnectionId, node: u64) {
        self.event(Event::Connected { connection, hello: hello(node, test_map(1)) });
    }

    fn down(&mut self, connection: ConnectionId) {
        self.event(Event::Closed { connection, why: "gone".into() });
    }

    fn reply(&mut self, connection: ConnectionId, to: &Request, result: Result<Answer, Refusal>) {
        self.event(Event::Reply { connection, reply: Reply { id: to.id, result } });
    }

    fn submit(&mut self, op: Op, token: u64) -> OpId {
        let op = self.core.submit(Target::Key, 0, op, token, self.now).unwrap();
        self.look();
        op
    }

    fn refused(&mut self, op: Op) -> ClientError {
        self.core.submit(Target::Key, 0, op, 0, self.now).unwrap_err()
    }

    fn take_sent(&mut self) -> (ConnectionId, Request) {
        assert_eq!(self.sent.len(), 1, "{:?}", self.sent);
        self.sent.remove(0)
    }

    fn take_dialled(&mut self) -> (ConnectionId, String) {
        assert!(!self.dialled.is_empty(), "nothing was dialled");
        self.dialled.remove(0)
    }

    fn take_completed(&mut self) -> (u64, Result<Answer, ClientError>) {
        assert_eq!(self.completed.len(), 1, "{:?}", self.completed);
        self.completed.remove(0)
    }

    /// Lets time pass as the driver would: every deadline on the way is handled.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        for _ in 0..10_000 {
            match self.core.next_deadline() {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.event(Event::Deadline);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("deadlines do not come to rest");
    }
}

#[test]
fn endpoints_are_tried_in_turn_until_one_answers() {
    let mut script = Script::new(config());
    let (first, address) = script.take_dialled();
    assert_eq!(address, "n1:7050");
    script.down(first);
    let (second, address) = script.take_dialled();
    assert_eq!(address, "n2:7050");
    assert_eq!(script.ready, 0);
    script.up(second, 2);
    assert_eq!(script.ready, 1);
    assert_eq!(script.core.cluster_map(), Some(&test_map(1)));
}

#[test]
fn no_endpoint_in_time_is_an_error_that_says_why() {
    let mut script = Script::new(config());
    for _ in 0..10_000 {
        while let Some((connection, _)) = script.dialled.pop() {
            script.down(connection);
        }
        if !script.unreachable.is_empty() {
            break;
        }
        let at = script.core.next_deadline().expect("it goes on trying");
        script.pass(at.since(script.now));
    }
    let [ConnectError::Unreachable { last }] = &script.unreachable[..] else { panic!("it gave up once") };
    assert!(last.ends_with("gone"), "{last}");
    assert_eq!(script.now, Nanos(0).after(config().request_timeout));
    assert_eq!(ClientCore::new(ClientConfig::new(vec![]), 1).err(), Some(ConnectError::NoEndpoints));
}

#[test]
fn requests_are_pipelined_to_their_leaders_and_replies_come_in_any_order() {
    let (mut script, one, two) = Script::connected(config());
    for (token, key) in [(1, "bar"), (2, "foo"), (3, "bar")] {
        script.submit(put(key), token);
    }
    let sent = std::mem::take(&mut script.sent);
    assert_eq!(
        sent.iter().map(|(to, it)| (*to, it.shard)).collect::<Vec<_>>(),
        [(one, 1), (two, 2), (one, 1)]
    );
    for (to, request) in sent.iter().rev() {
        script.reply(*to, request, written());
    }
    assert_eq!(script.completed.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [3, 2, 1]);
    assert!(script.completed.iter().all(|(_, result)| result.is_ok()));
    assert_eq!(script.core.pending_operations(), 0);
    assert_eq!(script.core.next_deadline(), None);
}

#[test]
fn a_lost_write_is_repeated_elsewhere_under_the_same_stamp() {
    let (mut script, one, two) = Script::connected(config());
    script.submit(put("bar"), 1);
    let (_, first) = script.take_sent();
    script.down(one);
    let again = script.sent.iter().position(|(_, it)| it.op.is_write());
    let (to, second) = match again {
        Some(at) => script.sent.remove(at),
        None => {
            let (three, address) = script.take_dialled();
            assert_eq!(address, "n3:7050");
            script.up(three, 3);
            let at = script.sent.iter().position(|(_, it)| it.op.is_write()).unwrap();
            script.sent.remove(at)
        }
    };
    assert_ne!(to, one);
    assert_eq!(identity(&first), identity(&second));
    assert_ne!(first.id, second.id);
    // The hint leads to node 2, at once.
    let hint = Refusal::NotLeader { leader: Some(if to == two { 3 } else { 2 }), epoch: 1 };
    script.reply(to, &second, Err(hint));
    if to == two {
        let (three, _) = script.take_dialled();
        script.up(three, 3);
    }
    let at = script.sent.iter().position(|(_, it)| it.op.is_write()).unwrap();
    let (last_to, third) = script.sent.remove(at);
    assert_ne!(last_to, to);
    assert_eq!(identity(&first), identity(&third));
    script.reply(last_to, &third, written());
    assert_eq!(script.take_completed(), (1, written().map_err(ClientError::Refused)));
    // Later requests know the new leader.
    script.submit(put("bar"), 2);
    assert!(script.sent.iter().any(|(over, it)| *over == last_to && it.op.is_write()));
}

#[test]
fn without_sessions_a_lost_write_is_indeterminate_but_an_unsent_one_is_repeated() {
    let (mut script, one, _) =
        Script::connected(ClientConfig { sessions: false, inflight_bytes_max: 1, ..config() });
    script.submit(put("bar"), 1);
    script.submit(put("bar"), 2);
    assert_eq!(script.sent.len(), 1, "the second waits for the window");
    script.down(one);
    let (token, result) = script.take_completed();
    assert!(matches!((token, result), (1, Err(ClientError::Indeterminate { .. }))));
    assert_eq!(script.core.pending_operations(), 2, "the second write and the map request go on");
}

#[test]
fn a_late_reply_to_an_earlier_attempt_is_ignored() {
    let (mut script, _, two) = Script::connected(config());
    script.submit(put("foo"), 1);
    let (_, first) = script.take_sent();
    script.reply(two, &first, Err(Refusal::Busy { retry_after_ms: 10 }));
    script.reply(two, &first, written());
    assert!(script.completed.is_empty());
    script.pass(Duration::from_millis(20));
    let (_, second) = script.take_sent();
    script.reply(two, &first, written());
    assert!(script.completed.is_empty());
    script.reply(two, &second, written());
    assert_eq!(script.take_completed().0, 1);
}

#[test]
fn busy_waits_as_long_as_asked() {
    let (mut script, one, _) = Script::connected(config());
    script.submit(put("bar"), 1);
    let (_, request) = script.take_sent();
    script.reply(one, &request, Err(Refusal::Busy { retry_after_ms: 700 }));
    script.pass(Duration::from_millis(699));
    assert!(script.sent.is_empty());
    script.pass(Duration::from_millis(1));
    assert_eq!(identity(&script.take_sent().1), identity(&request));
}

#[test]
fn a_deadline_tells_whether_the_write_may_have_been_executed() {
    let quick = ClientConfig { request_timeout: Duration::from_secs(1), ..config() };
    let (mut script, one, two) = Script::connected(quick);
    script.submit(put("bar"), 1);
    script.submit(get("bar"), 2);
    script.submit(put("foo"), 3);
    let (_, refused) = script.sent.remove(2);
    script.reply(two, &refused, Err(Refusal::Busy { retry_after_ms: 5000 }));
    script.pass(Duration::from_secs(1));
    let outcome = |token| &script.completed.iter().find(|it| it.0 == token).unwrap().1;
    assert!(matches!(outcome(1), Err(ClientError::Indeterminate { .. })), "sent, never answered");
    assert!(matches!(outcome(2), Err(ClientError::TimedOut { .. })), "a read has no effect");
    let Err(ClientError::TimedOut { last }) = outcome(3) else { panic!("refused, so not executed") };
    assert!(last.contains("busy"), "{last}");
    assert_eq!(script.core.pending_operations(), 0);
    assert!(script.closed.is_empty(), "{one:?} is not silent for long enough to be given up");
}

#[test]
fn a_wrong_shard_refreshes_the_map_and_goes_to_the_new_owner() {
    let (mut script, one, two) = Script::connected(config());
    script.submit(put("bar"), 1);
    let (_, request) = script.take_sent();
    script.reply(one, &request, Err(Refusal::WrongShard { epoch: 2 }));
    let (asked, fetch) = script.take_sent();
    assert_eq!(fetch.op, Op::ClusterMap);
    let mut moved = test_map(2);
    (moved.shards[1].slots, moved.shards[2].slots) = (moved.shards[2].slots, moved.shards[1].slots);
    script.reply(asked, &fetch, Ok(Answer::ClusterMap(moved)));
    script.pass(Duration::from_millis(20));
    let (to, again) = script.take_sent();
    assert_eq!((to, again.shard, again.epoch), (two, 2, 2));
    assert_eq!(identity(&again), identity(&request));
}

#[test]
fn an_older_or_contradictory_map_is_ignored() {
    let (mut script, one, _) = Script::connected(config());
    let mut broken = test_map(9);
    broken.shards[2].slots = broken.shards[1].slots;
    for map in [test_map(0), broken] {
        script.event(Event::Connected { connection: one, hello: hello(1, map) });
        assert_eq!(script.core.cluster_map(), Some(&test_map(1)));
    }
}

#[test]
fn a_silent_connection_is_given_up_and_its_requests_go_elsewhere() {
    let (mut script, one, _) = Script::connected(config());
    script.submit(get("bar"), 1);
    let (to, _) = script.take_sent();
    assert_eq!(to, one);
    script.pass(config().silence_timeout - Duration::from_millis(1));
    assert!(script.closed.is_empty());
    script.pass(Duration::from_millis(1));
    assert_eq!(script.closed, [one]);
    let elsewhere = script.sent.iter().any(|(to, it)| *to != one && matches!(it.op, Op::Get { .. }));
    assert!(elsewhere || !script.dialled.is_empty());
    script.closed.clear();
    script.pass(Duration::ZERO);
    assert!(script.closed.is_empty(), "it is closed once");
}

#[test]
fn an_idle_connection_is_not_silent() {
    let (mut script, _, _) = Script::connected(config());
    script.pass(Duration::from_secs(3600));
    assert!(script.closed.is_empty());
}

#[test]
fn a_connection_that_does_not_come_up_is_given_up() {
    let mut script = Script::new(config());
    let (first, _) = script.take_dialled();
    script.pass(config().connect_timeout);
    assert_eq!(script.closed, [first]);
    assert_eq!(script.take_dialled().1, "n2:7050");
    script.up(first, 1);
    assert_eq!(script.ready, 0, "what was closed stays closed");
}

#[test]
fn a_strange_server_is_left() {
    let (mut script, one, _) = Script::connected(config());
    script.down(one);
    script.pass(Duration::from_secs(1));
    script.dialled.clear();
    let mut script = Script::new(config());
    let (first, _) = script.take_dialled();
    let strange = HelloReply { version: 99, ..hello(1, test_map(1)) };
    script.event(Event::Connected { connection: first, hello: strange });
    assert_eq!((script.closed.clone(), script.ready), (vec![first], 0));
}

#[test]
fn the_window_holds_requests_back_and_lets_them_go() {
    let (mut script, one, _) = Script::connected(ClientConfig { inflight_bytes_max: 400, ..config() });
    for token in 1..=5 {
        script.submit(get("bar"), token);
    }
    assert_eq!(script.sent.len(), 2, "two of 163 bytes fit into 400");
    let (_, first) = script.sent.remove(0);
    script.sent.clear();
    script.reply(one, &first, none());
    assert_eq!(script.sent.len(), 1);
    let mut answered = 1;
    while let Some((to, request)) = script.sent.pop() {
        script.reply(to, &request, none());
        answered += 1;
    }
    assert_eq!(answered, 4, "the one sent earlier and left unanswered still takes its place");
}

#[test]
fn too_much_at_once_is_refused_not_queued() {
    let (mut script, one, _) = Script::connected(ClientConfig { queued_bytes_max: 500, ..config() });
    for token in 1..=3 {
        script.submit(get("bar"), token);
    }
    assert_eq!(script.refused(get("bar")), ClientError::Overloaded { queued_bytes: 489 });
    let (_, first) = script.sent.remove(0);
    script.reply(one, &first, none());
    script.submit(get("bar"), 4);
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let (mut script, _, _) = Script::connected(config());
    let too_large = |what, actual, limit| ClientError::TooLarge { what, actual, limit };
    let long_key = Op::Get { key: vec![0; 101].into(), consistency: ReadConsistency::Stale };
    assert_eq!(script.refused(long_key), too_large(Oversize::Key, 101, 100));
    let batch = |mutations| Op::Write { session: None, consistency: WriteConsistency::Strong, mutations };
    let long = Mutation::Put { key: "k".into(), value: vec![0; 1001].into(), ttl_ms: None };
    assert_eq!(script.refused(batch(vec![long])), too_large(Oversize::Value, 1001, 1000));
    assert_eq!(script.refused(batch(vec![])), ClientError::EmptyBatch);
    let delete = |key: &'static str| Mutation::Delete { key: key.into() };
    assert_eq!(script.refused(batch(vec![delete("foo"), delete("bar")])), ClientError::BatchSpansShards);
    script.submit(batch(vec![delete("{foo}1"), delete("{foo}2")]), 1);
    let status = script.core.submit(Target::Shard(9), 0, Op::Status, 0, script.now);
    assert_eq!(status, Err(ClientError::NoSuchShard));
}

#[test]
fn a_scan_goes_to_the_shard_that_has_the_slot_it_begins_in() {
    let (mut script, _, _) = Script::connected(config());
    let scan = |start: &'static [u8]| Op::Scan {
        start: start.into(),
        end: None,
        limit: 1,
        consistency: ReadConsistency::Linearizable,
        keys_only: true,
    };
    for (start, shard) in [(&[0x1f, 0xff, b'k'][..], 1), (&[0x20, 0x00], 2)] {
        script.submit(scan(start), 1);
        assert_eq!(script.take_sent().1.shard, shard, "{start:?}");
    }
    assert_eq!(script.refused(scan(b"")), ClientError::NoSuchShard);
}

#[test]
fn an_expired_session_starts_over_only_if_nothing_can_have_been_executed() {
    let (mut script, one, _) = Script::connected(config());
    script.submit(put("bar"), 1);
    let (_, first) = script.take_sent();
    script.reply(one, &first, Err(Refusal::SessionExpired));
    let (_, again) = script.take_sent();
    assert_ne!(stamp(&first).client, stamp(&again).client);
    assert_eq!(stamp(&again).sequence, 1);
    script.reply(one, &again, Err(Refusal::Timeout));
    script.pass(Duration::from_secs(1));
    let (to, third) = script.take_sent();
    assert_eq!(identity(&third), identity(&again));
    script.reply(to, &third, Err(Refusal::SessionExpired));
    assert!(matches!(script.take_completed().1, Err(ClientError::Indeterminate { .. })));
}

#[test]
fn a_refusal_for_good_ends_the_request() {
    let (mut script, one, _) = Script::connected(config());
    let invalid = Refusal::Invalid { why: "no".into() };
    let internal = Refusal::Internal { why: "oops".into() };
    for (op, refusal, doubtful) in [
        (put("bar"), invalid.clone(), false),
        (put("bar"), internal.clone(), true),
        (get("bar"), internal.clone(), false),
    ] {
        script.submit(op, 1);
        let (_, request) = script.take_sent();
        script.reply(one, &request, Err(refusal.clone()));
        match script.take_completed().1 {
            Err(ClientError::Indeterminate { .. }) => assert!(doubtful),
            Err(ClientError::Refused(found)) => assert!(!doubtful && found == refusal),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_unreadable_reply_ends_the_request_and_leaves_the_rest() {
    let (mut script, one, _) = Script::connected(config());
    script.submit(get("bar"), 1);
    script.submit(put("bar"), 2);
    for (_, request) in std::mem::take(&mut script.sent) {
        script.event(Event::Garbled { connection: one, id: request.id });
    }
    assert_eq!(script.completed.remove(0), (1, Err(ClientError::UnexpectedAnswer)));
    assert!(matches!(script.take_completed(), (2, Err(ClientError::Indeterminate { .. }))));
    assert!(script.closed.is_empty());
}

#[test]
fn nodes_that_point_at_each_other_are_not_asked_without_pause() {
    let (mut script, one, two) = Script::connected(config());
    script.submit(put("bar"), 1);
    let mut sent = 0;
    while let Some((to, request)) = script.sent.pop() {
        sent += 1;
        assert!(sent < 10, "no pause");
        let other = if to == one { 2 } else { 1 };
        assert!(to == one || to == two);
        script.reply(to, &request, Err(Refusal::NotLeader { leader: Some(other), epoch: 1 }));
    }
    assert!((2..=4).contains(&sent), "{sent}");
    assert_eq!(script.core.pending_operations(), 1, "it goes on after a pause");
}

#[test]
fn stale_reads_use_every_replica() {
    let (mut script, _, _) = Script::connected(config());
    let mut used = std::collections::BTreeSet::new();
    for token in 0..60 {
        let op = Op::Get { key: "bar".into(), consistency: ReadConsistency::Stale };
        script.submit(op, token);
        for (three, _) in std::mem::take(&mut script.dialled) {
            script.up(three, 3);
        }
        for (to, request) in std::mem::take(&mut script.sent) {
            used.insert(to);
            script.reply(to, &request, none());
        }
    }
    assert_eq!(used.len(), 3);
}
