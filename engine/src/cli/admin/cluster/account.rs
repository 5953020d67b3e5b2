//! The account of a cluster, for people and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;

use engine::topology::{Change, What};
use net::map::{ClusterMap, NodeInfo, ShardInfo};
use net::protocol::{ClusterAccount, ClusterOp, PlannedMove, StuckShard};
use serde_json::{Value, json};

/// The map as two tables. Of the present one it is told, too, what is on its way.
pub fn text(account: &ClusterAccount, present: bool) -> String {
    let mut out = String::new();
    let Some(map) = &account.map else { return format!("epoch {}\n", account.epoch) };
    write_nodes(&mut out, account, map, present)
        .and_then(|()| write_shards(&mut out, account, map, present))
        .expect("a string takes everything");
    out
}

fn write_nodes(
    out: &mut String,
    account: &ClusterAccount,
    map: &ClusterMap,
    present: bool,
) -> std::fmt::Result {
    let user_shards = map.shards.iter().filter(|shard| shard.slots.is_some()).count();
    writeln!(out, "epoch {}: {} nodes, {user_shards} shards", map.epoch, map.nodes.len())?;
    writeln!(
        out,
        "{:>5}  {:<22} {:>6} {:>9} {:>7}  {:<8}",
        "node", "address", "leads", "replicas", "weight", "zone"
    )?;
    for node in &map.nodes {
        let count = |counts: &std::collections::BTreeMap<u64, u32>| match present {
            true => counts.get(&node.id).copied().unwrap_or(0).to_string(),
            false => "-".to_owned(),
        };
        let mut notes = Vec::new();
        if node.leaving {
            notes.push("leaving".to_owned());
        }
        if let Some(silent) = account.silent_ms.get(&node.id).filter(|_| present) {
            notes.push(format!("not heard of for {}", span(*silent)));
        }
        let line = format!(
            "{:>5}  {:<22} {:>6} {:>9} {:>7}  {:<8}  {}",
            node.id,
            node.binary_addr,
            count(&account.leaders),
            count(&account.replicas),
            node.weight.max(1),
            node.zone.as_deref().unwrap_or("-"),
            notes.join("; ")
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_shards(
    out: &mut String,
    account: &ClusterAccount,
    map: &ClusterMap,
    present: bool,
) -> std::fmt::Result {
    writeln!(
        out,
        "{:>5}  {:<13} {:>6}  {:<14} {:<14}",
        "shard", "slots", "leader", "replicas on", "placed on"
    )?;
    for shard in &map.shards {
        let slots = match shard.slots {
            Some(range) => format!("{}-{}", range.first, range.last),
            None => "the map".to_owned(),
        };
        let line = format!(
            "{:>5}  {slots:<13} {:>6}  {:<14} {:<14} {}",
            shard.id,
            shard.leader.map_or("-".to_owned(), |node| node.to_string()),
            nodes(shard.replicas.iter().map(|replica| replica.node).collect()),
            nodes(shard.plan.placed.clone()),
            notes(account, shard, present).join("; ")
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    if present {
        match account.moving.len() + account.waiting.len() {
            0 => writeln!(out, "nothing moves")?,
            _ => writeln!(out, "{} moving, {} waiting", account.moving.len(), account.waiting.len())?,
        }
    }
    Ok(())
}

fn notes(account: &ClusterAccount, shard: &ShardInfo, present: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if present {
        let of = |moves: &[PlannedMove]| moves.iter().find(|it| it.shard == shard.id).cloned();
        if let Some(it) = of(&account.moving) {
            notes.push(format!("moves to {}", nodes(it.to)));
        } else if let Some(it) = of(&account.waiting) {
            notes.push(format!("waits to move to {}", nodes(it.to)));
        }
        if let Some(stuck) = account.stuck.iter().find(|it| it.shard == shard.id) {
            notes.push(stuck_for(stuck));
        }
        if account.unheard.contains(&shard.id) {
            notes.push("no leader of it was heard of".to_owned());
        }
    }
    if shard.plan.pinned {
        notes.push("pinned".to_owned());
    }
    if let Some(split) = shard.plan.split {
        notes.push(format!("is cut at slot {} into shard {}", split.at, split.into));
    }
    notes
}

/// How a shard is stuck.
pub fn stuck_for(stuck: &StuckShard) -> String {
    format!("stuck for {}: {}", span(stuck.for_ms), stuck.why)
}

fn nodes(ids: Vec<u64>) -> String {
    match ids.is_empty() {
        true => "-".to_owned(),
        false => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(","),
    }
}

/// A span of time, as short as people say it.
fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// The account as JSON. The identities of data directories are strings: they are larger than what JSON's numbers hold
/// everywhere.
pub fn json(account: &ClusterAccount) -> Value {
    let mut value = serde_json::to_value(account).expect("plain data can be written");
    for node in value["map"]["nodes"].as_array_mut().into_iter().flatten() {
        let store = node["store"].as_u64().unwrap_or(0);
        node["store"] = store.to_string().into();
    }
    value
}

/// What a change, or one only tried, has led to, as JSON.
pub fn change_json(account: &ClusterAccount, done: bool) -> Value {
    let mut value = json(account);
    value["done"] = done.into();
    value
}

/// What a change, or one only tried, leads to.
pub fn change_text(op: &ClusterOp, account: &ClusterAccount, dry_run: bool) -> String {
    let mut out = String::new();
    write_change(&mut out, op, account, dry_run).expect("a string takes everything");
    out
}

fn write_change(
    out: &mut String,
    op: &ClusterOp,
    account: &ClusterAccount,
    dry_run: bool,
) -> std::fmt::Result {
    let would = if dry_run { "would " } else { "" };
    let s = if dry_run { "" } else { "s" };
    let split = |shard| account.map.as_ref().and_then(|map| map.shard(shard)?.plan.split);
    let what = match op {
        ClusterOp::Map { .. } => "the map".to_owned(),
        ClusterOp::Join { node } => format!("node {} is in the map", node.id),
        ClusterOp::Leave { node, stay: true, .. } => format!("node {node} {would}stay{s}"),
        ClusterOp::Leave { node, .. } => {
            format!("node {node} {would}give{s} its replicas away and {would}leave{s}")
        }
        ClusterOp::Move { shard, nodes: to, .. } => {
            format!("shard {shard} {would}belong{s} on {}", nodes(to.clone()))
        }
        ClusterOp::Rebalance { .. } => format!("the shards {would}spread evenly"),
        ClusterOp::Split { shard, .. } => match split(*shard) {
            Some(split) => {
                let is = if dry_run { "would be" } else { "is" };
                format!(
                    "shard {shard} {is} cut at slot {}; what follows becomes shard {}",
                    split.at, split.into
                )
            }
            None => format!("shard {shard} {would}become{s} two"),
        },
    };
    let epoch = if dry_run { String::new() } else { format!("epoch {}: ", account.epoch) };
    let moves: Vec<&PlannedMove> = account.moving.iter().chain(&account.waiting).collect();
    // One that moves may wait to move on.
    let shards: BTreeSet<u32> = moves.iter().map(|it| it.shard).collect();
    let count = match (shards.len(), dry_run) {
        (0, true) => "nothing would move".to_owned(),
        (0, false) => "nothing moves".to_owned(),
        (1, true) => "1 shard would move".to_owned(),
        (1, false) => "1 shard is to move".to_owned(),
        (count, true) => format!("{count} shards would move"),
        (count, false) => format!("{count} shards are to move"),
    };
    writeln!(out, "{epoch}{what}; {count}")?;
    for it in &moves {
        writeln!(out, "{}", planned(it))?;
    }
    if !moves.is_empty() {
        let placements: usize = moves.iter().map(|it| added(it)).sum();
        writeln!(out, "  {placements} replicas on other nodes than now")?;
    }
    Ok(())
}

/// One shard's way, as a line.
fn planned(it: &PlannedMove) -> String {
    format!("  shard {:>5}  {} -> {}", it.shard, nodes(it.from.clone()), nodes(it.to.clone()))
}

/// Replicas that a move makes on nodes without one.
fn added(it: &PlannedMove) -> usize {
    let from: BTreeSet<&u64> = it.from.iter().collect();
    it.to.iter().filter(|node| !from.contains(node)).count()
}

/// Why the cluster's map would not take this node in as it is described.
pub fn cannot_join(node: &NodeInfo, map: &ClusterMap) -> Option<String> {
    let change = Change { epoch: map.epoch + 1, what: What::PutNode(node.clone()) };
    change.apply(&mut map.clone()).err().map(|error| error.to_string())
}

/// What telling the cluster of this node would change.
pub fn would_join(node: &NodeInfo, known: Option<&NodeInfo>) -> String {
    let id = node.id;
    match known {
        None => format!("node {id} would be taken in, at {} for clients", node.binary_addr),
        Some(known) if is_news(node, known) => {
            let (old, new) = (&known.binary_addr, &node.binary_addr);
            format!("node {id} is known; what its configuration says would replace that ({old} -> {new})")
        }
        Some(_) => format!("node {id} is known as its configuration says; nothing would change"),
    }
}

/// The same as JSON.
pub fn would_join_json(node: &NodeInfo, known: Option<&NodeInfo>) -> Value {
    let changes = known.is_none_or(|known| is_news(node, known));
    json!({"node": node.id, "known": known.is_some(), "would_change": changes})
}

/// Whether a configuration says anything of a node that the map does not. Its data directory and its leave are not in one.
fn is_news(node: &NodeInfo, known: &NodeInfo) -> bool {
    NodeInfo { store: known.store, leaving: known.leaving, ..node.clone() } != *known
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use net::map::{ReplicaInfo, ShardPlan, SlotRange, Split};

    pub fn account() -> ClusterAccount {
        let node = |id: u64| NodeInfo {
            id,
            binary_addr: format!("127.0.0.1:705{id}"),
            weight: 1,
            ..NodeInfo::default()
        };
        let shard = |id: u32, slots, on: [u64; 3]| ShardInfo {
            id,
            slots,
            replicas: on.map(|node| ReplicaInfo { node, core: 0 }).to_vec(),
            leader: Some(on[0]),
            ..ShardInfo::default()
        };
        let range = |first, last| Some(SlotRange { first, last });
        let mut shards = vec![
            shard(0, None, [1, 2, 3]),
            shard(1, range(0, 8191), [2, 3, 1]),
            shard(2, range(8192, 16383), [3, 1, 2]),
        ];
        shards[1].plan = ShardPlan { placed: vec![4, 3, 1], pinned: true, ..ShardPlan::default() };
        let mut nodes: Vec<NodeInfo> = (1..=4).map(node).collect();
        nodes[1].leaving = true;
        nodes[3].zone = Some("b".to_owned());
        ClusterAccount {
            epoch: 12,
            map: Some(ClusterMap { epoch: 12, nodes, shards }),
            moving: vec![PlannedMove { shard: 1, from: vec![2, 3, 1], to: vec![4, 3, 1] }],
            waiting: vec![PlannedMove { shard: 2, from: vec![3, 1, 2], to: vec![3, 1, 4] }],
            replicas: [(1, 2), (2, 2), (3, 2)].into(),
            leaders: [(2, 1), (3, 1)].into(),
            silent_ms: [(4, 3_500)].into(),
            stuck: Vec::new(),
            unheard: Vec::new(),
        }
    }

    #[test]
    fn the_map_reads_as_two_tables() {
        let expected = "\
epoch 12: 4 nodes, 2 shards
 node  address                 leads  replicas  weight  zone    
    1  127.0.0.1:7051              0         2       1  -
    2  127.0.0.1:7052              1         2       1  -         leaving
    3  127.0.0.1:7053              1         2       1  -
    4  127.0.0.1:7054              0         0       1  b         not heard of for 3 s
shard  slots         leader  replicas on    placed on     
    0  the map            1  1,2,3          -
    1  0-8191             2  2,3,1          4,3,1          moves to 4,3,1; pinned
    2  8192-16383         3  3,1,2          -              waits to move to 3,1,4
1 moving, 1 waiting
";
        assert_eq!(text(&account(), true), expected);
        let old = text(&account(), false);
        assert!(!old.contains("moves to") && !old.contains("not heard"), "{old}");
        assert!(old.contains("pinned") && old.contains("leaving"), "{old}");
    }

    #[test]
    fn shards_that_do_not_get_on_are_told_with_the_reason() {
        let mut told = account();
        let why = "waits for node 4, which is not heard of".to_owned();
        told.stuck = vec![StuckShard { shard: 1, for_ms: 130_000, why }];
        told.unheard = vec![2];
        let now = text(&told, true);
        let stuck = "moves to 4,3,1; stuck for 2 min: waits for node 4, which is not heard of; pinned";
        assert!(now.contains(stuck), "{now}");
        assert!(now.contains("waits to move to 3,1,4; no leader of it was heard of"), "{now}");
        let then = text(&told, false);
        assert!(!then.contains("stuck") && !then.contains("heard of"), "{then}");
    }

    #[test]
    fn a_change_names_every_shard_that_moves() {
        let leave = ClusterOp::Leave { node: 2, stay: false, dry_run: true };
        let expected = "\
node 2 would give its replicas away and would leave; 2 shards would move
  shard     1  2,3,1 -> 4,3,1
  shard     2  3,1,2 -> 3,1,4
  2 replicas on other nodes than now
";
        assert_eq!(change_text(&leave, &account(), true), expected);
        let mut quiet = account();
        quiet.moving.clear();
        quiet.waiting.clear();
        let said = change_text(&ClusterOp::Rebalance { dry_run: false }, &quiet, false);
        assert_eq!(said, "epoch 12: the shards spread evenly; nothing moves\n");
        quiet.map.as_mut().unwrap().shards[2].plan.split = Some(Split { at: 9000, into: 3 });
        let split = ClusterOp::Split { shard: 2, at: None, dry_run: true };
        let said = change_text(&split, &quiet, true);
        assert_eq!(
            said,
            "shard 2 would be cut at slot 9000; what follows becomes shard 3; nothing would move\n"
        );
    }

    #[test]
    fn json_keeps_every_digit_of_a_data_directory() {
        let mut told = account();
        told.map.as_mut().unwrap().nodes[0].store = u64::MAX - 7;
        let value = change_json(&told, true);
        assert_eq!(value["map"]["nodes"][0]["store"], (u64::MAX - 7).to_string());
        assert_eq!(value["moving"][0]["to"][0], 4);
        assert_eq!(value["done"], true);
        assert_eq!(value["epoch"], 12);
    }

    #[test]
    fn a_node_that_is_known_as_it_is_changes_nothing() {
        let map = account().map.unwrap();
        let known = &map.nodes[1];
        let node = NodeInfo { leaving: false, ..known.clone() };
        assert!(would_join(&node, Some(known)).contains("nothing would change"));
        let moved = NodeInfo { binary_addr: "127.0.0.1:9".to_owned(), ..node.clone() };
        assert!(would_join(&moved, Some(known)).contains("127.0.0.1:7052 -> 127.0.0.1:9"));
        assert_eq!(would_join_json(&node, None)["would_change"], true);
    }

    #[test]
    fn a_node_that_would_be_refused_is_told_so_before() {
        let map = account().map.unwrap();
        let node = NodeInfo { cores: 4, ..map.nodes[1].clone() };
        let why = cannot_join(&node, &map).expect("it has other cores");
        assert!(why.contains("the number of its cores"), "{why}");
        let why =
            cannot_join(&NodeInfo { id: 1 << 20, cores: 1, ..node.clone() }, &map).expect("out of range");
        assert!(why.contains("an id from 1 to 1048575"), "{why}");
        assert_eq!(cannot_join(&NodeInfo { id: 7, ..node }, &map), None);
    }
}
