//! The shape of what is generated and told, for chat and completions alike: how many choices and how they are found, what
//! of the prompt is kept, what is reported beside the text.

use candlewick_protocol::{OutputOptions, PromptTruncation, Search, TruncationSide};

use super::fields::{Fields, integer_at};
use crate::ApiSettings;
use crate::error::ApiError;

/// Most choices of a prompt (OpenAI's limit).
const NUM_CHOICES_MAX: i64 = 128;
/// Longest `cache_salt`.
const SALT_LENGTH_MAX: usize = 128;

/// How many choices are told, and how they are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choices {
    /// How many are told.
    pub num: u32,
    /// How they are found.
    pub search: Search,
}

/// Reads `n`, `best_of` and the fields of beam search. What is chosen among many is known at the end only, and cannot be
/// streamed.
pub fn read_choices(fields: &mut Fields, is_streamed: bool) -> Result<Choices, ApiError> {
    let num = fields.integer("n", 1..=NUM_CHOICES_MAX)?.unwrap_or(1);
    let path = fields.path("best_of");
    let best_of = fields.take("best_of");
    let best_of = best_of.map(|value| integer_at(&path, &value, 0..=NUM_CHOICES_MAX)).transpose()?;
    // 0 and 1 are what clients send who want nothing of it.
    let best_of = best_of.filter(|best_of| *best_of > 1).unwrap_or(num);
    let is_beam = fields.flag("use_beam_search")?;
    let length_penalty = fields.number("length_penalty", "a finite number", f64::is_finite)?.unwrap_or(1.0);

    let refuse = |name: &str, why: String| Err(ApiError::invalid(name, why));
    if best_of < num {
        return refuse("best_of", format!("`best_of` must be at least `n`, which is {num}"));
    }
    if !is_beam && length_penalty != 1.0 {
        return refuse(
            "length_penalty",
            "`length_penalty` is only allowed together with `use_beam_search: true`".into(),
        );
    }
    if is_beam && best_of > num {
        return refuse(
            "best_of",
            "`best_of` and `use_beam_search` cannot be combined: `n` is the width".into(),
        );
    }
    if is_streamed && (is_beam || best_of > num) {
        let name = if is_beam { "use_beam_search" } else { "best_of" };
        return refuse(name, format!("`{name}` cannot be streamed: the best are known at the end only"));
    }
    let count = |number: i64| u32::try_from(number).expect("the range fits u32");
    let search = if is_beam {
        Search::Beam { length_penalty }
    } else if best_of > num {
        Search::BestOf { num_candidates: count(best_of) }
    } else {
        Search::Sample
    };
    Ok(Choices { num: count(num), search })
}

/// Reads what is reported beside the text; `logprobs` and `echo` have their own rules by route.
pub fn read_output(
    fields: &mut Fields,
    logprobs: Option<u32>,
    echo: bool,
    is_streamed: bool,
    settings: &ApiSettings,
) -> Result<OutputOptions, ApiError> {
    let prompt_logprobs = read_num_top(fields, "prompt_logprobs", settings.max_logprobs)?;
    if prompt_logprobs.is_some() && is_streamed {
        return Err(ApiError::invalid(
            fields.path("prompt_logprobs"),
            "`prompt_logprobs` is not allowed together with `stream: true`",
        ));
    }
    Ok(OutputOptions {
        logprobs,
        logprob_token_ids: fields.token_ids("logprob_token_ids")?.unwrap_or_default(),
        echo,
        prompt_logprobs,
        prompt_text: fields.flag("return_prompt_text")?,
        token_ids: fields.flag("return_token_ids")?,
        stream_interval: fields.count("stream_interval", 1)?.unwrap_or(1),
    })
}

/// How many of the likeliest tokens are told at each place; -1 is as many as the server tells at most.
pub fn read_num_top(fields: &mut Fields, name: &str, max: u32) -> Result<Option<u32>, ApiError> {
    let num = fields.integer(name, -1..=i64::from(max))?;
    Ok(num.map(|num| u32::try_from(num).unwrap_or(max)))
}

/// Reads what is to be done with a prompt that is too long.
pub fn read_truncation(
    fields: &mut Fields,
    default_side: TruncationSide,
) -> Result<Option<PromptTruncation>, ApiError> {
    let side = match fields.word("truncation_side", &["left", "right"])? {
        Some("right") => TruncationSide::Right,
        Some(_) => TruncationSide::Left,
        None => default_side,
    };
    let Some(num_tokens) = fields.integer("truncate_prompt_tokens", -1..=i64::from(u32::MAX))? else {
        return Ok(None);
    };
    if num_tokens == 0 {
        return Err(ApiError::invalid(
            fields.path("truncate_prompt_tokens"),
            "`truncate_prompt_tokens` is 0, which leaves nothing of the prompt; -1 keeps what the context holds",
        ));
    }
    Ok(Some(PromptTruncation { num_tokens: u32::try_from(num_tokens).ok(), side }))
}

/// Reads `cache_salt`.
pub fn read_cache_salt(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    let Some(salt) = fields.string("cache_salt")? else { return Ok(None) };
    let length = salt.chars().count();
    if length == 0 || length > SALT_LENGTH_MAX || salt.contains(['@', '/', '\\', '\0']) {
        return Err(ApiError::invalid(
            fields.path("cache_salt"),
            format!(
                "`cache_salt` must be 1 to {SALT_LENGTH_MAX} characters, none of them `@`, `/`, `\\` or NUL"
            ),
        ));
    }
    Ok(Some(salt))
}
