//! Power failures and damage, exhaustively, on a small log.

#[path = "support/model.rs"]
mod model;
#[path = "support/node.rs"]
mod node;

use std::collections::BTreeSet;

use model::{Command, payload};
use node::{Node, tiny};
use wal::disk::sim::Landing;
use wal::{BLOCK, BatchId, Entry, Lsn, RecoveryError, SegmentId, StreamId, StreamState, Wal};

fn append(stream: u64, index: u64, len: usize) -> Command {
    Command::Append(Entry { index, term: 1, kind: 0, payload: payload(StreamId(stream), index, 1, len) })
}

fn state(term: u64) -> Command {
    Command::State(StreamState { term, vote: 1, commit: 0 })
}

/// A log with something flushed, and three batches under way, the last in another segment.
fn three_under_way(seed: u64) -> Node {
    let mut node = Node::new(tiny(6 * BLOCK), seed);
    node.settle();
    node.give(1, append(1, 1, 100));
    node.give(2, state(1));
    node.settle();
    for index in 2..5 {
        node.give(1, append(1, index, 5000));
        node.give(2, state(index));
    }
    node.start();
    assert_eq!(node.wal.inflight(), 3);
    node
}

/// The same, the batches under way being those of replicas that are replaced: stream 1 goes on from a snapshot that
/// lies behind its log, stream 2 makes way for its successor, stream 3 begins with a snapshot.
fn resets_under_way(seed: u64) -> Node {
    let mut node = Node::new(tiny(6 * BLOCK), seed);
    node.settle();
    for index in 1..4 {
        node.give(1, append(1, index, 700));
        node.give(2, append(2, index, 700));
    }
    node.give(2, state(4));
    node.settle();
    node.give(1, Command::Reset { index: 2, term: 5 });
    let entry = Entry { index: 3, term: 5, kind: 0, payload: payload(StreamId(1), 3, 5, 5000) };
    node.give(1, Command::Append(entry));
    let successor = 77 << 20 | 2;
    node.give(successor, Command::Reset { index: 0, term: 0 });
    node.give(2, Command::Remove);
    node.give(successor, append(successor, 1, 5500));
    node.give(3, Command::Reset { index: 900, term: 8 });
    node.give(1, Command::Reset { index: 950, term: 9 });
    node.give(1, state(9));
    node.give(3, append(3, 901, 4500));
    node.start();
    assert_eq!(node.wal.inflight(), 3);
    node
}

fn restarted(node: &Node, landing: impl FnMut(BatchId, usize) -> Landing) -> Lsn {
    let mut disk = node.disk.clone();
    disk.crash_with(landing);
    let recovered = disk.recover(&node.config).expect("a crash is not damage");
    let end = recovered.end_lsn();
    assert!(end >= node.wal.flushed_lsn(), "acknowledged records are gone");
    let wal = Wal::new(node.config.clone(), recovered);
    model::assert_holds(&wal, &node.model.at(end), |plan| {
        plan.decode(&disk.read(plan)).expect("sound files")
    });
    end
}

#[test]
fn a_crash_at_every_byte_of_every_write_leaves_a_prefix_with_all_that_was_acknowledged() {
    for node in [three_under_way(1), resets_under_way(1)] {
        crash_at_every_byte(&node);
    }
}

fn crash_at_every_byte(node: &Node) {
    let mut lens = Vec::new();
    restarted(node, |id, len| {
        lens.push((id, len));
        Landing::Lost
    });
    assert_eq!(lens.len(), 3);
    let mut ends = BTreeSet::new();
    for (torn, torn_len) in &lens {
        for others in 0..8_u32 {
            for cut in 0..=*torn_len {
                let end = restarted(node, |id, _| {
                    let landed = others >> (id.0 % 3) & 1 == 1;
                    match (id == *torn, landed) {
                        (true, _) => Landing::Prefix(cut),
                        (false, true) => Landing::Whole,
                        (false, false) => Landing::Lost,
                    }
                });
                ends.insert(end);
            }
        }
    }
    assert_eq!(ends.len(), 4, "nothing, one, two or all three of the batches: {ends:?}");
}

