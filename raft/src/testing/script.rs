//! Data-driven tests: a script of commands, each followed by what it is expected to print.
//!
//! ```text
//! # a comment
//! group 3 lease=off
//! campaign 1
//! settle
//! ----
//! 1->2 t1 PreVote last 0/0
//! …
//! ```
//!
//! A block of commands ends with `----`; what follows up to an empty line is the output. [`run`] executes the commands and
//! returns the script with the actual output, so a test compares it to the file, or rewrites the file with it.
//!
//! | command | what it does |
//! |---|---|
//! | `group N [key=value…]` | a new group of nodes 1 to N; keys below |
//! | `campaign ID`, `tick ID [N]`, `propose ID DATA…`, `read ID CONTEXT`, `transfer ID TO`, `unreachable ID PEER`, `hold ID MS` | inputs and commands of one node |
//! | `drain ID` | does what the node wants done, but for the disk |
//! | `flush ID [N]` | makes the oldest N (default: all) writes durable |
//! | `deliver [FROM->TO]` | delivers what is under way (over this link) |
//! | `drop [FROM->TO]`, `copy [FROM->TO]`, `reverse`, `wire` | loses, duplicates, reorders, shows what is under way |
//! | `cut FROM->TO`, `isolate ID`, `heal` | cuts links; mends all |
//! | `settle [quiet]`, `tick-all N [quiet]` | everything until it comes to rest |
//! | `crash ID [KEPT] [torn]`, `start ID`, `checkpoint ID`, `compact ID INDEX`, `evict ID INDEX` | disk and process |
//! | `change ID STEP…` | proposes a membership change; a step is `learner+N`, `voter+N` or `-N`, none leaves a joint one |
//! | `snapshot ID TO`, `report ID TO sent\|failed`, `install ID [failed]` | a snapshot is sent, reported, installed |
//! | `dismiss` | destroys those that a leader can do without |
//! | `hibernate ID`, `wake ID` | sends a group to sleep, wakes a node |
//! | `status [ID]`, `peers ID`, `log ID`, `applied ID`, `reads ID`, `members ID` | shows |
//!
//! Keys: `election`, `heartbeat`, `messages`, `inflight_bytes`, `append_bytes`, `uncommitted_bytes` (numbers); `pre_vote`,
//! `check_quorum`, `lease` (`on`, `off`); `priorityID=P`; `learners=ID,…`; `logID=TERM,TERM,…` (a durable log)
//! `spares=N` (that many more nodes, which no group knows and which are yet to be started), `fresh=empty` (they are told
//! nothing; by default who founded the group); and `term=N` (in which term the nodes with such a log start; default: that of its last entry).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;

use super::cluster::Cluster;
use super::describe::{describe_conf_state, describe_entry, describe_message};
use super::disk::Disk;
use crate::confchange::{ConfChange, ConfChangeStep};
use crate::config::Config;
use crate::entry::{ConfState, Entry, EntryKind, HardState};
use crate::message::Message;
use crate::ready::ReadStart;
use crate::status::PeerState;
use crate::storage::MemStorage;
use crate::types::{Index, Nanos, NodeId, Term};

const SEPARATOR: &str = "----";

/// Runs a script and returns it with the actual output.
///
/// # Panics
/// If a command cannot be understood, or the group violates an invariant.
#[must_use]
pub fn run(script: &str) -> String {
    let mut output = String::new();
    let mut cluster = None;
    let mut trace = Vec::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        writeln!(output, "{line}").expect("writing to a string");
        if line == SEPARATOR {
            let _expected = lines.by_ref().take_while(|line| !line.is_empty()).count();
            for line in trace.drain(..) {
                writeln!(output, "{line}").expect("writing to a string");
            }
            output.push('\n');
        } else if !line.is_empty() && !line.starts_with('#') {
            execute(&mut cluster, line, &mut trace);
        }
    }
    output
}

/// The words of one command after the first.
struct Words<'a> {
    line: &'a str,
    words: Vec<&'a str>,
}

