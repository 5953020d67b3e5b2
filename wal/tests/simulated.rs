//! Random commands and crashes on a simulated disk, compared with a model after every step.

#[path = "support/model.rs"]
mod model;
#[path = "support/node.rs"]
mod node;

use std::collections::BTreeSet;

use model::{Command, Streams, payload};
use node::{Node, tiny};
use proptest::prelude::*;
use wal::{Entry, RecoveryMode, StreamId, StreamState, Wal};

#[derive(Debug, Clone)]
enum Step {
    Append { stream: u64, count: u64, len: usize, new_term: bool, back: u64 },
    Truncate { stream: u64, back: u64 },
    State { stream: u64, vote: u64 },
    Compact { stream: u64, keep: u64 },
    Snapshot { stream: u64, ahead: u64 },
    Reset { stream: u64, back: u64, ahead: u64 },
    Remove { stream: u64 },
    Successor { stream: u64 },
    Seal,
    Start,
    Complete { count: usize },
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = || 1..5_u64;
    let step = prop_oneof![
        12 => (stream(), 1..4_u64, 0..6000_usize, any::<bool>(), prop_oneof![4 => Just(0_u64), 1 => 1..4_u64])
            .prop_map(|(stream, count, len, new_term, back)| Step::Append { stream, count, len, new_term, back }),
        1 => (stream(), 0..5_u64).prop_map(|(stream, back)| Step::Truncate { stream, back }),
        3 => (stream(), 1..4_u64).prop_map(|(stream, vote)| Step::State { stream, vote }),
        6 => (stream(), 0..4_u64).prop_map(|(stream, keep)| Step::Compact { stream, keep }),
        1 => (stream(), 1..9_u64).prop_map(|(stream, ahead)| Step::Snapshot { stream, ahead }),
        2 => (stream(), 0..9_u64, 0..9_u64)
            .prop_map(|(stream, back, ahead)| Step::Reset { stream, back, ahead }),
        1 => stream().prop_map(|stream| Step::Remove { stream }),
        1 => stream().prop_map(|stream| Step::Successor { stream }),
        1 => Just(Step::Seal),
        8 => Just(Step::Start),
        8 => (1..6_usize).prop_map(|count| Step::Complete { count }),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..160)
}

fn stream_of(step: &Step) -> Option<u64> {
    match *step {
        Step::Append { stream, .. }
        | Step::Truncate { stream, .. }
        | Step::State { stream, .. }
        | Step::Compact { stream, .. }
        | Step::Snapshot { stream, .. }
        | Step::Reset { stream, .. }
        | Step::Remove { stream }
        | Step::Successor { stream } => Some(stream),
        Step::Seal | Step::Start | Step::Complete { .. } | Step::Crash => None,
    }
}

