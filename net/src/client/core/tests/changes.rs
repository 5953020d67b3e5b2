//! What servers say changes what the client does: leaders, replicas, addresses, limits.

use super::*;

fn put_of(value_bytes: usize) -> Op {
    let value = vec![0; value_bytes].into();
    let mutations = vec![Mutation::Put { key: "bar".into(), value, ttl_ms: None }];
    Op::Write { session: None, consistency: WriteConsistency::Strong, mutations }
}

#[test]
fn a_leader_that_the_map_gives_no_replica_is_followed() {
    let (mut script, one, two) = Script::connected(config());
    let mut map = test_map(2);
    map.nodes.push(NodeInfo { id: 4, binary_addr: "n4:7050".into(), ..map.nodes[0].clone() });
    script.event(Event::Connected { connection: one, hello: hello(1, map) });
    script.submit(put("bar"), 1);
    let (to, request) = script.take_sent();
    assert_eq!(to, one);
    script.reply(one, &request, Err(Refusal::NotLeader { leader: Some(4), epoch: 2 }));
    let (four, address) = script.take_dialled();
    assert_eq!(address, "n4:7050");
    script.up(four, 4);
    let (to, request) = script.take_sent();
    assert_eq!(to, four);
    // It loses its replica: the others are asked, whatever the map says.
    script.reply(four, &request, Err(Refusal::WrongShard { epoch: 2 }));
    script.pass(Duration::from_millis(50));
    let asked = script.sent.iter().filter(|(_, it)| it.op.is_write()).map(|(to, _)| *to).next();
    assert!(asked != Some(four) && (asked.is_some() || !script.dialled.is_empty()), "{asked:?} {two:?}");
}

#[test]
fn connections_follow_a_node_that_moves_and_leave_one_that_goes() {
    let (mut script, one, two) = Script::connected(config());
    let mut map = test_map(2);
    map.nodes[0].binary_addr = "n1:8050".into();
    map.nodes.remove(2);
    map.shards.iter_mut().for_each(|shard| shard.replicas.truncate(2));
    script.submit(put("bar"), 1);
    script.sent.clear();
    script.event(Event::Connected { connection: two, hello: hello(2, map) });
    assert_eq!(script.closed, [one], "what was dialled under the old address");
    let mut dialled: Vec<String> = script.dialled.drain(..).map(|(_, address)| address).collect();
    let mut sent: Vec<ConnectionId> = script.sent.iter().map(|(to, _)| *to).collect();
    script.pass(Duration::from_secs(1));
    dialled.extend(script.dialled.drain(..).map(|(_, address)| address));
    sent.extend(script.sent.iter().map(|(to, _)| *to));
    assert!(dialled.iter().all(|address| address == "n1:8050"), "{dialled:?}");
    assert!(sent.iter().all(|to| *to == two), "{sent:?}");
    assert!(!dialled.is_empty() || !sent.is_empty(), "the write goes on");
}

#[test]
fn frames_may_be_as_long_as_the_servers_say() {
    let (mut script, one, _) = Script::connected(ClientConfig { frame_bytes_max: 500, ..config() });
    let big = || put_of(400);
    let limit = |error| match error {
        ClientError::TooLarge { what: Oversize::Request, limit, .. } => limit,
        other => panic!("{other}"),
    };
    assert_eq!(limit(script.refused(big())), 500);
    let told = HelloReply { frame_bytes_max: Some(10_000), ..hello(1, test_map(1)) };
    script.event(Event::Connected { connection: one, hello: told });
    script.submit(big(), 1);
    let told = HelloReply { frame_bytes_max: Some(300), ..hello(1, test_map(1)) };
    script.event(Event::Connected { connection: one, hello: told });
    assert_eq!(limit(script.refused(big())), 300);
    script.event(Event::Connected { connection: one, hello: hello(1, test_map(1)) });
    assert_eq!(limit(script.refused(big())), 500, "a server that does not say");
}

#[test]
fn hearsay_about_leaders_does_not_outweigh_a_refusal() {
    let (mut script, one, two) = Script::connected(config());
    script.submit(put("bar"), 1);
    let (_, request) = script.take_sent();
    script.reply(one, &request, Err(Refusal::NotLeader { leader: Some(2), epoch: 1 }));
    let leader = |script: &Script| script.core.cluster_map().unwrap().shard(1).unwrap().leader;
    script.event(Event::Connected { connection: two, hello: hello(2, test_map(1)) });
    assert_eq!(leader(&script), Some(2), "node 2 repeats an old rumour about node 1");
    script.event(Event::Connected { connection: one, hello: hello(1, test_map(1)) });
    assert_eq!(leader(&script), Some(1), "node 1 speaks for itself");
}
