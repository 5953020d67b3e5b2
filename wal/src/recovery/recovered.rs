//! What recovery found.

use std::collections::{BTreeMap, VecDeque};

use crate::cache::Cache;
use crate::ledger::Ledger;
use crate::pool::FreeSegment;
use crate::quarantine::Quarantine;
use crate::stream::StreamLog;
use crate::types::{BatchId, Lsn, SegmentId, StreamId, StreamState};

/// Writes that were never acknowledged and were cut from the end of the log: normal after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file in which the log ends.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// The end of the log.
    pub lsn: Lsn,
    /// What was found there instead of a batch.
    pub why: String,
}

/// Acknowledged records that could not be read (quarantine mode only).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The damaged segment file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there, and which positions are lost.
    pub why: String,
    /// The streams that may have lost records. The WAL does not serve them: rebuild them from their peers, and do
    /// not vote in their names before.
    pub streams: Vec<StreamId>,
    /// The records lost may have been any stream's, one of which nothing else is left among them. So a stream
    /// that should be there and is not must be taken for lost too, never for new.
    pub may_hide_streams: bool,
}

/// A recovered log, to be handed to [`Wal::new`](crate::Wal::new).
#[derive(Debug)]
pub struct Recovered {
    /// Set if the log ends in something else than the zeros or old bytes of a clean end.
    pub torn_tail: Option<TornTail>,
    /// What was found damaged and is not [mended](crate::Wal::mend) yet. Empty unless opened in quarantine mode.
    pub damage: Vec<Damage>,
    pub(crate) nonce: u64,
    pub(crate) state: RecoveredState,
}

#[derive(Debug)]
pub(crate) struct RecoveredState {
    pub(crate) streams: BTreeMap<StreamId, StreamLog>,
    pub(crate) ledger: Ledger,
    pub(crate) cache: Cache,
    /// Files that hold nothing of the log: spares, and what was cut.
    pub(crate) free: VecDeque<FreeSegment>,
    /// Purged segments older than the log. The batch that says so may have been cut (it landed before
    /// its predecessor did), so they stay until a batch of the new generation has said it again.
    pub(crate) held: Vec<FreeSegment>,
    pub(crate) next_segment: SegmentId,
    pub(crate) end_lsn: Lsn,
    pub(crate) oldest_lsn: Lsn,
    pub(crate) next_batch: BatchId,
    pub(crate) quarantine: Quarantine,
}

impl Recovered {
    /// A WAL that was never written. `nonce` is random and seeds the checksums.
    pub fn empty(nonce: u64) -> Self {
        Self {
            torn_tail: None,
            damage: Vec::new(),
            nonce,
            state: RecoveredState {
                streams: BTreeMap::new(),
                ledger: Ledger::default(),
                cache: Cache::new(u64::MAX),
                free: VecDeque::new(),
                held: Vec::new(),
                next_segment: SegmentId(1),
                end_lsn: Lsn(0),
                oldest_lsn: Lsn(0),
                next_batch: BatchId(1),
                quarantine: Quarantine::default(),
            },
        }
    }

    /// End of the recovered log.
    pub fn end_lsn(&self) -> Lsn {
        self.state.end_lsn
    }

    /// The segments that hold the log, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.state.ledger.iter().map(|segment| segment.id)
    }

    /// The streams found.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.state.streams.keys().copied()
    }

    /// Whether a stream was begun and nothing else: it never held an entry, nor a state other than the first.
    pub fn is_blank(&self, stream: StreamId) -> bool {
        let blank = |state: Option<StreamState>| state.is_none_or(|state| state == StreamState::default());
        let log = self.state.streams.get(&stream);
        log.is_some_and(|log| blank(log.state()) && log.base_index() == 0 && log.last_index() == 0)
    }
}
