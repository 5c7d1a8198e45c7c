//! Bodies of requests: whatever comes, it is read or refused in words.

#![no_main]

#[path = "../drive.rs"]
#[allow(dead_code)]
mod drive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::request_body(data));
