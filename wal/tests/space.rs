//! Segments, memory and the disk's size stay within their bounds, and nothing needed is given up for it.

#[path = "support/model.rs"]
mod model;
#[path = "support/node.rs"]
mod node;

use std::collections::BTreeSet;

use model::{Command, payload};
use node::{Node, tiny};
use wal::disk::sim::{SimConfig, SimDisk};
use wal::{BLOCK, Entry, ReadError, SegmentTask, StreamId, StreamState, Wal, WalConfig};

fn append(stream: u64, index: u64, len: usize) -> Command {
    Command::Append(Entry { index, term: 1, kind: 0, payload: payload(StreamId(stream), index, 1, len) })
}

#[test]
fn a_busy_stream_runs_on_few_segments_forever_while_idle_ones_keep_their_state() {
    let mut node = Node::new(tiny(16 * BLOCK), 1);
    for idle in 10..20 {
        node.give(idle, Command::State(StreamState { term: idle, vote: 1, commit: 0 }));
        node.give(idle, Command::Compact { index: idle * 100, term: idle });
    }
    let (mut names, mut files_max) = (BTreeSet::new(), 0);
    for index in 1..600 {
        node.give(1, append(1, index, 3000));
        if index > 3 {
            node.give(1, Command::Compact { index: index - 3, term: 1 });
        }
        node.settle();
        names.extend(node.disk.files().map(|(id, _)| id));
        files_max = files_max.max(node.disk.files().count());
        assert_eq!(
            node.wal.disk_bytes(),
            node.disk.files().map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
        );
    }
    assert!(names.len() > 40, "the log went through many segments: {}", names.len());
    assert!(files_max <= 6, "on few files: {files_max}");
    node.assert_holds_model();
    node.restart();
}

#[test]
fn the_stream_that_pins_the_oldest_segment_is_named_and_compacting_it_frees_the_segment() {
    let mut node = Node::new(tiny(8 * BLOCK), 2);
    node.give(2, append(2, 1, 10));
    node.give(2, append(2, 2, 10));
    for index in 1..60 {
        node.give(1, append(1, index, 3000));
        node.give(1, Command::Compact { index, term: 1 });
        node.settle();
    }
    let pin = node.wal.pinned_by().expect("stream 2 holds the oldest segment");
    assert_eq!((pin.stream, pin.first_index, pin.last_index_pinned), (StreamId(2), 1, 2));
    let before = node.wal.disk_bytes();
    node.give(2, Command::Compact { index: 2, term: 1 });
    node.settle();
    node.give(1, append(1, 60, 10));
    node.settle();
    assert!(node.wal.disk_bytes() < before, "{} of {before} bytes", node.wal.disk_bytes());
    assert_eq!(node.wal.pinned_by(), None);
    node.assert_holds_model();
    node.restart();
}

#[test]
fn a_reset_stream_keeps_no_segment_and_counts_only_its_new_entries() {
    for ahead in [false, true] {
        let mut node = Node::new(tiny(8 * BLOCK), 8);
        for index in 1..9 {
            node.give(2, append(2, index, 3000));
        }
        node.give(2, Command::State(StreamState { term: 1, vote: 3, commit: 8 }));
        assert_eq!(node.wal.stream_bytes(StreamId(2)), 8 * 3040);
        for index in 1..40 {
            node.give(1, append(1, index, 3000));
            node.give(1, Command::Compact { index, term: 1 });
            node.settle();
        }
        assert_eq!(node.wal.pinned_by().map(|pin| pin.stream), Some(StreamId(2)));
        let before = node.wal.disk_bytes();
        let index = if ahead { 5000 } else { 3 };
        node.give(2, Command::Reset { index, term: 7 });
        assert_eq!(node.wal.stream_bytes(StreamId(2)), 0);
        node.settle();
        node.give(1, append(1, 40, 10));
        node.settle();
        assert!(node.wal.disk_bytes() < before, "{} of {before} bytes", node.wal.disk_bytes());
        assert_ne!(node.wal.pinned_by().map(|pin| pin.stream), Some(StreamId(2)));
        let entry =
            Entry { index: index + 1, term: 7, kind: 0, payload: payload(StreamId(2), index + 1, 7, 60) };
        node.give(2, Command::Append(entry));
        assert_eq!(node.wal.stream_bytes(StreamId(2)), 100);
        // The base outlives the segment its record was written to.
        for index in 41..80 {
            node.give(1, append(1, index, 3000));
            node.give(1, Command::Compact { index, term: 1 });
            node.settle();
        }
        node.assert_holds_model();
        node.restart();
        node.settle();
        node.restart();
    }
}

#[test]
fn a_removed_stream_stays_removed_whatever_recycled_segments_still_hold() {
    let mut node = Node::new(tiny(8 * BLOCK), 9);
    let stream = |generation: u64| generation << 20 | 5;
    for generation in 0..60 {
        let (mine, next) = (stream(generation), stream(generation + 1));
        for index in 1..4 {
            node.give(mine, append(mine, index, 2500));
        }
        node.give(1, append(1, generation + 1, 100));
        node.give(1, Command::Compact { index: generation + 1, term: 1 });
        node.settle();
        node.give(next, Command::State(StreamState { term: generation, vote: 0, commit: 0 }));
        node.give(mine, Command::Remove);
        node.start();
        // Now in time to be flushed, now not: then both are gone, or neither.
        for _ in 0..generation % 3 {
            node.complete_one();
        }
        node.disk.crash();
        node.restart();
        let (old, new) = (StreamId(mine), StreamId(next));
        assert!(node.wal.contains(old) || node.wal.contains(new), "the successor's record comes first");
        if node.wal.contains(old) {
            if !node.wal.contains(new) {
                node.give(next, Command::State(StreamState { term: generation, vote: 0, commit: 0 }));
            }
            node.give(mine, Command::Remove);
        }
        node.settle();
        node.restart();
        let streams: Vec<StreamId> = node.wal.streams().filter(|stream| stream.0 != 1).collect();
        assert_eq!(streams, [new]);
    }
    assert!(node.disk.files().count() <= 6, "{} files", node.disk.files().count());
    let newest = node.disk.files().map(|(segment, _)| segment.0).max();
    assert!(newest > Some(40), "the log went through many segments: {newest:?}");
}

