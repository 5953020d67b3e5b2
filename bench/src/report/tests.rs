//! The same run in its three forms.

use super::*;
use crate::cli::tests::plan;
use crate::clock::Moment;
use crate::sample::{Finished, Recorder};
use crate::timeline::Timeline;
use crate::workload::Kind;

const MILLI: u64 = 1_000_000;

/// A run of 2.5 s: a write every 10 ms taking 2 ms, a read every 20 ms taking 1 ms; the last write fails,
/// and one write due at 2.4 s finishes at 4 s.
fn outcome(line: &str) -> Outcome {
    let plan = Arc::new(plan(line));
    let end = Moment::from_nanos(2_500 * MILLI);
    let mut recorder = Recorder::new(Moment::ORIGIN);
    let mut record = |kind, due_ms: u64, took_ms: u64, outcome| {
        let due = Moment::from_nanos(due_ms * MILLI);
        let at = Moment::from_nanos((due_ms + took_ms) * MILLI);
        let sent = plan.rate.map(|_| Moment::from_nanos(due_ms * MILLI + MILLI / 2));
        recorder.record(Finished { kind, due, sent, at, outcome }, end);
    };
    for step in 0..240 {
        record(Kind::Write, step * 10, 2, Ok(4_096));
        if step % 2 == 0 {
            record(Kind::Read, step * 10, 1, Ok(4_096));
        }
    }
    record(Kind::Write, 2_410, 2, Err(Failure::Busy));
    record(Kind::Write, 2_400, 1_600, Ok(4_096));
    let mut timeline = Timeline::new(1);
    for sample in recorder.finish(end) {
        timeline.add(&sample);
    }
    let window = Duration::from_millis(2_500);
    let examples = BTreeMap::from([(Failure::Busy, "busy, retry <later> & \"calm\"".to_owned())]);
    let cpu = Duration::from_millis(500);
    Outcome { plan, window, totals: timeline.finish(window), unsent: 3, examples, cpu }
}

/// The report of that run, as if asked for by this command line.
pub fn report(line: &str) -> Report {
    Report::of(outcome(line))
}

const MIXED: &str = "mixed --endpoints a:1,b:2 --seconds 2.5";

#[test]
fn throughput_counts_what_finished_inside_and_latency_counts_all() {
    let report = report(MIXED);
    assert_eq!((report.all.requests, report.all.errors(), report.late), (362, 1, 1));
    assert!((report.all.qps - 360.0 / 2.5).abs() < 1e-9);
    assert!((report.all.mb_per_s - 360.0 * 4_096.0 / 1e6 / 2.5).abs() < 1e-9);
    assert!(report.all.latency.max >= 1_600_000, "the late request is the slowest");
    let (reads, writes) = report.apart.as_ref().expect("a mixed load is shown apart");
    assert_eq!((reads.requests, writes.requests), (120, 242));
    assert_eq!((reads.latency.p50, writes.latency.p50), (1_000, 2_000));
    assert!(!report.is_clean());
    assert!((report.busy_threads() - 0.2).abs() < 1e-9);
}

#[test]
fn warnings_name_what_is_wrong() {
    let mut shown = report("write --endpoints a:1 --seconds 5 --rate 100");
    let text = shown.warnings().join("\n");
    assert!(text.contains("3 requests were due and never sent"), "{text}");
    assert!(text.contains("interrupted"), "{text}");
    assert!(!text.contains("generator"), "{text}");
    shown.all.requests = 3_000;
    assert!(!shown.warnings().join("\n").contains("never sent"), "three of 3,000 are the window's edge");
    shown.cpu = Duration::from_millis(2_300);
    assert!(shown.warnings().join("\n").contains("it may be the limit"));
    shown.all.failures.add(Failure::MissingKey, 1);
    assert!(shown.warnings().join("\n").contains("--no-load"));
    let mut clean = report("write --endpoints a:1 --seconds 2.5");
    clean.unsent = 0;
    assert_eq!(clean.warnings(), Vec::<String>::new());
}

