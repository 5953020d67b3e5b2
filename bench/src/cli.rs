//! The command line, and its translation into a checked [`Plan`].
//!
//! Invariant: a [`Plan`] can be run as it is. Every contradiction between options is found here, before a
//! connection is opened, and is told in terms of the options that were given.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use thiserror::Error;

use crate::schedule::Rate;
use crate::values;

/// Largest value the command line accepts, in bytes: the largest a cluster takes by default.
const VALUE_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// Number of decimal digits in a key, and with it the size of the largest key space.
const KEYS_MAX: u64 = 1_000_000_000_000;
/// Longest measurement, and longest warm-up, in seconds.
const SECONDS_MAX: f64 = 86_400.0;

/// Black-box load for a RingKV cluster.
#[derive(Debug, Parser)]
#[command(name = "ringkv-bench", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write values.
    Write(Options),
    /// Read values; the keys are loaded first.
    Read {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        reads: ReadOptions,
    },
    /// Read and write; the keys are loaded first.
    Mixed {
        #[command(flatten)]
        options: Options,
        #[command(flatten)]
        reads: ReadOptions,
        /// Share of requests that are reads, from 0 to 1.
        #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = parse_ratio)]
        read_ratio: f64,
    },
}

#[derive(Debug, Args)]
struct ReadOptions {
    /// Do not write the keys first: an earlier run has written them, every one.
    #[arg(long)]
    no_load: bool,
    /// A key that is not there is an answer, not an error.
    #[arg(long)]
    allow_missing: bool,
}

#[derive(Debug, Args)]
struct Options {
    /// Binary-protocol addresses of the cluster, host:port, separated by commas.
    #[arg(long, value_name = "A,B,C", required = true, value_delimiter = ',', value_parser = parse_endpoint)]
    endpoints: Vec<String>,
    /// Bytes in every value.
    #[arg(long, value_name = "BYTES", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(VALUE_BYTES_MAX)))]
    value_size: u32,
    /// Clients, each with connections of its own.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Requests each client keeps in flight.
    #[arg(long, value_name = "P", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pipeline: u32,
    /// Seconds measured.
    #[arg(long, value_name = "S", default_value = "10", value_parser = parse_seconds)]
    seconds: Duration,
    /// Seconds of the same load before the measurement begins.
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_warmup)]
    warmup: Duration,
    /// Open loop: requests a second over all clients, each measured from the moment it was due.
    /// Without it the loop is closed: every client sends as soon as an answer makes room.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Size of the key space.
    #[arg(long, value_name = "K", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_MAX))]
    keys: u64,
    /// How keys are chosen.
    #[arg(long, value_enum, default_value_t = DistributionName::Uniform)]
    distribution: DistributionName,
    /// Skew of the zipf distribution.
    #[arg(long, value_name = "E", default_value_t = 0.99, value_parser = parse_exponent)]
    zipf_exponent: f64,
    /// How strong the answers are: strong, leader or eventual for writes (default strong); linearizable,
    /// follower or stale for reads (default linearizable). A mixed load takes one of each.
    #[arg(long, value_name = "LEVEL[,LEVEL]", value_enum, value_delimiter = ',')]
    consistency: Vec<Consistency>,
    /// Stamp every value with its key, and check the content of every value read. Costs processor time.
    #[arg(long)]
    verify: bool,
    /// Seed of the key sequence: the same seed asks for the same keys.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Threads that make the load, clients spread over them.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Milliseconds after which a request has failed.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// Write the result here as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw throughput and latency over time here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Report once a second on stderr even if it is not a terminal.
    #[arg(long)]
    progress: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DistributionName {
    /// Every key is as likely as any other.
    Uniform,
    /// A few keys take most requests.
    Zipf,
    /// One key after another, round and round: the surest way to write them all.
    Sequential,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Consistency {
    Strong,
    Leader,
    Eventual,
    Linearizable,
    Follower,
    Stale,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Writes alone.
    Write,
    /// Reads alone.
    Read,
    /// Both; `read_ratio` is the share of reads, in 0..=1.
    Mixed {
        /// Share of reads, in 0..=1.
        read_ratio: f64,
    },
}

impl Load {
    /// The name of the operation on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Mixed { .. } => "mixed",
        }
    }

    fn writes(self) -> bool {
        !matches!(self, Self::Read)
    }

    fn reads(self) -> bool {
        !matches!(self, Self::Write)
    }
}

