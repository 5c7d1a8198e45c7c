//! Any stream of events that the grammar allows makes a stream of response events that OpenAI's clients can follow, and
//! deltas that add up to what is told at the end.

use candlewick_protocol::{
    Delta, ErrorKind, Event, EventGrammar, Failure, FinishReason, Finished, LoggedEvent, Piece,
    ResponseRecord, Started, TokenLogprob, Usage, log_compactly,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ItemIds, ResponseHead, ResponseWriter, owner_of};
use crate::wire::responses::Echo;

pub(super) fn record(background: bool, logprobs: bool) -> ResponseRecord {
    let echo = Echo { model: "acme/m".into(), background, ..Echo::default() };
    let head = ResponseHead { echo, logprobs, ..ResponseHead::default() };
    ResponseRecord {
        id: ItemIds::new().response(),
        created_at: 100,
        background,
        previous: None,
        head: head.to_value(),
        input: Vec::new(),
    }
}

pub(super) fn started() -> Event {
    Event::Started(Started {
        model: "acme/m@main".into(),
        prompt_token_ids: vec![1],
        prompt_logprobs: None,
        prompt_text: None,
    })
}

fn token(text: &str) -> TokenLogprob {
    TokenLogprob {
        token_id: 1,
        text: text.into(),
        bytes: text.as_bytes().to_vec(),
        logprob: Some(-0.5),
        rank: None,
        top: Vec::new(),
    }
}

pub(super) fn piece(delta: Delta) -> Event {
    let logprobs = match &delta {
        Delta::Text(text) => vec![token(text)],
        _ => Vec::new(),
    };
    Event::Piece(Piece { choice: 0, delta, logprobs, token_ids: vec![7] })
}

pub(super) fn text(text: &str) -> Event {
    piece(Delta::Text(text.into()))
}

fn reasoning(text: &str) -> Event {
    piece(Delta::Reasoning(text.into()))
}

pub(super) fn call(index: u32) -> Event {
    piece(Delta::ToolCall { index, id: format!("call_{index}"), name: "f".into() })
}

pub(super) fn arguments(index: u32, fragment: &str) -> Event {
    piece(Delta::ToolArguments { index, fragment: fragment.into() })
}

pub(super) fn ended(reason: FinishReason) -> Event {
    Event::Ended { choice: 0, reason, stop: None }
}

pub(super) fn finished() -> Event {
    let usage = Usage { prompt_tokens: 3, completion_tokens: 2, cached_tokens: 1, reasoning_tokens: 1 };
    Event::Finished(Finished { usage })
}

/// All events of a stream, as JSON.
pub(super) fn tell(record: &ResponseRecord, events: &[Event]) -> Vec<Value> {
    let mut writer = ResponseWriter::new(record);
    let mut told = writer.open();
    for event in events {
        told.extend(writer.take(&LoggedEvent { at: 107, event: event.clone() }));
    }
    told.iter().map(|event| serde_json::to_value(event).expect("events are JSON")).collect()
}

fn types(told: &[Value]) -> Vec<&str> {
    told.iter()
        .map(|event| {
            let class = event["type"].as_str().expect("each has a type");
            class.strip_prefix("response.").unwrap_or(class)
        })
        .collect()
}

/// The grammar of the module, and that what is told in pieces is what is told whole.
fn check(told: &[Value]) -> Result<(), TestCaseError> {
    let mut open: Option<(Value, String, Vec<Value>)> = None;
    let mut num_items = 0;
    let is_last = |event: &Value| {
        let class = event["type"].as_str().unwrap_or_default();
        matches!(class, "response.completed" | "response.incomplete" | "response.failed" | "error")
    };
    for (number, event) in told.iter().enumerate() {
        prop_assert_eq!(&event["sequence_number"], &json!(number), "numbers have no gaps");
        prop_assert_eq!(is_last(event), number + 1 == told.len(), "exactly one last word, at the end");
        let class = event["type"].as_str().unwrap_or_default();
        match class {
            "response.created" => prop_assert_eq!(number, 0),
            "response.queued" => prop_assert_eq!(number, 1),
            "response.in_progress" => prop_assert!(number == 1 || number == 2),
            "response.output_item.added" => {
                prop_assert!(open.is_none(), "one item is open at a time");
                prop_assert_eq!(&event["output_index"], &json!(num_items), "places are unique and in order");
                prop_assert_eq!(&event["item"]["status"], "in_progress");
                num_items += 1;
                open = Some((event["item"].clone(), String::new(), Vec::new()));
            }
            "response.completed" | "response.incomplete" => {
                prop_assert!(open.is_none(), "every item is closed");
                prop_assert_eq!(event["response"]["output"].as_array().map(Vec::len), Some(num_items));
            }
            "response.failed" => {}
            _ => {
                let Some((item, said, tokens)) = &mut open else {
                    return Err(TestCaseError::fail(format!("{event} without an item")));
                };
                prop_assert_eq!(&event["output_index"], &json!(num_items - 1));
                if let Some(id) = event.get("item_id") {
                    prop_assert_eq!(id, &item["id"]);
                }
                if let Some(delta) = event["delta"].as_str() {
                    said.push_str(delta);
                    prop_assert!(
                        !delta.is_empty()
                            || event["logprobs"].as_array().is_some_and(|some| !some.is_empty()),
                        "no delta is stray"
                    );
                    tokens.extend(event["logprobs"].as_array().into_iter().flatten().cloned());
                }
                if class.ends_with("_text.done") {
                    prop_assert_eq!(&event["text"], &json!(said));
                    if let Some(all) = event.get("logprobs") {
                        prop_assert_eq!(all, &json!(tokens));
                    }
                }
                if class == "response.function_call_arguments.done" {
                    prop_assert_eq!(&event["arguments"], &json!(said));
                    prop_assert_eq!(&event["name"], &item["name"]);
                }
                if class == "response.content_part.done" {
                    prop_assert_eq!(&event["part"]["text"], &json!(said));
                }
                if class == "response.output_item.done" {
                    prop_assert_eq!(&event["item"]["id"], &item["id"]);
                    prop_assert_ne!(&event["item"]["status"], "in_progress");
                    open = None;
                }
            }
        }
    }
    Ok(())
}

