//! The engine of a new shard's replica, made from a copy of the engine whose shard is cut in two.
//!
//! ```text
//! core-0/draft-shard-7/store/     the copy, and what is changed in it     removed at the next attempt, and at start
//! core-0/shard-7/store/           the same under its name: complete and durable
//! ```
//!
//! Invariant: a folder under a replica's name holds all of the new state, or is not there: it gets that name by rename,
//! when everything in it is on disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::{OpenError, RocksEngine, StorageEngine, StoreError, files};

const DRAFT: &str = "draft-";

/// Why the engine was not made; nothing is there under its name, and the other engine is as it was.
#[derive(Debug, Error)]
pub enum OffspringError {
    /// An engine failed; its error says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Reading or writing failed.
    #[error("{path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How an engine is opened on a folder.
pub type Open<'a> = &'a dyn Fn(&Path) -> Result<Arc<dyn StorageEngine>, OpenError>;

/// Makes the folder `name` of a replica in `core`, with a copy of `parent` that `found` has changed and flushed. `is_rocks`
/// tells how the copy lies in an engine's folder.
pub fn make(
    parent: &dyn StorageEngine,
    (core, name): (&Path, &str),
    is_rocks: bool,
    open: Open<'_>,
    found: impl FnOnce(&dyn StorageEngine) -> Result<(), StoreError>,
) -> Result<(), OffspringError> {
    let draft = core.join(format!("{DRAFT}{name}"));
    let failed = |source| OffspringError::Io { path: draft.clone(), source };
    files::remove(&draft).map_err(failed)?;
    files::create_dir(&draft).map_err(failed)?;
    let store = draft.join("store");
    if is_rocks {
        files::create_dir(&store).map_err(failed)?;
        parent.create_checkpoint(&RocksEngine::first_database(&store))?;
    } else {
        parent.create_checkpoint(&store)?;
    }
    let engine = open(&store)?;
    found(engine.as_ref())?;
    drop(engine);
    sync_all(&draft).map_err(failed)?;
    files::rename(&draft, &core.join(name)).and_then(|()| files::sync(core)).map_err(failed)
}

/// Removes what crashes left of engines being made in `core`.
pub fn clear(core: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(core)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(DRAFT) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes everything in a folder durable.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            files::sync(&entry.path())?;
        }
    }
    files::sync(folder)
}

#[cfg(test)]
mod tests {
    use super::super::conformance::contents;
    use super::super::files::stop;
    use super::super::{Applied, MemEngine, RocksConfig, RocksShared, Write, WriteSet};
    use super::*;

    const NAME: &str = "shard-7";

    fn at(index: u64) -> Applied {
        Applied { index, term: 1 }
    }

    fn put(engine: &dyn StorageEngine, index: u64, key: &[u8]) -> Result<(), StoreError> {
        engine.apply(&WriteSet { applied: at(index), writes: &[Write::Put { key, value: &[7; 3000] }] })
    }

    /// Wherever it ends, there is nothing under the name or all of it, the next attempt makes it, and the parent is as it was.
    #[test]
    fn a_crash_leaves_nothing_or_all_of_it() {
        let shared = RocksShared::new(RocksConfig::default()).expect("caches");
        for is_rocks in [true, false] {
            let open = |place: &Path| -> Result<Arc<dyn StorageEngine>, OpenError> {
                Ok(match is_rocks {
                    true => Arc::new(RocksEngine::open(place, &shared)?),
                    false => Arc::new(MemEngine::open(place)?),
                })
            };
            let (mut seen_nothing, mut seen_all) = (false, false);
            for operations in 0.. {
                let core = tempfile::tempdir().expect("a folder");
                let place = core.path().join("parent");
                let parent = open(&place).expect("open");
                for index in 1..=20 {
                    put(parent.as_ref(), index, &[1, u8::try_from(index).expect("small")]).expect("apply");
                }
                let old = contents(parent.as_ref());
                let attempt = || {
                    let at = (core.path(), NAME);
                    make(parent.as_ref(), at, is_rocks, &open, |engine| {
                        put(engine, 21, &[1, 99])?;
                        engine.flush()
                    })
                };
                let (made, stopped) = stop::after(operations, attempt);
                assert!(stopped || made.is_ok(), "{made:?}");
                let store = core.path().join(NAME).join("store");
                let is_there = store.exists();
                clear(core.path()).expect("cleared");
                if !is_there {
                    attempt().expect("the next one");
                }
                let child = open(&store).expect("whole");
                let mut new = old.clone();
                new.insert(vec![1, 99], vec![7; 3000]);
                assert_eq!(
                    (contents(child.as_ref()), child.applied_durable().expect("durable")),
                    (new, at(21))
                );
                assert_eq!((contents(parent.as_ref()), parent.applied().expect("applied")), (old, at(20)));
                put(parent.as_ref(), 21, &[1, 1]).expect("it goes on");
                (seen_nothing, seen_all) = (seen_nothing | !is_there, seen_all | (is_there && stopped));
                if !stopped {
                    break;
                }
            }
            assert!(seen_nothing && seen_all);
        }
    }
}
