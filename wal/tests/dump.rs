//! `waldump` on a sound folder, beside its owner, and on a damaged one.

#[path = "support/model.rs"]
mod model;
#[allow(unused_macros, reason = "for tests that run over both ways to write files")]
#[path = "support/rig.rs"]
mod rig;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use glommio::{LocalExecutorBuilder, Placement};
use model::payload;
use rig::{Rig, folder};
use wal::disk::Io;
use wal::{BLOCK, Entry, StreamId, StreamState, WalConfig};

fn waldump(args: &[&str], dir: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_waldump")).args(args).arg(dir).output().expect("it runs");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn a_folder_is_printed_and_verified_while_open_and_when_damaged() {
    let dir = folder();
    let config = WalConfig {
        segment_bytes: 16 * BLOCK,
        batch_bytes_max: 16 << 10,
        payload_bytes_max: 20_000,
        pool_min: 1,
        ..WalConfig::new(4, 2)
    };
    let executor = LocalExecutorBuilder::new(Placement::Unbound).make().expect("an executor");
    let first = executor.run(async {
        let mut rig = Rig::open(dir.path(), &config, Io::Direct).await.expect("a new folder");
        rig.wal.borrow_mut().set_state(StreamId(5), StreamState { term: 3, vote: 2, commit: 1 });
        let entry = Entry { index: 1, term: 3, kind: 1, payload: payload(StreamId(5), 1, 3, 700) };
        rig.wal.borrow_mut().append(StreamId(5), &[entry]);
        let first = rig.settle().await.expect("a batch");
        rig.wal.borrow_mut().reset(StreamId(6), 40, 2);
        rig.wal.borrow_mut().seal();
        rig.settle().await;
        let (sound, text) = waldump(&["--records", "--streams"], dir.path());
        assert!(sound, "{text}");
        for part in [
            "node 4, core 2",
            "append 1, term 3, kind 1, 700 bytes",
            "state term 3, vote 2",
            "stream 5: 2 records",
            "stream 6: reset to 40, term 2",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        let (sound, text) = waldump(&["--verify"], dir.path());
        assert!(sound && text.contains("stream 5: entries 1..=1, term 3, vote 2, commit 1"), "{text}");
        first
    });
    let path = dir.path().join(wal::file_name(first.segment));
    let file = fs::OpenOptions::new().write(true).open(path).expect("the segment");
    file.write_all_at(b"?", first.offset_bytes + 300).expect("damage");
    let (sound, text) = waldump(&[], dir.path());
    assert!(!sound && text.contains("DAMAGED"), "{text}");
    let (sound, text) = waldump(&["--verify"], dir.path());
    let place = format!("{}: DAMAGED at offset {}", wal::file_name(first.segment), first.offset_bytes + 128);
    assert!(!sound && text.contains(&place), "{place} in {text}");
    assert!(text.contains("records may be lost of stream 5\n") && text.contains("stream 5: LOST"), "{text}");
    assert!(text.contains("stream 6: entries 41..=40"), "{text}");
    let (sound, text) = waldump(&["--nonsense"], dir.path());
    assert!(!sound && text.contains("usage"), "{text}");
}
