//! The small types every module here shares.

use bytes::Bytes;
use std::time::Duration;

/// Pairs a reply with its request on one connection; chosen by the sender, echoed by the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Monotonic local time in nanoseconds since an arbitrary start; passed in, never read here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The instant `later` after this one; saturates at the end of time.
    #[must_use]
    pub fn after(self, later: Duration) -> Nanos {
        Nanos(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to this instant; zero if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A stored value and the version of the write that made it (the index of its log entry).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes stored: a slice of the frame they arrived in.
    pub data: Bytes,
    /// Grows with every write to the shard; what compare-and-swap compares.
    pub version: u64,
}

/// What a door accepts. A request beyond a limit is refused with `TooLarge`, a frame beyond
/// [`Limits::frame_bytes_max`] is refused before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes.
    pub key_bytes_max: u32,
    /// Longest value, in bytes.
    pub value_bytes_max: u32,
    /// Most mutations in one atomic batch.
    pub mutations_max: u32,
    /// Most items of one scan reply; a larger `limit` is clamped by the server.
    pub scan_items_max: u32,
    /// Longest frame body (metadata and payload). Must hold a value and its key: see [`Limits::check`].
    pub frame_bytes_max: u32,
}

/// Room for metadata beside the longest key and value of a frame.
const METADATA_RESERVE_BYTES: u32 = 64 * 1024;

impl Limits {
    /// The defaults: 64 KiB keys, 8 MiB values, 1024 mutations, 10 000 items, 32 MiB frames.
    pub const DEFAULT: Limits = Limits {
        key_bytes_max: 64 * 1024,
        value_bytes_max: 8 * 1024 * 1024,
        mutations_max: 1024,
        scan_items_max: 10_000,
        frame_bytes_max: 32 * 1024 * 1024,
    };

    /// Whether the limits fit together: a frame must hold a compare-and-swap of the longest key with two
    /// of the longest values (the expected and the new one).
    ///
    /// # Errors
    /// [`LimitsError`], saying how long frames must be allowed to be.
    pub fn check(&self) -> Result<(), LimitsError> {
        let needed = 2 * u64::from(self.value_bytes_max)
            + u64::from(self.key_bytes_max)
            + u64::from(METADATA_RESERVE_BYTES);
        if u64::from(self.frame_bytes_max) < needed {
            return Err(LimitsError { frame_bytes_max: self.frame_bytes_max, needed });
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::DEFAULT
    }
}

/// `frame_bytes_max` is too small for the other limits: raise it, or lower them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame_bytes_max is {frame_bytes_max} but keys and values of the allowed length need {needed}")]
pub struct LimitsError {
    /// What was configured.
    pub frame_bytes_max: u32,
    /// What the key and value limits need.
    pub needed: u64,
}

// Lengths cross the wire as u32; every supported target can index that much.
const _: () = assert!(usize::BITS >= 32);

/// A wire length as a memory length; never truncates, by the assertion above.
#[inline]
pub(crate) const fn wide(length: u32) -> usize {
    length as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_limits_fit_together() {
        assert_eq!(Limits::DEFAULT.check(), Ok(()));
    }

    #[test]
    fn a_frame_too_small_for_its_values_is_an_error() {
        let limits = Limits { frame_bytes_max: 16 * 1024 * 1024, ..Limits::DEFAULT };
        assert_eq!(limits.check().unwrap_err().needed, 16 * 1024 * 1024 + 128 * 1024);
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        assert_eq!(Nanos(u64::MAX).after(Duration::from_secs(1)), Nanos(u64::MAX));
        assert_eq!(Nanos(5).since(Nanos(9)), Duration::ZERO);
    }
}
