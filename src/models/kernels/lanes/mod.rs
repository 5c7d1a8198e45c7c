//! Sixteen `f32` side by side, on whatever the machine has, and the choice of it at run time.
//!
//! A kernel is written once over [`Lanes`] and compiled for each instruction set; [`dispatch`] picks one. All of them
//! keep the same sixteen partial sums and add them up in the same tree, so that the instruction set changes a result
//! only where a machine has no fused multiply-add.
//!
//! On x86 memory is read and written by the masked instructions with every lane on, which compile to the plain ones:
//! the plain intrinsics go through `ptr::read_unaligned`, whose checks in a build with debug assertions (our tests, and
//! `cargo run`) cost more than the arithmetic.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::{bf16, f16};

use super::level::Level;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Number of lanes.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`.
///
/// # Safety
/// Methods may only be called where the instruction set of the type is enabled, which [`dispatch`] sees to; pointers
/// must be valid for sixteen elements.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Lanes: Copy {
    /// Whether there are registers for a tile of six rows by four outputs.
    const MANY_REGISTERS: bool;

    /// All zero.
    unsafe fn zero() -> Self;
    /// All the same.
    unsafe fn splat(value: f32) -> Self;
    /// All the one from memory, of which only one is read.
    unsafe fn splat_from(from: *const f32) -> Self;
    /// From memory.
    unsafe fn load_f32(from: *const f32) -> Self;
    /// From memory, widened.
    unsafe fn load_bf16(from: *const bf16) -> Self;
    /// From memory, widened.
    unsafe fn load_f16(from: *const f16) -> Self;
    /// From memory, widened.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Sixteen pairs of bf16 from memory, widened: the first of each, and the second.
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self);
    /// To memory.
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`, lane by lane.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sum of the lanes: halves onto each other, four times.
    unsafe fn sum(self) -> f32;
}

/// A type that weights are kept in.
pub(crate) trait Element: Copy + Send + Sync {
    /// Zero, for padding.
    const ZERO: Self;

    /// The value.
    fn widen(self) -> f32;

    /// Sixteen from memory.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L;
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f32(from) }
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(from) }
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;

    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(from) }
    }
}

impl Element for i8 {
    const ZERO: Self = 0;

    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_i8(from) }
    }
}

/// A kernel's body, generic over the lanes it is compiled with. `run` and all it calls must be `#[inline(always)]`, or
/// they are compiled without the instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// The body.
    ///
    /// # Safety
    /// Only to be called by [`dispatch`].
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Runs a kernel on the instruction set of the level that was chosen.
#[inline]
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    match Level::chosen() {
        // SAFETY: `Portable` needs nothing.
        Level::Portable => unsafe { kernel.run::<Portable>() },
        // SAFETY: `Level::available` saw the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::AvxVnni => unsafe { x86::run_avx2(kernel) },
        // SAFETY: `Level::available` saw the features.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: every machine of the target has NEON.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDotprod | Level::NeonBf16 => unsafe { kernel.run::<Neon>() },
    }
}

/// Lanes in an array; the compiler makes of it what the target has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; LANES]);

/// `a * b + c`, fused where that is an instruction and not a library call.
#[inline(always)]
fn add_product(c: f32, a: f32, b: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

impl Lanes for Portable {
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; LANES])
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    unsafe fn splat_from(from: *const f32) -> Self {
        // SAFETY: the caller's promise of one element.
        Self([unsafe { from.read_unaligned() }; LANES])
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self {
        // SAFETY: the caller's promise of sixteen elements.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: the caller's promise of sixteen elements.
        Self(unsafe { from.cast::<[bf16; LANES]>().read_unaligned() }.map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: the caller's promise of sixteen elements.
        Self(unsafe { from.cast::<[f16; LANES]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: the caller's promise of sixteen elements.
        Self(unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self, Self) {
        // SAFETY: the caller's promise of sixteen pairs.
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() }.map(u32::from_le);
        // A bf16 is the upper half of an f32.
        (
            Self(pairs.map(|pair| f32::from_bits(pair << 16))),
            Self(pairs.map(|pair| f32::from_bits(pair & !0xFFFF))),
        )
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise of sixteen elements.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(mut self, a: Self, b: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] = add_product(self.0[lane], a.0[lane], b.0[lane]);
        }
        self
    }

    #[inline(always)]
    unsafe fn sum(mut self) -> f32 {
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                self.0[lane] += self.0[lane + half];
            }
        }
        self.0[0]
    }
}
