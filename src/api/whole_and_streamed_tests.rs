//! Any generation reads the same whole and in chunks: whatever events come, in whatever pieces.

use candlewick_actors::EventStream;
use candlewick_protocol::{
    Delta, ErrorKind, Event, EventGrammar, Failure, FinishReason, Finished, Piece, RequestId, Started,
    TokenLogprob, Usage,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::ApiSettings;
use crate::collect::{Keep, collect};
use crate::from_wire::read_chat;
use crate::generation::merge;
use crate::scripted::channel_of;
use crate::sender::Sender;
use crate::sse::Chunks;
use crate::to_wire::{ChatChunks, Head, chat_completion};

const NUM_CHOICES: u32 = 2;

/// What one choice says next.
#[derive(Debug, Clone)]
enum Word {
    Text(String),
    Reasoning(String),
    /// A call, with its arguments in pieces.
    Call(Vec<String>),
}

fn word() -> impl Strategy<Value = (u32, Word)> {
    let text = "[a-c é🕯\n\"\\\\]{1,4}";
    let word = prop_oneof![
        text.prop_map(Word::Text),
        text.prop_map(Word::Reasoning),
        prop::collection::vec(text, 0..3).prop_map(Word::Call),
    ];
    (0..NUM_CHOICES, word)
}

/// A generation that says these words, by the grammar of events.
fn events(words: &[(u32, Word)], reasons: &[FinishReason]) -> Vec<Event> {
    let started = Started {
        model: "acme/m@main".to_owned(),
        prompt_token_ids: vec![1, 2],
        prompt_logprobs: None,
        prompt_text: None,
    };
    let mut events = vec![Event::Queued, Event::Started(started)];
    let mut num_calls = [0; NUM_CHOICES as usize];
    for (choice, word) in words {
        let mut tell = |delta| {
            events.push(Event::Piece(Piece { choice: *choice, delta, logprobs: vec![], token_ids: vec![7] }));
        };
        match word {
            Word::Text(text) => tell(Delta::Text(text.clone())),
            Word::Reasoning(text) => tell(Delta::Reasoning(text.clone())),
            Word::Call(arguments) => {
                let index = num_calls[*choice as usize];
                num_calls[*choice as usize] += 1;
                tell(Delta::ToolCall { index, id: format!("call_{choice}_{index}"), name: "f".to_owned() });
                for fragment in arguments {
                    tell(Delta::ToolArguments { index, fragment: fragment.clone() });
                }
            }
        }
    }
    for (choice, reason) in (0..).zip(reasons) {
        events.push(Event::Ended { choice, reason: *reason, stop: None });
    }
    let usage = Usage { prompt_tokens: 2, completion_tokens: 9, cached_tokens: 1, reasoning_tokens: 3 };
    events.push(Event::Finished(Finished { usage }));
    events
}

fn head(request: Value) -> Head {
    let Value::Object(mut body) = json!({"model": "acme/m", "messages": [{"role": "user", "content": "Hi"}]})
    else {
        unreachable!("it is an object")
    };
    let Value::Object(more) = request else { panic!("a request is an object") };
    body.extend(more);
    let settings = ApiSettings::default();
    let call = read_chat(body, Sender::unknown(RequestId::from("r")), &settings).expect("it is good");
    Head::now("chatcmpl-", &call.generation.request_id, call.reply, None, false)
}

fn whole(head: &Head, events: Vec<Event>) -> Value {
    let keep = Keep { num_choices: NUM_CHOICES, logprobs: false, reasoning: !head.options.hide_reasoning };
    let generation = merge(vec![EventStream { events: channel_of(events) }]);
    let collected =
        futures::executor::block_on(collect(generation, 1, keep, |_| Ok(()))).expect("it ends well");
    let collected = collected.into_iter().next().expect("one source was collected");
    serde_json::to_value(chat_completion(head, collected)).expect("it serialises")
}

#[test]
fn a_whole_answer_is_given_up_where_it_must_not_grow() {
    let logprob = TokenLogprob {
        token_id: 1,
        text: "a".into(),
        bytes: vec![97],
        logprob: Some(-1.0),
        rank: Some(1),
        top: Vec::new(),
    };
    let piece = |choice| {
        let delta = Delta::Text("a".into());
        Event::Piece(Piece { choice, delta, token_ids: vec![1], logprobs: vec![logprob.clone(); 100] })
    };
    let events = (0..20).map(|number| piece(number % 2)).collect();
    let generation = merge(vec![EventStream { events: channel_of(events) }]);
    let keep = Keep { num_choices: 2, logprobs: true, reasoning: true };
    let may_keep = |num_bytes: u64| match num_bytes > 100_000 {
        true => Err(Failure::new(ErrorKind::Unavailable, num_bytes.to_string())),
        false => Ok(()),
    };
    let failure = futures::executor::block_on(collect(generation, 1, keep, may_keep)).expect_err("too much");
    let num_bytes: usize = failure.message.parse().expect("a number");
    let num_of_a_piece = 100 * size_of::<TokenLogprob>();
    assert!((100_001..100_001 + num_of_a_piece + 300).contains(&num_bytes), "{num_bytes}");
}

fn chunks(head: Head, events: Vec<Event>) -> Vec<Value> {
    let mut chunks = ChatChunks::new(head, NUM_CHOICES, false);
    let mut written = Vec::new();
    for event in events {
        written.extend(match event {
            Event::Queued | Event::Loading { .. } => Vec::new(),
            Event::Started(started) => chunks.started(0, started),
            Event::Piece(piece) => chunks.piece(0, piece),
            Event::Ended { choice, reason, stop } => chunks.ended(0, choice, reason, stop),
            Event::Finished(finished) => chunks.finished(finished.usage),
            Event::Failed(failure) => panic!("it does not fail: {failure:?}"),
        });
    }
    written.iter().map(|chunk| serde_json::to_value(chunk).expect("it serialises")).collect()
}

/// Puts chunks together as the clients of OpenAI do: texts are joined, lists are merged by index.
fn assembled(chunks: &[Value]) -> Vec<Map<String, Value>> {
    let mut choices = vec![Map::new(); NUM_CHOICES as usize];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("a list")) {
        let at = &mut choices[choice["index"].as_u64().expect("an index") as usize];
        add(at, choice["delta"].as_object().expect("an object"));
        if !choice["finish_reason"].is_null() {
            at.insert("finish_reason".to_owned(), choice["finish_reason"].clone());
        }
    }
    choices
}

