//! What a node needs of the host, checked before anything is opened, so that a missing piece is named with its
//! remedy instead of failing somewhere inside.

pub mod background;
pub mod examine;

use std::io;

use thiserror::Error;

/// Why this host cannot run a node as it is.
#[derive(Debug, Error)]
pub enum HostError {
    /// The kernel has no io_uring.
    #[error(
        "this kernel has no io_uring ({0}); RingKV needs Linux 5.8 or newer, with io_uring not disabled: \
         see `sysctl kernel.io_uring_disabled` and the container's seccomp profile"
    )]
    NoIoUring(io::Error),
    /// io_uring is forbidden to this process.
    #[error(
        "io_uring is forbidden to this process ({0}); set `sysctl kernel.io_uring_disabled=0`, \
         or allow io_uring_setup in the container's seccomp profile"
    )]
    IoUringForbidden(io::Error),
    /// The limit on locked memory is too low for the rings.
    #[error(
        "the limit on locked memory is {limit_kib} KiB, and {cores} core(s) need {needed_kib} KiB for io_uring; \
         raise it with `ulimit -l unlimited`, `LimitMEMLOCK=infinity` in the systemd unit, \
         or linux-tuning/limits.conf"
    )]
    LockedMemory {
        /// The limit in force.
        limit_kib: u64,
        /// What is needed.
        needed_kib: u64,
        /// Number of executors.
        cores: u32,
    },
    /// A CPU to pin to does not exist or is not allowed.
    #[error("node.cpus names CPU {cpu}, which this process may not use; allowed are {allowed:?}")]
    NoSuchCpu {
        /// The CPU.
        cpu: usize,
        /// The CPUs there are.
        allowed: Vec<usize>,
    },
}

/// What one executor's rings need; the runtime refuses to start below this.
const LOCKED_KIB_PER_CORE: u64 = 512;

/// Checks the kernel, the limits and the CPUs.
pub fn check(cores: u32, cpus: &[usize]) -> Result<(), HostError> {
    check_io_uring()?;
    check_locked_memory(cores)?;
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(&cpu) => Err(HostError::NoSuchCpu { cpu, allowed }),
        None => Ok(()),
    }
}

fn check_io_uring() -> Result<(), HostError> {
    // The kernel's `struct io_uring_params`: 120 bytes, zero for the defaults.
    let mut params = [0u64; 15];
    // SAFETY: io_uring_setup reads and writes only the structure it is given, which is as long as the kernel's.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) };
    if let Ok(fd @ 0..) = libc::c_int::try_from(fd) {
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        unsafe { libc::close(fd) };
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => HostError::IoUringForbidden(error),
        Some(libc::ENOMEM) => HostError::LockedMemory {
            limit_kib: locked_limit_kib(),
            needed_kib: LOCKED_KIB_PER_CORE,
            cores: 1,
        },
        _ => HostError::NoIoUring(error),
    })
}

fn check_locked_memory(cores: u32) -> Result<(), HostError> {
    let limit_kib = locked_limit_kib();
    let needed_kib = LOCKED_KIB_PER_CORE * u64::from(cores.max(1));
    if limit_kib < needed_kib {
        return Err(HostError::LockedMemory { limit_kib, needed_kib, cores });
    }
    Ok(())
}

fn locked_limit_kib() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes only the structure it is given.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if result == 0 { limit.rlim_cur / 1024 } else { 0 }
}

/// Raises the soft limits on open files and locked memory as far as the hard limits allow: a node has many
/// connections and many table files.
pub fn raise_limits() {
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_MEMLOCK] {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: both calls touch only the structure they are given.
        unsafe {
            if libc::getrlimit(resource, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
                limit.rlim_cur = limit.rlim_max;
                libc::setrlimit(resource, &limit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_runs_the_tests_runs_a_node() {
        check(1, &[]).expect("the test host has io_uring");
    }

    #[test]
    fn a_cpu_that_is_not_there_is_named() {
        let error = check(1, &[100_000]).unwrap_err().to_string();
        assert!(error.contains("CPU 100000"), "{error}");
    }

    #[test]
    fn too_little_locked_memory_says_how_much_is_needed() {
        let error = HostError::LockedMemory { limit_kib: 64, needed_kib: 512, cores: 1 }.to_string();
        assert!(error.contains("512 KiB") && error.contains("ulimit -l"), "{error}");
    }
}
