//! `CLUSTER`: the map in the forms that cluster clients read. A node is a master for the slots that it leads; other nodes
//! with a replica of them that lead nothing are its replicas there.

use std::fmt::Write;

use bytes::Bytes;
use net::map::{ClusterMap, NodeInfo, ShardInfo, SlotRange};
use net::resp::Value;
use net::slot::slot_of;

use super::connection::text;
use super::session::Node;

const NO_LEADER: &str = "CLUSTERDOWN Hash slot not served";

/// Where a client finds a slot that is not served here; or that nobody serves it now.
pub fn moved(slot: u16, leader: Option<u64>, node: &dyn Node) -> String {
    let address = leader.and_then(|leader| node.cluster_address(leader));
    address.map_or_else(|| NO_LEADER.to_owned(), |address| format!("MOVED {slot} {address}"))
}

pub(super) fn cluster(subcommand: &str, args: &[Bytes], node: &dyn Node) -> Value {
    match subcommand {
        "keyslot" => Value::Integer(slot_of(&args[2]).into()),
        "myid" => Value::bulk(name_of(node.id())),
        "slots" => slots(&node.map()),
        "shards" => shards(&node.map()),
        "nodes" => text(nodes(&node.map(), node.id())),
        "info" => text(info(&node.map())),
        _ => Value::Array(HELP.iter().map(|line| Value::Simple((*line).into())).collect()),
    }
}

const HELP: &[&str] = &[
    "CLUSTER <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "COUNTKEYSINSLOT <slot>",
    "    Return the number of keys in <slot>.",
    "GETKEYSINSLOT <slot> <count>",
    "    Return key names stored by current node in a slot.",
    "INFO",
    "    Return information about the cluster.",
    "KEYSLOT <key>",
    "    Return the hash slot for <key>.",
    "MYID",
    "    Return the node id.",
    "NODES",
    "    Return cluster configuration seen by node. Output format:",
    "    <id> <ip:port> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
    "SLOTS",
    "    Return information about slots range mappings.",
    "SHARDS",
    "    Return information about slot range mappings and the nodes associated with them.",
    "HELP",
    "    Prints this help.",
];

/// Node ids are forty hexadecimal digits to Redis clients.
fn name_of(node: u64) -> String {
    format!("{node:040x}")
}

/// Host and port of the door that redirects; `None` where it is closed.
fn endpoint(node: &NodeInfo) -> Option<(&str, u16)> {
    let (host, port) = node.resp_cluster_addr.as_ref()?.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

/// The shards that hold keys, by slots, with the nodes that clients can reach: the leader and the others.
fn served(map: &ClusterMap) -> Vec<(SlotRange, &ShardInfo)> {
    let mut served: Vec<_> = map.shards.iter().filter_map(|shard| Some((shard.slots?, shard))).collect();
    served.sort_by_key(|(slots, _)| slots.first);
    served
}

fn replicas<'a>(map: &'a ClusterMap, shard: &'a ShardInfo) -> impl Iterator<Item = &'a NodeInfo> {
    // To clients a node has one role: one that is told as a replica anywhere is not asked for the keys it leads.
    let leads = |node| map.shards.iter().any(|shard| shard.slots.is_some() && shard.leader == Some(node));
    let others = shard.replicas.iter().filter(move |replica| !leads(replica.node));
    others.filter_map(|replica| map.node(replica.node))
}

fn bulk(text: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

fn slots(map: &ClusterMap) -> Value {
    let described = |node: &NodeInfo| {
        let (host, port) = endpoint(node)?;
        let metadata = Value::Array(Vec::new());
        let name = Value::bulk(name_of(node.id));
        Some(Value::Array(vec![bulk(host), Value::Integer(port.into()), name, metadata]))
    };
    let entries = served(map).into_iter().filter_map(|(slots, shard)| {
        // Clients want every slot to be somebody's. Without a leader it is one that will say who it is.
        let owner = shard.leader.or_else(|| shard.replicas.first().map(|replica| replica.node))?;
        let leader = described(map.node(owner)?)?;
        let range = [Value::Integer(slots.first.into()), Value::Integer(slots.last.into()), leader];
        let others = replicas(map, shard).filter(|node| node.id != owner).filter_map(described);
        Some(Value::Array(range.into_iter().chain(others).collect()))
    });
    Value::Array(entries.collect())
}

fn shards(map: &ClusterMap) -> Value {
    let described = |node: &NodeInfo, role: &str| {
        let (host, port) = endpoint(node)?;
        Some(Value::Map(vec![
            (bulk("id"), Value::bulk(name_of(node.id))),
            (bulk("port"), Value::Integer(port.into())),
            (bulk("ip"), bulk(host)),
            (bulk("endpoint"), bulk(host)),
            (bulk("role"), bulk(role)),
            (bulk("replication-offset"), Value::Integer(0)),
            (bulk("health"), bulk("online")),
        ]))
    };
    let entries = served(map).into_iter().map(|(slots, shard)| {
        let leader =
            shard.leader.and_then(|leader| map.node(leader)).and_then(|node| described(node, "master"));
        let others = replicas(map, shard).filter_map(|node| described(node, "replica"));
        let slots = vec![Value::Integer(slots.first.into()), Value::Integer(slots.last.into())];
        Value::Map(vec![
            (bulk("slots"), Value::Array(slots)),
            (bulk("nodes"), Value::Array(leader.into_iter().chain(others).collect())),
        ])
    });
    Value::Array(entries.collect())
}

/// Ranges of slots that a node leads, neighbours joined.
fn led(map: &ClusterMap, node: u64) -> Vec<SlotRange> {
    let mut ranges: Vec<SlotRange> = Vec::new();
    for (slots, _) in served(map).into_iter().filter(|(_, shard)| shard.leader == Some(node)) {
        match ranges.last_mut() {
            Some(last) if last.last + 1 == slots.first => last.last = slots.last,
            _ => ranges.push(slots),
        }
    }
    ranges
}

fn nodes(map: &ClusterMap, myself: u64) -> String {
    let mut lines = String::new();
    for node in &map.nodes {
        let Some((host, port)) = endpoint(node) else { continue };
        let bus = node.peer_addr.rsplit_once(':').map_or("0", |(_, port)| port);
        let flags = if node.id == myself { "myself,master" } else { "master" };
        let name = name_of(node.id);
        write!(lines, "{name} {host}:{port}@{bus} {flags} - 0 0 {} connected", map.epoch).expect("a string");
        for SlotRange { first, last } in led(map, node.id) {
            match first == last {
                true => write!(lines, " {first}"),
                false => write!(lines, " {first}-{last}"),
            }
            .expect("a string");
        }
        lines.push('\n');
    }
    lines
}

fn info(map: &ClusterMap) -> String {
    let served = served(map);
    let slots = |with_leader: bool| {
        let counted = served.iter().filter(|(_, shard)| !with_leader || shard.leader.is_some());
        counted.map(|(slots, _)| u32::from(slots.last - slots.first) + 1).sum::<u32>()
    };
    let (assigned, ok) = (slots(false), slots(true));
    let size = map.nodes.iter().filter(|node| !led(map, node.id).is_empty()).count();
    let state = if assigned == ok && ok > 0 { "ok" } else { "fail" };
    format!(
        "cluster_state:{state}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{ok}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{}\r\ncluster_known_nodes:{}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{epoch}\r\n",
        assigned - ok,
        map.nodes.len(),
        epoch = map.epoch,
    )
}
