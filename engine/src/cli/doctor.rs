//! `ringkv doctor`: what this machine lacks to run a node well.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use engine::config::Config;
use engine::host::examine::{Finding, Verdict, examine};
use serde_json::json;

use super::{Output, init};

#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration of the node; without it the one that ships is assumed.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where the data lie or will lie, when not as configured.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// How to print it.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::parse(init::SHIPPED, Path::new("the shipped ringkv.toml"))?,
        };
        if let Some(data_dir) = self.data_dir {
            config.node.data_dir = data_dir;
        }
        engine::host::raise_limits();
        let findings = examine(&config);
        let fit = findings.iter().all(|finding| finding.verdict != Verdict::Fault);
        match self.output {
            Output::Text => show(&findings, fit),
            Output::Json => println!("{}", in_json(&findings, fit)),
        }
        Ok(ExitCode::from(u8::from(!fit)))
    }
}

fn show(findings: &[Finding], fit: bool) {
    for Finding { subject, verdict, found, remedy } in findings {
        println!("{:<6} {subject:<16} {found}", word(*verdict));
        if let Some(remedy) = remedy {
            println!("{:<6} {:<16} -> {remedy}", "", "");
        }
    }
    let advice = findings.iter().filter(|finding| finding.verdict == Verdict::Advice).count();
    match (fit, advice) {
        (false, _) => {
            println!("a node does not run here, or not safely, before what is marked FAULT is mended")
        }
        (true, 0) => println!("all is well"),
        (true, _) => println!("a node runs here; {advice} things could be better"),
    }
}

fn in_json(findings: &[Finding], fit: bool) -> serde_json::Value {
    let told: Vec<_> = findings
        .iter()
        .map(|Finding { subject, verdict, found, remedy }| {
            json!({"subject": subject, "verdict": word(*verdict).to_lowercase(), "found": found, "remedy": remedy})
        })
        .collect();
    json!({"fit": fit, "findings": told})
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok",
        Verdict::Advice => "advice",
        Verdict::Fault => "FAULT",
        Verdict::Unknown => "n/a",
    }
}
