//! The front as HTTP: routes, methods, ids, keys, bodies, models.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use candlewick_actors::EventStream;
use candlewick_protocol::{ErrorKind, Failure, LoadEvent};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::scripted::{Answer, Front, Scripted, hello};
use crate::{ApiSettings, Cors};

fn front() -> Front {
    Front::start(Arc::new(Scripted::saying(hello())), ApiSettings::default())
}

#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: &str, param: impl Into<Value>) {
    let body = answer.json();
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(body["error"]["code"], code, "{body}");
    assert_eq!(body["error"]["param"], param.into(), "{body}");
    let message = body["error"]["message"].as_str().expect("a message");
    assert!(!message.is_empty() && !message.ends_with('.'), "{message}");
    assert!(answer.header("x-request-id").is_some(), "every answer has an id");
}

#[actix_web::test]
async fn unknown_routes_and_methods_are_openai_errors() {
    let front = front();
    assert_error(&front.get("/nope").await, 404, "unknown_url", Value::Null);
    let answer = front.get("/v1/chat/completions").await;
    assert_error(&answer, 405, "method_not_allowed", Value::Null);
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = front.ask("DELETE /v1/models HTTP/1.1", "").await;
    assert_error(&answer, 405, "method_not_allowed", Value::Null);
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    front.stop().await;
}

