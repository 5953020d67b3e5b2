//! Damage in front of the tail: exactly the streams that lost records are named, the others are whole, and once
//! the loss is dealt with it is never reported again.

#[path = "support/model.rs"]
mod model;
#[path = "support/node.rs"]
mod node;

use std::collections::BTreeSet;

use model::{Command, Streams, payload};
use node::{Node, tiny};
use wal::disk::sim::SimDisk;
use wal::inspect::{Found, FoundRecord, inspect};
use wal::{
    BLOCK, BatchHeader, Change, Damage, Entry, Recovered, RecoveryError, RecoveryMode, SegmentHeader,
    SegmentId, StreamId, StreamState, Wal, WalConfig,
};

fn append(stream: u64, index: u64, len: usize) -> Command {
    Command::Append(Entry { index, term: 1, kind: 0, payload: payload(StreamId(stream), index, 1, len) })
}

fn state(term: u64) -> Command {
    Command::State(StreamState { term, vote: 1, commit: 0 })
}

/// A log of several batches of several streams, some of them busy, some idle since, some removed; all flushed
/// and known to be.
fn sealed() -> Node {
    let mut node = Node::new(tiny(6 * BLOCK), 5);
    for idle in 10..14 {
        node.give(idle, state(idle));
        node.give(idle, append(idle, 1, 30));
    }
    for index in 1..9 {
        node.give(1, append(1, index, 1500));
        node.give(2, state(index));
        node.give(20 + index, state(1));
        node.give(1, Command::State(StreamState { term: 1, vote: 0, commit: index }));
        if index == 4 {
            node.give(3, append(3, 1, 40));
            node.give(10, Command::Remove);
        }
        node.settle();
    }
    node.wal.seal();
    node.settle();
    node
}

fn lenient(node: &Node) -> WalConfig {
    WalConfig { recovery_mode: RecoveryMode::Quarantine, ..node.config.clone() }
}

fn open(node: &Node, disk: &mut SimDisk) -> Recovered {
    disk.recover(&lenient(node)).expect("quarantine opens a damaged log")
}

/// Every batch on the disk, and what it holds.
fn batches(disk: &SimDisk) -> Vec<(SegmentId, u64, BatchHeader, Vec<FoundRecord>)> {
    let mut batches = Vec::new();
    for (segment, bytes) in disk.files() {
        let header = SegmentHeader::decode(&bytes[..4096]).expect("a sound segment");
        for found in inspect(&header, bytes) {
            if let Found::Batch { offset, header, records, damage: None } = found {
                batches.push((segment, offset, header, records));
            }
        }
    }
    batches
}

fn touched(damage: &[Damage]) -> Vec<StreamId> {
    let touched: BTreeSet<StreamId> = damage.iter().flat_map(|damage| damage.streams.clone()).collect();
    touched.into_iter().collect()
}

/// What is served is as it was; what is not served is named.
fn assert_rest_is_whole(node: &Node, disk: &SimDisk, recovered: Recovered) {
    let lost = touched(&recovered.damage);
    let wal = Wal::new(lenient(node), recovered);
    assert_eq!(wal.lost().collect::<Vec<_>>(), lost);
    assert!(lost.iter().all(|stream| !wal.contains(*stream)));
    let whole: Streams = (node.model.now.iter())
        .filter(|(stream, _)| wal.contains(**stream))
        .map(|(stream, model)| (*stream, model.clone()))
        .collect();
    model::assert_holds(&wal, &whole, |plan| plan.decode(&disk.read(plan)).expect("sound files"));
    wal.check_invariants();
}

fn assert_covers_all(node: &Node, recovered: &Recovered, lost: &[StreamId]) {
    let found: BTreeSet<StreamId> = recovered.streams().chain(lost.iter().copied()).collect();
    let hidden = node.model.now.keys().any(|stream| !found.contains(stream));
    assert!(!hidden || recovered.damage.iter().any(|damage| damage.may_hide_streams));
}

