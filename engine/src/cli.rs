//! The command line: `serve`, and a client for people and scripts.
//!
//! Exit codes, of every command: 0 done, 1 the key does not exist, the cluster or this machine is not well, or the change
//! was refused, 2 wrong usage (by clap), 3 failure, 4 a change has begun, or may have, and was not seen to be done.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use engine::config::{Config, LogFormat};
use engine::driver::executor;
use net::{Client, ClientConfig, ClientError};
use tracing_subscriber::EnvFilter;

mod admin;
mod doctor;
mod dump;
mod init;
mod keys;
mod load;
mod progress;
mod scan;
mod status;
mod text;

/// Exit code of a failure.
const FAILURE: u8 = 3;
/// Exit code of a change that may or may not have been made.
const UNKNOWN: u8 = 4;

/// RingKV: a sharded, replicated, strongly consistent key-value store.
///
/// Exit codes: 0 done, 1 the key does not exist, something is not well or a change was refused, 2 wrong usage, 3 failure,
/// 4 a change has begun, or may have, and was not seen to be done.
#[derive(Debug, Parser)]
#[command(name = "ringkv", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve {
        /// Its configuration: see the ringkv.toml that ships with the sources, or `ringkv init`.
        #[arg(long)]
        config: PathBuf,
        /// Join a running cluster instead of founding one: binary doors (host:port) of nodes that are in it. Only looked at
        /// while the data directory is new, or has lost its map.
        #[arg(long, value_name = "ADDR", value_delimiter = ',')]
        join: Vec<String>,
    },
    /// Print the value of a key. Exit code 1 when there is none.
    Get(keys::Get),
    /// Set a key.
    Set(keys::Set),
    /// Delete keys. Exit code 1 when one of them did not exist.
    Del(keys::Del),
    /// Add to the number that a key holds, and print the sum; a key that does not exist counts as 0.
    Incr(keys::Incr),
    /// List keys, in the order of their slots.
    Scan(scan::Scan),
    /// Show nodes, shards and leaders. Exit code 1 unless every shard has a leader and every node answers.
    Status(status::Status),
    /// Show the status again and again, until interrupted. The exit code is that of the last look.
    WatchStatus(status::Watch),
    /// Look at nodes, shards and their replicas, and change them.
    ///
    /// Exit codes: 0 begun (with --wait or --watch: done), 1 refused and nothing was changed, 2 wrong usage, 3 failure, 4 outcome
    /// unknown, or not done in time.
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Write all keys of a namespace, or of all, to a file.
    Dump(dump::Dump),
    /// Write the keys of a dump into the cluster.
    Load(load::Load),
    /// Write a commented configuration to begin with.
    Init(init::Init),
    /// Check whether this machine can run a node well, and say what to mend. Exit code 1 when it cannot.
    Doctor(doctor::Doctor),
    /// Print the completions of a shell; to be sourced by it.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Where the cluster is.
#[derive(Clone, Debug, Args)]
pub(crate) struct Cluster {
    /// Binary addresses of some or all nodes.
    #[arg(long, value_delimiter = ',', env = "RINGKV_ENDPOINTS", default_value = "127.0.0.1:7051")]
    endpoints: Vec<String>,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// What all commands about keys have in common.
#[derive(Clone, Debug, Args)]
pub(crate) struct Data {
    #[command(flatten)]
    cluster: Cluster,
    /// The key space.
    #[arg(long, default_value_t = 0)]
    namespace: u8,
    /// How to print the result.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// JSON: one document, or one a line.
    Json,
}

/// Which replica answers, and what it must know first.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ReadLevel {
    /// The leader, with all that was acknowledged before.
    Linearizable,
    /// Any replica, which asks the leader how far it must be.
    Follower,
    /// Any replica, as it is.
    Stale,
}

impl From<ReadLevel> for net::protocol::ReadConsistency {
    fn from(level: ReadLevel) -> Self {
        match level {
            ReadLevel::Linearizable => Self::Linearizable,
            ReadLevel::Follower => Self::Follower,
            ReadLevel::Stale => Self::Stale,
        }
    }
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WriteLevel {
    /// On the disks of a majority.
    Strong,
    /// On the leader's disk.
    Leader,
    /// In the leader's memory.
    Eventual,
}

impl From<WriteLevel> for net::protocol::WriteConsistency {
    fn from(level: WriteLevel) -> Self {
        match level {
            WriteLevel::Strong => Self::Strong,
            WriteLevel::Leader => Self::Leader,
            WriteLevel::Eventual => Self::Eventual,
        }
    }
}

/// Runs what was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Serve { config, join } => {
            let config = Config::load(&config)?;
            start_logging(&config)?;
            engine::server::serve(config, join)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Get(get) => get.run(),
        Command::Set(set) => set.run(),
        Command::Del(del) => del.run(),
        Command::Incr(incr) => incr.run(),
        Command::Scan(scan) => scan.run(),
        Command::Status(status) => status.run(),
        Command::WatchStatus(watch) => watch.run(),
        Command::Admin(admin) => admin::run(admin),
        Command::Dump(dump) => dump.run(),
        Command::Load(load) => load.run(),
        Command::Init(init) => init.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Completions { shell } => {
            let shell = match shell {
                Shell::Bash => clap_complete::Shell::Bash,
                Shell::Zsh => clap_complete::Shell::Zsh,
                Shell::Fish => clap_complete::Shell::Fish,
            };
            clap_complete::generate(shell, &mut Arguments::command(), "ringkv", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The exit code that tells scripts of this error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Indeterminate { .. }) => ExitCode::from(UNKNOWN),
        _ => ExitCode::from(FAILURE),
    }
}

fn start_logging(config: &Config) -> Result<()> {
    let level = &config.log.level;
    let filter = EnvFilter::try_new(level).with_context(|| {
        format!(
            "configuration key `log.level`: `{level}` is no level or filter; write info, or info,raft=debug"
        )
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

/// An argument as the bytes it is: keys and values need not be text.
fn bytes(argument: OsString) -> Bytes {
    Bytes::from(argument.into_vec())
}

impl Cluster {
    async fn connect(self) -> Result<Client> {
        let timeout = Duration::from_secs(self.timeout);
        let config = ClientConfig {
            request_timeout: timeout,
            connect_timeout: timeout.min(Duration::from_secs(2)),
            ..ClientConfig::new(self.endpoints)
        };
        Ok(Client::connect(config).await?)
    }
}

impl Data {
    /// Runs `work` with a client of the namespace, on an executor of its own.
    fn with_client<F>(self, work: F) -> Result<ExitCode>
    where
        F: AsyncFnOnce(Client) -> Result<ExitCode> + Send + 'static,
    {
        on_executor(async move || {
            let namespace = self.namespace;
            work(self.cluster.connect().await?.with_namespace(namespace)).await
        })
    }
}

/// Runs async work of the client library.
fn on_executor<F>(work: F) -> Result<ExitCode>
where
    F: AsyncFnOnce() -> Result<ExitCode> + Send + 'static,
{
    engine::host::raise_limits();
    engine::host::check(1, &[])?;
    executor::run_client(move || work())
        .map_err(|error| anyhow::anyhow!("the client's executor failed: {error}"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_write_in_doubt_has_an_exit_code_of_its_own() {
        let doubt = anyhow::Error::from(ClientError::Indeterminate { cause: "lost".into() });
        assert_eq!(exit_code(&doubt), ExitCode::from(4));
        assert_eq!(exit_code(&doubt.context("while loading")), ExitCode::from(4));
        assert_eq!(exit_code(&ClientError::Closed.into()), ExitCode::from(3));
    }
}
