//! How tokens are chosen and how choices are found, through the real server and real (tiny) models.

use serde_json::{Value, json};

use crate::support::server::TestServer;

const MODEL: &str = "acme/tiny-qwen2";

/// The answer to a greedy completion.
fn complete(server: &TestServer, more: Value) -> Value {
    let mut body = json!({"model": MODEL, "temperature": 0, "prompt": "one two", "max_tokens": 8});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let answer = server.post("/v1/completions", &body);
    let status = answer.status;
    let answer = answer.json();
    assert_eq!(status, 200, "{answer}");
    answer
}

fn token_ids(choice: &Value) -> Vec<u64> {
    let ids = choice["token_ids"].as_array().expect("token ids");
    ids.iter().map(|id| id.as_u64().expect("an id")).collect()
}

fn greedy_ids(server: &TestServer, mut more: Value) -> Vec<u64> {
    more["return_token_ids"] = json!(true);
    token_ids(&complete(server, more)["choices"][0])
}

#[track_caller]
fn assert_refused(server: &TestServer, path: &str, body: &Value, param: &str, code: &str) -> String {
    let answer = server.post(path, body);
    let status = answer.status;
    let error = answer.json()["error"].clone();
    assert_eq!(
        (status, error["param"].as_str(), error["code"].as_str()),
        (400, Some(param), Some(code)),
        "{error}"
    );
    error["message"].as_str().expect("a message").to_owned()
}

#[test]
fn beams_are_those_of_transformers() {
    let server = TestServer::with_fixture_hub();
    let fixture = include_str!("../fixtures/beam_search.json");
    let fixture: Value = serde_json::from_str(fixture).expect("the fixture is JSON");
    for case in fixture["cases"].as_array().expect("cases") {
        let found = complete(
            &server,
            json!({
                "model": case["model"], "prompt": case["prompt"], "n": case["width"], "max_tokens": case["max_tokens"],
                "length_penalty": case["length_penalty"], "use_beam_search": true, "return_token_ids": true,
            }),
        );
        let choices = found["choices"].as_array().expect("choices");
        let beams: Vec<Value> = choices.iter().map(|choice| choice["token_ids"].clone()).collect();
        assert_eq!(Value::from(beams), case["beams"], "{case}");
    }
}

#[test]
fn the_best_of_several_is_the_one_of_the_best_mean_log_probability() {
    let server = TestServer::with_fixture_hub();
    let sampled =
        json!({"temperature": 1.5, "seed": 3, "return_token_ids": true, "logprobs": 0, "ignore_eos": true});
    let with = |more: Value| {
        let mut body = sampled.clone();
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        complete(&server, body)
    };
    let all = with(json!({"n": 6}));
    let mean = |choice: &Value| -> f64 {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().expect("log-probabilities");
        logprobs.iter().map(|logprob| logprob.as_f64().expect("a number")).sum()
    };
    let mut ranked = all["choices"].as_array().expect("choices").clone();
    ranked.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
    let best = with(json!({"n": 2, "best_of": 6}));
    assert_eq!(best["choices"].as_array().expect("choices").len(), 2);
    for (index, expected) in ranked.iter().take(2).enumerate() {
        assert_eq!(token_ids(&best["choices"][index]), token_ids(expected));
        assert_eq!(best["choices"][index]["index"], index);
    }
    assert_eq!(best["usage"], all["usage"], "all that was made is counted");
}

