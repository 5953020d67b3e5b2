//! What limits the snapshots that a node takes, sends and receives: how many at a time, how many bytes per second, and how
//! much of the disk they leave free, over all its cores. Requests of clients come first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Snapshot;

/// How much may leave at once after a pause, as time at the full rate: little, for a pause is mostly the executor being busy.
const BURST: Duration = Duration::from_millis(5);

/// The node's limits; clones are the same.
#[derive(Clone)]
pub struct Transfers {
    sending: Slots,
    receiving: Slots,
    sent: Arc<Mutex<Rate>>,
    /// Files of checkpoints are read to be summed no faster than they may be sent.
    summed: Arc<Mutex<Rate>>,
    received: Arc<Mutex<Rate>>,
    reserve_bytes: u64,
    taking: Arc<Mutex<()>>,
}

impl Transfers {
    /// The limits of the configuration. Receiving leaves `reserve_bytes` of the disk free.
    pub fn new(config: &Snapshot, reserve_bytes: u64) -> Transfers {
        let rate = |bytes_per_s| Arc::new(Mutex::new(Rate { bytes_per_s, free_at: None }));
        Transfers {
            sending: Slots::new(config.concurrent_max),
            receiving: Slots::new(config.concurrent_max),
            sent: rate(config.send_bytes_per_s),
            summed: rate(config.send_bytes_per_s),
            received: rate(config.receive_bytes_per_s),
            reserve_bytes,
            taking: Arc::default(),
        }
    }

    /// Waits until another snapshot may be sent.
    pub(super) async fn send_slot(&self) -> Slot {
        self.sending.take().await
    }

    /// Waits until another snapshot may be received.
    pub(super) async fn receive_slot(&self) -> Slot {
        self.receiving.take().await
    }

    /// How long to wait before so many bytes may be sent.
    pub(super) fn pause_sending(&self, bytes: usize) -> Duration {
        pause(&self.sent, bytes)
    }

    /// How long to wait before more is received, after so many bytes.
    pub(super) fn pause_receiving(&self, bytes: usize) -> Duration {
        pause(&self.received, bytes)
    }

    /// What must stay free of the disk.
    pub(super) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Waits until no other core takes a snapshot for later. Blocks.
    pub(super) fn taking_turn(&self) -> MutexGuard<'_, ()> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits after so many bytes of a checkpoint were read. Blocks.
    pub(super) fn pace_reading(&self, bytes: usize) {
        let pause = pause(&self.summed, bytes);
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}

fn pause(rate: &Mutex<Rate>, bytes: usize) -> Duration {
    rate.lock().expect("nothing panics while holding it").pause(bytes, Instant::now())
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
        let transfers = Transfers::new(&Snapshot { concurrent_max: 2, ..Snapshot::default() }, 0);
        let take =
            || futures_lite::future::block_on(futures_lite::future::poll_once(transfers.receive_slot()));
        let (first, second) = (take(), take());
        assert!(first.is_some() && second.is_some() && take().is_none());
        drop(first);
        assert!(take().is_some());
        let send = futures_lite::future::poll_once(transfers.send_slot());
        assert!(futures_lite::future::block_on(send).is_some(), "those for sending are others");
    }

    #[test]
    fn each_limit_has_a_rate_of_its_own_over_all_cores() {
        let config = Snapshot { send_bytes_per_s: 1 << 20, receive_bytes_per_s: 0, ..Snapshot::default() };
        let transfers = Transfers::new(&config, 0);
        let other_core = transfers.clone();
        assert_eq!(transfers.pause_receiving(1 << 30), Duration::ZERO, "no limit");
        other_core.pause_sending(1 << 20);
        assert!(
            transfers.pause_sending(1 << 20) > Duration::from_millis(1500),
            "behind what the other core sends"
        );
        let begun = Instant::now();
        transfers.pace_reading(100 << 10);
        let paced = begun.elapsed();
        assert!(paced >= Duration::from_millis(90) && paced < Duration::from_secs(1), "{paced:?}");
    }
}
