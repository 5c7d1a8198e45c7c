//! What the actors know of memory: how much may be used and how much is, as the system says. The root hands it in, so that no
//! arrow points to `/proc`.
//!
//! [`make_room`] keeps a load from beginning that could not end: a process that is out of memory is not told, it is killed, and
//! every stream with it.

use std::fmt;
use std::sync::Arc;

use candlewick_engine::{LoadError, LoadOptions, Quantization};
use candlewick_protocol::ModelRef;
use ractor::ActorRef;
use tokio::sync::oneshot;

use crate::pressure::Level;
use crate::registry::RegistryMsg;
use crate::tree::{Tree, tell};

/// Memory as the system has it.
pub trait Memory: Send + Sync {
    /// Every limit that holds for this process, with what is used of it. May read small files.
    fn read(&self) -> Vec<MemoryUse>;

    /// Gives back to the system what the allocator keeps for later.
    fn give_back(&self);
}

/// One limit, and what is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Whose limit it is, in words: "the machine", "the container", …
    pub whose: &'static str,
    /// Bytes that there are.
    pub limit_bytes: u64,
    /// Bytes of them that cannot be had any more.
    pub used_bytes: u64,
}

impl MemoryUse {
    /// Bytes that can still be had.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }

    /// The part that is used, from 0 to 1 (and beyond, where a limit was lowered).
    pub fn share(&self) -> f64 {
        self.used_bytes as f64 / self.limit_bytes.max(1) as f64
    }
}

/// Bytes as people read them.
pub struct Megabytes(pub u64);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB", self.0.div_ceil(1_000_000))
    }
}

/// Beside its weights, what a model takes at least: tokenizer, the first blocks of its cache, what a step works in.
const OVERHEAD_BYTES: u64 = 32 << 20;

/// What weights of so many bytes, as they are stored, take in memory: at least, since how they are stored is not known before
/// they are here. Quantising makes them smaller.
pub fn weight_bytes_at_least(stored_bytes: u64, is_gguf: bool, options: &LoadOptions) -> u64 {
    // Of a weight in bf16, with its share of scales.
    let sixteenths = match options.quantization {
        _ if is_gguf => 16.0,
        None => 16.0,
        Some(Quantization::Int8) => 8.0,
        Some(Quantization::Q8_0) => 8.5,
        Some(Quantization::Q4_0) => 4.5,
        Some(Quantization::Q4_1) => 5.0,
    };
    (stored_bytes as f64 * sixteenths / 16.0) as u64
}

/// Waits until a model's weights fit, unloading models that nobody uses, the one that was idle longest first.
///
/// # Errors
/// `OutOfMemory`, with the numbers, if they still do not fit.
pub async fn make_room(
    tree: &Arc<Tree>,
    registry: &ActorRef<RegistryMsg>,
    model: &ModelRef,
    weight_bytes: u64,
) -> Result<(), LoadError> {
    let Some(memory) = tree.memory.clone() else { return Ok(()) };
    let needed = weight_bytes.saturating_add(OVERHEAD_BYTES);
    loop {
        let memory = memory.clone();
        let uses = tokio::task::spawn_blocking(move || memory.read()).await.unwrap_or_default();
        let Some(tightest) = uses.into_iter().min_by_key(MemoryUse::free_bytes) else { return Ok(()) };
        // What would bring us to where idle models are unloaded is not loaded: it would be the next to go.
        let kept_free = tightest.limit_bytes as f64 * (1.0 - Level::UnloadIdle.threshold());
        if needed.saturating_add(kept_free as u64) <= tightest.free_bytes() {
            return Ok(());
        }
        let (reply, is_freed) = oneshot::channel();
        tell(registry, RegistryMsg::EvictIdle(reply.into()));
        if !is_freed.await.unwrap_or(false) {
            return Err(LoadError::OutOfMemory(format!(
                "model '{model}' takes at least {} of memory, {} of them for its weights, and {} are free of the {} that {} has, of \
                 which {} stay free; unload another model, quantise this one (--quantization), or choose a smaller one",
                Megabytes(needed),
                Megabytes(weight_bytes),
                Megabytes(tightest.free_bytes()),
                Megabytes(tightest.limit_bytes),
                tightest.whose,
                Megabytes(kept_free as u64),
            )));
        }
    }
}

/// Gives memory back when it is dropped: the last field of what is large.
pub struct GiveBack(pub Option<Arc<dyn Memory>>);

impl Drop for GiveBack {
    fn drop(&mut self) {
        if let Some(memory) = &self.0 {
            memory.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quantised_takes_less_than_what_is_stored_and_a_gguf_file_stays_as_it_is() {
        let of = |quantization, is_gguf| {
            weight_bytes_at_least(1600, is_gguf, &LoadOptions { quantization, ..LoadOptions::default() })
        };
        assert_eq!(of(None, false), 1600);
        assert_eq!(of(Some(Quantization::Int8), false), 800);
        assert_eq!(of(Some(Quantization::Q4_0), false), 450);
        assert_eq!(of(Some(Quantization::Q4_0), true), 1600);
    }

    #[test]
    fn a_limit_that_was_lowered_has_nothing_free() {
        let lowered = MemoryUse { whose: "the container", limit_bytes: 10, used_bytes: 15 };
        assert_eq!((lowered.free_bytes(), lowered.share()), (0, 1.5));
    }
}
