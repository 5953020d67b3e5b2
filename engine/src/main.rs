//! The `ringkv` binary: the server, and a small client for people and scripts.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    // A task that panics must not leave a node half alive, whatever the profile it was built with.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
    match cli::run(cli::Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ringkv: {error:#}");
            ExitCode::from(cli::FAILURE)
        }
    }
}
