//! A shard moves from one node to another, and somebody dies by `kill -9` at each step of it: the leader of the meta shard,
//! which decides; the node that the shard leaves; the node that it goes to. The move is finished all the same, every slot has
//! one owner, and nobody waits for longer than an election.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use harness::{
    Cluster, Load, LoadConfig, Settings, Topology, assert_slots_have_one_owner, holders, read_back, until,
    with_client,
};
use net::protocol::ClusterOp;

/// The shard that moves.
const SHARD: u32 = 1;
/// One move is over within this, with a node's restart in the middle of it.
const MOVED_MAX: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);
/// The product's promise: a shard whose leader died takes writes again within this.
const OUTAGE_MAX: Duration = Duration::from_secs(2);
/// Values of 16 KiB that the shard holds, so that its snapshot takes a while.
const VALUES: u32 = 128;

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The map says where the shard is to be.
    Placed,
    /// The group has taken the new replica in, to learn.
    Learns,
    /// A snapshot is on its way to it.
    Snapshot,
    /// It has it.
    Installed,
    /// Old and new voters decide together.
    Joint,
    /// The new voters decide alone.
    Over,
    /// The old replica is removed.
    Removed,
}

const STEPS: [Step; 7] =
    [Step::Placed, Step::Learns, Step::Snapshot, Step::Installed, Step::Joint, Step::Over, Step::Removed];

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Controller,
    Source,
    Target,
}

/// One move of the shard, and where the logs of the nodes were when it began.
struct Move {
    source: u64,
    target: u64,
    nodes: Vec<u64>,
    logs: BTreeMap<u64, usize>,
}

impl Move {
    /// The shard is to leave `source` for the node that has none of it.
    fn plan(cluster: &Cluster, holders: &[u64], source: u64) -> Move {
        let target = (1..=4).find(|node| !holders.contains(node)).expect("three of four nodes hold it");
        let nodes = holders.iter().map(|node| if *node == source { target } else { *node }).collect();
        let logs = cluster.nodes().iter().map(|node| (node.id, node.log().len())).collect();
        Move { source, target, nodes, logs }
    }

    /// What a node has said about the shard since the move began.
    fn said(&self, cluster: &Cluster, node: u64) -> Vec<String> {
        let log = cluster.node(node).log();
        let lines = log.get(self.logs[&node]..).unwrap_or_default().lines();
        let of_shard = format!(" shard={SHARD} ");
        lines.filter(|line| line.contains(&of_shard)).map(str::to_owned).collect()
    }

    /// How far it has come, as the logs of all nodes tell.
    fn step(&self, cluster: &Cluster) -> Step {
        let mut step = Step::Placed;
        for node in 1..=4 {
            for line in self.said(cluster, node) {
                let reached = match () {
                    () if line.contains("removing this node's replica") && node == self.source => {
                        Step::Removed
                    }
                    () if line.contains("installed a snapshot") && node == self.target => Step::Installed,
                    () if line.contains("sending a snapshot") => Step::Snapshot,
                    () if !line.contains("the group changed") => continue,
                    () if !line.contains("voters_outgoing: []") => Step::Joint,
                    () if !line.contains("learners: []") => Step::Learns,
                    () => Step::Over,
                };
                step = step.max(reached);
            }
        }
        step
    }

    /// Looks all the time until it has come so far, and tells how far it had come by then.
    fn wait_for(&self, cluster: &Cluster, step: Step) -> Step {
        let deadline = Instant::now() + MOVED_MAX;
        loop {
            let reached = self.step(cluster);
            if reached >= step {
                return reached;
            }
            assert!(Instant::now() < deadline, "{step:?} was not reached, {reached:?} was");
        }
    }
}

fn fill(cluster: &Cluster) {
    let map = cluster.map();
    with_client(cluster.endpoints(), async move |client| {
        for number in 0..VALUES {
            let key = harness::key_in(&map, SHARD, &format!("filling-{number}-"));
            client.put(key, vec![b'x'; 16 << 10]).await.expect("the cluster takes writes");
        }
    });
}

/// Has the shard's log dropped, so that a new replica cannot be fed from its first entry on.
fn compact(topology: &Topology) {
    let groups = topology.groups();
    let before = groups.describe(SHARD).map_or(0, |shard| shard.first_index);
    until("the leader to compact", SOON, || {
        groups.ask(async move |client| client.compact(SHARD).await).map_err(|error| error.to_string())
    });
    groups.wait("the log to be compacted", SHARD, SOON, |shard| (shard.first_index > before).then_some(()));
}

