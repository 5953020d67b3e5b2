//! What limits the snapshots that a node sends and receives: how many at a time, and how many bytes per second, over all
//! its cores. Requests of clients come first.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::config::Snapshot;

/// How much may leave at once after a pause, as time at the full rate: little, for a pause is mostly the executor being busy.
const BURST: Duration = Duration::from_millis(5);

/// The node's limits; clones are the same.
#[derive(Clone)]
pub struct Transfers {
    sending: Slots,
    receiving: Slots,
    rate: Arc<Mutex<Rate>>,
}

impl Transfers {
    /// The limits of the configuration.
    pub fn new(config: &Snapshot) -> Transfers {
        Transfers {
            sending: Slots::new(config.concurrent_max),
            receiving: Slots::new(config.concurrent_max),
            rate: Arc::new(Mutex::new(Rate { bytes_per_s: config.send_bytes_per_s, free_at: None })),
        }
    }

    /// Waits until another snapshot may be sent.
    pub(super) async fn send_slot(&self) -> Slot {
        self.sending.take().await
    }

    /// Whether another snapshot may be received now.
    pub(super) fn receive_slot(&self) -> Option<Slot> {
        self.receiving.try_take()
    }

    /// How long to wait before so many bytes may be sent.
    pub(super) fn pause(&self, bytes: usize) -> Duration {
        self.rate.lock().expect("nothing panics while holding it").pause(bytes, Instant::now())
    }
}

/// Permissions, as tokens in a channel.
#[derive(Clone)]
struct Slots {
    back: flume::Sender<()>,
    free: flume::Receiver<()>,
}

/// One of them, until dropped.
pub(super) struct Slot(flume::Sender<()>);

impl Drop for Slot {
    fn drop(&mut self) {
        // There is room for every token.
        let _ = self.0.try_send(());
    }
}

impl Slots {
    fn new(count: u32) -> Slots {
        let (back, free) = flume::bounded(usize::try_from(count).expect("64-bit machine"));
        for _ in 0..count {
            back.try_send(()).expect("room for every token");
        }
        Slots { back, free }
    }

    async fn take(&self) -> Slot {
        self.free.recv_async().await.expect("the sender lives as long as the receiver");
        Slot(self.back.clone())
    }

    fn try_take(&self) -> Option<Slot> {
        self.free.try_recv().ok().map(|()| Slot(self.back.clone()))
    }
}

/// Bytes per second, handed out in the order they are asked for.
#[derive(Debug)]
struct Rate {
    /// 0: no limit.
    bytes_per_s: u64,
    /// When all that was handed out has had its time.
    free_at: Option<Instant>,
}

impl Rate {
    fn pause(&mut self, bytes: usize, now: Instant) -> Duration {
        if self.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let bytes = u64::try_from(bytes).expect("64-bit machine");
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // What was not used is lost, but for a short burst.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let free_at = self.free_at.map_or(earliest, |free_at| free_at.max(earliest)) + time;
        self.free_at = Some(free_at);
        free_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_at_the_rate_and_a_pause_is_not_made_up_for() {
        let start = Instant::now() + Duration::from_secs(1000);
        let mut rate = Rate { bytes_per_s: 1_000_000, free_at: None };
        assert_eq!(rate.pause(5_000, start), Duration::ZERO, "a burst of 5 ms");
        assert_eq!(rate.pause(100_000, start), Duration::from_millis(100));
        assert_eq!(rate.pause(100_000, start), Duration::from_millis(200), "behind those before it");
        let later = start + Duration::from_secs(60);
        assert_eq!(rate.pause(105_000, later), Duration::from_millis(100));
        assert_eq!(Rate { bytes_per_s: 0, free_at: None }.pause(1 << 30, later), Duration::ZERO);
    }

    #[test]
    fn slots_come_back_when_they_are_dropped() {
        let transfers = Transfers::new(&Snapshot { concurrent_max: 2, ..Snapshot::default() });
        let (first, second) = (transfers.receive_slot(), transfers.receive_slot());
        assert!(first.is_some() && second.is_some() && transfers.receive_slot().is_none());
        drop(first);
        assert!(transfers.receive_slot().is_some());
        assert!(
            futures_lite::future::block_on(futures_lite::future::poll_once(transfers.send_slot())).is_some()
        );
    }
}
