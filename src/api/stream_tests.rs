//! Answers as they are written: whole, in chunks, cut short, and for clients that leave.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use candlewick_actors::EventStream;
use candlewick_protocol::{
    Delta, ErrorKind, Event, Failure, FinishReason, LoadStage, ModelRef, Progress, ProgressUnit, Started,
    StopCause, TokenLogprob, TopLogprob,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::ApiSettings;
use crate::scripted::{Answer, Front, Scripted, ended, finished, hello, piece, started, stream_of, text};

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "acme/m", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

async fn ask(events: Vec<Event>, path: &str, body: Value) -> Answer {
    let front = Front::start(Arc::new(Scripted::saying(events)), ApiSettings::default());
    let answer = front.post(path, &body).await;
    front.stop().await;
    answer
}

async fn ask_chat(events: Vec<Event>, more: Value) -> Answer {
    ask(events, "/v1/chat/completions", chat(more)).await
}

#[actix_web::test]
async fn a_whole_answer_has_all_that_openai_has() {
    let answer = ask_chat(hello(), json!({})).await.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "acme/m");
    assert!(answer["created"].is_u64());
    let choice = json!({
        "index": 0,
        "message": {"role": "assistant", "content": "Hello there", "refusal": null, "annotations": []},
        "logprobs": null,
        "finish_reason": "stop",
        "stop_reason": null,
    });
    assert_eq!(answer["choices"], json!([choice]));
    let usage = json!({
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    });
    assert_eq!(answer["usage"], usage);
}

#[actix_web::test]
async fn a_stream_opens_with_the_role_and_closes_with_done() {
    let answer = ask_chat(hello(), json!({"stream": true})).await;
    assert_eq!(answer.header("cache-control"), Some("no-cache"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
    assert_eq!(answer.header("content-encoding"), None);
    let chunks = answer.chunks();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"content": "Hello"}),
        json!({"content": " there"}),
        json!({}),
    ];
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert_eq!(chunks[1]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        assert!(chunk.get("usage").is_none(), "no usage unless asked for");
    }
}

#[actix_web::test]
async fn usage_comes_in_a_chunk_of_its_own_if_asked_for() {
    let chunks =
        ask_chat(hello(), json!({"stream": true, "stream_options": {"include_usage": true}})).await.chunks();
    let (last, others) = chunks.split_last().expect("there are chunks");
    assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(5)));

    let options = json!({"stream": true, "stream_options": {"continuous_usage_stats": true}});
    let chunks = ask_chat(hello(), options).await.chunks();
    let counts: Vec<&Value> = chunks.iter().map(|chunk| &chunk["usage"]["completion_tokens"]).collect();
    assert_eq!(counts, [&json!(0), &json!(1), &json!(2), &json!(2)]);
}

#[actix_web::test]
async fn the_last_word_of_continuous_usage_is_the_final_one() {
    // The token that ends an answer has no piece: only the end tells that there were three.
    let events = vec![started(), text(0, "a"), text(0, "b"), ended(0, FinishReason::Stop), finished(3)];
    let options = json!({"continuous_usage_stats": true, "include_usage": true});
    let chat = chat(json!({"stream": true, "stream_options": options}));
    let prompt = json!({"model": "acme/m", "prompt": "Once", "stream": true, "stream_options": options});
    for (path, body) in [("/v1/chat/completions", chat), ("/v1/completions", prompt)] {
        let chunks = ask(events.clone(), path, body).await.chunks();
        let [.., end, usage] = chunks.as_slice() else { panic!("there are chunks") };
        assert_eq!(end["choices"][0]["finish_reason"], "stop", "{path}");
        assert_eq!(end["usage"], usage["usage"], "{path}");
        assert_eq!(usage["usage"]["completion_tokens"], 3);
    }
}

#[actix_web::test]
async fn a_stream_to_an_old_client_ends_with_the_connection() {
    let front = Front::start(Arc::new(Scripted::saying(hello())), ApiSettings::default());
    let body = chat(json!({"stream": true})).to_string();
    let asked = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nconnection: keep-alive\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = Answer::parse(&front.converse(&asked).await);
    assert_eq!((answer.status, answer.header("transfer-encoding")), (200, None));
    assert_ne!(answer.header("connection"), Some("keep-alive"));
    assert_eq!(answer.chunks().len(), 4);
    front.stop().await;
}

