//! The report for programs. Field names are a contract: fields are added, never renamed or removed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Figures, Report};
use crate::histogram::Percentiles;
use crate::timeline::Row;

/// The report as one JSON object, indented, ending in a line feed.
pub fn render(report: &Report) -> String {
    let document = Document::of(report);
    let mut text = serde_json::to_string_pretty(&document)
        .expect("plain structs with string keys and finite numbers always serialise");
    text.push('\n');
    text
}

#[derive(Serialize)]
struct Document<'a> {
    op: &'a str,
    requests: u64,
    errors: u64,
    seconds: f64,
    qps: f64,
    mb_per_s: f64,
    latency_us: Latency,
    errors_by_kind: BTreeMap<&'a str, u64>,
    error_examples: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Part<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<Part<'a>>,
    /// Requests that finished after the window: in the latencies, not in the throughput.
    late: u64,
    /// Open loop: requests a second asked for; null in a closed loop.
    rate: Option<u64>,
    /// Open loop: requests never sent.
    unsent: u64,
    /// Open loop: from due to sent; null in a closed loop.
    start_lag_us: Option<Latency>,
    generator: Generator,
    workload: Workload<'a>,
    series: Vec<Second>,
    warnings: Vec<String>,
    version: &'a str,
}

#[derive(Serialize)]
struct Part<'a> {
    requests: u64,
    errors: u64,
    qps: f64,
    mb_per_s: f64,
    latency_us: Latency,
    errors_by_kind: BTreeMap<&'a str, u64>,
}

#[derive(Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

#[derive(Serialize)]
struct Generator {
    threads: u32,
    busy_threads: f64,
    cpu_us_per_request: f64,
}

#[derive(Serialize)]
struct Workload<'a> {
    endpoints: &'a [String],
    clients: u32,
    pipeline: u32,
    value_size: usize,
    keys: u64,
    distribution: &'a str,
    write_consistency: String,
    read_consistency: String,
    warmup_seconds: f64,
    verify: bool,
    seed: u64,
}

/// One second of the window; the last may be shorter.
#[derive(Serialize)]
struct Second {
    second: u64,
    seconds: f64,
    requests: u64,
    errors: u64,
    qps: f64,
    mb_per_s: f64,
    latency_us: Latency,
}

impl<'a> Document<'a> {
    fn of(report: &'a Report) -> Self {
        let plan = &report.plan;
        let (read, write) = match &report.apart {
            Some((reads, writes)) => (Some(Part::of(reads)), Some(Part::of(writes))),
            None => (None, None),
        };
        let all = Part::of(&report.all);
        Self {
            op: plan.load.name(),
            requests: all.requests,
            errors: all.errors,
            seconds: report.window.as_secs_f64(),
            qps: all.qps,
            mb_per_s: all.mb_per_s,
            latency_us: all.latency_us,
            errors_by_kind: all.errors_by_kind,
            error_examples: report
                .examples
                .iter()
                .map(|(failure, example)| (failure.name(), example.as_str()))
                .collect(),
            read,
            write,
            late: report.late,
            rate: plan.rate.map(|rate| rate.get()),
            unsent: report.unsent,
            start_lag_us: report.lag.map(Latency::of),
            generator: Generator {
                threads: plan.threads,
                busy_threads: report.busy_threads(),
                cpu_us_per_request: report.cpu_micros_per_request(),
            },
            workload: Workload {
                endpoints: &plan.endpoints,
                clients: plan.clients,
                pipeline: plan.pipeline,
                value_size: plan.value_bytes,
                keys: plan.keys,
                distribution: plan.distribution.name(),
                write_consistency: format!("{:?}", plan.write_level).to_lowercase(),
                read_consistency: format!("{:?}", plan.read_level).to_lowercase(),
                warmup_seconds: plan.warmup.as_secs_f64(),
                verify: plan.verify,
                seed: plan.seed,
            },
            series: report.rows.iter().map(|row| Second::of(row, report)).collect(),
            warnings: report.warnings(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl Part<'_> {
    fn of(figures: &Figures) -> Self {
        Self {
            requests: figures.requests,
            errors: figures.errors(),
            qps: figures.qps,
            mb_per_s: figures.mb_per_s,
            latency_us: Latency::of(figures.latency),
            errors_by_kind: figures.failures.iter().map(|(failure, count)| (failure.name(), count)).collect(),
        }
    }
}

impl Latency {
    fn of(percentiles: Percentiles) -> Self {
        let Percentiles { p50, p90, p99, p999, max } = percentiles;
        Self { p50, p90, p99, p999, max }
    }
}

impl Second {
    fn of(row: &Row, report: &Report) -> Self {
        // Rows of no length are not kept: the timeline drops them.
        let seconds = row.length(report.window).as_secs_f64();
        Self {
            second: row.second,
            seconds,
            requests: row.completed + row.errors,
            errors: row.errors,
            qps: row.completed as f64 / seconds,
            mb_per_s: row.bytes as f64 / 1e6 / seconds,
            latency_us: Latency::of(row.latency),
        }
    }
}
