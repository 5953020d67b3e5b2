//! Walks the batches of the chain, in order, and feeds their records to the replay.
//!
//! Invariant: a batch is applied whole or not at all, and only if it continues the log exactly (LSN and
//! sequence). Past the first that does not, blocks are only probed for what they say was flushed.

use super::chain::{Defect, Link};
use super::replay::Replay;
use super::salvage::salvage;
use crate::batch::{BATCH_HEADER_BYTES, BatchHeader};
use crate::record::RecordView;
use crate::segment::file_name;
use crate::types::{BLOCK, BLOCK_BYTES, BatchId, Lsn, SegmentId};
use crate::width::{to_u64, to_usize};

/// A place where the log could not be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) segment: SegmentId,
    pub(super) offset: u64,
    pub(super) lsn: Lsn,
    pub(super) why: String,
}

impl Hole {
    pub(super) fn file(&self) -> String {
        file_name(self.segment)
    }
}

/// A hole that a survey went past: what lay from its LSN up to `to` is lost.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    pub(super) hole: Hole,
    pub(super) to: Lsn,
    /// Whose records were lost is known; otherwise they may have been anybody's.
    pub(super) attributed: bool,
}

impl Loss {
    /// Whether these losses, which the log says were dealt with, are all of it.
    pub(super) fn is_mended(&self, mended: &[(Lsn, Lsn)]) -> bool {
        let mut mended = mended.to_vec();
        mended.sort_unstable();
        let mut at = self.hole.lsn;
        for (from, to) in mended {
            if from <= at {
                at = at.max(to);
            }
        }
        at >= self.to
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The next block must start the batch that continues the log.
    Batches,
    /// Past a hole: look for headers that say what was flushed.
    Probe,
    /// Past a hole, surveying: continue with any batch further on.
    Seek,
    /// Nothing more is wanted from this segment.
    Skip,
}

/// Where the log goes on.
#[derive(Debug, Clone, Copy)]
struct Next {
    lsn: Lsn,
    sequence: BatchId,
    generation: SegmentId,
}

#[derive(Debug)]
pub(super) struct Scan {
    replay: Replay,
    mode: Mode,
    /// Where the log must begin.
    start_lsn: Lsn,
    /// `None` before the first batch.
    next: Option<Next>,
    /// Position in the segment of the front of `carry`.
    at: u64,
    carry: Vec<u8>,
    /// The first place where the log could not be read on, unless a later segment continued it.
    hole: Option<Hole>,
    /// Damage that no tail rule excuses.
    definite: Option<Hole>,
    flushed_lsn: Lsn,
    oldest_lsn: Lsn,
    /// A valid batch was seen that is not part of the log.
    saw_dropped: bool,
    /// Set while surveying damage: continue past holes in front of this.
    survey: Option<Lsn>,
    /// Losses known to be dealt with, when surveying.
    mended: Vec<(Lsn, Lsn)>,
    /// What the survey found lost.
    losses: Vec<Loss>,
}

impl Scan {
    pub(super) fn new(replay: Replay, start_lsn: Lsn, survey: Option<Lsn>) -> Self {
        Self {
            replay,
            start_lsn,
            mode: Mode::Skip,
            next: None,
            at: 0,
            carry: Vec::new(),
            hole: None,
            definite: None,
            flushed_lsn: Lsn(0),
            oldest_lsn: Lsn(0),
            saw_dropped: false,
            survey,
            mended: Vec::new(),
            losses: Vec::new(),
        }
    }

    pub(super) fn flushed_lsn(&self) -> Lsn {
        self.flushed_lsn
    }

    pub(super) fn oldest_lsn(&self) -> Lsn {
        self.oldest_lsn
    }

