//! The queue in front of a core's machine. Tasks of the same executor push events; the machine's task takes all of
//! them in one turn. No lock: one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::core::Event;

/// Events that wait for the next turn. Its length is bounded by what feeds it: connections stop reading while they
/// have too much unanswered, and every other event answers one effect.
#[derive(Default)]
pub(super) struct Inbox {
    /// Everything but requests: a turn that ends by time must not leave heartbeats and completions behind, or its next
    /// tick would overtake them and leaders would look silent.
    events: RefCell<VecDeque<Event>>,
    requests: RefCell<VecDeque<Event>>,
    turns: Cell<u64>,
    /// Tasks that wait for the end of the present turn.
    between_turns: RefCell<Vec<Waker>>,
    ticked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Inbox {
    /// Queues an event and wakes the machine.
    pub fn push(&self, event: Event) {
        let queue = if matches!(event, Event::Request { .. }) { &self.requests } else { &self.events };
        queue.borrow_mut().push_back(event);
        self.wake();
    }

    /// Lets a turn happen although nothing else did.
    pub fn tick(&self) {
        self.ticked.set(true);
        self.wake();
    }

    /// The next event of this turn.
    pub fn pop(&self) -> Option<Event> {
        let event = self.events.borrow_mut().pop_front();
        event.or_else(|| self.requests.borrow_mut().pop_front())
    }

    /// Ends a turn; whether another is wanted at once. A connection gets its next share only when all that was put into
    /// this turn has been handled.
    pub fn end_turn(&self) -> bool {
        if !self.is_empty() {
            return true;
        }
        self.turns.set(self.turns.get() + 1);
        self.between_turns.take().into_iter().for_each(Waker::wake);
        self.ticked.get()
    }

    /// Makes a turn happen and waits for its end.
    pub async fn turn_over(&self) {
        self.tick();
        self.turn_passed().await;
    }

    /// Waits for the end of the next turn, whenever something makes one happen; time does, at least.
    pub async fn turn_passed(&self) {
        let turn = self.turns.get();
        poll_fn(|context| {
            if self.turns.get() != turn {
                return Poll::Ready(());
            }
            self.between_turns.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Turns that have ended.
    pub fn turns(&self) -> u64 {
        self.turns.get()
    }

    /// Waits until there is something to do.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.ticked.take() || !self.is_empty() {
                return Poll::Ready(());
            }
            let mut waker = self.waker.borrow_mut();
            if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn is_empty(&self) -> bool {
        self.events.borrow().is_empty() && self.requests.borrow().is_empty()
    }

    fn wake(&self) {
        // Taken out first: waking must not find the borrow held.
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
