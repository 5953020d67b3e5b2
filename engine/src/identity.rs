//! Whose data a directory holds. Written when a node first starts, compared at every start: a node must never run on
//! another's data, nor with a number of cores or shards that its files were not laid out for.
//!
//! A directory also has an identity of its own, drawn when it is made, and knows how far it has come: see
//! [`crate::bootstrap`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use net::map::ClusterMap;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::Config;
use crate::map_file::{self, MapFileError};

/// Layout of the data directory that this version writes.
const FORMAT: u32 = 2;
/// The layout before directories had identities of their own.
const FORMAT_UNNAMED: u32 = 1;

/// How long to wait for a directory that the process before this one may still hold.
const LOCK_FREE_MAX: Duration = Duration::from_secs(5);

/// Names one data directory for good: drawn at random when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreId(pub u64);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<StoreId> for String {
    fn from(store: StoreId) -> String {
        store.to_string()
    }
}

impl TryFrom<String> for StoreId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<StoreId, Self::Error> {
        u64::from_str_radix(&text, 16).map(StoreId)
    }
}

/// How far a directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It holds nothing yet: the node must find out whether it founds the cluster.
    New,
    /// It founds the cluster: replicas of the first placement that its logs do not know yet are to be made.
    Founding,
    /// It takes the place of a lost one: its replicas are fresh, and those its logs do not know yet are to be made.
    Replacing,
    /// Its logs know all its replicas.
    Running,
}

/// What a node tells others of its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The directory.
    pub store: StoreId,
    /// Whether it is past [`Stage::New`].
    pub settled: bool,
    /// The directory of every node when the cluster was founded; empty when not known.
    pub founders: BTreeMap<u64, StoreId>,
}

/// What is written into the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster: String,
    node: u64,
    cores: u32,
    shards: u32,
    nodes: Vec<u64>,
    /// None in directories from before they had one.
    store: Option<StoreId>,
    stage: Option<Stage>,
    #[serde(default)]
    founders: BTreeMap<String, StoreId>,
    /// Whether the directory has a map of its own: then the configuration no longer says who belongs to the cluster.
    #[serde(default)]
    mapped: bool,
    /// Whether the node joined a cluster that was there before: then the configuration never said how keys are split.
    #[serde(default)]
    joined: bool,
}

/// A claimed data directory; the claim ends with this value or the process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    store: StoreId,
    identity: Mutex<Identity>,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// The system refused an operation on it.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A running process has it.
    #[error(
        "the data directory {0} is in use by another ringkv process; stop that one, or give this node its own node.data_dir"
    )]
    InUse(PathBuf),
    /// It belongs to another node, cluster or layout.
    #[error(
        "the data directory {path} was made for {key} = {found}, and the configuration says {key} = {wanted}; {remedy}"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What differs.
        key: &'static str,
        /// In the directory.
        found: String,
        /// In the configuration.
        wanted: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Its identity cannot be read.
    #[error(
        "{path} is damaged ({detail}); restore it from a backup, or remove the whole directory: the node then comes back as a replacement and gets its data from the others"
    )]
    Damaged {
        /// The identity file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl DataDir {
    /// Claims the directory of the configuration for this process, making it if it is not there.
    pub fn claim(config: &Config) -> Result<DataDir, DataDirError> {
        let path = config.node.data_dir.clone();
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { action, path, source }
        };
        fs::create_dir_all(&path).map_err(io("create", &path))?;
        let lock_path = path.join("LOCK");
        let lock = File::create(&lock_path).map_err(io("create", &lock_path))?;
        take_lock(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::InUse(path.clone()),
            TryLockError::Error(error) => io("lock", &lock_path)(error),
        })?;
        let identity_path = path.join("IDENTITY");
        let wanted = Identity::of(config);
        let found = match fs::read_to_string(&identity_path) {
            Ok(text) => Some(compare(&path, &identity_path, &text, &wanted)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io("read", &identity_path)(error)),
        };
        let mut identity = match &found {
            // Nothing was decided by the list of nodes yet: it may still be corrected.
            Some(new) if new.stage == Some(Stage::New) => {
                Identity { store: new.store, stage: new.stage, ..wanted }
            }
            Some(found) => found.clone(),
            None => wanted,
        };
        let store = match identity.store {
            Some(store) => store,
            None => draw_store().map_err(io("draw an identity for", &path))?,
        };
        identity.store = Some(store);
        // One from before directories had identities has founded its cluster if it was ever used.
        let used = found.is_some() && path.join("core-0").join("wal").exists();
        identity.stage.get_or_insert(if used { Stage::Founding } else { Stage::New });
        identity.format = FORMAT;
        let known = found.as_ref() == Some(&identity);
        let data = DataDir { path, store, identity: Mutex::new(identity), _lock: lock };
        if !known {
            data.change(|_| {})?;
        }
        Ok(data)
    }

    /// What to tell others of this directory.
    pub fn standing(&self) -> Standing {
        let identity = self.identity();
        let founders = identity.founders.iter();
        Standing {
            store: self.store,
            settled: identity.stage != Some(Stage::New),
            founders: founders.filter_map(|(node, store)| Some((node.parse().ok()?, *store))).collect(),
        }
    }

    /// The cluster map that was saved last; `None` as long as the configuration tells it.
    pub fn map(&self) -> Result<Option<ClusterMap>, MapFileError> {
        match map_file::read(&self.path)? {
            // A map that came just before a crash is as good.
            Some(map) => Ok(Some(map)),
            None if self.identity().mapped => Err(map_file::missing(&self.path)),
            None => Ok(None),
        }
    }

    /// Saves the cluster map, durably: later starts go by it. Blocks.
    pub fn save_map(&self, map: &ClusterMap) -> Result<(), DataDirError> {
        let io =
            |source| DataDirError::Io { action: "save the cluster map in", path: self.path.clone(), source };
        map_file::write(&self.path, map).map_err(io)?;
        if self.identity().mapped {
            return Ok(());
        }
        self.change(|identity| identity.mapped = true)
    }

    /// Whether the node joined a cluster that was there before.
    pub fn has_joined(&self) -> bool {
        self.identity().joined
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.identity().stage.expect("every claimed directory has a stage")
    }

    /// Takes note, durably, that it founds the cluster or replaces a lost directory, and who the founders are.
    ///
    /// # Panics
    /// When that was decided before.
    pub fn settle(&self, stage: Stage, founders: &BTreeMap<u64, StoreId>) -> Result<(), DataDirError> {
        assert!(self.stage() == Stage::New && stage != Stage::New, "a directory settles once");
        self.change(|identity| {
            identity.stage = Some(stage);
            identity.founders = founders.iter().map(|(node, store)| (node.to_string(), *store)).collect();
        })
    }

    /// Takes note, durably, that the node has joined a cluster, of which the map was saved. With `lost` the cluster knew
    /// it with another directory and has replicas there.
    ///
    /// # Panics
    /// When what it is to the cluster was decided before.
    pub fn settle_joined(&self, lost: bool) -> Result<(), DataDirError> {
        assert!(self.stage() == Stage::New, "a directory settles once");
        self.change(|identity| {
            identity.stage = Some(if lost { Stage::Replacing } else { Stage::Running });
            identity.joined = true;
        })
    }

    /// Takes note, durably, that the logs know all replicas.
    pub fn begun(&self) -> Result<(), DataDirError> {
        if self.stage() == Stage::Running {
            return Ok(());
        }
        self.change(|identity| identity.stage = Some(Stage::Running))
    }

    fn identity(&self) -> MutexGuard<'_, Identity> {
        self.identity.lock().expect("nothing panics while holding it")
    }

    /// Changes the identity, on the disk and then here. Two changes never meet.
    fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<(), DataDirError> {
        let path = self.path.join("IDENTITY");
        let mut known = self.identity();
        let mut identity = known.clone();
        change(&mut identity);
        write_durably(&self.path, &path, &identity).map_err(|source| DataDirError::Io {
            action: "write",
            path,
            source,
        })?;
        *known = identity;
        Ok(())
    }

    /// Folder of one core.
    pub fn core(&self, core: u32) -> PathBuf {
        self.path.join(format!("core-{core}"))
    }

    /// Folder of one core's log.
    pub fn wal(&self, core: u32) -> PathBuf {
        self.core(core).join("wal")
    }
}