#[actix_web::test]
async fn get_routes_answer_head_and_a_trailing_slash() {
    let front = front();
    for path in ["/health", "/health/", "/ping", "/version", "/v1/models/", "/metrics", "/v1/metrics"] {
        let answer = front.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let head = front.ask(&format!("HEAD {path} HTTP/1.1"), "").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
    assert_eq!(front.get("/health").await.body, r#"{"status":"ok"}"#);
    assert_eq!(
        front.get("/metrics").await.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let ready = front.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["reason"], "the pinned model is loading");
    front.stop().await;
}

#[actix_web::test]
async fn a_sane_request_id_is_kept_and_another_replaced() {
    let front = front();
    let sent = |id: &str| format!("GET /nope HTTP/1.1\r\nx-request-id: {id}");
    assert_eq!(front.ask(&sent("my-id-7"), "").await.header("x-request-id"), Some("my-id-7"));
    for bad in ["é", &"x".repeat(129), ""] {
        let answer = front.ask(&sent(bad), "").await;
        let given = answer.header("x-request-id").expect("an id is given");
        assert_eq!(given.len(), 32, "a fresh one, not {given:?}");
    }
    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\nx-request-id: abc";
    let body = json!({"model": "acme/m", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(front.ask(head, &body.to_string()).await.json()["id"], "chatcmpl-abc");
    front.stop().await;
}

#[actix_web::test]
async fn a_panic_in_a_handler_is_answered_with_an_id() {
    let backend = Scripted { list_panics: true, ..Scripted::saying(hello()) };
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    assert_error(&front.get("/v1/models").await, 500, "internal_error", Value::Null);
    assert_eq!(front.get("/health").await.status, 200);
    let named = front.ask("GET /v1/models HTTP/1.1\r\nx-request-id: mine", "").await;
    assert_eq!(named.header("x-request-id"), Some("mine"));
    front.stop().await;
}

#[actix_web::test]
async fn with_keys_only_health_is_open() {
    let settings =
        ApiSettings { api_keys: vec!["alice sesame".parse().expect("a key")], ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    for path in ["/v1/models", "/metrics", "/version", "/nope"] {
        let answer = front.get(path).await;
        assert_error(&answer, 401, "invalid_api_key", Value::Null);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    for path in ["/health", "/health/", "/ping"] {
        assert_eq!(front.get(path).await.status, 200, "{path}");
    }
    let with_key = |key: &str| format!("GET /v1/models HTTP/1.1\r\nauthorization: Bearer {key}");
    assert_eq!(front.ask(&with_key("sesame"), "").await.status, 200);
    assert_eq!(front.ask(&with_key("sesam"), "").await.status, 401);
    front.stop().await;
}

#[actix_web::test]
async fn metrics_can_be_public() {
    let settings = ApiSettings {
        api_keys: vec!["alice sesame".parse().expect("a key")],
        metrics_public: true,
        ..ApiSettings::default()
    };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    assert_eq!(front.get("/metrics").await.status, 200);
    assert_eq!(front.get("/v1/models").await.status, 401);
    front.stop().await;
}

#[track_caller]
fn assert_exposed(answer: &Answer) {
    let exposed = answer.header("access-control-expose-headers").expect("headers are exposed");
    assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{exposed}");
}

#[actix_web::test]
async fn other_origins_may_ask_only_with_cors() {
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\norigin: http://app.example\r\n\
        access-control-request-method: POST\r\naccess-control-request-headers: content-type,authorization";
    let origin = "access-control-allow-origin";

    let keys = vec!["alice sesame".parse().expect("a key")];
    let settings = ApiSettings { cors: Cors::AnyOrigin, api_keys: keys, ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    let answer = front.ask(preflight, "").await;
    assert_eq!((answer.status, answer.header(origin)), (200, Some("http://app.example")));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    let allowed = answer.header("access-control-allow-methods").expect("methods are named");
    let mut allowed: Vec<_> = allowed.split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "OPTIONS", "POST"]);
    let refused = front.ask("GET /v1/models HTTP/1.1\r\norigin: http://app.example", "").await;
    assert_eq!((refused.status, refused.header(origin)), (401, Some("http://app.example")));
    assert_exposed(&refused);
    front.stop().await;

    let backend = Scripted { list_panics: true, ..Scripted::saying(hello()) };
    let settings = ApiSettings { cors: Cors::AnyOrigin, ..ApiSettings::default() };
    let front = Front::start(Arc::new(backend), settings);
    let panicked = front.ask("GET /v1/models HTTP/1.1\r\norigin: http://app.example", "").await;
    assert_error(&panicked, 500, "internal_error", Value::Null);
    assert_eq!(panicked.header(origin), Some("http://app.example"), "a page may read this error too");
    assert_exposed(&panicked);
    front.stop().await;

    let front = self::front();
    let answer = front.ask(preflight, "").await;
    assert_eq!((answer.status, answer.header(origin)), (204, None));
    front.stop().await;
}

#[actix_web::test]
async fn bodies_are_json_objects_within_the_limit() {
    let settings = ApiSettings { body_limit_bytes: 200, ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    let post = "POST /v1/chat/completions HTTP/1.1";
    let json = format!("{post}\r\ncontent-type: application/json; charset=utf-8");
    assert_error(&front.ask(post, "{}").await, 400, "invalid_content_type", Value::Null);
    let text = format!("{post}\r\ncontent-type: text/plain");
    assert_error(&front.ask(&text, "{}").await, 400, "invalid_content_type", Value::Null);
    assert_error(&front.ask(&json, "").await, 400, "invalid_value", Value::Null);
    assert_error(&front.ask(&json, "[1]").await, 400, "invalid_value", Value::Null);
    let broken = front.ask(&json, "{\"model\": \"m\",\n \"messages\": [}").await;
    assert_error(&broken, 400, "invalid_value", Value::Null);
    let message = broken.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("line 2 column 15"), "{message}");
    let deep = "[".repeat(190);
    let deep = front.ask(&json, &deep).await;
    assert!(deep.body.contains("deeper than the limit"), "{}", deep.body);
    let long = format!("{{\"user\": \"{}\"}}", "x".repeat(300));
    assert_error(&front.ask(&json, &long).await, 413, "payload_too_large", Value::Null);
    front.stop().await;
}

#[actix_web::test]
async fn what_is_wrong_with_a_body_is_said_in_clear_words() {
    let front = front();
    let message = |answer: Answer| answer.json()["error"]["message"].as_str().expect("a message").to_owned();
    let json = "POST /v1/completions HTTP/1.1\r\ncontent-type: application/json";
    let list = message(front.ask(json, "[1]").await);
    assert_eq!(list, "the request body must be a JSON object, not a list");
    for half in [r#"{"prompt": "\ud83d"}"#, r#"{"prompt": "\ud83d\u0041"}"#, r#"{"prompt": "\ude00"}"#] {
        let text = message(front.ask(json, half).await);
        assert!(text.contains("one half of a character") && text.contains("line 1 column"), "{text}");
    }
    let gzip = front.ask(&format!("{json}\r\ncontent-encoding: gzip"), "\x1f").await;
    assert_error(&gzip, 415, "invalid_content_encoding", Value::Null);
    assert!(message(gzip).contains("`Content-Encoding` gzip"));
    let identity = format!("{json}\r\ncontent-encoding: identity");
    assert_eq!(front.ask(&identity, r#"{"model": "acme/m", "prompt": "a"}"#).await.status, 200);
    let chunked = format!("{json}\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{{\"a\": 1}}");
    let answer = front.converse(&chunked).await;
    assert!(answer.contains("the chunks of the body are malformed"), "{answer}");
    front.stop().await;
}

#[actix_web::test]
async fn a_body_that_stands_still_is_told_so_and_its_connection_closed() {
    let settings = ApiSettings { body_timeout: Duration::from_millis(50), ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json");
    let chunked = "transfer-encoding: chunked\r\n\r\n8\r\n{\"model\"";
    let counted = "content-length: 100\r\n\r\n{\"model\"";
    for rest in [chunked, counted] {
        let answer = Answer::parse(&front.converse(&format!("{}\r\n{rest}", head("/v1/completions"))).await);
        assert_error(&answer, 408, "request_timeout", Value::Null);
        // A route that does not want the body is not held either.
        let answer = Answer::parse(&front.converse(&format!("{}\r\n{rest}", head("/nope"))).await);
        assert_error(&answer, 404, "unknown_url", Value::Null);
        assert_eq!(answer.header("connection"), Some("close"));
    }
    front.stop().await;
}

/// Sends something, and then a byte for ever, faster than anything that stands still is given up; answers what came back
/// until the server closed the connection.
async fn drip(front: &Front, begin: &str, byte: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let stream = tokio::net::TcpStream::connect(front.address).await.expect("the server listens");
    let (mut read, mut write) = stream.into_split();
    write.write_all(begin.as_bytes()).await.expect("it can be sent");
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut answer = Vec::new();
    let closed = async {
        // A connection that is closed while bytes are under way is reset.
        let _ = read.read_to_end(&mut answer).await;
    };
    let dripping = async {
        while write.write_all(byte).await.is_ok() {
            ticks.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let until_closed = async {
        tokio::select! {
            () = closed => {}
            () = dripping => {}
        }
    };
    tokio::time::timeout(Duration::from_secs(20), until_closed).await.expect("the server closes it");
    String::from_utf8(answer).expect("answers are UTF-8")
}

#[actix_web::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    // actix counts time in steps of half a second.
    let settings = ApiSettings { header_timeout: Duration::from_secs(1), ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    let answer = drip(&front, "GET /health HTTP/1.1\r\nx-slow: ", b"a").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // Neither may the second request of a connection take longer.
    let first = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = drip(&front, &format!("{first}GET /health HTTP/1.1\r\nx-slow: "), b"a").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.matches("HTTP/1.1").count() <= 2, "{answer}");
    // Nor may a connection say nothing at all.
    assert!(drip(&front, "", b"").await.starts_with("HTTP/1.1 408 "));
    front.stop().await;
}

#[actix_web::test]
async fn a_body_that_drips_in_is_cut_off() {
    let settings = ApiSettings { body_timeout: Duration::from_millis(100), ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let counted = drip(&front, &format!("{head}content-length: 100000\r\n\r\n{{"), b" ").await;
    let chunked =
        drip(&front, &format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n{{\r\n"), b"1\r\n \r\n").await;
    for answer in [counted, chunked] {
        let answer = Answer::parse(&answer);
        assert_error(&answer, 408, "request_timeout", Value::Null);
        let error = answer.json();
        let message = error["error"]["message"].as_str().expect("a message");
        assert!(message.contains("comes too slowly") && message.contains("4096 bytes"), "{message}");
    }
    // One that is sent at a good pace may take longer than that.
    let quick = ApiSettings {
        min_body_rate: 10,
        ..ApiSettings { body_timeout: Duration::from_millis(100), ..ApiSettings::default() }
    };
    let quick = Front::start(Arc::new(Scripted::saying(hello())), quick);
    let body = format!("{}\r\n\r\n", "content-length: 40");
    let answer = drip(&quick, &format!("{head}{body}{{"), b" ").await;
    assert!(!answer.contains("too slowly"), "{answer}");
    front.stop().await;
    quick.stop().await;
}

#[actix_web::test]
async fn long_names_and_paths_are_not_sent_back() {
    let front = front();
    let long = "x".repeat(20_000);
    for answer in [
        front.get(&format!("/{long}")).await,
        front.get(&format!("/v1/models/{long}")).await,
        front.post("/v1/completions", &json!({"model": long, "prompt": "a"})).await,
        front.post("/v1/models/load", &json!({"model": "acme/m@dev", "revision": long})).await,
        front.ask(&format!("POST /v1/completions HTTP/1.1\r\ncontent-type: {long}"), "{}").await,
    ] {
        assert!(answer.status >= 400 && answer.body.len() < 600, "{}", answer.body);
    }
    front.stop().await;
}

#[actix_web::test]
async fn models_are_listed_and_found_by_any_spelling() {
    let front = front();
    let ids = |answer: Answer| -> Vec<String> {
        let list = answer.json();
        assert_eq!(list["object"], "list");
        let data = list["data"].as_array().expect("a list").clone();
        data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(front.get("/v1/models").await), ["acme/cold", "acme/warm@dev"]);
    assert_eq!(ids(front.get("/v1/models?loaded=true").await), ["acme/warm@dev"]);
    for path in ["/v1/models/acme/cold", "/v1/models/acme%2Fcold", "/v1/models/acme/cold@main"] {
        let answer = front.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let model = answer.json();
        assert_eq!((&model["id"], &model["object"]), (&json!("acme/cold"), &json!("model")));
        assert_eq!((&model["created"], &model["status"]), (&json!(1_700_000_000), &json!("available")));
    }
    assert_error(&front.get("/v1/models?loaded=1&loaded=2").await, 400, "invalid_value", Value::Null);
    assert_error(&front.get("/v1/models/acme/none").await, 404, "model_not_found", "model");
    front.stop().await;
}

#[actix_web::test]
async fn load_model_streams_frames_in_the_peers_spacing() {
    let ready = LoadEvent::Ready { model: "acme/m@main".to_owned(), cached: true };
    let backend = Scripted { load: vec![ready], ..Scripted::saying(hello()) };
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    let answer = front.post("/load_model", &json!({"model": "acme/m"})).await;
    assert_eq!(
        answer.body,
        "data: {\"status\": \"ready\", \"model\": \"acme/m@main\", \"cached\": true}\n\n"
    );
    assert!(answer.header("content-type").expect("a type").starts_with("text/event-stream"));

    for body in [json!({}), json!({"model": null})] {
        let answer = front.post("/load_model", &body).await;
        assert_error(&answer, 422, "missing_required_parameter", "model");
        assert_eq!(answer.json()["detail"], "Missing `model` field in the request body.");
    }
    assert_error(&front.post("/load_model", &json!({"model": 5})).await, 400, "invalid_value", "model");
    front.stop().await;
}

#[actix_web::test]
async fn a_load_that_ends_without_a_word_is_an_error() {
    let front = front();
    let answer = front.post("/load_model", &json!({"model": "acme/m"})).await;
    assert_eq!(answer.data().len(), 1);
    assert!(answer.data()[0].starts_with(r#"{"status": "error", "model": "acme/m@main", "message": "#));
    let answer = front.post("/v1/models/load", &json!({"model": "acme/m"})).await;
    assert_error(&answer, 500, "internal_error", Value::Null);
    front.stop().await;
}

#[actix_web::test]
async fn models_load_and_unload_by_name() {
    let model = || "acme/m@main".to_owned();
    let ready = LoadEvent::Ready { model: model(), cached: false };
    let backend = Scripted { load: vec![ready], ..Scripted::saying(hello()) };
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    let loaded = front.post("/v1/models/load", &json!({"model": "acme/m", "wait": true})).await;
    assert_eq!((loaded.status, &loaded.json()["status"]), (200, &json!("loaded")));
    assert!(loaded.json()["load_time_ms"].is_u64());
    assert_error(
        &front.post("/v1/models/load", &json!({})).await,
        400,
        "missing_required_parameter",
        "model",
    );
    let refused = front.post("/v1/models/load", &json!({"model": "acme/m", "dtype": "f16"})).await;
    assert_error(&refused, 400, "unsupported_operation", "dtype");

    let busy = front.post("/v1/models/unload", &json!({"model": "acme/m"})).await;
    assert_error(&busy, 409, "conflict", Value::Null);
    let forced = front.post("/v1/models/unload", &json!({"model": "acme/m", "force": true})).await;
    assert_eq!(forced.json(), json!({"id": "acme/m", "object": "model", "status": "unloaded"}));
    assert_eq!(front.ask("POST /reset HTTP/1.1", "").await.body, r#"{"status":"ok"}"#);
    front.stop().await;

    let failure = Failure::new(ErrorKind::ModelNotFound, "no such model");
    let failed = LoadEvent::Failed { model: model(), failure };
    let backend = Scripted { load: vec![failed], ..Scripted::saying(hello()) };
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    let missing = front.post("/v1/models/load", &json!({"model": "acme/m"})).await;
    assert_error(&missing, 404, "model_not_found", "model");
    front.stop().await;
}

#[actix_web::test]
async fn pages_of_named_origins_may_ask_and_no_others() {
    let origins = vec!["https://a.example".to_owned(), "http://localhost:3000".to_owned()];
    let settings = ApiSettings { cors: Cors::Origins(origins), ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    for (origin, allowed) in
        [("https://a.example", true), ("http://localhost:3000", true), ("https://b.example", false)]
    {
        let answer = front.ask(&format!("GET /v1/models HTTP/1.1\r\norigin: {origin}"), "").await;
        assert_eq!(answer.header("access-control-allow-origin"), allowed.then_some(origin), "{origin}");
        let ask = "OPTIONS /v1/chat/completions HTTP/1.1\r\naccess-control-request-method: POST";
        let before = front.ask(&format!("{ask}\r\norigin: {origin}"), "").await;
        assert_eq!(before.header("access-control-allow-origin"), allowed.then_some(origin), "{origin}");
    }
    front.stop().await;
}

#[actix_web::test]
async fn keys_are_counted_by_name() {
    let settings =
        ApiSettings { api_keys: vec!["alice sesame".parse().expect("a key")], ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nauthorization: Bearer sesame");
    assert_eq!(front.ask(&ask("/v1/models"), "").await.status, 200);
    let metrics = front.ask(&ask("/metrics"), "").await.body;
    assert!(metrics.contains("candlewick_api_key_requests_total{api_key=\"alice\"} 2\n"), "{metrics}");
    assert!(metrics.contains("vllm:num_requests_running") && !metrics.contains("sesame"), "{metrics}");
    front.stop().await;
}

#[actix_web::test]
async fn a_body_that_is_nested_without_end_is_told_the_limit() {
    let front = front();
    let json = "POST /v1/completions HTTP/1.1\r\ncontent-type: application/json";
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"model\": \"acme/m\", \"prompt\": \"a\", \"x\": {open}{close}}}")
    };
    assert_eq!(front.ask(json, &nested(127)).await.status, 200);
    for depth in [128, 100_000] {
        let answer = front.ask(json, &nested(depth)).await;
        assert_error(&answer, 400, "invalid_value", Value::Null);
        let message = answer.json()["error"]["message"].as_str().expect("a message").to_owned();
        assert!(message.contains("deeper than the limit of 127 levels"), "{message}");
    }
    front.stop().await;
}

#[actix_web::test]
async fn texts_become_tokens_and_tokens_texts_in_the_shapes_of_vllm_and_of_tei() {
    let front = front();
    let body = json!({"model": "acme/m", "prompt": "hé", "return_token_strs": true});
    for path in ["/tokenize", "/v1/tokenize", "/tokenize/"] {
        let answer = front.post(path, &body).await.json();
        let expected =
            json!({"count": 2, "max_model_len": 4096, "tokens": [104, 233], "token_strs": ["h", "é"]});
        assert_eq!(answer, expected, "{path}");
    }
    let bare = front.post("/tokenize", &json!({"model": "acme/m", "text": "h"})).await.json();
    assert_eq!(bare, json!({"count": 1, "max_model_len": 4096, "tokens": [104], "token_strs": null}));
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = front.post("/tokenize", &json!({"model": "acme/m", "messages": messages})).await.json();
    assert!(chat["count"].as_u64().is_some_and(|count| count > 2), "{chat}");
    let tei = front.post("/tokenize", &json!({"model": "acme/m", "inputs": ["a", ""]})).await.json();
    assert_eq!(tei, json!([[{"id": 97, "text": "a", "special": false, "start": 0, "stop": 1}], []]));

    let back = json!({"model": "acme/m", "tokens": [104, 233]});
    for path in ["/detokenize", "/v1/detokenize"] {
        assert_eq!(front.post(path, &back).await.json(), json!({"prompt": "hé"}), "{path}");
    }
    let decode = |ids: Value| json!({"model": "acme/m", "ids": ids});
    assert_eq!(front.post("/decode", &decode(json!([104]))).await.json(), json!(["h"]));
    assert_eq!(front.post("/decode", &decode(json!([[104], []]))).await.json(), json!(["h", ""]));

    let nothing = front.post("/tokenize", &json!({"model": "acme/m"})).await;
    assert_error(&nothing, 400, "missing_required_parameter", "prompt");
    let nobody = front.post("/tokenize", &json!({"prompt": "a"})).await;
    assert_error(&nobody, 400, "missing_required_parameter", "model");
    let both = json!({"model": "a/m", "messages": messages, "add_generation_prompt": true, "continue_final_message": true});
    assert_error(&front.post("/tokenize", &both).await, 400, "invalid_value", "continue_final_message");
    let wrong = front.post("/detokenize", &json!({"model": "acme/m", "tokens": [1, -1]})).await;
    assert_error(&wrong, 400, "invalid_value", "tokens.1");
    let mixed = front.post("/decode", &decode(json!([[1], 2]))).await;
    assert_error(&mixed, 400, "invalid_value", "ids.1");
    front.stop().await;
}

/// A line of `/metrics`, except for its value.
async fn value_of(front: &Front, series: &str) -> Option<f64> {
    let text = front.get("/metrics").await.body;
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[actix_web::test]
async fn requests_are_counted_by_route_and_never_by_path() {
    let front = front();
    for path in ["/v1/models/acme/none", "/v1/models/acme/neither", "/secret/1", "/secret/2"] {
        front.get(path).await;
    }
    front.ask("BREW /v1/models HTTP/1.1", "").await;
    let text = front.get("/metrics").await.body;
    let of_models = r#"{code="404",handler="/v1/models/{id}",method="GET",status="4xx"} "#;
    for (labels, count) in [
        (of_models, 2.0),
        (r#"{code="404",handler="none",method="GET",status="4xx"} "#, 2.0),
        (r#"{code="405",handler="/v1/models",method="other",status="4xx"} "#, 1.0),
    ] {
        let counted = value_of(&front, &format!("http_requests_total{labels}")).await;
        assert_eq!(counted, Some(count), "{labels}\n{text}");
    }
    let timed = r#"http_request_duration_seconds_count{handler="/v1/models/{id}",method="GET"}"#;
    assert_eq!(value_of(&front, timed).await, Some(2.0));
    assert!(!text.contains("secret") && !text.contains("BREW") && !text.contains("acme"), "{text}");
    front.stop().await;
}

#[actix_web::test]
async fn a_request_is_in_progress_until_the_last_byte_of_its_answer() {
    let (sender, events) = mpsc::channel(8);
    let events = Mutex::new(Some(events));
    let backend = Scripted::with(move |_| {
        let events = events.lock().expect("no test panics with the lock").take();
        Ok(EventStream { events: events.expect("one request comes") })
    });
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    let in_progress = r#"http_requests_inprogress{handler="/v1/chat/completions",method="POST"}"#;
    let counted =
        r#"http_requests_total{code="200",handler="/v1/chat/completions",method="POST",status="2xx"}"#;
    let own = r#"http_requests_inprogress{handler="/metrics",method="GET"}"#;
    assert_eq!(value_of(&front, own).await, Some(1.0), "the question itself");

    let body = json!({"model": "acme/m", "messages": [{"role": "user", "content": "Hi"}], "stream": true});
    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json";
    let mut stream = front.send(head, &body.to_string()).await;
    let mut events = hello().into_iter();
    sender.send(events.next().expect("there are events")).await.expect("the handler listens");
    sender.send(events.next().expect("there are events")).await.expect("the handler listens");
    let mut beginning = [0; 15];
    stream.read_exact(&mut beginning).await.expect("the answer begins");
    assert_eq!(&beginning, b"HTTP/1.1 200 OK");
    assert_eq!(value_of(&front, in_progress).await, Some(1.0));
    assert_eq!(value_of(&front, counted).await, None);

    for event in events {
        sender.send(event).await.expect("the stream listens");
    }
    drop(sender);
    stream.read_to_end(&mut Vec::new()).await.expect("the answer ends");
    assert_eq!(value_of(&front, counted).await, Some(1.0));
    assert_eq!(value_of(&front, in_progress).await, Some(0.0));
    front.stop().await;
}
