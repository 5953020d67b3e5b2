//! The inputs the fuzzer has found worth keeping, and those that once broke something, given to every decoder again.

use std::fs;
use std::path::Path;

#[path = "../fuzz/targets.rs"]
mod targets;

use targets::TARGETS;

#[test]
fn what_the_fuzzer_kept_does_no_harm() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in TARGETS {
        let folder = corpora.join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let input = fs::read(&path).expect("a readable file");
            // The name of a panicking input is worth more than its bytes.
            eprintln!("{}", path.display());
            target(&input);
            // Other decoders must survive it, too.
            TARGETS.iter().for_each(|(_, other)| other(&input));
            count += 1;
        }
        assert!(count > 5, "{} is as good as empty", folder.display());
    }
}

#[test]
fn every_target_can_be_fuzzed() {
    let binaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut found: Vec<String> = fs::read_dir(binaries)
        .expect("the folder of the fuzzer's binaries")
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    found.sort_unstable();
    // The parsers of the HTTP adapter have their test beside them.
    let mut named: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).chain(["http_requests"]).collect();
    named.sort_unstable();
    assert_eq!(found, named);
}
