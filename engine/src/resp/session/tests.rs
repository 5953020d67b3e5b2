use net::map::{NodeInfo, ReplicaInfo, ShardInfo, SlotRange};
use net::protocol::{Access, Mutation, Op};
use net::slot::slot_of;

use super::*;
use crate::resp::{Merge, Shape, Task};

/// A node 1 of two, which leads the lower half of the slots.
struct Fake {
    password: Option<&'static str>,
    registry: Registry,
}

impl Node for Fake {
    fn id(&self) -> u64 {
        1
    }

    fn wall_us(&self) -> u64 {
        1_700_000_000_000_007
    }

    fn shard_of_slot(&self, slot: u16) -> u32 {
        1 + u32::from(slot >= 8192)
    }

    fn leader_of(&self, shard: u32) -> Option<u64> {
        Some(shard.into())
    }

    fn hosts(&self, _shard: u32) -> bool {
        true
    }

    fn cluster_address(&self, node: u64) -> Option<String> {
        (node == 2).then(|| "127.0.0.1:64792".to_owned())
    }

    fn map(&self) -> ClusterMap {
        let node = |id: u64| NodeInfo {
            id,
            peer_addr: format!("127.0.0.1:706{id}"),
            resp_cluster_addr: Some(format!("127.0.0.1:6479{id}")),
            ..NodeInfo::default()
        };
        let shard = |id: u32, first, last| ShardInfo {
            id,
            slots: Some(SlotRange { first, last }),
            replicas: vec![ReplicaInfo { node: 1, core: 0 }, ReplicaInfo { node: 2, core: 0 }],
            leader: Some(id.into()),
            ..ShardInfo::default()
        };
        let shards = vec![shard(1, 0, 8191), shard(2, 8192, 16383)];
        ClusterMap { epoch: 4, nodes: vec![node(1), node(2)], shards }
    }

    fn password(&self) -> Option<&str> {
        self.password
    }

    fn allows_debug(&self) -> bool {
        false
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn facts(&self) -> Facts {
        Facts::default()
    }
}

struct Client {
    node: Fake,
    session: Session,
}

impl Client {
    fn new(cluster: bool, password: Option<&'static str>) -> Client {
        let node = Fake { password, registry: Registry::default() };
        let row =
            node.registry.enter("127.0.0.1:5".to_owned(), "127.0.0.1:6".to_owned(), 9, 1_699_999_990_000);
        let session = Session::new(cluster, row, &node);
        Client { node, session }
    }

    fn plain() -> Client {
        Client::new(false, None)
    }

    fn say(&mut self, line: &str) -> Action {
        let args = line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        self.session.command(args, &self.node)
    }

