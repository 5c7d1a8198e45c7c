//! Keys, origins, bodies: who may ask, and in which form.

use serde_json::json;

use crate::support::http;
use crate::support::server::{TestServer, chat_body};

#[test]
fn keys_guard_everything_but_health() {
    let server = TestServer::start(
        &[("api-key", "s3cret")],
        &[("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "/nonexistent")],
    );
    let with = |path: &str, header: &str| {
        http::request(server.address(), "GET", path, &[("authorization", header)], None)
    };
    assert_eq!(server.get("/health").status, 200);
    for path in ["/v1/models", "/metrics", "/version", "/nowhere"] {
        let refused = server.get(path);
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
    }
    assert_eq!(with("/v1/models", "Bearer wrong").status, 401);
    assert_eq!(with("/v1/models", "Bearer s3cret").status, 200);
}

#[test]
fn origins_are_answered_only_when_switched_on() {
    let headers = [("origin", "http://app.example"), ("access-control-request-method", "POST")];
    let ask = |server: &TestServer| {
        let answer = http::request(server.address(), "OPTIONS", "/v1/chat/completions", &headers, None);
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    let env = [("HF_HUB_OFFLINE", "1"), ("HF_HUB_CACHE", "/nonexistent")];
    assert_eq!(
        ask(&TestServer::start(&[("enable-cors", "true")], &env)).as_deref(),
        Some("http://app.example")
    );
    assert_eq!(ask(&TestServer::start(&[], &env)), None);
}

#[test]
fn bodies_have_a_limit() {
    let server = TestServer::fake(Default::default(), |_, api| api.body_limit_bytes = 1000);
    let answer = server.post("/v1/chat/completions", &chat_body("fake/model", &"x".repeat(2000), json!({})));
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"]["code"], "payload_too_large");
}
