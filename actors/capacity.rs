//! How large a model's KV cache is, and with it the longest context it can answer. Pure.

use candlewick_engine::{KvCacheShape, ModelInfo};

use crate::TreeSettings;

/// What a model can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Size of the KV cache.
    pub cache: KvCacheShape,
    /// Longest context in tokens, prompt and output together.
    pub max_model_len: usize,
}

impl Capacity {
    /// As many blocks as the memory set aside holds, a draft model's cache of the same shape beside them, but not more than `max_running` contexts of full length could fill;
    /// the context is what the model was made for, unless a setting says otherwise (it may also be longer: whoever sets it
    /// knows what the model does there) or the cache is smaller.
    pub fn of(info: &ModelInfo, draft: Option<&ModelInfo>, settings: &TreeSettings) -> Self {
        let block_size = settings.block_size.max(1);
        if let Some(encoder) = &info.encoder {
            // It has no cache, and no words for positions beyond its last.
            let max_model_len = settings.max_model_len.unwrap_or(usize::MAX).min(encoder.max_tokens);
            return Self { cache: KvCacheShape { num_blocks: 0, block_size: 0 }, max_model_len };
        }
        let wanted_len = settings.max_model_len.unwrap_or(info.max_position_embeddings);
        let affordable = settings.num_blocks.unwrap_or_else(|| {
            let of_draft = draft.map_or(0, |draft| draft.kv_bytes_per_token);
            let bytes_per_token = info.kv_bytes_per_token.saturating_add(of_draft).max(1);
            let bytes_per_block = bytes_per_token.saturating_mul(block_size as u64);
            usize::try_from(settings.kv_cache_bytes / bytes_per_block).unwrap_or(usize::MAX)
        });
        let useful = wanted_len.div_ceil(block_size).saturating_mul(settings.max_running.max(1));
        let num_blocks = affordable.min(useful).clamp(1, u32::MAX as usize);
        Self {
            cache: KvCacheShape {
                num_blocks: u32::try_from(num_blocks).expect("clamped to u32"),
                block_size: u32::try_from(block_size).unwrap_or(u32::MAX),
            },
            max_model_len: wanted_len.min(num_blocks.saturating_mul(block_size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings_for_tests;

    fn info(max_position_embeddings: usize, kv_bytes_per_token: u64) -> ModelInfo {
        ModelInfo {
            family: "fake".into(),
            max_position_embeddings,
            vocab_size: 10,
            num_parameters: 0,
            weight_bytes: 0,
            kv_bytes_per_token,
            encoder: None,
        }
    }

    #[track_caller]
    fn check(info: ModelInfo, change: impl FnOnce(&mut TreeSettings), num_blocks: u32, max_model_len: usize) {
        let mut settings = TreeSettings { block_size: 16, max_running: 4, ..settings_for_tests() };
        change(&mut settings);
        let capacity = Capacity::of(&info, None, &settings);
        assert_eq!((capacity.cache.num_blocks, capacity.max_model_len), (num_blocks, max_model_len));
    }

    #[test]
    fn the_cache_is_as_large_as_its_memory() {
        check(info(4096, 100), |settings| settings.kv_cache_bytes = 1600 * 300, 300, 4096);
    }

    #[test]
    fn a_small_cache_shortens_the_context() {
        check(info(4096, 100), |settings| settings.kv_cache_bytes = 1600 * 3, 3, 48);
        check(info(4096, 100), |settings| settings.kv_cache_bytes = 0, 1, 16);
        check(info(4096, 100), |settings| settings.num_blocks = Some(7), 7, 112);
    }

    #[test]
    fn nobody_needs_more_than_all_contexts_full() {
        check(info(100, 1), |settings| settings.kv_cache_bytes = u64::MAX, 28, 100);
        check(info(100, 0), |settings| settings.max_model_len = Some(32), 8, 32);
    }

    #[test]
    fn a_draft_model_has_its_share() {
        let settings = TreeSettings { block_size: 16, kv_cache_bytes: 1600 * 300, ..settings_for_tests() };
        let capacity = Capacity::of(&info(4096, 100), Some(&info(512, 50)), &settings);
        assert_eq!((capacity.cache.num_blocks, capacity.max_model_len), (200, 3200));
    }

    #[test]
    fn a_setting_may_stretch_the_context() {
        check(info(100, 0), |settings| settings.max_model_len = Some(320), 80, 320);
    }
}
