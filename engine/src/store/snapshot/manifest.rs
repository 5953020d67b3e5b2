//! What a snapshot stands for and what it consists of.
//!
//! On disk it is JSON and, in a last line of its own, the checksum of all before: `crc32c 0123abcd`.

use std::collections::HashSet;

use raft::{ConfState, Index, NodeId, SnapshotMeta, Term};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const FORMAT: u32 = 1;
/// Bounds of what a peer may offer; a replica of hundreds of gigabytes has thousands of files.
const FILES_MAX: usize = 1 << 16;
const NAME_BYTES_MAX: usize = 128;
const SUM: &str = "crc32c ";

/// A snapshot: what it stands for, and its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The shard.
    pub shard: u32,
    /// The last entry it holds, and who belonged to the group as of it.
    pub meta: SnapshotMeta,
    /// Its files, in the order in which they are sent.
    pub files: Vec<SnapshotFile>,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name in the checkpoint's folder, which is flat.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// The CRC32C of its contents.
    pub crc32c: u32,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("the manifest is damaged: {detail}")]
    Damaged {
        /// What is wrong.
        detail: String,
    },
    /// Written by a newer RingKV.
    #[error("manifest format {found} is newer than the {FORMAT} this version knows")]
    Newer {
        /// The format found.
        found: u32,
    },
    /// A file's name is not one that may be created here.
    #[error("{name:?} is not a name for a file of a snapshot")]
    Name {
        /// The name.
        name: String,
    },
    /// A file is listed twice.
    #[error("{name:?} is listed twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// It holds no files, or far too many, or more bytes than can be counted.
    #[error("a snapshot of {files} files with {bytes:?} bytes")]
    Size {
        /// How many.
        files: usize,
        /// Their bytes, if they can be counted.
        bytes: Option<u64>,
    },
    /// It stands for no entry.
    #[error("a snapshot at index {index} of term {term}")]
    Position {
        /// The index.
        index: u64,
        /// The term.
        term: u64,
    },
}

impl Manifest {
    /// Whether it is fit to be received: whole, and naming nothing outside its folder.
    pub fn check(&self) -> Result<(), ManifestError> {
        let SnapshotMeta { index: Index(index), term: Term(term), .. } = self.meta;
        if index == 0 || term == 0 {
            return Err(ManifestError::Position { index, term });
        }
        let files = self.files.len();
        let bytes = self.files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes));
        if files == 0 || files > FILES_MAX || bytes.is_none() {
            return Err(ManifestError::Size { files, bytes });
        }
        let mut names = HashSet::new();
        for SnapshotFile { name, .. } in &self.files {
            if !is_plain(name) {
                return Err(ManifestError::Name { name: name.clone() });
            }
            if !names.insert(name.as_str()) {
                return Err(ManifestError::Twice { name: name.clone() });
            }
        }
        Ok(())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The name of its folder among the snapshots: sorted by name is sorted by age.
    pub(super) fn name(&self) -> String {
        format!("{:020}-{:020}", self.meta.index.0, self.meta.term.0)
    }

    /// As it lies on disk.
    pub(super) fn encode(&self) -> Vec<u8> {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let written = Written {
            format: FORMAT,
            shard: self.shard,
            index: self.meta.index.0,
            term: self.meta.term.0,
            voters: ids(&self.meta.conf_state.voters),
            learners: ids(&self.meta.conf_state.learners),
            voters_outgoing: ids(&self.meta.conf_state.voters_outgoing),
            files: self
                .files
                .iter()
                .map(|file| WrittenFile { name: file.name.clone(), bytes: file.bytes, crc32c: file.crc32c })
                .collect(),
        };
        let mut text = serde_json::to_string_pretty(&written).expect("numbers and names are written");
        text.push('\n');
        let sum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("{SUM}{sum:08x}\n"));
        text.into_bytes()
    }

    /// Reads what [`Manifest::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let damaged = |detail: String| ManifestError::Damaged { detail };
        let text = std::str::from_utf8(bytes).map_err(|error| damaged(error.to_string()))?;
        let line = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
        let (body, line) = text.split_at(line);
        let sum = line.strip_prefix(SUM).and_then(|sum| u32::from_str_radix(sum.trim_end(), 16).ok());
        if sum != Some(crc32c::crc32c(body.as_bytes())) {
            return Err(damaged("its checksum does not match".to_owned()));
        }
        let format: Format = serde_json::from_str(body).map_err(|error| damaged(error.to_string()))?;
        if format.format != FORMAT {
            return Err(ManifestError::Newer { found: format.format });
        }
        let written: Written = serde_json::from_str(body).map_err(|error| damaged(error.to_string()))?;
        let manifest = Self::from(written);
        manifest.check()?;
        Ok(manifest)
    }
}

