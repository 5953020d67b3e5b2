//! After damage: which streams lost records, and how the log learns that this has been dealt with.
//!
//! The damaged bytes stay where they are until their segment is purged, so every start meets them again. It
//! must report them again, for the last process may have ended before it drew the consequences, until the log says
//! itself, in a record behind the removal of every stream that was touched, that they were drawn: `mended`.
//! Until then nothing is purged.

use std::collections::BTreeMap;

use crate::record::{Change, NO_STREAM, Record};
use crate::types::{Lsn, StreamId};
use crate::wal::Wal;

/// What was found damaged and is not dealt with yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quarantine {
    /// Streams that may have lost records, and the sequence of their next record.
    pub(crate) lost: BTreeMap<StreamId, u32>,
    /// The losses, from where to where.
    pub(crate) holes: Vec<(Lsn, Lsn)>,
    /// Damage was reported, even if no record of it is missing.
    pub(crate) reported: bool,
}

impl Quarantine {
    pub(crate) fn is_over(&self) -> bool {
        !self.reported
    }
}

impl Wal {
    /// The streams that may have lost records and are not [removed](Self::remove) yet; not among
    /// [`streams`](Self::streams).
    pub fn lost(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.quarantine.lost.keys().copied()
    }

    /// Whether damage was found that is not [mended](Self::mend) yet.
    pub fn is_damaged(&self) -> bool {
        !self.quarantine.is_over()
    }

    /// Says that the damage found at the start has been dealt with: from when this is durable, starts no longer
    /// report it. Nothing happens if there is none.
    ///
    /// The order is: create the streams that replace the lost ones, under ids of their own; remove the lost
    /// ones; then this. Records become durable in the order of the commands, so a crash in between
    /// leaves either a replacement or another report, never neither.
    ///
    /// # Panics
    /// If a lost stream was not removed.
    pub fn mend(&mut self) -> Lsn {
        assert!(self.quarantine.lost.is_empty(), "remove the lost streams first");
        for (from, to) in std::mem::take(&mut self.quarantine.holes) {
            self.push(Record { stream: NO_STREAM, sequence: 0, change: Change::Mended { from, to } });
        }
        self.quarantine.reported = false;
        let end_lsn = self.end_lsn();
        self.maintain();
        end_lsn
    }
}
