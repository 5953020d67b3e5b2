//! A node's clocks as they are in bad machine rooms: the monotonic one drifts within the configured bound, the wall clock
//! is off and jumps.

use raft::Nanos;

use super::rng::Rng;

/// The clocks of one node.
#[derive(Clone, Debug)]
pub struct Clock {
    /// By how many parts per million the monotonic clock is too fast.
    drift_ppm: i64,
    /// By how much the wall clock is off.
    wall_offset_ms: i64,
    /// True time at which the process started.
    started: u64,
}

/// The wall clock when the world begins.
const EPOCH_MS: i64 = 1_700_000_000_000;

impl Clock {
    /// A clock that is too fast or too slow by at most half of `drift_max_ppm`: any two clocks differ by at most all of it.
    pub fn new(rng: &mut Rng, drift_max_ppm: u64, skew_max_ms: u64) -> Clock {
        Clock {
            drift_ppm: centred(rng, drift_max_ppm / 2),
            wall_offset_ms: centred(rng, skew_max_ms),
            started: 0,
        }
    }

    /// The process starts: its monotonic clock begins at zero.
    pub fn start(&mut self, now: u64) {
        self.started = now;
    }

    /// What the process reads on its monotonic clock.
    pub fn monotonic(&self, now: u64) -> Nanos {
        let elapsed = now - self.started;
        let off = i128::from(elapsed) * i128::from(self.drift_ppm) / 1_000_000;
        let read = i128::from(elapsed) + off;
        Nanos(u64::try_from(read).expect("drift is far below the whole"))
    }

    /// What the process reads on the wall clock.
    pub fn wall_ms(&self, now: u64) -> u64 {
        let true_ms = i64::try_from(now / 1_000_000).expect("a short run");
        u64::try_from(EPOCH_MS + true_ms + self.wall_offset_ms).expect("long after 1970")
    }

    /// Somebody, or NTP, sets the wall clock.
    pub fn jump(&mut self, rng: &mut Rng, max_ms: u64) -> i64 {
        let by = centred(rng, max_ms);
        self.wall_offset_ms += by;
        by
    }
}

fn centred(rng: &mut Rng, max: u64) -> i64 {
    let drawn = i64::try_from(rng.below(2 * max + 1)).expect("small");
    drawn - i64::try_from(max).expect("small")
}
