//! Waking tasks of one executor: no lock, no allocation in steady state.

use std::cell::RefCell;
use std::task::Waker;

/// Tasks waiting for a condition they re-check themselves. Register before returning `Pending`; a wake-up
/// says "look again", nothing more.
#[derive(Debug, Default)]
pub(super) struct Signal {
    waiting: RefCell<Vec<Waker>>,
    /// Kept to hand its memory back to `waiting`.
    spare: RefCell<Vec<Waker>>,
}

impl Signal {
    pub(super) fn register(&self, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    pub(super) fn notify(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        // Waking may run code that registers again: the borrow must not be held meanwhile.
        let mut woken = self.waiting.replace(self.spare.take());
        for waker in woken.drain(..) {
            waker.wake();
        }
        self.spare.replace(woken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_task_is_woken_once_per_registration() {
        let (signal, one, two) = (Signal::default(), Arc::new(Count::default()), Arc::new(Count::default()));
        let (waker, other) = (Waker::from(one.clone()), Waker::from(two.clone()));
        signal.register(&waker);
        signal.register(&waker);
        signal.register(&other);
        signal.notify();
        signal.notify();
        assert_eq!((one.0.load(Ordering::Relaxed), two.0.load(Ordering::Relaxed)), (1, 1));
        signal.register(&waker);
        signal.notify();
        assert_eq!((one.0.load(Ordering::Relaxed), two.0.load(Ordering::Relaxed)), (2, 1));
    }
}
