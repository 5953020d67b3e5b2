//! Time of one run: moments, and the switchboard that starts and ends it on every thread at once.
//!
//! Invariants: a [`Moment`] counts from the run's own origin, so moments of different threads compare.
//! The window's end only ever moves earlier.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds since the origin of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The origin of the run.
    pub const ORIGIN: Self = Self(0);
    /// Later than every moment of a run.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment this many nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`, zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// `self` and a bit, at most [`Moment::NEVER`].
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(nanos_of(wait)))
    }
}

/// A duration in whole nanoseconds; 584 years is the most it can say.
pub fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// When load begins and when it starts to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The first request of the warm-up, or of the window if there is no warm-up.
    pub load: Moment,
    /// The first moment that is measured.
    pub window: Moment,
}

/// What the main thread says to the threads that make the load.
#[derive(Debug)]
pub struct Control {
    origin: Instant,
    start: OnceLock<Start>,
    /// End of the window, exclusive: no request that was due later is sent or counted.
    end_nanos: AtomicU64,
    stopped: AtomicBool,
    loaded: AtomicU64,
}

impl Control {
    /// A run whose origin is now.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            start: OnceLock::new(),
            end_nanos: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            loaded: AtomicU64::new(0),
        }
    }

    /// The current moment.
    pub fn now(&self) -> Moment {
        Moment(nanos_of(self.origin.elapsed()))
    }

    /// Lets the load begin at `load`; measures `window` from the end of `warmup`. Once per run.
    pub fn begin(&self, load: Moment, warmup: Duration, window: Duration) {
        let start = Start { load, window: load.after(warmup) };
        // The end goes first: a thread that sees the start must not run on without an end. A stop that
        // came before has set an earlier end, and keeps it.
        self.end_nanos.fetch_min(start.window.after(window).0, Ordering::Release);
        assert!(self.start.set(start).is_ok(), "a run begins once");
    }

    /// When the run begins, once that is known.
    pub fn start(&self) -> Option<Start> {
        self.start.get().copied()
    }

    /// End of the window, exclusive; [`Moment::NEVER`] before the start is known.
    pub fn end(&self) -> Moment {
        // Acquire pairs with `begin`, but any stale answer is only a request more.
        Moment(self.end_nanos.load(Ordering::Acquire))
    }

    /// Ends the run here and now; the requests in flight are still waited for.
    pub fn stop(&self) {
        self.end_nanos.fetch_min(self.now().0, Ordering::AcqRel);
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether [`Control::stop`] was called: preparation should be given up too.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Counts one key written before the measurement.
    pub fn count_loaded(&self) {
        self.loaded.fetch_add(1, Ordering::Relaxed);
    }

    /// Keys written before the measurement, so far.
    pub fn loaded(&self) -> u64 {
        self.loaded.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_places_the_window_after_the_warmup() {
        let control = Control::new();
        assert_eq!(control.start(), None);
        assert_eq!(control.end(), Moment::NEVER);
        let load = Moment::from_nanos(7);
        control.begin(load, Duration::from_nanos(100), Duration::from_nanos(1000));
        assert_eq!(control.start(), Some(Start { load, window: Moment::from_nanos(107) }));
        assert_eq!(control.end(), Moment::from_nanos(1107));
        assert!(!control.is_stopped());
    }

    #[test]
    fn stop_only_moves_the_end_earlier() {
        let control = Control::new();
        control.stop();
        let first = control.end();
        assert!(control.is_stopped() && first < Moment::NEVER);
        control.begin(control.now(), Duration::ZERO, Duration::from_secs(5));
        assert_eq!(control.end(), first, "a start after the stop must not revive the run");
        control.stop();
        assert_eq!(control.end(), first);
    }

    #[test]
    fn moments_saturate() {
        assert_eq!(Moment::from_nanos(3).since(Moment::from_nanos(5)), Duration::ZERO);
        assert_eq!(Moment::NEVER.after(Duration::from_secs(1)), Moment::NEVER);
    }
}
