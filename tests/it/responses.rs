//! `/v1/responses` from outside: real models, a real store, and servers that come and go.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::server::{TestServer, fixtures};
use crate::support::{eventually, http, program};

const MODEL: &str = "candlewick/ember";

/// A server of the built-in model, with its store in a folder.
fn serve(dir: &Path) -> TestServer {
    let dir: &'static str = Box::leak(dir.to_str().expect("its name is text").to_owned().into_boxed_str());
    TestServer::start(&[("data-dir", dir)], &[("HF_HUB_OFFLINE", "1")])
}

fn body(input: Value, more: Value) -> Value {
    let mut body = json!({"model": MODEL, "input": input, "temperature": 0});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn create(server: &TestServer, input: Value, more: Value) -> Value {
    let answer = server.post("/v1/responses", &body(input, more));
    let (status, answer) = (answer.status, answer.json());
    assert_eq!(status, 200, "{answer}");
    answer
}

fn path(response: &Value) -> String {
    format!("/v1/responses/{}", response["id"].as_str().expect("a response has an id"))
}

/// The events of a stream.
fn events(answer: http::Answer) -> Vec<Value> {
    let frames = answer.frames().filter(|frame| !frame.starts_with(':'));
    frames
        .map(|frame| {
            let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
            serde_json::from_str(data).unwrap_or_else(|_| panic!("not JSON: {frame}"))
        })
        .collect()
}

fn status(server: &TestServer, response: &Value) -> Value {
    server.get(&path(response)).json()["status"].clone()
}

#[test]
fn a_conversation_outlives_the_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path());
    let first = create(&server, json!("What is the capital of France?"), json!({}));
    assert!(first["output_text"].as_str().is_some_and(|text| text.contains("Paris")), "{first}");
    drop(server);

    let server = serve(folder.path());
    assert_eq!(server.get(&path(&first)).json(), first);
    let more = json!({"previous_response_id": first["id"]});
    let second = create(&server, json!("How many people live there?"), more.clone());
    assert!(second["output_text"].as_str().is_some_and(|text| text.contains("million")), "{second}");
    assert!(second["usage"]["input_tokens"].as_u64() > first["usage"]["input_tokens"].as_u64());

    let mut streamed = more;
    streamed["stream"] = json!(true);
    let answer = server.post("/v1/responses", &body(json!("How many people live there?"), streamed));
    let events = events(answer);
    let last = &events.last().expect("a last word")["response"];
    assert_eq!(last["output_text"], second["output_text"], "streamed or not, it is the same text");
    assert_eq!(server.get(&path(last)).json(), *last);
}

#[test]
fn counted_tokens_are_those_that_are_used() {
    let server = TestServer::start(&[("store", "false")], &[("HF_HUB_OFFLINE", "1")]);
    let more = json!({"instructions": "Be brief."});
    let counted = server.post("/v1/responses/input_tokens", &body(json!("Hello!"), more.clone())).json();
    let used = create(&server, json!("Hello!"), more);
    assert_eq!(counted["input_tokens"], used["usage"]["input_tokens"], "{counted}");
}

#[test]
fn a_background_response_goes_on_without_its_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path());
    let plain = create(&server, json!("What is the capital of France?"), json!({}));
    let queued = create(&server, json!("What is the capital of France?"), json!({"background": true}));
    assert!(queued["status"] == "queued" && queued["output"] == json!([]), "{queued}");
    eventually("it is over", || status(&server, &queued) == "completed");
    assert_eq!(server.get(&path(&queued)).json()["output_text"], plain["output_text"]);

    // A client that wants events may leave: it finds the rest later, under the same numbers.
    let more = json!({"background": true, "stream": true});
    let answer = server.post("/v1/responses", &body(json!("What is the capital of France?"), more));
    let mut frames = answer.frames();
    let first = frames.next_data().expect("it is told at once");
    drop(frames);
    let first = first.lines().find_map(|line| line.strip_prefix("data: ")).expect("data").to_owned();
    let response = serde_json::from_str::<Value>(&first).expect("JSON")["response"].clone();
    let told = events(server.get(&format!("{}?stream=true", path(&response))));
    assert_eq!(told.last().expect("a last word")["response"]["output_text"], plain["output_text"]);
    let rest = events(server.get(&format!("{}?stream=true&starting_after=3", path(&response))));
    assert_eq!(rest, told[4..]);
}

#[test]
fn a_server_that_is_killed_has_kept_what_it_answered_and_ends_what_it_had_begun() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = folder.path().to_str().expect("its name is text");
    let (mut child, address) = program::serve(&["--data-dir", data_dir]).expect("it starts");
    let done = http::post(address, "/v1/responses", &body(json!("Hello!"), json!({}))).json();
    assert_eq!(done["status"], "completed", "{done}");
    // Longer than it lives: nothing ends it but its limit.
    let endless = json!({"background": true, "ignore_eos": true, "max_output_tokens": 1500});
    let begun = http::post(address, "/v1/responses", &body(json!("Hello!"), endless)).json();
    assert_eq!(begun["status"], "queued", "{begun}");
    child.kill().expect("it is alive");
    child.wait().expect("it is dead");

    let server = serve(folder.path());
    assert_eq!(server.get(&path(&done)).json(), done);
    let ended = server.get(&path(&begun)).json();
    assert_eq!(ended["status"], "failed", "{ended}");
    assert!(ended["error"]["message"].as_str().is_some_and(|text| text.contains("server ended")), "{ended}");
}