const MESSAGE: [&str; 2] = ["output_item.added", "content_part.added"];
const MESSAGE_END: [&str; 3] = ["output_text.done", "content_part.done", "output_item.done"];
const REASONING_END: [&str; 3] = ["reasoning_text.done", "content_part.done", "output_item.done"];

#[test]
fn each_kind_of_item_has_its_order() {
    let events = [
        started(),
        reasoning("a"),
        reasoning("b"),
        text("c"),
        text("d"),
        call(0),
        arguments(0, "{\"x\": "),
        arguments(0, "1}"),
        call(1),
        arguments(1, "{}"),
        text("e"),
        ended(FinishReason::ToolCalls),
        finished(),
    ];
    let told = tell(&record(false, false), &events);
    let mut expected = vec!["created", "in_progress"];
    expected.extend(MESSAGE);
    expected.extend(["reasoning_text.delta", "reasoning_text.delta"]);
    expected.extend(REASONING_END);
    expected.extend(MESSAGE);
    expected.extend(["output_text.delta", "output_text.delta"]);
    expected.extend(MESSAGE_END);
    for num_deltas in [2, 1] {
        expected.push("output_item.added");
        expected.extend(vec!["function_call_arguments.delta"; num_deltas]);
        expected.extend(["function_call_arguments.done", "output_item.done"]);
    }
    expected.extend(MESSAGE);
    expected.push("output_text.delta");
    expected.extend(MESSAGE_END);
    expected.push("completed");
    assert_eq!(types(&told), expected);
    check(&told).expect("the grammar holds");

    let response = &told.last().expect("there is a last word")["response"];
    let kinds = response["output"].as_array().expect("a list").iter().map(|item| item["type"].clone());
    let expected = ["reasoning", "message", "function_call", "function_call", "message"];
    assert_eq!(kinds.collect::<Vec<_>>(), expected);
    assert_eq!(response["output_text"], "cde");
    assert_eq!(response["completed_at"], 107);
    let usage = json!({
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 5,
    });
    assert_eq!(response["usage"], usage);
}

