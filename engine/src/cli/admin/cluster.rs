//! `ringkv admin map|join|leave|move|rebalance|split`: the cluster's nodes, and where its shards are.
//!
//! A change is sent once, and is in the map when it is answered; the shards then move by themselves, whether or not anyone
//! looks. With `--watch` the map is looked at until nothing is on its way or waits any more.

mod account;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use engine::config::Config;
use engine::placement;
use net::map::NodeInfo;
use net::protocol::{ClusterAccount, ClusterOp, Refusal};
use net::{Client, ClientError};

use super::super::{Output, UNKNOWN, on_executor};
use super::{Access, REFUSED, connect};
use watch::{GivenUp, Goal};

#[derive(Debug, Subcommand)]
pub enum Topology {
    /// Show the nodes, where the shards are, and what is on its way.
    Map {
        /// As the map was at this epoch.
        #[arg(long)]
        epoch: Option<u64>,
        #[command(flatten)]
        access: Access,
    },
    /// Tell the cluster of a node as its configuration describes it: take it in, or note its new addresses.
    ///
    /// A node does this by itself: start a fresh one with `ringkv serve --config FILE --join ADDR`, ADDR being the binary
    /// address of any node of the cluster; started anew, it tells the others what has changed.
    Join {
        /// The node's configuration.
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        change: Change,
    },
    /// Let a node give all its replicas away, and forget it.
    Leave {
        /// The node.
        node: u64,
        /// Let it stay after all: an earlier `leave` is taken back.
        #[arg(long)]
        stay: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Put a shard on these nodes and keep it there.
    Move {
        /// The shard.
        shard: u32,
        /// The nodes, first the one that is to lead: 2,3,4.
        #[arg(value_delimiter = ',', num_args = 1, required = true)]
        nodes: Vec<u64>,
        #[command(flatten)]
        change: Change,
    },
    /// Spread all shards evenly over the nodes, those that were moved by hand among them.
    Rebalance {
        #[command(flatten)]
        change: Change,
    },
    /// Cut a shard in two.
    Split {
        /// The shard.
        shard: u32,
        /// The first slot of the new shard; in the middle when not given.
        #[arg(long)]
        at: Option<u16>,
        #[command(flatten)]
        change: Change,
    },
}

#[derive(Debug, Args)]
pub struct Change {
    /// Only show what would be done.
    #[arg(long, conflicts_with = "watch")]
    dry_run: bool,
    /// Show how far it is until nothing moves any more; given up only when the cluster does not answer for --timeout
    /// seconds.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    access: Access,
}

/// Does what was asked for.
pub fn run(topology: Topology) -> Result<ExitCode> {
    let (op, change) = match topology {
        Topology::Map { epoch, access } => return on_executor(async move || show(epoch, &access).await),
        Topology::Join { config, change } => {
            let config = Config::load(&config)?;
            let node = placement::cluster_map(&config).node(config.node.id).cloned();
            let node = node.expect("validated: the configuration lists its own node");
            if change.dry_run {
                return on_executor(async move || would_join(&node, &change.access).await);
            }
            (ClusterOp::Join { node }, change)
        }
        Topology::Leave { node, stay, change } => {
            (ClusterOp::Leave { node, stay, dry_run: change.dry_run }, change)
        }
        Topology::Move { shard, nodes, change } => {
            (ClusterOp::Move { shard, nodes, dry_run: change.dry_run }, change)
        }
        Topology::Rebalance { change } => (ClusterOp::Rebalance { dry_run: change.dry_run }, change),
        Topology::Split { shard, at, change } => {
            (ClusterOp::Split { shard, at, dry_run: change.dry_run }, change)
        }
    };
    on_executor(async move || carry_out(op, change).await)
}

async fn show(epoch: Option<u64>, access: &Access) -> Result<ExitCode> {
    let client = connect(access).await?;
    match client.cluster(ClusterOp::Map { epoch }).await {
        Ok(account) => {
            match access.output {
                Output::Text => print!("{}", account::text(&account, epoch.is_none())),
                Output::Json => println!("{}", account::json(&account)),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => refused(error),
    }
}

/// What taking a node in would change, from the map: no shard moves before it is in.
async fn would_join(node: &NodeInfo, access: &Access) -> Result<ExitCode> {
    let client = connect(access).await?;
    match client.cluster(ClusterOp::Map { epoch: None }).await {
        Ok(account) => {
            if let Some(why) = account.map.as_ref().and_then(|map| account::cannot_join(node, map)) {
                return refused(ClientError::Refused(Refusal::Conflict { why }));
            }
            let known = account.map.as_ref().and_then(|map| map.node(node.id));
            match access.output {
                Output::Text => println!("{}", account::would_join(node, known)),
                Output::Json => println!("{}", account::would_join_json(node, known)),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => refused(error),
    }
}

async fn carry_out(op: ClusterOp, change: Change) -> Result<ExitCode> {
    let client = connect(&change.access).await?;
    let account = match client.cluster(op.clone()).await {
        Ok(account) => account,
        Err(error) => return refused(error),
    };
    let output = change.access.output;
    if change.dry_run || !change.watch {
        report(&op, &account, change.dry_run, output);
        return Ok(ExitCode::SUCCESS);
    }
    if output == Output::Text {
        report(&op, &account, false, output);
    }
    let goal = Goal::of(&op, &account);
    match watch::until(&client, &goal, account, change.access.timeout).await {
        Ok(account) => {
            match output {
                Output::Text => println!("{}", goal.done()),
                Output::Json => println!("{}", account::change_json(&account, true)),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(GivenUp::Void(why)) => {
            eprintln!("ringkv: {why}");
            Ok(ExitCode::from(REFUSED))
        }
        Err(GivenUp::Unanswered(last)) => {
            eprintln!(
                "ringkv: the cluster has not answered for {} s ({last}); the shards move on by themselves: look with \
                 `ringkv admin map`",
                change.access.timeout
            );
            Ok(ExitCode::from(UNKNOWN))
        }
    }
}

fn report(op: &ClusterOp, account: &ClusterAccount, dry_run: bool, output: Output) {
    match output {
        Output::Text => print!("{}", account::change_text(op, account, dry_run)),
        Output::Json => println!("{}", account::change_json(account, false)),
    }
}

/// Says why a change was not made, or may not have been.
fn refused(error: ClientError) -> Result<ExitCode> {
    match error {
        ClientError::Refused(Refusal::Conflict { why } | Refusal::Invalid { why }) => {
            eprintln!("ringkv: refused, nothing was changed: {why}");
            Ok(ExitCode::from(REFUSED))
        }
        ClientError::Indeterminate { cause } => {
            eprintln!(
                "ringkv: whether it was done is not known ({cause}): look with `ringkv admin map` before you repeat it"
            );
            Ok(ExitCode::from(UNKNOWN))
        }
        ClientError::TimedOut { last } => Err(anyhow!(
            "the leader of the meta shard did not answer in time ({last}), nothing was changed; `ringkv status` shows which \
             nodes are up: shard 0 needs a majority of its voters to have a leader"
        )),
        other => Err(other.into()),
    }
}

/// Asks how the cluster is.
async fn look(client: &Client) -> Result<ClusterAccount, ClientError> {
    client.cluster(ClusterOp::Map { epoch: None }).await
}
