//! From segment files back to streams: fed with what was read, without doing the reading.
//!
//! [`Recovery`] asks for reads one at a time ([`poll_read`](Recovery::poll_read)), takes what was read
//! ([`on_read`](Recovery::on_read)) and ends with [`finish`](Recovery::finish). The rules:
//!
//! 1. *Generations.* The first batch of each segment tells its generation and where that began. A
//!    generation is void from where the next one began, and must be readable up to there.
//! 2. *The tail.* In the last generation, the log ends at the first batch that cannot be read, unless any
//!    batch, wherever it lies, says that more was flushed: then acknowledged records are lost.
//! 3. *The front.* The log begins at the highest `oldest_lsn` any batch carries; earlier segments were
//!    purged, later ones must be there.
//! 4. *Damage.* If acknowledged records are lost, the log is *surveyed*: read past every hole, to tell which streams
//!    it touched. What the log itself says was dealt with (`mended`) is not reported again.
//!
//! Writing continues in segments with new ids only, in a new generation, so what is cut stays cut: bytes
//! behind the cut, even whole batches that had landed out of order, are void by rule 1 from the moment the
//! new generation's first batch is on disk, and are unacknowledged by rule 2 until then.

use crate::config::{RecoveryMode, WalConfig};
use crate::error::RecoveryError;
use crate::pool::FreeSegment;
use crate::quarantine::Quarantine;
use crate::segment::{SegmentHeader, file_name};
use crate::types::{BLOCK, BatchId, Lsn, SegmentId};
use crate::width::{len_of, to_u64};

mod chain;
mod recovered;
mod replay;
mod report;
mod salvage;
mod scan;

pub use recovered::{Damage, Recovered, TornTail};

use chain::{Chain, Head};
use recovered::RecoveredState;
use replay::Replay;
use scan::{Hole, Scan};

/// A segment file as found in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFile {
    /// From its name.
    pub id: SegmentId,
    /// Its length.
    pub bytes: u64,
}

/// A read that recovery wants; the answer may be shorter only where the file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRequest {
    /// The file to read.
    pub segment: SegmentId,
    /// From where, a multiple of 4096.
    pub offset_bytes: u64,
    /// How much, a multiple of 4096.
    pub len_bytes: usize,
}

/// Bytes asked for at once.
const CHUNK_BYTES: u64 = 1 << 20;

#[derive(Debug)]
enum Phase {
    /// Reading the first two blocks of every segment.
    Heads,
    /// Reading the segments of the chain from end to end.
    Body {
        pass: Pass,
        at: usize,
        offset: u64,
    },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Up to the first hole.
    Strict,
    /// After damage was found: past every hole in front of this, to tell which streams it touched.
    Survey { flushed: Lsn },
}

/// Recovery of one WAL. See the module's documentation.
#[derive(Debug)]
pub struct Recovery {
    config: WalConfig,
    /// By id.
    files: Vec<SegmentFile>,
    heads: Vec<Head>,
    chain: Chain,
    scan: Scan,
    phase: Phase,
    /// The damage that made a survey necessary.
    damage: Option<Hole>,
    /// The losses that the log says were dealt with, once a survey has found them.
    mended: Vec<(Lsn, Lsn)>,
    requested: Option<ReadRequest>,
}

impl Recovery {
    /// Starts with the `.wal` files of the folder, in any order.
    pub fn new(config: &WalConfig, mut files: Vec<SegmentFile>) -> Result<Self, RecoveryError> {
        config.validate()?;
        files.sort_by_key(|file| file.id);
        let phase = if files.is_empty() { Phase::Done } else { Phase::Heads };
        Ok(Self {
            config: config.clone(),
            files,
            heads: Vec::new(),
            chain: Chain::default(),
            scan: Scan::new(Replay::new(config.cache_bytes_max, false, false), Lsn(0), None),
            phase,
            damage: None,
            mended: Vec::new(),
            requested: None,
        })
    }

    /// The next read, or `None` when recovery is ready to [`finish`](Self::finish).
    pub fn poll_read(&mut self) -> Option<ReadRequest> {
        assert!(self.requested.is_none(), "answer the last request first");
        let request = match self.phase {
            Phase::Heads => {
                let segment = self.files[self.heads.len()].id;
                ReadRequest { segment, offset_bytes: 0, len_bytes: len_of(2 * BLOCK) }
            }
            Phase::Body { at, offset, .. } => {
                let link = &self.chain.links[at];
                let len_bytes = len_of(CHUNK_BYTES.min(link.bytes - offset));
                ReadRequest { segment: link.id, offset_bytes: offset, len_bytes }
            }
            Phase::Done => return None,
        };
        self.requested = Some(request);
        Some(request)
    }

    /// Takes what was read.
    pub fn on_read(&mut self, bytes: &[u8]) -> Result<(), RecoveryError> {
        let request = self.requested.take().expect("a read was requested");
        let bytes = &bytes[..bytes.len().min(request.len_bytes)];
        match self.phase {
            Phase::Heads => {
                let head = Head::read(&self.config, self.files[self.heads.len()], bytes)?;
                self.heads.push(head);
                if self.heads.len() == self.files.len() {
                    self.start(Pass::Strict, Lsn(0));
                }
            }
            Phase::Body { pass, at, offset } => {
                let link = self.chain.links[at];
                self.scan.feed(&link, bytes);
                let end = offset + to_u64(bytes.len());
                let file_ended = bytes.len() < request.len_bytes || end >= link.bytes;
                if !file_ended && self.scan.wants_more(&link) {
                    self.phase = Phase::Body { pass, at, offset: end };
                } else {
                    self.scan.end_segment(&link);
                    self.begin_segment(pass, at + 1);
                }
            }
            Phase::Done => unreachable!("nothing is requested when done"),
        }
        Ok(())
    }

