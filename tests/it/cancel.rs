//! A client that leaves is noticed, wherever its request is: queued, loading or running, streamed or not.

use std::io::Write;
use std::net::TcpStream;

use candlewick_engine::fake::FakeRule;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::server::{TestServer, chat_body};

/// Sends a request and returns the open connection, nothing read.
fn begin(server: &TestServer, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = TcpStream::connect(server.address()).expect("the server listens");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).expect("the request is sent");
    stream
}

fn endless(stream: bool) -> Value {
    chat_body("fake/model", "Hello", json!({"stream": stream, "max_tokens": 100_000, "ignore_eos": true}))
}

fn in_flight(server: &TestServer) -> usize {
    server.gateway().num_in_flight()
}

fn large(rule: FakeRule) -> TestServer {
    TestServer::fake(rule, |tree, _| {
        tree.kv_cache_bytes = 1 << 30;
        tree.max_running = 1;
    })
}

#[test]
fn while_it_runs() {
    for stream in [true, false] {
        let server = large(FakeRule::default());
        server.load("fake/model");
        server.factory().control.step_gate.close();
        let body = chat_body("fake/model", "Hello", json!({"stream": stream, "max_tokens": 1500}));
        let client = begin(&server, &body);
        server.factory().control.step_gate.wait_held();
        assert_eq!(in_flight(&server), 1);
        drop(client);
        // The step is still held up: the request is over all the same.
        eventually("the request ends", || in_flight(&server) == 0);
        server.factory().control.step_gate.open();
        eventually("its blocks are free", || server.metric("vllm:kv_cache_usage_perc") == 0.0);
    }
}

#[test]
fn while_it_is_queued() {
    for stream in [true, false] {
        let server = large(FakeRule::default());
        server.load("fake/model");
        server.factory().control.step_gate.close();
        let body = chat_body("fake/model", "Hello", json!({"stream": stream, "max_tokens": 1500}));
        let first = begin(&server, &body);
        server.factory().control.step_gate.wait_held();
        let second = begin(&server, &body);
        eventually("both are in", || in_flight(&server) == 2);
        drop(second);
        eventually("the queued one ends", || in_flight(&server) == 1);
        drop(first);
        eventually("the running one ends", || in_flight(&server) == 0);
        server.factory().control.step_gate.open();
    }
}

#[test]
fn while_the_model_loads_and_the_load_goes_on() {
    for stream in [true, false] {
        let server = large(FakeRule::says("done"));
        server.factory().load_gate.close();
        let client = begin(&server, &chat_body("fake/model", "Hello", json!({"stream": stream})));
        server.factory().load_gate.wait_held();
        eventually("it waits for the model", || in_flight(&server) == 1);
        drop(client);
        eventually("the request ends", || in_flight(&server) == 0);
        server.factory().load_gate.open();
        let answer = server.chat("fake/model", "Hello", json!({}));
        assert_eq!(answer["choices"][0]["message"]["content"], "done");
        assert_eq!(server.factory().num_loads(), 1, "who leaves does not stop the load");
    }
}

#[test]
fn a_request_that_can_never_fit_is_refused_at_once() {
    let server = large(FakeRule::default());
    let answer = server.post("/v1/chat/completions", &endless(false));
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );
}
