//! The account of a node as Prometheus text, format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use super::requests::Requests;
use crate::core::{CoreStatus, Durations, ShardStatus, Stages};
use crate::store::StoreStats;

/// What the document is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is told of a node beside its cores.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeFacts {
    /// Which node.
    pub node: u64,
    /// Client connections.
    pub connections: usize,
    /// Memory in use, as the kernel counts it.
    pub resident_bytes: u64,
    /// Seconds since the process started.
    pub uptime_seconds: f64,
}

/// A metric: its name after `ringkv_`, its help, and its value.
type Metric<T> = (&'static str, &'static str, fn(&T) -> u64);

const CORE_COUNTERS: &[Metric<CoreStatus>] = &[
    ("requests_total", "Requests taken in.", |core| core.counters.requests),
    ("requests_refused_total", "Requests refused.", |core| core.counters.refused),
    ("requests_forwarded_total", "Requests handed to another core.", |core| core.counters.forwarded),
    ("wal_batches_total", "Batches the log has written.", |core| core.counters.wal_batches),
    ("apply_tasks_total", "Tasks of the apply lane.", |core| core.counters.apply_tasks),
    ("leader_changes_total", "Times a replica of the core became leader.", |core| {
        core.counters.leader_changes
    }),
    ("appends_dropped_total", "Appends refused because apply lagged.", |core| core.counters.appends_dropped),
    ("turns_total", "Turns of the core's machine.", |core| core.counters.turns),
    ("snapshots_installed_total", "Snapshots installed.", |core| core.counters.snapshots_installed),
    ("handovers_total", "Leaderships handed over: slow log, or the end of the process.", |core| {
        core.counters.handovers
    }),
    ("maps_received_total", "Whole cluster maps taken from other nodes.", |core| core.counters.maps_received),
    ("map_changes_received_total", "Changes of the cluster map taken from other nodes.", |core| {
        core.counters.map_changes_received
    }),
    ("map_changes_refused_total", "Changes of the cluster map that did not fit this node's.", |core| {
        core.counters.map_changes_refused
    }),
];

const CORE_GAUGES: &[Metric<CoreStatus>] = &[
    ("inflight_bytes", "Bytes of entries proposed and not applied.", |core| core.inflight_bytes),
    ("apply_queue_bytes", "Bytes of entries committed and not applied.", |core| core.apply_queue_bytes),
    ("wal_disk_bytes", "Bytes the log occupies on disk.", |core| core.wal_disk_bytes),
    ("wal_queued_bytes", "Bytes that wait for the log.", |core| core.wal_queued_bytes),
    ("wal_slow", "1 while the log is slower than raft.slow_write_ms.", |core| u64::from(core.log_is_slow)),
];

const SHARD_GAUGES: &[Metric<ShardStatus>] = &[
    ("shard_is_leader", "1 where this replica leads its shard.", |shard| u64::from(shard.role == "leader")),
    ("shard_leader", "The node that leads the shard, 0 for none.", |shard| shard.leader),
    ("shard_members", "Nodes that hold a replica.", |shard| count(shard.members.len())),
    ("shard_asleep", "1 where the group is idle and its timers are off.", |shard| u64::from(shard.asleep)),
    ("shard_term", "Current Raft term.", |shard| shard.term),
    ("shard_first_index", "First entry still in the log.", |shard| shard.first_index),
    ("shard_last_index", "Last entry in the log.", |shard| shard.last_index),
    ("shard_flushed_index", "Last entry on this node's disk.", |shard| shard.flushed),
    ("shard_committed_index", "Last entry known committed.", |shard| shard.committed),
    ("shard_applied_index", "Last entry applied.", |shard| shard.applied),
    ("shard_applied_durable_index", "Last entry that survives a crash without the log.", |shard| {
        shard.applied_durable
    }),
];

const STORE_GAUGES: &[Metric<StoreStats>] = &[
    ("store_memtable_bytes", "Applied writes that are in memory only.", |store| store.memtable_bytes),
    ("store_immutable_memtables", "Full memtables that wait to be flushed.", |store| {
        store.immutable_memtables
    }),
    ("store_table_bytes", "Sorted tables on disk.", |store| store.table_bytes),
    ("store_blob_bytes", "Separated values on disk.", |store| store.blob_bytes),
    ("store_blob_garbage_bytes", "Separated values that no key refers to.", |store| store.blob_garbage_bytes),
    ("store_keys_estimate", "Estimated number of keys.", |store| store.keys_estimate),
    ("store_compaction_pending_bytes", "Bytes that compaction is behind.", |store| {
        store.compaction_pending_bytes
    }),
    ("store_level0_files", "Files not merged into the sorted levels.", |store| store.level0_files),
    ("store_flushes_running", "Flushes running.", |store| store.flushes_running),
    ("store_compactions_running", "Compactions running.", |store| store.compactions_running),
    ("store_background_errors", "Background failures since the start.", |store| store.background_errors),
    ("store_write_stopped", "1 while the engine stops writes by itself.", |store| {
        u64::from(store.write_stopped)
    }),
];

