//! Processor time of the load generator itself: what tells a slow cluster from a slow generator.

use std::mem::MaybeUninit;
use std::time::Duration;

/// Processor time this process has used, user and system, over all threads.
pub fn used() -> Duration {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the pointer is valid for a rusage, which getrusage fills in.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    assert_eq!(result, 0, "getrusage of the own process has no way to fail");
    // SAFETY: getrusage has succeeded.
    let usage = unsafe { usage.assume_init() };
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_uses_time() {
        let before = used();
        let mut random = crate::random::Random::new(0, 0);
        let mut bytes = vec![0; 1 << 20];
        // Bounded: a thousand megabytes of random numbers take far more than the clock's resolution.
        let noticed = (0..1_000).any(|_| {
            random.fill(&mut bytes);
            used() > before
        });
        assert!(noticed);
    }
}
