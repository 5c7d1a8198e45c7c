//! Each family's calls, forced and within text: whatever the grammar lets a model write, the family's parser reads.

use candlewick_protocol::{Delta, OutputForm, ToolChoice};
use serde_json::{Value, json};

use super::schemas::obeys;
use super::*;
use crate::text::tests::load_without_calls;

/// A parser's name, and marks that its models have as tokens, with whether they are special.
type Family = (&'static str, &'static [(&'static str, bool)]);

const FAMILIES: &[Family] = &[
    ("hermes", &[]),
    ("qwen3_coder", &[]),
    ("llama3_json", &[("<|python_tag|>", true)]),
    ("pythonic", &[]),
    ("lfm2", &[("<|tool_call_start|>", true), ("<|tool_call_end|>", true)]),
    ("mistral", &[("[TOOL_CALLS]", true)]),
    ("mistral", &[("[TOOL_CALLS]", true), ("[ARGS]", true), ("[CALL_ID]", true)]),
    ("gemma4", &[("<|tool_call>", true), ("<tool_call|>", true), ("<|\"|>", true)]),
    ("gemma4", &[]),
    (
        "deepseek_v31",
        &[
            ("<｜tool▁calls▁begin｜>", true),
            ("<｜tool▁calls▁end｜>", true),
            ("<｜tool▁call▁begin｜>", true),
            ("<｜tool▁call▁end｜>", true),
            ("<｜tool▁sep｜>", true),
        ],
    ),
    (
        "glm45",
        &[("<arg_key>", false), ("</arg_key>", false), ("<arg_value>", false), ("</arg_value>", false)],
    ),
    ("glm45", &[("<arg_key>", true), ("</arg_key>", true), ("<arg_value>", true), ("</arg_value>", true)]),
    ("phi4_mini_json", &[("<|tool_call|>", true), ("<|/tool_call|>", true)]),
    ("phi4_mini_json", &[]),
    ("granite", &[("<|tool_call|>", true)]),
    ("harmony", HARMONY),
];

const HARMONY: &[(&str, bool)] = &[
    ("<|channel|>", true),
    ("<|message|>", true),
    ("<|start|>", true),
    ("<|end|>", true),
    ("<|call|>", true),
    ("<|return|>", true),
    ("<|constrain|>", true),
];

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 5},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 12},
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
            "note": {"type": ["string", "null"], "maxLength": 3},
            "places": {"type": "array", "items": {"$ref": "#/$defs/place"}, "maxItems": 2},
            "fast": {"type": "boolean"},
        },
        "required": ["city", "days", "code"],
        "additionalProperties": false,
        "$defs": {"place": {"type": "object", "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
                            "required": ["x"], "additionalProperties": false}},
    })
}

fn tools(is_strict: bool) -> Vec<Value> {
    vec![
        json!({"type": "function", "function": {"name": "get_weather", "parameters": weather(), "strict": is_strict}}),
        json!({"type": "function", "function": {"name": "now"}}),
    ]
}

fn prompt(choice: ToolChoice, many: bool, is_strict: bool) -> Prompt {
    let tools = tools(is_strict);
    Prompt::Chat(ChatPrompt { tools, tool_choice: choice, parallel_tool_calls: many, ..chat() })
}

#[track_caller]
fn check_call(family: &str, (name, arguments): &(String, Value), written: &str) {
    match name.as_str() {
        "get_weather" => {
            let schema = weather();
            assert!(obeys(arguments, &schema, &schema), "{family}: {arguments} of {written}");
        }
        "now" => assert_eq!(*arguments, json!({}), "{family}: {written}"),
        other => panic!("{family}: {other} of {written}"),
    }
}

#[test]
fn a_call_that_must_come_comes_and_is_read_back() {
    for (family, marks) in FAMILIES {
        let processor = processor(Some(family), marks);
        for (choice, many) in [
            (ToolChoice::Required, false),
            (ToolChoice::Required, true),
            (ToolChoice::Function("get_weather".into()), true),
        ] {
            let is_named = choice != ToolChoice::Required;
            let (grammar, prepared) = compile(&processor, &prompt(choice, many, false), None)
                .unwrap_or_else(|e| panic!("{family}: {e}"));
            let mut num_ended = 0;
            for seed in 0..12 {
                let begin = if marks == &HARMONY { "<|channel|>commentary" } else { "" };
                let (output, ended) = walk(&processor, &grammar, begin, seed, 1500);
                let written = processor.told(&output);
                if !ended {
                    continue;
                }
                num_ended += 1;
                let deltas = read(&processor, &prepared, &output);
                let calls = calls_of(&deltas);
                assert!(!calls.is_empty() && (many && !is_named || calls.len() == 1), "{family}: {written}");
                assert_eq!(text_of(&deltas), "", "{family}: {written}");
                calls.iter().for_each(|call| check_call(family, call, &written));
                assert!(!is_named || calls[0].0 == "get_weather", "{family}: {written}");
            }
            assert!(num_ended > 6, "{family}: only {num_ended} came to an end");
        }
    }
}

