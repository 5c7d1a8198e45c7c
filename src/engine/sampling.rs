//! Sampling parameters, resolved: request over `generation_config.json` over defaults, checked and complete.
//!
//! Ranges and defaults are OpenAI's, and vLLM's where OpenAI is silent. A request that says how to sample is sampled so; one
//! that says nothing is answered as the model's file says: greedily if that has `do_sample: false`, else at its temperature
//! (1 if it names none).

mod defaults;
mod range;
mod repetition;
mod thinking;

use std::collections::BTreeMap;

use candlewick_protocol::{ErrorKind, Failure, OutputOptions, RepetitionDetection, SamplingOptions};

use crate::{BeamSearch, SequenceEnd};
use range::{
    FREQUENCY_PENALTY, MIN_P, PRESENCE_PENALTY, REPETITION_PENALTY, TEMPERATURE, TOP_P, TYPICAL_P,
    check_top_k,
};
use repetition::goes_in_circles;
pub use thinking::ThinkingBudget;
pub(crate) use thinking::ThinkingProgress;

/// Most stop strings of a request (OpenAI's limit).
const STOP_STRINGS_MAX: usize = 4;

/// Most tokens whose log-probabilities are asked for by id.
const LOGPROB_TOKEN_IDS_MAX: usize = 128;

/// What is added to a logit at most, up or down.
const LOGIT_BIAS_MAX: f32 = 100.0;

/// Below this a temperature means greedy.
const TEMPERATURE_GREEDY: f32 = 1e-5;

/// A lower temperature that is not greedy is raised to this: dividing by less overflows.
const TEMPERATURE_MIN: f32 = 0.01;

/// What a model's `generation_config.json` and tokenizer say about generating: defaults under the request's values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// Defaults for sampling.
    pub sampling: SamplingOptions,
    /// Tokens that end an answer: `eos_token_id` of the generation config, else of the config, else the tokenizer's.
    pub eos_token_ids: Vec<u32>,
}

/// How to choose tokens for one request: every field has its final value.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 means greedy, and then `top_p`, `top_k` and `min_p` are off.
    pub temperature: f32,
    /// Nucleus; 1 is off.
    pub top_p: f32,
    /// Keep this many; 0 is off.
    pub top_k: u32,
    /// Keep tokens with p ≥ `min_p` × p of the best, after temperature; 0 is off.
    pub min_p: f32,
    /// Keep the tokens whose surprise is closest to the expected one, up to this mass; 1 is off.
    pub typical_p: f32,
    /// On prompt and output tokens: positive logits are divided, negative ones multiplied; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the output.
    pub frequency_penalty: f32,
    /// Subtracted once for what occurs in the output.
    pub presence_penalty: f32,
    /// No run of so many tokens comes twice in prompt and output; 0 is off.
    pub no_repeat_ngram_size: u32,
    /// Added to logits.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Only these may come; all may if there are none.
    pub allowed_token_ids: Vec<u32>,
    /// Runs of tokens, none of them empty, that the output may not have.
    pub bad_words: Vec<Vec<u32>>,
    /// Key of the counter-based RNG: the request's seed, or one drawn for it.
    pub seed: u64,
    /// Most tokens to generate; at least one, or zero for scoring a prompt.
    pub max_tokens: u32,
    /// End and stop tokens are masked until this many are generated.
    pub min_tokens: u32,
    /// Texts that end the output.
    pub stop: Vec<String>,
    /// Tokens that end the output and are reported as the cause.
    pub stop_token_ids: Vec<u32>,
    /// Tokens that end the output; empty if the request ignores them.
    pub eos_token_ids: Vec<u32>,
    /// When to force the end of reasoning.
    pub thinking: Option<ThinkingBudget>,
    /// When to end an output that goes round in circles.
    pub repetition_detection: Option<RepetitionDetection>,
    /// Keep the stop string in the output.
    pub include_stop_str_in_output: bool,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Leave the space that some decoders put between two special tokens.
    pub spaces_between_special_tokens: bool,
    /// Report log-probabilities with this many of the likeliest tokens.
    pub logprobs: Option<u32>,
    /// Report these tokens' too.
    pub logprob_token_ids: Vec<u32>,
    /// The distribution that log-probabilities are of.
    pub logprobs_of: Distribution,
}

/// Which distribution log-probabilities are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Distribution {
    /// The model's own.
    #[default]
    Raw,
    /// What masks, biases and penalties make of it: what a search goes by.
    Adjusted,
}

