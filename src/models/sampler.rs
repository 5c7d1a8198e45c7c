//! From one row of logits to one token.
//!
//! The order is vLLM's: what is reported of log-probabilities is the raw distribution; then end tokens are masked while
//! `min_tokens` is not reached, then `logit_bias`, then repetition, frequency and presence penalties; a greedy choice is
//! made here; then temperature, `min_p`, `top_k`, `top_p`, and the draw. Everywhere, of equals the lower id comes first.
//!
//! Sampling depends on the logits and the [`SampleSpec`] and on nothing else.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use candlewick_engine::{SampleSpec, SampledToken, SamplingParams, StepError, TokenHistory, TokenScore};

use crate::kernels::exp::{log_sum_exp, max};
use crate::rng;

/// Samples from the logits of one row.
pub(crate) fn sample(logits: &[f32], spec: &SampleSpec) -> Result<SampledToken, StepError> {
    check(logits)?;
    let params = &spec.params;
    let adjusted = adjust(logits, spec);
    let token_id = if params.is_greedy() {
        argmax(&adjusted)
    } else {
        draw(&adjusted, params, rng::uniform(params.seed, spec.choice, spec.num_generated))
    };
    let token_id = token_id.ok_or_else(|| StepError::Compute("every token is masked out".into()))?;
    let score = params.logprobs.map(|num_top| score_checked(logits, token_id, num_top));
    Ok(SampledToken { token_id, score })
}

/// How likely a token is by these logits, with the `num_top` likeliest.
pub(crate) fn score(logits: &[f32], token_id: u32, num_top: u32) -> Result<TokenScore, StepError> {
    check(logits)?;
    Ok(score_checked(logits, token_id, num_top))
}

fn score_checked(logits: &[f32], token_id: u32, num_top: u32) -> TokenScore {
    let normalizer = log_sum_exp(logits);
    let mut best: Vec<(u32, f32)> = ids(logits).collect();
    keep_best(&mut best, num_top as usize);
    best.sort_unstable_by(best_first);
    for (_, logit) in &mut best {
        *logit -= normalizer;
    }
    TokenScore { logprob: logits[token_id as usize] - normalizer, top: best }
}

fn check(logits: &[f32]) -> Result<(), StepError> {
    let largest = max(logits);
    if largest.is_finite() && !logits.iter().any(|x| x.is_nan()) {
        return Ok(());
    }
    let num_nan = logits.iter().filter(|x| x.is_nan()).count();
    Err(StepError::Compute(format!(
        "the logits are not numbers: {num_nan} of {} are NaN, and the largest is {largest}",
        logits.len()
    )))
}

/// Logits with their ids.
fn ids(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    logits.iter().enumerate().map(|(id, &logit)| (id as u32, logit))
}

/// Larger first; of equals, the lower id.
fn best_first(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps the `num` best, in no particular order.
fn keep_best(candidates: &mut Vec<(u32, f32)>, num: usize) {
    if num == 0 {
        candidates.clear();
    } else if num < candidates.len() {
        candidates.select_nth_unstable_by(num - 1, best_first);
        candidates.truncate(num);
    }
}

/// Masks, biases and penalties.
fn adjust<'a>(logits: &'a [f32], spec: &SampleSpec) -> Cow<'a, [f32]> {
    let params = &spec.params;
    let mut logits = Cow::Borrowed(logits);
    if spec.num_generated < params.min_tokens {
        for &id in params.eos_token_ids.iter().chain(&params.stop_token_ids) {
            if (id as usize) < logits.len() {
                logits.to_mut()[id as usize] = f32::NEG_INFINITY;
            }
        }
    }
    for (&id, bias) in &params.logit_bias {
        if (id as usize) < logits.len() {
            logits.to_mut()[id as usize] += bias;
        }
    }
    if let Some(history) = &spec.history {
        penalize(logits.to_mut(), params, history);
    }
    logits
}

/// Repetition on prompt and output, then frequency and presence on the output.
fn penalize(logits: &mut [f32], params: &SamplingParams, history: &TokenHistory) {
    if params.repetition_penalty != 1.0 {
        let seen: HashSet<u32> = history.prompt.iter().chain(&history.output).copied().collect();
        for id in seen {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            }
        }
    }
    if params.frequency_penalty != 0.0 || params.presence_penalty != 0.0 {
        let mut counts: HashMap<u32, u32> = HashMap::new();
        for &id in &history.output {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= params.frequency_penalty * count as f32;
                *logit -= params.presence_penalty;
            }
        }
    }
}

/// The best token; `None` if all are masked.
fn argmax(logits: &[f32]) -> Option<u32> {
    let best = ids(logits).reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    (best.1 > f32::NEG_INFINITY).then_some(best.0)
}

/// The token at `uniform` of the distribution that temperature and cuts leave; `None` if all are masked.
fn draw(logits: &[f32], params: &SamplingParams, uniform: f64) -> Option<u32> {
    let best = logits[argmax(logits)? as usize];
    // Relative to the best one, so that no temperature makes it overflow: the best has weight 1.
    let mut candidates: Vec<(u32, f32)> = ids(logits)
        .map(|(id, logit)| (id, ((logit - best) / params.temperature).exp()))
        .filter(|&(_, weight)| weight > 0.0 && weight >= params.min_p)
        .collect();
    if params.top_k > 0 {
        keep_best(&mut candidates, params.top_k as usize);
        // In order of id again, for the draw; a selection leaves them in no order that is promised.
        candidates.sort_unstable_by_key(|&(id, _)| id);
    }
    if params.top_p < 1.0 {
        keep_nucleus(&mut candidates, f64::from(params.top_p));
    }
    let total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let mut left = uniform * total;
    for &(id, weight) in &candidates {
        left -= f64::from(weight);
        if left < 0.0 {
            return Some(id);
        }
    }
    // Rounding can leave a crumb beyond the last one.
    candidates.last().map(|&(id, _)| id)
}

/// Keeps the fewest of the best whose weights reach `top_p` of the whole, at least one.
fn keep_nucleus(candidates: &mut Vec<(u32, f32)>, top_p: f64) {
    let total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
    // Those below this weight together weigh less than what the nucleus leaves out, so it is reached before them: they
    // need not be sorted.
    let negligible = total * (1.0 - top_p) / candidates.len() as f64;
    candidates.retain(|&(_, weight)| f64::from(weight) >= negligible || weight == 1.0);
    candidates.sort_unstable_by(best_first);
    let mut reached = 0.0;
    let needed = candidates.iter().position(|&(_, weight)| {
        reached += f64::from(weight);
        reached >= top_p * total
    });
    candidates.truncate(needed.map_or(candidates.len(), |last| last + 1));
}