fn add(to: &mut Map<String, Value>, delta: &Map<String, Value>) {
    for (key, value) in delta {
        match (to.get_mut(key), value) {
            (Some(Value::String(text)), Value::String(more)) => text.push_str(more),
            (Some(Value::Object(map)), Value::Object(more)) => add(map, more),
            (Some(Value::Array(list)), Value::Array(more)) => {
                for item in more {
                    let index = item["index"].as_u64().expect("an index") as usize;
                    let item = item.as_object().expect("an object");
                    match list.get_mut(index).and_then(Value::as_object_mut) {
                        Some(old) => add(old, item),
                        None => list.push(Value::Object(item.clone())),
                    }
                }
            }
            (None, value) => drop(to.insert(key.clone(), value.clone())),
            // A number that is told again.
            (Some(_), _) => {}
        }
    }
}

/// What both forms say of one choice: absent, empty and null are the same to a reader.
fn read(message: &Value, finish_reason: &Value) -> Value {
    let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
    let calls = message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| json!({"id": call["id"], "type": call["type"], "function": call["function"]}));
    json!({
        "role": message["role"], "content": text("content"), "reasoning": text("reasoning"),
        "reasoning_content": text("reasoning_content"), "calls": calls.collect::<Vec<_>>(),
        "function_call": message.get("function_call"), "finish_reason": finish_reason,
    })
}

fn reason() -> impl Strategy<Value = FinishReason> {
    prop::sample::select(vec![FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls])
}

proptest! {
    #[test]
    fn a_generation_reads_the_same_whole_and_in_chunks(
        words in prop::collection::vec(word(), 0..12),
        reasons in prop::collection::vec(reason(), NUM_CHOICES as usize),
        hidden in any::<bool>(),
    ) {
        let events = events(&words, &reasons);
        prop_assert_eq!(EventGrammar::check_all(NUM_CHOICES, &events), Ok(()));
        let request = json!({"n": NUM_CHOICES, "include_reasoning": !hidden});
        let whole = whole(&head(request.clone()), events.clone());
        let mut streamed = request;
        streamed["stream"] = json!(true);
        let chunks = chunks(head(streamed), events);
        for (index, choice) in assembled(&chunks).into_iter().enumerate() {
            let told = &whole["choices"][index];
            let choice = Value::Object(choice);
            prop_assert_eq!(read(&choice, &choice["finish_reason"]), read(&told["message"], &told["finish_reason"]));
        }
        // No stray empty delta: only the first chunk of a choice says nothing, and the last.
        for (at, chunk) in chunks.iter().enumerate() {
            let choice = &chunk["choices"][0];
            let delta = choice["delta"].as_object().expect("an object");
            let says = ["content", "reasoning", "reasoning_content"]
                .iter()
                .any(|key| delta.get(*key).and_then(Value::as_str).is_some_and(|text| !text.is_empty()))
                || delta.contains_key("tool_calls");
            let is_first = at < NUM_CHOICES as usize && delta.contains_key("role");
            let is_last = !choice["finish_reason"].is_null() && delta.is_empty();
            prop_assert!(says || is_first || is_last, "chunk {at} says nothing: {chunk}");
        }
    }
}

#[test]
fn a_call_is_told_under_its_older_name_to_those_who_asked_by_it() {
    let events = events(
        &[(0, Word::Call(vec!["{\"a\":".to_owned(), " 1}".to_owned()]))],
        &[FinishReason::ToolCalls, FinishReason::Stop],
    );
    let request = json!({"n": 2, "functions": [{"name": "f"}]});
    let told = whole(&head(request.clone()), events.clone());
    let call = json!({"name": "f", "arguments": "{\"a\": 1}"});
    let choice = &told["choices"][0];
    assert_eq!(
        (&choice["message"]["function_call"], &choice["finish_reason"]),
        (&call, &json!("function_call"))
    );
    assert!(choice["message"].get("tool_calls").is_none() && choice["message"]["content"].is_null());
    let mut streamed = request;
    streamed["stream"] = json!(true);
    let assembled = assembled(&chunks(head(streamed), events));
    assert_eq!(
        (&assembled[0]["function_call"], &assembled[0]["finish_reason"]),
        (&call, &json!("function_call"))
    );
}
