use std::path::Path;

use super::*;
use crate::config::ClusterNode;

fn config(dir: &Path) -> Config {
    let text = format!(
        "[node]\nid = 1\ndata_dir = {dir:?}\n\
         [listen]\nbinary = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\n\
         [cluster]\nid = \"c\"\nshards = 2\n\
         [[cluster.nodes]]\nid = 1\nbinary = \"127.0.0.1:1\"\npeer = \"127.0.0.1:2\"\n\
         [[cluster.nodes]]\nid = 2\nbinary = \"127.0.0.1:3\"\npeer = \"127.0.0.1:4\"\n"
    );
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

#[test]
fn a_directory_keeps_its_identity_and_its_stage() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let first = DataDir::claim(&config).unwrap();
    assert_eq!(first.stage(), Stage::New);
    assert!(matches!(DataDir::claim(&config), Err(DataDirError::InUse(_))));
    let standing = first.standing();
    assert!(!standing.settled && standing.founders.is_empty());
    drop(first);

    let second = DataDir::claim(&config).unwrap();
    assert_eq!(second.standing(), standing, "drawn once");
    let founders: BTreeMap<u64, StoreId> = [(1, standing.store), (2, StoreId(u64::MAX))].into();
    second.settle(Stage::Founding, &founders).unwrap();
    drop(second);

    let third = DataDir::claim(&config).unwrap();
    assert_eq!(third.stage(), Stage::Founding);
    assert_eq!(third.standing(), Standing { store: standing.store, settled: true, founders });
    third.begun().unwrap();
    drop(third);
    assert_eq!(DataDir::claim(&config).unwrap().stage(), Stage::Running);
}

#[test]
fn two_directories_are_never_the_same() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = dirs.each_ref().map(|dir| DataDir::claim(&config(dir.path())).unwrap().standing().store);
    assert_ne!(stores[0], stores[1]);
}

#[test]
fn a_directory_of_the_first_format_has_founded_its_cluster_if_it_was_used() {
    let old = "format = 1\ncluster = \"c\"\nnode = 1\ncores = 1\nshards = 2\nnodes = [1, 2]\n";
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("IDENTITY"), old).unwrap();
    assert_eq!(DataDir::claim(&config(dir.path())).unwrap().stage(), Stage::New);

    fs::write(dir.path().join("IDENTITY"), old).unwrap();
    fs::create_dir_all(dir.path().join("core-0/wal")).unwrap();
    let used = DataDir::claim(&config(dir.path())).unwrap();
    assert_eq!(used.stage(), Stage::Founding);
    assert!(used.standing().settled && used.standing().founders.is_empty());
}

#[test]
fn what_cannot_be_read_is_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    drop(DataDir::claim(&config(dir.path())).unwrap());
    let path = dir.path().join("IDENTITY");
    let whole = fs::read_to_string(&path).unwrap();
    for spoilt in
        ["", "format = 2", &whole.replace("store = \"", "store = \"x"), &whole.replace("stage", "stag")]
    {
        fs::write(&path, spoilt).unwrap();
        let claimed = DataDir::claim(&config(dir.path()));
        assert!(matches!(claimed, Err(DataDirError::Damaged { .. })), "{spoilt:?}: {claimed:?}");
    }
    fs::write(&path, whole.replace("format = 2", "format = 3")).unwrap();
    assert!(matches!(DataDir::claim(&config(dir.path())), Err(DataDirError::Foreign { key: "format", .. })));
}

#[test]
fn a_saved_map_takes_the_place_of_the_list_of_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let first = DataDir::claim(&config).unwrap();
    // As long as nothing was decided by it, the list may be corrected.
    config.cluster.nodes.truncate(1);
    drop(first);
    let second = DataDir::claim(&config).unwrap();
    second.settle(Stage::Founding, &BTreeMap::new()).unwrap();
    assert!(second.map().unwrap().is_none());
    drop(second);
    let mut longer = config.clone();
    longer.cluster.nodes.push(ClusterNode { id: 7, ..config.cluster.nodes[0].clone() });
    let refused = DataDir::claim(&longer);
    assert!(matches!(refused, Err(DataDirError::Foreign { key: "cluster.nodes.id", .. })), "{refused:?}");

    let third = DataDir::claim(&config).unwrap();
    let map = ClusterMap { epoch: 5, ..ClusterMap::default() };
    third.save_map(&map).unwrap();
    third.begun().unwrap();
    drop(third);
    let fourth = DataDir::claim(&longer).unwrap();
    assert_eq!((fourth.map().unwrap(), fourth.stage()), (Some(map), Stage::Running));
    // One that is gone is not made up for by the configuration: that tells of the cluster as it began.
    fs::remove_file(dir.path().join("cluster.map")).unwrap();
    assert!(matches!(fourth.map(), Err(MapFileError::Damaged { .. })));
    drop(fourth);
    longer.cluster.shards += 1;
    let refused = DataDir::claim(&longer);
    assert!(matches!(refused, Err(DataDirError::Foreign { key: "cluster.shards", .. })), "{refused:?}");
}

#[test]
fn whoever_has_joined_goes_by_the_map_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let first = DataDir::claim(&config).unwrap();
    first.save_map(&ClusterMap::default()).unwrap();
    assert_eq!((first.stage(), first.has_joined()), (Stage::New, false));
    first.settle_joined(false).unwrap();
    drop(first);
    config.cluster.shards += 1;
    config.cluster.nodes.truncate(1);
    let second = DataDir::claim(&config).unwrap();
    assert_eq!((second.stage(), second.has_joined()), (Stage::Running, true));
    assert!(second.standing().settled);
    drop(second);
    config.node.cores = 2;
    let refused = DataDir::claim(&config);
    assert!(matches!(refused, Err(DataDirError::Foreign { key: "node.cores", .. })), "{refused:?}");
}
