//! `ringkv admin`: changes to the replicas of a shard, and a look at them; the same for the cluster as a whole
//! (`admin/cluster`).
//!
//! A change is sent once. With `--wait` its effect is then watched for in the shard's own description, so that what is
//! reported done is what the group says, not what was asked of it.

mod cluster;
mod describe;
mod goal;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use engine::driver::executor;
use net::protocol::{AdminAccepted, Refusal, ShardDescription};
use net::{Client, ClientConfig, ClientError};
use serde_json::json;

use super::{Output, UNKNOWN, on_executor};
use goal::Goal;

/// Exit code: refused, nothing was changed.
const REFUSED: u8 = 1;
/// Between two looks at a shard that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// After so long without a sign of it a change that a new leader may not know of is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Longest wait for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Give a node a replica of a shard: it learns first, then votes.
    AddReplica(OnNode),
    /// Take a node's replica of a shard away; its data are deleted.
    RemoveReplica(OnNode),
    /// Hand the leadership of a shard to a node, or to whichever is best placed.
    TransferLeader {
        /// The node to lead; any that fits when not given.
        #[arg(long)]
        node: Option<u64>,
        #[command(flatten)]
        change: Change,
    },
    /// Take a snapshot of a shard on its leader.
    Snapshot(Change),
    /// Drop what no replica needs any more from the logs of a shard.
    Compact(Change),
    /// Show the replicas of a shard, or of all, as their leaders see them.
    Describe {
        /// The shard; all of them when not given.
        #[arg(long)]
        shard: Option<u32>,
        #[command(flatten)]
        access: Access,
    },
    #[command(flatten)]
    Topology(cluster::Topology),
}