/// What a request gets that says nothing to a model that says nothing, but for the limits of its context.
impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            no_repeat_ngram_size: 0,
            logit_bias: BTreeMap::new(),
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
            seed: 0,
            max_tokens: u32::MAX,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            eos_token_ids: Vec::new(),
            thinking: None,
            repetition_detection: None,
            include_stop_str_in_output: false,
            skip_special_tokens: true,
            spaces_between_special_tokens: true,
            logprobs: None,
            logprob_token_ids: Vec::new(),
            logprobs_of: Distribution::Raw,
        }
    }
}

impl SamplingParams {
    /// Why an output ends with its latest token, if it does. Stop strings are found above, on text.
    pub fn end_of(&self, output: &[u32]) -> Option<SequenceEnd> {
        let token_id = *output.last()?;
        if self.eos_token_ids.contains(&token_id) {
            Some(SequenceEnd::Eos)
        } else if self.stop_token_ids.contains(&token_id) {
            Some(SequenceEnd::StopToken(token_id))
        } else if output.len() >= self.max_tokens as usize {
            Some(SequenceEnd::Length)
        } else {
            let detection = self.repetition_detection?;
            goes_in_circles(output, detection).then_some(SequenceEnd::Repetition)
        }
    }

    /// As a beam search of this width wants them: nothing is drawn, and of each place it is told so many tokens as it
    /// may need, by the distribution that masks and penalties leave.
    pub fn for_beams(self, width: usize, vocab_size: usize) -> Self {
        let num_candidates = self.num_beam_candidates(width);
        let num_top = num_candidates.max(self.logprobs.unwrap_or(0) as usize).min(vocab_size);
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            logprobs: Some(num_top as u32),
            logprobs_of: Distribution::Adjusted,
            ..self
        }
    }

    /// How many of the likeliest tokens a beam search of this width considers.
    pub fn num_beam_candidates(&self, width: usize) -> usize {
        BeamSearch::<()>::num_candidates(width, self.eos_token_ids.len() + self.stop_token_ids.len())
    }

    /// Whether the best token is taken without a draw.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether a token ends the output.
    pub fn is_end(&self, token_id: u32) -> bool {
        self.eos_token_ids.contains(&token_id) || self.stop_token_ids.contains(&token_id)
    }

    /// Whether sampling looks at the tokens so far.
    pub fn needs_history(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || self.no_repeat_ngram_size > 0
            || self.bad_words.iter().any(|word| word.len() > 1)
    }

    /// Fills what the request leaves open and checks every value; the failure names the field at fault.
    ///
    /// What takes a tokenizer to know is left empty: `bad_words` and `thinking` (`TextProcessor` has both).
    /// `num_prompt_tokens` and `max_model_len` bound `max_tokens`; `random_seed` is used where the request has none.
    pub fn resolve(
        options: &SamplingOptions,
        defaults: &GenerationDefaults,
        logprobs: Option<u32>,
        limits: ResolveLimits,
    ) -> Result<Self, Failure> {
        let model = &defaults.sampling;
        let temperature = resolve_temperature(options, model)?;
        let is_greedy = temperature == 0.0;
        let top_p = TOP_P.check(options.top_p)?.or(model.top_p).unwrap_or(1.0);
        let top_k = check_top_k(options.top_k)?.or(model.top_k).unwrap_or(0);
        let min_p = MIN_P.check(options.min_p)?.or(model.min_p).unwrap_or(0.0);
        let typical_p = TYPICAL_P.check(options.typical_p)?.or(model.typical_p).unwrap_or(1.0);
        let repetition_penalty =
            REPETITION_PENALTY.check(options.repetition_penalty)?.or(model.repetition_penalty);
        let frequency_penalty =
            FREQUENCY_PENALTY.check(options.frequency_penalty)?.or(model.frequency_penalty);
        let presence_penalty = PRESENCE_PENALTY.check(options.presence_penalty)?.or(model.presence_penalty);
        let max_tokens = resolve_max_tokens(options, model, limits)?;
        Ok(Self {
            temperature,
            top_p: if is_greedy { 1.0 } else { top_p },
            top_k: if is_greedy { 0 } else { u32::try_from(top_k.max(0)).unwrap_or(u32::MAX) },
            min_p: if is_greedy { 0.0 } else { min_p },
            typical_p: if is_greedy { 1.0 } else { typical_p },
            repetition_penalty: repetition_penalty.unwrap_or(1.0),
            frequency_penalty: frequency_penalty.unwrap_or(0.0),
            presence_penalty: presence_penalty.unwrap_or(0.0),
            no_repeat_ngram_size: options.no_repeat_ngram_size.or(model.no_repeat_ngram_size).unwrap_or(0),
            logit_bias: check_logit_bias(&options.logit_bias, limits.vocab_size)?,
            allowed_token_ids: check_token_ids(
                "allowed_token_ids",
                &options.allowed_token_ids,
                limits.vocab_size,
            )?,
            bad_words: Vec::new(),
            // vLLM's clients say -1 for "no seed".
            seed: options.seed.filter(|seed| *seed != -1).map_or(limits.random_seed, |seed| seed as u64),
            max_tokens,
            min_tokens: resolve_min_tokens(options, model, max_tokens)?,
            stop: if options.stop.is_empty() { model.stop.clone() } else { check_stop(&options.stop)? },
            stop_token_ids: check_token_ids("stop_token_ids", &options.stop_token_ids, limits.vocab_size)?,
            eos_token_ids: eos_token_ids(options, defaults, limits.vocab_size),
            include_stop_str_in_output: options.include_stop_str_in_output,
            skip_special_tokens: options.skip_special_tokens.unwrap_or(true),
            spaces_between_special_tokens: options.spaces_between_special_tokens.unwrap_or(true),
            thinking: None,
            repetition_detection: check_repetition(options.repetition_detection)?,
            logprobs,
            logprob_token_ids: Vec::new(),
            logprobs_of: Distribution::Raw,
        })
    }

    /// Adds what is to be reported of tokens named by id; the failure names the field at fault.
    pub fn reporting(mut self, output: &OutputOptions, vocab_size: usize) -> Result<Self, Failure> {
        const PARAM: &str = "logprob_token_ids";
        let ids = check_token_ids(PARAM, &output.logprob_token_ids, vocab_size)?;
        if ids.len() > LOGPROB_TOKEN_IDS_MAX {
            let message =
                format!("{PARAM} has {} ids; at most {LOGPROB_TOKEN_IDS_MAX} are possible", ids.len());
            return Err(Failure::invalid(PARAM, message));
        }
        if !ids.is_empty() && self.logprobs.is_none() {
            return Err(Failure::invalid(PARAM, format!("{PARAM} is only allowed together with logprobs")));
        }
        self.logprob_token_ids = ids;
        Ok(self)
    }
}