#[test]
fn a_damaged_record_costs_exactly_its_own_stream() {
    let node = sealed();
    let mut streams_seen = BTreeSet::new();
    for (segment, batch, _, records) in batches(&node.disk) {
        for (record, next) in records.iter().zip(records.iter().skip(1).map(|next| next.offset).chain([0])) {
            let end = if next > 0 { next } else { record.offset + 40 };
            for offset in (record.offset..end).filter(|at| at - record.offset < 48 || at % 97 == 0) {
                let mut disk = node.disk.clone();
                disk.flip_bit(segment, offset, u8::try_from(offset % 8).unwrap());
                let recovered = open(&node, &mut disk);
                // A stream removed since has nothing to lose, unless that is what was lost.
                let alive = node.model.now.contains_key(&record.stream) || record.change == Change::Remove;
                let expected = if alive { vec![record.stream] } else { vec![] };
                let [damage] = recovered.damage.as_slice() else { panic!("{:?}", recovered.damage) };
                assert_eq!(damage.streams, expected, "{segment}, batch {batch}, byte {offset}");
                assert_eq!((&damage.file, damage.offset), (&wal::file_name(segment), record.offset));
                assert!(!damage.may_hide_streams);
                assert_rest_is_whole(&node, &disk, recovered);
                streams_seen.insert(record.stream);
            }
        }
    }
    assert_eq!(streams_seen.len(), 2 + 4 + 8 + 1, "every stream had its turn");
}

#[test]
fn damage_of_a_whole_sector_costs_the_streams_with_records_in_it() {
    const SECTOR: u64 = 512;
    let node = sealed();
    for (segment, batch, header, records) in batches(&node.disk) {
        let ends = records.iter().skip(1).map(|next| next.offset);
        let last = batch + 80 + u64::from(header.records_bytes);
        let spans: Vec<(u64, u64, StreamId)> = (records.iter().zip(ends.chain([last])))
            .map(|(record, end)| (record.offset, end, record.stream))
            .collect();
        for sector in (batch..last).step_by(512).skip(1) {
            let mut disk = node.disk.clone();
            (sector..sector + SECTOR).for_each(|at| disk.flip_bit(segment, at, 1));
            let recovered = open(&node, &mut disk);
            let within = spans.iter().filter(|(from, end, _)| *from < sector + SECTOR && *end > sector);
            let expected: BTreeSet<StreamId> = within.map(|(_, _, stream)| *stream).collect();
            let expected: Vec<StreamId> =
                expected.into_iter().filter(|stream| node.model.now.contains_key(stream)).collect();
            let lost = touched(&recovered.damage);
            // A sector with the directory in it: then nobody knows whose records it held.
            if recovered.damage.iter().any(|damage| damage.may_hide_streams) {
                assert!(sector + SECTOR > last);
            } else {
                assert_eq!(lost, expected, "{segment}, sector at {sector}");
            }
            assert_covers_all(&node, &recovered, &lost);
            assert_rest_is_whole(&node, &disk, recovered);
        }
    }
}

#[test]
fn a_batch_nobody_can_attribute_costs_every_stream_that_might_have_had_records_there() {
    let node = sealed();
    let mut hidden = 0;
    let batches = batches(&node.disk);
    for (segment, batch, header, records) in &batches {
        if records.is_empty() {
            continue;
        }
        let directory = batch + 80 + u64::from(header.records_bytes);
        // Its header; or its directory and a record.
        for damaged in [vec![batch + 40], vec![directory + 2, records[0].offset + 20]] {
            let mut disk = node.disk.clone();
            damaged.iter().for_each(|offset| disk.flip_bit(*segment, *offset, 2));
            let recovered = open(&node, &mut disk);
            let lost = touched(&recovered.damage);
            let [damage] = recovered.damage.as_slice() else { panic!("{:?}", recovered.damage) };
            assert!(damage.may_hide_streams);
            assert_eq!(damage.file, wal::file_name(*segment));
            assert!((*batch..directory).contains(&damage.offset), "{batch}: {damage:?}");
            for record in records.iter().filter(|record| node.model.now.contains_key(&record.stream)) {
                // Of a stream that was only there, nothing is left to name it by.
                let elsewhere = batches.iter().any(|(_, at, other, records)| {
                    (at, other.segment) != (batch, *segment)
                        && records.iter().any(|other| other.stream == record.stream)
                });
                assert!(lost.contains(&record.stream) || !elsewhere, "{}", record.stream);
                hidden += u64::from(!elsewhere);
            }
            assert_covers_all(&node, &recovered, &lost);
            assert_rest_is_whole(&node, &disk, recovered);
        }
    }
    assert!(hidden > 4, "some streams were only in the damaged batch: {hidden}");
}

