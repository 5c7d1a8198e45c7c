//! Chat templates of strangers: they render or fail, within their limits.

#![no_main]

#[path = "../drive.rs"]
#[allow(dead_code)]
mod drive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::chat_template(data));
