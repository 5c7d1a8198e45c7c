//! What is done to logits before a token is chosen: masks, biases and penalties, in vLLM's order.
//!
//! A request that asks for none of it has its logits left where they are: nothing is copied.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;

use candlewick_engine::{Distribution, SampleSpec, SamplingParams, TokenHistory};

/// Which masks are laid over the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Masks {
    /// All that the request asks for.
    All,
    /// Only the list of tokens that may come.
    Allowed,
}

/// Logits, copied once something has to be changed.
pub(super) struct Adjusted<'a> {
    raw: &'a [f32],
    own: Option<Vec<f32>>,
    is_masked: bool,
}

impl Deref for Adjusted<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.own.as_deref().unwrap_or(self.raw)
    }
}

impl Adjusted<'_> {
    /// Whether a token was masked: only then can there be none left.
    pub(super) fn is_masked(&self) -> bool {
        self.is_masked
    }

    fn own(&mut self) -> &mut Vec<f32> {
        self.own.get_or_insert_with(|| self.raw.to_vec())
    }

    fn mask(&mut self, token_id: u32) {
        self.is_masked = true;
        if let Some(logit) = self.own().get_mut(token_id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }

    fn mask_all_but(&mut self, token_ids: &[u32]) {
        let mut kept = vec![f32::NEG_INFINITY; self.raw.len()];
        for &token_id in token_ids {
            if let (Some(kept), Some(&logit)) =
                (kept.get_mut(token_id as usize), self.raw.get(token_id as usize))
            {
                *kept = logit;
            }
        }
        (self.own, self.is_masked) = (Some(kept), true);
    }
}

/// Whether [`adjust`] would change nothing, so that nobody need look at the logits for it.
pub(super) fn leaves_alone(spec: &SampleSpec) -> bool {
    let params = &spec.params;
    let has_ends = !params.eos_token_ids.is_empty() || !params.stop_token_ids.is_empty();
    spec.forced.is_none()
        && params.allowed_token_ids.is_empty()
        && params.bad_words.is_empty()
        && params.logit_bias.is_empty()
        && spec.history.is_none()
        && !(has_ends && spec.num_generated < params.min_tokens)
}

/// The logits as the request wants them.
pub(super) fn adjust<'a>(logits: &'a [f32], spec: &SampleSpec, masks: Masks) -> Adjusted<'a> {
    let params = &spec.params;
    let mut adjusted = Adjusted { raw: logits, own: None, is_masked: false };
    if let Some(forced) = spec.forced.filter(|_| params.logprobs_of == Distribution::Adjusted) {
        // A search goes by what may come, and there is but one.
        adjusted.mask_all_but(&[forced]);
        return adjusted;
    }
    if !params.allowed_token_ids.is_empty() {
        adjusted.mask_all_but(&params.allowed_token_ids);
    }
    if masks == Masks::All {
        mask_bad_words(&mut adjusted, params, spec.history.as_ref());
        if let Some(history) = spec.history.as_ref().filter(|_| params.no_repeat_ngram_size > 0) {
            mask_repeated(&mut adjusted, params.no_repeat_ngram_size as usize, history);
        }
        if spec.num_generated < params.min_tokens {
            for &token_id in params.eos_token_ids.iter().chain(&params.stop_token_ids) {
                adjusted.mask(token_id);
            }
        }
    }
    for (&token_id, bias) in &params.logit_bias {
        if let Some(logit) = adjusted.own().get_mut(token_id as usize) {
            *logit += bias;
        }
    }
    if let Some(history) = &spec.history {
        penalize(&mut adjusted, params, history);
    }
    adjusted
}

/// The last token of each bad word whose other tokens the output ends with.
fn mask_bad_words(adjusted: &mut Adjusted<'_>, params: &SamplingParams, history: Option<&TokenHistory>) {
    let output = history.map(|history| history.output.as_slice()).unwrap_or_default();
    for word in &params.bad_words {
        if let Some((&last, before)) = word.split_last()
            && output.ends_with(before)
        {
            adjusted.mask(last);
        }
    }
}

/// Whatever would make a run of `size` tokens come again.
fn mask_repeated(adjusted: &mut Adjusted<'_>, size: usize, history: &TokenHistory) {
    let tokens: Vec<u32> = history.prompt.iter().chain(&history.output).copied().collect();
    let Some(start) = (tokens.len() + 1).checked_sub(size) else { return };
    let end = &tokens[start..];
    for run in tokens.windows(size) {
        if run.starts_with(end) {
            adjusted.mask(run[size - 1]);
        }
    }
}

/// Repetition on prompt and output, then frequency and presence on the output.
fn penalize(adjusted: &mut Adjusted<'_>, params: &SamplingParams, history: &TokenHistory) {
    if params.repetition_penalty != 1.0 {
        let seen: HashSet<u32> = history.prompt.iter().chain(&history.output).copied().collect();
        for id in seen {
            if let Some(logit) = adjusted.own().get_mut(id as usize) {
                *logit = if *logit > 0.0 {
                    *logit / params.repetition_penalty
                } else {
                    *logit * params.repetition_penalty
                };
            }
        }
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for &id in &history.output {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            if let Some(logit) = adjusted.own().get_mut(id as usize) {
                *logit -= params.frequency_penalty * count as f32;
                *logit -= params.presence_penalty;
            }
        }
    }
}