#[test]
fn any_flipped_bit_leaves_whole_what_is_served_and_names_the_rest() {
    let node = sealed();
    let mut outcomes = BTreeSet::new();
    for (segment, len) in node.disk.files().map(|(id, bytes)| (id, bytes.len())).collect::<Vec<_>>() {
        for offset in (0..len).step_by(61) {
            let mut disk = node.disk.clone();
            disk.flip_bit(segment, u64::try_from(offset).unwrap(), 3);
            let recovered = open(&node, &mut disk);
            let lost = touched(&recovered.damage);
            let refused = disk.recover(&node.config).err();
            assert_eq!(refused.is_some(), !recovered.damage.is_empty());
            assert_covers_all(&node, &recovered, &lost);
            assert_rest_is_whole(&node, &disk, recovered);
            outcomes.insert(lost);
        }
    }
    assert!(outcomes.contains(&vec![]) && outcomes.len() > 2, "{outcomes:?}");
}

#[test]
fn several_places_are_reported_each_with_its_own_streams() {
    let node = sealed();
    let mut disk = node.disk.clone();
    let batches = batches(&disk);
    let of = |stream: u64| {
        let mut all = batches.iter().flat_map(|(segment, _, _, records)| {
            records.iter().map(move |record| (*segment, record.offset, record.stream))
        });
        all.find(|(_, _, found)| found.0 == stream).expect("a record of that stream")
    };
    let places = [of(11), of(24)];
    places.iter().for_each(|(segment, offset, _)| disk.flip_bit(*segment, *offset, 0));
    let recovered = open(&node, &mut disk);
    let found: Vec<(String, u64, Vec<StreamId>)> = (recovered.damage.iter())
        .map(|damage| (damage.file.clone(), damage.offset, damage.streams.clone()))
        .collect();
    let expected = places.map(|(segment, offset, stream)| (wal::file_name(segment), offset, vec![stream]));
    assert_eq!(found, expected);
    match disk.recover(&node.config) {
        Err(RecoveryError::Corrupt { file, offset, streams, .. }) => {
            assert_eq!((&file, offset), (&expected[0].0, expected[0].1));
            assert_eq!(streams, [StreamId(11), StreamId(24)]);
        }
        other => panic!("{other:?}"),
    }
}

/// Damage of every kind: a record, a batch header, a segment header, a lost file.
fn damaged(kind: usize) -> Node {
    let mut node = sealed();
    node.config = lenient(&node);
    let batches = batches(&node.disk);
    let (segment, batch, _, records) = batches.iter().find(|(_, _, _, records)| records.len() > 3).unwrap();
    match kind {
        0 => node.disk.flip_bit(*segment, records[3].offset + 3, 0),
        1 => node.disk.flip_bit(*segment, batch + 33, 0),
        2 => node.disk.flip_bit(*segment, 20, 0),
        3 => node.disk.lose_file(*segment),
        // The last segment in use: nothing says how much was in it.
        _ => node.disk.flip_bit(batches.last().unwrap().0, 20, 0),
    }
    node
}

const KINDS: usize = 5;

fn successor(stream: StreamId) -> u64 {
    9 << 20 | stream.0
}

/// Opens the damaged log; what it says, and the model of what it still holds.
fn open_damaged(node: &mut Node) -> (Vec<Damage>, Vec<StreamId>) {
    let before: BTreeSet<StreamId> = node.model.now.keys().copied().collect();
    let recovered = node.recover().expect("quarantine opens a damaged log");
    assert!(recovered.end_lsn() >= node.wal.flushed_lsn(), "no acknowledged position is used twice");
    let damage = recovered.damage.clone();
    node.wal = Wal::new(node.config.clone(), recovered);
    let wal = &node.wal;
    node.model.now.retain(|stream, _| wal.contains(*stream));
    let gone = before.into_iter().filter(|stream| !wal.contains(*stream)).collect();
    (damage, gone)
}

/// What the engine does about it.
fn deal_with(node: &mut Node, gone: &[StreamId]) {
    for stream in gone {
        node.give(successor(*stream), state(50));
        node.give(successor(*stream), append(successor(*stream), 1, 90));
    }
    for stream in node.wal.lost().collect::<Vec<_>>() {
        node.wal.remove(stream);
    }
    node.wal.mend();
}