/// The document. `stores` are the engines' figures by shard, as last taken.
pub fn render(
    facts: &NodeFacts,
    cores: &[CoreStatus],
    stores: &BTreeMap<u32, StoreStats>,
    requests: &Requests,
) -> String {
    let mut text = Text::default();
    let version = env!("CARGO_PKG_VERSION");
    text.family("info", "gauge", "The node and its version.");
    text.sample("info", format_args!("node=\"{}\",version=\"{version}\"", facts.node), 1);
    text.family("connections", "gauge", "Client connections of the node, over all doors.");
    text.sample("connections", "", facts.connections);
    text.family("resident_bytes", "gauge", "Memory in use, as the kernel counts it.");
    text.sample("resident_bytes", "", facts.resident_bytes);
    text.family("uptime_seconds", "gauge", "Seconds since the process started.");
    text.sample("uptime_seconds", "", facts.uptime_seconds);
    for (metrics, kind) in [(CORE_COUNTERS, "counter"), (CORE_GAUGES, "gauge")] {
        for (name, help, value) in metrics {
            text.family(name, kind, help);
            for core in cores {
                text.sample(name, format_args!("core=\"{}\"", core.core), value(core));
            }
        }
    }
    stages(&mut text, cores);
    http_requests(&mut text, requests);
    for (name, help, value) in SHARD_GAUGES {
        text.family(name, "gauge", help);
        for (core, shard) in cores.iter().flat_map(|core| core.shards.iter().map(move |it| (core.core, it))) {
            text.sample(name, format_args!("core=\"{core}\",shard=\"{}\"", shard.shard), value(shard));
        }
    }
    for (name, help, value) in STORE_GAUGES {
        text.family(name, "gauge", help);
        for (shard, store) in stores {
            text.sample(name, format_args!("shard=\"{shard}\""), value(store));
        }
    }
    text.0
}

fn stages(text: &mut Text, cores: &[CoreStatus]) {
    text.family("stage_seconds", "histogram", "How long the stages of writes took.");
    for core in cores {
        let Stages { replicate, queue, apply, wal } = &*core.stages;
        for (stage, durations) in [("replicate", replicate), ("queue", queue), ("apply", apply), ("wal", wal)]
        {
            histogram(text, "stage_seconds", &format!("core=\"{}\",stage=\"{stage}\"", core.core), durations);
        }
    }
}

fn http_requests(text: &mut Text, requests: &Requests) {
    let routes: Vec<_> = requests.read().collect();
    text.family("http_requests_total", "counter", "HTTP requests answered, by route and kind of status.");
    for (route, by_kind, _) in &routes {
        for (count, kind) in
            by_kind.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]).filter(|(count, _)| **count > 0)
        {
            text.sample("http_requests_total", format_args!("route=\"{route}\",status=\"{kind}\""), count);
        }
    }
    text.family(
        "http_request_seconds",
        "histogram",
        "From the head of an HTTP request to its answer, by route.",
    );
    for (route, _, durations) in &routes {
        histogram(text, "http_request_seconds", &format!("route=\"{route}\""), durations);
    }
}

fn histogram(text: &mut Text, name: &str, labels: &str, durations: &Durations) {
    let mut below = 0;
    for (bucket, count) in durations.buckets.iter().enumerate() {
        below += count;
        let bound = Durations::bound_us(bucket).map(|bound| Duration::from_micros(bound).as_secs_f64());
        let bound = bound.map_or("+Inf".to_owned(), |bound| bound.to_string());
        text.sample(&format!("{name}_bucket"), format_args!("{labels},le=\"{bound}\""), below);
    }
    let sum = Duration::from_micros(durations.sum_us).as_secs_f64();
    text.sample(&format!("{name}_sum"), labels, sum);
    text.sample(&format!("{name}_count"), labels, durations.count);
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP ringkv_{name} {help}\n# TYPE ringkv_{name} {kind}")
            .expect("writing to a string");
    }

    fn sample(&mut self, name: &str, labels: impl Display, value: impl Display) {
        let labels = labels.to_string();
        let written = match labels.is_empty() {
            true => writeln!(self.0, "ringkv_{name} {value}"),
            false => writeln!(self.0, "ringkv_{name}{{{labels}}} {value}"),
        };
        written.expect("writing to a string");
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).expect("64-bit machine")
}
