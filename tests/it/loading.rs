//! Models come and go: loads are shared and told, models are listed, unloaded, pinned.

use candlewick_engine::fake::{FakeRule, Fault};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::server::{TestServer, chat_body, fixtures};

#[test]
fn a_cold_stream_opens_at_once_and_keeps_alive() {
    let server = TestServer::fake(FakeRule::says("warm"), |_, api| {
        api.keep_alive = std::time::Duration::from_millis(20)
    });
    server.factory().load_gate.close();
    let answer = server.post("/v1/chat/completions", &chat_body("fake/model", "Hi", json!({"stream": true})));
    assert_eq!(answer.status, 200, "the head is here while the load is held up");
    let mut frames = answer.frames();
    assert!(frames.next().expect("a sign of life").starts_with(':'));
    server.factory().load_gate.open();
    let data: Vec<String> = frames.filter(|frame| !frame.starts_with(':')).collect();
    assert_eq!(data.last().map(String::as_str), Some("data: [DONE]"));
    assert!(data.iter().any(|frame| frame.contains("warm") || frame.contains("\"w\"")), "{data:?}");
}

#[test]
fn everything_else_answers_while_a_model_loads() {
    let server = TestServer::fake(FakeRule::says("ok"), |_, _| {});
    server.load("fake/other");
    server.factory().load_gate.close();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.chat("fake/model", "Hi", json!({})));
        server.factory().load_gate.wait_held();
        for path in ["/health", "/ready", "/v1/models", "/metrics"] {
            assert_eq!(server.get(path).status, 200, "{path}");
        }
        assert_eq!(server.chat("fake/other", "Hi", json!({}))["choices"][0]["message"]["content"], "ok");
        server.factory().load_gate.open();
        assert_eq!(waiting.join().expect("it is answered")["choices"][0]["message"]["content"], "ok");
    });
}

#[test]
fn one_load_serves_all_and_late_comers_hear_what_has_passed() {
    let server = TestServer::fake(FakeRule::says("ok"), |_, _| {});
    server.factory().load_gate.close();
    let body = json!({"model": "fake/model"});
    let first = server.post("/load_model", &body);
    server.factory().load_gate.wait_held();
    let mut second = server.post("/load_model", &json!({"model": "fake/model@main"})).frames();
    // It has joined the load once it hears of it; that its headers came says only that it was asked.
    let heard = std::iter::once(second.next().expect("what has passed"));
    server.factory().load_gate.open();
    let stages = |frames: Vec<String>| -> Vec<String> {
        let stage = |frame: &String| {
            let chunk: Value = serde_json::from_str(frame.strip_prefix("data: ")?).expect("JSON");
            Some(chunk["stage"].as_str().or(chunk["status"].as_str()).expect("a stage").to_owned())
        };
        let mut stages: Vec<String> = frames.iter().filter_map(stage).collect();
        stages.dedup();
        stages
    };
    let (first, second) = (stages(first.frames().collect()), stages(heard.chain(second).collect()));
    assert_eq!(first.last().map(String::as_str), Some("ready"));
    assert_eq!(second, first, "the late one hears the stages that passed");
    assert_eq!(server.factory().num_loads(), 1);
    let warm = server.post("/load_model", &body).chunks();
    assert_eq!(warm, [json!({"status": "ready", "model": "fake/model@main", "cached": true})]);
}

#[test]
fn a_load_that_fails_is_an_answer_and_the_next_request_tries_again() {
    let server = TestServer::fake(FakeRule::says("ok"), |_, _| {});
    for fault in [Fault::Error, Fault::Panic] {
        server.factory().break_next_load(fault);
        let answer = server.post("/v1/chat/completions", &chat_body("fake/model", "Hi", json!({})));
        assert!(answer.status >= 500, "{}", answer.status);
        assert!(answer.json()["error"]["message"].is_string());
        // An explicit load does not wait until the failure is forgotten.
        server.load("fake/model");
        assert_eq!(server.chat("fake/model", "Hi", json!({}))["choices"][0]["message"]["content"], "ok");
        let unload = || server.post("/v1/models/unload", &json!({"model": "fake/model"})).status;
        eventually("nobody uses it any more", || unload() == 200);
    }
}

