//! Response templates against transformers, answer by answer of `tests/fixtures/templates/responses.json`, and what is
//! ours: text that is no call, calls told while they are written, templates that are refused.

use std::sync::Arc;

use candlewick_protocol::Delta;
use proptest::prelude::*;
use serde_json::json;

use super::super::{Deltas, OutputFormat, response_parser};
use super::*;

/// What is told of an answer that comes in pieces; neighbouring deltas are joined.
fn told(template: &Arc<ResponseTemplate>, prompt: &str, tools: &Value, pieces: &[&str]) -> Vec<Delta> {
    let format = OutputFormat {
        parse_tool_calls: true,
        tools: tools.as_array().cloned().unwrap_or_default().into(),
        ..OutputFormat::default()
    };
    let mut parser = response_parser(template, template.prompt_tail(prompt), &format);
    let mut deltas = Deltas::default();
    for piece in pieces {
        deltas.extend(parser.push(piece));
    }
    deltas.extend(parser.finish());
    deltas.0
}

/// Deltas as a message of transformers' would hold them.
fn message(deltas: &[Delta]) -> Value {
    let (mut text, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::Text(more) => text += more,
            Delta::Reasoning(more) => reasoning += more,
            Delta::ToolCall { name, .. } => calls.push((name.clone(), String::new())),
            Delta::ToolArguments { index, fragment } => calls[*index as usize].1 += fragment,
        }
    }
    let calls: Vec<Value> = calls
        .into_iter()
        .map(|(name, text)| {
            let arguments: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("JSON: {text}"));
            json!({"type": "function", "function": {"name": name, "arguments": arguments}})
        })
        .collect();
    json!({"content": text, "reasoning": reasoning, "tool_calls": calls})
}

fn expected(message: &Value) -> Value {
    let text = |names: &[&str]| {
        let found = names.iter().find_map(|name| message[*name].as_str());
        found.unwrap_or_default().to_owned()
    };
    let reasoning = text(&["reasoning_content", "thinking", "reasoning"]);
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    json!({"content": text(&["content"]), "reasoning": reasoning, "tool_calls": calls})
}

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/templates/responses.json");
    serde_json::from_slice(&std::fs::read(path).expect("the fixture is there")).expect("JSON")
}

fn family(fixture: &Value, name: &str) -> (Arc<ResponseTemplate>, String) {
    let families = fixture["families"].as_array().expect("a list");
    let family = families.iter().find(|family| family["name"] == name).expect("it is there");
    let template = ResponseTemplate::new(&family["template"]).expect("it is good");
    (Arc::new(template), family["prompt"].as_str().expect("a text").to_owned())
}

#[test]
fn answers_are_read_as_in_transformers_however_they_are_cut() {
    let fixture = fixture();
    let tools = &fixture["tools"];
    for at in fixture["families"].as_array().expect("a list") {
        let name = at["name"].as_str().expect("a text");
        let (template, prompt) = family(&fixture, name);
        for case in at["cases"].as_array().expect("a list") {
            let answer = case["answer"].as_str().expect("a text");
            let whole = told(&template, &prompt, tools, &[answer]);
            assert_eq!(message(&whole), expected(&case["message"]), "{name}: {answer}");
            for (at, _) in answer.char_indices() {
                let cut = told(&template, &prompt, tools, &[&answer[..at], &answer[at..]]);
                assert_eq!(cut, whole, "{name}: {answer} cut at {at}");
            }
            let chars: Vec<String> = answer.chars().map(String::from).collect();
            let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
            assert_eq!(told(&template, &prompt, tools, &chars), whole, "{name}: {answer} by characters");
        }
    }
}

#[test]
fn markup_that_is_no_call_is_text() {
    let fixture = fixture();
    for (name, answer) in [
        ("hermes", "a\n<tool_call>{\"nam\": 1}</tool_call> b"),
        ("hermes", "a <tool_call>"),
        ("qwen xml", "</think>a <tool_call>\n<function=f>\n<parameter=city>\nOsl"),
        ("gemma", "<|tool_call>call:f[1]<tool_call|>"),
        ("lines", "a CALL f\nn = 3"),
        ("lists", "[TOOL_CALLS] [{\"name\": \"f\"}, 3]</s>"),
        ("lists", "[TOOL_CALLS] {\"name\": \"f\", \"arguments\": {}}</s>"),
    ] {
        let (template, prompt) = family(&fixture, name);
        let deltas = told(&template, &prompt, &fixture["tools"], &[answer]);
        let text = answer.strip_prefix("</think>").unwrap_or(answer);
        assert_eq!(message(&deltas), json!({"content": text, "reasoning": "", "tool_calls": []}), "{name}");
    }
}

