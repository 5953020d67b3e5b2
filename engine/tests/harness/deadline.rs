//! Waiting for a condition, never for a time.
//!
//! A host that stands still (a suspended virtual machine, say) stops the nodes and not the clock. Such a gap shows as
//! a pause that lasted far too long, and is not counted: nobody had the chance to do anything in it.

use std::thread;
use std::time::{Duration, Instant};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// A pause this long was not slept but suffered.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Looks until `look` has an answer.
///
/// # Panics
/// When there is none within `limit`, with `what` and the last complaint.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Result<T, String>) -> T {
    match within(limit, look) {
        Ok(found) => found,
        Err(complaint) => panic!("waited {limit:?} for {what}, in vain: {complaint}"),
    }
}

/// Looks until `look` has an answer, or until `limit` has passed; then its last complaint.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let mut deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(complaint) if Instant::now() >= deadline => return Err(complaint),
            Err(_) => {
                let before = Instant::now();
                thread::sleep(LOOK);
                let pause = before.elapsed();
                if pause >= STANDSTILL {
                    eprintln!("the host stood still for {pause:?}");
                    deadline += pause;
                }
            }
        }
    }
}
