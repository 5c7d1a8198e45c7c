//! Responses over HTTP: made, streamed, kept, gone on from, run in the background, refused.

use std::sync::Arc;

use candlewick_protocol::{Content, Delta, ErrorKind, Event, Failure, FinishReason, Message, Prompt};
use serde_json::{Value, json};

use crate::ApiSettings;
use crate::scripted::{Answer, Front, Scripted, ended, finished, hello, piece, started, stream_of, text};

fn body(input: Value, more: Value) -> Value {
    let mut body = json!({"model": "acme/m", "input": input});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// A server whose every answer is "Hello there", with a store.
fn keeping() -> (Arc<Scripted>, Front) {
    let backend = Arc::new(Scripted { keeps_responses: true, ..Scripted::saying(hello()) });
    let front = Front::start(backend.clone(), ApiSettings::default());
    (backend, front)
}

async fn create(front: &Front, input: Value, more: Value) -> Value {
    let answer = front.post("/v1/responses", &body(input, more)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// The messages that the model side was last asked to answer.
fn asked(backend: &Scripted) -> Vec<Message> {
    let asked = backend.asked.lock().expect("no test panics with the lock");
    match &asked.last().expect("something was asked").prompt {
        Prompt::Chat(chat) => chat.messages.clone(),
        other => panic!("not a chat: {other:?}"),
    }
}

/// Role and text of messages.
fn said(messages: &[Message]) -> Vec<(String, String)> {
    let text = |content: &Option<Content>| match content {
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => format!("{} parts", parts.len()),
        None => "-".into(),
    };
    messages.iter().map(|message| (message.role.clone(), text(&message.content))).collect()
}

/// The events of a stream, each checked to be named as its type says.
fn events(answer: &Answer) -> Vec<Value> {
    assert!(!answer.body.contains("[DONE]"));
    let frames = answer.body.split_terminator("\n\n").filter(|frame| !frame.starts_with(':'));
    frames
        .map(|frame| {
            let line = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
            let event: Value = serde_json::from_str(line("data: ").expect("data")).expect("an event is JSON");
            assert_eq!(event["type"].as_str(), line("event: "), "{frame}");
            event
        })
        .collect()
}

async fn refused(more: Value, param: &str) -> Value {
    let front = Front::start(Arc::new(Scripted::saying(hello())), ApiSettings::default());
    let answer = front.post("/v1/responses", &body(json!("hi"), more.clone())).await;
    front.stop().await;
    assert_eq!(answer.status, 400, "{more}: {}", answer.body);
    let error = answer.json()["error"].clone();
    assert_eq!(error["param"], param, "{more}: {error}");
    error
}

#[actix_web::test]
async fn a_whole_response_has_all_that_openai_has() {
    let (_, front) = keeping();
    let more = json!({"metadata": {"a": "b"}, "temperature": 0.5, "max_output_tokens": 9, "user": "u"});
    let response = create(&front, json!("hi"), more).await;
    front.stop().await;
    let id = response["id"].as_str().expect("an id");
    assert!(id.starts_with("resp_"), "{id}");
    assert_eq!(response["object"], "response");
    assert_eq!(response["status"], "completed");
    assert_eq!(response["output_text"], "Hello there");
    let part = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": "Hello there"});
    let message = &response["output"][0];
    assert_eq!(message["content"], json!([part]));
    assert_eq!((&message["role"], &message["status"]), (&json!("assistant"), &json!("completed")));
    assert!(response["completed_at"].as_u64() >= response["created_at"].as_u64());
    for (name, value) in [
        ("background", json!(false)),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("instructions", Value::Null),
        ("max_output_tokens", json!(9)),
        ("metadata", json!({"a": "b"})),
        ("model", json!("acme/m")),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", Value::Null),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("service_tier", json!("default")),
        ("store", json!(true)),
        ("temperature", json!(0.5)),
        ("text", json!({"format": {"type": "text"}, "verbosity": "medium"})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", Value::Null),
        ("truncation", json!("disabled")),
        ("user", json!("u")),
    ] {
        assert_eq!(response[name], value, "{name}");
    }
}

#[actix_web::test]
async fn a_stream_is_the_same_response_and_is_kept_when_it_is_over() {
    let (_, front) = keeping();
    let answer = front.post("/v1/responses", &body(json!("hi"), json!({"stream": true}))).await;
    let events = events(&answer);
    let numbers = events.iter().map(|event| event["sequence_number"].as_u64());
    assert!(numbers.eq((0..events.len() as u64).map(Some)));
    let last = events.last().expect("there is a last word");
    assert_eq!(last["type"], "response.completed");
    let id = last["response"]["id"].as_str().expect("an id");
    let kept = front.get(&format!("/v1/responses/{id}")).await.json();
    assert_eq!(kept, last["response"]);
    let whole = create(&front, json!("hi"), json!({})).await;
    front.stop().await;
    for name in ["output_text", "usage", "status"] {
        assert_eq!(whole[name], kept[name], "{name}");
    }
    assert_eq!(whole["output"][0]["content"], kept["output"][0]["content"]);
}

#[actix_web::test]
async fn every_item_becomes_what_a_template_knows() {
    let (backend, front) = keeping();
    let input = json!([
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Look."}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"x\": 1}"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": ""},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "warm"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Sunny.", "annotations": []}]},
        {"type": "custom_tool_call", "call_id": "c3", "name": "h", "input": "raw"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "done"},
    ]);
    create(&front, input, json!({"instructions": "Be brief."})).await;
    let messages = asked(&backend);
    let expected = [
        ("system", "Be brief.\n\nBe kind."),
        ("user", "1 parts"),
        ("assistant", "-"),
        ("tool", "sunny"),
        ("tool", "1 parts"),
        ("assistant", "1 parts"),
        ("tool", "done"),
    ];
    let expected = expected.map(|(role, text)| (role.to_owned(), text.to_owned()));
    assert_eq!(said(&messages), expected);
    assert_eq!(messages[2].reasoning_content.as_deref(), Some("Look."));
    let calls = |message: &Message| {
        let calls = message.tool_calls.iter();
        calls.map(|call| (call.name.clone(), call.arguments.clone())).collect::<Vec<_>>()
    };
    assert_eq!(calls(&messages[2]), [("f".into(), json!({"x": 1})), ("g".into(), json!({}))]);
    assert_eq!(calls(&messages[5]), [("h".into(), json!({"input": "raw"}))]);
    assert_eq!(messages[3].tool_call_id.as_deref(), Some("c1"));

    // A bare list of parts is one message, as the peer has it; a call may come first.
    let parts = json!([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]);
    create(&front, parts, json!({})).await;
    assert_eq!(said(&asked(&backend)), [("user".to_owned(), "2 parts".to_owned())]);
    let call = json!([{"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}]);
    create(&front, call, json!({})).await;
    assert_eq!(calls(&asked(&backend)[0]), [("f".into(), json!({}))]);
    front.stop().await;
}

#[actix_web::test]
async fn a_response_goes_on_from_another_without_its_instructions() {
    let (backend, front) = keeping();
    let first = create(&front, json!("one"), json!({"instructions": "Be brief."})).await;
    let second = create(&front, json!("two"), json!({"previous_response_id": first["id"]})).await;
    assert_eq!(second["previous_response_id"], first["id"]);
    let third = json!([
        {"type": "item_reference", "id": first["output"][0]["id"]},
        {"role": "user", "content": "three"},
    ]);
    create(&front, third, json!({"previous_response_id": second["id"]})).await;
    let texts: Vec<String> = said(&asked(&backend)).into_iter().map(|(_, text)| text).collect();
    // What was kept is in parts.
    assert_eq!(texts, ["1 parts", "1 parts", "1 parts", "1 parts", "1 parts", "three"]);
    let roles: Vec<String> = asked(&backend).into_iter().map(|message| message.role).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "assistant", "user"]);

    let unknown = json!({"previous_response_id": "resp_none"});
    let answer = front.post("/v1/responses", &body(json!("hi"), unknown)).await;
    assert_eq!(answer.status, 404);
    let error = &answer.json()["error"];
    assert_eq!((&error["param"], &error["code"]), (&json!("previous_response_id"), &json!("not_found")));
    let unknown = json!([{"type": "item_reference", "id": "msg_none"}]);
    let answer = front.post("/v1/responses", &body(unknown, json!({}))).await;
    assert_eq!((answer.status, answer.json()["error"]["param"].clone()), (404, json!("input.0.id")));
    front.stop().await;
}

#[actix_web::test]
async fn what_was_kept_is_found_listed_and_deleted() {
    let (_, front) = keeping();
    let input = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}]);
    let response = create(&front, input, json!({})).await;
    let path = format!("/v1/responses/{}", response["id"].as_str().expect("an id"));
    assert_eq!(front.get(&path).await.json(), response);

    let newest = front.get(&format!("{path}/input_items?limit=2")).await.json();
    assert_eq!((&newest["object"], &newest["has_more"]), (&json!("list"), &json!(true)));
    assert_eq!(newest["data"][0]["content"], json!([{"type": "input_text", "text": "c"}]));
    assert_eq!(newest["first_id"], newest["data"][0]["id"]);
    let after = newest["last_id"].as_str().expect("an id");
    let rest = front.get(&format!("{path}/input_items?limit=2&after={after}")).await.json();
    assert_eq!((rest["data"].as_array().map(Vec::len), &rest["has_more"]), (Some(1), &json!(false)));
    let oldest = front.get(&format!("{path}/input_items?order=asc")).await.json();
    assert_eq!(oldest["data"][0], rest["data"][0]);
    for query in ["limit=0", "limit=101", "order=up", "after=msg_none", "limit=x"] {
        let answer = front.get(&format!("{path}/input_items?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
    }

    let delete = |path: &str| format!("DELETE {path} HTTP/1.1");
    let deleted = front.ask(&delete(&path), "").await.json();
    assert_eq!(deleted, json!({"id": response["id"], "object": "response", "deleted": true}));
    for answer in [front.get(&path).await, front.ask(&delete(&path), "").await] {
        assert_eq!((answer.status, answer.json()["error"]["code"].clone()), (404, json!("not_found")));
    }
    front.stop().await;
}

#[actix_web::test]
async fn what_is_not_to_be_stored_is_not() {
    let (backend, front) = keeping();
    let response = create(&front, json!("hi"), json!({"store": false})).await;
    assert_eq!(response["store"], false);
    assert!(backend.stored.lock().expect("whole").is_empty());
    front.stop().await;
}

#[actix_web::test]
async fn a_background_response_can_be_polled_followed_and_followed_again() {
    let (backend, front) = keeping();
    let queued = create(&front, json!("hi"), json!({"background": true})).await;
    assert_eq!((&queued["status"], &queued["usage"]), (&json!("queued"), &Value::Null));
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    backend.job_says(vec![started(), text(0, "Hello")]);
    let polled = front.get(&path).await.json();
    assert_eq!((&polled["status"], &polled["output_text"]), (&json!("in_progress"), &json!("Hello")));

    let follow = format!("{path}?stream=true");
    let follower = front.get(&follow);
    let rest = async {
        backend.job_says(vec![text(0, " there"), ended(0, FinishReason::Stop)]);
        backend.job_says(vec![finished(2)]);
    };
    let (live, ()) = futures::join!(follower, rest);
    let live = events(&live);
    assert_eq!(live.last().expect("a last word")["type"], "response.completed");
    let again = events(&front.get(&follow).await);
    assert_eq!(again, live, "what is told again is what was told");
    let rest = events(&front.get(&format!("{follow}&starting_after=4")).await);
    assert_eq!(rest, live[5..]);
    assert_eq!(front.get(&path).await.json(), live.last().expect("a last word")["response"]);

    let done = front.post(&format!("{path}/cancel"), &json!({})).await.json();
    assert_eq!(done["status"], "completed", "what is over stays as it is");
    let answer = front.get(&format!("{path}?starting_after=4")).await;
    assert_eq!(answer.status, 400);
    front.stop().await;
}

#[actix_web::test]
async fn a_background_response_can_be_cancelled_and_no_other() {
    let (backend, front) = keeping();
    let queued = create(&front, json!("hi"), json!({"background": true})).await;
    backend.job_says(vec![started(), text(0, "Hello")]);
    let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
    let cancelled = front.post(&format!("{path}/cancel"), &json!({})).await.json();
    assert_eq!((&cancelled["status"], &cancelled["error"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(front.get(&path).await.json(), cancelled);
    let goes_on = json!({"previous_response_id": queued["id"]});
    assert_eq!(front.post("/v1/responses", &body(json!("hi"), goes_on)).await.status, 400);

    let foreground = create(&front, json!("hi"), json!({})).await;
    let path = format!("/v1/responses/{}", foreground["id"].as_str().expect("an id"));
    let answer = front.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("Cannot cancel a synchronous response"));
    assert_eq!(front.get(&format!("{path}?stream=true")).await.status, 400);
    assert_eq!(front.post("/v1/responses/resp_none/cancel", &json!({})).await.status, 404);
    front.stop().await;
}

#[actix_web::test]
async fn without_a_store_what_needs_one_is_refused_by_name() {
    for name in ["store", "background"] {
        let error = refused(json!({name: true}), name).await;
        assert!(error["message"].as_str().is_some_and(|text| text.contains("--no-store")), "{error}");
    }
    refused(json!({"previous_response_id": "resp_1"}), "previous_response_id").await;
    let front = Front::start(Arc::new(Scripted::saying(hello())), ApiSettings::default());
    assert_eq!(create(&front, json!("hi"), json!({})).await["store"], false);
    assert_eq!(front.get("/v1/responses/resp_1").await.status, 404);
    front.stop().await;
}

#[actix_web::test]
async fn what_is_not_there_is_refused_by_name() {
    for (more, param) in [
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "p"}}), "prompt"),
        (json!({"context_management": [{"type": "compaction"}]}), "context_management"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"include": ["nothing.known"]}), "include.0"),
        (json!({"truncation": "middle"}), "truncation"),
        (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        (json!({"reasoning": {"summary": "detailed"}}), "reasoning.summary"),
        (json!({"reasoning": {"effort": "very"}}), "reasoning.effort"),
        (json!({"tools": [{"type": "web_search"}]}), "tools.0.type"),
        (json!({"tools": [{"type": "mcp", "server_label": "x"}]}), "tools.0.type"),
        (json!({"tools": [{"type": "function", "name": "not good"}]}), "tools.0.name"),
        (
            json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "mcp", "server_label": "x"}}),
            "tool_choice.type",
        ),
        (
            json!({"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "g"}}),
            "tool_choice.name",
        ),
        (json!({"background": true, "store": false}), "background"),
        (json!({"input": []}), "input"),
        (json!({"input": 1}), "input"),
        (json!({"input": null}), "input"),
        (json!({"input": [{"type": "input_image", "image_url": "data:"}]}), "input.0.type"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}), "input.0.content.0.type"),
        (json!({"input": [{"type": "dance"}]}), "input.0.type"),
        (json!({"input": [{"type": "function_call", "name": "f", "arguments": "{"}]}), "input.0.arguments"),
        (json!({"input": [{"type": "function_call_output", "output": "x"}]}), "input.0.call_id"),
        (
            json!({"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]}),
            "input.0.output.0.type",
        ),
        (
            json!({"text": {"format": {"type": "json_object"}}, "response_format": {"type": "text"}}),
            "response_format",
        ),
    ] {
        refused(more, param).await;
    }
    let front = Front::start(Arc::new(Scripted::saying(hello())), ApiSettings::default());
    let answer = front.post("/v1/responses/compact", &json!({})).await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].clone()),
        (400, json!("unsupported_operation"))
    );
    assert_eq!(front.ask("PUT /v1/responses/resp_1 HTTP/1.1", "").await.status, 405);
    front.stop().await;
}

