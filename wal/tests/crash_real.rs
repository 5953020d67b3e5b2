//! The crashes of `crash.rs` on real files: what a power failure leaves of the simulated disk is put into a folder, and
//! opened through io_uring and direct I/O, and through the page cache.

#[path = "support/model.rs"]
mod model;
#[path = "support/node.rs"]
mod node;
#[macro_use]
#[path = "support/rig.rs"]
mod rig;

use std::collections::BTreeSet;
use std::fs;

use glommio::{LocalExecutorBuilder, Placement};
use model::{Command, payload};
use node::{Node, tiny};
use rig::{Rig, folder};
use wal::disk::Io;
use wal::disk::sim::Landing;
use wal::{BLOCK, BatchId, Entry, Lsn, StreamId, StreamState};

const SECTOR: usize = 512;
const BYTES_STEP: usize = 24;

/// A log with something flushed, and three batches under way, the last in another segment.
fn three_under_way() -> Node {
    let mut node = Node::new(tiny(6 * BLOCK), 9);
    let give = |node: &mut Node, index, len| {
        let payload = payload(StreamId(1), index, 1, len);
        node.give(1, Command::Append(Entry { index, term: 1, kind: 0, payload }));
        node.give(2, Command::State(StreamState { term: index, vote: 1, commit: 0 }));
    };
    give(&mut node, 1, 100);
    node.settle();
    for index in 2..5 {
        give(&mut node, index, 5000);
    }
    node.give(1, Command::Reset { index: 40, term: 6 });
    node.give(9 << 20 | 2, Command::Reset { index: 7, term: 2 });
    node.give(2, Command::Remove);
    node.start();
    assert_eq!(node.wal.inflight(), 3);
    node
}

/// Restarts on real files after a crash; where the log then ends.
async fn restarted(node: &Node, io: Io, landing: impl FnMut(BatchId, usize) -> Landing) -> Lsn {
    let mut disk = node.disk.clone();
    disk.crash_with(landing);
    let dir = folder();
    for (segment, bytes) in disk.files() {
        fs::write(dir.path().join(wal::file_name(segment)), bytes).expect("a file");
    }
    let mut rig = Rig::open(dir.path(), &node.config, io).await.expect("a crash is not damage");
    let end = rig.wal.borrow().end_lsn();
    assert!(end >= node.wal.flushed_lsn(), "acknowledged records are gone");
    rig.assert_holds(&node.model.at(end)).await;
    end
}

over_both! {
    a_crash_around_every_sector_of_every_write_leaves_a_prefix_with_all_that_was_acknowledged
}

fn a_crash_around_every_sector_of_every_write_leaves_a_prefix_with_all_that_was_acknowledged(io: Io) {
    let node = three_under_way();
    let mut lens = Vec::new();
    node.disk.clone().crash_with(|id, len| {
        lens.push((id, len));
        Landing::Lost
    });
    assert_eq!(lens.len(), 3);
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
    let ends = executor.run(async {
        let mut ends = BTreeSet::new();
        for (torn, torn_len) in &lens {
            let boundaries = (0..=torn_len / SECTOR).map(|sector| sector * SECTOR);
            let cuts = boundaries.flat_map(|at| [at.saturating_sub(1), at, (at + 1).min(*torn_len)]);
            // Every byte of every write takes minutes on files; the simulated disk does that.
            let between = (0..*torn_len).step_by(BYTES_STEP);
            for cut in cuts.chain(between).collect::<BTreeSet<usize>>() {
                for others in [0_u32, 0b011, 0b101, 0b110, 0b111] {
                    let end = restarted(&node, io, |id, _| {
                        let landed = others >> (id.0 % 3) & 1 == 1;
                        match (id == *torn, landed) {
                            (true, _) => Landing::Prefix(cut),
                            (false, true) => Landing::Whole,
                            (false, false) => Landing::Lost,
                        }
                    });
                    ends.insert(end.await);
                }
            }
        }
        ends
    });
    assert_eq!(ends.len(), 4, "nothing, one, two or all three of the batches: {ends:?}");
}
