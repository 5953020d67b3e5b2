//! Any bytes to the parsers of the HTTP adapter.

#![no_main]

#[allow(dead_code)] // what answers need is not fuzzed
#[path = "../http_adapter.rs"]
mod http;
#[path = "../http_target.rs"]
mod http_target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http_target::http_requests(data));
