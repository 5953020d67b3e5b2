//! Nodes that join a running cluster, and nodes that come back with other addresses or another disk.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use harness::{Cluster, Settings, Signal, Topology, Wire, until, with_client};
use net::map::{ClusterMap, NodeInfo};
use net::protocol::ClusterOp;

/// A node is in the cluster, or a change of its entry in every map, within this.
const SOON: Duration = Duration::from_secs(30);
/// All shards are where they are to be within this, on two CPUs that do everything else too.
const MOVED: Duration = Duration::from_secs(90);

fn settings() -> Settings {
    Settings { nodes: 3, shards: 4, ..Settings::default() }
}

/// The map as a node tells it.
fn map_of(cluster: &Cluster, node: u64) -> Result<ClusterMap, String> {
    let told = Wire::connect(cluster.node(node).binary, None);
    told.map(|(_, hello)| hello.map).map_err(|error| format!("node {node}: {error}"))
}

fn entry(map: &ClusterMap, node: u64) -> Result<&NodeInfo, String> {
    map.node(node).ok_or_else(|| format!("node {node} is not in the map of epoch {}", map.epoch))
}

/// Waits until all `running` nodes know where `node` is now.
fn wait_until_known(cluster: &Cluster, node: u64, running: &[u64]) {
    let (binary, peer) = (cluster.node(node).binary.to_string(), cluster.node(node).peer.to_string());
    until("all nodes to know where a node is", SOON, || {
        for teller in running {
            let map = map_of(cluster, *teller)?;
            let known = entry(&map, node)?;
            if (&known.binary_addr, &known.peer_addr) != (&binary, &peer) {
                return Err(format!("node {teller} thinks node {node} is at {}", known.binary_addr));
            }
        }
        Ok(())
    });
}

/// Writes and reads a key in each of many slots through one node alone.
fn serves_everything(cluster: &Cluster, node: u64, round: u32) {
    let endpoint = vec![cluster.node(node).binary.to_string()];
    with_client(endpoint, async move |client| {
        for key in 0..40 {
            let value = Bytes::from(format!("{round}-key-{key}"));
            let key = Bytes::from(format!("key-{key}"));
            client.put(key.clone(), value.clone()).await.expect("a write");
            let found = client.get(key).await.expect("a read").expect("the key that was written");
            assert_eq!(found.data, value);
        }
    });
}

/// `GET` through the Redis door of a node, which answers for the whole cluster.
fn redis_get(cluster: &Cluster, node: u64, key: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(cluster.node(node).resp).expect("its Redis door is open");
    stream.set_read_timeout(Some(SOON)).expect("a socket takes a timeout");
    stream.write_all(format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len()).as_bytes()).expect("sent");
    let (mut reply, mut buffer) = (Vec::new(), [0; 256]);
    while reply.iter().filter(|byte| **byte == b'\n').count() < 2 {
        match stream.read(&mut buffer).expect("an answer") {
            0 => break,
            length => reply.extend_from_slice(&buffer[..length]),
        }
    }
    String::from_utf8_lossy(&reply).into_owned()
}

#[test]
fn another_cluster_at_an_old_address_is_not_believed() {
    let mut cluster = Cluster::start(settings());
    let before = map_of(&cluster, 3).expect("it runs");
    cluster.node_mut(1).kill();
    cluster.node_mut(2).kill();
    let stranger = cluster.add_node();
    let address = cluster.node(1).addresses();
    cluster.node_mut(stranger).set_addresses(address);
    cluster.configure(stranger, &[stranger]);
    let path = cluster.node(stranger).config_path();
    let config = fs::read_to_string(&path).expect("it was written");
    fs::write(&path, config.replace("\"tested\"", "\"another\"")).expect("the test folder is writable");
    cluster.node_mut(stranger).start();
    // Its map is the newer one.
    let topology = Topology::at(vec![address.binary.to_string()]);
    until("the other cluster", SOON, || topology.account());
    topology.change(&ClusterOp::Rebalance { dry_run: false });
    until("node 3 to ask there", SOON, || match cluster.node(3).says("nobody vouches for") {
        0 => Err("it did not yet".to_owned()),
        _ => Ok(()),
    });
    assert_eq!(map_of(&cluster, 3).expect("it runs").nodes, before.nodes);
    cluster.node_mut(stranger).kill();
    cluster.node_mut(1).start();
    cluster.node_mut(2).start();
    until("the cluster to be whole", SOON, || map_of(&cluster, 1).and_then(|_| map_of(&cluster, 2)));
    serves_everything(&cluster, 3, 1);
}

