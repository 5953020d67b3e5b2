//! A cluster of nodes on loopback.
//!
//! Clusters of one target folder exclude each other by a lock, so that tests measure themselves and not each other,
//! whichever runner starts them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use net::map::ClusterMap;
use tempfile::TempDir;

use super::deadline::until;
use super::node::Node;
use super::ports;
use super::settings::{Addresses, Settings};
use super::status::{NodeStatus, ShardStatus};
use super::wire::Wire;

/// Every shard of a started cluster has a leader within this; two CPUs may start six executors and thirty databases.
const START: Duration = Duration::from_secs(30);

/// Nodes, their files, and the right to run.
pub struct Cluster {
    /// What it was made with.
    pub settings: Settings,
    nodes: Vec<Node>,
    dir: TempDir,
    _turn: File,
}

impl Cluster {
    /// Writes the configurations and starts nothing.
    pub fn prepare(settings: Settings) -> Cluster {
        let turn = take_turn();
        let dir = tempfile::Builder::new()
            .prefix("cluster-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("cargo's folder for tests is writable");
        let count = usize::try_from(settings.nodes).expect("few nodes");
        let free = ports::free(Addresses::COUNT * count);
        let addresses: Vec<Addresses> = free.chunks(Addresses::COUNT).map(Addresses::of).collect();
        let nodes = (1..=settings.nodes).zip(&addresses).map(|(id, address)| {
            let dir = dir.path().join(format!("node-{id}"));
            fs::create_dir(&dir).expect("the test folder is writable");
            Node::new(id, *address, dir)
        });
        let nodes: Vec<Node> = nodes.collect();
        let cluster = Cluster { settings, nodes, dir, _turn: turn };
        let all: Vec<u64> = cluster.nodes.iter().map(|node| node.id).collect();
        all.iter().for_each(|id| cluster.configure(*id, &all));
        cluster
    }

    /// Writes the configuration of a node that lists these nodes, where they are now.
    pub fn configure(&self, id: u64, listed: &[u64]) {
        let node = self.node(id);
        let listed: Vec<_> = listed.iter().map(|id| (*id, self.node(*id).addresses())).collect();
        let config = self.settings.config(id, &node.data_dir(), &listed);
        fs::write(node.config_path(), config).expect("the test folder is writable");
    }

    /// One more node, which lists only itself; not started. It is to join: see [`Node::start_joining`].
    pub fn add_node(&mut self) -> u64 {
        let id = u64::try_from(self.nodes.len()).expect("few nodes") + 1;
        let dir = self.dir.path().join(format!("node-{id}"));
        fs::create_dir(&dir).expect("the test folder is writable");
        let addresses = Addresses::of(&ports::free(Addresses::COUNT));
        self.nodes.push(Node::new(id, addresses, dir));
        self.configure(id, &[id]);
        id
    }

    /// Starts one more node, which joins through all others.
    pub fn join_node(&mut self) -> u64 {
        let others = self.endpoints();
        let id = self.add_node();
        self.node_mut(id).start_joining(&others);
        id
    }

    /// Gives a node that is down other addresses; its configuration has yet to be written.
    pub fn readdress(&mut self, id: u64) {
        let addresses = Addresses::of(&ports::free(Addresses::COUNT));
        self.node_mut(id).set_addresses(addresses);
    }

    /// Starts all nodes; every shard has a leader when this returns.
    pub fn start(settings: Settings) -> Cluster {
        let mut cluster = Cluster::prepare(settings);
        cluster.start_all();
        cluster.wait_until_all_shards_have_leaders();
        cluster
    }

    /// Starts all nodes.
    pub fn start_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
    }

