//! The one place where the types of the crates below meet: Raft's messages and entries, the log's records, and what
//! crosses the wire. No logic lives here.

use net::peer::{self, Founder, GroupBody, GroupMessage, PeerEntry, SnapshotHeader, StoreInfo};
use net::protocol::{self, Answer, Refusal, SessionStamp};
use raft::{
    AppendResult, ConfState, Entry, EntryKind, HardState, Index, LogReadError, Message, MessageBody, NodeId,
    Round, SnapshotMeta, Term,
};

use crate::command::{self, KeyPlace, NewValue};
use crate::config::WalIo;
use crate::identity::{Standing, StoreId};
use crate::machine::{MutationOutcome, Outcome};
use crate::store::snapshot::{Manifest, SnapshotFile};

/// How the log is written, as the log names it.
pub fn wal_io(io: WalIo) -> wal::disk::Io {
    match io {
        WalIo::Direct => wal::disk::Io::Direct,
        WalIo::Buffered => wal::disk::Io::Buffered,
    }
}

/// An entry of Raft as the log stores it.
pub fn wal_entry(entry: Entry) -> wal::Entry {
    wal::Entry { index: entry.index.0, term: entry.term.0, kind: entry.kind.into(), payload: entry.data }
}

/// An entry of the log as Raft sees it.
///
/// # Panics
/// When the kind is none of Raft's: the log checks its records, so it was written like that.
pub fn raft_entry(entry: wal::Entry) -> Entry {
    Entry {
        term: Term(entry.term),
        index: Index(entry.index),
        kind: EntryKind::try_from(entry.kind).expect("the log holds only kinds that Raft wrote"),
        data: entry.payload,
    }
}

/// Why the log did not hand out entries, in Raft's terms.
pub fn log_read_error(error: wal::ReadError) -> LogReadError {
    match error {
        wal::ReadError::OnDisk => LogReadError::Pending,
        wal::ReadError::Compacted => LogReadError::Compacted,
        wal::ReadError::Unavailable => LogReadError::Unavailable,
    }
}

/// What the log keeps of a replica beside its entries, in Raft's terms.
pub fn hard_state(state: wal::StreamState) -> HardState {
    HardState {
        term: Term(state.term),
        vote: (state.vote != 0).then_some(NodeId(state.vote)),
        commit: Index(state.commit),
    }
}

/// Raft's hard state as the log keeps it.
pub fn stream_state(state: HardState) -> wal::StreamState {
    wal::StreamState { term: state.term.0, vote: state.vote.map_or(0, |node| node.0), commit: state.commit.0 }
}

/// What a node says of its data directory, as it crosses the wire.
pub fn store_info(standing: &Standing) -> StoreInfo {
    let founders = standing.founders.iter();
    StoreInfo {
        store: standing.store.0,
        settled: standing.settled,
        founders: founders.map(|(node, store)| Founder { node: *node, store: store.0 }).collect(),
    }
}

/// What another node said of its data directory.
pub fn standing(info: StoreInfo) -> Standing {
    let founders = info.founders.into_iter();
    Standing {
        store: StoreId(info.store),
        settled: info.settled,
        founders: founders.map(|founder| (founder.node, StoreId(founder.store))).collect(),
    }
}

/// The header of a snapshot on its way from one replica to another.
pub fn snapshot_header(manifest: &Manifest, from: u64, to: u64, term: u64) -> SnapshotHeader {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    let members = &manifest.meta.conf_state;
    SnapshotHeader {
        shard: manifest.shard,
        from,
        to,
        term,
        index: manifest.meta.index.0,
        snapshot_term: manifest.meta.term.0,
        conf_state: peer::ConfState {
            voters: ids(&members.voters),
            learners: ids(&members.learners),
            voters_outgoing: ids(&members.voters_outgoing),
        },
        files: (manifest.files.iter())
            .map(|file| peer::SnapshotFile {
                name: file.name.clone(),
                bytes: file.bytes,
                crc32c: file.crc32c,
            })
            .collect(),
    }
}

