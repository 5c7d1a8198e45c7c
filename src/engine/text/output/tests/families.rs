//! Each family's markup: what is told of whole, cut and malformed calls, however the text arrives.

use serde_json::json;

use super::*;

fn tools() -> Arc<[Value]> {
    let properties = json!({
        "city": {"type": "string"}, "n": {"type": "integer"}, "x": {"type": ["number", "null"]}, "on": {"type": "boolean"},
        "o": {"type": "object"}, "l": {"anyOf": [{"type": "array"}, {"type": "string"}]}, "r": {"$ref": "#/$defs/R"},
        "e": {"enum": [1, 2]},
    });
    let parameters = json!({"type": "object", "properties": properties, "$defs": {"R": {"type": "object"}}});
    let flat =
        json!({"type": "function", "name": "g", "parameters": {"properties": {"k": {"type": "integer"}}}});
    [json!({"type": "function", "function": {"name": "f", "parameters": parameters}}), flat].into()
}

fn told(syntax: ToolSyntax, pieces: &[&str]) -> Vec<Delta> {
    let format = OutputFormat { tools: tools(), ..OutputFormat::default() };
    run(None, syntax, &format, pieces)
}

/// Holds for the text in one piece, cut anywhere in two, and character by character.
#[track_caller]
fn check(syntax: ToolSyntax, text: &str, expected: &str) {
    let whole = told(syntax, &[text]);
    assert_eq!(shown(&whole), expected);
    for (at, _) in text.char_indices() {
        assert_eq!(told(syntax, &[&text[..at], &text[at..]]), whole, "cut at {at}");
    }
    let chars: Vec<String> = text.chars().map(String::from).collect();
    let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
    assert_eq!(told(syntax, &chars), whole, "character by character");
    assert!(whole.iter().all(|delta| !delta.is_empty()));
}

/// What is no call is text, to the byte.
#[track_caller]
fn check_text(syntax: ToolSyntax, texts: &[&str]) {
    for text in texts {
        check(syntax, text, text);
    }
}

/// Each beginning of a text that ends in the middle of a call is told without loss of the name.
#[track_caller]
fn check_cuts(syntax: ToolSyntax, text: &str) {
    for (at, _) in text.char_indices() {
        let deltas = told(syntax, &[&text[..at]]);
        let is_call = deltas.iter().any(|delta| matches!(delta, Delta::ToolCall { .. }));
        let words: String = deltas
            .iter()
            .filter_map(|delta| if let Delta::Text(text) = delta { Some(text.as_str()) } else { None })
            .collect();
        assert!(is_call || words == text[..at], "cut at {at}: {words:?}");
    }
}

#[test]
fn qwen_writes_values_on_lines_and_the_schema_types_them() {
    let syntax = ToolSyntax::QwenXml;
    check(
        syntax,
        "Let me see.\n\n<tool_call>\n<function=f>\n<parameter=city>\nSão \"Paulo\"\n\n</parameter>\n<parameter=n>\n3\n</parameter>\n<parameter=x>\nnull\n</parameter>\n<parameter=on>\nTrue\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n</tool_call>",
        "Let me see.#0 f({\"city\": \"São \\\"Paulo\\\"\\n\", \"n\": 3, \"x\": null, \"on\": true})#1 g({})",
    );
    check(
        syntax,
        "<tool_call>\n<function=f>\n<parameter=o>\n{\"a\": [1, \"é\"]}\n</parameter>\n<parameter=l>\nplain\n</parameter>\n<parameter=r>\n{}\n</parameter>\n<parameter=e>\n2\n</parameter>\n<parameter=x>\n1.50\n</parameter>\n<parameter=n>\nthree\n</parameter>\n</function>\n</tool_call>",
        "#0 f({\"o\": {\"a\": [1, \"é\"]}, \"l\": \"plain\", \"r\": {}, \"e\": 2, \"x\": 1.50, \"n\": \"three\"})",
    );
    // Without the outer mark, without the ends of values, for a tool that nobody told of.
    check(
        syntax,
        "<function=h><parameter=a>1\n<parameter=b>\nx<y</parameter>\n</function> done",
        "#0 h({\"a\": \"1\", \"b\": \"x<y\"})done",
    );
    check(
        syntax,
        "<tool_call><function=f><parameter=city>\na</function>b\n</parameter></function>",
        "#0 f({\"city\": \"a</function>b\"})",
    );
    check(syntax, "<tool_call><function=f>oops</tool_call>", "#0 f({})oops</tool_call>");
    check_text(
        syntax,
        &[
            "<tool_call>\n{\"name\": \"f\"}\n</tool_call>",
            "a <function",
            "<function=>",
            "<tool_call> <functio",
        ],
    );
    check_cuts(
        syntax,
        "<tool_call>\n<function=f>\n<parameter=city>\nParis\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>",
    );
    check(syntax, "<tool_call>\n<function=f>\n<parameter=city>\nPar", "#0 f({\"city\": \"Par)");
    check(syntax, "<tool_call>\n<function=f>\n<parameter=n>\n12\n</para", "#0 f({\"n\": 12)");
}

