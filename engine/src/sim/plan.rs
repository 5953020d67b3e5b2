//! What a seed has in store: the shape of the cluster, and which faults are on and how strong. Every seed draws its own
//! subset (swarm testing), because faults that are always all on hide each other's bugs.

use raft::Nanos;
use wal::WalConfig;
use wal::disk::sim::SimConfig;

use super::rng::Rng;

/// A millisecond of true time.
pub const MS: u64 = 1_000_000;
/// A second of true time.
pub const SECOND: u64 = 1_000 * MS;

/// The whole plan. Intervals are means in nanoseconds, 0 for never; chances are parts of a million.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes.
    pub nodes: u64,
    /// Cores of each.
    pub cores: u32,
    /// User shards.
    pub shards: u32,
    /// Replicas that a shard begins with; 0 for one on every node.
    pub replicas: u32,
    /// How long the faults last.
    pub length: u64,
    /// Clients and what they do.
    pub workload: Workload,
    /// The network.
    pub network: Network,
    /// The disks.
    pub disk: Disk,
    /// Crashes and restarts.
    pub crashes: Crashes,
    /// Clocks and executors.
    pub time: Time,
    /// State machines and snapshots.
    pub store: Store,
    /// Changes of the members.
    pub members: Members,
    /// Raft's settings.
    pub raft: raft::Config,
    /// By how many ticks the election timeout of each node is shorter than that of the one before; the third begins anew.
    pub impatience: u32,
    /// Whether idle groups hibernate.
    pub hibernate: bool,
    /// What a core's log is made of; node and core are filled in.
    pub wal: WalConfig,
    /// Log kept for lagging replicas.
    pub log_bytes_max: u64,
    /// The log's budget on disk.
    pub wal_retain_bytes: u64,
}

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How many.
    pub clients: u64,
    /// Requests of one that are under way at a time.
    pub depth: usize,
    /// Pause between two operations.
    pub think: u64,
    /// Keys in use per shard.
    pub keys: usize,
    /// Operations on a key before another takes its place.
    pub key_operations: u32,
    /// Longest value.
    pub value_bytes: u64,
    /// How long a client waits for an answer.
    pub patience: u64,
    /// Share of writes without a session.
    pub no_session: u64,
    /// Share of writes that are not `strong`.
    pub weak: u64,
    /// Pauses of the whole workload, in which groups may fall asleep.
    pub lull: u64,
}

/// The network's faults.
#[derive(Clone, Debug)]
pub struct Network {
    /// Time on the way.
    pub delay: (u64, u64),
    /// Messages lost.
    pub loss: u64,
    /// Messages delivered twice.
    pub duplicate: u64,
    /// Messages that are late, by up to `late_max`.
    pub late: u64,
    /// How late.
    pub late_max: u64,
    /// Between two partitions.
    pub partition: u64,
    /// How long one lasts.
    pub partition_length: u64,
    /// Whether some cut one direction only.
    pub one_way: bool,
    /// Whether a sender hears of lost messages, as of a broken connection.
    pub reports_loss: bool,
    /// Whether messages are put on the wire and taken from it.
    pub encode: bool,
}

/// The disks' faults.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Time of an operation.
    pub speed: SimConfig,
    /// Between two slow spells of a disk.
    pub slow: u64,
    /// How much slower.
    pub slow_factor: u64,
    /// Between two spells of a full disk.
    pub full: u64,
    /// Chance that a crash leaves damage in what was flushed, where the peers can repair it.
    pub damage: u64,
    /// Chance that a crash costs a whole node's disks, likewise.
    pub wipe: u64,
}

/// Crashes.
#[derive(Clone, Debug)]
pub struct Crashes {
    /// Between two crashes.
    pub interval: u64,
    /// Time until the restart.
    pub down: u64,
    /// Share of the crashes that take all nodes at once.
    pub all: u64,
    /// Share of the leaders that are struck just after their election: what they wrote lies on few disks.
    pub elected: u64,
}

/// Clocks and executors.
#[derive(Clone, Debug)]
pub struct Time {
    /// Rate difference between clocks, in parts per million.
    pub drift_ppm: u64,
    /// Wall clocks are off by at most so much.
    pub skew_ms: u64,
    /// Between two jumps of a wall clock.
    pub jump: u64,
    /// Between two pauses of an executor.
    pub pause: u64,
    /// How long one lasts.
    pub pause_length: u64,
}

