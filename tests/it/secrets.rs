//! What must not leave the program: keys, tokens and what people say, in its log at the finest level, in what it shows of
//! itself, and in what it tells to those who err.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::hub::{Repo, TestHub};
use crate::support::collector::{Collector, Wire};
use crate::support::http;
use crate::support::program::Program;
use crate::support::server::fixtures;

const KEY: &str = "sk-alice-6f1d";
const KEY_OF_FILE: &str = "sk-bob-91c2";
const HUB_TOKEN: &str = "hf_token77c0ffee";
const COLLECTOR_KEY: &str = "otlp-key-5ab3";
/// A key of somewhere else, which was sent to us by mistake.
const FOREIGN_KEY: &str = "sk-proj-of-somebody-else";
/// What a page's browser has of other services on this machine.
const COOKIE: &str = "session-cookie-d00d";
/// What was said.
const SAID: &str = "my dentist is Dr. Xyzzy";

const SECRETS: &[&str] = &[KEY, KEY_OF_FILE, HUB_TOKEN, COLLECTOR_KEY, FOREIGN_KEY, COOKIE, "Xyzzy"];

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The tiny Qwen2 checkpoint, for those who have the token.
fn private_model() -> Repo {
    let snapshots = fixtures().join("hub/models--acme--tiny-qwen2/snapshots");
    let snapshot = std::fs::read_dir(snapshots).expect("snapshots").next().expect("one").expect("readable");
    let files = std::fs::read_dir(snapshot.path()).expect("files").map(|file| file.expect("readable"));
    files.fold(Repo::new(COMMIT).private_to(HUB_TOKEN), |repo, file| {
        let name = file.file_name().into_string().expect("plain");
        let etag = format!("{:040x}", name.len());
        repo.file(&name, &etag, std::fs::read(file.path()).expect("readable"))
    })
}

#[track_caller]
fn assert_keeps_secrets(what: &str, text: &str) {
    for secret in SECRETS {
        if let Some(at) = text.find(secret) {
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let rest = text[line..].lines().next().unwrap_or_default();
            panic!("{what} tells {secret}: {rest}");
        }
    }
}

