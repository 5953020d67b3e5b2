//! Claiming a WAL's folder: made and locked; and whether it is able to do what direct I/O relies on.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::error::RecoveryError;
use crate::types::BLOCK_BYTES;

/// Why a WAL could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Stop the other process, or give this one its own folder.
    #[error("{path}: another process has this log open; stop it, or use another data folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// Use a file system that supports direct I/O (ext4, XFS), or [`Io::Buffered`](super::Io::Buffered).
    #[error(
        "{path}: this file system does not support O_DIRECT; put the data folder on ext4 or XFS on a local disk, \
         or set wal.io = \"buffered\" (slower; and what lies in memory only, as on tmpfs, does not survive a reboot)"
    )]
    NoDirectIo {
        /// The folder.
        path: PathBuf,
    },
    /// Correct owner or mode of the folder.
    #[error("{path}: no permission to write here; the folder must belong to the user the node runs as")]
    Permission {
        /// The folder or file.
        path: PathBuf,
    },
    /// Free space, or use a larger disk.
    #[error("{path}: the disk is full; free some space before starting the node")]
    NoSpace {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be used for another reason.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment cannot be read or synced: the disk is failing, or the file's owner or mode is wrong.
    #[error("{path}: at offset {offset}: {source}; check the disk's health and the file's permissions")]
    File {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// What the segments hold is not a whole log.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

impl OpenError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission { path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path },
            _ => Self::Folder { path, source },
        }
    }
}

/// Name of the file that is locked.
pub(super) const LOCK_NAME: &str = "lock";

/// Makes and locks the folder. Answers its absolute path and the lock.
pub(super) fn claim(dir: &Path) -> Result<(PathBuf, File), OpenError> {
    let at_dir = |source| OpenError::of(dir, source);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at_dir)?;
    let dir = dir.canonicalize().map_err(at_dir)?;
    let path = dir.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    let lock = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.map_err(|source| OpenError::of(&path, source))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: dir }),
        Err(TryLockError::Error(source)) => return Err(OpenError::of(&path, source)),
    }
    // A whole block on the disk, so that a direct read of it asks the device: see `DmaDisk::open`.
    let filled = lock.write_all_at(&[b'\n'; BLOCK_BYTES], 0).and_then(|()| lock.sync_all());
    filled.map_err(|source| OpenError::of(&path, source))?;
    // The folder itself must survive a crash, and so must its name.
    for folder in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| OpenError::of(folder, source))?;
    }
    Ok((dir, lock))
}

/// Opens the lock file with O_DIRECT: refused with EINVAL where the file system has none. A file system in
/// memory (tmpfs) is refused too, whatever it says: nothing on it survives.
pub(super) fn check_direct_io(dir: &Path) -> Result<(), OpenError> {
    let path = dir.join(LOCK_NAME);
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&path);
    match opened {
        Err(source) if source.raw_os_error() == Some(libc::EINVAL) => {
            Err(OpenError::NoDirectIo { path: dir.to_owned() })
        }
        Err(source) => Err(OpenError::of(&path, source)),
        Ok(file) if in_memory(&file).map_err(|source| OpenError::of(&path, source))? => {
            Err(OpenError::NoDirectIo { path: dir.to_owned() })
        }
        Ok(_) => Ok(()),
    }
}

fn in_memory(file: &File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let mut stats = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open for the whole call, and the buffer is a `statfs` to be written.
    if unsafe { libc::fstatfs(file.as_raw_fd(), stats.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the buffer.
    let stats = unsafe { stats.assume_init() };
    Ok(stats.f_type == libc::TMPFS_MAGIC)
}

/// The names in the folder, in order.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let mut names: Vec<String> = names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect();
    names.sort();
    Ok(names)
}

/// 64 bits that no client can guess.
pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: the buffer is valid for writes of its whole length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match usize::try_from(got) {
        Ok(8) => Ok(u64::from_le_bytes(bytes)),
        Ok(_) => Err(io::Error::from(io::ErrorKind::Interrupted)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
