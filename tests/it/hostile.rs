//! Models that mean harm: what their files can cost, and whom.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::http;
use crate::support::program::Program;

/// Ember's files in a folder, with changes to its tokenizer.
fn ember_with(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let ember = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/models/ember");
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(ember).expect("ember is in the repository") {
        let file = file.expect("it can be read").path();
        std::fs::copy(&file, folder.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).expect("it is text");
    let mut tokenizer = serde_json::from_str(&text).expect("it is JSON");
    change(&mut tokenizer);
    std::fs::write(&path, tokenizer.to_string()).expect("written");
    folder
}

fn ask(program: &Program, model: &str, said: &str) -> (u16, Value) {
    let body = json!({"model": model, "messages": [{"role": "user", "content": said}], "max_tokens": 2});
    let answer = http::post(program.address, "/v1/chat/completions", &body);
    (answer.status, answer.json())
}

/// A pattern of which a backtracking engine tries every way there is to cut a text.
#[test]
fn a_tokenizer_with_a_pattern_without_end_fails_its_own_requests() {
    let folder = ember_with(|tokenizer| {
        tokenizer["pre_tokenizer"] = json!({
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "(a|a|aa)+$"}, "behavior": "Isolated", "invert": false},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            ],
        });
    });
    let model = folder.path().to_str().expect("it is text");
    let program = Program::serve(&["--no-store"], &[("CANDLEWICK_ENGINE__HANG_TIMEOUT", "5s")]);
    assert_eq!(ask(&program, model, "Hello!").0, 200, "it answers as long as nobody finds out");
    let (status, answer) = ask(&program, model, &format!("{}!", "a".repeat(60)));
    assert!(status == 400 || status == 500, "{status} {answer}");
    assert!(answer["error"]["message"].is_string(), "{answer}");
    assert_eq!(ask(&program, "candlewick/ember", "Hello!").0, 200, "other models answer");
    assert_eq!(ask(&program, model, "Hello!").0, 200, "and so does this one");
}

/// The largest text that a body may hold, to a model of a small context.
#[test]
fn a_prompt_of_many_megabytes_is_refused_for_its_length() {
    let program = Program::serve(&["--no-store"], &[]);
    let said = "many words and no end ".repeat(200_000);
    let (status, answer) = ask(&program, "candlewick/ember", &said);
    assert_eq!(status, 400, "{answer}");
    assert_eq!(answer["error"]["code"], "context_length_exceeded", "{answer}");
    assert!(answer.to_string().len() < 2000, "it is not sent back");
}