#[test]
fn once_mended_the_log_is_clean_forever_and_lost_streams_stay_lost() {
    for kind in 0..KINDS {
        let mut node = damaged(kind);
        let (damage, gone) = open_damaged(&mut node);
        assert!(!damage.is_empty() && !gone.is_empty(), "kind {kind}");
        deal_with(&mut node, &gone);
        node.settle();
        let strict = WalConfig { recovery_mode: RecoveryMode::Refuse, ..node.config.clone() };
        for round in 0..60 {
            node.disk.clone().recover(&strict).expect("no second report");
            let (damage, _) = open_damaged(&mut node);
            assert_eq!(damage, [], "kind {kind}, round {round}");
            node.assert_holds_model();
            // Goes on, through many segments, so that the damaged ones are purged and recycled.
            let index = node.model.now.get(&StreamId(500)).map_or(1, |model| model.last_index() + 1);
            node.give(500, append(500, index, 4000));
            node.give(500, Command::Compact { index, term: 1 });
            for stream in node.model.now.keys().copied().collect::<Vec<_>>() {
                let model = &node.model.now[&stream];
                let (index, term) = (model.last_index(), model.last_term());
                if round == 5 && index > model.base.0 {
                    node.give(stream.0, Command::Compact { index, term });
                }
            }
            node.settle();
        }
        assert!(node.disk.files().count() <= 8, "{} files", node.disk.files().count());
    }
}

#[test]
fn damage_is_reported_until_it_is_mended_and_nothing_is_purged_meanwhile() {
    for kind in 0..KINDS {
        let mut node = damaged(kind);
        let (first, gone) = open_damaged(&mut node);
        for index in 1..30 {
            node.give(600, append(600, index, 4000));
            node.give(600, Command::Compact { index, term: 1 });
            node.settle();
        }
        assert!(node.wal.is_damaged());
        let (second, none) = open_damaged(&mut node);
        assert_eq!(none, [], "what was whole stays whole");
        assert_eq!(touched(&second), touched(&first), "kind {kind}");
        assert_eq!(
            first.iter().any(|damage| damage.may_hide_streams),
            second.iter().any(|damage| damage.may_hide_streams)
        );
        deal_with(&mut node, &gone);
        node.settle();
        assert!(!node.wal.is_damaged());
        let (third, _) = open_damaged(&mut node);
        assert_eq!(third, []);
        node.assert_holds_model();
    }
}

#[test]
fn a_crash_while_damage_is_dealt_with_leaves_a_successor_or_another_report() {
    let (mut reported, mut done) = (0, 0);
    for kind in 0..KINDS {
        for luck in 0..200_usize {
            let mut node = damaged(kind);
            let (first, gone) = open_damaged(&mut node);
            deal_with(&mut node, &gone);
            node.start();
            for _ in 0..luck % 7 {
                node.complete_one();
                node.start();
            }
            // Every pattern of what is torn, in turn.
            let mask = u64::try_from(luck).unwrap().wrapping_mul(0x9e37_79b9_7f4a_7c15);
            node.disk.crash_with(|_, _| wal::disk::sim::Landing::Sectors(mask));
            let recovered = node.recover().expect("quarantine opens it again");
            let again = recovered.damage.clone();
            let wal = Wal::new(node.config.clone(), recovered);
            assert!(wal.end_lsn() >= node.wal.flushed_lsn());
            let hides = again.iter().any(|damage| damage.may_hide_streams);
            for stream in &gone {
                let replaced = wal.contains(StreamId(successor(*stream)));
                let named = wal.lost().any(|lost| lost == *stream);
                let hidden = hides && !wal.contains(*stream);
                assert!(replaced || named || hidden, "kind {kind}: {stream} is forgotten");
                assert!(!wal.contains(*stream));
            }
            match again.is_empty() {
                true => done += 1,
                false => {
                    assert_eq!(again[0].file, first[0].file);
                    reported += 1;
                }
            }
        }
    }
    assert!(reported > 50 && done > 50, "{reported} reported again, {done} done");
}

#[test]
fn new_damage_behind_mended_damage_is_reported() {
    let mut node = damaged(0);
    let (_, gone) = open_damaged(&mut node);
    deal_with(&mut node, &gone);
    node.settle();
    node.wal.seal();
    node.settle();
    let (mut fresh, mut old) = (0, 0);
    for (segment, _, _, records) in batches(&node.disk) {
        for record in records {
            let mut disk = node.disk.clone();
            disk.flip_bit(segment, record.offset + 5, 4);
            let recovered = open(&node, &mut disk);
            let lost = touched(&recovered.damage);
            if node.model.now.contains_key(&record.stream) {
                assert_eq!(lost, [record.stream]);
                fresh += 1;
            } else {
                // Of a lost stream or a removed one; or the removal or the word that it is mended itself.
                let removal = record.change == Change::Remove;
                assert!(lost.iter().all(|stream| gone.contains(stream) || removal), "{lost:?}");
                old += 1;
            }
            assert_rest_is_whole(&node, &disk, recovered);
        }
    }
    assert!(fresh > 20 && old > 2, "{fresh} {old}");
}
