//! The limits this process starts under, raised as far as it may by itself: a connection is a file, and
//! io_uring locks memory. What is still too little shows as the error of the call that needed more.

/// Raises the soft limits of open files and of locked memory to the hard ones.
pub fn raise() {
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_MEMLOCK] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is valid for an rlimit, which the call fills in.
        if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
            continue;
        }
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer is valid and the kernel only reads it. A refusal changes nothing.
        unsafe { libc::setrlimit(resource, &raw const limit) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_reaches_the_hard_one() {
        raise();
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 1 };
        // SAFETY: the pointer is valid for an rlimit, which the call fills in.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        assert_eq!(limit.rlim_cur, limit.rlim_max);
    }
}
