//! The cluster map on a node's disk: what the node starts with, and where it finds the others.
//!
//! ```text
//!   cluster.map:   "RINGKMAP"   crc32c of the rest (u32, little-endian)   the map, as on the wire
//! ```
//!
//! Invariant: a crash leaves the map before or the one written, each whole. A file that is damaged is an error, and no
//! reason to go on with an older map: that may send the node to shards and nodes that are no more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use net::map::{ClusterMap, decode_map, encode_map};
use thiserror::Error;

const NAME: &str = "cluster.map";
const MAGIC: &[u8; 8] = b"RINGKMAP";
const HEAD_BYTES: usize = MAGIC.len() + size_of::<u32>();

/// Why a map cannot be used.
#[derive(Debug, Error)]
pub enum MapFileError {
    /// The system does not let it be read.
    #[error("cannot read {path}: {source}; check the disk and who owns the data directory")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "{path} is damaged ({why}): start once with `ringkv serve --join ADDR`, where ADDR is the binary door of a running node; this one then gets the map from there, and keeps its data"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Puts a map in the place of the one in the data directory, durably. Blocks.
pub fn write(dir: &Path, map: &ClusterMap) -> io::Result<()> {
    let map = encode_map(map);
    let draft = dir.join("cluster.map.draft");
    let mut file = File::create(&draft)?;
    file.write_all(MAGIC)?;
    file.write_all(&crc32c::crc32c(&map).to_le_bytes())?;
    file.write_all(&map)?;
    file.sync_all()?;
    fs::rename(&draft, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

/// The map in the data directory; `None` if none was ever written.
pub fn read(dir: &Path) -> Result<Option<ClusterMap>, MapFileError> {
    let path = dir.join(NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MapFileError::Unreadable { path, source }),
    };
    decode(&bytes).map(Some).map_err(|why| MapFileError::Damaged { path, why })
}

/// That there is no map where there was one.
pub fn missing(dir: &Path) -> MapFileError {
    MapFileError::Damaged { path: dir.join(NAME), why: "it is missing".to_owned() }
}

fn decode(bytes: &[u8]) -> Result<ClusterMap, String> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
    let (magic, crc) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("it is no cluster map".to_owned());
    }
    if crc != crc32c::crc32c(body).to_le_bytes() {
        return Err("its checksum does not match".to_owned());
    }
    let map = decode_map(body).map_err(|error| error.to_string())?;
    // What is written has been checked before; this is a second look.
    map.clone().into_routing().map_err(|error| error.to_string())?;
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::map::NodeInfo;

    fn map(epoch: u64) -> ClusterMap {
        let node = NodeInfo { id: 4, binary_addr: "127.0.0.1:7".to_owned(), cores: 2, ..NodeInfo::default() };
        ClusterMap { epoch, nodes: vec![node], shards: Vec::new() }
    }

    #[test]
    fn the_last_map_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        for epoch in [3, 9] {
            write(dir.path(), &map(epoch)).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Some(map(epoch)));
        }
        // A crash before the rename: the draft is nobody's map.
        fs::write(dir.path().join("cluster.map.draft"), b"half").unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(map(9)));
    }

    #[test]
    fn no_spoilt_byte_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &map(3)).unwrap();
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[place] ^= 1;
            fs::write(&path, &spoilt).unwrap();
            assert!(matches!(read(dir.path()), Err(MapFileError::Damaged { .. })), "byte {place}");
            fs::write(&path, &whole[..place]).unwrap();
            let error = read(dir.path()).expect_err("cut short").to_string();
            assert!(error.contains("--join"), "{error}");
        }
    }
}
