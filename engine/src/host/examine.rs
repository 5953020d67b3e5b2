//! A thorough look at the host: everything [`super::check`] demands before a start, and what makes a node slow or its
//! promises weak. Nothing is changed; in the data directory a small file is written and removed.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{LOCKED_KIB_PER_CORE, check_io_uring, locked_limit_kib};
use crate::config::{Config, EngineKind, WalIo};

mod kernel;

/// How well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// A node runs, but not as well as it could.
    Advice,
    /// A node does not run, or not safely.
    Fault,
    /// This machine does not tell.
    Unknown,
}

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// How well it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Good, found: found.into(), remedy: None }
    }

    fn advice(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Advice, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fault(subject: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Fault, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn unknown(subject: &'static str, found: impl Into<String>) -> Finding {
        Finding { subject, verdict: Verdict::Unknown, found: found.into(), remedy: None }
    }
}

const MIB: u64 = 1 << 20;

/// Looks at everything.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        kernel::version(),
        io_uring(),
        locked_memory(config.cores(), locked_limit_kib()),
        open_files(config),
        cpus(config),
        memory(config),
    ];
    findings.extend(kernel::settings());
    findings.extend(disk(config));
    findings.extend(ports(config));
    findings
}

fn io_uring() -> Finding {
    match check_io_uring() {
        Ok(()) => Finding::good("io_uring", "can be used"),
        Err(error) => {
            Finding::fault("io_uring", error.to_string(), "see linux-tuning/README.md, 'Limits and kernel'")
        }
    }
}

fn locked_memory(cores: u32, limit_kib: u64) -> Finding {
    let needed = LOCKED_KIB_PER_CORE * u64::from(cores.max(1));
    let found = match limit_kib {
        limit if limit >= u64::MAX / 1024 => "no limit".to_owned(),
        limit => format!("{limit} KiB may be locked; {cores} core(s) need {needed} KiB"),
    };
    let remedy = "raise memlock: `ulimit -l unlimited`, LimitMEMLOCK=infinity in the systemd unit, or linux-tuning/limits.conf";
    match limit_kib {
        limit if limit < needed => Finding::fault("locked memory", found, remedy),
        // Before Linux 5.12 the rings of every connection count, too.
        limit if limit < 64 * 1024 => Finding::advice("locked memory", found, remedy),
        _ => Finding::good("locked memory", found),
    }
}

fn open_files(config: &Config) -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes only the structure it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Finding::unknown("open files", "the limit cannot be read");
    }
    // Connections, and some thousand files of logs and tables.
    let wanted = u64::try_from(config.limits.connections_max).unwrap_or(u64::MAX).saturating_add(4096);
    let found = format!("{} may be open; limits.connections_max asks for {wanted}", limit.rlim_max);
    if limit.rlim_max >= wanted {
        return Finding::good("open files", found);
    }
    let remedy = "raise nofile: LimitNOFILE=1048576 in the systemd unit or linux-tuning/limits.conf, or lower limits.connections_max";
    Finding::advice("open files", found, remedy)
}

fn cpus(config: &Config) -> Finding {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    if let Some(cpu) = config.node.cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        let found = format!("node.cpus names CPU {cpu}; this process may use {allowed:?}");
        return Finding::fault("CPUs", found, "correct node.cpus, or the CPU set of the service");
    }
    let cores = usize::try_from(config.cores()).unwrap_or(usize::MAX);
    let found = format!("{} for {cores} core(s) of the node", allowed.len());
    if cores > allowed.len() {
        return Finding::advice(
            "CPUs",
            found,
            "more cores than CPUs only get in each other's way: lower node.cores",
        );
    }
    Finding::good("CPUs", found)
}

/// What the configuration lets a node use, against what there is.
fn memory(config: &Config) -> Finding {
    let Some(total) = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_bytes(&text)) else {
        return Finding::unknown("memory", "/proc/meminfo cannot be read");
    };
    let cores = u64::from(config.cores());
    let storage = match config.storage.engine {
        EngineKind::Rocksdb => config.storage.cache_bytes + config.storage.write_buffer_bytes,
        EngineKind::Memory => 0,
    };
    let wanted = storage + cores * (config.wal.cache_bytes + config.limits.inflight_bytes_max);
    let found = format!("{} MiB; caches and queues may take {} MiB", total / MIB, wanted / MIB);
    if wanted > total / 4 * 3 {
        return Finding::advice("memory", found, "lower storage.cache_bytes, wal.cache_bytes or node.cores");
    }
    Finding::good("memory", found)
}

fn total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn disk(config: &Config) -> Vec<Finding> {
    let folder = existing(&config.node.data_dir);
    vec![file_system(&folder), free_space(&folder, config), direct_io(&folder, config.wal.io)]
}

