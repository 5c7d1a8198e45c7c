//! What the machine gives at most: bytes read in a second, multiply-adds in a second. A figure of a model means something
//! beside these, measured in the same minutes.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use crate::kernels::pages::Pages;

/// Multiply-adds that are in flight at once: twelve independent sums hide the latency of two units.
const SUMS: usize = 12;

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

/// An instruction, many times over.
struct Instruction {
    /// Runs so many rounds of [`SUMS`] of it.
    run: fn(usize),
    /// Operations of one.
    ops: usize,
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

/// Reads every byte, in registers as wide as they come.
fn read(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        return unsafe { instructions::read(bytes) };
    }
    let mut sums = [0; 8];
    for chunk in bytes.chunks_exact(64) {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }
    black_box(sums);
}

/// A limit is what can be reached, so the best run is the one that counts.
fn fastest(num_runs: usize, run: impl FnMut() -> f64) -> f64 {
    std::iter::repeat_with(run).take(num_runs).fold(f64::INFINITY, f64::min)
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{Instruction, SUMS};

    pub(super) fn f32_multiply_add() -> Option<Instruction> {
        // SAFETY: run only if the processor has it.
        let run = |rounds| unsafe { multiply_adds(rounds) };
        is_x86_feature_detected!("avx512f").then_some(Instruction { run, ops: 2 * 16 })
    }

    pub(super) fn bf16_dot() -> Option<Instruction> {
        // SAFETY: as above.
        let run = |rounds| unsafe { bf16_dots(rounds) };
        let has = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        has.then_some(Instruction { run, ops: 2 * 32 })
    }

    pub(super) fn int8_dot() -> Option<Instruction> {
        // SAFETY: as above.
        let run = |rounds| unsafe { int8_dots(rounds) };
        let has = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
        has.then_some(Instruction { run, ops: 2 * 64 })
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn read(bytes: &[u8]) {
        let mut sums = [_mm512_setzero_si512(); 4];
        for chunk in bytes.chunks_exact(256) {
            for (index, sum) in sums.iter_mut().enumerate() {
                // SAFETY: 64 bytes of the 256 from `index * 64` on.
                let words = unsafe { _mm512_loadu_si512(chunk.as_ptr().add(index * 64).cast()) };
                *sum = _mm512_xor_si512(*sum, words);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn multiply_adds(rounds: usize) {
        let (factor, addend) = black_box((_mm512_set1_ps(0.999_999), _mm512_set1_ps(1e-9)));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, addend);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    fn bf16_dots(rounds: usize) {
        let halves = black_box((_mm512_set1_epi16(0x3f80), _mm512_set1_epi16(0x3c00)));
        // SAFETY: the same 512 bits.
        let (left, right) = unsafe {
            (
                std::mem::transmute::<__m512i, __m512bh>(halves.0),
                std::mem::transmute::<__m512i, __m512bh>(halves.1),
            )
        };
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, left, right);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    fn int8_dots(rounds: usize) {
        let (left, right) = black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(2)));
        let mut sums = [_mm512_set1_epi32(1); SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, left, right);
            }
        }
        black_box(sums);
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod instructions {
    use super::Instruction;

    pub(super) fn f32_multiply_add() -> Option<Instruction> {
        None
    }

    pub(super) fn bf16_dot() -> Option<Instruction> {
        None
    }

    pub(super) fn int8_dot() -> Option<Instruction> {
        None
    }
}
