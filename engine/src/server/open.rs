//! Opening what a core holds: its log, the replicas the log knows, and fresh ones for those that were lost.
//!
//! Damage of a replica does not keep the node from starting: the replica is given up, and a fresh one asks the others
//! for its data. What is wrong with the host (permissions, a full disk, another process) does.

use std::io;

use net::map::ShardInfo;
use raft::{Index, NodeId, Term};
use wal::disk::RealDisk;
use wal::{Recovered, StreamId, StreamState, Wal};

use super::replicas::{Found, Held, Plan};
use super::{CoreSetup, ServeError, random_seed};
use crate::convert;
use crate::core::ReplicaSeed;
use crate::driver::Hosted;
use crate::home::HomeError;
use crate::placement;
use crate::replica_id;

/// A core's log and replicas, opened.
pub(super) struct Opened {
    pub disk: RealDisk,
    pub wal: Wal,
    pub seeds: Vec<ReplicaSeed>,
    pub hosted: Vec<Hosted>,
}

impl CoreSetup {
    /// Recovers the log and opens the replicas. All streams of the core are durable when this returns.
    pub(super) async fn open(&self) -> Result<Opened, ServeError> {
        let core = self.mesh.core;
        let io = convert::wal_io(self.config.wal.io);
        let (disk, recovered) = RealDisk::open(&self.data.wal(core), &self.wal_config(), io)
            .await
            .map_err(|source| ServeError::Wal { core, source })?;
        let mut plan = self.plan(&recovered)?;
        self.report(&recovered, &plan);
        let mut wal = Wal::new(self.wal_config(), recovered);
        let mut forgotten = std::mem::take(&mut plan.forgotten);
        self.clear_folders(&plan)?;
        self.home.clear_drafts().map_err(|source| ServeError::Begin { core, source })?;
        let mut opened = Vec::new();
        for (shard, generation) in std::mem::take(&mut plan.held) {
            match self.open_replica(shard, generation, &wal) {
                Ok(replica) => opened.push(replica),
                Err(HomeError::Refused(detail)) => return Err(ServeError::Store { shard, detail }),
                Err(HomeError::Damaged(detail)) => {
                    tracing::error!(core, shard, generation, detail, "a replica's data are damaged");
                    forgotten.push((shard, generation));
                    self.home.set_aside(shard, generation).map_err(|error| failed(shard, &error))?;
                    plan.fresh.insert(shard);
                }
            }
        }
        for shard in plan.fresh {
            let generation = replica_id::generation_from(random_seed());
            tracing::error!(
                core,
                shard,
                generation,
                "this node has lost its replica of the shard; a fresh one asks the other nodes for its data"
            );
            match self.open_replica(shard, generation, &wal) {
                Ok(replica) => opened.push(replica),
                Err(HomeError::Damaged(detail) | HomeError::Refused(detail)) => {
                    return Err(ServeError::Store { shard, detail });
                }
            }
        }
        for (seed, _) in &opened {
            let stream = StreamId(replica_id::stream_id(seed.shard, seed.generation));
            if !wal.contains(stream) {
                wal.set_state(stream, StreamState::default());
            }
        }
        // Behind the records of their successors: whatever a crash leaves, a lost replica never begins anew.
        let forgotten =
            forgotten.into_iter().map(|(shard, generation)| replica_id::stream_id(shard, generation));
        for stream in wal.lost().chain(forgotten.map(StreamId)).collect::<Vec<_>>() {
            wal.remove(stream);
        }
        wal.mend();
        flush(&mut wal, &disk).await.map_err(|source| ServeError::Begin { core, source })?;
        let (seeds, hosted) = opened.into_iter().unzip();
        Ok(Opened { disk, wal, seeds, hosted })
    }