    fn reply(&mut self, line: &str) -> Value {
        match self.say(line) {
            Action::Reply(value) => value,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn error(&mut self, line: &str) -> String {
        match self.reply(line) {
            Value::Error(text) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn text(&mut self, line: &str) -> String {
        match self.reply(line) {
            Value::Verbatim { text, .. } | Value::Bulk(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("{line}: {other:?}"),
        }
    }
}

/// In the lower half: foo is in slot 12182, bar in 5061.
const LOW: &str = "bar";
const HIGH: &str = "foo";

#[test]
fn what_a_browser_sends_ends_the_connection() {
    let mut client = Client::new(false, Some("secret"));
    assert_eq!(client.say("POST / HTTP/1.1"), Action::Cut);
    assert_eq!(client.say("host: localhost:6379"), Action::Cut);
    assert_eq!(client.error("GET / HTTP/1.1"), "ERR wrong number of arguments for 'get' command");
}

#[test]
fn the_commands_asked_most_need_no_program() {
    let mut client = Client::plain();
    let Action::Call(call) = client.say("GeT foo") else { panic!() };
    assert_eq!((call.shard, call.slot, call.shape), (2, 12182, Shape::Value));
    for (line, ttl) in [("SET bar 1", None), ("SET bar 1 EX 5", Some(5000)), ("set bar 1 px 7", Some(7))] {
        let Action::Call(call) = client.say(line) else { panic!("{line}") };
        let Op::Write { mutations, .. } = call.op else { panic!("{line}") };
        let put = Mutation::Put { key: LOW.into(), value: "1".into(), ttl_ms: ttl };
        assert_eq!((call.shard, call.shape, mutations), (1, Shape::Stored, vec![put]));
    }
    for line in ["SET bar 1 NX", "SET bar 1 EX 0", "SET bar 1 EX x", "SET bar 1 KEEPTTL", "INCR bar"] {
        let Action::Call(call) = client.say(line) else { panic!("{line}") };
        let Op::Execute { consistency: Access::Write(_), .. } = call.op else { panic!("{line}") };
        assert!(call.touches.write);
    }
}

#[test]
fn commands_over_several_shards_are_split_where_that_is_what_they_mean() {
    let mut client = Client::plain();
    let Action::Calls(calls, merge) = client.say("MGET foo bar foo") else { panic!() };
    assert_eq!(merge, Merge::Order(vec![vec![0, 2], vec![1]]));
    assert_eq!(calls.iter().map(|call| call.shard).collect::<Vec<_>>(), [2, 1]);
    let Action::Calls(calls, Merge::Ok) = client.say("MSET foo 1 bar 2") else { panic!() };
    let Op::Execute { program, .. } = &calls[1].op else { panic!() };
    assert_eq!(program.commands[0].args, ["MSET", "bar", "2"]);
    assert!(matches!(client.say("DEL foo bar"), Action::Calls(_, Merge::Sum)));
    assert!(matches!(client.say("DEL {a}foo {a}bar"), Action::Call(_)));
    assert!(client.error("MSETNX foo 1 bar 2").starts_with("CROSSSLOT"));
    assert!(client.error("RENAME foo bar").starts_with("CROSSSLOT"));
    assert!(Client::new(true, None).error("MGET foo bar").starts_with("CROSSSLOT"));
    assert_eq!(client.error("MSET foo 1 bar"), "ERR wrong number of arguments for 'mset' command");
}

#[test]
fn a_transaction_is_one_program_and_what_needs_no_shard_is_answered_here() {
    let mut client = Client::plain();
    assert_eq!(client.reply("MULTI"), Value::OK);
    for line in ["SELECT 3", "SET foo 1", "PING", "GET foo"] {
        assert_eq!(client.reply(line), Value::Simple("QUEUED".into()), "{line}");
    }
    let Action::Execute(Some(call), parts) = client.say("EXEC") else { panic!() };
    assert_eq!(parts, [Some(Value::OK), None, Some(Value::Simple("PONG".into())), None]);
    let Op::Execute { program, consistency: Access::Write(_) } = call.op else { panic!() };
    assert_eq!(program.commands.iter().map(|it| it.namespace).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(client.error("EXEC"), "ERR EXEC without MULTI");
    assert_eq!(client.error("DISCARD"), "ERR DISCARD without MULTI");
    client.reply("MULTI");
    assert_eq!(client.say("EXEC"), Action::Execute(None, vec![]));
}

#[test]
fn a_refused_command_spoils_the_transaction() {
    let mut client = Client::plain();
    for refused in ["NOSUCH", "GET", "KEYS *"] {
        client.reply("MULTI");
        client.error(refused);
        client.reply("SET foo 1");
        assert!(client.error("EXEC").starts_with("EXECABORT "), "{refused}");
    }
    client.reply("MULTI");
    assert_eq!(client.error("MULTI"), "ERR MULTI calls can not be nested");
    assert_eq!(client.error("WATCH a"), "ERR WATCH inside MULTI is not allowed");
    client.reply("SET foo 1");
    client.reply("SET bar 1");
    assert!(client.error("EXEC").starts_with("CROSSSLOT"));
    client.reply("MULTI");
    for _ in 0..9 {
        client.say(&format!("SET foo {}", "x".repeat(1 << 20)));
    }
    assert!(client.error("EXEC").starts_with("EXECABORT "), "a transaction is bounded");
}

#[test]
fn what_is_watched_goes_with_the_transaction() {
    let mut client = Client::plain();
    let Action::Watch(calls, keys) = client.say("WATCH foo foo{foo}") else { panic!() };
    assert_eq!((calls.len(), keys.len()), (2, 2));
    client.session.watch_versions(keys.into_iter().map(|(namespace, key)| (namespace, key, 7)));
    assert_eq!(client.say("WATCH foo"), Action::Reply(Value::OK), "it keeps the version it had");
    client.reply("MULTI");
    let Action::Execute(Some(call), parts) = client.say("EXEC") else { panic!() };
    let Op::Execute { program, .. } = call.op else { panic!() };
    assert_eq!((program.watched.len(), program.watched[0].version, parts.len()), (2, 7, 0));
    assert!(client.session.watched.is_empty());
}

#[test]
fn the_door_that_redirects_says_where_before_it_queues() {
    let mut client = Client::new(true, None);
    client.reply("MULTI");
    assert_eq!(client.error("SET foo 1"), "MOVED 12182 127.0.0.1:64792");
    assert!(client.error("EXEC").starts_with("EXECABORT "));
    assert_eq!(client.reply("READONLY"), Value::OK);
    client.reply("MULTI");
    assert_eq!(client.reply("GET foo"), Value::Simple("QUEUED".into()), "a follower may be read");
}

#[test]
fn nothing_is_told_before_the_password() {
    let mut client = Client::new(false, Some("secret"));
    assert_eq!(client.error("GET foo"), "NOAUTH Authentication required.");
    assert_eq!(client.error("CLIENT LIST"), "NOAUTH Authentication required.");
    assert!(client.error("HELLO 3").starts_with("NOAUTH HELLO must be called"));
    assert!(client.error("AUTH wrong").starts_with("WRONGPASS "));
    assert!(client.error("AUTH secrets").starts_with("WRONGPASS "));
    assert!(client.error("AUTH someone secret").starts_with("WRONGPASS "));
    assert!(matches!(client.reply("HELLO 3 AUTH default secret SETNAME me"), Value::Map(_)));
    assert_eq!((client.session.version(), &client.session.name[..]), (Version::Resp3, "me"));
    assert_eq!(client.reply("RESET"), Value::Simple("RESET".into()));
    assert!(!client.session.is_authenticated());
    assert_eq!(client.session.version(), Version::Resp2);
    assert!(Client::plain().error("AUTH x").starts_with("ERR AUTH <password> called without any password"));
}

#[test]
fn replies_are_left_out_as_asked() {
    let mut client = Client::plain();
    let mut silences = |lines: &[&str]| {
        let mut said = Vec::new();
        for line in lines {
            client.say(line);
            said.push(client.session.is_silent());
        }
        said
    };
    assert_eq!(silences(&["CLIENT REPLY SKIP", "PING", "PING"]), [true, true, false]);
    assert_eq!(silences(&["CLIENT REPLY OFF", "PING", "CLIENT REPLY SKIP", "PING"]), [true; 4]);
    assert_eq!(silences(&["CLIENT REPLY ON", "PING"]), [false; 2]);
}

#[test]
fn commands_about_the_connection_answer_as_redis_does() {
    let mut client = Client::plain();
    assert_eq!(client.reply("PING"), Value::Simple("PONG".into()));
    assert_eq!(client.error("SELECT 16"), "ERR DB index is out of range");
    assert_eq!(client.error("SELECT x"), "ERR value is not an integer or out of range");
    assert_eq!(client.error("HELLO 4"), "NOPROTO unsupported protocol version");
    assert_eq!(client.error("HELLO x"), "ERR Protocol version is not an integer or out of range");
    assert!(client.error("DEBUG SLEEP 1").starts_with("ERR DEBUG command not allowed."));
    assert!(
        client.error("NOSUCH a b").starts_with("ERR unknown command 'NOSUCH', with args beginning with: 'a'")
    );
    assert_eq!(client.reply("CLIENT GETNAME"), Value::Null);
    assert_eq!(client.reply("CLIENT SETNAME me"), Value::OK);
    assert_eq!(client.reply("CLIENT SETINFO LIB-NAME it"), Value::OK);
    let line = client.text("CLIENT LIST");
    assert!(line.starts_with("id=1 addr=127.0.0.1:5 laddr=127.0.0.1:6 fd=9 name=me age=10 "), "{line}");
    assert!(line.contains(" cmd=client|list ") && line.contains(" lib-name=it "), "{line}");
    assert_eq!(client.reply("TIME"), Value::Array(vec![Value::bulk("1700000000"), Value::bulk("7")]));
    assert_eq!(client.say("WAIT 1 0"), Action::Task(Task::Wait { replicas: 1, timeout_ms: None }));
    assert_eq!(client.say("WAIT 2 5"), Action::Task(Task::Wait { replicas: 2, timeout_ms: Some(5) }));
    assert_eq!(client.error("WAIT 1 -1"), "ERR timeout is negative");
    assert_eq!(client.reply("FUNCTION FLUSH"), Value::OK);
    assert_eq!(client.reply("CONFIG RESETSTAT"), Value::OK);
    let maxmemory = vec![(Value::bulk("maxmemory"), Value::bulk("0"))];
    assert_eq!(client.reply("CONFIG GET MAXmemory"), Value::Map(maxmemory));
    assert!(client.error("CONFIG SET maxmemory 5").contains("can't set immutable config"));
    assert!(matches!(client.say("QUIT"), Action::Close(Value::Simple(_))));
}

#[test]
fn the_cluster_is_described_in_the_words_of_its_clients() {
    let mut client = Client::plain();
    assert_eq!(client.reply("CLUSTER KEYSLOT foo"), Value::Integer(slot_of(HIGH.as_bytes()).into()));
    let nodes = client.text("CLUSTER NODES");
    let mine = format!("{:040x} 127.0.0.1:64791@7061 myself,master - 0 0 4 connected 0-8191\n", 1);
    assert!(nodes.starts_with(&mine), "{nodes}");
    assert!(client.text("CLUSTER INFO").starts_with("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"));
    let Value::Array(slots) = client.reply("CLUSTER SLOTS") else { panic!() };
    let Value::Array(first) = &slots[0] else { panic!() };
    assert_eq!((slots.len(), &first[..2]), (2, &[Value::Integer(0), Value::Integer(8191)][..]));
    let Value::Array(shards) = client.reply("CLUSTER SHARDS") else { panic!() };
    assert_eq!(shards.len(), 2);
    assert_eq!(client.error("CLUSTER COUNTKEYSINSLOT 16384"), "ERR Invalid slot");
}

#[test]
fn scans_say_what_is_wrong_with_them() {
    let mut client = Client::plain();
    let Action::Task(Task::Scan { cursor: 9, count: 5, any: false, .. }) =
        client.say("SCAN 9 COUNT 5 MATCH a* TYPE list")
    else {
        panic!()
    };
    for (line, error) in [
        ("SCAN x", "ERR invalid cursor"),
        ("SCAN 0 COUNT 0", SYNTAX),
        ("SCAN 0 COUNT x", NOT_AN_INTEGER),
        ("SCAN 0 NOSUCH 1", SYNTAX),
        ("SCAN 0 COUNT", SYNTAX),
    ] {
        assert_eq!(client.error(line), error, "{line}");
    }
}
