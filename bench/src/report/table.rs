//! The report for people.

use std::fmt::Write as _;

use super::{Figures, Report};
use crate::progress::millis;

/// The report as text, several lines, ending in a line feed.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let plan = &report.plan;
    let pace = match plan.rate {
        Some(rate) => format!("{} requests/s asked for", rate.get()),
        None => "closed loop".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}: {} clients x {} in flight, {}, {} B values, {} keys {}, {:.3} s",
        plan.load.name(),
        plan.clients,
        plan.pipeline,
        pace,
        plan.value_bytes,
        plan.keys,
        plan.distribution.name(),
        report.window.as_secs_f64()
    );
    let _ = writeln!(
        text,
        "{:<6} {:>10} {:>8} {:>10} {:>9} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "", "requests", "errors", "QPS", "MB/s", "P50 ms", "P90 ms", "P99 ms", "P99.9 ms", "max ms"
    );
    line(&mut text, plan.load.name(), &report.all);
    if let Some((reads, writes)) = &report.apart {
        line(&mut text, "read", reads);
        line(&mut text, "write", writes);
    }
    for (failure, count) in report.all.failures.iter() {
        let example = report.examples.get(&failure).map_or("", String::as_str);
        let _ = writeln!(text, "error {}: {count}   {example}", failure.name());
    }
    let _ = writeln!(
        text,
        "load generator: {:.2} threads busy, {:.1} us of processor time a request",
        report.busy_threads(),
        report.cpu_micros_per_request()
    );
    if let Some(lag) = report.lag {
        let _ = writeln!(
            text,
            "sent after they were due: P50 {:.3} ms, P99 {:.3} ms, max {:.3} ms (part of the latency)",
            millis(lag.p50),
            millis(lag.p99),
            millis(lag.max)
        );
    }
    for warning in report.warnings() {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn line(text: &mut String, name: &str, figures: &Figures) {
    let latency = figures.latency;
    let _ = writeln!(
        text,
        "{:<6} {:>10} {:>8} {:>10.1} {:>9.1} {:>10.3} {:>10.3} {:>10.3} {:>10.3} {:>10.3}",
        name,
        figures.requests,
        figures.errors(),
        figures.qps,
        figures.mb_per_s,
        millis(latency.p50),
        millis(latency.p90),
        millis(latency.p99),
        millis(latency.p999),
        millis(latency.max)
    );
}
