//! Where the replicas of one core live on disk.
//!
//! ```text
//!   core-0/
//!     wal/                       the log
//!     shard-3/                   a replica of the founding generation
//!     shard-4-00000000abc/       a later one
//!       store/                   its storage engine
//!       snapshots/  incoming/    taken here, and being received: see `store::snapshot`
//!     draft-shard-7/             a replica that is being made from another shard's: see `store::offspring`
//!     lost-shard-4/              what a lost replica left, until its successor is a member
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::machine::{Cut, Machine, MachineOpenError, division};
use crate::replica_id;
use crate::store::offspring::{self, OffspringError};
use crate::store::snapshot::{Library, TakeError};
use crate::store::{self, MemEngine, RocksEngine, RocksShared, StorageEngine, StoreError};

/// Why a replica was not opened.
#[derive(Debug, Error)]
pub enum HomeError {
    /// It is damaged: give it up and get its data from the others.
    #[error("{0}")]
    Damaged(String),
    /// The host does not let it be opened: mend that.
    #[error("{0}")]
    Refused(String),
}

/// The replicas of one core on disk. Clones are the same home; all methods may block on the disk.
#[derive(Clone)]
pub struct Home {
    core: PathBuf,
    shared: Option<RocksShared>,
}

impl Home {
    /// The home in the folder of a core; `shared` is what the replicas' databases share, none for engines in memory.
    pub fn new(core: PathBuf, shared: Option<RocksShared>) -> Home {
        Home { core, shared }
    }

    /// The replicas that have a folder, by shard and generation.
    pub fn replicas(&self) -> io::Result<Vec<(u32, u64)>> {
        let mut replicas = Vec::new();
        for entry in fs::read_dir(&self.core)? {
            replicas.extend(entry?.file_name().to_str().and_then(replica_id::of_folder));
        }
        replicas.sort_unstable();
        Ok(replicas)
    }

    /// A replica's folder.
    pub fn replica(&self, shard: u32, generation: u64) -> PathBuf {
        self.core.join(replica_id::folder(shard, generation))
    }

    /// Opens a replica's state machine, in a folder that is made if it is not there. `founders` are the members that its
    /// group began with, whatever the replica's generation: whoever sends it the log from the first entry on sends the
    /// changes that came after them.
    pub fn open(&self, shard: u32, generation: u64, founders: raft::ConfState) -> Result<Machine, HomeError> {
        let dir = self.replica(shard, generation);
        fs::create_dir_all(&dir)
            .map_err(|error| HomeError::Refused(format!("{}: {error}", dir.display())))?;
        let engine = self.engine(&dir)?;
        self.machine(engine, founders)
    }

    /// Makes the founding replica of a new shard on a core of this node, from the state of the shard that is cut: see
    /// `store::offspring`.
    pub fn found(
        &self,
        core: u32,
        parent: &dyn StorageEngine,
        cut: &Cut,
        applied: store::Applied,
    ) -> Result<(), OffspringError> {
        let node = self.core.parent().expect("a core's folder lies in the data directory");
        let (core, name) =
            (node.join(format!("core-{core}")), replica_id::folder(cut.into, replica_id::FOUNDING));
        let open = |place: &Path| self.open_engine(place);
        offspring::make(parent, (&core, &name), self.shared.is_some(), &open, |engine| {
            division::found(engine, cut, applied)
        })
    }

    /// Removes what crashes left of replicas being founded.
    pub fn clear_drafts(&self) -> io::Result<()> {
        offspring::clear(&self.core)
    }

    /// Opens the snapshots of a replica.
    pub fn library(&self, shard: u32, generation: u64) -> Result<Library, TakeError> {
        Library::open(&self.replica(shard, generation), shard)
    }

    /// Opens a state machine on an engine; `members` are those of an engine that tells of none.
    pub fn machine(
        &self,
        engine: Arc<dyn StorageEngine>,
        members: raft::ConfState,
    ) -> Result<Machine, HomeError> {
        Machine::open(engine, members).map_err(|error| match error {
            MachineOpenError::Store(StoreError::Io { .. } | StoreError::NoSpace { .. }) => {
                HomeError::Refused(error.to_string())
            }
            _ => HomeError::Damaged(error.to_string()),
        })
    }

    /// Removes a replica's folder; fine if it is gone already.
    pub fn remove(&self, shard: u32, generation: u64) -> io::Result<()> {
        remove(&self.replica(shard, generation))
    }

    /// Renames the folder of a lost replica, so that nothing takes it for a replica's; an older one makes room.
    pub fn set_aside(&self, shard: u32, generation: u64) -> io::Result<()> {
        let from = self.replica(shard, generation);
        if !from.exists() {
            return Ok(());
        }
        let to = self.lost(shard);
        remove(&to)?;
        tracing::warn!(from = %from.display(), to = %to.display(), "set aside what a lost replica held");
        fs::rename(&from, &to)
    }

    /// Removes what was set aside of a shard: its successor is a member.
    pub fn forget_set_aside(&self, shard: u32) -> io::Result<()> {
        remove(&self.lost(shard))
    }

    fn lost(&self, shard: u32) -> PathBuf {
        self.core.join(format!("lost-shard-{shard}"))
    }

    fn engine(&self, dir: &Path) -> Result<Arc<dyn StorageEngine>, HomeError> {
        self.open_engine(&dir.join("store")).map_err(|error| match error {
            store::OpenError::Corrupt { .. } => HomeError::Damaged(error.to_string()),
            _ => HomeError::Refused(error.to_string()),
        })
    }

    fn open_engine(&self, place: &Path) -> Result<Arc<dyn StorageEngine>, store::OpenError> {
        Ok(match &self.shared {
            Some(shared) => Arc::new(RocksEngine::open(place, shared)?),
            None => Arc::new(MemEngine::open(place)?),
        })
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
