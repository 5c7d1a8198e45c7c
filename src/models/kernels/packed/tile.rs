//! A tile: some rows by one panel. What a kernel is given, which kernels there are, and which one this machine takes.

use super::Kind;
use super::input::{GroupBias, InputKind};
#[cfg(target_arch = "aarch64")]
use super::neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use super::{float, portable};
use crate::kernels::level::Level;

/// What a tile's kernel works on. How many rows it has is the kernel's.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The panel, from the first step that is taken.
    pub(super) panel: *const u8,
    /// The first row of the input, from the same step; the others follow at `x_stride` bytes.
    pub(super) x: *const u8,
    pub(super) x_stride: usize,
    /// Scale and bias of each group of the first row, or of the row; the other rows' follow at `group_stride`.
    pub(super) scales: *const f32,
    pub(super) biases: *const i32,
    pub(super) group_stride: usize,
    /// How many steps of the panel are taken.
    pub(super) steps: usize,
    /// `[rows][PANEL]`: what came of the steps before, if any, and what comes of these.
    pub(super) sums: *mut f32,
    /// Whether there were no steps before.
    pub(super) is_first: bool,
    /// What is computed later.
    pub(super) ahead: Ahead,
}

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// What is brought near while a tile is computed: at each of its steps so many lines, and `stride` bytes on. Never read, so
/// it may lie anywhere.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) at: *const u8,
    pub(super) lines: usize,
    pub(super) stride: usize,
}

impl Ahead {
    /// What is due at a step of `LINES`.
    #[inline(always)]
    pub(super) fn bring<const LINES: usize>(&mut self) {
        for line in 0..LINES {
            bring(self.at.wrapping_add(line.wrapping_mul(LINE)));
        }
        self.at = self.at.wrapping_add(self.stride);
    }

    /// What is due at a step of any number of lines.
    #[inline(always)]
    pub(super) fn bring_all(&mut self) {
        for line in 0..self.lines {
            bring(self.at.wrapping_add(line.wrapping_mul(LINE)));
        }
        self.at = self.at.wrapping_add(self.stride);
    }
}

/// Asks for a line, as far as the second-level cache. Of an address that is not there, it does nothing.
#[inline(always)]
fn bring(_line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 machine has SSE.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(_line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: it reads and writes nothing that a program sees.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{}]", in(reg) _line, options(readonly, nostack, preserves_flags));
    }
}

/// Computes a tile.
///
/// # Safety
/// The machine has what the kernel was compiled for, and the pointers are valid for its rows, the panel's lanes and the
/// tile's steps.
pub(super) type TileFn = unsafe fn(&Tile);

/// The kernels of one kind on one level: for 1, 2, 3, … rows.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// What activations are turned to.
    pub(super) input: InputKind,
    /// By number of rows, from one.
    pub(super) by_rows: &'static [TileFn],
    /// Whether a tile can take a part of the steps and go on later.
    pub(super) splits: bool,
}

impl Kernels {
    /// Those of a kind whose activations are bytes.
    pub(super) fn of_bytes(kind: Kind, by_rows: &'static [TileFn]) -> Self {
        let input = match kind {
            Kind::Q8 => InputKind::Int8Groups(GroupBias::Times128),
            Kind::Q4 => InputKind::Int8Groups(GroupBias::Times8),
            Kind::Q4Affine => InputKind::Int8Groups(GroupBias::Sum),
            _ => InputKind::Int8Rows,
        };
        Self { input, by_rows, splits: false }
    }
}

impl Level {
    /// The best level below this one whose kernels for floats take activations as they are.
    pub(super) fn without_rounding(self) -> Self {
        #[cfg(target_arch = "x86_64")]
        return self.min(Self::Avx512Vnni);
        #[cfg(target_arch = "aarch64")]
        return self.min(Self::NeonDotprod);
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        self
    }

    /// The kernels of a kind on this level.
    pub(super) fn kernels(self, kind: Kind) -> Kernels {
        #[cfg(target_arch = "x86_64")]
        {
            let floats = matches!(kind, Kind::F32 | Kind::F16 | Kind::Bf16);
            match kind {
                Kind::Bf16 if self >= Self::Avx512Bf16 => return avx512::BF16,
                _ if floats && self >= Self::Avx512 => return float::avx512(kind),
                _ if floats && self >= Self::Avx2 => return float::avx2(kind),
                Kind::Int8 if self >= Self::Avx512Vnni => return avx512::INT8,
                Kind::Q8 if self >= Self::Avx512Vnni => return avx512::Q8,
                Kind::Q4 if self >= Self::Avx512Vnni => return avx512::Q4,
                Kind::Q4Affine if self >= Self::Avx512Vnni => return avx512::Q4_AFFINE,
                _ if !floats && self == Self::AvxVnni => return avx2::vnni(kind),
                // AVX-512 without its dot products has nothing for bytes that AVX2 lacks.
                _ if !floats && self >= Self::Avx2 => return avx2::plain(kind),
                _ => {}
            }
        }
        #[cfg(target_arch = "aarch64")]
        match kind {
            Kind::Bf16 if self >= Self::NeonBf16 => return neon::BF16,
            Kind::F32 | Kind::F16 | Kind::Bf16 if self >= Self::Neon => return float::neon(kind),
            _ if self >= Self::NeonDotprod => return neon::dotprod(kind),
            _ if self >= Self::Neon => return neon::plain(kind),
            _ => {}
        }
        match kind {
            Kind::F32 | Kind::F16 | Kind::Bf16 => float::portable(kind),
            Kind::Int8 | Kind::Q8 | Kind::Q4 | Kind::Q4Affine => portable::bytes(kind),
        }
    }
}
