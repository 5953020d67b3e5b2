//! Being asked to end: SIGTERM and SIGINT, taken by a thread of their own, so that nothing is interrupted.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::thread;

use crate::fatal;

/// Longest time between being asked to end and the end, in seconds.
const STOP_MAX_S: i64 = 15;

/// The signals that ask a node to end, blocked in this thread and all that it starts from now on.
pub(super) struct Signals {
    set: libc::sigset_t,
}

/// Blocks the signals. Call it before any other thread is started.
pub(super) fn block() -> Signals {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call and lives through all of them.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        set.assume_init()
    };
    Signals { set }
}

impl Signals {
    /// Calls `stop` when the first of the signals comes. The process ends when another one comes, or when stopping takes
    /// too long.
    pub fn watch(self, stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let wait = move || {
            let mut signal = 0;
            // SAFETY: the set is initialised, and the kernel writes one integer that lives through the call.
            unsafe { libc::sigwait(&raw const self.set, &raw mut signal) };
            tracing::info!(signal, "asked to stop");
            stop();
            let limit = libc::timespec { tv_sec: STOP_MAX_S, tv_nsec: 0 };
            // SAFETY: the set and the limit are initialised, and the kernel may be told to write nothing.
            unsafe { libc::sigtimedwait(&raw const self.set, ptr::null_mut(), &raw const limit) };
            tracing::warn!("stopped before everything was flushed; the next start replays the log");
            fatal::leave();
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop)
    }
}
