//! Writing every key once before the measurement.
//!
//! Invariant: when it is done without an error, every key of this thread's share exists.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use glommio::Task;

use super::{ThreadError, Worker};
use crate::target::Target;

/// Requests in flight while loading, over all clients of the run.
pub const LOAD_IN_FLIGHT_MAX: usize = 256;

/// A load must ride out an election or a moment of overload, beyond what the client retries by itself.
const ATTEMPTS_MAX: u32 = 5;
const RETRY_REST: Duration = Duration::from_millis(200);

struct Share {
    worker: Rc<Worker>,
    /// The next key of this thread: its number, then every `threads`-th after it.
    next: Cell<u64>,
    failed: Cell<bool>,
}

/// Writes this thread's share of the keys.
///
/// # Errors
/// A key could not be written, after several attempts.
pub async fn load(worker: &Rc<Worker>, targets: &[Target]) -> Result<(), ThreadError> {
    let clients = usize::try_from(worker.plan.clients).expect("usize has 64 bits here");
    let places_each = (LOAD_IN_FLIGHT_MAX / clients).max(1);
    let share = Rc::new(Share {
        worker: worker.clone(),
        next: Cell::new(u64::from(worker.thread)),
        failed: Cell::new(false),
    });
    let mut places: Vec<Task<Result<(), ThreadError>>> = Vec::new();
    for target in targets {
        for _ in 0..places_each {
            places.push(glommio::spawn_local(share.clone().place(target.clone())));
        }
    }
    let mut result = Ok(());
    for place in places {
        result = result.and(place.await);
    }
    result
}

impl Share {
    async fn place(self: Rc<Self>, target: Target) -> Result<(), ThreadError> {
        while let Some(key_number) = self.take() {
            let written = self.write(&target, key_number).await;
            if written.is_err() {
                self.failed.set(true);
                return written;
            }
            self.worker.control.count_loaded();
        }
        Ok(())
    }

    fn take(&self) -> Option<u64> {
        let key_number = self.next.get();
        let plan = &self.worker.plan;
        if key_number >= plan.keys || self.failed.get() || self.worker.control.is_stopped() {
            return None;
        }
        self.next.set(key_number + u64::from(plan.threads));
        Some(key_number)
    }

    async fn write(&self, target: &Target, key_number: u64) -> Result<(), ThreadError> {
        let mut attempt = 1;
        loop {
            let key = self.worker.keys.borrow_mut().key(key_number);
            let value = self.worker.value(key_number);
            match target.write(key, value).await {
                Ok(()) => return Ok(()),
                Err(source) if attempt == ATTEMPTS_MAX => {
                    return Err(ThreadError::Load { key_number, source });
                }
                Err(_) => {}
            }
            attempt += 1;
            glommio::timer::sleep(RETRY_REST).await;
        }
    }
}
