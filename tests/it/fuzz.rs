//! The corpora of the fuzz targets, run once each and in order: what fuzzing once found stays found.

use std::path::Path;

#[path = "../fuzz/drive.rs"]
mod drive;

/// Runs every input of a target; there is at least one.
fn run(target: &str, drive: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for path in inputs {
        let data = std::fs::read(&path).expect("the input can be read");
        let run = std::panic::AssertUnwindSafe(|| drive(&data));
        assert!(std::panic::catch_unwind(run).is_ok(), "{} failed", path.display());
    }
}

#[test]
fn bodies_of_the_corpus_are_read_or_refused_in_words() {
    run("request_body", drive::request_body);
}

#[test]
fn templates_of_the_corpus_render_or_fail_within_their_limits() {
    run("chat_template", drive::chat_template);
}

#[test]
fn answers_of_the_corpus_are_read_alike_however_they_are_cut() {
    run("tool_calls", drive::tool_calls);
}

#[test]
fn response_templates_of_the_corpus_read_alike_however_answers_are_cut() {
    run("response_template", drive::response_template);
}
