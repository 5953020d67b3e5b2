//! `ringkv admin describe`: the members of a shard as its leader sees them, as a table or as JSON.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::Result;
use engine::replica_id::{FOUNDING, generation_of};
use net::protocol::{MemberDescription, MemberProgress, MemberRole, ShardDescription};
use net::{Client, ClientError};
use serde_json::{Value, json};

use super::super::Output;
use super::failure;

/// Prints one shard, or all. Of all, those that cannot be described make the exit code 1.
pub async fn run(client: &Client, shard: Option<u32>, output: Output) -> Result<ExitCode> {
    if let Some(shard) = shard {
        let described = client.describe_shard(shard).await.map_err(|error| failure(shard, &error))?;
        match output {
            Output::Text => print!("{}", text(&described)),
            Output::Json => println!("{}", json(&described)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut shards = Vec::new();
    for shard in client.cluster_map().shards {
        shards.push((shard.id, client.describe_shard(shard.id).await));
    }
    match output {
        Output::Text => shards.iter().for_each(|(shard, described)| match described {
            Ok(described) => print!("{}", text(described)),
            Err(error) => println!("shard {shard}: {error}"),
        }),
        Output::Json => println!("{}", Value::from_iter(shards.iter().map(outcome))),
    }
    Ok(ExitCode::from(u8::from(shards.iter().any(|(_, described)| described.is_err()))))
}

fn outcome((shard, described): &(u32, Result<ShardDescription, ClientError>)) -> Value {
    match described {
        Ok(described) => json(described),
        Err(error) => json!({"shard": shard, "error": error.to_string()}),
    }
}

/// A shard as JSON. Raft ids are strings: they are larger than what JSON's numbers hold everywhere.
pub fn json(shard: &ShardDescription) -> Value {
    let members: Vec<Value> = shard
        .members
        .iter()
        .map(|member| {
            json!({
                "node": member.node,
                "raft_id": member.raft_id.to_string(),
                "generation": generation(member),
                "role": role(member.role),
                "leader": member.is_leader,
                "active": member.is_active,
                "state": progress(member.progress),
                "match": member.match_index,
                "lag": member.lag,
            })
        })
        .collect();
    let snapshot = shard.snapshot.map(|it| json!({"index": it.index, "term": it.term, "bytes": it.bytes}));
    json!({
        "shard": shard.shard,
        "leader": shard.node,
        "term": shard.term,
        "joint": shard.joint,
        "members": members,
        "first_index": shard.first_index,
        "last_index": shard.last_index,
        "committed": shard.committed,
        "applied": shard.applied,
        "applied_durable": shard.applied_durable,
        "log_bytes": shard.log_bytes,
        "snapshot": snapshot,
    })
}

fn text(shard: &ShardDescription) -> String {
    let mut out = String::new();
    write_text(shard, &mut out).expect("a string takes everything");
    out
}

fn write_text(shard: &ShardDescription, out: &mut String) -> std::fmt::Result {
    let changing = if shard.joint { "; its voters are changing" } else { "" };
    writeln!(out, "shard {}: node {} leads in term {}{changing}", shard.shard, shard.node, shard.term)?;
    writeln!(
        out,
        "  log       entries {} to {}, {}; committed {}, applied {}, durable without the log {}",
        shard.first_index,
        shard.last_index,
        mebibytes(shard.log_bytes),
        shard.committed,
        shard.applied,
        shard.applied_durable
    )?;
    match shard.snapshot {
        Some(it) => {
            writeln!(out, "  snapshot  up to entry {}, term {}, {}", it.index, it.term, mebibytes(it.bytes))?;
        }
        None => writeln!(out, "  snapshot  none")?,
    }
    writeln!(
        out,
        "  {:>6}  {:<11}  {:<9} {:<10} {:>14} {:>12}",
        "node", "generation", "role", "state", "match", "lag"
    )?;
    for member in &shard.members {
        let role = if member.is_leader { "leader" } else { role(member.role) };
        let state = if member.is_leader { "-" } else { progress(member.progress) };
        let silent = if member.is_active || member.is_leader { "" } else { "  not heard of lately" };
        writeln!(
            out,
            "  {:>6}  {:<11}  {role:<9} {state:<10} {:>14} {:>12}{silent}",
            member.node,
            generation(member),
            member.match_index,
            member.lag
        )?;
    }
    Ok(())
}

fn generation(member: &MemberDescription) -> String {
    match generation_of(member.raft_id) {
        FOUNDING => "founding".to_owned(),
        later => format!("{later:011x}"),
    }
}

fn role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Incoming => "incoming",
        MemberRole::Outgoing => "outgoing",
    }
}

fn progress(progress: MemberProgress) -> &'static str {
    match progress {
        MemberProgress::Probe => "probe",
        MemberProgress::Replicate => "replicate",
        MemberProgress::Snapshot => "snapshot",
    }
}

/// Bytes as mebibytes with one digit after the point.
fn mebibytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use engine::replica_id::raft_id;
    use net::protocol::SnapshotDescription;

    pub fn member(node: u64, role: MemberRole) -> MemberDescription {
        MemberDescription {
            raft_id: raft_id(node, FOUNDING),
            node,
            role,
            is_leader: node == 1,
            is_active: true,
            match_index: 2040,
            lag: 0,
            progress: MemberProgress::Replicate,
        }
    }

    pub fn shard() -> ShardDescription {
        ShardDescription {
            shard: 3,
            node: 1,
            term: 5,
            members: [1, 2, 3].map(|node| member(node, MemberRole::Voter)).to_vec(),
            joint: false,
            first_index: 101,
            last_index: 2040,
            committed: 2040,
            applied: 2040,
            applied_durable: 1950,
            log_bytes: 12 << 20,
            snapshot: Some(SnapshotDescription { index: 1900, term: 5, bytes: 1 }),
        }
    }

    #[test]
    fn a_shard_reads_as_a_table() {
        let mut described = shard();
        let newcomer = MemberDescription {
            raft_id: raft_id(4, 0xabc),
            match_index: 0,
            lag: 2040,
            is_active: false,
            progress: MemberProgress::Snapshot,
            ..member(4, MemberRole::Learner)
        };
        described.members.push(newcomer);
        let expected = "\
shard 3: node 1 leads in term 5
  log       entries 101 to 2040, 12.0 MiB; committed 2040, applied 2040, durable without the log 1950
  snapshot  up to entry 1900, term 5, 0.1 MiB
    node  generation   role      state               match          lag
       1  founding     leader    -                    2040            0
       2  founding     voter     replicate            2040            0
       3  founding     voter     replicate            2040            0
       4  00000000abc  learner   snapshot                0         2040  not heard of lately
";
        assert_eq!(text(&described), expected);
        described.snapshot = None;
        described.joint = true;
        let said = text(&described);
        assert!(said.starts_with("shard 3: node 1 leads in term 5; its voters are changing\n"), "{said}");
        assert!(said.contains("\n  snapshot  none\n"), "{said}");
    }

    #[test]
    fn json_keeps_every_digit_of_a_raft_id() {
        let mut described = shard();
        described.members[2].raft_id = u64::MAX - (1 << 20);
        let value = json(&described);
        assert_eq!(value["members"][2]["raft_id"], (u64::MAX - (1 << 20)).to_string());
        assert_eq!(value["members"][0]["leader"], true);
        assert_eq!(value["snapshot"]["index"], 1900);
    }
}
