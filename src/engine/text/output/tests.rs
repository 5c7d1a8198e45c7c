//! The parsers on text alone: what is told, and that the cuts between pieces change nothing.

mod choice;
mod families;
mod harmony;

use candlewick_protocol::Delta;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const THINK: ReasoningSyntax = {
    let open = "<think>";
    ReasoningSyntax::Tags(reasoning::Tags { open, close: "</think>", token: open, next: None })
};

/// Runs a parser over pieces of text; neighbouring deltas are joined.
fn run(
    reasoning: Option<ReasoningSyntax>,
    tools: ToolSyntax,
    format: &OutputFormat,
    pieces: &[&str],
) -> Vec<Delta> {
    let mut parser = parser(reasoning, Some(tools), format).expect("there is something to parse");
    let mut deltas = Deltas::default();
    for piece in pieces {
        deltas.extend(parser.push(piece));
    }
    deltas.extend(parser.finish());
    deltas.0
}

/// Think tags and Hermes's calls.
fn parse(pieces: &[&str], starts_inside: bool) -> Vec<Delta> {
    let format =
        OutputFormat { starts_in_reasoning: starts_inside, call_id_seed: 7, ..OutputFormat::default() };
    run(Some(THINK), ToolSyntax::Hermes, &format, pieces)
}

/// Calls as `name(arguments)`, reasoning in brackets, text as it is.
fn shown(deltas: &[Delta]) -> String {
    let mut shown = String::new();
    for delta in deltas {
        match delta {
            Delta::Text(text) => shown += text,
            Delta::Reasoning(text) => shown += &format!("[{text}]"),
            Delta::ToolCall { index, name, .. } => shown += &format!("#{index} {name}"),
            Delta::ToolArguments { fragment, .. } => shown += &format!("({fragment})"),
        }
    }
    shown
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(shown(&parse(&[text], false)), expected);
    let chars: Vec<String> = text.chars().map(String::from).collect();
    let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
    assert_eq!(shown(&parse(&chars, false)), expected, "character by character");
}

#[test]
fn reasoning_loses_its_tags_and_the_line_ends_around_them() {
    check("<think>\nHm.\nYes.\n</think>\n\nFine.\n", "[Hm.\nYes.]Fine.\n");
    check("<think>\n\n</think>\n\nFine.", "Fine.");
    check("  <think>a < b </think> c", "[a < b ] c");
    check("<think>cut off\n", "[cut off\n]");
    check("No <think>tag</think> here", "No <think>tag</think> here");
    check("<thin air", "<thin air");
    assert_eq!(shown(&parse(&["\nHm.</think>So"], true)), "[Hm.]So");
}

#[test]
fn calls_are_read_in_either_order_of_keys_and_as_often_as_they_come() {
    check(
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}\\\"</tool_call>\"}}\n</tool_call>",
        "#0 f({\"a\": \"}\\\"</tool_call>\"})",
    );
    check(
        "Look:\n\n<tool_call>{\"arguments\": {\"b\": [1]}, \"name\": \"g\"}</tool_call>\n<tool_call>{\"name\":\"h\",\"arguments\":{}}</tool_call>\n done ",
        "Look:#0 g({\"b\": [1]})#1 h({})done ",
    );
}

#[test]
fn arguments_that_are_no_object_become_one_where_they_can() {
    check("<tool_call>{\"name\": \"f\"}</tool_call>", "#0 f({})");
    check("<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call>", "#0 f({})");
    check("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>", "#0 f({\"a\": 1})");
    check(
        "<tool_call>{\"name\": \"f\", \"parameters\": {\"a\": 1}, \"x\": [2]}</tool_call>",
        "#0 f({\"a\": 1})",
    );
}

#[test]
fn small_slips_of_the_model_are_forgiven() {
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>", "#0 f({\"a\": 1})");
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}}\n</tool_call>", "#0 f({\"a\": 1})");
}

#[test]
fn what_is_no_call_stays_text() {
    for text in [
        "<tool_call>\nnot json\n</tool_call>",
        "a <tool_call> b",
        "<tool_call>{\"name\": 1}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{\"nam",
        "x\n<tool_cal",
        "<tool_call></tool_call>",
        "trailing \n",
    ] {
        check(text, text);
    }
    check("<tool_call>\n<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>\n#0 f({})");
}

