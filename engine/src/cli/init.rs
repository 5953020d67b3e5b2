//! `ringkv init`: the shipped configuration with all its comments, the values given filled in.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use engine::config::Config;
use toml_edit::{DocumentMut, Item, Table, Value, value};

/// What ships with the sources: three nodes on this machine.
pub(super) const SHIPPED: &str = include_str!("../../../ringkv.toml");

#[derive(Debug, Args)]
pub struct Init {
    /// The file to write; `-` for standard output. One that is there is never overwritten.
    #[arg(default_value = "ringkv.toml")]
    file: PathBuf,
    /// A node of the cluster; give all of them. PORT is that of the binary protocol (7051 when not given); the other
    /// doors lie at fixed distances from it: peers + 10, Redis + 56740, Redis Cluster + 57740, HTTP + 1030.
    #[arg(long = "node", value_name = "ID=IP[:PORT]", value_parser = node)]
    nodes: Vec<Node>,
    /// Which of the nodes this configuration is for.
    #[arg(long, default_value_t = 1)]
    id: u64,
    /// The address this node binds, when it is not the one that others reach it at: 0.0.0.0, for instance.
    #[arg(long)]
    bind: Option<IpAddr>,
    /// Folder of everything the node stores.
    #[arg(long)]
    data_dir: Option<String>,
    /// Name of the cluster.
    #[arg(long)]
    cluster: Option<String>,
    /// Executors of each node.
    #[arg(long)]
    cores: Option<u32>,
    /// Raft groups that hold keys; fixed when the cluster is created.
    #[arg(long)]
    shards: Option<u32>,
    /// Replicas each shard begins with; 0: one on every node.
    #[arg(long)]
    replicas: Option<u32>,
    /// The storage engine.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// What Redis clients must give with AUTH.
    #[arg(long)]
    password: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    Rocksdb,
    Memory,
}

/// A node and its binary address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node {
    id: u64,
    address: SocketAddr,
}

const PORT: u16 = 7051;
/// The doors of a node, and how far their ports lie from that of the binary protocol.
const DOORS: [(&str, u16); 5] =
    [("binary", 0), ("peer", 10), ("resp", 56_740), ("resp_cluster", 57_740), ("http", 1_030)];

fn node(argument: &str) -> Result<Node, String> {
    let (id, place) = argument.split_once('=').ok_or("write ID=IP or ID=IP:PORT, such as 1=10.0.0.1")?;
    let id = id.parse().map_err(|_| format!("`{id}` is no number of a node"))?;
    let address = place
        .parse::<SocketAddr>()
        .or_else(|_| place.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)))
        .map_err(|_| format!("`{place}` is no IP address, with or without a port"))?;
    let (_, farthest) = DOORS[3];
    if address.port() == 0 || address.port().checked_add(farthest).is_none() {
        return Err(format!(
            "give a port from 1 to {}, so that the other doors have theirs",
            u16::MAX - farthest
        ));
    }
    Ok(Node { id, address })
}

impl Init {
    pub(super) fn run(self) -> Result<ExitCode> {
        let text = self.text()?;
        if self.file == Path::new("-") {
            print!("{text}");
            return Ok(ExitCode::SUCCESS);
        }
        let path = self.file.display();
        let mut file = match OpenOptions::new().write(true).create_new(true).open(&self.file) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{path} exists and is left as it is; name another file")
            }
            other => other.with_context(|| format!("cannot write {path}"))?,
        };
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {path}"))?;
        println!(
            "wrote {path}; look at it, run `ringkv doctor --config {path}`, then `ringkv serve --config {path}`"
        );
        Ok(ExitCode::SUCCESS)
    }

    /// The configuration; an error where the values given make none.
    fn text(&self) -> Result<String> {
        let mut document: DocumentMut =
            SHIPPED.parse().context("the shipped configuration cannot be read")?;
        self.fill_cluster(&mut document)?;
        let own = own_addresses(&document, self.id)?;
        let given = self.bind;
        for (door, address) in own {
            let bound = SocketAddr::new(given.unwrap_or(address.ip()), address.port());
            set(&mut document, "listen", door, bound.to_string());
        }
        set(&mut document, "node", "id", whole(self.id)?);
        let data_dir = self.data_dir.clone().unwrap_or_else(|| format!("data/node-{}", self.id));
        set(&mut document, "node", "data_dir", data_dir);
        if let Some(cores) = self.cores {
            set(&mut document, "node", "cores", i64::from(cores));
        }
        if let Some(engine) = self.engine {
            let name = match engine {
                Engine::Rocksdb => "rocksdb",
                Engine::Memory => "memory",
            };
            set(&mut document, "storage", "engine", name);
        }
        if let Some(password) = &self.password {
            set(&mut document, "resp", "password", password.as_str());
        }
        let text = document.to_string();
        Config::parse(&text, &self.file).context("these values make no configuration")?;
        Ok(text)
    }

    fn fill_cluster(&self, document: &mut DocumentMut) -> Result<()> {
        if let Some(name) = &self.cluster {
            set(document, "cluster", "id", name.as_str());
        }
        for (key, number) in [("shards", self.shards), ("replicas", self.replicas)] {
            if let Some(number) = number {
                set(document, "cluster", key, i64::from(number));
            }
        }
        let tables = document["cluster"]["nodes"].as_array_of_tables_mut().context("the nodes are tables")?;
        if !self.nodes.is_empty() {
            // The first one carries the comments.
            while tables.len() > self.nodes.len() {
                tables.remove(tables.len() - 1);
            }
            while tables.len() < self.nodes.len() {
                // Tables are written in the order of their positions, which a copy shares.
                let like = tables.get(tables.len() - 1).cloned().unwrap_or_default();
                tables.push(like);
            }
            for (table, node) in tables.iter_mut().zip(&self.nodes) {
                put(table, "id", whole(node.id)?);
                for (door, distance) in DOORS {
                    let address = SocketAddr::new(node.address.ip(), node.address.port() + distance);
                    put(table, door, address.to_string());
                }
            }
        }
        if let Some(cores) = self.cores {
            tables.iter_mut().for_each(|table| put(table, "cores", i64::from(cores)));
        }
        Ok(())
    }
}

