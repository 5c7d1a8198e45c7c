//! `/v1/chat/completions`: what is said, streamed or not, and how wrong requests are answered.

use serde_json::{Value, json};

use crate::support::server::{TestServer, chat_body};

/// A stream's text by choice, and its finish reasons.
fn streamed(server: &TestServer, body: Value) -> Vec<(String, String)> {
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let num_choices = body["n"].as_u64().unwrap_or(1) as usize;
    let mut choices = vec![(String::new(), String::new()); num_choices];
    for chunk in answer.chunks() {
        for choice in chunk["choices"].as_array().expect("choices are a list") {
            let (text, finish) = &mut choices[choice["index"].as_u64().expect("an index") as usize];
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            if let Some(reason) = choice["finish_reason"].as_str() {
                assert!(finish.is_empty(), "a choice finishes once");
                finish.push_str(reason);
            }
        }
    }
    choices
}

fn whole(answer: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let choices = answer["choices"].as_array().expect("choices are a list");
    choices
        .iter()
        .map(|choice| (text(&choice["message"]["content"]), text(&choice["finish_reason"])))
        .collect()
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let server = TestServer::with_fixture_hub();
    let cases = [
        ("acme/tiny-qwen2", "Hello", json!({})),
        ("acme/tiny-qwen2", "Emoji", json!({})),
        ("acme/tiny-qwen2", "Think", json!({})),
        ("acme/tiny-llama", "Count", json!({"stop": ["six"]})),
        ("acme/tiny-llama", "Hello", json!({"n": 3, "temperature": 1.5, "seed": 5, "max_tokens": 20})),
        ("acme/tiny-qwen2", "Count", json!({"max_tokens": 4})),
    ];
    for (model, user, extra) in cases {
        let answer = server.chat(model, user, extra.clone());
        let mut body = chat_body(model, user, extra);
        body["stream"] = json!(true);
        assert_eq!(streamed(&server, body), whole(&answer), "{model} {user}");
    }
}

#[test]
fn a_seed_makes_sampling_repeatable_and_choices_differ() {
    let server = TestServer::with_fixture_hub();
    let ask = |seed: i64| {
        let extra = json!({"n": 4, "temperature": 2.0, "seed": seed, "max_tokens": 16});
        whole(&server.chat("acme/tiny-qwen2", "Hello", extra))
    };
    let (first, again, other) = (ask(1), ask(1), ask(2));
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!(first.iter().any(|choice| choice != &first[0]), "choices have streams of their own: {first:?}");
}

#[test]
fn the_answer_does_not_depend_on_the_company() {
    let server = TestServer::with_fixture_hub();
    let extra = json!({"temperature": 1.3, "seed": 42, "max_tokens": 24});
    let alone = whole(&server.chat("acme/tiny-llama", "Count", extra.clone()));
    std::thread::scope(|scope| {
        let server = &server;
        for i in 0..12 {
            scope.spawn(move || {
                let extra = json!({"temperature": 1.0, "seed": i, "max_tokens": 8 + i, "n": 1 + i % 3});
                server.chat("acme/tiny-llama", ["Hello", "Think", "Count"][i % 3], extra)
            });
        }
        for _ in 0..4 {
            assert_eq!(whole(&server.chat("acme/tiny-llama", "Count", extra.clone())), alone);
        }
    });
}

