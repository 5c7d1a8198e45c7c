//! GGUF files over the wire: named by repository and file, by path, or by the folder they are alone in.

use serde_json::{Value, json};

use crate::support::server::{TestServer, fixtures};

const MODEL: &str = "acme/tiny-gguf:tiny-Q8_0.gguf";

fn answer(chat: &Value) -> &str {
    chat["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("an answer: {chat}"))
}

#[test]
fn a_cached_gguf_file_is_listed_and_answers() {
    let server = TestServer::with_fixture_hub();
    let list = server.get("/v1/models").json();
    let card = list["data"].as_array().expect("a list").iter().find(|card| card["id"] == MODEL);
    let card = card.unwrap_or_else(|| panic!("it is listed: {list}"));
    assert_eq!(card["owned_by"], "acme");
    let told_before = card["max_model_len"].as_u64().expect("the file says how long a context may be");
    let chat = server.chat(MODEL, "Hello", json!({}));
    assert_eq!(answer(&chat), "Hi there! How can I help you today?");
    assert_eq!(chat["choices"][0]["finish_reason"], "stop", "the file says how an answer ends");
    let list = server.get("/v1/models").json();
    let card = list["data"].as_array().expect("a list").iter().find(|card| card["id"] == MODEL);
    assert_eq!(card.expect("it is listed")["max_model_len"], told_before, "loaded, it is the same");
    let count = server.chat(MODEL, "Count", json!({}));
    assert_eq!(answer(&count), "one two three four five six seven eight nine ten");
    // The one GGUF model of a repository need not be named by its file.
    assert_eq!(answer(&server.chat("acme/tiny-gguf", "Hello", json!({}))), answer(&chat));
}

#[test]
fn a_load_of_a_gguf_file_is_told_as_any_other() {
    let server = TestServer::with_fixture_hub();
    let frames = server.post("/load_model", &json!({"model": MODEL})).chunks();
    let stages: Vec<&str> = frames
        .iter()
        .map(|frame| frame["stage"].as_str().or(frame["status"].as_str()).unwrap_or("?"))
        .collect();
    assert_eq!(stages.first(), Some(&"processor"), "{frames:?}");
    assert_eq!(stages.last(), Some(&"ready"), "{frames:?}");
    assert!(stages.contains(&"weights"), "{frames:?}");
    let id = "acme/tiny-gguf@main:tiny-Q8_0.gguf";
    assert!(frames.iter().all(|frame| frame["model"] == id), "{frames:?}");
}

#[test]
fn a_gguf_file_is_named_by_its_path_or_by_its_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file =
        "hub/models--acme--tiny-gguf/snapshots/7777777777777777777777777777777777777777/tiny-Q8_0.gguf";
    std::fs::copy(fixtures().join(file), folder.path().join("m.gguf")).expect("the file is copied");
    let path = folder.path().to_str().expect("its name is text").to_owned();
    let server = TestServer::with_fixture_hub();
    for name in [format!("{path}/m.gguf"), format!("{path}:m.gguf"), path] {
        assert_eq!(
            answer(&server.chat(&name, "Hello", json!({}))),
            "Hi there! How can I help you today?",
            "{name}"
        );
    }
}

#[test]
fn a_gguf_file_that_is_broken_is_an_answer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("m.gguf"), "<html>Sign in to download</html>")
        .expect("the file is written");
    let server = TestServer::with_fixture_hub();
    let body = json!({"model": format!("{}/m.gguf", folder.path().display()), "messages": [{"role": "user", "content": "Hi"}]});
    let answer = server.post("/v1/chat/completions", &body);
    assert!(answer.status >= 500, "{}", answer.status);
    let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("not a GGUF file"), "{message}");
}
