//! A failure stays where it happened: crashes in a step cost a pause, a poisonous request fails alone.

use candlewick_engine::fake::{FakeRule, Fault};
use serde_json::{Value, json};

use crate::support::http;
use crate::support::server::{TestServer, chat_body};

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_default()
}

#[test]
fn a_stream_survives_a_crash_of_its_batcher_to_the_byte() {
    for fault in [Fault::Panic, Fault::Error] {
        let server = TestServer::fake(FakeRule::default(), |_, _| {});
        let extra = json!({"max_tokens": 40, "temperature": 1.0, "seed": 9, "n": 2});
        let undisturbed = server.chat("fake/model", "Hello", extra.clone());
        server.factory().control.step_gate.close();
        let mut body = chat_body("fake/model", "Hello", extra);
        body["stream"] = json!(true);
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| server.post("/v1/chat/completions", &body).chunks());
            server.factory().control.step_gate.wait_held();
            server.factory().control.step_gate.let_pass(10);
            server.factory().control.break_step(server.factory().control.num_steps() + 7, fault);
            server.factory().control.step_gate.open();
            let mut texts = [String::new(), String::new()];
            for chunk in stream.join().expect("it is answered") {
                assert!(chunk["error"].is_null(), "{chunk}");
                for choice in chunk["choices"].as_array().expect("choices") {
                    texts[choice["index"].as_u64().expect("an index") as usize]
                        .push_str(choice["delta"]["content"].as_str().unwrap_or_default());
                }
            }
            for (index, streamed) in texts.iter().enumerate() {
                assert_eq!(undisturbed["choices"][index]["message"]["content"], *streamed);
            }
        });
        assert_eq!(server.metric("candlewick_batcher_restarts_total"), 1.0);
    }
}

#[test]
fn a_poisonous_request_fails_alone() {
    let server = TestServer::fake(FakeRule::default(), |tree, _| tree.max_restarts = 20);
    server.factory().control.poison(u32::from(b'~'), Fault::Panic);
    let extra = json!({"max_tokens": 30});
    let alone = server.chat("fake/model", "Hello", extra.clone());
    std::thread::scope(|scope| {
        let server = &server;
        let good: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.chat("fake/model", "Hello", json!({"max_tokens": 30}))))
            .collect();
        let body = chat_body("fake/model", "~", extra.clone());
        let headers = [("x-request-id", "the-poisonous-one")];
        let poisonous =
            http::request(server.address(), "POST", "/v1/chat/completions", &headers, Some(&body));
        assert_eq!(poisonous.status, 500);
        let error = poisonous.json()["error"].clone();
        assert_eq!(error["code"], "internal_error");
        let message = error["message"].as_str().expect("a message");
        assert!(
            message.contains("the-poisonous-one") && message.contains("crashed on this request"),
            "{message}"
        );
        for request in good {
            assert_eq!(text(&request.join().expect("it is answered")), text(&alone));
        }
    });
}

#[test]
fn a_model_that_keeps_crashing_is_given_up_and_others_go_on() {
    let server = TestServer::fake(FakeRule::says("ok"), |tree, _| tree.max_restarts = 2);
    server.load("fake/other");
    // Four requests, each of which breaks its batcher: more than is forgiven.
    server.factory().control.poison(u32::from(b'~'), Fault::Panic);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(server.post("/v1/chat/completions", &chat_body("fake/model", "~", json!({}))).status);
    }
    assert!(statuses.contains(&503), "the model is given up: {statuses:?}");
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(text(&server.chat("fake/other", "Hi", json!({}))), "ok");
    let refused = server.post("/v1/chat/completions", &chat_body("fake/model", "Hi", json!({})));
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let error = refused.json()["error"].clone();
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("told to panic")),
        "the reason: {error}"
    );
    server.load("fake/model");
    assert_eq!(text(&server.chat("fake/model", "Hi", json!({}))), "ok");
}
