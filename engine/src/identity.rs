//! Whose data a directory holds. Written when a node first starts, compared at every start: a node must never run on
//! another's data, nor with a number of cores or shards that its files were not laid out for.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::Config;

/// Layout of the data directory that this version writes.
const FORMAT: u32 = 1;

/// What is written into the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster: String,
    node: u64,
    cores: u32,
    shards: u32,
    nodes: Vec<u64>,
}

/// A claimed data directory; the claim ends with this value or the process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
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
        "{path} is damaged ({detail}); restore the directory from a backup: a node that comes back empty has forgotten what it acknowledged"
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
        // SAFETY: flock touches no memory, and the file is open.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(DataDirError::InUse(path));
        }
        let wanted = Identity {
            format: FORMAT,
            cluster: config.cluster.id.clone(),
            node: config.node.id,
            cores: config.cores(),
            shards: config.cluster.shards,
            nodes: config
                .cluster
                .nodes
                .iter()
                .map(|node| node.id)
                .collect::<BTreeSet<u64>>()
                .into_iter()
                .collect(),
        };
        let identity_path = path.join("IDENTITY");
        match fs::read_to_string(&identity_path) {
            Ok(text) => compare(&path, &identity_path, &text, &wanted)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_durably(&path, &identity_path, &wanted).map_err(io("write", &identity_path))?;
            }
            Err(error) => return Err(io("read", &identity_path)(error)),
        }
        Ok(DataDir { path, _lock: lock })
    }

    /// Folder of one core's log.
    pub fn wal(&self, core: u32) -> PathBuf {
        self.path.join(format!("core-{core}")).join("wal")
    }

    /// Folder of one shard's replica.
    pub fn shard(&self, core: u32, shard: u32) -> PathBuf {
        self.path.join(format!("core-{core}")).join(format!("shard-{shard}"))
    }
}

fn compare(dir: &Path, file: &Path, text: &str, wanted: &Identity) -> Result<(), DataDirError> {
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
    differs("format", found.format.to_string(), wanted.format.to_string(), "use the matching release")?;
    let other = "give this node its own node.data_dir, or correct the configuration";
    differs("cluster.id", found.cluster.clone(), wanted.cluster.clone(), other)?;
    differs("node.id", found.node.to_string(), wanted.node.to_string(), other)?;
    let layout = "this cannot be changed on existing data: set it back";
    differs("node.cores", found.cores.to_string(), wanted.cores.to_string(), layout)?;
    differs("cluster.shards", found.shards.to_string(), wanted.shards.to_string(), layout)?;
    // Nodes that count different majorities would elect two leaders.
    let members = "the members of a cluster cannot be changed by its configuration: set the list back";
    differs("cluster.nodes.id", format!("{:?}", found.nodes), format!("{:?}", wanted.nodes), members)
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