/// The temperature, 0 for greedy. A request that sets any of the sampling fields wants sampling, whatever the model's file
/// has under `do_sample`.
fn resolve_temperature(options: &SamplingOptions, model: &SamplingOptions) -> Result<f32, Failure> {
    let asked = TEMPERATURE.check(options.temperature)?;
    let asks_to_sample = options.do_sample == Some(true)
        || asked.is_some()
        || options.top_p.is_some()
        || options.top_k.is_some()
        || options.min_p.is_some();
    let is_greedy = options.do_sample == Some(false) || (model.do_sample == Some(false) && !asks_to_sample);
    let temperature = asked.or(model.temperature).unwrap_or(1.0);
    if is_greedy || temperature < TEMPERATURE_GREEDY {
        return Ok(0.0);
    }
    Ok(temperature.max(TEMPERATURE_MIN))
}

/// A request that asks for more than the context holds is refused; a default of the route or of the model is capped to what
/// is left, and none at all means just that.
fn resolve_max_tokens(
    options: &SamplingOptions,
    model: &SamplingOptions,
    limits: ResolveLimits,
) -> Result<u32, Failure> {
    let ResolveLimits { num_prompt_tokens, max_model_len, .. } = limits;
    let overflow = |text: String| Failure::new(ErrorKind::ContextOverflow, text);
    let num_output_min = usize::from(options.max_tokens != Some(0));
    if num_prompt_tokens + num_output_min > max_model_len {
        return Err(overflow(format!(
            "the prompt has {num_prompt_tokens} tokens and the context of this model holds {max_model_len}, output \
             included; shorten the prompt"
        )));
    }
    let num_left = u32::try_from(max_model_len - num_prompt_tokens).unwrap_or(u32::MAX);
    match options.max_tokens {
        Some(asked) if asked > num_left => Err(overflow(format!(
            "the prompt has {num_prompt_tokens} tokens and max_tokens is {asked}, but the context of this model holds \
             {max_model_len}; shorten the prompt or ask for at most {num_left} tokens"
        ))
        .with_param("max_tokens")),
        Some(asked) => Ok(asked),
        None => {
            let default = options.max_tokens_default.or(model.max_tokens).filter(|default| *default > 0);
            Ok(default.map_or(num_left, |default| default.min(num_left)))
        }
    }
}