/// Where the others reach this node, door by door.
fn own_addresses(document: &DocumentMut, id: u64) -> Result<Vec<(&'static str, SocketAddr)>> {
    let id = whole(id)?;
    let tables = document["cluster"]["nodes"].as_array_of_tables().context("the nodes are tables")?;
    let own = tables.iter().find(|table| table.get("id").and_then(Item::as_integer) == Some(id));
    let own =
        own.with_context(|| format!("node {id} is not among the nodes; give it with --node {id}=IP"))?;
    let address = |(door, _): (&'static str, u16)| Some((door, own.get(door)?.as_str()?.parse().ok()?));
    Ok(DOORS.into_iter().filter_map(address).collect())
}

fn whole(number: u64) -> Result<i64> {
    i64::try_from(number).with_context(|| format!("{number} is too large a number"))
}

fn set(document: &mut DocumentMut, section: &str, key: &str, new: impl Into<Value>) {
    if let Some(table) = document[section].as_table_mut() {
        put(table, key, new);
    }
}

/// Replaces a value; the comment after it stays, and stays in its column where there is room.
fn put(table: &mut Table, key: &str, new: impl Into<Value>) {
    let mut new = new.into();
    if let Some(old) = table.get(key).and_then(Item::as_value) {
        let width = |value: &Value| value.clone().decorated("", "").to_string().len();
        let (before, after) = (width(old), width(&new));
        *new.decor_mut() = old.decor().clone();
        let comment = old.decor().suffix().and_then(|suffix| suffix.as_str()).unwrap_or_default();
        let spaces = comment.len() - comment.trim_start().len();
        if spaces > 0 {
            let spaces = (spaces + before).saturating_sub(after).max(1);
            new.decor_mut().set_suffix(format!("{:spaces$}{}", "", comment.trim_start()));
        }
    }
    table[key] = value(new);
}

#[cfg(test)]
mod tests {
    use super::super::{Arguments, Command};
    use super::*;
    use clap::Parser;

    fn init(arguments: &[&str]) -> Init {
        let line = ["ringkv", "init"].iter().chain(arguments);
        let Command::Init(init) = Arguments::try_parse_from(line).unwrap().command else { panic!("init") };
        init
    }

    fn config(arguments: &[&str]) -> Config {
        Config::parse(&init(arguments).text().unwrap(), Path::new("test")).unwrap()
    }

    #[test]
    fn without_arguments_it_is_what_ships() {
        assert_eq!(init(&[]).text().unwrap(), SHIPPED);
    }

    #[test]
    fn what_is_given_is_filled_in_and_every_comment_stays() {
        let given = ["--id", "2", "--node", "1=10.0.0.1", "--node", "2=10.0.0.2:7000", "--bind", "0.0.0.0"];
        let more = ["--cores", "4", "--shards", "64", "--engine", "memory", "--password", "se\"cret"];
        let all = [&given[..], &more[..]].concat();
        let made = config(&all);
        assert_eq!((made.node.id, made.node.cores, made.cluster.shards), (2, 4, 64));
        assert_eq!(made.listen.binary, "0.0.0.0:7000".parse().unwrap());
        assert_eq!(made.listen.peer, "0.0.0.0:7010".parse().unwrap());
        let addresses: Vec<_> = made.cluster.nodes.iter().map(|node| node.binary.as_str()).collect();
        assert_eq!(addresses, ["10.0.0.1:7051", "10.0.0.2:7000"]);
        let text = init(&all).text().unwrap();
        let comments = |text: &str| text.lines().filter(|line| line.contains('#')).count();
        assert_eq!(comments(&text), comments(SHIPPED));
    }

    #[test]
    fn clusters_of_other_sizes() {
        let nodes: Vec<String> = (1..=5).map(|id| format!("--node={id}=127.0.0.1:{}", 7050 + id)).collect();
        let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
        assert_eq!(config(&nodes).cluster.nodes.len(), 5);
        let text = init(&nodes).text().unwrap();
        let places: Vec<_> = (1..=5).map(|id| text.find(&format!("\nid = {id}\nbinary"))).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}");
        assert_eq!(config(&nodes[..1]).cluster.nodes.len(), 1);
    }

    #[test]
    fn what_makes_no_configuration_is_refused() {
        for arguments in [vec!["--id", "9"], vec!["--shards", "0"], vec!["--node=1=10.0.0.1", "--id", "2"]] {
            assert!(init(&arguments).text().is_err(), "{arguments:?}");
        }
        for wrong in ["10.0.0.1", "1=localhost", "1=10.0.0.1:65000", "x=10.0.0.1"] {
            assert!(node(wrong).is_err(), "{wrong}");
        }
    }
}
