//! The snapshots of one replica: taking, keeping, lending and removing them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft::{ConfState, Index, SnapshotMeta, Term};

use super::incoming::Receiving;
use super::{DATA, MANIFEST, Manifest, SnapshotFile, TakeError, take_io};
use crate::machine::membership;
use crate::store::StorageEngine;
use crate::store::files::{self, FileId};

const SNAPSHOTS: &str = "snapshots";
const INCOMING: &str = "incoming";
const DRAFT: &str = "draft";
/// In the folder of a snapshot that was taken only to be sent.
const TO_SEND: &str = "TO-SEND";
/// Prefix of a snapshot that is being removed.
const GONE: &str = "gone-";

/// The snapshots of one replica; a handle, cheap to clone. See the module's documentation for the layout.
///
/// Call order of a sender: [`Library::pin`], else [`Library::take`]; read the files; drop the pin; then
/// [`Library::prune`], for what was pinned could not be removed before; and [`Library::drop_unused`] now and then. Of a
/// receiver: [`Library::receive`],
/// [`Incoming::write`](super::Incoming::write) and [`Incoming::finish`](super::Incoming::finish), then exactly one of
/// [`Library::install`] and [`Library::drop_received`].
#[derive(Clone)]
pub struct Library {
    pub(super) shelf: Arc<Shelf>,
}

/// What all handles of a library share.
pub(super) struct Shelf {
    pub(super) shard: u32,
    /// `snapshots/`
    folder: PathBuf,
    /// `incoming/`
    pub(super) incoming: PathBuf,
    kept: Mutex<Kept>,
    /// Held while a snapshot is taken: one at a time.
    taking: Mutex<()>,
    /// Held for each step of receiving, and while a received snapshot is installed.
    receiving: Mutex<Receiving>,
}

/// The snapshots that are there, oldest first.
type Kept = BTreeMap<(Index, Term), Snapshot>;

struct Snapshot {
    manifest: Arc<Manifest>,
    folder: PathBuf,
    pins: usize,
    purpose: TakenTo,
    /// When it was lent or came back last, or found at the start.
    used: Instant,
}

/// What a snapshot is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenTo {
    /// To have it: it stays until newer ones take its place.
    Keep,
    /// To send it: it stays as long as somebody is sent it.
    Send,
}

impl Library {
    /// The library of the replica in `replica` (the folder that holds the engine's), which serves `shard`. Removes what
    /// crashes left, and whatever is not a whole snapshot.
    pub fn open(replica: &Path, shard: u32) -> Result<Self, TakeError> {
        let folder = replica.join(SNAPSHOTS);
        files::ensure_dir(&folder).map_err(take_io(&folder))?;
        let mut kept = Kept::new();
        for name in files::names(&folder).map_err(take_io(&folder))? {
            let path = folder.join(&name);
            match validate(&path, &name, shard) {
                Ok(manifest) => {
                    let (at, manifest) = (position(&manifest.meta), Arc::new(manifest));
                    let purpose = if path.join(TO_SEND).exists() { TakenTo::Send } else { TakenTo::Keep };
                    let used = Instant::now();
                    kept.insert(at, Snapshot { manifest, folder: path, pins: 0, purpose, used });
                }
                Err(reason) => {
                    if name != DRAFT && !name.starts_with(GONE) {
                        tracing::warn!(path = %path.display(), reason, "removing what is not a whole snapshot");
                    }
                    files::remove(&path).map_err(take_io(&path))?;
                }
            }
        }
        let incoming = replica.join(INCOMING);
        let shelf = Shelf {
            shard,
            folder,
            incoming,
            kept: Mutex::new(kept),
            taking: Mutex::new(()),
            receiving: Mutex::new(Receiving::new()),
        };
        Ok(Self { shelf: Arc::new(shelf) })
    }

    /// Takes a snapshot of `engine` and lends it. `founders` is the membership the group was founded with: it holds as
    /// long as the engine has no record of its own. If nothing was applied since the newest snapshot, that one is lent.
    /// Reads what no older snapshot holds: `pace` hears of the bytes that were just read, and may wait.
    pub fn take(
        &self,
        engine: &dyn StorageEngine,
        founders: &ConfState,
        purpose: TakenTo,
        pace: &dyn Fn(usize),
    ) -> Result<PinnedSnapshot, TakeError> {
        let _turn = self.shelf.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = engine.applied()?;
        if applied.index == 0 {
            return Err(TakeError::Empty);
        }
        if let Some(pinned) = self.pin(Index(applied.index)) {
            if purpose == TakenTo::Keep {
                self.shelf.keep(position(&pinned.manifest.meta))?;
            }
            return Ok(pinned);
        }
        let draft = self.shelf.folder.join(DRAFT);
        files::remove(&draft).map_err(take_io(&draft))?;
        let taken = self.fill(&draft, engine, founders, (purpose, pace));
        if taken.is_err() {
            // Space may be what was missing.
            if let Err(error) = files::remove(&draft) {
                tracing::warn!(path = %draft.display(), %error, "cannot remove a snapshot that failed");
            }
        }
        let manifest = taken?;
        let folder = self.shelf.folder.join(manifest.name());
        files::rename(&draft, &folder).map_err(take_io(&folder))?;
        files::sync(&self.shelf.folder).map_err(take_io(&folder))?;
        let at = position(&manifest.meta);
        let used = Instant::now();
        let snapshot = Snapshot { manifest: Arc::new(manifest), folder, pins: 0, purpose, used };
        self.shelf.kept().insert(at, snapshot);
        Ok(self.lend(at).expect("it was just put there, and only `taking` puts or prunes it"))
    }

