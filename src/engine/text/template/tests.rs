//! Templates against transformers, pair by pair of `tests/fixtures/templates`, and what is ours: refusals and limits.

use candlewick_protocol::{ChatPrompt, Content, ContentPart, ErrorKind, Message, ToolCall};
use serde_json::{Map, Value};

use super::content::ContentFormat;
use super::*;

fn message(value: &Value) -> Message {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let calls = value["tool_calls"].as_array().into_iter().flatten();
    let part = |part: &Value| ContentPart::Text { text: part["text"].as_str().expect("a text part").into() };
    Message {
        role: text("role").expect("a role"),
        content: match &value["content"] {
            Value::Array(parts) => Some(Content::Parts(parts.iter().map(part).collect())),
            content => content.as_str().map(|text| Content::Text(text.into())),
        },
        name: text("name"),
        reasoning_content: text("reasoning_content"),
        tool_calls: calls
            .map(|call| ToolCall {
                id: call["id"].as_str().unwrap_or_default().into(),
                name: call["function"]["name"].as_str().expect("a name").into(),
                arguments: call["function"]["arguments"].clone(),
            })
            .collect(),
        tool_call_id: text("tool_call_id"),
    }
}

fn chat(conversation: &Value) -> ChatPrompt {
    ChatPrompt {
        messages: conversation["messages"].as_array().expect("a list").iter().map(message).collect(),
        tools: conversation["tools"].as_array().cloned().unwrap_or_default(),
        documents: conversation["documents"].as_array().cloned(),
        template_kwargs: conversation["kwargs"].as_object().cloned().unwrap_or_default(),
        add_generation_prompt: conversation["add_generation_prompt"].as_bool().unwrap_or(true),
        continue_final_message: conversation["continue"].as_bool().unwrap_or(false),
        drop_oldest_to_fit: false,
        ..ChatPrompt::default()
    }
}

fn has_parts(conversation: &Value) -> bool {
    conversation["messages"]
        .as_array()
        .is_some_and(|messages| messages.iter().any(|message| message["content"].is_array()))
}

