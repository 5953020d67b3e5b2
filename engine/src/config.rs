//! The configuration file: TOML, every key documented in the shipped `ringkv.toml`.
//!
//! Unknown keys, impossible values and contradictions are refused with an error that names the key and says
//! what to write instead; nothing is guessed. Every limit is in bytes, every time in milliseconds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;

mod sections;

pub use sections::{
    Cluster, ClusterNode, EngineKind, Limits, Listen, Log, LogFormat, Node, Password, RaftSection, Resp,
    Snapshot, Storage, WalIo, WalSection,
};

/// The whole configuration of one node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Identity, data directory and cores of this node.
    pub node: Node,
    /// Addresses this node binds.
    pub listen: Listen,
    /// The cluster this node belongs to.
    pub cluster: Cluster,
    /// The Redis protocol.
    #[serde(default)]
    pub resp: Resp,
    /// Consensus timing and windows.
    #[serde(default)]
    pub raft: RaftSection,
    /// The write-ahead log of each core.
    #[serde(default)]
    pub wal: WalSection,
    /// The storage engine behind the state machine.
    #[serde(default)]
    pub storage: Storage,
    /// When the state machine is made durable and the log compacted.
    #[serde(default)]
    pub snapshot: Snapshot,
    /// Sizes and queues.
    #[serde(default)]
    pub limits: Limits,
    /// Logging.
    #[serde(default)]
    pub log: Log,
}

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}; give an existing file with --config")]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or holds an unknown key or a value of the wrong type.
    #[error("{path}: {message}")]
    Syntax {
        /// The file asked for.
        path: PathBuf,
        /// Line, column and reason, as the TOML reader tells them.
        message: String,
    },
    /// A value is out of range or contradicts another.
    #[error("configuration key `{key}`: {why}")]
    Invalid {
        /// The key, with its section.
        key: &'static str,
        /// What is wrong and what to write instead.
        why: String,
    },
}

impl Config {
    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// Parses and checks a configuration text; `path` only serves the error texts.
    pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let mut config: Config = toml::from_str(text)
            .map_err(|e| ConfigError::Syntax { path: path.to_owned(), message: e.to_string() })?;
        // One order on all nodes, whichever each lists first: preferred leaders follow it.
        config.cluster.nodes.sort_by_key(|node| node.id);
        config.validate()?;
        Ok(config)
    }

    /// The entry of this node in the list of the cluster's nodes. Present once validated.
    pub fn this_node(&self) -> &ClusterNode {
        self.cluster.node(self.node.id).expect("validated: node.id is listed in cluster.nodes")
    }

    /// Number of executors of this node.
    pub fn cores(&self) -> u32 {
        if self.node.cpus.is_empty() {
            self.node.cores
        } else {
            u32::try_from(self.node.cpus.len()).expect("validated: few cpus")
        }
    }

    /// The longest command that the limits let into the log: a compare-and-swap of the longest key with two of the
    /// longest values, and its headers.
    pub fn command_bytes_max(&self) -> u64 {
        2 * self.limits.value_bytes_max + self.limits.key_bytes_max + (64 << 10)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.node.validate()?;
        self.cluster.validate()?;
        self.raft.validate()?;
        self.wal.validate()?;
        self.storage.validate()?;
        self.limits.validate()?;
        self.snapshot.validate()?;
        let Some(this) = self.cluster.node(self.node.id) else {
            return invalid(
                "node.id",
                format!("node {} is not in [[cluster.nodes]]; add it there or correct the id", self.node.id),
            );
        };
        if this.cores != self.cores() {
            return invalid(
                "node.cores",
                format!(
                    "this node runs {} cores, but its entry in [[cluster.nodes]] says cores = {}; make them equal",
                    self.cores(),
                    this.cores
                ),
            );
        }
        let needed = self.command_bytes_max() + (64 << 10);
        if self.wal.segment_bytes < needed {
            return invalid(
                "wal.segment_bytes",
                format!(
                    "{} cannot hold the largest write that limits.value_bytes_max and limits.key_bytes_max allow; \
                     give at least {needed}",
                    self.wal.segment_bytes
                ),
            );
        }
        Ok(())
    }
}

pub(crate) fn invalid<T>(key: &'static str, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid { key, why: why.into() })
}

/// Parses an address as it stands in the configuration.
pub(crate) fn address(key: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| ConfigError::Invalid {
        key,
        why: format!("`{text}` is not an address; write IP:PORT, such as 127.0.0.1:7051 or [::1]:7051"),
    })
}

#[cfg(test)]
mod tests;