#[test]
fn tokens_that_may_not_come_do_not() {
    let server = TestServer::with_fixture_hub();
    let free = greedy_ids(&server, json!({"ignore_eos": true}));
    let [first, second] = [free[0], free[1]];
    let allowed: Vec<u64> = vec![second, 450, 20];
    let kept = greedy_ids(&server, json!({"allowed_token_ids": allowed, "ignore_eos": true}));
    assert!(kept.len() == 8 && kept.iter().all(|id| allowed.contains(id)), "{kept:?}");

    // The words are those that the model would say.
    let text =
        complete(&server, json!({"max_tokens": 2}))["choices"][0]["text"].as_str().expect("text").to_owned();
    let both = greedy_ids(&server, json!({"bad_words": [text.clone()], "ignore_eos": true}));
    assert_eq!(both[0], first, "only the last token of a bad word is masked");
    assert_ne!(both[1], second);
    let word =
        complete(&server, json!({"max_tokens": 1}))["choices"][0]["text"].as_str().expect("text").to_owned();
    assert!(!greedy_ids(&server, json!({"bad_words": [word], "ignore_eos": true})).contains(&first));

    let long = json!({"max_tokens": 60, "ignore_eos": true, "no_repeat_ngram_size": 2});
    let ids = greedy_ids(&server, long.clone());
    let pairs: std::collections::HashSet<_> = ids.windows(2).collect();
    assert_eq!(pairs.len(), ids.len() - 1, "no pair comes twice in {ids:?}");
    let config = json!({"no_repeat_ngram_size": 2}).to_string();
    let by_config = json!({"max_tokens": 60, "ignore_eos": true, "generation_config": config});
    assert_eq!(greedy_ids(&server, by_config), ids);
}

#[test]
fn masks_that_leave_nothing_are_no_crash() {
    let server = TestServer::with_fixture_hub();
    // Token 2 ends this model's answers, and nothing else may come.
    let answer = complete(&server, json!({"allowed_token_ids": [2], "min_tokens": 4}));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], 1);
}

#[test]
fn the_prompts_log_probabilities_are_those_that_echo_tells() {
    let server = TestServer::with_fixture_hub();
    let prompt = "The capital of France is";
    let echoed = complete(&server, json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 0}));
    let scores = echoed["choices"][0]["logprobs"]["token_logprobs"].clone();
    let told = complete(&server, json!({"prompt": prompt, "prompt_logprobs": 3, "return_token_ids": true}));
    let choice = &told["choices"][0];
    assert!(!choice["text"].as_str().expect("text").contains("capital"), "it is not echoed");
    let places = choice["prompt_logprobs"].as_array().expect("a list");
    let ids = choice["prompt_token_ids"].as_array().expect("ids");
    assert_eq!((places.len(), &places[0]), (ids.len(), &Value::Null));
    for (place, id) in places.iter().zip(ids).skip(1) {
        let own = &place[id.to_string()];
        let at = ids.iter().position(|other| std::ptr::eq(other, id)).expect("it is one of them");
        assert_eq!(own["logprob"], scores[at]);
        let entries = place.as_object().expect("an object");
        assert!((3..=4).contains(&entries.len()), "{place}");
        let better =
            entries.values().filter(|other| other["logprob"].as_f64() > own["logprob"].as_f64()).count();
        assert!(own["rank"].as_u64().expect("a rank") as usize > better);
        assert!(own["decoded_token"].is_string());
    }

    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "prompt_logprobs": -1,
        "return_prompt_text": true, "max_tokens": 1});
    let chat = server.post("/v1/chat/completions", &body).json();
    let places = chat["prompt_logprobs"].as_array().expect("a list");
    assert!(places[1].as_object().expect("an object").len() >= 20, "as many as the server tells");
    assert!(chat["prompt_text"].as_str().expect("text").contains("Hello"));
}