#[test]
fn models_are_listed_as_they_are() {
    let server = TestServer::with_fixture_hub();
    let list =
        |server: &TestServer| server.get("/v1/models").json()["data"].as_array().expect("a list").clone();
    let find = |cards: &[Value], id: &str| cards.iter().find(|card| card["id"] == id).cloned();
    let cards = list(&server);
    for id in ["acme/tiny-llama", "acme/tiny-qwen2", "acme/tiny-qwen2@dev", "candlewick/ember"] {
        let card = find(&cards, id).unwrap_or_else(|| panic!("{id} is listed: {cards:?}"));
        assert!(card["created"].is_u64() && card["object"] == "model");
    }
    assert!(find(&cards, "acme/tiny-bert").is_none(), "an encoder does not chat");
    assert_eq!(find(&cards, "acme/tiny-llama").expect("listed")["owned_by"], "acme");
    server.load("acme/tiny-llama");
    assert_eq!(find(&list(&server), "acme/tiny-llama").expect("listed")["status"], "loaded");
    assert_eq!(server.get("/v1/models/acme/tiny-llama").json()["id"], "acme/tiny-llama");
    let loaded = server.get("/v1/models?loaded=true").json()["data"].as_array().expect("a list").len();
    assert_eq!(loaded, 1);
    assert_eq!(server.get("/v1/models/no/such").status, 404);
}

#[test]
fn unloading_waits_for_nobody_but_refuses_when_busy() {
    let server = TestServer::fake(FakeRule::says("ok"), |_, _| {});
    let unload = |body: Value| server.post("/v1/models/unload", &body);
    let loaded = server.post("/v1/models/load", &json!({"model": "fake/model"}));
    assert_eq!((loaded.status, loaded.json()["status"].as_str()), (200, Some("loaded")));
    server.factory().control.step_gate.close();
    std::thread::scope(|scope| {
        let busy = scope
            .spawn(|| server.post("/v1/chat/completions", &chat_body("fake/model", "Hi", json!({}))).status);
        server.factory().control.step_gate.wait_held();
        assert_eq!(unload(json!({"model": "fake/model"})).status, 409);
        assert_eq!(unload(json!({"model": "fake/model", "force": true})).status, 200);
        assert!(busy.join().expect("it is answered") >= 500);
        server.factory().control.step_gate.open();
    });
    assert_eq!(server.get("/v1/models?loaded=true").json()["data"], json!([]));
    assert_eq!(server.chat("fake/model", "Hi", json!({}))["choices"][0]["message"]["content"], "ok");
}

#[test]
fn an_idle_model_is_unloaded_and_comes_back() {
    let server = TestServer::fake(FakeRule::says("ok"), |tree, _| {
        tree.model_timeout = Some(std::time::Duration::from_millis(1));
    });
    server.chat("fake/model", "Hi", json!({}));
    eventually("it is gone", || server.get("/v1/models?loaded=true").json()["data"] == json!([]));
    server.chat("fake/model", "Hi", json!({}));
    assert_eq!(server.factory().num_loads(), 2);
}

#[test]
fn an_unknown_model_is_told_as_such_everywhere() {
    let server = TestServer::with_fixture_hub();
    for (path, body) in [
        ("/v1/chat/completions", chat_body("nobody/nothing", "Hi", json!({}))),
        ("/v1/chat/completions", chat_body("nobody/nothing", "Hi", json!({"stream": true}))),
        ("/v1/completions", json!({"model": "nobody/nothing", "prompt": "Hi"})),
        ("/v1/models/load", json!({"model": "nobody/nothing"})),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.json()["error"]["code"], "model_not_found", "{path}");
    }
    let last =
        server.post("/load_model", &json!({"model": "nobody/nothing"})).chunks().pop().expect("a last word");
    assert_eq!(last["status"], "error");
}

#[test]
fn a_family_that_is_not_there_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let snapshots = fixtures().join("hub/models--acme--tiny-qwen2/snapshots");
    let snapshot =
        std::fs::read_dir(snapshots).expect("snapshots").next().expect("one").expect("readable").path();
    for file in std::fs::read_dir(snapshot).expect("files") {
        let file = file.expect("readable");
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).expect("a config");
    std::fs::write(&config, text.replace("\"qwen2\"", "\"mamba\"")).expect("written");
    let server = TestServer::with_fixture_hub();
    let model = folder.path().to_str().expect("plain");
    let answer = server.post("/v1/chat/completions", &chat_body(model, "Hi", json!({})));
    assert_eq!(answer.status, 400);
    let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("mamba") && message.contains("qwen2"), "{message}");
}
