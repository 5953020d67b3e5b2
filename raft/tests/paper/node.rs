//! One node on its own, for the tests of the paper and of the thesis: what it is told, and what it says.

// Each of the two uses its own part.
#![allow(dead_code)]

use bytes::Bytes;
use raft::{
    AppendResult, ConfState, Config, Entry, EntryKind, HardState, Index, InitialState, MemStorage, Message,
    MessageBody, Nanos, NodeId, RawNode, Ready, Round, Term,
};

pub const NOW: Nanos = Nanos(1);

pub fn config(id: u64) -> Config {
    let plain = Config { pre_vote: false, check_quorum: false, lease: false, ..Config::new(NodeId(id)) };
    plain.validate().unwrap();
    plain
}

pub fn entry(index: u64, term: u64) -> Entry {
    Entry { term: Term(term), index: Index(index), kind: EntryKind::Normal, data: Bytes::from_static(b"x") }
}

/// Node 1 of `voters` with this log, in this term.
pub fn node(voters: u64, terms: &[u64], term: u64) -> RawNode<MemStorage> {
    let mut storage = MemStorage::new();
    let entries: Vec<Entry> = (1..).zip(terms).map(|(index, term)| entry(index, *term)).collect();
    storage.write(None, &entries);
    let conf_state = ConfState { voters: (1..=voters).map(NodeId).collect(), ..ConfState::default() };
    start(storage, conf_state, (term, 0), 0)
}

/// Node 1 as recovered, in this term and knowing this much committed.
pub fn start(
    storage: MemStorage,
    conf_state: ConfState,
    (term, commit): (u64, u64),
    applied: u64,
) -> RawNode<MemStorage> {
    let hard_state = HardState { term: Term(term), vote: None, commit: Index(commit) };
    let initial = InitialState { hard_state, conf_state, applied: Index(applied) };
    RawNode::new(config(1), initial, storage, 1).unwrap()
}

/// Takes a Ready and makes it durable; its messages, in the order they may leave.
pub fn sync(node: &mut RawNode<MemStorage>) -> Vec<Message> {
    let mut messages = Vec::new();
    while node.has_ready() {
        let ready = write(node);
        messages.extend(ready.messages);
        node.on_persisted(ready.id);
        messages.extend(ready.persisted_messages);
    }
    node.check_invariants();
    messages
}

/// Takes a Ready and makes it visible, not durable.
pub fn write(node: &mut RawNode<MemStorage>) -> Ready {
    let ready = node.ready();
    node.storage_mut().write(ready.truncate_from, &ready.entries);
    for entry in ready.committed.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
        node.apply_conf_change(entry);
    }
    if let Some(last) = ready.committed.last() {
        node.on_applied(last.index);
    }
    ready
}

pub fn step(node: &mut RawNode<MemStorage>, from: u64, term: u64, body: MessageBody) {
    node.step(Message { from: NodeId(from), to: NodeId(1), term: Term(term), body }, NOW).unwrap();
    node.check_invariants();
}

pub fn append(prev: (u64, u64), entries: &[Entry], commit: u64) -> MessageBody {
    MessageBody::Append {
        prev_index: Index(prev.0),
        prev_term: Term(prev.1),
        entries: entries.to_vec(),
        commit: Index(commit),
        round: Round(1),
    }
}

pub fn vote(last_index: u64, last_term: u64) -> MessageBody {
    MessageBody::Vote { last_index: Index(last_index), last_term: Term(last_term), transfer: false }
}

pub fn accepted(match_index: u64) -> MessageBody {
    let result = AppendResult::Accepted { match_index: Index(match_index) };
    MessageBody::AppendResponse { result, round: Round(1) }
}

pub const GRANTED: MessageBody = MessageBody::VoteResponse { granted: true };
pub const REFUSED: MessageBody = MessageBody::VoteResponse { granted: false };

pub fn bodies(messages: Vec<Message>) -> Vec<MessageBody> {
    messages.into_iter().map(|message| message.body).collect()
}

pub fn elect(node: &mut RawNode<MemStorage>, voters: &[u64]) {
    node.campaign();
    sync(node);
    let term = node.term().0;
    for voter in voters {
        step(node, *voter, term, GRANTED);
    }
    assert!(node.is_leader());
}

pub fn terms(node: &RawNode<MemStorage>) -> Vec<u64> {
    node.storage().iter().map(|entry| entry.term.0).collect()
}