/// State machines and snapshots.
#[derive(Clone, Debug)]
pub struct Store {
    /// Time to apply a task.
    pub apply: (u64, u64),
    /// Between two flushes that an engine makes on its own.
    pub flush: u64,
    /// Reads that memory cannot answer.
    pub cold: u64,
    /// Time to send a snapshot.
    pub transfer: (u64, u64),
    /// Transfers that fail.
    pub transfer_fails: u64,
    /// Installations that fail.
    pub install_fails: u64,
    /// Between snapshots of a shard.
    pub snapshot_interval: u64,
    /// Log bytes between snapshots of a shard.
    pub snapshot_bytes: u64,
}

/// Membership and other requests of administrators.
#[derive(Clone, Debug)]
pub struct Members {
    /// Between two changes of the members.
    pub change: u64,
    /// Between two changes of the cluster: nodes that leave, shards that are put somewhere.
    pub operator: u64,
    /// Between two shards that are cut in two.
    pub split: u64,
    /// Nodes that join later.
    pub joiners: u64,
    /// Silence after which a node is replaced by others; 0 for never.
    pub replace_after: u64,
    /// Shards that move at a time.
    pub moves_max: usize,
    /// Between two transfers of a leadership.
    pub transfer: u64,
    /// Between two snapshots or compactions that are asked for.
    pub maintain: u64,
}

impl Plan {
    /// The plan of a seed, with faults for `length` nanoseconds.
    pub fn new(seed: u64, length: u64) -> Plan {
        let mut rng = Rng::new(seed, "plan");
        let rng = &mut rng;
        let cluster = &mut Rng::new(seed, "cluster");
        let nodes = *rng.pick(&[3, 3, 3, 4, 5]);
        let raft = raft_config(rng);
        Plan {
            nodes,
            cores: if rng.chance(250_000) { 2 } else { 1 },
            shards: u32::try_from(rng.between(1, 3)).expect("small"),
            replicas: if rng.coin() { 3 } else { 0 },
            length,
            workload: Workload::draw(rng),
            network: Network::draw(rng),
            disk: Disk::draw(rng),
            crashes: Crashes::draw(rng),
            time: Time {
                drift_ppm: on(rng, 600_000, 1_000, u64::from(raft.clock_drift_max_ppm)),
                skew_ms: on(rng, 600_000, 10, 30_000),
                jump: on(rng, 400_000, SECOND, 20 * SECOND),
                pause: on(rng, 500_000, SECOND / 2, 10 * SECOND),
                pause_length: rng.between(200 * MS, 4 * SECOND),
            },
            store: Store::draw(rng),
            members: Members {
                change: on(rng, 500_000, SECOND, 12 * SECOND),
                operator: on(cluster, 300_000, SECOND, 10 * SECOND),
                split: on(&mut Rng::new(seed, "splits"), 500_000, SECOND, 12 * SECOND),
                joiners: *cluster.pick(&[0, 0, 0, 1, 2, 3]),
                replace_after: on(cluster, 300_000, 2 * SECOND, 10 * SECOND),
                moves_max: *cluster.pick(&[1, 2, 4]),
                transfer: on(rng, 500_000, 2 * SECOND, 15 * SECOND),
                maintain: on(rng, 400_000, 3 * SECOND, 15 * SECOND),
            },
            hibernate: rng.chance(600_000),
            raft,
            wal: wal_config(rng),
            log_bytes_max: *rng.pick(&[8 << 10, 32 << 10, 256 << 10, 16 << 20]),
            wal_retain_bytes: *rng.pick(&[256 << 10, 1 << 20, 64 << 20]),
            impatience: *rng.pick(&[0, 0, 2]),
        }
    }

    /// Raft's settings on a node.
    pub fn raft_of(&self, node: u64) -> raft::Config {
        let shorter = self.impatience * u32::try_from(node % 3).expect("below 3");
        raft::Config { election_ticks: self.raft.election_ticks - shorter, ..self.raft.clone() }
    }
}

/// Off, or with the given chance somewhere between `low` and `high`.
fn on(rng: &mut Rng, chance: u64, low: u64, high: u64) -> u64 {
    let drawn = rng.between(low, high);
    if rng.chance(chance) { drawn } else { 0 }
}

fn raft_config(rng: &mut Rng) -> raft::Config {
    raft::Config {
        tick: Nanos(50 * MS),
        lease: rng.chance(750_000),
        append_bytes_max: *rng.pick(&[256, 4 << 10, 1 << 20]),
        inflight_messages_max: *rng.pick(&[1, 4, 128]),
        inflight_bytes_max: *rng.pick(&[1 << 10, 64 << 10, 16 << 20]),
        committed_bytes_max: *rng.pick(&[512, 4 << 20]),
        ..raft::Config::new(raft::NodeId(1))
    }
}

