//! Messages and entries in one line each, for scripts and failing simulations.

use crate::confchange::{ConfChange, ConfChangeStep};
use crate::entry::{ConfState, Entry, EntryKind};
use crate::message::{AppendResult, Message, MessageBody};
use crate::types::{Index, NodeId};

/// An entry as `index/term payload`.
#[must_use]
pub fn describe_entry(entry: &Entry) -> String {
    let payload = match entry.kind {
        EntryKind::Normal => String::from_utf8_lossy(&entry.data).into_owned(),
        EntryKind::Noop => "noop".to_owned(),
        EntryKind::ConfChange => describe_conf_change(&entry.data),
    };
    format!("{}/{} {payload}", entry.index, entry.term)
}

/// A message as `from->to t<term> <kind> <fields>`.
#[must_use]
pub fn describe_message(message: &Message) -> String {
    format!("{}->{} t{} {}", message.from, message.to, message.term, describe_body(&message.body))
}

fn describe_body(body: &MessageBody) -> String {
    match body {
        MessageBody::PreVote { last_index, last_term } => format!("PreVote last {last_index}/{last_term}"),
        MessageBody::PreVoteResponse { granted } => format!("PreVoteResponse {}", yes_no(*granted)),
        MessageBody::Vote { last_index, last_term, transfer } => {
            let transfer = if *transfer { " transfer" } else { "" };
            format!("Vote last {last_index}/{last_term}{transfer}")
        }
        MessageBody::VoteResponse { granted } => format!("VoteResponse {}", yes_no(*granted)),
        MessageBody::Append { prev_index, prev_term, entries, commit, round } => {
            let entries: Vec<String> = entries.iter().map(describe_entry).collect();
            let entries = entries.join(", ");
            format!("Append prev {prev_index}/{prev_term} commit {commit} round {round} [{entries}]")
        }
        MessageBody::AppendResponse { result, round } => match result {
            AppendResult::Accepted { match_index } => {
                format!("AppendResponse match {match_index} round {round}")
            }
            AppendResult::Rejected { rejected_index, hint_index, hint_term } => {
                format!("AppendResponse reject {rejected_index} hint {hint_index}/{hint_term} round {round}")
            }
        },
        MessageBody::Heartbeat { commit, round } => format!("Heartbeat commit {commit} round {round}"),
        MessageBody::HeartbeatResponse { round } => format!("HeartbeatResponse round {round}"),
        // The number of a batch is random; scripts must read the same whatever it is.
        MessageBody::ReadIndex { .. } => "ReadIndex".to_owned(),
        MessageBody::ReadIndexResponse { index, .. } => {
            format!("ReadIndexResponse {}", describe_index(*index))
        }
        MessageBody::TimeoutNow => "TimeoutNow".to_owned(),
        MessageBody::Snapshot { meta } => {
            format!("Snapshot {}/{} {}", meta.index, meta.term, describe_conf_state(&meta.conf_state))
        }
        MessageBody::Sleep { commit } => format!("Sleep commit {commit}"),
    }
}

/// A configuration as `(voters)`, `(incoming)&&(outgoing)`, with `learners (…)` if there are any.
#[must_use]
pub fn describe_conf_state(state: &ConfState) -> String {
    let list = |nodes: &[NodeId]| {
        let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        format!("({})", nodes.join(" "))
    };
    let mut text = list(&state.voters);
    if !state.voters_outgoing.is_empty() {
        text = format!("{text}&&{}", list(&state.voters_outgoing));
    }
    if !state.learners.is_empty() {
        text = format!("{text} learners {}", list(&state.learners));
    }
    text
}

fn describe_conf_change(data: &[u8]) -> String {
    let Ok(change) = ConfChange::decode(data) else { return "conf-change?".to_owned() };
    if change.steps.is_empty() {
        return "leave-joint".to_owned();
    }
    let step = |step: &ConfChangeStep| match step {
        ConfChangeStep::AddLearner(node) => format!("learner+{node}"),
        ConfChangeStep::AddVoter(node) => format!("voter+{node}"),
        ConfChangeStep::Remove(node) => format!("-{node}"),
    };
    change.steps.iter().map(step).collect::<Vec<_>>().join(" ")
}

fn describe_index(index: Option<Index>) -> String {
    index.map_or("none".to_owned(), |index| index.to_string())
}

fn yes_no(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
