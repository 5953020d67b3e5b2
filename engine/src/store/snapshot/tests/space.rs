//! What snapshots cost of the disk, and what resuming one costs.

use std::time::Duration;

use super::*;

const LONG: Duration = Duration::from_secs(3600);

fn to_send(replica: &Replica) -> PinnedSnapshot {
    let engine = replica.engine();
    replica.library.take(engine.as_ref(), &founders(), TakenTo::Send, &|_| ()).expect("a snapshot")
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_with_what_to_do() {
    let mut leader = Replica::new(open_mem);
    leader.apply_to(30);
    let snapshot = leader.take();
    let follower = Replica::new(open_mem);
    let free = files::space(follower.folder.path()).expect("the space").free;
    let refused = follower.library.receive(snapshot.manifest().clone(), free * 2).err().expect("no room");
    assert!(
        matches!(refused, ReceiveError::NoRoom { missing, .. } if missing == snapshot.manifest().bytes())
    );
    assert!(refused.to_string().contains("make room"), "{refused}");
    // Whatever is to come counts, not what is there.
    let mut large = snapshot.manifest().clone();
    large.files[0].bytes = free * 2;
    assert!(matches!(follower.library.receive(large, 0), Err(ReceiveError::NoRoom { .. })));
    let place = receive_all(&snapshot, &follower.library).expect("it fits");
    follower.library.drop_received(&place);
}

#[test]
fn what_was_verified_is_not_read_again_to_be_resumed() {
    let mut leader = Replica::new(open_rocks);
    leader.apply_to(55);
    let snapshot = leader.take();
    let follower = Replica::new(open_rocks);
    let mut incoming = follower.library.receive(snapshot.manifest().clone(), 0).expect("receive");
    send(&snapshot, &mut incoming, usize::MAX).expect("send");
    drop(incoming);
    // Another content of the same length: who reads it notices.
    let (number, file) =
        (0..).zip(&snapshot.manifest().files).find(|(_, file)| file.bytes > 0).expect("a file");
    let folder = partly_received(&follower);
    let path = folder.join("data").join(&file.name);
    let whole = std::fs::read(&path).expect("the file");
    std::fs::write(&path, vec![0x55; whole.len()]).expect("write");
    let held = |follower: &Replica| {
        follower.library.receive(snapshot.manifest().clone(), 0).expect("receive").held()
    };
    let number: usize = number;
    assert_eq!(held(&follower)[number], file.bytes, "it was not read");
    // A note counts only where it is whole, and for a file of that length.
    let notes = std::fs::read(folder.join("VERIFIED")).expect("the notes");
    std::fs::write(folder.join("VERIFIED"), vec![0; notes.len()]).expect("write");
    assert_eq!(held(&follower)[number], 0, "it was read, and is not what was sent");
    std::fs::write(folder.join("VERIFIED"), &notes).expect("write");
    std::fs::write(&path, &whole[1..]).expect("write");
    assert_eq!(held(&follower)[number], file.bytes - 1, "a beginning, by its length");
    assert!(!folder.join("VERIFIED").exists(), "what comes in its place must not be taken for verified");
}

#[test]
fn what_was_taken_to_be_sent_goes_when_nobody_needs_it() {
    let mut replica = Replica::new(open_mem);
    replica.apply_to(6);
    drop(replica.take());
    replica.apply_to(15);
    let lent = to_send(&replica);
    replica.library.prune(1).expect("prune");
    assert_eq!(replica.indexes(), [6, 15], "one to keep, and one that is being sent");
    replica.library.drop_unused(Duration::ZERO, LONG).expect("drop");
    assert_eq!(replica.indexes(), [6, 15]);
    drop(lent);
    replica.library.prune(1).expect("prune");
    replica.library.drop_unused(LONG, LONG).expect("drop");
    replica.reopen();
    replica.library.drop_unused(LONG, LONG).expect("drop");
    assert_eq!(replica.indexes(), [6, 15], "it was used just now");
    replica.library.drop_unused(Duration::ZERO, LONG).expect("drop");
    assert_eq!(replica.indexes(), [6], "what was taken to be kept is");
    // One that somebody wants to keep after all is kept, also over a restart.
    drop(to_send(&replica));
    drop(replica.take());
    replica.reopen();
    replica.library.drop_unused(Duration::ZERO, LONG).expect("drop");
    assert_eq!(replica.indexes(), [6, 15]);
    // A newer one takes the place of those that were sent.
    replica.apply_to(20);
    drop(to_send(&replica));
    replica.apply_to(25);
    drop(replica.take());
    replica.library.prune(2).expect("prune");
    assert_eq!(replica.indexes(), [15, 25]);
}

#[test]
fn a_part_that_nobody_goes_on_sending_is_removed() {
    let mut leader = Replica::new(open_mem);
    leader.apply_to(30);
    let snapshot = leader.take();
    let mut follower = Replica::new(open_mem);
    let mut incoming = follower.library.receive(snapshot.manifest().clone(), 0).expect("receive");
    send(&snapshot, &mut incoming, 1).expect("send");
    let folder = partly_received(&follower);
    follower.library.drop_unused(LONG, LONG).expect("drop");
    assert!(folder.exists());
    follower.library.drop_unused(LONG, Duration::ZERO).expect("drop");
    assert!(!folder.exists());
    assert!(matches!(send(&snapshot, &mut incoming, 1), Err(ReceiveError::Superseded)));
    // A whole one waits for the replica, however long that takes.
    let place = receive_all(&snapshot, &follower.library).expect("received");
    follower.library.drop_unused(LONG, Duration::ZERO).expect("drop");
    follower.install(&place).expect("installed");
}