/// What a header from the wire says of a snapshot.
pub fn manifest(header: &SnapshotHeader) -> Manifest {
    let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
    Manifest {
        shard: header.shard,
        meta: SnapshotMeta {
            index: Index(header.index),
            term: Term(header.snapshot_term),
            conf_state: ConfState {
                voters: nodes(&header.conf_state.voters),
                learners: nodes(&header.conf_state.learners),
                voters_outgoing: nodes(&header.conf_state.voters_outgoing),
            },
        },
        files: (header.files.iter())
            .map(|file| SnapshotFile { name: file.name.clone(), bytes: file.bytes, crc32c: file.crc32c })
            .collect(),
    }
}

/// A Raft message as it crosses the wire.
pub fn group_message(group: u32, message: Message) -> GroupMessage {
    let body = match message.body {
        MessageBody::PreVote { last_index, last_term } => {
            GroupBody::PreVote { last_index: last_index.0, last_term: last_term.0 }
        }
        MessageBody::PreVoteResponse { granted } => GroupBody::PreVoteResponse { granted },
        MessageBody::Vote { last_index, last_term, transfer } => {
            GroupBody::Vote { last_index: last_index.0, last_term: last_term.0, transfer }
        }
        MessageBody::VoteResponse { granted } => GroupBody::VoteResponse { granted },
        MessageBody::Append { prev_index, prev_term, entries, commit, round } => GroupBody::Append {
            prev_index: prev_index.0,
            prev_term: prev_term.0,
            entries: entries.into_iter().map(peer_entry).collect(),
            commit: commit.0,
            round: round.0,
        },
        MessageBody::AppendResponse { result, round } => {
            GroupBody::AppendResponse { result: append_result_out(result), round: round.0 }
        }
        MessageBody::Heartbeat { commit, round } => GroupBody::Heartbeat { commit: commit.0, round: round.0 },
        MessageBody::HeartbeatResponse { round } => GroupBody::HeartbeatResponse { round: round.0 },
        MessageBody::ReadIndex { context } => GroupBody::ReadIndex { context },
        MessageBody::ReadIndexResponse { context, index } => {
            GroupBody::ReadIndexResponse { context, index: index.map(|index| index.0) }
        }
        MessageBody::TimeoutNow => GroupBody::TimeoutNow,
        MessageBody::Sleep { commit } => GroupBody::Sleep { commit: commit.0 },
        MessageBody::Snapshot { .. } => unreachable!("a snapshot has a connection of its own"),
    };
    GroupMessage { group, from: message.from.0, to: message.to.0, term: message.term.0, body }
}

/// A message from the wire as Raft takes it; `None` when an entry is of a kind this version does not know, and for
/// messages that are not Raft's: those about the life of a replica.
pub fn raft_message(message: GroupMessage) -> Option<Message> {
    let body = match message.body {
        GroupBody::PreVote { last_index, last_term } => {
            MessageBody::PreVote { last_index: Index(last_index), last_term: Term(last_term) }
        }
        GroupBody::PreVoteResponse { granted } => MessageBody::PreVoteResponse { granted },
        GroupBody::Vote { last_index, last_term, transfer } => {
            MessageBody::Vote { last_index: Index(last_index), last_term: Term(last_term), transfer }
        }
        GroupBody::VoteResponse { granted } => MessageBody::VoteResponse { granted },
        GroupBody::Append { prev_index, prev_term, entries, commit, round } => MessageBody::Append {
            prev_index: Index(prev_index),
            prev_term: Term(prev_term),
            entries: entries.into_iter().map(entry_in).collect::<Option<Vec<Entry>>>()?,
            commit: Index(commit),
            round: Round(round),
        },
        GroupBody::AppendResponse { result, round } => {
            MessageBody::AppendResponse { result: append_result_in(result), round: Round(round) }
        }
        GroupBody::Heartbeat { commit, round } => {
            MessageBody::Heartbeat { commit: Index(commit), round: Round(round) }
        }
        GroupBody::HeartbeatResponse { round } => MessageBody::HeartbeatResponse { round: Round(round) },
        GroupBody::ReadIndex { context } => MessageBody::ReadIndex { context },
        GroupBody::ReadIndexResponse { context, index } => {
            MessageBody::ReadIndexResponse { context, index: index.map(Index) }
        }
        GroupBody::TimeoutNow => MessageBody::TimeoutNow,
        GroupBody::Sleep { commit } => MessageBody::Sleep { commit: Index(commit) },
        GroupBody::Join
        | GroupBody::Invite
        | GroupBody::Gone { .. }
        | GroupBody::Reports(_)
        | GroupBody::MapEpoch { .. }
        | GroupBody::Map { .. }
        | GroupBody::MapChanges(_) => return None,
    };
    Some(Message { from: NodeId(message.from), to: NodeId(message.to), term: Term(message.term), body })
}

