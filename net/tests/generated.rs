//! The generated code belongs to the schemas as they are: see `schema/README.md`.

use std::fs;
use std::path::Path;

/// CRC32C of frame.fbs, client.fbs and peer.fbs, concatenated in that order, when `flatc` last ran.
const GENERATED_FROM: u32 = 0x562d_8368;

#[test]
fn generated_code_matches_the_schemas() {
    let folder = Path::new(&manifest_dir()).join("schema");
    let mut all = Vec::new();
    for schema in ["frame.fbs", "client.fbs", "peer.fbs"] {
        all.extend(fs::read(folder.join(schema)).expect("the schema is in the repository"));
    }
    let found = crc32c::crc32c(&all);
    assert_eq!(found, GENERATED_FROM, "run flatc, then put {found:#010x} into this test");
}

/// Asked for when the test runs: what was compiled in may name another checkout that shares the target folder.
fn manifest_dir() -> String {
    std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for every test")
}
