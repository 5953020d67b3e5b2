//! Progress of long work, for people: on standard error, and only where that is a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unit {
    Keys,
    Bytes,
    Shards,
}

/// A bar of so many units; without a length, a count that grows.
pub(super) fn bar(what: &'static str, length: Option<u64>, unit: Unit) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match (length, unit) {
        (Some(_), Unit::Keys) => "{msg} [{bar:30}] {human_pos} of {human_len} keys, {per_sec}, {eta} left",
        (None, Unit::Keys) => "{msg} {spinner} {human_pos} keys, {per_sec}",
        (Some(_), Unit::Bytes) => {
            "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
        }
        (Some(_), Unit::Shards) => "[{bar:30}] {human_pos} of {human_len} shards, {elapsed}: {msg}",
        (None, Unit::Shards) => "{spinner} {human_pos} shards, {elapsed}: {msg}",
        (None, Unit::Bytes) => "{msg} {spinner} {binary_bytes}, {binary_bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are right");
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_right() {
        for unit in [Unit::Keys, Unit::Bytes, Unit::Shards] {
            for length in [None, Some(10)] {
                bar("test", length, unit).inc(3);
            }
        }
    }
}
