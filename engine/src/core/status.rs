//! What a core tells about itself: to its siblings, so that any core can answer for the node, and to people.

use bytes::Bytes;
use raft::LogStorage;
use serde::Serialize;

use super::{Core, Effect, Stages, usize_of};
use crate::replica_id;

/// Ticks between two tellings when nothing changed.
const STATUS_TICKS: u32 = 20;

/// One core's account of itself.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CoreStatus {
    /// Which core.
    pub core: u32,
    /// Its shards.
    pub shards: Vec<ShardStatus>,
    /// What it has done since it started.
    pub counters: Counters,
    /// How long the stages of writes took since it started.
    pub stages: Box<Stages>,
    /// Bytes of entries proposed and not applied.
    pub inflight_bytes: u64,
    /// Bytes of entries committed and not applied.
    pub apply_queue_bytes: u64,
    /// Bytes the log occupies on disk.
    pub wal_disk_bytes: u64,
    /// Bytes that wait for the log.
    pub wal_queued_bytes: u64,
    /// Whether the log takes longer to write than the configuration allows a leader's.
    pub log_is_slow: bool,
}

/// One replica's account of itself.
#[derive(Clone, Debug, Serialize)]
pub struct ShardStatus {
    /// The shard; 0 is the meta shard.
    pub shard: u32,
    /// `leader`, `follower`, ….
    pub role: String,
    /// The leader it knows, 0 for none.
    pub leader: u64,
    /// Current term.
    pub term: u64,
    /// Last entry in the log.
    pub last_index: u64,
    /// Last entry known committed.
    pub committed: u64,
    /// Last entry flushed here.
    pub flushed: u64,
    /// Last entry applied here.
    pub applied: u64,
    /// Last entry that survives a crash without the log.
    pub applied_durable: u64,
    /// First entry still in the log.
    pub first_index: u64,
    /// The nodes that hold a replica, as this one knows.
    pub members: Vec<u64>,
    /// Whether the group is idle and this replica without timers.
    pub asleep: bool,
}

/// Counts since the start of the process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// Requests taken in.
    pub requests: u64,
    /// Requests refused.
    pub refused: u64,
    /// Requests handed to another core.
    pub forwarded: u64,
    /// Batches the log has written.
    pub wal_batches: u64,
    /// Tasks of the apply lane.
    pub apply_tasks: u64,
    /// Times a replica of this core became leader.
    pub leader_changes: u64,
    /// Appends refused because apply lagged.
    pub appends_dropped: u64,
    /// Turns of the machine.
    pub turns: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Leaderships this core began to hand over, because its log was slow or the process is to end.
    pub handovers: u64,
    /// Whole cluster maps taken from other nodes.
    pub maps_received: u64,
    /// Changes of the cluster map taken from other nodes.
    pub map_changes_received: u64,
    /// Changes of the cluster map that did not fit this node's: it asked for the whole map.
    pub map_changes_refused: u64,
}

/// A node's account of itself.
#[derive(Serialize)]
struct NodeStatus {
    node: u64,
    epoch: u64,
    version: &'static str,
    cores: Vec<CoreStatus>,
}

impl Core {
    pub(super) fn tick_status(&mut self) {
        if self.config.cores > 1 && (self.status_due || self.ticks.is_multiple_of(STATUS_TICKS)) {
            self.status_due = false;
            let status = self.status();
            self.effects.push(Effect::Publish(status));
        }
    }

    /// This core's account of itself.
    pub fn status(&self) -> CoreStatus {
        let shards = self.replicas.iter().flatten().map(|replica| {
            let raft = &replica.raft;
            ShardStatus {
                shard: replica.id.shard,
                role: format!("{:?}", raft.role()).to_lowercase(),
                leader: raft.leader().map_or(0, |leader| replica_id::node_of(leader.0)),
                term: raft.term().0,
                last_index: raft.last_index().0,
                committed: raft.committed().0,
                flushed: raft.flushed().0,
                applied: raft.applied().0,
                applied_durable: replica.applied_durable.0,
                first_index: raft.storage().first_index().0,
                members: replica.member_nodes(),
                asleep: raft.is_dormant(),
            }
        });
        let wal = self.wal.borrow();
        CoreStatus {
            core: self.config.core,
            shards: shards.collect(),
            counters: self.counters.clone(),
            stages: Box::new(self.stages.clone()),
            inflight_bytes: self.inflight_bytes,
            apply_queue_bytes: self.lane.queued_bytes,
            wal_disk_bytes: wal.disk_bytes(),
            wal_queued_bytes: wal.queued_bytes(),
            log_is_slow: self.log_is_slow,
        }
    }

    pub(super) fn on_sibling(&mut self, status: CoreStatus) {
        for shard in &status.shards {
            self.grow_to(shard.shard);
            self.leaders[usize_of(shard.shard)] = shard.leader;
            self.list_replicas(shard.shard, &shard.members);
        }
        let core = usize_of(status.core);
        self.siblings[core] = Some(status);
    }

    /// The accounts of all cores of the node, in order; those of the siblings as last told.
    pub fn statuses(&self) -> Vec<CoreStatus> {
        let mut cores: Vec<CoreStatus> = self.siblings.iter().flatten().cloned().collect();
        cores.push(self.status());
        cores.sort_by_key(|status| status.core);
        cores
    }

    /// The account of the node.
    pub fn status_json(&self) -> Bytes {
        let cores = self.statuses();
        let status = NodeStatus {
            node: self.config.node,
            epoch: self.map.epoch,
            version: env!("CARGO_PKG_VERSION"),
            cores,
        };
        Bytes::from(serde_json::to_vec(&status).expect("plain numbers and names serialize"))
    }
}
