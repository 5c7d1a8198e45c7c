//! Answers under each parser of tool calls: how they are cut changes nothing.

#![no_main]

#[path = "../drive.rs"]
#[allow(dead_code)]
mod drive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::tool_calls(data));