#[actix_web::test]
async fn a_failure_before_the_first_byte_has_its_status_and_one_after_it_its_event() {
    let overflow = Failure::new(ErrorKind::ContextOverflow, "too long");
    let early = Arc::new(Scripted::saying(vec![Event::Failed(overflow)]));
    let front = Front::start(early, ApiSettings::default());
    for stream in [false, true] {
        let answer = front.post("/v1/responses", &body(json!("hi"), json!({"stream": stream}))).await;
        assert_eq!((answer.status, answer.json()["error"]["param"].clone()), (400, json!("input")));
    }
    front.stop().await;

    let late = vec![started(), text(0, "a"), Event::Failed(Failure::new(ErrorKind::Unavailable, "crashed"))];
    let backend = Arc::new(Scripted { keeps_responses: true, ..Scripted::saying(late) });
    let front = Front::start(backend.clone(), ApiSettings::default());
    let answer = front.post("/v1/responses", &body(json!("hi"), json!({"stream": true}))).await;
    let events = events(&answer);
    let last = events.last().expect("a last word");
    assert_eq!(
        (&last["type"], &last["response"]["error"]["message"]),
        (&json!("response.failed"), &json!("crashed"))
    );
    let id = last["response"]["id"].as_str().expect("an id");
    assert_eq!(front.get(&format!("/v1/responses/{id}")).await.json()["status"], "failed");
    front.stop().await;

    // A channel that closes without a last word is a failure too.
    let cut = Arc::new(Scripted::with(|_| Ok(stream_of(vec![started(), text(0, "a")]))));
    let front = Front::start(cut, ApiSettings::default());
    let answer = front.post("/v1/responses", &body(json!("hi"), json!({"stream": true}))).await;
    assert_eq!(self::events(&answer).last().expect("a last word")["type"], "response.failed");
    front.stop().await;
}

