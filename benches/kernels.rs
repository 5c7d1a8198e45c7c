//! How fast a packed product is, alone: each kind of weights for one row, eight, 32 and 512, and what the machine could
//! reach: reads and multiply-adds without anything around them. Prints one JSON line. `-- --limits` measures the latter alone.
//!
//! `cargo bench --bench kernels` takes the feed-forward matrix of a 0.5B model, several of them in turn so that the
//! caches do not hold it. Under `cargo test` the same runs at toy size, so that it cannot rot.

// A bench speaks through its standard output.
#![allow(clippy::print_stdout)]

use candlewick_models::measure::{Kernel, Limits, kernels, limits};
use serde_json::json;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that asks for the names of tests is told of none; it is run as a whole.
    if words.iter().any(|word| word == "--list") {
        return;
    }
    let says = |flag: &str| words.iter().any(|word| word == flag);
    let (limits, measured) = match (says("--bench"), says("--limits")) {
        (true, true) => (limits(1 << 30, 20_000_000, 5), Vec::new()),
        (true, false) => (limits(1 << 30, 20_000_000, 5), kernels(4864, 896, 256 << 20, &[1, 8, 32, 512], 9)),
        (false, _) => (limits(1 << 16, 1000, 1), kernels(96, 64, 1 << 16, &[1, 8], 1)),
    };
    let lines: Vec<_> = measured
        .iter()
        .map(|Kernel { kind, rows, seconds, bytes, products }| {
            json!({
                "kind": kind,
                "rows": rows,
                "us": (seconds * 1e7).round() / 10.0,
                "gb_per_s": (*bytes as f64 / seconds / 1e8).round() / 10.0,
                "gop_per_s": (2.0 * *products as f64 / seconds / 1e8).round() / 10.0,
            })
        })
        .collect();
    let Limits { threads, read_gb_per_s, f32_gop_per_s, bf16_gop_per_s, int8_gop_per_s } = limits;
    let limits = json!({
        "threads": threads,
        "read_gb_per_s": read_gb_per_s,
        "f32_gop_per_s": f32_gop_per_s,
        "bf16_gop_per_s": bf16_gop_per_s,
        "int8_gop_per_s": int8_gop_per_s,
    });
    println!("{}", json!({"bench": "kernels", "device": "cpu", "limits": limits, "products": lines}));
}
