//! The memory engine against the conformance suite, and its image file against damage.

use std::path::Path;

use super::*;
use crate::store::conformance::conformance_tests;

fn open(folder: &Path) -> Box<dyn StorageEngine> {
    Box::new(MemEngine::open(folder).expect("open"))
}

conformance_tests!(open);

fn apply_one(engine: &MemEngine, index: u64) {
    let applied = Applied { index, term: 1 };
    let writes = [Write::Put { key: b"\x01key", value: b"value" }];
    engine.apply(&WriteSet { applied, writes: &writes }).expect("apply");
}

#[test]
fn without_a_folder_nothing_is_ever_durable() {
    let engine = MemEngine::new();
    apply_one(&engine, 1);
    engine.flush().expect("flush");
    assert_eq!(engine.applied_durable().expect("durable"), Applied::default());
}

#[test]
fn every_flipped_or_missing_byte_of_an_image_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = MemEngine::open(folder.path()).expect("open");
    apply_one(&engine, 3);
    engine.flush().expect("flush");
    let file = folder.path().join("image");
    let image = std::fs::read(&file).expect("the image");
    for at in 0..image.len() {
        let mut damaged = image.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&file, &damaged).expect("write");
        assert!(MemEngine::open(folder.path()).is_err(), "a flipped byte at {at}");
        std::fs::write(&file, &image[..at]).expect("write");
        assert!(MemEngine::open(folder.path()).is_err(), "cut at {at}");
    }
    std::fs::write(&file, &image).expect("write");
    let engine = MemEngine::open(folder.path()).expect("the whole image");
    assert_eq!(engine.applied().expect("applied"), Applied { index: 3, term: 1 });
}

#[test]
fn a_newer_image_is_named_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut image = b"RKVMEM\x02\x00".to_vec();
    image.resize(64, 0);
    std::fs::write(folder.path().join("image"), image).expect("write");
    let error = MemEngine::open(folder.path()).expect_err("a newer format");
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_checkpoint_makes_the_engine_durable_and_is_not_needed_for_that() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (home, copy) = (folder.path().join("engine"), folder.path().join("copy"));
    let engine = MemEngine::open(&home).expect("open");
    apply_one(&engine, 3);
    assert_eq!(engine.applied_durable().expect("durable"), Applied::default());
    assert_eq!(engine.create_checkpoint(&copy).expect("checkpoint"), Applied { index: 3, term: 1 });
    assert_eq!(engine.applied_durable().expect("durable"), Applied { index: 3, term: 1 });
    apply_one(&engine, 4);
    drop(engine);
    std::fs::remove_dir_all(&copy).expect("remove");
    let engine = MemEngine::open(&home).expect("open");
    assert_eq!(engine.applied().expect("applied"), Applied { index: 3, term: 1 });
    apply_one(&engine, 4);
    engine.flush().expect("flush");
    drop(engine);
    let engine = MemEngine::open(&home).expect("open");
    assert_eq!(engine.applied().expect("applied"), Applied { index: 4, term: 1 });
}