    pub(super) fn begin_segment(&mut self, link: &Link) {
        self.carry.clear();
        self.at = BLOCK;
        self.mode = match (link.first, self.next) {
            (None, _) => {
                let why = CLEAN_END.to_owned();
                let hole = Hole { segment: link.id, offset: BLOCK, lsn: self.end_lsn(), why };
                self.hole.get_or_insert(hole);
                self.past_hole()
            }
            (Some(first), None) if first.first_lsn <= self.start_lsn => {
                self.hole = None;
                self.resume_at(&first);
                Mode::Batches
            }
            (Some(_), None) => {
                let why = "what came before this segment is missing".to_owned();
                let hole = Hole { segment: link.id, offset: BLOCK, lsn: self.start_lsn, why };
                self.leave_hole(link, hole);
                self.past_hole()
            }
            (Some(first), Some(next)) if continues(next, &first) => {
                self.hole = None;
                self.resume_at(&first);
                Mode::Batches
            }
            (Some(first), Some(next)) => {
                let why = format!("the segment starts at {}, the log ends at {}", first.first_lsn, next.lsn);
                let hole = Hole { segment: link.id, offset: BLOCK, lsn: next.lsn, why };
                let hole = self.leave_hole(link, hole);
                if first.generation > next.generation && first.generation_start > next.lsn {
                    // Rule 1: the recovery in between read further than that.
                    self.definite.get_or_insert(hole);
                }
                self.past_hole()
            }
        };
    }

    /// Takes the next bytes of the segment.
    pub(super) fn feed(&mut self, link: &Link, bytes: &[u8]) {
        self.carry.extend_from_slice(bytes);
        let carry = std::mem::take(&mut self.carry);
        let mut used = 0;
        while self.mode != Mode::Skip && carry.len() - used >= BLOCK_BYTES {
            let rest = &carry[used..];
            let step = match self.mode {
                Mode::Batches => self.batch(link, rest),
                Mode::Probe | Mode::Seek => self.probe(link, rest),
                Mode::Skip => unreachable!("the loop ends"),
            };
            let Some(step) = step else { break };
            used += step;
            self.at += to_u64(step);
        }
        self.carry = carry;
        self.carry.drain(..used);
    }

    pub(super) fn wants_more(&self, link: &Link) -> bool {
        self.mode != Mode::Skip && self.at < link.bytes
    }

    pub(super) fn end_segment(&mut self, link: &Link) {
        if self.mode == Mode::Batches && self.at < link.bytes {
            self.stop(link, self.at, "the file ends inside a batch");
        }
    }

    /// The survey is over. What follows the last segment may be missing, too.
    pub(super) fn end_survey(&mut self, last: Option<&Link>, gap_at_end: Option<Defect>) {
        let (from, to) = (self.end_lsn(), self.end_lsn().max(self.flushed_lsn));
        if let Some(defect) = gap_at_end {
            // Nobody knows how much lay there. More positions are given up than it can have been, so that none
            // is used twice and the next start sees the hole.
            let to = Lsn(to.0 + UNKNOWN_BYTES_MAX);
            self.lose(Loss { hole: defect.hole(from), to, attributed: false });
        } else if to > from {
            let hole = self.hole.clone().unwrap_or_else(|| self.hole_at_end(last));
            self.lose(Loss { hole: Hole { lsn: from, ..hole }, to, attributed: false });
        }
    }

    /// What the log says was dealt with.
    pub(super) fn mended(&self) -> &[(Lsn, Lsn)] {
        &self.replay.mended
    }

    /// Surveying: takes these losses for dealt with.
    pub(super) fn set_mended(&mut self, mended: Vec<(Lsn, Lsn)>) {
        self.mended = mended;
    }

    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// Damage, given what is known to have been flushed.
    pub(super) fn damage(&self, last: Option<&Link>) -> Option<Hole> {
        if self.definite.is_some() {
            return self.definite.clone();
        }
        if self.flushed_lsn <= self.end_lsn() {
            return None;
        }
        Some(self.hole.clone().unwrap_or_else(|| self.hole_at_end(last)))
    }

    fn hole_at_end(&self, last: Option<&Link>) -> Hole {
        let segment = last.map_or(SegmentId(0), |link| link.id);
        Hole { segment, offset: self.at, lsn: self.end_lsn(), why: "the log ends here".to_owned() }
    }

    /// The end of the log, if something unacknowledged was dropped there.
    pub(super) fn torn_tail(&self) -> Option<Hole> {
        self.hole.clone().filter(|hole| self.saw_dropped || hole.why != CLEAN_END)
    }

    pub(super) fn end_lsn(&self) -> Lsn {
        self.next.map_or(self.start_lsn, |next| next.lsn)
    }

    pub(super) fn next_batch(&self) -> Option<BatchId> {
        self.next.map(|next| next.sequence)
    }