fn peer_entry(entry: Entry) -> PeerEntry {
    PeerEntry { term: entry.term.0, index: entry.index.0, kind: entry.kind.into(), data: entry.data }
}

fn entry_in(entry: PeerEntry) -> Option<Entry> {
    let kind = EntryKind::try_from(entry.kind).ok()?;
    // A copy: the entry stays in the log's cache for long and must not pin the whole frame it came in.
    let data = bytes::Bytes::copy_from_slice(&entry.data);
    Some(Entry { term: Term(entry.term), index: Index(entry.index), kind, data })
}

fn append_result_out(result: AppendResult) -> peer::AppendResult {
    match result {
        AppendResult::Accepted { match_index } => peer::AppendResult::Accepted { match_index: match_index.0 },
        AppendResult::Rejected { rejected_index, hint_index, hint_term } => peer::AppendResult::Rejected {
            rejected_index: rejected_index.0,
            hint_index: hint_index.0,
            hint_term: hint_term.0,
        },
    }
}

fn append_result_in(result: peer::AppendResult) -> AppendResult {
    match result {
        peer::AppendResult::Accepted { match_index } => {
            AppendResult::Accepted { match_index: Index(match_index) }
        }
        peer::AppendResult::Rejected { rejected_index, hint_index, hint_term } => AppendResult::Rejected {
            rejected_index: Index(rejected_index),
            hint_index: Index(hint_index),
            hint_term: Term(hint_term),
        },
    }
}

/// A client's session stamp as a command carries it.
pub fn session(stamp: SessionStamp) -> command::Session {
    command::Session { client: stamp.client, sequence: stamp.sequence, acked_below: stamp.acked_below }
}

/// A client's mutation as a command carries it; `now_ms` turns a time to live into an expiry time.
pub fn mutation<'a>(mutation: &'a protocol::Mutation, place: KeyPlace, now_ms: u64) -> command::Mutation<'a> {
    match mutation {
        protocol::Mutation::Put { key, value, ttl_ms } => {
            let expiry_ms = ttl_ms.map_or(0, |ttl| now_ms.saturating_add(ttl).max(1));
            command::Mutation::Put { place, key, value: NewValue { data: value, flags: 0, expiry_ms } }
        }
        protocol::Mutation::Delete { key } => command::Mutation::Delete { place, key },
        protocol::Mutation::CompareAndSwap { key, expected, new } => command::Mutation::CompareAndSwap {
            place,
            key,
            expected: match expected {
                protocol::Expected::Absent => command::Expected::Absent,
                protocol::Expected::Version(version) => command::Expected::Version(*version),
                protocol::Expected::Value(value) => command::Expected::Value(value),
            },
            new: new.as_ref().map(|value| NewValue::plain(value)),
        },
    }
}

/// What the state machine did with an entry, as its client hears it.
pub fn outcome(index: u64, outcome: Outcome) -> Result<Answer, Refusal> {
    match outcome {
        Outcome::SessionExpired => Err(Refusal::SessionExpired),
        Outcome::WrongShard => Err(Refusal::Unavailable { why: crate::replica::SPLITTING.to_owned() }),
        Outcome::Untold => Err(Refusal::Timeout),
        Outcome::Executed(replies) => Ok(Answer::Executed { index, replies, freshness: None }),
        done => {
            let outcomes = done.mutations().iter().map(mutation_outcome).collect();
            Ok(Answer::Written { index, outcomes })
        }
    }
}

fn mutation_outcome(outcome: &MutationOutcome) -> protocol::MutationOutcome {
    match *outcome {
        MutationOutcome::Put { version } => protocol::MutationOutcome::Put { version },
        MutationOutcome::Deleted { existed } => protocol::MutationOutcome::Deleted { existed },
        MutationOutcome::Swapped { version } => protocol::MutationOutcome::Swapped { version },
        MutationOutcome::NotSwapped { current } => protocol::MutationOutcome::NotSwapped { current },
        MutationOutcome::NotApplied => protocol::MutationOutcome::NotApplied,
    }
}
