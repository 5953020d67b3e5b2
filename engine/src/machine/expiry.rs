//! Removing what has expired, by the log alone, so that every replica removes the same at the same entry.
//!
//! A value with an expiry leaves a *due* record beside it, ordered by when it may be removed:
//!
//! ```text
//! due record = meta tag | 'e' | due_ms u64 big-endian | stored key        (no value)
//! ```
//!
//! Every so many entries, and at an entry that a leader adds where nothing else is written
//! ([`crate::command::encode_removal`]), the machine takes up to [`SWEPT_MAX`] records that are due by its clock and removes each with
//! the value it names, if that value is expired then; a value written since has a due record of its own. Commands
//! cannot tell: an expired value and none at all are the same to them.
//!
//! Due times are rounded up, by at most an eighth of the time to live at the write. So a key that is written again and
//! again with the same time to live keeps some twenty due records at most, not one for each write; and nothing has to
//! be read to write one.
//!
//! Invariants:
//! - Every stored value with an expiry that was written since due records exist has one at or after its expiry.
//! - `next_ms` is the lowest due time in the engine and in what is pending.

use std::ops::Range;

use bytes::Bytes;

use super::ApplyError;
use crate::command::{META_TAG, Record};
use crate::store::{Lookup, ReadTier, StorageEngine, StoreError};

/// Due records looked at in one sweep: each may cost a read of the disk, on the apply thread.
const SWEPT_MAX: usize = 128;
/// Bytes of due records read in one sweep.
const SWEPT_BYTES_MAX: usize = 1 << 20;
const KIND: u8 = b'e';
const PREFIX_BYTES: usize = 10;
/// A due time is rounded to the time to live shifted right by this.
const ROUNDING_BITS: u32 = 3;

/// The due records of a machine.
#[derive(Debug)]
pub(super) struct Expiries {
    /// The lowest due time there is; `u64::MAX` for none.
    next_ms: u64,
    /// Due records of the batch being applied.
    pending: Vec<Range<usize>>,
    keys: Vec<u8>,
}

/// A point between two commands.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    pending: usize,
    next_ms: u64,
}

impl Expiries {
    /// What `engine` holds.
    pub(super) fn load(engine: &dyn StorageEngine) -> Result<Self, StoreError> {
        Ok(Self { next_ms: first_due(engine, 0)?, pending: Vec::new(), keys: Vec::new() })
    }

    /// When something is next due; `u64::MAX` for never.
    pub(super) fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Whether anything is due.
    pub(super) fn is_due(&self, clock_ms: u64) -> bool {
        self.next_ms <= clock_ms
    }

    /// Takes note of a value being written. Nothing is due to one that never expires.
    pub(super) fn note(&mut self, key: &[u8], expiry_ms: u64, clock_ms: u64) {
        if expiry_ms == 0 {
            return;
        }
        let start = self.keys.len();
        let due_ms = due_ms(expiry_ms, clock_ms);
        self.next_ms = self.next_ms.min(due_ms);
        self.keys.extend_from_slice(&prefix(due_ms));
        self.keys.extend_from_slice(key);
        self.pending.push(start..self.keys.len());
    }

    /// What is noted so far, to be given to [`Self::undo`].
    pub(super) fn mark(&self) -> Mark {
        Mark { pending: self.pending.len(), next_ms: self.next_ms }
    }

    /// Forgets what was noted since.
    pub(super) fn undo(&mut self, mark: Mark) {
        if let Some(first) = self.pending.get(mark.pending) {
            self.keys.truncate(first.start);
            self.pending.truncate(mark.pending);
        }
        self.next_ms = mark.next_ms;
    }

    /// The due records to be written with the batch.
    pub(super) fn pending(&self) -> impl Iterator<Item = &[u8]> {
        self.pending.iter().map(|range| &self.keys[range.clone()])
    }

    /// The batch was written.
    pub(super) fn written(&mut self) {
        self.pending.clear();
        self.keys.clear();
    }

    /// The keys to be removed as of entry `index` and the clock: due records, and the stored keys they name. Nothing may
    /// be pending. The caller removes all of them in its next batch.
    pub(super) fn sweep(
        &mut self,
        engine: &dyn StorageEngine,
        index: u64,
        clock_ms: u64,
    ) -> Result<Vec<Bytes>, ApplyError> {
        assert!(self.pending.is_empty(), "a sweep sees what is written only");
        let page =
            engine.scan(&prefix(0), &prefix(clock_ms.saturating_add(1)), SWEPT_MAX, SWEPT_BYTES_MAX)?;
        let mut keys = Vec::with_capacity(2 * page.items.len());
        for (due, _) in &page.items {
            let key = due.slice(PREFIX_BYTES..);
            if let Lookup::Found(value) = engine.get(&key, ReadTier::All)? {
                let record =
                    Record::parse(&value).map_err(|source| ApplyError::StoredRecord { index, source })?;
                if !record.is_visible(clock_ms) {
                    keys.push(key);
                }
            }
            keys.push(due.clone());
        }
        self.next_ms = match page.items.last() {
            Some((last, _)) if page.more => due_of(last),
            _ => first_due(engine, clock_ms.saturating_add(1))?,
        };
        Ok(keys)
    }
}

/// The lowest due time from `from_ms` on; `u64::MAX` for none.
fn first_due(engine: &dyn StorageEngine, from_ms: u64) -> Result<u64, StoreError> {
    let page = engine.scan(&prefix(from_ms), &[META_TAG, KIND + 1], 1, SWEPT_BYTES_MAX)?;
    Ok(page.items.first().map_or(u64::MAX, |(due, _)| due_of(due)))
}

/// When a value may be removed that expires at `expiry_ms`: not before, and rounded up.
fn due_ms(expiry_ms: u64, clock_ms: u64) -> u64 {
    let left = expiry_ms.saturating_sub(clock_ms);
    let step = left.checked_ilog2().map_or(1, |bits| 1_u64 << bits.saturating_sub(ROUNDING_BITS));
    expiry_ms.div_ceil(step).saturating_mul(step)
}

fn prefix(due_ms: u64) -> [u8; PREFIX_BYTES] {
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..2].copy_from_slice(&[META_TAG, KIND]);
    prefix[2..].copy_from_slice(&due_ms.to_be_bytes());
    prefix
}

fn due_of(record: &[u8]) -> u64 {
    let due = record[2..].first_chunk().expect("a due record has its due time");
    u64::from_be_bytes(*due)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_value_is_due_at_or_soon_after_its_expiry() {
        for (expiry, clock, due) in
            [(5, 5, 5), (5, 9, 5), (17, 1, 18), (1000, 0, 1024), (1000, 999, 1000), (u64::MAX, 0, u64::MAX)]
        {
            assert_eq!(due_ms(expiry, clock), due, "{expiry} at {clock}");
        }
        for clock in (0..1 << 40).step_by(7_777_777_777) {
            for left in [1, 3, 1000, 3_600_000, 86_400_000 * 30] {
                let due = due_ms(clock + left, clock);
                assert!(due >= clock + left && due <= clock + left + left / 8 + 1);
            }
        }
    }

    #[test]
    fn a_key_that_is_refreshed_has_few_due_records() {
        let day = 86_400_000;
        let dues: BTreeSet<u64> = (0..day).step_by(1000).map(|clock| due_ms(clock + day, clock)).collect();
        assert!(dues.len() <= 20, "{}", dues.len());
    }
}