    /// Kills all nodes at the same moment.
    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill_soon);
        for node in &mut self.nodes {
            node.wait_exit(Duration::from_secs(10));
        }
    }

    /// Where clients find it.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.binary.to_string()).collect()
    }

    /// Nodes, in the order of their ids.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[usize::try_from(id - 1).expect("few nodes")]
    }

    /// A node.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[usize::try_from(id - 1).expect("few nodes")]
    }

    /// The map, as the first node tells it.
    pub fn map(&self) -> ClusterMap {
        let (_, hello) = Wire::connect(self.nodes[0].binary, None).expect("the first node runs");
        hello.map
    }

    /// What the nodes that answer say of themselves.
    pub fn statuses(&self) -> BTreeMap<u64, NodeStatus> {
        self.nodes.iter().filter_map(|node| Some((node.id, node.status().ok()?))).collect()
    }

    /// The leader of every shard, the meta shard too, or the shard that has none: a node that says it leads and that
    /// all nodes that answer follow.
    pub fn leaders(&self) -> Result<BTreeMap<u32, u64>, String> {
        let statuses = self.statuses();
        leaders_of(&statuses, self.settings.shards)
    }

    /// Waits until every shard has a leader that all running nodes know.
    pub fn wait_until_all_shards_have_leaders(&self) -> BTreeMap<u32, u64> {
        until("every shard to have a leader", START, || self.leaders())
    }

    /// Waits until every shard is led by the node that should lead it when all are well (placement goes round the
    /// nodes), so that no leadership moves by itself while a test talks to a leader.
    pub fn wait_until_leaders_are_home(&self) -> BTreeMap<u32, u64> {
        until("leaders to be where they belong", START, || {
            let leaders = self.leaders()?;
            let away = leaders
                .iter()
                .find(|(shard, leader)| **leader != u64::from(**shard) % self.settings.nodes + 1);
            match away {
                None => Ok(leaders),
                Some((shard, leader)) => Err(format!("shard {shard} is led by node {leader}")),
            }
        })
    }

    /// Waits until every replica of `node` has applied what the leaders had committed when this was called.
    pub fn wait_until_caught_up(&self, node: u64, limit: Duration) {
        let committed = until("the leaders to say what is committed", limit, || {
            let statuses = self.statuses();
            let leaders = leaders_of(&statuses, self.settings.shards)?;
            let committed = leaders.iter().map(|(shard, leader)| {
                let replica = statuses[leader].shard(*shard).expect("a leader has a replica");
                (*shard, replica.committed)
            });
            Ok(committed.collect::<BTreeMap<u32, u64>>())
        });
        until("a node to catch up", limit, || {
            let status = self.node(node).status().map_err(|error| format!("node {node}: {error}"))?;
            for (shard, committed) in &committed {
                let applied = status.shard(*shard).map_or(0, |replica| replica.applied);
                if applied < *committed {
                    return Err(format!("node {node} has applied {applied} of {committed} in shard {shard}"));
                }
            }
            Ok(())
        });
    }

    /// Waits until all nodes have applied what is committed.
    pub fn wait_until_all_caught_up(&self, limit: Duration) {
        for node in &self.nodes {
            self.wait_until_caught_up(node.id, limit);
        }
    }
}

fn leaders_of(statuses: &BTreeMap<u64, NodeStatus>, shards: u32) -> Result<BTreeMap<u32, u64>, String> {
    if statuses.is_empty() {
        return Err("no node answers".to_owned());
    }
    let mut leaders = BTreeMap::new();
    for shard in 0..=shards {
        let replicas: Vec<(u64, &ShardStatus)> =
            statuses.iter().filter_map(|(id, status)| Some((*id, status.shard(shard)?))).collect();
        let leader = replicas.first().map_or(0, |(_, replica)| replica.leader);
        let leads = replicas.iter().any(|(id, replica)| *id == leader && replica.role == "leader");
        if !leads || replicas.iter().any(|(_, replica)| replica.leader != leader) {
            return Err(format!("shard {shard} has no leader all agree on: {replicas:?}"));
        }
        leaders.insert(shard, leader);
    }
    Ok(leaders)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.nodes.iter().for_each(Node::show_log);
            eprintln!("the cluster lay in {}", self.dir.path().display());
            if std::env::var_os("RINGKV_KEEP_TEST_FILES").is_some() {
                self.dir.disable_cleanup(true);
            }
        }
    }
}

/// Waits for the clusters of other tests to end. The lock goes with the file.
fn take_turn() -> File {
    let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/cluster.lock");
    let file = File::create(path).expect("cargo's folder for tests is writable");
    // SAFETY: flock(2) touches no memory, and the file is open.
    while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } != 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "cannot lock {path}: {error}");
    }
    file
}