#[actix_web::test]
async fn prompts_are_admitted_together_or_not_at_all() {
    let backend = Arc::new(Scripted::with(|request| match &request.prompt {
        candlewick_protocol::Prompt::Text { text, .. } if text == "b" => {
            Err(Failure::new(ErrorKind::Overloaded, "the queue is full"))
        }
        _ => Ok(stream_of(hello())),
    }));
    let front = Front::start(backend.clone(), ApiSettings::default());
    let body = json!({"model": "acme/m", "prompt": ["a", "b", "c"], "stream": true});
    assert_eq!(front.post("/v1/completions", &body).await.status, 429);
    assert_eq!(backend.asked.lock().expect("nobody panicked").len(), 3, "asked for in one go");
    front.stop().await;
}

#[actix_web::test]
async fn tools_and_reasoning_read_the_same_whole_and_streamed() {
    let call = Delta::ToolCall { index: 0, id: "call_1".to_owned(), name: "weather".to_owned() };
    let arguments = |fragment: &str| Delta::ToolArguments { index: 0, fragment: fragment.to_owned() };
    let events = vec![
        started(),
        piece(0, Delta::Reasoning("hmm".to_owned())),
        piece(0, call),
        piece(0, arguments("{\"city\":")),
        piece(0, arguments(" \"Oslo\"}")),
        ended(0, FinishReason::ToolCalls),
        finished(4),
    ];
    let whole = ask_chat(events.clone(), json!({})).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!((&message["reasoning"], &message["reasoning_content"]), (&json!("hmm"), &json!("hmm")));
    let function = json!({"name": "weather", "arguments": "{\"city\": \"Oslo\"}"});
    assert_eq!(message["tool_calls"], json!([{"id": "call_1", "type": "function", "function": function}]));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");

    let chunks = ask_chat(events.clone(), json!({"stream": true})).await.chunks();
    assert_eq!(chunks[1]["choices"][0]["delta"], json!({"reasoning": "hmm", "reasoning_content": "hmm"}));
    let call = |index: usize| chunks[index]["choices"][0]["delta"]["tool_calls"][0].clone();
    let begin = json!({"name": "weather", "arguments": ""});
    assert_eq!(call(2), json!({"index": 0, "id": "call_1", "type": "function", "function": begin}));
    assert_eq!(call(3), json!({"index": 0, "function": {"arguments": "{\"city\":"}}));

    let hidden = ask_chat(events, json!({"include_reasoning": false})).await.json();
    assert!(hidden["choices"][0]["message"].get("reasoning").is_none());
}

#[actix_web::test]
async fn choices_interleave_by_index() {
    let events = vec![
        started(),
        text(1, "b"),
        text(0, "a"),
        ended(1, FinishReason::Length),
        text(0, "a"),
        ended(0, FinishReason::Stop),
        finished(3),
    ];
    let whole = ask_chat(events.clone(), json!({"n": 2})).await.json();
    let read =
        |index: usize, field: &str| whole["choices"][index].pointer(field).cloned().expect("it is there");
    assert_eq!((read(0, "/message/content"), read(0, "/finish_reason")), (json!("aa"), json!("stop")));
    assert_eq!((read(1, "/message/content"), read(1, "/finish_reason")), (json!("b"), json!("length")));
    let chunks = ask_chat(events, json!({"n": 2, "stream": true})).await.chunks();
    let indices: Vec<u64> =
        chunks.iter().map(|chunk| chunk["choices"][0]["index"].as_u64().expect("an index")).collect();
    assert_eq!(indices, [0, 1, 1, 0, 1, 0, 0]);
}

#[actix_web::test]
async fn a_failure_before_the_first_token_is_a_status_even_for_a_stream() {
    for stream in [false, true] {
        let failure = Failure::new(ErrorKind::ContextOverflow, "too long");
        let answer = ask_chat(vec![Event::Queued, Event::Failed(failure)], json!({"stream": stream})).await;
        assert_eq!(answer.status, 400);
        let error = &answer.json()["error"];
        assert_eq!(
            (&error["code"], &error["param"]),
            (&json!("context_length_exceeded"), &json!("messages"))
        );

        let unknown = Failure::new(ErrorKind::ModelNotFound, "no such model");
        let lookup = Event::Loading { stage: LoadStage::Processor, progress: None };
        let answer = ask_chat(vec![lookup, Event::Failed(unknown)], json!({"stream": stream})).await;
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (404, &json!("model")));
    }
}