#[test]
fn within_text_a_strict_call_is_held_from_its_mark_on() {
    let openings: &[(Family, &str)] = &[
        (FAMILIES[0], "Let me see.\n<tool_call>"),
        (FAMILIES[1], "Let me see.\n<tool_call>"),
        (FAMILIES[2], "{\"name\": \""),
        (FAMILIES[3], "[get_weather("),
        (FAMILIES[4], "Well.<|tool_call_start|>"),
        (FAMILIES[6], "Well.[TOOL_CALLS]"),
        (FAMILIES[7], "Well.<|tool_call>"),
        (FAMILIES[9], "Well.<｜tool▁calls▁begin｜>"),
        (FAMILIES[10], "Well.\n<tool_call>"),
        (FAMILIES[12], "Well.<|tool_call|>"),
        (FAMILIES[13], "Well. functools["),
        (FAMILIES[15], "<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>commentary"),
    ];
    for ((family, marks), opening) in openings {
        let processor = processor(Some(family), marks);
        let prompt = prompt(ToolChoice::Auto, false, true);
        let (grammar, prepared) =
            compile(&processor, &prompt, None).unwrap_or_else(|e| panic!("{family}: {e}"));
        let mut num_ended = 0;
        for seed in 0..8 {
            let (output, ended) = walk(&processor, &grammar, opening, seed, 1500);
            if ended {
                num_ended += 1;
                let calls = calls_of(&read(&processor, &prepared, &output));
                let written = processor.told(&output);
                assert_eq!(calls.len(), 1, "{family}: {written}");
                check_call(family, &calls[0], &written);
            }
        }
        assert!(num_ended > 3, "{family}: only {num_ended} came to an end");
        // Text without a call is as free as ever.
        let begin = if marks == &HARMONY { "<|channel|>final<|message|>No [x] {y" } else { "No [x] {y" };
        let (output, _) = walk(&processor, &grammar, begin, 1, processor.ids(begin).len() as u32);
        assert!(text_of(&read(&processor, &prepared, &output)).starts_with("No [x] {y"), "{family}");
    }
}

#[test]
fn tools_without_strict_leave_the_model_alone() {
    let processor = processor(Some("hermes"), &[]);
    let prompt = prompt(ToolChoice::Auto, true, false);
    let prepared = processor.prepare(&prompt).expect("good");
    assert!(processor.grammar(&prompt, None, &prepared).expect("good").is_none());
}

#[test]
fn beside_a_form_the_model_may_call_or_answer() {
    let processor = processor(Some("hermes"), &[]);
    let form = || Some(OutputForm::json(json!({"enum": [{"a": 1}]})));
    let (grammar, prepared) =
        compile(&processor, &prompt(ToolChoice::Auto, false, false), form()).expect("it compiles");
    let (output, ended) = walk(&processor, &grammar, "<think>Hm</think>\n\n<tool_call>", 4, 1500);
    let calls = calls_of(&read(&processor, &prepared, &output));
    assert!(ended && calls.len() == 1, "{}", processor.told(&output));
    let (output, ended) = walk(&processor, &grammar, "{", 4, 1500);
    let deltas = read(&processor, &prepared, &output);
    assert!(ended && calls_of(&deltas).is_empty());
    assert_eq!(serde_json::from_str::<Value>(&text_of(&deltas)).expect("JSON"), json!({"a": 1}));
}

#[test]
fn a_model_without_calls_of_its_own_can_be_made_to_call() {
    let processor = Arc::new(load_without_calls());
    let (grammar, prepared) =
        compile(&processor, &prompt(ToolChoice::Required, false, false), None).expect("it compiles");
    let (output, ended) = walk(&processor, &grammar, "{", 9, 1500);
    let calls = calls_of(&read(&processor, &prepared, &output));
    assert!(ended && calls.len() == 1, "{}", processor.told(&output));
    check_call("none", &calls[0], &processor.told(&output));
}

#[test]
fn the_final_channel_is_held_and_the_analysis_is_not() {
    let processor = processor(Some("harmony"), HARMONY);
    let form = OutputForm::Choice(vec!["yes".into(), "no".into()]);
    let (grammar, prepared) = compile(&processor, &Prompt::Chat(chat()), Some(form)).expect("it compiles");
    let begin = "<|channel|>analysis<|message|>Hm {<|end|><|start|>assistant<|channel|>final";
    let (output, ended) = walk(&processor, &grammar, begin, 3, 400);
    let deltas = read(&processor, &prepared, &output);
    assert!(ended && ["yes", "no"].contains(&text_of(&deltas).as_str()), "{}", processor.told(&output));
    assert!(deltas.contains(&Delta::Reasoning("H".into())), "{deltas:?}");
}

#[test]
fn strict_arguments_that_cannot_be_guaranteed_are_refused_and_others_are_not() {
    let with = |is_strict: bool| {
        let parameters =
            json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true}}});
        let tool = json!({"type": "function", "function": {"name": "f", "parameters": parameters, "strict": is_strict}});
        let chat = ChatPrompt { tools: vec![tool], tool_choice: ToolChoice::Required, ..chat() };
        compile(&processor(Some("hermes"), &[]), &Prompt::Chat(chat), None)
    };
    let failure = with(true).expect_err("it is refused");
    assert_eq!(failure.param.as_deref(), Some("tools.0.function.parameters.properties.a.uniqueItems"));
    with(false).expect("it is kept to as far as possible");
}
