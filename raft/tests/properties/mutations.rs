//! Every fault built into the protocol on purpose is found: by the same random cases, or by a script that then prints
//! something else.

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::{env, fs};

use raft::mutation::{self, Mutation};
use raft::testing::script;

use super::run;

const MUTATIONS: [Mutation; 11] = [
    Mutation::VoteTwice,
    Mutation::CommitOldTerm,
    Mutation::SkipLeaseCheck,
    Mutation::JointIncomingOnly,
    Mutation::ReadUnconfirmed,
    Mutation::LoseTruncate,
    Mutation::SnapshotOverNewer,
    Mutation::AckBeforePersist,
    Mutation::ForgetConfState,
    Mutation::LearnerCounts,
    Mutation::ConfChangeBeforeCommit,
];

/// Runs `body` with the mutation built in; whether it panicked.
fn fails_with(mutation: Mutation, body: impl FnOnce()) -> bool {
    mutation::set(Some(mutation));
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let failed = panic::catch_unwind(AssertUnwindSafe(body)).is_err();
    panic::set_hook(hook);
    mutation::set(None);
    failed
}

fn scripts() -> Vec<(String, String)> {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for every test");
    let folder = Path::new(&root).join("tests/testdata");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (named(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn a_script_shows_every_mutation_that_it_is_about() {
    let scripts = scripts();
    let mut missed = Vec::new();
    for mutation in MUTATIONS {
        let shows = |script: &str| fails_with(mutation, || assert!(script::run(script) == script));
        let showing: Vec<&str> =
            scripts.iter().filter(|(_, script)| shows(script)).map(|(name, _)| name.as_str()).collect();
        println!("{mutation:?}: {}", showing.join(", "));
        if showing.is_empty() {
            missed.push(mutation);
        }
    }
    assert!(missed.is_empty(), "no script shows {missed:?}");
}

#[test]
fn random_cases_find_the_mutations() {
    // Too rare by chance: a leader must send an old entry and not the one of its own term beside it.
    let rare = [Mutation::CommitOldTerm];
    let mut missed = Vec::new();
    for mutation in MUTATIONS.into_iter().filter(|mutation| !rare.contains(mutation)) {
        let seed = (0..400).find(|seed| {
            fails_with(mutation, || {
                run(*seed, 12_000);
            })
        });
        println!("{mutation:?}: case {seed:?}");
        if seed.is_none() {
            missed.push(mutation);
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
