//! Grammars on a small tokenizer, followed by a model that takes any token it is allowed: what it writes keeps to its
//! form, and the parsers read it back.

mod calls;
mod forms;
mod schemas;

use std::sync::Arc;

use candlewick_protocol::{
    ChatPrompt, Constraint, Content, Delta, Failure, Message, OutputForm, Prompt, SamplingOptions,
};
use serde_json::Value;

use self::schemas::Rng;
use super::{CompiledGrammar, GrammarProgress};
use crate::text::tests::{load_with_marks, params};
use crate::text::{OutputStream, PreparedPrompt, TextOptions, TextProcessor};

/// A processor whose model reasons in think tags, and calls tools as `parser` reads them.
fn processor(parser: Option<&str>, marks: &[(&str, bool)]) -> Arc<TextProcessor> {
    let options = TextOptions { tool_call_parser: parser.map(Into::into), ..TextOptions::default() };
    Arc::new(load_with_marks(marks, &options))
}

fn text_prompt() -> Prompt {
    Prompt::Text { text: "Say".into(), add_special_tokens: false }
}

fn chat() -> ChatPrompt {
    let message =
        Message { role: "user".into(), content: Some(Content::Text("hi".into())), ..Message::default() };
    ChatPrompt {
        messages: vec![message],
        add_generation_prompt: true,
        parallel_tool_calls: true,
        ..ChatPrompt::default()
    }
}

fn held_to(form: OutputForm) -> Constraint {
    Constraint { form, param: "response_format".into() }
}

fn compile(
    processor: &TextProcessor,
    prompt: &Prompt,
    form: Option<OutputForm>,
) -> Result<(Arc<CompiledGrammar>, PreparedPrompt), Failure> {
    let prepared = processor.prepare(prompt)?;
    let constraint = form.map(held_to);
    let grammar = processor.grammar(prompt, constraint.as_ref(), &prepared)?;
    Ok((grammar.expect("there is something to hold it to"), prepared))
}

/// What a model writes that begins with a text and goes on at random; whether it came to an end.
fn walk(
    processor: &TextProcessor,
    grammar: &Arc<CompiledGrammar>,
    begin: &str,
    seed: u64,
    num_max: u32,
) -> (Vec<u32>, bool) {
    let progress = GrammarProgress::new(grammar.clone(), &[]);
    let begin = processor.ids(begin);
    let mut rng = Rng(seed);
    let mut output = Vec::new();
    for place in 0..num_max {
        let mask = progress.mask(place, &[]).expect("the grammar goes on");
        let token_id = match begin.get(place as usize) {
            Some(&token_id) => {
                assert!(mask.allows(token_id), "token {token_id} after {:?}", processor.told(&output));
                token_id
            }
            None if mask.accepts_end() && rng.below(4) == 0 => return (output, true),
            None => {
                let allowed: Vec<u32> =
                    (0..processor.vocab_size() as u32).filter(|id| mask.allows(*id)).collect();
                if allowed.is_empty() {
                    assert!(mask.accepts_end(), "nothing may follow {:?}", processor.told(&output));
                    return (output, true);
                }
                allowed[rng.below(allowed.len())]
            }
        };
        output.push(token_id);
        progress.take(token_id).expect("the mask allowed it");
        if progress.is_complete() {
            return (output, true);
        }
    }
    (output, false)
}

/// What a client is told of an output.
fn read(processor: &Arc<TextProcessor>, prepared: &PreparedPrompt, output: &[u32]) -> Vec<Delta> {
    let params = params(processor, &SamplingOptions::default());
    let mut stream = OutputStream::new(processor.clone(), prepared, &params);
    let mut deltas: Vec<Delta> = output.iter().flat_map(|id| stream.push(*id).deltas).collect();
    deltas.extend(stream.finish());
    deltas
}

/// The text among what is told.
fn text_of(deltas: &[Delta]) -> String {
    deltas
        .iter()
        .filter_map(|delta| if let Delta::Text(text) = delta { Some(text.as_str()) } else { None })
        .collect()
}

/// The calls among what is told, with their arguments as JSON.
fn calls_of(deltas: &[Delta]) -> Vec<(String, Value)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::ToolCall { name, .. } => calls.push((name.clone(), String::new())),
            Delta::ToolArguments { fragment, .. } => {
                calls.last_mut().expect("a call comes first").1.push_str(fragment);
            }
            Delta::Text(_) | Delta::Reasoning(_) => {}
        }
    }
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    calls.into_iter().map(|(name, arguments)| (name, json(&arguments))).collect()
}