#[test]
fn strings_are_told_while_they_are_written() {
    let format = OutputFormat { tools: tools(), ..OutputFormat::default() };
    let mut parser = parser(None, Some(ToolSyntax::QwenXml), &format).expect("there are calls to parse");
    let mut seen = String::new();
    for piece in ["<tool_call>\n<function=f>", "\n<parameter=city>\nNew", " York", "\n</parameter>"] {
        seen += &format!("{}|", shown(&parser.push(piece).0));
    }
    assert_eq!(seen, "#0 f|({\"city\": \"New)|( York)|(\")|");
}

#[test]
fn glm_writes_keys_and_values_in_tags() {
    let syntax = ToolSyntax::Glm;
    check(
        syntax,
        "Hm.\n<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Paris\n</arg_value>\n<arg_key>n</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n<tool_call>g</tool_call>",
        "Hm.#0 f({\"city\": \"Paris\\n\", \"n\": 2})#1 g({})",
    );
    check(
        syntax,
        "<tool_call>g<arg_key>k</arg_key><arg_value>07</arg_value></tool_call>",
        "#0 g({\"k\": 7})",
    );
    check(
        syntax,
        "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>2</arg_value>\n<arg_key>ci",
        "#0 f({\"n\": 2})",
    );
    check(syntax, "<tool_call>g\n<arg_key>k</arg_key>\noops", "#0 g({})oops");
    check_text(syntax, &["<tool_call>{\"name\": \"f\"}</tool_call>", "<tool_call>f and more", "<tool_call>"]);
    check_cuts(syntax, "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>");
}

#[test]
fn llama_writes_json_with_or_without_a_tag() {
    let syntax = ToolSyntax::LlamaJson;
    check(
        syntax,
        "\n{\"name\": \"f\", \"parameters\": {\"city\": \"Paris\"}}",
        "#0 f({\"city\": \"Paris\"})",
    );
    check(
        syntax,
        "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}; {\"name\": \"other\", \"arguments\": {\"a\": \";\"}}",
        "#0 f({})#1 other({\"a\": \";\"})",
    );
    check(syntax, "So: <|python_tag|>{\"name\": \"f\", \"parameters\": {\"n\": 1}", "So:#0 f({\"n\": 1})");
    check(syntax, "{\"name\": \"f\", \"parameters\": {}} and then", "#0 f({})and then");
    // An answer in JSON is an answer.
    check_text(
        syntax,
        &[
            "{\"name\": \"Ada\", \"age\": 36}",
            " {\"city\": \"Paris\"}",
            "{}",
            "  plain",
            "<|python_tag|>f.call(x=1)",
            "{\"nam",
        ],
    );
    check_cuts(syntax, "{\"name\": \"f\", \"parameters\": {\"city\": \"Paris\"}}");
}

#[test]
fn llama_writes_python_too() {
    let syntax = ToolSyntax::Pythonic;
    check(
        syntax,
        "[f(city=\"Pa\\\"r\\u0069s\", n=-3, x=None, on=True), g()]",
        "#0 f({\"city\": \"Pa\\\"ris\", \"n\": -3, \"x\": null, \"on\": true})#1 g({})",
    );
    check(
        syntax,
        "<|python_start|>[f(o={'a': (1, 2.5e3), \"b\": [ ]}, l=['x', word], x=1_000)]<|python_end|>",
        "#0 f({\"o\": {\"a\": [1, 2.5e3], \"b\": []}, \"l\": [\"x\", \"word\"], \"x\": 1000})",
    );
    check(syntax, "Ok.<|tool_call_start|>[f(n=+7)]<|tool_call_end|>Bye", "Ok.#0 f({\"n\": 7})Bye");
    check(syntax, "[f(city='''it's\n''',)] Done.", "#0 f({\"city\": \"it's\\n\"})Done.");
    check(syntax, "[f(city='\\ud83d\\ude00 \\q \\\n')]", "#0 f({\"city\": \"😀 \\\\q \"})");
    check_text(
        syntax,
        &["[1, 2]", " [f](url)", "[unknown(a=1)]", "[f(1)]", "[", "f(city='x')", "[f(city", "[]"],
    );
    check(syntax, "[f(city='a' n=1)]", "#0 f({\"city\": \"a\")n=1)]");
    check_cuts(syntax, "[f(city=\"Paris\", n=3)]");
}