    fn start(&mut self, pass: Pass, oldest_lsn: Lsn) {
        self.chain = Chain::build(&self.heads, oldest_lsn);
        let purged = self.chain.oldest_lsn > Lsn(0);
        let replay = Replay::new(self.config.cache_bytes_max, purged, pass != Pass::Strict);
        let survey = match pass {
            Pass::Strict => None,
            Pass::Survey { flushed } => Some(flushed),
        };
        self.scan = Scan::new(replay, self.chain.oldest_lsn, survey);
        self.scan.note_flushed(self.chain.flushed_lsn);
        self.scan.set_mended(self.mended.clone());
        self.begin_segment(pass, 0);
    }

    fn begin_segment(&mut self, pass: Pass, at: usize) {
        match self.chain.links.get(at) {
            Some(link) => {
                self.scan.begin_segment(link);
                self.phase = Phase::Body { pass, at, offset: BLOCK };
            }
            None => self.end_pass(pass),
        }
    }

    fn end_pass(&mut self, pass: Pass) {
        self.phase = Phase::Done;
        // Only the whole log tells how much of its front was purged.
        let oldest_lsn = self.scan.oldest_lsn().max(self.chain.oldest_lsn);
        let complete = oldest_lsn == self.chain.oldest_lsn;
        if pass != Pass::Strict {
            self.scan.end_survey(self.chain.links.last(), self.chain.gap_at_end);
            // Only now is it known which of the losses were dealt with: look again with that knowledge.
            if self.mended.is_empty() && !self.scan.mended().is_empty() {
                self.mended = self.scan.mended().to_vec();
                self.start(pass, self.chain.oldest_lsn);
            }
            return;
        }
        let damage = self.chain.defect().or_else(|| self.scan.damage(self.chain.links.last()));
        if damage.is_some() && !complete {
            // It may lie in what was purged: begin where the log does.
            return self.start(Pass::Strict, oldest_lsn);
        }
        self.chain.oldest_lsn = oldest_lsn;
        if damage.is_some() {
            self.damage = damage;
            let flushed = self.scan.flushed_lsn();
            self.start(Pass::Survey { flushed }, oldest_lsn);
        }
    }

    /// The result. `nonce` is random and seeds the checksums of the segments to come.
    ///
    /// # Panics
    /// If [`poll_read`](Self::poll_read) still has something to ask.
    pub fn finish(mut self, nonce: u64) -> Result<Recovered, RecoveryError> {
        assert!(matches!(self.phase, Phase::Done), "all was read");
        let torn_tail = self.scan.torn_tail();
        let next_batch = self.scan.next_batch().unwrap_or(BatchId(1));
        let mut end_lsn = self.scan.end_lsn();
        let flushed_lsn = self.scan.flushed_lsn();
        let losses = self.scan.take_losses();
        let mut replay = self.scan.into_replay();
        let lost = replay.settle();
        if self.damage.is_some() {
            // Nothing may be written again under a position that was acknowledged.
            end_lsn = losses.iter().map(|loss| loss.to).fold(end_lsn.max(flushed_lsn), Lsn::max);
        }
        let damage = report::damage(self.damage, &self.chain, &losses, &replay.mended, &lost);
        if let (Some(first), RecoveryMode::Refuse) = (damage.first(), self.config.recovery_mode) {
            return Err(report::refusal(first, lost.into_keys().collect()));
        }
        let quarantine = Quarantine {
            lost: lost.into_iter().map(|(stream, (_, next_sequence))| (stream, next_sequence)).collect(),
            holes: losses
                .iter()
                .map(|loss| (loss.hole.lsn, loss.to))
                .filter(|(from, to)| from < to)
                .collect(),
            reported: !damage.is_empty(),
        };
        let last_id = self.files.last().map_or(0, |file| file.id.0);
        let first_id = replay.ledger.oldest().map_or(SegmentId(0), |segment| segment.id);
        let (held, free): (Vec<_>, Vec<_>) = (self.files.iter())
            .filter(|file| replay.ledger.get(file.id).is_none())
            .map(|file| FreeSegment { id: file.id, bytes: file.bytes })
            // Files that hold damage are needed to report it again.
            .partition(|file| file.id < first_id || quarantine.reported);
        let tail = torn_tail.filter(|_| damage.is_empty());
        Ok(Recovered {
            torn_tail: tail.map(|hole| TornTail {
                file: hole.file(),
                offset: hole.offset,
                lsn: hole.lsn,
                why: hole.why,
            }),
            damage,
            nonce,
            state: RecoveredState {
                streams: replay.streams,
                ledger: replay.ledger,
                cache: replay.cache,
                free: free.into(),
                held,
                next_segment: SegmentId(last_id + 1),
                end_lsn,
                oldest_lsn: self.chain.oldest_lsn,
                next_batch,
                quarantine,
            },
        })
    }
}

/// The header of a segment, checked against the configuration.
fn checked(
    config: &WalConfig,
    file: SegmentFile,
    header: SegmentHeader,
) -> Result<SegmentHeader, RecoveryError> {
    if (header.node_id, header.core) != (config.node_id, config.core) {
        return Err(RecoveryError::Foreign {
            file: file_name(file.id),
            found_node: header.node_id,
            found_core: header.core,
            node: config.node_id,
            core: config.core,
        });
    }
    Ok(header)
}
