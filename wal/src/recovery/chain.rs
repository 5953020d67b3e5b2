//! The order of the segments, from the first batch of each: generations, what is void, where to begin.

use std::collections::BTreeMap;

use super::scan::Hole;
use super::{SegmentFile, checked};
use crate::batch::BatchHeader;
use crate::config::WalConfig;
use crate::error::RecoveryError;
use crate::segment::{FORMAT_VERSION, SegmentHeader, SegmentHeaderError, SegmentSeed, file_name};
use crate::types::{BLOCK, BLOCK_BYTES, Lsn, SegmentId};

/// The first two blocks of one file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    file: SegmentFile,
    /// `None`: damaged.
    header: Option<SegmentHeader>,
    first: Option<BatchHeader>,
}

impl Head {
    pub(super) fn read(config: &WalConfig, file: SegmentFile, bytes: &[u8]) -> Result<Self, RecoveryError> {
        let header = match SegmentHeader::decode(&bytes[..bytes.len().min(BLOCK_BYTES)]) {
            Ok(header) => Some(checked(config, file, header)?).filter(|header| header.id == file.id),
            Err(SegmentHeaderError::Damaged) => None,
            Err(SegmentHeaderError::Version(found)) => {
                let file = file_name(file.id);
                return Err(RecoveryError::Version { file, found, supported: FORMAT_VERSION });
            }
        };
        let first = header.zip(bytes.get(BLOCK_BYTES..));
        let first =
            first.and_then(|(header, bytes)| BatchHeader::decode(file.id, header.seed(), BLOCK, bytes).ok());
        Ok(Self { file, header, first })
    }

    /// Files are whole before they get their name, so these are never the marks of a crash.
    fn defect(&self) -> Option<&'static str> {
        match self.header {
            None => Some("the segment header is damaged"),
            Some(header) if self.file.bytes < header.segment_bytes => {
                Some("the file is shorter than the segment was made")
            }
            Some(_) => None,
        }
    }
}

/// A file that is damaged as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defect {
    segment: SegmentId,
    why: &'static str,
}

impl Defect {
    /// The hole it leaves in a log that reaches to `lsn`.
    pub(super) fn hole(&self, lsn: Lsn) -> Hole {
        Hole { segment: self.segment, offset: 0, lsn, why: self.why.to_owned() }
    }
}

/// A segment to scan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub(super) id: SegmentId,
    /// How much of it to read, a multiple of 4096.
    pub(super) bytes: u64,
    pub(super) file_bytes: u64,
    pub(super) seed: SegmentSeed,
    pub(super) first: Option<BatchHeader>,
    /// Where the next generation began: batches from there on are void. `None` in the last generation.
    pub(super) void_from: Option<Lsn>,
    /// A file right before it that is damaged as a whole, and how: any records may be missing.
    pub(super) gap_before: Option<Defect>,
}

impl Link {
    pub(super) fn first_lsn(&self) -> Lsn {
        self.first.map_or(Lsn(0), |first| first.first_lsn)
    }
}

#[derive(Debug, Default)]
pub(super) struct Chain {
    pub(super) links: Vec<Link>,
    /// The most any first batch says was flushed, and was needless.
    pub(super) flushed_lsn: Lsn,
    pub(super) oldest_lsn: Lsn,
    defect: Option<Hole>,
    /// The last file, if it is damaged as a whole.
    pub(super) gap_at_end: Option<Defect>,
}

impl Chain {
    /// Links the heads, beginning where the log does. `oldest_lsn` is what is known from later batches.
    pub(super) fn build(heads: &[Head], oldest_lsn: Lsn) -> Self {
        let firsts = || heads.iter().filter_map(|head| head.first);
        let starts: BTreeMap<SegmentId, Lsn> =
            firsts().map(|first| (first.generation, first.generation_start)).collect();
        let void_from = |generation: SegmentId| {
            starts.iter().filter(|(later, _)| **later > generation).map(|(_, start)| *start).min()
        };
        let is_void =
            |first: BatchHeader| void_from(first.generation).is_some_and(|lsn| first.first_lsn >= lsn);
        let flushed_lsn = firsts().map(|first| first.flushed_lsn).max().unwrap_or_default();
        let oldest_lsn = firsts().map(|first| first.oldest_lsn).max().unwrap_or_default().max(oldest_lsn);

        let valid = || heads.iter().filter(|head| head.first.is_some_and(|first| !is_void(first)));
        let begins = |head: &&Head| head.first.is_some_and(|first| first.first_lsn <= oldest_lsn);
        // The last segment that begins at or before the oldest LSN; if that one is missing, all there is.
        let start = valid().rfind(begins).map(|head| head.file.id);
        let within = |head: &&Head| start.is_none_or(|start| head.file.id >= start);
        let links: Vec<Link> = (heads.iter().filter(within))
            .filter(|head| !head.first.is_some_and(is_void))
            .filter_map(|head| {
                let header = head.header?;
                Some(Link {
                    id: head.file.id,
                    bytes: header.segment_bytes.min(head.file.bytes) / BLOCK * BLOCK,
                    file_bytes: head.file.bytes,
                    seed: header.seed(),
                    first: head.first,
                    void_from: head.first.and_then(|first| void_from(first.generation)),
                    gap_before: None,
                })
            })
            .filter(|link| link.bytes > BLOCK)
            .collect();
        let defect = heads.iter().filter(within).find_map(|head| {
            let why = head.defect()?.to_owned();
            let lsn = head.first.map_or(oldest_lsn, |first| first.first_lsn);
            Some(Hole { segment: head.file.id, offset: 0, lsn, why })
        });
        let mut chain = Self { links, flushed_lsn, oldest_lsn, defect, gap_at_end: None };
        for head in heads.iter().filter(within) {
            let Some(why) = head.defect() else { continue };
            // A segment that was never written does not tell where the log went on.
            let next = chain.links.iter_mut().find(|link| link.id > head.file.id && link.first.is_some());
            let gap = match next {
                Some(link) => &mut link.gap_before,
                None => &mut chain.gap_at_end,
            };
            gap.get_or_insert(Defect { segment: head.file.id, why });
        }
        chain
    }

    /// A file that is damaged as a whole.
    pub(super) fn defect(&self) -> Option<Hole> {
        self.defect.clone()
    }
}
