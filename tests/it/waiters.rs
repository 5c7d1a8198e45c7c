//! Many wait for one load, and it fails: each is told, once, what went wrong.

use std::time::Duration;

use candlewick_hub::{HubSettings, HubSource};
use serde_json::{Value, json};

use crate::hub::{Repo, TestHub};
use crate::support::server::{TestServer, chat_body};
use crate::support::{eventually, http};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MODEL: &str = "acme/m";

fn repo() -> Repo {
    Repo::new(COMMIT).file("config.json", "c0f1", "{}").file("tokenizer.json", "70ce", "{}").file(
        "model.safetensors",
        "3e16",
        vec![0; 100],
    )
}

/// Eight who wait, each in a way of its own, while the Hub does not answer; then it does. `part` is in what all are told.
#[track_caller]
fn check(repo: Repo, token: Option<&str>, break_off: bool, status: u16, code: &str, part: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let hub = runtime.block_on(TestHub::start([(MODEL, repo)]));
    let cache = tempfile::tempdir().expect("a folder");
    let mut settings = HubSettings::new(cache.path());
    (settings.endpoint, settings.token) = (hub.endpoint(), token.map(str::to_owned));
    (settings.num_retries, settings.retry_backoff) = (1, Duration::from_millis(1));
    let source = HubSource::new(settings).expect("the address is one");
    let server = TestServer::with_source(source, Default::default(), |tree, api| {
        api.stream_open_after = Duration::ZERO;
        // One whose request comes after the end is told the same.
        tree.load_failure_ttl = Duration::from_secs(60);
    });
    if break_off {
        (0..2).for_each(|_| hub.break_after("config.json", 0));
    }
    let gate = hub.hold_api();
    let chat = |stream: bool| chat_body(MODEL, "Hello", json!({"stream": stream}));
    std::thread::scope(|scope| {
        let loads: Vec<http::Answer> =
            (0..2).map(|_| server.post("/load_model", &json!({"model": MODEL}))).collect();
        let plain: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let answer = server.post("/v1/chat/completions", &chat(false));
                    (answer.status, answer.json())
                })
            })
            .collect();
        let streams: Vec<http::Answer> =
            (0..3).map(|_| server.post("/v1/chat/completions", &chat(true))).collect();
        eventually("all wait", || server.gateway().num_in_flight() == 6);
        gate.open();

        let check_error = |error: &Value| {
            let message = error["message"].as_str().unwrap_or_default();
            assert!(error["code"] == code && message.contains(part), "{error}");
        };
        for waiter in plain {
            let (answered, body) = waiter.join().expect("it is answered");
            assert_eq!(answered, status, "{body}");
            check_error(&body["error"]);
        }
        for stream in streams {
            let chunks = stream.chunks();
            let errors: Vec<_> = chunks.iter().filter(|chunk| !chunk["error"].is_null()).collect();
            assert_eq!(errors.len(), 1, "{chunks:?}");
            check_error(&chunks.last().expect("a last word")["error"]);
        }
        for load in loads {
            let frames = load.chunks();
            let errors = frames.iter().filter(|frame| frame["status"] == "error").count();
            let last = frames.last().expect("a last word");
            assert!(
                errors == 1 && last["message"].as_str().is_some_and(|text| text.contains(part)),
                "{last}"
            );
        }
    });
    let lookups = hub.requests().iter().filter(|request| request.path.contains("/revision/")).count();
    assert_eq!(lookups, 1, "there was one load for all");
    eventually("nobody is left", || server.gateway().num_in_flight() == 0);
    assert_eq!(server.metric("candlewick_models_loaded"), 0.0);
}

#[test]
fn of_a_gated_repository() {
    check(repo().gated_for("hf_right"), None, false, 403, "forbidden", "is gated: accept its terms");
}

#[test]
fn of_a_wrong_token() {
    check(repo(), Some("hf_wrong"), false, 403, "forbidden", "refuses the token");
}

#[test]
fn of_a_line_that_is_cut() {
    check(repo(), None, true, 503, "unavailable", "broke off `config.json`");
}
