//! What every client must do with the scripted server, written once: `[.await]` for the async ones, `[]` for the one
//! that waits.

/// Reads, writes, and what is refused.
macro_rules! every_operation {
    ($client:ident, $server:ident, [$($await:tt)*]) => {{
        use net::protocol::{Access, Answer, Op, Program, ReadConsistency};
        use net::{PutOptions, client::Target};
        assert_eq!($client.cluster_map(), $server.map());
        assert_eq!($client.get("a")$($await)*, Ok(None));
        assert_eq!($client.put("a", "one")$($await)*, Ok(1));
        let one = || Some(Value { data: "one".into(), version: 1 });
        assert_eq!($client.get("a")$($await)*, Ok(one()));
        assert_eq!($client.get_with("a", ReadConsistency::Follower)$($await)*, Ok(one()));
        assert_eq!($client.get_stale("a")$($await)*, Ok((one(), None)));
        assert_eq!($client.exists("a")$($await)*, Ok(true));
        let swap = $client.compare_and_swap("a", Expected::Version(1), Some("two".into()))$($await)*;
        assert_eq!(swap, Ok(Swap::Done { version: 2 }));
        let swap = $client.compare_and_swap("a", Expected::Absent, None)$($await)*;
        assert_eq!(swap, Ok(Swap::Mismatch { current: Some(2) }));
        let large = Bytes::from(vec![7; 5_000_000]);
        $client.put("large", large.clone())$($await)*.unwrap();
        assert_eq!($client.get("large")$($await)*.unwrap().unwrap().data, large);
        assert_eq!($client.delete("a")$($await)*, Ok(true));
        assert_eq!($client.delete_with("a", WriteConsistency::Leader)$($await)*, Ok(Some(false)));
        let options = PutOptions { ttl: Some(Duration::from_secs(9)), ..PutOptions::default() };
        let version = $client.put_with("a", "three", options)$($await)*.unwrap();
        let batch = ["{t}1", "{t}2"].map(|key| Mutation::Delete { key: key.into() }).to_vec();
        let outcomes = $client.batch(batch, WriteConsistency::Strong)$($await)*.unwrap();
        assert_eq!(outcomes, [MutationOutcome::Deleted { existed: false }; 2]);
        assert_eq!($client.status(&$server.address.to_string())$($await)*, Ok(Bytes::from_static(b"{}")));
        assert_eq!($client.fetch_cluster_map()$($await)*, Ok($server.map()));
        let refused = $client.scan(1, "", None, 10, Default::default())$($await)*;
        assert_eq!(refused, Err(ClientError::Refused(Refusal::Invalid { why: "no scans here".into() })));
        let keys = $client.scan_keys(1, "a", None, 10, Default::default())$($await)*.unwrap();
        assert_eq!(keys.next, Some("b".into()));
        assert_eq!($client.count(1, (3, 10), Default::default())$($await)*, Ok(7));
        let program = Program::single(0, 0, vec!["in".into(), "cr".into()]);
        let write = Access::Write(WriteConsistency::Strong);
        assert_eq!($client.execute(program.clone(), write)$($await)*, Ok(Some("incr".into())));
        assert_eq!($client.execute(program, Access::Read(Default::default()))$($await)*, Ok(None));
        let other = $client.with_namespace(7);
        assert_eq!(other.get("a")$($await)*, Ok(None), "another key space");
        assert_eq!(other.put("a", "elsewhere")$($await)*, Ok(version + 3));
        let raw = Op::Get { key: "a".into(), consistency: ReadConsistency::Linearizable };
        let answer = $client.call(Target::Shard(1), raw)$($await)*.unwrap();
        let value = Some(Value { data: "three".into(), version });
        assert_eq!(answer, Answer::Value { value, freshness: None });
    }};
}
pub(crate) use every_operation;

/// What is asked of groups.
macro_rules! administration {
    ($client:ident, [$($await:tt)*]) => {{
        assert_eq!($client.describe_shard(1)$($await)*, Ok(described()));
        let account = $client.cluster(net::protocol::ClusterOp::Map { epoch: None })$($await)*;
        assert!(account.is_ok_and(|account| account.map.is_some()));
        let about = |index, node| Ok(AdminAccepted { index, node });
        assert_eq!($client.transfer_leader(1, Some(2))$($await)*, about(None, Some(2)));
        assert_eq!($client.transfer_leader(1, None)$($await)*, about(None, Some(3)));
        assert_eq!($client.remove_replica(1, 2)$($await)*, about(Some(7), None));
        assert_eq!($client.take_snapshot(1)$($await)*, about(Some(7), None));
        assert_eq!($client.compact(1)$($await)*, about(Some(7), None));
        let why = "node 2 has a replica already".to_owned();
        let refused = $client.add_replica(1, 2)$($await)*;
        assert_eq!(refused, Err(ClientError::Refused(Refusal::Conflict { why })));
        assert_eq!($client.describe_shard(9)$($await)*, Err(ClientError::NoSuchShard));
    }};
}
pub(crate) use administration;