/// How keys are chosen from the key space.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distribution {
    /// Independent draws, every key equally likely.
    Uniform,
    /// Independent draws, key of rank k with weight k^-exponent.
    Zipf {
        /// Skew, at least 0.
        exponent: f64,
    },
    /// One after another.
    Sequential,
}

impl Distribution {
    /// The name of the distribution on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf { .. } => "zipf",
            Self::Sequential => "sequential",
        }
    }
}

/// When a write counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteLevel {
    /// A majority has it on disk.
    Strong,
    /// The leader has it on disk.
    Leader,
    /// The leader has it in memory.
    Eventual,
}

/// What a read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLevel {
    /// Every write acknowledged before, from the leader.
    Linearizable,
    /// The same, from any replica.
    Follower,
    /// Whatever a replica has applied.
    Stale,
}

/// Everything a run needs to know, checked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is measured.
    pub load: Load,
    /// host:port of some nodes of the cluster, at least one.
    pub endpoints: Vec<String>,
    /// Bytes in every value.
    pub value_bytes: usize,
    /// Clients over all threads.
    pub clients: u32,
    /// Requests in flight per client.
    pub pipeline: u32,
    /// Length of the measurement.
    pub window: Duration,
    /// Load before the measurement.
    pub warmup: Duration,
    /// Open loop at this rate, or closed loop.
    pub rate: Option<Rate>,
    /// Size of the key space, at least 1.
    pub keys: u64,
    /// How keys are chosen.
    pub distribution: Distribution,
    /// When a write counts as done.
    pub write_level: WriteLevel,
    /// What a read may return.
    pub read_level: ReadLevel,
    /// Write every key once before the measurement.
    pub preload: bool,
    /// A missing key is an answer, not an error.
    pub allow_missing: bool,
    /// Stamp values and check what is read.
    pub verify: bool,
    /// Seed of the key sequence.
    pub seed: u64,
    /// Threads, at most as many as clients.
    pub threads: u32,
    /// When a request has failed.
    pub request_timeout: Duration,
    /// Where the JSON goes.
    pub json: Option<PathBuf>,
    /// Where the plot goes.
    pub svg: Option<PathBuf>,
    /// Report progress even without a terminal.
    pub progress: bool,
}

/// Options that contradict each other. Each message names the options to change.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A read level was asked of a load without reads, or the other way round.
    #[error("--consistency {level} is for {kind}s, and `{load}` makes none")]
    ConsistencyWithoutUse {
        /// The level as given.
        level: String,
        /// "read" or "write".
        kind: &'static str,
        /// The load's name.
        load: &'static str,
    },
    /// Two levels for the same kind of request.
    #[error("--consistency takes one level for {kind}s, not two")]
    ConsistencyTwice {
        /// "read" or "write".
        kind: &'static str,
    },
    /// A stamped value needs room for the stamp.
    #[error("--verify needs --value-size of at least {min} bytes, for the stamp")]
    ValueTooSmallToVerify {
        /// Bytes a stamp takes.
        min: usize,
    },
    /// Threads without a client would idle, and make the report of threads a lie.
    #[error("--threads {threads} is more than --clients {clients}: some threads would have no client")]
    MoreThreadsThanClients {
        /// Threads asked for.
        threads: u32,
        /// Clients asked for.
        clients: u32,
    },
}

