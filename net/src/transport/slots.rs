//! Where the results of requests wait for the futures that want them; nothing is allocated per request in steady state.

use crate::client::ClientError;
use crate::protocol::Answer;
use std::task::Waker;

type Ending = Result<Answer, ClientError>;

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
    result: Option<Ending>,
}

/// A slot belongs to one future from `occupy` to `release`.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

impl Slots {
    pub(super) fn occupy(&mut self) -> u64 {
        let place = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        u64::try_from(place).expect("memory is smaller than 2^64")
    }

    /// Returns the waker left in it, if any: to be dropped where no lock is held, for that may run foreign code.
    pub(super) fn release(&mut self, slot: u64) -> Option<Waker> {
        let (place, entry) = self.entry(slot)?;
        let left = std::mem::take(entry);
        self.free.push(place);
        left.waker
    }

    /// Leaves a result; returns whom to wake.
    pub(super) fn fill(&mut self, slot: u64, result: Ending) -> Option<Waker> {
        let (_, entry) = self.entry(slot)?;
        entry.result = Some(result);
        entry.waker.take()
    }

    /// Takes the result, or remembers whom to wake.
    pub(super) fn take(&mut self, slot: u64, waker: &Waker) -> Option<Ending> {
        let (_, entry) = self.entry(slot)?;
        if entry.result.is_none() && !entry.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            entry.waker = Some(waker.clone());
        }
        entry.result.take()
    }

    fn entry(&mut self, slot: u64) -> Option<(usize, &mut Slot)> {
        let place = usize::try_from(slot).ok()?;
        self.slots.get_mut(place).map(|entry| (place, entry))
    }
}
