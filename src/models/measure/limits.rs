//! What the machine gives at most: bytes read in a second, multiply-adds in a second. A figure of a model means something
//! beside these, measured in the same minutes.

use std::sync::Barrier;
use std::time::Instant;

use crate::kernels::instructions::{self, Instruction, SUMS, read};
use crate::kernels::pages::Pages;

/// What all cores together reach; a multiply-add counts as two operations. `None` where there is no such instruction.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Threads that worked at once.
    pub threads: usize,
    /// Reads of memory on large pages, too large for any cache, 10⁹ bytes a second.
    pub read_gb_per_s: f64,
    /// Multiply-adds of 32-bit floats (AVX-512), 10⁹ operations a second.
    pub f32_gop_per_s: Option<f64>,
    /// Dot products of brain floats (`vdpbf16ps`).
    pub bf16_gop_per_s: Option<f64>,
    /// Dot products of bytes (`vpdpbusd`).
    pub int8_gop_per_s: Option<f64>,
}

/// Measures on all cores at once: reads of `num_bytes`, `num_rounds` rounds of each instruction; the best of `num_runs`.
///
/// # Panics
/// If the system refuses the memory.
pub fn limits(num_bytes: usize, num_rounds: usize, num_runs: usize) -> Limits {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut pages = Pages::new(num_bytes).expect("the memory can be had");
    pages.as_mut_slice().fill(1);
    let shares: Vec<&[u8]> = pages.as_slice().chunks(num_bytes.div_ceil(threads)).collect();
    let read_s =
        fastest(num_runs, || together(threads, |thread| read(shares.get(thread).copied().unwrap_or(&[]))));
    let rate = |instruction: Option<Instruction>| {
        instruction.map(|Instruction { run, ops }| {
            let seconds = fastest(num_runs, || together(threads, |_| run(num_rounds)));
            (threads * num_rounds * SUMS * ops) as f64 / seconds / 1e9
        })
    };
    Limits {
        threads,
        read_gb_per_s: num_bytes as f64 / read_s / 1e9,
        f32_gop_per_s: rate(instructions::f32_multiply_add()),
        bf16_gop_per_s: rate(instructions::bf16_dot()),
        int8_gop_per_s: rate(instructions::int8_dot()),
    }
}

/// Seconds from the moment that all threads are there until the last is done.
fn together(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let spans = std::thread::scope(|scope| {
        let (barrier, work) = (&barrier, &work);
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    barrier.wait();
                    let started = Instant::now();
                    work(thread);
                    (started, Instant::now())
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("nothing here panics")).collect::<Vec<_>>()
    });
    let first = spans.iter().map(|(started, _)| *started).min().expect("there is a thread");
    let last = spans.iter().map(|(_, ended)| *ended).max().expect("there is a thread");
    (last - first).as_secs_f64()
}

/// A limit is what can be reached, so the best run is the one that counts.
fn fastest(num_runs: usize, run: impl FnMut() -> f64) -> f64 {
    std::iter::repeat_with(run).take(num_runs).fold(f64::INFINITY, f64::min)
}
