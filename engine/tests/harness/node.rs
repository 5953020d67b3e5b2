//! One `ringkv` process: its files, its life and death, and what the kernel tells about it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::deadline::until;
use super::settings::Addresses;
use super::status::NodeStatus;
use super::wire;

/// The server under test.
const BINARY: &str = env!("CARGO_BIN_EXE_ringkv");
/// A killed process is gone within this.
const DEATH: Duration = Duration::from_secs(10);
/// Lines of a node's log shown when a test fails.
const SHOWN_LINES: usize = 40;

/// What can be sent to a process.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// Stands still until [`Signal::Continue`].
    Stop,
    /// Goes on.
    Continue,
    /// Is asked to end.
    Terminate,
}

/// One node.
pub struct Node {
    /// Its identity.
    pub id: u64,
    /// Its door for clients.
    pub binary: SocketAddr,
    /// Its door for the other nodes.
    pub peer: SocketAddr,
    /// Its door for Redis clients.
    pub resp: SocketAddr,
    /// Its door for Redis Cluster clients.
    pub resp_cluster: SocketAddr,
    /// Its door for HTTP.
    pub http: SocketAddr,
    dir: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node whose files lie in `dir`; not started.
    pub fn new(id: u64, addresses: Addresses, dir: PathBuf) -> Node {
        let Addresses { binary, peer, resp, resp_cluster, http } = addresses;
        Node { id, binary, peer, resp, resp_cluster, http, dir, child: None }
    }

    /// Where it is reached.
    pub fn addresses(&self) -> Addresses {
        let Node { binary, peer, resp, resp_cluster, http, .. } = *self;
        Addresses { binary, peer, resp, resp_cluster, http }
    }

    /// Has it reached elsewhere from its next start on; its configuration has to say so.
    pub fn set_addresses(&mut self, addresses: Addresses) {
        assert!(self.child.is_none(), "node {} runs", self.id);
        let Addresses { binary, peer, resp, resp_cluster, http } = addresses;
        (self.binary, self.peer, self.http) = (binary, peer, http);
        (self.resp, self.resp_cluster) = (resp, resp_cluster);
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Folder of one core's log.
    pub fn wal_dir(&self, core: u32) -> PathBuf {
        self.data_dir().join(format!("core-{core}")).join("wal")
    }

    /// The folders of replicas that one core has.
    pub fn replica_folders(&self, core: u32) -> Vec<PathBuf> {
        let entries =
            fs::read_dir(self.data_dir().join(format!("core-{core}"))).into_iter().flatten().flatten();
        let named = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("shard-"))
        };
        entries.map(|entry| entry.path()).filter(named).collect()
    }

    /// Removes everything it has stored, as a new disk would.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "node {} runs", self.id);
        fs::remove_dir_all(self.data_dir()).expect("a node that has run has data");
    }

    /// How often its log says `what`.
    pub fn says(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("ringkv.toml")
    }

    /// Everything it has printed, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// How long what it has printed is.
    pub fn log_bytes(&self) -> u64 {
        fs::metadata(self.log_path()).map_or(0, |about| about.len())
    }

    /// What it has printed after so many bytes.
    pub fn log_from(&self, start: u64) -> String {
        let mut bytes = Vec::new();
        let read = fs::File::open(self.log_path()).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut bytes)
        });
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts the process.
    pub fn start(&mut self) {
        self.start_with(|_| {});
    }

    /// Starts the process, which asks the nodes with these binary doors to take it in.
    pub fn start_joining(&mut self, through: &[String]) {
        self.start_with(|command| {
            command.arg("--join").arg(through.join(","));
        });
    }

    /// Starts the process after `prepare` changed how. Call from the thread that outlives the node: the process is
    /// killed when the thread that started it ends.
    pub fn start_with(&mut self, prepare: impl FnOnce(&mut Command)) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let mut command = serve_command(&self.config_path(), &self.log_path());
        prepare(&mut command);
        self.child = Some(command.spawn().expect("the server's binary starts"));
    }

    /// Its process, if it was started and not waited for.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node was started").id()
    }

    /// Ends it as a power failure would: no warning, nothing is flushed.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a node that is killed was started");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// Kills without waiting for the end, so that several die at once; [`Node::wait_exit`] follows.
    pub fn kill_soon(&mut self) {
        self.child
            .as_mut()
            .expect("a node that is killed was started")
            .kill()
            .expect("a child can be killed");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
            Signal::Terminate => libc::SIGTERM,
        };
        let pid = libc::pid_t::try_from(self.pid()).expect("process ids are positive and small");
        // SAFETY: kill(2) touches no memory; the process is a child not waited for, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, number) }, 0, "{}", io::Error::last_os_error());
    }

    /// Waits for it to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("a node that ends was started");
        let status =
            until("the node to end", limit, || match child.try_wait().expect("a child can be waited for") {
                Some(status) => Ok(status),
                None => Err("it still runs".to_owned()),
            });
        self.child = None;
        status
    }

    /// Whether it was started and still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Memory it has in use, in bytes, as the kernel counts it.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory it ever had in use, in bytes.
    pub fn resident_peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process has one");
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel tells memory use");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }

    /// Open files whose path `wanted` likes, with their open flags.
    pub fn open_files(&self, wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, i32)> {
        let fds = format!("/proc/{}/fd", self.pid());
        let mut found = Vec::new();
        for entry in fs::read_dir(fds).expect("a running process has descriptors").flatten() {
            // Descriptors come and go while they are listed.
            let Ok(path) = fs::read_link(entry.path()) else { continue };
            let info = format!("/proc/{}/fdinfo/{}", self.pid(), entry.file_name().to_string_lossy());
            let Ok(info) = fs::read_to_string(info) else { continue };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
            let Some(Ok(flags)) = flags.map(|flags| i32::from_str_radix(flags, 8)) else { continue };
            if wanted(&path) {
                found.push((path, flags));
            }
        }
        found
    }

    /// Its account of itself.
    pub fn status(&self) -> io::Result<NodeStatus> {
        wire::status(self.binary, Duration::from_secs(2))
    }

    /// Prints the end of its log.
    pub fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        eprintln!("---- node {} ({} lines of log, the last {}) ----", self.id, lines.len(), shown.len());
        for line in shown {
            eprintln!("{line}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Already ended is as good.
            let _ = child.kill();
            let reaped = super::within(DEATH, || match child.try_wait() {
                Ok(None) => Err("still there".to_owned()),
                _ => Ok(()),
            });
            if reaped.is_err() {
                eprintln!("process {} of node {} does not end", child.id(), self.id);
            }
        }
    }
}

fn serve_command(config: &Path, log: &Path) -> Command {
    let log = open_log(log);
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(config).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a descriptor to spare")).stderr(log);
    command.env("RUST_BACKTRACE", "1");
    // SAFETY: the closure runs between fork and exec and makes one system call, which allocates nothing.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command
}

fn open_log(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("the test folder is writable")
}
