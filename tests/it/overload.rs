//! Limits: what is too much is refused at once, and health is told whatever the models do.

use std::time::Duration;

use candlewick_engine::fake::FakeRule;
use serde_json::json;

use crate::support::server::{TestServer, chat_body};
use crate::support::{eventually, http};

#[test]
fn one_more_than_fits_is_refused_with_a_time_to_try_again() {
    let server = TestServer::fake(FakeRule::says("ok"), |tree, _| {
        tree.max_running = 2;
        tree.max_queued = 1;
    });
    server.load("fake/model");
    server.factory().control.step_gate.close();
    let body = chat_body("fake/model", "Hello", json!({}));
    std::thread::scope(|scope| {
        let admitted: Vec<_> =
            (0..3).map(|_| scope.spawn(|| server.post("/v1/chat/completions", &body).status)).collect();
        eventually("three are in", || server.gateway().num_in_flight() == 3);
        let refused = server.post("/v1/chat/completions", &body);
        assert_eq!(refused.status, 429);
        let seconds: u64 = refused.header("retry-after").expect("a time").parse().expect("in seconds");
        assert!(seconds >= 1);
        assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
        server.factory().control.step_gate.open();
        for request in admitted {
            assert_eq!(request.join().expect("it is answered"), 200);
        }
    });
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
}

#[test]
fn a_queue_that_one_key_fills_is_open_to_another() {
    let server = TestServer::fake(FakeRule::says("ok"), |tree, api| {
        tree.max_running = 1;
        tree.max_queued = 3;
        api.api_keys =
            ["flood sk-1", "other sk-2 weight=3"].map(|key| key.parse().expect("a good key")).into();
    });
    let ask = |key: &str| {
        let (headers, body) = ([("authorization", key)], chat_body("fake/model", "Hello", json!({})));
        http::request(server.address(), "POST", "/v1/chat/completions", &headers, Some(&body)).status
    };
    assert_eq!(ask("Bearer sk-1"), 200);
    server.factory().control.step_gate.close();
    std::thread::scope(|scope| {
        let flood: Vec<_> = (0..4).map(|_| scope.spawn(|| ask("Bearer sk-1"))).collect();
        eventually("the queue is full", || server.gateway().num_in_flight() == 4);
        assert_eq!(ask("Bearer sk-1"), 429);
        let others: Vec<_> = (0..3).map(|_| scope.spawn(|| ask("Bearer sk-2"))).collect();
        eventually("the others are in", || server.gateway().num_in_flight() == 7);
        assert_eq!(ask("Bearer sk-2"), 429, "three of four places are its own, and no more");
        server.factory().control.step_gate.open();
        for request in flood.into_iter().chain(others) {
            assert_eq!(request.join().expect("it is answered"), 200);
        }
    });
}

#[test]
fn a_request_whose_time_is_over_is_told_so_on_every_route() {
    let server = TestServer::fake(FakeRule::says("ok"), |_, _| {});
    server.load("fake/model");
    server.factory().control.step_gate.close();
    let chat = chat_body("fake/model", "Hello", json!({}));
    let completion = json!({"model": "fake/model", "prompt": "Once"});
    let response = json!({"model": "fake/model", "input": "Hello"});
    let mut in_the_body = chat.clone();
    in_the_body["timeout"] = json!(0.05);
    let hurry = ("x-request-timeout", "0.05");
    for (path, headers, body) in [
        ("/v1/chat/completions", &[hurry][..], &chat),
        ("/v1/completions", &[hurry], &completion),
        ("/v1/responses", &[hurry], &response),
        ("/v1/chat/completions", &[], &in_the_body),
        ("/v1/chat/completions", &[("timeout", "0.05")], &chat),
    ] {
        let answer = http::request(server.address(), "POST", path, headers, Some(body));
        assert_eq!(answer.status, 504, "{path} {headers:?}");
        let error = answer.json()["error"].take();
        assert_eq!((&error["code"], &error["type"]), (&json!("timeout"), &json!("server_error")));
        assert!(error["message"].as_str().expect("a text").contains("timeout of 0.05 s passed"), "{error}");
    }
    let refused =
        http::request(server.address(), "POST", "/v1/completions", &[("timeout", "soon")], Some(&completion));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("timeout")));
    eventually("nobody is left", || server.gateway().num_in_flight() == 0);
}

#[test]
fn a_stream_whose_time_is_over_ends_with_an_error() {
    let server = TestServer::fake(FakeRule::default(), |_, api| api.stream_open_after = Duration::ZERO);
    server.load("fake/model");
    server.factory().control.step_gate.close();
    server.factory().control.step_gate.let_pass(3);
    let body = chat_body("fake/model", "Hello", json!({"stream": true, "timeout": 0.3}));
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status, 200);
    let last = answer.chunks().pop().expect("there is a last word");
    assert_eq!(last["error"]["code"], "timeout");
    eventually("nobody is left", || server.gateway().num_in_flight() == 0);
}

#[test]
fn health_is_told_while_a_model_loads_and_while_a_step_hangs() {
    let server = TestServer::fake(FakeRule::says("ok"), |_, _| {});
    server.factory().load_gate.close();
    std::thread::scope(|scope| {
        let body = chat_body("fake/model", "Hello", json!({}));
        let waiting = scope
            .spawn(|| server.post("/v1/chat/completions", &chat_body("fake/model", "Hi", json!({}))).status);
        server.factory().load_gate.wait_held();
        assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
        server.factory().control.step_gate.close();
        server.factory().load_gate.open();
        server.factory().control.step_gate.wait_held();
        assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
        assert_eq!(server.get("/ready").status, 200);
        assert_eq!(server.get("/v1/models").status, 200);
        server.factory().control.step_gate.open();
        assert_eq!(waiting.join().expect("it is answered"), 200);
        assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
    });
}

#[test]
fn a_slow_reader_is_paused_and_loses_nothing() {
    let server = TestServer::fake(FakeRule::default(), |tree, _| {
        tree.stream_capacity = 2;
        tree.kv_cache_bytes = 64 << 20;
    });
    server.load("fake/model");
    let extra = json!({"max_tokens": 1500, "ignore_eos": true});
    let whole = server.chat("fake/model", "Hello", extra.clone())["choices"][0]["message"]["content"].clone();
    let mut body = chat_body("fake/model", "Hello", extra);
    body["stream"] = json!(true);
    let slow = server.post("/v1/chat/completions", &body);
    // Others are served while nobody reads the stream.
    for _ in 0..3 {
        server.chat("fake/model", "Hi", json!({"max_tokens": 50, "ignore_eos": true}));
    }
    let text: String = slow
        .chunks()
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, whole);
}
