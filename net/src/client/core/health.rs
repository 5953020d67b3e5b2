//! Which addresses not to dial for a while, because the last attempts failed.

use super::random::Random;
use crate::types::Nanos;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No pause is shorter, whatever is configured: a retry must lie in the future.
const PAUSE_MIN: Duration = Duration::from_micros(100);

/// Failures in a row, and until when to leave an address alone. Holds failing addresses only.
#[derive(Debug)]
pub(super) struct Health {
    backoff_min: Duration,
    backoff_max: Duration,
    failing: BTreeMap<Arc<str>, (u32, Nanos)>,
}

impl Health {
    pub(super) fn new(backoff_min: Duration, backoff_max: Duration) -> Health {
        Health { backoff_min, backoff_max, failing: BTreeMap::new() }
    }

    /// Until when not to dial; `None`: go ahead.
    pub(super) fn down_until(&self, address: &str, now: Nanos) -> Option<Nanos> {
        self.failing_until(address).filter(|&until| until > now)
    }

    /// Until when not to dial, or not to have dialled, an address whose last attempt failed; `None` where it did not.
    pub(super) fn failing_until(&self, address: &str) -> Option<Nanos> {
        self.failing.get(address).map(|&(_, until)| until)
    }

    pub(super) fn succeeded(&mut self, address: &str) {
        self.failing.remove(address);
    }

    pub(super) fn failed(&mut self, address: &Arc<str>, now: Nanos, random: &mut Random) {
        let failures = self.failing.get(address).map_or(1, |&(failures, _)| failures.saturating_add(1));
        let until = now.after(self.backoff(failures, random));
        self.failing.insert(Arc::clone(address), (failures, until));
    }

    /// Forgets addresses nobody uses any more.
    pub(super) fn retain(&mut self, known: impl Fn(&str) -> bool) {
        self.failing.retain(|address, _| known(address));
    }

    /// The pause before the `attempt`-th retry (from 1): doubling, bounded, and spread over its upper half so
    /// that clients that failed together do not come back together.
    pub(super) fn backoff(&self, attempt: u32, random: &mut Random) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let full = self.backoff_min.saturating_mul(1 << doublings).min(self.backoff_max);
        let half = full / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
        (half + Duration::from_nanos(random.next() % spread)).max(PAUSE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_within_its_bounds() {
        let health = Health::new(Duration::from_millis(4), Duration::from_millis(100));
        let mut random = Random::new(1);
        for (attempt, full) in [(1, 4), (2, 8), (3, 16), (10, 100), (u32::MAX, 100)] {
            for _ in 0..100 {
                let pause = health.backoff(attempt, &mut random);
                let full = Duration::from_millis(full);
                assert!(pause >= full / 2 && pause <= full, "attempt {attempt}: {pause:?}");
            }
        }
    }

    #[test]
    fn success_ends_the_pause() {
        let mut health = Health::new(Duration::from_millis(4), Duration::from_millis(100));
        let address: Arc<str> = Arc::from("a:1");
        health.failed(&address, Nanos(0), &mut Random::new(1));
        let until = health.down_until("a:1", Nanos(0)).unwrap();
        assert_eq!(health.down_until("a:1", until), None);
        assert_eq!(health.down_until("b:1", Nanos(0)), None);
        health.succeeded("a:1");
        assert_eq!(health.down_until("a:1", Nanos(0)), None);
    }
}
