//! The process ends at any file operation of taking, receiving and installing a snapshot: what is opened afterwards
//! holds the old state or the new one, and goes on.

use super::*;
use crate::store::files::stop;

/// Runs `run` once for every operation it could be stopped at, and once to its end. `run` gets the number of operations
/// it may do and says whether it was stopped.
fn at_every_operation(mut run: impl FnMut(u64) -> bool) -> u64 {
    (0..).find(|operations| !run(*operations)).expect("it ends")
}

#[test]
fn a_crash_while_one_is_taken_leaves_those_before_or_all() {
    for open in ENGINES {
        let steps = at_every_operation(|operations| {
            let mut replica = Replica::new(open);
            replica.apply_to(12);
            drop(replica.take());
            replica.apply_to(33);
            let (taken, stopped) = stop::after(operations, || {
                let engine = replica.engine();
                let taken =
                    replica.library.take(engine.as_ref(), &founders(), TakenTo::Keep, &|_| ()).map(drop);
                taken.and_then(|()| replica.library.prune(1))
            });
            assert!(stopped || taken.is_ok(), "{taken:?}");
            replica.reopen();
            let indexes = replica.indexes();
            assert!([&[12][..], &[12, 33], &[33]].contains(&indexes.as_slice()), "{indexes:?}");
            if !stopped {
                assert_eq!(indexes, [33]);
            }
            // Nothing else is left, the replica goes on from what was durable, and the next one is taken.
            assert_eq!(
                files::names(&replica.folder.path().join("snapshots")).expect("names").len(),
                indexes.len()
            );
            assert!(replica.machine().applied().index >= 12);
            replica.apply_to(40);
            drop(replica.take());
            assert_eq!(replica.library.newest().expect("taken").index, Index(40));
            stopped
        });
        assert!(steps > 10, "{steps}");
    }
}

#[test]
fn a_crash_while_one_is_received_is_resumed() {
    for open in ENGINES {
        let mut leader = Replica::new(open);
        leader.apply_to(40);
        let first = leader.take();
        leader.apply_to(60);
        let snapshot = leader.take();
        let everything = leader.everything();
        let steps = at_every_operation(|operations| {
            let mut follower = Replica::new(open);
            // A partly received one is in the way.
            let mut old = follower.library.receive(first.manifest().clone(), 0).expect("receive");
            send(&first, &mut old, 2).expect("send");
            let (received, stopped) = stop::after(operations, || receive_all(&snapshot, &follower.library));
            assert!(stopped || received.is_ok(), "{received:?}");
            follower.reopen();
            let place = receive_all(&snapshot, &follower.library).expect("resumed");
            follower.install(&place).expect("installed");
            assert_eq!(follower.everything(), everything);
            stopped
        });
        assert!(steps > 20, "{steps}");
    }
}

#[test]
fn a_crash_while_one_is_installed_leaves_the_old_state_or_the_new_one() {
    for open in ENGINES {
        let mut leader = Replica::new(open);
        leader.apply_to(60);
        let snapshot = leader.take();
        let new = leader.everything();
        let (mut seen_old, mut seen_new) = (false, false);
        at_every_operation(|operations| {
            let mut follower = Replica::new(open);
            follower.apply_to(25);
            follower.engine().flush().expect("flush");
            let old = follower.everything();
            let place = receive_all(&snapshot, &follower.library).expect("received");
            let engine = follower.engine();
            let (installed, stopped) =
                stop::after(operations, || follower.library.install(engine.as_ref(), &place));
            assert!(stopped || installed.is_ok(), "{installed:?}");
            drop(engine);
            follower.reopen();
            let now = follower.everything();
            match follower.machine().applied().index {
                25 => {
                    assert_eq!(now, old);
                    assert!(installed.is_err());
                    seen_old = true;
                    // What was received is there still, so nothing is sent twice.
                    let incoming = follower.library.receive(snapshot.manifest().clone(), 0).expect("receive");
                    assert_eq!(incoming.held().iter().sum::<u64>(), snapshot.manifest().bytes());
                    let place = incoming.finish().expect("complete");
                    follower.install(&place).expect("installed");
                }
                60 => seen_new |= stopped,
                other => panic!("a state at {other}"),
            }
            assert_eq!(follower.everything(), new);
            leader.apply_to(60);
            follower.apply_to(75);
            stopped
        });
        assert!(seen_old && seen_new);
    }
}
