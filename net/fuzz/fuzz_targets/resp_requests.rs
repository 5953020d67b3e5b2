//! Any bytes to `targets::resp_requests`.

#![no_main]

#[allow(dead_code)] // each binary calls one
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::resp_requests(data));