#[test]
fn a_fresh_node_joins_and_serves_at_once_and_comes_back() {
    let mut cluster = Cluster::start(settings());
    serves_everything(&cluster, 1, 0);
    let joined = cluster.join_node();
    wait_until_known(&cluster, joined, &[1, 2, 3, joined]);
    serves_everything(&cluster, joined, 1);
    let reply = redis_get(&cluster, joined, "key-7");
    assert!(reply.contains("1-key-7"), "{reply:?}");

    // It comes back with the map it has, and needs nobody's help to find the others.
    cluster.node_mut(joined).kill();
    cluster.node_mut(joined).start();
    wait_until_known(&cluster, joined, &[joined]);
    serves_everything(&cluster, joined, 2);
    // As it does when it is told to join although it is in.
    cluster.node_mut(joined).kill();
    let others = vec![cluster.node(2).binary.to_string()];
    cluster.node_mut(joined).start_joining(&others);
    until("the node to say that it is in", SOON, || {
        let said = cluster.node(joined).says("--join is not needed any more");
        if said == 1 { Ok(()) } else { Err(format!("said {said} times")) }
    });
    serves_everything(&cluster, joined, 3);
}

#[test]
fn nodes_may_come_back_with_other_addresses() {
    let mut cluster = Cluster::start(Settings { cores: 2, ..settings() });
    let joined = cluster.join_node();
    let all = [1, 2, 3, joined];
    wait_until_known(&cluster, joined, &all);
    // One that founded the cluster and one that joined: their own entries are all that changes.
    for node in [2, joined] {
        cluster.node_mut(node).kill();
        cluster.readdress(node);
        let listed = if node == joined { vec![node] } else { vec![1, 2, 3] };
        cluster.configure(node, &listed);
        cluster.node_mut(node).start();
        wait_until_known(&cluster, node, &all);
        serves_everything(&cluster, node, 1);
    }
    cluster.wait_until_all_shards_have_leaders();

    // All at once: now they find each other only by their configurations.
    let epoch = map_of(&cluster, 1).expect("node 1 runs").epoch;
    cluster.kill_all();
    all.iter().for_each(|node| cluster.readdress(*node));
    for node in all {
        cluster.configure(node, &all);
        cluster.node_mut(node).start();
    }
    for node in all {
        wait_until_known(&cluster, node, &all);
    }
    assert!(map_of(&cluster, 1).expect("node 1 runs").epoch > epoch);
    all.iter().for_each(|node| serves_everything(&cluster, *node, 2));
}

#[test]
fn whoever_cannot_join_is_told_why() {
    let mut cluster = Cluster::start(settings());
    let binary = vec![cluster.node(1).binary.to_string()];
    // Another cluster's name.
    let stranger = cluster.add_node();
    let path = cluster.node(stranger).config_path();
    let honest = fs::read_to_string(&path).expect("the configuration is there");
    fs::write(&path, honest.replace("id = \"tested\"", "id = \"other\""))
        .expect("the test folder is writable");
    ends_with(&mut cluster, stranger, &binary, "belongs to cluster `other`, this one to `tested`");
    // The name of a node that runs.
    fs::write(&path, honest.replace("id = 4\n", "id = 2\n")).expect("the test folder is writable");
    fs::remove_dir_all(cluster.node(stranger).data_dir()).expect("it was made");
    ends_with(&mut cluster, stranger, &binary, "has a node 2 already, and it runs");
    // Whoever did not look, or could not, is refused where the map is made.
    let known = entry(&map_of(&cluster, 1).expect("node 1 runs"), 2).expect("a founder").clone();
    let namesake = NodeInfo { store: 99, peer_addr: "127.0.0.1:1".to_owned(), ..known };
    let refused = with_client(cluster.endpoints(), async move |client| {
        client.cluster(ClusterOp::Join { node: namesake }).await.expect_err("node 2 runs").to_string()
    });
    assert!(refused.contains("give the new one another node.id"), "{refused}");
    // Nobody there: it waits, says so, and is in once there is somebody.
    fs::write(&path, honest).expect("the test folder is writable");
    fs::remove_dir_all(cluster.node(stranger).data_dir()).expect("it was made");
    [1, 2, 3].iter().for_each(|node| cluster.node(*node).signal(Signal::Stop));
    cluster.node_mut(stranger).start_joining(&binary);
    until("the node to say that it waits", SOON, || {
        let said = cluster.node(stranger).says("not in the cluster yet; asking again");
        if said > 0 { Ok(()) } else { Err("it says nothing".to_owned()) }
    });
    [1, 2, 3].iter().for_each(|node| cluster.node(*node).signal(Signal::Continue));
    wait_until_known(&cluster, stranger, &[1, 2, 3, stranger]);
    serves_everything(&cluster, stranger, 1);
}

