//! What holding an answer to a form costs, with no model below it: the trie of a vocabulary, compiling, and the mask of
//! each token. Prints one JSON line.
//!
//! `cargo bench --bench grammar -- FOLDER` measures the tokenizer in a folder, without one that of the embedded model.
//! Tokens are drawn evenly from those that are allowed, as by a model that knows nothing, so every part of a grammar is
//! come by. Under `cargo test` the same runs at toy size, so that it cannot rot.

// A bench speaks through its standard output.
#![allow(clippy::print_stdout)]

mod checkpoint;

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use candlewick::ember;
use candlewick_engine::grammar::GrammarProgress;
use candlewick_engine::text::{TextOptions, TextProcessor};
use candlewick_protocol::{Constraint, OutputForm, Prompt};
use serde_json::{Value, json};

use checkpoint::files_of;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // A test runner that asks for the names of tests is told of none; it is run as a whole.
    if words.iter().any(|word| word == "--list") {
        return;
    }
    // Cargo says `--bench` to a bench that is to measure.
    let num_answers = if words.iter().any(|word| word == "--bench") { 40 } else { 1 };
    let folder = words.iter().find(|word| !word.starts_with("--"));
    let files = files_of(folder);
    let processor = TextProcessor::load(&files, &TextOptions::default()).expect("the tokenizer loads");

    let started = Instant::now();
    compile(&processor, OutputForm::Choice(vec!["a".into()]));
    let vocabulary_ms = started.elapsed().as_secs_f64() * 1e3;
    let forms =
        [("object", OutputForm::json_object()), ("schema", OutputForm::json(schema())), ("regex", regex())];
    let rows: Vec<Value> =
        forms.into_iter().map(|(name, form)| measure(&processor, name, form, num_answers)).collect();
    println!(
        "{}",
        json!({
            "bench": "grammar", "commit": commit(), "model": folder.map_or(ember::MODEL, String::as_str),
            "vocabulary": processor.vocab_size(), "vocabulary_ms": round(vocabulary_ms), "forms": rows,
        })
    );
}

fn regex() -> OutputForm {
    OutputForm::Regex(r"[a-z]{2,12}(\.[a-z]{2,12}){0,20}@[a-z]+\.(com|org)".into())
}

/// What a tutorial would ask for: texts, numbers, an enumeration, a list of objects.
fn schema() -> Value {
    let step = json!({
        "type": "object",
        "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
        "required": ["explanation", "output"],
        "additionalProperties": false,
    });
    json!({
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 80},
            "kind": {"enum": ["letter", "invoice", "contract"]},
            "pages": {"type": "integer", "minimum": 1, "maximum": 500},
            "score": {"type": "number"},
            "steps": {"type": "array", "items": step},
        },
        "required": ["title", "kind", "pages", "score", "steps"],
        "additionalProperties": false,
    })
}

fn compile(processor: &TextProcessor, form: OutputForm) -> Arc<candlewick_engine::grammar::CompiledGrammar> {
    let prompt = Prompt::Text { text: "Say".into(), add_special_tokens: false };
    let prepared = processor.prepare(&prompt).expect("the prompt is good");
    let constraint = Constraint { form, param: "form".into() };
    let grammar = processor.grammar(&prompt, Some(&constraint), &prepared).expect("it compiles");
    grammar.expect("there is a form")
}

/// Writes so many answers of at most 200 tokens.
fn measure(processor: &TextProcessor, name: &str, form: OutputForm, num_answers: u64) -> Value {
    let started = Instant::now();
    let grammar = compile(processor, form);
    let compile_ms = started.elapsed().as_secs_f64() * 1e3;
    let (mut masks, mut takes) = (Vec::new(), Vec::new());
    for answer in 0..num_answers {
        let progress = GrammarProgress::new(grammar.clone(), &[]);
        let mut random = answer.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for place in 0..200 {
            let started = Instant::now();
            let mask = progress.mask(place, &[]).expect("it goes on");
            masks.push(started.elapsed().as_secs_f64() * 1e6);
            let allowed: Vec<u32> =
                (0..processor.vocab_size() as u32).filter(|id| mask.allows(*id)).collect();
            if allowed.is_empty() {
                break;
            }
            // Marsaglia's xorshift.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let token_id = allowed[(random % allowed.len() as u64) as usize];
            let started = Instant::now();
            progress.take(token_id).expect("the mask allowed it");
            takes.push(started.elapsed().as_secs_f64() * 1e6);
            if progress.is_complete() {
                break;
            }
        }
    }
    json!({
        "form": name, "compile_ms": round(compile_ms), "tokens": masks.len(),
        "mask_us": {"p50": at(&mut masks, 0.5), "p99": at(&mut masks, 0.99), "max": at(&mut masks, 1.0)},
        "take_us": {"p50": at(&mut takes, 0.5), "p99": at(&mut takes, 0.99)},
    })
}

/// The figure that so large a part of all is not above.
fn at(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    figures.get((last as f64 * part).round() as usize).copied().map_or(0.0, round)
}

fn round(figure: f64) -> f64 {
    (figure * 100.0).round() / 100.0
}

/// The commit that is measured, if this is a clone.
fn commit() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