impl Cli {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn plan(self) -> Result<Plan, PlanError> {
        let (load, options, preload, allow_missing) = match self.command {
            Command::Write(options) => (Load::Write, options, false, false),
            Command::Read { options, reads } => (Load::Read, options, !reads.no_load, reads.allow_missing),
            Command::Mixed { options, reads, read_ratio } => {
                (Load::Mixed { read_ratio }, options, !reads.no_load, reads.allow_missing)
            }
        };
        let (write_level, read_level) = levels(load, &options.consistency)?;
        // Lossless: a value's size is at most VALUE_BYTES_MAX, and usize has 64 bits here.
        let value_bytes = options.value_size as usize;
        if options.verify && value_bytes < values::STAMP_BYTES {
            return Err(PlanError::ValueTooSmallToVerify { min: values::STAMP_BYTES });
        }
        if options.threads > options.clients {
            return Err(PlanError::MoreThreadsThanClients {
                threads: options.threads,
                clients: options.clients,
            });
        }
        let distribution = match options.distribution {
            DistributionName::Uniform => Distribution::Uniform,
            DistributionName::Zipf => Distribution::Zipf { exponent: options.zipf_exponent },
            DistributionName::Sequential => Distribution::Sequential,
        };
        Ok(Plan {
            load,
            endpoints: options.endpoints,
            value_bytes,
            clients: options.clients,
            pipeline: options.pipeline,
            window: options.seconds,
            warmup: options.warmup,
            rate: options.rate.and_then(Rate::per_second),
            keys: options.keys,
            distribution,
            write_level,
            read_level,
            preload,
            allow_missing,
            verify: options.verify,
            seed: options.seed,
            threads: options.threads,
            request_timeout: Duration::from_millis(options.timeout_ms),
            json: options.json,
            svg: options.svg,
            progress: options.progress,
        })
    }
}

fn levels(load: Load, given: &[Consistency]) -> Result<(WriteLevel, ReadLevel), PlanError> {
    let (mut write, mut read) = (None, None);
    for &level in given {
        let (kind, used, twice) = match level {
            Consistency::Strong => ("write", load.writes(), write.replace(WriteLevel::Strong).is_some()),
            Consistency::Leader => ("write", load.writes(), write.replace(WriteLevel::Leader).is_some()),
            Consistency::Eventual => ("write", load.writes(), write.replace(WriteLevel::Eventual).is_some()),
            Consistency::Linearizable => {
                ("read", load.reads(), read.replace(ReadLevel::Linearizable).is_some())
            }
            Consistency::Follower => ("read", load.reads(), read.replace(ReadLevel::Follower).is_some()),
            Consistency::Stale => ("read", load.reads(), read.replace(ReadLevel::Stale).is_some()),
        };
        if !used {
            let level = format!("{level:?}").to_lowercase();
            return Err(PlanError::ConsistencyWithoutUse { level, kind, load: load.name() });
        }
        if twice {
            return Err(PlanError::ConsistencyTwice { kind });
        }
    }
    Ok((write.unwrap_or(WriteLevel::Strong), read.unwrap_or(ReadLevel::Linearizable)))
}

fn parse_endpoint(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (host, port) = text.rsplit_once(':').ok_or("not host:port")?;
    if host.is_empty() {
        return Err("the host is missing before the colon".into());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text.to_owned()),
        _ => Err(format!("{port:?} is not a port")),
    }
}

fn parse_number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(|| "not a number".to_owned())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    parse_between(text, 0.001, SECONDS_MAX).map(Duration::from_secs_f64)
}

fn parse_warmup(text: &str) -> Result<Duration, String> {
    parse_between(text, 0.0, SECONDS_MAX).map(Duration::from_secs_f64)
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    parse_between(text, 0.0, 1.0)
}

fn parse_exponent(text: &str) -> Result<f64, String> {
    parse_between(text, 0.0, 10.0)
}

fn parse_between(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let number = parse_number(text)?;
    if (low..=high).contains(&number) { Ok(number) } else { Err(format!("must be from {low} to {high}")) }
}

#[cfg(test)]
pub mod tests;