impl Identity {
    /// That of a directory never used, as the configuration wants it.
    fn of(config: &Config) -> Identity {
        let nodes: BTreeSet<u64> = config.cluster.nodes.iter().map(|node| node.id).collect();
        Identity {
            format: FORMAT,
            cluster: config.cluster.id.clone(),
            node: config.node.id,
            cores: config.cores(),
            shards: config.cluster.shards,
            nodes: nodes.into_iter().collect(),
            store: None,
            stage: None,
            founders: BTreeMap::new(),
            mapped: false,
            joined: false,
        }
    }
}

/// Waits for a predecessor that was killed: until the kernel has taken down its memory, its locks hold.
fn take_lock(lock: &File) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_FREE_MAX => {
                std::thread::sleep(Duration::from_millis(20));
            }
            taken => return taken,
        }
    }
}

fn draw_store() -> io::Result<StoreId> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(StoreId(u64::from_le_bytes(bytes)))
}

fn compare(dir: &Path, file: &Path, text: &str, wanted: &Identity) -> Result<Identity, DataDirError> {
    let found: Identity = toml::from_str(text).map_err(|error| DataDirError::Damaged {
        path: file.to_owned(),
        detail: error.message().to_owned(),
    })?;
    let differs = |key, found: String, wanted: String, remedy| {
        if found == wanted {
            return Ok(());
        }
        Err(DataDirError::Foreign { path: dir.to_owned(), key, found, wanted, remedy })
    };
    if found.format != FORMAT_UNNAMED {
        differs("format", found.format.to_string(), wanted.format.to_string(), "use the matching release")?;
        if found.store.is_none() || found.stage.is_none() {
            let detail = "store or stage is missing".to_owned();
            return Err(DataDirError::Damaged { path: file.to_owned(), detail });
        }
    }
    let other = "give this node its own node.data_dir, or correct the configuration";
    differs("cluster.id", found.cluster.clone(), wanted.cluster.clone(), other)?;
    differs("node.id", found.node.to_string(), wanted.node.to_string(), other)?;
    if found.stage == Some(Stage::New) {
        return Ok(found);
    }
    let layout = "this cannot be changed on existing data: set it back";
    differs("node.cores", found.cores.to_string(), wanted.cores.to_string(), layout)?;
    if !found.joined {
        differs("cluster.shards", found.shards.to_string(), wanted.shards.to_string(), layout)?;
    }
    if !found.mapped {
        // Nodes that count different majorities would elect two leaders.
        let members = "the members of a cluster cannot be changed by its configuration: set the list back, and add nodes with `ringkv serve --join`";
        differs("cluster.nodes.id", format!("{:?}", found.nodes), format!("{:?}", wanted.nodes), members)?;
    }
    Ok(found)
}

/// Writes the identity so that a crash leaves either none or all of it.
fn write_durably(dir: &Path, path: &Path, identity: &Identity) -> io::Result<()> {
    let text = toml::to_string(identity).map_err(io::Error::other)?;
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests;