#[actix_web::test]
async fn a_refused_request_is_told_when_to_come_back() {
    let full =
        Failure::new(ErrorKind::Overloaded, "the queue is full").with_retry_after(Duration::from_secs(3));
    let backend = Scripted::with(move |_| Err(full.clone()));
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    let answer = front.post("/v1/chat/completions", &chat(json!({"stream": true}))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3")));
    front.stop().await;
}

#[actix_web::test]
async fn an_error_inside_a_stream_is_one_frame_before_done() {
    let failure = Failure::new(ErrorKind::Internal, "it \"broke\"\nhere");
    let events = vec![started(), text(0, "Hel"), Event::Failed(failure)];
    let chunks = ask_chat(events.clone(), json!({"stream": true})).await.chunks();
    let last = chunks.last().expect("there are chunks");
    assert_eq!(last["error"]["message"], "it \"broke\"\nhere");
    assert_eq!(
        (&last["error"]["type"], &last["error"]["code"]),
        (&json!("server_error"), &json!("internal_error"))
    );
    assert_eq!(ask_chat(events, json!({})).await.status, 500);
}

#[actix_web::test]
async fn a_generation_that_ends_without_a_last_word_is_an_internal_error() {
    let events = vec![started(), text(0, "Hel")];
    let chunks = ask_chat(events.clone(), json!({"stream": true})).await.chunks();
    assert_eq!(chunks.last().expect("there are chunks")["error"]["code"], "internal_error");
    let whole = ask_chat(events, json!({})).await;
    assert_eq!((whole.status, &whole.json()["error"]["code"]), (500, &json!("internal_error")));
}

#[actix_web::test]
async fn a_cold_model_opens_the_stream_and_tells_its_progress() {
    let (sender, events) = mpsc::channel(8);
    let slot = Mutex::new(Some(EventStream { events }));
    let backend =
        Scripted::with(move |_| Ok(slot.lock().expect("one at a time").take().expect("one request")));
    let settings = ApiSettings { keep_alive: Duration::from_millis(5), ..ApiSettings::default() };
    let front = Front::start(Arc::new(backend), settings);
    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json";
    let mut stream = front.send(head, &chat(json!({"stream": true})).to_string()).await;
    let progress = Some(Progress { current: 12, total: Some(34), unit: ProgressUnit::Tensors });
    let loading = Event::Loading { stage: LoadStage::Weights, progress };
    sender.send(loading).await.expect("the handler listens");
    let mut seen = String::new();
    // Once for the stage, once more because nothing else came.
    while seen.matches(": loading weights 12/34\n\n").count() < 2 {
        let mut bytes = [0; 1024];
        let count = stream.read(&mut bytes).await.expect("the stream is open");
        assert!(count > 0, "the stream ended: {seen}");
        seen.push_str(std::str::from_utf8(&bytes[..count]).expect("UTF-8"));
    }
    assert!(seen.starts_with("HTTP/1.1 200 OK"), "{seen}");
    for event in hello() {
        sender.send(event).await.expect("the stream listens");
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("the rest can be read");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    front.stop().await;
}

/// The client leaves while nothing is said: the generation must be dropped, or the model works for nobody.
async fn check_leaving(body: Value) {
    let (sender, events) = mpsc::channel(8);
    let slot = Mutex::new(Some(EventStream { events }));
    let (asked, mut was_asked) = mpsc::channel(1);
    let backend = Scripted::with(move |_| {
        asked.try_send(()).expect("one request");
        Ok(slot.lock().expect("one at a time").take().expect("one request"))
    });
    let settings = ApiSettings { keep_alive: Duration::from_secs(3600), ..ApiSettings::default() };
    let front = Front::start(Arc::new(backend), settings);
    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json";
    let stream = front.send(head, &body.to_string()).await;
    was_asked.recv().await.expect("the request arrives");
    sender.send(started()).await.expect("somebody listens");
    drop(stream);
    tokio::time::timeout(Duration::from_secs(5), sender.closed()).await.expect("the generation is dropped");
    front.stop().await;
}

#[actix_web::test]
async fn a_client_that_leaves_cancels_a_plain_request() {
    check_leaving(chat(json!({}))).await;
}

#[actix_web::test]
async fn a_client_that_leaves_cancels_an_idle_stream() {
    check_leaving(chat(json!({"stream": true}))).await;
}

#[actix_web::test]
async fn the_model_is_named_as_it_was_asked_for() {
    let named = |model: &str| json!({"model": model, "messages": [{"role": "user", "content": "hi"}]});
    let path = "/v1/chat/completions";
    assert_eq!(ask(hello(), path, named("acme/m@main")).await.json()["model"], "acme/m@main");

    let unnamed = json!({"messages": [{"role": "user", "content": "hi"}]});
    let refused = ask(hello(), path, unnamed.clone()).await;
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("model")));
    let pinned: ModelRef = "acme/pinned".parse().expect("a good name");
    let backend = Scripted { pinned: Some(pinned), ..Scripted::saying(hello()) };
    let front = Front::start(Arc::new(backend), ApiSettings::default());
    assert_eq!(front.post(path, &unnamed).await.json()["model"], "acme/pinned");
    front.stop().await;

    let settings = ApiSettings { echo_revision: true, ..ApiSettings::default() };
    let front = Front::start(Arc::new(Scripted::saying(hello())), settings);
    assert_eq!(front.post(path, &named("acme/m")).await.json()["model"], "acme/m@main");
    front.stop().await;
}