#[derive(Debug, Args)]
pub struct OnNode {
    /// The node.
    #[arg(long)]
    node: u64,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub struct Change {
    /// The shard.
    #[arg(long)]
    shard: u32,
    /// Wait until it is done.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
pub struct Access {
    /// Binary addresses of some or all nodes.
    #[arg(long, value_delimiter = ',', env = "RINGKV_ENDPOINTS", default_value = "127.0.0.1:7051")]
    endpoints: Vec<String>,
    /// Seconds until it is given up, waiting included.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// How to print the outcome.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What is asked of the cluster.
#[derive(Clone, Copy, Debug)]
enum Action {
    AddReplica(u64),
    RemoveReplica(u64),
    TransferLeader(Option<u64>),
    Snapshot,
    Compact,
}

/// Does what was asked for.
pub fn run(admin: Admin) -> Result<ExitCode> {
    let (action, change) = match admin {
        Admin::AddReplica(OnNode { node, change }) => (Action::AddReplica(node), change),
        Admin::RemoveReplica(OnNode { node, change }) => (Action::RemoveReplica(node), change),
        Admin::TransferLeader { node, change } => (Action::TransferLeader(node), change),
        Admin::Snapshot(change) => (Action::Snapshot, change),
        Admin::Compact(change) => (Action::Compact, change),
        Admin::Describe { shard, access } => {
            return on_executor(async move || {
                describe::run(&connect(&access).await?, shard, access.output).await
            });
        }
        Admin::Topology(topology) => return cluster::run(topology),
    };
    on_executor(async move || carry_out(action, change).await)
}

async fn connect(access: &Access) -> Result<Client> {
    let timeout = Duration::from_secs(access.timeout);
    let config = ClientConfig {
        request_timeout: timeout.min(ANSWER_MAX),
        ..ClientConfig::new(access.endpoints.clone())
    };
    Ok(Client::connect(config).await?)
}

async fn carry_out(action: Action, change: Change) -> Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(change.access.timeout);
    let client = connect(&change.access).await?;
    let shard = change.shard;
    let known = client.cluster_map();
    if let Action::AddReplica(node) | Action::TransferLeader(Some(node)) = action
        && known.node(node).is_none()
    {
        let nodes: Vec<String> = known.nodes.iter().map(|node| node.id.to_string()).collect();
        eprintln!(
            "ringkv: the cluster has no node {node}, its nodes are {}; give one of them with --node",
            nodes.join(", ")
        );
        return Ok(ExitCode::from(REFUSED));
    }
    // Who leads now, so that "anyone else" can be recognised.
    let former = match action {
        Action::TransferLeader(None) if change.wait => match client.describe_shard(shard).await {
            Ok(described) => Some(described.node),
            Err(error) => return refused(shard, error),
        },
        _ => None,
    };
    let accepted = match submit(&client, shard, action).await {
        Ok(accepted) => accepted,
        Err(error) => return refused(shard, error),
    };
    let goal = Goal::of(action, accepted, former);
    if !change.wait {
        report(shard, &goal, accepted, None, change.access.output);
        return Ok(ExitCode::SUCCESS);
    }
    match wait(&client, shard, action, &goal, deadline).await {
        Ok(described) => {
            report(shard, &goal, accepted, Some(&described), change.access.output);
            Ok(ExitCode::SUCCESS)
        }
        Err(last) => {
            let (seconds, advice) = (change.access.timeout, goal.advice());
            eprintln!("ringkv: shard {shard}: not done after {seconds} s: {last}. {advice}");
            Ok(ExitCode::from(UNKNOWN))
        }
    }
}

async fn submit(client: &Client, shard: u32, action: Action) -> Result<AdminAccepted, ClientError> {
    match action {
        Action::AddReplica(node) => client.add_replica(shard, node).await,
        Action::RemoveReplica(node) => client.remove_replica(shard, node).await,
        Action::TransferLeader(node) => client.transfer_leader(shard, node).await,
        Action::Snapshot => client.take_snapshot(shard).await,
        Action::Compact => client.compact(shard).await,
    }
}

/// Looks until the goal is reached or the time is up; then the last that was seen.
async fn wait(
    client: &Client,
    shard: u32,
    action: Action,
    goal: &Goal,
    deadline: Instant,
) -> Result<ShardDescription, String> {
    let (mut asked, mut told) = (Instant::now(), String::new());
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seen = match executor::within(left, client.describe_shard(shard)).await {
            Some(Ok(described)) if goal.is_reached(&described) => return Ok(described),
            Some(Ok(described)) => {
                if goal.may_be_forgotten(&described) && asked.elapsed() >= ASK_AGAIN {
                    // Refused where it has not been forgotten after all.
                    let _ = executor::within(left, submit(client, shard, action)).await;
                    asked = Instant::now();
                }
                goal.distance(&described)
            }
            // A shard between two leaders answers again soon.
            Some(Err(error)) => error.to_string(),
            None if told.is_empty() => "the shard's leader did not answer".to_owned(),
            None => told.clone(),
        };
        if Instant::now() + LOOK_EVERY >= deadline {
            return Err(seen);
        }
        if seen != told {
            eprintln!("shard {shard}: {seen}");
            told = seen;
        }
        executor::pause(LOOK_EVERY).await;
    }
}

fn report(shard: u32, goal: &Goal, accepted: AdminAccepted, done: Option<&ShardDescription>, output: Output) {
    match output {
        Output::Text => {
            println!("shard {shard}: {}", if done.is_some() { goal.done() } else { goal.begun() })
        }
        Output::Json => {
            let AdminAccepted { index, node } = accepted;
            let shard_now = done.map(describe::json);
            println!(
                "{}",
                json!({"shard": shard, "begun": true, "done": done.is_some(), "index": index, "node": node,
                    "description": shard_now})
            );
        }
    }
}

/// Says why a change was not made, or may not have been.
fn refused(shard: u32, error: ClientError) -> Result<ExitCode> {
    match error {
        ClientError::Refused(Refusal::Conflict { why } | Refusal::Invalid { why }) => {
            eprintln!("ringkv: shard {shard}: refused, nothing was changed: {why}");
            Ok(ExitCode::from(REFUSED))
        }
        ClientError::Indeterminate { cause } => {
            eprintln!(
                "ringkv: shard {shard}: whether it has begun is not known ({cause}): look with `ringkv admin describe \
                 --shard {shard}` before you repeat it"
            );
            Ok(ExitCode::from(UNKNOWN))
        }
        other => Err(failure(shard, &other)),
    }
}

/// Why nothing could be asked.
fn failure(shard: u32, error: &ClientError) -> anyhow::Error {
    match error {
        ClientError::NoSuchShard => {
            anyhow!("the cluster has no shard {shard}; `ringkv status` lists them")
        }
        ClientError::TimedOut { last } => anyhow!(
            "shard {shard}: its leader did not answer in time ({last}), nothing was changed; `ringkv status` shows which \
             nodes are up: a shard needs a majority of its voters to have a leader"
        ),
        other => anyhow!("shard {shard}: {other}"),
    }
}