    /// Fills the draft, durably, with all of a snapshot.
    fn fill(
        &self,
        draft: &Path,
        engine: &dyn StorageEngine,
        founders: &ConfState,
        (purpose, pace): (TakenTo, &dyn Fn(usize)),
    ) -> Result<Manifest, TakeError> {
        files::create_dir(draft).map_err(take_io(draft))?;
        let data = draft.join(DATA);
        // As of the copy: `apply` may have gone on since it was asked for.
        let applied = engine.create_checkpoint(&data)?;
        let (_, stored) = membership::of_checkpoint(engine, &data)?;
        let conf_state = stored?.unwrap_or_else(|| founders.clone());
        let meta = SnapshotMeta { index: Index(applied.index), term: Term(applied.term), conf_state };
        let files = self.sum_files(&data, pace).map_err(take_io(&data))?;
        let manifest = Manifest { shard: self.shelf.shard, meta, files };
        let path = draft.join(MANIFEST);
        files::write(&path, &manifest.encode()).map_err(take_io(&path))?;
        if purpose == TakenTo::Send {
            let path = draft.join(TO_SEND);
            files::write(&path, &[]).map_err(take_io(&path))?;
        }
        files::sync(draft).map_err(take_io(draft))?;
        Ok(manifest)
    }

    /// Sums the files of a checkpoint. A file that an older snapshot holds too is not read again: checkpoints are made of
    /// hard links to files that never change, and an inode is not given to another file as long as a name is left.
    fn sum_files(&self, data: &Path, pace: &dyn Fn(usize)) -> std::io::Result<Vec<SnapshotFile>> {
        let known = self.known_sums();
        let mut listed = Vec::new();
        for name in files::names(data)? {
            let path = data.join(&name);
            let (id, bytes) = files::identify(&path)?;
            let (bytes, crc32c) = match known.get(&id) {
                Some((known_bytes, crc32c)) if *known_bytes == bytes => (bytes, *crc32c),
                _ => files::sum(&path, pace)?,
            };
            listed.push(SnapshotFile { name, bytes, crc32c });
        }
        Ok(listed)
    }

    /// Length and sum of the files of all snapshots kept.
    fn known_sums(&self) -> HashMap<FileId, (u64, u32)> {
        let mut known = HashMap::new();
        for snapshot in self.shelf.kept().values() {
            for file in &snapshot.manifest.files {
                if let Ok((id, bytes)) = files::identify(&snapshot.folder.join(DATA).join(&file.name))
                    && bytes == file.bytes
                {
                    known.insert(id, (bytes, file.crc32c));
                }
            }
        }
        known
    }

    /// Lends the newest snapshot, if it holds all entries up to `index_min`.
    pub fn pin(&self, index_min: Index) -> Option<PinnedSnapshot> {
        let newest = *self.shelf.kept().keys().next_back()?;
        if newest.0 >= index_min { self.lend(newest) } else { None }
    }

    fn lend(&self, at: (Index, Term)) -> Option<PinnedSnapshot> {
        let mut kept = self.shelf.kept();
        let snapshot = kept.get_mut(&at)?;
        (snapshot.pins, snapshot.used) = (snapshot.pins + 1, Instant::now());
        let (manifest, folder) = (Arc::clone(&snapshot.manifest), snapshot.folder.clone());
        Some(PinnedSnapshot { manifest, folder, shelf: Arc::clone(&self.shelf) })
    }

    /// What the newest snapshot stands for.
    pub fn newest(&self) -> Option<SnapshotMeta> {
        self.shelf.kept().values().next_back().map(|snapshot| snapshot.manifest.meta.clone())
    }

    /// What the snapshots stand for, oldest first.
    pub fn list(&self) -> Vec<SnapshotMeta> {
        self.shelf.kept().values().map(|snapshot| snapshot.manifest.meta.clone()).collect()
    }