/// The folder, or the nearest one above it that exists: a node makes its own.
fn existing(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let found = whole.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    found.to_owned()
}

fn file_system(folder: &Path) -> Finding {
    let Some(stat) = statfs(folder) else {
        return Finding::unknown("file system", format!("that of {} cannot be told", folder.display()));
    };
    let place = folder.display();
    let named = |name: &str| format!("{name}, of {place}");
    let remedy = "put node.data_dir on XFS or ext4: linux-tuning/README.md, 'Disk'";
    match stat.f_type {
        0xEF53 => Finding::good("file system", named("ext4")),
        0x5846_5342 => Finding::good("file system", named("XFS")),
        0x0102_1994 => Finding::fault("file system", named("tmpfs: gone with the power"), remedy),
        0x6969 => Finding::fault("file system", named("NFS: another machine's disk"), remedy),
        0x794c_7630 => Finding::advice("file system", named("overlay, a container's own"), remedy),
        0x9123_683E => Finding::advice("file system", named("btrfs: copies on every write"), remedy),
        0x2FC1_2FC1 => Finding::advice("file system", named("ZFS: copies on every write"), remedy),
        other => Finding::advice("file system", named(&format!("of kind {other:#x}, not tried")), remedy),
    }
}

fn statfs(folder: &Path) -> Option<libc::statfs> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: all-zero is a valid value of the structure, which holds numbers alone.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and lives through the call, which writes only the structure.
    (unsafe { libc::statfs(path.as_ptr(), &mut stat) } == 0).then_some(stat)
}

fn free_space(folder: &Path, config: &Config) -> Finding {
    let Some(stat) = statfs(folder) else {
        return Finding::unknown("disk space", "the system does not tell");
    };
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    let free = stat.f_bavail.saturating_mul(block);
    // The log may grow to this before anything is purged, and a table is written before an old one goes.
    let wanted = u64::from(config.cores()) * config.wal.retain_bytes + 1024 * MIB;
    let found = format!("{} MiB are free; the logs alone may take {} MiB", free / MIB, wanted / MIB);
    if free < wanted {
        return Finding::advice("disk space", found, "make room, or lower wal.retain_bytes");
    }
    Finding::good("disk space", found)
}

/// Writes one aligned block past the page cache.
fn direct_io(folder: &Path, io: WalIo) -> Finding {
    let path = folder.join(format!(".ringkv-doctor-{}", std::process::id()));
    let result = write_direct(&path);
    // It may never have been made.
    let _ = fs::remove_file(&path);
    match (result, io) {
        (Ok(()), _) => Finding::good("O_DIRECT", format!("works in {}", folder.display())),
        (Err(error), _) if error.raw_os_error() != Some(libc::EINVAL) => {
            let found = format!("cannot write in {}: {error}", folder.display());
            Finding::fault("O_DIRECT", found, "let the user of the node write there")
        }
        (Err(_), WalIo::Buffered) => {
            Finding::good("O_DIRECT", "not there, and not asked for (wal.io = \"buffered\")")
        }
        (Err(_), WalIo::Direct) => {
            let found = format!("the file system of {} has none", folder.display());
            Finding::fault(
                "O_DIRECT",
                found,
                "set wal.io = \"buffered\", or move node.data_dir to XFS or ext4",
            )
        }
    }
}

#[repr(align(4096))]
struct Block([u8; 4096]);

fn write_direct(path: &Path) -> io::Result<()> {
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path)?;
    let block = Box::new(Block([0; 4096]));
    file.write_all(&block.0)?;
    // SAFETY: fsync touches no memory, and the file is open.
    if unsafe { libc::fsync(file.as_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Binds every address and lets it go.
fn ports(config: &Config) -> Vec<Finding> {
    let listen = &config.listen;
    let doors = [
        ("binary", Some(listen.binary)),
        ("peer", Some(listen.peer)),
        ("resp", listen.resp),
        ("resp_cluster", listen.resp_cluster),
        ("http", listen.http),
    ];
    let mut findings = Vec::new();
    for (name, address) in doors {
        let Some(address) = address else { continue };
        if let Err(error) = TcpListener::bind(address) {
            let found = format!("listen.{name} = {address}: {error}");
            let remedy = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "end what listens there (the node itself, perhaps), or choose another port"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "this machine has no such address: give one it has, or 0.0.0.0"
                }
                io::ErrorKind::PermissionDenied => "choose a port from 1024 on",
                _ => "choose another address",
            };
            findings.push(Finding::fault("ports", found, remedy));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good("ports", "all addresses of [listen] are free"));
    }
    findings
}

#[cfg(test)]
mod tests;
