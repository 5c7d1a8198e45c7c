//! `/v1/completions`: prompts as text and as tokens, one or many, echoed and scored.

use serde_json::{Value, json};

use crate::support::server::TestServer;

const MODEL: &str = "acme/tiny-qwen2";

fn complete(server: &TestServer, mut body: Value) -> Value {
    body["model"] = json!(MODEL);
    body["temperature"] = json!(0);
    let answer = server.post("/v1/completions", &body);
    let status = answer.status;
    let answer = answer.json();
    assert_eq!(status, 200, "{answer}");
    answer
}

#[test]
fn many_prompts_are_answered_in_their_order() {
    let server = TestServer::with_fixture_hub();
    let one = |prompt: &str| {
        complete(&server, json!({"prompt": prompt, "max_tokens": 6}))["choices"][0]["text"].clone()
    };
    let prompts = ["The capital of France is", "Hello", "one two"];
    let alone: Vec<Value> = prompts.iter().map(|prompt| one(prompt)).collect();
    let together = complete(&server, json!({"prompt": prompts, "max_tokens": 6, "n": 2}));
    let choices = together["choices"].as_array().expect("a list");
    assert_eq!(choices.len(), 6);
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        assert_eq!(choice["text"], alone[index / 2]);
    }
}

#[test]
fn token_ids_are_taken_as_they_are() {
    let server = TestServer::with_fixture_hub();
    let text = "The capital of France is";
    let scored = complete(&server, json!({"prompt": text, "max_tokens": 4, "echo": true, "logprobs": 0}));
    assert_eq!(scored["usage"]["prompt_tokens"], 5);
    let by_text = complete(&server, json!({"prompt": text, "max_tokens": 4}));
    // The ids are found through the tokenizer's own file, not asserted by number.
    let tokenizer = std::fs::read_to_string(
        std::fs::read_dir(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/hub/models--acme--tiny-qwen2/snapshots"
        ))
        .expect("snapshots")
        .next()
        .expect("one snapshot")
        .expect("readable")
        .path()
        .join("tokenizer.json"),
    )
    .expect("a tokenizer");
    let vocabulary = serde_json::from_str::<Value>(&tokenizer).expect("JSON")["model"]["vocab"].clone();
    let tokens = scored["choices"][0]["logprobs"]["tokens"].as_array().expect("tokens").clone();
    let ids: Vec<Value> = tokens[..5]
        .iter()
        .map(|token| vocabulary[token.as_str().expect("text").replace(' ', "Ġ")].clone())
        .collect();
    for prompt in [json!(ids), json!([ids])] {
        let by_ids = complete(&server, json!({"prompt": prompt, "max_tokens": 4}));
        assert_eq!(by_ids["choices"][0]["text"], by_text["choices"][0]["text"]);
    }
    let answer = server.post("/v1/completions", &json!({"model": MODEL, "prompt": [99999]}));
    assert_eq!((answer.status, answer.json()["error"]["param"].as_str()), (400, Some("prompt")));
}

#[test]
fn echo_with_log_probabilities_scores_the_prompt() {
    let server = TestServer::with_fixture_hub();
    let body = json!({"prompt": "The capital of France is", "max_tokens": 0, "echo": true, "logprobs": 2});
    let answer = complete(&server, body);
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "The capital of France is");
    assert_eq!(choice["finish_reason"], "length");
    let scores = choice["logprobs"]["token_logprobs"].as_array().expect("scores");
    assert_eq!(scores.len(), 5);
    assert!(
        scores[0].is_null()
            && scores[1..].iter().all(|score| score.as_f64().is_some_and(|score| score <= 0.0))
    );
    assert_eq!(choice["logprobs"]["text_offset"], json!([0, 3, 11, 14, 21]));
    assert_eq!(answer["usage"]["completion_tokens"], 0);
}

#[test]
fn a_suffix_needs_a_model_that_fills_in() {
    let server = TestServer::with_fixture_hub();
    let answer = server.post("/v1/completions", &json!({"model": MODEL, "prompt": "a", "suffix": "b"}));
    assert_eq!(answer.status, 400);
    let error = answer.json()["error"].clone();
    assert_eq!(
        (error["param"].as_str(), error["code"].as_str()),
        (Some("suffix"), Some("unsupported_operation"))
    );
}

#[test]
fn sixteen_tokens_are_the_default() {
    let server = TestServer::with_fixture_hub();
    let answer = complete(&server, json!({"prompt": "one two", "ignore_eos": true}));
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}