fn wal_config(rng: &mut Rng) -> WalConfig {
    let segment_bytes = *rng.pick(&[32 << 10, 64 << 10, 128 << 10]);
    WalConfig {
        segment_bytes,
        batch_bytes_max: *rng.pick(&[4 << 10, 8 << 10, 24 << 10]),
        inflight_max: *rng.pick(&[1, 2, 4]),
        pool_min: 1,
        pool_max: 4,
        cache_bytes_max: *rng.pick(&[0, 2 << 10, 16 << 10, 1 << 20]),
        payload_bytes_max: 16 << 10,
        ..WalConfig::new(1, 0)
    }
}

impl Workload {
    fn draw(rng: &mut Rng) -> Workload {
        Workload {
            clients: rng.between(2, 6),
            depth: usize::try_from(rng.between(1, 4)).expect("small"),
            think: *rng.pick(&[20 * MS, 60 * MS, 200 * MS]),
            keys: usize::try_from(rng.between(1, 4)).expect("small"),
            key_operations: *rng.pick(&[20, 60]),
            value_bytes: *rng.pick(&[16, 200, 2_000]),
            patience: rng.between(300 * MS, 3 * SECOND),
            no_session: on(rng, 400_000, 50_000, 400_000),
            weak: on(rng, 300_000, 20_000, 200_000),
            lull: on(rng, 400_000, 5 * SECOND, 15 * SECOND),
        }
    }
}

impl Network {
    fn draw(rng: &mut Rng) -> Network {
        let fastest = rng.between(20_000, 2 * MS);
        Network {
            delay: (fastest, fastest + rng.between(10_000, 5 * MS)),
            loss: on(rng, 500_000, 1_000, 150_000),
            duplicate: on(rng, 400_000, 1_000, 100_000),
            late: on(rng, 500_000, 1_000, 200_000),
            late_max: *rng.pick(&[20 * MS, 500 * MS, 5 * SECOND]),
            partition: on(rng, 600_000, 800 * MS, 12 * SECOND),
            partition_length: rng.between(300 * MS, 4 * SECOND),
            one_way: rng.coin(),
            reports_loss: rng.coin(),
            encode: rng.chance(150_000),
        }
    }
}

impl Crashes {
    /// Rare crashes of all lengths, or a storm of short ones, in which leaderships last a second or two.
    fn draw(rng: &mut Rng) -> Crashes {
        let is_storm = rng.chance(300_000);
        let interval = if is_storm { (300 * MS, 2 * SECOND) } else { (3 * SECOND, 20 * SECOND) };
        let down = if is_storm { (50 * MS, SECOND) } else { (100 * MS, 6 * SECOND) };
        Crashes {
            interval: on(rng, 700_000, interval.0, interval.1),
            down: rng.between(down.0, down.1),
            all: on(rng, 400_000, 50_000, 400_000),
            elected: on(rng, 300_000, 100_000, 600_000),
        }
    }
}

impl Disk {
    fn draw(rng: &mut Rng) -> Disk {
        let fastest = rng.between(20_000, MS);
        Disk {
            speed: SimConfig {
                latency_min_ns: fastest,
                latency_max_ns: fastest + rng.between(10_000, 10 * MS),
                bytes_max: None,
            },
            slow: on(rng, 400_000, 2 * SECOND, 20 * SECOND),
            slow_factor: rng.between(5, 200),
            full: on(rng, 250_000, 5 * SECOND, 20 * SECOND),
            damage: on(rng, 350_000, 100_000, 500_000),
            wipe: on(rng, 350_000, 50_000, 400_000),
        }
    }
}

impl Store {
    fn draw(rng: &mut Rng) -> Store {
        let fastest = rng.between(10_000, 500_000);
        let slowest = *rng.pick(&[100_000, 5 * MS, 300 * MS]);
        let sent = rng.between(MS, 200 * MS);
        Store {
            apply: (fastest, fastest + slowest),
            flush: on(rng, 700_000, 500 * MS, 10 * SECOND),
            cold: on(rng, 500_000, 10_000, 500_000),
            transfer: (sent, sent + *rng.pick(&[10 * MS, SECOND, 5 * SECOND])),
            transfer_fails: on(rng, 500_000, 50_000, 500_000),
            install_fails: on(rng, 300_000, 50_000, 300_000),
            snapshot_interval: on(rng, 500_000, SECOND, 20 * SECOND),
            snapshot_bytes: on(rng, 400_000, 1 << 10, 64 << 10),
        }
    }
}
