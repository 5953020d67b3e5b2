//! A shard is cut in two, and somebody dies by `kill -9` at each step of it: the shard's leader, the leader of the meta
//! shard, which decides, a follower of both, and all nodes at once. The cut is finished all the same: the map has both halves,
//! both have a replica on every node and serve, and nothing is lost. While one node dies nobody waits for longer than an
//! election.

#[allow(dead_code, unused_imports)] // each test binary uses its own part
#[path = "harness/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::{
    Cluster, Load, LoadConfig, Settings, Topology, assert_slots_have_one_owner, read_back, until, with_client,
};
use net::map::{ClusterMap, ShardInfo, SlotRange};
use net::protocol::ClusterOp;
use net::slot::slot_of;

/// A cut is through within this, with a node's restart in the middle of it.
const SOON: Duration = Duration::from_secs(30);
/// The product's promise: a shard whose leader died takes writes again within this.
const OUTAGE_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks at how far a cut has come.
const LOOK: Duration = Duration::from_micros(200);

/// How far a cut has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The map says where the shard is to be cut.
    Wanted,
    /// The shard's leader has proposed it.
    Proposed,
    /// A node has begun the folder of the new shard's replica.
    Drafted,
    /// A node has it, under its name.
    Founded,
    /// A node has cut the shard.
    Cut,
    /// The new shard has a leader.
    Led,
    /// The map has both halves.
    Listed,
    /// A node has removed from one half what is the other's.
    Trimmed,
}

const STEPS: [Step; 8] = [
    Step::Wanted,
    Step::Proposed,
    Step::Drafted,
    Step::Founded,
    Step::Cut,
    Step::Led,
    Step::Listed,
    Step::Trimmed,
];

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Leader,
    Controller,
    Follower,
    All,
}

/// One cut, and where the logs of the nodes were when it began.
struct Division {
    shard: u32,
    into: u32,
    logs: BTreeMap<u64, u64>,
}

impl Division {
    /// Asks for it, and again until it is heard.
    fn begin(cluster: &Cluster, topology: &Topology, shard: u32) -> Division {
        let logs = cluster.nodes().iter().map(|node| (node.id, node.log_bytes())).collect();
        let into = u32::try_from(map_of(topology).shards.len()).expect("few shards");
        until("the cut to be begun", SOON, || {
            let map = map_of(topology);
            let is_begun = map.shard(shard).is_some_and(|info| info.plan.split.is_some());
            if is_begun || map.shard(into).is_some() {
                return Ok(());
            }
            let asked = topology.ask(ClusterOp::Split { shard, at: None, dry_run: false });
            asked.map(drop).map_err(|error| error.to_string())
        });
        Division { shard, into, logs }
    }

    /// How far it has come, as logs, folders and the map tell.
    fn step(&self, cluster: &Cluster, topology: &Topology) -> Step {
        let mut step = Step::Wanted;
        let mut is_trimmed = false;
        for node in cluster.nodes() {
            for core in 0..2 {
                let folder = node.data_dir().join(format!("core-{core}"));
                if folder.join(format!("draft-shard-{}", self.into)).exists() {
                    step = step.max(Step::Drafted);
                }
                if folder.join(format!("shard-{}", self.into)).exists() {
                    step = step.max(Step::Founded);
                }
            }
            for line in node.log_from(self.logs[&node.id]).lines() {
                let (of_lower, of_upper) = (is_about(line, self.shard), is_about(line, self.into));
                is_trimmed |= line.contains("what was cut off is removed") && (of_lower || of_upper);
                let reached = match () {
                    () if of_upper && line.contains("role=Leader") => Step::Led,
                    () if of_lower && line.contains("the shard was cut in two") => Step::Cut,
                    () if of_lower && line.contains("cutting the shard in two") => Step::Proposed,
                    () => continue,
                };
                step = step.max(reached);
            }
        }
        if step == Step::Led && is_trimmed {
            return Step::Trimmed;
        }
        if step == Step::Led && map_of(topology).shard(self.into).is_some() {
            return Step::Listed;
        }
        step
    }

    /// Looks all the time until it has come so far, and tells how far it had come by then.
    fn wait_for(&self, cluster: &Cluster, topology: &Topology, step: Step) -> Step {
        let deadline = Instant::now() + SOON;
        loop {
            let reached = self.step(cluster, topology);
            if reached >= step {
                return reached;
            }
            assert!(Instant::now() < deadline, "{step:?} was not reached, {reached:?} was");
            std::thread::sleep(LOOK);
        }
    }

    /// The slots of both halves, once the map has them.
    fn wait_for_halves(&self, topology: &Topology) -> [SlotRange; 2] {
        until("the map to have both halves", SOON, || {
            let account = topology.account()?;
            let map = account.map.ok_or_else(|| "no map".to_owned())?;
            let slots = |shard| map.shard(shard).and_then(|info: &ShardInfo| info.slots);
            let (lower, upper) = (slots(self.shard), slots(self.into));
            let (Some(lower), Some(upper)) = (lower, upper) else {
                return Err(format!("{lower:?} {upper:?}"));
            };
            assert_eq!(lower.last + 1, upper.first, "nothing between the halves, and nothing in both");
            assert_slots_have_one_owner(&map);
            Ok([lower, upper])
        })
    }
}