impl<'a> Words<'a> {
    fn get(&self, position: usize) -> Option<&'a str> {
        self.words.get(position).copied()
    }

    fn number(&self, position: usize) -> Option<u64> {
        self.get(position).map(|word| word.parse().unwrap_or_else(|_| panic!("a number in: {}", self.line)))
    }

    fn require(&self, position: usize) -> u64 {
        self.number(position).unwrap_or_else(|| panic!("one more number in: {}", self.line))
    }

    fn node(&self, position: usize) -> NodeId {
        NodeId(self.require(position))
    }

    fn is_quiet(&self) -> bool {
        self.words.last() == Some(&"quiet")
    }

    /// Whether a message belongs to the link named, if one is.
    fn selects(&self, message: &Message) -> bool {
        self.get(0).is_none_or(|link| link == format!("{}->{}", message.from, message.to))
    }

    fn link(&self) -> (NodeId, NodeId) {
        let ends = self.get(0).and_then(|link| link.split_once("->"));
        let (from, to) = ends.unwrap_or_else(|| panic!("a link in: {}", self.line));
        let node = |text: &str| NodeId(text.parse().unwrap_or_else(|_| panic!("a node in: {}", self.line)));
        (node(from), node(to))
    }
}

fn execute(cluster: &mut Option<Cluster>, line: &str, trace: &mut Vec<String>) {
    let mut split = line.split_whitespace();
    let command = split.next().expect("a line with a word");
    let words = Words { line, words: split.collect() };
    if command == "group" {
        *cluster = Some(group(&words));
        return;
    }
    let cluster = cluster.as_mut().expect("a group first");
    cluster.trace = (!words.is_quiet()).then(Vec::new);
    let known = drive(cluster, command, &words, trace) || show(cluster, command, &words, trace);
    assert!(known, "unknown command: {line}");
}

/// Commands that change something.
fn drive(cluster: &mut Cluster, command: &str, words: &Words<'_>, trace: &mut Vec<String>) -> bool {
    match command {
        "campaign" => cluster.campaign(words.node(0)),
        "tick" => (0..words.number(1).unwrap_or(1)).for_each(|_| cluster.tick(words.node(0))),
        "propose" => propose(cluster, words, trace),
        "read" => trace.push(match cluster.read(words.node(0), words.require(1)) {
            Ok(ReadStart::At(index)) => format!("read {}: at {index}", words.require(1)),
            Ok(ReadStart::Pending) => format!("read {}: pending", words.require(1)),
            Err(error) => format!("read {}: {error}", words.require(1)),
        }),
        "transfer" => {
            if let Err(error) = cluster.node_mut(words.node(0)).transfer_leader(words.node(1)) {
                trace.push(format!("transfer: {error}"));
            }
        }
        "unreachable" => cluster.node_mut(words.node(0)).report_unreachable(words.node(1)),
        "hold" => cluster.node_mut(words.node(0)).limit_lease(Nanos::from_millis(words.require(1))),
        "drain" => {
            cluster.drain(words.node(0));
        }
        "flush" => {
            let count = words.number(1).unwrap_or(u64::MAX);
            (0..count).take_while(|_| cluster.flush(words.node(0))).for_each(drop);
        }
        "settle" => cluster.settle(),
        "tick-all" => cluster.tick_all(u32::try_from(words.require(0)).expect("few ticks")),
        _ if drive_host(cluster, command, words, trace) => {}
        _ => return drive_network(cluster, command, words, trace),
    }
    trace.extend(cluster.trace.take().into_iter().flatten());
    true
}

/// Commands about disks, processes, snapshots and members.
fn drive_host(cluster: &mut Cluster, command: &str, words: &Words<'_>, trace: &mut Vec<String>) -> bool {
    match command {
        "crash" => {
            let torn = words.words.last() == Some(&"torn");
            let kept = words.words.get(1).filter(|word| **word != "torn");
            let kept = kept.map_or(0, |kept| kept.parse().expect("a number of writes"));
            cluster.crash(words.node(0), kept, torn);
        }
        "start" => cluster.start(words.node(0)),
        "checkpoint" => {
            cluster.checkpoint(words.node(0));
        }
        "compact" => cluster.compact(words.node(0), Index(words.require(1))),
        "evict" => cluster.node_mut(words.node(0)).storage_mut().evict_before(Index(words.require(1))),
        "change" => {
            let steps = words.words[1..].iter().map(|word| step(word)).collect();
            if let Err(error) = cluster.change(words.node(0), &ConfChange { steps }) {
                trace.push(format!("change: {error}"));
            }
        }
        "snapshot" => cluster.send_snapshot(words.node(0), words.node(1)),
        "report" => {
            cluster.node_mut(words.node(0)).report_snapshot(words.node(1), words.get(2) == Some("sent"))
        }
        "install" => cluster.install(words.node(0), words.get(1) != Some("failed")),
        "dismiss" => {
            let before: Vec<NodeId> = cluster.ids().into_iter().filter(|id| cluster.exists(*id)).collect();
            cluster.dismiss();
            let gone = before.into_iter().filter(|id| cluster.is_destroyed(*id));
            trace.extend(gone.map(|id| format!("{id} is dismissed")));
        }
        "hibernate" => {
            if !cluster.node_mut(words.node(0)).hibernate() {
                trace.push("hibernate: not now".to_owned());
            }
        }
        "wake" => cluster.node_mut(words.node(0)).wake(),
        _ => return false,
    }
    true
}

