//! A snapshot on its way in: received in pieces, resumed where it stopped, verified, then installed.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use raft::SnapshotMeta;
use thiserror::Error;

use super::library::{Library, Shelf};
use super::{DATA, InstallError, MANIFEST, Manifest, ManifestError, SnapshotFile};
use crate::machine::membership;
use crate::store::files;
use crate::store::{Applied, OpenError, StorageEngine};

/// Why a snapshot is not received any further.
#[derive(Debug, Error)]
pub enum ReceiveError {
    /// What is offered cannot be accepted.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It is another shard's.
    #[error("a snapshot of shard {offered} is offered to a replica of shard {shard}")]
    Shard {
        /// Whose it is.
        offered: u32,
        /// Whose replica this is.
        shard: u32,
    },
    /// One that is complete has not been installed or dropped yet: offer again later.
    #[error("another snapshot waits to be installed")]
    Waiting,
    /// Another transfer has taken the place of this one, or this one has failed before: give up.
    #[error("this transfer is over")]
    Superseded,
    /// A piece does not go on where the file ends: the sender is at fault.
    #[error("file {file}: {bytes} bytes at {offset} do not follow the {held} held of {expected}")]
    Piece {
        /// The file's number.
        file: usize,
        /// Where the piece begins.
        offset: u64,
        /// Its length.
        bytes: usize,
        /// What is held of the file.
        held: u64,
        /// Its full length, 0 where there is no such file.
        expected: u64,
    },
    /// A file arrived with other contents than the manifest says, and was dropped: the sender's copy may be damaged.
    #[error("{name}: the checksum is {found:08x}, not {expected:08x}")]
    Checksum {
        /// The file's number.
        file: usize,
        /// Its name.
        name: String,
        /// What arrived.
        found: u32,
        /// What the manifest says.
        expected: u32,
    },
    /// Not all has arrived: what is held stays, to be resumed.
    #[error("{name}: {held} of {expected} bytes have arrived")]
    Incomplete {
        /// The first file that is not whole.
        name: String,
        /// What is held of it.
        held: u64,
        /// Its full length.
        expected: u64,
    },
    /// The disk is full; what had arrived was dropped.
    #[error("{path}: no space left: {detail}")]
    NoSpace {
        /// What was being written.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The disk would have too little left for what the node writes itself.
    #[error(
        "{missing} bytes are to come, {free} are free on the disk, and {reserve} stay reserved for the log: make room \
         in the data directory, or place the shard elsewhere (`ringkv admin move`)"
    )]
    NoRoom {
        /// What is to come.
        missing: u64,
        /// What is free.
        free: u64,
        /// What must be left.
        reserve: u64,
    },
    /// Reading or writing failed; what had arrived stays, to be resumed.
    #[error("{path}: {detail}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
}

/// The notes of the files that are verified and durable, beside the manifest: they need not be read to be resumed.
const VERIFIED: &str = "VERIFIED";
const NOTE_BYTES: usize = 8;
/// The kernel is asked to write out so much at a time, or a file's sync would write all of it in one go.
const WRITEBACK_BYTES: u64 = 1 << 20;
/// The number of no transfer: they count from 1.
const NO_TRANSFER: u64 = 0;

/// Who receives.
pub(super) struct Receiving {
    /// The number of the transfer that may write; those before it may not.
    transfer: u64,
    /// A complete snapshot that is neither installed nor dropped.
    finished: Option<PathBuf>,
    /// When something was received last, or the library was opened.
    touched: Instant,
}

impl Receiving {
    pub fn new() -> Receiving {
        Receiving { transfer: NO_TRANSFER, finished: None, touched: Instant::now() }
    }
}

impl Library {
    /// Begins to receive the snapshot of `manifest`, or goes on with it, as long as `reserve` bytes of the disk stay free.
    /// Anything else that was partly received is dropped, and another transfer that is under way ends. Reads what is held
    /// of a file that is not complete.
    pub fn receive(&self, manifest: Manifest, reserve: u64) -> Result<Incoming, ReceiveError> {
        manifest.check()?;
        let shelf = &self.shelf;
        if manifest.shard != shelf.shard {
            return Err(ReceiveError::Shard { offered: manifest.shard, shard: shelf.shard });
        }
        let mut receiving = shelf.receiving();
        if receiving.finished.is_some() {
            return Err(ReceiveError::Waiting);
        }
        (receiving.transfer, receiving.touched) = (receiving.transfer + 1, Instant::now());
        let written = manifest.encode();
        let name = format!("{}-{:08x}", manifest.name(), crc32c::crc32c(&written));
        let folder = shelf.incoming.join(&name);
        prepare(&shelf.incoming, &folder, &name, &written).map_err(receive_io(&folder))?;
        let data = folder.join(DATA);
        let held = hold(&folder, &manifest).map_err(receive_io(&data))?;
        let library = self.clone();
        let incoming =
            Incoming { library, transfer: receiving.transfer, folder, manifest, held, reserve, open: None };
        incoming.check_room(incoming.missing())?;
        Ok(incoming)
    }