#[test]
fn mistral_writes_an_array_or_name_and_arguments() {
    let syntax = ToolSyntax::Mistral;
    check(
        syntax,
        "Sure. [TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"city\": \"[TOOL_CALLS]\"}, \"id\": \"abc\"}, {\"name\": \"g\", \"arguments\": {}}]",
        "Sure.#0 f({\"city\": \"[TOOL_CALLS]\"})#1 g({})",
    );
    check(
        syntax,
        "[TOOL_CALLS]f[ARGS]{\"n\": 1}[TOOL_CALLS]g[CALL_ID]a1B2c3D4e[ARGS]{}[TOOL_CALLS]h{\"a\": \"é\"}",
        "#0 f({\"n\": 1})#1 g({})#2 h({\"a\": \"é\"})",
    );
    check(syntax, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, oops] text", "#0 f({}) oops] text");
    check_text(syntax, &["[TOOL_CALLS] hm", "[TOOL_CALLS][1]", "[TOOL", "[TOOL_CALLS]f[ARG"]);
    check_cuts(syntax, "[TOOL_CALLS]f[ARGS]{\"n\": 1}");
}

#[test]
fn gemma_writes_keys_without_quotes() {
    let syntax = ToolSyntax::Gemma;
    check(
        syntax,
        "On it.\n<|tool_call>call:f{city:<|\"|>San \"Juan\" \\ {x}<|\"|>,n:3,on:false,o:{a:[<|\"|>é<|\"|>,null,1.5],b:{}}}<tool_call|><|tool_call>call:g{}<tool_call|>",
        "On it.#0 f({\"city\": \"San \\\"Juan\\\" \\\\ {x}\", \"n\": 3, \"on\": false, \"o\": {\"a\": [\"é\", null, 1.5], \"b\": {}}})#1 g({})",
    );
    check(
        syntax,
        "<|tool_call>call:f{\"city\": \"a\\nb\", l: bare words}<tool_call|>x",
        "#0 f({\"city\": \"a\\nb\", \"l\": \"bare words\"})x",
    );
    check_text(syntax, &["<|tool_call>call:f(x)", "<|tool_call>", "<|tool", "<|tool_call>call:f{x}"]);
    check_cuts(syntax, "<|tool_call>call:f{city:<|\"|>Paris<|\"|>,n:3}<tool_call|>");
}

#[test]
fn deepseek_writes_names_and_arguments_in_either_form() {
    let syntax = ToolSyntax::DeepSeek;
    check(
        syntax,
        "Ok.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"city\": \"巴黎\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Ok.#0 f({\"city\": \"巴黎\"})#1 g({})",
    );
    check(
        syntax,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"n\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>Bye",
        "#0 f({\"n\": 1})#1 g({})Bye",
    );
    check_text(
        syntax,
        &[
            "<｜tool▁calls▁begin｜>x",
            "<｜tool▁call▁begin｜>f",
            "<｜tool▁calls",
            "<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>",
        ],
    );
    check_cuts(
        syntax,
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"n\": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    );
}

#[test]
fn phi_writes_an_array_behind_its_tag_or_a_word() {
    let syntax = ToolSyntax::Phi;
    check(
        syntax,
        "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}, {\"name\": \"g\", \"parameters\": {}}]<|/tool_call|>",
        "#0 f({\"n\": 1})#1 g({})",
    );
    check(syntax, "Yes: functools[{\"name\": \"f\", \"arguments\": {}}] ok", "Yes:#0 f({})ok");
    check_text(syntax, &["import functools\nfunctools.reduce", "<|tool_call|>", "functools[0]"]);
    check_cuts(syntax, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}]<|/tool_call|>");
}

