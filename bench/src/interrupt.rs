//! Ctrl-C ends the measurement early; a second one ends the program.
//!
//! Invariant: only the main thread takes the signals. A signal that lands on a load thread would cut
//! short a system call there, and with it a latency.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether a signal has asked for the end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Takes SIGINT and SIGTERM from now on, once each: the next one kills.
///
/// # Errors
/// The kernel refused the handler.
pub fn listen() -> io::Result<()> {
    for signal in SIGNALS {
        // SAFETY: `action` is fully initialised: all-zero is a valid sigaction, with an empty mask.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        let handler: extern "C" fn(libc::c_int) = on_signal;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        // SAFETY: the pointers are valid for the call, and the handler only stores to an atomic, which is
        // allowed in a signal handler.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Keeps the signals away from threads started while it lives: they inherit the mask.
#[derive(Debug)]
pub struct Masked(());

impl Masked {
    /// Blocks the signals on this thread.
    pub fn new() -> Self {
        change_mask(libc::SIG_BLOCK);
        Self(())
    }
}

impl Drop for Masked {
    fn drop(&mut self) {
        change_mask(libc::SIG_UNBLOCK);
    }
}

fn change_mask(how: libc::c_int) {
    // SAFETY: `set` is initialised by sigemptyset before it is read, and both pointers are valid.
    let result = unsafe {
        let mut set = MaybeUninit::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut())
    };
    assert_eq!(result, 0, "a constant mask of known signals is always accepted");
}

extern "C" fn on_signal(_: libc::c_int) {
    REQUESTED.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test for all, since signals and their handlers belong to the process.
    #[test]
    fn a_signal_is_noticed_once_and_not_by_threads_started_while_masked() {
        listen().expect("the handler is accepted");
        assert!(!requested());
        let masked = Masked::new();
        // SAFETY: raise has no preconditions; the signal is blocked on this thread.
        unsafe { libc::raise(libc::SIGINT) };
        assert!(!requested(), "blocked while masked");
        let inherited = std::thread::spawn(|| {
            // SAFETY: as above; the thread inherited the mask, and ends with the signal pending.
            unsafe { libc::raise(libc::SIGINT) };
            requested()
        });
        assert!(!inherited.join().expect("the thread returns"), "blocked on a thread started meanwhile");
        drop(masked);
        assert!(requested(), "delivered when the mask is lifted");
    }
}
