//! Open loop on an executor: hands due requests to idle places in flight.
//!
//! Invariant: whoever waits here is woken when a request falls due or the run ends. An idle place that
//! finds its request taken by one that has just become free goes back to waiting.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::clock::{Control, Moment};
use crate::schedule::Schedule;

/// Shortest sleep: bounds the wake-ups a second that pacing costs. It is the most that pacing adds to a
/// latency; the report shows it as part of the lag.
const SLEEP_MIN: Duration = Duration::from_micros(250);
/// Longest sleep, so that one timer never has to be taken back.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// The requests of one executor as they fall due.
pub struct Arrivals {
    control: Arc<Control>,
    schedule: RefCell<Schedule>,
    idle: RefCell<VecDeque<Waker>>,
    /// The pacer, while every place is busy.
    pacer: RefCell<Option<Waker>>,
}

/// A request to send now.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When it was due.
    pub due: Moment,
    /// Now.
    pub sent: Moment,
}

impl Arrivals {
    /// The requests of `schedule`.
    pub fn new(control: Arc<Control>, schedule: Schedule) -> Self {
        Self {
            control,
            schedule: RefCell::new(schedule),
            idle: RefCell::default(),
            pacer: RefCell::default(),
        }
    }

    /// The next request, once it is due; nothing when the run has ended.
    pub async fn next(&self) -> Option<Arrival> {
        poll_fn(|context| {
            let (now, end) = (self.control.now(), self.control.end());
            if self.is_over(now, end) {
                return Poll::Ready(None);
            }
            if let Some(due) = self.schedule.borrow_mut().take(now, end) {
                return Poll::Ready(Some(Arrival { due, sent: now }));
            }
            self.idle.borrow_mut().push_back(context.waker().clone());
            if let Some(pacer) = self.pacer.take() {
                pacer.wake();
            }
            Poll::Pending
        })
        .await
    }

    /// Wakes those who wait in [`Arrivals::next`] as requests fall due. Has no end of its own: drop it
    /// after the run, and call [`Arrivals::wake_all`].
    pub async fn pace(&self) {
        loop {
            self.someone_idle().await;
            let now = self.control.now();
            let due = {
                let schedule = self.schedule.borrow();
                self.wake(schedule.backlog(now));
                schedule.next_due()
            };
            // After a wake-up `next_due` may still be in the past: those woken have not run yet.
            glommio::timer::sleep(due.since(now).clamp(SLEEP_MIN, SLEEP_MAX)).await;
        }
    }

    /// Wakes all who wait: the run is over.
    pub fn wake_all(&self) {
        self.wake(u64::MAX);
    }

    /// While every place is busy there is nobody to wake: a place that becomes free takes what is due by
    /// itself. Waiting for that, instead of sleeping, keeps an overloaded generator from turning in vain.
    async fn someone_idle(&self) {
        poll_fn(|context| {
            if !self.idle.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.pacer.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Requests due in the window that were never sent, for want of a place in flight.
    pub fn unsent(&self, window_start: Moment) -> u64 {
        self.schedule.borrow().untaken(window_start, self.control.end())
    }

    /// Whether no request is left to send. What was due and not sent by the end stays unsent: a run that
    /// cannot keep up must not go on for as long as its backlog.
    fn is_over(&self, now: Moment, end: Moment) -> bool {
        now >= end || self.schedule.borrow().next_due() >= end
    }

    fn wake(&self, count: u64) {
        let mut idle = self.idle.borrow_mut();
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(idle.len());
        idle.drain(..count).for_each(Waker::wake);
    }
}
