//! Plain, read-only access to a WAL's folder, for tools: works beside a running node and on damaged files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::WalConfig;
use crate::error::RecoveryError;
use crate::recovery::{Recovered, Recovery, SegmentFile};
use crate::segment::{file_name, parse_file_name};
use crate::types::SegmentId;

/// Why a folder could not be read.
#[derive(Debug, Error)]
pub enum FilesError {
    /// Check the path and its permissions.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The contents are not a whole log.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// The segments in `dir`, oldest first; other files are ignored.
pub fn list(dir: &Path) -> Result<Vec<SegmentFile>, FilesError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| FilesError::Io { path, source }
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(at(dir))? {
        let entry = entry.map_err(at(dir))?;
        let Some(id) = entry.file_name().to_str().and_then(parse_file_name) else { continue };
        match entry.metadata() {
            Ok(meta) => files.push(SegmentFile { id, bytes: meta.len() }),
            // Recycled by a running node since the folder was listed.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(at(&entry.path())(err)),
        }
    }
    files.sort_by_key(|file| file.id);
    Ok(files)
}

/// Reads up to `len` bytes at `offset`; fewer where the file ends.
pub fn read(dir: &Path, segment: SegmentId, offset: u64, len: usize) -> Result<Vec<u8>, FilesError> {
    let path = dir.join(file_name(segment));
    let read = || {
        let file = File::open(&path)?;
        let mut bytes = vec![0; len];
        let mut at = 0;
        while at < len {
            match file.read_at(&mut bytes[at..], offset + crate::width::to_u64(at)) {
                Ok(0) => break,
                Ok(n) => at += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    };
    read().map_err(|source| FilesError::Io { path: path.clone(), source })
}

/// Runs recovery over a folder without changing anything in it.
pub fn recover(dir: &Path, config: &WalConfig) -> Result<Recovered, FilesError> {
    let mut recovery = Recovery::new(config, list(dir)?)?;
    while let Some(request) = recovery.poll_read() {
        let bytes = read(dir, request.segment, request.offset_bytes, request.len_bytes)?;
        recovery.on_read(&bytes)?;
    }
    Ok(recovery.finish(0)?)
}