#[actix_web::test]
async fn completions_of_several_prompts_are_one_answer() {
    let backend = || {
        Scripted::with(|request| {
            let candlewick_protocol::Prompt::Text { text: prompt, .. } = request.prompt else {
                panic!("text was sent")
            };
            let stop = |choice| ended(choice, FinishReason::Stop);
            Ok(stream_of(vec![
                started(),
                text(1, &format!("{prompt}1")),
                stop(1),
                text(0, &format!("{prompt}0")),
                stop(0),
                finished(2),
            ]))
        })
    };
    let body = |stream: bool| json!({"model": "acme/m", "prompt": ["a", "b"], "n": 2, "stream": stream});
    let front = Front::start(Arc::new(backend()), ApiSettings::default());
    let whole = front.post("/v1/completions", &body(false)).await.json();
    assert_eq!(whole["object"], "text_completion");
    assert!(whole["id"].as_str().expect("an id").starts_with("cmpl-"));
    let texts: Vec<_> =
        whole["choices"].as_array().expect("a list").iter().map(|c| (&c["index"], &c["text"])).collect();
    let expected =
        [(0, "a0"), (1, "a1"), (2, "b0"), (3, "b1")].map(|(index, text)| (json!(index), json!(text)));
    assert_eq!(texts, expected.iter().map(|(index, text)| (index, text)).collect::<Vec<_>>());
    assert_eq!(whole["usage"]["total_tokens"], 10);

    let mut streamed = vec![String::new(); 4];
    for chunk in front.post("/v1/completions", &body(true)).await.chunks() {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        streamed[index].push_str(choice["text"].as_str().expect("text"));
    }
    assert_eq!(streamed, ["a0", "a1", "b0", "b1"]);
    front.stop().await;
}

#[actix_web::test]
async fn an_echoed_prompt_stands_before_the_text() {
    let begin = Event::Started(Started {
        model: "acme/m@main".to_owned(),
        prompt_token_ids: vec![1],
        prompt_logprobs: None,
        prompt_text: Some("Once".to_owned()),
    });
    let events = vec![begin, text(0, " upon"), ended(0, FinishReason::Length), finished(1)];
    let body = |stream| json!({"model": "acme/m", "prompt": "Once", "echo": true, "stream": stream});
    let whole = ask(events.clone(), "/v1/completions", body(false)).await.json();
    assert_eq!(whole["choices"][0]["text"], "Once upon");
    let chunks = ask(events, "/v1/completions", body(true)).await.chunks();
    let text: String =
        chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().expect("text")).collect();
    assert_eq!(text, "Once upon");
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "length");
}

