//! From what is asked to what is computed: a request's prompt and parameters, resolved against its model. Blocks.

use std::sync::Arc;

use candlewick_engine::text::PreparedPrompt;
use candlewick_engine::{GenerationDefaults, ResolveLimits, SamplingParams};
use candlewick_protocol::{
    ErrorKind, Failure, GenerationRequest, Prompt, RequestKey, Search, merge_sampling,
};

use crate::TreeSettings;
use crate::generation::{Generation, GenerationArgs};
use crate::loader::LoadedModel;

/// Prepares a request; the failure names the field at fault.
pub fn prepare(
    key: RequestKey,
    request: GenerationRequest,
    model: &LoadedModel,
    settings: &TreeSettings,
) -> Result<Generation, Failure> {
    if request.num_choices == 0 {
        return Err(Failure::invalid("n", "n is 0; at least one choice must be asked for"));
    }
    if let Some(encoder) = &model.weights.info().encoder {
        let message = format!("this model generates no text: {}", encoder.ability);
        return Err(Failure::new(ErrorKind::Unsupported, message).with_param("model"));
    }
    let prompt = prepare_prompt(&request, model)?;
    let grammar = model.processor.grammar(&request.prompt, request.constraint.as_ref(), &prompt)?;
    let params = prepare_params(&request, &prompt, model, settings)?;
    Ok(Generation::new(GenerationArgs {
        key,
        model: model.id.clone(),
        processor: model.processor.clone(),
        prompt,
        params: Arc::new(params),
        grammar,
        num_choices: request.num_choices,
        search: request.search,
        output: request.output,
        priority: request.priority,
        share: Arc::new(request.share),
        cache_salt: request.cache_salt.map(Arc::from),
        call_id_seed: random(),
    }))
}

/// How large a prompt is, as it was sent.
pub fn num_prompt_bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Chat(chat) => chat.num_bytes(),
        Prompt::Text { text, .. } => text.len(),
        Prompt::Infill { prefix, suffix } => prefix.len() + suffix.len(),
        Prompt::Tokens(ids) => size_of_val(ids.as_slice()),
    }
}

fn prepare_prompt(request: &GenerationRequest, model: &LoadedModel) -> Result<PreparedPrompt, Failure> {
    // What the output may take is not the prompt's; an output that is not bounded has at least one token.
    let num_output_tokens = request.sampling.max_tokens.unwrap_or(1) as usize;
    let num_left = model.capacity.max_model_len.saturating_sub(num_output_tokens);
    let mut prompt = match &request.prompt {
        Prompt::Chat(chat) if chat.drop_oldest_to_fit => model.processor.prepare_to_fit(chat, num_left)?,
        prompt => model.processor.prepare(prompt)?,
    };
    if let Some(truncation) = request.truncation {
        let num_tokens = truncation.num_tokens.map_or(num_left, |num_tokens| num_tokens as usize);
        prompt = model.processor.truncated(prompt, num_tokens.max(1), truncation.side);
    }
    let vocab_size = model.weights.info().vocab_size;
    if let Some(token_id) = prompt.token_ids.iter().find(|&&token_id| token_id as usize >= vocab_size) {
        let message = format!("token {token_id} is outside the model's vocabulary of {vocab_size} tokens");
        return Err(Failure::invalid("prompt", message));
    }
    Ok(prompt)
}

fn prepare_params(
    request: &GenerationRequest,
    prompt: &PreparedPrompt,
    model: &LoadedModel,
    settings: &TreeSettings,
) -> Result<SamplingParams, Failure> {
    let vocab_size = model.weights.info().vocab_size;
    let limits = ResolveLimits {
        num_prompt_tokens: prompt.token_ids.len(),
        max_model_len: model.capacity.max_model_len,
        vocab_size,
        random_seed: settings.default_seed.unwrap_or_else(random),
    };
    let GenerationRequest { sampling, output, .. } = request;
    let processor = &model.processor;
    let own = processor.generation_defaults();
    let defaults = GenerationDefaults {
        sampling: merge_sampling(settings.sampling.clone(), &own.sampling),
        eos_token_ids: own.eos_token_ids.clone(),
    };
    let mut params = SamplingParams::resolve(sampling, &defaults, output.logprobs, limits)?
        .reporting(output, vocab_size)?;
    params.bad_words = processor.bad_words(&sampling.bad_words)?;
    params.thinking = match sampling.thinking_token_budget {
        Some(num_tokens) => Some(processor.thinking_budget(num_tokens, prompt)?),
        None => None,
    };
    Ok(match request.search {
        Search::Sample => params,
        // The choice goes by them, whether they are told or not.
        Search::BestOf { .. } => SamplingParams { logprobs: Some(params.logprobs.unwrap_or(0)), ..params },
        Search::Beam { .. } => params.for_beams(request.num_choices as usize, vocab_size),
    })
}

/// The low half of a random UUID (version 4): 62 random bits, enough to start a counter from.
fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
