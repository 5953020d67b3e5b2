//! `ringkv status` and `ringkv watch-status`: ask every node for its account of itself and put them together.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use engine::driver::executor;
use net::Client;
use serde_json::{Value, json};

use super::{Cluster, Output, on_executor};

#[derive(Debug, Args)]
pub struct Status {
    #[command(flatten)]
    cluster: Cluster,
    /// How to print it.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Status {
    /// Prints the cluster's status; exit code 1 unless all is well.
    pub(super) fn run(self) -> Result<ExitCode> {
        on_executor(async move || {
            let client = self.cluster.connect().await?;
            let report = look(&client).await;
            report.show(self.output);
            Ok(report.exit_code())
        })
    }
}

#[derive(Debug, Args)]
pub struct Watch {
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Stop after so many looks.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    status: Status,
}

impl Watch {
    /// Prints the status again and again.
    pub(super) fn run(self) -> Result<ExitCode> {
        on_executor(async move || {
            let Status { cluster, output } = self.status;
            let client = cluster.connect().await?;
            let screen = output == Output::Text && std::io::stdout().is_terminal();
            let mut looks = 0;
            loop {
                let report = look(&client).await;
                if screen {
                    // Clears it, and begins at its top.
                    print!("\x1b[2J\x1b[H");
                }
                report.show(output);
                looks += 1;
                if self.count.is_some_and(|count| looks >= count) {
                    return Ok(report.exit_code());
                }
                executor::pause(Duration::from_secs(self.interval)).await;
            }
        })
    }
}

/// Asks all nodes.
async fn look(client: &Client) -> Report {
    let map = client.cluster_map();
    let asked = map.nodes.iter().map(|node| {
        let (client, id, address) = (client.clone(), node.id, node.binary_addr.clone());
        async move {
            let answer = match client.status(&address).await {
                Ok(bytes) => serde_json::from_slice::<Value>(&bytes).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            (id, (address, answer))
        }
    });
    let nodes = executor::together(asked).await.into_iter().collect();
    Report::new(map.shards.iter().map(|shard| shard.id).collect(), nodes)
}

struct Report {
    shards: Vec<u32>,
    nodes: BTreeMap<u64, (String, Result<Value, String>)>,
    /// Leader of each shard, as the leader itself says.
    leaders: BTreeMap<u32, (u64, u64)>,
}

impl Report {
    fn new(shards: Vec<u32>, nodes: BTreeMap<u64, (String, Result<Value, String>)>) -> Report {
        let mut leaders: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for (id, shard) in nodes.iter().flat_map(|(id, (_, status))| replicas(status).map(move |s| (*id, s)))
        {
            let number = u32::try_from(field(shard, "shard")).unwrap_or(u32::MAX);
            let term = field(shard, "term");
            // A deposed leader may not know yet: the newest term counts.
            let newer = leaders.get(&number).is_none_or(|(_, known)| term > *known);
            if shard["role"] == "leader" && newer {
                leaders.insert(number, (id, term));
            }
        }
        Report { shards, nodes, leaders }
    }

    fn show(&self, output: Output) {
        match output {
            Output::Text => self.print(),
            Output::Json => println!("{}", self.json()),
        }
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(!self.is_well()))
    }

    fn is_well(&self) -> bool {
        self.nodes.values().all(|(_, status)| status.is_ok())
            && self.shards.iter().all(|shard| self.leaders.contains_key(shard))
    }

    fn json(&self) -> Value {
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|(id, (address, status))| match status {
                Ok(status) => json!({"id": id, "address": address, "up": true, "status": status}),
                Err(error) => json!({"id": id, "address": address, "up": false, "error": error}),
            })
            .collect();
        let shards: Vec<Value> = self
            .shards
            .iter()
            .map(|shard| {
                let leader = self.leaders.get(shard).map(|(node, _)| node);
                json!({"id": shard, "leader": leader, "members": self.members(*shard)})
            })
            .collect();
        json!({"well": self.is_well(), "nodes": nodes, "shards": shards})
    }

    /// The nodes with a replica of a shard, as its leader says; none when there is no leader.
    fn members(&self, shard: u32) -> Vec<u64> {
        let leader = self.leaders.get(&shard).and_then(|(node, _)| self.nodes.get(node));
        let of_shard = |replica: &&Value| field(replica, "shard") == u64::from(shard);
        let told = leader.and_then(|(_, status)| replicas(status).find(of_shard));
        let nodes = told.and_then(|replica| replica["members"].as_array());
        nodes.into_iter().flatten().filter_map(Value::as_u64).collect()
    }

    fn print(&self) {
        println!(
            "{:>5}  {:<22} {:>6} {:>8} {:>12} {:>10}",
            "node", "address", "leads", "replicas", "requests", "log MiB"
        );
        for (id, (address, status)) in &self.nodes {
            let leads = self.leaders.values().filter(|(node, _)| node == id).count();
            match status {
                Ok(status) => {
                    let total = |path: &str| {
                        cores(status)
                            .map(|core| core.pointer(path).and_then(Value::as_u64).unwrap_or(0))
                            .sum::<u64>()
                    };
                    println!(
                        "{id:>5}  {address:<22} {leads:>6} {:>8} {:>12} {:>10}",
                        replicas_of(status).count(),
                        total("/counters/requests"),
                        total("/wal_disk_bytes") >> 20
                    );
                }
                Err(error) => println!("{id:>5}  {address:<22} down: {error}"),
            }
        }
        println!(
            "{:>5}  {:>6} {:>6}  {:<12}  {:<}",
            "shard", "leader", "term", "replicas on", "applied / committed on each node"
        );
        for shard in &self.shards {
            let (leader, term) = match self.leaders.get(shard) {
                Some((leader, term)) => (leader.to_string(), term.to_string()),
                None => ("none".to_owned(), "-".to_owned()),
            };
            let progress: Vec<String> = self
                .nodes
                .iter()
                .flat_map(|(id, (_, status))| replicas(status).map(move |replica| (id, replica)))
                .filter(|(_, replica)| field(replica, "shard") == u64::from(*shard))
                .map(|(id, replica)| {
                    format!("{id}: {}/{}", field(replica, "applied"), field(replica, "committed"))
                })
                .collect();
            let members: Vec<String> = self.members(*shard).iter().map(u64::to_string).collect();
            let members = if members.is_empty() { "-".to_owned() } else { members.join(",") };
            println!("{shard:>5}  {leader:>6} {term:>6}  {members:<12}  {}", progress.join("  "));
        }
    }
}

fn cores(status: &Value) -> impl Iterator<Item = &Value> {
    status["cores"].as_array().into_iter().flatten()
}

fn replicas_of(status: &Value) -> impl Iterator<Item = &Value> {
    cores(status).flat_map(|core| core["shards"].as_array().into_iter().flatten())
}

fn replicas(status: &Result<Value, String>) -> impl Iterator<Item = &Value> {
    status.iter().flat_map(replicas_of)
}

fn field(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}