#[test]
fn a_call_that_breaks_off_is_closed_as_it_is() {
    check("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"b", "#0 f({\"a\": \"b)");
    check("<tool_call>{\"name\": \"f\", \"argu", "#0 f({})");
    check("<tool_call>{\"name\": \"f\"; oops}</tool_call>", "#0 f({}); oops}</tool_call>");
    check(
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": ]}</tool_call>",
        "#0 f({\"a\": )]}</tool_call>",
    );
}

#[test]
fn the_name_is_told_before_the_arguments_are_complete() {
    let mut parser =
        parser(None, Some(ToolSyntax::Hermes), &OutputFormat::default()).expect("there are calls to parse");
    let mut deltas = parser.push("<tool_call>{\"name\": \"f\"");
    assert_eq!(shown(&deltas.0), "#0 f");
    deltas.extend(parser.push(", \"arguments\": {\"a\""));
    assert_eq!(shown(&deltas.0), "#0 f({\"a\")");
}

#[test]
fn call_ids_are_distinct_and_come_again_with_the_seed() {
    let ids = |seed| {
        let format = OutputFormat { call_id_seed: seed, ..OutputFormat::default() };
        let text = "<tool_call>{\"name\": \"f\"}</tool_call>".repeat(2);
        let deltas = run(None, ToolSyntax::Hermes, &format, &[&text]);
        let id = |delta: &Delta| if let Delta::ToolCall { id, .. } = delta { Some(id.clone()) } else { None };
        deltas.iter().filter_map(id).collect::<Vec<String>>()
    };
    let first = ids(1);
    assert_eq!(first, ids(1));
    assert!(first[0] != first[1] && !ids(2).contains(&first[0]));
    assert!(
        first[0]
            .strip_prefix("call_")
            .is_some_and(|hex| hex.len() == 24 && hex.chars().all(|char| char.is_ascii_hexdigit()))
    );
}

proptest! {
    #[test]
    fn cutting_an_output_in_pieces_changes_nothing(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\": \"f\"", ", \"arguments\": {\"a\": [1, \"<é\"]}",
            "{\"arguments\": {\"b\": {}}", ", \"name\": \"g\"", "}", "\n", " ", "text", "<", "\"", "</", "é", "\"arguments\": \"{}\"", ",",
        ]), 0..14),
        starts_inside in any::<bool>(),
    ) {
        let whole = parts.concat();
        let chars: Vec<String> = whole.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        let expected = parse(&[&whole], starts_inside);
        prop_assert_eq!(&parse(&chars, starts_inside), &expected);
        prop_assert_eq!(&parse(&parts, starts_inside), &expected);
    }
}

proptest! {
    /// Of the marks of all families, in any order: no parser breaks, the cuts do not show, and calls are numbered.
    #[test]
    fn no_parser_shows_where_its_text_was_cut(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\": \"f\", ", "\"arguments\": {\"n\": \"3\"}}", "[", "]", "f",
            "\"parameters\": {}}", "<function=f>", "<parameter=n>", "</parameter>", "</function>", "<arg_key>", "</arg_key>",
            "<arg_value>", "</arg_value>", "[TOOL_CALLS]", "[ARGS]", "{\"n\": \"x\"}", "<|tool_call>call:f{", "n:<|\"|>3<|\"|>", "}",
            "<tool_call|>", "<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|start|>assistant", " to=functions.f",
            "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<|tool_call|>", "functools",
            "<|python_tag|>", "[f(n='3', x=None)]", "\n", " ", "é🕯", "3", "<",
        ]), 0..12),
        index in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let names: Vec<&str> = tool_call_parsers().collect();
        let name = names[index.index(names.len())];
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let tools = [json!({"type": "function", "function": {"name": "f", "parameters": schema}})];
        let text = parts.concat();
        let chars: Vec<char> = text.chars().collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
        at.extend([0, chars.len()]);
        at.sort_unstable();
        let pieces: Vec<String> = at.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let whole = read_with_parser(name, &tools, &[&text]).expect("it is known");
        prop_assert_eq!(&read_with_parser(name, &tools, &pieces).expect("it is known"), &whole, "{}", name);
        let mut num_calls = 0;
        for delta in &whole {
            prop_assert!(!delta.is_empty());
            match delta {
                Delta::ToolCall { index, .. } => {
                    prop_assert_eq!(*index, num_calls);
                    num_calls += 1;
                }
                Delta::ToolArguments { index, .. } => prop_assert!(*index < num_calls),
                Delta::Text(_) | Delta::Reasoning(_) => {}
            }
        }
    }
}
