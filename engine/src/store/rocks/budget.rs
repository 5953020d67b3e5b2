//! The memtables of all databases of a node within one budget: the largest is flushed when it is nearly used up.
//!
//! RocksDB's own rule has whoever writes next flush what it has. While others hold most of the budget and write nothing,
//! that is a flush for every write of the one shard that does, a few KiB each. So that rule is only the last resort here, at
//! twice the budget.
//!
//! Memtables grow by what is written, so they are looked at only when enough was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::live::Live;

/// The part of the budget that memtables which still grow may take: the rest is for those being flushed.
const GROWING: (usize, usize) = (7, 8);
/// The least that is written between two looks, as a part of the budget.
const LOOK: usize = 64;

/// Who shares the budget.
pub(super) struct Budget {
    /// What memtables that still grow may take, bytes.
    growing_max: usize,
    pause: usize,
    /// Bytes written since the start, by all; it may wrap.
    written: AtomicUsize,
    /// Bytes until the next look.
    due: AtomicUsize,
    databases: Mutex<Vec<Weak<Live>>>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Budget {
        let pause = (bytes / LOOK).max(1);
        Budget {
            growing_max: bytes / GROWING.1 * GROWING.0,
            pause,
            written: AtomicUsize::new(0),
            due: AtomicUsize::new(pause),
            databases: Mutex::default(),
        }
    }

    /// A database that writes from now on.
    pub(super) fn enter(&self, live: &Arc<Live>) {
        let mut databases = self.databases.lock().expect("nothing panics while holding it");
        databases.retain(|known| known.strong_count() > 0);
        databases.push(Arc::downgrade(live));
    }

    /// So many bytes were written to one of them. Flushes the largest if it is time to; does not wait for that.
    pub(super) fn wrote(&self, bytes: usize) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if written < self.due.load(Ordering::Relaxed) {
            return;
        }
        // Whoever looks already sees this write too, or the next one will.
        let Ok(databases) = self.databases.try_lock() else { return };
        self.written.store(0, Ordering::Relaxed);
        // Nobody is held on to: who closes a database expects it closed.
        let sizes = databases.iter().map(|known| known.upgrade().map_or(0, |live| live.growing_bytes()));
        let sizes: Vec<usize> = sizes.collect();
        let mut growing: usize = sizes.iter().sum();
        if growing > self.growing_max
            && let Some((at, bytes)) = sizes.into_iter().enumerate().max_by_key(|(_, bytes)| *bytes)
            && let Some(live) = databases[at].upgrade()
        {
            live.begin_flush();
            growing -= bytes;
        }
        self.due.store(self.growing_max.saturating_sub(growing).max(self.pause), Ordering::Relaxed);
    }
}