#[actix_web::test]
async fn fields_reach_the_model_side() {
    let (backend, front) = keeping();
    let tool = json!({"type": "function", "name": "f", "parameters": {"type": "object"}});
    let more = json!({
        "tools": [tool],
        "tool_choice": "none",
        "parallel_tool_calls": false,
        "max_output_tokens": 5,
        "truncation": "auto",
        "reasoning": {"effort": "none", "summary": "auto"},
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "top_logprobs": 3,
        "chat_template_kwargs": {"a": 1},
        "top_k": 7,
        "seed": 1,
        "priority": 2,
    });
    let response = create(&front, json!("hi"), more).await;
    assert_eq!(response["tools"], json!([tool]), "tools are told back as they came");
    assert_eq!(response["reasoning"], json!({"effort": "none", "summary": "auto"}));
    assert_eq!((&response["tool_choice"], &response["top_logprobs"]), (&json!("none"), &json!(3)));
    {
        let asked = backend.asked.lock().expect("whole");
        let request = asked.last().expect("something was asked");
        assert_eq!((request.sampling.max_tokens, request.sampling.top_k), (Some(5), Some(7)));
        assert_eq!((request.output.logprobs, request.priority), (Some(3), 2));
        let Prompt::Chat(chat) = &request.prompt else { panic!("a chat") };
        assert!(chat.drop_oldest_to_fit && !chat.parallel_tool_calls);
        assert_eq!(chat.tools[0]["function"]["name"], "f");
        let kwargs = json!({"reasoning_effort": "none", "enable_thinking": false, "a": 1});
        assert_eq!(Value::Object(chat.template_kwargs.clone()), kwargs);
    }
    // Without `include`, a number alone asks for nothing.
    create(&front, json!("hi"), json!({"top_logprobs": 3})).await;
    assert_eq!(backend.asked.lock().expect("whole").last().expect("asked").output.logprobs, None);
    front.stop().await;
}

#[actix_web::test]
async fn tokens_are_counted_without_generating_or_keeping() {
    let (backend, front) = keeping();
    let answer = front.post("/v1/responses/input_tokens", &body(json!("hi"), json!({}))).await;
    front.stop().await;
    assert_eq!(answer.json(), json!({"object": "response.input_tokens", "input_tokens": 3}));
    let max_tokens = backend.asked.lock().expect("whole").last().expect("asked").sampling.max_tokens;
    assert_eq!(max_tokens, Some(0));
    assert!(backend.stored.lock().expect("whole").is_empty());
}

#[actix_web::test]
async fn reasoning_may_be_left_out() {
    let mut script = hello();
    script.insert(2, piece(0, Delta::Reasoning("hm".into())));
    let front = Front::start(Arc::new(Scripted::saying(script)), ApiSettings::default());
    let with = create(&front, json!("hi"), json!({})).await;
    assert_eq!(with["output"][0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
    let without = create(&front, json!("hi"), json!({"include_reasoning": false})).await;
    assert_eq!(without["output"][0]["type"], "message");
    front.stop().await;
}