    pub(super) fn note_flushed(&mut self, lsn: Lsn) {
        self.flushed_lsn = self.flushed_lsn.max(lsn);
    }

    pub(super) fn into_replay(self) -> Replay {
        self.replay
    }

    /// The log does not go on where this segment begins: notes the hole, and answers it.
    fn leave_hole(&mut self, link: &Link, hole: Hole) -> Hole {
        let lsn = hole.lsn;
        // A segment usually ends with unused blocks: not there, but in the file that is missing lies the damage.
        let known = self.hole.take().filter(|known| link.gap_before.is_none() || known.why != CLEAN_END);
        let hole = known.unwrap_or_else(|| link.gap_before.map_or(hole, |defect| defect.hole(lsn)));
        self.hole.insert(hole).clone()
    }

    fn lose(&mut self, loss: Loss) {
        if !loss.attributed {
            self.replay.gap(self.losses.len(), loss.is_mended(&self.mended));
        }
        self.losses.push(loss);
    }

    fn resume_at(&mut self, first: &BatchHeader) {
        self.next =
            Some(Next { lsn: first.first_lsn, sequence: first.sequence, generation: first.generation });
    }

    fn past_hole(&self) -> Mode {
        match self.survey {
            Some(flushed) if self.end_lsn() < flushed => Mode::Seek,
            Some(_) => Mode::Skip,
            None => Mode::Probe,
        }
    }

    fn note(&mut self, header: &BatchHeader) {
        self.flushed_lsn = self.flushed_lsn.max(header.flushed_lsn);
        self.oldest_lsn = self.oldest_lsn.max(header.oldest_lsn);
    }

    fn stop(&mut self, link: &Link, offset: u64, why: &str) {
        let hole = Hole { segment: link.id, offset, lsn: self.end_lsn(), why: why.to_owned() };
        self.hole.get_or_insert(hole);
        // An older generation has nothing to say about the tail: the next one must continue it.
        self.mode =
            if link.void_from.is_some() && self.survey.is_none() { Mode::Skip } else { self.past_hole() };
    }

    /// One batch at the front of `rest`. Answers how far to go on; `None` if more bytes are needed.
    fn batch(&mut self, link: &Link, rest: &[u8]) -> Option<usize> {
        let next = self.next.expect("set when the segment began");
        if link.void_from == Some(next.lsn) {
            self.mode = Mode::Skip;
            return Some(0);
        }
        let header = match BatchHeader::decode(link.id, link.seed, self.at, rest) {
            Ok(header) => header,
            Err(why) => {
                self.stop(link, self.at, why);
                return Some(0);
            }
        };
        self.note(&header);
        let len = to_usize(header.len_bytes);
        let fault = if header.first_lsn != next.lsn || header.sequence != next.sequence {
            self.saw_dropped = true;
            Some("the batch does not continue the log")
        } else if to_u64(len) > link.bytes - self.at {
            Some("the batch reaches past the end of the file")
        } else if link.void_from.is_some_and(|void| header.end_lsn() > void) {
            Some("the batch reaches into the next generation")
        } else {
            None
        };
        if let Some(why) = fault {
            self.stop(link, self.at, why);
            return Some(0);
        }
        if rest.len() < len {
            return None;
        }
        match self.check_records(link, &header, &rest[..len]) {
            Ok(()) => {
                self.apply_records(link, &header, &rest[..len]);
                Some(len)
            }
            Err((offset, why)) => {
                if self.survey.is_some_and(|flushed| self.end_lsn() < flushed)
                    && self.salvage(link, &header, &rest[..len], (offset, why))
                {
                    return Some(len);
                }
                self.stop(link, offset, why);
                Some(0)
            }
        }
    }

    fn check_records(
        &self,
        link: &Link,
        header: &BatchHeader,
        batch: &[u8],
    ) -> Result<(), (u64, &'static str)> {
        let end = header.records_end();
        let (mut at, mut count) = (BATCH_HEADER_BYTES, 0_u32);
        while at < end {
            let offset = self.at + to_u64(at);
            let view = RecordView::parse(link.seed, offset, &batch[at..end]).map_err(|why| (offset, why))?;
            at += view.len_bytes();
            count += 1;
        }
        if count != header.records {
            return Err((self.at, "the batch holds another number of records than it says"));
        }
        Ok(())
    }

