//! Entries by which a shard is cut in two, and by which what is not a shard's own any more is removed: the state machine's
//! part of it is in `machine::division`.
//!
//! ```text
//! split = 0xC1 | at u16 | into u32 | first u16 | last u16          little-endian; no command begins with these bytes
//! trim  = 0xC2
//! ```

use bytes::{Buf, BufMut, Bytes};

const SPLIT_TAG: u8 = 0xC1;
const TRIM_TAG: u8 = 0xC2;
const SPLIT_BYTES: usize = 11;

/// What such an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Division {
    /// The slots from `at` on become those of another shard.
    Split {
        /// The first slot of the new shard.
        at: u16,
        /// The number of the new shard.
        into: u32,
        /// The slots the shard had until then, as its leader knew them: first and last. A shard that was cut before has
        /// them on record, and that counts.
        slots: (u16, u16),
    },
    /// What lies outside of the shard's slots is removed.
    Trim,
}

impl Division {
    /// The payload of its entry.
    pub fn encode(&self) -> Bytes {
        match *self {
            Self::Split { at, into, slots } => {
                let mut payload = Vec::with_capacity(SPLIT_BYTES);
                payload.put_u8(SPLIT_TAG);
                payload.put_u16_le(at);
                payload.put_u32_le(into);
                payload.put_u16_le(slots.0);
                payload.put_u16_le(slots.1);
                payload.into()
            }
            Self::Trim => Bytes::from_static(&[TRIM_TAG]),
        }
    }

    /// Reads a payload; `None` for one that says something else.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        match (payload.split_first()?, payload.len()) {
            ((&SPLIT_TAG, mut rest), SPLIT_BYTES) => {
                let (at, into) = (rest.get_u16_le(), rest.get_u32_le());
                Some(Self::Split { at, into, slots: (rest.get_u16_le(), rest.get_u16_le()) })
            }
            ((&TRIM_TAG, []), _) => Some(Self::Trim),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    #[test]
    fn divisions_are_read_back_and_told_from_all_else() {
        for division in [Division::Split { at: 9000, into: 70_000, slots: (8192, 16383) }, Division::Trim] {
            let payload = division.encode();
            assert_eq!(Division::decode(&payload), Some(division));
            assert_eq!(Division::decode(&payload[..payload.len() - 1]), None);
            assert_eq!(Division::decode(&[&payload[..], &[0]].concat()), None);
        }
        assert_eq!(Division::decode(&[]), None);
        assert_eq!(Division::decode(&encode(1, 2, None, &[])), None);
    }
}
