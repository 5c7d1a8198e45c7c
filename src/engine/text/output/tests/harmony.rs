//! The channels of gpt-oss, and reasoning in tags other than `<think>`.

use super::*;

#[track_caller]
fn check(text: &str, has_tools: bool, expected: &str) {
    let read = |pieces: &[&str]| {
        let tools = has_tools.then_some(ToolSyntax::Harmony);
        let mut parser = parser(Some(ReasoningSyntax::Harmony), tools, &OutputFormat::default())
            .expect("there is something to parse");
        let mut deltas = Deltas::default();
        pieces.iter().for_each(|piece| deltas.extend(parser.push(piece)));
        deltas.extend(parser.finish());
        deltas.0
    };
    let whole = read(&[text]);
    assert_eq!(shown(&whole), expected);
    for (at, _) in text.char_indices() {
        assert_eq!(read(&[&text[..at], &text[at..]]), whole, "cut at {at}");
    }
}

#[test]
fn channels_are_told_apart() {
    check(
        "<|channel|>analysis<|message|>Think \"é\".<|end|><|start|>assistant<|channel|>final<|message|>Yes.\n<|return|>",
        false,
        "[Think \"é\".]Yes.\n",
    );
    check(
        "<|channel|>analysis<|message|>A<|end|><|start|>assistant<|channel|>analysis<|message|>B<|end|><|start|>assistant<|channel|>commentary<|message|>First,<|end|><|start|>assistant<|channel|>final<|message|>then",
        true,
        "[A\nB]First,\nthen",
    );
    check("no channels < at all", true, "no channels < at all");
    check("<|channel|>analysis<|message|>cut", true, "[cut]");
    check("<|channel|>analysis<|message|>cut<|end|><|start|>assis", true, "[cut]");
}

#[test]
fn messages_to_functions_are_calls() {
    check(
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|> {\"a\": \"<é>\"}\n<|call|>",
        true,
        "[Hm]#0 f({\"a\": \"<é>\"})",
    );
    check(
        " to=functions.f<|channel|>commentary json<|message|><|call|><|start|>assistant to=functions.g<|channel|>analysis<|message|>{\"n\": 1",
        true,
        "#0 f({})#1 g({\"n\": 1)",
    );
    check("<|channel|>commentary to=functions.f<|message|>{}<|call|>", false, "{}");
}

#[test]
fn a_header_without_end_is_text() {
    let text = format!("<|channel|>{}", "long ".repeat(60));
    check(&text, true, &text);
}

#[test]
fn other_tags_are_read_as_think_tags_are() {
    let known = |token: &str| {
        let tags = reasoning::KNOWN.iter().find(|tags| tags.token == token).expect("they are known");
        ReasoningSyntax::Tags(*tags)
    };
    let read = |token, text: &str| {
        shown(&run(Some(known(token)), ToolSyntax::Mistral, &OutputFormat::default(), &[text]))
    };
    assert_eq!(read("<|channel>", "<|channel>thought\nHm.\n<channel|>Yes."), "[Hm.]Yes.");
    assert_eq!(read("<|channel>", "<|channel>thought\n<channel|>Yes."), "Yes.");
    assert_eq!(read("<|channel>", "<|channel>thought\nHm.\n<|tool_call>"), "[Hm.]<|tool_call>");
    assert_eq!(read("[THINK]", "[THINK]Hm.[/THINK]\nYes.[TOOL_CALLS]f[ARGS]{}"), "[Hm.]Yes.#0 f({})");
}