    /// Puts the snapshot at `place`, which [`Incoming::finish`] returned, in the place of everything `engine` holds.
    /// For the apply thread, with nothing else being applied; afterwards open a new machine with the membership this
    /// returns. A crash leaves the old state or the new one.
    pub fn install(&self, engine: &dyn StorageEngine, place: &Path) -> Result<SnapshotMeta, InstallError> {
        // Held all along: no transfer may begin and remove files from under the engine.
        let mut receiving = self.shelf.receiving();
        receiving.finished = None;
        let installed = install(&self.shelf, engine, place);
        if !matches!(installed, Err(InstallError::Missing { .. } | InstallError::Io { .. })) {
            remove_received(place);
        }
        installed
    }

    /// Removes what was received of a snapshot that nobody goes on sending: the replica got on without it.
    pub(super) fn drop_stale_part(&self, stays: Duration) {
        let mut receiving = self.shelf.receiving();
        if receiving.finished.is_none() && receiving.touched.elapsed() >= stays {
            // Whoever may be in the middle of it begins anew.
            (receiving.transfer, receiving.touched) = (receiving.transfer + 1, Instant::now());
            remove_received(&self.shelf.incoming);
        }
    }

    /// Removes the snapshot at `place`, which [`Incoming::finish`] returned: it is not wanted.
    pub fn drop_received(&self, place: &Path) {
        let mut receiving = self.shelf.receiving();
        // It may have been installed, and another be under way under the same name.
        if receiving.finished.as_deref() == Some(place) {
            receiving.finished = None;
            remove_received(place);
        }
    }
}

/// A failure costs space until the next snapshot is received, no more.
fn remove_received(place: &Path) {
    if let Err(error) = files::remove(place) {
        tracing::warn!(path = %place.display(), %error, "cannot remove a snapshot that was received");
    }
}

