//! The log's own rules: conflicts, reading across its two halves, and what may be acknowledged when.

use bytes::Bytes;

use super::*;
use crate::entry::EntryKind;
use crate::storage::MemStorage;

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        term: Term(term),
        index: Index(index),
        kind: EntryKind::Normal,
        data: Bytes::from_static(b"data"),
    }
}

/// A durable log with these terms from index 1.
fn log(terms: &[u64]) -> RaftLog<MemStorage> {
    let entries: Vec<Entry> = (1..).zip(terms).map(|(index, term)| entry(index, *term)).collect();
    let mut storage = MemStorage::new();
    storage.write(None, &entries);
    RaftLog::new(storage, Index::ZERO, Index::ZERO)
}

/// Hands the unstable entries over as Ready `id`.
fn submit(log: &mut RaftLog<MemStorage>, id: u64) {
    let (truncate_from, entries) = log.take_unstable(log.last_index());
    log.storage.write(truncate_from, &entries);
    log.note_write(ReadyId(id), log.last_index(), (Term(1), None));
    log.check_invariants();
}

fn terms(log: &RaftLog<MemStorage>) -> Vec<u64> {
    (1..=log.last_index().0).map(|index| log.term(Index(index)).unwrap().0).collect()
}

#[test]
fn a_conflict_drops_the_suffix_and_what_was_flushed_of_it() {
    let mut log = log(&[1, 1, 2, 2]);
    log.append(vec![entry(2, 1), entry(3, 3)]);
    assert_eq!(terms(&log), [1, 1, 3]);
    assert_eq!(log.flushed(), Index(2));
    assert_eq!(log.take_unstable(log.last_index()), (Some(Index(3)), vec![entry(3, 3)]));
}

#[test]
fn an_old_append_does_not_drop_newer_entries() {
    let mut log = log(&[1, 1, 1]);
    log.append(vec![entry(1, 1), entry(2, 1)]);
    assert_eq!(terms(&log), [1, 1, 1]);
    assert!(!log.has_unstable());
}

#[test]
fn a_conflict_among_unstable_entries_leaves_the_storage_alone() {
    let mut log = log(&[1]);
    log.append(vec![entry(2, 1), entry(3, 1)]);
    log.append(vec![entry(3, 2)]);
    assert_eq!(log.take_unstable(log.last_index()), (None, vec![entry(2, 1), entry(3, 2)]));
}

#[test]
fn two_conflicts_before_one_ready_truncate_at_the_lower() {
    let mut log = log(&[1, 1, 1, 1]);
    log.append(vec![entry(4, 2)]);
    log.append(vec![entry(2, 3), entry(3, 3)]);
    assert_eq!(log.take_unstable(log.last_index()), (Some(Index(2)), vec![entry(2, 3), entry(3, 3)]));
}

#[test]
#[should_panic(expected = "contradicts a committed one")]
fn a_committed_entry_is_never_dropped() {
    let mut log = log(&[1, 1, 1]);
    log.commit_to(Index(2));
    log.append(vec![entry(2, 2)]);
}

#[test]
fn a_rewritten_entry_is_flushed_by_its_last_write_only() {
    let mut log = log(&[1]);
    log.append(vec![entry(2, 2)]);
    submit(&mut log, 1);
    log.append(vec![entry(2, 3)]);
    submit(&mut log, 2);
    log.append(vec![entry(2, 2)]);
    submit(&mut log, 3);
    log.on_persisted(ReadyId(1));
    assert_eq!(log.flushed(), Index(1), "entry 2 of term 3 may be what a crash leaves");
    log.on_persisted(ReadyId(2));
    assert_eq!(log.flushed(), Index(1));
    log.on_persisted(ReadyId(3));
    assert_eq!(log.flushed(), Index(2));
}

#[test]
fn a_truncation_not_yet_submitted_already_voids_the_write_under_way() {
    let mut log = log(&[1]);
    log.append(vec![entry(2, 2), entry(3, 2)]);
    submit(&mut log, 1);
    log.append(vec![entry(3, 3)]);
    log.on_persisted(ReadyId(1));
    assert_eq!(log.flushed(), Index(2));
}

#[test]
fn a_read_spans_storage_and_unstable_entries() {
    let mut log = log(&[1, 1]);
    log.append(vec![entry(3, 1), entry(4, 1)]);
    let size = entry(1, 1).size_bytes();
    let read = |low, bytes_max| -> Vec<u64> {
        log.entries(Index(low), bytes_max).unwrap().iter().map(|entry| entry.index.0).collect()
    };
    assert_eq!(read(1, u64::MAX), [1, 2, 3, 4]);
    assert_eq!(read(2, 2 * size), [2, 3]);
    assert_eq!(read(2, size), [2]);
    assert_eq!(read(3, 0), [3]);
    assert_eq!(read(1, 2 * size), [1, 2]);
}

#[test]
fn a_stale_suffix_of_the_storage_is_not_read() {
    let mut log = log(&[1, 1, 1]);
    log.append(vec![entry(2, 2)]);
    assert_eq!(log.entries(Index(1), u64::MAX), Ok(vec![entry(1, 1), entry(2, 2)]));
    assert_eq!(log.term(Index(3)), Err(LogReadError::Unavailable));
}

#[test]
fn the_conflict_point_is_the_last_entry_of_no_later_term() {
    let log = log(&[1, 1, 3, 3, 5]);
    let naive = |index: u64, term: u64| {
        let mut at = index.min(5);
        while at > 0 && log.term(Index(at)).unwrap() > Term(term) {
            at -= 1;
        }
        (Index(at), log.term(Index(at)).unwrap())
    };
    for index in 0..8 {
        for term in 0..7 {
            assert_eq!(log.conflict_by_term(Index(index), Term(term)), naive(index, term), "{index} {term}");
        }
    }
}

#[test]
fn the_conflict_point_before_a_compacted_log_has_no_term() {
    let mut log = log(&[1, 1, 3, 3]);
    log.commit_to(Index(3));
    log.storage.compact_to(Index(3));
    assert_eq!(log.conflict_by_term(Index(4), Term(3)), (Index(4), Term(3)));
    assert_eq!(log.conflict_by_term(Index(4), Term(2)), (Index(2), Term::ZERO));
    assert_eq!(log.conflict_by_term(Index(1), Term(3)), (Index(0), Term::ZERO));
}

#[test]
fn entries_are_applied_once_flushed_and_while_the_state_machine_keeps_up() {
    let mut log = log(&[1]);
    let size = entry(1, 1).size_bytes();
    for index in 2..=6 {
        log.append(vec![entry(index, 1)]);
    }
    submit(&mut log, 1);
    log.commit_to(Index(6));
    assert_eq!(log.applicable(size), Some((Index(1), Index(2))), "only the first is durable");
    log.on_persisted(ReadyId(1));
    for index in 1..=4 {
        assert_eq!(log.applicable(size), Some((Index(index), Index(7))));
        log.hand_out(&[entry(index, 1)]);
    }
    assert_eq!(log.applicable(size), None, "four batches wait");
    log.on_applied(Index(2));
    assert_eq!(log.applicable(size), Some((Index(5), Index(7))));
    log.check_invariants();
}

#[test]
#[should_panic(expected = "the storage ends before")]
fn a_ready_not_made_visible_is_noticed() {
    let mut log = log(&[1]);
    log.append(vec![entry(2, 1)]);
    log.take_unstable(log.last_index());
    log.take_unstable(log.last_index());
}
