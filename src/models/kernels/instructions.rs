//! What single instructions of the processor reach, to be measured: bytes read, multiply-adds.

use std::hint::black_box;

/// Multiply-adds that are in flight at once: twelve independent sums hide the latency of two units.
pub(crate) const SUMS: usize = 12;

/// An instruction, many times over.
pub(crate) struct Instruction {
    /// Runs so many rounds of [`SUMS`] of it.
    pub(crate) run: fn(usize),
    /// Operations of one.
    pub(crate) ops: usize,
}

/// Reads every byte, in registers as wide as they come.
pub(crate) fn read(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it.
        return unsafe { wide::read(bytes) };
    }
    let mut sums = [0; 8];
    for chunk in bytes.chunks_exact(64) {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *sum ^= u64::from_ne_bytes(*word);
        }
    }
    black_box(sums);
}

pub(crate) use wide::{bf16_dot, f32_multiply_add, int8_dot};

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{Instruction, SUMS};

    pub(crate) fn f32_multiply_add() -> Option<Instruction> {
        // SAFETY: run only if the processor has it.
        let run = |rounds| unsafe { multiply_adds(rounds) };
        is_x86_feature_detected!("avx512f").then_some(Instruction { run, ops: 2 * 16 })
    }

    pub(crate) fn bf16_dot() -> Option<Instruction> {
        // SAFETY: as above.
        let run = |rounds| unsafe { bf16_dots(rounds) };
        let has = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw");
        has.then_some(Instruction { run, ops: 2 * 32 })
    }

    pub(crate) fn int8_dot() -> Option<Instruction> {
        // SAFETY: as above.
        let run = |rounds| unsafe { int8_dots(rounds) };
        let has = is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512bw");
        has.then_some(Instruction { run, ops: 2 * 64 })
    }

    #[target_feature(enable = "avx512f")]
    pub(crate) fn read(bytes: &[u8]) {
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
mod wide {
    use super::Instruction;

    pub(crate) fn f32_multiply_add() -> Option<Instruction> {
        None
    }

    pub(crate) fn bf16_dot() -> Option<Instruction> {
        None
    }

    pub(crate) fn int8_dot() -> Option<Instruction> {
        None
    }
}