fn install(shelf: &Shelf, engine: &dyn StorageEngine, place: &Path) -> Result<SnapshotMeta, InstallError> {
    let damaged = |detail: String| InstallError::Damaged { path: place.to_owned(), detail };
    let missing = || InstallError::Missing { path: place.to_owned() };
    if place.parent() != Some(shelf.incoming.as_path()) {
        return Err(missing());
    }
    let manifest = match std::fs::read(place.join(MANIFEST)) {
        Ok(manifest) => Manifest::decode(&manifest).map_err(|error| damaged(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(InstallError::Io { path: place.to_owned(), detail: error.to_string() }),
    };
    if manifest.shard != shelf.shard {
        return Err(damaged(format!("it is of shard {}", manifest.shard)));
    }
    let meta = manifest.meta;
    let open_error = |error: OpenError| match error {
        OpenError::Io { path, detail } => InstallError::Io { path, detail },
        OpenError::Destroyed { path } => InstallError::Destroyed { path },
        error => damaged(error.to_string()),
    };
    let applied = engine.applied().map_err(|_| InstallError::Destroyed { path: place.to_owned() })?;
    if applied.index >= meta.index.0 {
        return Err(InstallError::Stale { index: meta.index.0, applied: applied.index });
    }
    // What arrived is what was sent, file by file; is it also what the manifest says it stands for?
    let data = place.join(DATA);
    let wanted = Applied { index: meta.index.0, term: meta.term.0 };
    let (found, stored) = membership::of_checkpoint(engine, &data).map_err(open_error)?;
    if found != wanted {
        return Err(damaged(format!("it holds {found:?}, and its manifest says {wanted:?}")));
    }
    let stored = stored.map_err(|error| damaged(error.to_string()))?;
    if stored.is_some_and(|stored| stored != meta.conf_state) {
        return Err(damaged("it holds another membership than its manifest says".to_owned()));
    }
    let installed = engine.install_checkpoint(&data).map_err(open_error)?;
    assert_eq!(installed, wanted, "what was installed is what was looked at");
    Ok(meta)
}

/// A snapshot being received. What has arrived stays on disk when this is dropped, to be resumed.
pub struct Incoming {
    library: Library,
    transfer: u64,
    folder: PathBuf,
    manifest: Manifest,
    held: Vec<Held>,
    /// What must stay free of the disk.
    reserve: u64,
    /// The file written last.
    open: Option<Open>,
}

/// A file that is being written.
struct Open {
    file: usize,
    handle: File,
    /// From here on the kernel was not yet asked to write it out.
    unwritten_from: u64,
}

/// How much of a file has arrived, and the checksum so far.
#[derive(Clone, Copy, Default)]
struct Held {
    bytes: u64,
    crc32c: u32,
}

impl Incoming {
    /// Bytes held of each file of the manifest: where the sender goes on.
    pub fn held(&self) -> Vec<u64> {
        self.held.iter().map(|held| held.bytes).collect()
    }

    fn missing(&self) -> u64 {
        self.manifest.bytes() - self.held.iter().map(|held| held.bytes).sum::<u64>()
    }

    /// Whether so many bytes more leave the disk with its reserve.
    fn check_room(&self, missing: u64) -> Result<(), ReceiveError> {
        let free = files::space(&self.folder).map_err(receive_io(&self.folder))?.free;
        if free < missing.saturating_add(self.reserve) {
            return Err(ReceiveError::NoRoom { missing, free, reserve: self.reserve });
        }
        Ok(())
    }

    /// Takes the next piece of a file. A file that is complete is verified and made durable at once.
    pub fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), ReceiveError> {
        let library = self.library.clone();
        let mut receiving = library.shelf.receiving();
        if receiving.transfer != self.transfer {
            return Err(ReceiveError::Superseded);
        }
        receiving.touched = Instant::now();
        let expected = self.manifest.files.get(file).map_or(0, |file| file.bytes);
        let held = self.held.get(file).map_or(0, |held| held.bytes);
        let length = u64::try_from(bytes.len()).expect("64-bit machine");
        if self.held.len() <= file || offset != held || expected - held < length {
            return Err(ReceiveError::Piece { file, offset, bytes: bytes.len(), held, expected });
        }
        let path = self.path(file);
        if let Err(error) = self.append(file, &path, bytes) {
            // How much of the piece is in the file is not known: it is looked at when the transfer is resumed.
            (self.transfer, self.open) = (NO_TRANSFER, None);
            let error = receive_io(&path)(error);
            if matches!(error, ReceiveError::NoSpace { .. }) {
                remove_received(&self.folder);
            }
            return Err(error);
        }
        if held / WRITEBACK_BYTES != (held + length) / WRITEBACK_BYTES
            && let Err(error) = self.check_room(0)
        {
            // Others write here, too. Whoever sends it asks again, and hears what is missing.
            (self.transfer, self.open) = (NO_TRANSFER, None);
            remove_received(&self.folder);
            return Err(error);
        }
        if self.held[file].bytes == expected { self.complete(file, &path) } else { Ok(()) }
    }

    fn append(&mut self, file: usize, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let before = self.held[file].bytes;
        let mut open = match self.open.take() {
            Some(open) if open.file == file => open,
            _ => Open { file, handle: files::open_to_append(path)?, unwritten_from: before },
        };
        files::append(&mut open.handle, bytes)?;
        let held = &mut self.held[file];
        held.bytes += u64::try_from(bytes.len()).expect("64-bit machine");
        held.crc32c = crc32c::crc32c_append(held.crc32c, bytes);
        let unwritten = held.bytes - open.unwritten_from;
        if unwritten >= WRITEBACK_BYTES {
            files::start_writeback(&open.handle, open.unwritten_from, unwritten);
            open.unwritten_from = held.bytes;
        }
        self.open = Some(open);
        Ok(())
    }

    /// Verifies a file that has all its bytes, makes it durable, and notes that it is.
    fn complete(&mut self, file: usize, path: &Path) -> Result<(), ReceiveError> {
        let open = self.open.take();
        let (found, expected) = (self.held[file].crc32c, self.manifest.files[file].crc32c);
        if found != expected {
            self.held[file] = Held::default();
            files::remove_file(path).map_err(receive_io(path))?;
            let name = self.manifest.files[file].name.clone();
            return Err(ReceiveError::Checksum { file, name, found, expected });
        }
        files::sync_file(&open.expect("a piece was just written").handle).map_err(receive_io(path))?;
        let record = self.folder.join(VERIFIED);
        let note = || files::append(&mut files::open_to_append(&record)?, &verified_note(file, expected));
        note().map_err(receive_io(&record))
    }

    /// Ends the transfer: all files are there, verified and durable. Returns the snapshot's place, to be given to
    /// [`Library::install`] or [`Library::drop_received`].
    pub fn finish(mut self) -> Result<PathBuf, ReceiveError> {
        let library = self.library.clone();
        let mut receiving = library.shelf.receiving();
        if receiving.transfer != self.transfer {
            return Err(ReceiveError::Superseded);
        }
        for file in 0..self.held.len() {
            let (held, SizeOf { name, expected }) = (self.held[file].bytes, self.size_of(file));
            if held != expected {
                return Err(ReceiveError::Incomplete { name, held, expected });
            }
            // No piece ever came for an empty file.
            if expected == 0 {
                let path = self.path(file);
                files::write(&path, &[]).map_err(receive_io(&path))?;
            }
        }
        self.open = None;
        let data = self.folder.join(DATA);
        files::sync(&data).map_err(receive_io(&data))?;
        receiving.transfer += 1;
        receiving.finished = Some(self.folder.clone());
        Ok(self.folder)
    }

    fn size_of(&self, file: usize) -> SizeOf {
        let file = &self.manifest.files[file];
        SizeOf { name: file.name.clone(), expected: file.bytes }
    }

    fn path(&self, file: usize) -> PathBuf {
        self.folder.join(DATA).join(&self.manifest.files[file].name)
    }
}

struct SizeOf {
    name: String,
    expected: u64,
}

/// Leaves `folder` alone among those received, with the manifest `written` in it and a place for the files.
fn prepare(incoming: &Path, folder: &Path, name: &str, written: &[u8]) -> io::Result<()> {
    files::ensure_dir(incoming)?;
    for other in files::names(incoming)?.iter().filter(|other| *other != name) {
        files::remove(&incoming.join(other))?;
    }
    let manifest = folder.join(MANIFEST);
    let resumed = std::fs::read(&manifest).is_ok_and(|found| found == written);
    if resumed {
        return files::ensure_dir(&folder.join(DATA));
    }
    files::remove(folder)?;
    files::create_dir(folder)?;
    files::create_dir(&folder.join(DATA))?;
    // Last: a folder with its manifest is one to be resumed.
    files::write(&manifest, written)?;
    files::sync(folder)?;
    files::sync(incoming)
}

/// What is held of each file; whatever cannot be a beginning of it is removed.
fn hold(folder: &Path, manifest: &Manifest) -> io::Result<Vec<Held>> {
    let data = folder.join(DATA);
    let listed: HashSet<&str> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    for name in files::names(&data)?.iter().filter(|name| !listed.contains(name.as_str())) {
        files::remove(&data.join(name))?;
    }
    let verified = verified(folder, manifest)?;
    let hold = |(number, file): (usize, &SnapshotFile)| match verified.contains(&number) {
        true => Ok(Held { bytes: file.bytes, crc32c: file.crc32c }),
        false => hold_file(&data.join(&file.name), file),
    };
    manifest.files.iter().enumerate().map(hold).collect()
}

/// The files that are noted as verified and durable. If one of them is not what it was, the notes go: they must not be
/// taken for ones of the file that comes in its place.
fn verified(folder: &Path, manifest: &Manifest) -> io::Result<HashSet<usize>> {
    let record = folder.join(VERIFIED);
    let notes = std::fs::read(&record).unwrap_or_default();
    let notes: HashSet<&[u8]> = notes.chunks_exact(NOTE_BYTES).collect();
    let mut verified = HashSet::new();
    for (number, file) in manifest.files.iter().enumerate() {
        if !notes.contains(verified_note(number, file.crc32c).as_slice()) {
            continue;
        }
        let found = files::identify(&folder.join(DATA).join(&file.name));
        if !found.is_ok_and(|(_, bytes)| bytes == file.bytes) {
            files::remove_file(&record)?;
            files::sync(folder)?;
            return Ok(HashSet::new());
        }
        verified.insert(number);
    }
    Ok(verified)
}

/// What is held of a file that is not noted as verified.
fn hold_file(path: &Path, file: &SnapshotFile) -> io::Result<Held> {
    if !path.exists() {
        return Ok(Held::default());
    }
    let (bytes, crc32c) = files::sum(path, &|_| ())?;
    if bytes > file.bytes || (bytes == file.bytes && crc32c != file.crc32c) {
        files::remove_file(path)?;
        return Ok(Held::default());
    }
    if bytes == file.bytes {
        // It may have been complete, and not yet durable, when the process ended.
        files::sync_file(&OpenOptions::new().append(true).open(path)?)?;
    }
    Ok(Held { bytes, crc32c })
}

/// The note that a file is verified and durable. A crash may leave zeros where notes were, or a part of one: neither is
/// one.
fn verified_note(file: usize, crc32c: u32) -> [u8; NOTE_BYTES] {
    let number = u32::try_from(file).expect("few files").to_le_bytes();
    let check = crc32c::crc32c_append(crc32c::crc32c(&number), &crc32c.to_le_bytes());
    let mut note = [0; NOTE_BYTES];
    note[..4].copy_from_slice(&number);
    note[4..].copy_from_slice(&check.to_le_bytes());
    note
}

fn receive_io(path: &Path) -> impl FnOnce(io::Error) -> ReceiveError {
    let path = path.to_owned();
    move |error| {
        let detail = error.to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ReceiveError::NoSpace { path, detail }
            }
            _ => ReceiveError::Io { path, detail },
        }
    }
}
