use super::*;

fn config(folder: &Path) -> Config {
    let text = include_str!("../../../../ringkv.toml");
    let mut config = Config::parse(text, Path::new("ringkv.toml")).expect("the shipped configuration");
    config.node.data_dir = folder.join("not/made/yet");
    let listen = &mut config.listen;
    // Ports that the system picks are always free.
    (listen.binary, listen.peer) = ("127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
    (listen.resp, listen.resp_cluster, listen.http) = (None, None, None);
    config
}

fn verdict(findings: &[Finding], subject: &str) -> Verdict {
    findings.iter().find(|finding| finding.subject == subject).expect("it is looked at").verdict
}

#[test]
fn a_host_that_runs_the_tests_is_fit_and_left_as_it_was() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder on a disk");
    let findings = examine(&config(folder.path()));
    for subject in ["kernel", "io_uring", "locked memory", "CPUs", "O_DIRECT", "ports"] {
        assert_ne!(verdict(&findings, subject), Verdict::Fault, "{findings:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0, "something was left behind");
    for finding in &findings {
        assert_eq!(finding.remedy.is_some(), matches!(finding.verdict, Verdict::Advice | Verdict::Fault));
    }
}

#[test]
fn a_port_in_use_and_a_foreign_address_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut config = config(folder.path());
    config.listen.peer = taken.local_addr().expect("it is bound");
    config.listen.http = Some("192.0.2.1:80".parse().unwrap());
    let findings = ports(&config);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].found.contains("listen.peer") && findings[1].found.contains("listen.http"));
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Fault));
}

#[test]
fn what_the_host_has_not_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    assert_eq!(locked_memory(1, 64).verdict, Verdict::Fault);
    assert_eq!(locked_memory(4, 4096).verdict, Verdict::Advice);
    assert_eq!(locked_memory(4, 1 << 20).verdict, Verdict::Good);
    config.storage.cache_bytes = 1 << 50;
    assert_eq!(memory(&config).verdict, Verdict::Advice);
    config.wal.retain_bytes = 1 << 55;
    assert_eq!(free_space(folder.path(), &config).verdict, Verdict::Advice);
    config.limits.connections_max = 1 << 40;
    assert_eq!(open_files(&config).verdict, Verdict::Advice);
    config.node.cpus = vec![100_000];
    assert_eq!(cpus(&config).verdict, Verdict::Fault);
    assert_eq!(direct_io(Path::new("/proc"), WalIo::Direct).verdict, Verdict::Fault);
    assert_eq!(total_bytes("MemTotal:       16 kB\nMemFree: 1 kB"), Some(16 * 1024));
}