    /// Applies the sound records of a damaged batch and names the streams of the others. Answers whether that could be
    /// done.
    fn salvage(&mut self, link: &Link, header: &BatchHeader, batch: &[u8], damage: (u64, &str)) -> bool {
        let Some(salvaged) = salvage(link, header, self.at, batch) else { return false };
        let number = self.losses.len();
        let (offset, why) = (damage.0, damage.1.to_owned());
        let hole = Hole { segment: link.id, offset, lsn: header.first_lsn, why };
        self.lose(Loss { hole, to: header.end_lsn(), attributed: true });
        self.replay.enter(link, header.first_lsn);
        for (at, view) in salvaged.records {
            let lsn = Lsn(header.first_lsn.0 + to_u64(at - BATCH_HEADER_BYTES));
            if view.sequence == 0 && salvaged.lost_before.contains(&view.stream) {
                self.replay.lose(view.stream, number);
            }
            let applied = self.replay.apply(&view, lsn, link.id, self.at + to_u64(at));
            applied.expect("a survey takes what contradicts itself for damage");
        }
        for stream in salvaged.lost {
            self.replay.lose(stream, number);
        }
        self.go_on_after(header);
        true
    }

    fn apply_records(&mut self, link: &Link, header: &BatchHeader, batch: &[u8]) {
        let end = header.records_end();
        let (mut at, mut lsn) = (BATCH_HEADER_BYTES, header.first_lsn);
        self.replay.enter(link, header.first_lsn);
        while at < end {
            let offset = self.at + to_u64(at);
            let view = RecordView::parse(link.seed, offset, &batch[at..end]).expect("checked before");
            if let Err(why) = self.replay.apply(&view, lsn, link.id, offset) {
                let why = format!("{why} ({})", view.stream);
                self.definite.get_or_insert(Hole { segment: link.id, offset, lsn, why });
            }
            at += view.len_bytes();
            lsn.0 += view.len_lsn();
        }
        assert_eq!(lsn, header.end_lsn());
        self.go_on_after(header);
    }

    fn go_on_after(&mut self, header: &BatchHeader) {
        let (lsn, sequence) = (header.end_lsn(), BatchId(header.sequence.0 + 1));
        self.next = Some(Next { lsn, sequence, generation: header.generation });
    }

    /// Looks at one block past a hole.
    fn probe(&mut self, link: &Link, rest: &[u8]) -> Option<usize> {
        let Ok(header) = BatchHeader::decode(link.id, link.seed, self.at, rest) else {
            return Some(BLOCK_BYTES);
        };
        self.note(&header);
        let next_lsn = self.end_lsn();
        let ahead = header.first_lsn >= next_lsn && link.void_from.is_none_or(|void| header.first_lsn < void);
        // The hole itself, met again, is not a way past it.
        let is_hole = self.hole.as_ref().is_some_and(|hole| {
            hole.segment == link.id
                && self.at <= hole.offset
                && hole.offset < self.at + u64::from(header.len_bytes)
                && self.next.is_some_and(|next| next.sequence == header.sequence)
        });
        if self.mode == Mode::Seek && ahead && !is_hole {
            let hole = self.hole.take().expect("what is sought is the end of a hole");
            if header.first_lsn > next_lsn {
                let hole = Hole { lsn: next_lsn, ..hole };
                self.lose(Loss { hole, to: header.first_lsn, attributed: false });
            }
            self.resume_at(&header);
            self.mode = Mode::Batches;
            return Some(0);
        }
        self.saw_dropped = true;
        Some(BLOCK_BYTES)
    }
}

/// More than any segments at the end of a log hold together.
const UNKNOWN_BYTES_MAX: u64 = 1 << 40;

/// What decoding a batch header says about a block that never held one.
const CLEAN_END: &str = "no batch starts here";

/// Whether a segment that starts with `first` goes on where the log ends: within a generation without
/// a gap, between generations exactly where the later one says it began.
fn continues(next: Next, first: &BatchHeader) -> bool {
    first.first_lsn == next.lsn
        && if first.generation == next.generation {
            first.sequence == next.sequence
        } else {
            first.generation > next.generation && first.generation_start == next.lsn
        }
}
