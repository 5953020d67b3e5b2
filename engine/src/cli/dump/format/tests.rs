use super::*;
use proptest::prelude::*;
use std::io::{Cursor, Seek, SeekFrom};

const HEADER: Header = Header { created_ms: 1_700_000_000_000, keeps_expiry: true };

fn written(records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), HEADER).unwrap();
    records.iter().for_each(|record| writer.push(record).unwrap());
    let (count, bytes) = writer.finish().unwrap();
    assert_eq!(count, wide(records.len()));
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, FormatError> {
    let mut reader = Reader::new(bytes)?;
    let mut records = Vec::new();
    while let Some(block) = reader.next_block()? {
        records.extend(block);
    }
    Ok(records)
}

fn record(at: u8, length: usize) -> Record {
    Record {
        namespace: at % 3,
        expiry_ms: u64::from(at),
        key: vec![at].into(),
        value: vec![at; length].into(),
    }
}

#[test]
fn what_was_written_is_read_back() {
    assert_eq!(read(&written(&[])).unwrap(), []);
    // The third is a block of its own.
    let records = [record(1, 0), record(2, 700_000), record(3, 3_000_000), record(4, 10)];
    let bytes = written(&records);
    assert_eq!(read(&bytes).unwrap(), records);
    assert_eq!(Reader::new(&bytes[..]).unwrap().header(), HEADER);
}

#[test]
fn reading_goes_on_at_any_block() {
    let records: Vec<Record> = (0..10).map(|at| record(at, 400_000)).collect();
    let bytes = written(&records);
    let mut reader = Reader::new(Cursor::new(&bytes)).unwrap();
    let mut positions = vec![reader.position()];
    while reader.next_block().unwrap().is_some() {
        positions.push(reader.position());
    }
    assert!(positions.len() > 4, "{positions:?}");
    for position in positions {
        let mut reader = Reader::new(Cursor::new(&bytes)).unwrap();
        reader.go_on(position, |input, to| input.seek(SeekFrom::Start(to)).map(drop)).unwrap();
        let mut rest = Vec::new();
        while let Some(block) = reader.next_block().unwrap() {
            rest.extend(block);
        }
        assert_eq!(rest, records[usize::try_from(position.1).unwrap()..]);
    }
}

#[test]
fn a_cut_dump_is_told_from_a_whole_one() {
    let bytes = written(&[record(1, 10), record(2, 1_500_000)]);
    for length in [24, 30, 33, 40, 100, bytes.len() - 20, bytes.len() - 17, bytes.len() - 1] {
        assert!(matches!(read(&bytes[..length]), Err(FormatError::Truncated { .. })), "at {length}");
    }
    for length in 0..24 {
        assert!(matches!(read(&bytes[..length]), Err(FormatError::NotADump)), "at {length}");
    }
}

#[test]
fn a_missing_block_is_noticed() {
    let blocks: Vec<Record> = (1..4).map(|at| record(at, 2_000_000)).collect();
    let bytes = written(&blocks);
    let one = BLOCK_HEADER_BYTES + RECORD_META_BYTES + 1 + 2_000_000;
    let cut = [&bytes[..HEADER_BYTES + one], &bytes[HEADER_BYTES + 2 * one..]].concat();
    assert!(matches!(read(&cut), Err(FormatError::Damaged { .. })));
}

#[test]
fn an_announced_length_costs_nothing() {
    let mut bytes = written(&[])[..HEADER_BYTES].to_vec();
    bytes.push(RECORDS);
    bytes.extend(BLOCK_BYTES_MAX.to_le_bytes());
    bytes.extend([0; 4]);
    assert!(matches!(read(&bytes), Err(FormatError::Truncated { .. })));
    let at = HEADER_BYTES + 1;
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(read(&bytes), Err(FormatError::Damaged { .. })));
}

proptest! {
    #[test]
    fn a_flipped_bit_is_noticed(at in 0_usize..10_000, bit in 0..8_u32) {
        let records = [record(1, 10), record(2, 100), record(3, 0)];
        let mut bytes = written(&records);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(read(&bytes).is_err(), "byte {at}");
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), headed: bool) {
        let mut all = if headed { written(&[])[..HEADER_BYTES].to_vec() } else { Vec::new() };
        all.extend(bytes);
        let _ = read(&all);
    }
}