#[test]
fn without_a_store_responses_are_answered_and_not_kept() {
    let server = TestServer::start(&[("store", "false")], &[("HF_HUB_OFFLINE", "1")]);
    let response = create(&server, json!("Hello!"), json!({}));
    assert_eq!(response["store"], false);
    assert_eq!(server.get(&path(&response)).status, 404);
    let refused = server.post("/v1/responses", &body(json!("Hello!"), json!({"background": true})));
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "background");
}

#[test]
fn a_conversation_too_long_for_the_context_loses_its_oldest_turns() {
    let server =
        TestServer::start(&[("store", "false"), ("max-model-len", "160")], &[("HF_HUB_OFFLINE", "1")]);
    let turn = |text: &str| {
        [
            json!({"role": "user", "content": text}),
            json!({"role": "assistant", "content": "Good to know, thank you."}),
        ]
    };
    let mut input: Vec<Value> = (0..20).flat_map(|_| turn("Something that was said long ago.")).collect();
    input.push(json!({"role": "user", "content": "What is the capital of France?"}));
    let refused = server.post("/v1/responses", &body(json!(input), json!({})));
    assert_eq!(refused.status, 400);
    let error = refused.json();
    assert_eq!(error["error"]["code"], "context_length_exceeded", "{error}");
    assert_eq!(error["error"]["param"], "input", "{error}");
    let more = json!({"truncation": "auto", "max_output_tokens": 40});
    let response = create(&server, json!(input), more);
    assert!(response["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens <= 120), "{response}");
    assert!(response["usage"]["input_tokens"].as_u64().is_some_and(|tokens| tokens > 60), "{response}");
}

/// What the peer answered to a recorded request, and what we do.
fn replay(server: &TestServer, name: &str) -> (Value, Vec<Value>) {
    let file = fixtures().join(format!("wire/{name}.http"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (_, rest) = text.split_once(">>> REQUEST\n").expect("a request");
    let (request, response) = rest.split_once("\n<<< RESPONSE\n").expect("a response");
    let answer = http::send(server.address(), request.as_bytes());
    assert_eq!(answer.status, 200, "{name}");
    let is_stream = answer.header("content-type").is_some_and(|class| class.starts_with("text/event-stream"));
    let ours = if is_stream {
        events(answer).pop().expect("a last word")["response"].clone()
    } else {
        answer.json()
    };
    let theirs = response.lines().filter_map(|line| {
        let line = line.trim().strip_prefix("data: ").unwrap_or(line.trim());
        serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
    });
    (ours, theirs.collect())
}

/// Text, reasoning and calls of a response of either server.
fn gist(response: &Value) -> Value {
    let items = |class: &'static str| {
        let items = response["output"].as_array().into_iter().flatten();
        items.filter(move |item| item["type"] == class)
    };
    let texts = |class| {
        let parts = items(class).flat_map(|item| item["content"].as_array().into_iter().flatten());
        parts.filter_map(|part| part["text"].as_str()).collect::<String>().trim().to_owned()
    };
    let calls = items("function_call").map(|item| {
        let arguments = item["arguments"].as_str().expect("JSON text");
        json!([item["name"], serde_json::from_str::<Value>(arguments).expect("arguments are JSON")])
    });
    let usage = &response["usage"];
    json!({
        "text": texts("message"),
        "reasoning": texts("reasoning"),
        "calls": calls.collect::<Vec<_>>(),
        "usage": [usage["input_tokens"], usage["output_tokens"]],
    })
}

#[test]
fn the_peers_requests_get_the_peers_answers_without_its_faults() {
    let server = TestServer::with_fixture_hub();
    for name in [
        "responses",
        "responses_flat_content_list",
        "responses_input_list",
        "responses_instructions",
        "responses_length",
        "responses_reasoning",
        "responses_reasoning_stream",
        "responses_stream",
        "responses_tool",
        "responses_tool_stream",
        "responses_tool_two",
        "responses_tool_two_stream",
    ] {
        let (ours, theirs) = replay(&server, name);
        let last = theirs.last().expect("the peer answered");
        let theirs = if last["response"].is_object() { &last["response"] } else { last };
        assert_eq!(gist(&ours), gist(theirs), "{name}");
        // The peer calls an answer completed that its limit has cut.
        let is_cut = ours["usage"]["output_tokens"] == ours["max_output_tokens"];
        let expected = if is_cut { "incomplete" } else { "completed" };
        assert_eq!(ours["status"], expected, "{name}");
    }
    // A call comes back as its only item, where the peer adds an empty message, and in its own place.
    let (ours, _) = replay(&server, "responses_tool_stream");
    assert_eq!(ours["output"].as_array().map(Vec::len), Some(1), "{ours}");
    // What begins with a call is a conversation, where the peer drops it all.
    replay(&server, "responses_first_item_function_call");
    replay(&server, "responses_tool_multi_turn");
    // The peer refuses these fields, or fails over them.
    for name in ["err_responses_chat_template_kwargs", "err_responses_frequency_penalty"] {
        replay(&server, name);
    }
}
