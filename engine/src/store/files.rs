//! The file operations of snapshots and of replicas' folders, each of which a test can make the last one.
//!
//! What is made durable here is durable: data before the name that shows it, the name before the caller goes on.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is read at a time to sum a file.
const READ_BYTES: usize = 1 << 20;
/// How often a folder is found with something new in it before it is given up.
const REMOVALS_MAX: usize = 100;

/// Makes a folder that must not exist.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    stop::here()?;
    fs::create_dir(path)
}

/// Makes a folder, and those above it, where they are missing; durably.
pub(super) fn ensure_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        ensure_dir(parent)?;
    }
    stop::here()?;
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result?,
    }
    parent.map_or(Ok(()), sync)
}

/// Writes a file and makes its contents durable; its name is once the folder is synced.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    stop::here()?;
    file.write_all(bytes)?;
    stop::here()?;
    file.sync_all()
}

/// Makes a file, empty whatever it was before.
pub(super) fn create(path: &Path) -> io::Result<File> {
    stop::here()?;
    File::create(path)
}

/// Opens a file to append to it, making it if need be.
pub(super) fn open_to_append(path: &Path) -> io::Result<File> {
    stop::here()?;
    OpenOptions::new().append(true).create(true).open(path)
}

/// Appends to a file.
pub(super) fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    stop::here()?;
    file.write_all(bytes)
}

/// Makes an open file durable.
pub(super) fn sync_file(file: &File) -> io::Result<()> {
    stop::here()?;
    file.sync_all()
}

/// Makes a file's contents, or a folder's names, durable.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    stop::here()?;
    File::open(path)?.sync_all()
}

/// Renames; not durable before the folder is synced.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    stop::here()?;
    fs::rename(from, to)
}

/// Gives a file a second name.
pub(super) fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    stop::here()?;
    fs::hard_link(from, to)
}

/// Removes a file; fine if it is gone already.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    stop::here()?;
    gone_is_fine(fs::remove_file(path))
}

/// Removes whatever lies at `path`, a folder with all in it; fine if it is gone already, or goes meanwhile. Not atomic.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..REMOVALS_MAX {
        match remove_once(path) {
            // A database that is just being closed writes a last line into its info log.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            result => return gone_is_fine(result),
        }
    }
    remove_once(path)
}

fn remove_once(path: &Path) -> io::Result<()> {
    stop::here()?;
    if !fs::symlink_metadata(path)?.is_dir() {
        return fs::remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        gone_is_fine(remove_once(&entry?.path()))?;
    }
    stop::here()?;
    fs::remove_dir(path)
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The names in a folder; none if there is no folder.
pub(super) fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string();
        names.push(
            name.map_err(|name| io::Error::other(format!("{} is not a name of ours", name.display())))?,
        );
    }
    names.sort();
    Ok(names)
}

/// Which file a name stands for: two names of the same file have the same, as long as one of them is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// The file at `path` and its length.
pub(super) fn identify(path: &Path) -> io::Result<(FileId, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{} is not a file", path.display())));
    }
    Ok((FileId { device: metadata.dev(), inode: metadata.ino() }, metadata.len()))
}

/// The length of a file and the CRC32C of its contents. `pace` hears of the bytes that were just read, and may wait.
pub(super) fn sum(path: &Path, pace: &dyn Fn(usize)) -> io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let (mut bytes, mut crc32c) = (0, 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, crc32c)),
            Ok(read) => {
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]);
                let from = bytes;
                bytes += u64::try_from(read).expect("64-bit machine");
                forget_pages(&file, from, bytes - from);
                pace(read);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Tells the kernel that pages of a file that were read once are not wanted: they would push others out.
pub fn forget_pages(file: &File, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (libc::off_t::try_from(offset), libc::off_t::try_from(bytes)) else {
        return;
    };
    // SAFETY: posix_fadvise touches no memory, and the file is open. It is a hint: its failure changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, bytes, libc::POSIX_FADV_DONTNEED) };
}

/// Has the kernel begin to write out what was written to a part of a file, so that a sync later finds little to do.
/// Nothing is durable by this, and nothing lost if it fails.
pub(super) fn start_writeback(file: &File, offset: u64, bytes: u64) {
    let (Ok(offset), Ok(bytes)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(bytes)) else {
        return;
    };
    // SAFETY: sync_file_range touches no memory, and the file is open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
}

/// What a file system holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// What this process may still write.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// The space of the file system that `folder` lies on.
pub fn space(folder: &Path) -> io::Result<Space> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid value of the structure, which holds numbers alone.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and lives through the call, which writes only the structure.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// Where a test stops the process, so to speak.
#[cfg(not(test))]
mod stop {
    use std::io;

    #[inline]
    pub(super) fn here() -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod stop {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Counts an operation. Once none are left, it and every later one of this thread fail, as if the process had
    /// ended before it.
    pub(in crate::store) fn here() -> io::Result<()> {
        match LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("stopped by the test")),
            Some(left) => {
                LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }

    /// Runs `run` with only so many operations; whether it was stopped.
    pub(in crate::store) fn after<T>(operations: u64, run: impl FnOnce() -> T) -> (T, bool) {
        LEFT.set(Some(operations));
        let result = run();
        let stopped = LEFT.replace(None) == Some(0);
        (result, stopped)
    }
}
