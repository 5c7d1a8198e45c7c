//! Tokens and templates against transformers: every `tokenization` and `templates` entry of the parity fixtures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candlewick_engine::text::{OutputStream, TextOptions, TextProcessor};
use candlewick_engine::{ModelFile, ModelFiles, ResolveLimits, SamplingParams};
use candlewick_protocol::{ChatPrompt, Content, Delta, Message, Prompt, SamplingOptions, ToolCall};
use serde_json::{Map, Value};

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/parity");
    let entries = std::fs::read_dir(&root).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no fixtures in {}", root.display());
    folders
}

fn model_files(folder: &Path) -> ModelFiles {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a checkpoint is there") {
        let path = entry.expect("readable").path();
        files.insert(path.file_name().expect("named").to_string_lossy().into_owned(), ModelFile::Path(path));
    }
    ModelFiles { files, ..ModelFiles::default() }
}

fn load(folder: &Path) -> (TextProcessor, Value) {
    let expected = std::fs::read(folder.join("expected.json")).expect("expected.json is there");
    let processor = TextProcessor::load(&model_files(&folder.join("checkpoint")), &TextOptions::default());
    (processor.expect("the fixture loads"), serde_json::from_slice(&expected).expect("expected.json is JSON"))
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

#[test]
fn texts_are_cut_as_transformers_cuts_them() {
    for folder in fixtures() {
        let (processor, expected) = load(&folder);
        for case in expected["tokenization"].as_array().expect("a list") {
            let text = case["text"].as_str().expect("a text");
            for (add_special_tokens, key) in [(true, "ids"), (false, "ids_plain")] {
                let prompt = Prompt::Text { text: text.into(), add_special_tokens };
                let found = processor.prepare(&prompt).map(|prompt| prompt.token_ids.to_vec());
                match ids(&case[key]) {
                    expected if expected.is_empty() => {
                        assert!(found.is_err(), "{}: {text:?} is empty", folder.display())
                    }
                    expected => assert_eq!(found, Ok(expected), "{}: {key} of {text:?}", folder.display()),
                }
            }
        }
    }
}

#[test]
fn conversations_are_rendered_as_transformers_renders_them() {
    for folder in fixtures() {
        let (processor, expected) = load(&folder);
        for case in expected["templates"].as_array().expect("a list") {
            let prompt = processor.prepare(&Prompt::Chat(chat(case))).expect("it renders");
            let name = format!("{}: {}", folder.display(), case["name"]);
            assert_eq!(prompt.text, case["rendered"].as_str().expect("a text"), "{name}");
            assert_eq!(prompt.token_ids.to_vec(), ids(&case["input_ids"]), "{name}");
        }
    }
}

#[test]
fn tokens_become_the_text_that_transformers_makes_of_them() {
    for folder in fixtures() {
        let (processor, expected) = load(&folder);
        let processor = Arc::new(processor);
        for case in expected["tokenization"].as_array().expect("a list") {
            for (skip_special_tokens, key) in [(false, "decoded"), (true, "decoded_skip_special")] {
                let text = stream(&processor, &ids(&case["ids"]), skip_special_tokens);
                assert_eq!(text, case[key].as_str().expect("a text"), "{}: {key}", folder.display());
            }
        }
    }
}

/// The text of tokens, told one by one.
fn stream(processor: &Arc<TextProcessor>, ids: &[u32], skip_special_tokens: bool) -> String {
    let prompt = processor.prepare(&Prompt::Tokens(vec![0])).expect("the first token is a token");
    let options =
        SamplingOptions { skip_special_tokens: Some(skip_special_tokens), ..SamplingOptions::default() };
    let limits = ResolveLimits {
        num_prompt_tokens: 1,
        max_model_len: 1 << 20,
        vocab_size: processor.vocab_size(),
        random_seed: 0,
    };
    let params =
        SamplingParams::resolve(&options, processor.generation_defaults(), None, limits).expect("valid");
    let mut stream = OutputStream::new(Arc::clone(processor), &prompt, &params);
    let mut deltas: Vec<Delta> = ids.iter().flat_map(|id| stream.push(*id).deltas).collect();
    deltas.extend(stream.finish());
    let texts = deltas.into_iter().map(|delta| match delta {
        Delta::Text(text) => text,
        other => panic!("a completion is text, not {other:?}"),
    });
    texts.collect()
}

fn chat(case: &Value) -> ChatPrompt {
    ChatPrompt {
        messages: case["messages"].as_array().expect("a list").iter().map(message).collect(),
        tools: case["tools"].as_array().cloned().unwrap_or_default(),
        template_kwargs: case["chat_template_kwargs"].as_object().cloned().unwrap_or_else(Map::new),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(true),
        ..ChatPrompt::default()
    }
}

fn message(value: &Value) -> Message {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let calls = value["tool_calls"].as_array().into_iter().flatten();
    Message {
        role: text("role").expect("a role"),
        content: text("content").map(Content::Text),
        name: text("name"),
        reasoning_content: text("reasoning_content"),
        tool_calls: calls
            .map(|call| ToolCall {
                id: call["id"].as_str().unwrap_or_default().into(),
                name: call["function"]["name"].as_str().expect("a name").into(),
                arguments: call["function"]["arguments"].clone(),
            })
            .collect(),
        tool_call_id: text("tool_call_id"),
    }
}
