//! The data-driven tests: every script in `testdata` prints what it says.
//!
//! `RINGKV_REWRITE=1` rewrites the scripts with what they print now; the difference is then to be read before it is
//! committed. The language is described in `raft::testing::script`.

use std::fs;
use std::path::{Path, PathBuf};

use raft::testing::script;

#[test]
fn every_script_prints_what_it_says() {
    let folder = Path::new(&manifest_dir()).join("tests/testdata");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 10, "the scripts are there");
    let rewrite = std::env::var_os("RINGKV_REWRITE").is_some();
    let mut differing = Vec::new();
    for path in paths {
        let expected = fs::read_to_string(&path).unwrap();
        assert!(expected.contains("\n----\n"), "{} expects nothing", path.display());
        let actual = script::run(&expected);
        if rewrite {
            fs::write(&path, actual).unwrap();
        } else if actual != expected {
            differing.push(difference(&path, &expected, &actual));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn a_script_that_expects_something_else_is_noticed() {
    let script = "group 1\nstatus 1\n----\nsomething else\n\n";
    assert_ne!(script::run(script), script);
}

fn difference(path: &Path, expected: &str, actual: &str) -> String {
    let pairs = expected.lines().zip(actual.lines()).enumerate();
    let first = pairs.into_iter().find(|(_, (expected, actual))| expected != actual);
    match first {
        Some((line, (expected, actual))) => {
            format!("{}:{}\n  expected {expected}\n  printed  {actual}", path.display(), line + 1)
        }
        None => format!("{}: one is longer than the other", path.display()),
    }
}

/// Asked for when the test runs: what was compiled in may name another checkout that shares the target folder.
fn manifest_dir() -> String {
    std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for every test")
}
