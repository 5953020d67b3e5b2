//! The shipped example is complete and shows the defaults; mistakes are refused with their key and a remedy.

use std::path::Path;

use super::{Config, ConfigError};

const EXAMPLE: &str = include_str!("../../../ringkv.toml");

const SMALLEST: &str = r#"
[node]
id = 1
data_dir = "d"
[listen]
binary = "127.0.0.1:7051"
peer = "127.0.0.1:7061"
[cluster]
id = "local"
[[cluster.nodes]]
id = 1
binary = "127.0.0.1:7051"
peer = "127.0.0.1:7061"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.toml"))
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn the_example_shows_the_defaults() {
    let (example, smallest) = (parse(EXAMPLE).unwrap(), parse(SMALLEST).unwrap());
    assert_eq!(format!("{:?}", example.raft), format!("{:?}", smallest.raft));
    assert_eq!(format!("{:?}", example.wal), format!("{:?}", smallest.wal));
    assert_eq!(format!("{:?}", example.storage), format!("{:?}", smallest.storage));
    assert_eq!(format!("{:?}", example.snapshot), format!("{:?}", smallest.snapshot));
    assert_eq!(format!("{:?}", example.limits), format!("{:?}", smallest.limits));
    assert_eq!(format!("{:?}", example.log), format!("{:?}", smallest.log));
    assert_eq!(format!("{:?}", example.resp), format!("{:?}", smallest.resp));
    assert_eq!(example.cluster.shards, smallest.cluster.shards);
    let elastic = |config: &Config| (config.cluster.replace_after_s, config.cluster.moves_max);
    assert_eq!(elastic(&example), elastic(&smallest));
    assert_eq!((example.node.cores, example.node.spin_us), (smallest.node.cores, smallest.node.spin_us));
}

#[test]
fn the_example_names_every_key() {
    let smallest = parse(SMALLEST).unwrap();
    let sections = [
        format!("{:?}", smallest.node),
        format!("{:?}", smallest.listen),
        format!("{:?}", smallest.raft),
        format!("{:?}", smallest.wal),
        format!("{:?}", smallest.storage),
        format!("{:?}", smallest.snapshot),
        format!("{:?}", smallest.limits),
        format!("{:?}", smallest.log),
        format!("{:?}", smallest.resp),
    ];
    for section in &sections {
        let fields = section.split(['{', ',', '}']).filter_map(|part| part.split_once(": "));
        for (key, _) in fields {
            let key = key.trim();
            assert!(
                EXAMPLE.lines().any(|line| line.starts_with(&format!("{key} = "))),
                "{key} is not in ringkv.toml"
            );
        }
    }
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let text = format!("{SMALLEST}\n[wal]\nsegment_byte = 1\n");
    let error = refusal(&text);
    assert!(error.contains("test.toml") && error.contains("segment_byte"), "{error}");
    assert!(error.contains("segment_bytes"), "the known keys are listed: {error}");
}

#[test]
fn contradictions_are_refused_with_their_key() {
    let cases = [
        ("id = 1\ndata_dir", "id = 0\ndata_dir", "node.id"),
        ("id = 1\ndata_dir", "id = 7\ndata_dir", "not in [[cluster.nodes]]"),
        ("data_dir = \"d\"", "data_dir = \"d\"\ncores = 2", "node.cores"),
        ("id = \"local\"", "id = \"local\"\nshards = 0", "cluster.shards"),
        ("id = \"local\"", "id = \"\"", "cluster.id"),
    ];
    for (from, to, expected) in cases {
        let error = refusal(&SMALLEST.replacen(from, to, 1));
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn limits_that_cannot_work_together_are_refused() {
    let cases = [
        ("[raft]\nheartbeat_ms = 10\n", "raft.heartbeat_ms"),
        ("[raft]\nelection_timeout_ms = 100\n", "raft.election_timeout_ms"),
        ("[wal]\nsegment_bytes = 1048577\n", "wal.segment_bytes"),
        ("[wal]\nbatch_bytes_max = 67108864\n", "wal.batch_bytes_max"),
        ("[wal]\nsegment_bytes = 8388608\nretain_bytes = 67108864\n", "wal.segment_bytes"),
        ("[wal]\ninflight_max = 0\n", "wal.inflight_max"),
        ("[limits]\nvalue_bytes_max = 67108864\n", "limits"),
        ("[storage]\nengine = \"leveldb\"\n", "leveldb"),
        ("[snapshot]\nthreshold_bytes = 5\n", "snapshot.threshold_bytes"),
    ];
    for (section, expected) in cases {
        let error = refusal(&format!("{SMALLEST}\n{section}"));
        assert!(error.contains(expected), "{section}: {error}");
    }
}

#[test]
fn doors_are_closed_unless_they_are_given_an_address() {
    let smallest = parse(SMALLEST).unwrap();
    assert_eq!(
        (smallest.listen.resp, smallest.listen.resp_cluster, smallest.listen.http),
        (None, None, None)
    );
    let example = parse(EXAMPLE).unwrap();
    assert_eq!(example.listen.http.map(|address| address.to_string()), example.this_node().http);
    let error = refusal(&SMALLEST.replacen("cluster.nodes]]", "cluster.nodes]]\nhttp = \"here\"", 1));
    assert!(error.contains("cluster.nodes.http") && error.contains("IP:PORT"), "{error}");
}

#[test]
fn a_password_is_not_shown() {
    let config = parse(&format!("{SMALLEST}\n[resp]\npassword = \"open sesame\"\n")).unwrap();
    assert_eq!(config.resp.password.reveal(), Some("open sesame"));
    assert!(!format!("{config:?}").contains("sesame"));
    assert_eq!(parse(SMALLEST).unwrap().resp.password.reveal(), None);
}

#[test]
fn a_missing_file_says_what_to_give() {
    let error = Config::load(Path::new("/nonexistent/ringkv.toml")).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/ringkv.toml") && error.contains("--config"), "{error}");
}
