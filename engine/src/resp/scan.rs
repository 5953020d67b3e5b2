//! Cursors of `SCAN`: where the next page begins, as a number.
//!
//! ```text
//! cursor = (slot + 1) << 32 | number        number 0: the slot's beginning; else a position that this core remembers
//! ```
//!
//! Positions are keys, which do not fit a number, so a core remembers the last few. A number it has forgotten, or that
//! another core gave, begins its slot anew: keys may come twice, which `SCAN` allows, and none is left out.

use std::collections::VecDeque;

use bytes::Bytes;
use net::slot::SLOT_COUNT;

/// Positions that are remembered, and the bytes of their keys.
const POSITIONS_MAX: usize = 4096;
const POSITIONS_BYTES_MAX: usize = 1 << 20;

/// The positions of one core.
#[derive(Debug)]
pub struct Positions {
    kept: VecDeque<Kept>,
    bytes: usize,
    next_number: u32,
}

#[derive(Debug)]
struct Kept {
    number: u32,
    namespace: u8,
    position: Bytes,
}

impl Positions {
    /// None yet. Numbers begin at `first_number`: those of other cores and of earlier processes should be others.
    pub fn new(first_number: u32) -> Positions {
        Positions { kept: VecDeque::new(), bytes: 0, next_number: first_number }
    }

    /// The cursor of a position.
    pub fn cursor(&mut self, namespace: u8, position: &Bytes) -> u64 {
        let slot = slot_of_position(position);
        let slot_part = (u64::from(slot) + 1) << 32;
        if position.len() <= 2 {
            return slot_part;
        }
        self.next_number = self.next_number.wrapping_add(1).max(1);
        // A copy: the page it is a slice of would be kept, too.
        let position = Bytes::copy_from_slice(position);
        self.bytes += position.len();
        self.kept.push_back(Kept { number: self.next_number, namespace, position });
        while self.kept.len() > POSITIONS_MAX || self.bytes > POSITIONS_BYTES_MAX {
            let forgotten = self.kept.pop_front().expect("there is one too many");
            self.bytes -= forgotten.position.len();
        }
        slot_part | u64::from(self.next_number)
    }

    /// Where a cursor goes on; `None` when it is the cursor of nothing.
    pub fn position(&self, namespace: u8, cursor: u64) -> Option<Bytes> {
        let slot = match cursor {
            0 => 0,
            _ => u16::try_from((cursor >> 32).checked_sub(1)?).ok().filter(|slot| *slot < SLOT_COUNT)?,
        };
        let number = cursor & u64::from(u32::MAX);
        let known = self.kept.iter().rev().find(|kept| u64::from(kept.number) == number);
        let known =
            known.filter(|kept| kept.namespace == namespace && slot_of_position(&kept.position) == slot);
        Some(known.map_or_else(|| slot_start(slot), |kept| kept.position.clone()))
    }
}

/// The position where a slot begins.
pub fn slot_start(slot: u16) -> Bytes {
    Bytes::copy_from_slice(&slot.to_be_bytes())
}

/// The position just behind all keys of a slot, within the shard; `None` for the last slot of all.
pub fn slot_end(slot: u16) -> Option<Bytes> {
    (slot + 1 < SLOT_COUNT).then(|| slot_start(slot + 1))
}

/// The position just behind a key.
pub fn behind(slot: u16, key: &[u8]) -> Bytes {
    Bytes::from([&slot.to_be_bytes(), key, &[0]].concat())
}

/// The slot of a position.
pub fn slot_of_position(position: &[u8]) -> u16 {
    match position {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_its_position() {
        let mut positions = Positions::new(7);
        let position = behind(16383, b"key");
        let cursor = positions.cursor(3, &position);
        assert_eq!(positions.position(3, cursor), Some(position));
        assert_eq!(
            positions.position(4, cursor),
            Some(slot_start(16383)),
            "another namespace begins the slot"
        );
        assert_eq!(positions.position(0, 0), Some(slot_start(0)));
        let slot = positions.cursor(0, &slot_start(5));
        assert_eq!((slot, positions.position(0, slot)), (6 << 32, Some(slot_start(5))));
        assert_eq!(positions.position(0, 16385 << 32), None);
        assert_eq!(positions.position(0, 5), None);
    }

    #[test]
    fn what_is_forgotten_begins_its_slot_anew() {
        let mut positions = Positions::new(0);
        let first = positions.cursor(0, &behind(9, b"a"));
        for _ in 0..POSITIONS_MAX {
            positions.cursor(0, &behind(10, b"b"));
        }
        assert_eq!(positions.position(0, first), Some(slot_start(9)));
        for _ in 0..40 {
            positions.cursor(0, &behind(10, &[b'k'; 64 << 10]));
        }
        assert!(positions.bytes <= POSITIONS_BYTES_MAX);
    }
}