#[test]
fn values_take_the_first_type_that_fits() {
    let parameters = json!({"properties": {
        "n": {"type": "integer"}, "x": {"type": "number"}, "b": {"type": "boolean"}, "s": {"type": ["string", "null"]},
        "m": {"anyOf": [{"type": "number"}, {"type": "object"}]}, "z": {"type": "string", "nullable": true},
        "d": {"allOf": [{"$ref": "#/properties/n"}]},
    }});
    let cast = |name: &str, text: &str| schema::Types::of(Some(&parameters), name).cast(text);
    assert_eq!(cast("n", " 3.0 "), "3");
    assert_eq!(cast("n", "3.5"), "\"3.5\"");
    assert_eq!(cast("n", "-12345678901234567890123"), "-12345678901234567890123");
    assert_eq!(["1e3", "nan", ".5"].map(|text| cast("x", text)), ["1e3", "\"nan\"", "0.5"]);
    assert_eq!(["TRUE", "0", "yes"].map(|text| cast("b", text)), ["true", "false", "\"yes\""]);
    assert_eq!(["None", "a\tb"].map(|text| cast("s", text)), ["null", "\"a\\tb\""]);
    assert_eq!(["{\"a\": 1}", "[1]"].map(|text| cast("m", text)), ["{\"a\": 1}", "\"[1]\""]);
    assert_eq!(
        (cast("z", "null"), cast("d", "4"), cast("unknown", "4")),
        ("null".into(), "4".into(), "\"4\"".into())
    );
}

/// Pieces of a family's markup, and of what may stand between them.
fn soup(syntax: ToolSyntax) -> Vec<&'static str> {
    let own: &[&str] = match syntax {
        ToolSyntax::Hermes => &["{\"name\": \"f\"", ", \"arguments\": {\"n\": [1]}", "}"],
        ToolSyntax::QwenXml => {
            &["<function=f>", "<parameter=city>", "<parameter=n>", "</parameter>", "</function>", "\n"]
        }
        ToolSyntax::Glm => &["f", "city", "n"],
        ToolSyntax::LlamaJson => &["{\"name\": \"f\"", ", \"parameters\": {\"n\": 1}", "}", ";"],
        ToolSyntax::Pythonic => &["[", "f(", "city=", "'a\\", "'", ")", ",", "]", "{", "}", ":"],
        ToolSyntax::Mistral | ToolSyntax::Phi => {
            &["[", "{\"name\": \"f\"", ", \"arguments\": {\"n\": 1}", "}", "]", ",", "f", "{", "functools"]
        }
        ToolSyntax::Gemma => &["call:f{", "city:", "{", "}", ",", "[", "]", "n:3"],
        ToolSyntax::Harmony => {
            &["assistant", "analysis", "final", "commentary", " to=functions.f", "{\"n\": 1}"]
        }
        ToolSyntax::DeepSeek => &["f", "function", "\n```json\n", "{\"n\": 1}", "```"],
    };
    let common = [" ", "\n", "é", "text", "<", "3", "\"", "[", "{"];
    syntax.marks().iter().chain(own).copied().chain(common).collect()
}

const ALL: [ToolSyntax; 10] = [
    ToolSyntax::Hermes,
    ToolSyntax::QwenXml,
    ToolSyntax::LlamaJson,
    ToolSyntax::Pythonic,
    ToolSyntax::Mistral,
    ToolSyntax::Gemma,
    ToolSyntax::Harmony,
    ToolSyntax::DeepSeek,
    ToolSyntax::Glm,
    ToolSyntax::Phi,
];

proptest! {
    #[test]
    fn cutting_any_family_s_output_changes_nothing(
        syntax in prop::sample::select(ALL.to_vec()),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let soup = soup(syntax);
        let parts: Vec<&str> = picks.iter().map(|pick| soup[pick.index(soup.len())]).collect();
        let whole = parts.concat();
        let expected = told(syntax, &[&whole]);
        prop_assert_eq!(&told(syntax, &parts), &expected);
        let chars: Vec<String> = whole.chars().map(String::from).collect();
        let chars: Vec<&str> = chars.iter().map(String::as_str).collect();
        prop_assert_eq!(&told(syntax, &chars), &expected);
        // Calls are numbered as they come, arguments belong to the last of them, and nothing is told empty.
        let mut num_calls = 0;
        for delta in &expected {
            prop_assert!(!delta.is_empty());
            match delta {
                Delta::ToolCall { index, name, .. } => {
                    prop_assert!(*index == num_calls && !name.is_empty());
                    num_calls += 1;
                }
                Delta::ToolArguments { index, .. } => prop_assert_eq!(*index + 1, num_calls),
                _ => {}
            }
        }
        if num_calls == 0 && syntax != ToolSyntax::Harmony {
            prop_assert_eq!(shown(&expected), whole);
        }
    }
}
