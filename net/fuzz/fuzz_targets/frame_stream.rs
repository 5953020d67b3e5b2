//! Any bytes to `targets::frame_stream`.

#![no_main]

#[allow(dead_code)] // each binary calls one
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::frame_stream(data));
