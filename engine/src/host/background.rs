//! Threads whose work can wait: they run on any CPU of the process and behind the threads that answer clients.

use std::io;
use std::mem::size_of;
use std::thread;

/// By how much such a thread is nicer than the process: about a tenth of the share of a thread that is not.
const BULK_NICER: libc::c_int = 10;
/// Compaction must keep up with what is written: about a third.
pub const COMPACTION_NICER: libc::c_int = 5;

/// Starts a thread for work that can wait. A thread begins where its parent is pinned; this one does not stay there.
pub fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let body = move || {
        give_way(BULK_NICER);
        run();
    };
    thread::Builder::new().name(name).spawn(body).map(drop)
}

/// From here on the calling thread, and those it starts, run on every CPU that the process may use, and so much nicer. What
/// the system refuses costs speed only.
pub fn give_way(nicer: libc::c_int) {
    // SAFETY: system calls on a value of this frame. The process id names the first thread, which is never pinned; 0 the
    // calling thread, which on Linux has a nice value of its own (setpriority(2)).
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(libc::getpid(), size_of::<libc::cpu_set_t>(), &raw mut cpus) == 0 {
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const cpus);
        }
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        libc::setpriority(libc::PRIO_PROCESS, 0, nice.saturating_add(nicer).min(19));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_can_wait_is_nicer_and_not_pinned() {
        let (tell, told) = channel();
        let pinned = thread::spawn(move || {
            let own = core_affinity::get_core_ids().unwrap();
            core_affinity::set_for_current(own[0]);
            // SAFETY: a system call without pointers.
            let before = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            spawn("waits".to_owned(), move || {
                let cpus = core_affinity::get_core_ids().unwrap().len();
                // SAFETY: as above.
                let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
                tell.send((cpus, nice)).unwrap();
            })
            .unwrap();
            (own.len(), (before + BULK_NICER).min(19))
        });
        let expected = pinned.join().unwrap();
        assert_eq!(told.recv().unwrap(), expected);
    }
}
