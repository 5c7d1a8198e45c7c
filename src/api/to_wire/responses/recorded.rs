//! The two streams that `docs/responses.md` shows.

use candlewick_protocol::{Delta, ErrorKind, Event, Failure, FinishReason};
use serde_json::Value;

use super::tests::{arguments, call, ended, finished, piece, record, started, tell, text};

/// An event in a line: its number, its name, and what it is about.
fn line(event: &Value) -> String {
    let mut words = vec![event["sequence_number"].to_string(), word(&event["type"])];
    if !event["output_index"].is_null() {
        words.push(event["output_index"].to_string());
    }
    for about in [&event["item"]["type"], &event["part"]["type"], &event["response"]["status"]] {
        if about.is_string() {
            words.push(word(about));
        }
    }
    if word(&event["type"]).ends_with("item.done") {
        words.push(word(&event["item"]["status"]));
    }
    for said in [&event["delta"], &event["text"], &event["arguments"]] {
        if said.is_string() {
            words.push(said.to_string());
        }
    }
    words.join(" ")
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[track_caller]
fn is_shown(background: bool, events: &[Event]) {
    let told = tell(&record(background, false), events);
    let lines = told.iter().map(line).collect::<Vec<_>>().join("\n");
    let page = include_str!("../../../../docs/responses.md");
    assert!(page.contains(&format!("```\n{lines}\n```\n")), "docs/responses.md does not show\n{lines}");
}

#[test]
fn the_page_shows_streams_as_they_are() {
    is_shown(false, &[started(), text("Good"), text(" morning"), ended(FinishReason::Stop), finished()]);
    let events = [
        started(),
        piece(Delta::Reasoning("Two cities.".into())),
        call(0),
        arguments(0, "{\"city\": "),
        arguments(0, "\"Paris\"}"),
        call(1),
        arguments(1, "{\"city\": \"Ro"),
        Event::Failed(Failure::new(ErrorKind::Unavailable, "the server is shutting down")),
    ];
    is_shown(true, &events);
}
