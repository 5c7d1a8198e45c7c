//! A draft model over the wire: the same answers as without, from less steps, or a word on why it cannot be one.

use serde_json::{Value, json};

use crate::support::server::TestServer;

const MODEL: &str = "acme/tiny-qwen2";
/// The same model in other weights, with its tokenizer told by a GGUF file.
const DRAFT: &str = "acme/tiny-gguf:tiny-Q8_0.gguf";

fn bodies() -> Vec<Value> {
    let chat = |more: Value| {
        let mut body =
            json!({"messages": [{"role": "user", "content": "Count"}], "max_tokens": 60, "logprobs": true});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    vec![
        chat(json!({"temperature": 0})),
        chat(json!({"temperature": 1.3, "seed": 5, "n": 3})),
        chat(
            json!({"temperature": 0.9, "seed": 6, "presence_penalty": 0.7, "top_p": 0.9, "top_logprobs": 2}),
        ),
        chat(json!({"temperature": 1, "seed": 7, "response_format": {"type": "json_object"}})),
        chat(json!({"temperature": 2, "seed": 8, "max_tokens": 2})),
    ]
}

fn answers(server: &TestServer) -> Vec<Value> {
    let mut answers = Vec::new();
    for mut body in bodies() {
        body["model"] = json!(MODEL);
        let answer = server.post("/v1/chat/completions", &body).json();
        assert!(answer["choices"].is_array(), "{answer}");
        answers.push(answer["choices"].clone());
    }
    answers
}

fn metric(server: &TestServer, name: &str) -> f64 {
    let text = server.get("/metrics").text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("there is no {name} in {text}"))
}

#[test]
fn answers_are_the_same_with_a_draft_model() {
    let plain = TestServer::with_fixture_hub_pinned(MODEL, &[("speculation", "off")]);
    let drafted = TestServer::with_fixture_hub_pinned(MODEL, &[("draft-model", DRAFT)]);
    assert_eq!(answers(&drafted), answers(&plain));
    assert!(metric(&drafted, "vllm:spec_decode_num_accepted_tokens_total") > 0.0);
    assert!(metric(&drafted, "candlewick_draft_seconds_count") > 0.0);
    assert_eq!(metric(&plain, "candlewick_draft_seconds_count"), 0.0);
}

#[test]
fn a_draft_model_of_another_vocabulary_is_refused() {
    let server = TestServer::with_fixture_hub_pinned(MODEL, &[("draft-model", "candlewick/ember")]);
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]});
    let message = server.post("/v1/chat/completions", &body).json()["error"]["message"].clone();
    let message = message.as_str().expect("an error");
    assert!(message.contains("draft model 'candlewick/ember': it has another vocabulary than"), "{message}");
    assert!(message.contains("token "), "{message}");
}
