//! `ringkv-bench`: black-box load for a RingKV cluster, through the client library alone.
//!
//! ```text
//!  cli --> plan --> run (main thread) ==> driver (a glommio executor per thread) --> target (net)
//!                    |                      schedule, workload, keys, values: what to send and when
//!                    |                      sample: what was counted, second by second
//!                    v
//!                  timeline --> report: table, JSON, plot
//! ```
//!
//! Exit code 0 if requests were made and all succeeded, 1 if not, 2 for bad arguments.
//! How to use it without fooling oneself: `bench/README.md`.

mod cli;
mod run;

mod driver;
mod target;

mod clock;
mod keys;
mod random;
mod schedule;
mod values;
mod workload;
mod zipf;

mod histogram;
mod sample;
mod timeline;

mod cpu;
mod interrupt;
mod limits;
mod progress;
mod report;

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Plan};
use crate::report::{Report, json, plot, table};

fn main() -> ExitCode {
    let plan = Cli::parse()
        .plan()
        .unwrap_or_else(|error| Cli::command().error(clap::error::ErrorKind::ArgumentConflict, error).exit());
    match measure(plan) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringkv-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the plan and reports; says whether everything succeeded.
fn measure(plan: Plan) -> anyhow::Result<bool> {
    // Found out now, and not after an hour of measuring.
    for file in [&plan.json, &plan.svg].into_iter().flatten() {
        make_folder_of(file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let report = Report::of(run::run(plan)?);
    // A closed stdout (`| head`) must not keep the files from being written.
    drop(io::stdout().write_all(table::render(&report).as_bytes()));
    if let Some(file) = &report.plan.json {
        fs::write(file, json::render(&report)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &report.plan.svg {
        fs::write(file, plot::render(&report)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report.is_clean())
}

fn make_folder_of(file: &Path) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    anyhow::ensure!(!file.is_dir(), "it is a folder");
    Ok(())
}
