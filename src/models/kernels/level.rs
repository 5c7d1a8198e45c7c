//! What a machine can do, and the choice of it: once, for everything that computes.

use std::fmt;
use std::sync::OnceLock;

/// What a machine can do, in ascending order. A level has all that is below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// What every machine of the target has.
    Portable,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with dot products of bytes in 256 bits. Machines with AVX-512 need not have it.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with F, BW, VL, DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// The same with dot products of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// NEON, which every 64-bit Arm has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The same with dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDotprod,
    /// The same with dot products of bf16.
    #[cfg(target_arch = "aarch64")]
    NeonBf16,
}

/// The level that kernels run on, once it is chosen.
static CHOSEN: OnceLock<Level> = OnceLock::new();

impl Level {
    /// The level that kernels run on: the best that this machine has, or the one that was [asked for](Self::choose).
    #[inline]
    pub(crate) fn chosen() -> Self {
        #[cfg(test)]
        if let Some(level) = tests::THREAD.get() {
            return level;
        }
        *CHOSEN.get_or_init(|| *Self::available().last().expect("the portable one is always there"))
    }

    /// Makes a level the one that kernels run on, for the whole process: results of two levels differ in their last bits.
    /// The error says which levels there are, or which one was chosen before.
    pub(crate) fn choose(name: &str) -> Result<(), String> {
        let available = Self::available();
        let Some(&level) = available.iter().find(|level| level.name() == name) else {
            let names: Vec<_> = available.iter().map(|level| level.name()).collect();
            return Err(format!("this machine has no kernels {name:?}; it has {}", names.join(", ")));
        };
        match *CHOSEN.get_or_init(|| level) {
            chosen if chosen == level => Ok(()),
            chosen => Err(format!("kernels {chosen} are in use already; {level} would give other last bits")),
        }
    }

    /// What the level is called in settings.
    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => "neon-dotprod",
            #[cfg(target_arch = "aarch64")]
            Self::NeonBf16 => "neon-bf16",
        }
    }

    /// All that this machine has, best last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            let vnni = avx512 && is_x86_feature_detected!("avx512vnni");
            let bf16 = vnni && is_x86_feature_detected!("avx512bf16");
            for (has, level) in [
                (avx2, Self::Avx2),
                (avx2 && is_x86_feature_detected!("avxvnni"), Self::AvxVnni),
                (avx512, Self::Avx512),
                (vnni, Self::Avx512Vnni),
                (bf16, Self::Avx512Bf16),
            ] {
                if has {
                    levels.push(level);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
            let bf16 = dotprod && std::arch::is_aarch64_feature_detected!("bf16");
            levels.push(Self::Neon);
            levels.extend(dotprod.then_some(Self::NeonDotprod));
            levels.extend(bf16.then_some(Self::NeonBf16));
        }
        levels
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// The level of kernels that this thread runs, where a test wants one.
        pub(super) static THREAD: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// Runs a test on every level of this machine, as far as it stays on its thread.
    pub(crate) fn on_every_level(test: impl Fn()) {
        for level in Level::available() {
            THREAD.set(Some(level));
            test();
        }
        THREAD.set(None);
    }

    #[test]
    fn a_level_that_is_not_there_is_refused_with_those_that_are() {
        let refused = Level::choose("avx1024").unwrap_err();
        for level in Level::available() {
            assert!(refused.contains(level.name()), "{refused}");
        }
    }

    #[test]
    fn two_levels_are_not_mixed_in_one_process() {
        let chosen = Level::chosen();
        for level in Level::available() {
            assert_eq!(Level::choose(level.name()).is_ok(), level == chosen, "{level} after {chosen}");
        }
    }
}