    /// Removes all but the `keep` newest snapshots that were taken to be kept, the newest one taken to be sent unless one
    /// of those is newer, and those that are lent.
    pub fn prune(&self, keep: usize) -> Result<(), TakeError> {
        // What is being taken may rest on the sums of an older one, and is lent by its taker next.
        let _turn = self.shelf.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let old: Vec<_> = {
            let kept = self.shelf.kept();
            let (mut left, mut is_newest) = (keep, true);
            let mut stays = |snapshot: &Snapshot| match (snapshot.purpose, std::mem::take(&mut is_newest)) {
                (TakenTo::Send, is_newest) => is_newest,
                (TakenTo::Keep, _) => left.checked_sub(1).inspect(|rest| left = *rest).is_some(),
            };
            let old = kept.iter().rev().filter(|(_, snapshot)| !stays(snapshot) && snapshot.pins == 0);
            old.map(|(at, _)| *at).collect()
        };
        old.into_iter().try_for_each(|at| self.shelf.remove(at))
    }

    /// Removes the snapshots taken to be sent that nobody has used for `sent_stays`, and a part of one received to which
    /// nothing was added for `part_stays`.
    pub fn drop_unused(&self, sent_stays: Duration, part_stays: Duration) -> Result<(), TakeError> {
        self.drop_stale_part(part_stays);
        let _turn = self.shelf.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: Vec<_> = {
            let kept = self.shelf.kept();
            let unused = kept.iter().filter(|(_, snapshot)| {
                snapshot.purpose == TakenTo::Send
                    && snapshot.pins == 0
                    && snapshot.used.elapsed() >= sent_stays
            });
            unused.map(|(at, _)| *at).collect()
        };
        unused.into_iter().try_for_each(|at| self.shelf.remove(at))
    }

    /// Removes a snapshot whose files are not what its manifest says: the disk has changed them. Others that are
    /// sending it will fail.
    pub fn discard(&self, snapshot: &PinnedSnapshot) -> Result<(), TakeError> {
        let _turn = self.shelf.taking.lock().unwrap_or_else(PoisonError::into_inner);
        self.shelf.remove(position(&snapshot.manifest.meta))
    }
}

impl Shelf {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn receiving(&self) -> MutexGuard<'_, Receiving> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that was taken to be sent is to stay.
    fn keep(&self, at: (Index, Term)) -> Result<(), TakeError> {
        let mut kept = self.kept();
        let Some(snapshot) = kept.get_mut(&at).filter(|snapshot| snapshot.purpose == TakenTo::Send) else {
            return Ok(());
        };
        let mark = snapshot.folder.join(TO_SEND);
        files::remove_file(&mark).and_then(|()| files::sync(&snapshot.folder)).map_err(take_io(&mark))?;
        snapshot.purpose = TakenTo::Keep;
        Ok(())
    }

    /// Removes a snapshot, from the list first. It loses its name before its files, so that a crash leaves none that
    /// looks whole.
    fn remove(&self, at: (Index, Term)) -> Result<(), TakeError> {
        let Some(snapshot) = self.kept().remove(&at) else { return Ok(()) };
        let gone = self.folder.join(format!("{GONE}{}", snapshot.manifest.name()));
        files::rename(&snapshot.folder, &gone).map_err(take_io(&gone))?;
        files::remove(&gone).map_err(take_io(&gone))
    }
}

/// A snapshot on loan: it stays on disk until this is dropped.
pub struct PinnedSnapshot {
    manifest: Arc<Manifest>,
    folder: PathBuf,
    shelf: Arc<Shelf>,
}

impl PinnedSnapshot {
    /// What it stands for and consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where a file of the manifest lies.
    ///
    /// # Panics
    /// When the manifest has no such file.
    pub fn path(&self, file: usize) -> PathBuf {
        self.folder.join(DATA).join(&self.manifest.files[file].name)
    }
}

impl Drop for PinnedSnapshot {
    fn drop(&mut self) {
        // Gone from the list if it was discarded, and perhaps taken anew since: then the count is another's.
        if let Some(snapshot) = self.shelf.kept().get_mut(&position(&self.manifest.meta))
            && Arc::ptr_eq(&snapshot.manifest, &self.manifest)
        {
            (snapshot.pins, snapshot.used) = (snapshot.pins - 1, Instant::now());
        }
    }
}

fn position(meta: &SnapshotMeta) -> (Index, Term) {
    (meta.index, meta.term)
}

/// Checks that a folder is a whole snapshot: its manifest, and each file's length. Contents are checked by whoever
/// receives them.
fn validate(path: &Path, name: &str, shard: u32) -> Result<Manifest, String> {
    let manifest = std::fs::read(path.join(MANIFEST)).map_err(|error| error.to_string())?;
    let manifest = Manifest::decode(&manifest).map_err(|error| error.to_string())?;
    if manifest.name() != name || manifest.shard != shard {
        return Err(format!("it is snapshot {} of shard {}", manifest.name(), manifest.shard));
    }
    for file in &manifest.files {
        match files::identify(&path.join(DATA).join(&file.name)) {
            Ok((_, bytes)) if bytes == file.bytes => {}
            Ok((_, bytes)) => return Err(format!("{} has {bytes} bytes, not {}", file.name, file.bytes)),
            Err(error) => return Err(format!("{}: {error}", file.name)),
        }
    }
    Ok(manifest)
}
