//! {place} × {error, panic, kill, delay, hang} × {0, 1, 16 requests}: what clients see when something breaks.
//!
//! Either the answer of an undisturbed server, to the byte, or one clear error that names the request; whatever breaks, the
//! other model answers and the server is alive, and once it is over everything is as before. Which of the two a place
//! promises is in [`survives`].

use std::time::Duration;

use candlewick_engine::fake::FakeRule;
use candlewick_protocol::{FailAction, FailPlace, FailRule};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::http::{self, Answer};
use crate::support::server::{TestServer, chat_body};

/// Short for a server, and far more than a fake step takes.
const HANG_TIMEOUT: Duration = Duration::from_millis(300);
/// Longer than anything here takes undisturbed, and no hang.
const DELAY: Duration = Duration::from_millis(60);

const ACTIONS: [FailAction; 5] =
    [FailAction::Error, FailAction::Panic, FailAction::Kill, FailAction::Delay(DELAY), FailAction::Hang];

/// Whether every client gets the undisturbed answer, or one of them an error.
fn survives(place: FailPlace, action: FailAction) -> bool {
    matches!(place, FailPlace::Batcher | FailPlace::Stepper) || matches!(action, FailAction::Delay(_))
}

/// Requests of every kind: streamed and not, several choices, tools, a form, log-probabilities.
fn request(number: usize) -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 4}},
        "required": ["city"], "additionalProperties": false});
    let extra = match number / 2 % 5 {
        0 => json!({}),
        1 => json!({"n": 3}),
        2 => json!({"tools": [{"type": "function", "function": {"name": "look", "parameters": parameters}}],
            "tool_choice": "required", "max_tokens": 120}),
        3 => json!({"response_format": {"type": "json_schema", "json_schema":
            {"name": "a", "strict": true, "schema": parameters}}, "max_tokens": 120}),
        _ => json!({"logprobs": true, "top_logprobs": 2, "stop": ["zz"]}),
    };
    let mut body = chat_body("fake/model", &format!("question {number}"), json!({"max_tokens": 24}));
    let fields = body.as_object_mut().expect("it is an object");
    fields.extend(extra.as_object().cloned().expect("it is an object"));
    fields.insert("temperature".into(), json!(0.8));
    fields.insert("seed".into(), json!(number));
    fields.insert("stream".into(), json!(number % 2 == 1));
    body
}

fn request_id(number: usize) -> String {
    format!("matrix-{number}")
}

fn ask(server: &TestServer, number: usize) -> Answer {
    let headers = [("x-request-id", &*request_id(number))];
    http::request(server.address(), "POST", "/v1/chat/completions", &headers, Some(&request(number)))
}

/// All that an answer says: for each choice its text, its calls, its log-probabilities and its end; or the error.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Choices(Vec<Value>),
    Error(Value),
}

/// Reads an answer, whole or streamed, to the same form. A stream has one error at most, and it is the last word.
fn read(number: usize, answer: Answer) -> Said {
    if number.is_multiple_of(2) || answer.status != 200 {
        let status = answer.status;
        let body = answer.json();
        if status != 200 {
            return Said::Error(body["error"].clone());
        }
        return Said::Choices(body["choices"].as_array().expect("choices").iter().map(whole).collect());
    }
    let mut choices = Vec::<Value>::new();
    let chunks = answer.chunks();
    for (place, chunk) in chunks.iter().enumerate() {
        if !chunk["error"].is_null() {
            assert_eq!(place + 1, chunks.len(), "an error is the last word: {chunks:?}");
            return Said::Error(chunk["error"].clone());
        }
        for choice in chunk["choices"].as_array().expect("choices") {
            let index = choice["index"].as_u64().expect("an index") as usize;
            choices.resize_with(
                choices.len().max(index + 1),
                || json!({"text": "", "calls": [], "logprobs": []}),
            );
            add(&mut choices[index], choice);
        }
    }
    assert!(choices.iter().all(|choice| choice["end"].is_string()), "it broke off: {choices:?}");
    Said::Choices(choices)
}

fn whole(choice: &Value) -> Value {
    let message = &choice["message"];
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let calls = calls.iter().map(|call| json!([call["function"]["name"], call["function"]["arguments"]]));
    json!({
        "text": message["content"].as_str().unwrap_or_default(),
        "calls": calls.collect::<Vec<_>>(),
        "logprobs": choice["logprobs"]["content"].as_array().cloned().unwrap_or_default(),
        "end": choice["finish_reason"],
    })
}

fn add(said: &mut Value, choice: &Value) {
    let append = |to: &mut Value, more: &Value| {
        let text = to.as_str().unwrap_or_default().to_owned() + more.as_str().unwrap_or_default();
        *to = json!(text);
    };
    let delta = &choice["delta"];
    append(&mut said["text"], &delta["content"]);
    for call in delta["tool_calls"].as_array().into_iter().flatten() {
        let calls = said["calls"].as_array_mut().expect("a list");
        let index = call["index"].as_u64().expect("an index") as usize;
        calls.resize_with(calls.len().max(index + 1), || json!(["", ""]));
        append(&mut calls[index][0], &call["function"]["name"]);
        append(&mut calls[index][1], &call["function"]["arguments"]);
    }
    let logprobs = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    said["logprobs"].as_array_mut().expect("a list").extend(logprobs);
    if choice["finish_reason"].is_string() {
        said["end"] = choice["finish_reason"].clone();
    }
}

