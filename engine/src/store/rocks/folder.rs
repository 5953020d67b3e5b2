//! A replica's folder: its lock, its generations, and the renames that make them appear and vanish.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::store::{OpenError, StoreError, files};

const DATABASE: &str = "db-";
const PROVISIONAL: &str = "new-";
const DEAD: &str = "dead-";

/// Where generation `generation` lies in the folder `root`.
pub(super) fn database(root: &Path, generation: u64) -> PathBuf {
    root.join(format!("{DATABASE}{generation:08}"))
}

/// A locked folder; dropping it unlocks.
pub(super) struct Folder {
    root: PathBuf,
    /// The open directory carries the lock, and is what gets synced.
    handle: File,
}

impl Folder {
    /// Makes the folder if need be and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, OpenError> {
        fs::create_dir_all(root).map_err(|error| open_io(root, &error))?;
        let handle = File::open(root).map_err(|error| open_io(root, &error))?;
        match handle.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked {
                path: root.to_owned(),
                detail: "another engine has locked the folder".to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(open_io(root, &error)),
        }
    }

    /// Where generation `generation` lies.
    pub(super) fn database(&self, generation: u64) -> PathBuf {
        database(&self.root, generation)
    }

    /// Where generation `generation` is made.
    pub(super) fn provisional(&self, generation: u64) -> PathBuf {
        self.named(PROVISIONAL, generation)
    }

    /// Removes what crashes left and returns the generation that counts, if there is one.
    pub(super) fn clean(&self) -> Result<Option<u64>, OpenError> {
        let entries = self.entries()?;
        let databases = entries.iter().filter(|(prefix, _)| *prefix == DATABASE);
        let newest = databases.map(|(_, generation)| *generation).max();
        for (prefix, generation) in entries {
            if prefix != DATABASE || Some(generation) != newest {
                let path = self.named(prefix, generation);
                remove(&path).map_err(|error| open_io(&path, &error))?;
            }
        }
        Ok(newest)
    }

    /// A number above all in use.
    pub(super) fn next_generation(&self) -> Result<u64, OpenError> {
        let newest = self.entries()?.into_iter().map(|(_, generation)| generation).max();
        Ok(newest.unwrap_or(0) + 1)
    }

    /// Gives the complete, durable database at `from` its name: from here on it is the one that counts.
    pub(super) fn promote(&self, from: &Path, generation: u64) -> Result<(), OpenError> {
        files::rename(from, &self.database(generation)).map_err(|error| open_io(from, &error))?;
        files::sync_file(&self.handle).map_err(|error| open_io(&self.root, &error))
    }

    /// Takes a database its name: from here on it does not count. Returns where its remains lie.
    pub(super) fn bury(&self, generation: u64) -> Result<PathBuf, StoreError> {
        let dead = self.named(DEAD, generation);
        files::rename(&self.database(generation), &dead)
            .and_then(|()| files::sync_file(&self.handle))
            .map_err(|error| StoreError::Io { path: self.root.clone(), detail: error.to_string() })?;
        Ok(dead)
    }

    fn named(&self, prefix: &str, generation: u64) -> PathBuf {
        self.root.join(format!("{prefix}{generation:08}"))
    }

    /// Everything in the folder; anything not named as ours makes it foreign.
    fn entries(&self) -> Result<Vec<(&'static str, u64)>, OpenError> {
        let io = |error: io::Error| open_io(&self.root, &error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            match name.to_str().and_then(parse_name) {
                Some(parsed) => entries.push(parsed),
                None => {
                    let detail = format!("{} does not belong there", name.display());
                    return Err(OpenError::Foreign { path: self.root.clone(), detail });
                }
            }
        }
        Ok(entries)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Closing would do, were it not for a process being started at this moment, which holds a copy of
        // the handle until it executes its program.
        if let Err(error) = self.handle.unlock() {
            tracing::warn!(%error, "could not unlock a store's folder");
        }
    }
}

fn parse_name(name: &str) -> Option<(&'static str, u64)> {
    [DATABASE, PROVISIONAL, DEAD].into_iter().find_map(|prefix| {
        let generation = name.strip_prefix(prefix)?.parse().ok()?;
        Some((prefix, generation))
    })
}

/// Removes the info logs that RocksDB leaves in every folder it looks into.
pub(super) fn remove_info_logs(path: &Path) -> Result<(), OpenError> {
    let remove = || -> io::Result<()> {
        let names = files::names(path)?.into_iter();
        names
            .filter(|name| name == "LOG" || name.starts_with("LOG.old."))
            .try_for_each(|name| files::remove_file(&path.join(name)))
    };
    remove().map_err(|error| open_io(path, &error))
}

/// Removes a folder with all in it; fine if it is gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    files::remove(path)
}

pub(super) fn open_io(path: &Path, error: &io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), detail: error.to_string() }
}