fn map_of(topology: &Topology) -> net::map::ClusterMap {
    until("the map to be told", SOON, || topology.account()?.map.ok_or_else(|| "no map".to_owned()))
}

fn leader_of(topology: &Topology, shard: u32) -> u64 {
    until("the shard to be led", SOON, || topology.groups().describe(shard)).node
}

/// Begins a move, has the victim die at the step and come back, and waits for the end. Tells at which step it died, and for
/// how long a shard took no write.
fn interrupt(
    cluster: &mut Cluster,
    load: &Load,
    victim: Victim,
    step: Step,
    source_leads: bool,
) -> (Step, Duration) {
    let topology = Topology::at(cluster.endpoints());
    let nodes = holders(map_of(&topology).shard(SHARD).expect("a user shard"));
    let leader = leader_of(&topology, SHARD);
    let source =
        if source_leads { leader } else { *nodes.iter().find(|node| **node != leader).expect("three") };
    compact(&topology);
    let moved = Move::plan(cluster, &nodes, source);
    topology.change(&ClusterOp::Move { shard: SHARD, nodes: moved.nodes.clone(), dry_run: false });
    let reached = moved.wait_for(cluster, step);
    let dies = match victim {
        Victim::Controller => leader_of(&topology, 0),
        Victim::Source => moved.source,
        Victim::Target => moved.target,
    };
    let killed = load.now();
    cluster.node_mut(dies).kill();
    load.wait_until_writes_flow(killed, SOON);
    cluster.node_mut(dies).start();
    let map = topology.wait_until_settled(&(1..=4).collect(), MOVED_MAX, |account| {
        account.map.as_ref().into_iter().for_each(assert_slots_have_one_owner);
    });
    let ended: BTreeSet<u64> = holders(map.shard(SHARD).expect("a user shard")).into_iter().collect();
    assert_eq!(ended, moved.nodes.iter().copied().collect(), "it is where it was to be");
    let outage = load.worst_outage(killed, load.now());
    until("the node that was left to have nothing of the shard", SOON, || {
        let status = cluster.node(source).status().map_err(|error| error.to_string())?;
        status.shard(SHARD).map_or(Ok(()), |replica| Err(format!("{replica:?}")))
    });
    println!(
        "{victim:?}, node {dies}, died at {reached:?} (meant: {step:?}) of {nodes:?} -> {:?}, source {source} {}; longest \
         outage {outage:?}",
        moved.nodes,
        if source_leads { "led" } else { "followed" }
    );
    (reached, outage.longest)
}

/// The victim dies at every step of a move of its own, the shard's leader leaving every other time.
fn interrupt_at_every_step(victim: Victim) {
    let settings = Settings {
        nodes: 4,
        replicas: 3,
        shards: 3,
        // A snapshot of the shard takes about half a second.
        snapshot: "keep = 1\nsend_bytes_per_s = 4000000",
        ..Settings::default()
    };
    let mut cluster = Cluster::start(settings);
    fill(&cluster);
    let load = Load::start(cluster.endpoints(), LoadConfig { workers: 4, ..LoadConfig::default() });
    load.wait_until_writes_flow(load.now(), SOON);
    let mut caught = BTreeMap::<Step, u32>::new();
    let mut worst = Duration::ZERO;
    for (number, step) in STEPS.into_iter().enumerate() {
        let source_leads = number % 2 == usize::from(victim == Victim::Source);
        let (reached, outage) = interrupt(&mut cluster, &load, victim, step, source_leads);
        *caught.entry(reached).or_default() += 1;
        worst = worst.max(outage);
    }
    println!("{victim:?} died at {caught:?}; worst outage {worst:?}");
    let surprises = load.surprises();
    let result = load.finish();
    assert!(surprises.is_empty(), "{} errors, such as {}", surprises.len(), surprises[0]);
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
    assert!(worst <= OUTAGE_MAX, "a shard took no writes for {worst:?}");
}

#[test]
fn the_controller_dies_at_every_step_of_a_move() {
    interrupt_at_every_step(Victim::Controller);
}

#[test]
fn the_source_dies_at_every_step_of_a_move() {
    interrupt_at_every_step(Victim::Source);
}

#[test]
fn the_target_dies_at_every_step_of_a_move() {
    interrupt_at_every_step(Victim::Target);
}