/// A request that asks for more than `max_tokens` is refused; the model's default gives way.
fn resolve_min_tokens(
    options: &SamplingOptions,
    model: &SamplingOptions,
    max_tokens: u32,
) -> Result<u32, Failure> {
    match options.min_tokens {
        Some(asked) if asked > max_tokens => Err(Failure::invalid(
            "min_tokens",
            format!("min_tokens is {asked}; it must be at most max_tokens, which is {max_tokens}"),
        )),
        Some(asked) => Ok(asked),
        None => Ok(model.min_tokens.unwrap_or(0).min(max_tokens)),
    }
}

fn check_logit_bias(biases: &BTreeMap<u32, f32>, vocab_size: usize) -> Result<BTreeMap<u32, f32>, Failure> {
    let check = |(token_id, bias): (&u32, &f32)| {
        check_token_id("logit_bias", *token_id, vocab_size)?;
        if bias.is_nan() {
            return Err(Failure::invalid(
                "logit_bias",
                format!("the bias of token {token_id} is not a number"),
            ));
        }
        Ok((*token_id, bias.clamp(-LOGIT_BIAS_MAX, LOGIT_BIAS_MAX)))
    };
    biases.iter().map(check).collect()
}

fn check_stop(stop: &[String]) -> Result<Vec<String>, Failure> {
    if stop.len() > STOP_STRINGS_MAX {
        let message =
            format!("there are {} stop strings; at most {STOP_STRINGS_MAX} are possible", stop.len());
        return Err(Failure::invalid("stop", message));
    }
    if stop.iter().any(String::is_empty) {
        return Err(Failure::invalid("stop", "a stop string is empty; it must have at least one character"));
    }
    Ok(stop.to_vec())
}

fn check_token_ids(param: &str, token_ids: &[u32], vocab_size: usize) -> Result<Vec<u32>, Failure> {
    token_ids.iter().map(|&token_id| check_token_id(param, token_id, vocab_size)).collect()
}

fn check_repetition(asked: Option<RepetitionDetection>) -> Result<Option<RepetitionDetection>, Failure> {
    let Some(detection) = asked.filter(|asked| asked.max_pattern_size > 0) else { return Ok(None) };
    let RepetitionDetection { max_pattern_size, min_pattern_size, min_count } = detection;
    let refuse = |field: &str, why: String| {
        Err(Failure::invalid(format!("repetition_detection.{field}"), format!("{field} is {why}")))
    };
    if min_count < 2 {
        return refuse(
            "min_count",
            format!("{min_count}; a pattern that comes again comes at least 2 times"),
        );
    }
    if min_pattern_size > max_pattern_size {
        let why =
            format!("{min_pattern_size}; it must be at most max_pattern_size, which is {max_pattern_size}");
        return refuse("min_pattern_size", why);
    }
    // A pattern has at least one token.
    Ok(Some(RepetitionDetection { min_pattern_size: min_pattern_size.max(1), ..detection }))
}

fn check_token_id(param: &str, token_id: u32, vocab_size: usize) -> Result<u32, Failure> {
    if token_id as usize >= vocab_size {
        let message =
            format!("{param} names token {token_id}; token ids of this model are below {vocab_size}");
        return Err(Failure::invalid(param, message));
    }
    Ok(token_id)
}

/// Ids beyond the vocabulary, which some repositories have, can never come and are left out.
fn eos_token_ids(options: &SamplingOptions, defaults: &GenerationDefaults, vocab_size: usize) -> Vec<u32> {
    if options.ignore_eos {
        return Vec::new();
    }
    defaults.eos_token_ids.iter().copied().filter(|token_id| (*token_id as usize) < vocab_size).collect()
}

/// What bounds a request's parameters.
#[derive(Debug, Clone, Copy)]
pub struct ResolveLimits {
    /// Tokens of the prompt.
    pub num_prompt_tokens: usize,
    /// Longest context, prompt and output together.
    pub max_model_len: usize,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Seed for a request without one.
    pub random_seed: u64,
}
