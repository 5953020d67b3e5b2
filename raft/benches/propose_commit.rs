//! From propose to commit over three nodes in memory: the processor time of the protocol alone.
//!
//! One turn proposes a batch on the leader and runs the group until all three nodes have committed it; the disk and the
//! network cost nothing. Throughput counts proposals.

#![expect(missing_docs, reason = "criterion's macro makes a public function without any")]

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use raft::{ConfState, Config, Index, InitialState, MemStorage, Message, Nanos, NodeId, RawNode};

/// Compact the logs when they hold this many entries, so that a long run measures the same as a short one.
const LOG_ENTRIES_MAX: u64 = 10_000;

struct Group {
    nodes: Vec<RawNode<MemStorage>>,
    wire: Vec<Message>,
}

impl Group {
    fn new() -> Group {
        let voters: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let conf_state = ConfState { voters: voters.clone(), ..ConfState::default() };
        let node = |id: &NodeId| {
            let initial = InitialState { conf_state: conf_state.clone(), ..InitialState::default() };
            RawNode::new(Config::new(*id), initial, MemStorage::new(), id.0).expect("a valid node")
        };
        let mut group = Group { nodes: voters.iter().map(node).collect(), wire: Vec::new() };
        group.nodes[0].campaign();
        group.run();
        assert!(group.nodes[0].is_leader());
        group
    }

    fn run(&mut self) {
        loop {
            for node in &mut self.nodes {
                while node.has_ready() {
                    let ready = node.ready();
                    node.storage_mut().write(ready.truncate_from, &ready.entries);
                    self.wire.extend(ready.messages);
                    node.on_persisted(ready.id);
                    self.wire.extend(ready.persisted_messages);
                    if let Some(last) = ready.committed.last() {
                        node.on_applied(last.index);
                    }
                }
            }
            if self.wire.is_empty() {
                return;
            }
            for message in std::mem::take(&mut self.wire) {
                let position = usize::try_from(message.to.0 - 1).expect("a small number");
                self.nodes[position].step(message, Nanos(1)).expect("a sound message");
            }
        }
    }

    fn compact(&mut self) {
        let applied = self.nodes.iter().map(RawNode::applied).min().unwrap_or_default();
        for node in &mut self.nodes {
            if applied.distance_from(Index::ZERO) > LOG_ENTRIES_MAX && node.storage().iter().count() > 0 {
                node.storage_mut().compact_to(applied);
            }
        }
    }
}

fn propose_commit(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("propose_commit");
    let value = Bytes::from(vec![7; 4096]);
    for batch in [1_u64, 16, 128] {
        let mut group = Group::new();
        bench.throughput(Throughput::Elements(batch));
        bench.bench_function(BenchmarkId::from_parameter(batch), |bencher| {
            bencher.iter(|| {
                for _ in 0..batch {
                    group.nodes[0].propose(value.clone()).expect("room for a proposal");
                }
                group.run();
                group.compact();
            });
        });
        let committed = group.nodes[0].committed();
        assert!(group.nodes.iter().all(|node| node.applied() == committed), "all was applied everywhere");
    }
    bench.finish();
}

fn empty_turn(criterion: &mut Criterion) {
    let group = Group::new();
    criterion.bench_function("has_ready_idle_leader", |bencher| {
        bencher.iter(|| std::hint::black_box(&group.nodes[0]).has_ready());
    });
}

criterion_group!(benches, propose_commit, empty_turn);
criterion_main!(benches);