impl From<Written> for Manifest {
    fn from(written: Written) -> Self {
        let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
        let conf_state = ConfState {
            voters: nodes(written.voters),
            learners: nodes(written.learners),
            voters_outgoing: nodes(written.voters_outgoing),
        };
        let files = written.files.into_iter();
        Self {
            shard: written.shard,
            meta: SnapshotMeta { index: Index(written.index), term: Term(written.term), conf_state },
            files: files
                .map(|file| SnapshotFile { name: file.name, bytes: file.bytes, crc32c: file.crc32c })
                .collect(),
        }
    }
}

/// Whether a name stands for a file in its own folder, whatever it is joined to, on any system.
fn is_plain(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.starts_with('.') && name.bytes().all(known)
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    shard: u32,
    index: u64,
    term: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    voters_outgoing: Vec<u64>,
    files: Vec<WrittenFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFile {
    name: String,
    bytes: u64,
    crc32c: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let conf_state = ConfState {
            voters: nodes(&[1, u64::MAX]),
            learners: nodes(&[2 << 20 | 3]),
            voters_outgoing: nodes(&[4]),
        };
        let file = |name: &str| SnapshotFile { name: name.to_owned(), bytes: 1 << 40, crc32c: 7 };
        Manifest {
            shard: 3,
            meta: SnapshotMeta { index: Index(u64::MAX), term: Term(5), conf_state },
            files: vec![file("000012.sst"), file("MANIFEST-000004")],
        }
    }

    #[test]
    fn it_is_read_back_and_every_damage_is_noticed() {
        let written = manifest().encode();
        assert_eq!(Manifest::decode(&written), Ok(manifest()));
        for at in 0..written.len() - 1 {
            let mut damaged = written.clone();
            damaged[at] ^= 0x04;
            assert!(Manifest::decode(&damaged).is_err(), "a flipped bit at {at}");
            assert!(Manifest::decode(&written[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_does_not_belong_into_a_folder_is_refused() {
        let with = |name: &str| {
            let mut manifest = manifest();
            manifest.files[0].name = name.to_owned();
            manifest.check()
        };
        let long = "a".repeat(NAME_BYTES_MAX + 1);
        for name in ["", ".", "..", "../x", "/x", "a/b", "a\\b", ".hidden", "a b", "a\0", "ä", &long] {
            assert_eq!(with(name), Err(ManifestError::Name { name: name.to_owned() }));
        }
        let twice = ManifestError::Twice { name: "MANIFEST-000004".to_owned() };
        assert_eq!(with("MANIFEST-000004"), Err(twice));
        let mut huge = manifest();
        huge.files[0].bytes = u64::MAX;
        assert!(matches!(huge.check(), Err(ManifestError::Size { .. })));
        let mut nothing = manifest();
        nothing.meta.index = Index(0);
        assert!(matches!(nothing.check(), Err(ManifestError::Position { .. })));
    }

    #[test]
    fn a_newer_format_is_named() {
        let text = "{\"format\": 2, \"more\": true}\n";
        let written = format!("{text}{SUM}{:08x}\n", crc32c::crc32c(text.as_bytes()));
        assert_eq!(Manifest::decode(written.as_bytes()), Err(ManifestError::Newer { found: 2 }));
    }
}
