//! The Redis connections of a node, whichever core has them: for `CLIENT LIST` and `INFO`. Beside the hot path: a
//! connection touches its own row once per wake-up.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// All connections and what they have done.
#[derive(Debug, Default)]
pub struct Registry {
    next_id: AtomicU64,
    rows: Mutex<BTreeMap<u64, Arc<Row>>>,
    /// Connections since the start, or the last `CONFIG RESETSTAT`.
    pub received: AtomicU64,
    /// Commands since then.
    pub commands: AtomicU64,
    /// Bytes received since then.
    pub bytes_in: AtomicU64,
    /// Bytes sent since then.
    pub bytes_out: AtomicU64,
    /// Errors answered since then.
    pub errors: AtomicU64,
}

/// One connection.
#[derive(Debug)]
pub struct Row {
    /// Its number.
    pub id: u64,
    /// The client's address.
    pub peer: String,
    /// The address it came to.
    pub local: String,
    /// Its descriptor.
    pub fd: i32,
    /// When it came, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    detail: Mutex<Detail>,
}

/// What changes of a connection.
#[derive(Clone, Debug, Default)]
pub struct Detail {
    /// The name it gave itself.
    pub name: String,
    /// The library it says it is.
    pub library: String,
    /// The version of that.
    pub library_version: String,
    /// Its namespace.
    pub namespace: u8,
    /// Commands queued in its transaction; `None`: it has begun none.
    pub queued: Option<usize>,
    /// Whether it asked not to be closed for want of memory.
    pub no_evict: bool,
    /// Whether it reads from followers.
    pub follower: bool,
    /// The version of the protocol it speaks.
    pub version: u8,
    /// The last command.
    pub command: &'static str,
    /// When it said something last, in milliseconds since the Unix epoch.
    pub active_ms: u64,
    /// Bytes received and not yet used.
    pub unread_bytes: usize,
    /// Bytes to be sent.
    pub unsent_bytes: usize,
}

impl Registry {
    /// Enters a connection.
    pub fn enter(&self, peer: String, local: String, fd: i32, now_ms: u64) -> Arc<Row> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed) + 1;
        self.received.fetch_add(1, Ordering::Relaxed);
        let detail = Detail { version: 2, command: "NULL", active_ms: now_ms, ..Detail::default() };
        let row = Arc::new(Row { id, peer, local, fd, since_ms: now_ms, detail: Mutex::new(detail) });
        locked(&self.rows).insert(id, row.clone());
        row
    }

    /// Strikes a connection out.
    pub fn leave(&self, id: u64) {
        locked(&self.rows).remove(&id);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        locked(&self.rows).len()
    }

    /// A line for each connection that is wanted.
    pub fn list(&self, now_ms: u64, wanted: impl Fn(u64) -> bool) -> String {
        let rows: Vec<Arc<Row>> = locked(&self.rows).values().filter(|row| wanted(row.id)).cloned().collect();
        rows.iter().fold(String::new(), |mut text, row| {
            text.push_str(&row.line(now_ms));
            text.push('\n');
            text
        })
    }

    /// Begins to count anew.
    pub fn reset(&self) {
        for counter in [&self.received, &self.commands, &self.bytes_in, &self.bytes_out, &self.errors] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Row {
    /// What changes of it, to be changed.
    pub fn detail(&self) -> MutexGuard<'_, Detail> {
        locked(&self.detail)
    }

    /// The line of `CLIENT LIST`.
    pub fn line(&self, now_ms: u64) -> String {
        let detail = self.detail().clone();
        let seconds = |since: u64| now_ms.saturating_sub(since) / 1000;
        let mut flags = String::new();
        for (set, flag) in [(detail.queued.is_some(), 'x'), (detail.follower, 'r'), (detail.no_evict, 'e')] {
            if set {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let multi = detail.queued.map_or(-1, |queued| i64::try_from(queued).unwrap_or(i64::MAX));
        let mut line = format!("id={} addr={} laddr={} fd={} ", self.id, self.peer, self.local, self.fd);
        let total = detail.unread_bytes + detail.unsent_bytes;
        write!(
            line,
            "name={} age={} idle={} flags={flags} db={} sub=0 psub=0 ssub=0 multi={multi} qbuf={} qbuf-free=0 argv-mem=0 \
             multi-mem=0 rbs=0 rbp=0 obl={} oll=0 omem={} tot-mem={total} events=r cmd={} user=default redir=-1 resp={} \
             lib-name={} lib-ver={}",
            detail.name,
            seconds(self.since_ms),
            seconds(detail.active_ms),
            detail.namespace,
            detail.unread_bytes,
            detail.unsent_bytes,
            detail.unsent_bytes,
            detail.command,
            detail.version,
            detail.library,
            detail.library_version,
        )
        .expect("writing to a string");
        line
    }
}

/// Nobody panics with the lock held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("the process ends when a thread panics")
}