    fn plan(&self, recovered: &Recovered) -> Result<Plan, ServeError> {
        let (core, cores) = (self.mesh.core, self.config.cores());
        let node = self.config.node.id;
        let here = |info: &&ShardInfo| placement::core_of(info.id, cores) == core;
        let all: Vec<&ShardInfo> = self.map.shards.iter().filter(here).collect();
        let those = |wanted: &dyn Fn(&ShardInfo) -> bool| -> Vec<u32> {
            all.iter().filter(|info| wanted(info)).map(|info| info.id).collect()
        };
        // The map of the configuration does not know where replicas have gone since.
        let known = self.data.has_joined();
        let shards = those(&|info| !known || placement::is_placed(info, node));
        let placed = those(&|info| info.plan.founders.contains(&node));
        let held = |streams: &mut dyn Iterator<Item = StreamId>| -> Vec<Held> {
            streams.map(|stream| replica_id::of_stream(stream.0)).collect()
        };
        let damaged = held(&mut recovered.damage.iter().flat_map(|damage| damage.streams.iter().copied()));
        let whole: Vec<Held> =
            held(&mut recovered.streams()).into_iter().filter(|replica| !damaged.contains(replica)).collect();
        let blank: Vec<Held> = (recovered.streams().filter(|stream| recovered.is_blank(*stream)))
            .map(|stream| replica_id::of_stream(stream.0))
            .collect();
        let folders = self.home.replicas().map_err(|source| ServeError::Begin { core, source })?;
        Ok(Plan::of(&Found {
            stage: self.data.stage(),
            shards: &shards,
            placed: &placed,
            streams: &whole,
            blank: &blank,
            damaged: &damaged,
            hidden: recovered.damage.iter().any(|damage| damage.may_hide_streams),
            folders: &folders,
        }))
    }

    /// Says what recovery found.
    fn report(&self, recovered: &Recovered, plan: &Plan) {
        let core = self.mesh.core;
        if let Some(torn) = &recovered.torn_tail {
            tracing::info!(core, file = %torn.file, offset = torn.offset, "cut writes that were never acknowledged");
        }
        for damage in &recovered.damage {
            let mut shards: Vec<u32> =
                damage.streams.iter().map(|stream| replica_id::of_stream(stream.0).0).collect();
            shards.retain(|shard| !plan.held.contains_key(shard));
            tracing::error!(core, file = %damage.file, offset = damage.offset, why = %damage.why, ?shards,
                "the log is damaged: acknowledged records of these shards may be lost, so their replicas do not vote \
                 again and are rebuilt from the other nodes; check the disk");
        }
    }

    fn clear_folders(&self, plan: &Plan) -> Result<(), ServeError> {
        for &(shard, generation) in &plan.set_aside {
            self.home.set_aside(shard, generation).map_err(|error| failed(shard, &error))?;
        }
        for &(shard, generation) in &plan.leftovers {
            tracing::info!(shard, generation, "removing what a former replica left");
            self.home.remove(shard, generation).map_err(|error| failed(shard, &error))?;
        }
        Ok(())
    }

    fn open_replica(
        &self,
        shard: u32,
        generation: u64,
        wal: &Wal,
    ) -> Result<(ReplicaSeed, Hosted), HomeError> {
        let machine = self.home.open(shard, generation, placement::founders(&self.map, shard))?;
        let applied = machine.applied();
        let stream = StreamId(replica_id::stream_id(shard, generation));
        let first = wal.first_index(stream);
        if wal.contains(stream) && applied.index + 1 < first {
            return Err(HomeError::Damaged(format!(
                "its state machine ends at entry {}, and its log begins at entry {first}",
                applied.index
            )));
        }
        let conf_state = machine.conf_state().clone();
        let own = NodeId(replica_id::raft_id(self.config.node.id, generation));
        if conf_state.voters.contains(&own) || conf_state.learners.contains(&own) {
            self.home.forget_set_aside(shard).map_err(|error| HomeError::Refused(error.to_string()))?;
        }
        let seed = ReplicaSeed {
            shard,
            generation,
            engine: machine.engine().clone(),
            applied: Index(applied.index),
            applied_term: Term(applied.term),
            conf_state,
            topology: machine.topology().cloned(),
            domain: machine.domain(),
        };
        let library =
            self.home.library(shard, generation).map_err(|error| HomeError::Refused(error.to_string()))?;
        Ok((seed, Hosted { shard, generation, machine, library }))
    }
}

fn failed(shard: u32, error: &io::Error) -> ServeError {
    ServeError::Store { shard, detail: error.to_string() }
}

/// Writes all that is queued and waits for it: nothing else runs yet.
async fn flush(wal: &mut Wal, disk: &RealDisk) -> io::Result<()> {
    while wal.flushed_lsn() < wal.end_lsn() {
        if let Some(batch) = wal.poll_write() {
            let id = batch.id;
            disk.write(batch).await?;
            wal.on_written(id);
        } else if let Some(task) = wal.poll_segment_task() {
            disk.run_segment_task(&task).await?;
            wal.on_segment_task_done(task);
        } else {
            return Err(io::Error::other("the log has records and no place for them"));
        }
    }
    Ok(())
}