#[test]
fn torn_sectors_in_any_combination_leave_a_prefix() {
    for node in [three_under_way(2), resets_under_way(2)] {
        for mask in 0..1_u64 << 16 {
            restarted(&node, |id, _| {
                Landing::Sectors(mask | mask.rotate_left(16 + u32::try_from(id.0).unwrap()))
            });
        }
    }
}

#[test]
fn batches_behind_a_cut_never_come_back() {
    let mut node = three_under_way(3);
    let first = restarted(&node, |_, _| Landing::Whole);
    // The first of the three is lost, the two behind it landed whole.
    let mut oldest = None;
    node.disk.crash_with(|id, _| match *oldest.get_or_insert(id) == id {
        true => Landing::Lost,
        false => Landing::Whole,
    });
    node.restart();
    assert!(node.wal.end_lsn() < first);
    // A new generation takes their positions, and crashes again and again while it does.
    for round in 0..20 {
        let index = node.model.now[&StreamId(1)].last_index() + 1;
        node.give(1, append(1, index, 300 + 700 * usize::try_from(round).unwrap() % 5000));
        node.give(3, state(round));
        node.start();
        for _ in 0..round % 4 {
            node.complete_one();
        }
        node.disk.crash();
        node.restart();
    }
    node.settle();
    node.restart();
}

/// A log of several batches, all flushed and known to be.
fn sealed() -> Node {
    let mut node = Node::new(tiny(6 * BLOCK), 5);
    for index in 1..9 {
        node.give(1, append(1, index, 1500));
        node.give(2, state(index));
        if index == 4 {
            node.give(3, append(3, 1, 40));
        }
        node.settle();
    }
    node.wal.seal();
    node.settle();
    node
}

#[test]
fn every_flipped_bit_is_either_harmless_or_reported() {
    let node = sealed();
    let files: Vec<(SegmentId, usize)> = node.disk.files().map(|(id, bytes)| (id, bytes.len())).collect();
    let (mut harmless, mut reported) = (0, 0);
    for (segment, len) in files {
        for offset in (0..len).filter(|offset| offset % 4096 < 200 || offset % 13 == 0) {
            let offset = u64::try_from(offset).unwrap();
            let mut disk = node.disk.clone();
            disk.flip_bit(segment, offset, u8::try_from(offset % 8).unwrap());
            match disk.recover(&node.config) {
                Ok(recovered) => {
                    let wal = Wal::new(node.config.clone(), recovered);
                    let fetch = |plan: &wal::ReadPlan| plan.decode(&disk.read(plan)).expect("sound files");
                    model::assert_holds(&wal, &node.model.now, fetch);
                    harmless += 1;
                }
                Err(RecoveryError::Corrupt { file, offset: at, .. }) => {
                    assert_eq!(file, wal::file_name(segment), "the damaged file is named");
                    assert!(at <= offset, "damage at {offset} reported at {at}");
                    reported += 1;
                }
                Err(other) => panic!("flipping {segment} {offset}: {other}"),
            }
        }
    }
    assert!(harmless > 100 && reported > 100, "{harmless} harmless, {reported} reported");
}

#[test]
fn a_lost_file_is_reported_while_any_later_batch_remains() {
    let node = sealed();
    let used: Vec<SegmentId> = node.recover_clone().segments().collect();
    let (last, earlier) = used.split_last().expect("segments in use");
    assert!(!earlier.is_empty());
    for segment in earlier {
        let mut disk = node.disk.clone();
        disk.lose_file(*segment);
        match disk.recover(&node.config) {
            Err(RecoveryError::Corrupt { why, .. }) => {
                assert!(why.contains("missing") || why.contains("lsn"), "{why}")
            }
            other => panic!("{segment}: {other:?}"),
        }
    }
    for spare in node.disk.files().map(|(id, _)| id).filter(|id| id > last) {
        let mut disk = node.disk.clone();
        disk.lose_file(spare);
        assert_eq!(disk.recover(&node.config).expect("a spare holds nothing").end_lsn(), node.wal.end_lsn());
    }
}

#[test]
fn another_nodes_log_is_refused_by_name() {
    let mut node = sealed();
    node.config.core = 9;
    match node.recover() {
        Err(err @ RecoveryError::Foreign { found_core: 3, core: 9, .. }) => {
            assert!(err.to_string().contains("data folder"), "{err}");
        }
        other => panic!("{other:?}"),
    }
}