fn check(wire: Wire, log_format: &str) {
    let runtime = Runtime::new().expect("a runtime");
    let hub = runtime.block_on(TestHub::start([
        ("acme/private", private_model()),
        ("acme/other", Repo::new(COMMIT).private_to("hf_another")),
    ]));
    let collector = Collector::start(wire);
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("cache");
    let key_file = folder.path().join("keys");
    std::fs::write(&key_file, format!("bob {KEY_OF_FILE}\n")).expect("written");
    let text = |path: &std::path::Path| path.to_str().expect("it is text").to_owned();
    let (cache, key_file, endpoint) = (text(&cache), text(&key_file), hub.endpoint());
    let otlp = format!("http://{}", collector.address);
    let protocol = if wire == Wire::Grpc { "grpc" } else { "http" };
    let program = Program::serve(
        &[
            "--no-store",
            "--log-level",
            "trace",
            "--log-format",
            log_format,
            "--api-key",
            &format!("alice {KEY}"),
            "--api-key-file",
            &key_file,
            "--otlp-endpoint",
            &otlp,
            "--otlp-protocol",
            protocol,
        ],
        &[
            ("HF_HUB_OFFLINE", "0"),
            ("HF_HUB_CACHE", &cache),
            ("HF_ENDPOINT", &endpoint),
            ("HF_TOKEN", HUB_TOKEN),
            ("CANDLEWICK_TELEMETRY__OTLP_HEADERS", &json!({"x-api-key": COLLECTOR_KEY}).to_string()),
        ],
    );
    let bearer = format!("Bearer {KEY}");
    let ask = |method: &str, path: &str, authorization: &str, body: Option<&Value>| {
        let headers = [("authorization", authorization), ("cookie", COOKIE), ("x-api-key", FOREIGN_KEY)];
        let answer = http::request(program.address, method, path, &headers, body);
        (answer.status, answer.text())
    };
    let chat = |model: &str, more: Value| {
        let mut body = json!({"model": model, "max_tokens": 4, "temperature": 0,
            "messages": [{"role": "user", "content": SAID}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let chats = "/v1/chat/completions";

    // Good ones. What a model answers may well repeat what was said.
    for (authorization, model, more) in [
        (bearer.as_str(), "candlewick/ember", json!({})),
        (bearer.as_str(), "candlewick/ember", json!({"stream": true, "user": "u"})),
        (&format!("Bearer {KEY_OF_FILE}"), "acme/private", json!({})),
    ] {
        let (status, answer) = ask("POST", chats, authorization, Some(&chat(model, more)));
        assert_eq!(status, 200, "{answer}");
    }
    assert!(hub.requests().iter().any(|request| request.authorization.is_some()), "the token was used");
    // Bad ones.
    let bad = [
        ("POST", chats, format!("Bearer {FOREIGN_KEY}"), Some(chat("candlewick/ember", json!({}))), 401),
        ("POST", chats, format!("Basic {FOREIGN_KEY}"), Some(chat("candlewick/ember", json!({}))), 401),
        ("GET", "/admin/config", format!("Bearer {FOREIGN_KEY}"), None, 401),
        ("POST", chats, bearer.clone(), Some(chat("acme/other", json!({}))), 404),
        ("POST", chats, bearer.clone(), Some(chat("acme/none", json!({}))), 404),
        ("POST", chats, bearer.clone(), Some(chat("candlewick/ember", json!({"temperature": "hot"}))), 400),
        ("POST", chats, bearer.clone(), Some(chat("candlewick/ember", json!({"logit_bias": {"x": 1}}))), 400),
        ("GET", "/nowhere?api_key=sk-proj-of-somebody-else", bearer.clone(), None, 404),
        ("DELETE", "/v1/models?key=sk-proj-of-somebody-else", bearer.clone(), None, 405),
    ];
    for (method, path, authorization, body, expected) in bad {
        let (status, answer) = ask(method, path, &authorization, body.as_ref());
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert_keeps_secrets(&format!("the answer to {method} {path}"), &answer);
    }
    for path in ["/admin/config", "/admin/actors", "/metrics", "/v1/models", "/ready", "/version"] {
        let (status, answer) = ask("GET", path, &bearer, None);
        assert!(status == 200 || path == "/ready", "{path}: {answer}");
        assert_keeps_secrets(path, &answer);
    }
    program.signal(Signal::SIGHUP);
    program.signal(Signal::SIGTERM);
    let (status, log) = program.ended();
    assert!(status.success(), "{log}");
    assert!(
        log.len() > 20_000 && log.contains("TRACE"),
        "at the finest level much is told: {} bytes",
        log.len()
    );
    assert!(log.contains("alice"), "keys are told by their names");
    assert!(!log.contains("tokenizers::tokenizer"), "the library tells a prompt letter by letter");
    assert_keeps_secrets("the log", &log);
    assert!(!collector.spans().is_empty());
    assert_keeps_secrets("a span", &String::from_utf8_lossy(&collector.bytes()));
}

#[test]
fn nothing_tells_keys_tokens_or_what_was_said() {
    check(Wire::Http, "text");
    check(Wire::Grpc, "json");
}

/// A client's own words are in the log, and must not pass for lines of it.
#[test]
fn what_a_client_sends_makes_no_lines_of_the_log() {
    let program = Program::serve(&["--no-store", "--log-level", "trace"], &[]);
    let forged = "2026-01-01T00:00:00Z ERROR candlewick: forged";
    let get =
        |path: &str, headers: &[(&str, &str)]| http::request(program.address, "GET", path, headers, None);
    for path in [
        format!("/%0a{}", forged.replace(' ', "%20")),
        format!("/v1/models/org%2Fname%0d%0a{}", forged.replace(' ', "%20")),
        format!("/v1/responses/%1b[31m{}", forged.replace(' ', "%20")),
    ] {
        assert!((400..500).contains(&get(&path, &[]).status), "{path}");
    }
    for name in
        [format!("org/m\n{forged}"), format!("org/m\u{1b}[31m\r{forged}"), format!("org/m\u{2028}{forged}")]
    {
        let body = json!({"model": name, "messages": [{"role": "user", "content": "a"}]});
        assert!(
            (400..500).contains(&http::post(program.address, "/v1/chat/completions", &body).status),
            "{name:?}"
        );
        http::post(program.address, "/v1/models/unload", &json!({"model": name}));
    }
    // Nor headers of an answer.
    let answer = get("/health", &[("x-request-id", "a\tb")]);
    assert_ne!(answer.header("x-request-id"), Some("a\tb"));
    let body = json!({"model": "candlewick/ember", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2,
        "user": format!("u\n{forged}")});
    assert_eq!(http::post(program.address, "/v1/chat/completions", &body).status, 200);
    program.signal(Signal::SIGTERM);
    let (_, log) = program.ended();
    for line in log.lines() {
        assert!(!line.trim_start().starts_with("2026-01-01T"), "{line}");
        assert!(!line.contains(['\u{1b}', '\r']), "{line:?}");
    }
}