#[test]
fn a_plan_keeps_its_segments_until_it_is_dropped() {
    let mut node = Node::new(tiny(8 * BLOCK), 3);
    for index in 1..30 {
        node.give(1, append(1, index, 3000));
        node.settle();
    }
    assert_eq!(node.wal.entries(StreamId(1), 1, 3, u64::MAX), Err(ReadError::OnDisk));
    let plan = node.wal.plan_read(StreamId(1), 1, 3, u64::MAX).expect("on disk");
    node.give(1, Command::Compact { index: 28, term: 1 });
    for index in 30..60 {
        node.give(1, append(1, index, 3000));
        node.give(1, Command::Compact { index: index - 1, term: 1 });
        node.settle();
    }
    assert_eq!(node.wal.entries(StreamId(1), 1, 3, u64::MAX), Err(ReadError::Compacted));
    let entries = plan.decode(&node.disk.read(&plan)).expect("the segment was not recycled under the plan");
    assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [1, 2]);
    let pinned = node.wal.disk_bytes();
    drop(plan);
    node.give(1, append(1, 60, 10));
    node.settle();
    assert!(node.wal.disk_bytes() < pinned);
}

#[test]
fn the_cache_is_bounded_by_bytes_except_for_what_is_not_flushed() {
    let mut node = Node::new(WalConfig { cache_bytes_max: 20_000, ..tiny(64 * BLOCK) }, 4);
    for index in 1..40 {
        node.give(index % 4, append(index % 4, index / 4 + u64::from(index % 4 != 0), 2000));
    }
    assert!(node.wal.cache_bytes() > 39 * 2000, "nothing is flushed, so nothing may go");
    node.settle();
    assert!(node.wal.cache_bytes() <= 20_000, "{}", node.wal.cache_bytes());
    node.assert_holds_model();
}

#[test]
fn a_full_disk_stops_the_log_without_harm_and_freed_space_restarts_it() {
    let mut node = Node::new(tiny(8 * BLOCK), 5);
    node.settle();
    node.disk.set_full(true);
    for index in 1..60 {
        node.give(1, append(1, index, 3000));
    }
    for _ in 0..200 {
        node.start();
        node.complete_one();
    }
    assert!(node.wal.queued_bytes() > 0 && node.wal.inflight() == 0, "no segment is left to write to");
    assert_eq!(node.wal.poll_write(), None);
    node.disk.set_full(false);
    node.settle();
    node.assert_holds_model();
    node.restart();
}

#[test]
fn segments_of_a_former_size_are_read_and_then_deleted() {
    let mut node = Node::new(tiny(8 * BLOCK), 6);
    for index in 1..12 {
        node.give(1, append(1, index, 3000));
        node.settle();
    }
    node.config.segment_bytes = 12 * BLOCK;
    node.restart();
    node.give(1, Command::Compact { index: 11, term: 1 });
    for index in 12..40 {
        node.give(1, append(1, index, 3000));
        node.give(1, Command::Compact { index, term: 1 });
        node.settle();
    }
    assert!(node.disk.files().all(|(_, bytes)| bytes.len() as u64 == 12 * BLOCK));
    node.restart();
}

#[test]
fn batches_take_everything_queued_and_leave_at_once_within_the_limit_in_flight() {
    let config = tiny(64 * BLOCK);
    let mut disk = SimDisk::new(SimConfig::default(), 7);
    let mut wal = Wal::new(config.clone(), disk.recover(&config).expect("an empty disk"));
    let entry = |index| Entry { index, term: 1, kind: 0, payload: payload(StreamId(1), index, 1, 498) };
    wal.append(StreamId(1), &[entry(1)]);
    assert_eq!(wal.poll_write(), None, "no segment is ready");
    let Some(task @ SegmentTask::Create { .. }) = wal.poll_segment_task() else {
        panic!("a segment is made")
    };
    assert_eq!(wal.poll_segment_task(), None, "one task at a time");
    wal.on_segment_task_done(task);
    let first = wal.poll_write().expect("one record leaves at once");
    assert_eq!((first.header().records, first.len_bytes), (1, 4096));
    assert_eq!(wal.poll_write(), None, "nothing is queued");
    for index in 2..32 {
        wal.append(StreamId(1), &[entry(index)]);
    }
    let second = wal.poll_write().expect("a batch");
    assert_eq!(second.header().records, 15, "as many as fit into batch_bytes_max");
    let third = wal.poll_write().expect("the rest");
    assert_eq!(third.header().records, 15);
    wal.append(StreamId(1), &[entry(32)]);
    assert_eq!((wal.inflight(), wal.poll_write()), (3, None), "inflight_max is reached");
    let none = wal.on_written(third.id);
    assert_eq!(none, wal::Lsn(0), "the batches before it are not durable");
    let fourth = wal.poll_write().expect("but its place is free");
    assert_eq!((wal.inflight(), wal.poll_write()), (3, None));
    assert_eq!(wal.on_written(first.id), first.header().end_lsn());
    assert_eq!(wal.on_written(second.id), third.header().end_lsn(), "two at once");
    assert_eq!(wal.on_written(fourth.id), wal.end_lsn());
}