#[actix_web::test]
async fn a_panic_while_writing_still_gets_a_last_word() {
    // No such choice was asked for: a fault of the model side, which has no place among the text offsets.
    let events = vec![started(), text(9, "x"), ended(0, FinishReason::Stop), finished(1)];
    let body = json!({"model": "acme/m", "prompt": "Once", "logprobs": 1, "stream": true});
    let chunks = ask(events, "/v1/completions", body).await.chunks();
    assert_eq!(chunks.last().expect("there are chunks")["error"]["code"], "internal_error");
}

#[actix_web::test]
async fn hidden_reasoning_leaves_no_trace_in_either_form() {
    let hidden = json!({"include_reasoning": false, "return_token_ids": true});
    let thought = piece(0, Delta::Reasoning("hmm".to_owned()));
    let events = vec![started(), thought, text(0, "yes"), ended(0, FinishReason::Stop), finished(2)];
    let whole = ask_chat(events.clone(), hidden.clone()).await;
    assert_eq!(whole.json()["choices"][0]["token_ids"], json!([7]), "the token of the answer alone");
    assert!(!whole.body.contains("hmm"));
    let mut streamed = hidden;
    streamed["stream"] = json!(true);
    let streamed = ask_chat(events, streamed).await;
    assert!(!streamed.body.contains("hmm"));
    let ids = |chunk: &Value| chunk["choices"][0].get("token_ids").cloned();
    assert_eq!(streamed.chunks().iter().filter_map(ids).collect::<Vec<_>>(), [json!([7])]);
    assert_eq!(streamed.chunks()[0]["prompt_token_ids"], json!([1, 2, 3]));
}

#[actix_web::test]
async fn the_prompts_log_probabilities_come_by_id_with_rank_and_text() {
    let token = |token_id, text: &str, logprob: Option<f32>, rank, top: &[(u32, &str, f32)]| TokenLogprob {
        token_id,
        text: text.to_owned(),
        bytes: text.as_bytes().to_vec(),
        logprob,
        rank,
        top: top
            .iter()
            .map(|(token_id, text, logprob)| TopLogprob {
                token_id: *token_id,
                text: (*text).to_owned(),
                bytes: text.as_bytes().to_vec(),
                logprob: *logprob,
            })
            .collect(),
    };
    let likeliest = [(8, "x", -0.25), (2, "b", -1.5)];
    let places = vec![token(1, "a", None, None, &[]), token(2, "b", Some(-1.5), Some(2), &likeliest)];
    let begin = Event::Started(Started {
        model: "acme/m@main".to_owned(),
        prompt_token_ids: vec![1, 2],
        prompt_logprobs: Some(places),
        prompt_text: Some("ab".to_owned()),
    });
    let events = vec![begin, text(0, "c"), ended(0, FinishReason::Stop), finished(1)];
    let expected = json!([null, {
        "2": {"logprob": -1.5, "rank": 2, "decoded_token": "b"},
        "8": {"logprob": -0.25, "rank": 1, "decoded_token": "x"},
    }]);
    let asked = json!({"prompt_logprobs": 2, "return_prompt_text": true});
    let answer = ask_chat(events.clone(), asked).await.json();
    assert_eq!((&answer["prompt_logprobs"], &answer["prompt_text"]), (&expected, &json!("ab")));
    let body = json!({"model": "acme/m", "prompt": "ab", "prompt_logprobs": 2});
    let choice = ask(events, "/v1/completions", body).await.json()["choices"][0].clone();
    assert_eq!((&choice["prompt_logprobs"], &choice["text"]), (&expected, &json!("c")), "it is not echoed");
    assert_eq!((&choice["logprobs"], choice.get("prompt_text")), (&Value::Null, None));
}

#[actix_web::test]
async fn an_output_that_went_round_in_circles_says_so() {
    let end = Event::Ended { choice: 0, reason: FinishReason::Stop, stop: Some(StopCause::Repetition) };
    let answer = ask_chat(vec![started(), text(0, "a"), end, finished(1)], json!({})).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], "repetition_detected");
}