#[test]
fn a_call_that_is_json_is_told_while_it_is_written() {
    let fixture = fixture();
    for (name, answer) in [
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"city\": \"Os"),
        ("gemma", "<|tool_call>call:f{city:<|\"|>Os"),
    ] {
        let (template, prompt) = family(&fixture, name);
        let mut parser = response_parser(
            &template,
            template.prompt_tail(&prompt),
            &OutputFormat { parse_tool_calls: true, ..OutputFormat::default() },
        );
        let deltas = parser.push(answer).0;
        let [Delta::ToolCall { name, .. }, Delta::ToolArguments { fragment, .. }] = deltas.as_slice() else {
            panic!("{deltas:?}")
        };
        assert_eq!((name.as_str(), fragment.as_str()), ("f", "{\"city\": \"Os"));
    }
}

#[test]
fn calls_are_text_where_no_tool_may_be_called() {
    let (template, prompt) = family(&fixture(), "hermes");
    let mut parser = response_parser(&template, template.prompt_tail(&prompt), &OutputFormat::default());
    let answer = "<think>a</think>\n<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let mut deltas = parser.push(answer);
    deltas.extend(parser.finish());
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    assert_eq!(message(&deltas.0), json!({"content": call, "reasoning": "a", "tool_calls": []}));
}

#[test]
fn a_template_that_cannot_be_used_says_why() {
    let refused = |template: Value| ResponseTemplate::new(&template).expect_err("it is refused");
    let with = |field: Value| json!({"start_anchor": "a", "fields": {"content": field}});
    assert!(refused(json!([])).contains("not an object"));
    assert!(refused(json!({"version": 2, "start_anchor": "a", "fields": {"a": {}}})).contains("only 1"));
    assert!(refused(json!({"fields": {"content": {}}})).contains("start_anchor"));
    assert!(refused(json!({"start_anchor": "a", "fields": {}})).contains("no fields"));
    assert!(refused(json!({"start_anchor": "a", "fields": {"a": {}, "b": {}}})).contains("more than one"));
    assert!(refused(with(json!({"opens": "x"}))).contains("`opens`"));
    assert!(refused(with(json!({"content": "yaml"}))).contains("`yaml`"));
    assert!(refused(with(json!({"open": ""}))).contains("`open`"));
    assert!(refused(with(json!({"open_pattern": "("}))).contains("content"));
    assert!(refused(with(json!({"open_pattern": "(?P<n>x)"}))).contains("transform"));
    assert!(refused(with(json!({"transform": {"a": "is {content}"}}))).contains("mixes"));
    assert!(refused(with(json!({"join": "x"}))).contains("repeats"));
}

#[test]
fn patterns_of_pythons_mean_the_same_here() {
    let check = |pattern: &str, text: &str, len: Option<usize>| {
        let delimiter = Delimiter::of_pattern(pattern).expect("it is a pattern");
        assert_eq!(delimiter.at(text, 0), len, "{pattern} at {text}");
        if let Some(automaton) = delimiter.automaton() {
            let chars = len.map(|len| text[..len].chars().count());
            let verdict = chars.map_or(Verdict::No, Verdict::Yes);
            assert_eq!(automaton.run(text.chars(), true), verdict, "{pattern} followed over {text}");
        }
    };
    check(r"call:\w+{", "call:f{x", Some(7));
    check(r"[^[]+", "ab[", Some(2));
    check(r"[]a]+", "a]b", Some(2));
    check(r"\<x\>\Z", "<x>", Some(3));
    check(r"\<x\>\Z", "<x>y", None);
    check(r"a{2}", "aaa", Some(2));
    check(r"a{", "a{", Some(2));
    check(r"a|ab", "ab", Some(1));
    check(r"ab|a", "ab", Some(2));
    check(r".", "\n", Some(1));
    check(r"é+$", "éé", Some(4));
}

proptest! {
    /// Made of the words of the templates, in any order: nothing breaks, and the cuts do not show.
    #[test]
    fn cuts_change_nothing(
        words in prop::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "\n", " ", "<tool_call>", "</tool_call>", "{\"name\": \"f\", \"arguments\": {\"n\": \"3\"}}",
            "<function=f>", "</function>", "<parameter=n>", "</parameter>", "3", "é🕯", "<|im_end|>", "<|tool_call>call:f",
            "{n:<|\"|>3<|\"|>}", "<tool_call|>", "<|channel>thought\n", "<channel|>", "CALL f\n", "n=3\n", "END", "[T]", "[/TT]",
            "[TOOL_CALLS]", "[", "]", "</s>", "think:", "answer:", ".", "!{", "}!", "\"",
        ]), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let fixture = fixture();
        let text = words.concat();
        let chars: Vec<char> = text.chars().collect();
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(chars.len() + 1)).collect();
        at.extend([0, chars.len()]);
        at.sort_unstable();
        let pieces: Vec<String> = at.windows(2).map(|pair| chars[pair[0]..pair[1]].iter().collect()).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        for at in fixture["families"].as_array().expect("a list") {
            let (template, prompt) = family(&fixture, at["name"].as_str().expect("a text"));
            let whole = told(&template, &prompt, &fixture["tools"], &[&text]);
            prop_assert_eq!(&whole, &told(&template, &prompt, &fixture["tools"], &pieces));
            prop_assert!(whole.iter().all(|delta| !delta.is_empty()));
        }
    }
}