fn is_about(line: &str, shard: u32) -> bool {
    let mut words = line.split(' ');
    words.any(|word| word.strip_prefix("shard=").is_some_and(|id| id == shard.to_string()))
}

fn map_of(topology: &Topology) -> ClusterMap {
    until("the map to be told", SOON, || topology.account()?.map.ok_or_else(|| "no map".to_owned()))
}

fn leader_of(topology: &Topology, shard: u32) -> u64 {
    until("the shard to be led", SOON, || topology.groups().describe(shard)).node
}

/// The widest shard.
fn widest(map: &ClusterMap) -> u32 {
    let width = |shard: &&ShardInfo| shard.slots.map_or(0, |slots| slots.last - slots.first);
    map.shards.iter().max_by_key(width).expect("there are shards").id
}

/// Whoever is killed by a victim's name.
fn nodes_of(topology: &Topology, victim: Victim, shard: u32) -> Vec<u64> {
    let leads = [shard, 0].map(|shard| leader_of(topology, shard));
    match victim {
        Victim::Leader => vec![leads[0]],
        Victim::Controller => vec![leads[1]],
        Victim::Follower => (1..=3).filter(|node| !leads.contains(node)).take(1).collect(),
        Victim::All => vec![1, 2, 3],
    }
}

/// Writes and reads a key in some slots.
fn serves(cluster: &Cluster, slots: SlotRange) {
    let mut keys = (0..).map(|number| format!("served-{number}"));
    let key = keys.find(|key| slots.contains(slot_of(key.as_bytes()))).expect("every slot has keys");
    let read = with_client(cluster.endpoints(), async move |client| {
        client.put(key.clone(), "by both").await.expect("a write");
        client.get(key).await.expect("a read").map(|value| value.data)
    });
    assert_eq!(read, Some(Bytes::from("by both")));
}

/// Has the shard cut and the victim die at the step and come back, and waits for the end. At which step it died.
fn interrupt(cluster: &mut Cluster, load: &Load, victim: Victim, step: Step) -> Step {
    let topology = Topology::at(cluster.endpoints());
    let shard = widest(&map_of(&topology));
    let die = nodes_of(&topology, victim, shard);
    let begun = load.now();
    let division = Division::begin(cluster, &topology, shard);
    let reached = division.wait_for(cluster, &topology, step);
    for node in &die {
        cluster.node_mut(*node).kill();
    }
    let killed = load.now();
    if die.len() == 1 {
        load.wait_until_writes_flow(killed, SOON);
    }
    for node in &die {
        cluster.node_mut(*node).start();
    }
    let halves = division.wait_for_halves(&topology);
    halves.into_iter().for_each(|slots| serves(cluster, slots));
    for half in [division.shard, division.into] {
        topology.groups().wait_for_voters(half, &(1..=3).collect(), SOON);
    }
    cluster.wait_until_all_caught_up(SOON);
    let outage = load.worst_outage(begun, load.now());
    println!(
        "{victim:?}, nodes {die:?}, died at {reached:?} (meant: {step:?}) of {shard} into {}; longest outage {outage:?}",
        division.into
    );
    assert!(die.len() > 1 || outage.longest <= OUTAGE_MAX, "a shard took no writes for {outage:?}");
    reached
}

/// The victim dies at every step of a cut of its own.
fn interrupt_at_every_step(victim: Victim) {
    // The halves lie on both cores, and give back early what is not theirs.
    let settings = Settings { shards: 2, cores: 2, request_timeout_ms: 1_000, ..Settings::default() };
    let mut cluster = Cluster::start(settings);
    let load = Load::start(cluster.endpoints(), LoadConfig { workers: 4, ..LoadConfig::default() });
    load.wait_for_operations(500, SOON);
    let mut caught = BTreeMap::<Step, u32>::new();
    for step in STEPS {
        *caught.entry(interrupt(&mut cluster, &load, victim, step)).or_default() += 1;
    }
    println!("{victim:?} died at {caught:?}");
    load.wait_until_writes_flow(load.now(), SOON);
    let surprises = load.surprises();
    let result = load.finish();
    println!("{} operations, {} single writes", result.history.count(|_| true), result.written.len());
    assert!(surprises.is_empty(), "{} errors, such as {}", surprises.len(), surprises[0]);
    let lost = read_back(cluster.endpoints(), result.written);
    assert!(lost.is_empty(), "{} acknowledged writes are lost, such as {}", lost.len(), lost[0]);
    if let Err(violation) = result.history.check() {
        panic!("{violation}");
    }
}

#[test]
fn the_shards_leader_dies_at_every_step_of_a_cut() {
    interrupt_at_every_step(Victim::Leader);
}

#[test]
fn the_controller_dies_at_every_step_of_a_cut() {
    interrupt_at_every_step(Victim::Controller);
}

#[test]
fn a_follower_dies_at_every_step_of_a_cut() {
    interrupt_at_every_step(Victim::Follower);
}

#[test]
fn all_nodes_die_at_every_step_of_a_cut() {
    interrupt_at_every_step(Victim::All);
}
