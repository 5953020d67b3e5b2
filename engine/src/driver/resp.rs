//! The Redis door of one core: connections, and what they may know of the node.
//!
//! One task per connection does everything for it, once per wake-up: it takes the answers that are there, in the order of
//! the commands; starts all commands that have arrived; and sends all replies with one call. Only the oldest command
//! under way is waited for, so that the many answers of one turn of the machine wake a connection once.

mod answers;
mod connection;
mod tasks;
mod wait;
mod work;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use net::map::ClusterMap;
use net::resp::DecoderLimits;

use super::gateway::{Gateway, Mode};
use super::mesh::ConnectionSlot;
use crate::resp::batch::Longest;
use crate::resp::scan::Positions;
use crate::resp::{Facts, Node, Registry};

/// Unfinished requests of all connections of a core together, in bytes.
const UNFINISHED_BYTES_MAX: usize = 256 << 20;
/// Beside the values of a request that sets as many as it may.
const REQUEST_ROOM_BYTES: usize = 16 << 20;

/// What the connections of a core share.
pub(super) struct Door {
    gateway: Gateway,
    limits: DecoderLimits,
    longest: Longest,
    output_bytes_max: usize,
    /// Where the next bytes are received: idle connections need no buffer of their own.
    pool: RefCell<BytesMut>,
    unfinished_bytes: Cell<usize>,
    positions: RefCell<Positions>,
    random: Cell<u64>,
}

impl Door {
    pub fn new(gateway: Gateway) -> Door {
        let limits = &gateway.config().limits;
        let memory = |bytes: u64| usize::try_from(bytes).expect("64-bit machine");
        let bulk_bytes_max = memory(limits.value_bytes_max.max(limits.key_bytes_max));
        let output_bytes_max = memory(limits.connection_bytes_max);
        let seed = wall_us() ^ u64::from(gateway.core()) << 20;
        Door {
            limits: DecoderLimits {
                bulk_bytes_max,
                request_bytes_max: 2 * bulk_bytes_max + REQUEST_ROOM_BYTES,
                ..DecoderLimits::default()
            },
            longest: Longest {
                key_bytes: memory(limits.key_bytes_max),
                value_bytes: memory(limits.value_bytes_max),
            },
            output_bytes_max,
            pool: RefCell::default(),
            unfinished_bytes: Cell::new(0),
            positions: RefCell::new(Positions::new(u32::try_from(seed & 0xffff_ffff).expect("masked"))),
            random: Cell::new(seed | 1),
            gateway,
        }
    }

    /// Serves a connection until its end.
    pub async fn serve(self: Rc<Self>, cluster: bool, fd: OwnedFd, slot: ConnectionSlot) {
        if let Err(error) = connection::serve(self, cluster, fd).await {
            tracing::debug!(%error, "a Redis connection failed");
        }
        drop(slot);
    }

    fn mode(cluster: bool) -> Mode {
        if cluster { Mode::LocalOnly } else { Mode::Proxy }
    }

    /// A number nobody can guess from the last one at a glance; for `RANDOMKEY`.
    fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random.set(state);
        state
    }
}

fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Node for Door {
    fn id(&self) -> u64 {
        self.gateway.config().node.id
    }

    fn wall_us(&self) -> u64 {
        wall_us()
    }

    fn shard_of_slot(&self, slot: u16) -> u32 {
        self.gateway.shard_of_slot(slot)
    }

    fn leader_of(&self, shard: u32) -> Option<u64> {
        self.gateway.leader_of(shard)
    }

    fn hosts(&self, shard: u32) -> bool {
        self.gateway.hosts(shard)
    }

    fn cluster_address(&self, node: u64) -> Option<String> {
        self.gateway.node(node)?.resp_cluster_addr
    }

    fn map(&self) -> ClusterMap {
        self.gateway.map()
    }

    fn password(&self) -> Option<&str> {
        self.gateway.config().resp.password.reveal()
    }

    fn allows_debug(&self) -> bool {
        self.gateway.config().resp.debug_commands
    }

    fn registry(&self) -> &Registry {
        self.gateway.registry()
    }

    fn facts(&self) -> Facts {
        let config = self.gateway.config();
        let map = self.map();
        let registry = self.registry();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let listen = config.listen.resp.or(config.listen.resp_cluster);
        Facts {
            node: config.node.id,
            version: env!("CARGO_PKG_VERSION"),
            process: std::process::id(),
            bind: listen.map(|address| address.ip().to_string()).unwrap_or_default(),
            port: listen.map_or(0, |address| address.port()),
            dir: config.node.data_dir.display().to_string(),
            uptime_s: self.gateway.uptime().as_secs(),
            wall_us: wall_us(),
            cores: self.gateway.cores(),
            clients: registry.count(),
            connections_max: config.limits.connections_max,
            value_bytes_max: config.limits.value_bytes_max,
            resident_bytes: resident_bytes(),
            received: count(&registry.received),
            commands: count(&registry.commands),
            bytes_in: count(&registry.bytes_in),
            bytes_out: count(&registry.bytes_out),
            errors: count(&registry.errors),
            led: map.shards.iter().filter(|shard| shard.leader == Some(config.node.id)).count(),
            others: map.nodes.len() - 1,
            cpu_us: cpu_us(),
        }
    }
}

/// What proc(5) says of the process: a file of the kernel's memory, read at once.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// Processor time used in user mode and in the kernel.
fn cpu_us() -> (u64, u64) {
    // SAFETY: getrusage(2) fills the structure it is given, which may begin as zeroes.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let us = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    (us(usage.ru_utime), us(usage.ru_stime))
}