fn run(node: &mut Node, step: &Step) {
    let empty = model::ModelStream::default();
    let of = |node: &Node, stream: u64| node.model.now.get(&StreamId(stream)).unwrap_or(&empty).clone();
    match *step {
        Step::Append { stream, count, len, new_term, back } => {
            let log = of(node, stream);
            let first = (log.last_index() + 1).saturating_sub(back).max(log.base.0 + 1);
            let term = log.last_term().max(1) + u64::from(new_term || back > 0);
            for index in first..first + count {
                let payload = payload(StreamId(stream), index, term, len);
                node.give(stream, Command::Append(Entry { index, term, kind: 1, payload }));
            }
        }
        Step::Truncate { stream, back } => {
            let from = (of(node, stream).last_index() + 1).saturating_sub(back);
            node.give(stream, Command::Truncate(from));
        }
        Step::State { stream, vote } => {
            let log = of(node, stream);
            let state = StreamState { term: log.last_term() + 1, vote, commit: log.base.0 };
            node.give(stream, Command::State(state));
        }
        Step::Compact { stream, keep } => {
            let log = of(node, stream);
            let index = log.last_index().saturating_sub(keep);
            if index > log.base.0 {
                let term = log.entries[usize::try_from(index - log.base.0 - 1).unwrap()].term;
                node.give(stream, Command::Compact { index, term });
            }
        }
        Step::Snapshot { stream, ahead } => {
            let log = of(node, stream);
            node.give(
                stream,
                Command::Compact { index: log.last_index() + ahead, term: log.last_term() + 1 },
            );
        }
        Step::Reset { stream, back, ahead } => {
            let log = of(node, stream);
            let index = log.last_index().saturating_sub(back) + ahead;
            let term = if index == 0 { 0 } else { log.last_term() + ahead % 2 };
            node.give(stream, Command::Reset { index, term });
        }
        Step::Remove { stream } => {
            node.give(stream, Command::Remove);
        }
        // What a node does with a shard whose replica was replaced: the generation is in the upper bits.
        Step::Successor { stream } => {
            let log = of(node, stream);
            node.give(1 << 40 | stream, Command::Reset { index: log.last_index(), term: log.last_term() });
            node.give(stream, Command::Remove);
        }
        Step::Seal => node.wal.seal(),
        Step::Start => node.start(),
        Step::Complete { count } => {
            for _ in 0..count {
                node.complete_one();
            }
        }
        Step::Crash => {
            node.disk.crash();
            node.restart();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn the_log_equals_its_model_through_commands_and_crashes(
        steps in steps(),
        seed in any::<u64>(),
        segment_blocks in 5..12_u64,
    ) {
        let mut node = Node::new(tiny(segment_blocks * wal::BLOCK), seed);
        for step in &steps {
            run(&mut node, step);
            node.assert_holds_model();
        }
        node.settle();
        node.assert_holds_model();
        node.restart();
    }

    #[test]
    fn flipped_bits_leave_whole_what_is_served_name_the_rest_and_are_reported_once(
        steps in steps(),
        seed in any::<u64>(),
        segment_blocks in 5..12_u64,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8), 1..4),
    ) {
        let mut node = Node::new(tiny(segment_blocks * wal::BLOCK), seed);
        let mut removed = BTreeSet::new();
        for step in &steps {
            // An id is never used again, or records of two lives could be mistaken for those of one.
            if stream_of(step).is_some_and(|stream| removed.contains(&stream)) {
                continue;
            }
            run(&mut node, step);
            if let Step::Remove { stream } | Step::Successor { stream } = step {
                removed.insert(*stream);
            }
        }
        node.settle();
        node.wal.seal();
        node.settle();
        for (file, at, bit) in flips {
            let files: Vec<_> = node.disk.files().map(|(segment, bytes)| (segment, bytes.len())).collect();
            let (segment, len) = files[file.index(files.len())];
            node.disk.flip_bit(segment, u64::try_from(at.index(len)).unwrap(), bit);
        }
        let strict = node.config.clone();
        node.config.recovery_mode = RecoveryMode::Quarantine;
        let recovered = node.recover().expect("quarantine opens a damaged log");
        let damage = recovered.damage.clone();
        prop_assert_eq!(damage.is_empty(), node.disk.clone().recover(&strict).is_ok());
        node.model.cut(recovered.end_lsn());
        node.wal = Wal::new(node.config.clone(), recovered);
        let named: Vec<StreamId> = damage.iter().flat_map(|damage| damage.streams.clone()).collect();
        let hides = damage.iter().any(|damage| damage.may_hide_streams);
        let (served, gone): (Streams, Streams) =
            std::mem::take(&mut node.model.now).into_iter().partition(|(stream, _)| node.wal.contains(*stream));
        prop_assert!(gone.keys().all(|stream| hides || named.contains(stream)), "{damage:?}");
        prop_assert!(node.wal.lost().eq(named.into_iter().collect::<BTreeSet<_>>()));
        node.assert_holds(&served);
        for stream in node.wal.lost().collect::<Vec<_>>() {
            node.wal.remove(stream);
        }
        node.wal.mend();
        node.settle();
        let recovered = node.disk.recover(&strict).expect("what was mended is no damage");
        node.wal = Wal::new(strict, recovered);
        node.assert_holds(&served);
    }
}