#[test]
fn the_table_shows_every_figure() {
    let text = table::render(&report(MIXED));
    for part in
        ["mixed", "362", "144.0", "P99.9", "1600", "error busy: 1   busy, retry", "warning: 3 requests"]
    {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    let rows: Vec<&str> = text.lines().skip(1).take(4).collect();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "columns line up:\n{text}");
}

#[test]
fn json_keeps_its_contract() {
    let document: serde_json::Value =
        serde_json::from_str(&json::render(&report(MIXED))).expect("valid JSON");
    assert_eq!(document["op"], "mixed");
    assert_eq!(document["requests"], 362);
    assert_eq!(document["errors"], 1);
    assert_eq!(document["seconds"], 2.5);
    assert_eq!(document["qps"], 144.0);
    assert!(document["mb_per_s"].is_f64());
    for name in ["p50", "p90", "p99", "p999", "max"] {
        assert!(document["latency_us"][name].is_u64(), "{name}");
    }
    assert_eq!(document["errors_by_kind"]["busy"], 1);
    assert_eq!(document["rate"], serde_json::Value::Null);
    assert_eq!(document["workload"]["value_size"], 4_096);
    assert_eq!(document["workload"]["read_consistency"], "linearizable");
    let series = document["series"].as_array().expect("a list");
    assert_eq!(series.len(), 3);
    assert_eq!((&series[2]["second"], &series[2]["seconds"]), (&2.into(), &0.5.into()));
    // Inside the last half second: 40 writes, 20 reads and a failure.
    assert_eq!((&series[2]["requests"], &series[2]["qps"]), (&61.into(), &120.0.into()));
    let inside: u64 = series.iter().filter_map(|row| row["requests"].as_u64()).sum();
    assert_eq!(inside + document["late"].as_u64().expect("a count"), 362);
}

#[test]
fn an_open_loop_reports_its_rate_and_lag() {
    let document: serde_json::Value =
        serde_json::from_str(&json::render(&report("write --endpoints a:1 --rate 150"))).expect("valid");
    assert_eq!((&document["rate"], &document["unsent"]), (&150.into(), &3.into()));
    assert_eq!(document["start_lag_us"]["p50"], 500);
    assert!(document.get("read").is_none(), "reads apart belong to a mixed load");
}

#[test]
fn the_plot_is_well_formed_and_complete() {
    let text = plot::render(&report(MIXED)).expect("draws");
    let document = roxmltree::Document::parse(&text).expect("well-formed XML");
    assert_eq!(document.root_element().tag_name().name(), "svg");
    let lines = document.descendants().filter(|node| node.has_tag_name("polyline")).count();
    assert!(lines >= 5, "throughput and four percentiles are lines, found {lines}");
    let words: String = document.descendants().filter_map(|node| node.text()).collect();
    for word in ["requests/s", "milliseconds", "P50", "P99.9", "max"] {
        assert!(words.contains(word), "{word}");
    }
}

#[test]
fn a_plot_of_nothing_is_still_a_plot() {
    let mut empty = report("write --endpoints a:1 --seconds 2.5");
    empty.rows.clear();
    let text = plot::render(&empty).expect("draws");
    assert!(roxmltree::Document::parse(&text).is_ok());
    // A second in which everything stood still has no latency to draw.
    let mut still = report("write --endpoints a:1 --seconds 2.5");
    still.rows.iter_mut().for_each(|row| {
        row.completed = 0;
        row.latency = Percentiles::default();
    });
    assert!(roxmltree::Document::parse(&plot::render(&still).expect("draws")).is_ok());
}

#[test]
fn nothing_measured_is_not_clean() {
    let plan = Arc::new(plan("write --endpoints a:1"));
    let window = Duration::from_secs(1);
    let totals = Timeline::new(1).finish(window);
    let report = Report::of(Outcome {
        plan,
        window,
        totals,
        unsent: 0,
        examples: BTreeMap::new(),
        cpu: Duration::ZERO,
    });
    assert!(!report.is_clean());
    assert!(report.warnings()[0].contains("no request"));
    assert!(json::render(&report).contains("\"qps\": 0.0"));
}
