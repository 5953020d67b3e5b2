//! The `ringkv` binary: the server, and a small client for people and scripts.

use std::process::ExitCode;

use clap::Parser;

mod cli;

/// One allocator for Rust and RocksDB: the values of a node are allocated on one thread and freed on another all the
/// time, which fragments the system's.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by jemalloc when the process starts. Memory that memtables free is used again within seconds, so it goes back to
/// the system late, and in the background: giving it back at once costs a page fault per 4 KiB of every write. Huge pages
/// cost more in clearing, most of the time, than they save in address translation.
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: Option<&'static std::ffi::c_char> =
    // SAFETY: the literal ends with a zero byte and lives as long as the program.
    Some(unsafe {
        &*c"thp:default,background_thread:true,dirty_decay_ms:30000,muzzy_decay_ms:0,narenas:4".as_ptr()
    });

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
            cli::exit_code(&error)
        }
    }
}