fn step(word: &str) -> ConfChangeStep {
    let (kind, node) = word.split_once(['+', '-']).unwrap_or_else(|| panic!("a step: {word}"));
    let node = NodeId(node.parse().unwrap_or_else(|_| panic!("a node in: {word}")));
    match kind {
        "learner" => ConfChangeStep::AddLearner(node),
        "voter" => ConfChangeStep::AddVoter(node),
        "" => ConfChangeStep::Remove(node),
        _ => panic!("a step: {word}"),
    }
}

/// Commands that change the network.
fn drive_network(cluster: &mut Cluster, command: &str, words: &Words<'_>, trace: &mut Vec<String>) -> bool {
    let (selected, rest): (Vec<Message>, Vec<Message>) =
        cluster.wire.iter().cloned().partition(|message| words.selects(message));
    match command {
        "deliver" => {
            cluster.wire = rest;
            for message in selected {
                if let Err(error) = cluster.deliver(message) {
                    trace.extend(cluster.trace.as_mut().into_iter().flat_map(|lines| lines.drain(..)));
                    trace.push(format!("  {error}"));
                }
            }
        }
        "drop" => cluster.wire = rest,
        "copy" => cluster.wire.extend(selected),
        "reverse" => cluster.wire.reverse(),
        "cut" => {
            cluster.cut.insert(words.link());
            cluster.apply_cuts();
        }
        "isolate" => cluster.isolate(words.node(0)),
        "heal" => cluster.cut.clear(),
        _ => return false,
    }
    trace.extend(cluster.trace.take().into_iter().flatten());
    true
}

fn propose(cluster: &mut Cluster, words: &Words<'_>, trace: &mut Vec<String>) {
    for data in &words.words[1..] {
        let data = Bytes::copy_from_slice(data.as_bytes());
        if let Err(error) = cluster.propose(words.node(0), data) {
            trace.push(format!("propose: {error}"));
        }
    }
}

/// Commands that show something.
fn show(cluster: &Cluster, command: &str, words: &Words<'_>, trace: &mut Vec<String>) -> bool {
    match command {
        "wire" => trace.extend(cluster.wire.iter().map(describe_message)),
        "status" => {
            let used = || cluster.ids().into_iter().filter(|id| !cluster.host(*id).is_unused()).collect();
            let ids: Vec<NodeId> = words.number(0).map_or_else(used, |id| vec![NodeId(id)]);
            trace.extend(ids.into_iter().map(|id| status(cluster, id)));
        }
        "peers" => trace.extend(cluster.node(words.node(0)).peers().map(|peer| {
            let state = match peer.state {
                PeerState::Probe => "probe",
                PeerState::Replicate => "replicate",
                PeerState::Snapshot => "snapshot",
            };
            let learner = if peer.learner { " learner" } else { "" };
            let (node, messages, bytes) = (peer.node, peer.inflight_messages, peer.inflight_bytes);
            format!(
                "{node}: {state}{learner} match {} next {} inflight {messages} ({bytes} bytes)",
                peer.match_index, peer.next_index
            )
        })),
        "members" => trace.push(describe_conf_state(&cluster.node(words.node(0)).conf_state())),
        "log" => trace.push(join(&cluster.log(words.node(0)))),
        "applied" => trace.push(join(&cluster.host(words.node(0)).applied)),
        "reads" => {
            let host = cluster.host(words.node(0));
            let states =
                host.read_states.iter().map(|state| format!("read {}: at {}", state.context, state.index));
            trace.extend(states);
            trace.extend(host.reads_dropped.iter().map(|context| format!("read {context}: dropped")));
            let needed = host.snapshots_needed.iter().map(|node| format!("snapshot needed: {node}"));
            trace.extend(needed);
        }
        _ => return false,
    }
    true
}

