//! What a person sees on stderr while it runs: a line that is written over on a terminal, one line a
//! second elsewhere if asked for.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::clock::Moment;
use crate::timeline::Row;

const LOADING_EVERY: Duration = Duration::from_secs(1);

/// The progress line.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    loading_due: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Silent,
    Lines,
    Overwrite,
}

impl Progress {
    /// Shown on a terminal, or if `asked` for.
    pub fn new(asked: bool) -> Self {
        let mode = match (io::stderr().is_terminal(), asked) {
            (true, _) => Mode::Overwrite,
            (false, true) => Mode::Lines,
            (false, false) => Mode::Silent,
        };
        Self { mode, loading_due: Moment::ORIGIN }
    }

    /// Keys are being written; shown once a second.
    pub fn loading(&mut self, now: Moment, loaded: u64, keys: u64) {
        if now >= self.loading_due {
            self.loading_due = now.after(LOADING_EVERY);
            self.show(&format!("loading keys: {loaded} of {keys}"));
        }
    }

    /// A second of the measurement is over.
    pub fn row(&mut self, row: &Row) {
        if self.mode != Mode::Silent {
            self.show(&describe(row));
        }
    }

    /// Something worth a line of its own.
    pub fn note(&mut self, text: &str) {
        self.show(text);
        self.close();
    }

    /// Leaves the last line as it is.
    pub fn close(&mut self) {
        if self.mode == Mode::Overwrite {
            self.write("\n");
        }
    }

    fn show(&self, text: &str) {
        match self.mode {
            Mode::Silent => {}
            Mode::Lines => self.write(&format!("{text}\n")),
            // Carriage return, erase to the end of the line.
            Mode::Overwrite => self.write(&format!("\r\x1b[K{text}")),
        }
    }

    fn write(&self, text: &str) {
        // Nothing depends on progress being seen, and a closed stderr is no reason to lose a run.
        drop(io::stderr().write_all(text.as_bytes()));
    }
}

fn describe(row: &Row) -> String {
    let latency = row.latency;
    format!(
        "{:>4} s {:>9} req/s {:>8.1} MB/s   p50 {:>8.3} ms   p99 {:>8.3} ms   max {:>8.3} ms   errors {}",
        row.second + 1,
        row.completed,
        row.bytes as f64 / 1e6,
        millis(latency.p50),
        millis(latency.p99),
        millis(latency.max),
        row.errors
    )
}

/// Microseconds in milliseconds.
pub fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Percentiles;

    #[test]
    fn a_row_reads_in_milliseconds_and_megabytes() {
        let latency = Percentiles { p50: 1_234, p90: 2_000, p99: 5_600, p999: 7_000, max: 80_000 };
        let row = Row { second: 4, completed: 41_234, errors: 2, bytes: 168_894_464, latency };
        let text = describe(&row);
        for part in ["5 s", "41234 req/s", "168.9 MB/s", "1.234 ms", "5.600 ms", "80.000 ms", "errors 2"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
