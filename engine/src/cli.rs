//! The command line: `serve`, and a small client for people and scripts.
//!
//! Exit codes: 0 done, 1 the key does not exist, the cluster is not well or the change was refused, 2 wrong usage (by
//! clap), 3 failure, 4 a change has begun, or may have, and was not seen to be done.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use engine::config::{Config, LogFormat};
use engine::driver::executor;
use net::{Client, ClientConfig};
use tracing_subscriber::EnvFilter;

/// Exit code of a failure.
pub const FAILURE: u8 = 3;

/// RingKV: a sharded, replicated, strongly consistent key-value store.
#[derive(Debug, Parser)]
#[command(name = "ringkv", version, about)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve {
        /// Its configuration: see the ringkv.toml that ships with the sources.
        #[arg(long)]
        config: PathBuf,
    },
    /// Print the value of a key. Exit code 1 when there is none.
    Get {
        /// The key.
        key: String,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Set a key.
    Set {
        /// The key.
        key: String,
        /// The value.
        value: String,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Delete a key. Exit code 1 when there was none.
    Del {
        /// The key.
        key: String,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Show nodes, shards and leaders. Exit code 1 unless every shard has a leader and every node answers.
    Status {
        #[command(flatten)]
        cluster: Cluster,
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Look at the replicas of a shard, and change them.
    ///
    /// Exit codes: 0 begun (with --wait: done), 1 refused and nothing was changed, 2 wrong usage, 3 failure, 4 outcome
    /// unknown, or not done in time.
    #[command(subcommand)]
    Admin(admin::Admin),
}

#[derive(Debug, Args)]
struct Cluster {
    /// Binary addresses of some or all nodes.
    #[arg(long, value_delimiter = ',', env = "RINGKV_ENDPOINTS", default_value = "127.0.0.1:7051")]
    endpoints: Vec<String>,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    /// A table for people.
    Text,
    /// One JSON document.
    Json,
}

mod admin;
mod status;

/// Runs what was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Serve { config } => {
            let config = Config::load(&config)?;
            start_logging(&config)?;
            engine::server::serve(config)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Get { key, cluster } => with_client(cluster, async move |client| {
            let Some(value) = client.get(key).await? else { return Ok(ExitCode::from(1)) };
            let mut out = std::io::stdout().lock();
            out.write_all(&value.data)?;
            out.write_all(b"\n")?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Set { key, value, cluster } => with_client(cluster, async move |client| {
            client.put(key, value).await?;
            println!("OK");
            Ok(ExitCode::SUCCESS)
        }),
        Command::Del { key, cluster } => with_client(cluster, async move |client| {
            let existed = client.delete(key).await?;
            println!("{}", if existed { "deleted" } else { "no such key" });
            Ok(ExitCode::from(u8::from(!existed)))
        }),
        Command::Status { cluster, output } => status::run(cluster.endpoints, cluster.timeout, output),
        Command::Admin(admin) => admin::run(admin),
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

/// Runs `work` with a client of the cluster, on an executor of its own.
fn with_client<F>(cluster: Cluster, work: F) -> Result<ExitCode>
where
    F: AsyncFnOnce(Client) -> Result<ExitCode> + Send + 'static,
{
    on_executor(async move || {
        let config = ClientConfig {
            request_timeout: Duration::from_secs(cluster.timeout),
            ..ClientConfig::new(cluster.endpoints)
        };
        let client = Client::connect(config).await?;
        work(client).await
    })
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
