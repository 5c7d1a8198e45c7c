//! From one row of logits to one token.
//!
//! The order is vLLM's: what the form of the answer forbids is made impossible; what is reported of log-probabilities is
//! the raw distribution that this leaves (a search goes by the adjusted one); then `allowed_token_ids`, `bad_words` and
//! repeated n-grams, end tokens while `min_tokens` is not reached, `logit_bias`, and the repetition, frequency and presence
//! penalties (all in [`adjust`](mod@adjust)); a greedy choice is made here; then temperature, `min_p`, `top_k`, `top_p`, `typical_p`,
//! and the draw. Everywhere, of equals the lower id comes first.
//!
//! Sampling depends on the logits and the [`SampleSpec`] and on nothing else.

mod adjust;

use std::borrow::Cow;
use std::cmp::Ordering;

use candlewick_engine::{Distribution, SampleSpec, SampledToken, SamplingParams, StepError, TokenScore};

use self::adjust::{Masks, adjust, leaves_alone};
use crate::kernels::exp::{log_sum_exp, max};
use crate::rng;

/// What is told where masks and biases together leave no token.
const NOTHING_LEFT: &str = "no token may come next: the form of the answer, `min_tokens`, `logit_bias` and their like \
                            leave none";

/// Samples from the logits of one row. The inner error is one of this row alone: nothing may follow.
pub(crate) fn sample(logits: &[f32], spec: &SampleSpec) -> Result<Result<SampledToken, String>, StepError> {
    check(logits)?;
    let params = &spec.params;
    let logits = match spec.mask() {
        Ok(None) => Cow::Borrowed(logits),
        Ok(Some(mask)) => {
            let mut masked = logits.to_vec();
            let ends = params.eos_token_ids.iter().chain(&params.stop_token_ids).copied();
            mask.apply(&mut masked, ends);
            Cow::Owned(masked)
        }
        Err(why) => return Ok(Err(format!("the answer cannot be held to its form: {why}"))),
    };
    let logits = &*logits;
    let mut adjusted = adjust(logits, spec, Masks::All);
    if adjusted.is_masked() && argmax(&adjusted).is_none() {
        // Masks that leave nothing contradict each other, which is no fault of the model: the end of the output may
        // come after all, and so may words that should not. A list of the only tokens that may come is kept to.
        adjusted = adjust(logits, spec, Masks::Allowed);
    }
    let chosen = || match params.is_greedy() {
        true => argmax(&adjusted),
        false => draw(&adjusted, params, rng::uniform(params.seed, spec.choice, spec.num_generated)),
    };
    let token_id = spec.forced.or_else(chosen).or_else(|| argmax(logits));
    let Some(token_id) = token_id else { return Ok(Err(NOTHING_LEFT.into())) };
    let scored = match params.logprobs_of {
        Distribution::Raw => logits,
        Distribution::Adjusted => &adjusted,
    };
    let score =
        params.logprobs.map(|num_top| score_checked(scored, token_id, num_top, &params.logprob_token_ids));
    Ok(Ok(SampledToken { token_id, score }))
}

/// Whether [`sample`] takes the likeliest token and says nothing else, so that it need not be given the other logits.
pub(crate) fn takes_best(spec: &SampleSpec) -> bool {
    let params = &spec.params;
    params.is_greedy() && params.logprobs.is_none() && spec.grammar.is_none() && leaves_alone(spec)
}

/// How likely a token is by these logits, with the `num_top` likeliest.
pub(crate) fn score(logits: &[f32], token_id: u32, num_top: u32) -> Result<TokenScore, StepError> {
    check(logits)?;
    Ok(score_checked(logits, token_id, num_top, &[]))
}

/// With the likeliest come those tokens of `more` that are not among them.
fn score_checked(logits: &[f32], token_id: u32, num_top: u32, more: &[u32]) -> TokenScore {
    let normalizer = log_sum_exp(logits);
    let mut top: Vec<(u32, f32)> = match num_top {
        0 => Vec::new(),
        _ => ids(logits).collect(),
    };
    keep_best(&mut top, num_top as usize);
    top.sort_unstable_by(best_first);
    for &id in more {
        if !top.iter().any(|&(known, _)| known == id) {
            top.extend(logits.get(id as usize).map(|&logit| (id, logit)));
        }
    }
    for (_, logit) in &mut top {
        *logit -= normalizer;
    }
    let logit = logits[token_id as usize];
    let num_better = logits.iter().filter(|&&other| other > logit).count();
    let num_equal = logits[..token_id as usize].iter().filter(|&&other| other == logit).count();
    TokenScore { logprob: logit - normalizer, rank: (num_better + num_equal + 1) as u32, top }
}

