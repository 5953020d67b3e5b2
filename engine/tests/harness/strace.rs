//! Real nodes under `strace`: what they ask of the kernel and in which order, and what they do when it refuses.
//!
//! One tracer follows all nodes of a test, so the lines of its trace are in one order: the kernel stops a thread
//! before and after each call, and lets it go on only when the tracer has seen that. So of two calls, one after
//! the other because the first's outcome led to the second, on whichever nodes, the first is seen first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::deadline::until;

/// The tracer has stopped every thread once, or has let them all go, within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running tracer.
pub struct Strace {
    child: Child,
    out: PathBuf,
}

impl Strace {
    /// Why processes cannot be traced here; `None` if they can.
    pub fn missing() -> Option<String> {
        let dir =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo's folder for tests is writable");
        let sleeper = Command::new("sleep").arg("60").spawn();
        let mut sleeper = sleeper.expect("a process that sleeps");
        let out = dir.path().join("trace");
        // Leaves by itself when there is nothing left to follow.
        let tracer = Command::new("strace")
            .args(["-f", "-o"])
            .arg(&out)
            .arg("-p")
            .arg(sleeper.id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let why = match tracer {
            Err(error) => Some(format!("strace cannot be started ({error}); tools/setup installs it")),
            Ok(mut tracer) => {
                let mut ended = None;
                until("strace to follow a process, or to say why not", PATIENCE, || {
                    ended = tracer.try_wait().expect("a child can be waited for");
                    let followed = tracers(sleeper.id()) == Some(BTreeSet::from([tracer.id()]));
                    if followed || ended.is_some() { Ok(()) } else { Err("neither yet".to_owned()) }
                });
                sleeper.kill().expect("a child can be killed");
                let output = tracer.wait_with_output().expect("strace ends with the last process it follows");
                ended.map(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
        };
        // Killed before, or now.
        let _ = sleeper.kill();
        sleeper.wait().expect("a killed child ends");
        why
    }

    /// Follows all threads of these processes, present and to come. `args` say what to trace and what to do about it.
    pub fn follow(pids: &[u32], out: &Path, args: &[String]) -> Strace {
        let mut command = Command::new("strace");
        command.args(["-f", "-ttt", "-yy", "-s", "8192", "-o"]).arg(out).args(args);
        for pid in pids {
            command.arg("-p").arg(pid.to_string());
        }
        let messages = File::create(out.with_extension("messages")).expect("the test folder is writable");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
        let strace = Strace { child: command.spawn().expect("strace starts"), out: out.to_owned() };
        until("strace to follow all threads", PATIENCE, || {
            for pid in pids {
                if tracers(*pid) != Some(BTreeSet::from([strace.child.id()])) {
                    let messages = fs::read_to_string(out.with_extension("messages")).unwrap_or_default();
                    return Err(format!("process {pid} is not followed: {messages}"));
                }
            }
            Ok(())
        });
        strace
    }

    /// Lets the processes go; the trace.
    pub fn finish(mut self) -> Trace {
        let pid = libc::pid_t::try_from(self.child.id()).expect("process ids are positive and small");
        // SAFETY: kill(2) touches no memory; the process is a child not waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        until("strace to end", PATIENCE, || {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(_) => Ok(()),
                None => Err("it still runs".to_owned()),
            }
        });
        Trace::parse(&String::from_utf8_lossy(&fs::read(&self.out).expect("a trace was written")))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Who traces the threads of a process (0 stands for nobody); `None` if there is no such process.
fn tracers(pid: u32) -> Option<BTreeSet<u32>> {
    let mut tracers = BTreeSet::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // Threads come and go.
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
        // Threads of the kernel that work for io_uring cannot be traced, and are none of the program's.
        if status.starts_with("Name:\tiou-") {
            continue;
        }
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
        tracers.insert(tracer.trim().parse().ok()?);
    }
    Some(tracers)
}

/// One system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments as strace prints them.
    pub args: String,
    /// Place of its beginning among all beginnings and ends.
    pub began: usize,
    /// Place of its end, and what it returned. `None` if it never ended.
    pub ended: Option<(usize, i64)>,
}

impl Call {
    /// The file or socket of its first argument.
    pub fn file(&self) -> &str {
        let rest = self.args.split_once('<').map_or("", |(_, rest)| rest);
        // A socket is told as `TCP:[from->to]`.
        match rest.strip_prefix("TCP:[").or_else(|| rest.strip_prefix("TCPv6:[")) {
            Some(socket) => socket.split_once("]>").map_or("", |(ends, _)| ends),
            None => rest.split_once('>').map_or("", |(path, _)| path),
        }
    }
}

/// What strace saw.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The calls, in the order they began.
    pub calls: Vec<Call>,
}

impl Trace {
    /// Reads a trace made with `-f -ttt -o`.
    pub fn parse(text: &str) -> Trace {
        let mut calls: Vec<Call> = Vec::new();
        let mut open: BTreeMap<&str, usize> = BTreeMap::new();
        for (line, at) in text.lines().zip((0..).step_by(2)) {
            let mut words = line.splitn(3, ' ').map(str::trim_start);
            let (Some(thread), Some(rest)) = (words.next(), line.split_once(' ')) else { continue };
            let Some((_time, event)) = rest.1.trim_start().split_once(' ') else { continue };
            if event.starts_with("<... ") {
                let Some(call) = open.remove(thread) else { continue };
                calls[call].ended = returned(event).map(|value| (at, value));
                continue;
            }
            let Some((name, args)) = event.split_once('(') else { continue };
            let unfinished = event.ends_with("<unfinished ...>");
            let ended = if unfinished { None } else { returned(event).map(|value| (at + 1, value)) };
            if unfinished {
                open.insert(thread, calls.len());
            }
            calls.push(Call { name: name.to_owned(), args: args.to_owned(), began: at, ended });
        }
        Trace { calls }
    }

    /// The calls of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Call> {
        self.calls.iter().filter(move |call| call.name == name)
    }

    /// Where the first `fdatasync` ended that covers everything `write` had written: one of the same file, begun when
    /// the write had ended, and successful.
    pub fn synced(&self, write: &Call) -> Option<usize> {
        let (written, _) = write.ended.filter(|(_, bytes)| *bytes > 0)?;
        let covers = |sync: &&Call| sync.began > written && sync.file() == write.file();
        let ends = self.named("fdatasync").filter(covers).filter_map(|sync| sync.ended);
        ends.filter(|(_, value)| *value == 0).map(|(at, _)| at).min()
    }
}

/// What a line says the call returned.
fn returned(event: &str) -> Option<i64> {
    let (_, value) = event.rsplit_once(" = ")?;
    value.split_whitespace().next()?.parse().ok()
}