fn ends_with(cluster: &mut Cluster, node: u64, through: &[String], words: &str) {
    cluster.node_mut(node).start_joining(through);
    let status = cluster.node_mut(node).wait_exit(SOON);
    let log = cluster.node(node).log();
    assert!(!status.success() && log.contains(words), "{status}: {log}");
    let map = map_of(cluster, 1).expect("node 1 runs");
    assert_eq!(map.nodes.len(), 3, "{map:?}");
}

#[test]
fn a_node_without_its_map_gets_it_again() {
    let mut cluster = Cluster::start(settings());
    let joined = cluster.join_node();
    wait_until_known(&cluster, joined, &[1, 2, 3, joined]);
    cluster.node_mut(joined).kill();
    let path = cluster.node(joined).data_dir().join("cluster.map");
    let mut map = fs::read(&path).expect("a node that has joined has a map");
    map[20] ^= 1;
    fs::write(&path, map).expect("the test folder is writable");
    cluster.node_mut(joined).start();
    let status = cluster.node_mut(joined).wait_exit(SOON);
    let log = cluster.node(joined).log();
    assert!(
        !status.success() && log.contains("cluster.map is damaged") && log.contains("--join ADDR"),
        "{log}"
    );
    let others = vec![cluster.node(3).binary.to_string()];
    cluster.node_mut(joined).start_joining(&others);
    serves_everything(&cluster, joined, 1);
    // Where all can be written again, all can be read everywhere.
    with_client(cluster.endpoints(), async |client| {
        assert!(client.get("key-1").await.expect("a read").is_some());
    });
}

/// Waits until no shard is on its way, and `node` has `wanted` replicas or more.
fn wait_until_settled(cluster: &Cluster, node: u64, wanted: u32) {
    until("shards to be where they are to be", MOVED, || {
        let account = with_client(cluster.endpoints(), async |client| {
            client.cluster(ClusterOp::Map { epoch: None }).await
        });
        let account = account.map_err(|error| error.to_string())?;
        let has = account.replicas.get(&node).copied().unwrap_or(0);
        if account.moving.is_empty() && account.waiting.is_empty() && has >= wanted {
            return Ok(());
        }
        Err(format!("node {node} has {has} replicas; {:?}, {:?}", account.moving, account.waiting))
    });
}

#[test]
fn a_joined_node_that_has_lost_its_disk_gets_its_replicas_back() {
    let mut cluster = Cluster::start(settings());
    let others = cluster.endpoints();
    serves_everything(&cluster, 1, 1);
    let joined = cluster.join_node();
    wait_until_settled(&cluster, joined, 1);
    cluster.node_mut(joined).kill();
    cluster.node_mut(joined).wipe();
    cluster.node_mut(joined).start_joining(&others);
    wait_until_known(&cluster, joined, &[1, 2, 3, joined]);
    assert_eq!(cluster.node(joined).says("takes the place of a lost one"), 1);
    wait_until_settled(&cluster, joined, 1);
    until("its replicas to have got their data back", MOVED, || {
        let status = cluster.node(joined).status().map_err(|error| error.to_string())?;
        let leaders = cluster.statuses();
        for replica in status.shards() {
            let leader = leaders.get(&replica.leader).and_then(|leader| leader.shard(replica.shard));
            let committed = leader.ok_or(format!("no leader of shard {}", replica.shard))?.committed;
            if committed == 0 || replica.applied < committed {
                return Err(format!("shard {}: {} of {committed}", replica.shard, replica.applied));
            }
        }
        Ok(())
    });
    serves_everything(&cluster, joined, 2);
}

#[test]
fn a_node_that_has_left_hears_of_it_and_may_come_back() {
    let mut cluster = Cluster::start(settings());
    let others = cluster.endpoints();
    let joined = cluster.join_node();
    wait_until_settled(&cluster, joined, 1);
    with_client(others.clone(), async move |client| {
        let leave = ClusterOp::Leave { node: joined, stay: false, dry_run: false };
        client.cluster(leave).await.expect("three nodes are enough");
    });
    for teller in [1, joined] {
        until("a node to leave every map, its own too", MOVED, || {
            match map_of(&cluster, teller)?.node(joined) {
                Some(_) => Err(format!("node {teller} still knows it")),
                None => Ok(()),
            }
        });
    }
    serves_everything(&cluster, 1, 1);
    let reply = redis_get(&cluster, joined, "key-7");
    assert!(reply.contains("1-key-7"), "it goes on passing requests on: {reply:?}");
    cluster.node_mut(joined).kill();
    cluster.node_mut(joined).start();
    let status = cluster.node_mut(joined).wait_exit(SOON);
    let log = cluster.node(joined).log();
    assert!(!status.success() && log.contains("has left the cluster; to bring it back"), "{log}");
    cluster.node_mut(joined).start_joining(&others);
    wait_until_known(&cluster, joined, &[1, 2, 3, joined]);
    wait_until_settled(&cluster, joined, 1);
    serves_everything(&cluster, joined, 2);
}