fn check(logits: &[f32]) -> Result<(), StepError> {
    let largest = max(logits);
    // In pieces without an early end, which compilers turn into vector code.
    let has_nan = |piece: &[f32]| piece.iter().fold(false, |found, x| found | x.is_nan());
    if largest.is_finite() && !logits.chunks(256).any(has_nan) {
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

/// The best token; `None` if all are masked.
fn argmax(logits: &[f32]) -> Option<u32> {
    let best = max(logits);
    let id = logits.iter().position(|&logit| logit == best)?;
    (best > f32::NEG_INFINITY).then_some(id as u32)
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
    if params.typical_p < 1.0 {
        keep_typical(&mut candidates, f64::from(params.typical_p));
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

/// Keeps the fewest of the most typical whose weights reach `typical_p` of the whole, at least one. A token is typical if
/// its surprise is close to the entropy, which is the surprise to be expected (Meister et al., "Locally Typical
/// Sampling", 2023).
fn keep_typical(candidates: &mut Vec<(u32, f32)>, typical_p: f64) {
    let total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
    let surprise = |weight: f32| -(f64::from(weight) / total).ln();
    let entropy: f64 =
        candidates.iter().map(|&(_, weight)| f64::from(weight) / total * surprise(weight)).sum();
    let oddness = |weight: f32| (surprise(weight) - entropy).abs();
    candidates.sort_unstable_by(|a, b| oddness(a.1).total_cmp(&oddness(b.1)).then(a.0.cmp(&b.0)));
    let mut reached = 0.0;
    let needed = candidates.iter().position(|&(_, weight)| {
        reached += f64::from(weight);
        reached >= typical_p * total
    });
    candidates.truncate(needed.map_or(candidates.len(), |last| last + 1));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use candlewick_engine::TokenHistory;

    use super::*;

    fn params() -> SamplingParams {
        SamplingParams { seed: 1, ..SamplingParams::default() }
    }

    fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..params() }
    }

    fn spec(params: SamplingParams) -> SampleSpec {
        SampleSpec { params: Arc::new(params), ..SampleSpec::default() }
    }

    fn with_history(params: SamplingParams, prompt: &[u32], output: &[u32]) -> SampleSpec {
        SampleSpec {
            history: Some(TokenHistory { prompt: prompt.into(), output: output.to_vec() }),
            ..spec(params)
        }
    }

    fn token(logits: &[f32], spec: &SampleSpec) -> u32 {
        sample(logits, spec).unwrap().unwrap().token_id
    }

    /// How often each token comes in so many draws.
    fn draws(logits: &[f32], params: SamplingParams, num: u32) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let mut spec = spec(params);
        for n in 0..num {
            spec.num_generated = n;
            counts[token(logits, &spec) as usize] += 1.0;
        }
        counts.iter().map(|count| count / f64::from(num)).collect()
    }

    #[test]
    fn greedy_takes_the_best_and_the_lower_id_of_equals() {
        assert_eq!(token(&[1.0, 3.0, 2.0, 3.0], &spec(greedy())), 1);
    }

    #[test]
    fn whoever_asks_for_more_than_the_likeliest_has_all_logits_looked_at() {
        let one = BTreeMap::from([(2, 1.0)]);
        assert!(takes_best(&spec(greedy())));
        assert!(takes_best(&spec(SamplingParams { min_tokens: 0, stop_token_ids: vec![1], ..greedy() })));
        let others = [
            spec(params()),
            spec(SamplingParams { logprobs: Some(0), ..greedy() }),
            spec(SamplingParams { allowed_token_ids: vec![2], ..greedy() }),
            spec(SamplingParams { bad_words: vec![vec![1]], ..greedy() }),
            spec(SamplingParams { logit_bias: one, ..greedy() }),
            spec(SamplingParams { min_tokens: 1, eos_token_ids: vec![1], ..greedy() }),
            spec(SamplingParams { min_tokens: 1, stop_token_ids: vec![1], ..greedy() }),
            with_history(SamplingParams { repetition_penalty: 2.0, ..greedy() }, &[1], &[]),
            with_history(SamplingParams { presence_penalty: 2.0, ..greedy() }, &[], &[1]),
            with_history(SamplingParams { frequency_penalty: 2.0, ..greedy() }, &[], &[1]),
            with_history(SamplingParams { no_repeat_ngram_size: 1, ..greedy() }, &[], &[1]),
            SampleSpec { forced: Some(2), ..spec(greedy()) },
        ];
        for other in others {
            assert!(!takes_best(&other), "{other:?}");
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.0, 1.0, 2.0, -1.0, 0.5];
        for temperature in [0.5, 1.0, 2.0] {
            let weights: Vec<f64> =
                logits.iter().map(|&x| (f64::from(x) / f64::from(temperature)).exp()).collect();
            let total: f64 = weights.iter().sum();
            let num = 20_000;
            let found = draws(&logits, SamplingParams { temperature, ..params() }, num);
            let chi_squared: f64 = found
                .iter()
                .zip(&weights)
                .map(|(found, weight)| (found - weight / total).powi(2) / (weight / total) * f64::from(num))
                .sum();
            // The 99.9th percentile with four degrees of freedom.
            assert!(chi_squared < 18.47, "at {temperature}: {chi_squared}");
        }
    }

    #[test]
    fn a_draw_depends_on_seed_choice_and_count_alone() {
        let logits = vec![0.0; 1000];
        let base = SampleSpec { num_generated: 5, ..spec(params()) };
        assert_eq!(token(&logits, &base), token(&logits, &base.clone()));
        assert_ne!(token(&logits, &base), token(&logits, &SampleSpec { num_generated: 6, ..base.clone() }));
        assert_ne!(token(&logits, &base), token(&logits, &SampleSpec { choice: 1, ..base.clone() }));
        let seeded = spec(SamplingParams { seed: 2, ..params() });
        assert_ne!(token(&logits, &base), token(&logits, &SampleSpec { num_generated: 5, ..seeded }));
    }

    #[test]
    fn top_k_keeps_the_best_and_the_lower_ids_of_equals() {
        let found = draws(&[1.0, 5.0, 5.0, 5.0, 0.0], SamplingParams { top_k: 2, ..params() }, 2000);
        assert!(found[1] > 0.4 && found[2] > 0.4, "{found:?}");
        assert_eq!(found[0] + found[3] + found[4], 0.0);
        let one = draws(&[1.0, 5.0, 4.9], SamplingParams { top_k: 1, ..params() }, 200);
        assert_eq!(one[1], 1.0);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        // Probabilities 0.5, 0.3, 0.15, 0.05.
        let logits: Vec<f32> = [0.3f32, 0.5, 0.05, 0.15].iter().map(|p| p.ln()).collect();
        let kept = |top_p| {
            let found = draws(&logits, SamplingParams { top_p, ..params() }, 2000);
            found.iter().map(|&found| found > 0.0).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.45), [false, true, false, false]);
        assert_eq!(kept(0.55), [true, true, false, false]);
        assert_eq!(kept(0.9), [true, true, false, true]);
        assert_eq!(kept(0.99), [true, true, true, true]);
        assert_eq!(kept(1e-9), [false, true, false, false], "at least one");
    }

    #[test]
    fn the_shortcut_of_top_p_leaves_what_a_full_sort_leaves() {
        for seed in 0..50 {
            let logits: Vec<f32> = crate::kernels::tests::noise(seed, 300).iter().map(|x| x * 6.0).collect();
            let weights: Vec<(u32, f32)> =
                ids(&logits).map(|(id, x)| (id, (x - max(&logits)).exp())).collect();
            for top_p in [0.01, 0.5, 0.9, 0.999] {
                let total: f64 = weights.iter().map(|w| f64::from(w.1)).sum();
                let mut sorted = weights.clone();
                sorted.sort_unstable_by(best_first);
                let mut reached = 0.0;
                let mut expected = Vec::new();
                for weight in sorted {
                    expected.push(weight);
                    reached += f64::from(weight.1);
                    if reached >= top_p * total {
                        break;
                    }
                }
                let mut found = weights.clone();
                keep_nucleus(&mut found, top_p);
                assert_eq!(found, expected, "seed {seed}, {top_p}");
            }
        }
    }

    #[test]
    fn min_p_is_relative_to_the_best_after_temperature() {
        // Probabilities relative to the best: 1, 0.5, 0.1 at temperature 1; 1, 0.71, 0.32 at 2.
        let logits = [0.0, 0.5f32.ln(), 0.1f32.ln()];
        let found = draws(&logits, SamplingParams { min_p: 0.2, ..params() }, 1000);
        assert!(found[1] > 0.0 && found[2] == 0.0, "{found:?}");
        let found = draws(&logits, SamplingParams { min_p: 0.2, temperature: 2.0, ..params() }, 1000);
        assert!(found[2] > 0.0, "{found:?}");
    }

    #[test]
    fn cuts_apply_in_order() {
        // top_k first: of the two that are left, the first alone has more than 0.55 of the mass.
        let logits: Vec<f32> = [0.4f32, 0.3, 0.3].iter().map(|p| p.ln()).collect();
        let found = draws(&logits, SamplingParams { top_k: 2, top_p: 0.55, ..params() }, 1000);
        assert!(found[0] > 0.99 && found[1] == 0.0 && found[2] == 0.0, "{found:?}");
    }

    #[test]
    fn min_tokens_masks_end_and_stop_tokens_until_reached() {
        let params =
            SamplingParams { min_tokens: 2, eos_token_ids: vec![0], stop_token_ids: vec![1], ..greedy() };
        let mut spec = spec(params);
        assert_eq!(token(&[9.0, 8.0, 1.0], &spec), 2);
        spec.num_generated = 2;
        assert_eq!(token(&[9.0, 8.0, 1.0], &spec), 0);
    }

    #[test]
    fn logit_bias_can_change_the_greedy_choice() {
        let params = SamplingParams { logit_bias: BTreeMap::from([(2, 10.0), (0, -100.0)]), ..greedy() };
        assert_eq!(token(&[9.0, 8.0, 1.0], &spec(params)), 2);
    }

    #[test]
    fn repetition_divides_what_is_positive_and_multiplies_what_is_not_once_each() {
        let params = SamplingParams { repetition_penalty: 2.0, ..greedy() };
        // 4 → 2 for a prompt token however often, and 3 stays.
        assert_eq!(token(&[4.0, 3.0], &with_history(params.clone(), &[0, 0, 0], &[])), 1);
        assert_eq!(token(&[4.0, 1.5], &with_history(params.clone(), &[0, 0, 0], &[])), 0);
        // −1 → −2 for an output token, and −1.5 stays.
        assert_eq!(token(&[-1.0, -1.5], &with_history(params, &[], &[0])), 1);
    }

    #[test]
    fn frequency_counts_and_presence_does_not_and_the_prompt_is_left_alone() {
        let frequency = SamplingParams { frequency_penalty: 1.0, ..greedy() };
        assert_eq!(token(&[4.0, 2.5], &with_history(frequency.clone(), &[], &[0, 0])), 1);
        assert_eq!(token(&[4.0, 2.5], &with_history(frequency, &[0, 0, 0], &[])), 0);
        let presence = SamplingParams { presence_penalty: 1.0, ..greedy() };
        assert_eq!(token(&[4.0, 2.5], &with_history(presence.clone(), &[], &[0, 0, 0])), 0);
        assert_eq!(token(&[3.0, 2.5], &with_history(presence, &[], &[0])), 1);
    }

    #[test]
    fn log_probabilities_are_of_the_raw_distribution() {
        let params =
            SamplingParams { logprobs: Some(2), logit_bias: BTreeMap::from([(0, 50.0)]), ..greedy() };
        let sampled = sample(&[0.0, 2.0, 1.0, 2.0], &spec(params)).unwrap().unwrap();
        assert_eq!(sampled.token_id, 0);
        let score = sampled.score.unwrap();
        let normalizer = (1.0f32 + 2.0 * 2.0f32.exp() + 1.0f32.exp()).ln();
        assert!((score.logprob + normalizer).abs() < 1e-6);
        assert_eq!(score.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [1, 3], "best first, then by id");
        assert!((score.top[0].1 - (2.0 - normalizer)).abs() < 1e-6);
        let none = SamplingParams { logprobs: Some(0), ..greedy() };
        assert!(sample(&[0.0, 1.0], &spec(none)).unwrap().unwrap().score.unwrap().top.is_empty());
    }

    #[test]
    fn what_is_not_a_number_is_an_error_and_not_a_token() {
        for logits in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(matches!(sample(&logits, &spec(greedy())), Err(StepError::Compute(_))), "{logits:?}");
        }
        assert_eq!(token(&[f32::NEG_INFINITY, 0.0], &spec(params())), 1, "a mask is no error");
    }

    #[test]
    fn masks_that_leave_nothing_give_way_but_for_the_allowed() {
        let never_ends = SamplingParams { min_tokens: 9, eos_token_ids: vec![0, 1], ..greedy() };
        assert_eq!(token(&[0.0, 1.0], &spec(never_ends.clone())), 1);
        let only_the_end = SamplingParams { allowed_token_ids: vec![0], ..never_ends };
        assert_eq!(token(&[0.0, 1.0, 5.0], &spec(only_the_end)), 0);
    }

    #[test]
    fn only_allowed_tokens_come() {
        let some = SamplingParams { allowed_token_ids: vec![2, 0], ..params() };
        let found = draws(&[1.0, 9.0, 1.0, 9.0], some.clone(), 500);
        assert!(found[0] > 0.3 && found[2] > 0.3 && found[1] + found[3] == 0.0, "{found:?}");
        let biased = SamplingParams { logit_bias: BTreeMap::from([(1, 100.0)]), temperature: 0.0, ..some };
        assert_eq!(token(&[1.0, 9.0, 2.0, 9.0], &spec(biased)), 2, "a bias does not undo it");
    }

    #[test]
    fn the_last_token_of_a_bad_word_is_masked_where_the_others_stand() {
        let params = SamplingParams { bad_words: vec![vec![3], vec![1, 2, 0]], ..greedy() };
        let logits = [4.0, 1.0, 2.0, 9.0];
        let tail = |output: &[u32]| token(&logits, &with_history(params.clone(), &[1, 2], output));
        assert_eq!(tail(&[1, 2]), 2, "both masked");
        assert_eq!(tail(&[2]), 0, "the prompt is none of the output");
        assert_eq!(tail(&[1, 2, 1]), 0);
        assert_eq!(tail(&[2, 1, 2]), 2);
    }

    #[test]
    fn no_ngram_comes_twice_and_the_prompt_counts() {
        let params = SamplingParams { no_repeat_ngram_size: 3, ..greedy() };
        let logits = [1.0, 2.0, 3.0, 4.0];
        let next =
            |prompt: &[u32], output: &[u32]| token(&logits, &with_history(params.clone(), prompt, output));
        assert_eq!(next(&[0, 1, 3, 0], &[1]), 2);
        assert_eq!(next(&[0, 1, 3], &[0, 1, 2, 0, 1]), 1, "both continuations of 0 1 are taken");
        assert_eq!(next(&[0], &[1]), 3);
        let one = SamplingParams { no_repeat_ngram_size: 1, ..greedy() };
        assert_eq!(token(&logits, &with_history(one, &[3], &[2])), 1);
    }

    #[test]
    fn what_is_forced_comes_whatever_the_logits() {
        let params = SamplingParams { logprobs: Some(0), allowed_token_ids: vec![1], ..greedy() };
        let forced = SampleSpec { forced: Some(0), ..spec(params) };
        let sampled = sample(&[-50.0, 3.0], &forced).unwrap().unwrap();
        assert_eq!(sampled.token_id, 0);
        assert!(sampled.score.unwrap().logprob < -50.0, "its log-probability is the model's");
    }

    #[test]
    fn typical_keeps_what_is_as_surprising_as_expected() {
        // Probabilities 0.4, 0.2, 0.2, 0.1, 0.1: the entropy is 1.47 nats, and the surprises are 0.92, 1.61, 1.61, 2.3, 2.3.
        let logits: Vec<f32> = [0.4f32, 0.2, 0.2, 0.1, 0.1].iter().map(|p| p.ln()).collect();
        let kept = |typical_p| {
            let found = draws(&logits, SamplingParams { typical_p, ..params() }, 2000);
            found.iter().map(|&found| found > 0.0).collect::<Vec<_>>()
        };
        assert_eq!(kept(0.15), [false, true, false, false, false], "at least one, the lower id of equals");
        assert_eq!(kept(0.35), [false, true, true, false, false]);
        assert_eq!(kept(0.7), [true, true, true, false, false]);
        assert_eq!(kept(0.99), [true; 5]);
    }

    #[test]
    fn tokens_named_by_id_are_scored_behind_the_likeliest() {
        let params = SamplingParams { logprobs: Some(2), logprob_token_ids: vec![0, 3], ..greedy() };
        let score = sample(&[0.0, 2.0, 1.0, 3.0], &spec(params)).unwrap().unwrap().score.unwrap();
        assert_eq!(score.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [3, 1, 0]);
        assert!((score.top[0].1 - score.top[2].1 - 3.0).abs() < 1e-6);
    }

    #[test]
    fn a_rank_counts_from_one_and_lower_ids_first() {
        let logits = [1.0, 2.0, 2.0, 0.0];
        let ranks = [0, 1, 2, 3].map(|id| super::score(&logits, id, 0).unwrap().rank);
        assert_eq!(ranks, [3, 1, 2, 4]);
    }

    #[test]
    fn a_search_is_told_the_adjusted_distribution() {
        let params = SamplingParams {
            logprobs: Some(2),
            logprobs_of: Distribution::Adjusted,
            allowed_token_ids: vec![0, 2],
            ..greedy()
        };
        let score = sample(&[0.0, 9.0, 0.0], &spec(params)).unwrap().unwrap().score.unwrap();
        assert_eq!(score.top.iter().map(|&(id, _)| id).collect::<Vec<_>>(), [0, 2]);
        assert!((score.top[0].1 - 0.5f32.ln()).abs() < 1e-6);
    }
}