#[test]
fn an_answer_that_is_cut_is_incomplete_and_so_is_its_last_item() {
    let events = [started(), text("a"), ended(FinishReason::Length), finished()];
    let told = tell(&record(false, false), &events);
    check(&told).expect("the grammar holds");
    let last = told.last().expect("there is a last word");
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["status"], "incomplete");
    assert_eq!(last["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
    assert_eq!(last["response"]["completed_at"], Value::Null);
}

#[test]
fn a_model_that_says_nothing_says_an_empty_message() {
    let told = tell(&record(false, false), &[started(), ended(FinishReason::Stop), finished()]);
    check(&told).expect("the grammar holds");
    let response = &told.last().expect("there is a last word")["response"];
    assert_eq!(response["output"][0]["content"][0]["text"], "");
    let cut = tell(&record(false, false), &[started(), ended(FinishReason::Length), finished()]);
    assert_eq!(cut.last().expect("a last word")["response"]["output"], json!([]));
}

#[test]
fn a_failure_leaves_what_was_said_and_names_a_word_of_openai() {
    let failure = Event::Failed(Failure::new(ErrorKind::Unavailable, "the model crashed"));
    let told = tell(&record(false, false), &[started(), text("a"), failure.clone(), text("b"), failure]);
    check(&told).expect("the grammar holds");
    let response = &told.last().expect("there is a last word")["response"];
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"], json!({"code": "server_error", "message": "the model crashed"}));
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output_text"], "a");
}

#[test]
fn in_the_background_a_response_is_queued_until_it_starts_and_may_be_cancelled() {
    let record = record(true, false);
    let cancelled = Event::Failed(Failure::new(ErrorKind::Cancelled, "cancelled"));
    let told = tell(&record, &[started(), text("a"), cancelled.clone()]);
    assert_eq!(types(&told)[..3], ["created", "queued", "in_progress"]);
    let statuses = told[..3].iter().map(|event| event["response"]["status"].clone()).collect::<Vec<_>>();
    assert_eq!(statuses, ["queued", "queued", "in_progress"]);
    let last = &told.last().expect("a last word")["response"];
    assert_eq!((&last["status"], &last["error"]), (&json!("cancelled"), &Value::Null));
    assert_eq!(types(&tell(&record, &[cancelled])), ["created", "queued", "failed"]);
}

#[test]
fn tokens_whose_text_is_held_back_come_with_the_text() {
    let events = [started(), text(""), text("ab"), text(""), ended(FinishReason::Stop), finished()];
    let told = tell(&record(false, true), &events);
    check(&told).expect("the grammar holds");
    let deltas = told.iter().filter(|event| event["type"] == "response.output_text.delta");
    let counts = deltas.map(|event| (event["delta"].clone(), event["logprobs"].as_array().map(Vec::len)));
    assert_eq!(counts.collect::<Vec<_>>(), [(json!("ab"), Some(2)), (json!(""), Some(1))]);
    let unasked = tell(&record(false, false), &events);
    let part = &unasked.last().expect("a last word")["response"]["output"][0]["content"][0];
    assert_eq!(part["logprobs"], json!([]));
}

#[test]
fn an_item_names_the_response_it_is_of() {
    let ids = ItemIds::new();
    for item in [ids.output("msg", 0), ids.output("fc", 70_000), ids.input("msg", 0)] {
        assert_eq!(owner_of(&item), Some(ids.response()));
    }
    assert_ne!(ids.output("msg", 1), ids.input("msg", 1));
    for foreign in ["msg_1", "x", "", "msg_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "msg_é"] {
        assert_eq!(owner_of(foreign), None, "{foreign}");
    }
}

/// A stream as the model side may send it.
fn any_events() -> impl Strategy<Value = Vec<Event>> {
    let step = prop_oneof![
        4 => "[a-zé🙂\"\\\\\n ]{0,4}".prop_map(Step::Text),
        3 => "[a-zé🙂 ]{1,4}".prop_map(Step::Reasoning),
        2 => Just(Step::Call),
        4 => "[{}:\"a1é ]{1,4}".prop_map(Step::Arguments),
    ];
    let reason =
        prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length), Just(FinishReason::ToolCalls)];
    (prop::collection::vec(step, 0..24), reason, prop::option::of(0..24_usize)).prop_map(
        |(steps, reason, fails_at)| {
            let mut events = vec![Event::Queued, started()];
            let (mut num_calls, mut in_call) = (0, false);
            for step in steps {
                match step {
                    Step::Text(said) => {
                        in_call = false;
                        events.push(text(&said));
                    }
                    Step::Reasoning(said) => {
                        in_call = false;
                        events.push(reasoning(&said));
                    }
                    Step::Call => {
                        in_call = true;
                        events.push(call(num_calls));
                        num_calls += 1;
                    }
                    Step::Arguments(fragment) if in_call => events.push(arguments(num_calls - 1, &fragment)),
                    Step::Arguments(_) => {}
                }
            }
            events.extend([ended(reason), finished()]);
            if let Some(at) = fails_at.filter(|at| *at < events.len()) {
                events.truncate(at);
                events.push(Event::Failed(Failure::new(ErrorKind::Internal, "it broke")));
            }
            events
        },
    )
}

#[derive(Debug, Clone)]
enum Step {
    Text(String),
    Reasoning(String),
    Call,
    Arguments(String),
}

proptest! {
    #[test]
    fn any_stream_keeps_the_grammar_and_adds_up(
        events in any_events(),
        background in any::<bool>(),
        logprobs in any::<bool>(),
    ) {
        EventGrammar::check_all(1, &events).map_err(TestCaseError::fail)?;
        check(&tell(&record(background, logprobs), &events))?;
    }

    #[test]
    fn a_response_is_the_same_streamed_whole_and_from_the_store(
        events in any_events(),
        logprobs in any::<bool>(),
    ) {
        let record = record(false, logprobs);
        let told = tell(&record, &events);
        let streamed = &told.last().expect("there is a last word")["response"];
        let mut log = Vec::new();
        for event in &events {
            LoggedEvent::of(107, event).into_iter().for_each(|entry| log_compactly(&mut log, entry));
        }
        let text = serde_json::to_string(&log).expect("a log can be written");
        let log: Vec<LoggedEvent> = serde_json::from_str(&text).expect("and read");
        let mut writer = ResponseWriter::new(&record);
        log.iter().for_each(|entry| _ = writer.take(entry));
        let kept = serde_json::to_value(writer.response()).expect("a response is JSON");
        prop_assert_eq!(&kept, streamed);
    }
}