fn join(entries: &[Entry]) -> String {
    entries.iter().map(describe_entry).collect::<Vec<_>>().join(", ")
}

fn status(cluster: &Cluster, id: NodeId) -> String {
    if !cluster.is_up(id) {
        return format!("{id}: {}", if cluster.is_destroyed(id) { "destroyed" } else { "down" });
    }
    let status = cluster.node(id).status();
    let leader = status.leader.map_or("none".to_owned(), |leader| leader.to_string());
    let vote = status.vote.map_or("none".to_owned(), |vote| vote.to_string());
    let mut more = if status.lease { " lease" } else { "" }.to_owned();
    if status.dormant {
        more.push_str(" asleep");
    }
    if let Some(index) = status.installing {
        more.push_str(&format!(" installing {index}"));
    }
    format!(
        "{id}: {:?} t{} leader {leader} vote {vote} last {} flushed {} committed {} applied {}{more}",
        status.role, status.term, status.last_index, status.flushed, status.committed, status.applied
    )
}

fn group(words: &Words<'_>) -> Cluster {
    let count = words.require(0);
    let spares = words.words.iter().find_map(|word| word.strip_prefix("spares="));
    let spares: u64 = spares.map_or(0, |spares| spares.parse().expect("a number of spares"));
    let mut configs: Vec<Config> = (1..=count + spares).map(|id| Config::new(NodeId(id))).collect();
    let mut learners = Vec::new();
    let mut fresh_is_empty = false;
    let mut logs: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
    let mut term = None;
    for word in &words.words[1..] {
        let (key, value) = word.split_once('=').unwrap_or_else(|| panic!("key=value in: {}", words.line));
        if key == "learners" {
            learners = numbers(value).map(NodeId).collect();
        } else if let Some(id) = key.strip_prefix("log") {
            let id = NodeId(id.parse().expect("logID"));
            logs.insert(id, numbers(value).collect());
        } else if key == "fresh" {
            fresh_is_empty = value == "empty";
        } else if key == "term" {
            term = Some(value.parse().expect("a term"));
        } else if let Some(id) = key.strip_prefix("priority") {
            let id = NodeId(id.parse().expect("priorityID"));
            let config = configs.iter_mut().find(|config| config.id == id).expect("a node of the group");
            config.priority = value.parse().expect("a priority");
        } else {
            configs.iter_mut().for_each(|config| set(config, key, value));
        }
    }
    let voters = (1..=count).map(NodeId).filter(|id| !learners.contains(id)).collect();
    let conf_state = ConfState { voters, learners, voters_outgoing: Vec::new() };
    let disks = logs.into_iter().map(|(id, terms)| (id, disk(&terms, term))).collect();
    let mut cluster = Cluster::new(configs, conf_state, disks, 1);
    if fresh_is_empty {
        cluster.fresh = ConfState::default();
    }
    cluster
}

fn numbers(list: &str) -> impl Iterator<Item = u64> {
    list.split(',').map(|number| number.parse().expect("a list of numbers"))
}

fn set(config: &mut Config, key: &str, value: &str) {
    let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("a number for {key}"));
    let small = || u32::try_from(number()).expect("a small number");
    match key {
        "election" => config.election_ticks = small(),
        "heartbeat" => config.heartbeat_ticks = small(),
        "messages" => config.inflight_messages_max = usize::try_from(number()).expect("a small number"),
        "inflight_bytes" => config.inflight_bytes_max = number(),
        "append_bytes" => config.append_bytes_max = number(),
        "uncommitted_bytes" => config.uncommitted_bytes_max = number(),
        "pre_vote" => config.pre_vote = value == "on",
        "check_quorum" => config.check_quorum = value == "on",
        "lease" => config.lease = value == "on",
        "spares" => {}
        _ => panic!("unknown key {key}"),
    }
}

/// A disk that durably holds a log of entries of these terms.
fn disk(terms: &[u64], term: Option<u64>) -> Disk {
    let entry = |(index, term): (u64, &u64)| Entry {
        term: Term(*term),
        index: Index(index),
        kind: EntryKind::Normal,
        data: Bytes::from(format!("old{index}.{term}")),
    };
    let entries: Vec<Entry> = (1..).zip(terms).map(entry).collect();
    let mut log = MemStorage::new();
    log.write(None, &entries);
    let term = Term(term.or(terms.last().copied()).unwrap_or(0));
    Disk::new(log, HardState { term, vote: None, commit: Index::ZERO })
}