fn server() -> TestServer {
    let server = TestServer::fake(FakeRule::Hash(0..256), |tree, api| {
        tree.max_running = 48;
        tree.max_restarts = 1000;
        tree.hang_timeout = HANG_TIMEOUT;
        tree.load_stall_timeout = HANG_TIMEOUT * 6;
        tree.kv_cache_bytes = 32 << 20;
        api.stream_open_after = Duration::ZERO;
    });
    server.load("fake/other");
    server
}

/// The answers of a server that nothing happens to.
fn undisturbed(server: &TestServer, num_requests: usize) -> Vec<Said> {
    let said = (0..num_requests).map(|number| read(number, ask(server, number))).collect::<Vec<_>>();
    assert!(said.iter().all(|said| matches!(said, Said::Choices(_))), "{said:?}");
    said
}

fn check_place(place: FailPlace) {
    let server = server();
    let twins = undisturbed(&server, 16);
    for action in ACTIONS {
        for num_requests in [0, 1, 16] {
            let cell = format!("{place} × {action:?} × {num_requests}");
            server.post("/reset", &json!({})).text();
            server.load("fake/other");
            // Some way into what is going on, where there is something going on.
            let skip = match (place, num_requests) {
                (FailPlace::Batcher | FailPlace::Stepper | FailPlace::Request | FailPlace::Sse, 1..) => 6,
                _ => 0,
            };
            let model = (place != FailPlace::Sse).then(|| "fake/model".to_owned());
            let before = server.failpoints.num_struck();
            server.failpoints.arm(FailRule { place, action, model, skip, times: 1 });
            std::thread::scope(|scope| {
                let server = &server;
                let clients = (0..num_requests)
                    // One request alone is a streamed one: there are frames then.
                    .map(|number| if num_requests == 1 { 1 } else { number })
                    .map(|number| (number, scope.spawn(move || client(server, place, action, number))))
                    .collect::<Vec<_>>();
                if num_requests == 0 {
                    load(server, place, action, &cell);
                }
                // Whatever goes on there, here it does not show.
                assert_eq!(server.get("/health").status, 200, "{cell}");
                let other = chat_body("fake/other", "hi", json!({"max_tokens": 5}));
                assert_eq!(server.post("/v1/chat/completions", &other).status, 200, "{cell}");
                let mut num_errors = 0;
                for (number, client) in clients {
                    match client.join().unwrap_or_else(|_| panic!("{cell}: a client was not answered")) {
                        Some(said @ Said::Choices(_)) => assert_eq!(said, twins[number], "{cell}, {number}"),
                        Some(Said::Error(error)) => {
                            let message = error["message"].as_str().expect("a message");
                            assert!(message.contains(&request_id(number)), "{cell}: {message}");
                            assert_eq!(error["code"], "internal_error", "{cell}: {message}");
                            num_errors += 1;
                        }
                        // It left a stream that had stopped.
                        None => num_errors += 1,
                    }
                }
                if num_requests > 0 {
                    assert_eq!(server.failpoints.num_struck(), before + 1, "{cell}: it happened");
                    let expected = match (survives(place, action), place) {
                        (true, _) => 0,
                        // All who wait for a load share its fate.
                        (false, FailPlace::Loader) => num_errors.max(1),
                        (false, _) => 1,
                    };
                    assert_eq!(num_errors, expected, "{cell}");
                }
            });
            server.failpoints.disarm();
            // Nothing is left of it.
            assert_eq!(read(1, ask(&server, 1)), twins[1], "{cell}, afterwards");
            eventually("no request is left", || server.gateway().num_in_flight() == 0);
            eventually("no block is left", || server.metric("vllm:kv_cache_usage_perc") == 0.0);
            eventually("no thread is left", || server.metric("candlewick_threads_lost") == 0.0);
        }
    }
}

/// One client. Of a stream whose writer hangs nothing more is heard, and its client leaves.
fn client(server: &TestServer, place: FailPlace, action: FailAction, number: usize) -> Option<Said> {
    let answer = ask(server, number);
    if (place, action) == (FailPlace::Sse, FailAction::Hang) && number % 2 == 1 && answer.status == 200 {
        return http::with_patience(answer, HANG_TIMEOUT * 10).map(|answer| read(number, answer));
    }
    Some(read(number, answer))
}

/// Without a request: a load that somebody asked for, in which loader, batcher and stepper have a part.
fn load(server: &TestServer, place: FailPlace, action: FailAction, cell: &str) {
    let events = server.post("/load_model", &json!({"model": "fake/model"}));
    if (place, action) == (FailPlace::Sse, FailAction::Hang) {
        return assert!(http::with_patience(events, HANG_TIMEOUT).is_none(), "{cell}: nothing is written");
    }
    let events = events.chunks();
    let last = events.last().unwrap_or_else(|| panic!("{cell}: there is no last word"));
    let fails = matches!(place, FailPlace::Loader | FailPlace::Sse) && !survives(place, action);
    let is_told = last["status"] == "error" || !last["error"].is_null();
    assert_eq!(is_told, fails, "{cell}: {last}");
}

#[test]
fn a_loader_that_breaks() {
    check_place(FailPlace::Loader);
}

#[test]
fn a_batcher_that_breaks() {
    check_place(FailPlace::Batcher);
}

#[test]
fn a_stepper_that_breaks() {
    check_place(FailPlace::Stepper);
}

#[test]
fn a_request_that_breaks() {
    check_place(FailPlace::Request);
}

#[test]
fn a_tokenizer_that_breaks() {
    check_place(FailPlace::Tokenizer);
}

#[test]
fn a_template_that_breaks() {
    check_place(FailPlace::Template);
}

#[test]
fn a_writer_that_breaks() {
    check_place(FailPlace::Sse);
}