#[test]
fn log_probabilities_of_named_tokens_come_behind_the_likeliest() {
    let server = TestServer::with_fixture_hub();
    let extra = json!({"logprobs": true, "top_logprobs": 2, "logprob_token_ids": [20, 21],
        "return_tokens_as_token_ids": true});
    let answer = server.chat(MODEL, "Hello", extra);
    for place in answer["choices"][0]["logprobs"]["content"].as_array().expect("a list") {
        let top = place["top_logprobs"].as_array().expect("a list");
        let names: Vec<&str> = top.iter().map(|top| top["token"].as_str().expect("a name")).collect();
        assert!(names.contains(&"token_id:20") && names.contains(&"token_id:21"), "{names:?}");
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    let body = json!({"model": MODEL, "prompt": "a", "logprob_token_ids": [3]});
    assert_refused(&server, "/v1/completions", &body, "logprob_token_ids", "invalid_value");
}

#[test]
fn a_prompt_that_is_too_long_is_told_the_numbers_or_cut() {
    let server = TestServer::with_fixture_hub();
    let prompt = "one two ".repeat(1500);
    let body = json!({"model": MODEL, "prompt": prompt, "max_tokens": 4});
    let message = assert_refused(&server, "/v1/completions", &body, "prompt", "context_length_exceeded");
    assert!(message.contains("2048") && message.contains("4500"), "{message}");
    let cut = complete(&server, json!({"prompt": prompt, "max_tokens": 4, "truncate_prompt_tokens": -1}));
    assert_eq!(cut["usage"]["prompt_tokens"], 2044);
    let kept = json!({"prompt": "The capital of France is", "truncate_prompt_tokens": 2, "truncation_side": "right",
        "return_prompt_text": true});
    assert_eq!(complete(&server, kept)["choices"][0]["prompt_text"], "The capital");
}

#[test]
fn the_server_is_as_strict_and_as_trusting_as_it_is_told() {
    let lax = TestServer::with_fixture_hub();
    let misspelt = json!({"model": MODEL, "prompt": "a", "max_tokenz": 4});
    assert_eq!(lax.post("/v1/completions", &misspelt).status, 200);
    let template = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1,
        "chat_template": template, "return_prompt_text": true});
    assert_refused(&lax, "/v1/chat/completions", &chat, "chat_template", "unsupported_operation");

    let flags = [("strict-fields", "true"), ("trust-request-chat-template", "true"), ("max-logprobs", "-1")];
    let strict = TestServer::with_fixture_hub_pinned(MODEL, &flags);
    assert_refused(&strict, "/v1/completions", &misspelt, "max_tokenz", "unknown_parameter");
    let answer = strict.post("/v1/chat/completions", &chat).json();
    assert_eq!(answer["prompt_text"], "<Hello>", "{answer}");
    let broken = json!({"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "chat_template": "{% if %}"});
    assert_refused(&strict, "/v1/chat/completions", &broken, "chat_template", "invalid_value");
    let whole = json!({"prompt": "one two", "prompt_logprobs": -1, "max_tokens": 1});
    let places = complete(&strict, whole)["choices"][0]["prompt_logprobs"].clone();
    assert_eq!(places[1].as_object().expect("an object").len(), 479, "the whole vocabulary");
}

#[test]
fn chunks_hold_as_many_tokens_as_is_asked_and_all_ids() {
    let server = TestServer::with_fixture_hub();
    let body = json!({"model": MODEL, "prompt": "one two", "temperature": 0, "max_tokens": 9, "ignore_eos": true,
        "stream": true, "stream_interval": 4, "return_token_ids": true});
    let chunks = server.post("/v1/completions", &body).chunks();
    let lengths: Vec<usize> = chunks
        .iter()
        .filter_map(|chunk| Some(chunk["choices"][0]["token_ids"].as_array()?.len()))
        .filter(|length| *length > 0)
        .collect();
    assert_eq!(lengths, [1, 4, 4]);
}

#[test]
fn reasoning_ends_when_its_budget_is_used() {
    let server = TestServer::with_fixture_hub();
    let reasoned = |extra: Value| {
        let answer = server.chat(MODEL, "Think", extra);
        let num = answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a count");
        (num, answer["choices"][0]["message"]["reasoning"].as_str().unwrap_or_default().to_owned())
    };
    let (free, text) = reasoned(json!({}));
    assert!(free > 2, "the model reasons: {text}");
    let (bounded, beginning) = reasoned(json!({"thinking_token_budget": 2}));
    // The marks are several tokens of this tokenizer, and part of them counts until they are read as such.
    assert!(bounded < free, "{bounded} of {free}");
    assert!(text.starts_with(&beginning) && beginning.len() < text.len(), "{beginning} of {text}");
    assert_eq!(reasoned(json!({"thinking_token_budget": 0})).1, "");
    assert_eq!(reasoned(json!({"thinking_token_budget": -1})).0, free);
    assert_eq!(reasoned(json!({"thinking_token_budget": free})).1, text, "it was not reached");
}
