//! `INFO`: figures of the node, in the sections and under the names that tools for Redis read.

use std::fmt::Write;

use bytes::Bytes;
use net::resp::Value;

use super::action::Task;
use super::connection::{REDIS_VERSION, text};
use super::session::Node;

/// Figures of the node.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its number.
    pub node: u64,
    /// Version of this program.
    pub version: &'static str,
    /// The process.
    pub process: u32,
    /// The address it listens on.
    pub bind: String,
    /// The port of the Redis door.
    pub port: u16,
    /// Its data directory.
    pub dir: String,
    /// How long it has been running.
    pub uptime_s: u64,
    /// Microseconds since the Unix epoch.
    pub wall_us: u64,
    /// Its cores.
    pub cores: u32,
    /// Redis connections.
    pub clients: usize,
    /// Connections of all doors that it takes.
    pub connections_max: usize,
    /// Longest value.
    pub value_bytes_max: u64,
    /// Memory in use, as the kernel counts it.
    pub resident_bytes: u64,
    /// Connections received.
    pub received: u64,
    /// Commands.
    pub commands: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Errors answered.
    pub errors: u64,
    /// Shards it leads.
    pub led: usize,
    /// Nodes of the cluster beside it.
    pub others: usize,
    /// Processor time used in user mode and in the kernel, in microseconds.
    pub cpu_us: (u64, u64),
}

/// Answers `INFO` without its last section.
pub(super) fn info(args: &[Bytes], facts: &Facts) -> Value {
    text(render(&args[1..], facts))
}

/// What is to be done when the section about the keys is wanted, whose figures have to be asked.
pub(super) fn keyspace_task(args: &[Bytes], node: &dyn Node) -> Option<Task> {
    let sections = &args[1..];
    let wanted = sections.iter().any(|section| section.eq_ignore_ascii_case(b"keyspace"));
    (wanted || is_whole(sections)).then(|| {
        let mut text = render(sections, &node.facts());
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        Task::Keyspace { text }
    })
}

/// The section about the keys, from how many each namespace has.
pub fn keyspace(mut text: String, counts: &[u64]) -> Value {
    text.push_str("# Keyspace\r\n");
    for (namespace, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        write!(text, "db{namespace}:keys={count},expires=0,avg_ttl=0\r\n").expect("a string");
    }
    super::connection::text(text)
}

fn is_whole(sections: &[Bytes]) -> bool {
    let whole = [&b"all"[..], b"default", b"everything"];
    sections.is_empty() || sections.iter().any(|it| whole.iter().any(|name| it.eq_ignore_ascii_case(name)))
}

fn render(sections: &[Bytes], facts: &Facts) -> String {
    type Section = fn(&Facts) -> String;
    let all: [(&str, Section); 9] = [
        ("Server", server),
        ("Clients", clients),
        ("Memory", memory),
        ("Persistence", persistence),
        ("Stats", stats),
        ("Replication", replication),
        ("CPU", cpu),
        ("Errorstats", errors),
        ("Cluster", |_| "cluster_enabled:1\r\n".to_owned()),
    ];
    let whole = is_whole(sections);
    let mut text = String::new();
    for (name, section) in all {
        if whole || sections.iter().any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes())) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            write!(text, "# {name}\r\n{}", section(facts)).expect("a string");
        }
    }
    text
}

fn server(facts: &Facts) -> String {
    let uptime = facts.uptime_s;
    format!(
        "redis_version:{REDIS_VERSION}\r\nredis_mode:cluster\r\nringkv_version:{}\r\nringkv_node:{}\r\nos:Linux\r\n\
         arch_bits:64\r\nmultiplexing_api:io_uring\r\nprocess_id:{}\r\ntcp_port:{}\r\nserver_time_usec:{}\r\n\
         uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\nio_threads_active:{}\r\n",
        facts.version,
        facts.node,
        facts.process,
        facts.port,
        facts.wall_us,
        uptime / 86400,
        facts.cores,
    )
}

fn clients(facts: &Facts) -> String {
    format!(
        "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
        facts.clients, facts.connections_max
    )
}

fn memory(facts: &Facts) -> String {
    let used = facts.resident_bytes;
    let human = format!("{}.{:02}M", used >> 20, ((used & 0xf_ffff) * 100) >> 20);
    format!(
        "used_memory:{used}\r\nused_memory_human:{human}\r\nused_memory_rss:{used}\r\nmaxmemory:0\r\n\
         maxmemory_policy:noeviction\r\nmem_allocator:jemalloc\r\n"
    )
}

fn persistence(_: &Facts) -> String {
    "loading:0\r\nrdb_bgsave_in_progress:0\r\naof_enabled:1\r\naof_last_write_status:ok\r\n".to_owned()
}

fn stats(facts: &Facts) -> String {
    format!(
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_net_input_bytes:{}\r\n\
         total_net_output_bytes:{}\r\ntotal_error_replies:{}\r\n",
        facts.received, facts.commands, facts.bytes_in, facts.bytes_out, facts.errors,
    )
}

fn replication(facts: &Facts) -> String {
    format!(
        "role:master\r\nconnected_slaves:{}\r\nmaster_failover_state:no-failover\r\nringkv_shards_led:{}\r\n",
        facts.others, facts.led,
    )
}

fn cpu(facts: &Facts) -> String {
    let seconds = |us: u64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    format!("used_cpu_sys:{}\r\nused_cpu_user:{}\r\n", seconds(facts.cpu_us.1), seconds(facts.cpu_us.0))
}

fn errors(facts: &Facts) -> String {
    format!("errorstat_ERR:count={}\r\n", facts.errors)
}