#[test]
fn a_second_turn_computes_only_what_is_new_and_says_the_same() {
    let conversation = |model: &str, turns: &[(&str, &str)]| {
        let messages = turns.iter().map(|(role, content)| json!({"role": role, "content": content}));
        json!({
            "model": model, "messages": messages.collect::<Vec<_>>(), "temperature": 0, "max_tokens": 24,
            "logprobs": true, "top_logprobs": 2
        })
    };
    let question = "Tell me about Candlewick, please: what is it, who is it for, and how do I begin?";
    let first_turn = [("user", question)];
    let model = "candlewick/ember";
    let chatty = TestServer::start(&[], &[]);
    let first = chatty.post("/v1/chat/completions", &conversation(model, &first_turn)).json();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let said = first["choices"][0]["message"]["content"].as_str().expect("a text");
    let second_turn = conversation(model, &[("user", question), ("assistant", said), ("user", "Thank you!")]);
    let second = chatty.post("/v1/chat/completions", &second_turn).json();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    let known = first["usage"]["prompt_tokens"].as_u64().expect("a number");
    // Whole blocks of 16 tokens of what was read in the first turn.
    assert!(cached > 0 && cached + 16 > known / 16 * 16, "{cached} of {known} are cached");
    assert_eq!(chatty.metric("vllm:prefix_cache_hits_total{model_name=\"candlewick/ember\"}"), cached as f64);

    let forgetful = TestServer::start(&[], &[("CANDLEWICK_ENGINE__PREFIX_CACHING", "false")]);
    forgetful.post("/v1/chat/completions", &conversation(model, &first_turn)).json();
    let afresh = forgetful.post("/v1/chat/completions", &second_turn).json();
    assert_eq!(afresh["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(afresh["choices"], second["choices"], "to the last digit of each log-probability");
}

#[test]
fn log_probabilities_come_with_their_tokens() {
    let server = TestServer::with_fixture_hub();
    let extra = json!({"logprobs": true, "top_logprobs": 3});
    let answer = server.chat("acme/tiny-qwen2", "Emoji", extra.clone());
    let entries = answer["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    let bytes: Vec<u8> = entries
        .iter()
        .flat_map(|entry| {
            entry["bytes"].as_array().expect("bytes").iter().map(|byte| byte.as_u64().expect("a byte") as u8)
        })
        .collect();
    let said = String::from_utf8(bytes).expect("the bytes of all tokens are the text");
    assert!(said.starts_with("Café 😀 ok"), "{said}");
    for entry in &entries {
        assert_eq!(entry["top_logprobs"].as_array().map(Vec::len), Some(3));
        assert_eq!(entry["logprob"], entry["top_logprobs"][0]["logprob"], "greedy takes the best");
    }
    let mut body = chat_body("acme/tiny-qwen2", "Emoji", extra);
    body["stream"] = json!(true);
    let streamed: Vec<Value> = server
        .post("/v1/chat/completions", &body)
        .chunks()
        .iter()
        .flat_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(streamed, entries);
}

#[test]
fn usage_comes_in_a_chunk_of_its_own_when_asked_for() {
    let server = TestServer::with_fixture_hub();
    let mut body = chat_body("acme/tiny-qwen2", "Hello", json!({"stream": true}));
    assert!(server.post("/v1/chat/completions", &body).chunks().iter().all(|chunk| chunk["usage"].is_null()));
    body["stream_options"] = json!({"include_usage": true});
    let chunks = server.post("/v1/chat/completions", &body).chunks();
    let (last, others) = chunks.split_last().expect("there are chunks");
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["prompt_tokens"], 14);
    assert_eq!(last["usage"]["completion_tokens"], 11);
    assert!(others.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)), "the others say null");
}

#[test]
fn wrong_requests_are_told_which_field_and_what_would_be_right() {
    let server = TestServer::with_fixture_hub();
    let cases = [
        (json!({"temperature": 3}), "temperature", "invalid_value"),
        (json!({"temperature": "hot"}), "temperature", "invalid_value"),
        (json!({"top_p": 0}), "top_p", "invalid_value"),
        (json!({"n": 0}), "n", "invalid_value"),
        (json!({"stop": [""]}), "stop.0", "invalid_value"),
        (json!({"logit_bias": {"999999": 1}}), "logit_bias", "invalid_value"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x", "invalid_value"),
        (json!({"top_logprobs": 2}), "top_logprobs", "invalid_value"),
        (json!({"logprobs": true, "top_logprobs": 99}), "top_logprobs", "invalid_value"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "invalid_value"),
        (json!({"messages": []}), "messages", "invalid_value"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "messages.0.role", "invalid_value"),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "messages.0.tool_call_id",
            "missing_required_parameter",
        ),
        (json!({"max_tokens": 5000}), "max_tokens", "invalid_value"),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            json!({"structured_outputs": {"json": {"type": "array", "uniqueItems": true}}}),
            "structured_outputs.json.uniqueItems",
            "invalid_value",
        ),
        (json!({"modalities": ["audio"]}), "modalities", "unsupported_operation"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}),
            "tools.0.function.name",
            "invalid_value",
        ),
        (json!({"tool_choice": "auto"}), "tool_choice", "invalid_value"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop", "invalid_value"),
    ];
    for (extra, param, code) in cases {
        let answer =
            server.post("/v1/chat/completions", &chat_body("acme/tiny-qwen2", "Hello", extra.clone()));
        let status = answer.status;
        let error = answer.json()["error"].clone();
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{extra}: {error}");
        let context = error["code"] == "context_length_exceeded" && param == "max_tokens";
        assert!(error["code"] == code || context, "{extra}: {error}");
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[test]
fn a_prompt_beyond_the_context_is_refused_with_both_numbers() {
    let server = TestServer::with_fixture_hub();
    let long = "Hello ".repeat(3000);
    for stream in [false, true] {
        let body = chat_body("acme/tiny-qwen2", &long, json!({"stream": stream}));
        let answer = server.post("/v1/chat/completions", &body);
        assert_eq!(answer.status, 400);
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], "context_length_exceeded");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("2048") && message.contains("15010"), "{message}");
    }
}

#[test]
fn request_ids_come_back_and_never_collide() {
    let server = TestServer::with_fixture_hub();
    let body = chat_body("acme/tiny-qwen2", "Count", json!({}));
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let ask = || {
            let headers = [("x-request-id", "same")];
            let answer = crate::support::http::request(
                server.address(),
                "POST",
                "/v1/chat/completions",
                &headers,
                Some(&body),
            );
            assert_eq!(answer.header("x-request-id"), Some("same"));
            answer.json()
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it is answered")).collect()
    });
    for answer in &answers {
        assert_eq!(answer["id"], "chatcmpl-same");
        assert_eq!(answer["choices"], answers[0]["choices"]);
    }
    assert!(server.get("/nowhere").header("x-request-id").is_some());
}