#[test]
fn templates_render_as_in_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/templates/cases.json");
    let cases: Value =
        serde_json::from_slice(&std::fs::read(path).expect("the fixture is there")).expect("JSON");
    let variables = cases["variables"].as_object().expect("an object");
    let mut num_equal = 0;
    let mut wrong = Vec::new();
    for (name, source) in cases["templates"].as_object().expect("an object") {
        let source = source.as_str().expect("a text");
        let templates = ChatTemplates::of_option(source).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (key, conversation) in cases["conversations"].as_object().expect("an object") {
            let Some(expected) = cases["expected"][name][key].as_str() else { continue };
            // Here we do more than transformers, on purpose: parts are joined for templates that take text, and text
            // becomes a part for templates that take only parts.
            match content::detect(source) {
                ContentFormat::Text if has_parts(conversation) => continue,
                ContentFormat::Parts { accepts_text: false } if !has_parts(conversation) => continue,
                _ => {}
            }
            match templates.render(&chat(conversation), variables.clone()) {
                Ok(rendered) if rendered == expected => num_equal += 1,
                Ok(rendered) => {
                    wrong.push(format!("{name}/{key}:\n  ours   {rendered:?}\n  theirs {expected:?}"))
                }
                Err(failure) => wrong.push(format!("{name}/{key}: {failure}\n  theirs {expected:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong, {num_equal} equal\n{}", wrong.len(), wrong.join("\n"));
    assert!(num_equal > 200, "only {num_equal} cases were compared");
}

fn hello() -> ChatPrompt {
    ChatPrompt {
        messages: vec![Message {
            role: "user".into(),
            content: Some(Content::Text("Hi".into())),
            ..Message::default()
        }],
        add_generation_prompt: true,
        ..ChatPrompt::default()
    }
}

fn render(source: &str, prompt: &ChatPrompt) -> Result<String, Failure> {
    ChatTemplates::of_option(source).expect("the template parses").render(prompt, Map::new())
}

#[test]
fn what_a_template_raises_is_told_in_its_own_words() {
    let source = "{% macro check(m) %}{{ raise_exception('Only ' ~ m.role ~ 's, please') }}{% endmacro %}{{ check(messages[0]) }}";
    let failure = render(source, &hello()).expect_err("it raises");
    assert_eq!(failure.kind, ErrorKind::InvalidRequest);
    assert_eq!(failure.param.as_deref(), Some("messages"));
    assert_eq!(failure.message, "the model's chat template refuses this conversation: Only users, please");
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    let source = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    let failure = render(source, &hello()).expect_err("it runs out of fuel");
    assert!(failure.message.contains("too long"), "{failure}");
    let source = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    render(source, &hello()).expect_err("it recurses too deeply");
}

#[test]
fn a_template_that_breaks_the_engine_fails_one_request() {
    // Once minijinja survives this, `catch_unwind` in `run` may go.
    let failure = render("{{ ''[::-1] }}", &hello()).expect_err("it breaks");
    assert_eq!(failure.param.as_deref(), Some("messages"));
}

#[test]
fn a_template_reaches_no_file() {
    render("{% include '/etc/passwd' %}", &hello()).expect_err("there is nothing to include");
}

#[test]
fn parts_are_joined_for_a_template_that_takes_text() {
    let parts = ["one", "two"].map(|text| ContentPart::Text { text: text.into() });
    let mut prompt = hello();
    prompt.messages[0].content = Some(Content::Parts(parts.into()));
    assert_eq!(render("{% for m in messages %}{{ m.content }}{% endfor %}", &prompt), Ok("one\ntwo".into()));
    let listing =
        "{% for m in messages %}{% for p in m.content %}[{{ p.type }} {{ p.text }}]{% endfor %}{% endfor %}";
    assert_eq!(render(listing, &prompt), Ok("[text one][text two]".into()));
    assert_eq!(render(listing, &hello()), Ok("[text Hi]".into()));
}

#[test]
fn a_developer_is_the_system_to_a_template_that_knows_no_developer() {
    let mut prompt = hello();
    prompt.messages[0].role = "developer".into();
    assert_eq!(render("{{ messages[0].role }}", &prompt), Ok("system".into()));
    let knowing = "{% if messages[0].role == 'developer' %}it is{% endif %}";
    assert_eq!(render(knowing, &prompt), Ok("it is".into()));
}

#[test]
fn a_request_s_variables_win_over_the_server_s() {
    let templates = ChatTemplates::of_option("{{ a }}{{ b }}").expect("it parses");
    let server = json!({"a": 1, "b": 1}).as_object().expect("an object").clone();
    let mut prompt = hello();
    prompt.template_kwargs.insert("b".into(), json!(2));
    assert_eq!(templates.render(&prompt, server), Ok("12".into()));
}

#[test]
fn named_templates_are_chosen_by_what_the_request_brings() {
    let named = |names: &[&str]| {
        let found = names.iter().map(|name| (name.to_string(), format!("by {name}"))).collect();
        ChatTemplates::new(found)
    };
    let with_tools = ChatPrompt { tools: vec![json!({})], ..hello() };
    let with_documents = ChatPrompt { documents: Some(Vec::new()), ..hello() };
    let templates = named(&["default", "tool_use", "rag"]);
    for (prompt, expected) in
        [(&hello(), "by default"), (&with_tools, "by tool_use"), (&with_documents, "by rag")]
    {
        assert_eq!(templates.render(prompt, Map::new()), Ok(expected.into()));
    }
    let failure =
        named(&["tool_use", "rag"]).render(&hello(), Map::new()).expect_err("none is for conversations");
    assert!(failure.message.contains("tool_use, rag"), "{failure}");
}

#[test]
fn a_broken_template_fails_the_chat_and_not_the_model() {
    let templates = ChatTemplates::new(vec![("default".into(), "{% if %}".into())]);
    let failure = templates.render(&hello(), Map::new()).expect_err("it cannot be parsed");
    assert!(failure.message.contains("--chat-template"), "{failure}");
    assert!(ChatTemplates::of_option("{% if %}").is_err());
}

#[test]
fn the_final_message_is_continued_where_the_template_shows_it() {
    let mut prompt = hello();
    prompt.continue_final_message = true;
    assert_eq!(render("<{{ messages[0].content }}>", &prompt), Ok("<Hi".into()));
    assert_eq!(render("<{{ messages[0].content | trim }}>", &prompt), Ok("<Hi".into()));
    let failure =
        render("<{{ messages[0].role }}{# content #}>", &prompt).expect_err("it does not show the content");
    assert_eq!(failure.param.as_deref(), Some("continue_final_message"));
}

#[test]
fn arguments_are_text_where_the_template_joins_them_to_text() {
    let conversation = json!({"messages": [{"role": "assistant", "tool_calls": [
        {"id": "c", "function": {"name": "f", "arguments": {"city": "Zürich", "n": 1}}},
    ]}]});
    let render = |source: &str| {
        let templates = ChatTemplates::of_option(source).expect("a template");
        templates.render(&chat(&conversation), Map::new())
    };
    let joined = "{{ 'call: ' + messages[0].tool_calls[0].function.arguments }}";
    assert_eq!(render(joined).expect("it is a text"), "call: {\"city\": \"Zürich\", \"n\": 1}");
    let object = "{{ messages[0].tool_calls[0].function.arguments.city }}";
    assert_eq!(render(object).expect("it is an object"), "Zürich");
    let failure = render("{{ 1 + messages }}").expect_err("neither helps");
    assert!(failure.message.contains("failed on this conversation"), "{}", failure.message);
}

#[test]
fn ids_of_calls_are_nine_characters_where_the_template_insists() {
    let conversation = |id: &str| {
        json!({"messages": [
            {"role": "assistant", "tool_calls": [{"id": id, "function": {"name": "f", "arguments": {}}}]},
            {"role": "tool", "tool_call_id": id, "content": "x"},
        ]})
    };
    let source = "{%- set id = messages[0].tool_calls[0].id -%}{%- if id|length != 9 -%}{{ raise_exception('no') }}{%- endif -%}\
                  {{ id }} {{ messages[1].tool_call_id }}";
    let render = |source: &str, id: &str| {
        let templates = ChatTemplates::of_option(source).expect("a template");
        templates.render(&chat(&conversation(id)), Map::new()).expect("it renders")
    };
    assert_eq!(render(source, "abcdEF789"), "abcdEF789 abcdEF789");
    let made = render(source, "call_0123456789abcdef01234567");
    let (call, answer) = made.split_once(' ').expect("two ids");
    assert!(call == answer && call.len() == 9 && call.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_ne!(made, render(source, "call_0123456789abcdef01234568"));
    assert_eq!(render("{{ messages[0].tool_calls[0].id }}", "call_1"), "call_1");
}
