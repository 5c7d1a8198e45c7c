//! Log-probabilities in the two forms of OpenAI: a list of objects for chat, parallel lists for completions.

use candlewick_protocol::{TokenLogprob, TopLogprob};

use crate::wire::chat::{ChatLogprobs, ChatTokenLogprob, ChatTopLogprob};
use crate::wire::completions::{CompletionLogprobs, TopLogprobs};
use crate::wire::prompt::{PlaceLogprobs, PromptLogprobs, PromptTokenLogprob};

/// What JSON has for minus infinity, as vLLM writes it.
const LOGPROB_MIN: f32 = -9999.0;

fn written(logprob: f32) -> f32 {
    // Also catches NaN, which JSON cannot hold.
    if logprob >= LOGPROB_MIN { logprob } else { LOGPROB_MIN }
}

fn token_text(token_id: u32, text: &str, as_id: bool) -> String {
    if as_id { format!("token_id:{token_id}") } else { text.to_owned() }
}

/// Tokens of chat.
pub fn chat_logprobs(tokens: &[TokenLogprob], as_ids: bool) -> ChatLogprobs {
    let top = |top: &TopLogprob| ChatTopLogprob {
        token: token_text(top.token_id, &top.text, as_ids),
        logprob: written(top.logprob),
        bytes: top.bytes.clone(),
    };
    let content = tokens.iter().map(|token| ChatTokenLogprob {
        token: token_text(token.token_id, &token.text, as_ids),
        logprob: written(token.logprob.unwrap_or(LOGPROB_MIN)),
        bytes: token.bytes.clone(),
        top_logprobs: token.top.iter().map(top).collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

/// Tokens of a completion, whose offsets count from `offset`, which is moved behind them.
pub fn completion_logprobs(tokens: &[TokenLogprob], offset: &mut usize, as_ids: bool) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    for token in tokens {
        let text = token_text(token.token_id, &token.text, as_ids);
        lists.top_logprobs.push(token.logprob.map(|logprob| {
            let mut likeliest = TopLogprobs::default();
            for top in &token.top {
                likeliest.insert(token_text(top.token_id, &top.text, as_ids), written(top.logprob));
            }
            likeliest.insert(text.clone(), written(logprob));
            likeliest
        }));
        lists.tokens.push(text);
        lists.token_logprobs.push(token.logprob.map(written));
        lists.text_offset.push(*offset);
        *offset += token.text.chars().count();
    }
    lists
}

/// The prompt's tokens, each with so many of the likeliest at its place.
pub fn prompt_logprobs(tokens: &[TokenLogprob], num_top: u32) -> PromptLogprobs {
    let place = |token: &TokenLogprob| {
        let own = PromptTokenLogprob {
            logprob: written(token.logprob?),
            rank: token.rank.unwrap_or(0),
            decoded_token: token.text.clone(),
        };
        let mut place = vec![(token.token_id, own)];
        let likeliest = token.top.iter().take(num_top as usize).zip(1..);
        place.extend(likeliest.filter(|(top, _)| top.token_id != token.token_id).map(|(top, rank)| {
            let decoded_token = top.text.clone();
            (top.token_id, PromptTokenLogprob { logprob: written(top.logprob), rank, decoded_token })
        }));
        Some(PlaceLogprobs(place))
    };
    tokens.iter().map(place).collect()
}

/// The prompt's tokens as `echo` tells them: with as many of the likeliest as the answer's.
pub fn echoed(tokens: &[TokenLogprob], num_top: u32) -> Vec<TokenLogprob> {
    let cut = |token: &TokenLogprob| {
        let mut token = token.clone();
        token.top.truncate(num_top as usize);
        token
    };
    tokens.iter().map(cut).collect()
}
